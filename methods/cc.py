"""CC: Peng, Jin, Liu, Li, Wu, Liu, Zhou, Zhang, "Correlation Congruence for Knowledge Distillation", ICCV 2019,
arXiv 1904.01802.

    L = ce_weight · CE(z_s, y) + cc_weight · mean over i < N of Σ_d |δ_i,d| · |δ_i+1,d|

    δ = (W_s f_s + b_s) − (W_t f_t + b_t): [N, d]

f_s [N, D_s], f_t [N, D_t]: pooled features; z_s: logits [N, C]; y: labels [N]. Both linear layers are trained. Sample
i + 1 is the next of the batch, which is in random order.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from methods.contract import Batch, Context, Method, Needs, Outputs, Term
from methods.losses import cross_entropy_term
from methods.options import integer, loss_weight


def congruence(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean product of the differences of neighboring samples: [N, d], [N, d] -> scalar; 0 for a single sample."""
    difference = (student - teacher).abs()
    return (difference[:-1] * difference[1:]).sum() / max(len(difference) - 1, 1)


@dataclass
class CCOptions:
    """Options of CC; meanings and defaults in `conf/method/cc.yaml`."""

    ce_weight: float = loss_weight()
    cc_weight: float = loss_weight()
    feature_dim: int = integer(1)


class CC(Method):
    """Correlation congruence. Terms: ce, cc. Reads both networks' pooled features; trains an embedding of each."""

    Options = CCOptions
    student_needs = Needs(logits=True, pooled=True)
    teacher_needs = Needs(pooled=True)

    def __init__(self, options: CCOptions, context: Context) -> None:
        super().__init__(options, context)
        self.embed_s = nn.Linear(context.student.pooled, options.feature_dim)
        self.embed_t = nn.Linear(context.teacher.pooled, options.feature_dim)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        distance = congruence(self.embed_s(student.pooled), self.embed_t(teacher.pooled))
        return {
            "ce": cross_entropy_term(student, batch, self.options.ce_weight),
            "cc": Term(distance, self.options.cc_weight),
        }


PROVENANCE = """
Certain: all of it, as the field runs it. The paper compares correlation matrices of the batch (Gaussian kernel, Taylor
expansion of second order). The code that its author contributed to RepDistiller has no matrix and no kernel; it made
the numbers in the tables of the field, and is followed here.

Source: RepDistiller (`distiller_zoo/CC.py`: `-a 0 -b 0.02`, `--feat_dim 128`).
"""
