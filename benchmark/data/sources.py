"""Sources of data sets: read and check files; every error is one line that names the file."""

import contextlib
import http.client
import itertools
import pickle
import socket
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from benchmark.data import image_folder
from benchmark.errors import UserError, message_line
from benchmark.progress import Meter

ARRAYS = ("x_train", "y_train", "x_test", "y_test")  # names in an .npz file
DOWNLOAD_TIMEOUT = 30.0  # seconds without a response

Images = tuple[np.ndarray, np.ndarray]  # uint8 [N, H, H, 3] and labels [N]


@dataclass(frozen=True)
class Arrays:
    """The checked content of a data set's files: square uint8 images [N, H, H, 3], labels [N] int64 below C."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class CifarFormat:
    """Expected sizes of a data set that torchvision downloads, and the folder into which it unpacks it."""

    classes: int
    train: int  # training images per class
    test: int  # test images per class
    folder: str
    side: int = 32  # pixels


CIFAR = {
    "cifar10": CifarFormat(10, 5_000, 1_000, "cifar-10-batches-py"),
    "cifar100": CifarFormat(100, 500, 100, "cifar-100-python"),
    "stl10": CifarFormat(10, 500, 800, "stl10_binary", 96),  # its unlabeled images are not read
}


DIGITS = 1797  # images of scikit-learn's digits


def cifar_is_present(name: str, folder: Path) -> bool:
    """Return whether CIFAR-10, CIFAR-100 or STL-10 is in `folder`, in either form that `read_cifar` reads."""
    return (folder / f"{name}.npz").exists() or (folder / CIFAR[name].folder).is_dir()


def read_digits() -> tuple[Tensor, Tensor]:
    """Return the 1,797 handwritten digits of scikit-learn: uint8 [1797, 8, 8, 3] with equal channels, labels [1797].

    They are the test half of the UCI "Optical Recognition of Handwritten Digits", gray values from 0 to 16.
    """
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    gray = torch.from_numpy(digits.images * 255 / 16).round().to(torch.uint8)
    return gray[..., None].expand(-1, -1, -1, 3).contiguous(), torch.from_numpy(digits.target).long()


def read_cifar(name: str, folder: Path) -> Arrays:
    """Read CIFAR-10, CIFAR-100 or STL-10 from `<name>.npz` or torchvision's files in `folder`; download the latter if
    absent.

    Raises UserError where there is neither and the download fails, or where the content is not that data set's.
    """
    npz, expected = folder / f"{name}.npz", CIFAR[name]
    if npz.exists():
        arrays, source = read_npz(npz), npz
    else:
        arrays, source = _torchvision_cifar(name, folder), folder / expected.folder
    if len(arrays.class_names) != expected.classes:
        raise UserError(f"{source}: {len(arrays.class_names)} classes, but {name} has {expected.classes}")
    for split, images, labels, per_class in (
        ("train", arrays.x_train, arrays.y_train, expected.train),
        ("test", arrays.x_test, arrays.y_test, expected.test),
    ):
        shape = (per_class * expected.classes, expected.side, expected.side, 3)
        if tuple(images.shape) != shape:
            raise UserError(f"{source}: x_{split} has shape {tuple(images.shape)}, but {name} has {shape}")
        counts = labels.bincount(minlength=expected.classes)
        if (counts != per_class).any():
            label = int((counts != per_class).nonzero()[0])
            raise UserError(
                f"{source}: y_{split} has {counts[label]} images of class {label}, but {name} has {per_class} per class"
            )
    return arrays


def _torchvision_cifar(name: str, folder: Path) -> Arrays:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        absent = not (folder / CIFAR[name].folder).is_dir()
        with Meter(f"download of {name}") if absent else contextlib.nullcontext(), _timeout(DOWNLOAD_TIMEOUT):
            splits = (_stl10 if name == "stl10" else _cifar)(name, str(folder))
    except (OSError, RuntimeError, EOFError, http.client.HTTPException, pickle.UnpicklingError) as error:
        raise UserError(
            f"{name} is not in {folder} and cannot be downloaded ({message_line(error)}): "
            f"put {name}.npz ({', '.join(ARRAYS)}) or torchvision's folder {CIFAR[name].folder} into {folder}"
        ) from error
    (x_train, y_train), (x_test, y_test), names = splits
    return _check_arrays(
        str(folder / CIFAR[name].folder),
        {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test, "class_names": np.array(names)},
    )


def _cifar(name: str, folder: str) -> tuple[Images, Images, list[str]]:
    """Return images [N, 32, 32, 3] and labels [N] of training and test set, and the names of the classes."""
    from torchvision import datasets

    dataset_class = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    train, test = dataset_class(folder, train=True, download=True), dataset_class(folder, train=False)
    return (train.data, np.asarray(train.targets)), (test.data, np.asarray(test.targets)), train.classes


def _stl10(name: str, folder: str) -> tuple[Images, Images, list[str]]:
    """Likewise for STL-10, whose images are [N, 96, 96, 3] here; the files of its unlabeled images need not exist."""
    from torchvision import datasets

    class Labeled(datasets.STL10):
        train_list: ClassVar = [entry for entry in datasets.STL10.train_list if "unlabeled" not in entry[0]]

    train, test = Labeled(folder, split="train", download=True), Labeled(folder, split="test")
    splits = [(part.data.transpose(0, 2, 3, 1), np.asarray(part.labels).astype(np.int64)) for part in (train, test)]
    return splits[0], splits[1], list(train.classes)


@contextlib.contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Limit the wait of new connections, so that a download behind a silent firewall fails instead of hanging."""
    default = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(default)


