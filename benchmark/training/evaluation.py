"""Evaluation of a network on the test set and the validation split, and counts of its parameters."""

import torch
from torch import Tensor, nn

from benchmark.config.schema import DatasetConfig
from benchmark.data.datasets import Dataset, Split
from benchmark.data.image_files import FileSplit
from benchmark.training import metrics
from benchmark.training.parallel import ALONE, Parallel


class Diverged(Exception):
    """Raised when a loss term or a network's output is NaN or infinite."""


def autocast(device: str, precision: str) -> torch.autocast:
    """Return mixed precision for the networks' forward passes; losses are computed in float32 outside it."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")


def evaluation_batch_size(device: str, size: int) -> int:
    """Return how many images of `size` × `size` pixels are run at once where nothing is trained.

    On a CPU 500, or as many pixels as 500 images of 64 × 64 have; on a GPU as many pixels as 2,500 images of 32 × 32
    have, since it would wait for the launches of smaller batches.
    """
    if device == "cpu":
        return min(500, max(1, 500 * 64**2 // size**2))
    return max(1, 2500 * 32**2 // size**2)


@torch.no_grad()
def predict(network: nn.Module, split: Split | FileSplit, config: DatasetConfig, precision: str) -> Tensor:
    """Return the logits [N, C] of `network` in eval mode for the unaugmented images of a split, in float32.

    Network and split are on the same device.
    """
    from benchmark.data.streaming import evaluation_batches  # imports torchvision, which takes a plan's time

    network.eval()
    device = split.labels.device.type
    size = split.images.shape[3] if isinstance(split, Split) else config.size
    logits = []
    for images in evaluation_batches(split, config, evaluation_batch_size(device, size), split.labels.device):
        with autocast(device, precision):
            logits.append(network(images).logits.float())
    return torch.cat(logits)


class Evaluator:
    """Evaluates a network after each epoch: on the test set, or on the validation split where there is one.

    With a validation split the test set is sealed: it is looked up once, after the last epoch, by `test`. parallel: the
    processes among which the images are divided.
    """

    def __init__(
        self, dataset: Dataset, teacher_logits: Tensor | None, device: str, precision: str, parallel: Parallel = ALONE
    ) -> None:
        self._config, self._precision = dataset.config, precision
        self._parallel = parallel
        self._test = dataset.test.to(device)
        self._val = None if dataset.val is None else dataset.val.to(device)
        self._teacher = None
        if teacher_logits is not None:
            logits = teacher_logits.to(device)
            self._teacher = logits, metrics.class_correlation(logits)

    def __call__(self, network: nn.Module, epoch: int) -> tuple[dict[str, float], Tensor | None]:
        """Return the metrics of an epoch by name, and the test logits [N, C]; None where the test set is sealed.

        Raises Diverged where a logit is not finite.
        """
        if self._val is None:
            return self.test(network, epoch)
        return metrics.accuracies("val", self._predict(network, self._val, epoch), self._val.labels), None

    def test(self, network: nn.Module, epoch: int) -> tuple[dict[str, float], Tensor]:
        """Return the metrics on the test set, compared with the teacher, and the test logits [N, C].

        The logits are on the network's device. Raises Diverged where one is not finite.
        """
        logits = self._predict(network, self._test, epoch)
        measures = metrics.accuracies("test", logits, self._test.labels)
        if self._teacher is not None:
            teacher_logits, teacher_correlation = self._teacher
            correlation = metrics.class_correlation(logits)
            measures["agreement"] = metrics.agreement(logits, teacher_logits)
            measures["correlation_distance"] = metrics.correlation_distance(correlation, teacher_correlation)
        return measures, logits

    def _predict(self, network: nn.Module, split: Split | FileSplit, epoch: int) -> Tensor:
        count = len(split.labels)
        share = split.part(self._parallel.rows(count))
        logits = self._parallel.gather_rows(predict(network, share, self._config, self._precision), count)
        if not logits.isfinite().all():
            raise Diverged(f"the network's logits are not finite in the evaluation after epoch {epoch}")
        return logits


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """Return the numbers of trainable parameters and of buffer entries of a module."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad), sum(b.numel() for b in module.buffers())


@torch.no_grad()
def inference_parameters(network: nn.Module, images: Tensor) -> int:
    """Return the number of parameters of the layers that a network runs in eval mode for the logits of `images`."""
    executed: set[nn.Module] = set()
    hooks = [m.register_forward_hook(lambda module, *_: executed.add(module)) for m in network.modules()]
    network.eval()(images)
    for hook in hooks:
        hook.remove()
    return sum(p.numel() for module in executed for p in module.parameters(recurse=False))
