"""The linear probe: a linear layer on fixed features, trained by SGD as CRD's protocol says.

Protocol (Tian et al. 2020, Contrastive Representation Distillation; code: giakoumoglou/distillers,
`cifar/transfer_student.py`): cross entropy of a new linear layer on the pooled features, its weights from N(0, 0.01²),
SGD with momentum 0.9 and weight decay 5e-4, batch 64, 120 epochs, learning rate 0.05, times 0.1 above epochs 30, 60 and
90; the accuracy after the last epoch counts.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.training import metrics
from benchmark.training.evaluation import Diverged
from benchmark.training.seeding import generator
from benchmark.training.trainer import Schedule

EpochFeatures = Callable[[Tensor], Tensor]  # places of views [N] -> their features [N, D]
Draw = Callable[[int], tuple[Tensor, Tensor]]  # epoch -> order of the images and places of their views, [N] each


@dataclass(frozen=True)
class ProbeRecipe:
    """How the linear layer is trained."""

    epochs: int
    batch_size: int
    schedule: Schedule
    init_std: float
    seed: int


@dataclass(frozen=True)
class LabeledFeatures:
    """Features [N, D] of a split, with their labels [N]."""

    features: Tensor
    labels: Tensor


def new_layer(length: int, classes: int, recipe: ProbeRecipe) -> nn.Linear:
    """Return a linear layer with weights from N(0, init_std²) and bias 0, drawn from the seed of the recipe."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        layer = nn.Linear(length, classes)
        layer.weight.normal_(0, recipe.init_std, generator=generator("linear probe", recipe.seed))
        layer.bias.zero_()
    return layer


def train_probe(
    features: EpochFeatures, draw: Draw, labels: Tensor, test: LabeledFeatures, layer: nn.Linear, recipe: ProbeRecipe,
    device: str,
) -> list[dict[str, float]]:  # fmt: skip
    """Train a layer in place; return the metrics of each epoch: epoch, lr, loss, train_top1, test_top1 and, with more
    than five classes, test_top5.

    labels: of the training images [N]. The images of an epoch are taken in the order that `draw` says; the last batch
    may be smaller. Raises Diverged where the loss is not finite.
    """
    layer.to(device)
    schedule, lines = recipe.schedule, []
    optimizer = torch.optim.SGD(
        layer.parameters(), schedule.lr, schedule.momentum, weight_decay=schedule.weight_decay,
        nesterov=schedule.nesterov,
    )  # fmt: skip
    test = LabeledFeatures(test.features.to(device), test.labels.to(device))
    for epoch in range(1, recipe.epochs + 1):
        learning_rate = schedule.learning_rate(epoch)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        order, places = draw(epoch)
        epoch_data = LabeledFeatures(features(places).to(device), labels[order].to(device))
        means = _train_epoch(epoch_data, layer, optimizer, recipe.batch_size)
        if not math.isfinite(means["loss"]):
            raise Diverged(f"the loss of the linear probe is {means['loss']} in epoch {epoch}")
        lines.append({"epoch": epoch, "lr": learning_rate, **means, **_test(layer, test)})
    return lines


def _train_epoch(
    data: LabeledFeatures, layer: nn.Linear, optimizer: torch.optim.Optimizer, batch_size: int
) -> dict[str, float]:
    """Take the steps of one epoch; return the means of loss and accuracy over its samples."""
    total, hits = torch.zeros((), device=data.features.device), torch.zeros((), device=data.features.device)
    for features, labels in zip(data.features.split(batch_size), data.labels.split(batch_size), strict=True):
        logits = layer(features)
        loss = functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(labels)
        hits += (logits.argmax(1) == labels).sum()
    n = len(data.labels)
    return {"loss": total.item() / n, "train_top1": 100.0 * hits.item() / n}


@torch.no_grad()
def _test(layer: nn.Linear, test: LabeledFeatures) -> dict[str, float]:
    return metrics.accuracies("test", layer(test.features), test.labels)
