"""Wide residual networks (1605.07146), pre-activation. Names and numerics as in RepDistiller's `models/wrn.py`."""

import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.networks.base import Network
from benchmark.networks.layers import conv, init_by_width


class Block(nn.Module):
    """Batch norm, ReLU and convolution, twice; where the width changes, a convolutional shortcut starts after the first
    ReLU."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv1 = conv(width_in, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3)
        self.convShortcut = conv(width_in, width, 1, stride) if width_in != width else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class Group(nn.Module):
    """A group of `n` blocks, the first with the stride."""

    def __init__(self, n: int, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        rest = [Block(width, width, 1) for _ in range(n - 1)]
        self.layer = nn.Sequential(Block(width_in, width, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(Network):
    """wrn<depth>_<width>: three groups of (depth − 4) / 6 blocks with widths 16, 32, 64 times `width`.

    Maps are the outputs of stem and groups, before the batch norm and ReLU that follow. A stage's pre-activation is its
    map after that batch norm.
    """

    stages = 4

    def __init__(self, depth: int, width: int, classes: int) -> None:
        super().__init__()
        n = (depth - 4) // 6
        self.conv1 = conv(3, 16, 3)
        self.block1 = Group(n, 16, 16 * width, 1)
        self.block2 = Group(n, 16 * width, 32 * width, 2)
        self.block3 = Group(n, 32 * width, 64 * width, 2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, classes)
        init_by_width(self)

    def stage(self, k: int, x: Tensor, pre_activation: bool) -> tuple[Tensor, Tensor | None]:
        x = self.conv1(x) if k == 0 else getattr(self, f"block{k}")(x)
        if not pre_activation:
            return x, None
        return x, _apply_batch_norm(self.batch_norm(k), x)

    def batch_norm(self, k: int) -> nn.BatchNorm2d:
        return self.bn1 if k == 3 else getattr(self, f"block{k + 1}").layer[0].bn1

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(x))

    @property
    def head(self) -> nn.Linear:
        return self.fc


def _apply_batch_norm(bn: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Apply `bn` in its mode without updating its running statistics; the forward pass of the next stage does that."""
    if bn.training:
        return F.batch_norm(x, None, None, bn.weight, bn.bias, training=True, eps=bn.eps)
    return F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, training=False, eps=bn.eps)
