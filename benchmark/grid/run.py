"""One cell: a network trained by one method with one seed, from a resolved config to a finished run folder."""

import contextlib
import dataclasses
import gc
import statistics
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import methods
from benchmark import networks
from benchmark.config.schema import DatasetConfig
from benchmark.data import datasets as data
from benchmark.data.datasets import Dataset
from benchmark.data.loader import Loader
from benchmark.grid.progress import Progress
from benchmark.networks import Network
from benchmark.runs import folder as store
from benchmark.runs.folder import RunBusy, RunFolder, unusable
from benchmark.runs.tracking import Tracked, Tracking
from benchmark.runs.weights import DamagedFile, content_hash, load_weights, save
from benchmark.teacher.outputs import TeacherOutputs
from benchmark.training.capture import cuda_graph
from benchmark.training.evaluation import Diverged, Evaluator, count_parameters, inference_parameters
from benchmark.training.hardware import Hardware, versions
from benchmark.training.seeding import seeded
from benchmark.training.trainer import Schedule, Trainer
from methods.contract import Context, Method, Requirements, Shapes
from methods.options import build_options

CHECKPOINT_SHARE = 0.02  # of the training time may go into writing checkpoints


@dataclass(frozen=True)
class RunSettings:
    """Where and on what a cell runs: nothing that its numbers are meant to depend on, so not part of its identity."""

    runs: Path
    data: Path
    machine: Hardware
    cache_gb: float  # the largest teacher cache; 0: none
    seeds: int  # how many the command has: how often a teacher's cache will be used


@dataclass(frozen=True)
class TrainingRun:
    """A picklable value that says all about a run.

    config: resolved; `role` is student or teacher. Hashed without the seed it is the run's identity.
    dataset: the data set's config with its paths, to load it by.
    about: what is said of the method in tables. teacher_run: the teacher's folder below `runs`.
    impossible: why the method cannot be on these networks, where it cannot. changed: the settings that are not those of
    the profile and of the method's YAML, by dotted name.
    """

    config: Mapping[str, Any]
    dataset: DatasetConfig
    about: Mapping[str, Any]
    settings: RunSettings
    teacher_run: str | None = None
    impossible: str | None = None
    changed: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        return store.identity(self.config)

    @property
    def pair(self) -> str:
        """`<teacher>-<student>`; for a teacher `teachers`, the folder it is kept in."""
        if self.config["role"] == "teacher":
            return "teachers"
        return f"{self.config['teacher']['network']}-{self.config['student']}"

    @property
    def method(self) -> str:
        """The method's name; for a teacher the network's, the folder it is kept in."""
        return self.network if self.config["role"] == "teacher" else self.config["method"]["name"]

    @property
    def network(self) -> str:
        """The network that is trained."""
        return self.config["student" if self.config["role"] == "student" else "network"]

    @property
    def code(self) -> str:
        """The version of the method's code that this process has."""
        return methods.code_version(self.config["method"]["implementation"])

    @property
    def relative(self) -> str:
        """The run's folder below the root of all runs."""
        leaf = f"seed={self.config['seed']}" if "seed" in self.config else "imported"
        return f"{self.config['dataset']['name']}/{self.pair}/{self.method}/{self.identity}/{leaf}"

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.settings.runs / self.relative)

    @property
    def name(self) -> str:
        """How the cell is called in messages."""
        if self.config["role"] == "teacher":
            return f"teacher {self.network}"
        return f"{self.pair} {self.method} seed {self.config['seed']}"


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: done, failed, diverged, skipped (it cannot be) or busy, and why."""

    name: str
    status: str
    reason: str = ""
    tracking: str = "off"  # the mode it was tracked in at last


def execute(cell: TrainingRun, tracking: Tracking, progress: Progress) -> Outcome:
    """Run, resume or skip a cell. Its failure is recorded in its folder and returned, not raised; Ctrl-C is raised."""
    cell.settings.machine.prepare()
    outcome = _execute(cell, tracking, progress)
    if cell.settings.machine.device == "cuda":
        gc.collect()  # a trainer is part of a cycle, and the next cell would have its memory beside its own
    return dataclasses.replace(outcome, tracking=tracking.mode)


def _execute(cell: TrainingRun, tracking: Tracking, progress: Progress) -> Outcome:
    run = cell.run
    try:
        with run.lock():
            if run.done:
                return Outcome(cell.name, "done")
            if cell.impossible is not None:
                run.write_config(cell.config)
                run.set_status("skipped", cell.impossible)
                return Outcome(cell.name, "skipped", cell.impossible)
            try:
                _train(cell, run, tracking, progress)
                return Outcome(cell.name, "done")
            except Diverged as e:
                run.set_status("diverged", str(e))
                return Outcome(cell.name, "diverged", str(e))
            except Exception as e:
                reason = f"{type(e).__name__}: {e}".splitlines()[0]
                told = reason
                with contextlib.suppress(OSError):  # of a full disk, which is why it failed
                    store.write_text(run.folder / "error.txt", traceback.format_exc())
                    told = f"{reason} (traceback in {run.folder / 'error.txt'})"
                    run.set_status("failed", reason)
                return Outcome(cell.name, "failed", told)
    except RunBusy as e:
        return Outcome(cell.name, "busy", str(e))
    except OSError as e:  # its folder cannot be made or written
        return Outcome(cell.name, "failed", f"{type(e).__name__}: {e}")


def load_data(cell: TrainingRun) -> Dataset:
    """The cell's data set; raises ValueError where it is not the one that the cell was planned with."""
    dataset = data.load(cell.dataset, cell.settings.data)
    if dataset.fingerprint != cell.config["dataset"]["fingerprint"]:
        raise ValueError(f"the data set {dataset.name} has changed since the run was planned")
    return dataset


