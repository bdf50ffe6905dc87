"""Run folders (their format is described in `benchmark.runs.folder`) loaded into a frame.

Anything in the tree that is not a run (other folders, other files) is passed over. A run without a usable result is
reported with the reason, so that a table can say what is not in it.
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

from benchmark.runs import folder as store
from benchmark.runs.folder import RunFolder, read_json

TEACHERS = "teachers"  # the folder of teachers, where students have their pair
IDENTITY = re.compile(r"[0-9a-f]{12}")
STUDENT = re.compile(r"seed=(\d+)")
TEACHER = re.compile(r"seed=\d+|imported|sha256=\w+")
LARGEST = 1e15  # beyond it a number in a result is a mistake, and some have no float
VALIDATION = "+validation"  # behind the profile of runs that held out a part of the training set
NUMBERS = (
    "top1_best", "teacher_top1", "agreement", "correlation_distance", "wall_s", "step_ms", "parameters",
    "extra_parameters", "extra_buffers", "inference_parameters", "pre_epochs", "views", "year",
)  # fmt: skip
TEXTS = ("teacher_run", "teacher_sha256", "precision", "code")
YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one is ten times as fast


@dataclass(frozen=True)
class Unfinished:
    """A run that is not in any table. `pair` is `teachers` for a teacher, `method` then its network."""

    dataset: str
    pair: str
    method: str
    leaf: str  # seed=<n>
    profile: str | None  # None where its config cannot be read
    reason: str
    skipped: bool = False  # the method cannot be on the pair

    @property
    def text(self) -> str:
        what = f"teacher {self.method}" if self.pair == TEACHERS else f"{self.pair} {self.method}"
        return f"{what} {self.leaf}: {self.reason}"


@dataclass(frozen=True)
class Runs:
    """Everything found below one folder.

    done: one row a finished student, with the fields of its result.json (missing ones are None or NaN) and its
        `folder`; sorted by folder.
    unfinished: students and teachers that run, failed, diverged, or whose result cannot be used.
    """

    done: pd.DataFrame
    unfinished: list[Unfinished]


def load(root: Path) -> Runs:
    """Read all runs below `root`; empty where there are none."""
    done, unfinished = [], []
    for folder in _folders(root):
        dataset, pair, method, _, leaf = folder.parts[-5:]
        status = read_json(folder / "status.json")
        result = read_json(folder / "result.json")
        if status is None and not (folder / "result.json").exists():
            continue  # never begun
        reason = _unfinished(status) or _unusable(result, folder, student=pair != TEACHERS)
        if reason:
            settings = config(folder)
            profile = settings.get("profile")
            if profile and (settings.get("dataset.validation") or 0) > 0:
                profile += VALIDATION
            skipped = (status or {}).get("status") == "skipped"
            unfinished.append(Unfinished(dataset, pair, method, leaf, profile, reason, skipped))
        elif result is not None and pair != TEACHERS:
            done.append(_row(result, folder))
    return Runs(pd.DataFrame(done), unfinished)


def config(folder: Path) -> dict[str, Any]:
    """The resolved config of a run, flat: dotted keys, lists as tuples; empty where it cannot be read."""
    try:
        tree = yaml.load((folder / "config.yaml").read_bytes(), YamlLoader)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return dict(_flat(tree)) if isinstance(tree, Mapping) else {}


def metrics(folder: Path) -> pd.DataFrame:
    """The epochs of a run, indexed by `epoch`: test_top1, and `seconds` of training (data and steps, not evaluation) up
    to the end of the epoch; NaN where they were not measured."""
    found = {}
    for line in RunFolder(folder).metrics():
        spent = _number(line.get("data_s")) + _number(line.get("step_s"))
        found[line["epoch"]] = (_number(line.get("test_top1")), spent)
    epochs = sorted(found)
    index = pd.Index(epochs, name="epoch")
    frame = pd.DataFrame([found[e] for e in epochs], index, ["test_top1", "seconds"], dtype=float)
    return frame.assign(seconds=frame.seconds.cumsum(skipna=False))


@dataclass(frozen=True)
class Outputs:
    """What a network gave on the test set: logits [N, C], labels [N], and the classes' names where they are known."""

    logits: np.ndarray
    labels: np.ndarray
    class_names: list[str] | None


