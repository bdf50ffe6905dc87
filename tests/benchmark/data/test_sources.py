"""Sources of data sets: what `.npz` files, CIFAR and image folders give, and the errors that name a malformed one."""

import dataclasses
import hashlib
import os
import pickle
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.data import sources
from benchmark.data.datasets import load
from benchmark.data.loader import Loader
from tests.benchmark.data.examples import (
    NO_FOLDER,
    dataset_config,
    error_message,
    load_arrays,
    random_arrays,
    save,
)

Arrays = dict[str, np.ndarray]
Change = Callable[[Arrays], object]


def replace(name: str, make: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Replace an array by a function of it."""
    return lambda arrays: arrays.update({name: make(arrays[name])})


def add_names(*names: object, dtype: type | None = None) -> Change:
    return lambda arrays: arrays.update(class_names=np.array(names, dtype))


def first_label(name: str, value: int) -> Change:
    """Replace the first label of an array."""
    return replace(name, lambda labels: np.concatenate([[value], labels[1:]]))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# ------------------------------------------------------------ .npz files


def test_an_npz_file_is_read_unchanged(tmp_path):
    arrays = random_arrays()
    dataset = load_arrays(tmp_path, arrays | {"class_names": np.array(["ant", "bee", "cat"])})
    assert dataset.class_names == ("ant", "bee", "cat") and dataset.classes == 3
    assert np.array_equal(dataset.train.images.numpy(), arrays["x_train"].transpose(0, 3, 1, 2))
    assert np.array_equal(dataset.test.images.numpy(), arrays["x_test"].transpose(0, 3, 1, 2))
    assert dataset.train.labels.tolist() == arrays["y_train"].tolist()
    assert dataset.train.images.is_contiguous(memory_format=torch.channels_last)
    absolute = load(dataset_config("npz", file=str(tmp_path / "mine.npz"), size=16), NO_FOLDER)
    assert absolute.fingerprint == dataset.fingerprint


def test_gray_images_get_three_equal_channels(tmp_path):
    arrays = random_arrays()
    gray = arrays | {name: arrays[name][..., 0] for name in ("x_train", "x_test")}
    dataset = load_arrays(tmp_path, gray)
    assert np.array_equal(dataset.train.images.numpy(), np.stack([gray["x_train"]] * 3, axis=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("y_test"), "lacks y_test: it holds x_train, y_train, x_test"),
        (replace("x_train", lambda x: x.astype(object)), "x_train is an array of Python objects"),
        (add_names("a", "b", "c", dtype=object), "class_names is an array of Python objects"),
        (replace("x_train", lambda x: x[..., :2]), "x_train has shape (24, 16, 16, 2): expected [N, H, H, 3], or"),
        (replace("x_test", lambda x: x.transpose(0, 3, 1, 2)), "expected [N, H, H, 3] (channels come last)"),
        (replace("x_train", lambda x: x[:, :, :12]), "x_train has images of 16 × 12 pixels: they must be square"),
        (replace("x_test", lambda x: x[:, :12, :12]), "of x_test (12, 12, 3): they must have the same shape"),
        (replace("y_train", lambda y: y[:-1]), "y_train has 23 labels, but x_train has 24 images"),
        (replace("y_test", lambda y: y[:, None]), "y_test has shape (12, 1): expected [N]"),
        (replace("x_train", lambda x: x / np.float32(255)), "x_train is float32 from 0 to 1: expected uint8"),
        (replace("x_test", lambda x: x.astype(np.int64) + 1), "to 256: expected uint8 from 0 to 255"),
        (replace("y_train", lambda y: y.astype(float)), "y_train is float64: expected integers"),
        (first_label("y_train", -1), "y_train holds the label -1: labels count from 0"),
        (first_label("y_test", 3), "y_test holds the label 3, but y_train has classes 0 to 2"),
        (first_label("y_train", 10**15), "class 3 has no training image"),
        (replace("y_train", lambda y: y + 1), "class 0 has no training image"),
        (lambda a: a.update(y_train=a["y_train"] * 0, y_test=a["y_test"] * 0), "all training images are of one class"),
        (add_names("a", "b"), "label 2, but class_names has classes 0 to 1"),
        (add_names("a", "b", "c", "d"), "class 3 (d) has no training image"),
        (add_names(0, 1, 2), "class_names is int64"),
        (lambda a: a.update(x_test=a["x_test"][:0], y_test=a["y_test"][:0]), "x_test is empty"),
    ],
)
def test_a_malformed_array_is_named(tmp_path, change, message):
    arrays = random_arrays()
    change(arrays)
    path = save(tmp_path, arrays)
    error = error_message("npz", tmp_path, file="mine.npz", size=16)
    assert message in error and str(path) in error


def flip_byte(path: Path) -> None:
    """Damage a byte of x_train."""
    content = bytearray(path.read_bytes())
    content[5000] ^= 0xFF
    path.write_bytes(content)


def replace_member(header: bytes = b"", *, compression: int = zipfile.ZIP_STORED) -> Callable[[Path], None]:
    """Return a function that writes x_train anew, with this shape in its header."""

    def damage(path: Path) -> None:
        with zipfile.ZipFile(path) as file:
            members = {name: file.read(name) for name in file.namelist()}
        shape = b"(24, 16, 16, 3)"
        assert shape in members["x_train.npy"]
        members["x_train.npy"] = members["x_train.npy"].replace(shape, header or shape)
        with zipfile.ZipFile(path, "w", compression) as file:
            for name, content in members.items():
                file.writestr(name, content)

    return damage


def damage_lzma(path: Path) -> None:
    replace_member(compression=zipfile.ZIP_LZMA)(path)
    with zipfile.ZipFile(path) as file:
        start = file.getinfo("x_train.npy").header_offset
    content = bytearray(path.read_bytes())
    content[start + 60 : start + 90] = b"\xff" * 30
    path.write_bytes(content)


def encrypt(path: Path) -> None:
    """Set the flag of an encrypted member."""
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(signature)
        while at >= 0:
            content[at + offset] |= 1
            at = content.find(signature, at + 4)
    path.write_bytes(content)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "truncated or corrupt"),
        (flip_byte, "x_train is truncated or corrupt"),
        (replace_member(b"(9" + 12 * b"9" + b"9999999999, 16, 16, 3)"), "x_train is truncated or corrupt"),
        (replace_member(b"(True, 16, 16, 3)"), "x_train is truncated or corrupt"),
        (replace_member(b"(-24, 16, 16, 3)"), "x_train is truncated or corrupt"),
        (damage_lzma, "x_train is truncated or corrupt"),
        (encrypt, "x_train is truncated or corrupt"),
        (lambda p: (p.unlink(), os.mkfifo(p)), "is not a file: put an .npz file with"),
        (lambda p: p.write_bytes(b""), "truncated or corrupt"),
        (lambda p: p.write_bytes(pickle.dumps({"x_train": 1})), "truncated or corrupt"),
        (lambda p: np.save(p.open("wb"), np.zeros(3)), "single array"),
        (lambda p: p.unlink(), "does not exist: put an .npz file with x_train"),
        (lambda p: (p.unlink(), p.mkdir()), "is a folder"),
    ],
)
def test_a_damaged_npz_file_is_named(tmp_path, damage, message, write):
    path = tmp_path / "mine.npz"
    write(path, **random_arrays())
    damage(path)
    error = error_message("npz", tmp_path, file="mine.npz", size=16)
    assert message in error and str(path) in error


# ------------------------------------------------------------ CIFAR


@pytest.fixture
def small_cifar(monkeypatch) -> Arrays:
    """CIFAR-100 with two training images and one test image per class."""
    small = dataclasses.replace(sources.CIFAR["cifar100"], train=2, test=1)
    monkeypatch.setitem(sources.CIFAR, "cifar100", small)
    return random_arrays(classes=100, train=2, test=1, side=32)


@pytest.fixture
def offline(monkeypatch) -> None:
    def raise_error(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", raise_error)


def test_torchvision_files_and_an_npz_file_give_the_same_data(tmp_path, small_cifar, offline, monkeypatch):
    (tmp_path / "npz").mkdir()
    names = [f"class {i}" for i in range(100)]
    save(tmp_path / "npz", small_cifar | {"class_names": np.array(names)}, "cifar100.npz")
    folder = tmp_path / "torchvision" / "cifar-100-python"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        rows = small_cifar[f"x_{split}"].transpose(0, 3, 1, 2).reshape(-1, 3072)  # the archive's layout
        entry = {"data": rows, "fine_labels": small_cifar[f"y_{split}"].tolist()}
        (folder / split).write_bytes(pickle.dumps(entry))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)

    npz = load(dataset_config("cifar100"), tmp_path / "npz")
    torchvision = load(dataset_config("cifar100"), tmp_path / "torchvision")
    assert np.array_equal(npz.train.images.numpy(), small_cifar["x_train"].transpose(0, 3, 1, 2))
    assert torchvision.fingerprint == npz.fingerprint
    assert torchvision.class_names == npz.class_names == tuple(names)
    assert npz.config == dataset_config("cifar100")  # the usual mean and std


@pytest.mark.parametrize(("name", "unpacked"), [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")])
def test_missing_cifar_files_without_a_network_are_named(tmp_path, offline, name, unpacked):
    error = error_message(name, tmp_path / "data")
    assert all(part in error for part in (f"{name}.npz", unpacked, str(tmp_path / "data"), "no network"))


def test_a_data_folder_that_is_a_file_is_an_error(tmp_path, offline):
    (tmp_path / "data").write_text("a file")
    assert "cifar100.npz" in error_message("cifar100", tmp_path / "data")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(x_train=a["x_train"][:-1], y_train=a["y_train"][:-1]),
         "x_train has shape (199, 32, 32, 3), but cifar100 has (200, 32, 32, 3)"),
        (first_label("y_train", 1), "y_train has 1 images of class 0, but cifar100 has 2 per class"),
        (first_label("y_test", 7), "y_test has 0 images of class 0, but cifar100 has 1 per class"),
        (first_label("y_train", 100), "101 classes, but cifar100 has 100"),
        (lambda a: a.update({f"x_{s}": a[f"x_{s}"][:, :16, :16] for s in ("train", "test")}), "shape (200, 16, 16, 3)"),
    ],
)  # fmt: skip
def test_an_npz_file_with_other_content_than_cifar_is_an_error(tmp_path, small_cifar, change, message):
    change(small_cifar)
    path = save(tmp_path, small_cifar, "cifar100.npz")
    error = error_message("cifar100", tmp_path)
    assert message in error and str(path) in error


def test_cifar_has_the_official_sizes(tmp_path):
    for name, classes in (("cifar10", 10), ("cifar100", 100)):
        save(tmp_path, random_arrays(classes=classes, train=1, test=1, side=32), f"{name}.npz")
        assert f"but {name} has (50000, 32, 32, 3)" in error_message(name, tmp_path)
        save(tmp_path, random_arrays(classes=classes + 1, train=1, test=1, side=32), f"{name}.npz")
        assert f"{name} has {classes}" in error_message(name, tmp_path)


def test_the_official_cifar100_images():
    folder = Path(os.environ.get("KD_DATA", NO_FOLDER))
    if not (folder / "cifar100.npz").is_file():
        pytest.skip("needs the environment variable KD_DATA: a folder with cifar100.npz")
    dataset = load(dataset_config("cifar100", mean=None, std=None), folder)
    # SHA-256 of the official images in channel-first order
    for split, digest in (
        (dataset.train, "de64658905c6b161606e3649ddafce7cf86c7634a0cf9116d518e64ef46a33c5"),
        (dataset.test, "83c56492b2c11211ad1bb2dbd4f2eef4170a0441e41a41f3039c3144b1f5a511"),
    ):
        assert hashlib.sha256(split.images.contiguous().numpy().tobytes()).hexdigest() == digest
    assert dataset.config.mean == pytest.approx(dataset_config("cifar100").mean, abs=3e-4)
    assert dataset.config.std == pytest.approx(dataset_config("cifar100").std, abs=3e-4)
    loader = Loader(dataset.train, dataset.config, 64, 0, "cpu")
    assert len(loader) == 782 and loader.outcomes == 162
    with_validation = load(dataset_config("cifar100", validation=0.1), folder)
    assert with_validation.val is not None and with_validation.val.labels.bincount().tolist() == [50] * 100


# ------------------------------------------------------------ image folders


def make_folder(root: Path, test: str = "test") -> Path:
    """Write three images of each of two classes: a red left quarter, green of the class, a blue right quarter."""
    for split in ("train", test):
        for label, name in enumerate(("ant", "bee")):
            (root / split / name).mkdir(parents=True)
            for i in range(3):
                pixels = np.zeros((20, 40, 3), np.uint8)
                pixels[:, :10, 0], pixels[:, 10:30, 1], pixels[:, 30:, 2] = 255, 100 * (label + 1) + i, 255
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


@pytest.mark.parametrize("test", ["test", "val"])
def test_an_image_folder_is_resized_and_center_cropped(tmp_path, test):
    make_folder(tmp_path / "insects", test)
    dataset = load(dataset_config("imagefolder", root="insects", size=20, std=[1, 1, 1]), tmp_path)
    assert dataset.class_names == ("ant", "bee")
    assert dataset.train.images.shape == dataset.test.images.shape == (6, 3, 20, 20)
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.train.images[:, 1].flatten(1).unique(dim=1).flatten().tolist() == [100, 101, 102, 200, 201, 202]
    assert (dataset.train.images[:, [0, 2]] == 0).all()
    small = load(dataset_config("imagefolder", root=str(tmp_path / "insects"), size=16, std=[1, 1, 1]), NO_FOLDER)
    assert small.train.images.shape == (6, 3, 16, 16)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: r.rename(r.with_name("away")), "is not a folder: images belong in"),
        (lambda r: (r / "train").rename(r / "training"), "train is not a folder"),
        (lambda r: (r / "test").rename(r / "testing"), "test is not a folder"),
        (lambda r: (r / "test" / "bee").rename(r / "test" / "cat"), "class 'bee' is in"),
        (lambda r: [p.unlink() for p in (r / "train" / "bee").iterdir()], "bee"),
        (lambda r: (r / "test" / "ant" / "1.png").write_bytes(b"no image"), "1.png cannot be read as an image"),
        (lambda r: truncate(r / "train" / "ant" / "2.png"), "2.png cannot be read as an image"),
    ],
)
def test_a_malformed_image_folder_is_an_error(tmp_path, damage, message):
    damage(make_folder(tmp_path / "insects"))
    error = error_message("imagefolder", tmp_path, root="insects", size=16, std=[1, 1, 1])
    assert message in error and str(tmp_path / "insects") in error
