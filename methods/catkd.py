"""CAT-KD: Guo, Yan, Li, Lin, "Class Attention Transfer Based Knowledge Distillation", CVPR 2023, arXiv 2304.12777.

    L = ce_weight · CE(z_s, y) + catkd_weight · mean((A(m_s) − A(m_t))²)

    A(m) = m, or with `normalise` the map of each sample and class scaled to length 1

z_s: logits [N, C]; y: labels [N]; m_s, m_t [N, C, resolution, resolution]: class activation maps of student and
teacher, average-pooled to resolution × resolution positions; mean over all entries. A class activation map is the
classifier applied to each position of the last map, so that its average over the positions is the logit.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from methods.contract import Batch, Method, Needs, Outputs, Requirements, Shapes, Term
from methods.losses import cross_entropy_term, normalize_rows
from methods.options import boolean, integer, loss_weight


def attention_distance(student: Tensor, teacher: Tensor, normalise: bool) -> Tensor:
    """Mean squared difference of class activation maps, normalized on request: 2 × [N, C, m, m] -> scalar."""
    a_s, a_t = (normalize_rows(maps.flatten(2).mT) if normalise else maps for maps in (student, teacher))
    return F.mse_loss(a_s, a_t)


@dataclass
class CATKDOptions:
    """Options of CAT-KD; meanings and defaults in `conf/method/catkd.yaml`."""

    ce_weight: float = loss_weight()
    catkd_weight: float = loss_weight()
    resolution: int = integer(1, at_most=256)
    normalise: bool = boolean()


class CATKD(Method):
    """Class attention transfer. Terms: ce, catkd. Reads both networks' class activation maps."""

    Options = CATKDOptions

    @classmethod
    def requirements(cls, options: CATKDOptions, student: Shapes, teacher: Shapes) -> Requirements:
        grid = [options.resolution]
        return Requirements(Needs(logits=True, class_maps=grid), Needs(class_maps=grid))

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options = self.options
        student_maps, teacher_maps = (outputs.class_maps[options.resolution] for outputs in (student, teacher))
        distance = attention_distance(student_maps, teacher_maps, options.normalise)
        return {
            "ce": cross_entropy_term(student, batch, options.ce_weight),
            "catkd": Term(distance, options.catkd_weight),
        }


PROVENANCE = """
Certain: all of it, and the options of the eleven pairs in the authors' configs.

Uncertain: the options of all other pairs, which are those of resnet32x4-resnet8x4. The authors recommend a weight with
which the term is between 1 and 50 after one epoch.

Source: CAT-KD (`mdistiller/distillers/CAT_KD.py`, `configs/cifar100/CAT_KD`).

Differences: the authors convert their networks to a classifier without bias. Here all networks keep theirs, so the map
of a class is higher by its bias.
"""
