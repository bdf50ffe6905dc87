"""Run folders (their format is described in `benchmark.runs.folder`) loaded into a frame.

Other folders and files below the root are ignored. A run without a usable result is reported with the reason, so that a
table can list what it does not contain.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from benchmark.runs.folder import RunFolder, read_json, unusable

TEACHERS = "teachers"  # the folder of teachers, in the place of a pair
IDENTITY = re.compile(r"[0-9a-f]{12}")
STUDENT_FOLDER = re.compile(r"seed=(\d+)")
TEACHER_FOLDER = re.compile(r"seed=\d+|imported|sha256=\w+")
MAX_NUMBER = 1e15  # a larger number in a result is a mistake, and some have no float
VALIDATION_SUFFIX = "+validation"  # of the profile of runs that held out a part of the training set
NUMBERS = (
    "top1_best", "teacher_top1", "agreement", "correlation_distance", "wall_s", "step_ms", "parameters",
    "extra_parameters", "extra_buffers", "inference_parameters", "pre_epochs", "views", "year",
)  # fmt: skip
TEXTS = ("teacher_run", "teacher_sha256", "precision", "code")
YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one is ten times as fast


@dataclass(frozen=True)
class UnfinishedRun:
    """A run that is in no table. `pair` is `teachers` for a teacher, `method` then its network."""

    dataset: str
    pair: str
    method: str
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

    finished: one row per finished student, with the fields of its result.json (missing ones are None or NaN) and its
        `folder`; sorted by folder.
    unfinished: students and teachers that are running, failed, diverged, or have no usable result.
    """

    finished: pd.DataFrame
    unfinished: list[UnfinishedRun]


def load_runs(root: Path) -> Runs:
    """Read all runs below `root`; empty where there are none."""
    finished, unfinished = [], []
    for folder in _run_folders(root):
        dataset, pair, method, _, leaf = folder.parts[-5:]
        status = read_json(folder / "status.json")
        result = read_json(folder / "result.json")
        if status is None and not (folder / "result.json").exists():
            continue  # never started
        reason = _unfinished_reason(status) or _rejection_reason(result, folder, student=pair != TEACHERS)
        if reason:
            skipped = (status or {}).get("status") == "skipped"
            unfinished.append(UnfinishedRun(dataset, pair, method, leaf, _profile(folder), reason, skipped))
        elif result is not None and pair != TEACHERS:
            finished.append(_row(result, folder))
    return Runs(pd.DataFrame(finished), unfinished)


def load_config(folder: Path) -> dict[str, Any]:
    """Return the resolved config of a run, flat: dotted keys, lists as tuples; empty where it cannot be read."""
    try:
        config = yaml.load((folder / "config.yaml").read_bytes(), YamlLoader)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return dict(_flatten(config)) if isinstance(config, Mapping) else {}


def load_metrics(folder: Path) -> pd.DataFrame:
    """Return the epochs of a run, indexed by `epoch`: test_top1, and `seconds` of training (data and steps, not
    evaluation) up to the end of the epoch; NaN where they were not measured."""
    epochs = {}
    for line in RunFolder(folder).metrics():
        seconds = _number(line.get("data_s")) + _number(line.get("step_s"))
        epochs[line["epoch"]] = (_number(line.get("test_top1")), seconds)
    index = pd.Index(sorted(epochs), name="epoch")
    frame = pd.DataFrame([epochs[e] for e in index], index, ["test_top1", "seconds"], dtype=float)
    return frame.assign(seconds=frame.seconds.cumsum(skipna=False))


def _run_folders(root: Path) -> Iterator[Path]:
    """All folders at the depth and with the names of runs, sorted."""
    for dataset in _subfolders(root):
        for pair in _subfolders(dataset):
            names = TEACHER_FOLDER if pair.name == TEACHERS else STUDENT_FOLDER
            for method in _subfolders(pair):
                for identity in _subfolders(method):
                    if IDENTITY.fullmatch(identity.name):
                        yield from (leaf for leaf in _subfolders(identity) if names.fullmatch(leaf.name))


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(folder / e.name for e in entries if not e.name.startswith(".") and e.is_dir())
    except OSError:
        return []


def _profile(folder: Path) -> str | None:
    """The profile of a run by its config."""
    config = load_config(folder)
    profile = config.get("profile")
    return f"{profile}{VALIDATION_SUFFIX}" if profile and (config.get("dataset.validation") or 0) > 0 else profile


def _unfinished_reason(status: Mapping[str, Any] | None) -> str | None:
    """Why a run of this status is not finished; None where it is, or where the status cannot be read."""
    name = None if status is None else status.get("status")
    if status is None or name == "done":
        return None
    reason = " ".join(str(status.get("reason") or "").split())
    if name == "running":
        return "running or interrupted"
    return reason if reason.startswith(str(name)) else f"{name}: {reason}" if reason else str(name)


def _rejection_reason(result: Mapping[str, Any] | None, folder: Path, *, student: bool) -> str | None:
    """What is wrong with the result of a finished run; None where nothing is."""
    reason = unusable(result)
    if result is None:
        return reason
    if result.get("status", "done") != "done":
        return f"its result.json says {result['status']}"
    if not student:
        return None
    dataset, pair, method, identity, leaf = folder.parts[-5:]
    expected = {"dataset": dataset, "pair": pair, "method": method, "identity": identity, "seed": int(leaf[5:])}
    for key, value in expected.items():
        if result.get(key) != value:
            return f"its result.json says {key} {json.dumps(result.get(key))}: it belongs to another folder"
    for key, kind in {"profile": str, "teacher": str, "student": str, "epochs": int}.items():
        if not isinstance(result.get(key), kind):
            return f"its result.json has no {key}"
    return reason


def _row(result: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    keys = ("dataset", "profile", "pair", "teacher", "student", "method", "identity", "seed", "epochs")
    row: dict[str, Any] = {k: result[k] for k in keys}
    row |= {k: _number(result.get(k)) for k in ("top1_last", *NUMBERS)}
    row |= {k: result[k] if isinstance(result.get(k), str) else None for k in TEXTS}
    row |= {k: result[k] if isinstance(result.get(k), dict) else {} for k in ("versions", "hardware")}
    if np.isfinite(_number(result.get("val_top1_last"))):  # trained on fewer images: a separate table
        row["profile"] += VALIDATION_SUFFIX
    changed = result.get("changed")
    row["changed"] = tuple(map(str, changed)) if isinstance(changed, list) else ()
    title = result.get("title")
    return row | {"title": title if isinstance(title, str) and title else result["method"], "folder": folder}


def _number(value: Any) -> float:
    """A number; NaN where it is none, or so large that it can only be a mistake."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_NUMBER
    return float(value) if usable else float("nan")


def _flatten(config: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _hashable(value)


def _hashable(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_hashable(v) for v in value)
    return json.dumps(value, sort_keys=True) if isinstance(value, Mapping) else value
