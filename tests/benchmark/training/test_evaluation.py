"""Evaluation of networks: logits in batches, the metrics of an epoch, divergence, and counts of parameters."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmark import networks
from benchmark.config.compose import load_config
from benchmark.data import datasets
from benchmark.data.datasets import Dataset, normalize
from benchmark.training import evaluation, metrics
from benchmark.training.evaluation import Diverged, Evaluator, count_parameters, inference_parameters, predict
from benchmark.training.seeding import seeded
from methods.contract import Outputs


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    words = ["dataset=digits", "dataset.test_size=60", "dataset.train_size=100", "dataset.validation=0.4"]
    return datasets.load(load_config(words).dataset, Path())


@pytest.fixture(scope="module")
def network() -> networks.Network:
    with seeded("network", 0):
        return networks.build("resnet8", 10)


def test_predictions_are_the_logits_of_normalized_images_in_eval_mode(dataset, network, monkeypatch):
    monkeypatch.setattr(evaluation, "evaluation_batch_size", lambda *_: 25)
    logits = predict(network.train(), dataset.test, dataset.config, "fp32")
    assert not network.training and not logits.requires_grad
    expected = network(normalize(dataset.test.images, dataset.config)).logits
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    half = predict(network, dataset.test, dataset.config, "bf16")
    assert half.dtype == torch.float32 and torch.equal(half, half.bfloat16().float())


def test_an_evaluation_batch_has_constant_pixels():
    """On a CPU at most 500 images, and above 64 pixels as many pixels as these have."""
    assert [evaluation.evaluation_batch_size("cpu", size) for size in (16, 32, 64, 128, 224)] == [
        500,
        500,
        500,
        125,
        40,
    ]
    sizes = [evaluation.evaluation_batch_size("cuda", size) for size in (16, 32, 64, 10_000)]
    assert sizes == [10_000, 2500, 625, 1]


def test_the_metrics_of_an_epoch(dataset, network):
    with seeded("teacher", 0):
        teacher_logits = predict(networks.build("resnet8", 10), dataset.test, dataset.config, "fp32")
    measures, logits = Evaluator(dataclasses.replace(dataset, val=None), teacher_logits, "cpu", "fp32")(network, 1)
    assert logits is not None
    labels, correlations = dataset.test.labels, [metrics.class_correlation(x) for x in (logits, teacher_logits)]
    assert torch.equal(logits, predict(network, dataset.test, dataset.config, "fp32"))
    assert measures == {
        "test_top1": metrics.top_k(logits, labels),
        "test_top5": metrics.top_k(logits, labels, 5),
        "agreement": metrics.agreement(logits, teacher_logits),
        "correlation_distance": metrics.correlation_distance(*correlations),
    }


def test_with_a_validation_split_an_epoch_does_not_look_at_the_test_set(dataset, network):
    logits, labels = predict(network, dataset.val, dataset.config, "fp32"), dataset.val.labels
    val_top1, val_top5 = metrics.top_k(logits, labels), metrics.top_k(logits, labels, 5)
    evaluator = Evaluator(dataset, None, "cpu", "fp32")
    assert evaluator(network, 1) == ({"val_top1": val_top1, "val_top5": val_top5}, None)
    measures, logits = evaluator.test(network, 1)
    assert measures["test_top1"] == metrics.top_k(logits, dataset.test.labels) and "val_top1" not in measures


def test_metrics_that_do_not_apply_are_left_out(dataset):
    few_classes, network = dataclasses.replace(dataset, val=None), networks.build("resnet8", 5)
    assert Evaluator(few_classes, None, "cpu", "fp32")(network, 1)[0].keys() == {"test_top1"}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_raise_diverged(dataset, value):
    network = networks.build("resnet8", dataset.classes)
    network.head.bias.data[0] = value
    with pytest.raises(Diverged, match="logits are not finite in the evaluation after epoch 7"):
        Evaluator(dataset, None, "cpu", "fp32")(network, 7)


class PartlyUsed(nn.Module):
    """A network that runs its body and a new classifier, but not its old one."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.old, self.new = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), nn.Linear(5, 9), nn.Linear(5, 3)
        self.body.requires_grad_(False)
        self.register_buffer("memory", torch.zeros(7, 2))

    def forward(self, x: torch.Tensor) -> Outputs:
        return Outputs(logits=self.new(self.body(x)))


def test_parameters_are_counted_as_trainable_and_as_run_at_inference():
    network = PartlyUsed()
    assert count_parameters(network) == ((5 + 1) * 9 + (5 + 1) * 3, 14)
    assert inference_parameters(network, torch.rand(2, 3, 2, 2)) == (12 + 1) * 5 + (5 + 1) * 3
    assert not network.body._forward_hooks
