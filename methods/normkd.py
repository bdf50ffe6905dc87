"""NormKD: Chi, Zheng, Li, Yang, Wu, Lin, Cai, "NormKD: Normalized Logits for Knowledge Distillation", arXiv 2308.00520.

    L = ce_weight · CE(z_s, y) + kd_weight · mean over samples of T_t² · KL(softmax(z_t / T_t) ‖ softmax(z_s / T_s))

    T_s = temperature · std(z_s),    T_t = temperature · std(z_t),    sample by sample

z_s, z_t: logits [N, C]; y: labels [N]; std: unbiased standard deviation over the classes. So each sample has a
temperature of its own in each network; the student's has a gradient. The softmaxes are those of LSKD (see
`methods/kd.py`), which is NormKD with the factor T_t,i² put to a constant.

Certain: formula and weights for CIFAR-100 (temperature 2, weights 0.1 and 0.9, for all pairs). Source: NormKD
(`mdistiller/distillers/NormKD.py`, `mdistiller/engine/cfg.py`). For ImageNet: temperature 1, weights 0.5 and 0.5. Two
numerical differences, without effect on ordinary logits: those of LSKD, which adds 1e-7 to std and leaves logits that
are all alike undivided.
"""

from dataclasses import dataclass

from torch import Tensor

from methods.contract import Batch, Method, Outputs, Term
from methods.losses import cross_entropy_term, kl_per_sample, standardize_logits
from methods.options import loss_weight, positive


def normalised_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """The distillation term: [N, C], [N, C] -> scalar."""
    student, teacher = standardize_logits(student_logits), standardize_logits(teacher_logits)
    divergence = kl_per_sample(student / temperature, teacher / temperature)
    return ((temperature * teacher_logits.std(1)) ** 2 * divergence).mean()


@dataclass
class Options:
    """Options of NormKD; meanings and defaults in `conf/method/normkd.yaml`."""

    temperature: float = positive()
    ce_weight: float = loss_weight()
    kd_weight: float = loss_weight()


class NormKD(Method):
    """KD with a temperature for each sample. Terms: ce, kd. Needs the teacher's logits."""

    Options = Options

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        o = self.options
        return {
            "ce": cross_entropy_term(student, batch, o.ce_weight),
            "kd": Term(normalised_kl(student.logits, teacher.logits, o.temperature), o.kd_weight),
        }
