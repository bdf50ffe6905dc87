"""What an imported teacher's first batch norm has kept of its images, beside those of the recipe."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from benchmark import networks
from benchmark.data.datasets import Dataset
from benchmark.data.loader import Loader
from benchmark.networks import Network
from benchmark.teacher.input_statistics import FEWEST_IMAGES, input_drift
from benchmark.training.seeding import seeded
from tests.benchmark.training.trainers import tiny_dataset
from tests.conftest import write_tiny
from tests.helpers import plan_of


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    return tiny_dataset(tmp_path_factory.mktemp("data"), train=FEWEST_IMAGES)


def changed(dataset: Dataset, **values: object) -> Dataset:
    """Return the data set with other settings."""
    return dataclasses.replace(dataset, config=dataclasses.replace(dataset.config, **values))


def trained_on(dataset: Dataset) -> Network:
    """Return an untrained network that has kept the statistics of two epochs of augmented images."""
    with seeded("network", 0):
        network = networks.build("resnet8", dataset.classes).train()
    loader = Loader(dataset.train, dataset.config, 64, 5, "cpu")
    with torch.no_grad():
        for epoch in (1, 2):  # 64 batches: the initial statistics keep a weight of 0.9^64
            for batch in loader.epoch(epoch):
                network(batch.images[0])
    return network


def test_drift_is_the_mean_over_channels_of_what_numpy_finds(tmp_path):
    data = changed(tiny_dataset(tmp_path, train=FEWEST_IMAGES), padding=0, flip=False)
    layer = nn.BatchNorm2d(3, eps=1e-3)
    layer.running_mean, layer.running_var = torch.tensor([0.5, -0.25, 0.0]), torch.tensor([1.5, 0.5, 1.0])
    drift = input_drift(nn.Sequential(layer), data)
    with np.load(tmp_path / "tiny.npz") as arrays:
        pixels = arrays["x_train"].reshape(-1, 3) / 255
    pixels = (pixels - data.config.mean) / data.config.std
    kept = np.array([1.5, 0.5, 1.0]) + 1e-3
    mean = np.abs(pixels.mean(0) - [0.5, -0.25, 0.0]) / np.sqrt(kept)
    variance = np.abs(pixels.var(0) - [1.5, 0.5, 1.0]) / kept
    assert drift == pytest.approx((mean.mean(), variance.mean()), rel=1e-4)
    assert (
        str(drift)
        == f"means are {mean.mean():.2f} standard deviations and variances {100 * variance.mean():.0f} % apart"
    )


def test_only_a_network_of_other_images_is_far(dataset):
    network = trained_on(dataset)
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    same = input_drift(network, dataset)
    assert same is not None and not same.is_large
    lighter = [1.2 * value for value in dataset.config.std]
    for other in (changed(dataset, std=lighter), changed(dataset, padding=0), changed(dataset, padding=6)):
        drift = input_drift(network, other)
        assert drift is not None and drift.is_large
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert not network.training and network(torch.zeros(2, 3, 16, 16)).logits.shape == (2, 6)  # hooks are gone


def test_nothing_is_said_of_few_images_or_without_statistics(dataset, tmp_path):
    assert input_drift(trained_on(dataset), tiny_dataset(tmp_path, train=FEWEST_IMAGES - 1)) is None
    without = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    assert input_drift(without, dataset) is None
    infinite = nn.BatchNorm2d(3)
    infinite.running_var = torch.full((3,), torch.inf)
    assert input_drift(nn.Sequential(infinite), dataset) is None


@pytest.mark.parametrize("factor, is_far", [(1.0, False), (1.2, True)], ids=["equal", "another normalization"])
def test_an_import_says_and_records_it(factor, is_far, dataset, tiny, tmp_path, capsys):
    write_tiny(tmp_path / "tiny.npz", train=FEWEST_IMAGES)
    checkpoint = tmp_path / "foreign.pth"
    torch.save(trained_on(dataset).state_dict(), checkpoint)
    std = [round(factor * value, 4) for value in dataset.config.std]
    words = [*tiny, "pair=resnet8-resnet14", "methods=kd", f"teacher.checkpoint={checkpoint}"]
    mean = [round(value, 4) for value in dataset.config.mean]
    (run,) = plan_of([*words, f"dataset.mean={mean}", f"dataset.std={std}"]).teachers.values()
    record = run.folder.record
    assert (max(record.input_mean_drift, record.input_variance_drift) > 0.05) == is_far
    message = "teacher resnet8: foreign.pth was trained on other images than this recipe's"
    assert (message in capsys.readouterr().err) == is_far
