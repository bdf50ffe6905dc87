"""Finished runs sorted into result groups (data set and profile), rows (method and variant) and seed groups (one pair).

A seed group holds runs of one identity, which differ in their seed only: runs of different configs are never averaged.
Where a method was run with several configs on a pair, each has its own row, labeled by the settings that differ; so is
an option that is not the method's default.
"""

import functools
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import published
from analysis.frames import grouped
from analysis.load import load_config
from benchmark.config.overrides import value_text
from benchmark.runs.folder import file_name
from benchmark.runs.record import number

Config = Mapping[str, Any]  # flat, by dotted key
RowKey = tuple[str, int]  # method and variant
TEACHER_KEY = "teacher.sha256"
IGNORED_KEYS = ("role", "seed", "profile", "student", "teacher.network")  # equal in a seed group, or given by the pair


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
    def changed_settings(self) -> frozenset[str]:
        """The settings that are neither the method's defaults on the pair nor the profile's."""
        return frozenset(key for keys in self.runs.changed_settings for key in keys)

    @functools.cached_property
    def protocol(self) -> frozenset[tuple[str, Any]]:
        """All settings but those of method and teacher: equal for runs that may be compared."""
        return frozenset((k, v) for k, v in self.config.items() if k.split(".")[0] not in ("method", "teacher"))

    @property
    def training_conditions(self) -> tuple[Any, ...] | None:
        """Equal for seed groups that may be compared seed by seed; None without a config, which allows none."""
        return (self.protocol, self.config.get(TEACHER_KEY)) if self.protocol else None


@dataclass(frozen=True)
class MethodRow:
    """One row of a table: a method, or one variant of it."""

    method: str
    label: str
    variant: int  # rank among the method's rows
    seed_groups: dict[str, SeedGroup]  # by pair

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


@dataclass(frozen=True)
class ResultGroup:
    """The content of one table. rows: the student alone first, then the methods by year and title."""

    dataset: str
    profile: str
    pairs: list[str]
    networks: dict[str, tuple[str, str]]  # teacher and student of each pair
    teachers: list[TeacherRow]
    rows: list[MethodRow]
    differing_settings: list[str]  # outside the method, between runs of one pair
    runs: pd.DataFrame

    @property
    def heading(self) -> str:
        """Data set and profile, as headings name them."""
        return f"{self.dataset}, profile {self.profile}"

    @property
    def stem(self) -> str:
        """Stem of the names of the group's files."""
        return file_name(self.dataset, self.profile)

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
        """Return the student alone that a seed group is compared with: trained under the same protocol, and with the
        same teacher where there are several; None where there is not exactly one."""
        students = [r.seed_groups[pair] for r in self.student_rows if pair in r.seed_groups]
        students = [s for s in students if s.protocol == seed_group.protocol]
        if len(students) > 1:
            students = [s for s in students if s.config.get(TEACHER_KEY) == seed_group.config.get(TEACHER_KEY)]
        return students[0] if len(students) == 1 else None


def group_runs(finished: pd.DataFrame, pairs: Sequence[str] = ()) -> list[ResultGroup]:
    """Return all groups of the finished runs, with the pairs in the order of `pairs`, else in that of published tables,
    then by name."""
    groups = []
    for (dataset, profile), frame in grouped(finished, ["dataset", "profile"]):
        rank = published.pair_order(dataset)
        available = sorted(set(frame.pair), key=lambda p: (rank.get(p, len(rank)), p.lower(), p))
        chosen = [p for p in dict.fromkeys(pairs) if p in available] if pairs else available
        groups.append(_result_group(dataset, profile, chosen, frame.loc[frame.pair.isin(chosen)]))
    return groups


def _result_group(dataset: str, profile: str, pairs: list[str], frame: pd.DataFrame) -> ResultGroup:
    seed_groups: dict[str, dict[str, list[SeedGroup]]] = {}  # method -> pair -> one per identity
    for (method, pair, _), runs in grouped(frame.sort_values(["identity", "seed"]), ["method", "pair", "identity"]):
        seed_groups.setdefault(method, {}).setdefault(pair, []).append(SeedGroup(runs, _config(runs)))
    differing = _settings_differing_on(pairs, seed_groups)
    titles = _titles(frame)
    rows = []
    for method in sorted(seed_groups, key=lambda m: _order(m, frame, titles)):
        rows += _rows(method, titles[method], seed_groups[method], differing)
    networks = dict(zip(frame.pair, zip(frame.teacher, frame.student, strict=True), strict=True))
    return ResultGroup(dataset, profile, pairs, networks, _teachers(frame, differing), rows, differing, frame)


def _config(runs: pd.DataFrame) -> dict[str, Any]:
    """The settings that runs of one identity share, from the first readable config.yaml."""
    config = next(filter(None, map(load_config, runs.folder)), {})
    config = {k: v for k, v in config.items() if k not in IGNORED_KEYS}
    if isinstance(sha256 := runs.teacher_sha256.iloc[0], str):
        config.setdefault(TEACHER_KEY, sha256)
    return config


def _order(method: str, frame: pd.DataFrame, titles: Mapping[str, str]) -> tuple[Any, ...]:
    """The student alone first, then by year and title; methods without a year last."""
    year = frame.year[frame.method == method].min()
    return method != published.STUDENT, 9999 if pd.isna(year) else year, titles[method].lower(), method


