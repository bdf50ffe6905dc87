"""DOT: Zhao, Cui, Song, Liang, "DOT: A Distillation-Oriented Trainer", ICCV 2023, arXiv 2307.08436.

    v_task ← (m − delta) · v_task + ∇L_task + weight decay · θ
    v_kd   ← (m + delta) · v_kd + ∇L_kd
    θ      ← θ − lr · (v_task + v_kd)

The loss is that of KD (see `methods/kd.py`); only the optimizer step differs. The task (cross-entropy) and the
distillation (all other terms) have a momentum buffer each, so that the distillation's gradient persists for longer and
dominates. m, lr and the weight decay are the optimizer's, and both buffers are in its state. With delta 0 it is plain
SGD. A parameter with a gradient from only one of the two is trained with m. With Nesterov momentum, which the source
does not have, each buffer looks ahead by its own momentum.

`SeparateMomenta` gives any other method this step.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from methods import kd
from methods.contract import Term, weighted_sum
from methods.options import non_negative

Gradients = Mapping[Tensor, Tensor]  # parameter -> gradient, for the parameters that receive one


def gradients(loss: Tensor, optimizer: torch.optim.Optimizer, keep_graph: bool = False) -> Gradients:
    """Return the gradients of a loss with respect to the optimizer's parameters, which also hold them afterwards."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward(retain_graph=keep_graph)
    return {p: p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None}


def check_delta(delta: float, momentum: float) -> None:
    """Raise ValueError where delta leaves a momentum outside [0, 1)."""
    if not delta <= momentum < 1 - delta:
        most = min(momentum, 1 - momentum)
        raise ValueError(f"delta is {delta}: with a momentum of {momentum} it must be at most {most:g}")


@torch.no_grad()
def step(optimizer: torch.optim.Optimizer, task: Gradients, distillation: Gradients, delta: float) -> None:
    """Take one step of DOT on the optimizer's parameters, with its settings and state.

    Raises ValueError where delta leaves a momentum outside [0, 1).
    """
    for group in optimizer.param_groups:
        m, decay = group["momentum"], group["weight_decay"]
        check_delta(delta, m)
        for buffer, grads, other_grads, momentum, shared_decay in (
            ("momentum_buffer", task, distillation, m - delta, decay),
            ("distillation_buffer", distillation, task, m + delta, 0.0),
        ):
            for shared in (True, False):
                parameters = [p for p in group["params"] if p in grads and (p in other_grads) == shared]
                buffers = [optimizer.state[p].get(buffer) for p in parameters]
                sgd(
                    parameters, [grads[p] for p in parameters], buffers, lr=group["lr"],
                    momentum=momentum if shared else m, weight_decay=shared_decay if shared else decay,
                    nesterov=group["nesterov"], dampening=0.0, maximize=False,
                )  # fmt: skip
                for p, b in zip(parameters, buffers, strict=True):
                    optimizer.state[p][buffer] = b


class SeparateMomenta:
    """Mixin that replaces a method's optimizer step by that of DOT; the method's options must have `delta`.

    It stands before the Method among the bases of a class. task: names of the terms that form the task's loss; at least
    one term must be among them, and one not.
    """

    options: Any
    task: Collection[str] = ("ce",)

    @classmethod
    def check_momentum(cls, options: Any, momentum: float) -> None:
        """Raise ValueError where delta leaves one of the momenta outside [0, 1)."""
        check_delta(options.delta, momentum)

    def optimizer_step(self, terms: Mapping[str, Term], optimizer: torch.optim.Optimizer) -> Tensor:
        """Take one step of DOT on the terms of a batch; return their weighted sum, a scalar without gradient."""
        task = weighted_sum({n: t for n, t in terms.items() if n in self.task})
        distillation = weighted_sum({n: t for n, t in terms.items() if n not in self.task})
        distillation_gradients = gradients(distillation, optimizer, keep_graph=True)
        step(optimizer, gradients(task, optimizer), distillation_gradients, self.options.delta)
        return (task + distillation).detach()


@dataclass
class DOTOptions(kd.KDOptions):
    """Options of KD and DOT; meanings and defaults in `conf/method/dot.yaml`."""

    delta: float = non_negative(at_most=0.5)


class DOT(SeparateMomenta, kd.KD):
    """Knowledge distillation with separate momenta. Terms: ce, kd. Reads the teacher's logits."""

    Options = DOTOptions


PROVENANCE = """
Certain: formula, and delta 0.075 on CIFAR-100 and Tiny-ImageNet, 0.09 on ImageNet, with the weights of KD. A step has
one forward and two backward passes.

Source: mdistiller (`engine/dot.py`, `engine/trainer.py`, `configs/*/dot/`).
"""
