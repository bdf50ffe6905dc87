"""Data sets and training batches.

A data set is loaded once onto the CPU as uint8 tensors, checked, split and fingerprinted. `Loader` keeps the training
images on the device as one padded uint8 tensor; a batch is cropped, flipped and normalised there, with no worker
processes and no Python per image. Files are read in `benchmark.data.sources`, the tensor operations are in
`benchmark.data.augmentation`.
"""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmark.config.schema import DATASETS, MIN_IMAGE_SIZE, DatasetConfig
from benchmark.data import augmentation, sources
from benchmark.data.sources import Arrays
from benchmark.errors import UserError, nearest
from benchmark.training.seeding import generator


@dataclass(frozen=True)
class Split:
    """Images and labels, on the CPU unless they are moved."""

    images: Tensor  # uint8 [N, 3, H, W], in channels_last memory
    labels: Tensor  # int64 [N]

    def to(self, device: str) -> "Split":
        """The same on a device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """A data set, ready to use."""

    name: str
    train: Split
    test: Split
    val: Split | None  # held out of the training set; None where `validation` is 0
    class_names: tuple[str, ...]
    fingerprint: str  # SHA-256 of all images and labels as they are used
    config: DatasetConfig  # with mean and std resolved

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def load(config: DatasetConfig, folder: Path) -> Dataset:
    """The data set of a config, on the CPU. `folder` is where its files are, or are downloaded to.

    Raises UserError where files are missing or not as they must be, or where the splits asked for are not possible.
    """
    _check_config(config)
    arrays = _read(config, Path(folder))
    test = torch.arange(len(arrays.y_test))
    if config.test_size is not None:
        test = stratified(arrays.y_test, config.test_size, generator("test split"), "test_size")
    train = torch.arange(len(arrays.y_train))
    if config.train_size is not None:
        train = stratified(
            arrays.y_train, config.train_size, generator("training split", config.split_seed), "train_size"
        )  # fmt: skip
    held = train[:0]
    if config.validation > 0:
        train, held = _hold_out(arrays.y_train, train, config)
    splits = {
        "train": _split(arrays.x_train, arrays.y_train, train, config.size),
        "test": _split(arrays.x_test, arrays.y_test, test, config.size),
        "val": _split(arrays.x_train, arrays.y_train, held, config.size) if len(held) else None,
    }
    for name, split in splits.items():
        if split is not None:
            _check_split(name, split.labels, arrays.class_names, every_class=name != "test")
    if config.mean is None or config.std is None:
        mean, std = _statistics(splits["train"].images)
        config = dataclasses.replace(config, mean=config.mean or mean, std=config.std or std)
        if 0 in config.std:
            name = config.file or config.root or config.name
            raise UserError(f"{name}: a channel is the same in all pixels of all training images: give dataset.std")
    fingerprint = _fingerprint(splits)
    return Dataset(config.name, splits["train"], splits["test"], splits["val"], arrays.class_names, fingerprint, config)


def normalize(images: Tensor, config: DatasetConfig) -> Tensor:
    """(images / 255 − mean) / std per channel: uint8 [N, 3, H, W] to float32 in channels_last memory, on its device."""
    return augmentation.standardize(
        images, *augmentation.affine(config.mean, config.std, images.shape[3], images.device)
    )


def stratified(labels: Tensor, size: int, random: torch.Generator, what: str) -> Tensor:
    """Positions [size], ascending, of a random choice with the shares that the classes have in `labels` [N].

    Shares are rounded so that they add up (largest remainder; classes with equal remainders in order). `what` names
    the option in the UserError that is raised where `size` is larger than N.
    """
    if size > len(labels):
        raise UserError(f"dataset.{what} is {size}, but there are only {len(labels)} images")
    counts = labels.bincount()
    whole, rest = counts * size // len(labels), counts * size % len(labels)
    left = size - int(whole.sum())
    whole[rest.sort(descending=True, stable=True).indices[:left]] += 1
    chosen = []
    for label, n in enumerate(whole.tolist()):
        members = (labels == label).nonzero()[:, 0]
        chosen.append(members[torch.randperm(len(members), generator=random)[:n]])
    return torch.cat(chosen).sort().values


def _check_config(config: DatasetConfig) -> None:
    if config.name not in DATASETS:
        raise UserError(f"unknown dataset {config.name!r}{nearest(config.name, DATASETS)}")
    if config.size < MIN_IMAGE_SIZE:
        raise UserError(f"dataset.size is {config.size}: the networks need images of at least {MIN_IMAGE_SIZE} pixels")
    if config.padding > config.size:
        raise UserError(f"dataset.padding is {config.padding}: images are {config.size} pixels wide")
    for name, values in (("mean", config.mean), ("std", config.std)):
        if values is not None and len(values) != 3:
            raise UserError(f"dataset.{name} has {len(values)} numbers: give one for each of three channels, or null")
    for name, owner in (("file", "npz"), ("root", "imagefolder")):
        given = getattr(config, name)
        if config.name == owner and given is None:
            what = "a file" if name == "file" else "a folder"
            raise UserError(f"dataset={owner} needs dataset.{name}: {what}, absolute or below the data folder")
        if config.name != owner and given is not None:
            raise UserError(f"dataset.{name} is read by dataset={owner} only, not by dataset={config.name}")


def _read(config: DatasetConfig, folder: Path) -> Arrays:
    if config.name == "digits":
        return _digits(config.test_size)
    if config.name == "npz":
        return sources.read_npz(folder / Path(config.file).expanduser())
    if config.name == "imagefolder":
        return sources.read_imagefolder(folder / Path(config.root).expanduser(), config.size)
    return sources.read_cifar(config.name, folder)


def _digits(test_size: int | None) -> Arrays:
    """The digits, of which `test_size` are the test set and the others may be trained on."""
    images, labels = sources.read_digits()
    if test_size is None or test_size >= len(labels):
        given = "not given" if test_size is None else test_size
        raise UserError(f"dataset.test_size is {given}: choose how many of the {len(labels)} digits are the test set")
    test = stratified(labels, test_size, generator("test split"), "test_size")
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[test] = False
    return Arrays(images[rest], labels[rest], images[test], labels[test], tuple("0123456789"))


def _hold_out(labels: Tensor, train: Tensor, config: DatasetConfig) -> tuple[Tensor, Tensor]:
    """`train` [N], positions among `labels`, as what is left of it and what is held out; both keep their order."""
    size = round(config.validation * len(train))
    chosen = stratified(labels[train], size, generator("validation split", config.split_seed), "validation")
    held = torch.zeros(len(train), dtype=torch.bool)
    held[chosen] = True
    if not held.any():
        raise UserError(f"dataset.validation is {config.validation}: that is no image of {len(train)}")
    return train[~held], train[held]


def _split(images: Tensor, labels: Tensor, positions: Tensor, size: int) -> Split:
    """The images at `positions` of NHWC `images`, resized to `size`."""
    chosen = images if len(positions) == len(images) else images[positions]
    resized = chosen.permute(0, 3, 1, 2)
    if images.shape[1] != size:
        resized = torch.cat([_resize(part, size) for part in resized.split(1000)])
    return Split(resized.contiguous(memory_format=torch.channels_last), labels[positions])


def _resize(images: Tensor, size: int) -> Tensor:
    """uint8 [N, 3, H, W] resized bilinearly, with antialiasing where it shrinks."""
    shape = (size, size)
    resized = functional.interpolate(images.float(), shape, mode="bilinear", align_corners=False, antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)


def _check_split(name: str, labels: Tensor, class_names: tuple[str, ...], every_class: bool) -> None:
    called = {"train": "training", "test": "test", "val": "validation"}[name]
    absent = (labels.bincount(minlength=len(class_names)) == 0).nonzero()[:, 0].tolist()
    if every_class and absent:
        raise UserError(
            f"the {called} split of {len(labels)} images has none of class {class_names[absent[0]]!r}: "
            "change dataset.train_size or dataset.validation"
        )


def _statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of uint8 [N, 3, H, W], on a scale of 0 to 1, to four decimals."""
    mean, std = [], []
    value = torch.arange(256, dtype=torch.float64) / 255
    for channel in range(3):
        share = images[:, channel].flatten().bincount(minlength=256).double()
        share /= share.sum()
        centre = (share * value).sum()
        mean.append(round(centre.item(), 4))
        std.append(round((share * (value - centre) ** 2).sum().sqrt().item(), 4))
    return mean, std


def _fingerprint(splits: dict[str, Split | None]) -> str:
    digest = hashlib.sha256()
    for name, split in splits.items():
        if split is not None:
            digest.update(f"{name} {tuple(split.images.shape)}".encode())
            digest.update(split.images.permute(0, 2, 3, 1).contiguous().numpy())
            digest.update(split.labels.numpy())
    return digest.hexdigest()
