"""Helpers that several test modules share: plan and run a grid in this process, interrupt and compare runs."""

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.config.compose import load_config
from benchmark.grid import execution
from benchmark.grid import plan as grid
from benchmark.grid.plan import Plan
from benchmark.grid.progress import Progress
from benchmark.grid.training_run import Outcome, TrainingRun
from benchmark.runs.folder import RunFolder
from benchmark.runs.tracking import Tracking

TrainedRun = tuple[dict[str, Tensor], list[dict[str, Any]]]


class Killed(BaseException):
    """Stands for the end of the process at an arbitrary moment; no `except Exception` catches it."""


def let_be_interrupted() -> None:
    """End this new process on SIGINT, which a background job of a shell ignores, as its children then do."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class KilledAt(Progress):
    """Interrupts a run when it reports an epoch: the epoch's metrics are written, its checkpoint is not."""

    def __init__(self, epoch: int, runs: int = 1) -> None:
        super().__init__(runs)
        self.last_epoch = epoch

    def epoch(self, line: Mapping[str, Any]) -> None:
        """Raise Killed at the epoch."""
        if line["epoch"] == self.last_epoch:
            raise Killed


def plan_of(overrides: Sequence[str]) -> Plan:
    """Return the plan of a command."""
    return grid.make_plan(load_config(overrides), overrides)


def tracking_of(plan: Plan) -> Tracking:
    """Return the tracking that a plan configures."""
    return Tracking(plan.config.tracker, plan.settings.runs)


def untracked(folder: Path) -> Tracking:
    """Return tracking that is off."""
    return Tracking(load_config(["tracker=none"]).tracker, folder)


def bench(overrides: Sequence[str]) -> tuple[Plan, list[Outcome]]:
    """Plan a command and run it in this process; return the plan, and how the runs ended."""
    plan = plan_of(overrides)
    return plan, execution.run_plan(plan, tracking_of(plan))


def student_runs(plan: Plan) -> dict[str, TrainingRun]:
    """Return the runs of students by method; with several seeds by `<method>-<seed>`."""
    runs = [run for teacher in plan.teachers for run in plan.students(teacher)]
    return {run.method if len(plan.config.seeds) == 1 else f"{run.method}-{run.config['seed']}": run for run in runs}


def trained(folder: RunFolder) -> TrainedRun:
    """Return the final weights of a run, and its metrics without the times."""
    lines = [{k: v for k, v in line.items() if not k.endswith("_s")} for line in folder.metrics()]
    return torch.load(folder.weights, weights_only=True), lines


def same(a: TrainedRun, b: TrainedRun) -> bool:
    """Return whether two runs have the same metrics and, bit for bit, the same weights."""
    return a[1] == b[1] and a[0].keys() == b[0].keys() and all(torch.equal(a[0][k], b[0][k]) for k in a[0])