def load_teacher(runs: Path, folder: str, network: str, classes: int, sha256: str) -> tuple[Network, torch.Tensor]:
    """The frozen teacher from its run folder, in eval mode, and its test logits [N, C].

    Raises DamagedFile where its weights cannot be read, ValueError where they are not those with the content hash that
    the run was planned with.
    """
    run = RunFolder(runs / folder)
    teacher = networks.build(network, classes)
    weights = load_weights(run.weights)
    if content_hash(weights) != sha256:
        raise ValueError(f"the teacher in {run.folder} has changed since the run was planned")
    teacher.load_state_dict(weights)
    with np.load(run.test_outputs) as saved:
        logits = torch.from_numpy(saved["logits"])
    return teacher.eval().requires_grad_(False), logits


def output_shapes(network: str, dataset: Dataset) -> Shapes:
    """Return the shapes of a network's outputs on a data set, from a build on the meta device."""
    return networks.output_shapes(network, dataset.classes, dataset.config.size)


def method_class_and_options(config: Mapping[str, Any]) -> tuple[type[Method], Any]:
    """Return a method's class and its options, from the method part of a run's config."""
    method = methods.load(config["implementation"])
    options = {k: v for k, v in config.items() if k not in ("name", "implementation")}
    return method, build_options(method.Options, options)


def method_requirements(config: Mapping[str, Any], student: str, teacher: str, dataset: Dataset) -> Requirements:
    """Return what a method requires on a pair, without building it. Raises UnsupportedPair, or ValueError where its
    options do not fit."""
    method, options = method_class_and_options(config)
    return method.requirements(options, output_shapes(student, dataset), output_shapes(teacher, dataset))


def build_method(
    config: Mapping[str, Any], student: str, teacher: str, dataset: Dataset, epochs: int, seed: int, device: str,
    teacher_network: Network | None = None,
) -> Method:  # fmt: skip
    """Build a method with its layers, initialized by the seed.

    teacher_network: the frozen teacher, whose batch norm parameters some methods read. Raises UnsupportedPair, or
    ValueError where the options do not fit.
    """
    method, options = method_class_and_options(config)
    shapes = output_shapes(student, dataset), output_shapes(teacher, dataset)
    stages = method.requirements(options, *shapes).batch_norms
    batch_norms = {} if teacher_network is None else networks.batch_norm_parameters(teacher_network, stages)
    context = Context(dataset.classes, *shapes, dataset.train.labels.to(device), epochs, batch_norms)
    with seeded("method", seed):
        return method(options, context).to(device)


