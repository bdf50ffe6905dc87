"""KD: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531.

    L = ce_weight · CE(z_s, y) + kd_weight · T² · KL(softmax(z_t / T) ‖ softmax(z_s / T))

z_s, z_t: logits [N, C] of student and teacher; y: labels [N]; KL summed over classes, mean over the batch. T² keeps the
gradient's size independent of T, so it belongs to the term's raw value.

Certain: formula and weights. Source: RepDistiller (`-r .1 -a .9`, T 4) and mdistiller (`engine/cfg.py`: CE 0.1, KD 0.9,
T 4) agree for CIFAR-100. For ImageNet mdistiller takes T 1 and weights 0.5, 0.5.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from methods.contract import Batch, Method, Outputs, Term, positive, weight


def kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ student) of the softmaxes at temperature T: [N, C], [N, C] -> scalar, mean over the batch."""
    log_student = F.log_softmax(student_logits / temperature, 1)
    log_teacher = F.log_softmax(teacher_logits / temperature, 1)
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


@dataclass
class Options:
    """Options of KD; meanings and defaults in `conf/method/kd.yaml`."""

    temperature: float = positive()
    ce_weight: float = weight()
    kd_weight: float = weight()


class KD(Method):
    """Knowledge distillation. Terms: ce, kd. Needs the teacher's logits."""

    Options = Options

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options = self.options
        return {
            "ce": Term(F.cross_entropy(student.logits, batch.labels), options.ce_weight),
            "kd": Term(kl(student.logits, teacher.logits, options.temperature), options.kd_weight),
        }
