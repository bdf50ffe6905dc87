"""Data sets: loaded once onto the CPU as uint8 tensors, or listed as image files; checked, split and fingerprinted.

Files are read in `benchmark.data.sources` and listed in `benchmark.data.imagenet`; batches are made in
`benchmark.data.loader` from tensors, and in `benchmark.data.streaming` from files.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmark.config.schema import ALL_IMAGES, RESIZED_CROP, DatasetConfig
from benchmark.data import augmentation, image_files, imagenet, limits, sources
from benchmark.data.image_files import FileSplit, Listing
from benchmark.data.sources import Arrays
from benchmark.errors import UserError
from benchmark.training.seeding import generator

RESIZE_BATCH_VALUES = 2**26  # of the images resized at once, before or after: 256 MiB in float32


@dataclass(frozen=True)
class Split:
    """Images and labels of one split, on one device."""

    images: Tensor  # uint8 [N, 3, H, W], in channels_last memory
    labels: Tensor  # int64 [N]

    def to(self, device: str) -> "Split":
        """Copy the split to a device."""
        return Split(self.images.to(device), self.labels.to(device))

    def part(self, rows: slice) -> "Split":
        """Return some of the images, without copying them."""
        return Split(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class Dataset:
    """A data set, ready to use."""

    name: str
    train: Split | FileSplit
    test: Split | FileSplit
    val: Split | FileSplit | None  # held out of the training set; None where `validation` is 0
    class_names: tuple[str, ...]
    fingerprint: str  # SHA-256 of the images and labels of all splits; of files see `fingerprint_of_files`
    config: DatasetConfig  # with mean and std resolved
    teacher: "TeacherSplit | None" = None  # None where the teacher is trained on the images of `train`

    @property
    def images_in_memory(self) -> Split:
        """The training split, where its images are in memory."""
        assert isinstance(self.train, Split), f"the images of {self.name} are streamed"
        return self.train

    @property
    def finite_views(self) -> bool:
        """Whether images have finitely many augmented views, for which outputs of a teacher may be cached."""
        return isinstance(self.train, Split) and not self.config.rotation

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def of_teacher(self) -> "Dataset":
        """The data set with the training images of the teacher."""
        if self.teacher is None:
            return self
        return dataclasses.replace(self, train=self.teacher.train, fingerprint=self.teacher.fingerprint, teacher=None)

    def without_images(self) -> "Dataset":
        """Return the data set with all splits on the meta device: their sizes are all that a plan reads."""
        teacher = self.teacher and dataclasses.replace(self.teacher, train=self.teacher.train.to("meta"))
        val = self.val and self.val.to("meta")
        return dataclasses.replace(
            self, train=self.train.to("meta"), test=self.test.to("meta"), val=val, teacher=teacher
        )


@dataclass(frozen=True)
class TeacherSplit:
    """Training images of a teacher that is trained on more than its students."""

    train: Split | FileSplit  # the students' training images among them
    fingerprint: str  # of the data set with these training images


def load(config: DatasetConfig, folder: Path, teacher_size: str | None = None, device: str = "cpu") -> Dataset:
    """Load a data set onto the CPU, or list the files of one that is streamed; its files are read from `folder` or
    downloaded to it.

    teacher_size: `teacher.train_size`, the number of the teacher's training images. They are those of its students,
    and others at random with the class shares of what is left; validation images are never among them. Mean and
    standard deviation are of the students' images, which the teacher sees when it teaches.
    device: cpu or cuda, on whose memory it depends whether images are streamed.

    Raises UserError where files are missing or malformed, or where the configured splits are not possible.
    """
    limits.check_config(config)
    content = _read(config, Path(folder))
    train, val, test = _choose_splits(content, config)
    further = further_images(teacher_size, len(train), len(content.y_train) - len(val))
    images = len(train) + len(val) + len(test)
    streamed = isinstance(content, Listing) and limits.streams(config, images + further, device)
    if not streamed:
        limits.check_memory(config, images)
    splits = {
        "train": _make_split(content, "train", train, config.size),
        "test": _make_split(content, "test", test, config.size),
    }
    if len(val):
        splits["val"] = _make_split(content, "train", val, config.size)
    for name, called in (("train", "training"), ("val", "validation")):
        if name in splits:
            _check_every_class(called, splits[name].labels, content.class_names)
    teacher = None
    if further:
        chosen = _choose_further(content.y_train, train, val, further, config.split_seed)
        teacher_train = _make_split(content, "train", chosen, config.size)
        teacher = TeacherSplit(teacher_train, fingerprint({**splits, "train": teacher_train}))
    content_hash = fingerprint(splits)
    if not streamed:
        splits = {name: _in_memory(split, config.size) for name, split in splits.items()}
        teacher = teacher and dataclasses.replace(teacher, train=_in_memory(teacher.train, config.size))
    config = _resolve_config(config, splits["train"])
    return Dataset(
        config.name, splits["train"], splits["test"], splits.get("val"), content.class_names, content_hash, config,
        teacher,
    )  # fmt: skip


def further_images(teacher_size: str | None, students: int, available: int) -> int:
    """Return how many training images the teacher has beside those of its students.

    teacher_size: `teacher.train_size`. students: number of the students' training images. available: number of training
    images that are not held out for validation. Raises UserError where the teacher would have fewer than its students,
    or more than there are.
    """
    if teacher_size is None:
        return 0
    size = available if teacher_size == ALL_IMAGES else int(teacher_size)
    if size < students:
        raise UserError(f"teacher.train_size is {size}: give at least {students}, the images of its students included")
    if size > available:
        held_out = "outside the test set and the validation split"
        raise UserError(f"teacher.train_size is {size}, but there are only {available} images {held_out}")
    return size - students


def normalization(config: DatasetConfig, width: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Return scale and shift [width · 3] that normalize rows of pixels, for a config with mean and std resolved."""
    assert config.mean is not None and config.std is not None, "mean and std are resolved by `load`"
    return augmentation.scale_and_shift(config.mean, config.std, width, device)


