"""Which executor trains the runs of a plan, where and in which order, and how long that takes in all."""

from collections import Counter
from collections.abc import Sequence

from benchmark.config.schema import Config
from benchmark.grid.plan import Plan
from benchmark.grid.resources import gpu_groups, runs_at_a_time
from benchmark.grid.schedule import Task, elapsed_seconds
from benchmark.grid.summary import PlannedRun
from benchmark.progress import duration
from benchmark.tables.cells import counted
from benchmark.training.hardware import Hardware


def text(plan: Plan, runs: Sequence[PlannedRun]) -> str:
    """Return who trains the missing runs, and the times of those that have one. runs: all that are left to train."""
    return "\n".join([*_placement(plan, runs), *_times(plan, runs)]) if runs else ""


def places(config: Config, hardware: Hardware) -> int | None:
    """Return how many runs train at a time; None where the nodes of a Ray cluster decide. On Slurm the limit of an
    array, which the cluster may not grant."""
    if config.executor.name == "ray":
        return None
    if config.executor.name == "slurm":
        return config.executor.array_parallelism or 1
    return runs_at_a_time(config, hardware)


def _placement(plan: Plan, runs: Sequence[PlannedRun]) -> list[str]:
    if plan.config.executor.name == "slurm":
        return _on_slurm(plan, runs)
    if plan.config.executor.name == "ray":
        return [_on_ray(plan)]
    hardware, gpus = plan.settings.hardware, gpu_groups(plan.settings.hardware)
    at_once = runs_at_a_time(plan.config, hardware)
    if at_once == 1:
        where = "this process" if hardware.processes == 1 else f"{hardware.processes} processes"
        return [f"Executor local: one run after another in {where}."]
    if hardware.side_by_side > 1:
        return [f"Executor local: {at_once} runs at a time in this process, side by side on one GPU."]
    groups = "GPUs" if hardware.processes == 1 else "groups of GPUs"
    on = (
        f", {plan.config.jobs} on each of the {groups} {' and '.join(gpus)}"
        if len(gpus) > 1
        else f" on {hardware.device}"
    )
    where = "a process of its own" if hardware.processes == 1 else f"{hardware.processes} processes"
    return [f"Executor local: {at_once} runs at a time, each in {where}{on}."]


def _on_ray(plan: Plan) -> str:
    options = plan.config.executor
    gpus, where = options.gpus or 0, options.address or "a Ray started on this machine"
    share = f" and {gpus:g} GPU" if gpus else ""
    share += f" ({counted(round(1 / gpus), 'run')} a GPU)" if 0 < gpus <= 1 else ""
    return (
        f"Executor ray on {where}: a task for each run, which takes {counted(options.cpus or 1, 'core')}{share}; "
        "students start when their teacher has ended."
    )


def _on_slurm(plan: Plan, runs: Sequence[PlannedRun]) -> list[str]:
    options, waiting = plan.config.executor, Counter(run.awaits for run in runs if run.awaits)
    partition = f"partition {options.partition}" if options.partition else "the default partition"
    lines = [f"Executor slurm in {partition}, at most {options.array_parallelism} runs of an array at a time:"]
    if first := [run for run in runs if not run.awaits]:
        teachers = sum(run.is_teacher for run in first)
        with_teachers = f", {counted(teachers, 'teacher')} among them" if teachers else ""
        lines.append(f"- an array of {counted(len(first), 'run')} at once{with_teachers}")
    lines += [f"- an array of {counted(n, 'run')} after the job of {teacher}" for teacher, n in waiting.items()]
    return lines


def _times(plan: Plan, runs: Sequence[PlannedRun]) -> list[str]:
    timed = [(run, 3600 * run.hours) for run in runs if run.hours is not None]
    if not timed:
        return []
    slowest, longest_s = max(timed, key=lambda pair: pair[1])
    at_once = places(plan.config, plan.settings.hardware)
    parts = [f"Compute time: {duration(sum(seconds for _, seconds in timed))} of {counted(len(timed), 'run')}"]
    if at_once is not None:
        elapsed = elapsed_seconds(_tasks(timed), at_once)
        parts.append(f"elapsed: {duration(elapsed)} with {counted(at_once, 'place')}")
    parts.append(f"longest run: {duration(longest_s)}, {slowest.name}")
    line = f"{'; '.join(parts)}."
    if at_once is None:
        line += " The time elapsed depends on the nodes of the cluster."
    untimed = len(runs) - len(timed)
    return [line + (f" Without {counted(untimed, 'run')} of which no step time is known." if untimed else "")]


def _tasks(timed: Sequence[tuple[PlannedRun, float]]) -> list[Task]:
    """Return the runs in the order of their start: teachers, those that need none, the others; the longest first."""
    ordered = sorted(timed, key=lambda pair: (not pair[0].is_teacher, pair[0].needs_teacher, -pair[1]))
    return [Task(seconds, run.name, run.awaits) for run, seconds in ordered]
