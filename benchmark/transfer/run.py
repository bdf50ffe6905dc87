"""Execution of linear probes: each is skipped when done, and continued when it was interrupted."""

import dataclasses
import functools
import os
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.config.method_files import describe_failure
from benchmark.config.schema import CROP, FILE_DATASETS, DatasetConfig, TransferOptions
from benchmark.data import datasets
from benchmark.data.datasets import Dataset
from benchmark.grid.identity import dataset_identity
from benchmark.progress import Meter
from benchmark.runs import folder as store
from benchmark.runs import provenance
from benchmark.runs.folder import RunBusy, RunFolder
from benchmark.runs.record import RunStatus
from benchmark.runs.transfer import TransferFolder, TransferRecord, transfer_folder
from benchmark.runs.weights import DamagedFile, save
from benchmark.training.evaluation import Diverged
from benchmark.training.hardware import Hardware, versions
from benchmark.training.trainer import Schedule
from benchmark.transfer.measurement import FeatureStore, measure
from benchmark.transfer.probe import ProbeRecipe
from benchmark.transfer.students import image_size, load_network

RECIPE = (
    "epochs", "batch_size", "lr", "momentum", "weight_decay", "milestones", "gamma", "init_std", "probe_seed",
)  # fmt: skip


@dataclass(frozen=True)
class Probe:
    """A picklable description of one linear probe. target: before its size and augmentation are those of the probe."""

    run: Path
    target: DatasetConfig
    options: TransferOptions
    hardware: Hardware

    @property
    def name(self) -> str:
        """The probe in messages: run and target."""
        return f"{'/'.join(self.run.parts[-5:])} on {self.target.name}"

    @property
    def dataset(self) -> DatasetConfig:
        """The target with the images' size and augmentation of the probe. Raises DamagedFile as `image_size` does."""
        size = self.options.size or image_size(RunFolder(self.run))
        in_memory: dict[str, Any] = {}
        if self.target.source in FILE_DATASETS:  # a probe reads each image many times: 3 kB each at 32 px
            in_memory = {"augmentation": CROP, "rotation": 0.0, "decoder": None, "loading": "device", "cache_dir": None}
        return dataclasses.replace(
            self.target, size=size, padding=self.options.padding, flip=self.options.flip, **in_memory
        )


@dataclass(frozen=True)
class ProbeOutcome:
    """How a probe ended. was_done: it was finished before."""

    name: str
    status: RunStatus
    top1: float | None = None
    reason: str = ""
    was_done: bool = False


def execute_all(probes: Sequence[Probe], plain: bool = False) -> list[ProbeOutcome]:
    """Execute probes one after another, those of one target together, and print a line about each.

    plain: progress in lines, for one of several processes. Raises UserError where a target cannot be read.
    """
    outcomes = []
    for probe in sorted(probes, key=lambda probe: (probe.target.name, repr(probe.target), probe.run)):
        probe.hardware.prepare()
        outcomes.append(execute(probe, plain=plain))
        print(_line(outcomes[-1]), flush=True)
    return outcomes


def execute(probe: Probe, *, plain: bool = False) -> ProbeOutcome:
    """Execute, continue or skip one probe. A failure is recorded in its folder and returned, not raised."""
    run = RunFolder(probe.run)
    try:
        dataset = _load(_Hashable(probe.dataset), probe.options.data)
    except DamagedFile as e:
        return ProbeOutcome(probe.name, RunStatus.FAILED, reason=str(e))
    config = _config(probe, dataset)
    folder = transfer_folder(probe.run, dataset.name, store.identity(config))
    sha256 = run.record.sha256
    try:
        with folder.lock():
            if folder.is_finished(sha256):
                return ProbeOutcome(probe.name, RunStatus.DONE, folder.result.top1_last, was_done=True)
            student = {"network": run.record.network, "sha256": sha256}
            folder.write_config({**config, "student": student})
            folder.set_status(RunStatus.RUNNING)
            return _outcome(probe, folder, dataset, plain)
    except RunBusy as e:
        return ProbeOutcome(probe.name, RunStatus.FAILED, reason=str(e))


