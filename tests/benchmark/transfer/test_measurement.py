"""A probe equals a loop written by hand that runs the network on every batch; stored and live features are the same."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmark import networks
from benchmark.config.command_options import load_dataset
from benchmark.data import datasets
from benchmark.data.datasets import Dataset
from benchmark.networks import Network
from benchmark.training.evaluation import Diverged
from benchmark.training.seeding import generator
from benchmark.training.trainer import Schedule
from benchmark.transfer.measurement import FeatureStore, Measurement, measure
from benchmark.transfer.probe import ProbeRecipe
from benchmark.transfer.views import Views
from methods.contract import Needs
from tests.conftest import write_tiny
from tests.helpers import Killed

PADDING, SEED, EPOCHS, BATCH = 2, 3, 3, 10
LR, MOMENTUM, DECAY, STD = 0.1, 0.9, 5e-4, 0.01
RECIPE = ProbeRecipe(EPOCHS, BATCH, Schedule(LR, MOMENTUM, False, DECAY, [1, 2], 0.1), STD, SEED)


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    """48 training images of 16 px in 6 classes."""
    write_tiny(tmp_path / "tiny.npz")
    words = ["target.file=tiny.npz", "target.name=tiny", "target.size=16", f"target.padding={PADDING}"]
    return datasets.load(load_dataset("npz", words), tmp_path)


@pytest.fixture
def network() -> Network:
    """A network whose batch norms have statistics unlike those of any batch here."""
    torch.manual_seed(0)
    network = networks.build("resnet8", 100)
    for _ in range(3):
        network(2 * torch.randn(8, 3, 16, 16) + 1)
    return network.eval()


def probe(network: Network, dataset: Dataset, folder: Path, limit_gb: float = 1.0, **more) -> Measurement:
    return measure(network, dataset, RECIPE, FeatureStore(folder / "features.bin", limit_gb, {}), "cpu", **more)


def by_hand(network: Network, dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Train weight [C, D] and bias [C] as the protocol says, without torch's optimizer, loss, layer and autograd."""
    mean, std = np.float32(dataset.config.mean), np.float32(dataset.config.std)

    def features(images: np.ndarray) -> Tensor:  # [B, 3, H, W], uint8
        scaled = (images.astype(np.float32) / 255 - mean[:, None, None]) / std[:, None, None]
        with torch.no_grad():
            return network.stage(3, _body(network, torch.from_numpy(scaled)), False)[0].mean((2, 3))

    images, labels = dataset.train.images.numpy(), dataset.train.labels
    padded = np.pad(images, ((0, 0), (0, 0), (PADDING, PADDING), (PADDING, PADDING)))  # black
    weight = torch.randn(6, 64, generator=generator("linear probe", SEED)) * STD
    bias, speed_w, speed_b = torch.zeros(6), torch.zeros(6, 64), torch.zeros(6)
    for epoch in range(1, EPOCHS + 1):
        lr = LR * {1: 1, 2: 0.1, 3: 0.01}[epoch]
        order = torch.randperm(48, generator=generator("order", SEED, epoch)).tolist()
        ids = torch.randint(50, (48,), generator=generator("views", SEED, epoch)).tolist()
        for first in range(0, 48, BATCH):
            batch = []
            for i, view in zip(order[first : first + BATCH], ids[first : first + BATCH], strict=True):
                (top, left), flip = divmod(view // 2, 5), view % 2
                crop = padded[i, :, top : top + 16, left : left + 16]
                batch.append(crop[:, :, ::-1] if flip else crop)
            x, y = features(np.stack(batch)), labels[order[first : first + BATCH]]
            gradient = (x @ weight.T + bias).softmax(1)
            gradient[torch.arange(len(y)), y] -= 1
            gradient /= len(y)
            speed_w = MOMENTUM * speed_w + gradient.T @ x + DECAY * weight
            speed_b = MOMENTUM * speed_b + gradient.sum(0) + DECAY * bias
            weight, bias = weight - lr * speed_w, bias - lr * speed_b
    return weight, bias


def _body(network: Network, x: Tensor) -> Tensor:
    for k in range(3):
        x = network.stage(k, x, False)[0]
    return x


def test_the_layer_is_that_of_a_loop_by_hand_on_live_features(network, dataset, tmp_path):
    measured, (weight, bias) = probe(network, dataset, tmp_path), by_hand(network, dataset)
    torch.testing.assert_close(measured.layer.weight.detach(), weight, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(measured.layer.bias.detach(), bias, rtol=1e-3, atol=1e-5)
    lines = measured.lines
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["lr"] for line in lines] == pytest.approx([0.1, 0.01, 0.001])
    mean, std = (torch.tensor(values)[:, None, None] for values in (dataset.config.mean, dataset.config.std))
    outputs = [network((image[None].float() / 255 - mean) / std, Needs(pooled=True)) for image in dataset.test.images]
    logits = torch.cat([output.pooled for output in outputs]) @ weight.T + bias
    hits = (logits.argmax(1) == dataset.test.labels).sum().item()
    assert lines[-1]["test_top1"] == pytest.approx(100 * hits / 30)
    assert lines[-1]["test_top5"] >= lines[-1]["test_top1"]


def test_stored_features_train_the_same_layer_as_live_ones_bit_for_bit(network, dataset, tmp_path):
    lines: list[str] = []
    stored = probe(network, dataset, tmp_path, announce=lines.append)
    live = probe(network, dataset, tmp_path, limit_gb=0.0, announce=lines.append)
    assert torch.equal(stored.layer.weight, live.layer.weight) and torch.equal(stored.layer.bias, live.layer.bias)
    assert stored.lines == live.lines
    assert stored.file_bytes == 4 * 64 * stored.views and live.file_bytes == 0
    assert lines == ["features are computed anew in every epoch: 3.5e-05 GB are more than features_gb=0"]


def test_the_network_is_frozen(network, dataset, tmp_path):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    probe(network.train(), dataset, tmp_path)
    assert not network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_views_are_those_that_the_epochs_draw(dataset):
    views = Views(dataset, SEED, "cpu")
    assert views.outcomes == 50  # 5 × 5 crops, mirrored or not
    drawn = {place for epoch in (1, 2, 3) for place in views.draw(epoch)[1].tolist()}
    assert views.visited(3).tolist() == sorted(drawn)
    order, places = views.draw(2)
    assert sorted(order.tolist()) == list(range(48)) and torch.equal(places // 50, order)


def test_120_epochs_visit_half_of_162_views(tmp_path):
    write_tiny(tmp_path / "tiny.npz")
    dataset = datasets.load(load_dataset("npz", ["target.file=tiny.npz", "target.name=tiny"]), tmp_path)
    views = Views(dataset, 0, "cpu")
    expected = 162 * (1 - (161 / 162) ** 120)
    assert len(views.visited(120)) / 48 == pytest.approx(expected, rel=0.03) == pytest.approx(84.9, rel=0.03)


# ------------------------------------------------------------ interruption


def killed_after(share_done: float):
    """Return a callback of `report` that ends the process, as it were, when this share is done."""

    def report(share: float) -> None:
        if share >= share_done:
            raise Killed

    return report


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """The numbers of images in the network's forward passes for views."""
    sizes: list[int] = []
    images = Views.images

    def counted(self: Views, places: Tensor) -> Tensor:
        sizes.append(len(places))
        return images(self, places)

    monkeypatch.setattr(Views, "images", counted)
    return sizes


def test_an_interrupted_probe_computes_only_the_missing_features(network, dataset, tmp_path, passes):
    whole = probe(network, dataset, tmp_path / "whole")
    all_passes = len(passes)
    with pytest.raises(Killed):
        probe(network, dataset, tmp_path, report=killed_after(0.5))
    with open(tmp_path / "features.bin", "ab") as file:
        file.write(b"cut off")  # as a process leaves that is killed while it writes
    passes.clear()
    resumed = probe(network, dataset, tmp_path)
    assert 0 < len(passes) < all_passes and set(passes) == {48}
    assert torch.equal(resumed.layer.weight, whole.layer.weight) and resumed.lines == whole.lines
    assert list(tmp_path.glob("features.*")) == []


def test_features_of_another_student_are_not_continued(network, dataset, tmp_path, passes):
    store = FeatureStore(tmp_path / "features.bin", 1.0, {"student": "another"})
    with pytest.raises(Killed):
        measure(network, dataset, RECIPE, store, "cpu", report=killed_after(0.5))
    passes.clear()
    fresh = probe(network, dataset, tmp_path)
    count = len(passes)
    passes.clear()
    whole = probe(network, dataset, tmp_path / "whole")
    assert count == len(passes) and torch.equal(fresh.layer.weight, whole.layer.weight)


def test_a_diverging_probe_is_reported(network, dataset, tmp_path):
    recipe = ProbeRecipe(3, BATCH, Schedule(1e6, 0.9, False, 0.9, [], 0.1), 1e6, SEED)
    with pytest.raises(Diverged, match=r"the loss of the linear probe is (nan|inf)"):
        measure(network, dataset, recipe, FeatureStore(tmp_path / "features.bin", 1.0, {}), "cpu")
