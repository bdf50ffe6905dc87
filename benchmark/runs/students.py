"""Runs of a student alone, by a method that reads no teacher. All pairs with this student share them. No torch here.

    <runs>/<dataset>/<student>/<method>/<identity>/seed=<n>/

Their config names no teacher. In older folders such runs lie under a pair and their config names its teacher, which had
no effect on them: a finished one stands for the run that would be planned today, and is not trained again.
"""

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.runs.folder import RunFolder, folder_name, identity

METHODS_UNDER_PAIRS = ("ce",)  # methods that read no teacher and have runs in older folders


def is_student_alone(pair: str, method: str) -> bool:
    """Return whether runs in the folder `<pair>/<method>` read no teacher; `pair` is the student in today's folders."""
    return "-" not in pair or method in METHODS_UNDER_PAIRS


def identity_without_teacher(config: Mapping[str, Any]) -> str:
    """Return the identity of a config without its teacher: equal for a run of today and its older copies."""
    return identity({key: value for key, value in config.items() if key != "teacher"})


def finished_under_a_pair(root: Path, config: Mapping[str, Any]) -> str | None:
    """Return the folder, relative to the root of all runs, of an older finished run that equals a planned one.

    config: of the planned run of a student alone. Of several such folders, the first by name. None where there is none.
    """
    method, seed = config["method"]["name"], config["seed"]
    if method not in METHODS_UNDER_PAIRS:
        return None
    dataset = glob.escape(config["dataset"]["name"])
    student = glob.escape(folder_name(config["student"]))
    planned = identity_without_teacher(config)
    for relative in sorted(glob.glob(f"{dataset}/*-{student}/{method}/*/seed={seed}", root_dir=root)):
        folder = RunFolder(root / relative)
        if folder.done and identity_without_teacher(folder.config.tree) == planned:
            return relative
    return None
