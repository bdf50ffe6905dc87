"""Check by its first batch norm whether a teacher was trained on images like those of a recipe.

Its running statistics average the mean and variance of its inputs. Another normalization, crops without padding and
stronger augmentation change them, but change test accuracy little or not at all.
"""

import contextlib
import math
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmark.data.datasets import Dataset
from benchmark.networks import Network
from benchmark.training.evaluation import evaluation_batch_size

IMAGES = 3000  # that statistics are computed of
FEWEST_IMAGES = 2000  # a ResNet-20 stayed within the bound for 60 of 60 draws of so many images, 56 of 60 draws of 500
BOUND = 0.05  # networks trained by a recipe are below 0.02, the nearest other normalization above 0.12 in the variance


class InputDrift(NamedTuple):
    """How far the images of a recipe are from those that a network was trained on, averaged over channels."""

    mean: float  # distance of the means, in standard deviations
    variance: float  # difference of the variances, as a share of the running variances

    @property
    def is_large(self) -> bool:
        """True where chance does not explain the distance, but another normalization or augmentation would."""
        return max(self) > BOUND

    def __str__(self) -> str:
        return f"means are {self.mean:.2f} standard deviations and variances {100 * self.variance:.0f} % apart"


class _Reached(Exception):
    """Ends a forward pass at the first batch norm."""


class _FirstInputs:
    """What reaches the first batch norm that a network runs."""

    def __init__(self) -> None:
        self._layer: _BatchNorm | None = None
        self._sums: list[Tensor] = []  # [3, C] of each batch: values, their sum and that of their squares

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        """Add the inputs [B, C, …] of a batch; a hook of every batch norm."""
        assert isinstance(layer, _BatchNorm)
        self._layer = layer
        x = inputs[0].double().transpose(0, 1).flatten(1)
        self._sums.append(torch.stack([torch.full_like(x[:, 0], x.shape[1]), x.sum(1), x.square().sum(1)]))
        raise _Reached

    def drift(self) -> InputDrift | None:
        """Compare the inputs with the layer's running statistics; None where it has none, or infinite ones."""
        layer = self._layer
        if layer is None or layer.running_mean is None or layer.running_var is None:
            return None
        values, total, squares = torch.stack(self._sums).sum(0)
        mean = total / values
        variance, running_var = squares / values - mean.square(), layer.running_var + layer.eps
        drift = InputDrift(
            ((mean - layer.running_mean).abs() / running_var.sqrt()).mean().item(),
            ((variance - layer.running_var).abs() / running_var).mean().item(),
        )
        return drift if math.isfinite(sum(drift)) else None


@torch.no_grad()
def input_drift(network: Network, dataset: Dataset) -> InputDrift | None:
    """Compare augmented training images of a data set with the running statistics of a network's first batch norm.

    The images are cropped and flipped, without the mixup, CutMix or erasing of a recipe. Return None where no batch
    norm has finite running statistics, or where there are fewer than `FEWEST_IMAGES` training images. The network is
    in eval mode afterwards.
    """
    from benchmark.data.streaming import make_loader  # imports torchvision, which takes a plan's time

    layers = [m for m in network.eval().modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not layers or len(dataset.train.labels) < FEWEST_IMAGES:
        return None
    device = next(network.parameters()).device
    batch_size = min(evaluation_batch_size(device.type, dataset.config.size), FEWEST_IMAGES)
    loader, inputs = make_loader(dataset.train, dataset.config, batch_size, 0, device), _FirstInputs()
    hooks = [layer.register_forward_pre_hook(inputs) for layer in layers]
    for batch in islice(loader.epoch(1), -(-IMAGES // batch_size)):
        with contextlib.suppress(_Reached):
            network(batch.images[0])
    for hook in hooks:
        hook.remove()
    loader.close()
    return inputs.drift()
