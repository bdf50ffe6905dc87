"""LoCa: Yang, Wu, Yang, "LoCa: Logit Calibration for Knowledge Distillation", ECAI 2024, arXiv 2409.04778.

    L = ce_weight · CE(z_s, y) + kd_weight · T² · KL(p' ‖ softmax(z_s / T))

p = softmax(z_t / T); where the teacher is right, p' = p. Where it is wrong, with k its predicted class,
    p'_i = s · p_i for i ≠ y,    p'_y = 1 − Σ_{i≠y} p'_i,    s = alpha / (1 − p_y + p_k)
so that the label is the most probable class (for alpha = 1 it is equal to k) and the other classes keep their ratios.

z_s, z_t: logits [N, C]; y: labels [N]. As all p'_i but the label's share the factor s, p' is the softmax of the
teacher's logits with another one for the label: p'_y / s = ((1 − alpha)(1 − p_y) + p_k) / alpha times the sum of
exp(z_t / T), which is how it is computed here.

The formula of p' is from the paper's text. Uncertain, as no official code is known: alpha, "about 0.9 to 1" in the
source, below 1 (0.9 is taken here); that p is the softmax at T, not at 1; the weights and T of the KD part, which are
those of `conf/method/kd.yaml`. No published number belongs to these values.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.contract import Batch, Method, Outputs, Term
from methods.losses import cross_entropy_term, kl_divergence
from methods.options import loss_weight, positive


def calibrated(teacher_logits: Tensor, labels: Tensor, temperature: float, alpha: float) -> Tensor:
    """Logits whose softmax at T is p': [N, C], [N] -> [N, C]."""
    z, y = teacher_logits / temperature, labels[:, None]
    p = F.softmax(z, 1)
    share = ((1 - alpha) * (1 - p.gather(1, y)) + p.amax(1, keepdim=True)) / alpha  # p'_y / s
    raised = temperature * (z.logsumexp(1, keepdim=True) + share.log())
    wrong = teacher_logits.argmax(1, keepdim=True) != y
    return teacher_logits.scatter(1, y, torch.where(wrong, raised, teacher_logits.gather(1, y)))


@dataclass
class Options:
    """Options of LoCa; meanings and defaults in `conf/method/loca.yaml`."""

    temperature: float = positive()
    ce_weight: float = loss_weight()
    kd_weight: float = loss_weight()
    alpha: float = positive(at_most=1.0)  # above 1 the label would not be the most probable class


class LoCa(Method):
    """KD with a calibrated teacher. Terms: ce, kd. Needs the teacher's logits."""

    Options = Options

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        o = self.options
        target = calibrated(teacher.logits, batch.labels, o.temperature, o.alpha)
        return {
            "ce": cross_entropy_term(student, batch, o.ce_weight),
            "kd": Term(kl_divergence(student.logits, target, o.temperature), o.kd_weight),
        }
