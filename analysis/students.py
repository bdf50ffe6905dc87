"""Students alone in the rows of every pair with this student.

A method that reads no teacher is trained once for all pairs that share a student (`benchmark.runs.students`). Its runs
become rows of each of these pairs: of those that have runs under the same profile, and of those that have a folder and
a teacher that is finished under it. Numbers that depend on the teacher are then those of the pair, or missing.

Older runs lie under one pair, and serve the other pairs with this student in the same way. Of several runs with the
same config and seed a pair has one: its own, else today's, else the first by folder.
"""

import functools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.runs.folder import RunFolder
from benchmark.runs.students import identity_without_teacher, is_student_alone

Row = dict[str, Any]
OF_TEACHER = ("teacher_top1", "teacher_sha256", "teacher_run")
OF_PAIR = ("agreement", "correlation_distance")  # recorded against the pair's teacher
NO_PAIR = "no pair has it as its student: name one, as in `make bench PAIR=<teacher>-<student>`"


@dataclass
class Pairs:
    """The pairs of each data set and profile, and their teachers.

    folders: pairs with a folder, by data set. teachers: finished teachers with the columns of `OF_TEACHER`, by data
    set, profile and network. taught: rows of students with a teacher, by data set, profile and pair.
    """

    folders: dict[str, set[str]] = field(default_factory=dict)
    teachers: dict[tuple[str, str | None, str], list[Row]] = field(default_factory=dict)
    taught: dict[tuple[str, str | None, str], list[Row]] = field(default_factory=dict)

    def with_student(self, dataset: str, profile: str | None, student: str) -> list[str]:
        """Return the pairs of a student; `profile` None stands for all profiles."""
        pairs = {p for p in self.folders.get(dataset, ()) if p.split("-")[1] == student}
        return sorted(p for p in pairs if profile is None or self._exists(dataset, profile, p))

    def teacher_of(self, row: Row, pair: str) -> Row:
        """Return the teacher of a pair as seen from a student alone; empty where several could be meant.

        It is the one of the pair's own run with the same config, else the only one that the pair's runs have, else the
        only finished one.
        """
        taught = self.taught.get((row["dataset"], row["profile"], pair), [])
        same = [r for r in taught if r["alone"] and r["configuration"] == row["configuration"]]
        finished = self.teachers.get((row["dataset"], row["profile"], pair.split("-")[0]), [])
        candidates = {r["teacher_sha256"]: {key: r[key] for key in OF_TEACHER} for r in same or taught or finished}
        return next(iter(candidates.values())) if len(candidates) == 1 else {}

    def _exists(self, dataset: str, profile: str, pair: str) -> bool:
        return (dataset, profile, pair) in self.taught or (dataset, profile, pair.split("-")[0]) in self.teachers


def mark(rows: Iterable[Row]) -> None:
    """Add the columns that tell students alone, and whose runs are equal.

    alone: whether the method reads no teacher. shared: False; True in the rows that `on_every_pair` adds.
    configuration: the identity; of a student alone, the identity without the teacher, equal on all pairs.
    """
    configuration = functools.cache(_identity_without_teacher)
    for row in rows:
        row["alone"] = is_student_alone(row["pair"] or "", row["method"])
        row["shared"] = False
        row["configuration"] = configuration(row["folder"].parent) if row["alone"] else row["identity"]


def on_every_pair(rows: Collection[Row], pairs: Pairs) -> tuple[list[Row], list[Row]]:
    """Return the rows of all pairs, sorted by data set, pair, method and folder, and those that belong to no pair."""
    result = [row for row in rows if row["pair"] is not None]
    present = {_key(row, row["pair"]) for row in result if row["alone"]}
    without_pair = []
    for row in sorted((r for r in rows if r["alone"]), key=lambda r: (r["pair"] is not None, str(r["folder"]))):
        names = pairs.with_student(row["dataset"], row["profile"], row["student"])
        if not names and row["pair"] is None:
            without_pair.append(row)
        for pair in names:
            if _key(row, pair) not in present:
                present.add(_key(row, pair))
                result.append(_shared(row, pair, pairs.teacher_of(row, pair)))
    return sorted(result, key=lambda r: (r["dataset"], r["pair"], r["method"], str(r["folder"]))), without_pair


def _shared(row: Row, pair: str, teacher: Mapping[str, Any]) -> Row:
    """The row of a student alone on another pair."""
    unknown: Row = {"teacher_top1": math.nan, "teacher_sha256": None, "teacher_run": None}
    place = {"pair": pair, "teacher": pair.split("-")[0], "shared": True}
    return {**row, **place, **dict.fromkeys(OF_PAIR, math.nan), **unknown, **teacher}


def _key(row: Row, pair: str) -> tuple[Any, ...]:
    return row["dataset"], row["profile"], pair, row["method"], row["configuration"], row["seed"]


def _identity_without_teacher(folder: Path) -> str:
    """The identity without the teacher of the runs in a folder, by the first readable config; its name without one."""
    trees: Iterator[Mapping[str, Any]] = (RunFolder(leaf).config.tree for leaf in sorted(folder.iterdir()))
    tree = next(filter(None, trees), None)
    return folder.name if tree is None else identity_without_teacher(tree)