def _titles(frame: pd.DataFrame) -> dict[str, str]:
    """Each method's title, `Student` for the student alone; followed by the method's name where two share a title."""
    titles = {m: min(of_method) for m, of_method in frame.groupby("method").title} | {published.STUDENT: "Student"}
    counts = Counter(titles[m] for m in set(frame.method))
    return {m: t if counts[t] <= 1 else f"{t} [{m}]" for m, t in titles.items()}


def _rows(
    method: str, title: str, by_pair: dict[str, list[SeedGroup]], differing_settings: list[str]
) -> list[MethodRow]:
    """The rows of one method: one per combination of the settings that tell its seed groups apart."""
    options = {k for seed_groups in by_pair.values() for k in _differing_keys([s.config for s in seed_groups])}
    options |= {k for seed_groups in by_pair.values() for s in seed_groups for k in s.changed_settings}
    options = {k for k in options if k.startswith("method.")}
    configs = [[s.config for s in seed_groups] for seed_groups in by_pair.values()]
    keys = _scalar_keys(sorted(options) + differing_settings, configs)
    # where labels alone cannot tell runs apart, their identity can
    needs_identity = any(len({_values(c, keys) for c in of_pair}) < len(of_pair) for of_pair in configs)
    by_variant: dict[tuple[Any, ...], dict[str, SeedGroup]] = {}
    for pair, seed_groups in by_pair.items():
        for seed_group in seed_groups:
            variant = (*_values(seed_group.config, keys), *([seed_group.identity] if needs_identity else []))
            by_variant.setdefault(variant, {})[pair] = seed_group
    names = _short_names(keys)
    rows = []
    for i, variant in enumerate(sorted(by_variant, key=lambda values: [_sort_key(v) for v in values])):
        settings = [f"{names[k]}={format_setting(v)}" for k, v in zip(keys, variant, strict=False)]
        settings += [f"run {variant[-1]}"] if needs_identity else []
        label = f"{title} ({', '.join(settings)})" if settings else title
        rows.append(MethodRow(method, label, i, by_variant[variant]))
    return rows


def _teachers(frame: pd.DataFrame, differing_settings: list[str]) -> list[TeacherRow]:
    """One row, or one per teacher where a pair has several."""
    top1: dict[str | None, dict[str, float]] = {}
    for (pair, sha256), runs in grouped(frame, ["pair", "teacher_sha256"], dropna=False):
        row = (None if pd.isna(sha256) else sha256) if TEACHER_KEY in differing_settings else None
        top1.setdefault(row, {})[pair] = runs.teacher_top1.iloc[0]
    hashes = dict(frame.groupby("pair").teacher_sha256.first())
    rows = []
    for sha256 in sorted(top1, key=str):
        label = "Teacher" if sha256 is None else f"Teacher (teacher={format_setting(sha256)})"
        accuracies = {p: v for p, v in top1[sha256].items() if pd.notna(v)}
        rows.append(TeacherRow(label, accuracies, {p: sha256 or hashes.get(p) for p in accuracies}))
    return rows


def _settings_differing_on(pairs: Iterable[str], seed_groups: Mapping[str, Mapping[str, list[SeedGroup]]]) -> list[str]:
    """Settings outside the methods that differ between runs of one pair, whatever their method."""
    keys: set[str] = set()
    for pair in pairs:
        configs = [s.config for by_pair in seed_groups.values() for s in by_pair.get(pair, [])]
        keys |= {k for k in _differing_keys(configs) if not k.startswith("method.")}
    return sorted(keys)


def _differing_keys(configs: Sequence[Config]) -> set[str]:
    """Keys with more than one value among the configs that have them."""
    keys = {k for c in configs for k in c}
    return {k for k in keys if len({repr(c[k]) for c in configs if k in c}) > 1}


def _scalar_keys(keys: list[str], configs: Collection[Collection[Config]]) -> list[str]:
    """`keys` without list-valued ones (such as milestones, which follow the epochs) where the others tell all configs
    of a pair apart."""
    scalar = [k for k in keys if not any(isinstance(c.get(k), tuple) for of_pair in configs for c in of_pair)]
    enough = all(len({_values(c, scalar) for c in cs}) == len({_values(c, keys) for c in cs}) for cs in configs)
    return scalar if enough else keys


def _values(config: Config, keys: Iterable[str]) -> tuple[Any, ...]:
    return tuple(config.get(k) for k in keys)


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted key where that is unambiguous; `teacher` for the teacher's content hash."""
    last = {k: "teacher" if k == TEACHER_KEY else k.rsplit(".", 1)[-1] for k in keys}
    counts = Counter(last.values())
    return {k: s if counts[s] == 1 else k for k, s in last.items()}


def format_setting(value: Any) -> str:
    """Write a setting as it stands in a label; long hashes are cut."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(format_setting, value))}]"
    text = value_text(value)
    return text[:8] if re.fullmatch(r"[0-9a-f]{16,}", text) else text


def _sort_key(value: Any) -> tuple[int, float, str]:
    """Numbers by size, then everything else by its text."""
    if number(value) is not None:
        return 0, float(value), ""
    return 1, 0.0, format_setting(value)
