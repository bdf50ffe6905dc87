"""RKD: Park, Kim, Lu, Cho, "Relational Knowledge Distillation", CVPR 2019, arXiv 1904.05068.

    L = ce_weight · CE(z_s, y) + distance_weight · mean H(d_s − d_t) + angle_weight · mean H(a_s − a_t)

    d [N, N]: distances ‖f_i − f_j‖ of the batch's samples, divided by the mean of the positive ones
    a [N, N, N]: cosines of the angles at i between f_j − f_i and f_k − f_i, 0 where a side has length 0
    H(x): x² / 2 up to |x| = 1, then |x| − 1/2 (Huber, smooth L1)

f [N, D]: pooled features, whose D may differ; z_s: logits [N, C]; y: labels [N]; means over all N² and N³ entries.

Cosines are computed from the N × N products of the samples, not from N² differences of D numbers; the values are the
same, but samples closer than about a thousandth of the batch's radius count as one point.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.contract import Batch, Method, Needs, Outputs, Term
from methods.losses import cross_entropy_term
from methods.options import loss_weight

ROUNDING = 1e-6  # squared distances below this fraction of the squared radius, or of the features, count as 0


def relations(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return distances over their mean, and cosines (the vertex first): [N, D] -> [N, N], [N, N, N]."""
    centered = rows - rows.mean(0)  # leaves differences unchanged, and avoids cancellation
    products = centered @ centered.T
    norms = products.diagonal()  # squared
    squared = norms[:, None] + norms - 2 * products
    size = rows.detach().abs().amax().clamp_min(0.01)
    distinct = squared > ROUNDING * (norms.detach().amax() + ROUNDING * rows.shape[1] * size**2)
    length = torch.where(distinct, squared, 1.0).sqrt()
    mean = torch.where(distinct, length, 0.0).sum() / distinct.sum().clamp_min(1)
    distances = torch.where(distinct, length, 0.0) / torch.where(mean > 0, mean, 1.0)
    inverse = torch.where(distinct, 1 / length, 0.0)
    dot_products = products - products[:, :, None] - products[:, None, :] + norms[:, None, None]
    return distances, dot_products * inverse[:, :, None] * inverse[:, None, :]


@dataclass
class RKDOptions:
    """Options of RKD; meanings and defaults in `conf/method/rkd.yaml`."""

    ce_weight: float = loss_weight()
    distance_weight: float = loss_weight()
    angle_weight: float = loss_weight()


class RKD(Method):
    """Relational distillation. Terms: ce, distance, angle. Reads both networks' pooled features."""

    Options = RKDOptions
    student_needs = Needs(logits=True, pooled=True)
    teacher_needs = Needs(pooled=True)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options = self.options
        d_s, a_s = relations(student.pooled)
        d_t, a_t = relations(teacher.pooled)
        return {
            "ce": cross_entropy_term(student, batch, options.ce_weight),
            "distance": Term(F.smooth_l1_loss(d_s, d_t), options.distance_weight),
            "angle": Term(F.smooth_l1_loss(a_s, a_t), options.angle_weight),
        }


PROVENANCE = """
Certain: all of it; the means include the entries that are 0 or 1 by definition, as in the code.

Source: RepDistiller (`distiller_zoo/RKD.py`: `-a 0 -b 1`); mdistiller agrees.
"""
