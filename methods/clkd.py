"""CLKD: Zhang, Liu, Hopcroft, He, "Class-aware Information for Logit-based Knowledge Distillation", arXiv 2211.14773.

    L = lambda · CE(z_s, y) + mu · (L_ins + beta · L_cla) + nu · L_cc

    L_ins  NMSE of the rows of the logits [N, C]: one vector per sample (instance level)
    L_cla  NMSE of their columns: one vector per class, N entries over the batch (class level)
    L_cc   ‖G_s − G_t‖² / C²,   G a correlation matrix of the logits

NMSE is the squared distance of L2-normalized vectors. There is no softmax, temperature or extra layer by default.
z_s: the student's logits [N, C]; y: labels [N].

G and L_cc are built in six steps, each with an option (e: the epoch, counted from 1):

    V = z   or   softmax(z / T)                         cc_values: logits | softmax;   T: cc_temperature
    X = V,   V − mean over samples,   or over classes   cc_center: none | batch | class
    X ← X,   rows / ‖row‖,   or columns / ‖column‖      cc_scale: none | rows | columns
    G = XᵀX / d   or   XXᵀ / d                          cc_shape: class | instance;   d: cc_div
    L_cc = D / C²,   D / M,   or D                      cc_reduction: mean | vector | sum;   G is [M, M]
           with D = ‖G_s − G_t‖_F²,   ‖G_s − G_t‖_F,   or NMSE of the rows of G       cc_norm: fro2 | fro | nmse
    nu_e = nu · min(e / cc_warmup, 1)                   cc_warmup: epochs, 0 for none

cc_center=batch with cc_scale=columns makes G the Pearson correlation matrix of the classes (C × C).

This is a reading of the paper, whose full text was not available and which has no known official code: see PROVENANCE,
below the code.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.contract import Batch, Method, Outputs, Term
from methods.losses import cross_entropy_term, normalize_rows, warmup_ramp
from methods.options import loss_weight, non_negative, one_of, positive


def nmse(student: Tensor, teacher: Tensor, reduction: str) -> Tensor:
    """Squared distance of L2-normalized rows, mean over rows (vector) or over entries (mean): 2 × [M, D] -> scalar."""
    squared = (normalize_rows(student) - normalize_rows(teacher)).square()
    return squared.sum(1).mean() if reduction == "vector" else squared.mean()


def correlation(logits: Tensor, options: "CLKDOptions") -> Tensor:
    """Return the matrix G of logits [N, C]: [C, C] for the shape class, [N, N] for instance."""
    n, c = logits.shape
    x = F.softmax(logits / options.cc_temperature, 1) if options.cc_values == "softmax" else logits
    if options.cc_center != "none":
        x = x - x.mean({"batch": 0, "class": 1}[options.cc_center], keepdim=True)
    if options.cc_scale != "none":
        x = normalize_rows(x) if options.cc_scale == "rows" else normalize_rows(x.T).T
    product = x.T @ x if options.cc_shape == "class" else x @ x.T
    return product / max({"1": 1, "C-1": c - 1, "N-1": n - 1}[options.cc_div], 1)


def correlation_loss(g_s: Tensor, g_t: Tensor, options: "CLKDOptions", classes: int) -> Tensor:
    """Return L_cc of the matrices G of student and teacher: [M, M], [M, M] -> scalar."""
    difference = g_s - g_t
    if options.cc_norm == "nmse":
        distance = nmse(g_s, g_t, options.nmse_reduction)
    elif options.cc_norm == "fro2":
        distance = difference.square().sum()
    else:
        distance = torch.linalg.vector_norm(difference)  # at 0 its gradient is defined as 0
    return distance / {"mean": classes**2, "vector": len(g_s), "sum": 1}[options.cc_reduction]


@dataclass
class CLKDOptions:
    """Options of CLKD; meanings and defaults in `conf/method/clkd.yaml`, third parties' in `clkd_letter.yaml`."""

    lambda_ce: float = loss_weight()
    mu: float = loss_weight()
    beta: float = loss_weight()
    nu: float = loss_weight()
    nmse_reduction: str = one_of("vector", "mean")
    cc_values: str = one_of("logits", "softmax", implied="logits")
    cc_temperature: float = positive(implied=4.0)
    cc_center: str = one_of("batch", "class", "none")
    cc_scale: str = one_of("none", "rows", "columns", implied="none")
    cc_shape: str = one_of("class", "instance")
    cc_div: str = one_of("C-1", "N-1", "1")
    cc_norm: str = one_of("fro2", "fro", "nmse")
    cc_reduction: str = one_of("mean", "vector", "sum", implied="mean")
    cc_warmup: float = non_negative(implied=0.0)


class CLKD(Method):
    """Class-aware logit distillation. Terms: ce, instance, class, correlation. Reads the teacher's logits."""

    Options = CLKDOptions

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options, z_s, z_t = self.options, student.logits, teacher.logits
        reduction, nu = options.nmse_reduction, options.nu * warmup_ramp(batch.epoch, options.cc_warmup)
        g_s, g_t = correlation(z_s, options), correlation(z_t, options)
        return {
            "ce": cross_entropy_term(student, batch, options.lambda_ce),
            "instance": Term(nmse(z_s, z_t, reduction), options.mu),
            "class": Term(nmse(z_s.T, z_t.T, reduction), options.mu * options.beta),
            "correlation": Term(correlation_loss(g_s, g_t, options, z_s.shape[1]), nu),
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
    cc_values        G is of the raw logits (A, B, C), or of their softmax, which no third party has
    cc_center        X is the logits minus their mean over the batch (A, C), over the classes (B), or minus nothing
    cc_scale         X unchanged (A, B, C), or with rows or columns of length 1, as the abstract's "correlation" allows
    cc_div           G is divided by C − 1 (A, B) or N − 1 (C)
    cc_norm          fro2: squared Frobenius norm (A1, C); fro: not squared (A2); nmse: NMSE of the rows of G (B)
    cc_reduction     mean: divided by C² (A, B, C); vector: by the rows of G; sum: by nothing
    nmse_reduction   vector: squared distance per vector, mean over the vectors; mean: mean over all entries (A, B, C),
                     which is smaller by a factor C for rows and N for columns
    beta             2 (A) or 1 (B, C)

Presets: clkd is the default, chosen here by validation accuracy on CIFAR-100, resnet56-resnet8 (docs/clkd.md): lambda
1, mu 10, beta 2, nu 1, and G of rows of length 1, uncentered, divided by N − 1, with L_cc not reduced. clkd_letter is
the reading in which all four terms matter with the weights of A and B. clkd_a1 and clkd_a2 are the two variants of A;
clkd_b is that of B; clkd_r1 takes G as the textbook covariance with the classes as observations (instance, centered
over the classes). On synthetic logits L_cc is practically zero under clkd_a2 and clkd_b.

Later evidence, none of it from the authors: a third party's log of A1 (one run each, weight decay 1e-4) ends below
the student alone on resnet32x4-resnet8x4; a public rerun of A2 (one run each, other augmentation and learning rate)
puts CLKD below KD on six pairs and below the student alone on two of them. So the readings with NMSE averaged over
entries do not do what the abstract claims.
"""
