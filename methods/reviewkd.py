"""ReviewKD: Chen, Liu, Zhao, Jia, "Distilling Knowledge via Knowledge Review", CVPR 2021, arXiv 2104.09044.

    L = ce_weight · CE(z_s, y) + r · reviewkd_weight · Σ_k HCL(o_k, f_t,k),    r = min(epoch / warmup, 1), epoch from 1

    k goes over the stages but the stem and, last, the pooled features as a map of 1 × 1. From the last to the first
        x_k = f_s,k by a 1×1 convolution to m channels and batch norm
        x_k = a x_k + b u_k,  (a, b) = sigmoid(1×1 convolution of (x_k, u_k)),  u_k = x_k+1 at x_k's size (not the last)
        o_k = x_k, at f_t,k's size, by a 3×3 convolution to f_t,k's channels and batch norm
    HCL(o, f) = Σ_l w_l · mean((o_l − f_l)²) / Σ_l w_l:  the maps themselves with w = 1, and average-pooled to
        l = 4, 2, 1 positions per side, where that is smaller, with w = 1/2, 1/4, 1/8

z_s: logits [N, C]; y: labels [N]; f_s,k: the student's maps after the last activation; f_t,k: the teacher's before it;
m: width of the student's pooled features, at most 512. Maps are resized to the nearest neighbor; x_k is passed on in
the teacher's size. The first two layers are the paper's attention based fusion (ABF), HCL its hierarchical context
loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.contract import Batch, Context, Method, Needs, Outputs, Requirements, Shapes, Term
from methods.losses import cross_entropy_term, last_stages, mse, total, warmup_ramp
from methods.options import loss_weight, non_negative

MAX_WIDTH = 512
POOL_SIZES = (4, 2, 1)


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that uses its running statistics where a channel has a single value, which has no variance."""

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() > x.shape[1]:
            return super().forward(x)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def convolution(width_in: int, width_out: int, kernel: int) -> nn.Sequential:
    """Build a convolution that keeps the map's size, without bias, and batch norm."""
    conv = nn.Conv2d(width_in, width_out, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return nn.Sequential(conv, BatchNorm(width_out))


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize a map to the nearest neighbor: [N, C, H, W] -> [N, C, *size]."""
    return maps if maps.shape[2:] == tuple(size) else F.interpolate(maps, tuple(size), mode="nearest")


class Fusion(nn.Module):
    """Fusion of one stage of the student with the fused map of the next stage (ABF); the last stage has none."""

    def __init__(self, width_in: int, middle: int, width_out: int, last: bool) -> None:
        super().__init__()
        self.enter = convolution(width_in, middle, 1)
        self.attention = None if last else nn.Conv2d(2 * middle, 2, 1)
        self.leave = convolution(middle, width_out, 3)

    def forward(self, student: Tensor, deeper: Tensor | None, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Fuse the student's map [N, C_s, H, W] with the fused map [N, m, H', W'] of the next stage.

        Returns the map to compare with the teacher's [N, C_t, *size], and the fused map [N, m, *size].
        """
        x = self.enter(student)
        if self.attention is not None and deeper is not None:
            deeper = resize(deeper, x.shape[2:])
            gate, deeper_gate = torch.sigmoid(self.attention(torch.cat([x, deeper], 1))).split(1, 1)
            x = gate * x + deeper_gate * deeper
        x = resize(x, size)
        return self.leave(x), x


def context_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference at full and pooled sizes (HCL): [N, C, H, W], [N, C, H, W] -> scalar."""
    loss, weight, total_weight = mse(student, teacher), 1.0, 1.0
    for size in POOL_SIZES:
        if size < student.shape[2]:
            weight /= 2
            pooled = (F.adaptive_avg_pool2d(maps, size) for maps in (student, teacher))
            loss = loss + weight * mse(*pooled)
            total_weight += weight
    return loss / total_weight


@dataclass
class ReviewKDOptions:
    """Options of ReviewKD; meanings and defaults in `conf/method/reviewkd.yaml`."""

    ce_weight: float = loss_weight()
    reviewkd_weight: float = loss_weight()
    warmup: float = non_negative()


class ReviewKD(Method):
    """Knowledge review. Terms: ce, reviewkd. Reads the student's maps and the teacher's pre-activations of all stages
    but the stem, and both pooled features; trains the fusions, which are in the order of the stages."""

    Options = ReviewKDOptions

    @classmethod
    def requirements(cls, options: ReviewKDOptions, student: Shapes, teacher: Shapes) -> Requirements:
        stages_s, stages_t = zip(*last_stages(student, teacher), strict=True)
        return Requirements(
            Needs(logits=True, pooled=True, maps=stages_s), Needs(pooled=True, pre_activations=stages_t)
        )

    def __init__(self, options: ReviewKDOptions, context: Context) -> None:
        super().__init__(options, context)
        student, teacher = context.student, context.teacher
        self.stages = last_stages(student, teacher)
        widths = [(student.stages[k][0], teacher.stages[j][0]) for k, j in self.stages]
        widths.append((student.pooled, teacher.pooled))
        middle, last = min(MAX_WIDTH, student.pooled), len(self.stages)
        self.fusions = nn.ModuleList(Fusion(w_s, middle, w_t, i == last) for i, (w_s, w_t) in enumerate(widths))

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Term]:
        options = self.options
        pairs = [(student.maps[k], teacher.pre_activations[j]) for k, j in self.stages]
        pairs.append((student.pooled[:, :, None, None], teacher.pooled[:, :, None, None]))
        context_losses, fused = [], None
        for fusion, (student_map, teacher_map) in zip(reversed(self.fusions), reversed(pairs), strict=True):
            output, fused = fusion(student_map, fused, teacher_map.shape[2:])
            context_losses.append(context_loss(output, teacher_map))
        ramp = warmup_ramp(batch.epoch, options.warmup)
        return {
            "ce": cross_entropy_term(student, batch, options.ce_weight),
            "reviewkd": Term(total(context_losses), ramp * options.reviewkd_weight),
        }


PROVENANCE = """
Certain: all of it, and the weights of the eight pairs in the authors' script. The authors count the epochs of the
warm-up from 0, mdistiller from 1, as is done here.

Uncertain: the weight of the other pairs, which is in no available code: they have mdistiller's 5.

Source: ReviewKD (`CIFAR-100/model/reviewkd.py`, `script/reviewKD.sh`), mdistiller (`distillers/ReviewKD.py`).

Differences: where one network has more stages, its first ones are left out, as the review begins with the last; the
published codes have no such pair.

Not comparable: the authors train with Nesterov momentum, batches of 128 and a rate of 0.1 (0.02 for ShuffleNet), and
with other normalization constants; and their CIFAR-100 code never puts the teacher into evaluation mode, so that its
batch norms use the statistics of each batch. Here all methods share one recipe, and every teacher is in evaluation
mode.
"""
