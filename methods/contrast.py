"""Contrastive loss against a memory bank, and the sampler of positives and negatives: the fused kernels of CRD.

Scores against the whole bank are one matrix product [n, d] × [d, N]; each sample is weighted by how often it was drawn
as a negative, most by 0. Values and gradients are those of gathering K + 1 bank rows per anchor, [N, K + 1, d] numbers,
at a fraction of the memory traffic. The gradient of the loss with respect to a score's logarithm is known in closed
form, x / (x + c + e) for a negative and that minus 1 for the positive, divided by N, so the forward pass computes it.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

EPS = 1e-7


class Contrast(torch.autograd.Function):
    """Contrastive loss of anchors [N, d] against a bank [n, d].

    positives: [N], the positive sample of each anchor. drawn: [n, N], how often each sample is a negative of each
    anchor; every column sums to `negatives`. z: the constant Z, or a number not above 0 where this batch sets it.
    Returns the loss and Z, scalars. Only the anchors receive a gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, anchors: Tensor, bank: Tensor, positives: Tensor, drawn: Tensor, negatives: int, temperature: float,
        z: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        n, noise = len(anchors), negatives / len(bank)
        scaled, rows, counts = anchors / temperature, bank[positives], drawn.flatten()
        positive_scores = (scaled * rows).sum(1).exp_()  # [N]
        x = _products(bank, scaled).exp_()  # [n, N]
        # where() instead of if, which would wait for the device in each step
        mean = (x.flatten().dot(counts) + positive_scores.sum()) / (n * (negatives + 1))
        z = torch.where(z > 0, z, mean * len(bank))
        # in units of c + e: x / (x + c + e) becomes x / (x + 1), and −log(c / (x + c + e)) log(x + 1) + log(1 + e / c)
        unit = z * (noise + EPS)
        positive_scores.div_(unit)
        y, y_positive = x.div_(unit) + 1, positive_scores + 1
        slope = _weighted_sums(x.div_(y).mul_(drawn), bank).addcdiv_(rows, y_positive[:, None], value=-1)
        ctx.save_for_backward(slope.div_(temperature * n))
        ctx.mark_non_differentiable(z)
        loss = y.log_().flatten().dot(counts) + (y_positive.log_() - positive_scores.log_()).sum()
        return loss / n + negatives * math.log1p(EPS / noise), z

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        return ctx.saved_tensors[0] * gradient, None, None, None, None, None, None


def _products(bank: Tensor, anchors: Tensor) -> Tensor:
    """Compute bank @ anchors.T: [n, d], [N, d] -> [n, N].

    On a CPU by a 1 × 1 convolution, which in torch is up to three times as fast as the matrix product, as the library
    for the latter is not optimized for all CPUs.
    """
    if bank.is_cuda:  # a convolution might round to TF32
        return bank @ anchors.T
    return F.conv2d(_images(bank), anchors[:, :, None, None]).permute(0, 2, 3, 1).reshape(len(bank), -1)


def _weighted_sums(weights: Tensor, bank: Tensor) -> Tensor:
    """Compute weights.T @ bank: [n, N], [n, d] -> [N, d]; on a CPU by a convolution too."""
    if bank.is_cuda:
        return weights.T @ bank
    shape = weights.shape[1], bank.shape[1], 1, 1
    return conv2d_weight(_images(bank), shape, _images(weights))[:, :, 0, 0]


def _images(rows: Tensor) -> Tensor:
    """View rows [n, C] as the pixels of channels-last images of C channels: 500 images, which is fast, if possible."""
    return rows.view(math.gcd(len(rows), 500), -1, 1, rows.shape[1]).permute(0, 3, 1, 2)


