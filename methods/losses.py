"""Loss functions and layers that two or more methods share."""

import functools
import math
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.contract import Batch, Outputs, Shapes, Term, UnsupportedPair

TINY = 1e-8  # a vector shorter than this is not normalized, so that its gradient stays finite
ROUNDING = 1e-6  # logits whose spread is below this share of their size count as equal and are only centered

# ---------------------------------------------------------------- terms


def cross_entropy_term(student: Outputs, batch: Batch, weight: float) -> Term:
    """Return the cross-entropy of the student's logits with the labels, mean over the batch, as a term."""
    return Term(F.cross_entropy(student.logits, batch.class_targets), weight)


def total(values: Iterable[Tensor]) -> Tensor:
    """Return the sum of scalars, in their order."""
    return cast(Tensor, sum(values))


def halving_total(values: Iterable[Tensor]) -> Tensor:
    """Return Σ_k v_k / 2^(K − k) of scalars v_1 … v_K: the last counts in full, each earlier one half as much."""
    return functools.reduce(lambda earlier, value: earlier / 2 + value, values)


def warmup_ramp(epoch: int, epochs: float) -> float:
    """Return the factor min(epoch / epochs, 1) of a linear warm-up, the epoch counted from 1; 1 where `epochs` is 0."""
    return min(epoch / epochs, 1.0) if epochs > 0 else 1.0


def cosine_decay(epoch: int, start: float, epochs: int) -> float:
    """Return the factor that falls from 1 in epoch `start` along half a cosine to 0 in the last of `epochs` epochs.

    It is 1 throughout where `start` is not below `epochs`.
    """
    if epoch <= start or start >= epochs:
        return 1.0
    return (1 + math.cos(math.pi * (epoch - start) / (epochs - start))) / 2


# ---------------------------------------------------------------- logits


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor) -> Tensor:
    """T² · KL(teacher ‖ student) of the softmaxes at temperature T: [N, C], [N, C] -> scalar, mean over the batch."""
    log_student = F.log_softmax(student_logits / temperature, 1)
    log_teacher = F.log_softmax(teacher_logits / temperature, 1)
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def kl_per_sample(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(teacher ‖ student) of the softmaxes of each sample: [N, C], [N, C] -> [N]."""
    log_student, log_teacher = F.log_softmax(student_logits, 1), F.log_softmax(teacher_logits, 1)
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1)


def standardize_logits(logits: Tensor) -> Tensor:
    """Shift and scale each row to mean 0 and unbiased standard deviation 1: [N, C] -> [N, C] (LSKD, see `methods.kd`).

    Adds 1e-7 to the standard deviation, as the published code does.
    """
    centered = logits - logits.mean(1, keepdim=True)
    variance = centered.square().sum(1, keepdim=True) / (logits.shape[1] - 1)
    has_spread = variance > (ROUNDING * logits.detach().abs().amax(1, keepdim=True).clamp_min(0.01)) ** 2
    return centered / torch.where(has_spread, 1e-7 + torch.where(has_spread, variance, 1.0).sqrt(), 1.0)


def non_target_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits of all classes but the label, in their order: [N, C], [N] -> [N, C − 1]."""
    others = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(logits), -1)
    return logits.gather(1, others + (others >= labels[:, None]))


