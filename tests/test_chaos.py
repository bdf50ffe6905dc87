"""The harness of `make chaos`: a few kills, and that it notices what is not exact."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

from tests.chaos import Results

ROOT = Path(__file__).resolve().parent.parent


def test_killed_commands_end_as_uninterrupted_ones(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--kills", "2", "--seed", "1"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    trials, kills, exact = (int(part.split()[0]) for part in process.stdout.strip().splitlines()[-1].split(","))
    assert kills >= 2 and exact == trials


def test_other_weights_metrics_and_tables_are_differences():
    run = ({"w": torch.zeros(2)}, [{"epoch": 1, "loss": 0.5}])
    expected = Results({"kd": run}, ["KD,60.0"])
    assert expected.equals(Results({"kd": ({"w": torch.zeros(2)}, [{"epoch": 1, "loss": 0.5}])}, ["KD,60.0"]))
    for other in (
        replace(expected, runs={"kd": ({"w": torch.tensor([0.0, 1e-9])}, run[1])}),
        replace(expected, runs={"kd": (run[0], [])}),
        replace(expected, runs={}),
        replace(expected, tables=["KD,61.0"]),
        replace(expected, tables=[]),
    ):
        assert not expected.equals(other)
