"""Finished runs sorted into groups (data set and profile), rows (method and variant) and cells (one pair, all seeds).

A cell holds runs of one identity, which differ in their seed only: runs of unlike configs are never averaged. Where a
method was run with several configs on a pair, each has a row of its own, labelled by the settings that differ; so is an
option that is not the method's default.
"""

import functools
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import load as runs
from analysis import published

Config = Mapping[str, Any]  # flat
TEACHER_KEY = "teacher.sha256"
IGNORED = ("role", "seed", "profile", "student", "teacher.network")  # the same in a cell, or given by the pair


@dataclass(frozen=True)
class SeedGroup:
    """The runs of one method with one config on one pair."""

    runs: pd.DataFrame  # sorted by seed
    config: Config

    @functools.cached_property
    def identity(self) -> str:
        return self.runs.identity.iloc[0]

    @property
    def n(self) -> int:
        return len(self.runs)

    def mean(self, column: str) -> float:
        """Mean over the seeds that have a value; NaN where none has."""
        values = self._known(column)
        return float(values.mean()) if values.size else math.nan

    def std(self, column: str) -> float:
        """Sample standard deviation over the seeds that have a value; NaN for fewer than two."""
        values = self._known(column)
        return float(values.std(ddof=1)) if values.size > 1 else math.nan

    def _known(self, column: str) -> np.ndarray:
        if column not in self._arrays:
            values = self.runs[column].to_numpy(float)
            self._arrays[column] = values[~np.isnan(values)]
        return self._arrays[column]

    @functools.cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        return {}  # known values by column: a frame is slow to ask again and again

    @property
    def unknown(self) -> bool:
        """True where no config.yaml of its runs can be read, so that it is compared with nothing."""
        return set(self.config) <= {TEACHER_KEY}

    @functools.cached_property
    def changed(self) -> frozenset[str]:
        """The settings that are neither the method's defaults on the pair nor the profile's."""
        return frozenset(k for of in self.runs.changed for k in of)

    @functools.cached_property
    def protocol(self) -> frozenset[tuple[str, Any]]:
        """All settings but those of method and teacher: equal for runs that may be compared."""
        return frozenset((k, v) for k, v in self.config.items() if k.split(".")[0] not in ("method", "teacher"))


@dataclass(frozen=True)
class MethodRow:
    """One row of a table: a method, or one variant of it."""

    method: str
    label: str
    variant: int  # rank among the method's rows
    seed_groups: dict[str, SeedGroup]  # by pair


@dataclass(frozen=True)
class Teacher:
    """A row of the teachers' accuracies, one network a pair."""

    label: str
    top1: dict[str, float]  # by pair
    sha256: dict[str, str | None]


@dataclass(frozen=True)
class ResultGroup:
    """What makes one table. rows: the student alone first, then the methods by year and title."""

    dataset: str
    profile: str
    pairs: list[str]
    networks: dict[str, tuple[str, str]]  # teacher and student of each pair
    teachers: list[Teacher]
    rows: list[MethodRow]
    differing: list[str]  # settings outside the method that differ between runs of one pair
    runs: pd.DataFrame

    @property
    def students(self) -> list[MethodRow]:
        return [r for r in self.rows if r.method == published.STUDENT]

    @property
    def methods(self) -> list[MethodRow]:
        return [r for r in self.rows if r.method != published.STUDENT]

    def baseline(self, cell: SeedGroup, pair: str) -> SeedGroup | None:
        """The student alone that a cell is compared with: trained alike, on the teacher's side too where there are
        several; None where there is not exactly one."""
        found = [r.seed_groups[pair] for r in self.students if pair in r.seed_groups]
        found = [c for c in found if c.protocol == cell.protocol]
        if len(found) > 1:
            found = [c for c in found if c.config.get(TEACHER_KEY) == cell.config.get(TEACHER_KEY)]
        return found[0] if len(found) == 1 else None


def groups(done: pd.DataFrame, pairs: Sequence[str] = ()) -> list[ResultGroup]:
    """All groups of the finished runs. Pairs are in the order given, else in that of published tables, then by name."""
    made = []
    for (dataset, profile), found in done.groupby(["dataset", "profile"], sort=True):
        rank = published.pair_order(dataset)
        named = sorted(set(found.pair), key=lambda p: (rank.get(p, len(rank)), p.lower(), p))
        chosen = [p for p in dict.fromkeys(pairs) if p in named] if pairs else named
        made.append(_group(dataset, profile, chosen, found[found.pair.isin(chosen)]))
    return made


def _group(dataset: str, profile: str, pairs: list[str], found: pd.DataFrame) -> ResultGroup:
    cells: dict[str, dict[str, list[SeedGroup]]] = {}  # method -> pair -> one cell an identity
    for (method, pair, _), of in found.sort_values(["identity", "seed"]).groupby(["method", "pair", "identity"]):
        first = of.iloc[0]
        read = next(filter(None, map(runs.config, of.folder)), {})  # the same for all of an identity
        config = {k: v for k, v in read.items() if k not in IGNORED}
        if isinstance(first.teacher_sha256, str):
            config.setdefault(TEACHER_KEY, first.teacher_sha256)
        cells.setdefault(method, {}).setdefault(pair, []).append(SeedGroup(of, config))
    differing = _common(cells, pairs)
    titles = _titles(found)
    rows = []
    for method in sorted(cells, key=lambda m: _order(m, found, titles)):
        rows += _rows(method, titles[method], cells[method], differing)
    networks = dict(zip(found.pair, zip(found.teacher, found.student, strict=True), strict=True))
    return ResultGroup(dataset, profile, pairs, networks, _teachers(found, pairs, differing), rows, differing, found)


