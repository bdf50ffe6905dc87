"""Hours and gigabytes of a plan: from measured times of training steps, and from the sizes of what is written.

Times are those of finished runs and of `speed` on the same hardware (for a cluster: with as many cores or a GPU), in
the same precision, with batches and images of the same size; nothing is scaled from other hardware or networks. A key
names what was timed: teacher, network and method, without a teacher for a method that reads none, which a teacher's own
training is too.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark import networks
from benchmark.data.augmentation import count_outcomes
from benchmark.grid.build import output_shapes
from benchmark.grid.identity import TRAINING_SPLIT
from benchmark.grid.plan import MethodKey, Plan, TimeKey
from benchmark.runs.folder import RunFolder, folder_name, location, read_json
from benchmark.runs.record import TEACHERS, number
from benchmark.runs.students import is_student_alone
from benchmark.tables.cells import counted
from benchmark.teacher.cache import GIGABYTE, CacheHeader, cacheable_kinds


@dataclass(frozen=True)
class StepTimes:
    """Seconds of a training step by what was timed, and where they come from."""

    seconds: Mapping[TimeKey, float]
    origin: str

    def or_else(self, other: "StepTimes") -> "StepTimes":
        """Return these times, and those of another origin for what these lack."""
        origins = [times.origin for times in (self, other) if times.seconds]
        return StepTimes({**other.seconds, **self.seconds}, ", ".join(origins))


def of_finished_runs(plan: Plan) -> StepTimes:
    """Return the median seconds per step, evaluation included, of finished runs like those of a plan."""
    samples: dict[TimeKey, list[float]] = defaultdict(list)
    runs = 0
    for path in sorted((plan.settings.runs / plan.dataset.name).glob("*/*/*/*/result.json")):
        if timed := _of_run(plan, RunFolder(path.parent)):
            samples[timed[0]].append(timed[1])
            runs += 1
    return StepTimes({key: statistics.median(s) for key, s in samples.items()}, counted(runs, "finished run"))


def _of_run(plan: Plan, folder: RunFolder) -> tuple[TimeKey, float] | None:
    """What a finished run timed, and its seconds per step; None for a run unlike those of the plan."""
    record, config = folder.record, plan.config
    if record.problem or record.network is None or not record.step_ms or not record.epochs:
        return None
    recorded = folder.config
    data = recorded.dataset
    conditions = _comparable(plan, record.hardware), record.precision, data.get("size")
    _, pair, method, *_ = location(folder.path)
    role = "teacher" if pair == TEACHERS else "student"
    if conditions != _conditions(plan, role, record.network):
        return None
    if pair == TEACHERS:
        key = (None, record.network, str(recorded.method.get("name")))
    else:
        key = (None if is_student_alone(pair, method) else record.teacher, record.network, method)
    if recorded.recipe.get("batch_size") != plan.batch_size(key):
        return None
    sizes = ("train_size", "test_size", "validation")
    seconds = steady_epoch_seconds(folder.metrics())
    if seconds is None or any(data.get(size) != getattr(config.dataset, size) for size in sizes):
        return key, record.step_ms / 1000
    split = recorded.tree.get(TRAINING_SPLIT)
    images = split.get("size") if isinstance(split, Mapping) else None
    return key, seconds / steps_per_epoch(plan, key, images)


def steady_epoch_seconds(lines: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the seconds of an epoch, evaluation included, by its lines of metrics; None where none has times.

    The first of several epochs, which is slower, does not count, nor does filling a teacher's cache.
    """
    timed = [line for line in lines if isinstance(line.get("step_s"), float | int)]
    timed = timed[1:] or timed
    if not timed:
        return None
    steps = statistics.median(line["step_s"] + line.get("data_s", 0.0) for line in timed)
    return steps + statistics.fmean(line.get("eval_s", 0.0) for line in timed)  # not all epochs are evaluated


def of_speed(plan: Plan) -> StepTimes:
    """Return the seconds per step that `speed` measured: `speed/<pair>.json` among the reports or the runs."""
    seconds: dict[TimeKey, float] = {}
    measured = 0
    for teacher, student in plan.pairs:
        for root in (Path(plan.config.reports), plan.settings.runs):
            content = read_json(root / "speed" / folder_name(f"{teacher}-{student}.json")) or {}
            if _is_like(plan, content, student):
                times = dict(_of_pair(content, teacher, student))
                times = {k: time for k, time in times.items() if plan.batch_size(k) == content.get("batch_size")}
                # older files have one precision for both networks
                if content.get("teacher_precision", content["precision"]) != plan.precision("teacher", teacher):
                    times.pop((None, teacher, "ce"), None)
                seconds |= times
                measured += 1
                break
    return StepTimes(seconds, f"speed/ of {counted(measured, 'pair')}")


def _is_like(plan: Plan, content: Mapping[str, Any], student: str) -> bool:
    hardware = content.get("hardware")
    comparable = _comparable(plan, hardware if isinstance(hardware, Mapping) else None)
    conditions = (comparable, content.get("precision"), content.get("image_size"))
    return conditions == _conditions(plan, "student", student)


