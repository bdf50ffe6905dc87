"""AT: Zagoruyko, Komodakis, "Paying More Attention to Attention: Improving the Performance of Convolutional Neural
Networks via Attention Transfer", ICLR 2017, arXiv 1612.03928.

    L = ce_weight · CE(z_s, y) + at_weight · Σ_k mean((A(f_s,k) − A(f_t,k))²)

    A(f) = normalized(mean over channels of f²), flattened: [N, C, H, W] -> [N, H · W]

z_s: logits [N, C]; y: labels [N]; f_s,k and f_t,k: maps of student and teacher after stage k, for every stage but the
stem, the larger average-pooled to the size of the smaller; mean over samples and positions. Where one network has more
stages, its last ones are left out.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from methods.contract import Batch, Context, Method, Needs, Outputs, Requirements, Shapes, Term
from methods.losses import attention, cross_entropy_term, pool_to_smaller, shared_stages, total
from methods.options import loss_weight


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of attention: [N, C_s, H_s, W_s], [N, C_t, H_t, W_t] -> scalar."""
    student, teacher = pool_to_smaller(student, teacher)
    return F.mse_loss(attention(student), attention(teacher))


@dataclass
class ATOptions:
    """Options of AT; meanings and defaults in `conf/method/at.yaml`."""

    ce_weight: float = loss_weight()
    at_weight: float = loss_weight()


class AT(Method):
    """Attention transfer. Terms: ce, at. Reads both networks' maps after all stages but the stem."""

    Options = ATOptions

    @classmethod
    def requirements(cls, options: ATOptions, student: Shapes, teacher: Shapes) -> Requirements:
        stages = shared_stages(student, teacher)
        return Requirements(Needs(logits=True, maps=stages), Needs(maps=stages))

    def __init__(self, options: ATOptions, context: Context) -> None:
        super().__init__(options, context)
        self.stages = shared_stages(context.student, context.teacher)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        distance = total(attention_distance(student.maps[k], teacher.maps[k]) for k in self.stages)
        return {
            "ce": cross_entropy_term(student, batch, self.options.ce_weight),
            "at": Term(distance, self.options.at_weight),
        }


PROVENANCE = """
Certain: all of it, as the field runs it. The paper has the length of the difference instead of the mean of its square,
and scales beta = 1000 by the size of map and batch; here the mean does that.

Source: RepDistiller (`distiller_zoo/AT.py`: `-a 0 -b 1000`); mdistiller (`distillers/AT.py`) agrees.

Differences: attention of a length below 1e-8 is not normalized; in the published code the limit is 1e-12.
"""
