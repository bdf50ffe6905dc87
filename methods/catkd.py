"""CAT-KD: Guo, Yan, Li, Lin, "Class Attention Transfer Based Knowledge Distillation", CVPR 2023, arXiv 2304.12777.

    L = ce_weight · CE(z_s, y) + catkd_weight · mean((A(m_s) − A(m_t))²)

    A(m) = m, or with `normalise` each sample's map of each class scaled to length 1

z_s: logits [N, C]; y: labels [N]; m_s, m_t [N, C, resolution, resolution]: the class activation maps of student and
teacher, average-pooled to resolution × resolution positions; such a map is the classifier on each position of the map
that is pooled, so that the average of m_s is z_s; mean over all entries.

Certain: all of it, and the options of the eleven pairs in the authors' configs. Source: CAT-KD
(`mdistiller/distillers/CAT_KD.py`, `configs/cifar100/CAT_KD`). One difference: the authors' networks are converted to
a classifier without bias, while here all networks keep theirs, and the map of a class is higher by its bias.
Uncertain: the options of the other pairs, which have those of resnet32x4-resnet8x4; the authors advise a weight by
which the term is between 1 and 50 after an epoch.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from methods.contract import Batch, Method, Needs, Outputs, Requirements, Shapes, Term
from methods.losses import cross_entropy_term, normalize_rows
from methods.options import boolean, integer, loss_weight


def attention_distance(student: Tensor, teacher: Tensor, normalise: bool) -> Tensor:
    """Mean squared difference of class activation maps, of length 1 where wanted: twice [N, C, m, m] -> scalar."""
    a_s, a_t = (normalize_rows(cams.flatten(2).mT) if normalise else cams for cams in (student, teacher))
    return F.mse_loss(a_s, a_t)


@dataclass
class Options:
    """Options of CAT-KD; meanings and defaults in `conf/method/catkd.yaml`."""

    ce_weight: float = loss_weight()
    catkd_weight: float = loss_weight()
    resolution: int = integer(1)
    normalise: bool = boolean()


class CATKD(Method):
    """Class attention transfer. Terms: ce, catkd. Needs both networks' class activation maps."""

    Options = Options

    @classmethod
    def requirements(cls, options: Options, student: Shapes, teacher: Shapes) -> Requirements:
        grid = [options.resolution]
        return Requirements(Needs(logits=True, class_maps=grid), Needs(class_maps=grid))

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        o = self.options
        distance = attention_distance(student.class_maps[o.resolution], teacher.class_maps[o.resolution], o.normalise)
        return {
            "ce": cross_entropy_term(student, batch, o.ce_weight),
            "catkd": Term(distance, o.catkd_weight),
        }
