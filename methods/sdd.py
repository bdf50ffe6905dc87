"""SDD: Wei, Luo, Luo, "Scale Decoupled Distillation", CVPR 2024, arXiv 2403.13512.

    SD-KD:   L = ce_weight · CE(z_s, y) + r · kd_weight · D_kd
    SD-DKD:  L = ce_weight · CE(z_s, y) + r · (alpha · D_tckd + beta · D_nckd)

    D = 1 / (N R) · Σ_{i,m} w_im · d(z_s,im, z_t,im),    r = min(epoch / warmup, 1), epoch from 1

z_im: the logits of region m of sample i, the mean of its class activation maps over the region; y: labels [N]. The R
regions are the whole image (its logits are the network's), with `pool_2` the 2 × 2 and with `pool_4` the 4 × 4 cells.
d: the sample's T² · KL of KD, or TCKD and NCKD of DKD (see `methods/kd.py`, `methods/dkd.py`). w is `complementary`
where the teacher is right on the region and wrong on the whole image, or vice versa, else 1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.contract import Batch, Context, Method, Needs, Outputs, Requirements, Shapes, Term
from methods.losses import binary_logits, cross_entropy_term, kl_per_sample, non_target_logits, warmup_ramp
from methods.options import boolean, loss_weight, non_negative, one_of, positive


def regional_logits(outputs: Outputs, grids: list[int]) -> Tensor:
    """Return the logits [N, R, C] of all regions: the whole image, then the cells of each grid, row by row."""
    cells = [outputs.class_maps[m].flatten(2).mT for m in grids]
    return torch.cat([outputs.logits[:, None], *cells], 1)


def region_weights(teacher: Tensor, labels: Tensor, complementary: float) -> Tensor:
    """Return w from the teacher's logits of all regions, the whole image first: [N, R, C], [N] -> [N, R]."""
    right = teacher.argmax(2) == labels[:, None]
    return torch.where(right == right[:, :1], 1.0, complementary)


def row_losses(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, loss: str) -> dict[str, Tensor]:
    """Return d of each row by term name: [M, C], [M, C], [M] -> [M] each."""
    student, teacher = student / temperature, teacher / temperature
    if loss == "kd":
        return {"kd": temperature**2 * kl_per_sample(student, teacher)}
    return {
        "tckd": temperature**2 * kl_per_sample(binary_logits(student, labels), binary_logits(teacher, labels)),
        "nckd": temperature**2 * kl_per_sample(non_target_logits(student, labels), non_target_logits(teacher, labels)),
    }


@dataclass
class SDDOptions:
    """Options of SDD; meanings and defaults in `conf/method/sdd.yaml`."""

    loss: str = one_of("kd", "dkd")
    temperature: float = positive()
    ce_weight: float = loss_weight()
    kd_weight: float = loss_weight()
    alpha: float = loss_weight()
    beta: float = loss_weight()
    complementary: float = non_negative()
    pool_2: bool = boolean()
    pool_4: bool = boolean()
    warmup: float = non_negative()


def grid_sizes(options: SDDOptions) -> list[int]:
    """Return the sizes m of the m × m grids of cells."""
    return [2] * options.pool_2 + [4] * options.pool_4


class SDD(Method):
    """KD or DKD of regions. Terms: ce, and kd or tckd, nckd. Reads both networks' logits and class activation maps."""

    Options = SDDOptions
    mixing_conflict = "it compares the teacher's predictions of regions with the label, and a region shows one of two"

    @classmethod
    def requirements(cls, options: SDDOptions, student: Shapes, teacher: Shapes) -> Requirements:
        needs = Needs(logits=True, class_maps=grid_sizes(options))
        return Requirements(needs, needs)

    def __init__(self, options: SDDOptions, context: Context) -> None:
        super().__init__(options, context)
        self.grids = grid_sizes(options)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options = self.options
        ramp = warmup_ramp(batch.epoch, options.warmup)
        z_s, z_t = regional_logits(student, self.grids), regional_logits(teacher, self.grids)
        w = region_weights(z_t, batch.labels, options.complementary).flatten()
        labels = batch.labels.repeat_interleave(z_t.shape[1])
        losses = row_losses(z_s.flatten(0, 1), z_t.flatten(0, 1), labels, options.temperature, options.loss)
        term_weights = {"kd": options.kd_weight, "tckd": options.alpha, "nckd": options.beta}
        return {
            "ce": cross_entropy_term(student, batch, options.ce_weight),
            **{name: Term((w * d).mean(), ramp * term_weights[name]) for name, d in losses.items()},
        }


PROVENANCE = """
Certain: formula, complementary 2, and the regions: 2 × 2 for pairs of like architecture, 4 × 4 too for unlike ones.

Uncertain: the weights, which by the paper are those of KD and DKD (0.1 and 0.9; 1, alpha 1 and beta of each pair).

Source: SDD-CVPR2024 (`mdistiller/distillers/KD.py`, `SDD_DKD.py`, `models/cifar/utils.py`, the scripts `teacher_*.sh`)
and the paper's section 4.1. Where these differ, the code is followed, which made the numbers:
    the paper sums over the regions, the code takes their mean;
    for the paper a region is complementary where its class differs from that of the whole, for the code where exactly
    one of the two is the label;
    the paper warms up over 30 epochs in all cases, the code SD-KD not at all and SD-DKD over 20.

Differences: there is no form for the published SD-NKD: its code keeps the target among the non-target classes (see
`methods/nkd.py`). The published trainer also clips the gradient's norm at 40; here none is clipped.
"""
