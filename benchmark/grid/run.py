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
from benchmark.data import datasets as data
from benchmark.data.datasets import Dataset, DatasetConfig
from benchmark.data.loader import Loader
from benchmark.grid.progress import Progress
from benchmark.networks import Network
from benchmark.runs import folder as store
from benchmark.runs.folder import Busy, Run, unusable
from benchmark.runs.tracking import Tracked, Tracking
from benchmark.runs.weights import Damaged, content_hash, load_own, save
from benchmark.teacher.cache import TeacherCache, cheaper_ahead, opened, visited
from benchmark.training.capture import cuda_graph
from benchmark.training.evaluation import Diverged, Evaluator, count, evaluation_batch, used
from benchmark.training.hardware import Machine, versions
from benchmark.training.seeding import seeded
from benchmark.training.trainer import Schedule, Trainer
from methods.contract import Context, Method, Shapes

CHECKPOINT_SHARE = 0.02  # of the training time may go into writing checkpoints


@dataclass(frozen=True)
class Settings:
    """Where and on what a cell runs: nothing that its numbers are meant to depend on, so not part of its identity."""

    runs: Path
    data: Path
    machine: Machine
    cache_gb: float  # the largest teacher cache; 0: none
    seeds: int  # how many the command has: how often a teacher's cache will be used


@dataclass(frozen=True)
class Cell:
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
    settings: Settings
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
        return methods.code(self.config["method"]["implementation"])

    @property
    def relative(self) -> str:
        """The run's folder below the root of all runs."""
        leaf = f"seed={self.config['seed']}" if "seed" in self.config else "imported"
        return f"{self.config['dataset']['name']}/{self.pair}/{self.method}/{self.identity}/{leaf}"

    @property
    def run(self) -> Run:
        return Run(self.settings.runs / self.relative)

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


def execute(cell: Cell, tracking: Tracking, progress: Progress) -> Outcome:
    """Run, resume or skip a cell. Its failure is recorded in its folder and returned, not raised; Ctrl-C is raised."""
    cell.settings.machine.prepare()
    outcome = _execute(cell, tracking, progress)
    if cell.settings.machine.device == "cuda":
        gc.collect()  # a trainer is part of a cycle, and the next cell would have its memory beside its own
    return dataclasses.replace(outcome, tracking=tracking.mode)


def _execute(cell: Cell, tracking: Tracking, progress: Progress) -> Outcome:
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
    except Busy as e:
        return Outcome(cell.name, "busy", str(e))
    except OSError as e:  # its folder cannot be made or written
        return Outcome(cell.name, "failed", f"{type(e).__name__}: {e}")


def load_data(cell: Cell) -> Dataset:
    """The cell's data set; raises ValueError where it is not the one that the cell was planned with."""
    dataset = data.load(cell.dataset, cell.settings.data)
    if dataset.fingerprint != cell.config["dataset"]["fingerprint"]:
        raise ValueError(f"the data set {dataset.name} has changed since the run was planned")
    return dataset


def load_teacher(runs: Path, folder: str, network: str, classes: int, sha256: str) -> tuple[Network, torch.Tensor]:
    """The frozen teacher from its run folder, in eval mode, and its test logits [N, C].

    Raises Damaged where its weights cannot be read, ValueError where they are not those with the content hash that the
    cell was planned with.
    """
    run = Run(runs / folder)
    teacher = networks.build(network, classes)
    weights = load_own(run.weights)
    if content_hash(weights) != sha256:
        raise ValueError(f"the teacher in {run.folder} has changed since the run was planned")
    teacher.load_state_dict(weights)
    with np.load(run.test_outputs) as saved:
        logits = torch.from_numpy(saved["logits"])
    return teacher.eval().requires_grad_(False), logits


def build_method(
    config: Mapping[str, Any], student: str, teacher: str, dataset: Dataset, epochs: int, seed: int, device: str
) -> Method:
    """A cell's method with its layers, initialised by the seed. Raises ValueError where its options do not fit."""
    kind = methods.load(config["implementation"])
    options = methods.options(kind.Options, {k: v for k, v in config.items() if k not in ("name", "implementation")})
    context = Context(
        dataset.classes,
        _shapes(student, dataset),
        _shapes(teacher, dataset),
        dataset.train.labels.to(device),
        epochs,
    )
    with seeded("method", seed):
        return kind(options, context).to(device)


def _shapes(network: str, dataset: Dataset) -> Shapes:
    with torch.device("meta"):
        return networks.shapes(networks.build(network, dataset.classes), dataset.config.size)


