"""CRLD: Zhang, Liu, Cai, Ma, "Cross-View Consistency Regularisation for Knowledge Distillation", ACM Multimedia 2024,
arXiv 2412.16493.

    L = ce_weight · (CE(z_s, y) + CE(z'_s, y)) + within_weight · L_within + cross_weight · L_cross

    L_within = mean over samples of [max p_t ≥ weak_threshold] · (K(z_s, z_t) + K(z'_s, z'_t))
    L_cross  = mean over samples of [max p'_t ≥ strong_threshold] · (K(z'_s, z_t) + K(z_s, z'_t))
    K(s, t)  = T² · KL(softmax(t / T) ‖ softmax(s / T)) of one sample,    p = softmax(z)

z: logits [N, C] for the weak view, z' for the strong view; y: labels [N]. [·] is 1 where the teacher is confident
enough on the weak view (L_within) or on the strong one (L_cross), else 0: such samples add nothing, and the mean is
over all samples.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from methods.contract import Batch, Method, Outputs, Term
from methods.losses import kl_per_sample
from methods.options import loss_weight, non_negative, positive


def confident_mean(values: Tensor, teacher_logits: Tensor, threshold: float) -> Tensor:
    """Mean of values, those of samples below the teacher's confidence `threshold` as 0: [N], [N, C] -> scalar."""
    confident = F.softmax(teacher_logits, 1).amax(1) >= threshold
    return (values * confident).mean()


@dataclass
class CRLDOptions:
    """Options of CRLD; meanings and defaults in `conf/method/crld.yaml`."""

    temperature: float = positive()
    ce_weight: float = loss_weight()
    within_weight: float = loss_weight()
    cross_weight: float = loss_weight()
    weak_threshold: float = non_negative(at_most=1.0)
    strong_threshold: float = non_negative(at_most=1.0)


class CRLD(Method):
    """Consistency of two views. Terms: ce, within, cross. Reads the teacher's logits for two views."""

    Options = CRLDOptions
    views = 2

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options = self.options
        (weak_s, strong_s), (weak_t, strong_t) = (
            (outputs.logits, outputs.view(1).logits) for outputs in (student, teacher)
        )

        def kd(z_s: Tensor, z_t: Tensor) -> Tensor:
            return options.temperature**2 * kl_per_sample(z_s / options.temperature, z_t / options.temperature)

        within = confident_mean(kd(weak_s, weak_t) + kd(strong_s, strong_t), weak_t, options.weak_threshold)
        cross = confident_mean(kd(strong_s, weak_t) + kd(weak_s, strong_t), strong_t, options.strong_threshold)
        ce = F.cross_entropy(weak_s, batch.class_targets) + F.cross_entropy(strong_s, batch.class_targets)
        return {
            "ce": Term(ce, options.ce_weight),
            "within": Term(within, options.within_weight),
            "cross": Term(cross, options.cross_weight),
        }


PROVENANCE = """
Certain, from the code of DeepKD, which contains it: formula, weights 1, 2 and 0.5, T 4. For ImageNet it has T 1 and a
cross-entropy weight of 2.

Uncertain: the thresholds, 0.9 and 0.2 there, since the authors' own code (arcaninez/crld) was not available; and its
values by pair, if it has any.

Source: DeepKD (`mdistiller/distillers/CRLD.py`, `mdistiller/engine/cfg.py`).

Not comparable at equal cost: each step runs both networks on two views. The strong view here is RandAugment (see
`benchmark/data/randaugment.py`).
"""
