"""CLKD: Zhang, Liu, Hopcroft, He, "Class-aware Information for Logit-based Knowledge Distillation", arXiv 2211.14773.

    L = lambda · CE(z_s, y) + mu · (L_ins + beta · L_cla) + nu · L_cc

    L_ins  NMSE of the rows of the logits [N, C]: one vector per sample (instance level)
    L_cla  NMSE of their columns: one vector per class, N entries over the batch (class level)
    L_cc   ‖G_s − G_t‖_F² / C²,   G a correlation matrix of the raw logits

NMSE is the squared distance of L2-normalized vectors. There is no softmax, temperature, warm-up or extra layer.
z_s: the student's logits [N, C]; y: labels [N].

This is a reading of the paper, whose full text was not available and which has no known official code: see PROVENANCE,
below the code.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.contract import Batch, Method, Outputs, Term
from methods.losses import cross_entropy_term, normalize_rows
from methods.options import loss_weight, one_of


def nmse(student: Tensor, teacher: Tensor, reduction: str) -> Tensor:
    """Squared distance of L2-normalized rows, mean over rows (vector) or over entries (mean): 2 × [M, D] -> scalar."""
    squared = (normalize_rows(student) - normalize_rows(teacher)).square()
    return squared.sum(1).mean() if reduction == "vector" else squared.mean()


def correlation(logits: Tensor, shape: str, center: str, div: str) -> Tensor:
    """Return the matrix G of logits [N, C]: [C, C] for the shape class, [N, N] for instance."""
    n, c = logits.shape
    if center != "none":
        logits = logits - logits.mean({"batch": 0, "class": 1}[center], keepdim=True)
    product = logits.T @ logits if shape == "class" else logits @ logits.T
    return product / max({"C-1": c - 1, "N-1": n - 1}[div], 1)


def correlation_loss(student: Tensor, teacher: Tensor, norm: str, reduction: str, classes: int) -> Tensor:
    """Return L_cc of two matrices G: [M, M], [M, M] -> scalar; `reduction` applies to the norm nmse alone."""
    if norm == "nmse":
        return nmse(student, teacher, reduction) / classes**2
    difference = student - teacher
    if norm == "fro2":
        return difference.square().sum() / classes**2
    return torch.linalg.vector_norm(difference) / classes**2  # at 0 its gradient is defined as 0


@dataclass
class CLKDOptions:
    """Options of CLKD; meanings and defaults in `conf/method/clkd.yaml`."""

    lambda_ce: float = loss_weight()
    mu: float = loss_weight()
    beta: float = loss_weight()
    nu: float = loss_weight()
    nmse_reduction: str = one_of("vector", "mean")
    cc_shape: str = one_of("class", "instance")
    cc_center: str = one_of("batch", "class", "none")
    cc_div: str = one_of("C-1", "N-1")
    cc_norm: str = one_of("fro2", "fro", "nmse")


class CLKD(Method):
    """Class-aware logit distillation. Terms: ce, instance, class, correlation. Reads the teacher's logits."""

    Options = CLKDOptions

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options, z_s, z_t = self.options, student.logits, teacher.logits
        g_s, g_t = (correlation(z, options.cc_shape, options.cc_center, options.cc_div) for z in (z_s, z_t))
        reduction = options.nmse_reduction
        return {
            "ce": cross_entropy_term(student, batch, options.lambda_ce),
            "instance": Term(nmse(z_s, z_t, reduction), options.mu),
            "class": Term(nmse(z_s.T, z_t.T, reduction), options.mu * options.beta),
            "correlation": Term(correlation_loss(g_s, g_t, options.cc_norm, reduction, z_s.shape[1]), options.nu),
        }


PROVENANCE = """
The paper's full text was not available when this was written, and no official code is known. No reading below is "the
published method", and no published number belongs to any of them.

Certain, from the abstract: logits only; distillation at instance and at class level; a class correlation loss on top.

Agreed by the third-party implementations A and B, independent as far as is known, and partly by a third, C: L as above;
NMSE as above; lambda 0.1, mu 0.5, nu 0.4; in L_cc a factor 1/C², a divisor C − 1 within G, and raw logits.

Uncertain, each an option:
    cc_shape         class: G = XᵀX, C × C (fits the name and 1/C²); instance: G = XXᵀ, N × N (fits the sum over classes
                     of outer products of class columns, which both A and B write down)
    cc_center        X is the logits minus their mean over the batch (A, C), over the classes (B), or minus nothing
    cc_div           G is divided by C − 1 (A, B) or N − 1 (C)
    cc_norm          fro2: squared Frobenius norm (A1, C); fro: not squared (A2); nmse: NMSE of the rows of G (B)
    nmse_reduction   vector: squared distance per vector, mean over the vectors; mean: mean over all entries (A, B, C),
                     which is smaller by a factor C for rows and N for columns
    beta             2 (A) or 1 (B, C)

Presets: clkd is the recommended reading, the only one in which all four terms matter, which makes it plausible but not
right. clkd_a1 and clkd_a2 are the two variants of A; clkd_b is that of B; clkd_r1 takes G as the textbook covariance
with the classes as observations (instance, centered over the classes). On synthetic logits L_cc is practically zero
under clkd_a2 and clkd_b.
"""
