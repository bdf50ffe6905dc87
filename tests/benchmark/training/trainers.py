"""Trainers of any method on small networks and images, as a run builds them."""

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmark import networks
from benchmark.config.compose import MethodComposer, load_config
from benchmark.config.files import group_names
from benchmark.data import datasets
from benchmark.data.datasets import Dataset
from benchmark.data.loader import Loader
from benchmark.grid.build import build_method
from benchmark.teacher.outputs import TeacherOutputs
from benchmark.training.parallel import ALONE, Parallel
from benchmark.training.seeding import seeded
from benchmark.training.trainer import Schedule, Trainer
from methods.contract import Batch, UnsupportedPair
from tests.conftest import write_tiny

METHODS = group_names("method")
PAIRS = ["resnet14-resnet8", "vgg13-MobileNetV2", "wrn16_2-ShuffleV1"]  # every method supports the first
SCHEDULE = Schedule(lr=0.05, momentum=0.9, nesterov=False, weight_decay=5e-4, milestones=[], gamma=0.1)


def tiny_dataset(folder: Path, train: int) -> Dataset:
    """Load `train` training images of 16 px with six classes."""
    write_tiny(folder / "tiny.npz", train=train)
    words = ["dataset=npz", "dataset.file=tiny.npz", "dataset.size=16", "dataset.padding=2"]
    return datasets.load(load_config(words).dataset, folder)


@functools.cache
def composer(*words: str) -> MethodComposer:
    """Return the composer of some overrides, which composes the shared config once for all tests."""
    return MethodComposer(words)


def build_trainer(
    dataset: Dataset, name: str, pair: str = PAIRS[0], *, precision: str = "fp32", batch_size: int = 8,
    schedule: Schedule = SCHEDULE, seed: int = 0, device: str = "cpu", parallel: Parallel = ALONE,
    source: str | None = None, **more,
) -> Trainer:  # fmt: skip
    """Build the trainer of a method on a pair; skip the test where the method does not support the pair."""
    teacher_name, student_name = networks.split_pair(pair)
    config = composer(*(["crd.negatives=16"] if name == "crd" else [])).method(name, pair).resolved()
    with seeded("teacher", 0):
        teacher = networks.build(teacher_name, dataset.classes).eval().requires_grad_(False).to(device)
    with seeded("network", seed):
        student = networks.build(student_name, dataset.classes).to(device)
    try:
        method = build_method(config, student_name, teacher_name, dataset, 10, seed, device, teacher)
    except UnsupportedPair as reason:
        if pair == PAIRS[0]:
            raise
        pytest.skip(str(reason))
    loader = Loader(dataset.train, dataset.config, batch_size, seed, device)
    outputs = TeacherOutputs(
        teacher, method.requires, loader, device=device, precision=precision, parallel=parallel, source=source
    )
    trainer = Trainer(student, method, outputs, schedule, **more)
    trainer.prepare_method()
    return trainer


def no_progress(step: int, steps: int) -> None:
    """Ignore that a step is done."""


def batches(trainer: Trainer, epoch: int = 1) -> Iterator[Batch]:
    """The batches of an epoch, with the networks in training mode."""
    trainer.network.train()
    trainer.method.train()
    return iter(trainer.loader.epoch(epoch, trainer.method.requires.views))


def stages(trainer: Trainer) -> list[int]:
    """One epoch of each stage: 0 of an initialization stage, and 1."""
    return [0, 1] if trainer.method.requires.init_epochs else [1]


def batches_of_each_stage(trainer: Trainer, n: int) -> Iterator[Batch]:
    """The first `n` batches of each stage."""
    for epoch in stages(trainer):
        yield from itertools.islice(batches(trainer, epoch), n)


def all_epochs(trainer: Trainer) -> list[int]:
    """Two epochs of each stage."""
    return [-1, 0, 1, 2] if trainer.method.requires.init_epochs else [1, 2]
