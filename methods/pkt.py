"""PKT: Passalis, Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV 2018,
arXiv 1803.10837.

    L = ce_weight · CE(z_s, y) + pkt_weight · mean(p_t · log((p_t + e) / (p_s + e))),   e = 1e-7

    p_ij = s_ij / Σ_j s_ij,   s_ij = (cos(f_i, f_j) + 1) / 2: [N, N], a sample with itself included

f [N, D]: pooled features, whose D may differ; z_s: logits [N, C]; y: labels [N]; the mean is over all N² entries, which
makes it 1/N of the mean KL divergence of the rows, hence the large weight.
"""

from dataclasses import dataclass

from torch import Tensor

from methods.contract import Batch, Method, Needs, Outputs, Term
from methods.losses import cross_entropy_term, normalize_rows
from methods.options import loss_weight

EPS = 1e-7


def affinities(rows: Tensor) -> Tensor:
    """Return the similarity of each pair of samples as probabilities: [N, D] -> [N, N], rows that sum to 1."""
    directions = normalize_rows(rows)
    similarity = (directions @ directions.T + 1).clamp_min(0) / 2  # rounding may take a cosine below -1
    return similarity / similarity.sum(1, keepdim=True)


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over the entries of p_t · log(p_t / p_s): [N, N], [N, N] -> scalar."""
    return (teacher * ((teacher + EPS) / (student + EPS)).log()).mean()


@dataclass
class PKTOptions:
    """Options of PKT; meanings and defaults in `conf/method/pkt.yaml`."""

    ce_weight: float = loss_weight()
    pkt_weight: float = loss_weight()


class PKT(Method):
    """Probabilistic knowledge transfer. Terms: ce, pkt. Reads both networks' pooled features."""

    Options = PKTOptions
    student_needs = Needs(logits=True, pooled=True)
    teacher_needs = Needs(pooled=True)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        value = divergence(affinities(student.pooled), affinities(teacher.pooled))
        return {
            "ce": cross_entropy_term(student, batch, self.options.ce_weight),
            "pkt": Term(value, self.options.pkt_weight),
        }


PROVENANCE = """
Certain: all of it, as the field runs it. The paper sums the divergence, and trains without labels.

Source: RepDistiller (`distiller_zoo/PKT.py`, after the authors' code: `-a 0 -b 30000`), mdistiller.

Differences: the code adds e to the length that it divides by; here a vector shorter than 1e-8 is not scaled instead.
"""
