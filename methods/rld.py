"""RLD: Sun, Chen, Lyu, Chen, Chen, Wang, "Knowledge Distillation with Refined Logits", ICCV 2025, arXiv 2408.07703.

    L = ce_weight · CE(z_s, y) + r · (alpha · SCD + beta · MCD),    r = min(epoch / warmup, 1), epoch from 1

    SCD = T² · KL(b_t ‖ b_s),    b_t = (max p_t, 1 − max p_t),    b_s = (p_s,y, 1 − p_s,y),    p = softmax(z / T)
    MCD = T² · KL(q_t ‖ q_s),    q = softmax of z / T over the classes whose teacher's logit is below that of y

z_s, z_t: logits [N, C]; y: labels [N]; both KL are means over the batch. The student learns to be as confident in the
label as the teacher is in its own prediction, and the relation of only those classes that the teacher ranks below the
label. A sample for which no class is left adds 0 to MCD. Where the teacher is right, SCD and MCD are DKD's TCKD and
NCKD.
"""

from dataclasses import dataclass

from torch import Tensor

from methods.contract import Batch, Method, Outputs, Term
from methods.losses import binary_logits, cross_entropy_term, kl_divergence, warmup_ramp
from methods.options import loss_weight, non_negative, positive

MASKED = -1e9  # a finite logit of probability 0: where all classes have it, the softmax is still a distribution


def scd(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Sample confidence term SCD: [N, C], [N, C], [N] -> scalar."""
    student = binary_logits(student_logits / temperature, labels)
    teacher = binary_logits(teacher_logits / temperature, teacher_logits.argmax(1))
    return temperature**2 * kl_divergence(student, teacher, 1.0)


def mcd(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Masked correlation term MCD: [N, C], [N, C], [N] -> scalar."""
    masked = teacher_logits >= teacher_logits.gather(1, labels[:, None])
    student, teacher = student_logits.masked_fill(masked, MASKED), teacher_logits.masked_fill(masked, MASKED)
    return kl_divergence(student, teacher, temperature)


@dataclass
class RLDOptions:
    """Options of RLD; meanings and defaults in `conf/method/rld.yaml`."""

    temperature: float = positive()
    ce_weight: float = loss_weight()
    alpha: float = loss_weight()
    beta: float = loss_weight()
    warmup: float = non_negative()


class RLD(Method):
    """Refined logit distillation. Terms: ce, scd, mcd. Reads the teacher's logits."""

    Options = RLDOptions
    mixing_conflict = "it refines the teacher by the label, and a blended image has two"

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options = self.options
        ramp = warmup_ramp(batch.epoch, options.warmup)
        inputs = student.logits, teacher.logits, batch.labels, options.temperature
        return {
            "ce": cross_entropy_term(student, batch, options.ce_weight),
            "scd": Term(scd(*inputs), ramp * options.alpha),
            "mcd": Term(mcd(*inputs), ramp * options.beta),
        }


PROVENANCE = """
Certain: formula, alpha 1, beta 8, T 4 and 20 epochs of warm-up as the code's defaults, and T for SCD too (its README
runs with `--same-t`; without it SCD would be at 1).

Uncertain: beta of each pair behind the published numbers, between 4 and 8.

Source: RLD (`mdistiller/distillers/RLD.py`, `mdistiller/engine/cfg.py`, README).

Differences: as in `methods/dkd.py`, 1 − p is computed from logits, so that its logarithm is finite.
"""
