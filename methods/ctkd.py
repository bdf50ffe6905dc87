"""CTKD: Li, Li, Yang, Zhao, Song, Luo, Li, Yang, "Curriculum Temperature for Knowledge Distillation", AAAI 2023,
arXiv 2211.16231.

    L = ce_weight · CE(z_s, y) + kd_weight · T² · KL(softmax(z_t / T) ‖ softmax(z_s / T)),    T = lowest + span · σ(t)

t is one trained number, 1 at the start; σ is the logistic function. The student descends on L; t ascends on it, with
its gradient times λ, for which a layer between t and T reverses the gradient. λ rises along a cosine with the epoch,
counted from 1:
    λ = (1 − cos(π · min(epoch / warmup, 1))) / 2

z_s, z_t: logits [N, C]; y: labels [N]. The gradient runs through all of T, the factor T² and the teacher's softmax too.
T is the same for all samples: the paper's "global" version, the one in its tables and its code.

With `standardise` both networks' logits are first standardised (LSKD, see `methods/kd.py`).

Certain: all of it, and that t is trained by the student's SGD with its weight decay. Source: CTKD (`train_student.py`,
`helper/loops.py`, `scripts/run_cifar_distill.sh`); for ImageNet λ rises over 5 epochs. With standardisation:
logit-standardization-KD (`CTKD/`), KD weight 9; the base temperature 2 in its file names has no part in it, as T is
learned.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from methods.contract import Batch, Context, Method, Outputs, Term
from methods.losses import cross_entropy_term, kl_divergence, standardize_logits
from methods.options import boolean, loss_weight, non_negative, positive


class Reversal(torch.autograd.Function):
    """The identity, whose gradient is multiplied by −strength."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradient, None


def strength(epoch: int, warmup: float) -> float:
    """λ of an epoch, counted from 1."""
    return (1 - math.cos(math.pi * min(epoch / warmup, 1.0))) / 2 if warmup > 0 else 1.0


@dataclass
class Options:
    """Options of CTKD; meanings and defaults in `conf/method/ctkd.yaml`."""

    ce_weight: float = loss_weight()
    kd_weight: float = loss_weight()
    lowest: float = positive()
    span: float = positive()
    warmup: float = non_negative()
    standardise: bool = boolean()


class CTKD(Method):
    """KD at a temperature learned against the student. Terms: ce, kd. Needs the teacher's logits; trains t."""

    Options = Options

    def __init__(self, options: Options, context: Context) -> None:
        super().__init__(options, context)
        self.t = nn.Parameter(torch.tensor(1.0))

    def temperature(self, epoch: int) -> Tensor:
        """T, a scalar, with the reversed gradient of the epoch."""
        o = self.options
        return o.lowest + o.span * Reversal.apply(self.t, strength(epoch, o.warmup)).sigmoid()

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        o, z_s, z_t = self.options, student.logits, teacher.logits
        if o.standardise:
            z_s, z_t = standardize_logits(z_s), standardize_logits(z_t)
        return {
            "ce": cross_entropy_term(student, batch, o.ce_weight),
            "kd": Term(kl_divergence(z_s, z_t, self.temperature(batch.epoch)), o.kd_weight),
        }
