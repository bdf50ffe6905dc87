"""Run folders (their format is described in `benchmark.runs.folder`) loaded into a frame.

Other folders and files below the root are ignored. A run without a usable result is reported with the reason, so that a
table can list what it does not contain.
"""

import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import students
from analysis.students import OF_TEACHER, Pairs
from benchmark.runs.folder import RunFolder, location, network_name
from benchmark.runs.reading import well_formed
from benchmark.runs.record import TEACHERS, UNREADABLE, RunConfig, RunRecord, RunStatus, StatusRecord, number

DEPTH = 5  # of run folders below their root: data set, pair, method, identity, seed
IDENTITY = re.compile(r"[0-9a-f]{12}")
STUDENT_FOLDER = re.compile(r"seed=(\d+)")
TEACHER_FOLDER = re.compile(r"seed=\d+|imported|sha256=\w+")
VALIDATION_SUFFIX = "+validation"  # of the profile of runs that held out a part of the training set
LOCATION = ("dataset", "pair", "method", "identity", "seed")  # given by the folder too
SEALED = ("top1_best", "teacher_top1", "teacher_top5", "agreement", "correlation_distance")  # of the test set
REQUIRED = ("profile", "teacher", "student", "epochs")  # a student alone has no teacher
TEXTS = (
    "teacher_run", "teacher_sha256", "precision", "code_version", "engine_version", "commit", "clean", "versions",
    "hardware", "changed_settings", "family", "recipe", "sha256",
)  # fmt: skip
NUMBERS = (
    "top1_last", "top1_best", "top5_last", "teacher_top1", "teacher_top5", "agreement", "correlation_distance",
    "wall_s", "step_ms", "parameters",
    "extra_parameters", "extra_buffers", "inference_parameters", "init_epochs", "views", "year",
)  # fmt: skip


@dataclass(frozen=True)
class UnfinishedRun:
    """A run that is in no table. `pair` is `teachers` for a teacher, `method` then its network."""

    dataset: str
    pair: str
    method: str
    identity: str
    leaf: str  # name of the run's folder: seed=<n> for a student
    profile: str | None  # None where its config cannot be read
    reason: str
    skipped: bool = False  # the method does not support the pair

    @property
    def text(self) -> str:
        """The run with the reason, on one line."""
        name = f"teacher {self.method}" if self.pair == TEACHERS else f"{self.pair} {self.method}"
        return f"{name} {self.leaf}: {self.reason}"


@dataclass(frozen=True)
class Runs:
    """All runs below one folder.

    finished: one row per finished student, with the fields of its `RunRecord` (missing ones are None or NaN), its
        `folder`, and the columns of `students.mark`; a student alone has a row on each pair with this student.
        `top1_last` and `top5_last` are the validation accuracies of a run that has a validation split, and what such a
        run measured on the test set is left out.
    unfinished: students and teachers that are running, failed, diverged, or have no usable result.
    """

    finished: pd.DataFrame
    unfinished: list[UnfinishedRun]


def load_runs(root: Path) -> Runs:
    """Read all runs below `root`; empty where there are none."""
    finished, unfinished, pairs = [], [], Pairs(_pair_folders(root))
    for folder, error in _folders(root):
        dataset, pair, method, identity, leaf = map(well_formed, location(folder))
        run = RunFolder(folder)
        status, record = run.status_record, run.record
        if not error and status.status is None and not os.path.lexists(folder / "result.json"):
            continue  # never started
        reason = error or _unfinished_reason(status) or _rejection_reason(record, folder) or run.config.problem
        if reason:
            skipped = status.status is RunStatus.SKIPPED
            profile = profile_of(run.config)
            unfinished.append(UnfinishedRun(dataset, pair, method, identity, leaf, profile, reason, skipped))
        elif pair != TEACHERS:
            finished.append(_row(record, folder))
        else:
            top1 = math.nan if record.is_sealed else record.top1_last
            teacher: students.Row = dict(
                zip(OF_TEACHER, (top1, record.sha256, "/".join(folder.parts[-5:])), strict=True)
            )
            pairs.teachers.setdefault((dataset, profile_of(run.config), method), []).append(teacher)
    return _on_every_pair(finished, unfinished, pairs)


def _on_every_pair(finished: list[students.Row], unfinished: list[UnfinishedRun], pairs: Pairs) -> Runs:
    """Return the runs with those of students alone on every pair with this student."""
    students.mark(finished)
    for row in finished:
        if row["pair"] is not None:
            pairs.taught.setdefault((row["dataset"], row["profile"], row["pair"]), []).append(row)
    rows, without_pair = students.on_every_pair(finished, pairs)
    missing = []
    for run in unfinished:
        names = [] if "-" in run.pair else pairs.with_student(run.dataset, run.profile, run.pair)
        missing += [replace(run, pair=pair) for pair in names] or [run]
    missing += [
        UnfinishedRun(
            r["dataset"], r["student"], r["method"], r["identity"], r["folder"].name, r["profile"], students.NO_PAIR
        )
        for r in without_pair
    ]
    return Runs(pd.DataFrame(rows), missing)


