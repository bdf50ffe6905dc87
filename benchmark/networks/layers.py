"""Layers and initializations that several networks share."""

import math

from torch import Tensor, nn


def conv(width_in: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a convolution without bias whose padding keeps the map's size at stride 1."""
    return nn.Conv2d(width_in, width, kernel, stride, padding=kernel // 2, groups=groups, bias=False)


def projection(width_in: int, width: int, stride: int) -> nn.Sequential:
    """Return a residual block's shortcut: 1×1 convolution and batch norm where the shape changes, else identity."""
    if stride == 1 and width_in == width:
        return nn.Sequential()
    return nn.Sequential(conv(width_in, width, 1, stride), nn.BatchNorm2d(width))


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Shuffle channels (1707.01083, section 3.1): channel i of group g becomes channel g of group i. [N, C, H, W]."""
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def init_kaiming(network: nn.Module) -> None:
    """Initialize convolutions from a normal distribution with variance 2 / fan-out (1502.01852); other layers keep
    PyTorch's initialization."""
    for m in network.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")


def init_by_width(network: nn.Module) -> None:
    """Initialize convolutions from a normal distribution with variance 2 / (kernel area × output channels), and set all
    biases to zero.

    Differs from `init_kaiming` where a convolution has groups: the fan-out counts all output channels.
    """
    for m in network.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.normal_(m.weight, 0.0, math.sqrt(2 / (m.kernel_size[0] * m.kernel_size[1] * m.out_channels)))
        if isinstance(m, nn.Conv2d | nn.Linear) and m.bias is not None:
            nn.init.zeros_(m.bias)
