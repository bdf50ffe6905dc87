"""DIST: Huang, You, Wang, Qian, Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, arXiv 2205.10536.

    L = ce_weight · CE(z_s, y) + dist_weight · (beta · L_inter + gamma · L_intra)

    L_inter = T² · (1 − mean over samples i of ρ(p_s[i, :], p_t[i, :])),    p = softmax(z / T)
    L_intra = T² · (1 − mean over classes j of ρ(p_s[:, j], p_t[:, j]))

z_s, z_t: logits [N, C] of student and teacher; y: labels [N]; ρ(a, b): Pearson's correlation, a · b / (|a| |b| + 1e-8)
of the vectors less their means. Scale and shift of a vector do not count: the student need not match the teacher's
confidence.

Certain: formula and weights for CIFAR-100 (beta 1, gamma 1, both times 2, T 4). Source: DIST_KD and
image_classification_sota (`lib/models/losses/dist_kd.py`). For ImageNet T is 1. One numerical difference, without
effect on ordinary logits: a vector whose entries differ by no more than rounding has no direction and counts with its
own length, so that its gradient stays moderate.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.contract import Batch, Method, Outputs, Term
from methods.losses import cross_entropy_term
from methods.options import loss_weight, positive

EPS = 1e-8
ROUNDING = 1e-6  # what is left of a vector without its mean, as a share of it, where all entries are alike


def centred(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows less their means, and the lengths of that (1 for a row of equal entries): [M, D] -> [M, D], [M]."""
    rest = rows - rows.mean(1, keepdim=True)
    length, whole = (torch.linalg.vector_norm(v, dim=1) for v in (rest, rows.detach()))
    return rest, torch.where(length > ROUNDING * whole, length, 1.0)


def decorrelation(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − the mean correlation of the rows: [M, D], [M, D] -> scalar."""
    (a, length_a), (b, length_b) = centred(student), centred(teacher)
    return 1 - ((a * b).sum(1) / (length_a * length_b + EPS)).mean()


@dataclass
class Options:
    """Options of DIST; meanings and defaults in `conf/method/dist.yaml`."""

    temperature: float = positive()
    ce_weight: float = loss_weight()
    dist_weight: float = loss_weight()
    beta: float = loss_weight()
    gamma: float = loss_weight()


class DIST(Method):
    """Relations between and within classes. Terms: ce, inter, intra. Needs the teacher's logits."""

    Options = Options

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        o = self.options
        p_s, p_t = (F.softmax(z / o.temperature, 1) for z in (student.logits, teacher.logits))
        return {
            "ce": cross_entropy_term(student, batch, o.ce_weight),
            "inter": Term(o.temperature**2 * decorrelation(p_s, p_t), o.dist_weight * o.beta),
            "intra": Term(o.temperature**2 * decorrelation(p_s.T, p_t.T), o.dist_weight * o.gamma),
        }