def normalize(images: Tensor, config: DatasetConfig) -> Tensor:
    """Return (images / 255 − mean) / std per channel: uint8 [N, 3, H, W] -> float32 in channels_last memory."""
    return augmentation.standardize(images, *normalization(config, images.shape[3], images.device))


def stratified(labels: Tensor, size: int, random: torch.Generator, option: str) -> Tensor:
    """Choose `size` of N samples at random, with the class shares of `labels` [N]: ascending positions [size].

    Shares are rounded by largest remainder, lower classes first among equal remainders. Raises UserError, naming the
    dataset option, where `size` exceeds N.
    """
    if size > len(labels):
        raise UserError(f"dataset.{option} is {size}, but there are only {len(labels)} images")
    class_sizes = labels.bincount()
    quotas, remainders = class_sizes * size // len(labels), class_sizes * size % len(labels)
    unassigned = size - int(quotas.sum())
    quotas[remainders.sort(descending=True, stable=True).indices[:unassigned]] += 1
    chosen = []
    for label, quota in enumerate(quotas.tolist()):
        members = (labels == label).nonzero()[:, 0]
        chosen.append(members[torch.randperm(len(members), generator=random)[:quota]])
    return torch.cat(chosen).sort().values


def _read(config: DatasetConfig, folder: Path) -> Arrays | Listing:
    if config.source == "digits":
        return _digits(config.test_size)
    if config.source == "npz":
        return sources.read_npz(folder / Path(config.file or "").expanduser())
    root = folder / Path(config.root or "").expanduser()
    if config.source == "imagenet":
        return imagenet.list_imagenet(root, config.classes)
    if config.source == "tinyimagenet":
        return imagenet.list_tiny_imagenet(root, config.classes)
    if config.source == "imagefolder":
        streamed = limits.streams(config, 0, "cpu")
        return image_files.list_image_folder(root) if streamed else sources.read_imagefolder(root, config.size)
    return sources.read_cifar(config.source, folder)


def _digits(test_size: int | None) -> Arrays:
    """Split the digits into a fixed stratified test set of `test_size` images and a training set of the others."""
    images, labels = sources.read_digits()
    if test_size is None or test_size >= len(labels):
        value = "null" if test_size is None else test_size
        raise UserError(f"dataset.test_size is {value}: give a number below {len(labels)}, the number of digits")
    test = stratified(labels, test_size, generator("test split"), "test_size")
    is_train = torch.ones(len(labels), dtype=torch.bool)
    is_train[test] = False
    return Arrays(images[is_train], labels[is_train], images[test], labels[test], tuple("0123456789"))


