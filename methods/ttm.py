"""TTM, WTTM: Zheng, Yang, "Knowledge Distillation Based on Transformed Teacher Matching", ICLR 2024, arXiv 2402.11148.

    L = ce_weight · CE(z_s, y) + beta · mean over samples i of U_i · KL(p'_i ‖ softmax(z_s,i))

    p' = p^γ / Σ_c p_c^γ,    p = softmax(z_t),    U = 1 (TTM) or U = Σ_c p_c^γ (WTTM, `weighted`)

z_s, z_t: logits [N, C]; y: labels [N]. p' is the teacher's softmax at the temperature 1 / γ; the student's is at 1, and
there is no factor T². U is between 1 and C^(1 − γ): the smoother the teacher's p, the larger the sample's weight.
"""

from dataclasses import dataclass

from torch import Tensor

from methods.contract import Batch, Method, Outputs, Term
from methods.losses import cross_entropy_term, kl_per_sample
from methods.options import boolean, loss_weight, positive


def power_sum(logits: Tensor, gamma: float) -> Tensor:
    """Return U, the sum of each sample's probabilities to the power γ: [N, C] -> [N]."""
    return ((gamma * logits).logsumexp(1) - gamma * logits.logsumexp(1)).exp()


def matching_loss(student_logits: Tensor, teacher_logits: Tensor, gamma: float, weighted: bool) -> Tensor:
    """KL from the transformed teacher, mean over samples: [N, C], [N, C] -> scalar."""
    divergence = kl_per_sample(student_logits, gamma * teacher_logits)
    return (power_sum(teacher_logits, gamma) * divergence if weighted else divergence).mean()


@dataclass
class TTMOptions:
    """Options of TTM; meanings and defaults in `conf/method/ttm.yaml`."""

    ce_weight: float = loss_weight()
    beta: float = loss_weight()
    gamma: float = positive()
    weighted: bool = boolean()


class TTM(Method):
    """Matching of the transformed teacher. Terms: ce, ttm. Reads the teacher's logits."""

    Options = TTMOptions

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options = self.options
        return {
            "ce": cross_entropy_term(student, batch, options.ce_weight),
            "ttm": Term(matching_loss(student.logits, teacher.logits, options.gamma, options.weighted), options.beta),
        }


PROVENANCE = """
Certain: formula, γ and β of all 13 pairs (the paper's tables 8 and 9; in the copy of table 8 that was read the names of
the rows were shifted by one, as the README's example of WTTM+CRD shows).

Source: TTM (`distiller_zoo/ttm.py`, `wttm.py`, README).

Differences: the power is taken of the logits here, which is equal and cannot underflow.
"""
