"""VID: Ahn, Hu, Damianou, Lawrence, Dai, "Variational Information Distillation for Knowledge Transfer", CVPR 2019,
arXiv 1904.05835.

    L = ce_weight · CE(z_s, y) + vid_weight · Σ_k mean(½ · ((μ_k(f_s,k) − f_t,k)² / v_k + log v_k))

    v_k = softplus(a_k) + 1e-5: one variance per channel of the teacher; a_k [C_t] is trained, initially v_k = 5
    μ_k: trained 1×1 convolutions C_s -> C_t -> C_t -> C_t without bias, ReLU between them

z_s: logits [N, C]; y: labels [N]; f_s,k and f_t,k: maps of student and teacher after stage k, for every stage but the
stem, the larger average-pooled to the size of the smaller; mean over all entries. Where one network has more stages,
its last ones are left out. The term is a negative log-likelihood: it may be negative where the variance is below 1.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.contract import Batch, Context, Method, Needs, Outputs, Requirements, Shapes, Term
from methods.losses import SquaredSum, cross_entropy_term, pool_to_smaller, shared_stages, total
from methods.options import loss_weight

EPS = 1e-5
INITIAL_VARIANCE = 5.0


class Likelihood(nn.Module):
    """Gaussian model of the teacher's map [N, C_t, H, W] with a mean predicted from the student's [N, C_s, H, W]."""

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(student, teacher, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher, teacher, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher, teacher, 1, bias=False),
        )
        self.log_scale = nn.Parameter(torch.full((teacher,), math.log(math.expm1(INITIAL_VARIANCE - EPS))))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the negative log-likelihood up to a constant, mean over all entries: a scalar."""
        student, teacher = pool_to_smaller(student, teacher)
        return negative_log_likelihood(self.mean(student), F.softplus(self.log_scale) + EPS, teacher)


def negative_log_likelihood(mean: Tensor, variance: Tensor, x: Tensor) -> Tensor:
    """Mean over entries of −log p(x) − ½ log 2π of Gaussians: [N, C, H, W], [C], [N, C, H, W] -> scalar."""
    deviations = (mean - x) * variance.rsqrt()[:, None, None]
    return 0.5 * (SquaredSum.apply(deviations) / x.numel() + variance.log().mean())


@dataclass
class VIDOptions:
    """Options of VID; meanings and defaults in `conf/method/vid.yaml`."""

    ce_weight: float = loss_weight()
    vid_weight: float = loss_weight()


class VID(Method):
    """Variational information distillation. Terms: ce, vid. Reads both networks' maps after all stages but the stem;
    trains a regressor and variances for each stage."""

    Options = VIDOptions

    @classmethod
    def requirements(cls, options: VIDOptions, student: Shapes, teacher: Shapes) -> Requirements:
        stages = shared_stages(student, teacher)
        return Requirements(Needs(logits=True, maps=stages), Needs(maps=stages))

    def __init__(self, options: VIDOptions, context: Context) -> None:
        super().__init__(options, context)
        self.stages = shared_stages(context.student, context.teacher)
        student, teacher = context.student.stages, context.teacher.stages
        self.likelihoods = nn.ModuleList(Likelihood(student[k][0], teacher[k][0]) for k in self.stages)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        layers = zip(self.stages, self.likelihoods, strict=True)
        likelihood = total(layer(student.maps[k], teacher.maps[k]) for k, layer in layers)
        return {
            "ce": cross_entropy_term(student, batch, self.options.ce_weight),
            "vid": Term(likelihood, self.options.vid_weight),
        }


PROVENANCE = """
Certain: all of it.

Source: RepDistiller (`distiller_zoo/VID.py`, after the authors' code: `-a 0 -b 1`).

Differences: mdistiller leaves a_k out of its optimizer, so that the variance stays 5; here it is trained, as in
RepDistiller, whose numbers the field reprints.
"""
