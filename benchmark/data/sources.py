"""Where data sets come from: files are read and checked here, and refused with one line that names them."""

import contextlib
import http.client
import itertools
import pickle
import socket
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmark.errors import UserError

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
DOWNLOAD_TIMEOUT = 30.0  # seconds without an answer


@dataclass(frozen=True)
class Arrays:
    """A checked data set as it lies in its files: square uint8 images [N, H, H, 3], labels [N] int64 below C."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Cifar:
    """What is known of one of the two CIFAR data sets."""

    classes: int
    train: int  # training images per class
    test: int  # test images per class
    folder: str  # where torchvision unpacks it


CIFAR = {
    "cifar10": Cifar(10, 5_000, 1_000, "cifar-10-batches-py"),
    "cifar100": Cifar(100, 500, 100, "cifar-100-python"),
}


def read_digits() -> tuple[Tensor, Tensor]:
    """All 1,797 handwritten digits of scikit-learn: uint8 [1797, 8, 8, 3] with equal channels, labels [1797].

    They are the test half of the UCI "Optical Recognition of Handwritten Digits", grey values from 0 to 16.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = torch.from_numpy(digits.images * 255 / 16).round().to(torch.uint8)
    return grey[..., None].expand(-1, -1, -1, 3).contiguous(), torch.from_numpy(digits.target).long()


def read_cifar(name: str, folder: Path) -> Arrays:
    """CIFAR-10 or CIFAR-100: from `<name>.npz` in `folder`, or from torchvision's files there, downloaded if absent.

    Raises UserError where there is neither, where nothing can be downloaded, or where the content is not CIFAR's.
    """
    npz, known = folder / f"{name}.npz", CIFAR[name]
    if npz.exists():
        arrays, source = read_npz(npz), npz
    else:
        arrays, source = _torchvision_cifar(name, folder), folder / known.folder
    if len(arrays.class_names) != known.classes:
        raise UserError(f"{source}: {len(arrays.class_names)} classes, but {name} has {known.classes}")
    for split, images, labels, each in (
        ("train", arrays.x_train, arrays.y_train, known.train),
        ("test", arrays.x_test, arrays.y_test, known.test),
    ):
        wanted = (each * known.classes, 32, 32, 3)
        if tuple(images.shape) != wanted:
            raise UserError(f"{source}: x_{split} has shape {tuple(images.shape)}, but {name} has {wanted}")
        counts = labels.bincount(minlength=known.classes)
        if (counts != each).any():
            wrong = int((counts != each).nonzero()[0])
            raise UserError(
                f"{source}: y_{split} has {counts[wrong]} images of class {wrong}, but {name} has {each} of each class"
            )
    return arrays


def _torchvision_cifar(name: str, folder: Path) -> Arrays:
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _timeout(DOWNLOAD_TIMEOUT):
            train, test = kind(str(folder), train=True, download=True), kind(str(folder), train=False)
    except (OSError, RuntimeError, EOFError, http.client.HTTPException, pickle.UnpicklingError) as e:
        raise UserError(
            f"{name} is not in {folder} and cannot be downloaded ({_one_line(e)}): "
            f"put {name}.npz ({', '.join(ARRAYS)}) or torchvision's folder {CIFAR[name].folder} into {folder}"
        ) from e
    return _check(
        str(folder / CIFAR[name].folder),
        {
            "x_train": train.data, "y_train": np.asarray(train.targets),
            "x_test": test.data, "y_test": np.asarray(test.targets),
            "class_names": np.array(train.classes),
        },
    )  # fmt: skip


