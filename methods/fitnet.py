"""FitNet: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv 1412.6550.

    L = ce_weight · CE(z_s, y) + hint_weight · mean((r(f_s) − f_t)²)

z_s: logits [N, C]; y: labels [N]; f_s [N, C_s, H_s, W_s], f_t [N, C_t, H_t, W_t]: maps of student and teacher after
stage `hint_layer`; r: a trained regressor to the teacher's shape (convolution, batch norm, ReLU); mean over entries.

Certain: formula, weight 100, stage 2 and the regressor as the field runs it, jointly with CE in a single stage. The
paper itself first fits the student's lower half to the hint and then trains with KD; tables of the field do not.
Source: mdistiller (`distillers/FitNet.py`, `_common.py`), RepDistiller (`models/util.py`: ConvReg).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.contract import Batch, Context, Impossible, Method, Needs, Outputs, Term, count, weight


def resizing_convolution(student: tuple[int, int, int], teacher: tuple[int, int, int]) -> nn.Module:
    """A convolution with bias from maps of shape `student` to maps of shape `teacher`, both (C, H, W).

    Halves, doubles, or trims by an unpadded kernel (1 × 1 where the sizes are equal). Impossible for any other ratio.
    """
    (c_s, *size_s), (c_t, *size_t) = student, teacher
    if size_s == [2 * n for n in size_t]:
        return nn.Conv2d(c_s, c_t, 3, stride=2, padding=1)
    if size_t == [2 * n for n in size_s]:
        return nn.ConvTranspose2d(c_s, c_t, 4, stride=2, padding=1)
    if all(s >= t for s, t in zip(size_s, size_t, strict=True)):
        return nn.Conv2d(c_s, c_t, [1 + s - t for s, t in zip(size_s, size_t, strict=True)])
    raise Impossible(
        f"one convolution cannot map {student} (student) to {teacher} (teacher): it halves, doubles or trims maps"
    )


class Regressor(nn.Sequential):
    """Student map [N, *student] -> [N, *teacher], not below 0."""

    def __init__(self, student: tuple[int, int, int], teacher: tuple[int, int, int]) -> None:
        super().__init__(resizing_convolution(student, teacher), nn.BatchNorm2d(teacher[0]), nn.ReLU())


class SquaredSum(torch.autograd.Function):
    """The sum of squares of all entries, a scalar, with a gradient in the memory format of x.

    The gradient of torch's mean squared error is NCHW, with which the layers before it would be slow.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square().sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return ctx.saved_tensors[0] * (2 * gradient)


def hint(regressed: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean squared difference over all entries: [N, C, H, W], [N, C, H, W] -> scalar."""
    return SquaredSum.apply(regressed - teacher_map) / teacher_map.numel()


@dataclass
class Options:
    """Options of FitNet; meanings and defaults in `conf/method/fitnet.yaml`."""

    ce_weight: float = weight()
    hint_weight: float = weight()
    hint_layer: int = count(0)


class FitNet(Method):
    """Hint learning. Terms: ce, hint. Needs both networks' map after stage `hint_layer`; trains the regressor."""

    Options = Options

    def __init__(self, options: Options, context: Context) -> None:
        super().__init__(options, context)
        layer = options.hint_layer
        last = min(len(context.student.stages), len(context.teacher.stages)) - 1
        if layer > last:
            raise ValueError(f"hint_layer is {layer}, but the last stage that both networks have is {last}")
        self.student_needs = Needs.of(logits=True, maps=[layer])
        self.teacher_needs = Needs.of(maps=[layer])
        self.regressor = Regressor(context.student.stages[layer], context.teacher.stages[layer])

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options = self.options
        regressed = self.regressor(student.maps[options.hint_layer])
        return {
            "ce": Term(F.cross_entropy(student.logits, batch.labels), options.ce_weight),
            "hint": Term(hint(regressed, teacher.maps[options.hint_layer]), options.hint_weight),
        }
