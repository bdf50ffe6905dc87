"""Execution of a plan: the missing runs, teachers before their students, are handed to an executor."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from benchmark import networks
from benchmark.config import checks
from benchmark.data.datasets import Dataset
from benchmark.grid import time_left
from benchmark.grid.build import method_requirements
from benchmark.grid.executors import Executor, Serial
from benchmark.grid.grid_progress import GridProgress
from benchmark.grid.plan import Plan, is_finished
from benchmark.grid.progress import Progress
from benchmark.grid.resources import runs_at_a_time
from benchmark.grid.run import execute
from benchmark.grid.time_left import TimeLeft
from benchmark.grid.training_run import BUSY, Outcome, RunKind, TrainingRun
from benchmark.runs.folder import folder_name
from benchmark.runs.record import RunStatus
from benchmark.runs.tracking import Tracking
from benchmark.teacher.cache import cacheable_kinds


def run_plan(plan: Plan, tracking: Tracking, executor: Executor | None = None) -> list[Outcome]:
    """Train the missing runs, teachers before their students. Return the outcomes of all runs that were not done.

    With an executor, the most expensive runs start first, so that none is left to run alone at the end, and students
    start while other teachers than theirs are trained. A run that another process trains is waited for, a teacher
    before its students and a student after all others. Raises ValueError for a plan whose precision is still to be
    measured, UserError where runs are missing and their folder cannot be written.
    """
    check_precisions(plan)
    untrained = {network: run for network, run in plan.teachers.items() if not run.folder.done}
    alone = plan.students_alone()
    taught = [run for network in plan.teachers if network not in untrained for run in taught_runs(plan, network)]
    diverged = [run for run in (*alone, *taught) if run.folder.status == RunStatus.DIVERGED]
    outcomes = [Outcome(run.name, RunStatus.DIVERGED, "in an earlier run") for run in diverged]
    alone, ready = ([run for run in runs if not is_finished(run)] for runs in (alone, taught))
    to_come = [run.kind for run in (*untrained.values(), *alone, *ready)]
    taught_kinds = [RunKind("student", *key) for network in untrained for key in plan.taught_keys(network)]
    to_come += [kind for kind in taught_kinds for _ in plan.config.seeds]
    if to_come:  # a finished grid may lie where nothing can be written
        checks.check_writable("runs", plan.settings.runs)
    make_pair_folders(plan)
    times = time_left.times_of_plan(plan, to_come)
    progress = Progress(len(to_come), TimeLeft(to_come, times))
    if executor is None:
        return outcomes + _run_in_order(_Submission(plan, tracking, progress), untrained, alone, ready)
    places = runs_at_a_time(plan.config, plan.settings.hardware)
    with GridProgress(to_come, times, places) as observer:
        submission = _Submission(plan, tracking, progress, executor, observer)
        return outcomes + _run_in_order(submission, untrained, alone, ready)


@dataclass(frozen=True)
class _Submission:
    """Where runs are submitted to. executor, observer: None where each run is trained at once, in this process."""

    plan: Plan
    tracking: Tracking
    progress: Progress
    executor: Executor | None = None
    observer: GridProgress | None = None

    def submit(self, runs: Sequence[TrainingRun]) -> dict[str, Future[Any]]:
        """Submit runs, the most expensive first, and return their futures by the path of each run."""
        if self.executor is None or self.observer is None:
            return {run.relative_path: Serial().submit(execute, run, self.tracking, self.progress) for run in runs}
        first_by_identity = {run.identity: run for run in runs}
        costs = {identity: cost(run, self.plan.dataset) for identity, run in first_by_identity.items()}
        futures = {}
        for run in sorted(runs, key=lambda run: costs[run.identity], reverse=True):
            arguments = run, self.tracking, self.progress.for_next_run(), self.executor.capture
            future = self.executor.submit(execute, *arguments)
            future.add_done_callback(functools.partial(_adopt_tracking_mode, self.tracking))
            self.observer.add(run, future)
            futures[run.relative_path] = future
        return futures


def _run_in_order(
    submission: _Submission, untrained: Mapping[str, TrainingRun], alone: Sequence[TrainingRun],
    taught: Sequence[TrainingRun],
) -> list[Outcome]:  # fmt: skip
    """Train teachers, beside them all students that need none of them, and the others as soon as their teacher is
    trained. Return how they ended, in the order of the plan.

    untrained: the teachers by network. taught: the students of the others.
    """
    plan, tracking, progress = submission.plan, submission.tracking, submission.progress
    futures = submission.submit(list(untrained.values()))
    ready = [*alone, *taught]
    futures |= submission.submit(ready)
    failures: dict[str, list[Outcome]] = {}
    students: dict[str, list[TrainingRun]] = {}
    for outcomes in _teacher_outcomes(submission, untrained, futures):
        for network, outcome in outcomes.items():
            failures[network] = _teacher_failures(plan, network, outcome)
            runs = [] if failures[network] else taught_runs(plan, network)
            students[network] = [run for run in runs if not is_finished(run)]
        futures |= submission.submit([run for network in outcomes for run in students[network]])
    runs = [*ready, *(run for network in untrained for run in students[network])]
    ended = [_outcome(run, futures[run.relative_path]) for run in runs]
    return [
        *(outcome for network in untrained for outcome in failures[network]),
        *(_once_free(run, outcome, tracking, progress) for run, outcome in zip(runs, ended, strict=True)),
    ]


def _teacher_outcomes(
    submission: _Submission, teachers: Mapping[str, TrainingRun], futures: Mapping[str, Future[Any]]
) -> Iterator[dict[str, Outcome]]:
    """Yield the outcomes of teachers by network: whenever the cheapest of those in training ends, all that have ended.
    Teachers that other processes train come last.

    futures: by the path of each run.
    """
    plan, tracking, progress = submission.plan, submission.tracking, submission.progress
    waiting = sorted(teachers, key=lambda network: cost(teachers[network], plan.dataset))
    busy: dict[str, Outcome] = {}
    while waiting:
        # not concurrent.futures.wait: the runs of Lockstep advance only while the result of one is waited for
        _outcome(teachers[waiting[0]], futures[teachers[waiting[0]].relative_path])
        ended = {}
        for network in waiting:
            if (future := futures[teachers[network].relative_path]).done():
                ended[network] = _outcome(teachers[network], future)
        waiting = [network for network in waiting if network not in ended]
        busy |= {network: outcome for network, outcome in ended.items() if outcome.status == BUSY}
        yield {network: outcome for network, outcome in ended.items() if outcome.status != BUSY}
    for network, outcome in busy.items():
        yield {network: _once_free(teachers[network], outcome, tracking, progress)}


def _teacher_failures(plan: Plan, network: str, outcome: Outcome) -> list[Outcome]:
    """Return the outcomes of a teacher that cannot be used and of its students; none for one that can."""
    if outcome.status != RunStatus.DONE:
        failure, reason = outcome, f"its teacher {outcome.status}: {outcome.reason}"
    elif reason := plan.rejection_reason(network):
        failure = Outcome(outcome.name, RunStatus.FAILED, reason)
    else:
        return []
    n = plan.run_count(network)
    return [failure, *([Outcome(f"{n} runs of {network}", RunStatus.FAILED, reason)] if n else [])]


def _once_free(run: TrainingRun, outcome: Outcome, tracking: Tracking, progress: Progress) -> Outcome:
    """Return the outcome of a run; one that another process holds is waited for, and trained if it is not finished."""
    if outcome.status != BUSY:
        return outcome
    print(f"{run.name}: another process trains it; waiting until it ends", flush=True)
    return execute(run, tracking, progress, wait=True)


def check_precisions(plan: Plan) -> None:
    """Raise ValueError for a plan whose precision is still to be measured."""
    if undecided := [network for (_, network), precision in plan.precisions.items() if not precision.decided]:
        raise ValueError(f"the precision of {undecided[0]} is not decided: the plan was made without a measurement")


def taught_runs(plan: Plan, teacher: str) -> list[TrainingRun]:
    """Return the runs that read a finished teacher's outputs."""
    return [run for run in plan.students(teacher) if run.teacher_run is not None]


