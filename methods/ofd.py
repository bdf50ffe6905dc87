"""OFD: Heo, Kim, Yun, Park, Kwak, Choi, "A Comprehensive Overhaul of Feature Distillation", ICCV 2019,
arXiv 1904.01866.

    L = ce_weight · CE(z_s, y) + ofd_weight · Σ_k d(c_k(f_s,k), f_t,k) / 2^(K − k),    k = 1 … K

    d(s, t) = Σ over channels and positions, mean over samples, of
        (s − m)²  where t ≤ m and s > m          values below the channel's margin m < 0 are replaced by it
        (s − t)²  where m < t ≤ 0 and s > t
        (s − t)²  where t > 0
        0         elsewhere
    m = E[x | x < 0] for x ~ N(β, γ²), β and |γ| the bias and scale of the teacher's batch norm before the activation;
        −3 |γ| where P(x < 0) ≤ 0.001

z_s: logits [N, C]; y: labels [N]; f_s,k, f_t,k: maps of student and teacher before the last activation, of all stages
but the stem, the teacher's average-pooled to the student's size; c_k: a trained 1×1 convolution without bias to the
teacher's channels, and batch norm. Where one network has more stages, its first ones are left out.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.contract import Batch, Context, Method, Needs, Outputs, Requirements, Shapes, Term, UnsupportedPair
from methods.losses import TINY, SquaredSum, cross_entropy_term, halving_total, last_stages
from methods.options import loss_weight

RARE = 0.001  # a channel negative with at most this probability has no margin from its negative part


def margins(bias: Tensor, scale: Tensor) -> Tensor:
    """Return m of channels with a bias and an absolute scale: [C], [C] -> [C]."""
    ratio = bias / scale.clamp_min(TINY)
    p_negative = torch.special.ndtr(-ratio)
    density = torch.exp(-(ratio**2) / 2) / math.sqrt(2 * math.pi)
    return torch.where(p_negative > RARE, bias - scale * density / p_negative.clamp_min(RARE), -3 * scale)


def partial_distance(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """d(s, t), which ignores how far an inactive unit is below the margin: 2 × [N, C, H, W], [C] -> scalar."""
    target = teacher.maximum(margin[:, None, None])
    mask = (teacher > 0) | (student > target)
    return SquaredSum.apply((student - target) * mask) / len(student)


class Connector(nn.Sequential):
    """Maps of the student to the teacher's channels: [N, C_s, H, W] -> [N, C_t, H, W]."""

    def __init__(self, student: int, teacher: int) -> None:
        conv = nn.Conv2d(student, teacher, 1, bias=False)
        nn.init.normal_(conv.weight, 0.0, math.sqrt(2 / teacher))
        super().__init__(conv, nn.BatchNorm2d(teacher))


@dataclass
class OFDOptions:
    """Options of OFD; meanings and defaults in `conf/method/ofd.yaml`."""

    ce_weight: float = loss_weight()
    ofd_weight: float = loss_weight()


class OFD(Method):
    """Overhaul of feature distillation. Terms: ce, ofd. Reads both networks' pre-activations of all stages but the
    stem, and the teacher's batch norm parameters; trains the connectors."""

    Options = OFDOptions

    @classmethod
    def requirements(cls, options: OFDOptions, student: Shapes, teacher: Shapes) -> Requirements:
        if not teacher.batch_norms:
            raise UnsupportedPair(
                "OFD needs a teacher whose stages end in batch norm and activation: they give the margins"
            )
        stages_s, stages_t = zip(*last_stages(student, teacher), strict=True)
        needs = Needs(logits=True, pre_activations=stages_s), Needs(pre_activations=stages_t)
        return Requirements(*needs, batch_norms=frozenset(stages_t))

    def __init__(self, options: OFDOptions, context: Context) -> None:
        super().__init__(options, context)
        student, teacher = context.student.stages, context.teacher.stages
        self.stages = last_stages(context.student, context.teacher)
        self.connectors = nn.ModuleList(Connector(student[k][0], teacher[j][0]) for k, j in self.stages)
        for _, j in self.stages:
            self.register_buffer(f"margin_{j}", margins(*context.teacher_batch_norms[j]), persistent=False)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        distances = []
        for (k, j), connector in zip(self.stages, self.connectors, strict=True):
            student_map = connector(student.pre_activations[k])
            teacher_map = F.adaptive_avg_pool2d(teacher.pre_activations[j], student_map.shape[2:])
            distances.append(partial_distance(student_map, teacher_map, self.get_buffer(f"margin_{j}")))
        return {
            "ce": cross_entropy_term(student, batch, self.options.ce_weight),
            "ofd": Term(halving_total(distances), self.options.ofd_weight),
        }


PROVENANCE = """
Certain: all of it.

Source: mdistiller (`distillers/OFD.py`), after the authors' overhaul-distillation.

Differences: mdistiller leaves the teacher in training mode by mistake; here it is in evaluation mode, as the authors
have it.

Unsupported: a teacher that ends its stages without batch norm (ShuffleNet, MobileNetV2), as in the published code.
"""
