"""The training of one trial: its runs, one a seed, judged by the pruner while they are trained.

Pruning: the first seed is judged epoch by epoch, from half of its epochs on, and each further seed when it is done; a
trial below the median of the others at that time (Optuna's MedianPruner, after five complete trials) is pruned. Its run
keeps the status "running" with a free lock, as an interrupted one: `bench` resumes it where it is asked for the same
run. A trial that diverges ends there too, with the reason.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from benchmark.grid.progress import Progress
from benchmark.grid.run import execute
from benchmark.grid.training_run import BUSY, Outcome, TrainingRun
from benchmark.runs.record import RunRecord, RunStatus
from benchmark.runs.tracking import Tracking
from benchmark.training.graphs import SINGLE_GRAPH, Capture

BELOW_MEDIAN = "below the median of the trials before"
Watch = Callable[[Mapping[str, Any]], None]


class Pruned(BaseException):
    """Ends a trial early. Not an Exception: like Ctrl-C it leaves the run interrupted, not failed."""

    def __init__(self, state: str, epoch: int, reason: str) -> None:
        super().__init__(reason)
        self.state, self.epoch, self.reason = state, epoch, reason


class Unfinished(Exception):
    """A run neither finished nor diverged, so that its trial has no value."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(str(outcome))
        self.outcome = outcome


class WatchedProgress(Progress):
    """Progress that passes the metrics of each epoch to `watch`, which may end the run by raising Pruned."""

    watch: Watch | None = None

    def epoch(self, line: Mapping[str, Any]) -> None:
        """Report a finished epoch, then judge it."""
        super().epoch(line)
        if self.watch is not None:
            self.watch(line)


@dataclass(frozen=True)
class Place:
    """Where the runs of a trial are trained, and what reports them.

    waits: wait for a run that another process holds. Where several trials share a process, a wait would stop them all.
    """

    tracking: Tracking
    progress: WatchedProgress
    capture: Capture = SINGLE_GRAPH
    waits: bool = True


def run_trial(trial: optuna.Trial, runs: Sequence[TrainingRun], place: Place) -> float:
    """Train the runs, one a seed, and report to the pruner: each epoch of the first, the mean after each further one.

    Returns the mean validation accuracy, and stores results as attributes of the trial. Raises Pruned, and Unfinished.
    """
    val: dict[str, float] = {}
    seed = None
    try:
        for run in runs:
            epochs, seed = run.config["recipe"]["epochs"], run.config["seed"]
            record = finish_run(run, place, None if val else _pruning_watch(trial, epochs))
            assert record.val_top1_last is not None  # the data set has a validation split
            val[str(seed)] = record.val_top1_last
            if len(val) > 1:
                trial.report(statistics.fmean(val.values()), epochs + len(val) - 1)
            if len(val) < len(runs) and trial.should_prune():
                raise Pruned("pruned", epochs, BELOW_MEDIAN)
    except Pruned as e:
        for key, value in {"seed": seed, "epoch": e.epoch, "reason": e.reason, "state": e.state}.items():
            trial.set_user_attr(key, value)
        trial.set_user_attr("val", val)
        raise
    trial.set_user_attr("val", val)
    return statistics.fmean(val.values())


def _pruning_watch(trial: optuna.Trial, epochs: int) -> Watch:
    """Return a callback that reports each evaluated epoch's accuracy once, and raises Pruned where the pruner says."""
    reported = 0

    def watch(line: Mapping[str, Any]) -> None:
        nonlocal reported
        if line["epoch"] <= reported or "val_top1" not in line:
            return
        reported = line["epoch"]
        trial.report(line["val_top1"], reported)
        if reported < epochs and trial.should_prune():  # a run that is complete anyway is kept
            raise Pruned("pruned", reported, BELOW_MEDIAN)

    return watch


def finish_run(run: TrainingRun, place: Place, watch: Watch | None = None) -> RunRecord:
    """Train, resume or read a run, and return its record. Raises Pruned where it diverges, and Unfinished."""
    place.progress.watch = watch
    _judge_recorded_epochs(run, watch)  # of an earlier process, as if they were trained now
    outcome = Outcome(run.name, RunStatus.DIVERGED, run.folder.status_record.reason)
    if run.folder.status != RunStatus.DIVERGED:
        outcome = _execute(run, place)
        _judge_recorded_epochs(run, watch)  # of a process that was waited for
    if outcome.status == RunStatus.DIVERGED:
        last_epoch = max((line["epoch"] for line in run.folder.metrics()), default=0)
        raise Pruned("diverged", max(last_epoch, 0), outcome.reason)  # initialization epochs are 0 or below
    if outcome.status != RunStatus.DONE:
        raise Unfinished(outcome)
    return run.folder.record


def _execute(run: TrainingRun, place: Place) -> Outcome:
    outcome = execute(run, place.tracking, place.progress, place.capture)
    if outcome.status != BUSY or not place.waits:
        return outcome
    print(f"{run.name}: another process trains it; waiting until it ends", flush=True)
    return execute(run, place.tracking, place.progress, place.capture, wait=True)


def _judge_recorded_epochs(run: TrainingRun, watch: Watch | None) -> None:
    if watch is not None:
        for line in run.folder.metrics():
            watch(line)
