"""Data sets without their images, for plans: the number of images and classes, on torch's meta device.

The sizes of the digits and of CIFAR are known, so that nothing need be read or downloaded.
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from benchmark.config.schema import DatasetConfig
from benchmark.data import sources
from benchmark.data.datasets import Dataset, Split, TeacherSplit, further_images
from benchmark.errors import UserError

KNOWN_SOURCES = ("digits", *sources.CIFAR)  # whose sizes are known without their files


def is_present(config: DatasetConfig, folder: Path) -> bool:
    """Return whether a data set needs no download."""
    return config.source not in sources.CIFAR or sources.cifar_is_present(config.source, folder)


def outline(
    config: DatasetConfig, fingerprint: str, teacher_size: str | None = None,
    teacher_fingerprints: Mapping[int, str] | None = None,
) -> Dataset:  # fmt: skip
    """Return a data set of `KNOWN_SOURCES` whose images are on the meta device: only their number and size are known.

    config: with mean and std resolved, where anything reads them. fingerprint: empty where it is not known.
    teacher_size: `teacher.train_size`. teacher_fingerprints: known ones by the number of the teacher's training images.
    Raises UserError for more images than there are.
    """
    available, tested, classes = _sizes(config)
    for option, size, limit in (
        ("train_size", config.train_size, available),
        ("test_size", config.test_size, tested),
    ):
        if size is not None and size > limit:
            raise UserError(f"dataset.{option} is {size}, but there are only {limit} images")
    training = config.train_size or available
    held_out = round(config.validation * training)
    if config.validation and not held_out:
        raise UserError(f"dataset.validation is {config.validation}: that is no image of {training}")
    students, teacher = training - held_out, None
    if further := further_images(teacher_size, students, available - held_out):
        size = students + further
        teacher = TeacherSplit(_split(size, config.size), (teacher_fingerprints or {}).get(size, ""))
    train, val, test = (_split(n, config.size) for n in (students, held_out, config.test_size or tested))
    names = tuple(map(str, range(classes)))
    return Dataset(config.name, train, test, val if held_out else None, names, fingerprint, config, teacher)


def _sizes(config: DatasetConfig) -> tuple[int, int, int]:
    """Return the images that can be trained on, those that can be tested on, and the classes."""
    if config.source == "digits":
        if config.test_size is None or config.test_size >= sources.DIGITS:
            raise UserError(f"dataset.test_size is {config.test_size}: give a number below {sources.DIGITS}")
        return sources.DIGITS - config.test_size, config.test_size, 10
    cifar = sources.CIFAR[config.source]
    return cifar.train * cifar.classes, cifar.test * cifar.classes, cifar.classes


def _split(n: int, size: int) -> Split:
    images = torch.empty(n, 3, size, size, dtype=torch.uint8, device="meta")
    return Split(images, torch.empty(n, dtype=torch.int64, device="meta"))