def _build(cell: Cell, dataset: Dataset) -> tuple[Trainer, Evaluator]:
    config, device = cell.config, cell.settings.machine.device
    recipe, seed = config["recipe"], config["seed"]
    with seeded("network", seed):
        network = networks.build(cell.network, dataset.classes)
    teacher, teacher_logits = None, None
    if cell.teacher_run:
        teacher, teacher_logits = load_teacher(
            cell.settings.runs, cell.teacher_run, config["teacher"]["network"], dataset.classes,
            config["teacher"]["sha256"],
        )  # fmt: skip
        teacher = teacher.to(device, memory_format=torch.channels_last)
    of = config["teacher"]["network"] if cell.teacher_run else cell.network
    method = build_method(config["method"], cell.network, of, dataset, recipe["epochs"], seed, device)
    trainer = Trainer(
        network.to(device, memory_format=torch.channels_last), method, teacher,
        Loader(dataset.train, dataset.config, recipe["batch_size"], seed, device),
        Schedule.of(recipe), device=device, precision=config["precision"], compiled=cell.settings.machine.compiled,
        record=cuda_graph if cell.settings.machine.graphs else None,
    )  # fmt: skip
    return trainer, Evaluator(dataset, teacher_logits, device, config["precision"])


def _attach_cache(cell: Cell, trainer: Trainer, dataset: Dataset, progress: Progress) -> None:
    """Give the trainer the teacher's caches where they can serve its method, says in a line how each is filled, and
    fills ahead what is to be filled so."""
    config, settings = cell.config, cell.settings
    if cell.teacher_run is None:
        return
    header = trainer.cache_header(config["teacher"]["sha256"], dataset.fingerprint)
    root = settings.runs / cell.teacher_run / "cache"
    needs, limit = trainer.method.teacher_needs, settings.cache_gb
    trainer.cache, line = opened(root, header, needs, limit, trainer.taught)
    ahead, large = False, evaluation_batch(trainer.device, trainer.loader.side)
    if trainer.cache is not None:
        share = trainer.cache.share_filled()
        ahead, why = _ahead(trainer, trainer.cache, config["recipe"]["epochs"] * settings.seeds, share, large)
        line += f", {100 * share:.0f} % filled, the rest {'ahead' if ahead else 'on first use'}{why}"
    lines = [line]
    if trainer.method.second_view:
        header = trainer.second_cache_header(config["teacher"]["sha256"], dataset.fingerprint)
        trainer.second_cache, line = opened(root, header, needs, limit, trainer.taught)
        if trainer.second_cache is not None:
            line += f", {100 * trainer.second_cache.share_filled():.0f} % filled, the rest on first use"
        lines.append(line)
    for line in filter(None, lines):
        print(f"{cell.name}: {line}", flush=True)
    if ahead and (why := trainer.cache.fill(large, trainer.loader.view, progress.filling(cell.name))):
        print(f"{cell.name}: {why}; what is missing is computed on first use", flush=True)


def _ahead(trainer: Trainer, cache: TeacherCache, visits: int, share: float, large: int) -> tuple[bool, str]:
    """Whether filling the cache ahead, `large` images at a time, is cheaper for `visits`, draws of a view; and why."""
    views, missing = cache.header.columns, cache.header.samples * cache.header.columns * (1 - share)
    if missing < 100 * large:
        return False, " (it is small)"
    seconds_ahead = trainer.seconds_a_row(cache.needs, large)
    seconds_on_use = trainer.seconds_a_row(cache.needs, trainer.loader.batch_size * trainer.together)
    seen = f": {visits} visits of an image see {visited(views, visits):.0f} of its {views} views"
    return cheaper_ahead(views, visits, seconds_ahead, seconds_on_use), seen


def _train(cell: Cell, run: Run, tracking: Tracking, progress: Progress) -> None:
    dataset = load_data(cell)
    trainer, evaluator = _build(cell, dataset)
    _attach_cache(cell, trainer, dataset, progress)
    done, wall = _resume(run, trainer, cell)
    epochs = cell.config["recipe"]["epochs"]
    progress.start(cell.name, epochs, done)
    tags = [cell.config["dataset"]["name"], cell.config["profile"], cell.pair, cell.method]
    try:
        with tracking.run(
            ids=run.folder / "wandb.json", name=cell.name, group=f"{cell.pair}/{cell.method}/{cell.identity}",
            job_type=cell.config["role"], tags=tags, config=cell.config, first=1 - trainer.method.pre_epochs,
        ) as tracked:  # fmt: skip
            logits, wall = _epochs(cell, trainer, evaluator, tracked, progress, done, epochs, wall)
            _finish(cell, run, trainer, dataset, logits, wall, tracked)
    finally:
        progress.stop()


