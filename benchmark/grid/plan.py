"""The plan of many runs, made from a config. `benchmark.grid.execution` runs it."""

import functools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import methods
from benchmark import networks
from benchmark.config import method_files
from benchmark.config.compose import MethodComposer
from benchmark.config.files import group_names
from benchmark.config.overrides import keys_of
from benchmark.config.schema import Config, MethodConfig
from benchmark.data import datasets
from benchmark.data.datasets import Dataset
from benchmark.errors import UserError, nearest
from benchmark.grid import distribution, precision, resources
from benchmark.grid.build import check_recipe, method_requirements, needs_teacher, reads_teacher
from benchmark.grid.identity import (
    TRAINING_SPLIT,
    batch_norm_part,
    changed_settings,
    changed_teacher_settings,
    custom_part,
    dataset_identity,
    network_recipe,
    training_split,
)
from benchmark.grid.precision import Measure, Precision, PrecisionChooser
from benchmark.grid.training_run import RunSettings, TrainingRun
from benchmark.runs import students
from benchmark.runs.record import RunStatus
from benchmark.teacher import importing
from benchmark.training.hardware import Hardware, nvidia_mps_is_running
from methods.contract import Requirements, UnsupportedPair

MethodKey = tuple[str, str, str]  # teacher, student, method
TimeKey = tuple[str | None, str, str]  # teacher, network, method; None for training without a teacher
NetworkKey = tuple[str, str]  # role, network; a network may be a teacher of one pair and the student of another


