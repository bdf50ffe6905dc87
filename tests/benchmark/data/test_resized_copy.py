"""Resized copies: their pixels, what an interruption leaves, and that runs on them are told apart."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.data import resized_copy
from benchmark.data.datasets import load
from benchmark.data.image_files import FileSplit
from benchmark.data.streaming import make_loader
from benchmark.errors import UserError
from benchmark.grid.identity import dataset_identity
from tests.benchmark.data.examples import dataset_config, error_message
from tests.benchmark.data.layouts import WNIDS, write_image


@pytest.fixture
def root(tmp_path):
    """ImageNet's layout with one large and one small photograph of each class."""
    for part in ("train", "val"):
        for seed, wnid in enumerate(WNIDS):
            write_image(tmp_path / "imagenet" / part / wnid / "large.JPEG", seed, (600, 400))
            write_image(tmp_path / "imagenet" / part / wnid / "small.JPEG", seed, (100, 80))
    return tmp_path


def train_split(folder, **changes) -> FileSplit:
    split = load(dataset_config("imagenet", size=64, workers=0, **changes), folder).train
    assert isinstance(split, FileSplit)
    return split


def hashes(folder) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*.jpg"))}


def test_a_copy_has_a_shorter_side_of_256_pixels_and_small_images_keep_theirs(root, tmp_path):
    original = train_split(root)
    copied = resized_copy.ensure(original, str(tmp_path / "copy"))
    assert copied.labels is original.labels and copied.path(0).endswith("train/n01/large.JPEG.jpg")
    for index, size in enumerate([(384, 256), (100, 80)]):
        with Image.open(copied.path(index)) as image, Image.open(original.path(index)) as source:
            assert image.size == size and image.format == "JPEG"
            expected = np.asarray(source.resize(size, Image.Resampling.BILINEAR), np.float32)
            assert np.abs(np.asarray(image, np.float32) - expected).mean() < 2, "JPEG's loss"


def test_only_the_images_of_the_split_are_copied_and_another_split_adds_its_own(root, tmp_path):
    first = resized_copy.ensure(train_split(root, classes=2), str(tmp_path / "copy"))
    assert len(list((tmp_path / "copy").rglob("*.jpg"))) == 4
    resized_copy.ensure(train_split(root, classes=2, train_size=2), str(tmp_path / "copy"))
    assert len(list((tmp_path / "copy").rglob("*.jpg"))) == 4, "it is part of the first"
    assert resized_copy.ensure(train_split(root, classes=2), str(tmp_path / "copy")).path(3) == first.path(3)


def test_an_interrupted_copy_is_continued(root, tmp_path, monkeypatch):
    complete = resized_copy.ensure(train_split(root), str(tmp_path / "complete"))
    expected = sorted(hashes(tmp_path / "complete").values())
    make, made = resized_copy._make, []

    def fail_after_two(*arguments):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(arguments)
        make(*arguments)

    monkeypatch.setattr(resized_copy, "_make", fail_after_two)
    with pytest.raises(KeyboardInterrupt):
        resized_copy.ensure(train_split(root), str(tmp_path / "copy"))
    half = hashes(tmp_path / "copy")
    made.clear()
    monkeypatch.setattr(resized_copy, "_make", lambda *arguments: (made.append(arguments), make(*arguments)))
    resized_copy.ensure(train_split(root), str(tmp_path / "copy"))
    assert len(half) == 2 and len(made) == 4 and half.items() <= hashes(tmp_path / "copy").items()
    assert sorted(hashes(tmp_path / "copy").values()) == expected and complete.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert not list((tmp_path / "copy").rglob("*.part"))


def test_training_reads_the_copy_and_its_runs_have_an_identity_of_their_own(root, tmp_path):
    plain, copied = (
        load(dataset_config("imagenet", size=64, workers=0, cache_dir=folder), root)
        for folder in (None, str(tmp_path / "copy"))
    )
    loaders = [make_loader(dataset.train, dataset.config, 6, 0, "cpu") for dataset in (plain, copied)]
    centers = [loader.unaugmented(torch.arange(6)) for loader in loaders]
    assert len(list((tmp_path / "copy").rglob("*.jpg"))) == 6
    assert 0 < (centers[0] - centers[1]).abs().mean() < 0.05, "on a scale of about −2 to 2"
    assert not torch.equal(*(next(loader.epoch(1)).images[0] for loader in loaders))
    identities = [dataset_identity(d) for d in (plain, copied)]
    assert identities[1] == {**identities[0], "resized_copy": "shorter side 256, JPEG quality 90"}


def test_an_unreadable_original_is_named(root, tmp_path):
    (root / "imagenet" / "train" / "n01" / "small.JPEG").write_text("no image")
    with pytest.raises(UserError, match=r"small\.JPEG cannot be read as an image"):
        resized_copy.ensure(train_split(root), str(tmp_path / "copy"))


def test_a_copy_is_refused_where_its_images_are_too_small(tmp_path):
    message = error_message("imagenet", tmp_path, size=256, cache_dir="copy")
    assert "too small for dataset.size=256: leave it out, or give a size of at most 224" in message
