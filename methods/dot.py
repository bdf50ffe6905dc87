"""DOT: Zhao, Cui, Song, Liang, "DOT: A Distillation-Oriented Trainer", ICCV 2023, arXiv 2307.08436.

The loss is that of KD (see `methods/kd.py`); only the optimizer's step is another. The gradients of the task's terms
(the cross-entropy) and of all others, the distillation's, have a momentum buffer each:

    v_task ← (m − delta) · v_task + ∇L_task + weight decay · θ
    v_kd   ← (m + delta) · v_kd + ∇L_kd
    θ      ← θ − lr · (v_task + v_kd)

so that the distillation's gradient is remembered for longer and dominates. m, lr and the weight decay are the
optimizer's, and both buffers are in its state. With delta 0 it is plain SGD. A parameter that only one of the two
reaches is trained with m. With Nesterov momentum, which the source does not have, each buffer looks ahead by its own.

Certain: formula, and delta 0.075 on CIFAR-100 and Tiny-ImageNet, 0.09 on ImageNet, with the weights of KD. Source:
mdistiller (`engine/dot.py`, `engine/trainer.py`, `configs/*/dot/`). A step has one forward and two backward passes.

`SeparateMomenta` gives any other method this step.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from methods import kd
from methods.contract import Term, weighted_sum
from methods.options import non_negative

Gradients = Mapping[Tensor, Tensor]  # of the parameters that a loss reaches


def gradients(loss: Tensor, optimizer: torch.optim.Optimizer, keep_graph: bool = False) -> Gradients:
    """The gradients of a loss, which the parameters hold afterwards."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward(retain_graph=keep_graph)
    return {p: p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None}


@torch.no_grad()
def step(optimizer: torch.optim.Optimizer, of_task: Gradients, of_distillation: Gradients, delta: float) -> None:
    """One step of DOT on the optimizer's parameters, with its settings and state."""
    for group in optimizer.param_groups:
        m, decay = group["momentum"], group["weight_decay"]
        if not delta <= m < 1 - delta:
            raise ValueError(f"delta is {delta}: with a momentum of {m} it must be at most {min(m, 1 - m):g}")
        for buffer, own, other, momentum, own_decay in (
            ("momentum_buffer", of_task, of_distillation, m - delta, decay),
            ("distillation_buffer", of_distillation, of_task, m + delta, 0.0),
        ):
            for shared in (True, False):
                chosen = [p for p in group["params"] if p in own and (p in other) == shared]
                buffers = [optimizer.state[p].get(buffer) for p in chosen]
                sgd(
                    chosen, [own[p] for p in chosen], buffers, lr=group["lr"],
                    momentum=momentum if shared else m, weight_decay=own_decay if shared else decay,
                    nesterov=group["nesterov"], dampening=0.0, maximize=False,
                )  # fmt: skip
                for p, b in zip(chosen, buffers, strict=True):
                    optimizer.state[p][buffer] = b


class SeparateMomenta:
    """Put before a Method among a class's bases it makes DOT's step the method's own; the options have `delta`.

    task: the names of the terms that are the task's; at least one term is, and one is not.
    """

    task: Collection[str] = ("ce",)

    def optimizer_step(self, terms: Mapping[str, Term], optimizer: torch.optim.Optimizer) -> Tensor:
        """Take one step of DOT on the terms of a batch; returns their sum."""
        task = weighted_sum({n: t for n, t in terms.items() if n in self.task})
        distillation = weighted_sum({n: t for n, t in terms.items() if n not in self.task})
        of_distillation = gradients(distillation, optimizer, keep_graph=True)
        step(optimizer, gradients(task, optimizer), of_distillation, self.options.delta)
        return (task + distillation).detach()


@dataclass
class Options(kd.Options):
    """Options of KD, and DOT's; meanings and defaults in `conf/method/dot.yaml`."""

    delta: float = non_negative()


class DOT(SeparateMomenta, kd.KD):
    """Knowledge distillation with separate momenta. Terms: ce, kd. Needs the teacher's logits."""

    Options = Options
