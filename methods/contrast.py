"""Contrastive loss against a memory bank, and the samplers of positives and negatives: the fused kernels of CRD.

Scores against the whole bank are one matrix product [n, d] × [d, N], in which negatives are weighted by how often each
was drawn and all other samples by 0. Values and gradients are those of gathering K + 1 bank rows per anchor, at a
fraction of the memory traffic.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-7


class Contrast(torch.autograd.Function):
    """The loss of anchors [N, d] against a bank [n, d].

    positives: a sample for each anchor, [N]. drawn: how often each sample is a negative of each anchor, [n, N]; each
    column's sum is `negatives`. z: the constant Z, or a number not above 0 where this batch is to set it. Gives the
    loss and Z, scalars; the gradient is the anchors' alone.
    """

    @staticmethod
    def forward(
        ctx: Any, anchors: Tensor, bank: Tensor, positives: Tensor, drawn: Tensor, negatives: int, temperature: float,
        z: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        n, noise = len(anchors), negatives / len(bank)
        scaled, rows, weights = anchors / temperature, bank[positives], drawn.flatten()
        own = (scaled * rows).sum(1).exp_()  # [N]
        x = _products(bank, scaled).exp_()  # [n, N]
        # where() instead of if, which would wait for the device in each step
        mean = (x.flatten().dot(weights) + own.sum()) / (n * (negatives + 1))
        z = torch.where(z > 0, z, mean * len(bank))
        # in units of c + e: x / (x + c + e) becomes x / (x + 1), and −log(c / (x + c + e)) log(x + 1) + log(1 + e / c)
        unit = z * (noise + EPS)
        own.div_(unit)
        y, y_own = x.div_(unit) + 1, own + 1
        slope = _sums(x.div_(y).mul_(drawn), bank).addcdiv_(rows, y_own[:, None], value=-1)
        ctx.save_for_backward(slope.div_(temperature * n))
        ctx.mark_non_differentiable(z)
        loss = y.log_().flatten().dot(weights) + (y_own.log_() - own.log_()).sum()
        return loss / n + negatives * math.log1p(EPS / noise), z

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        return ctx.saved_tensors[0] * gradient, None, None, None, None, None, None


def _products(bank: Tensor, anchors: Tensor) -> Tensor:
    """bank @ anchors.T, [n, d], [N, d] -> [n, N].

    On a CPU as a 1 × 1 convolution: torch's is up to three times as fast as its matrix product, for which its library
    has no good code on all makes.
    """
    if bank.is_cuda:  # where a convolution may round to TF32
        return bank @ anchors.T
    return F.conv2d(_images(bank), anchors[:, :, None, None]).permute(0, 2, 3, 1).reshape(len(bank), -1)


def _sums(weights: Tensor, bank: Tensor) -> Tensor:
    """weights.T @ bank, [n, N], [n, d] -> [N, d], likewise."""
    if bank.is_cuda:
        return weights.T @ bank
    shape = weights.shape[1], bank.shape[1], 1, 1
    return nn.grad.conv2d_weight(_images(bank), shape, _images(weights))[:, :, 0, 0]


def _images(rows: Tensor) -> Tensor:
    """Rows [n, C] as pixels of images of C channels, channels last: 500 images where that divides n, which is fast."""
    return rows.view(math.gcd(len(rows), 500), -1, 1, rows.shape[1]).permute(0, 3, 1, 2)


class Sampler:
    """Draws positives and negatives among the training samples, whose labels are `labels` [n].

    thinning: the way that is fast on a CPU. It reads what it drew, for which a GPU would be waited for.
    """

    def __init__(self, labels: Tensor, negatives: int, thinning: bool) -> None:
        sizes = labels.bincount()
        if (sizes == len(labels)).any():
            raise ValueError("CRD needs training samples of at least two classes: it contrasts each with the others")
        self.labels, self.k, self.thinning = labels, negatives, thinning
        self.sizes = sizes
        self.by_class = labels.argsort(stable=True)  # sample numbers, class by class
        self.starts = sizes.cumsum(0) - sizes  # where each class begins in it
        others = len(labels) - sizes
        self.distinct = others >= negatives  # by class: are there enough negatives?
        self.kinds = set(self.distinct[sizes > 0].tolist())
        if thinning:
            # A sample is taken where a random byte is at most its class's limit, which is set so that too few are taken
            # but once in a million anchors.
            p = torch.arange(1, 257, dtype=torch.float64) / 256
            mean, spread = others[:, None] * p, (others[:, None] * p * (1 - p)).sqrt()  # [C, 256], of the number taken
            limit = (mean - 5 * spread < negatives).sum(1).clamp(max=255)
            most = (mean + 5 * spread - negatives) / p * (len(labels) / others[:, None])  # draws that drop them
            self.limit = limit.byte()
            self.draws = 1 + int(max(most[self.distinct, limit[self.distinct]].tolist(), default=0))
            self.short_labels = labels.short() if len(sizes) < 2**15 else labels

    def same_class(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """One sample of each label's class, uniformly: [N] -> [N]."""
        return self.by_class[self.starts[labels] + _below(self.sizes[labels], generator)]

    def other_classes(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """How often each sample is among K of other classes than each label: [N] -> [n, N], of bool or int.

        They are drawn uniformly and independently for each label, and distinct, but where K is greater than the number
        of such samples: there each is drawn from all of them. Where that is so for some labels only, a GPU is waited
        for.
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
            return self._thinned(labels, generator)
        # The K largest of random keys are a uniform K-subset. A tie at the border, where position would decide, comes
        # up once in about 2^31 / n anchors; float32 keys have 24 random bits and would tie 128 times as often.
        keys = torch.empty(len(self.labels), len(labels), dtype=torch.int32, device=labels.device)
        keys.random_(generator=generator).masked_fill_(labels == self.labels[:, None], -1)
        chosen = keys.topk(self.k, dim=0, sorted=False).indices
        return torch.zeros_like(keys, dtype=torch.bool).scatter_(0, chosen, True)

    def _thinned(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """A few too many samples are taken independently, and random ones dropped until K are left.

        No step looks at which sample is which, so every K-subset is equally likely.
        """
        shape = len(self.labels), len(labels)
        others = self.short_labels[:, None] != labels.to(self.short_labels.dtype)
        while True:
            words = torch.empty(shape[0] * shape[1] // 8 + 1, dtype=torch.int64)
            keys = words.random_(-(2**63), None, generator=generator).view(torch.uint8)[: others.numel()].view(shape)
            taken = (keys <= self.limit[labels]).logical_and_(others)
            surplus = taken.sum(0, dtype=torch.int32) - self.k
            if (surplus >= 0).all():
                break
        rows, order = taken.T, torch.arange(self.draws, dtype=torch.int32).expand(len(labels), -1)
        first = torch.empty(rows.shape, dtype=torch.int32)
        while (surplus > 0).any():
            drawn = torch.randint(shape[0], order.shape, generator=generator)
            first.scatter_reduce_(1, drawn, order, "amin", include_self=False)  # where each sample was drawn first
            dropped = rows.gather(1, drawn).logical_and_(first.gather(1, drawn) == order)
            dropped.logical_and_(dropped.cumsum(1, dtype=torch.int32) <= surplus[:, None])
            rows.scatter_reduce_(1, drawn, ~dropped, "amin")
            surplus -= dropped.sum(1, dtype=torch.int32)
        return taken

    def _with_replacement(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        bound = (len(self.labels) - self.sizes[labels]).expand(self.k, -1)
        place = _below(bound, generator)  # among the other classes' samples, class by class
        skip = place >= self.starts[labels]
        drawn = self.by_class[place + skip * self.sizes[labels]]
        counts = torch.zeros(len(self.labels), len(labels), dtype=torch.int32, device=labels.device)
        return counts.scatter_add_(0, drawn, torch.ones_like(drawn, dtype=counts.dtype))


def _below(bound: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform integers in [0, bound), of bound's shape; 2^62 / bound is so large that the remainder has no bias."""
    return torch.randint(2**62, bound.shape, generator=generator, device=bound.device) % bound
