"""Commands outlive the reader of their output, and print on terminals without Unicode."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.runs.folder import RunFolder
from benchmark.runs.record import RunStatus

SMALL = [
    "pair=resnet8-resnet8", "methods=kd", "seeds=0", "profile=quick", "recipe.epochs=2", "dataset.train_size=100",
    "dataset.test_size=100", "threads=1", "teacher.min_top1=0", "precision=fp32", "tracker.mode=off",
]  # fmt: skip


def start(folder: Path, *arguments: str, **environment: str) -> "subprocess.Popen[bytes]":
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("jobs", [1, 2])
def test_training_goes_on_after_the_reader_has_gone(tmp_path, jobs):
    process = start(tmp_path, "benchmark", "bench", *SMALL, f"jobs={jobs}")
    assert process.stdout and process.stderr
    process.stdout.close()
    errors = process.stderr.read().decode()
    assert process.wait() == 0, errors
    assert "Traceback" not in errors and "BrokenPipe" not in errors
    runs = [path.parent for path in tmp_path.glob("runs/**/result.json")]
    assert len(runs) >= 2 and all(RunFolder(run).status is RunStatus.DONE for run in runs)
    assert list(tmp_path.glob("reports/tables/*.md"))


def test_characters_that_the_terminal_lacks_are_escaped(tmp_path):
    process = start(tmp_path, "analysis", PYTHONIOENCODING="ascii:strict", PYTHONUTF8="0")
    out, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    assert b"[key=value \\u2026]" in out
