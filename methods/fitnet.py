"""FitNet: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv 1412.6550.

    L = ce_weight · CE(z_s, y) + hint_weight · mean((r(f_s) − f_t)²)

z_s: logits [N, C]; y: labels [N]; f_s [N, C_s, H_s, W_s], f_t [N, C_t, H_t, W_t]: maps of student and teacher after
stage `hint_layer`; r: a trained regressor to the teacher's shape (convolution, batch norm, ReLU); mean over entries.
"""

from dataclasses import dataclass

from torch import nn

from methods.contract import Batch, Context, Method, Needs, Outputs, Requirements, Shapes, Term
from methods.losses import check_resizable, cross_entropy_term, mse, resizing_convolution
from methods.options import integer, loss_weight


class Regressor(nn.Sequential):
    """Maps of the student to the teacher's shape: [N, *student] -> [N, *teacher], non-negative; shapes (C, H, W)."""

    def __init__(self, student: tuple[int, int, int], teacher: tuple[int, int, int]) -> None:
        super().__init__(resizing_convolution(student, teacher), nn.BatchNorm2d(teacher[0]), nn.ReLU())


@dataclass
class FitNetOptions:
    """Options of FitNet; meanings and defaults in `conf/method/fitnet.yaml`."""

    ce_weight: float = loss_weight()
    hint_weight: float = loss_weight()
    hint_layer: int = integer(0)


class FitNet(Method):
    """Hint learning. Terms: ce, hint. Reads both networks' map after stage `hint_layer`; trains the regressor."""

    Options = FitNetOptions

    @classmethod
    def requirements(cls, options: FitNetOptions, student: Shapes, teacher: Shapes) -> Requirements:
        layer, last = options.hint_layer, min(student.final_stage, teacher.final_stage)
        if layer > last:
            raise ValueError(f"hint_layer is {layer}, but the last stage that both networks have is {last}")
        check_resizable(student.stages[layer], teacher.stages[layer])
        return Requirements(Needs(logits=True, maps=[layer]), Needs(maps=[layer]))

    def __init__(self, options: FitNetOptions, context: Context) -> None:
        super().__init__(options, context)
        layer = options.hint_layer
        self.regressor = Regressor(context.student.stages[layer], context.teacher.stages[layer])

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options = self.options
        regressed = self.regressor(student.maps[options.hint_layer])
        return {
            "ce": cross_entropy_term(student, batch, options.ce_weight),
            "hint": Term(mse(regressed, teacher.maps[options.hint_layer]), options.hint_weight),
        }


PROVENANCE = """
Certain: formula, weight 100, stage 2 and the regressor as the field runs it, jointly with CE in a single stage. The
paper itself first fits the student's lower half to the hint and then trains with KD; the tables of the field do not.

Source: mdistiller (`distillers/FitNet.py`, `_common.py`), RepDistiller (`models/util.py`: ConvReg).
"""
