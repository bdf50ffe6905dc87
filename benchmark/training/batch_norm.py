"""Batch norm over the parts of a batch that several processes hold, with the statistics of the whole batch.

torch's SyncBatchNorm runs on GPUs only and replaces modules. Here the function that all batch norm layers call is
intercepted, so that networks and their states stay as they are, whatever classes their layers have.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Exchange = Callable[[Tensor], Tensor]  # [D] of this process -> [P, D] of all P processes, in their order


class WholeBatchStatistics(TorchFunctionMode):
    """Within this context, batch norm in training mode normalizes by the statistics of the parts of all processes.

    exchange: gathers a vector of every process. All processes must run the same layers in the same order.
    """

    def __init__(self, exchange: Exchange) -> None:
        super().__init__()
        self._exchange = exchange

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.batch_norm:
            return batch_norm(self._exchange, *args, **kwargs)
        return func(*args, **kwargs)


def batch_norm(
    exchange: Exchange, x: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
    weight: Tensor | None = None, bias: Tensor | None = None, training: bool = False, momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """Normalize this process's part `x` [n, C, …] of a batch, as `torch.nn.functional.batch_norm` does the whole batch.

    The running statistics are updated by those of the whole batch, the variance being unbiased.
    """
    if not training:
        return functional.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    y, mean, unbiased = _BatchNorm.apply(x, weight, bias, eps, exchange)
    with torch.no_grad():
        for running, value in ((running_mean, mean), (running_var, unbiased)):
            if running is not None:
                running.lerp_(value.to(running.dtype), momentum)
    return y


class _BatchNorm(torch.autograd.Function):
    """Batch norm of one part of a batch: y [n, C, …], and mean and unbiased variance [C] of the whole batch.

    Statistics and gradients are computed in float32 or more. The gradients of weight and bias are those of this part,
    whose sum over the processes is the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, exchange: Exchange
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance, total = _whole_batch_statistics(x, exchange)
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(variance + eps), total)
        ctx.exchange = exchange
        unbiased = variance * (total / (total - 1))
        ctx.mark_non_differentiable(mean, unbiased)
        return functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), mean, unbiased

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse_std, total = ctx.saved_tensors
        dims, channels = _dims(x), x.shape[1]
        gradient, centered = _full(gradient), _full(x) - _per_channel(mean, x)
        sums = torch.cat([gradient.sum(dims), (gradient * centered).sum(dims)])
        mean_gradient, slope = (ctx.exchange(sums).sum(0) / total).split(channels)
        gradient_x = gradient - _per_channel(mean_gradient, x) - centered * _per_channel(slope * inverse_std**2, x)
        gradient_x *= _per_channel(inverse_std if weight is None else inverse_std * weight, x)
        if weight is None:
            return gradient_x.to(x.dtype), None, None, None, None
        gradient_bias, gradient_weight = sums[:channels], sums[channels:] * inverse_std
        return gradient_x.to(x.dtype), gradient_weight.to(weight.dtype), gradient_bias.to(weight.dtype), None, None


def _whole_batch_statistics(x: Tensor, exchange: Exchange) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean [C], biased variance [C] and number of values per channel (a scalar) of the whole batch.

    Each part's mean and variance are combined by Chan, Golub and LeVeque's formula, which has no difference of large
    numbers as the mean of squares has.
    """
    channels = x.shape[1]
    variance, mean = torch.var_mean(_full(x), _dims(x), correction=0)
    count = mean.new_full((1,), x.numel() // channels)
    means, variances, counts = exchange(torch.cat([mean, variance, count])).split([channels, channels, 1], 1)
    total = counts.sum()
    mean = (means * counts).sum(0) / total
    return mean, ((variances + (means - mean) ** 2) * counts).sum(0) / total, total


def _dims(x: Tensor) -> list[int]:
    """Return all dimensions but that of the channels."""
    return [d for d in range(x.dim()) if d != 1]


def _full(x: Tensor) -> Tensor:
    """Return a tensor of half precision in float32, any other as it is."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """Shape values [C] for arithmetic with `x` [n, C, …]."""
    return values.view(1, -1, *[1] * (x.dim() - 2))
