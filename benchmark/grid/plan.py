"""The plan of many runs: made from a config, handed to an executor, teachers before their students."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import methods
from benchmark import networks
from benchmark.config import method_files
from benchmark.config.compose import MethodComposer, load_config, load_method
from benchmark.config.files import group_names
from benchmark.config.overrides import is_shared
from benchmark.config.schema import Config, MethodConfig
from benchmark.data import datasets
from benchmark.data.datasets import Dataset
from benchmark.errors import UserError, nearest
from benchmark.grid.build import method_requirements
from benchmark.grid.executors import Executor, Serial
from benchmark.grid.progress import Progress
from benchmark.grid.run import Outcome, RunSettings, TrainingRun, execute
from benchmark.runs.record import RunStatus
from benchmark.runs.tracking import Tracking
from benchmark.teacher import importing
from benchmark.teacher.cache import cacheable_kinds
from benchmark.training.hardware import Hardware, nvidia_mps_is_running
from methods.contract import UnsupportedPair

MethodKey = tuple[str, str, str]  # teacher, student, method


@dataclass
class Plan:
    """All runs of one command.

    The identity of a student's run includes its teacher's content hash, so that it is known only once the teacher is
    trained.
    """

    config: Config
    dataset: Dataset
    settings: RunSettings
    pairs: list[tuple[str, str]]  # teacher, student
    methods: dict[MethodKey, MethodConfig]
    unsupported: dict[MethodKey, str]  # why a method does not support a pair
    teachers: dict[str, TrainingRun]  # by network

    def rejection_reason(self, teacher: str) -> str | None:
        """Return why a finished teacher must not be used; None where it may."""
        folder, min_top1 = self.teachers[teacher].folder, self.config.teacher.min_top1
        return importing.rejection_reason(folder, teacher, self.dataset.classes, min_top1)

    def students(self, teacher: str) -> list[TrainingRun]:
        """Return the runs of a finished teacher's students."""
        sha256 = self.teachers[teacher].folder.record.sha256
        if sha256 is None:
            raise ValueError(f"the teacher {teacher} is not finished")
        students = [student for t, student in self.pairs if t == teacher]
        return [
            self._student(teacher, sha256, student, method, seed)
            for seed in self.config.seeds
            for student in students
            for method in self.config.methods
        ]

    def _student(self, teacher: str, sha256: str, student: str, name: str, seed: int) -> TrainingRun:
        method, training = self.methods[teacher, student, name], self.teachers[teacher]
        config = {
            "role": "student",
            "dataset": dataset_identity(self.dataset),
            "teacher": {"network": teacher, "sha256": sha256},
            "student": student,
            "method": method.resolved(),
            "recipe": network_recipe(self.config, student),
            "precision": training.config["precision"],
            "profile": self.config.profile,
            "seed": seed,
        }
        return TrainingRun(
            config, self.config.dataset, method.about, self.settings, training.relative_path,
            self.unsupported.get((teacher, student, name)), changed_settings(method, self.config, student),
        )  # fmt: skip

    def run_count(self, teacher: str) -> int:
        """Return the number of runs of a teacher's students."""
        return sum(t == teacher for t, _ in self.pairs) * len(self.config.methods) * len(self.config.seeds)

    def text(self) -> str:
        """Return what the user reads before anything is trained."""
        lines = self._setting_lines()
        lines += [f"{t}-{s} {method}: n/a: {why}" for (t, s, method), why in self.unsupported.items()]
        to_train = finished_runs = diverged = 0
        outdated: Counter[str] = Counter()  # by method: finished runs of another version of its code
        code_version = functools.cache(methods.code_version)
        for network, teacher in self.teachers.items():
            if not teacher.folder.done:
                lines.append(f"teacher {network}: to be trained")
                to_train += self.run_count(network)
                continue
            record = teacher.folder.record
            origin = "imported" if "imported" in teacher.config else "trained"
            lines.append(f"teacher {network}: {origin}, {record.top1_last:.2f} % ({(record.sha256 or '')[:12]})")
            for run in self.students(network):
                if run.folder.done:
                    version = run.folder.record.code_version
                    finished_runs += 1
                    outdated[run.method] += version not in (None, code_version(run.config["method"]["implementation"]))
                else:
                    diverged += run.folder.status == RunStatus.DIVERGED
                    to_train += not is_finished(run)
        lines.append(
            f"runs: {to_train} to train, {finished_runs} done" + (f", {diverged} diverged earlier" if diverged else "")
        )
        if counts := ", ".join(f"{n} {method}" for method, n in (+outdated).items()):
            lines.append(
                f"done with another version of their method's code: {counts} (remove their folders to repeat them)"
            )
        return "\n".join(lines)

    def _setting_lines(self) -> list[str]:
        config, hardware = self.config, self.settings.hardware
        jobs = f", {config.jobs} runs at a time" if config.jobs > 1 else ""
        lines = [
            f"{config.profile}: {self.dataset.name}, {len(self.dataset.train.labels):,} training and "
            f"{len(self.dataset.test.labels):,} test images of {self.dataset.classes} classes, "
            f"{config.recipe.epochs} epochs at batch {config.recipe.batch_size}",
            f"on {hardware.name} ({hardware.device}, {hardware.threads} threads), "
            f"precision {hardware.resolve_precision(config.precision)}{jobs}",
        ]
        if hardware.device == "cuda" and config.jobs > 1 and not nvidia_mps_is_running():
            lines.append("without MPS the runs take turns on the GPU, which saves little: nvidia-cuda-mps-control -d")
        return lines