def outputs(folder: Path) -> Outputs | None:
    """The outputs kept in a run folder; None where the file is missing, broken, or not of these shapes."""
    try:
        with np.load(RunFolder(folder).test_outputs, allow_pickle=False) as saved:
            logits, labels = saved["logits"], saved["labels"]
            names = [str(n) for n in saved["class_names"]] if "class_names" in saved else None
    except Exception:  # zipfile, zlib and numpy each have errors of their own for a broken file
        return None
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not np.isfinite(logits).all():
        return None
    return Outputs(logits, labels, names if names is not None and len(names) == logits.shape[1] else None)


def _folders(root: Path) -> Iterator[Path]:
    """All folders that lie where a run lies, sorted."""
    for dataset in _inside(root):
        for pair in _inside(dataset):
            leaves = TEACHER if pair.name == TEACHERS else STUDENT
            for method in _inside(pair):
                for identity in _inside(method):
                    if IDENTITY.fullmatch(identity.name):
                        yield from (leaf for leaf in _inside(identity) if leaves.fullmatch(leaf.name))


def _inside(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(folder / e.name for e in entries if not e.name.startswith(".") and e.is_dir())
    except OSError:
        return []


def _unfinished(status: Mapping[str, Any] | None) -> str | None:
    """Why a run of this status is not finished; None where it is, or where the status cannot be read."""
    name = None if status is None else status.get("status")
    if status is None or name == "done":
        return None
    reason = " ".join(str(status.get("reason") or "").split())
    if name == "running":
        return "running or interrupted"
    return reason if reason.startswith(str(name)) else f"{name}: {reason}" if reason else str(name)


def _unusable(result: Mapping[str, Any] | None, folder: Path, *, student: bool) -> str | None:
    """What is wrong with the result of a finished run; None where nothing is."""
    wrong = store.unusable(result)
    if result is None:
        return wrong
    if result.get("status", "done") != "done":
        return f"its result.json says {result['status']}"
    if not student:
        return None
    dataset, pair, method, identity, leaf = folder.parts[-5:]
    place = {"dataset": dataset, "pair": pair, "method": method, "identity": identity, "seed": int(leaf[5:])}
    for key, value in place.items():
        if result.get(key) != value:
            return f"its result.json says {key} {json.dumps(result.get(key))}: it belongs to another folder"
    for key, kind in {"profile": str, "teacher": str, "student": str, "epochs": int}.items():
        if not isinstance(result.get(key), kind):
            return f"its result.json has no {key}"
    return wrong


def _row(result: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    keys = ("dataset", "profile", "pair", "teacher", "student", "method", "identity", "seed", "epochs")
    row: dict[str, Any] = {k: result[k] for k in keys}
    row |= {k: _number(result.get(k)) for k in ("top1_last", *NUMBERS)}
    row |= {k: result[k] if isinstance(result.get(k), str) else None for k in TEXTS}
    row |= {k: result[k] if isinstance(result.get(k), dict) else {} for k in ("versions", "hardware")}
    if np.isfinite(_number(result.get("val_top1_last"))):  # trained on less: a table of its own
        row["profile"] += VALIDATION
    changed = result.get("changed")
    row["changed"] = tuple(map(str, changed)) if isinstance(changed, list) else ()
    title = result.get("title")
    return row | {"title": title if isinstance(title, str) and title else result["method"], "folder": folder}


def _number(value: Any) -> float:
    """A number; NaN where it is none, or so large that it can only be a mistake."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
    return float(value) if usable else float("nan")


def _flat(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _frozen(value)


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_frozen(v) for v in value)
    return json.dumps(value, sort_keys=True) if isinstance(value, Mapping) else value