def run_folders(root: Path) -> Iterator[Path]:
    """Iterate over all folders at the depth and with the names of runs, sorted."""
    return (folder for folder, error in _folders(root) if not error)


def _folders(root: Path, depth: int = DEPTH) -> Iterator[tuple[Path, str | None]]:
    """Iterate over the folders of runs, `depth` levels below `root`, and over folders that cannot be listed.

    The latter come with the reason, and `*` in place of the folders below them.
    """
    try:
        with os.scandir(root) as entries:
            names = sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())
    except FileNotFoundError:
        return
    except OSError as e:
        yield root.joinpath(*depth * ["*"]), f"its folder cannot be read: {e.strerror}"
        return
    if depth == 0:
        yield root, None
    elif depth == 2:
        names = filter(IDENTITY.fullmatch, names)
    elif depth == 1:
        leaf = TEACHER_FOLDER if root.parts[-3] == TEACHERS else STUDENT_FOLDER
        names = filter(leaf.fullmatch, names)
    for name in names if depth else ():
        yield from _folders(root / name, depth - 1)


def load_config(folder: Path) -> dict[str, Any]:
    """Return the resolved config of a run, flat: dotted keys, lists as tuples; empty where it cannot be read."""
    return RunFolder(folder).config.flat()


def load_metrics(folder: Path) -> pd.DataFrame:
    """Return the epochs of a run, indexed by `epoch`: `top1`, and `seconds` of training (data and steps, not
    evaluation) up to the end of the epoch; NaN where they were not measured.

    top1: accuracy on the validation split where there is one, else on the test set, in per cent; NaN for epochs that
    were not evaluated.
    """
    epochs = {}
    for line in RunFolder(folder).metrics():
        seconds = _number(line.get("data_s")) + _number(line.get("step_s"))
        epochs[line["epoch"]] = (_number(line.get("val_top1", line.get("test_top1"))), seconds)
    index = pd.Index(sorted(epochs), name="epoch")
    frame = pd.DataFrame([epochs[e] for e in index], index, ["top1", "seconds"], dtype=float)
    return frame.assign(seconds=frame.seconds.cumsum(skipna=False))


def profile_of(config: RunConfig) -> str | None:
    """Return the profile of a run by its config, with the suffix that a finished run has."""
    return f"{config.profile}{VALIDATION_SUFFIX}" if config.profile and config.validation > 0 else config.profile


def _pair_folders(root: Path) -> dict[str, set[str]]:
    """Names of pairs with a folder, by data set; those of pairs without runs count."""
    pairs: dict[str, set[str]] = {}
    for folder in root.glob("*/*-*/"):
        if folder.name.count("-") == 1:
            pairs.setdefault(folder.parent.name, set()).add(network_name(folder.name))
    return pairs


def _unfinished_reason(record: StatusRecord) -> str | None:
    """Why a run of this status is not finished; None where it is, or where the status cannot be read."""
    if record.status in (None, RunStatus.DONE):
        return None
    if record.status is RunStatus.RUNNING:
        return "running or interrupted"
    reason = " ".join(record.reason.split())
    return reason if reason.startswith(record.status) else f"{record.status}: {reason}" if reason else record.status


def _rejection_reason(record: RunRecord, folder: Path) -> str | None:
    """Why the record of a finished run is not used; None where it is."""
    if record.status not in (None, RunStatus.DONE):
        return f"its result.json says {record.status}"
    pair = location(folder)[1]
    if pair != TEACHERS and record.problem != UNREADABLE:
        place = dict(zip(LOCATION, (*location(folder)[:-1], int(folder.name.removeprefix("seed="))), strict=True))
        if "-" not in pair:
            place |= {"pair": None, "student": pair}
        for key, expected in place.items():
            if (value := getattr(record, key)) != expected:
                return f"its result.json says {key} {json.dumps(value)}: it belongs to another folder"
        for key in REQUIRED:
            if getattr(record, key) is None and (key != "teacher" or "-" in pair):
                return f"its result.json has no {key}"
    return record.problem


def _row(record: RunRecord, folder: Path) -> dict[str, Any]:
    row = {key: getattr(record, key) for key in (*LOCATION, *REQUIRED, *TEXTS)}
    row |= {key: math.nan if (value := getattr(record, key)) is None else float(value) for key in NUMBERS}
    if record.is_sealed:  # trained on fewer images: a separate table
        row["profile"] += VALIDATION_SUFFIX
        row |= dict.fromkeys(SEALED, math.nan) | {"top1_last": record.val_top1_last}
        row["top5_last"] = math.nan if record.val_top5_last is None else record.val_top5_last
    return row | {"title": record.title or record.method, "folder": folder}


def _number(value: Any) -> float:
    """A number in a line of metrics; NaN where there is none."""
    return math.nan if (value := number(value)) is None else float(value)
