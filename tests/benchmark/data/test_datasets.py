"""Loading of data sets: digits, splits, resizing, statistics, fingerprints, and limits of the config."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from benchmark.config.checks import check_limits
from benchmark.config.files import CONF
from benchmark.config.schema import DATASETS, DatasetConfig
from benchmark.data import datasets, limits, sources
from benchmark.data.datasets import Dataset, load, stratified
from benchmark.data.loader import Loader
from benchmark.data.outline import outline
from benchmark.errors import UserError
from tests.benchmark.data.examples import (
    NO_FOLDER,
    dataset_config,
    error_message,
    load_arrays,
    random_arrays,
    save,
)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(dataset_config("digits"), NO_FOLDER)


def image_bytes(*splits) -> list[bytes]:
    return sorted(image.numpy().tobytes() for split in splits for image in split.images)


# ------------------------------------------------------------ configs


@pytest.mark.parametrize("name", ["flowers", "Flowers-17_v1.0", "007", "npz"])
def test_a_data_set_of_the_user_has_a_name(name, tmp_path):
    assert load_arrays(tmp_path, random_arrays(), name=name).name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my data", "dataset.name is 'my data': use letters, digits, _, - and ., the first a letter or digit"),
        (".hidden", "dataset.name is '.hidden': use letters"),
        ("a/b", "dataset.name is 'a/b': use letters"),
        ("blüten", "dataset.name is 'blüten': use letters"),
        ("", "dataset.name is '': use letters"),
        ("imagefolder", "dataset.name cannot be 'imagefolder', which is a data set of this suite: choose another name"),
        ("CIFAR100", "dataset.name cannot be 'CIFAR100', which is a data set of this suite"),
        ("wandb", "dataset.name cannot be 'wandb', which is reserved"),
        ("all", "dataset.name cannot be 'all', which is reserved"),
    ],
)
def test_a_name_that_folders_and_tables_cannot_have_is_rejected(name, message, tmp_path):
    assert message in error_message("npz", tmp_path, file="mine.npz", name=name)


@pytest.mark.parametrize("name", DATASETS)
def test_every_yaml_has_all_keys_within_their_limits(name):
    values = OmegaConf.load(CONF / "dataset" / f"{name}.yaml")
    required = {f.name for f in dataclasses.fields(DatasetConfig) if f.default is dataclasses.MISSING}
    assert required <= set(values) <= {f.name for f in dataclasses.fields(DatasetConfig)} and values.name == name
    check_limits(dataset_config(name))


@pytest.mark.parametrize(
    "changes",
    [{"validation": 1.0}, {"validation": -0.1}, {"size": 15}, {"padding": -1}, {"std": [1, 0, 1]}, {"source": "digit"}],
)
def test_limits_are_checked(changes):
    with pytest.raises(UserError, match=next(iter(changes))):
        check_limits(dataset_config("digits", **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_size": 798}, "dataset.train_size is 798, but there are only 797 images"),
        ({"train_size": 5}, "training split of 5 images has none of class"),
        ({"test_size": None}, "dataset.test_size is null: give a number below 1797"),
        ({"test_size": 1797}, "dataset.test_size is 1797: give a number below 1797"),
        ({"size": 8}, "at least 16 pixels"),
        ({"padding": 17}, "dataset.padding is 17: images are 16 pixels wide"),
        ({"mean": [0.5]}, "mean has 1 numbers"),
        ({"file": "mine.npz"}, "dataset.file is read by dataset=npz only"),
        ({"name": "mine"}, "dataset.name is 'mine', but digits keeps its name: only data of dataset=npz or dataset=im"),
        ({"name": "mine", "source": "npz"}, "dataset=npz needs dataset.file"),
        ({"name": "imagefolder", "source": "imagefolder"}, "dataset=imagefolder needs dataset.root"),
        ({"validation": 0.02}, "validation split of 4 images has none of class"),
        ({"validation": 0.001}, "no image of 200"),
        ({"validation": 0.99}, "training split of 2 images has none of class"),
    ],
)
def test_an_impossible_config_is_an_error_of_one_line(changes, message):
    assert message in error_message("digits", NO_FOLDER, **changes)


# ------------------------------------------------------------ digits


def test_digits_have_a_small_stratified_training_split_and_a_fixed_test_split(digits):
    assert digits.train.images.shape == (200, 3, 16, 16) and digits.test.images.shape == (1000, 3, 16, 16)
    assert digits.val is None and digits.classes == 10 and digits.class_names == tuple("0123456789")
    assert digits.train.images.dtype == torch.uint8 and digits.train.labels.dtype == torch.int64
    assert set(digits.train.labels.bincount().tolist()) <= {19, 20, 21}
    assert set(digits.test.labels.bincount().tolist()) <= set(range(96, 103))  # of 174 to 183 of a class in 1,797
    assert not set(image_bytes(digits.train)) & set(image_bytes(digits.test))
    other = load(dataset_config("digits", split_seed=1, train_size=None, validation=0.2), NO_FOLDER)
    assert torch.equal(other.test.images, digits.test.images)
    assert len(other.train.labels) + len(other.val.labels) == 797
    assert image_bytes(load(dataset_config("digits", split_seed=1), NO_FOLDER).train) != image_bytes(digits.train)


def test_digits_are_the_originals_enlarged(digits):
    from sklearn.datasets import load_digits

    originals = load_digits()
    # bilinear doubling without aligned corners: 3/4 of the nearer pixel and 1/4 of the next, borders repeated
    rows = np.pad(originals.images * 255 / 16, ((0, 0), (1, 1), (1, 1)), mode="edge")
    for axis in (1, 2):
        rows = np.moveaxis(rows, axis, 0)
        near, before, after = rows[1:-1], rows[:-2], rows[2:]
        doubled = np.stack([0.75 * near + 0.25 * before, 0.75 * near + 0.25 * after], 1)
        rows = np.moveaxis(doubled.reshape(-1, *near.shape[1:]), 0, axis)
    for split in (digits.train, digits.test):
        for image, label in zip(split.images.numpy()[:50], split.labels.tolist(), strict=False):
            assert (image == image[:1]).all()
            distance = np.abs(rows - image[0].astype(float)).max(axis=(1, 2))
            assert distance.min() <= 1  # rounded twice
            assert label in originals.target[distance <= 1]


def test_mean_and_std_are_those_of_the_training_images(digits):
    images = digits.train.images.numpy().astype(float) / 255
    assert digits.config.mean == pytest.approx(images.mean((0, 2, 3)), abs=6e-5)
    assert digits.config.std == pytest.approx(images.std((0, 2, 3)), abs=6e-5)


# ------------------------------------------------------------ splits


@given(data=st.data(), labels=st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_a_stratified_choice_has_the_class_shares_by_largest_remainder(data, labels):
    size = data.draw(st.integers(0, len(labels)))
    chosen = stratified(torch.tensor(labels), size, torch.Generator().manual_seed(data.draw(st.integers(0, 9))), "size")
    assert chosen.tolist() == sorted(set(chosen.tolist())) and len(chosen) == size
    exact = [labels.count(label) * size / len(labels) for label in range(max(labels) + 1)]
    quotas = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda label: (-(labels.count(label) * size % len(labels)), label))
    for label in by_remainder[: size - sum(quotas)]:
        quotas[label] += 1
    assert torch.tensor(labels)[chosen].bincount(minlength=len(exact)).tolist() == quotas


def test_the_validation_split_is_disjoint_stratified_and_seeded(tmp_path):
    arrays = random_arrays(classes=4, train=30)
    arrays["y_train"] = np.repeat([0, 1, 2, 3], [60, 30, 20, 10])
    whole, dataset = load_arrays(tmp_path, arrays), load_arrays(tmp_path, arrays, validation=0.2)
    again = load_arrays(tmp_path, arrays, validation=0.2)
    other = load_arrays(tmp_path, arrays, validation=0.2, split_seed=1)
    assert dataset.val.labels.bincount().tolist() == [12, 6, 4, 2]
    assert dataset.train.labels.bincount().tolist() == [48, 24, 16, 8]
    assert image_bytes(dataset.train, dataset.val) == image_bytes(whole.train)
    assert torch.equal(dataset.val.images, again.val.images) and dataset.fingerprint == again.fingerprint
    assert not torch.equal(dataset.val.images, other.val.images) and dataset.fingerprint != other.fingerprint
    assert torch.equal(dataset.test.images, whole.test.images)


def test_images_keep_their_labels_in_all_splits_and_batches(tmp_path):
    arrays = random_arrays(train=40)
    arrays["x_train"][:, 0, 0, 0] = arrays["y_train"]
    dataset = load_arrays(tmp_path, arrays, validation=0.25, train_size=60)
    assert len(dataset.train.labels) == 45 and len(dataset.val.labels) == 15
    for split in (dataset.train, dataset.val):
        assert torch.equal(split.images[:, 0, 0, 0].long(), split.labels)
    for batch in Loader(dataset.train, dataset.config, 8, 0, "cpu").epoch(1):
        assert torch.equal(batch.labels, dataset.train.images[batch.indices, 0, 0, 0].long())


# ------------------------------------------------------------ the teacher's training images


def test_a_teacher_is_trained_on_all_digits_outside_the_test_set(digits):
    dataset = load(dataset_config("digits"), NO_FOLDER, "all")
    everything = load(dataset_config("digits", train_size=None), NO_FOLDER)
    assert len(dataset.of_teacher.train.labels) == 797
    assert image_bytes(dataset.of_teacher.train) == image_bytes(everything.train)
    # students are untouched, and what they see is normalized alike for the teacher
    assert dataset.fingerprint == digits.fingerprint and torch.equal(dataset.train.images, digits.train.images)
    assert dataset.of_teacher.config == digits.config != everything.config
    assert dataset.of_teacher.fingerprint == everything.fingerprint  # the same images and labels
    assert dataset.of_teacher.test is dataset.test and dataset.of_teacher.of_teacher == dataset.of_teacher


def test_a_teacher_s_training_images_include_its_students_and_no_validation_image():
    config = dataset_config("digits", validation=0.25)
    dataset, every = load(config, NO_FOLDER, "400"), load(config, NO_FOLDER, "all")
    students, held_out = set(image_bytes(dataset.train)), set(image_bytes(dataset.val))
    teacher = image_bytes(dataset.of_teacher.train)
    assert (len(students), len(held_out), len(teacher)) == (150, 50, 400)  # no image of the digits is there twice
    assert students < set(teacher) < set(image_bytes(every.of_teacher.train))
    assert not set(image_bytes(every.of_teacher.train)) & (held_out | set(image_bytes(every.test)))
    assert len(every.of_teacher.train.labels) == 797 - 50
    assert set(dataset.of_teacher.train.labels.bincount().tolist()) <= set(range(38, 43))
    other = load(dataset_config("digits", validation=0.25, split_seed=1), NO_FOLDER, "400")
    assert other.of_teacher.fingerprint != dataset.of_teacher.fingerprint


def test_a_teacher_s_images_keep_their_labels(tmp_path):
    arrays = random_arrays(train=40)
    arrays["x_train"][:, 0, 0, 0] = arrays["y_train"]
    save(tmp_path, arrays)
    config = dataset_config("npz", file="mine.npz", size=16, train_size=30, validation=0.2)
    split = load(config, tmp_path, "75").of_teacher.train
    assert len(split.labels) == 75 and torch.equal(split.images[:, 0, 0, 0].long(), split.labels)


@pytest.mark.parametrize("size", [None, "all", "797"])
def test_a_teacher_without_further_images_is_trained_on_those_of_its_students(size):
    dataset = load(dataset_config("digits", train_size=None), NO_FOLDER, size)
    assert dataset.teacher is None and dataset.of_teacher is dataset


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("179", "teacher.train_size is 179: give at least 180, the images of its students included"),
        ("778", "teacher.train_size is 778, but there are only 777 images outside the test set and the validation"),
    ],
)
def test_an_impossible_number_of_images_for_the_teacher_is_an_error(size, message):
    config = dataset_config("digits", validation=0.1)
    for split in (lambda: load(config, NO_FOLDER, size), lambda: outline(config, "", size)):
        with pytest.raises(UserError, match=message):
            split()


# ------------------------------------------------------------ images, statistics, fingerprint


@pytest.mark.parametrize("side", [8, 40])
def test_images_of_another_size_are_resized(tmp_path, side):
    arrays = random_arrays(side=side)
    arrays["x_train"][:] = np.array([10, 100, 200])
    dataset = load_arrays(tmp_path, arrays, std=[1, 1, 1])
    assert dataset.train.images.shape[2:] == dataset.test.images.shape[2:] == (16, 16)
    assert (dataset.train.images == torch.tensor([10, 100, 200])[:, None, None]).all()
    assert dataset.train.images.is_contiguous(memory_format=torch.channels_last)


def test_images_of_a_single_color_need_a_std(tmp_path):
    arrays = random_arrays()
    arrays["x_train"][:] = np.array([10, 100, 200])
    with pytest.raises(UserError, match=r"mine.npz: a channel is the same in all pixels"):
        load_arrays(tmp_path, arrays)
    mean = load_arrays(tmp_path, arrays, std=[1, 1, 1]).config.mean
    assert mean == pytest.approx([10 / 255, 100 / 255, 200 / 255], abs=6e-5)


def test_the_fingerprint_depends_on_every_pixel_label_and_split_alone(tmp_path):
    arrays = random_arrays()
    fingerprints = {load_arrays(tmp_path, arrays).fingerprint}
    for name in sources.ARRAYS:
        changed = {k: v.copy() for k, v in arrays.items()}
        if name[0] == "x":
            changed[name][1, 2, 3, 1] ^= 1
        else:
            changed[name][:2] = changed[name][1::-1]
        fingerprints.add(load_arrays(tmp_path, changed).fingerprint)
    fingerprints.add(load_arrays(tmp_path, arrays, test_size=6).fingerprint)
    fingerprints.add(load_arrays(tmp_path, arrays, train_size=12).fingerprint)
    assert len(fingerprints) == 7
    assert load_arrays(tmp_path, dict(reversed(arrays.items()))).fingerprint in fingerprints


def test_the_fingerprint_of_the_digits_is_that_of_earlier_versions(digits):
    assert digits.fingerprint == "a8f02555d7e909cb29d04747dcee342e8974d7dcf870316c898915f6b6e7e4ec"


def test_images_beyond_the_memory_are_refused_before_they_are_resized():
    """Twice 1000 × 3 × 1024² bytes are 6.3 GB."""
    config = dataset_config("digits", size=1024)
    limits.check_memory(config, 1000, available=int(6.3e9))
    expected = r"dataset.size is 1024: 1,000 images of that size need 6.3 GB of memory, and 6.2 GB are available"
    with pytest.raises(UserError, match=expected):
        limits.check_memory(config, 1000, available=int(6.2e9))


def test_images_are_resized_alike_in_batches_of_any_size(tmp_path, monkeypatch):
    arrays = random_arrays(side=24)  # made 16 pixels wide
    whole = load_arrays(tmp_path, arrays)
    monkeypatch.setattr(datasets, "RESIZE_BATCH_VALUES", 1)
    assert load_arrays(tmp_path, arrays).fingerprint == whole.fingerprint
