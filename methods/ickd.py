"""ICKD: Liu, Huang, Lin, Xie, Wang, Chang, Liang, "Exploring Inter-Channel Correlation for Diversity-preserved
Knowledge Distillation", ICCV 2021, arXiv 2202.03680 (authors and arXiv number not verified).

    L = ce_weight · CE(z_s, y) + ickd_weight · mean over samples of ‖R(e(f_s)) − R(f_t)‖_F² / C_t

    R(f) = F Fᵀ with rows scaled to length 1, F [C, H · W] the flattened map of one sample: [C, C]
    e: a trained 1×1 convolution without bias from C_s to C_t channels, and batch norm

z_s: logits [N, C]; y: labels [N]; f_s [N, C_s, H_s, W_s], f_t [N, C_t, H_t, W_t]: maps after the last stage, whose
sizes may differ.

The inner product of row i of R(a) and of R(b) is a_i (AᵀB) b_iᵀ, divided by the lengths. So no C × C matrix is formed,
which would have 2048 · 2048 entries per sample for ResNet50.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.contract import Batch, Context, Method, Needs, Outputs, Requirements, Shapes, Term
from methods.losses import TINY, cross_entropy_term
from methods.options import loss_weight


def row_products(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of the rows of A Aᵀ with those of B Bᵀ: [N, C, P_a], [N, C, P_b] -> [N, C]."""
    return ((a @ (a.mT @ b)) * b).sum(2)


def correlation_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance of the rows of R: [N, C, H_s, W_s], [N, C, H_t, W_t] -> scalar."""
    s, t = student.flatten(2), teacher.flatten(2)
    squared_s, squared_t = row_products(s, s), row_products(t, t)
    nonzero_s, nonzero_t = squared_s > TINY**2, squared_t > TINY**2  # a zero row stays 0 instead of length 1
    both = nonzero_s & nonzero_t
    lengths = torch.where(both, squared_s, 1.0).sqrt() * torch.where(both, squared_t, 1.0).sqrt()
    cosine = torch.where(both, row_products(s, t), 0.0) / lengths
    return (nonzero_s.to(s.dtype) + nonzero_t.to(s.dtype) - 2 * cosine).mean()


@dataclass
class ICKDOptions:
    """Options of ICKD; meanings and defaults in `conf/method/ickd.yaml`."""

    ce_weight: float = loss_weight()
    ickd_weight: float = loss_weight()


class ICKD(Method):
    """Inter-channel correlation. Terms: ce, ickd. Reads both networks' map after the last stage; trains the embedding
    of the student's map."""

    Options = ICKDOptions

    @classmethod
    def requirements(cls, options: ICKDOptions, student: Shapes, teacher: Shapes) -> Requirements:
        return Requirements(Needs(logits=True, maps=[student.final_stage]), Needs(maps=[teacher.final_stage]))

    def __init__(self, options: ICKDOptions, context: Context) -> None:
        super().__init__(options, context)
        c_s, c_t = context.student.final_map[0], context.teacher.final_map[0]
        self.embed = nn.Sequential(nn.Conv2d(c_s, c_t, 1, bias=False), nn.BatchNorm2d(c_t))

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        final_s, final_t = self.context.student.final_stage, self.context.teacher.final_stage
        distance = correlation_distance(self.embed(student.maps[final_s]), teacher.maps[final_t])
        return {
            "ce": cross_entropy_term(student, batch, self.options.ce_weight),
            "ickd": Term(distance, self.options.ickd_weight),
        }


PROVENANCE = """
Certain: all of it for CIFAR-100, without the KD term (the paper's "w/o KL"; with it KD is added with weight 1, T 4). An
early version of the code had an unused embedding of the teacher's map.

Source: ADLab-AutoDrive/ICKD (`Cifar100/distiller_zoo/ICKD.py`, `train_student.sh`: `-a 0 -b 2.5`).
"""