def _conditions(plan: Plan, role: str, network: str) -> tuple[Any, ...]:
    """Hardware, precision and image size of a plan's runs of a network, which a time must have been measured under."""
    hardware, config = plan.settings.hardware, plan.config
    described = _comparable(plan, hardware.describe())
    return described, plan.precision(role, network), config.dataset.size


def _comparable(plan: Plan, hardware: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return what of a hardware must be equal for a time to count: all of it on this machine; on a cluster, whose nodes
    are not known here, all but the model of the processor."""
    if hardware is None or plan.config.executor.name == "local":
        return hardware
    return {key: value for key, value in hardware.items() if key != "name"}


def _of_pair(content: Mapping[str, Any], teacher: str, student: str) -> Iterator[tuple[TimeKey, float]]:
    training = content.get("teacher_training_step_ms")
    if isinstance(training, Mapping) and (ms := number(training.get("ours"))):
        yield (None, teacher, "ce"), ms / 1000
    rows = content.get("rows")
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, Mapping) and (ms := number(row.get("step_ms"))):
            yield (teacher, student, str(row.get("method"))), ms / 1000
        if isinstance(row, Mapping) and (ms := number(row.get("student_ms"))):
            yield (None, student, "ce"), ms / 1000


# ---------------------------------------------------------------- hours


def steps_per_epoch(plan: Plan, key: TimeKey, images: int | None = None) -> int:
    """Return the training steps of an epoch of what a key names; a last batch of one image is left out.

    images: number of training images, by default that of the students.
    """
    full, rest = divmod(images or len(plan.dataset.train.labels), plan.batch_size(key))
    return full + (rest > 1)


def teacher_hours(plan: Plan, times: StepTimes, network: str, trained_epochs: int = 0) -> float | None:
    """Return the hours of a teacher's remaining epochs; None where no time is known."""
    key = (None, network, plan.config.teacher.method)
    seconds = times.seconds.get(key)
    epochs = plan.config.recipe.epochs - max(trained_epochs, 0)
    steps = steps_per_epoch(plan, key, len(plan.dataset.of_teacher.train.labels))
    return None if seconds is None else epochs * steps * seconds / 3600


def student_hours(plan: Plan, times: StepTimes, key: MethodKey, trained_epochs: int | None = None) -> float | None:
    """Return the hours of one student's remaining epochs, the initialization stage included; None where no time is
    known. trained_epochs: the last finished epoch; None for a run that has not started."""
    teacher, student, method = key
    seconds = times.seconds.get((None if plan.needs_no_teacher(key) else teacher, student, method))
    if seconds is None:
        return None
    first = 1 - plan.requirements(key).init_epochs if trained_epochs is None else trained_epochs + 1
    return (plan.config.recipe.epochs + 1 - first) * steps_per_epoch(plan, key) * seconds / 3600


# ---------------------------------------------------------------- gigabytes


def run_gigabytes(plan: Plan, network: str) -> float:
    """Return the size of a finished run's folder: the weights, and the test logits before their compression."""
    logits = len(plan.dataset.test.labels) * plan.dataset.classes
    return 4 * (networks.state_size(network, plan.dataset.classes, plan.dataset.config.size) + logits) / GIGABYTE


class CacheSizes:
    """Sizes of the teachers' caches, each kind of rows counted once."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        # by teacher, precision, and whether views are strong
        self._kinds: dict[tuple[str, str, bool], set[str]] = defaultdict(set)

    def add(self, key: MethodKey) -> float:
        """Return the gigabytes that a method on a pair adds to the caches of its teacher, over all seeds."""
        plan, (teacher, student, _) = self._plan, key
        if key in plan.unsupported:
            return 0.0
        requires = plan.requirements(key)
        added, precision = 0.0, plan.precision("student", student)
        for strong in (False, True)[: requires.views]:
            header = self._header(teacher, precision, strong=strong)
            counted_kinds = self._kinds[teacher, precision, strong]
            kinds = (cacheable_kinds(requires.teacher) or []) if plan.dataset.finite_views else []
            if header.gigabytes(kinds) <= plan.settings.cache_gb:
                before = header.gigabytes(sorted(counted_kinds))
                counted_kinds |= set(kinds)
                times = len(plan.config.seeds) if strong else 1  # strong views differ between seeds
                added += times * (header.gigabytes(sorted(counted_kinds)) - before)
        return added

    def _header(self, teacher: str, precision: str, *, strong: bool) -> CacheHeader:
        plan, data = self._plan, self._plan.dataset
        weak_columns = count_outcomes(data.config.padding, data.config.flip)
        return CacheHeader(
            teacher, data.fingerprint, plan.settings.hardware.device, precision,
            views="strong" if strong else "weak", drawn_by="", samples=len(data.train.labels),
            columns=plan.config.recipe.epochs if strong else weak_columns, classes=data.classes,
            pooled=output_shapes(teacher, data).pooled,
        )  # fmt: skip