def _choose_splits(arrays: Arrays | Listing, config: DatasetConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Return ascending positions of the training and validation samples in the training set, and of the test samples
    in the test set."""
    test = torch.arange(len(arrays.y_test))
    if config.test_size is not None:
        test = stratified(arrays.y_test, config.test_size, generator("test split"), "test_size")
    train = torch.arange(len(arrays.y_train))
    if config.train_size is not None:
        random = generator("training split", config.split_seed)
        train = stratified(arrays.y_train, config.train_size, random, "train_size")
    if config.validation == 0:
        return train, train[:0], test
    size = round(config.validation * len(train))
    if size == 0:
        raise UserError(f"dataset.validation is {config.validation}: that is no image of {len(train)}")
    random = generator("validation split", config.split_seed)
    held_out = torch.zeros(len(train), dtype=torch.bool)
    held_out[stratified(arrays.y_train[train], size, random, "validation")] = True
    return train[~held_out], train[held_out], test


def _choose_further(labels: Tensor, train: Tensor, val: Tensor, further: int, seed: int) -> Tensor:
    """Return ascending positions of the teacher's training images: those at `train`, and `further` ones at neither
    `train` nor `val`."""
    free = torch.ones(len(labels), dtype=torch.bool)
    free[train] = free[val] = False
    positions = free.nonzero()[:, 0]
    chosen = stratified(labels[positions], further, generator("teacher's training split", seed), "train_size")
    return torch.cat([train, positions[chosen]]).sort().values


def _make_split(content: Arrays | Listing, part: str, positions: Tensor, size: int) -> Split | FileSplit:
    """Take the samples at `positions` of a part, train or test: images resized to `size` × `size` pixels, or files."""
    if isinstance(content, Listing):
        files = content.train if part == "train" else content.test
        return FileSplit(files, positions.numpy(), files.labels[positions])
    images, labels = (content.x_train, content.y_train) if part == "train" else (content.x_test, content.y_test)
    chosen = images if len(positions) == len(images) else images[positions]
    resized = chosen.permute(0, 3, 1, 2)
    if images.shape[1] != size:
        batch = max(1, RESIZE_BATCH_VALUES // (3 * max(size, images.shape[1]) ** 2))
        resized = torch.cat([_resize(part, size) for part in resized.split(batch)])
    return Split(resized.contiguous(memory_format=torch.channels_last), labels[positions])


def _in_memory(split: Split | FileSplit, size: int) -> Split:
    """Return a split with its images in memory, decoded where they are files."""
    return split if isinstance(split, Split) else Split(image_files.read_images(split, size), split.labels)


def _resize(images: Tensor, size: int) -> Tensor:
    """Resize uint8 [N, 3, H, W] bilinearly, with antialiasing where it shrinks."""
    shape = (size, size)
    resized = functional.interpolate(images.float(), shape, mode="bilinear", align_corners=False, antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)


def _check_every_class(split: str, labels: Tensor, class_names: tuple[str, ...]) -> None:
    absent = (labels.bincount(minlength=len(class_names)) == 0).nonzero()[:, 0].tolist()
    if absent:
        raise UserError(
            f"the {split} split of {len(labels)} images has none of class {class_names[absent[0]]!r}: "
            "change dataset.train_size or dataset.validation"
        )


def _resolve_config(config: DatasetConfig, train: Split | FileSplit) -> DatasetConfig:
    """Return the config with mean, std and decoder resolved."""
    if config.augmentation == RESIZED_CROP and config.decoder is None:
        config = dataclasses.replace(config, decoder="pil")
    if config.mean is None or config.std is None:
        assert isinstance(train, Split), "streamed images have configured statistics"
        config = resolve_statistics(config, train.images)
    return config


def resolve_statistics(config: DatasetConfig, images: Tensor) -> DatasetConfig:
    """Return the config with mean and std of the training images where it has null."""
    mean, std = _channel_statistics(images)
    config = dataclasses.replace(config, mean=config.mean or mean, std=config.std or std)
    if 0 in (config.std or std):
        name = config.file or config.root or config.name
        raise UserError(f"{name}: a channel is the same in all pixels of all training images: give dataset.std")
    return config


def _channel_statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel of uint8 [N, 3, H, W], on a scale of 0 to 1, to 4 decimals."""
    mean, std = [], []
    value = torch.arange(256, dtype=torch.float64) / 255
    for channel in range(3):
        share = images[:, channel].flatten().bincount(minlength=256).double()
        share /= share.sum()
        center = (share * value).sum()
        mean.append(round(center.item(), 4))
        std.append(round((share * (value - center) ** 2).sum().sqrt().item(), 4))
    return mean, std


def fingerprint(splits: Mapping[str, Split | FileSplit]) -> str:
    """Return the SHA-256 (hex) of the images and labels of all splits; of files see `fingerprint_of_files`."""
    files = {name: split for name, split in splits.items() if isinstance(split, FileSplit)}
    if files:
        return image_files.fingerprint_of_files(files)
    digest = hashlib.sha256()
    for name, split in splits.items():
        assert isinstance(split, Split)
        digest.update(f"{name} {tuple(split.images.shape)}".encode())
        digest.update(split.images.permute(0, 2, 3, 1).contiguous().numpy().data)
        digest.update(split.labels.numpy().data)
    return digest.hexdigest()
