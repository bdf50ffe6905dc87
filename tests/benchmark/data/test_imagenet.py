"""ImageNet and Tiny-ImageNet: labels and pixels of their files, and one line for each thing that may be missing."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.data.datasets import Split, load
from benchmark.data.image_files import FileSplit
from benchmark.errors import UserError
from tests.benchmark.data.examples import dataset_config, error_message
from tests.benchmark.data.layouts import WNIDS, write_imagenet, write_tiny_imagenet
from tests.samples import unpack


def pixels(path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)


# ------------------------------------------------------------ Tiny-ImageNet


def test_tiny_imagenet_is_in_memory_with_val_as_the_test_set(tmp_path):
    root = write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    dataset = load(dataset_config("tinyimagenet"), tmp_path)
    assert isinstance(dataset.train, Split) and isinstance(dataset.test, Split)
    assert dataset.class_names == ("goldfish", "n02", "n03"), "a name that two classes share is none"
    assert dataset.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert dataset.train.images.shape == (12, 3, 64, 64)
    assert dataset.train.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(dataset.train.images[5], pixels(root / "train" / "n02" / "images" / "n02_1.JPEG"))
    # the annotations are written in reverse: val_5 of class n03 comes first
    assert dataset.test.labels.tolist() == [2, 2, 1, 1, 0, 0]
    assert torch.equal(dataset.test.images[0], pixels(root / "val" / "images" / "val_5.JPEG"))


def test_classes_takes_the_first_ones(tmp_path):
    write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    write_imagenet(tmp_path / "imagenet")
    for name in ("tinyimagenet", "imagenet"):
        dataset = load(dataset_config(name, classes=2), tmp_path)
        assert (dataset.classes, len(dataset.train.labels), len(dataset.test.labels)) == (2, 8, 4)
        assert load(dataset_config(name, classes=100), tmp_path).classes == 3


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda root: shutil.rmtree(root), ("is not a folder", "tiny-imagenet-200.zip", "dataset.root")),
        (lambda root: (root / "wnids.txt").unlink(), ("wnids.txt cannot be read", "No such file")),
        (lambda root: shutil.rmtree(root / "train" / "n02"), ("1 of 3 classes have no training images", "n02")),
        (lambda root: shutil.rmtree(root / "val" / "images"), ("6 of 6 images of", "val_5.JPEG", "missing")),
        (lambda root: (root / "val" / "images" / "val_1.JPEG").unlink(), ("1 of 6 images of", "val_1.JPEG")),
        (lambda root: (root / "val" / "val_annotations.txt").unlink(), ("val_annotations.txt cannot be read",)),
        (lambda root: (root / "wnids.txt").write_text("n01\nn02\n"), ("n03' names no class of", "wnids.txt")),
        (lambda root: (root / "wnids.txt").write_text("n01\nn02\nn03\nn04\n"), ("1 of 4 classes", "n04")),
        (
            lambda root: [path.unlink() for path in (root / "train" / "n01" / "images").iterdir()],
            ("has no image of class n01",),
        ),
        (
            lambda root: (root / "train" / "n01" / "images" / "n01_0.JPEG").write_text("no image"),
            ("n01_0.JPEG cannot be read as an image", "remove or replace it"),
        ),
    ],
)  # fmt: skip
def test_a_missing_part_of_tiny_imagenet_is_named(tmp_path, damage, parts):
    damage(write_tiny_imagenet(tmp_path / "tiny-imagenet-200"))
    message = error_message("tinyimagenet", tmp_path)
    assert all(part in message for part in parts), message


def test_the_real_sample_of_tiny_imagenet(tmp_path):
    unpack("tiny_imagenet_20", tmp_path)
    dataset = load(dataset_config("tinyimagenet"), tmp_path)
    assert isinstance(dataset.train, Split)
    assert dataset.train.images.shape == (2000, 3, 64, 64) and dataset.test.labels.bincount().tolist() == [50] * 20
    assert "goldfish" not in dataset.class_names and "tarantula" in dataset.class_names


# ------------------------------------------------------------ ImageNet


def test_imagenet_lists_its_files_and_decodes_none(tmp_path):
    root = write_imagenet(tmp_path / "imagenet")
    (root / "train" / "n01" / "n01_0.JPEG").write_text("no image")
    (root / "train" / "n01" / ".hidden").write_text("")
    dataset = load(dataset_config("imagenet"), tmp_path)
    assert isinstance(dataset.train, FileSplit) and isinstance(dataset.test, FileSplit)
    assert dataset.class_names == WNIDS
    assert [dataset.train.path(i) for i in (0, 11)] == [
        str(root / "train" / "n01" / "n01_0.JPEG"), str(root / "train" / "n03" / "n03_3.JPEG"),
    ]  # fmt: skip
    assert dataset.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 and len(dataset.test.labels) == 6
    assert dataset.config.decoder == "pil"


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda root: shutil.rmtree(root), ("is not a folder", "train/<wnid>/ and", "dataset.root")),
        (lambda root: shutil.rmtree(root / "train"), ("train is not a folder",)),
        (lambda root: shutil.rmtree(root / "val"), ("val is not a folder",)),
        (lambda root: (root / "train" / "n04.tar").write_text(""), ("1 archives", "n04.tar", "unpack each")),
        (lambda root: shutil.rmtree(root / "val" / "n02"), ("1 classes are in one of train and val only, n02",)),
        (lambda root: (root / "train" / "n04").mkdir(), ("n04 in", "train")),
        (lambda root: [p.unlink() for p in (root / "val" / "n03").iterdir()], ("has no image of class n03",)),
        (
            lambda root: [p.rename(root / "val" / p.name) for p in (root / "val").glob("*/*")],
            ("val holds 6 images outside folders of classes", "n01_0.JPEG", "ImageNet(root, 'val')", "ground truth"),
        ),
    ],
)  # fmt: skip
def test_a_missing_part_of_imagenet_is_named(tmp_path, damage, parts):
    damage(write_imagenet(tmp_path / "imagenet"))
    message = error_message("imagenet", tmp_path)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("digits", {"loading": "stream"}, "dataset.loading=stream is of image files"),
        ("cifar10", {"augmentation": "resized_crop"}, "dataset.augmentation=resized_crop is of image files"),
        ("digits", {"classes": 5}, "dataset.classes is of tinyimagenet and imagenet"),
        ("imagenet", {"padding": 4}, "dataset.padding is 4: give 0 with"),
        ("imagenet", {"loading": "device"}, "crops the original photographs, which are streamed"),
        ("imagenet", {"mean": None}, "the statistics of streamed images are not computed: give dataset.mean"),
        ("imagefolder", {"root": "a", "loading": "stream"}, "the statistics of streamed images are not computed"),
        ("tinyimagenet", {"decoder": "pil"}, "dataset.decoder is of dataset.augmentation=resized_crop"),
        ("tinyimagenet", {"cache_dir": "a"}, "dataset.cache_dir is of dataset.augmentation=resized_crop"),
        ("imagenet", {"file": "a.npz"}, "dataset.file is read by dataset=npz only"),
        ("imagenet", {"root": None}, "dataset=imagenet needs dataset.root: a folder"),
    ],
)
def test_options_that_contradict_each_other_are_refused(tmp_path, name, changes, message):
    assert message in error_message(name, tmp_path, **changes)


# ------------------------------------------------------------ files as arrays


def fingerprint(tmp_path, **changes) -> str:
    return load(dataset_config("imagenet", **changes), tmp_path).fingerprint


def test_the_fingerprint_of_files_follows_names_sizes_and_labels(tmp_path):
    root = write_imagenet(tmp_path / "imagenet")
    first = fingerprint(tmp_path)
    shutil.move(root, tmp_path / "elsewhere")
    assert fingerprint(tmp_path, root="elsewhere") == first, "the place does not count"
    file = tmp_path / "elsewhere" / "train" / "n01" / "n01_0.JPEG"
    changed = bytearray(file.read_bytes())
    changed[-1] ^= 1
    file.write_bytes(changed)
    assert fingerprint(tmp_path, root="elsewhere") == first, "the content is not read"
    file.write_bytes(changed + b"0")
    longer = fingerprint(tmp_path, root="elsewhere")
    file.rename(file.with_name("n01_9.JPEG"))
    assert (
        len(
            {first, longer, fingerprint(tmp_path, root="elsewhere"), fingerprint(tmp_path, root="elsewhere", classes=2)}
        )
        == 4
    )


def test_a_split_of_files_holds_the_chosen_images(tmp_path):
    root = write_imagenet(tmp_path / "imagenet", train=6)
    dataset = load(dataset_config("imagenet", train_size=9, validation=0.34), tmp_path)
    assert isinstance(dataset.train, FileSplit) and isinstance(dataset.val, FileSplit)
    paths = [split.path(i) for split in (dataset.train, dataset.val) for i in range(len(split.labels))]
    assert len(set(paths)) == 9 and len(dataset.val.labels) == 3
    for split in (dataset.train, dataset.val):
        assert [os.path.dirname(split.path(i))[-1] for i in range(len(split.labels))] == [
            str(label + 1) for label in split.labels.tolist()
        ]
    assert all(path.startswith(str(root / "train")) for path in paths)


def test_a_file_costs_as_many_bytes_as_its_path_and_three_numbers(tmp_path):
    write_imagenet(tmp_path / "imagenet", train=40)
    train = load(dataset_config("imagenet"), tmp_path).train
    assert isinstance(train, FileSplit)
    files = train.files
    total = sum(array.nbytes for array in (files.text, files.ends, files.sizes, files.labels.numpy()))
    paths = sum(len(f"train/n01/n01_{i}.JPEG") for _ in range(3) for i in range(40))
    assert total == paths + 3 * 8 * 120


def test_dali_is_named_where_it_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"NVIDIA DALI, which is not installed: pip install 'kd-benchmark\[dali\]'$"):
        load(dataset_config("imagenet", decoder="dali"), tmp_path)