def read_npz(path: Path) -> Arrays:
    """Read x_train, y_train, x_test, y_test and optionally class_names from an `.npz` file, without pickles.

    Images are uint8 [N, H, H, 3], or gray [N, H, H]; labels are integers from 0 to C − 1, each with a training image.
    Raises UserError where the file is missing, truncated or corrupt, or where an array has another form.
    """
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "is not a file" if path.exists() else "does not exist"
        raise UserError(f"{path} {what}: put an .npz file with {', '.join(ARRAYS)} there")
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise UserError(f"{path} holds a single array: expected an .npz file with {', '.join(ARRAYS)}")
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not an .npz file, or is truncated or corrupt: make or copy it again") from error
    with file:
        if missing := [name for name in ARRAYS if name not in file]:
            raise UserError(f"{path} lacks {', '.join(missing)}: it holds {', '.join(file.files) or 'nothing'}")
        arrays = {name: _read_array(path, file, name) for name in (*ARRAYS, "class_names") if name in file}
    return _check_arrays(str(path), arrays)


def _read_array(path: Path, file: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    try:
        return file[name]
    except Exception as error:  # numpy, zipfile and its decoders raise many kinds of errors for a broken file
        if "pickle" in str(error):
            raise UserError(
                f"{path}: {name} is an array of Python objects, which is not loaded for safety: "
                f"save it as {'strings' if name == 'class_names' else 'numbers'}"
            ) from error
        reason = message_line(error)
        raise UserError(f"{path}: {name} is truncated or corrupt ({reason}): make or copy the file again") from error


def read_imagefolder(root: Path, size: int) -> Arrays:
    """Read a folder of images: `<root>/train/<class>/*` and `<root>/test/<class>/*` (`val` where there is no `test`).

    Images are read as `image_folder.read_classes` does. Raises UserError where a folder is missing or empty, where the
    classes of both differ, or where files cannot be read as images.
    """
    test = image_folder.test_folder(root)
    unreadable = image_folder.Unreadable()
    x_train, y_train, names = image_folder.read_classes(root / "train", size, unreadable)
    x_test, y_test, test_names = image_folder.read_classes(test, size, unreadable)
    unreadable.check()
    image_folder.check_same_classes({root / "train": names, test: test_names})
    return _check_arrays(
        str(root),
        {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test, "class_names": np.array(names)},
    )


def _check_arrays(source: str, arrays: dict[str, np.ndarray]) -> Arrays:
    """Check the arrays and convert them to tensors. Raises UserError, naming `source`, where one is malformed."""
    images = {s: _check_images(source, f"x_{s}", arrays[f"x_{s}"]) for s in ("train", "test")}
    labels = {s: _check_labels(source, f"y_{s}", arrays[f"y_{s}"], len(images[s])) for s in ("train", "test")}
    if images["train"].shape[1:] != images["test"].shape[1:]:
        raise UserError(
            f"{source}: images of x_train are {images['train'].shape[1:]}, of x_test {images['test'].shape[1:]}: "
            "they must have the same shape"
        )
    names = _check_names(source, arrays.get("class_names"))
    classes = _check_classes(source, labels, names)
    x = {s: torch.from_numpy(np.ascontiguousarray(v)) for s, v in images.items()}
    y = {s: torch.from_numpy(v.astype(np.int64)) for s, v in labels.items()}
    return Arrays(x["train"], y["train"], x["test"], y["test"], names or tuple(map(str, range(classes))))


def _check_images(source: str, name: str, images: np.ndarray) -> np.ndarray:
    """Check images and return them as uint8 [N, H, H, 3]; the channels of gray ones are repeated."""
    if images.dtype != np.uint8:
        numeric = images.size and images.dtype.kind in "iuf"
        interval = f" from {images.min():g} to {images.max():g}" if numeric else ""
        raise UserError(f"{source}: {name} is {images.dtype}{interval}: expected uint8 from 0 to 255")
    if images.ndim == 3:
        images = np.repeat(images[..., None], 3, axis=3)
    if images.ndim != 4 or images.shape[3] != 3:
        hint = " (channels come last)" if images.ndim == 4 and images.shape[1] == 3 else ""
        raise UserError(
            f"{source}: {name} has shape {tuple(images.shape)}: expected [N, H, H, 3]{hint}, or [N, H, H] for gray"
        )
    if images.shape[1] != images.shape[2]:
        height, width = images.shape[1:3]
        raise UserError(f"{source}: {name} has images of {height} × {width} pixels: they must be square")
    if images.size == 0:
        raise UserError(f"{source}: {name} is empty")
    return images


def _check_labels(source: str, name: str, labels: np.ndarray, n_images: int) -> np.ndarray:
    if labels.dtype.kind not in "iu":
        raise UserError(f"{source}: {name} is {labels.dtype}: expected integers (int64)")
    if labels.ndim != 1:
        raise UserError(f"{source}: {name} has shape {tuple(labels.shape)}: expected [N], one label per image")
    if len(labels) != n_images:
        raise UserError(f"{source}: {name} has {len(labels)} labels, but x_{name[2:]} has {n_images} images")
    if (lowest := int(labels.min())) < 0:
        raise UserError(f"{source}: {name} holds the label {lowest}: labels count from 0")
    return labels


def _check_names(source: str, names: np.ndarray | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    if names.ndim != 1 or names.dtype.kind not in "US" or not len(names):
        raise UserError(f"{source}: class_names is {names.dtype} {tuple(names.shape)}: expected a list of strings")
    return tuple(n.decode(errors="replace") if isinstance(n, bytes) else str(n) for n in names.tolist())


def _check_classes(source: str, labels: dict[str, np.ndarray], names: tuple[str, ...] | None) -> int:
    """Return the number of classes. Raises UserError for labels beyond it, a class without a training image, or a
    single class."""
    present = np.unique(labels["train"])
    classes = len(names) if names is not None else int(present[-1]) + 1
    for split, values in labels.items():
        if (highest := int(values.max())) >= classes:
            reference = "y_train" if names is None else "class_names"
            raise UserError(
                f"{source}: y_{split} holds the label {highest}, but {reference} has classes 0 to {classes - 1}"
            )
    if len(present) < classes:
        # `classes` may be huge because of one wild label, so classes are not listed
        absent = next(c for c in itertools.count() if c >= len(present) or present[c] != c)
        name = "" if names is None else f" ({names[absent]})"
        raise UserError(
            f"{source}: class {absent}{name} has no training image, yet there are classes up to {classes - 1}: "
            "labels must be 0 to C − 1 without a gap"
        )
    if classes < 2:
        raise UserError(f"{source}: all training images are of one class: at least two are needed")
    return classes
