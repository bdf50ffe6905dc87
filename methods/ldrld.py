"""LDRLD: Xu, Liu, Liu, Wang, Xu, Cheng, "Local Dense Logit Relations for Enhanced Knowledge Distillation", ICCV 2025,
arXiv 2507.15911.

    L = ce_weight · CE(z_s, y) + alpha · L_local + beta · L_rest

    L_local = (Σ_{a<b≤k} w_ab · KL_{a,b} + KL_{1…k}) / (k (k − 1) / 2 + 1),    L_rest = KL_{k+1…C}
    w_ab = 2 · exp(−0.05 (a + b)) / (1.5 + |a − b|)

z_s, z_t: logits [N, C]; y: labels [N], which the distillation ignores. The classes of each sample are ranked by the
student's logits, 1 for the largest, without gradient. KL_S = T² · KL(teacher ‖ student), mean over the batch, of the
softmaxes of z / T over the ranks S alone: each pair of the k largest, all k, and the rest. With no more than k classes,
all are local and L_rest is 0.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.contract import Batch, Context, Method, Outputs, Term
from methods.losses import cross_entropy_term, kl_divergence, kl_per_sample
from methods.options import integer, loss_weight, positive


def rank_weights(pairs: Tensor) -> Tensor:
    """Return w of pairs of ranks counted from 0: [2, P] -> [P]."""
    a, b = pairs + 1
    return 2.0 * torch.exp(-0.05 * (a + b)) / (1.5 + (a - b).abs())


def local_loss(student: Tensor, teacher: Tensor, pairs: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """L_local of the k ranked logits, their pairs of ranks [2, P] and weights [P]: [N, k], [N, k] -> scalar."""
    student, teacher = student / temperature, teacher / temperature
    pair_logits = (z.index_select(1, pairs.T.flatten()).view(-1, 2) for z in (student, teacher))  # [N · P, 2]
    pair_kl = kl_per_sample(*pair_logits).view(len(student), -1) @ weights
    return temperature**2 * (pair_kl + kl_per_sample(student, teacher)).mean() / (len(weights) + 1)


@dataclass
class LDRLDOptions:
    """Options of LDRLD; meanings and defaults in `conf/method/ldrld.yaml`."""

    temperature: float = positive()
    ce_weight: float = loss_weight()
    alpha: float = loss_weight()
    beta: float = loss_weight()
    depth: int = integer(2)


class LDRLD(Method):
    """Local dense relations of logits. Terms: ce, local, rest. Reads the teacher's logits."""

    Options = LDRLDOptions
    pairs: Tensor
    pair_weights: Tensor

    def __init__(self, options: LDRLDOptions, context: Context) -> None:
        super().__init__(options, context)
        self.depth = min(options.depth, context.classes)
        pairs = torch.triu_indices(self.depth, self.depth, 1)
        self.register_buffer("pairs", pairs, persistent=False)
        self.register_buffer("pair_weights", rank_weights(pairs), persistent=False)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options, k = self.options, self.depth
        ranked = student.logits.detach().argsort(1, descending=True)
        z_s, z_t = student.logits.gather(1, ranked), teacher.logits.gather(1, ranked)
        weights = self.pair_weights.to(z_s.dtype)
        return {
            "ce": cross_entropy_term(student, batch, options.ce_weight),
            "local": Term(local_loss(z_s[:, :k], z_t[:, :k], self.pairs, weights, options.temperature), options.alpha),
            "rest": Term(kl_divergence(z_s[:, k:], z_t[:, k:], options.temperature), options.beta),
        }


PROVENANCE = """
Certain: formula, k 7 and, for resnet32x4 and resnet8x4, alpha 10.5 and beta 7 (README). The paper sums the pairs and
the whole; its code, which made the numbers, divides by the number of these terms, as is done here.

Uncertain: alpha and beta of the other pairs.

Source: LDRLD (`distiller_zoo/LDRLD.py`).

Differences: that code also warms up the learning rate over 20 epochs; here all methods share one schedule. It computes
the pairs one by one on logits masked by −1000; here the logits are gathered and all pairs computed at once, with the
same values.
"""
