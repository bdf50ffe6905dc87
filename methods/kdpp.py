"""KD++: Wang, Cheng, Duan, Wang, Feng, Kong, "Improving Knowledge Distillation via Regularizing Feature Direction and
Norm", ECCV 2024, arXiv 2305.17007.

    L = ce_weight · CE(z_s, y) + r · kd_weight · T² · KL(softmax(z_t / T) ‖ softmax(z_s / T)) + nd_weight · ND
    ND = mean over samples of 1 − ⟨e(f_s), c_y⟩ / max(‖e(f_s)‖, ‖f_t‖),    r = min(epoch / warmup, 1), epoch from 1

z_s, z_t: logits [N, C]; y: labels [N]; f_s [N, D_s], f_t [N, D_t]: pooled features; c_y: the mean of the teacher's
features of class y over the unaugmented training images, scaled to length 1; e: the identity where D_s = D_t, else a
trained linear layer. ND turns the student's features to their class, and lengthens them up to the teacher's length.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.contract import Batch, Context, Method, Needs, Outputs, Requirements, Shapes, Term
from methods.losses import TINY, cross_entropy_term, kl_divergence, normalize_rows, warmup_ramp
from methods.options import loss_weight, non_negative, positive


def norm_and_direction(student: Tensor, teacher: Tensor, directions: Tensor) -> Tensor:
    """ND of features, with the unit vector of each sample's class: [N, D], [N, D], [N, D] -> scalar."""
    length_s, length_t = (torch.linalg.vector_norm(f, dim=1) for f in (student, teacher))
    longest = torch.maximum(length_s, length_t)
    return (1 - (student * directions).sum(1) / torch.where(longest > TINY, longest, 1.0)).mean()


@dataclass
class KDPPOptions:
    """Options of KD++; meanings and defaults in `conf/method/kdpp.yaml`."""

    temperature: float = positive()
    ce_weight: float = loss_weight()
    kd_weight: float = loss_weight()
    nd_weight: float = loss_weight()
    warmup: float = non_negative()


class KDPP(Method):
    """KD with the norm and direction loss. Terms: ce, kd, nd. Reads both networks' pooled features and the teacher's
    logits; trains the layer `embed`, if any. Checkpoints hold the buffer directions [C, D_t]."""

    Options = KDPPOptions
    mixing_conflict = "it compares features with the mean of their class, and a blended image has two"
    directions: Tensor

    @classmethod
    def requirements(cls, options: KDPPOptions, student: Shapes, teacher: Shapes) -> Requirements:
        needs = Needs(logits=True, pooled=True)
        return Requirements(needs, needs, teacher_features=True)

    def __init__(self, options: KDPPOptions, context: Context) -> None:
        super().__init__(options, context)
        d_s, d_t = context.student.pooled, context.teacher.pooled
        self.embed = nn.Identity() if d_s == d_t else nn.Linear(d_s, d_t)
        self.register_buffer("directions", torch.full((context.classes, d_t), float("nan")))

    def on_teacher_features(self, features: Tensor, labels: Tensor) -> None:
        """Set each class's direction to that of the mean of its features, which is that of their sum."""
        one_hot = labels == torch.arange(self.context.classes, device=labels.device)[:, None]
        sums = one_hot.double() @ features.double()
        self.directions.copy_(normalize_rows(sums / one_hot.sum(1, keepdim=True).clamp(min=1)))

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options = self.options
        kd = kl_divergence(student.logits, teacher.logits, options.temperature)
        nd = norm_and_direction(self.embed(student.pooled), teacher.pooled, self.directions[batch.labels])
        return {
            "ce": cross_entropy_term(student, batch, options.ce_weight),
            "kd": Term(kd, warmup_ramp(batch.epoch, options.warmup) * options.kd_weight),
            "nd": Term(nd, options.nd_weight),
        }


PROVENANCE = """
Certain: formula, T 4, 20 epochs of warm-up of the KD term, and the weights of the six pairs in the authors' script.

Uncertain: the weights of the other pairs, which have those of resnet56-resnet20; and the layer for unequal widths, of
which the file for CIFAR's KD++ was not available: in its version for DIST++ batch norm and dropout of 0.5 precede the
linear layer. Here the layer is linear.

Source: Knowledge-Distillation-via-ND (`CIFAR/train_cifar_kd.py`, `CIFAR/utils.py`, `CIFAR/train_cifar.sh`,
`CIFAR/emb_fea_distribution.py`).

Differences: the authors count the epochs of the warm-up from 0, here they count from 1; their class means are of once
augmented images, rounded to four decimals.

Not comparable: the authors train with Nesterov momentum, batches of 128 and a rate of 0.1 (0.02 for light students);
here all methods share one recipe.
"""