def _build(run: TrainingRun, dataset: Dataset) -> tuple[Trainer, Evaluator]:
    config, hardware = run.config, run.settings.machine
    recipe, seed, device, precision = config["recipe"], config["seed"], hardware.device, config["precision"]
    with seeded("network", seed):
        network = networks.build(run.network, dataset.classes)
    teacher, teacher_logits, teacher_name = None, None, run.network
    if run.teacher_run:
        teacher_name = config["teacher"]["network"]
        teacher, teacher_logits = load_teacher(
            run.settings.runs, run.teacher_run, teacher_name, dataset.classes, config["teacher"]["sha256"]
        )
        teacher = teacher.to(device, memory_format=torch.channels_last)
    method = build_method(config["method"], run.network, teacher_name, dataset, recipe["epochs"], seed, device, teacher)
    loader = Loader(dataset.train, dataset.config, recipe["batch_size"], seed, device)
    teacher_outputs = TeacherOutputs(teacher, method.requires, loader, device=device, precision=precision)
    trainer = Trainer(
        network.to(device, memory_format=torch.channels_last), method, teacher_outputs, Schedule.from_recipe(recipe),
        compiled=hardware.compiled, capture=cuda_graph if hardware.graphs else None,
    )  # fmt: skip
    return trainer, Evaluator(dataset, teacher_logits, device, precision)


def _connect_cache(run: TrainingRun, trainer: Trainer, dataset: Dataset, progress: Progress) -> None:
    """Open the teacher's caches for a student, and fill them ahead where that is cheaper."""
    if run.teacher_run is None:
        return
    trainer.teacher_outputs.connect(
        run.settings.runs / run.teacher_run / "cache", trainer.method.context, run.config["teacher"]["sha256"],
        dataset.fingerprint, limit_gb=run.settings.cache_gb,
        visits=run.config["recipe"]["epochs"] * run.settings.seeds,
        announce=lambda line: print(f"{run.name}: {line}", flush=True), report_progress=progress.filling(run.name),
    )  # fmt: skip


def _train(cell: TrainingRun, run: RunFolder, tracking: Tracking, progress: Progress) -> None:
    dataset = load_data(cell)
    trainer, evaluator = _build(cell, dataset)
    _connect_cache(cell, trainer, dataset, progress)
    done, wall = _resume(run, trainer, cell)
    epochs = cell.config["recipe"]["epochs"]
    progress.start(cell.name, epochs, done)
    tags = [cell.config["dataset"]["name"], cell.config["profile"], cell.pair, cell.method]
    try:
        with tracking.run(
            ids=run.folder / "wandb.json", name=cell.name, group=f"{cell.pair}/{cell.method}/{cell.identity}",
            job_type=cell.config["role"], tags=tags, config=cell.config, first=1 - trainer.method.requires.init_epochs,
        ) as tracked:  # fmt: skip
            logits, wall = _epochs(cell, trainer, evaluator, tracked, progress, done, epochs, wall)
            _finish(cell, run, trainer, dataset, logits, wall, tracked)
    finally:
        progress.stop()


def _resume(run: RunFolder, trainer: Trainer, cell: TrainingRun) -> tuple[int, float]:
    """Take up the checkpoint where there is one. Returns the epochs done and the seconds spent on them."""
    done, wall = -trainer.method.requires.init_epochs, 0.0  # a first stage ends with epoch 0
    for part in run.folder.glob("*.part"):  # left by a process that was killed while writing
        part.unlink()
    if run.checkpoint.is_file():
        try:
            saved = load_weights(run.checkpoint, cell.settings.machine.device)
            if saved.keys() - {"code"} != {"trainer", "epoch", "wall_s"}:  # older ones have no code
                raise DamagedFile(f"{run.checkpoint} is no checkpoint of a run")
            if saved.get("code", cell.code) != cell.code:
                raise DamagedFile(f"it was begun by another version of {cell.method}'s code")
            kept = [line["epoch"] for line in run.metrics() if line["epoch"] <= saved["epoch"]]
            if kept != list(range(done + 1, saved["epoch"] + 1)):
                raise DamagedFile(f"{run.folder / 'metrics.jsonl'} lacks epochs")
            trainer.load_state(saved["trainer"])
            done, wall = saved["epoch"], saved["wall_s"]
        except DamagedFile as e:
            print(f"{cell.name}: {e}; it begins anew", file=sys.stderr)
    if run.status == "done":
        print(f"{cell.name}: {unusable(run.result) or 'weights.pt is missing'}; it is made again", file=sys.stderr)
    run.write_config(cell.config)
    run.rewind(done)
    run.set_status("running")
    return done, wall


