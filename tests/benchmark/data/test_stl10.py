"""STL-10 in the format of its archive: binary files of images in column order, and labels that count from 1."""

import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from torchvision.datasets import STL10

from benchmark.data import sources
from benchmark.data.datasets import load
from tests.benchmark.data.examples import dataset_config, error_message
from tests.benchmark.data.test_sources import offline  # noqa: F401

NAMES = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """STL-10 with two training images and one test image of each class, known to torchvision by its checksums."""
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    rng, images, checksums = np.random.default_rng(0), {}, {}
    for part, per_class in (("train", 2), ("test", 1)):
        images[part] = rng.integers(0, 256, (10 * per_class, 96, 96, 3), dtype=np.uint8)
        labels = np.tile(np.arange(1, 11, dtype=np.uint8), per_class)
        # channels first, and each channel column by column
        (folder / f"{part}_X.bin").write_bytes(images[part].transpose(0, 3, 2, 1).tobytes())
        (folder / f"{part}_y.bin").write_bytes(labels.tobytes())
    (folder / "class_names.txt").write_text("\n".join(NAMES) + "\n")
    for path in folder.glob("*.bin"):
        checksums[path.name] = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(STL10, "train_list", [[n, checksums.get(n, "0")] for n, _ in STL10.train_list])
    monkeypatch.setattr(STL10, "test_list", [[n, checksums[n]] for n, _ in STL10.test_list])
    monkeypatch.setitem(sources.CIFAR, "stl10", dataclasses.replace(sources.CIFAR["stl10"], train=2, test=1))
    return images


def test_stl10_is_read_upright_without_its_unlabeled_images(tmp_path, files):
    dataset = load(dataset_config("stl10"), tmp_path)
    assert torch.equal(dataset.train.images, torch.from_numpy(files["train"]).permute(0, 3, 1, 2))
    assert dataset.train.labels.tolist() == [*range(10), *range(10)] and dataset.test.labels.tolist() == [*range(10)]
    assert dataset.class_names == tuple(NAMES)


def test_stl10_is_resized(tmp_path, files):
    assert load(dataset_config("stl10", size=32, padding=4), tmp_path).test.images.shape == (10, 3, 32, 32)


def test_a_damaged_file_of_stl10_is_downloaded_again_or_named(tmp_path, files, offline):  # noqa: F811
    (tmp_path / "stl10_binary" / "train_X.bin").write_bytes(b"0")
    error = error_message("stl10", tmp_path)
    assert all(part in error for part in ("stl10", "stl10_binary", str(tmp_path), "no network"))