def make_pair_folders(plan: Plan) -> None:
    """Create the folder of every pair that shares runs of a student alone, by which tables know the pair."""
    students = {run.network for run in plan.students_alone()}
    for teacher, student in plan.pairs:
        if student in students:
            name = folder_name(f"{teacher}-{student}")
            (plan.settings.runs / plan.dataset.name / name).mkdir(parents=True, exist_ok=True)


def cost(run: TrainingRun, dataset: Dataset) -> float:
    """Return the multiplications of a run's training, up to a factor that all runs share.

    A network counts three forward passes for each epoch, image and view of the image; a teacher whose outputs are not
    cached one, up to the deepest layer that the method reads.
    """
    if run.unsupported_reason is not None:
        return 0.0
    multiplications = functools.partial(
        networks.multiplications, classes=dataset.classes, image_size=dataset.config.size
    )
    training, epochs = 3 * multiplications(run.network), run.config["recipe"]["epochs"]
    if "teacher" not in run.config:  # a teacher, or a student alone
        trained_on = dataset.of_teacher if run.config["role"] == "teacher" else dataset
        return training * epochs * len(trained_on.train.labels) / len(dataset.train.labels)
    teacher = run.config["teacher"]["network"]
    requires = method_requirements(run.config["method"], run.network, teacher, dataset)
    total = 0.0
    for first_epoch, n in ((1, epochs), (0, requires.init_epochs)):
        _, needs = requires.needs(first_epoch)
        live = (not dataset.finite_views or cacheable_kinds(needs) is None) and not needs.empty
        total += n * requires.views * (training + (multiplications(teacher, needs=needs) if live else 0))
    return total


def _adopt_tracking_mode(tracking: Tracking, future: Future[Any]) -> None:
    """Continue offline in all further runs once a run's process could not reach the W&B server."""
    if not future.cancelled() and future.exception() is None and tracking.mode == "online":
        tracking.mode = future.result().tracking


def _outcome(run: TrainingRun, future: Future[Any]) -> Outcome:
    """Wait for a run; its outcome is a failure where its process died."""
    try:
        return future.result()
    except Exception as e:
        return Outcome(run.name, RunStatus.FAILED, f"{type(e).__name__}: {e}")