def _epochs(
    cell: TrainingRun, trainer: Trainer, evaluator: Evaluator, tracked: Tracked, progress: Progress,
    done: int, epochs: int, wall: float,
) -> tuple[torch.Tensor, float]:  # fmt: skip
    """Train the epochs that are left. Returns the final test logits, and the seconds of the whole training."""
    run = cell.run
    logits, saved_at, saving = None, time.perf_counter(), 0.0
    for epoch in range(done + 1, epochs + 1):
        began = time.perf_counter()
        line = {"epoch": epoch, **trainer.epoch(epoch, progress.tick)}
        with trainer.watch("eval"):
            measured, logits = evaluator(trainer.inference_model, epoch)
        line |= measured | {f"{k}_s": v for k, v in trainer.watch.read().items()}
        run.append_metrics(line)
        tracked.log(line)
        progress.epoch(line)
        now = time.perf_counter()
        wall += now - began
        if epoch == epochs or saving <= CHECKPOINT_SHARE * (now - saved_at):
            save(run.checkpoint, {"trainer": trainer.state(), "epoch": epoch, "wall_s": wall, "code": cell.code})
            saved_at = time.perf_counter()
            saving = saved_at - now
    if logits is None:  # killed between the last checkpoint and the result
        logits = evaluator(trainer.inference_model, epochs)[1]
    return logits, wall


def _finish(
    cell: TrainingRun,
    run: RunFolder,
    trainer: Trainer,
    dataset: Dataset,
    logits: torch.Tensor,
    wall: float,
    tracked: Tracked,
) -> None:
    config, lines = cell.config, run.metrics()
    teacher = trainer.teacher_outputs.teacher
    if teacher is not None and content_hash(teacher.state_dict()) != config["teacher"]["sha256"]:
        raise RuntimeError(f"{cell.method} changed its teacher")
    last = lines[-1]
    extra_parameters, extra_buffers = count_parameters(trainer.method)
    steps = len(trainer.loader)
    weights = {k: v.cpu() for k, v in trainer.network.state_dict().items()}
    result: dict[str, Any] = {
        "status": "done",
        "role": config["role"],
        "dataset": config["dataset"]["name"],
        "network": cell.network,
        **about_pair(cell),
        "seed": config["seed"],
        "profile": config["profile"],
        "identity": cell.identity,
        "epochs": config["recipe"]["epochs"],
        "top1_last": last["test_top1"],
        "top1_best": max(line["test_top1"] for line in lines),
        "top5_last": last.get("test_top5"),
        "val_top1_last": last.get("val_top1"),
        "agreement": last.get("agreement"),
        "correlation_distance": last.get("correlation_distance"),
        "wall_s": wall,
        "step_ms": 1000 * statistics.median(line["data_s"] + line["step_s"] for line in lines) / steps,
        "parameters": count_parameters(trainer.network)[0],
        "extra_parameters": extra_parameters,
        "extra_buffers": extra_buffers,
        "inference_parameters": inference_parameters(trainer.inference_model, next(trainer.loader.epoch(1)).images[0]),
        "pre_epochs": trainer.method.requires.init_epochs,
        "views": trainer.method.requires.views,
        "precision": config["precision"],
        "changed": list(cell.changed),
        "code": cell.code,
        "sha256": content_hash(weights),
        "versions": versions(),
        "hardware": cell.settings.machine.describe(),
    }
    save_outputs(run, weights, logits, dataset)
    if trainer.inference_model is not trainer.network:
        save(run.folder / "method.pt", {k: v.cpu() for k, v in trainer.method.state_dict().items()})
    run.write_result(result)
    tracked.summary({k: result[k] for k in ("top1_last", "top1_best", "teacher_top1", "step_ms") if k in result})
    run.set_status("done")
    run.checkpoint.unlink(missing_ok=True)


def about_pair(cell: TrainingRun) -> dict[str, Any]:
    """What a student's result says of its pair and method; nothing for a teacher."""
    if cell.teacher_run is None:
        return {}
    teacher = RunFolder(cell.settings.runs / cell.teacher_run).result or {}
    return {
        "pair": cell.pair,
        "teacher": cell.config["teacher"]["network"],
        "student": cell.network,
        "method": cell.method,
        **{k: cell.about[k] for k in ("title", "year", "family")},
        "teacher_top1": teacher.get("top1_last"),
        "teacher_sha256": cell.config["teacher"]["sha256"],
        "teacher_run": cell.teacher_run,
    }


def save_outputs(run: RunFolder, weights: Mapping[str, torch.Tensor], logits: torch.Tensor, dataset: Dataset) -> None:
    """Write a trained network's weights, and its test logits with the labels."""
    save(run.weights, dict(weights))
    with store.atomic(run.test_outputs) as f:
        np.savez_compressed(
            f, logits=logits.cpu().numpy(), labels=dataset.test.labels.numpy(),
            class_names=np.array(dataset.class_names),
        )  # fmt: skip
