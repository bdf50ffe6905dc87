"""Runs that are left out of all tables: listed in a file, or moved to a trash folder from which they can be restored.

<runs>/excluded.txt    paths relative to <runs>, one a line: of a run, or of a folder of runs; # begins a comment
<runs>/.trash/         dropped runs, each at its path relative to <runs>
"""

import os
from collections.abc import Sequence
from pathlib import Path

from analysis.conditions import Where, parse_where
from analysis.load import load_config, profile_of, run_folders
from benchmark.config.schema import AnalysisOptions
from benchmark.errors import UserError
from benchmark.runs.folder import RunBusy, RunFolder, location
from benchmark.runs.record import TEACHERS

FILTERS = ("dataset", "profile", "pair", "method", "identity", "where")
EXCLUDED = "excluded.txt"
TRASH = ".trash"


def excluded_runs(root: Path) -> set[Path]:
    """Return the run folders named in the list of excluded runs. Raises UserError for a path that no run has."""
    path = root / EXCLUDED
    if not path.is_file():
        return set()
    folders = list(run_folders(root))
    excluded: set[Path] = set()
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        if not (text := line.split("#")[0].strip().strip("/")):
            continue
        below = [folder for folder in folders if folder == root / text or root / text in folder.parents]
        if not below:
            raise UserError(f"{path}:{number}: there is no run at {text}: write a path relative to {root}")
        excluded.update(below)
    return excluded


def drop(options: AnalysisOptions) -> list[Path]:
    """Move the chosen students' runs to the trash, finished or not; return the paths that they had, below the root.

    Raises UserError where no filter is given or no run passes it, where a run is in training, and where the trash holds
    a run of this path; the runs before it are moved.
    """
    root = Path(options.runs)
    filters = [f"{key}={','.join(names)}" for key in FILTERS if (names := getattr(options, key))]
    if not filters:
        raise UserError(f"name the runs to drop, by one or more of {', '.join(f'{key}=…' for key in FILTERS)}")
    where = parse_where(options.where)
    chosen = [f for f in run_folders(root) if _is_student(f) and _passes(f, options, where)]
    if not chosen:
        raise UserError(f"no run in {root} has all of {' '.join(filters)}")
    return [_move(folder, root, root / TRASH) for folder in chosen]


def restore(root: Path) -> list[Path]:
    """Move all runs back from the trash; return their paths, below the root. Raises UserError where there are none, and
    where a run of this path exists."""
    dropped = list(run_folders(root / TRASH))
    if not dropped:
        raise UserError(f"nothing to restore: there are no dropped runs in {root / TRASH}")
    return [_move(folder, root / TRASH, root) for folder in dropped]


def _is_student(folder: Path) -> bool:
    return folder.parts[-4] != TEACHERS


def _passes(folder: Path, options: AnalysisOptions, where: Sequence[Where]) -> bool:
    """Return whether a run has the chosen names and settings."""
    dataset, pair, method, identity, _ = location(folder)
    names = {"dataset": dataset, "pair": pair, "method": method, "identity": identity}
    if any(getattr(options, key) and name not in getattr(options, key) for key, name in names.items()):
        return False
    if options.profile and profile_of(RunFolder(folder).config) not in options.profile:
        return False
    return not where or all(condition.holds(load_config(folder)) for condition in where)


def _move(folder: Path, source: Path, target: Path) -> Path:
    relative = folder.relative_to(source)
    destination = target / relative
    if destination.exists():
        raise UserError(f"{destination} exists: remove it, or {folder}, first")
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        with RunFolder(folder).lock() as held:
            os.rename(folder, destination)
            held.follow(destination)
    except RunBusy as e:
        raise UserError(f"{relative} is in training: stop it first") from e
    for parent in relative.parents:  # leave no empty folders behind
        if parent.parts and not any((source / parent).iterdir()):
            (source / parent).rmdir()
    return relative
