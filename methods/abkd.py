"""ABKD: Wang, Yang, Wang, Wang, Xu, Huang, "ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge
Distillation via α-β-Divergence", ICML 2025, arXiv 2505.04560.

    L = ce_weight · CE(z_s, y) + abkd_weight · D(p ‖ q),    p = softmax(z_t / T),  q = softmax(z_s / T)

    D = −1 / (a b) · Σ_c (p^a q^b − a / (a + b) · p^(a+b) − b / (a + b) · q^(a+b)),    mean over the batch

    its limits:  a → 0        1 / b² · Σ_c (q^b · log(q^b / p^b) − q^b + p^b)
                 b → 0        1 / a² · Σ_c (p^a · log(p^a / q^a) − p^a + q^a)
                 a + b → 0    1 / a² · Σ_c (log(q^a / p^a) + p^a / q^a − 1)
                 a, b → 0     ½ · Σ_c (log p − log q)²

z_s, z_t: logits [N, C]; y: labels [N]; a, b: the options alpha, beta. There is no factor T². D is KL(p ‖ q) for a = 1,
b = 0, and KL(q ‖ p) for a = 0, b = 1.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from methods.contract import Batch, Method, Outputs, Term
from methods.losses import cross_entropy_term
from methods.options import bounded, loss_weight, positive


def divergence(log_q: Tensor, log_p: Tensor, alpha: float, beta: float) -> Tensor:
    """D of probabilities given by their logarithms: [N, C], [N, C] -> [N]."""
    a, b = alpha, beta
    ratio = log_p - log_q
    if a == 0 and b == 0:
        return ratio.square().sum(1) / 2
    if a == 0:
        q, p = (b * log_q).exp(), (b * log_p).exp()
        return (p - q - q * b * ratio).sum(1) / b**2
    if b == 0:
        q, p = (a * log_q).exp(), (a * log_p).exp()
        return (q - p + p * a * ratio).sum(1) / a**2
    if a + b == 0:
        return ((a * ratio).exp() - 1 - a * ratio).sum(1) / a**2
    q, p, mixed = (((a + b) * log_q).exp(), ((a + b) * log_p).exp(), (a * log_p + b * log_q).exp())
    return (a / (a + b) * p + b / (a + b) * q - mixed).sum(1) / (a * b)


@dataclass
class ABKDOptions:
    """Options of ABKD; meanings and defaults in `conf/method/abkd.yaml`."""

    temperature: float = positive()
    ce_weight: float = loss_weight()
    abkd_weight: float = loss_weight()
    alpha: float = bounded()
    beta: float = bounded()


class ABKD(Method):
    """Distillation by an α-β-divergence. Terms: ce, abkd. Reads the teacher's logits."""

    Options = ABKDOptions

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options = self.options
        log_q, log_p = (F.log_softmax(z / options.temperature, 1) for z in (student.logits, teacher.logits))
        distance = divergence(log_q, log_p, options.alpha, options.beta).mean()
        return {
            "ce": cross_entropy_term(student, batch, options.ce_weight),
            "abkd": Term(distance, options.abkd_weight),
        }


PROVENANCE = """
Certain: formula, T 4, CE 1; alpha 0.8, beta 0.3 and weight 32 for resnet56-resnet20, which the authors' README has as
its example.

Uncertain: alpha, beta and the weight (32 to 64 in the authors' code) of all other pairs: they have those of that one.

Source: abkd df81318 (`standard_classification/distiller_zoo/abkl.py`, README).

Differences: at alpha 0 the published code divides by beta in place of beta², and likewise in the other limits, so that
its values there are not the limits of its general form, unless the exponent is 1. Here they are. D is computed from
logarithms of the probabilities, which stay finite.
"""