def _order(method: str, found: pd.DataFrame, titles: Mapping[str, str]) -> tuple[Any, ...]:
    """The student alone first, then by year and title; methods without a year last."""
    year = found.year[found.method == method].min()
    return method != published.STUDENT, 9999 if pd.isna(year) else year, titles[method].lower(), method


def _titles(found: pd.DataFrame) -> dict[str, str]:
    """Each method's title, the student alone as such; with the method's name behind it where two methods share one."""
    titles = {m: min(of) for m, of in found.groupby("method").title} | {published.STUDENT: "Student"}
    counts = Counter(titles[m] for m in set(found.method))
    return {m: t if counts[t] <= 1 else f"{t} [{m}]" for m, t in titles.items()}


def _rows(method: str, title: str, cells: dict[str, list[SeedGroup]], differing: list[str]) -> list[MethodRow]:
    differs = {k for of in cells.values() for k in _differing([c.config for c in of])}
    differs |= {k for of in cells.values() for c in of for k in c.changed}
    own = {k for k in differs if k.startswith("method.")}
    keys = _needed(sorted(own) + differing, [[c.config for c in of] for of in cells.values()])
    by_variant: dict[tuple[Any, ...], dict[str, SeedGroup]] = {}
    alike = any(len({_values(c.config, keys) for c in of}) < len(of) for of in cells.values())
    for pair, of in cells.items():
        for cell in of:
            key = (*_values(cell.config, keys), *([cell.identity] if alike else []))
            by_variant.setdefault(key, {})[pair] = cell
    names = _short(keys)
    rows = []
    for i, key in enumerate(sorted(by_variant, key=lambda k: [_sortable(v) for v in k])):
        says = [f"{names[k]}={text_of(v)}" for k, v in zip(keys, key, strict=False)]
        says += [f"run {key[-1]}"] if alike else []
        rows.append(MethodRow(method, f"{title} ({', '.join(says)})" if says else title, i, by_variant[key]))
    return rows


def _teachers(found: pd.DataFrame, pairs: list[str], differing: list[str]) -> list[Teacher]:
    """One row, or one for each of the teachers where a pair has several."""
    top1: dict[str | None, dict[str, float]] = {}
    for (pair, sha256), of in found.groupby(["pair", "teacher_sha256"], dropna=False):
        row = (None if pd.isna(sha256) else sha256) if TEACHER_KEY in differing else None
        top1.setdefault(row, {})[pair] = of.teacher_top1.iloc[0]
    hashes = dict(found.groupby("pair").teacher_sha256.first())
    rows = []
    for sha256 in sorted(top1, key=str):
        label = "Teacher" if sha256 is None else f"Teacher ({_short([TEACHER_KEY])[TEACHER_KEY]}={text_of(sha256)})"
        known = {p: v for p, v in top1[sha256].items() if pd.notna(v)}
        rows.append(Teacher(label, known, {p: sha256 or hashes.get(p) for p in known}))
    return rows


def _common(cells: Mapping[str, Mapping[str, list[SeedGroup]]], pairs: Iterable[str]) -> list[str]:
    """Settings outside the methods that differ between runs of one pair, whatever their method."""
    keys: set[str] = set()
    for pair in pairs:
        configs = [c.config for by_pair in cells.values() for c in by_pair.get(pair, [])]
        keys |= {k for k in _differing(configs) if not k.startswith("method.")}
    return sorted(keys)


def _differing(configs: Sequence[Config]) -> set[str]:
    """Keys with more than one value among the configs that have them."""
    keys = {k for c in configs for k in c}
    return {k for k in keys if len({repr(c[k]) for c in configs if k in c}) > 1}


def _needed(keys: list[str], pairs: Collection[Collection[Config]]) -> list[str]:
    """Without list-valued keys (such as milestones, which follow the epochs) where the others tell all cells apart."""
    scalar = [k for k in keys if not any(isinstance(c.get(k), tuple) for of in pairs for c in of)]
    enough = all(len({_values(c, scalar) for c in of}) == len({_values(c, keys) for c in of}) for of in pairs)
    return scalar if enough else keys


def _values(config: Config, keys: Iterable[str]) -> tuple[Any, ...]:
    return tuple(config.get(k) for k in keys)


def _short(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted key where that is unambiguous; `teacher` for the teacher's content hash."""
    last = {k: "teacher" if k == TEACHER_KEY else k.rsplit(".", 1)[-1] for k in keys}
    counts = Counter(last.values())
    return {k: s if counts[s] == 1 else k for k, s in last.items()}


def text_of(value: Any) -> str:
    """A setting as it is written in a label; long hashes are cut."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(text_of, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return text[:8] if re.fullmatch(r"[0-9a-f]{16,}", text) else text


def _sortable(value: Any) -> tuple[int, float, str]:
    """Numbers by size, then everything else by its text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 0, float(value), ""
    return 1, 0.0, text_of(value)
