"""WKD-L: Lv, Yang, Li, "Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation", NeurIPS
2024, arXiv 2412.08139: the distillation of logits.

    L = ce_weight · CE(z_s, y) + target_weight · L_target + r · wkd_weight · W

    L_target = −mean over samples of p_t,y · log p_s,y,    p = softmax(z)
    W = mean over samples of Σ_ij F_ij C_ij,    F = the entropic transport plan from w_s to w_t at cost C
    w = softmax of z / T over the C − 1 classes other than y
    C_ij = 1 − exp(−sharpening · (1 − CKA_ij)) + 1e-8
    r = 1 up to epoch `decay_start`, then falling along half a cosine to 0 in the last epoch

z_s, z_t: logits [N, C]; y: labels [N]. CKA_ij is the linear centered kernel alignment of the teacher's pooled features
of classes i and j, computed once, on the unaugmented training images: with X_i [n, D] the centered features of class i,
in the order of the training set, CKA_ij = ‖X_jᵀ X_i‖_F² / (‖X_iᵀ X_i‖_F · ‖X_jᵀ X_j‖_F). F comes from `iterations`
steps of Sinkhorn: with K = exp(−C / regularization), from u = 1 / (C − 1),

    v ← w_t / (Kᵀ u + 1e-8),    u ← w_s / (K v + 1e-8);    F_ij = u_i K_ij v_j

through which the gradient runs. A class with w_s = w_t = 0 and u = 0 takes no part, so the label is left out by weights
of 0, and all samples share the one matrix K.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.contract import Batch, Context, Method, Needs, Outputs, Requirements, Shapes, Term
from methods.losses import cosine_decay, cross_entropy_term
from methods.options import integer, loss_weight, non_negative, positive

EPS = 1e-8
BLOCK = 2**24  # entries of all classes' Gram matrices that are held at once


def features_by_class(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the first n features of every class, n that of the smallest: [M, D], [M] -> [C, n, D].

    Raises ValueError where a class has fewer than two samples.
    """
    sizes = labels.bincount(minlength=classes)
    n = int(sizes.min())
    if n < 2:
        raise ValueError(f"WKD-L compares the features within classes: each needs two training images, one has {n}")
    starts = sizes.cumsum(0) - sizes
    by_class = labels.argsort(stable=True)
    return features[by_class[starts[:, None] + torch.arange(n, device=labels.device)]]


def linear_cka(features: Tensor) -> Tensor:
    """Linear centered kernel alignment of all pairs of classes: [C, n, D] -> [C, C], from 0 to 1, in float64.

    ‖X_jᵀ X_i‖_F² is the inner product of the Gram matrices X_i X_iᵀ and X_j X_jᵀ, of which a few rows are held at once.
    """
    c, n, _ = features.shape
    x = (features - features.mean(1, keepdim=True)).double()
    products = x.new_zeros(c, c)
    for rows in x.split(max(1, BLOCK // (c * n)), 1):
        grams = (rows @ x.mT).flatten(1)
        products += grams @ grams.T
    norms = products.diagonal().sqrt()
    scales = norms[:, None] * norms
    return (products / torch.where(scales > 0, scales, 1.0)).fill_diagonal_(1.0)


def transport_distance(w_s: Tensor, w_t: Tensor, start: Tensor, cost: Tensor, reg: float, iterations: int) -> Tensor:
    """Entropic transport distance of distributions over classes: [N, C], [N, C] and cost [C, C] -> [N].

    start: [N, C], the initial u, which is 0 for classes that take no part.
    """
    kernel, u, v = (-cost / reg).exp(), start, start
    for _ in range(iterations):
        v = w_t / (u @ kernel + EPS)
        u = w_s / (v @ kernel.T + EPS)
    return (u @ (kernel * cost) * v).sum(1)


@dataclass
class WKDLOptions:
    """Options of WKD-L; meanings and defaults in `conf/method/wkd_l.yaml`."""

    temperature: float = positive()
    ce_weight: float = loss_weight()
    target_weight: float = loss_weight()
    wkd_weight: float = loss_weight()
    sharpening: float = positive()
    regularization: float = positive()
    iterations: int = integer(1)
    decay_start: float = non_negative()


class WKDL(Method):
    """Wasserstein distance of logits. Terms: ce, target, transport. Reads the teacher's logits, and once, for the costs
    between classes, its pooled features. Checkpoints hold the buffer cost [C, C]."""

    Options = WKDLOptions
    cost: Tensor
    classes: Tensor

    @classmethod
    def requirements(cls, options: WKDLOptions, student: Shapes, teacher: Shapes) -> Requirements:
        return Requirements(Needs(logits=True), Needs(logits=True), teacher_features=True)

    def __init__(self, options: WKDLOptions, context: Context) -> None:
        super().__init__(options, context)
        self.register_buffer("classes", torch.arange(context.classes), persistent=False)
        self.register_buffer("cost", torch.full((context.classes, context.classes), float("nan")))

    def on_teacher_features(self, features: Tensor, labels: Tensor) -> None:
        """Compute the costs between classes."""
        distances = 1 - linear_cka(features_by_class(features, labels, self.context.classes))
        self.cost.copy_((1 - (-self.options.sharpening * distances).exp()).relu() + EPS)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options, z_s, z_t, labels = self.options, student.logits, teacher.logits, batch.labels
        target = labels[:, None] == self.classes
        w_s, w_t = (F.softmax((z / options.temperature).masked_fill(target, -torch.inf), 1) for z in (z_s, z_t))
        start = (~target).to(z_s.dtype) / (self.context.classes - 1)
        transport = transport_distance(w_s, w_t, start, self.cost, options.regularization, options.iterations)
        confidence = F.softmax(z_t, 1).gather(1, labels[:, None])[:, 0]
        decay = cosine_decay(batch.epoch, options.decay_start, self.context.epochs)
        return {
            "ce": cross_entropy_term(student, batch, options.ce_weight),
            "target": Term((confidence * F.cross_entropy(z_s, labels, reduction="none")).mean(), options.target_weight),
            "transport": Term(transport.mean(), decay * options.wkd_weight),
        }


PROVENANCE = """
Certain: the published code: formula, cost, 10 iterations at 0.05, decay after epoch 150 of 240; weight 600 and T 8 for
resnet32x4-resnet8x4, 200 and 6 for wrn40_2-ShuffleV1. For ImageNet T is 2, the weight 30 (ResNet18) or 25 (MobileNetV1,
sharpening 2).

Uncertain: weight and T of all other pairs, which have those of resnet32x4-resnet8x4; whether the features behind the
shipped costs are of unaugmented images; and the order of the images within a class, on which CKA depends, as it pairs
the k-th image of one class with the k-th of the other.

Source: WKD 214cf88 (`mdistiller/distillers/WKD.py`, the script that computes `linear_cka.pth`).

Differences: none in values up to rounding. The published code holds a matrix of costs for each sample, N × (C − 1)²
numbers; CKA is here computed in float64. Where classes are of unequal size the first images of each are taken, as many
as the smallest has.
"""
