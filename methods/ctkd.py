"""CTKD: Li, Li, Yang, Zhao, Song, Luo, Li, Yang, "Curriculum Temperature for Knowledge Distillation", AAAI 2023,
arXiv 2211.16231.

    L = ce_weight · CE(z_s, y) + kd_weight · T² · KL(softmax(z_t / T) ‖ softmax(z_s / T)),    T = lowest + span · σ(t)
    λ = (1 − cos(π · min(epoch / warmup, 1))) / 2,    epoch from 1

z_s, z_t: logits [N, C]; y: labels [N]; σ: the logistic function; t: one trained number, initially 1. The student
descends on L, while t ascends on it, with its gradient times λ: a layer between t and T reverses the gradient. The
gradient runs through every T, in the factor T² and the teacher's softmax too. T is the same for all samples, which is
the paper's "global" version, that of its tables and code. With `standardise` both networks' logits are first
standardized (LSKD, see `methods/kd.py`).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from methods.contract import Batch, Context, Method, Outputs, Term
from methods.losses import cross_entropy_term, kl_divergence, standardize_logits, warmup_ramp
from methods.options import boolean, loss_weight, non_negative, positive


class Reversal(torch.autograd.Function):
    """The identity, with its gradient multiplied by −strength."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradient, None


def strength(epoch: int, warmup: float) -> float:
    """Return λ of an epoch, counted from 1; 1 where `warmup` is 0."""
    return (1 - math.cos(math.pi * warmup_ramp(epoch, warmup))) / 2


@dataclass
class CTKDOptions:
    """Options of CTKD; meanings and defaults in `conf/method/ctkd.yaml`."""

    ce_weight: float = loss_weight()
    kd_weight: float = loss_weight()
    lowest: float = positive()
    span: float = positive()
    warmup: float = non_negative()
    standardise: bool = boolean()


class CTKD(Method):
    """KD at a temperature learned against the student. Terms: ce, kd. Reads the teacher's logits; trains t."""

    Options = CTKDOptions

    def __init__(self, options: CTKDOptions, context: Context) -> None:
        super().__init__(options, context)
        self.t = nn.Parameter(torch.tensor(1.0))

    def temperature(self, epoch: int) -> Tensor:
        """Return T, a scalar, with the reversed gradient at the strength of the epoch."""
        options = self.options
        return options.lowest + options.span * Reversal.apply(self.t, strength(epoch, options.warmup)).sigmoid()

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options, z_s, z_t = self.options, student.logits, teacher.logits
        if options.standardise:
            z_s, z_t = standardize_logits(z_s), standardize_logits(z_t)
        return {
            "ce": cross_entropy_term(student, batch, options.ce_weight),
            "kd": Term(kl_divergence(z_s, z_t, self.temperature(batch.epoch)), options.kd_weight),
        }


PROVENANCE = """
Certain: all of it, and that t is trained by the student's SGD with its weight decay. For ImageNet λ rises over 5
epochs.

Uncertain, with standardization (CTKD+LS): lowest 2 and span 40. The command line's defaults in logit-standardization-KD
are 1 and 20, but by all 14 logs behind the published numbers T is 22.3 to 30.4 after the first epoch, below 2.1 by the
fourth, 2.005 to 2.034 at the end and never below 2, so the base temperature 2 of the file names multiplies
1 + 20 · σ(t). At a span below 38.8 the first temperatures could not be reached. The authors say (issue 15) that the
public version of their code is not the one that ran.

Source: CTKD (`train_student.py`, `helper/loops.py`, `scripts/run_cifar_distill.sh`). With standardization:
logit-standardization-KD f6e5aa5 (`CTKD/`, `logs/CTKD/`), KD weight 9.
"""