class Sampler:
    """Draws positives and negatives from the training samples, whose labels are `labels` [n].

    thinning: use the algorithm that is fast on a CPU. It reads its own draws, which would wait for a GPU.
    Raises ValueError where all samples are of one class.
    """

    def __init__(self, labels: Tensor, negatives: int, thinning: bool) -> None:
        sizes = labels.bincount()
        if (sizes == len(labels)).any():
            raise ValueError(
                "CRD needs training samples of at least two classes: it contrasts each class with the others"
            )
        self.labels, self.k, self.thinning = labels, negatives, thinning
        self.sizes = sizes
        self.by_class = labels.argsort(stable=True)  # sample numbers, class by class
        self.starts = sizes.cumsum(0) - sizes  # position of each class's first sample in by_class
        others = len(labels) - sizes
        self.distinct = others >= negatives  # [C], True where a class has enough negatives to draw without replacement
        self.kinds = set(self.distinct[sizes > 0].tolist())
        if thinning:
            # A sample is taken where a random byte is at most its class's limit. The limit is such that too few samples
            # are taken only once in a million anchors.
            p = torch.arange(1, 257, dtype=torch.float64) / 256
            mean, spread = others[:, None] * p, (others[:, None] * p * (1 - p)).sqrt()  # [C, 256], of the number taken
            limit = (mean - 5 * spread < negatives).sum(1).clamp(max=255)
            draws = (mean + 5 * spread - negatives) / p * (len(labels) / others[:, None])  # to drop the surplus
            self.limit = limit.byte()
            self.draws = 1 + int(max(draws[self.distinct, limit[self.distinct]].tolist(), default=0))
            self.short_labels = labels.short() if len(sizes) < 2**15 else labels

    def same_class(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one sample of each label's class, uniformly: [N] -> [N]."""
        return self.by_class[self.starts[labels] + _uniform_below(self.sizes[labels], generator)]

    def other_classes(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Draw K samples of other classes than each label; return how often each was drawn: [N] -> [n, N], bool or int.

        The draws are uniform, independent for each label, and without replacement, unless K is greater than the number
        of such samples. Where that holds for some labels only, the call waits for the GPU.
        """
        if self.kinds == {True}:
            return self._without_replacement(labels, generator)
        if self.kinds == {False}:
            return self._with_replacement(labels, generator)
        drawn = torch.empty(len(self.labels), len(labels), dtype=torch.int32, device=labels.device)
        distinct = self.distinct[labels]
        drawn[:, distinct] = self._without_replacement(labels[distinct], generator).int()
        drawn[:, ~distinct] = self._with_replacement(labels[~distinct], generator)
        return drawn

    def _without_replacement(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        if self.thinning:
            return self._by_thinning(labels, generator)
        # The K largest of random keys are a uniform K-subset. A tie at the border, where position would decide, occurs
        # once in about 2^31 / n anchors; float32 keys have 24 random bits and would tie 128 times as often.
        keys = torch.empty(len(self.labels), len(labels), dtype=torch.int32, device=labels.device)
        keys.random_(generator=generator).masked_fill_(labels == self.labels[:, None], -1)
        chosen = keys.topk(self.k, dim=0, sorted=False).indices
        return torch.zeros_like(keys, dtype=torch.bool).scatter_(0, chosen, True)

    def _by_thinning(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Take slightly more than K samples independently, then drop random ones until K are left.

        No step depends on which sample is which, so every K-subset is equally likely.
        """
        shape = len(self.labels), len(labels)
        others = self.short_labels[:, None] != labels.to(self.short_labels.dtype)
        while True:
            words = torch.empty(shape[0] * shape[1] // 8 + 1, dtype=torch.int64)
            keys = words.random_(-(2**63), None, generator=generator).view(torch.uint8)[: others.numel()].view(shape)
            mask = (keys <= self.limit[labels]).logical_and_(others)
            surplus = mask.sum(0, dtype=torch.int32) - self.k
            if (surplus >= 0).all():
                break
        rows, order = mask.T, torch.arange(self.draws, dtype=torch.int32).expand(len(labels), -1)
        first_draw = torch.empty(rows.shape, dtype=torch.int32)
        while (surplus > 0).any():
            drawn = torch.randint(shape[0], order.shape, generator=generator)
            first_draw.scatter_reduce_(1, drawn, order, "amin", include_self=False)
            dropped = rows.gather(1, drawn).logical_and_(first_draw.gather(1, drawn) == order)
            dropped.logical_and_(dropped.cumsum(1, dtype=torch.int32) <= surplus[:, None])
            rows.scatter_reduce_(1, drawn, ~dropped, "amin")
            surplus -= dropped.sum(1, dtype=torch.int32)
        return mask

    def _with_replacement(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        bound = (len(self.labels) - self.sizes[labels]).expand(self.k, -1)
        position = _uniform_below(bound, generator)  # among the samples of other classes, class by class
        after_own_class = position >= self.starts[labels]
        drawn = self.by_class[position + after_own_class * self.sizes[labels]]
        counts = torch.zeros(len(self.labels), len(labels), dtype=torch.int32, device=labels.device)
        return counts.scatter_add_(0, drawn, torch.ones_like(drawn, dtype=counts.dtype))


def _uniform_below(bound: Tensor, generator: torch.Generator) -> Tensor:
    """Draw uniform integers in [0, bound), of bound's shape; 2^62 / bound is so large that the bias is negligible."""
    return torch.randint(2**62, bound.shape, generator=generator, device=bound.device) % bound
