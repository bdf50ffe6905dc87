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

Speed: scores against the whole bank are one matrix product [n, d] × [d, N], in which the negatives are weighted by how
often each was drawn, and all others by 0. It gives the same values and gradients as gathering K + 1 bank rows per
anchor, [N, K + 1, d] numbers, at a fraction of the memory traffic. The gradient of what follows is known,
x / (x + c + e) for a negative and that less 1 for the positive, each divided by T · N, so `Contrast` makes it on the
way.
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
        labels = context.train_labels
        self.sampler = Sampler(labels, options.negatives, thinning=labels.device.type == "cpu")
        self.seen: tuple[Tensor, Tensor, Tensor] | None = None  # indices and embeddings of the step under way

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options, labels = self.options, batch.labels
        v_s, v_t = self.embed_s(student.pooled), self.embed_t(teacher.pooled)
        relax = options.mode == "relax"
        positives = self.sampler.same_class(labels, batch.generator) if relax else batch.indices
        negatives = self.negatives(batch)
        self.seen = batch.indices, v_s.detach(), v_t.detach()
        losses = {}
        for name, v, bank, z in (("student", v_s, self.bank_t, Z_STUDENT), ("teacher", v_t, self.bank_s, Z_TEACHER)):
            losses[name], self.params[z] = self.contrast(v, bank, positives, negatives, self.params[z])
        return {
            "ce": Term(F.cross_entropy(student.logits, labels), options.ce_weight),
            **{f"crd_{name}": Term(loss, options.crd_weight) for name, loss in losses.items()},
        }

    def negatives(self, batch: Batch) -> Tensor:
        """How often each training sample is among the K negatives of each of the batch's: [n, N]."""
        return self.sampler.other_classes(batch.labels, batch.generator).to(self.bank_s.dtype)

    def contrast(
        self, anchors: Tensor, bank: Tensor, positives: Tensor, negatives: Tensor, z: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The loss of anchors [N, d] with `positives` [N] against a bank, and Z, which a first batch sets."""
        return Contrast.apply(anchors, bank, positives, negatives, self.sampler.k, self.options.temperature, z)

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
        """The K negatives of each of the batch's samples: [N, K]."""
        drawn = []
        for label in batch.labels.tolist():
            others = (self.sampler.labels != label).nonzero()[:, 0]
            if len(others) < self.sampler.k:
                picks = torch.randint(len(others), (self.sampler.k,), generator=batch.generator, device=others.device)
            else:
                picks = torch.randperm(len(others), generator=batch.generator, device=others.device)[: self.sampler.k]
            drawn.append(others[picks])
        return torch.stack(drawn)

    def contrast(
        self, anchors: Tensor, bank: Tensor, positives: Tensor, negatives: Tensor, z: Tensor
    ) -> tuple[Tensor, Tensor]:
        samples = torch.cat([positives[:, None], negatives], 1)
        rows = bank[samples.flatten()].view(*samples.shape, -1)  # [N, K + 1, d]
        scores = torch.bmm(rows, anchors[:, :, None])[:, :, 0].div(self.options.temperature).exp()
        z = torch.where(z > 0, z, scores.detach().mean() * self.n_data)
        noise = (samples.shape[1] - 1) / self.n_data
        own, others = (scores / z).tensor_split([1], dim=1)
        right = (own / (own + noise + EPS)).log().sum()
        return -(right + (noise / (others + noise + EPS)).log().sum()) / len(samples), z


CRD.published = GatheringCRD
