"""DKD: Zhao, Cui, Song, Qiu, Liang, "Decoupled Knowledge Distillation", CVPR 2022, arXiv 2203.08679.

    L = ce_weight · CE(z_s, y) + r · (alpha · TCKD + beta · NCKD),    r = min(epoch / warmup, 1), epoch from 1

    TCKD = T² · KL(b_t ‖ b_s),    b = (p_y, 1 − p_y),    p = softmax(z / T)      is it the target class?
    NCKD = T² · KL(q_t ‖ q_s),    q = softmax of z / T over the C − 1 classes other than y

z_s, z_t: logits [N, C]; y: labels [N]; both KL are means over the batch. KD at the same T equals
TCKD + (1 − p_t,y) · NCKD sample by sample; DKD frees the second factor. With `standardise` both networks' logits are
first standardised (LSKD, see `methods/kd.py`).

Certain: formula, warm-up and the values of beta. Source: mdistiller (`distillers/DKD.py` and its configs). Two
numerical differences, both without effect on ordinary logits: mdistiller hides the target by subtracting 1000 from its
logit, here it is left out; and 1 − p_y is computed from the other classes' logits (log-sum-exp), so its logarithm
is finite where the published form needs a clamp.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.contract import Batch, Method, Outputs, Term, positive, switch, weight
from methods.kd import kl, standardised


def without_target(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits of all classes but the label, in their order: [N, C], [N] -> [N, C − 1]."""
    others = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(logits), -1)
    return logits.gather(1, others + (others >= labels[:, None]))


def target_or_not(logits: Tensor, labels: Tensor) -> Tensor:
    """Two logits whose softmax is (p_y, 1 − p_y), p = softmax(logits): [N, C], [N] -> [N, 2]."""
    target = logits.gather(1, labels[:, None])
    others = without_target(logits, labels).logsumexp(1, keepdim=True)
    return torch.cat([target, others], 1)


def tckd(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Target-class term: [N, C], [N, C], [N] -> scalar."""
    student = target_or_not(student_logits / temperature, labels)
    teacher = target_or_not(teacher_logits / temperature, labels)
    return temperature**2 * kl(student, teacher, 1.0)


def nckd(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Non-target-class term: [N, C], [N, C], [N] -> scalar."""
    return kl(without_target(student_logits, labels), without_target(teacher_logits, labels), temperature)


@dataclass
class Options:
    """Options of DKD; meanings and defaults in `conf/method/dkd.yaml`."""

    temperature: float = positive()
    ce_weight: float = weight()
    alpha: float = weight()
    beta: float = weight()
    warmup: float = weight()
    standardise: bool = switch()


class DKD(Method):
    """Decoupled knowledge distillation. Terms: ce, tckd, nckd. Needs the teacher's logits."""

    Options = Options

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options, labels = self.options, batch.labels
        ramp = min(batch.epoch / options.warmup, 1.0) if options.warmup > 0 else 1.0
        logits = student.logits, teacher.logits
        both = *(map(standardised, logits) if options.standardise else logits), labels, options.temperature
        return {
            "ce": Term(F.cross_entropy(student.logits, labels), options.ce_weight),
            "tckd": Term(tckd(*both), ramp * options.alpha),
            "nckd": Term(nckd(*both), ramp * options.beta),
        }
