"""The grid of cells: planned from a config, handed to an executor, teachers first."""

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
from benchmark.config import compose as configs
from benchmark.config import method_files as method_file
from benchmark.config.schema import Config, MethodConfig
from benchmark.data import datasets as data
from benchmark.data.datasets import Dataset
from benchmark.errors import UserError, nearest
from benchmark.grid.executors import Executor, Serial
from benchmark.grid.progress import Progress
from benchmark.grid.run import Outcome, RunSettings, TrainingRun, execute, method_requirements
from benchmark.runs.tracking import Tracking
from benchmark.teacher import importing as teachers
from benchmark.teacher.cache import cacheable_kinds
from benchmark.training.hardware import Hardware, mps
from methods.contract import UnsupportedPair


@dataclass
class Plan:
    """All cells of one command. A student's identity holds its teacher's content hash, so the cells of a teacher
    that is not trained yet are made only when it is."""

    config: Config
    dataset: Dataset
    settings: RunSettings
    pairs: list[tuple[str, str]]
    methods: dict[tuple[str, str, str], MethodConfig]  # by teacher, student, method
    impossible: dict[tuple[str, str, str], str]  # likewise, why it cannot be
    teachers: dict[str, TrainingRun]  # by network

    def refusal(self, teacher: str) -> str | None:
        """Why a finished teacher must not be used; None where it may."""
        return teachers.check(
            self.teachers[teacher].run, teacher, self.dataset.classes, self.config.teacher.min_top1
        )  # fmt: skip

    def students(self, teacher: str) -> list[TrainingRun]:
        """The cells of a finished teacher."""
        cell = self.teachers[teacher]
        sha256 = (cell.run.result or {})["sha256"]
        return [
            TrainingRun(
                {
                    "role": "student",
                    "dataset": _dataset(self.dataset),
                    "teacher": {"network": teacher, "sha256": sha256},
                    "student": student,
                    "method": (chosen := self.methods[teacher, student, name]).resolved(),
                    "recipe": recipe(self.config, student),
                    "precision": self.teachers[teacher].config["precision"],
                    "profile": self.config.profile,
                    "seed": seed,
                },
                self.config.dataset, chosen.about, self.settings, cell.relative,
                self.impossible.get((teacher, student, name)),
                _changed(chosen, self.config, student),
            )
            for seed in self.config.seeds
            for t, student in self.pairs
            if t == teacher
            for name in self.config.methods
        ]  # fmt: skip

    def run_count(self, teacher: str) -> int:
        """How many cells a teacher has."""
        return sum(t == teacher for t, _ in self.pairs) * len(self.config.methods) * len(self.config.seeds)

    def text(self) -> str:
        """The plan as a user reads it before anything is trained."""
        c, machine = self.config, self.settings.machine
        lines = [
            f"{c.profile}: {self.dataset.name}, {len(self.dataset.train.labels):,} training and "
            f"{len(self.dataset.test.labels):,} test images of {self.dataset.classes} classes, "
            f"{c.recipe.epochs} epochs at batch {c.recipe.batch_size}",
            f"on {machine.name} ({machine.device}, {machine.threads} threads), "
            f"precision {machine.precision(c.precision)}" + (f", {c.jobs} cells at a time" if c.jobs > 1 else ""),
        ]
        if machine.device == "cuda" and c.jobs > 1 and not mps():
            lines.append("they take turns on the GPU, which gains little, unless MPS runs: nvidia-cuda-mps-control -d")
        to_run = done = ended = 0
        older: Counter[str] = Counter()
        version = functools.cache(methods.code_version)
        for (teacher, student, name), why in self.impossible.items():
            lines.append(f"{teacher}-{student} {name}: n/a: {why}")
        for network, cell in self.teachers.items():
            if cell.run.done:
                result = cell.run.result or {}
                how = "imported" if "imported" in cell.config else "trained"
                lines.append(f"teacher {network}: {how}, {result['top1_last']:.2f} % ({result['sha256'][:12]})")
                cells = self.students(network)
                finished = [s for s in cells if s.run.done]
                done += len(finished)
                for s in finished:
                    code = (s.run.result or {}).get("code")
                    older[s.method] += code not in (None, version(s.config["method"]["implementation"]))
                ended += sum(s.run.status == "diverged" for s in cells)
                to_run += sum(not ended_before(s) for s in cells)
            else:
                lines.append(f"teacher {network}: to be trained")
                to_run += self.run_count(network)
        diverged = f", {ended} diverged before" if ended else ""
        lines.append(f"cells: {to_run} to run, {done} done{diverged}")
        for name, n in (+older).items():
            lines.append(f"{n} of {name} were done by another version of its code: remove their folders to repeat them")
        return "\n".join(lines)


