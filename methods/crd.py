"""CRD: Tian, Krishnan, Isola, "Contrastive Representation Distillation", ICLR 2020, arXiv 1910.10699.

    L = ce_weight · CE(z_s, y) + crd_weight · (L_student + L_teacher)

    v_s = W_s f_s + b_s, v_t = W_t f_t + b_t, both scaled to length 1: [N, d]. All four are trained.
    Two banks M_s, M_t [n, d] hold a running embedding of each of the n training samples. For each anchor one positive
    and K negatives, samples of other classes, give K + 1 scores
        L_student:  x = exp(M_t[sample] · v_s / T) / Z_s,      L_teacher:  x = exp(M_s[sample] · v_t / T) / Z_t
    and, with c = K / n and e = 1e-7,
        loss = −(Σ log(x₊ / (x₊ + c + e)) + Σ log(c / (x₋ + c + e))) / N.
    Z is n · mean(exp(…)) of the first batch, and constant from then on. After the step
        M[y] = unit(momentum · M[y] + (1 − momentum) · v) for the samples y of the batch, with v as it was in the step.

f_s [N, D_s], f_t [N, D_t]: pooled features; z_s: logits [N, C]; y: labels [N].

Certain: all of it; the authors' code is public. Source: RepDistiller (`crd/criterion.py`, `crd/memory.py`,
`dataset/cifar100.py`). Negatives are drawn anew for each anchor, without replacement unless K is greater than their
number. Mode "exact": the positive is the anchor itself; "relax": any sample of its class.

Speed: scores against the whole bank are one matrix product [N, d] × [d, n], of which the K + 1 are then picked. It
gives the same values and gradients as gathering K + 1 bank rows per anchor, [N, K + 1, d] numbers, at a fraction of
the memory traffic. The gradient of what follows is known, x / (x + c + e) for a negative and that less 1 for the
positive, each divided by T · N, so `Contrast` makes it on the way, in place.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.contract import Batch, Context, Method, Needs, Outputs, Term, choice, count, positive, weight

EPS = 1e-7
Z_STUDENT, Z_TEACHER = 2, 3  # places in CRD.params


class Contrast(torch.autograd.Function):
    """The loss of anchors [N, d] against a bank [n, d] at samples [N, K + 1], the positive's first.

    z: the constant Z, or a number not above 0 where this batch is to set it. distinct: no sample stands twice in a
    row. Gives the loss and Z, scalars; the gradient is the anchors' alone.
    """

    @staticmethod
    def forward(
        ctx: Any, anchors: Tensor, bank: Tensor, samples: Tensor, temperature: float, z: Tensor, distinct: bool
    ) -> tuple[Tensor, Tensor]:
        n, noise = len(samples), (samples.shape[1] - 1) / len(bank)
        x = (anchors @ bank.T).gather(1, samples).div_(temperature).exp_()
        # where() instead of if, which would wait for the device in each step
        z = torch.where(z > 0, z, x.mean() * len(bank))
        x.div_(z * noise)  # in units of c: log(c / (x + c + e)) becomes −log(x + 1 + e / c)
        positives = x[:, 0].log()
        y = x + (1 + EPS / noise)
        slope = x.div_(y)
        slope[:, 0] -= 1
        ctx.distinct = distinct
        ctx.save_for_backward(bank, samples, slope.div_(temperature * n))
        ctx.mark_non_differentiable(z)
        return (y.log_().sum() - positives.sum()) / n, z

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        bank, samples, slope = ctx.saved_tensors
        spread = slope.new_zeros(len(samples), len(bank))
        spread = spread.scatter_(1, samples, slope) if ctx.distinct else spread.scatter_add_(1, samples, slope)
        return (spread @ bank).mul_(gradient), None, None, None, None, None


class Sampler:
    """Draws positives and negatives among the training samples, whose labels are `labels` [n]."""

    def __init__(self, labels: Tensor, negatives: int) -> None:
        sizes = labels.bincount()
        if (sizes == len(labels)).any():
            raise ValueError("CRD needs training samples of at least two classes: it contrasts each with the others")
        self.labels, self.k = labels, negatives
        self.sizes = sizes
        self.by_class = labels.argsort(stable=True)  # sample numbers, class by class
        self.starts = sizes.cumsum(0) - sizes  # where each class begins in it
        self.distinct = len(labels) - sizes >= negatives  # by class: are there enough negatives?
        self.kinds = set(self.distinct[sizes > 0].tolist())
        self.all_distinct = self.kinds == {True}
        others = len(labels) - int(sizes.max())
        # On a GPU it is not determined which of two equal draws is written last.
        self.by_draws = labels.device.type == "cpu" and negatives <= others // 2 and len(sizes) < 2**15
        if self.by_draws:
            misses = len(labels) / (others - torch.arange(negatives, dtype=torch.float64))  # draws for one more sample
            spread = (misses * (misses - 1)).sum().sqrt()
            self.draws = int(misses.sum() + 8 * spread) + 1  # fewer would do but once in 10^14 anchors
            self.short_labels = labels.short()
            self.scratch: Tensor | None = None

    def same_class(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """One sample of each label's class, uniformly: [N] -> [N]."""
        return self.by_class[self.starts[labels] + _below(self.sizes[labels], generator)]

    def other_classes(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """K samples of other classes for each label, uniformly and independently: [N] -> [N, K].

        Distinct, but where K is greater than the number of such samples: there each is drawn from all of them.
        """
        if self.all_distinct:
            return self._without_replacement(labels, generator)
        if self.kinds == {False}:
            return self._with_replacement(labels, generator)
        distinct = self._without_replacement(labels, generator)
        return torch.where(self.distinct[labels][:, None], distinct, self._with_replacement(labels, generator))

    def _without_replacement(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        if self.by_draws:
            return self._first_distinct(labels, generator)
        # The K largest of random keys are a uniform K-subset. A tie at the border, where position would decide, comes
        # up once in about 2^31 / n anchors; float32 keys have 24 random bits and would tie 128 times as often.
        keys = torch.empty(len(labels), len(self.labels), dtype=torch.int32, device=labels.device)
        keys.random_(generator=generator).masked_fill_(labels[:, None] == self.labels, -1)
        return keys.topk(self.k, dim=1, sorted=False).indices

    def _first_distinct(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """The first K distinct ones of uniform draws with replacement. Which are kept depends on where equal draws
        stand, not on what they are: every K-subset is equally likely."""
        shape = len(labels), self.draws
        order = torch.arange(self.draws, dtype=torch.int32).expand(shape)
        if self.scratch is None or len(self.scratch) < len(labels):
            self.scratch = torch.empty(len(labels), len(self.labels), dtype=torch.int32)
        last = self.scratch[: len(labels)]  # where each sample was drawn last
        while True:
            drawn = torch.randint(len(self.labels), shape, generator=generator)
            last.scatter_(1, drawn, order)
            kept = last.gather(1, drawn) == order
            kept &= self.short_labels.take(drawn) != labels[:, None].short()
            rank = kept.cumsum(1, dtype=torch.int32)
            if (rank[:, -1] >= self.k).all():
                break
        kept &= rank <= self.k
        # the first K draws, those that are not kept replaced by the later ones that are
        first, later = (slice(None), slice(self.k)), (slice(None), slice(self.k, None))
        return drawn[first].masked_scatter(~kept[first], drawn[later][kept[later]])

    def _with_replacement(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        bound = (len(self.labels) - self.sizes[labels])[:, None].expand(-1, self.k)
        place = _below(bound, generator)  # among the other classes' samples, class by class
        skip = place >= self.starts[labels][:, None]
        return self.by_class[place + skip * self.sizes[labels][:, None]]


def _below(bound: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform integers in [0, bound), of bound's shape; 2^62 / bound is so large that the remainder has no bias."""
    return torch.randint(2**62, bound.shape, generator=generator, device=bound.device) % bound


class Embedding(nn.Linear):
    """A linear layer whose output is scaled to length 1: [N, D] -> [N, d]."""

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(super().forward(features), eps=EPS)


@dataclass
class Options:
    """Options of CRD; meanings and defaults in `conf/method/crd.yaml`."""

    ce_weight: float = weight()
    crd_weight: float = weight()
    feature_dim: int = count(1)
    negatives: int = count(1)
    temperature: float = positive()
    momentum: float = weight()
    mode: str = choice("exact", "relax")


class CRD(Method):
    """Contrastive distillation. Terms: ce, crd_student, crd_teacher. Needs both networks' pooled features.

    Trains the embeddings embed_s, embed_t. Buffers, in checkpoints: bank_s, bank_t, and params, which holds, as in
    the published code, (K, T, Z_student, Z_teacher, momentum); a Z of −1 is not yet set.
    """

    Options = Options

    def __init__(self, options: Options, context: Context) -> None:
        super().__init__(options, context)
        if options.momentum > 1:
            raise ValueError(f"momentum is {options.momentum}: the bank's must be at most 1")
        self.student_needs = Needs(logits=True, pooled=True)
        self.teacher_needs = Needs(pooled=True)
        self.embed_s = Embedding(context.student.pooled, options.feature_dim)
        self.embed_t = Embedding(context.teacher.pooled, options.feature_dim)
        limit = 1 / math.sqrt(options.feature_dim / 3)  # rows of length about 1
        self.n_data = len(context.train_labels)
        for bank in ("bank_s", "bank_t"):
            self.register_buffer(bank, torch.empty(self.n_data, options.feature_dim).uniform_(-limit, limit))
        constants = [float(options.negatives), options.temperature, -1.0, -1.0, options.momentum]
        self.register_buffer("params", torch.tensor(constants))
        self.sampler = Sampler(context.train_labels, options.negatives)
        self.seen: tuple[Tensor, Tensor, Tensor] | None = None  # indices and embeddings of the step under way

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options, labels = self.options, batch.labels
        v_s, v_t = self.embed_s(student.pooled), self.embed_t(teacher.pooled)
        relax = options.mode == "relax"
        positives = self.sampler.same_class(labels, batch.generator) if relax else batch.indices
        negatives = self.negatives(batch)
        samples = torch.cat([positives[:, None], negatives], 1)
        self.seen = batch.indices, v_s.detach(), v_t.detach()
        losses = {}
        for name, v, bank, z in (("student", v_s, self.bank_t, Z_STUDENT), ("teacher", v_t, self.bank_s, Z_TEACHER)):
            losses[name], self.params[z] = self.contrast(v, bank, samples, self.params[z])
        return {
            "ce": Term(F.cross_entropy(student.logits, labels), options.ce_weight),
            **{f"crd_{name}": Term(loss, options.crd_weight) for name, loss in losses.items()},
        }

    def negatives(self, batch: Batch) -> Tensor:
        """K samples of other classes for each of the batch's: [N, K]."""
        return self.sampler.other_classes(batch.labels, batch.generator)

    def contrast(self, anchors: Tensor, bank: Tensor, samples: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of anchors [N, d] against a bank at `samples` [N, K + 1], and Z, which a first batch sets."""
        return Contrast.apply(anchors, bank, samples, self.options.temperature, z, self.sampler.all_distinct)

    def after_step(self) -> None:
        """Move the banks' rows of the batch's samples towards the batch's embeddings."""
        if self.seen is None:
            return
        indices, v_s, v_t = self.seen
        m = self.options.momentum
        for bank, v in ((self.bank_s, v_s), (self.bank_t, v_t)):
            bank[indices] = F.normalize(m * bank[indices] + (1 - m) * v, eps=EPS)
        self.seen = None


class GatheringCRD(CRD):
    """CRD as the published code computes it: negatives drawn sample by sample, K + 1 bank rows gathered per anchor.

    The same loss at many times the cost; `make speed` compares with it, and tests do.
    """

    def negatives(self, batch: Batch) -> Tensor:
        drawn = []
        for label in batch.labels.tolist():
            others = (self.sampler.labels != label).nonzero()[:, 0]
            if len(others) < self.sampler.k:
                picks = torch.randint(len(others), (self.sampler.k,), generator=batch.generator, device=others.device)
            else:
                picks = torch.randperm(len(others), generator=batch.generator, device=others.device)[: self.sampler.k]
            drawn.append(others[picks])
        return torch.stack(drawn)

    def contrast(self, anchors: Tensor, bank: Tensor, samples: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        rows = bank[samples.flatten()].view(*samples.shape, -1)  # [N, K + 1, d]
        scores = torch.bmm(rows, anchors[:, :, None])[:, :, 0].div(self.options.temperature).exp()
        z = torch.where(z > 0, z, scores.detach().mean() * self.n_data)
        noise = (samples.shape[1] - 1) / self.n_data
        positives, negatives = (scores / z).tensor_split([1], dim=1)
        right = (positives / (positives + noise + EPS)).log().sum()
        return -(right + (noise / (negatives + noise + EPS)).log().sum()) / len(samples), z


CRD.published = GatheringCRD
