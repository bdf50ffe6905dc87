"""Quick shapes of networks on the meta device, where tensors have no values."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Shape = tuple[int, ...]
Sides = Sequence[int]  # height and width, of a kernel for example


class ShapesOnly(TorchFunctionMode):
    """Replaces what takes most of the time of a build and of a forward pass on the meta device by what is quicker and
    has the same shape.

    What changes no shape is left out. The meta kernels of convolutions, pooling, sums, means and concatenations are
    written in Python and import `torch._dynamo` and sympy, which takes longer than all shapes of a large grid.
    """

    _KEEP_SHAPE = (
        nn.init.normal_, nn.init.uniform_, nn.init.kaiming_normal_, nn.init.kaiming_uniform_, Tensor.normal_,
        Tensor.uniform_, functional.batch_norm, functional.relu, torch.relu,
    )  # fmt: skip

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self._KEEP_SHAPE:
            return args[0] if args else kwargs["tensor"]
        if rule := _RULES.get(func):
            try:
                return torch.empty(rule(*args, **kwargs), device="meta")
            except TypeError:  # called in a way that the networks do not use: torch's own kernel knows it
                pass
        return func(*args, **kwargs)


def _convolved(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sides, padding: Sides, dilation: Sides, groups: int
) -> Shape:
    """[N, C, H, W] -> [N, D, H', W']."""
    return (len(x), len(weight), *_windows(x, tuple(weight.shape[2:]), stride, padding, dilation))


def _pooled(
    x: Tensor, kernel_size: int, stride: int | None = None, padding: int = 0, dilation: int = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Shape:  # fmt: skip
    """[N, C, H, W] -> [N, C, H', W']. Without a stride, windows lie side by side."""
    sides = (kernel_size, stride or kernel_size, padding, dilation)
    if ceil_mode or return_indices or not all(isinstance(n, int) for n in sides):
        raise TypeError("not a square window")
    return (*x.shape[:2], *_windows(x, *((n, n) for n in sides)))


def _windows(x: Tensor, kernel: Sides, stride: Sides, padding: Sides, dilation: Sides) -> Shape:
    """Return in how many places a kernel fits along height and width."""
    sides = zip(x.shape[2:], kernel, stride, padding, dilation, strict=True)
    return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sides)


def _sum_shape(a: Tensor, b: Tensor) -> Shape:
    if not isinstance(b, Tensor) or a.shape != b.shape:
        raise TypeError("broadcast")
    return tuple(a.shape)


def _mean_shape(x: Tensor, dims: Sequence[int]) -> Shape:
    return tuple(n for k, n in enumerate(x.shape) if k not in dims)


def _concatenated(tensors: Sequence[Tensor], dim: int) -> Shape:
    shape = list(tensors[0].shape)
    shape[dim] = sum(t.shape[dim] for t in tensors)
    return tuple(shape)


_RULES: dict[Any, Callable[..., Shape]] = {
    torch.conv2d: _convolved,
    functional.max_pool2d: _pooled,
    functional.avg_pool2d: _pooled,
    Tensor.add: _sum_shape,
    Tensor.mean: _mean_shape,
    torch.cat: _concatenated,
}
