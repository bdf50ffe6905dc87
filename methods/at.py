"""AT: Zagoruyko, Komodakis, "Paying More Attention to Attention: Improving the Performance of Convolutional Neural
Networks via Attention Transfer", ICLR 2017, arXiv 1612.03928.

    L = ce_weight · CE(z_s, y) + at_weight · Σ_k mean((A(f_s,k) − A(f_t,k))²)

    A(f) = unit(mean over channels of f²), flattened: [N, C, H, W] -> [N, H · W]

z_s: logits [N, C]; y: labels [N]; f_s,k and f_t,k: maps of student and teacher after stage k, for every stage but the
stem, the larger average-pooled to the smaller's size; mean over samples and positions. Where one network has more
stages, its last ones are left out.

Certain: all of it, as the field runs it. The paper writes the length of the difference, not the mean of its square,
and scales beta = 1000 by the size of map and batch, which the mean does here. Source: RepDistiller
(`distiller_zoo/AT.py`: `-a 0 -b 1000`); mdistiller (`distillers/AT.py`) agrees. Attention of a length
below 1e-8 is left as it is; there the limit is 1e-12.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from methods.clkd import unit
from methods.contract import Batch, Context, Method, Needs, Outputs, Term, weight


def groups(context: Context) -> list[int]:
    """The stages that both networks have, without the stem."""
    return list(range(1, min(len(context.student.stages), len(context.teacher.stages))))


def same_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps [N, C, H, W], the larger average-pooled to the smaller's size."""
    if a.shape[2] > b.shape[2]:
        return F.adaptive_avg_pool2d(a, b.shape[2:]), b
    if a.shape[2] < b.shape[2]:
        return a, F.adaptive_avg_pool2d(b, a.shape[2:])
    return a, b


def doubled(products: Tensor) -> Tensor:
    """Products of something, detached, with itself as they would be were it not detached.

    The gradient through both factors is twice that through one, and costs half of it.
    """
    return 2 * products - products.detach()


def attention(maps: Tensor) -> Tensor:
    """Where a map is large, as one vector of length 1: [N, C, H, W] -> [N, H · W]."""
    return unit(doubled((maps.detach() * maps).mean(1)).flatten(1))


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of attention: [N, C_s, H_s, W_s], [N, C_t, H_t, W_t] -> scalar."""
    student, teacher = same_size(student, teacher)
    return F.mse_loss(attention(student), attention(teacher))


@dataclass
class Options:
    """Options of AT; meanings and defaults in `conf/method/at.yaml`."""

    ce_weight: float = weight()
    at_weight: float = weight()


class AT(Method):
    """Attention transfer. Terms: ce, at. Needs both networks' maps after all stages but the stem."""

    Options = Options

    def __init__(self, options: Options, context: Context) -> None:
        super().__init__(options, context)
        self.stages = groups(context)
        self.student_needs = Needs.of(logits=True, maps=self.stages)
        self.teacher_needs = Needs.of(maps=self.stages)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        distance = sum(attention_distance(student.maps[k], teacher.maps[k]) for k in self.stages)
        return {
            "ce": Term(F.cross_entropy(student.logits, batch.labels), self.options.ce_weight),
            "at": Term(distance, self.options.at_weight),
        }
