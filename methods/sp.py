"""SP: Tung, Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019, arXiv 1907.09682.

    L = ce_weight · CE(z_s, y) + sp_weight · ‖G_s − G_t‖_F² / N²

    G = F Fᵀ with rows scaled to length 1: [N, N],    F [N, C · H · W]: the flattened map after the last stage

z_s: logits [N, C]; y: labels [N]. The two maps may differ in channels and size.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from methods.contract import Batch, Method, Needs, Outputs, Requirements, Shapes, Term
from methods.losses import cross_entropy_term, normalize_rows
from methods.options import loss_weight


def similarity(maps: Tensor) -> Tensor:
    """Return G, the similarities of the batch's samples: [N, C, H, W] -> [N, N], rows of length 1."""
    rows = maps.flatten(1)
    return normalize_rows(rows @ rows.T)


def similarity_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the similarities: [N, C_s, H_s, W_s], [N, C_t, H_t, W_t] -> scalar."""
    return F.mse_loss(similarity(student), similarity(teacher))


@dataclass
class SPOptions:
    """Options of SP; meanings and defaults in `conf/method/sp.yaml`."""

    ce_weight: float = loss_weight()
    sp_weight: float = loss_weight()


class SP(Method):
    """Similarity-preserving distillation. Terms: ce, sp. Reads both networks' map after the last stage."""

    Options = SPOptions

    @classmethod
    def requirements(cls, options: SPOptions, student: Shapes, teacher: Shapes) -> Requirements:
        return Requirements(Needs(logits=True, maps=[student.final_stage]), Needs(maps=[teacher.final_stage]))

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        final_s, final_t = self.context.student.final_stage, self.context.teacher.final_stage
        distance = similarity_distance(student.maps[final_s], teacher.maps[final_t])
        return {
            "ce": cross_entropy_term(student, batch, self.options.ce_weight),
            "sp": Term(distance, self.options.sp_weight),
        }


PROVENANCE = """
Certain: all of it; paper and code agree.

Source: RepDistiller (`distiller_zoo/SP.py`, "verified by original author": `-a 0 -b 3000`), mdistiller.
"""
