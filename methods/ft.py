"""FT: Kim, Park, Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer", NeurIPS 2018,
arXiv 1802.04977.

    initialization stage of `init_epochs` epochs:  L = paraphrase_weight · mean((d(e(f_t)) − f_t)²)
    training:                                      L = ce_weight · CE(z_s, y) + ft_weight · mean |A(t(f_s)) − A(e(f_t))|

    e, d: the paraphraser. e maps f_t to the teacher's factors, [N, rate · C_t, H, W], by three 3×3 convolutions, each
        with LeakyReLU (slope 0.1); d reverses it by three transposed ones. Frozen after the initialization stage.
    t: the translator, which maps f_s to the student's factors by three 3×3 convolutions with batch norm and LeakyReLU
    A(f) = normalized(mean over channels of f²), flattened: [N, C, H, W] -> [N, H · W]

z_s: logits [N, C]; y: labels [N]; f_s, f_t: maps after each network's last stage. The larger factors are average-pooled
to the size of the smaller; means over all entries. The initialization stage trains the paraphraser alone.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.contract import (
    Batch,
    Context,
    Initialization,
    Method,
    Needs,
    Outputs,
    Requirements,
    Shapes,
    Term,
    UnsupportedPair,
)
from methods.losses import attention, cross_entropy_term, mse, pool_to_smaller
from methods.options import loss_weight, non_negative, positive

SLOPE = 0.1


def conv_stack(kind: type[nn.Module], widths: list[int], batch_norm: bool) -> nn.Sequential:
    """Build 3×3 convolutions of a kind through `widths`, each with optional batch norm and LeakyReLU."""
    layers: list[nn.Module] = []
    for width_in, width in pairwise(widths):
        norms = [nn.BatchNorm2d(width)] if batch_norm else []
        layers += [kind(width_in, width, 3, padding=1), *norms, nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)


class Paraphraser(nn.Module):
    """Encoder of the teacher's map [N, C, H, W] to factors [N, K, H, W], and decoder back."""

    def __init__(self, channels: int, factors: int) -> None:
        super().__init__()
        self.encoder = conv_stack(nn.Conv2d, [channels, channels, factors, factors], batch_norm=False)
        self.decoder = conv_stack(nn.ConvTranspose2d, [factors, factors, channels, channels], batch_norm=False)


def factor_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of the attention of factors: [N, K, H_s, W_s], [N, K, H_t, W_t] -> scalar."""
    student, teacher = pool_to_smaller(student, teacher)
    return F.l1_loss(attention(student), attention(teacher))


@dataclass
class FTOptions:
    """Options of FT; meanings and defaults in `conf/method/ft.yaml`."""

    ce_weight: float = loss_weight()
    ft_weight: float = loss_weight()
    paraphrase_weight: float = loss_weight()
    rate: float = positive()
    init_epochs: float = non_negative()


class FT(Method):
    """Factor transfer. Terms: paraphrase in the initialization stage, then ce, ft.

    Reads both networks' map after their last stage. Trains the paraphraser in the initialization stage, then the
    translator.
    """

    Options = FTOptions

    @classmethod
    def requirements(cls, options: FTOptions, student: Shapes, teacher: Shapes) -> Requirements:
        channels = teacher.final_map[0]
        if int(options.rate * channels) < 1:
            raise ValueError(f"rate is {options.rate}: no factor is left of the teacher's {channels} channels")
        if (1, 1) in (student.final_map[1:], teacher.final_map[1:]):
            raise UnsupportedPair(
                "FT compares where in a map factors are large, but a last map here has a single position"
            )
        needs = Needs(logits=True, maps=[student.final_stage]), Needs(maps=[teacher.final_stage])
        return Requirements(*needs, initialization=Initialization(math.ceil(options.init_epochs), *needs))

    def __init__(self, options: FTOptions, context: Context) -> None:
        super().__init__(options, context)
        channels_s, channels_t = context.student.final_map[0], context.teacher.final_map[0]
        factors = int(options.rate * channels_t)
        self.paraphraser = Paraphraser(channels_t, factors)
        self.translator = conv_stack(nn.Conv2d, [channels_s, channels_s, factors, factors], batch_norm=True)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options, teacher_map = self.options, teacher.maps[self.context.teacher.final_stage]
        if batch.epoch < 1:
            reconstructed = self.paraphraser.decoder(self.paraphraser.encoder(teacher_map))
            return {"paraphrase": Term(mse(reconstructed, teacher_map), options.paraphrase_weight)}
        with torch.no_grad():
            factors = self.paraphraser.encoder(teacher_map)
        student_map = student.maps[self.context.student.final_stage]
        distance = factor_distance(self.translator(student_map), factors)
        return {
            "ce": cross_entropy_term(student, batch, options.ce_weight),
            "ft": Term(distance, options.ft_weight),
        }


PROVENANCE = """
Certain: all of it, as the field runs it. The paper itself compares the factors entry by entry, without A (not
verified).

Source: RepDistiller (`distiller_zoo/FT.py`, `models/util.py`, `helper/pretrain.py`: `-a 0 -b 200`,
`--init_epochs 30`).

Differences, both in the initialization stage: its learning rate is that of the first epoch, while the published code
takes 0.01 for students of the resnet and wrn families (0.05 in the recipe); and the student, though not trained, is in
training mode, so that the running statistics of its batch norms change, until the first epoch replaces them.

Unsupported: a last map of a single position (MobileNetV2 on images of 16 px), where A is 1 whatever the factors.
"""
