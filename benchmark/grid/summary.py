"""The summary that `plan` prints: runs, hours and gigabytes of each pair, and on request every run."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from benchmark.grid import estimate
from benchmark.grid.estimate import CacheSizes, StepTimes
from benchmark.grid.plan import Plan, is_finished
from benchmark.grid.training_run import TrainingRun
from benchmark.progress import duration
from benchmark.runs.folder import RunFolder
from benchmark.runs.record import RunStatus
from benchmark.tables import cells, markdown
from benchmark.tables.cells import counted
from benchmark.tables.model import TEXT, Cell, Column, Line, Table

DONE, TO_TRAIN, DIVERGED, UNSUPPORTED = "done", "to train", "diverged", "n/a"
TITLES = ("Pair", "to train", "done", "hours", "GB")


@dataclass(frozen=True)
class PlannedRun:
    """One run of a plan. state: one of the constants above. hours: of what is left of it; None where not known.

    needs_teacher: it reads a teacher's outputs. awaits: the run of that teacher, where it is not trained yet.
    """

    name: str
    state: str
    hours: float | None
    trained_epochs: int = 0  # of a run that was begun and is not finished
    is_teacher: bool = False
    needs_teacher: bool = False
    awaits: str | None = None


@dataclass(frozen=True)
class PairSummary:
    """What a pair adds to a plan; what it shares with earlier pairs counts there."""

    pair: str
    runs: list[PlannedRun]
    gigabytes: float  # of the caches and run folders in all, those that are there included

    def count(self, state: str) -> int:
        """Return the number of runs in a state."""
        return sum(run.state == state for run in self.runs)

    @property
    def to_train(self) -> list[PlannedRun]:
        """The runs that are left to train."""
        return [run for run in self.runs if run.state == TO_TRAIN]

    @property
    def hours(self) -> float:
        """Hours of the runs that are left to train and have a time."""
        return sum(run.hours or 0.0 for run in self.to_train)

    @property
    def untimed(self) -> int:
        """Number of the runs that are left to train and have no time."""
        return sum(run.hours is None for run in self.to_train)


def summarize(plan: Plan, times: StepTimes) -> list[PairSummary]:
    """Return a summary of each pair. Teachers, students alone and caches count for the first pair that has them."""
    caches, counted_runs = CacheSizes(plan), set()
    alone = {(run.network, run.method, run.config["seed"]): run for run in plan.students_alone()}
    summaries = []
    for teacher, student in plan.pairs:
        runs, gigabytes = [], 0.0
        if teacher not in counted_runs:
            counted_runs.add(teacher)
            runs.append(_teacher(plan, times, teacher))
            gigabytes += estimate.run_gigabytes(plan, teacher)
        taught = _taught(plan, teacher, student)
        for name in plan.config.methods:
            key = (teacher, student, name)
            gigabytes += caches.add(key)
            for seed in plan.config.seeds:
                shared = alone.get((student, name, seed)) if plan.needs_no_teacher(key) else None
                if shared is not None and shared.relative_path in counted_runs:
                    continue
                counted_runs |= {shared.relative_path} if shared else set()
                run = shared or taught.get((name, seed))
                label = run.name if run else f"{teacher}-{student} {name} seed {seed}"
                runs.append(_student(plan, times, key, label, run))
                gigabytes += 0.0 if key in plan.unsupported else estimate.run_gigabytes(plan, student)
        summaries.append(PairSummary(f"{teacher}-{student}", runs, gigabytes))
    return summaries


def _teacher(plan: Plan, times: StepTimes, network: str) -> PlannedRun:
    run = plan.teachers[network]
    if run.folder.done:
        return PlannedRun(run.name, DONE, 0.0)
    epochs = trained_epochs(run.folder) or 0
    hours = estimate.teacher_hours(plan, times, network, epochs)
    return PlannedRun(run.name, TO_TRAIN, hours, epochs, is_teacher=True)


def _taught(plan: Plan, teacher: str, student: str) -> dict[tuple[str, int], TrainingRun]:
    """The runs of a pair by method and seed; none while its teacher is not trained, and they have no identity."""
    if not plan.teachers[teacher].folder.done:
        return {}
    return {(run.method, run.config["seed"]): run for run in plan.students(teacher) if run.network == student}


def _student(plan: Plan, times: StepTimes, key: tuple[str, str, str], name: str, run: TrainingRun | None) -> PlannedRun:
    if key in plan.unsupported:
        return PlannedRun(name, UNSUPPORTED, 0.0)
    if run is not None and is_finished(run):
        return PlannedRun(name, DIVERGED if run.folder.status == RunStatus.DIVERGED else DONE, 0.0)
    epochs = trained_epochs(run.folder) if run else None
    hours, needs_teacher = estimate.student_hours(plan, times, key, epochs), not plan.needs_no_teacher(key)
    teacher = plan.teachers[key[0]]
    awaits = teacher.name if needs_teacher and not teacher.folder.done else None
    return PlannedRun(name, TO_TRAIN, hours, epochs or 0, needs_teacher=needs_teacher, awaits=awaits)


def trained_epochs(folder: RunFolder) -> int | None:
    """Return the last epoch of a run in progress, or interrupted; None for one that has not finished an epoch."""
    if folder.status != RunStatus.RUNNING:
        return None
    return max((line["epoch"] for line in folder.metrics()), default=None)


# ---------------------------------------------------------------- text


def text(plan: Plan, summaries: list[PairSummary], times: StepTimes, *, listed: bool) -> str:
    """Return the table of a plan with what its numbers mean. listed: name every run too."""
    columns = [Column(TITLES[0], TEXT), *map(Column, TITLES[1:])]
    lines = [_line(summary) for summary in summaries]
    if len(summaries) > 1:
        every = PairSummary("all", [run for s in summaries for run in s.runs], sum(s.gigabytes for s in summaries))
        lines.append(_line(every))
    parts = [markdown.grid(Table("", columns, [lines])), "\n".join(_notes(plan, summaries, times))]
    if listed:
        parts.append("\n".join(line for summary in summaries for line in _listing(plan, summary)))
    return "\n\n".join(parts)


def _line(summary: PairSummary) -> Line:
    trained, done = len(summary.to_train), summary.count(DONE)
    return Line([
        Cell(summary.pair), cells.integer(trained), cells.integer(done), Cell(_hours(summary)),
        cells.number(summary.gigabytes, 1 if summary.gigabytes >= 1 else 3),
    ])  # fmt: skip


def _hours(summary: PairSummary) -> str:
    if summary.to_train and summary.untimed == len(summary.to_train):
        return cells.fixed(math.nan)
    return f"{'≥ ' if summary.untimed else ''}{_decimal(summary.hours)}"


def _decimal(hours: float) -> str:
    if 0 < hours < 0.005:
        return "<0.01"
    return cells.fixed(hours, 1 if hours >= 1 else 2)


def _notes(plan: Plan, summaries: list[PairSummary], times: StepTimes) -> Iterator[str]:
    yield (
        "Runs include teachers. What pairs share counts for the first of them. GB: run folders and the teachers' "
        "caches, those that are there included."
    )
    untimed = sum(summary.untimed for summary in summaries)
    if times.seconds:
        local = plan.config.executor.name == "local"
        where = "on this hardware" if local else "of as many cores and GPUs"
        yield f"Hours: by {times.origin} {where}, of runs one after another."
    if untimed and plan.config.executor.name != "local":
        yield f"No step time is known on the machines of executor={plan.config.executor.name}."
    elif untimed:
        pair = plan.config.pair[0]
        yield (
            f"No step time is known on this hardware for {counted(untimed, 'run')}: `make plan PROBE=1` times a few "
            f"steps of each, `make speed PAIR={pair}` more, and so does every finished run."
        )


def _listing(plan: Plan, summary: PairSummary) -> Iterator[str]:
    for run in summary.runs:
        parts = [run.state]
        parts += [f"{run.trained_epochs} of {plan.config.recipe.epochs} epochs trained"] if run.trained_epochs else []
        parts += [duration(3600 * run.hours)] if run.state == TO_TRAIN and run.hours is not None else []
        yield f"{run.name}: {', '.join(parts)}"