def make_plan(config: Config, overrides: Sequence[str]) -> Plan:
    """Check everything and plan the runs, without training. Raises UserError for anything that cannot work."""
    hardware = Hardware.resolve(config.device, config.threads, config.jobs, config.compile, config.cuda_graph)
    pairs = list(dict.fromkeys(networks.split_pair(p) for p in config.pair))
    dataset = datasets.load(config.dataset, Path(config.data))
    seeds = len(config.seeds)
    settings = RunSettings(Path(config.runs), Path(config.data), hardware, config.teacher.cache_gb, seeds)
    plan = Plan(config, dataset, settings, pairs, {}, {}, {})
    _add_methods(plan, overrides)
    _add_teachers(plan, overrides)
    for network, teacher in plan.teachers.items():
        if teacher.folder.done and (reason := plan.rejection_reason(network)):
            raise UserError(reason)
    return plan


def _add_methods(plan: Plan, overrides: Sequence[str]) -> None:
    """Resolve every method on every pair. Raises UserError where one cannot be trained, or none is supported."""
    composer = MethodComposer(overrides)  # composes each method once, for all pairs
    for teacher, student in plan.pairs:
        for name in plan.config.methods:
            key = (teacher, student, name)
            plan.methods[key] = method = composer.method(name, f"{teacher}-{student}")
            try:
                if reason := incompatibility(method, plan.config, plan.dataset, teacher, student):
                    raise UserError(reason)
            except UnsupportedPair as e:
                plan.unsupported[key] = str(e)
    if len(plan.unsupported) == len(plan.methods):
        (teacher, student, name), reason = next(iter(plan.unsupported.items()))
        raise UserError(f"{name} on {teacher}-{student}: {reason}")


def _add_teachers(plan: Plan, overrides: Sequence[str]) -> None:
    """Plan the training of every teacher, or import the one that a checkpoint is given for. Raises UserError."""
    config, dataset, settings = plan.config, plan.dataset, plan.settings
    if config.teacher.method not in (names := group_names("method")):
        raise UserError(f"unknown teacher.method {config.teacher.method!r}{nearest(config.teacher.method, names)}")
    method = load_method(config.teacher.method, "", [o for o in overrides if is_shared(o)])
    for network in dict.fromkeys(teacher for teacher, _ in plan.pairs):
        if not method_requirements(method.resolved(), network, network, dataset).teacher.empty:
            raise UserError(
                f"teacher.method={method.name} needs a teacher, which a teacher does not have: use teacher.method=ce"
            )
        run_config = {
            "role": "teacher",
            "dataset": dataset_identity(dataset),
            "network": network,
            "method": method.resolved(),
            "recipe": network_recipe(config, network),
            "precision": settings.hardware.resolve_precision(config.precision),
            "profile": config.profile,
            "seed": config.teacher.seed,
        }
        changed = changed_settings(method, config, network)
        plan.teachers[network] = TrainingRun(
            run_config, config.dataset, method.about, settings, changed_settings=changed
        )
    if config.teacher.checkpoint is not None:
        if len(plan.teachers) > 1:
            raise UserError(f"teacher.checkpoint is one file, but the pairs have teachers {', '.join(plan.teachers)}")
        ((network, run),) = plan.teachers.items()
        checkpoint = Path(config.teacher.checkpoint)
        plan.teachers[network] = importing.import_checkpoint(checkpoint, network, run, dataset)


def incompatibility(method: MethodConfig, config: Config, dataset: Dataset, teacher: str, student: str) -> str | None:
    """Return why a method cannot be trained on a pair as configured; None where it can.

    Raises UnsupportedPair where the method does not support the pair under any options.
    """
    images = len(dataset.train.labels)
    if config.recipe.batch_size > images:
        return f"recipe.batch_size is {config.recipe.batch_size}: {dataset.name} has only {images} training images"
    try:
        method_requirements(method.resolved(), student, teacher, dataset)
    except UnsupportedPair:
        raise
    except ValueError as e:
        return f"{method.name} on {teacher}-{student}: {e}"
    except Exception as e:  # a mistake in a user's own method
        return f"{method.name} on {teacher}-{student} cannot be built: {method_files.describe_exception(e)}"
    return None


