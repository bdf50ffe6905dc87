"""SimKD: Chen, Mei, Zhang, Wang, Feng, Chen, "Knowledge Distillation with the Reused Teacher Classifier", CVPR 2022,
arXiv 2203.14001.

    L = simkd_weight · mean((p(f_s) − f_t)²)

    p: the trained projector to the teacher's channels D: 1×1 convolution to D / factor, batch norm, ReLU, 3×3
    convolution, batch norm, ReLU, 1×1 convolution to D, batch norm, ReLU; without biases

f_s [N, C_s, H_s, W_s]: the student's map after its last stage; f_t [N, D, H_t, W_t]: the teacher's map whose average
over the positions is its pooled features; the larger is average-pooled to the size of the smaller; mean over all
entries. There is no term with labels, and the student's classifier is not trained. The model at inference is the
student, the projector, the average over the positions, and the teacher's classifier.
"""

from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional as F

from methods.contract import Batch, Context, Method, Needs, Outputs, Requirements, Shapes, Term
from methods.losses import mse
from methods.options import integer, loss_weight


def pool_to(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Average-pool a map to a size: [N, C, H, W] -> [N, C, *size]."""
    return maps if maps.shape[2:] == size else F.adaptive_avg_pool2d(maps, size)


class Projector(nn.Module):
    """Maps of the student to the teacher's channels: [N, C_s, H_s, W_s] -> [N, D, *size], non-negative.

    student, teacher: shapes (C, H, W) of their maps; size: that of the smaller map.
    """

    def __init__(self, student: tuple[int, int, int], teacher: tuple[int, int, int], factor: int) -> None:
        super().__init__()
        self.size = min(student[1:], teacher[1:])
        middle, channels = teacher[0] // factor, teacher[0]
        layers: list[nn.Module] = []
        for width_in, width, kernel in ((student[0], middle, 1), (middle, middle, 3), (middle, channels, 1)):
            conv = nn.Conv2d(width_in, width, kernel, padding=kernel // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, maps: Tensor) -> Tensor:
        return self.layers(pool_to(maps, self.size))


class ReusedClassifier(nn.Module):
    """Student, projector and the teacher's classifier: images [N, 3, H, W] -> `Outputs` with logits."""

    def __init__(self, student: nn.Module, stage: int, projector: Projector, classifier: nn.Module) -> None:
        super().__init__()
        self.student, self.projector, self.classifier = student, projector, classifier
        self.needs = Needs(maps=[stage])

    def forward(self, images: Tensor) -> Outputs:
        (maps,) = self.student(images, self.needs).maps.values()
        return Outputs(logits=self.classifier(self.projector(maps).mean((2, 3))))


@dataclass
class SimKDOptions:
    """Options of SimKD; meanings and defaults in `conf/method/simkd.yaml`."""

    simkd_weight: float = loss_weight()
    factor: int = integer(1)


class SimKD(Method):
    """Reuse of the teacher's classifier. Term: simkd. Reads the student's map after its last stage and the teacher's
    last map; trains the projector."""

    Options = SimKDOptions

    @classmethod
    def requirements(cls, options: SimKDOptions, student: Shapes, teacher: Shapes) -> Requirements:
        teacher.check_provided(Needs(last_map=True), "teacher")
        channels = teacher.last_map[0]
        if options.factor > channels:
            raise ValueError(f"factor is {options.factor}, but the teacher has {channels} channels to divide by it")
        return Requirements(Needs(logits=True, maps=[student.final_stage]), Needs(last_map=True))

    def __init__(self, options: SimKDOptions, context: Context) -> None:
        super().__init__(options, context)
        self.projector = Projector(context.student.final_map, context.teacher.last_map, options.factor)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        projected = self.projector(student.maps[self.context.student.final_stage])
        target = pool_to(teacher.last_map, self.projector.size)
        return {"simkd": Term(mse(projected, target), self.options.simkd_weight)}

    def inference_model(self, student: nn.Module, teacher: nn.Module | None) -> nn.Module:
        return ReusedClassifier(student, self.context.student.final_stage, self.projector, cast(Any, teacher).head)


PROVENANCE = """
Certain: all of it.

Uncertain: the teacher wrn, whose networks are not in that code. Of its maps only the one after the last batch norm and
ReLU fits its classifier, so that one is taken. For all other teachers of the field it is the last stage's map.

Source: SimKD (`models/util.py`, `helper/loops.py`, `scripts/run_distill.sh`: `-c 0 -d 0 -b 1`).
"""
