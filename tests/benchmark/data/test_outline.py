"""Tests of data sets without their images."""

import pytest

from benchmark.data.datasets import load
from benchmark.data.outline import is_present, outline
from benchmark.errors import UserError
from tests.benchmark.data.examples import NO_FOLDER, dataset_config


@pytest.mark.parametrize("changes", [{}, {"train_size": None}, {"test_size": 100}, {"validation": 0.3}])
def test_the_outline_of_the_digits_has_the_sizes_of_the_data_set(changes):
    config = dataset_config("digits", **changes)
    expected, actual = load(config, NO_FOLDER), outline(config, "ab")
    for split in ("train", "test", "val"):
        one, other = getattr(expected, split), getattr(actual, split)
        assert (one is None) == (other is None)
        assert one is None or (one.images.shape, one.labels.shape) == (other.images.shape, other.labels.shape)
    assert (actual.name, actual.classes, actual.fingerprint) == ("digits", 10, "ab")
    assert actual.train.images.device.type == "meta"


@pytest.mark.parametrize(
    ("changes", "size"), [({}, "300"), ({}, "all"), ({"validation": 0.3}, "all"), ({"train_size": None}, "all")]
)
def test_the_outline_has_the_number_of_the_teacher_s_images(changes, size):
    config = dataset_config("digits", **changes)
    expected = load(config, NO_FOLDER, size).of_teacher
    images = len(expected.train.labels)
    actual = outline(config, "ab", size, {images: "cd", images - 1: "ef"})
    assert actual.of_teacher.train.labels.shape == expected.train.labels.shape
    assert (actual.fingerprint, actual.of_teacher.fingerprint) == ("ab", "cd" if actual.teacher else "ab")
    assert outline(config, "ab", size).of_teacher.fingerprint == ("" if actual.teacher else "ab")


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_has_50000_and_10000_images(name, classes):
    actual = outline(dataset_config(name), "")
    assert (len(actual.train.labels), len(actual.test.labels), actual.classes) == (50_000, 10_000, classes)
    held_out = outline(dataset_config(name, train_size=1000, test_size=500, validation=0.1), "")
    assert held_out.val is not None
    assert [len(s.labels) for s in (held_out.train, held_out.val, held_out.test)] == [900, 100, 500]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("cifar10", {"train_size": 50_001}, "dataset.train_size is 50001, but there are only 50000 images"),
        ("cifar10", {"test_size": 10_001}, "dataset.test_size is 10001, but there are only 10000 images"),
        ("digits", {"train_size": 798}, "dataset.train_size is 798, but there are only 797 images"),
        ("digits", {"test_size": 1797}, "dataset.test_size is 1797: give a number below 1797"),
        ("digits", {"validation": 0.001}, "dataset.validation is 0.001: that is no image of 200"),
    ],
)
def test_impossible_splits_are_errors_as_when_the_images_are_read(name, changes, message):
    with pytest.raises(UserError) as e:
        outline(dataset_config(name, **changes), "")
    assert message in str(e.value)


def test_cifar_is_present_in_either_form(tmp_path):
    config = dataset_config("cifar100")
    assert is_present(dataset_config("digits"), tmp_path) and not is_present(config, tmp_path)
    (tmp_path / "cifar-100-python").mkdir()
    assert is_present(config, tmp_path)
    (tmp_path / "cifar-100-python").rmdir()
    (tmp_path / "cifar100.npz").touch()
    assert is_present(config, tmp_path)
