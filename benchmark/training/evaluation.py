"""Evaluation of a network on the test set and the validation split, and counts of its parameters."""

import torch
from torch import Tensor, nn

from benchmark.config.schema import DatasetConfig
from benchmark.data.datasets import Dataset, Split, normalize
from benchmark.training import metrics


class Diverged(Exception):
    """A loss term or the network's output became NaN or infinite."""


def autocast(device: str, precision: str) -> torch.autocast:
    """Mixed precision for the networks' forward passes; losses are computed in float32 outside it."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")


def evaluation_batch(device: str, size: int) -> int:
    """How many images of `size` × `size` pixels are run at a time where nothing is trained: 500, on a GPU the pixels of
    2,500 images of 32 × 32, as smaller batches leave it waiting for launches."""
    return 500 if device == "cpu" else max(1, 2500 * 32**2 // size**2)


@torch.no_grad()
def predict(network: nn.Module, split: Split, config: DatasetConfig, precision: str) -> Tensor:
    """Logits [N, C] float32 of `network`, in eval mode, for the un-augmented images of a split; all on one device."""
    network.eval()
    found, device = [], split.images.device.type
    for images in split.images.split(evaluation_batch(device, split.images.shape[3])):
        with autocast(device, precision):
            found.append(network(normalize(images, config)).logits.float())
    return torch.cat(found)


class Evaluator:
    """Measures a network on the test set, and on the validation split where there is one, against its teacher."""

    def __init__(self, dataset: Dataset, teacher_logits: Tensor | None, device: str, precision: str) -> None:
        self._config, self._classes, self._precision = dataset.config, dataset.classes, precision
        self._test = dataset.test.to(device)
        self._val = None if dataset.val is None else dataset.val.to(device)
        self._teacher = None
        if teacher_logits is not None:
            logits = teacher_logits.to(device)
            self._teacher = logits, metrics.class_correlation(logits)

    def __call__(self, network: nn.Module, epoch: int) -> tuple[dict[str, float], Tensor]:
        """The measures of one epoch, and the test logits [N, C] on the network's device. Raises Diverged where a logit
        is not finite."""
        logits = self._logits(network, self._test, epoch)
        found = {"test_top1": metrics.top_k(logits, self._test.labels)}
        if self._classes > 5:
            found["test_top5"] = metrics.top_k(logits, self._test.labels, 5)
        if self._val is not None:
            found["val_top1"] = metrics.top_k(self._logits(network, self._val, epoch), self._val.labels)
        if self._teacher is not None:
            teacher, correlation = self._teacher
            found["agreement"] = metrics.agreement(logits, teacher)
            found["correlation_distance"] = metrics.correlation_distance(metrics.class_correlation(logits), correlation)
        return found, logits

    def _logits(self, network: nn.Module, split: Split, epoch: int) -> Tensor:
        logits = predict(network, split, self._config, self._precision)
        if not logits.isfinite().all():
            raise Diverged(f"the network's logits are not finite in the evaluation after epoch {epoch}")
        return logits


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """Numbers of trainable parameters and of buffer entries of a module."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad), sum(b.numel() for b in module.buffers())


@torch.no_grad()
def inference_parameters(network: nn.Module, images: Tensor) -> int:
    """Number of parameters of the layers that a network runs for its logits of `images`, in eval mode."""
    ran: set[nn.Module] = set()
    hooks = [m.register_forward_hook(lambda module, *_: ran.add(module)) for m in network.modules()]
    network.eval()(images)
    for hook in hooks:
        hook.remove()
    return sum(p.numel() for module in ran for p in module.parameters(recurse=False))