def is_finished(run: TrainingRun) -> bool:
    """Return whether nothing is left to do: the run is done, would diverge again, or its method remains unsupported."""
    status = run.folder.status
    skipped = status == RunStatus.SKIPPED and run.unsupported_reason is not None
    return skipped or status == RunStatus.DIVERGED or run.folder.done


def run_plan(plan: Plan, tracking: Tracking, executor: Executor | None = None) -> list[Outcome]:
    """Train the missing runs, teachers before their students. Return the outcomes of all runs that were not done.

    With an executor, the most expensive runs start first, so that none is left to run alone at the end.
    """
    untrained = {network: run for network, run in plan.teachers.items() if not run.folder.done}
    students = [run for network in plan.teachers if network not in untrained for run in plan.students(network)]
    diverged = [run for run in students if run.folder.status == RunStatus.DIVERGED]
    outcomes = [Outcome(run.name, RunStatus.DIVERGED, "in an earlier run") for run in diverged]
    ready = [run for run in students if not is_finished(run)]
    progress = Progress(len(untrained) + sum(map(plan.run_count, untrained)) + len(ready))
    futures = _submit(list(untrained.values()), plan, tracking, progress, executor)
    for (network, run), future in zip(untrained.items(), futures, strict=True):
        outcome = _outcome(run, future)
        if outcome.status != RunStatus.DONE:
            outcomes.append(outcome)
            reason = f"its teacher {outcome.status}: {outcome.reason}"
        elif reason := plan.rejection_reason(network):
            outcomes.append(Outcome(outcome.name, RunStatus.FAILED, reason))
        else:
            ready += [student for student in plan.students(network) if not is_finished(student)]
            continue
        outcomes.append(Outcome(f"{plan.run_count(network)} runs of {network}", RunStatus.FAILED, reason))
    futures = _submit(ready, plan, tracking, progress, executor)
    return outcomes + [_outcome(run, future) for run, future in zip(ready, futures, strict=True)]


def _submit(
    runs: Sequence[TrainingRun], plan: Plan, tracking: Tracking, progress: Progress, executor: Executor | None
) -> list[Future[Any]]:
    """Submit runs, the most expensive first, and return their futures in the order of `runs`."""
    if executor is None:
        return [Serial().submit(execute, run, tracking, progress) for run in runs]
    first_by_identity = {run.identity: run for run in runs}
    costs = {identity: cost(run, plan.dataset) for identity, run in first_by_identity.items()}
    futures = {}
    for run in sorted(runs, key=lambda run: costs[run.identity], reverse=True):
        future = executor.submit(execute, run, tracking, progress.for_next_run())
        future.add_done_callback(functools.partial(_adopt_tracking_mode, tracking))
        futures[run.relative_path] = future
    return [futures[run.relative_path] for run in runs]


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
    if run.config["role"] == "teacher":
        return training * epochs
    teacher = run.config["teacher"]["network"]
    requires = method_requirements(run.config["method"], run.network, teacher, dataset)
    total = 0.0
    for first_epoch, n in ((1, epochs), (0, requires.init_epochs)):
        _, needs = requires.needs(first_epoch)
        live = cacheable_kinds(needs) is None and not needs.empty
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


@functools.cache
def _profile_config(profile: str, dataset: str) -> Config:
    """The config of a profile without other overrides."""
    return load_config([f"profile={profile}", f"dataset={dataset}"])


def changed_settings(method: MethodConfig, config: Config, network: str) -> tuple[str, ...]:
    """Return the dotted names of the settings that differ from the method's defaults and from the profile.

    They are options of the method, of the recipe and of the data set. Paths do not count, nor do milestones that differ
    because the number of epochs does.
    """
    default = _profile_config(config.profile, config.dataset.name)
    ignored = [f.name for f in dataclasses.fields(config.dataset) if f.metadata.get("location")]
    ignored += ["milestones"] if config.recipe.epochs != default.recipe.epochs else []
    parts = {
        "recipe": (network_recipe(config, network), network_recipe(default, network)),
        "dataset": (vars(config.dataset), vars(default.dataset)),
    }
    changed = [f"method.{name}" for name in method.changed]
    for part, (values, defaults) in parts.items():
        changed += [f"{part}.{k}" for k, value in values.items() if value != defaults[k] and k not in ignored]
    return tuple(changed)


def dataset_identity(dataset: Dataset) -> dict[str, Any]:
    """Return what of a data set belongs to a run's identity: its options and its content, not its location."""
    options = {
        f.name: getattr(dataset.config, f.name)
        for f in dataclasses.fields(dataset.config)
        if not f.metadata.get("location")
    }
    return {**options, "fingerprint": dataset.fingerprint}


def network_recipe(config: Config, network: str) -> dict[str, Any]:
    """Return the recipe of one network, with its learning rate resolved."""
    recipe = dataclasses.asdict(config.recipe)
    default, light = recipe.pop("lr_default"), recipe.pop("lr_light")
    if recipe["lr"] is None:
        recipe["lr"] = light if networks.is_light(network) else default
    return recipe
