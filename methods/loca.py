"""LoCa: Yang, Wu, Yang, "LoCa: Logit Calibration for Knowledge Distillation", ECAI 2024, arXiv 2409.04778.

    L = ce_weight · CE(z_s, y) + kd_weight · T² · KL(p' ‖ softmax(z_s / T))

    p = softmax(z_t / T);  p' = p where the teacher is right;  where it is wrong, with its prediction k:
    p'_i = s · p_i for i ≠ y,    p'_y = 1 − Σ_{i≠y} p'_i,    s = alpha / (1 − p_y + p_k)

z_s, z_t: logits [N, C]; y: labels [N]. So the label becomes the most probable class (as probable as k for alpha = 1),
and the other classes keep their ratios. As all p'_i but that of the label share the factor s, p' is the softmax of the
teacher's logits with another logit for the label: p'_y / s = ((1 − alpha)(1 − p_y) + p_k) / alpha times the sum of
exp(z_t / T), which is how it is computed here.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.contract import Batch, Method, Outputs, Term
from methods.losses import cross_entropy_term, kl_divergence
from methods.options import loss_weight, positive


def calibrate(teacher_logits: Tensor, labels: Tensor, temperature: float, alpha: float) -> Tensor:
    """Return logits whose softmax at T is p': [N, C], [N] -> [N, C]."""
    z, y = teacher_logits / temperature, labels[:, None]
    p = F.softmax(z, 1)
    ratio = ((1 - alpha) * (1 - p.gather(1, y)) + p.amax(1, keepdim=True)) / alpha  # p'_y / s
    raised = temperature * (z.logsumexp(1, keepdim=True) + ratio.log())
    wrong = teacher_logits.argmax(1, keepdim=True) != y
    return teacher_logits.scatter(1, y, torch.where(wrong, raised, teacher_logits.gather(1, y)))


@dataclass
class LoCaOptions:
    """Options of LoCa; meanings and defaults in `conf/method/loca.yaml`."""

    temperature: float = positive()
    ce_weight: float = loss_weight()
    kd_weight: float = loss_weight()
    alpha: float = positive(at_most=1.0)  # above 1 the label would not be the most probable class


class LoCa(Method):
    """KD with a calibrated teacher. Terms: ce, kd. Reads the teacher's logits."""

    Options = LoCaOptions
    mixing_conflict = "it corrects teachers by the label, and a blended image has two"

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options = self.options
        target = calibrate(teacher.logits, batch.labels, options.temperature, options.alpha)
        return {
            "ce": cross_entropy_term(student, batch, options.ce_weight),
            "kd": Term(kl_divergence(student.logits, target, options.temperature), options.kd_weight),
        }


PROVENANCE = """
Certain: the formula of p', from the paper's text.

Uncertain, as no official code is known: alpha, "about 0.9 to 1" in the source, below 1 (0.9 is taken here); that p is
the softmax at T, not at 1; the weights and T of the KD part, which are those of `conf/method/kd.yaml`. No published
number belongs to these values.

Source: the paper.
"""
