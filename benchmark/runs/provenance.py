"""The code that made a result: commit of the working tree, and version of the engine. No torch here.

Both are those of the code that runs: sources are read when this module is imported, and git is asked once per process,
before its first training.
"""

import functools
import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import methods

ROOT = Path(__file__).resolve().parents[2]
TRACKED = ("benchmark", "methods", "conf")  # folders whose uncommitted changes can change a run
# what of benchmark/ a run's numbers depend on; commands, tables, plans and trackers change none
ENGINE = ("data", "networks", "teacher", "training", "grid/build.py", "grid/preparation.py", "grid/run.py")
GIT_TIMEOUT_S = 30.0  # on a network disk that hangs


@dataclass(frozen=True)
class WorkingTree:
    """A git working tree. clean: no uncommitted or untracked file in the folders of `TRACKED`."""

    commit: str
    clean: bool


def record_fields() -> dict[str, Any]:
    """Return the fields of a `RunRecord` about the code; without those of a working tree where there is none."""
    tree = working_tree()
    return {"engine_version": engine_version()} | ({"commit": tree.commit, "clean": tree.clean} if tree else {})


@functools.cache
def working_tree(root: Path = ROOT) -> WorkingTree | None:
    """Return the state of the git working tree whose top folder is `root`; None where there is none, or no git."""
    if not (root / ".git").exists():  # an installed package in somebody else's working tree is not theirs
        return None
    command = ["git", "--no-optional-locks", "-C", str(root), "status", "--porcelain=v2", "--branch", "--", *TRACKED]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=GIT_TIMEOUT_S).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    lines = output.splitlines()
    commit = next((line.split()[2] for line in lines if line.startswith("# branch.oid ")), "(initial)")
    return None if commit == "(initial)" else WorkingTree(commit, all(line.startswith("#") for line in lines))


@functools.cache
def engine_version() -> str:
    """Return twelve hex digits that identify the code of the engine, without comments and docstrings."""
    return version_of(_SOURCES)


def version_of(sources: dict[str, str]) -> str:
    """Return twelve hex digits of the hash of Python sources by name, without comments and docstrings."""
    parts = [f"{name}\n{methods.code_without_prose(sources[name])}\n" for name in sorted(sources)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:12]


def _read_sources(engine: Path) -> dict[str, str]:
    """Read the Python files of `ENGINE` below the folder of the engine, by relative name."""
    paths = [p for part in ENGINE for p in ([engine / part] if part.endswith(".py") else (engine / part).glob("*.py"))]
    return {path.relative_to(engine).as_posix(): path.read_text(encoding="utf-8") for path in paths}


_SOURCES = _read_sources(ROOT / "benchmark")