@dataclass
class Plan:
    """All runs of one command.

    The identity of a student's run includes its teacher's content hash, so that it is known only once the teacher is
    trained. A student whose method reads no teacher has none in its identity: all pairs with it share the run.
    """

    config: Config
    dataset: Dataset
    settings: RunSettings
    pairs: list[tuple[str, str]]  # teacher, student
    methods: dict[MethodKey, MethodConfig]
    unsupported: dict[MethodKey, str]  # why a method does not support a pair
    teachers: dict[str, TrainingRun]  # by network
    precisions: dict[NetworkKey, Precision]
    _requirements: dict[MethodKey, Requirements] = field(init=False, repr=False, compare=False, default_factory=dict)
    _without_teacher: dict[MethodKey, bool] = field(init=False, repr=False, compare=False, default_factory=dict)

    def rejection_reason(self, teacher: str) -> str | None:
        """Return why a finished teacher must not be used; None where it may."""
        folder, min_top1 = self.teachers[teacher].folder, self.config.teacher.min_top1
        return importing.rejection_reason(folder, teacher, self.dataset.classes, min_top1)

    def precision(self, role: str, network: str) -> str:
        """Return the precision of a network's runs in this plan; "" where there are none.

        Where a measurement is still to decide, it is fp32."""
        precision = self.precisions.get((role, network))
        return "" if precision is None else precision.value

    def awaiting(self, teacher: str) -> list[TrainingRun]:
        """Return the runs of a teacher's students before it is trained: without its content hash, and so without
        their final identity (`TrainingRun.taught_by`)."""
        return [self._student(key, None, seed) for seed in self.config.seeds for key in self.taught_keys(teacher)]

    def students(self, teacher: str) -> list[TrainingRun]:
        """Return the runs of a finished teacher's students."""
        sha256 = self.teachers[teacher].folder.record.sha256
        if sha256 is None:
            raise ValueError(f"the teacher {teacher} is not finished")
        students_of_teacher = [student for t, student in self.pairs if t == teacher]
        return [
            self._student_alone(key, seed) if self.needs_no_teacher(key) else self._student(key, sha256, seed)
            for seed in self.config.seeds
            for student in students_of_teacher
            for key in [(teacher, student, method) for method in self.config.methods]
        ]

    def students_alone(self) -> list[TrainingRun]:
        """Return the runs whose method reads no teacher, each once."""
        keys = [(*pair, name) for pair in self.pairs for name in self.config.methods]
        runs = [self._student_alone(k, s) for k in keys if self.needs_no_teacher(k) for s in self.config.seeds]
        return list({run.relative_path: run for run in runs}.values())

    def requirements(self, key: MethodKey) -> Requirements:
        """Return what a method requires on a pair that it supports."""
        if key not in self._requirements:
            teacher, student, _ = key
            options = self.methods[key].resolved()
            self._requirements[key] = method_requirements(options, student, teacher, self.dataset)
        return self._requirements[key]

    def needs_no_teacher(self, key: MethodKey) -> bool:
        """Return whether a method supports a pair and reads nothing of its teacher."""
        if key not in self._without_teacher:
            method = methods.load(self.methods[key].implementation)
            supported = key not in self.unsupported
            self._without_teacher[key] = supported and not reads_teacher(method, self.requirements(key))
        return self._without_teacher[key]

    def batch_size(self, key: TimeKey) -> int:
        """Return the batch size of runs: with `recipe.per_method` that of their method's publication."""
        return self._published_batch_sizes.get(key, self.config.recipe.batch_size)

    @functools.cached_property
    def _published_batch_sizes(self) -> dict[TimeKey, int]:
        sizes: dict[TimeKey, int] = {}
        if self.config.recipe.per_method:
            for (teacher, student, name), method in self.methods.items():
                size = network_recipe(self.config, student, method)["batch_size"]
                sizes[teacher, student, name] = sizes[None, student, name] = size
        return sizes

    def _student(self, key: MethodKey, sha256: str | None, seed: int) -> TrainingRun:
        (teacher, student, _), method = key, self.methods[key]
        teacher_config = {"network": teacher, "sha256": sha256}
        if (split := self.teachers[teacher].config.get(TRAINING_SPLIT)) is not None:
            teacher_config["train_size"] = split["size"]
        config = self._student_config(student, method, seed, {"teacher": teacher_config})
        changed = (*changed_settings(method, self.config, student), *changed_teacher_settings(self.config))
        return TrainingRun(
            config, self.config.dataset, method.about, self.settings, self.teachers[teacher].relative_path,
            self.unsupported.get(key), changed_settings=changed,
        )  # fmt: skip

    def _student_alone(self, key: MethodKey, seed: int) -> TrainingRun:
        (_, student, _), method = key, self.methods[key]
        config = self._student_config(student, method, seed, {})
        return TrainingRun(
            config, self.config.dataset, method.about, self.settings,
            finished_copy=students.finished_under_a_pair(self.settings.runs, config),
            changed_settings=changed_settings(method, self.config, student),
        )  # fmt: skip

    def _student_config(
        self, student: str, method: MethodConfig, seed: int, teacher: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the resolved config of a student's run; teacher: its part about the teacher, which may be empty."""
        names = [student, *(part["network"] for part in teacher.values())]
        return {
            "role": "student",
            "dataset": dataset_identity(self.dataset),
            **teacher,
            "student": student,
            **custom_part(*names),
            "method": method.resolved(),
            "recipe": network_recipe(self.config, student, method),
            **batch_norm_part(self.config, self.settings.hardware.processes),
            "precision": self.precision("student", student),
            "profile": self.config.profile,
            "seed": seed,
        }

    def run_count(self, teacher: str) -> int:
        """Return the number of possible runs that need a teacher to be trained before them."""
        return len(self.taught_keys(teacher)) * len(self.config.seeds)

    def taught_keys(self, teacher: str) -> list[MethodKey]:
        """Return the methods that read a teacher on each of its pairs that they support."""
        keys = [(*pair, name) for pair in self.pairs if pair[0] == teacher for name in self.config.methods]
        return [key for key in keys if key not in self.unsupported and not self.needs_no_teacher(key)]

    def text(self) -> str:
        """Return what the user reads before anything is trained."""
        lines = self._setting_lines()
        lines += [f"{t}-{s} {method}: n/a: {why}" for (t, s, method), why in self.unsupported.items()]
        to_train = finished_runs = diverged = 0
        outdated: Counter[str] = Counter()  # by method: finished runs of another version of its code
        code_version = functools.cache(methods.code_version)
        runs = {run.relative_path: run for run in self.students_alone()}
        for network, teacher in self.teachers.items():
            if not teacher.folder.done:
                lines.append(f"teacher {network}: {self._progress(teacher)}")
                to_train += 1 + self.run_count(network)
                continue
            finished_runs += 1
            record = teacher.folder.record
            origin = "imported" if "imported" in teacher.config else "trained"
            lines.append(f"teacher {network}: {origin}, {record.top1_last:.2f} % ({(record.sha256 or '')[:12]})")
            runs |= {run.relative_path: run for run in self.students(network)}
        for run in runs.values():
            if run.folder.done:
                version = run.folder.record.code_version
                finished_runs += 1
                outdated[run.method] += version not in (None, code_version(run.config["method"]["implementation"]))
            else:
                diverged += run.folder.status == RunStatus.DIVERGED
                to_train += run.unsupported_reason is None and not is_finished(run)
        lines.append(
            f"runs: {to_train} to train, {finished_runs} done" + (f", {diverged} diverged earlier" if diverged else "")
        )
        if counts := ", ".join(f"{n} {method}" for method, n in (+outdated).items()):
            lines.append(
                f"done with another version of their method's code: {counts} (remove their folders to repeat them)"
            )
        return "\n".join(lines)

    def _progress(self, teacher: TrainingRun) -> str:
        """Return how far the training of a teacher is."""
        epochs = [line["epoch"] for line in teacher.folder.metrics()]
        if teacher.folder.status != RunStatus.RUNNING or not epochs:
            return "to be trained"
        return f"epoch {max(epochs)} of {self.config.recipe.epochs} is trained (in progress or interrupted)"

    def _batch_sizes(self) -> str:
        usual, names = self.config.recipe.batch_size, defaultdict[int, set[str]](set)
        for (*_, method), size in self._published_batch_sizes.items():
            names[size].add(method)
        others = [f"{size} ({', '.join(sorted(names[size]))})" for size in sorted(names.keys() - {usual})]
        return ", ".join([str(usual), *others])

    def _teacher_images(self) -> str:
        teacher = self.dataset.teacher
        return "" if teacher is None else f"; teachers are trained on {len(teacher.train.labels):,} images"

    def _setting_lines(self) -> list[str]:
        config, hardware = self.config, self.settings.hardware
        lines = [
            f"{config.profile}: {self.dataset.name}, {len(self.dataset.train.labels):,} training and "
            f"{len(self.dataset.test.labels):,} test images of {self.dataset.classes} classes, "
            f"{config.recipe.epochs} epochs at batch {self._batch_sizes()}{self._teacher_images()}",
            *resources.describe(config, hardware),
            f"seeds {', '.join(map(str, config.seeds))}" if len(config.seeds) > 1 else _one_seed(*config.seeds),
        ]
        if config.precision == "auto":
            lines += precision.describe(self.precisions, self.settings.runs)
        if not self.dataset.fingerprint:
            lines.append(f"{self.dataset.name} is not in {config.data} and will be downloaded")
        processes = config.jobs > 1 and hardware.side_by_side == 1
        if hardware.device == "cuda" and processes and not nvidia_mps_is_running():
            lines.append("without MPS the runs take turns on the GPU, which saves little: nvidia-cuda-mps-control -d")
        return lines


def _one_seed(seed: int) -> str:
    """Return what a plan says of a single seed, which may have been meant as a number of seeds."""
    meant = f", not {seed} runs: seeds=0-{seed - 1} is {seed} seeds" if seed > 1 else ""
    return f"seed {seed}: one run of each method on each pair{meant}"


def make_plan(
    config: Config, overrides: Sequence[str], dataset: Dataset | None = None, *, measure: Measure | None = None
) -> Plan:
    """Check everything and plan the runs, without training. Raises UserError for anything that cannot work.

    dataset: the configured data set or its outline; None: it is loaded. Without a fingerprint, no run of it is found.
    measure: decides `precision=auto` of networks that nothing else decides; None leaves it open, and such a plan can be
    shown but not trained.
    """
    hardware = resources.hardware_of_runs(config)
    pairs = list(dict.fromkeys(networks.split_pair(p) for p in config.pair))
    teacher_size = teacher_train_size(config, overrides)
    dataset = dataset or datasets.load(config.dataset, Path(config.data), teacher_size, hardware.device)
    settings = _run_settings(config, hardware)
    plan = Plan(config, dataset, settings, pairs, {}, {}, {}, {})
    composer = MethodComposer(overrides)  # composes each method once, for all pairs
    _add_methods(plan, composer)
    chooser = PrecisionChooser(config, hardware, measure)
    _add_teachers(plan, composer.without_options(), chooser)
    for student in dict.fromkeys(student for _, student in pairs):
        shared = {"role": "student", "student": student, **_shared_settings(plan, student)}
        plan.precisions["student", student] = chooser.choose(student, shared)
    for network, teacher in plan.teachers.items():
        if teacher.folder.done and (reason := plan.rejection_reason(network)):
            raise UserError(reason)
    if hardware.processes > 1:
        untrained = [network for network, teacher in plan.teachers.items() if not teacher.folder.done]
        distribution.check(config, hardware.processes, dataset, [*untrained, *dict(plan.pairs).values()])
    return plan


def _run_settings(config: Config, hardware: Hardware) -> RunSettings:
    """Return the settings of all runs of a command."""
    runs, data, teacher = Path(config.runs), Path(config.data), config.teacher
    if config.executor.name != "local":  # whose runs start in another folder
        runs, data = runs.absolute(), data.absolute()
    return RunSettings(
        runs, data, hardware, teacher.cache_gb, len(config.seeds), config.evaluate_every, teacher.cache_dir,
        config.recipe.name,
    )  # fmt: skip


def teacher_train_size(config: Config, overrides: Sequence[str]) -> str | None:
    """Return `teacher.train_size`; None for an imported teacher, whose training images are not known.

    Raises UserError where the command line gives both a number and an imported teacher.
    """
    if not config.teacher.imported:
        return config.teacher.train_size
    if config.teacher.train_size is not None and "teacher.train_size" in keys_of(overrides):
        option = "checkpoint" if config.teacher.checkpoint else "pretrained"
        raise UserError(f"teacher.train_size is of a teacher that is trained here: leave it out, or teacher.{option}")
    return None


def _add_methods(plan: Plan, composer: MethodComposer) -> None:
    """Resolve every method on every pair. Raises UserError where one cannot be trained, or none is supported."""
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


def _shared_settings(plan: Plan, network: str) -> dict[str, Any]:
    """Return the parts of a run's config that all runs of a network in this plan share, but for role and precision."""
    recipe, profile = network_recipe(plan.config, network), plan.config.profile
    return {"dataset": dataset_identity(plan.dataset), "recipe": recipe, "profile": profile}


def _add_teachers(plan: Plan, composer: MethodComposer, chooser: PrecisionChooser) -> None:
    """Plan the training of every teacher, or import the one that a checkpoint is given for. Raises UserError."""
    config, dataset, settings = plan.config, plan.dataset, plan.settings
    if config.teacher.method not in (names := group_names("method")):
        raise UserError(f"unknown teacher.method {config.teacher.method!r}{nearest(config.teacher.method, names)}")
    method = composer.method(config.teacher.method, "")
    for network in dict.fromkeys(teacher for teacher, _ in plan.pairs):
        if needs_teacher(method.resolved(), network, network, dataset):
            raise UserError(
                f"teacher.method={method.name} needs a teacher, which a teacher does not have: use teacher.method=ce"
            )
        shared = {"role": "teacher", "network": network, **_shared_settings(plan, network)}
        if config.teacher.imported:
            shared = {key: value for key, value in shared.items() if key != "recipe"} | {"imported": True}
        plan.precisions["teacher", network] = chooser.choose(network, shared)
        run_config = {
            "role": "teacher",
            "dataset": dataset_identity(dataset),
            **training_split(dataset),
            "network": network,
            **custom_part(network),
            "method": method.resolved(),
            "recipe": network_recipe(config, network),
            **batch_norm_part(config, settings.hardware.processes),
            "precision": plan.precision("teacher", network),
            "profile": config.profile,
            "seed": config.teacher.seed,
        }
        changed = (*changed_settings(method, config, network), *changed_teacher_settings(config))
        plan.teachers[network] = TrainingRun(
            run_config, config.dataset, method.about, settings, changed_settings=changed
        )
    if config.teacher.checkpoint is not None and len(plan.teachers) > 1:
        raise UserError(f"teacher.checkpoint is one file, but the pairs have teachers {', '.join(plan.teachers)}")
    if config.teacher.imported:
        for network, run in plan.teachers.items():
            plan.teachers[network] = importing.import_teacher(config.teacher.checkpoint, network, run, dataset)


def incompatibility(method: MethodConfig, config: Config, dataset: Dataset, teacher: str, student: str) -> str | None:
    """Return why a method cannot be trained on a pair as configured; None where it can.

    Raises UnsupportedPair where the method does not support the pair under any options.
    """
    images, recipe = len(dataset.train.labels), network_recipe(config, student, method)
    if recipe["batch_size"] > images:
        return f"recipe.batch_size is {recipe['batch_size']}: {dataset.name} has only {images} training images"
    try:
        requires = method_requirements(method.resolved(), student, teacher, dataset)
        check_recipe(method.resolved(), requires, recipe)
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
