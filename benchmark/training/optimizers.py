"""Optimizers, learning rates and averaged weights of the recipes."""

import copy
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from benchmark.interruption import defer_interruptions
from benchmark.networks import Network


@dataclass(frozen=True)
class Schedule:
    """An optimizer and its learning rate, which falls in steps or along a cosine, the same throughout an epoch."""

    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    milestones: Sequence[float]
    gamma: float
    schedule: str = "step"
    min_lr: float = 0.0
    warmup_epochs: int = 0
    warmup_lr: float = 0.0
    optimizer: str = "sgd"
    decay_vectors: bool = True
    clip_norm: float | None = None
    ema_decay: float | None = None
    epochs: int = 1

    @staticmethod
    def from_recipe(recipe: Mapping[str, Any]) -> "Schedule":
        """Return the schedule of a resolved recipe, which lacks options that have their default."""
        return Schedule(**{f.name: recipe[f.name] for f in dataclasses.fields(Schedule) if f.name in recipe})

    def learning_rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 1.

        In steps it falls when the epoch exceeds a milestone. A cosine and a warm-up are those of timm's
        CosineLRScheduler by epochs: the first epoch has the warm-up's rate, and the rate after the warm-up is as if the
        cosine had begun with the first epoch.
        """
        finished = max(epoch - 1, 0)  # epochs of an initialization stage have the rate of the first one
        if finished < self.warmup_epochs:
            return self.warmup_lr + finished * (self.lr - self.warmup_lr) / self.warmup_epochs
        if self.schedule == "cosine":
            return self.min_lr + (self.lr - self.min_lr) * (1 + math.cos(math.pi * finished / self.epochs)) / 2
        return self.lr * self.gamma ** sum(epoch > m for m in self.milestones)


@defer_interruptions()  # torch imports its compiler for the first optimizer
def make_optimizer(schedule: Schedule, network: Network, others: nn.Module, device: str) -> torch.optim.Optimizer:
    """Return the optimizer of a network and of the layers in `others`, with its state at the start."""
    parameters: Any = [*network.parameters(), *others.parameters()]
    if not schedule.decay_vectors:
        parameters = _groups(network, others, schedule.weight_decay)
    on_gpu = device == "cuda"
    optimizer: torch.optim.Optimizer
    if schedule.optimizer == "adamw":
        # a captured step must find its count of steps on the device
        optimizer = torch.optim.AdamW(
            parameters, schedule.lr, weight_decay=schedule.weight_decay, fused=on_gpu or None, capturable=on_gpu
        )
    else:
        optimizer = torch.optim.SGD(
            parameters, schedule.lr, schedule.momentum, weight_decay=schedule.weight_decay, nesterov=schedule.nesterov,
            fused=on_gpu or None,  # decay, momentum and step in one pass; None: torch's choice
        )  # fmt: skip
    reset_state(optimizer)
    if (clip_norm := schedule.clip_norm) is not None:
        optimizer.register_step_pre_hook(lambda *_: _clip(optimizer, clip_norm))
    return optimizer


def _groups(network: Network, others: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Divide parameters into decayed matrices, and vectors that are not decayed, as timm does: biases, parameters of
    norms, and what a network of timm names, such as embeddings of positions."""
    module: Any = network.foreign_module
    names = module.no_weight_decay() if hasattr(module, "no_weight_decay") else set()
    named = [*module.named_parameters(), *others.named_parameters()]
    decayed = [p for name, p in named if p.ndim > 1 and name not in names]
    vectors = [p for name, p in named if p.ndim <= 1 or name in names]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


@torch.no_grad()
def _clip(optimizer: torch.optim.Optimizer, norm: float) -> None:
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], norm)


@torch.no_grad()
def reset_state(optimizer: torch.optim.Optimizer) -> None:
    """Set the momenta of all parameters to zero. The optimizer would create them with the first gradient, and a fused
    step refuses parameters of which some have none yet; nor would a checkpoint fit."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            if isinstance(optimizer, torch.optim.SGD):
                optimizer.state[p] = {"momentum_buffer": torch.zeros_like(p)}
            else:
                step = torch.zeros((), device=p.device if group["capturable"] or group["fused"] else "cpu")
                optimizer.state[p] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}


class WeightAverage:
    """The exponential moving average of a network's weights and buffers, updated after every optimizer step.

    decay: d in average ← d · average + (1 − d) · weights. network: the averaged copy, in eval mode.
    """

    def __init__(self, network: Network, decay: float, optimizer: torch.optim.Optimizer) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._update = get_ema_multi_avg_fn(decay)
        self._pairs = list(zip(_tensors(self.network), _tensors(network), strict=True))
        optimizer.register_step_post_hook(lambda *_: self.update())

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the network; whole numbers, such as counts of batches, are copied."""
        floats = [(average, value) for average, value in self._pairs if average.is_floating_point()]
        self._update([average for average, _ in floats], [value for _, value in floats], 0)
        for average, value in self._pairs:
            if not average.is_floating_point():
                average.copy_(value)


def _tensors(network: nn.Module) -> Iterable[Tensor]:
    return network.state_dict().values()
