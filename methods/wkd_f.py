"""WKD-F: Lv, Yang, Li, "Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation", NeurIPS
2024, arXiv 2412.08139: the distillation of features.

    L = ce_weight · CE(z_s, y) + r · wkd_weight · W
    W = mean over samples and cells of mean_ratio · ‖μ_s − μ_t‖² + ‖σ_s − σ_t‖²
    r = 1 up to epoch `decay_start`, then falling along half a cosine to 0 in the last epoch

μ, σ [C_t]: mean and standard deviation, √(unbiased variance + 1e-5), of each channel over the positions of a cell, one
of grid × grid, of e(f_s) and f_t; norms over the channels. f_s, f_t: maps of student and teacher after the last stage;
e: a trained regressor to the teacher's shape (convolution, batch norm, ReLU); z_s: logits [N, C]; y: labels [N]. For
mean_ratio 1, W is the squared Wasserstein distance of Gaussians with these means and diagonal covariances.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.contract import Batch, Context, Method, Needs, Outputs, Requirements, Shapes, Term
from methods.fitnet import Regressor
from methods.losses import check_resizable, cosine_decay, cross_entropy_term
from methods.options import integer, loss_weight, non_negative

EPS = 1e-5


def cell_moments(maps: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel in each cell: [N, C, H, W] -> [grid², N, C] each.

    Where the cells do not divide the map they overlap, as those of adaptive pooling. The variance of a single position
    is 0.
    """
    rows, columns = (
        [slice(i * size // grid, math.ceil((i + 1) * size / grid)) for i in range(grid)] for size in maps.shape[2:]
    )
    means, deviations = [], []
    for cell in (maps[:, :, row, column].flatten(2) for row in rows for column in columns):
        mean = cell.mean(2, keepdim=True)
        variance = (cell - mean).square().sum(2) / max(cell.shape[2] - 1, 1)
        means.append(mean[:, :, 0])
        deviations.append((variance + EPS).sqrt())
    return torch.stack(means), torch.stack(deviations)


def gaussian_distance(student: Tensor, teacher: Tensor, grid: int, mean_ratio: float) -> Tensor:
    """W of maps of one shape: [N, C, H, W], [N, C, H, W] -> scalar."""
    (mean_s, deviation_s), (mean_t, deviation_t) = cell_moments(student, grid), cell_moments(teacher, grid)
    squared = mean_ratio * (mean_s - mean_t).square() + (deviation_s - deviation_t).square()
    return squared.sum(2).mean()


@dataclass
class WKDFOptions:
    """Options of WKD-F; meanings and defaults in `conf/method/wkd_f.yaml`."""

    ce_weight: float = loss_weight()
    wkd_weight: float = loss_weight()
    mean_ratio: float = non_negative()
    grid: int = integer(1)
    decay_start: float = non_negative()


class WKDF(Method):
    """Wasserstein distance of features. Terms: ce, moments. Reads both networks' map after the last stage; trains the
    regressor."""

    Options = WKDFOptions

    @classmethod
    def requirements(cls, options: WKDFOptions, student: Shapes, teacher: Shapes) -> Requirements:
        check_resizable(student.final_map, teacher.final_map)
        return Requirements(Needs(logits=True, maps=[student.final_stage]), Needs(maps=[teacher.final_stage]))

    def __init__(self, options: WKDFOptions, context: Context) -> None:
        super().__init__(options, context)
        self.regressor = Regressor(context.student.final_map, context.teacher.final_map)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options, context = self.options, self.context
        regressed = self.regressor(student.maps[context.student.final_stage])
        target = teacher.maps[context.teacher.final_stage]
        decay = cosine_decay(batch.epoch, options.decay_start, context.epochs)
        return {
            "ce": cross_entropy_term(student, batch, options.ce_weight),
            "moments": Term(
                gaussian_distance(regressed, target, options.grid, options.mean_ratio), decay * options.wkd_weight
            ),
        }


PROVENANCE = """
Certain: the published code: formula, decay after epoch 150 of 240; weight 0.08, mean_ratio 4, grid 1, the last stage
and the 1 × 1 regressor for resnet32x4-resnet8x4. For ImageNet mean_ratio is 2, grid 4, the weight beside WKD-L 1, and
the regressor a bottleneck of 256 channels, which is not implemented here.

Uncertain: the weight of all other pairs, which have that of resnet32x4-resnet8x4; and the weights of both parts of
WKD-LF, which have those of WKD-L and WKD-F alone.

Source: WKD 214cf88 (`mdistiller/distillers/WKD.py`, `_common.py`: ConvReg).

Differences: the variance of a map of one position is 0, where the published code divides by 0.
"""