def _outcome(probe: Probe, folder: TransferFolder, dataset: Dataset, plain: bool) -> ProbeOutcome:
    """Train the probe and record how it ended."""
    try:
        top1 = _train(probe, folder, dataset, plain)
    except Diverged as e:
        folder.set_status(RunStatus.DIVERGED, str(e))
        return ProbeOutcome(probe.name, RunStatus.DIVERGED, reason=str(e))
    except RunBusy:  # another host has taken over the folder, which this process must leave alone
        raise
    except Exception as e:  # of a network of the user's own, anything
        reason = describe_failure(e)
        store.write_text(folder.path / store.ERROR_FILE, traceback.format_exc())
        folder.set_status(RunStatus.FAILED, reason)
        return ProbeOutcome(probe.name, RunStatus.FAILED, reason=reason)
    folder.set_status(RunStatus.DONE)
    (folder.path / store.ERROR_FILE).unlink(missing_ok=True)  # of an earlier attempt
    return ProbeOutcome(probe.name, RunStatus.DONE, top1)


def _line(outcome: ProbeOutcome) -> str:
    if outcome.status != RunStatus.DONE:
        return f"{outcome.name}: {outcome.status}: {outcome.reason}"
    return f"{outcome.name}: {outcome.top1:.2f} %{' (done before)' if outcome.was_done else ''}"


# ------------------------------------------------------------ identity


def _config(probe: Probe, dataset: Dataset) -> dict[str, Any]:
    """Return what the identity of a probe is the hash of: its recipe, and the target with its content."""
    recipe = {key: getattr(probe.options, key) for key in RECIPE}
    return {"probe": {"kind": "linear", **recipe}, "dataset": dataset_identity(dataset)}


def _recipe(options: TransferOptions) -> ProbeRecipe:
    schedule = Schedule(
        options.lr, options.momentum, False, options.weight_decay, options.milestones, options.gamma
    )  # fmt: skip
    return ProbeRecipe(options.epochs, options.batch_size, schedule, options.init_std, options.probe_seed)


class _Hashable:
    """A data set's options as a key of a cache."""

    def __init__(self, config: DatasetConfig) -> None:
        self.config = config

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashable) and self.config == other.config

    def __hash__(self) -> int:
        return hash(repr(self.config))


@functools.lru_cache(maxsize=1)  # probes are sorted by target
def _load(key: _Hashable, data: str) -> Dataset:
    return datasets.load(key.config, Path(data))


# ------------------------------------------------------------ training


def _train(probe: Probe, folder: TransferFolder, dataset: Dataset, plain: bool) -> float:
    """Measure the probe and write its files, the result last; return the test accuracy."""
    started, device, recipe = time.perf_counter(), probe.hardware.device, _recipe(probe.options)
    provenance.record_fields()  # before the measurement, during which the working tree may change
    run = RunFolder(probe.run)
    with Meter(probe.name, 1.0, plain=plain) as meter:
        measurement = measure(
            load_network(run), dataset, recipe, _store(probe, folder, run), device,
            report=meter.move_to, announce=lambda line: print(f"{probe.name}: {line}", flush=True),
        )  # fmt: skip
    save(folder.weights, {name: tensor.cpu() for name, tensor in measurement.layer.state_dict().items()})
    folder.write_metrics(measurement.lines)
    last = measurement.lines[-1]
    folder.write_result(
        TransferRecord(
            status=RunStatus.DONE, target=dataset.name, source=run.config.dataset.get("name"),
            network=run.record.network, student_sha256=run.record.sha256, identity=folder.path.name,
            epochs=recipe.epochs, top1_last=last["test_top1"], top5_last=last.get("test_top5"),
            train_top1_last=last["train_top1"], classes=dataset.classes, train_images=len(dataset.train.labels),
            test_images=len(dataset.test.labels), features=measurement.layer.in_features, views=measurement.views,
            features_bytes=measurement.file_bytes, features_s=measurement.features_s,
            wall_s=time.perf_counter() - started, **provenance.record_fields(), versions=versions(),
            hardware=probe.hardware.describe(),
        )
    )  # fmt: skip
    return last["test_top1"]


def _store(probe: Probe, folder: TransferFolder, run: RunFolder) -> FeatureStore:
    """Return where the probe keeps its features, and what they depend on."""
    path = folder.path / "features.bin"
    if probe.options.features_dir is not None:
        root = Path(os.path.expandvars(probe.options.features_dir)).expanduser()
        path = (
            root / f"features-{store.identity({'probe': str(folder.path.absolute())})}.bin"
        )  # not that of a copied run
    key = {"student": run.record.sha256, "identity": folder.path.name, "device": probe.hardware.device}
    return FeatureStore(path, probe.options.features_gb, key)