def ended_before(cell: TrainingRun) -> bool:
    """True where nothing is left to do: the run is done, it diverged and would again, or it cannot be and says so."""
    status = cell.run.status
    return cell.run.done or status == "diverged" or (status == "skipped" and cell.impossible is not None)


def plan(config: Config, overrides: Sequence[str]) -> Plan:
    """Check everything and plan the cells; nothing is trained. Raises UserError for anything that cannot work."""
    machine = Hardware.find(config.device, config.threads, config.jobs, config.compile, config.cuda_graph)
    pairs = list(dict.fromkeys(networks.split_pair(p) for p in config.pair))
    dataset = data.load(config.dataset, Path(config.data))
    settings = RunSettings(
        Path(config.runs), Path(config.data), machine, config.teacher.cache_gb, len(config.seeds)
    )  # fmt: skip
    found, impossible = {}, {}
    composer = configs.MethodComposer(overrides)
    for teacher, student in pairs:
        for name in config.methods:
            chosen = composer.method(name, f"{teacher}-{student}")
            try:
                if why := misfit(chosen, config, dataset, teacher, student):
                    raise UserError(why)
            except UnsupportedPair as e:
                impossible[teacher, student, name] = str(e)
            found[teacher, student, name] = chosen
    if len(impossible) == len(found):
        (teacher, student, name), why = next(iter(impossible.items()))
        raise UserError(f"{name} on {teacher}-{student}: {why}")
    shared = [o for o in overrides if configs.is_shared(o)]
    made = Plan(config, dataset, settings, pairs, found, impossible, {})
    if config.teacher.method not in (known := configs.group("method")):
        raise UserError(f"unknown teacher.method {config.teacher.method!r}{nearest(config.teacher.method, known)}")
    alone = configs.method(config.teacher.method, "", shared)
    for network in dict.fromkeys(t for t, _ in pairs):
        if not method_requirements(alone.resolved(), network, network, dataset).teacher.empty:
            raise UserError(f"teacher.method={alone.name} needs a teacher, and a teacher has none: give ce, say")
        made.teachers[network] = TrainingRun(
            {
                "role": "teacher",
                "dataset": _dataset(dataset),
                "network": network,
                "method": alone.resolved(),
                "recipe": recipe(config, network),
                "precision": machine.precision(config.precision),
                "profile": config.profile,
                "seed": config.teacher.seed,
            },
            config.dataset, alone.about, settings, changed=_changed(alone, config, network),
        )  # fmt: skip
    if config.teacher.checkpoint is not None:
        if len(made.teachers) > 1:
            raise UserError(f"teacher.checkpoint is one file, but the pairs have teachers {', '.join(made.teachers)}")
        network, cell = next(iter(made.teachers.items()))
        made.teachers[network] = teachers.import_checkpoint(Path(config.teacher.checkpoint), network, cell, dataset)
    for network, cell in made.teachers.items():
        if cell.run.done and (why := made.refusal(network)):
            raise UserError(why)
    return made


def misfit(method: MethodConfig, config: Config, dataset: Dataset, teacher: str, student: str) -> str | None:
    """Why a method's cells cannot be trained on a pair as configured; None where they can. Raises
    UnsupportedPair where no option could help."""
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
        return f"{method.name} on {teacher}-{student} cannot be built: {method_file.told(e)}"
    return None


