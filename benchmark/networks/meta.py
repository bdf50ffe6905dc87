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

    What changes no shape is left out. The meta kernels of convolutions, linear layers, pooling, sums, means and
    concatenations are written in Python and import `torch._dynamo` and sympy, which takes longer than all shapes of a
    large grid. A call of a form that no rule here knows, or one that leaves no map, goes to torch's own kernel.
    """

    _KEEP_SHAPE = (
        nn.init.normal_, nn.init.uniform_, nn.init.kaiming_normal_, nn.init.kaiming_uniform_, Tensor.normal_,
        Tensor.uniform_, functional.batch_norm, functional.relu, torch.relu,
    )  # fmt: skip

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self._KEEP_SHAPE and (args or "tensor" in kwargs):
            return args[0] if args else kwargs["tensor"]
        if rule := _RULES.get(func):
            try:
                shape = rule(*args, **kwargs)
                if min(shape, default=1) > 0:
                    return torch.empty(shape, device="meta")
            except (TypeError, ValueError):  # a form of the call that the rule does not know
                pass
        return func(*args, **kwargs)


def _convolved(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sides = (1, 1), padding: Sides = (0, 0),
    dilation: Sides = (1, 1), groups: int = 1,
) -> Shape:  # fmt: skip
    """[N, C, H, W] -> [N, D, H', W']."""
    _check_maps(x, weight)
    if x.shape[1] != groups * weight.shape[1]:
        raise ValueError("another number of channels")
    return (len(x), len(weight), *_windows(x, tuple(weight.shape[2:]), stride, padding, dilation))


def _max_pooled(
    x: Tensor, kernel_size: int, stride: int | None = None, padding: int = 0, dilation: int = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Shape:  # fmt: skip
    """[N, C, H, W] -> [N, C, H', W']."""
    if return_indices:
        raise TypeError("two results")
    return _pooled(x, kernel_size, stride, padding, dilation, ceil_mode)


def _average_pooled(
    x: Tensor, kernel_size: int, stride: int | None = None, padding: int = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Shape:  # fmt: skip
    """[N, C, H, W] -> [N, C, H', W']."""
    return _pooled(x, kernel_size, stride, padding, 1, ceil_mode)


def _pooled(x: Tensor, kernel: int, stride: int | None, padding: int, dilation: int, ceil_mode: bool) -> Shape:
    """[N, C, H, W] -> [N, C, H', W']. Without a stride, windows lie side by side."""
    _check_maps(x)
    sides = (kernel, kernel if stride is None else stride, padding, dilation)
    if ceil_mode or not all(isinstance(n, int) for n in sides):
        raise TypeError("not a square window")
    return (*x.shape[:2], *_windows(x, *((n, n) for n in sides)))


def _windows(x: Tensor, kernel: Sides, stride: Sides, padding: Sides, dilation: Sides) -> Shape:
    """Return in how many places a kernel fits along height and width."""
    sides = zip(x.shape[2:], kernel, stride, padding, dilation, strict=True)
    return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sides)


def _check_maps(*tensors: Tensor) -> None:
    """Raise TypeError unless all tensors are [N, C, H, W] of the default type."""
    if any(t.ndim != 4 or t.dtype != torch.get_default_dtype() for t in tensors):
        raise TypeError("not maps")


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Shape:
    """[..., D] -> [..., C]."""
    if x.dtype != torch.get_default_dtype() or x.ndim < 2 or x.shape[-1] != weight.shape[1]:
        raise TypeError("not the input of this layer")
    return (*x.shape[:-1], len(weight))


def _sum_shape(a: Tensor, b: Tensor) -> Shape:
    if not isinstance(b, Tensor) or a.shape != b.shape:
        raise TypeError("broadcast")
    _check_maps(a, b)
    return tuple(a.shape)


def _mean_shape(x: Tensor, dims: Sequence[int]) -> Shape:
    _check_maps(x)
    averaged = {d % x.ndim for d in dims}
    return tuple(n for k, n in enumerate(x.shape) if k not in averaged)


def _concatenated(tensors: Sequence[Tensor], dim: int = 0) -> Shape:
    _check_maps(*tensors)
    shapes = [list(t.shape) for t in tensors]
    length = sum(shape.pop(dim) for shape in shapes)
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError("other sides differ")
    shapes[0].insert(dim % 4, length)
    return tuple(shapes[0])


_RULES: dict[Any, Callable[..., Shape]] = {
    torch.conv2d: _convolved,
    functional.linear: _linear,
    functional.max_pool2d: _max_pooled,
    functional.avg_pool2d: _average_pooled,
    Tensor.add: _sum_shape,
    Tensor.mean: _mean_shape,
    torch.cat: _concatenated,
}
