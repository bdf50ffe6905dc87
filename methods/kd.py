"""KD: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531.

    L = ce_weight · CE(z_s, y) + kd_weight · T² · KL(softmax(z_t / T) ‖ softmax(z_s / T))

z_s, z_t: logits [N, C] of student and teacher; y: labels [N]; KL summed over classes, mean over the batch. T² keeps the
gradient's size independent of T, so it belongs to the term's raw value.

With `standardise` it is LSKD: Sun, Ren, Li, Wang, Cao, "Logit Standardization in Knowledge Distillation", CVPR 2024,
arXiv 2403.01427. Both networks' logits are first standardised sample by sample, (z − mean(z)) / (1e-7 + std(z)). The
paper writes the population's standard deviation; the code that made its numbers takes the unbiased one, and so do we.

Certain: formula and weights. Source: RepDistiller (`-r .1 -a .9`, T 4) and mdistiller (`engine/cfg.py`: CE 0.1, KD 0.9,
T 4) agree for CIFAR-100. For ImageNet mdistiller takes T 1 and weights 0.5, 0.5. LSKD: logit-standardization-KD
(`mdistiller/distillers/KD.py`), its T and weight of each pair from the names of its log files.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.contract import Batch, Method, Outputs, Term, positive, switch, weight

ROUNDING = 1e-6  # logits that spread by less than this share of their size are alike, and only centred


def kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor) -> Tensor:
    """T² · KL(teacher ‖ student) of the softmaxes at temperature T: [N, C], [N, C] -> scalar, mean over the batch."""
    log_student = F.log_softmax(student_logits / temperature, 1)
    log_teacher = F.log_softmax(teacher_logits / temperature, 1)
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def sample_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(teacher ‖ student) of the softmaxes, sample by sample: [N, C], [N, C] -> [N]."""
    log_student, log_teacher = F.log_softmax(student_logits, 1), F.log_softmax(teacher_logits, 1)
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1)


def standardised(logits: Tensor) -> Tensor:
    """Logits of mean 0 and unbiased standard deviation 1, row by row: [N, C] -> [N, C]."""
    centred = logits - logits.mean(1, keepdim=True)
    variance = centred.square().sum(1, keepdim=True) / (logits.shape[1] - 1)
    there = variance > (ROUNDING * logits.detach().abs().amax(1, keepdim=True).clamp_min(0.01)) ** 2
    return centred / torch.where(there, 1e-7 + torch.where(there, variance, 1.0).sqrt(), 1.0)


@dataclass
class Options:
    """Options of KD; meanings and defaults in `conf/method/kd.yaml`."""

    temperature: float = positive()
    ce_weight: float = weight()
    kd_weight: float = weight()
    standardise: bool = switch()


class KD(Method):
    """Knowledge distillation. Terms: ce, kd. Needs the teacher's logits."""

    Options = Options

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options, z_s, z_t = self.options, student.logits, teacher.logits
        if options.standardise:
            z_s, z_t = standardised(z_s), standardised(z_t)
        return {
            "ce": Term(F.cross_entropy(student.logits, batch.labels), options.ce_weight),
            "kd": Term(kl(z_s, z_t, options.temperature), options.kd_weight),
        }
