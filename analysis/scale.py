"""`python -m analysis scale [n=10000]`: time and memory of `table` on a generated tree of n runs.

The tree is generated in a temporary folder, of a quarter, of half and of all runs; each time `table` runs in a fresh
process and makes every table. Three quarters of the runs are a benchmark (ten methods, five seeds, as many pairs as
needed), a quarter is an ablation (one pair, five seeds, the student alone, KD, and as many settings of CLKD as needed);
one run in a hundred was interrupted.
"""

import math
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

from benchmark.config.command_options import load_scale
from benchmark.errors import UserError
from benchmark.runs.folder import RunFolder
from benchmark.runs.record import RunRecord, RunStatus
from benchmark.tables import cells, markdown
from benchmark.tables.model import Column, Line, Table

SEEDS = 5
METHODS = ("ce", "kd", "fitnet", "at", "vid", "crd", "reviewkd", "dkd", "clkd", "dist")
DIGEST = "0123456789abcdef" * 4
EPOCHS = {"paper": 240, "short": 20}


@dataclass(frozen=True)
class Measurement:
    """One run of `table`: seconds of wall clock and of all cores together, and its peak memory in MiB."""

    runs: int
    wall_s: float
    cpu_s: float
    peak_mib: float


def main(arguments: Sequence[str]) -> None:
    """Measure, and print the result as a Markdown table. Raises UserError for invalid arguments."""
    n = load_scale(arguments).n
    measurements: list[Measurement] = []
    with tempfile.TemporaryDirectory() as folder:
        generated = 0
        for runs in (n // 4, n // 2, n):
            generate(Path(folder) / "runs", range(generated, runs))
            generated = runs
            measurements.append(measure(Path(folder), runs))
            print(f"{runs} runs: {measurements[-1].wall_s:.1f} s", file=sys.stderr)
    print(report(measurements))


def report(measurements: Sequence[Measurement]) -> str:
    """Return the measurements as a table, each with the ratio of its time to that of the previous one."""
    titles = ("runs", "seconds", "CPU seconds", "ms per run", "peak MiB", "times the previous")
    previous = [math.nan, *(m.wall_s for m in measurements)]
    lines = [
        Line([
            cells.integer(m.runs), cells.number(m.wall_s, 1), cells.number(m.cpu_s, 1),
            cells.number(1000 * m.wall_s / m.runs), cells.integer(m.peak_mib), cells.number(m.wall_s / before),
        ])
        for m, before in zip(measurements, previous, strict=False)
    ]  # fmt: skip
    return markdown.grid(Table("", [Column(title) for title in titles], [lines]))


def measure(folder: Path, runs: int) -> Measurement:
    """Make every table of `<folder>/runs` in a fresh process. Raises UserError where it fails."""
    command = [sys.executable, "-m", "analysis", "table", f"runs={folder / 'runs'}", f"reports={folder / 'reports'}"]
    with open(folder / "output", "wb") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        last = (folder / "output").read_text().strip().rsplit("\n", 1)[-1]
        raise UserError(f"`table` failed on {runs} generated runs: {last}")
    return Measurement(runs, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)  # ru_maxrss is in KiB


def generate(root: Path, numbers: Iterable[int]) -> None:
    """Write the run folders of these numbers, without weights, logits and curves. A number gives the same run."""
    for number in numbers:
        quotient, remainder = divmod(number, 4)
        if remainder == 3:
            setting, seed = divmod(quotient, SEEDS)
            name = {0: "ce", 1: "kd"}.get(setting, "clkd")
            method = {"name": name, "implementation": name, "beta": 2.0, "nu": setting / 8}
            _write(root, number, "short", 0, method, seed)
        else:
            configuration, seed = divmod(3 * quotient + remainder, SEEDS)
            pair, index = divmod(configuration, len(METHODS))
            method = {"name": METHODS[index], "implementation": METHODS[index], "weight": 1.0 + index}
            _write(root, number, "paper", pair, method, seed)


def _write(root: Path, number: int, profile: str, pair: int, method: dict[str, Any], seed: int) -> None:
    teacher, student = f"resnet{3 * pair + 20}", f"resnet{3 * pair + 8}"
    identity = f"{random.Random(f'{profile} {pair} {method}').getrandbits(48):012x}"
    sha256 = f"{pair:08x}{DIGEST[8:]}"
    run = RunFolder(root / "cifar100" / f"{teacher}-{student}" / method["name"] / identity / f"seed={seed}")
    run.write_config(_config(profile, teacher, sha256, student, method, seed))
    if number % 100 == 99:
        run.set_status(RunStatus.RUNNING)
        return
    rng = random.Random(number)
    index = METHODS.index(method["name"])
    top1 = 60 + pair % 10 + (index + method.get("nu", 0) % 3) / 4 + rng.gauss(0, 0.3)
    record = RunRecord(
        status=RunStatus.DONE, role="student", dataset="cifar100", network=student, pair=f"{teacher}-{student}",
        teacher=teacher, student=student, method=method["name"], title=method["name"].upper(), year=2014 + index,
        teacher_top1=72.0, teacher_sha256=sha256, teacher_run=f"cifar100/teachers/{teacher}/{identity}/seed=0",
        seed=seed, profile=profile, identity=identity, epochs=EPOCHS[profile], top1_last=round(top1, 2),
        top1_best=round(top1 + 0.2, 2), top5_last=90.0, agreement=80.0 + rng.random(),
        correlation_distance=rng.random(), wall_s=800 + 100 * rng.random(), step_ms=30 + rng.random(),
        parameters=83892, extra_parameters=0, extra_buffers=0, precision="fp32", sha256=DIGEST,
        versions={"python": "3.11", "torch": "2.11", "numpy": "2.0"},
        hardware={"device": "cuda", "name": "generated", "threads": 1},
    )  # fmt: skip
    run.write_record(record)
    run.set_status(RunStatus.DONE)


def _config(profile: str, teacher: str, sha256: str, student: str, method: dict[str, Any], seed: int) -> dict[str, Any]:
    epochs = EPOCHS[profile]
    return {
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
