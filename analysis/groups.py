"""The content of a table: result groups (data set, profile and conditions), rows (method and variant) and seed groups.

A seed group holds the runs of one method with one config on one pair, which differ in their seed only: runs of
different configs are never averaged. `analysis.grouping` builds these from finished runs.
"""

import functools
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import published
from analysis.conditions import TEACHER_KEY, Config
from analysis.load import VALIDATION_SUFFIX
from benchmark.runs.folder import file_name

RowKey = tuple[str, int]  # method and variant


@dataclass(frozen=True)
class SeedRun:
    """One finished run. teacher_run: folder of its teacher, relative to that of all runs; None in old results."""

    seed: int
    folder: Path
    teacher_run: str | None


@dataclass(frozen=True)
class SeedGroup:
    """The runs of one method with one config on one pair."""

    runs: pd.DataFrame  # sorted by seed
    config: Config

    @functools.cached_property
    def identity(self) -> str:
        """Identity of the runs: the hash of their config without the seed."""
        return self.runs.identity.iloc[0]

    @functools.cached_property
    def method(self) -> str:
        """Name of the method."""
        return self.runs.method.iloc[0]

    @functools.cached_property
    def pair(self) -> str:
        """The pair of networks."""
        return self.runs.pair.iloc[0]

    @property
    def n(self) -> int:
        """Number of runs."""
        return len(self.runs)

    @property
    def seed_runs(self) -> list[SeedRun]:
        """The runs, sorted by seed."""
        columns = (self.runs[c].tolist() for c in ("seed", "folder", "teacher_run"))
        return [SeedRun(*values) for values in zip(*columns, strict=True)]

    def mean(self, column: str) -> float:
        """Return the mean over the seeds that have a value; NaN where none has."""
        values = self._values(column)
        return float(values.mean()) if values.size else math.nan

    def std(self, column: str) -> float:
        """Return the sample standard deviation over the seeds that have a value; NaN for fewer than two."""
        values = self._values(column)
        return float(values.std(ddof=1)) if values.size > 1 else math.nan

    def by_seed(self, column: str) -> dict[int, float]:
        """Return the values of a column by seed, without NaN."""
        values = zip(self.runs.seed.tolist(), self.runs[column].astype(float).tolist(), strict=True)
        return {seed: value for seed, value in values if not math.isnan(value)}

    def _values(self, column: str) -> np.ndarray:
        if column not in self._arrays:
            values = self.runs[column].to_numpy(float)
            self._arrays[column] = values[~np.isnan(values)]
        return self._arrays[column]

    @functools.cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        return {}  # values by column: reading a frame again and again is slow

    @property
    def config_is_missing(self) -> bool:
        """True where none of its runs has a readable config.yaml, so that it is compared with nothing."""
        return set(self.config) <= {TEACHER_KEY}

    @functools.cached_property
    def alone(self) -> str | None:
        """Of runs without a teacher, a hash that is equal on all pairs that share them; None of other runs."""
        return self.runs.configuration.iloc[0] if "alone" in self.runs and self.runs.alone.iloc[0] else None

    @functools.cached_property
    def changed_settings(self) -> frozenset[str]:
        """The settings that are neither the method's defaults on the pair nor the profile's."""
        return frozenset(key for keys in self.runs.changed_settings for key in keys)

    @property
    def has_default_options(self) -> bool:
        """True where the config is known, and no changed setting is an option of the method."""
        return not self.config_is_missing and not any(key.startswith("method.") for key in self.changed_settings)

    @functools.cached_property
    def protocol(self) -> frozenset[tuple[str, Any]]:
        """All settings but those of method and teacher: equal for runs that may be compared."""
        return frozenset((k, v) for k, v in self.config.items() if k.split(".")[0] not in ("method", "teacher"))

    @property
    def training_conditions(self) -> frozenset[tuple[str, Any]] | None:
        """Equal for the seed groups of one result group that may be compared; None without a config, which allows none.

        The teacher is no part of it: the runs of a result group have one teacher on each pair.
        """
        return self.protocol or None


@dataclass(frozen=True)
class MethodRow:
    """One row of a table: a method, or one variant of it."""

    method: str
    label: str
    variant: int  # rank among the method's rows
    seed_groups: dict[str, SeedGroup]  # by pair
    is_default: bool = True  # the method's reference: of its default options; at most one row of a method

    @property
    def key(self) -> RowKey:
        """Distinguishes the rows of a group."""
        return self.method, self.variant


@dataclass(frozen=True)
class TeacherRow:
    """Accuracies of the teachers, one network per pair."""

    label: str
    top1: dict[str, float]  # by pair
    sha256: dict[str, str | None]
    top5: dict[str, float] = field(default_factory=dict)  # by pair; older results of students do not hold it


@dataclass(frozen=True)
class ResultGroup:
    """The content of one table. rows: the student alone first, then the methods by year and title."""

    dataset: str
    profile: str
    pairs: list[str]
    networks: dict[str, tuple[str, str]]  # teacher and student of each pair
    teachers: list[TeacherRow]
    rows: list[MethodRow]
    conditions: tuple[str, ...]  # settings that tell its runs from those of the main group; empty for the main one
    runs: pd.DataFrame
    name: str = ""  # of the selection that the group belongs to

    @property
    def heading(self) -> str:
        """Data set and profile, as headings name them."""
        return f"{self.dataset}, profile {self.profile}"

    @property
    def is_sealed(self) -> bool:
        """True where the accuracies are those of a validation split, and the test set is not looked at."""
        return self.profile.endswith(VALIDATION_SUFFIX)

    @property
    def top1(self) -> str:
        """What the accuracies are called in figures."""
        return "validation top-1" if self.is_sealed else "test top-1"

    @property
    def images(self) -> str:
        """The images that the accuracies are of."""
        return "the validation split" if self.is_sealed else "the test set"

    @property
    def stem(self) -> str:
        """Stem of the names of the group's files."""
        return file_name(*filter(None, (self.dataset, self.profile, self.name)))

    @property
    def origin(self) -> dict[str, str]:
        """The first columns of every CSV file."""
        return {"dataset": self.dataset, "profile": self.profile}

    @property
    def student_rows(self) -> list[MethodRow]:
        """Rows of the student trained without a teacher."""
        return [r for r in self.rows if r.method == published.STUDENT]

    @property
    def method_rows(self) -> list[MethodRow]:
        """Rows of distillation methods."""
        return [r for r in self.rows if r.method != published.STUDENT]

    def rows_on(self, pair: str) -> list[MethodRow]:
        """Return the rows that have runs on a pair."""
        return [r for r in self.rows if pair in r.seed_groups]

    def baseline(self, seed_group: SeedGroup, pair: str) -> SeedGroup | None:
        """Return the student alone that a seed group is compared with: trained under the same protocol; None where
        there is not exactly one."""
        students = [r.seed_groups[pair] for r in self.student_rows if pair in r.seed_groups]
        students = [s for s in students if s.protocol == seed_group.protocol]
        return students[0] if len(students) == 1 else None
