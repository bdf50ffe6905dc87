"""`python -m analysis scale [n=10000]`: how long `table` takes and how much memory, on a generated tree of n runs.

The tree is made in a temporary folder, of a quarter, of half and of all runs; each time `table` runs in a fresh process
and makes every table. Three quarters of the runs are a benchmark (ten methods, five seeds, as many pairs as that
takes), a quarter is an ablation (one pair, five seeds, the student alone, KD, and as many settings of CLKD as that
takes); one run in a hundred was interrupted.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from analysis.tables.accuracy import grid
from benchmark.errors import UserError

SEEDS = 5
METHODS = ("ce", "kd", "fitnet", "at", "vid", "crd", "reviewkd", "dkd", "clkd", "dist")
LEAST = 40  # runs, for a quarter of them to have two seeds of every method
DIGEST = "0123456789abcdef" * 4


@dataclass(frozen=True)
class Measured:
    """One run of `table`: seconds of wall clock and of all cores together, and the peak of its memory in MiB."""

    runs: int
    wall_s: float
    cpu_s: float
    peak_mib: float


def parse(arguments: Sequence[str]) -> int:
    """The number of runs. Raises UserError for anything else."""
    n = "10000"
    for argument in arguments:
        key, equals, n = argument.partition("=")
        if key != "n" or not equals:
            raise UserError(f"{argument!r} is not known: python -m analysis scale n=10000")
    if not n.isdecimal() or int(n) < LEAST:
        raise UserError(f"n={n}: a whole number of at least {LEAST} runs is needed")
    return int(n)


def main(arguments: Sequence[str]) -> None:
    """Measure and print the result as a Markdown table."""
    n = parse(arguments)
    measured: list[Measured] = []
    with tempfile.TemporaryDirectory() as folder:
        made = 0
        for runs in (n // 4, n // 2, n):
            generate(Path(folder) / "runs", range(made, runs))
            made = runs
            measured.append(measure(Path(folder), runs))
            print(f"{runs} runs: {measured[-1].wall_s:.1f} s", file=sys.stderr)
    print(report(measured))


def report(measured: Sequence[Measured]) -> str:
    """The measurements, each with the ratio of its time to that of the one before."""
    before = [None, *measured[:-1]]
    rows = [
        [
            *(f"{m.runs:,}", f"{m.wall_s:.1f}", f"{m.cpu_s:.1f}", f"{1000 * m.wall_s / m.runs:.2f}"),
            *(f"{m.peak_mib:.0f}", "–" if b is None else f"{m.wall_s / b.wall_s:.2f}"),
        ]
        for m, b in zip(measured, before, strict=True)
    ]
    return grid(["runs", "seconds", "CPU seconds", "ms a run", "peak MiB", "times the one before"], rows, left=0)


def measure(folder: Path, runs: int) -> Measured:
    """Make every table of `<folder>/runs` in a process of its own. Raises UserError where it fails."""
    command = [sys.executable, "-m", "analysis", "table", f"runs={folder / 'runs'}", f"reports={folder / 'reports'}"]
    with open(folder / "output", "wb") as output:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        last = (folder / "output").read_text().strip().rsplit("\n", 1)[-1]
        raise UserError(f"`table` failed on {runs} generated runs: {last}")
    return Measured(runs, wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)  # ru_maxrss is in KiB


def generate(root: Path, numbers: Iterable[int]) -> None:
    """Write the run folders of these numbers, without weights, logits and curves. A number gives the same run."""
    for number in numbers:
        turn, place = divmod(number, 4)
        if place == 3:
            setting, seed = divmod(turn, SEEDS)
            name = {0: "ce", 1: "kd"}.get(setting, "clkd")
            options = {"name": name, "implementation": name, "beta": 2.0, "nu": setting / 8}
            _write(root, number, "short", 0, options, seed)
        else:
            cell, seed = divmod(3 * turn + place, SEEDS)
            pair, method = divmod(cell, len(METHODS))
            name = METHODS[method]
            _write(root, number, "paper", pair, {"name": name, "implementation": name, "weight": 1.0 + method}, seed)


def _write(root: Path, number: int, profile: str, pair: int, method: dict[str, Any], seed: int) -> None:
    rng = random.Random(number)
    teacher, student, name = f"resnet{3 * pair + 20}", f"resnet{3 * pair + 8}", method["name"]
    identity = f"{random.Random(f'{profile} {pair} {method}').getrandbits(48):012x}"
    sha256 = f"{pair:08x}{DIGEST[8:]}"
    place = {"dataset": "cifar100", "pair": f"{teacher}-{student}", "method": name, "identity": identity}
    folder = root.joinpath(*place.values(), f"seed={seed}")
    folder.mkdir(parents=True, exist_ok=True)
    epochs = {"paper": 240, "short": 20}[profile]
    config = {
        "role": "student",
        "dataset": {
            "name": "cifar100", "size": 32, "padding": 4, "flip": True, "mean": [0.5071, 0.4867, 0.4408],
            "std": [0.2675, 0.2565, 0.2761], "train_size": None, "test_size": None, "validation": 0.0,
            "split_seed": 0, "fingerprint": DIGEST,
        },
        "teacher": {"network": teacher, "sha256": sha256}, "student": student, "method": method,
        "recipe": {
            "epochs": epochs, "batch_size": 64, "lr": 0.05, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4,
            "milestones": [0.625 * epochs, 0.75 * epochs, 0.875 * epochs], "gamma": 0.1,
        },
        "precision": "fp32", "profile": profile, "seed": seed,
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.dump(config, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)))
    done = number % 100 != 99
    (folder / "status.json").write_text(json.dumps({"status": "done" if done else "running", "reason": ""}))
    if not done:
        return
    top1 = 60 + pair % 10 + (METHODS.index(name) + method.get("nu", 0) % 3) / 4 + rng.gauss(0, 0.3)
    result = place | {
        "status": "done", "role": "student", "network": student, "teacher": teacher, "student": student,
        "title": name.upper(), "year": 2014 + METHODS.index(name), "seed": seed, "profile": profile, "epochs": epochs,
        "top1_last": round(top1, 2), "top1_best": round(top1 + 0.2, 2), "top5_last": 90.0, "teacher_top1": 72.0,
        "teacher_sha256": sha256, "teacher_run": f"cifar100/teachers/{teacher}/{identity}/seed=0",
        "agreement": 80.0 + rng.random(), "correlation_distance": rng.random(), "wall_s": 800 + 100 * rng.random(),
        "step_ms": 30 + rng.random(), "parameters": 83892, "extra_parameters": 0, "extra_buffers": 0,
        "precision": "fp32", "sha256": DIGEST, "versions": {"python": "3.11", "torch": "2.11", "numpy": "2.0"},
        "hardware": {"device": "cuda", "name": "generated", "threads": 1},
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result, indent=1))