def run(plan: Plan, tracking: Tracking, executor: Executor | None = None) -> list[Outcome]:
    """Train what is missing, teachers first; returns how every cell that was not done before ended.

    With an executor the longest cells go first, so that none is left running alone at the end.
    """
    untrained = {n: c for n, c in plan.teachers.items() if not c.run.done}
    waiting = sum(plan.run_count(n) for n in untrained)
    ready = [s for n in plan.teachers if n not in untrained for s in plan.students(n)]
    outcomes = [Outcome(s.name, "diverged", "in an earlier run") for s in ready if s.run.status == "diverged"]
    ready = [s for s in ready if not ended_before(s)]
    progress = Progress(len(untrained) + waiting + len(ready))

    def submit(cells: list[TrainingRun]) -> list[Future]:
        if executor is None:
            return [Serial().submit(execute, c, tracking, progress) for c in cells]
        futures = {}
        costs = {identity: cost(c, plan.dataset) for identity, c in {c.identity: c for c in cells}.items()}
        for cell in sorted(cells, key=lambda c: costs[c.identity], reverse=True):
            futures[cell.relative] = executor.submit(execute, cell, tracking, progress.take())
            futures[cell.relative].add_done_callback(lambda f: _learn(tracking, f))
        return [futures[c.relative] for c in cells]

    for (network, cell), future in zip(untrained.items(), submit(list(untrained.values())), strict=True):
        outcome = _outcome(cell, future)
        why = plan.refusal(network) if outcome.status == "done" else f"its teacher {outcome.status}: {outcome.reason}"
        if why:
            outcomes.append(outcome if outcome.status != "done" else Outcome(outcome.name, "failed", why))
            outcomes += [Outcome(f"{plan.run_count(network)} cells of {network}", "failed", why)]
        else:
            ready += [s for s in plan.students(network) if not ended_before(s)]
    return outcomes + [_outcome(s, f) for s, f in zip(ready, submit(ready), strict=True)]


def cost(cell: TrainingRun, dataset: Dataset) -> float:
    """Multiplications of a cell's training, relative to others: three forward passes of the network for each epoch,
    image and view of it, and one of a teacher whose outputs are not cached, as deep as the method reads."""
    if cell.impossible is not None:
        return 0.0
    of = functools.partial(networks.multiplications, classes=dataset.classes, image_size=dataset.config.size)
    epochs = cell.config["recipe"]["epochs"]
    if cell.config["role"] == "teacher":
        return 3 * of(cell.network) * epochs
    teacher = cell.config["teacher"]["network"]
    requires = method_requirements(cell.config["method"], cell.network, teacher, dataset)
    cost = 0.0
    for first, n in ((1, epochs), (0, requires.init_epochs)):
        _, needs = requires.needs(first)
        live = cacheable_kinds(needs) is None and not needs.empty
        cost += n * requires.views * (3 * of(cell.network) + (of(teacher, needs=needs) if live else 0))
    return cost


def _learn(tracking: Tracking, future: Future) -> None:
    """What a cell's process found out about the W&B server counts for the cells to come."""
    if not future.cancelled() and future.exception() is None and tracking.mode == "online":
        tracking.mode = future.result().tracking


def _outcome(cell: TrainingRun, future: Future) -> Outcome:
    """How a cell ended; failed where its process died."""
    try:
        return future.result()
    except Exception as e:
        return Outcome(cell.name, "failed", f"{type(e).__name__}: {e}")


@functools.cache
def _usual(profile: str, dataset: str) -> Config:
    return configs.load([f"profile={profile}", f"dataset={dataset}"])


def _changed(method: MethodConfig, config: Config, network: str) -> tuple[str, ...]:
    """The options of the method that are not its defaults, and the settings of recipe and data set that are not those
    of the profile, by dotted name; what follows the number of epochs is none."""
    usual = _usual(config.profile, config.dataset.name)
    follows = [f.name for f in dataclasses.fields(config.dataset) if f.metadata.get("location")]
    follows += ["milestones"] if config.recipe.epochs != usual.recipe.epochs else []
    found = [f"method.{k}" for k in method.changed]
    for place, of, other in (
        ("recipe", recipe(config, network), recipe(usual, network)),
        ("dataset", vars(config.dataset), vars(usual.dataset)),
    ):
        found += [f"{place}.{k}" for k, v in of.items() if v != other[k] and k not in follows]
    return tuple(found)


def _dataset(dataset: Dataset) -> dict[str, Any]:
    """What of a data set belongs to a run's identity: its options and content, not where it lies."""
    options = {
        f.name: getattr(dataset.config, f.name)
        for f in dataclasses.fields(dataset.config)
        if not f.metadata.get("location")
    }
    return {**options, "fingerprint": dataset.fingerprint}


def recipe(config: Config, network: str) -> dict[str, Any]:
    """The recipe as one network is trained by it, with its learning rate."""
    recipe = dataclasses.asdict(config.recipe)
    default, light = recipe.pop("lr_default"), recipe.pop("lr_light")
    if recipe["lr"] is None:
        recipe["lr"] = light if networks.is_light(network) else default
    return recipe