def binary_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Two logits whose softmax is (p_y, 1 − p_y), p = softmax(logits): [N, C], [N] -> [N, 2]."""
    target = logits.gather(1, labels[:, None])
    others = non_target_logits(logits, labels).logsumexp(1, keepdim=True)
    return torch.cat([target, others], 1)


def share_up_to_median(values: Tensor) -> Tensor:
    """Return the share of values that are at most their median: [M] -> scalar."""
    ranked, last = values.sort().values, len(values) - 1
    median = (ranked[last // 2] + ranked[(last + 1) // 2]) / 2
    return (values <= median).to(values.dtype).mean()


# ---------------------------------------------------------------- feature maps


def shared_stages(student: Shapes, teacher: Shapes) -> list[int]:
    """Return the stages that both networks have, without the stem; where one has more, its last ones are left out.

    Raises UnsupportedPair where there are none.
    """
    return list(range(1, _common_stages(student, teacher) + 1))


def last_stages(student: Shapes, teacher: Shapes) -> list[tuple[int, int]]:
    """Return pairs of stages of student and teacher, aligned at the last, without the stems.

    Where one network has more stages its first ones are left out. Raises UnsupportedPair where no stages are common.
    """
    n = _common_stages(student, teacher)
    return [(len(student.stages) - n + i, len(teacher.stages) - n + i) for i in range(n)]


def _common_stages(student: Shapes, teacher: Shapes) -> int:
    """Return the number of stages besides the stem that both networks have. Raises UnsupportedPair for none."""
    n = min(student.final_stage, teacher.final_stage)
    if n < 1:
        raise UnsupportedPair("it reads stages after the stem, which one of the networks does not provide")
    return n


def pool_to_smaller(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two maps [N, C, H, W] to the size of the smaller."""
    if a.shape[2] > b.shape[2]:
        return F.adaptive_avg_pool2d(a, (b.shape[2], b.shape[3])), b
    if a.shape[2] < b.shape[2]:
        return a, F.adaptive_avg_pool2d(b, (a.shape[2], a.shape[3]))
    return a, b


def normalize_rows(rows: Tensor) -> Tensor:
    """Scale rows to length 1: [M, D] -> [M, D], or columns along the second dimension of [M, D, …]."""
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(length > TINY, length, 1.0)


def self_product(product: Tensor) -> Tensor:
    """Give the product of a detached tensor with itself its full gradient: same value, twice the gradient.

    The gradient through both factors is twice that through one and would cost two backward passes.
    """
    return 2 * product - product.detach()


def attention(maps: Tensor) -> Tensor:
    """Spatial attention of a map as a vector of length 1 (AT): [N, C, H, W] -> [N, H · W]."""
    return normalize_rows(self_product((maps.detach() * maps).mean(1)).flatten(1))


class SquaredSum(torch.autograd.Function):
    """Sum of squares of all entries, a scalar, whose gradient keeps the memory format of x.

    The gradient of torch's mean squared error is NCHW, with which the layers before it would be slow.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square().sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return ctx.saved_tensors[0] * (2 * gradient)


def mse(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean squared difference over all entries: [N, C, H, W], [N, C, H, W] -> scalar."""
    return SquaredSum.apply(student_map - teacher_map) / teacher_map.numel()


# ---------------------------------------------------------------- layers


def resizing_convolution(student: tuple[int, int, int], teacher: tuple[int, int, int]) -> nn.Module:
    """Build a convolution with bias from maps of shape `student` to maps of shape `teacher`, both (C, H, W).

    It halves, doubles, or trims by an unpadded kernel (1 × 1 for equal sizes). Raises UnsupportedPair for other ratios.
    """
    check_resizable(student, teacher)
    (c_s, h_s, w_s), (c_t, h_t, w_t) = student, teacher
    if (h_s, w_s) == (2 * h_t, 2 * w_t):
        return nn.Conv2d(c_s, c_t, 3, stride=2, padding=1)
    if (h_t, w_t) == (2 * h_s, 2 * w_s):
        return nn.ConvTranspose2d(c_s, c_t, 4, stride=2, padding=1)
    return nn.Conv2d(c_s, c_t, (1 + h_s - h_t, 1 + w_s - w_t))


def check_resizable(student: tuple[int, int, int], teacher: tuple[int, int, int]) -> None:
    """Raise UnsupportedPair where `resizing_convolution` cannot map one shape to the other."""
    (_, h_s, w_s), (_, h_t, w_t) = student, teacher
    if (h_t, w_t) != (2 * h_s, 2 * w_s) and (h_s < h_t or w_s < w_t):
        raise UnsupportedPair(
            f"one convolution cannot map {student} (student) to {teacher} (teacher): it halves, doubles or trims maps"
        )
