"""NormKD: Chi, Zheng, Li, Yang, Wu, Lin, Cai, "NormKD: Normalized Logits for Knowledge Distillation", arXiv 2308.00520.

    L = ce_weight · CE(z_s, y) + kd_weight · mean over samples of T_t² · KL(softmax(z_t / T_t) ‖ softmax(z_s / T_s))

    T_s = temperature · std(z_s),    T_t = temperature · std(z_t),    sample by sample

z_s, z_t: logits [N, C]; y: labels [N]; std: unbiased standard deviation over the classes. So each sample has its own
temperature in each network; that of the student has a gradient. The softmaxes are those of LSKD (see `methods/kd.py`),
which is NormKD with a constant instead of the factor T_t,i².
"""

from dataclasses import dataclass

from torch import Tensor

from methods.contract import Batch, Method, Outputs, Term
from methods.losses import cross_entropy_term, kl_per_sample, standardize_logits
from methods.options import loss_weight, positive


def normalized_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL at each sample's own temperatures, times T_t², mean over samples: [N, C], [N, C] -> scalar."""
    student, teacher = standardize_logits(student_logits), standardize_logits(teacher_logits)
    divergence = kl_per_sample(student / temperature, teacher / temperature)
    return ((temperature * teacher_logits.std(1)) ** 2 * divergence).mean()


@dataclass
class NormKDOptions:
    """Options of NormKD; meanings and defaults in `conf/method/normkd.yaml`."""

    temperature: float = positive()
    ce_weight: float = loss_weight()
    kd_weight: float = loss_weight()


class NormKD(Method):
    """KD with a temperature for each sample. Terms: ce, kd. Reads the teacher's logits."""

    Options = NormKDOptions

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options = self.options
        return {
            "ce": cross_entropy_term(student, batch, options.ce_weight),
            "kd": Term(normalized_kl(student.logits, teacher.logits, options.temperature), options.kd_weight),
        }


PROVENANCE = """
Certain: formula and weights for CIFAR-100 (temperature 2, weights 0.1 and 0.9, for all pairs). For ImageNet:
temperature 1, weights 0.5 and 0.5.

Source: NormKD (`mdistiller/distillers/NormKD.py`, `mdistiller/engine/cfg.py`).

Differences, without effect on ordinary logits, and the same as for LSKD: 1e-7 is added to std, and logits that are all
equal are not divided.
"""
