"""CSKD: Ham, Kim, Lee, Lee, Kim, "Cosine Similarity Knowledge Distillation for Individual Class Information Transfer",
arXiv 2311.14307.

    L = ce_weight · (CE(z_s, y) + CE(z'_s, y)) + cs_weight · D(temperature) + cswt_weight · D(τ)

    D(T) = 2 · mean_i(T_i)² · (1 − mean_j cos(p_s,·j, p_t,·j)),    p_i = softmax(z'_i / T_i)
    τ_i = lowest + (highest − lowest) · (c_max − c_i) / (c_max − c_min),    c_i = cos(softmax(z_s,i), softmax(z_t,i))
    cos(a, b) = a · b / (‖a‖ ‖b‖ + 1e-8)

z: logits [N, C] for the weak view, z' for the strong view; y: labels [N]. D compares the columns, which are the
probabilities [N] of one class for all samples of the batch. τ is the cosine similarity weighted temperature (CSWT): the
sample on whose weak view the networks agree most has the lowest temperature, the one on which they agree least the
highest. It has no gradient. Where the networks agree equally on all samples, all have the lowest temperature.

This is the core of CSKD: the paper's full text was not available. See PROVENANCE, below the code.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.contract import Batch, Method, Outputs, Requirements, Shapes, Term
from methods.options import loss_weight, positive

EPSILON = 1e-8


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarity of rows: [M, D], [M, D] -> [M]."""
    lengths = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return (a * b).sum(1) / (lengths + EPSILON)


def class_distance(student: Tensor, teacher: Tensor, temperatures: Tensor) -> Tensor:
    """D of logits with one temperature per sample: [N, C], [N, C], [N] -> scalar."""
    p_s, p_t = (F.softmax(z / temperatures[:, None], 1) for z in (student, teacher))
    return 2 * temperatures.mean() ** 2 * (1 - cosine(p_s.T, p_t.T).mean())


def similarity_temperatures(student: Tensor, teacher: Tensor, lowest: float, highest: float) -> Tensor:
    """τ of the weak view's logits: [N, C], [N, C] -> [N], without gradient."""
    similarity = cosine(F.softmax(student.detach(), 1), F.softmax(teacher, 1))
    gap = similarity.amax() - similarity
    largest_gap = gap.amax()
    return lowest + (highest - lowest) * gap / torch.where(largest_gap > 0, largest_gap, 1.0)


@dataclass
class CSKDOptions:
    """Options of CSKD; meanings and defaults in `conf/method/cskd.yaml`."""

    temperature: float = positive()
    lowest: float = positive()
    highest: float = positive()
    ce_weight: float = loss_weight()
    cs_weight: float = loss_weight()
    cswt_weight: float = loss_weight()


class CSKD(Method):
    """Cosine similarity of each class's predictions. Terms: ce, cs, cswt. Reads the teacher's logits for two views."""

    Options = CSKDOptions
    views = 2

    @classmethod
    def requirements(cls, options: CSKDOptions, student: Shapes, teacher: Shapes) -> Requirements:
        if options.highest < options.lowest:
            raise ValueError(f"highest is {options.highest}: it must be at least lowest, {options.lowest}")
        return super().requirements(options, student, teacher)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options, targets = self.options, batch.class_targets
        z_s, z_t = student.view(1).logits, teacher.view(1).logits
        fixed = torch.full_like(z_s[:, 0], options.temperature)
        weighted = similarity_temperatures(student.logits, teacher.logits, options.lowest, options.highest)
        return {
            "ce": Term(F.cross_entropy(student.logits, targets) + F.cross_entropy(z_s, targets), options.ce_weight),
            "cs": Term(class_distance(z_s, z_t, fixed), options.cs_weight),
            "cswt": Term(class_distance(z_s, z_t, weighted), options.cswt_weight),
        }


PROVENANCE = """
Certain, from the abstract: the cosine similarity of the batch's predictions of each class, and temperatures that fall
as the similarity rises.

From the code of one repository, likely but not certainly the authors': all of the above, temperature 4, lowest 2,
highest 6, all weights 1, two views.

Uncertain: the paper's own total loss. That code adds, on the weak view, about half of D(temperature) + D(τ), and about
half of the same cosine distance of the rows of P Pᵀ and of Pᵀ P at both temperatures, scaled by masks as in MLLD (see
`methods/mlld.py`). These may belong to a combination with MLLD, and are left out. So no published number belongs
to this core.

Source: `llieeai/lud` (`mdistiller/distillers/CSKD.py`, `engine/cfg.py`).

Not comparable at equal cost: each step runs both networks on two views, and that code trains for 480 epochs at an
initial rate of 0.025, or 0.01 for the light students.
"""