def _resume(run: Run, trainer: Trainer, cell: Cell) -> tuple[int, float]:
    """Take up the checkpoint where there is one. Returns the epochs done and the seconds spent on them."""
    done, wall = -trainer.method.pre_epochs, 0.0  # a first stage ends with epoch 0
    for part in run.folder.glob("*.part"):  # left by a process that was killed while writing
        part.unlink()
    if run.checkpoint.is_file():
        try:
            saved = load_own(run.checkpoint, cell.settings.machine.device)
            if saved.keys() - {"code"} != {"trainer", "epoch", "wall_s"}:  # older ones have no code
                raise Damaged(f"{run.checkpoint} is no checkpoint of a run")
            if saved.get("code", cell.code) != cell.code:
                raise Damaged(f"it was begun by another version of {cell.method}'s code")
            kept = [line["epoch"] for line in run.metrics() if line["epoch"] <= saved["epoch"]]
            if kept != list(range(done + 1, saved["epoch"] + 1)):
                raise Damaged(f"{run.folder / 'metrics.jsonl'} lacks epochs")
            trainer.load_state(saved["trainer"])
            done, wall = saved["epoch"], saved["wall_s"]
        except Damaged as e:
            print(f"{cell.name}: {e}; it begins anew", file=sys.stderr)
    if run.status == "done":
        print(f"{cell.name}: {unusable(run.result) or 'weights.pt is missing'}; it is made again", file=sys.stderr)
    run.write_config(cell.config)
    run.rewind(done)
    run.set_status("running")
    return done, wall


def _epochs(
    cell: Cell, trainer: Trainer, evaluator: Evaluator, tracked: Tracked, progress: Progress,
    done: int, epochs: int, wall: float,
) -> tuple[torch.Tensor, float]:  # fmt: skip
    """Train the epochs that are left. Returns the final test logits, and the seconds of the whole training."""
    run = cell.run
    logits, saved_at, saving = None, time.perf_counter(), 0.0
    for epoch in range(done + 1, epochs + 1):
        began = time.perf_counter()
        line = {"epoch": epoch, **trainer.epoch(epoch, progress.tick)}
        with trainer.watch("eval"):
            measured, logits = evaluator(trainer.deployed, epoch)
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
        logits = evaluator(trainer.deployed, epochs)[1]
    return logits, wall


def _finish(
    cell: Cell, run: Run, trainer: Trainer, dataset: Dataset, logits: torch.Tensor, wall: float, tracked: Tracked
) -> None:
    config, lines = cell.config, run.metrics()
    if trainer.teacher is not None and content_hash(trainer.teacher.state_dict()) != config["teacher"]["sha256"]:
        raise RuntimeError(f"{cell.method} changed its teacher")
    last = lines[-1]
    extra_parameters, extra_buffers = count(trainer.method)
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
        "parameters": count(trainer.network)[0],
        "extra_parameters": extra_parameters,
        "extra_buffers": extra_buffers,
        "inference_parameters": used(trainer.deployed, next(trainer.loader.epoch(1)).images),
        "pre_epochs": trainer.method.pre_epochs,
        "views": 2 if trainer.method.second_view else 1,
        "precision": config["precision"],
        "changed": list(cell.changed),
        "code": cell.code,
        "sha256": content_hash(weights),
        "versions": versions(),
        "hardware": cell.settings.machine.describe(),
    }
    save_outputs(run, weights, logits, dataset)
    if trainer.deployed is not trainer.network:
        save(run.folder / "method.pt", {k: v.cpu() for k, v in trainer.method.state_dict().items()})
    run.write_result(result)
    tracked.summary({k: result[k] for k in ("top1_last", "top1_best", "teacher_top1", "step_ms") if k in result})
    run.set_status("done")
    run.checkpoint.unlink(missing_ok=True)


def about_pair(cell: Cell) -> dict[str, Any]:
    """What a student's result says of its pair and method; nothing for a teacher."""
    if cell.teacher_run is None:
        return {}
    teacher = Run(cell.settings.runs / cell.teacher_run).result or {}
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


def save_outputs(run: Run, weights: Mapping[str, torch.Tensor], logits: torch.Tensor, dataset: Dataset) -> None:
    """Write a trained network's weights, and its test logits with the labels."""
    save(run.weights, dict(weights))
    with store.atomic(run.test_outputs) as f:
        np.savez_compressed(
            f, logits=logits.cpu().numpy(), labels=dataset.test.labels.numpy(),
            class_names=np.array(dataset.class_names),
        )  # fmt: skip