@contextlib.contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """A limit for connections that give none, so that a silent firewall does not look like a hang."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def read_npz(path: Path) -> Arrays:
    """The arrays x_train, y_train, x_test, y_test and, where given, class_names of an `.npz` file, without pickles.

    Raises UserError where the file is missing, truncated or corrupt, or where an array is not as it must be: images
    uint8 [N, H, H, 3] (or grey, [N, H, H]), labels whole numbers from 0 to C − 1, each with a training image.
    """
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {what}: put an .npz file with {', '.join(ARRAYS)} there")
    try:
        found = np.load(path, allow_pickle=False)
        if not isinstance(found, np.lib.npyio.NpzFile):
            raise UserError(f"{path} holds a single array: an .npz file with {', '.join(ARRAYS)} is wanted")
    except PermissionError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}") from e
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
        raise UserError(f"{path} is not an .npz file, or is truncated or corrupt: make or copy it again") from e
    with found:
        if missing := [a for a in ARRAYS if a not in found]:
            raise UserError(f"{path} lacks {', '.join(missing)}: it holds {', '.join(found.files) or 'nothing'}")
        arrays = {}
        for name in (*ARRAYS, "class_names"):
            if name in found:
                arrays[name] = _read_array(path, found, name)
    return _check(str(path), arrays)


def _read_array(path: Path, found: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    try:
        return found[name]
    except (OSError, ValueError, EOFError, MemoryError, NotImplementedError, zipfile.BadZipFile, zlib.error) as e:
        if "pickle" in str(e):
            raise UserError(
                f"{path}: {name} is an array of Python objects, which is not loaded for safety: "
                f"save it as {'strings' if name == 'class_names' else 'numbers'}"
            ) from e
        raise UserError(f"{path}: {name} is truncated or corrupt ({_one_line(e)}): make or copy the file again") from e


def read_imagefolder(root: Path, size: int) -> Arrays:
    """A folder of images, `<root>/train/<class>/*` and `<root>/test/<class>/*` (or `val` where there is no `test`).

    Images are read as RGB, resized with the shorter side to `size`, and cropped to the centre. Raises UserError where
    a folder is missing or empty, where the classes of both differ, or where an image cannot be read.
    """
    test = root / "test" if (root / "test").is_dir() or not (root / "val").is_dir() else root / "val"
    for folder in (root, root / "train", test):
        if not folder.is_dir():
            raise UserError(
                f"{folder} is not a folder: images belong in {root}/train/<class>/ and {root}/test/<class>/"
            )
    x_train, y_train, names = _read_images(root / "train", size)
    x_test, y_test, test_names = _read_images(test, size)
    if names != test_names:
        odd = sorted(set(names) ^ set(test_names))
        where = root / "train" if odd[0] in names else test
        raise UserError(f"class {odd[0]!r} is in {where} only: {root / 'train'} and {test} must have the same classes")
    return _check(
        str(root),
        {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test, "class_names": np.array(names)},
    )


def _read_images(folder: Path, size: int) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import functional

    try:
        found = ImageFolder(str(folder), loader=lambda path: path)
    except OSError as e:
        raise UserError(f"{folder}: {_one_line(e)}") from e
    images = np.empty((len(found.samples), size, size, 3), np.uint8)
    for i, (path, _) in enumerate(found.samples):
        try:
            with Image.open(path) as image:
                images[i] = functional.center_crop(functional.resize(image.convert("RGB"), size), [size, size])
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
            raise UserError(f"{path} cannot be read as an image ({_one_line(e)}): remove or replace it") from e
    return images, np.array(found.targets), tuple(found.classes)


def _check(source: str, arrays: dict[str, np.ndarray]) -> Arrays:
    """The arrays as tensors. Raises UserError, which names `source`, where one is not as it must be."""
    images = {s: _check_images(source, f"x_{s}", arrays[f"x_{s}"]) for s in ("train", "test")}
    labels = {s: _check_labels(source, f"y_{s}", arrays[f"y_{s}"], len(images[s])) for s in ("train", "test")}
    if images["train"].shape[1:] != images["test"].shape[1:]:
        raise UserError(
            f"{source}: images of x_train are {images['train'].shape[1:]}, of x_test {images['test'].shape[1:]}: "
            "they must have the same shape"
        )
    names = _check_names(source, arrays.get("class_names"))
    present = np.unique(labels["train"])
    classes = len(names) if names is not None else int(present[-1]) + 1
    for split, values in labels.items():
        if (highest := int(values.max())) >= classes:
            owner = "y_train" if names is None else "class_names"
            raise UserError(
                f"{source}: y_{split} holds the label {highest}, but {owner} has classes 0 to {classes - 1}"
            )
    if len(present) < classes:
        # counted up from 0, so that a wild label does not make a wild list
        absent = next(c for c in itertools.count() if c >= len(present) or present[c] != c)
        named = "" if names is None else f" ({names[absent]})"
        raise UserError(
            f"{source}: class {absent}{named} has no training image, yet there are classes up to {classes - 1}: "
            "labels must be 0 to C − 1 without a gap"
        )
    if classes < 2:
        raise UserError(f"{source}: all training images are of one class: at least two are needed")
    x = {s: torch.from_numpy(np.ascontiguousarray(v)) for s, v in images.items()}
    y = {s: torch.from_numpy(v.astype(np.int64)) for s, v in labels.items()}
    return Arrays(x["train"], y["train"], x["test"], y["test"], names or tuple(map(str, range(classes))))


def _check_images(source: str, name: str, images: np.ndarray) -> np.ndarray:
    if images.dtype != np.uint8:
        numeric = images.size and images.dtype.kind in "iuf"
        range_ = f" from {images.min():g} to {images.max():g}" if numeric else ""
        raise UserError(f"{source}: {name} is {images.dtype}{range_}: uint8 from 0 to 255 is wanted")
    if images.ndim == 3:
        images = np.repeat(images[..., None], 3, axis=3)
    if images.ndim != 4 or images.shape[3] != 3:
        shape = tuple(images.shape)
        turned = " (channels come last)" if images.ndim == 4 and images.shape[1] == 3 else ""
        raise UserError(f"{source}: {name} has shape {shape}: [N, H, H, 3] is wanted{turned}, or [N, H, H] for grey")
    if images.shape[1] != images.shape[2]:
        height, width = images.shape[1:3]
        raise UserError(f"{source}: {name} has images of {height} × {width} pixels: square ones are wanted")
    if images.size == 0:
        raise UserError(f"{source}: {name} is empty")
    return images


def _check_labels(source: str, name: str, labels: np.ndarray, images: int) -> np.ndarray:
    if labels.dtype.kind not in "iu":
        raise UserError(f"{source}: {name} is {labels.dtype}: whole numbers (int64) are wanted")
    if labels.ndim != 1:
        raise UserError(f"{source}: {name} has shape {tuple(labels.shape)}: one label per image, [N], is wanted")
    if len(labels) != images:
        raise UserError(f"{source}: {name} has {len(labels)} labels, but x_{name[2:]} has {images} images")
    if (lowest := int(labels.min())) < 0:
        raise UserError(f"{source}: {name} holds the label {lowest}: labels count from 0")
    return labels


def _check_names(source: str, names: np.ndarray | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    if names.ndim != 1 or names.dtype.kind not in "US" or not len(names):
        raise UserError(f"{source}: class_names is {names.dtype} {tuple(names.shape)}: a list of strings is wanted")
    return tuple(n.decode(errors="replace") if isinstance(n, bytes) else str(n) for n in names.tolist())


def _one_line(e: BaseException) -> str:
    return " ".join(str(e).split()) or type(e).__name__
