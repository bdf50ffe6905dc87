"""CRD: Tian, Krishnan, Isola, "Contrastive Representation Distillation", ICLR 2020, arXiv 1910.10699.

    L = ce_weight · CE(z_s, y) + crd_weight · (L_student + L_teacher)

    v_s = W_s f_s + b_s, v_t = W_t f_t + b_t, both scaled to length 1: [N, d]; all four parameters are trained
    L_student:  x = exp(M_t[sample] · v_s / T) / Z_s,      L_teacher:  x = exp(M_s[sample] · v_t / T) / Z_t
    loss = −(Σ log(x₊ / (x₊ + c + e)) + Σ log(c / (x₋ + c + e))) / N,    c = K / n,  e = 1e-7
    after the step:  M[y] = normalized(momentum · M[y] + (1 − momentum) · v)  for the samples y of the batch

f_s [N, D_s], f_t [N, D_t]: pooled features; z_s: logits [N, C]; y: labels [N]. Two memory banks M_s, M_t [n, d] hold a
running embedding of each of the n training samples. Each anchor has K + 1 scores x: one positive x₊ and K negatives x₋,
samples of other classes. Z is n · mean(exp(…)) of the first batch, and constant from then on. The update of the banks
takes v as it was in the step. Mode "exact": the positive is the anchor itself; "relax": any sample of its class.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.contract import Batch, Context, Method, Needs, Outputs, Term
from methods.contrast import EPS, Contrast, Sampler
from methods.losses import cross_entropy_term
from methods.options import integer, loss_weight, non_negative, one_of, positive

Z_STUDENT, Z_TEACHER = 2, 3  # positions in CRD.params


class Embedding(nn.Linear):
    """A linear layer whose output is scaled to length 1: [N, D] -> [N, d]."""

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(super().forward(features), eps=EPS)


@dataclass
class CRDOptions:
    """Options of CRD; meanings and defaults in `conf/method/crd.yaml`."""

    ce_weight: float = loss_weight()
    crd_weight: float = loss_weight()
    feature_dim: int = integer(1)
    negatives: int = integer(1, at_most=1_000_000)
    temperature: float = positive()
    momentum: float = non_negative(at_most=1.0)
    mode: str = one_of("exact", "relax")


class CRD(Method):
    """Contrastive distillation. Terms: ce, crd_student, crd_teacher. Reads both networks' pooled features.

    Trains the embeddings embed_s, embed_t. Checkpoints hold the buffers bank_s, bank_t, and params, which is, as in the
    published code, (K, T, Z_student, Z_teacher, momentum); a Z of −1 is not yet set.
    """

    Options = CRDOptions
    mixing_conflict = "its memory holds an embedding of each image, and a blended image is none of them"
    bank_s: Tensor
    bank_t: Tensor
    params: Tensor
    student_needs = Needs(logits=True, pooled=True)
    teacher_needs = Needs(pooled=True)

    def __init__(self, options: CRDOptions, context: Context) -> None:
        super().__init__(options, context)
        self.embed_s = Embedding(context.student.pooled, options.feature_dim)
        self.embed_t = Embedding(context.teacher.pooled, options.feature_dim)
        limit = 1 / math.sqrt(options.feature_dim / 3)  # so that rows have a length of about 1
        self.n_data = len(context.train_labels)
        for bank in ("bank_s", "bank_t"):
            self.register_buffer(bank, torch.empty(self.n_data, options.feature_dim).uniform_(-limit, limit))
        constants = [float(options.negatives), options.temperature, -1.0, -1.0, options.momentum]
        self.register_buffer("params", torch.tensor(constants))
        labels = context.train_labels
        self.sampler = Sampler(labels, options.negatives, thinning=labels.device.type == "cpu")
        self.pending_update: tuple[Tensor, Tensor, Tensor] | None = None  # indices and embeddings of the current step

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options, labels = self.options, batch.labels
        v_s, v_t = self.embed_s(student.pooled), self.embed_t(teacher.pooled)
        relax = options.mode == "relax"
        positives = self.sampler.same_class(labels, batch.generator) if relax else batch.indices
        negatives = self.negatives(batch)
        self.pending_update = batch.indices, v_s.detach(), v_t.detach()
        losses = {}
        for name, v, bank, z in (("student", v_s, self.bank_t, Z_STUDENT), ("teacher", v_t, self.bank_s, Z_TEACHER)):
            losses[name], self.params[z] = self.contrast(v, bank, positives, negatives, self.params[z])
        return {
            "ce": cross_entropy_term(student, batch, options.ce_weight),
            **{f"crd_{name}": Term(loss, options.crd_weight) for name, loss in losses.items()},
        }

    def negatives(self, batch: Batch) -> Tensor:
        """Count how often each training sample is among the K negatives of each anchor: [n, N]."""
        return self.sampler.other_classes(batch.labels, batch.generator).to(self.bank_s.dtype)

    def contrast(
        self, anchors: Tensor, bank: Tensor, positives: Tensor, negatives: Tensor, z: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of anchors [N, d] with `positives` [N] against a bank, and Z, which the first batch sets."""
        return Contrast.apply(anchors, bank, positives, negatives, self.sampler.k, self.options.temperature, z)

    def on_step_end(self) -> None:
        """Move the bank rows of the batch's samples towards the embeddings of the step."""
        if self.pending_update is None:
            return
        indices, v_s, v_t = self.pending_update
        momentum = self.options.momentum
        for bank, v in ((self.bank_s, v_s), (self.bank_t, v_t)):
            bank[indices] = F.normalize(momentum * bank[indices] + (1 - momentum) * v, eps=EPS)
        self.pending_update = None


PROVENANCE = """
Certain: all of it; the authors' code is public. Negatives are drawn for each anchor, without replacement unless K is
greater than their number.

Source: RepDistiller (`crd/criterion.py`, `crd/memory.py`, `dataset/cifar100.py`).

Differences: none in values and gradients. The scores are computed by the fused kernels of `methods.contrast`.
"""
