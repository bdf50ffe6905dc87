"""GDKD: Zheng, Cheng, "Rethinking Decoupled Knowledge Distillation: A Predictive Distribution Perspective", IEEE
Transactions on Neural Networks and Learning Systems 2025, arXiv 2512.04625.

    L = ce_weight · CE(z_s, y) + r · (w0 · L_groups + w1 · L_top + w2 · L_rest),    r = min(epoch / warmup, 1)

    L_groups = T² · KL(g_t ‖ g_s),    g = (Σ_{c in top} p_c, Σ_{c in rest} p_c),    p = softmax(z / T)
    L_top    = T² · KL of the softmaxes of z / T over the classes in top
    L_rest   = T² · KL of the softmaxes of z / T over the classes in rest

z_s, z_t: logits [N, C]; y: labels [N]; top: the k classes of a sample with the teacher's largest logits, at most all
but one; rest: the other classes. All KL are means over the batch; the epoch counts from 1. It is DKD with the teacher's
top classes in place of the label (see `methods/dkd.py`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.contract import Batch, Method, Outputs, Term
from methods.losses import cross_entropy_term, kl_divergence, warmup_ramp
from methods.options import integer, loss_weight, non_negative, positive


def group_losses(student: Tensor, teacher: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return L_groups, L_top and L_rest, scalars, of logits [N, C]."""
    order = teacher.argsort(1, descending=True)
    split = [k, teacher.shape[1] - k]
    (top_s, rest_s), (top_t, rest_t) = (z.gather(1, order).split(split, 1) for z in (student, teacher))
    groups_s, groups_t = (
        torch.stack([(part / temperature).logsumexp(1) for part in parts], 1)
        for parts in ((top_s, rest_s), (top_t, rest_t))
    )
    return (
        temperature**2 * kl_divergence(groups_s, groups_t, 1.0),
        kl_divergence(top_s, top_t, temperature),
        kl_divergence(rest_s, rest_t, temperature),
    )


@dataclass
class GDKDOptions:
    """Options of GDKD; meanings and defaults in `conf/method/gdkd.yaml`."""

    temperature: float = positive()
    ce_weight: float = loss_weight()
    top: int = integer(1)
    w0: float = loss_weight()
    w1: float = loss_weight()
    w2: float = loss_weight()
    warmup: float = non_negative()


class GDKD(Method):
    """Generalized decoupled knowledge distillation. Terms: ce, groups, top, rest. Reads the teacher's logits."""

    Options = GDKDOptions

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options = self.options
        ramp = warmup_ramp(batch.epoch, options.warmup)
        k = min(options.top, self.context.classes - 1)
        groups, top, rest = group_losses(student.logits, teacher.logits, k, options.temperature)
        return {
            "ce": cross_entropy_term(student, batch, options.ce_weight),
            "groups": Term(groups, ramp * options.w0),
            "top": Term(top, ramp * options.w1),
            "rest": Term(rest, ramp * options.w2),
        }


PROVENANCE = """
Certain: formula, k 5, T 4, 20 epochs of warm-up, w0 1, and w1 and w2 of the eight pairs in the authors' configs. For
ImageNet they have T 1, w0 0.5, w1 and w2 1 (ResNet18) or 2 (MobileNetV1), 1 epoch of warm-up.

Uncertain: wrn40_2-wrn16_2, wrn40_2-ShuffleV1 and ResNet50-MobileNetV2 have the values of the authors' configs of
DIST+GDKD (`experimental/dist_gdkd`), which agree with the others for the eight pairs; resnet110-resnet20 and
ResNet50-vgg8 are in neither and have those of resnet32x4-resnet8x4.

Source: GDKD dc5201d (`mdistiller/distillers/GDKD.py`, `mdistiller/engine/cfg.py`, `configs/cifar100/gdkd/*.yaml`).

Differences, without effect on ordinary logits: the published code hides classes by subtracting 1000 from their logits,
here they are left out; and the groups' probabilities are computed from logits (log-sum-exp), so that their logarithms
are finite.
"""
