"""AB: Heo, Lee, Yun, Choi, "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons",
AAAI 2019, arXiv 1811.03233.

    initialization stage of `init_epochs` epochs:  L = ab_weight · 3 / 1000 · Σ_k 2^(k − K) · b(c_k(f_s,k), f_t,k)
    training:                                      L = ce_weight · CE(z_s, y)

    k = 1 … K;  b(s, t) = Σ over channels and positions, mean over samples, of
        (s + margin)²  where t ≤ 0 and s > −margin       the teacher's unit is inactive, the student's should be
        (s − margin)²  where t > 0 and s ≤ margin        the teacher's unit is active, the student's should be
        0              elsewhere

z_s: logits [N, C]; y: labels [N]; f_s,k, f_t,k: maps of student and teacher before the last activation of stage k, for
all stages but the stem; c_k: a trained connector to the teacher's shape where the shapes differ, which is FitNet's
regressor without ReLU. Where one network has more stages, its last ones are left out.
"""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from methods.contract import Batch, Context, Initialization, Method, Needs, Outputs, Requirements, Shapes, Term
from methods.losses import check_resizable, cross_entropy_term, halving_total, resizing_convolution, shared_stages
from methods.options import loss_weight, non_negative, positive

SCALE = 3 / 1000


def connector(student: tuple[int, int, int], teacher: tuple[int, int, int]) -> nn.Module:
    """Build the connector of one stage: [N, *student] -> [N, *teacher], shapes (C, H, W)."""
    if student == teacher:
        return nn.Identity()
    return nn.Sequential(resizing_convolution(student, teacher), nn.BatchNorm2d(teacher[0]))


def boundary_distance(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """b(s, t), the squared distance to the correct side of the margin: [N, C, H, W], [N, C, H, W] -> scalar."""
    shortfall = (margin - student.where(teacher > 0, -student)).relu()
    return shortfall.square().sum() / len(student)


@dataclass
class ABOptions:
    """Options of AB; meanings and defaults in `conf/method/ab.yaml`."""

    ce_weight: float = loss_weight()
    ab_weight: float = loss_weight()
    margin: float = positive()
    init_epochs: float = non_negative()


class AB(Method):
    """Activation boundaries. Terms: ab in the initialization stage, then ce.

    Reads both networks' pre-activations of all stages but the stem, and trains the connectors, in the initialization
    stage alone.
    """

    Options = ABOptions

    @classmethod
    def requirements(cls, options: ABOptions, student: Shapes, teacher: Shapes) -> Requirements:
        stages = shared_stages(student, teacher)
        for k in stages:
            if student.stages[k] != teacher.stages[k]:
                check_resizable(student.stages[k], teacher.stages[k])
        initialization = Initialization(
            math.ceil(options.init_epochs), Needs(pre_activations=stages), Needs(pre_activations=stages)
        )
        return Requirements(Needs(logits=True), Needs(), initialization=initialization)

    def __init__(self, options: ABOptions, context: Context) -> None:
        super().__init__(options, context)
        self.stages = shared_stages(context.student, context.teacher)
        student, teacher = context.student.stages, context.teacher.stages
        self.connectors = nn.ModuleList(connector(student[k], teacher[k]) for k in self.stages)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options = self.options
        if batch.epoch >= 1:
            return {"ce": cross_entropy_term(student, batch, options.ce_weight)}
        distance = halving_total(
            boundary_distance(connect(student.pre_activations[k]), teacher.pre_activations[k], options.margin)
            for k, connect in zip(self.stages, self.connectors, strict=True)
        )
        return {"ab": Term(SCALE * distance, options.ab_weight)}


PROVENANCE = """
Certain: all of it, as the field runs it. The initialization stage trains the connectors and the student's stages alone,
without labels. The loss of the training could carry the term too, but in the published numbers it does not.

Source: RepDistiller (`distiller_zoo/AB.py`, `helper/pretrain.py`, `helper/loops.py`: `-a 0 -b 1`, `--init_epochs 30`).

Differences: for a wide ResNet as student the published code excludes the batch norm before the last activation from the
initialization stage; here it is trained with the stages. The published code has no pair of unequal depth.

Unsupported: maps whose sizes no single convolution aligns.
"""
