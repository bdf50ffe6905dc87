"""DIST: Huang, You, Wang, Qian, Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, arXiv 2205.10536.

    L = ce_weight · CE(z_s, y) + dist_weight · (beta · L_inter + gamma · L_intra)

    L_inter = T² · (1 − mean over samples i of ρ(p_s[i, :], p_t[i, :])),    p = softmax(z / T)
    L_intra = T² · (1 − mean over classes j of ρ(p_s[:, j], p_t[:, j]))

z_s, z_t: logits [N, C] of student and teacher; y: labels [N]; ρ(a, b): Pearson's correlation, a · b / (|a| |b| + 1e-8)
of the centered vectors. It is invariant to scale and shift, so the student need not match the teacher's confidence.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.contract import Batch, Method, Outputs, Term
from methods.losses import cross_entropy_term
from methods.options import loss_weight, positive

EPS = 1e-8
ROUNDING = 1e-6  # relative length of a centered vector below which its entries count as equal


def centered(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Center rows; return them and their lengths (1 for a row of equal entries): [M, D] -> [M, D], [M]."""
    deviations = rows - rows.mean(1, keepdim=True)
    length, row_length = (torch.linalg.vector_norm(v, dim=1) for v in (deviations, rows.detach()))
    return deviations, torch.where(length > ROUNDING * row_length, length, 1.0)


def decorrelation(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − mean correlation of the rows: [M, D], [M, D] -> scalar."""
    (a, length_a), (b, length_b) = centered(student), centered(teacher)
    return 1 - ((a * b).sum(1) / (length_a * length_b + EPS)).mean()


@dataclass
class DISTOptions:
    """Options of DIST; meanings and defaults in `conf/method/dist.yaml`."""

    temperature: float = positive()
    ce_weight: float = loss_weight()
    dist_weight: float = loss_weight()
    beta: float = loss_weight()
    gamma: float = loss_weight()


class DIST(Method):
    """Relations between and within classes. Terms: ce, inter, intra. Reads the teacher's logits."""

    Options = DISTOptions

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options = self.options
        p_s, p_t = (F.softmax(z / options.temperature, 1) for z in (student.logits, teacher.logits))
        return {
            "ce": cross_entropy_term(student, batch, options.ce_weight),
            "inter": Term(options.temperature**2 * decorrelation(p_s, p_t), options.dist_weight * options.beta),
            "intra": Term(options.temperature**2 * decorrelation(p_s.T, p_t.T), options.dist_weight * options.gamma),
        }


PROVENANCE = """
Certain: formula and weights for CIFAR-100 (beta 1, gamma 1, both times 2, T 4). For ImageNet T is 1.

Source: DIST_KD and image_classification_sota (`lib/models/losses/dist_kd.py`).

Differences, without effect on ordinary logits: a vector whose entries differ by no more than rounding has no direction;
it is not divided by its length, so that its gradient stays moderate.
"""
