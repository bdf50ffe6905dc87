"""DKD: Zhao, Cui, Song, Qiu, Liang, "Decoupled Knowledge Distillation", CVPR 2022, arXiv 2203.08679.

    L = ce_weight · CE(z_s, y) + r · (alpha · TCKD + beta · NCKD),    r = min(epoch / warmup, 1), epoch from 1

    TCKD = T² · KL(b_t ‖ b_s),    b = (p_y, 1 − p_y),    p = softmax(z / T)      target class or not
    NCKD = T² · KL(q_t ‖ q_s),    q = softmax of z / T over the C − 1 classes other than y

z_s, z_t: logits [N, C]; y: labels [N]; both KL are means over the batch. KD at the same T equals
TCKD + (1 − p_t,y) · NCKD sample by sample; DKD replaces the second factor by a constant. With `standardise` both
networks' logits are first standardized (LSKD, see `methods/kd.py`).
"""

from dataclasses import dataclass

from torch import Tensor

from methods.contract import Batch, Method, Outputs, Term
from methods.losses import (
    binary_logits,
    cross_entropy_term,
    kl_divergence,
    non_target_logits,
    standardize_logits,
    warmup_ramp,
)
from methods.options import boolean, loss_weight, non_negative, positive


def tckd(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Target-class term TCKD: [N, C], [N, C], [N] -> scalar."""
    student = binary_logits(student_logits / temperature, labels)
    teacher = binary_logits(teacher_logits / temperature, labels)
    return temperature**2 * kl_divergence(student, teacher, 1.0)


def nckd(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Non-target-class term NCKD: [N, C], [N, C], [N] -> scalar."""
    student, teacher = non_target_logits(student_logits, labels), non_target_logits(teacher_logits, labels)
    return kl_divergence(student, teacher, temperature)


@dataclass
class DKDOptions:
    """Options of DKD; meanings and defaults in `conf/method/dkd.yaml`."""

    temperature: float = positive()
    ce_weight: float = loss_weight()
    alpha: float = loss_weight()
    beta: float = loss_weight()
    warmup: float = non_negative()
    standardise: bool = boolean()


class DKD(Method):
    """Decoupled knowledge distillation. Terms: ce, tckd, nckd. Reads the teacher's logits."""

    Options = DKDOptions

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options, z_s, z_t = self.options, student.logits, teacher.logits
        ramp = warmup_ramp(batch.epoch, options.warmup)
        if options.standardise:
            z_s, z_t = standardize_logits(z_s), standardize_logits(z_t)
        return {
            "ce": cross_entropy_term(student, batch, options.ce_weight),
            "tckd": Term(tckd(z_s, z_t, batch.labels, options.temperature), ramp * options.alpha),
            "nckd": Term(nckd(z_s, z_t, batch.labels, options.temperature), ramp * options.beta),
        }


PROVENANCE = """
Certain: formula, warm-up and the values of beta.

Uncertain, with standardization (DKD+LS): beta on resnet32x4-resnet8x4. The loss of 10.7 at epoch 20 in its log suggests
about 18 and not 72.

Source: mdistiller (`distillers/DKD.py` and its configs). With standardization: logit-standardization-KD f6e5aa5.

Differences, without effect on ordinary logits: mdistiller hides the target by subtracting 1000 from its logit, here it
is left out; and 1 − p_y is computed from the other classes' logits (log-sum-exp), so that its logarithm is finite where
the published form needs a clamp.
"""
