"""Execution of a plan by a queue that outlives the command, such as Slurm's.

All missing runs are queued at once: teachers, and what needs no teacher in training; then the students of each teacher
in training, to start after it. A student's identity includes the content hash of its teacher, which its job reads.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmark.grid import execution
from benchmark.grid.plan import Plan, is_finished
from benchmark.grid.progress import Progress
from benchmark.grid.run import execute
from benchmark.grid.training_run import Outcome, TrainingRun
from benchmark.runs.folder import RunFolder
from benchmark.runs.record import RunStatus
from benchmark.runs.tracking import Tracking
from benchmark.teacher import importing


class QueuedJob(Protocol):
    """What a queue holds: a picklable function without arguments, which does not change when it is called."""

    @property
    def key(self) -> str:
        """Name of the job among all of the same folder of runs, whichever command queues it."""
        ...

    @property
    def name(self) -> str:
        """Name of the job in messages."""
        ...

    def __call__(self) -> Outcome:
        """Do the work; return how it ended."""
        ...


@dataclass(frozen=True)
class QueuedRun:
    """A run in a queue: a picklable function without arguments.

    min_top1, classes: for the check of its teacher, where that was not trained when the run was queued.
    """

    run: TrainingRun
    tracking: Tracking
    progress: Progress
    classes: int
    min_top1: float | None

    @property
    def key(self) -> str:
        """The run's key, before and after its teacher is trained."""
        return self.run.key

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run.name

    def __call__(self) -> Outcome:
        """Train, resume or skip the run; return how it ended."""
        run = self.run
        if run.teacher_run is not None and run.config["teacher"]["sha256"] is None:
            network, folder = run.config["teacher"]["network"], RunFolder(run.settings.runs / run.teacher_run)
            sha256 = folder.record.sha256
            if not folder.done or sha256 is None:
                state = folder.status_record
                reason = " ".join(filter(None, (state.status or "not trained", state.reason)))
                return Outcome(run.name, RunStatus.FAILED, f"its teacher {network} is {reason}")
            if reason := importing.rejection_reason(folder, network, self.classes, self.min_top1):
                return Outcome(run.name, RunStatus.FAILED, reason)
            run = run.taught_by(sha256)
            if run.folder.status == RunStatus.DIVERGED:
                return Outcome(run.name, RunStatus.DIVERGED, "in an earlier run")
        # a queue may pickle this object again in the middle of the run, which must therefore not change it
        return execute(run, copy.deepcopy(self.tracking), copy.deepcopy(self.progress))


class RunQueue(Protocol):
    """A queue of runs and other jobs."""

    def enqueue(self, runs: Sequence[QueuedJob], after: str | None = None) -> list[str]:
        """Queue runs, but for those that are queued already, to start once the job `after` has ended in any way.

        Return the ids of their jobs.
        """
        ...

    def outcomes(self, jobs: Mapping[str, QueuedJob]) -> Iterator[Outcome]:
        """Wait for jobs, and yield each outcome when it is there."""
        ...


def run_queued_plan(plan: Plan, tracking: Tracking, queue: RunQueue) -> list[Outcome]:
    """Queue the missing runs, teachers before their students, and wait. Return the outcomes of all runs that were not
    done. Raises ValueError for a plan whose precision is still to be measured."""
    execution.check_precisions(plan)
    execution.make_pair_folders(plan)
    untrained = {network: run for network, run in plan.teachers.items() if not run.folder.done}
    trained = [network for network in plan.teachers if network not in untrained]
    students = [*plan.students_alone(), *(r for network in trained for r in execution.taught_runs(plan, network))]
    diverged = [run for run in students if run.folder.status == RunStatus.DIVERGED]
    outcomes = [Outcome(run.name, RunStatus.DIVERGED, "in an earlier run") for run in diverged]
    missing = [run for run in students if not is_finished(run)]
    outcomes += [execute(run, tracking, Progress(1)) for run in missing if run.unsupported_reason is not None]
    ready = [*untrained.values(), *(run for run in missing if run.unsupported_reason is None)]
    waiting = {network: [r for r in plan.awaiting(network) if r.unsupported_reason is None] for network in untrained}
    progress = Progress(len(ready) + sum(map(len, waiting.values())))
    jobs: dict[str, QueuedRun] = {}

    def enqueue(runs: Sequence[TrainingRun], after: str | None = None) -> list[str]:
        if not runs:
            return []
        # the most expensive first, so that none is left to run alone at the end; teachers before them
        order = sorted(runs, key=lambda r: (r.config["role"] != "teacher", -execution.cost(r, plan.dataset)))
        classes, min_top1 = plan.dataset.classes, plan.config.teacher.min_top1
        queued = [QueuedRun(run, tracking, progress.for_next_run(), classes, min_top1) for run in order]
        ids = queue.enqueue(queued, after)
        jobs.update(zip(ids, queued, strict=True))
        return ids

    enqueue(ready)
    job_of = {queued.run.key: job for job, queued in jobs.items()}
    for network, runs in waiting.items():
        enqueue(runs, after=job_of[untrained[network].key])
    if jobs:
        outcomes += list(queue.outcomes(jobs))
    for network in untrained:
        if plan.teachers[network].folder.done:
            unsupported = [run for run in execution.taught_runs(plan, network) if run.unsupported_reason is not None]
            outcomes += [execute(run, tracking, Progress(1)) for run in unsupported if not is_finished(run)]
    return outcomes
