"""Image files of a data set without their pixels: paths, sizes and labels in a few arrays.

A million paths as Python strings would take 100 MB in every worker of a loader, since counting references to them
copies their pages; arrays are shared by all processes that are forked from this one.
"""

import contextlib
import hashlib
import os
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmark.data.decoding import UnreadableImage, decode, whole
from benchmark.data.image_folder import Unreadable, check_same_classes, class_names, list_files, test_folder
from benchmark.errors import UserError
from benchmark.progress import Meter

CALLS_AT_ONCE = 4096


@dataclass(frozen=True)
class ImageFiles:
    """Files below one folder, as a list of relative paths in one array of bytes.

    as_shown: they are decoded as a viewer shows them, the rotation of cameras applied and transparent pixels on white
    (`image_folder`); False: as torchvision's loader decodes them, plainly converted to RGB. suffix: that a file has
    beyond its relative path.
    """

    root: Path
    text: np.ndarray  # uint8: all relative paths, one after another
    ends: np.ndarray  # int64 [N], where each path ends in `text`
    sizes: np.ndarray  # int64 [N], bytes of each file
    labels: Tensor  # int64 [N]
    as_shown: bool = False
    suffix: str = ""

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.ends)

    def relative_path(self, row: int) -> str:
        """Return the path of a file below the root."""
        start = self.ends[row - 1] if row else 0
        return os.fsdecode(self.text[start : self.ends[row]].tobytes())

    def path(self, row: int) -> str:
        """Return the path of a file."""
        return os.path.join(self.root, self.relative_path(row) + self.suffix)


@dataclass(frozen=True)
class FileSplit:
    """The images of one split as files. Labels are on one device; the files are decoded batch by batch, or once."""

    files: ImageFiles
    rows: np.ndarray  # int64 [N], positions among the files
    labels: Tensor  # int64 [N]

    def to(self, device: str) -> "FileSplit":
        """Copy the labels to a device."""
        return FileSplit(self.files, self.rows, self.labels.to(device))

    def part(self, rows: slice) -> "FileSplit":
        """Return some of the images."""
        return FileSplit(self.files, self.rows[rows], self.labels[rows])

    def path(self, index: int) -> str:
        """Return the path of an image."""
        return self.files.path(int(self.rows[index]))


@dataclass(frozen=True)
class Listing:
    """A data set of image files: the files of both parts, and the names of the classes in the order of the labels."""

    train: ImageFiles
    test: ImageFiles
    class_names: tuple[str, ...]

    @property
    def y_train(self) -> Tensor:
        """Labels of the training set [N]."""
        return self.train.labels

    @property
    def y_test(self) -> Tensor:
        """Labels of the test set [M]."""
        return self.test.labels


def list_image_files(root: Path, files: Iterable[tuple[str, int]], *, as_shown: bool = False) -> ImageFiles:
    """Make arrays of (path, label); the sizes are read. root: a folder above all paths.

    Raises UserError where a file vanishes, or the path of one cannot be looked up.
    """
    text, ends, sizes, labels = bytearray(), array("q"), array("q"), array("q")
    for path, label in files:
        try:
            sizes.append(os.stat(path).st_size)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        text += os.fsencode(path.removeprefix(f"{root}{os.sep}"))
        ends.append(len(text))
        labels.append(label)
    offsets, lengths, targets = (np.array(column, np.int64) for column in (ends, sizes, labels))
    all_paths = np.frombuffer(bytes(text), np.uint8)
    return ImageFiles(root, all_paths, offsets, lengths, torch.from_numpy(targets), as_shown)


def list_classes(root: Path, folders: Mapping[str, Path], *, as_shown: bool = False) -> ImageFiles:
    """List the files in the folder of each class, by name; classes are labeled in their order.

    Hidden files and those of file managers are left out. Raises UserError where a class has no file.
    """

    def files() -> Iterable[tuple[str, int]]:
        for label, (name, folder) in enumerate(folders.items()):
            empty = True
            for path in list_files(folder):
                empty = False
                yield path, label
            if empty:
                raise UserError(f"{folder} has no image of class {name}")

    return list_image_files(root, files(), as_shown=as_shown)


def list_image_folder(root: Path) -> Listing:
    """List `<root>/train/<class>/**` and `<root>/test/<class>/**` (`val` where there is no `test`).

    Raises UserError where a folder is missing or empty, or where the classes of both differ.
    """
    test = test_folder(root)
    names = {folder: class_names(folder) for folder in (root / "train", test)}
    check_same_classes(names)
    train, tested = (
        list_classes(root, {name: folder / name for name in names[folder]}, as_shown=True) for folder in names
    )
    return Listing(train, tested, tuple(names[test]))


def fingerprint_of_files(splits: Mapping[str, FileSplit]) -> str:
    """Return the SHA-256 (hex) of the files' relative paths, sizes in bytes, and labels, of all splits.

    The content is not read, which would take an hour for ImageNet: a file that is exchanged for another of the same
    name and size is not noticed.
    """
    digest = hashlib.sha256()
    for name, split in splits.items():
        digest.update(f"{name} {len(split.rows)} files\0".encode())
        for row in split.rows:
            digest.update(os.fsencode(split.files.relative_path(int(row))) + b"\0")
        digest.update(split.files.sizes[split.rows].tobytes())
        digest.update(split.labels.numpy().tobytes())
    return digest.hexdigest()


def read_images(split: FileSplit, size: int) -> Tensor:
    """Decode all images of a split, the shorter side resized to `size` pixels and the center cropped: uint8
    [N, 3, size, size] in channels_last memory.

    Threads decode side by side, as PIL works outside Python's lock. Raises UserError where files cannot be decoded.
    """
    unreadable, images = Unreadable(), np.empty((len(split.rows), size, size, 3), np.uint8)

    def fill(index: int) -> None:
        path = split.path(index)
        try:
            images[index] = whole(decode(path, split.files.as_shown), size, size)
        except UnreadableImage as error:
            unreadable.reasons[path] = str(error)

    in_threads(fill, range(len(images)), f"reading {len(images):,} images of {split.files.root}")
    unreadable.check()
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def in_threads(function: Callable[[int], None], indices: Sequence[int], title: str) -> None:
    """Call a function for each index, in as many threads as torch uses, and show the progress of many calls."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool, contextlib.ExitStack() as stack:
        meter = stack.enter_context(Meter(title, len(indices))) if len(indices) > CALLS_AT_ONCE else None
        for start in range(0, len(indices), CALLS_AT_ONCE):  # a pool keeps an object for every call that it is given
            part = indices[start : start + CALLS_AT_ONCE]
            list(pool.map(function, part))
            if meter is not None:
                meter.advance(len(part))
