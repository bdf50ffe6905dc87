"""MobileNetV2 (1801.04381) at half width for 32-px images, with ReLU instead of ReLU6.

Names and numerics as in RepDistiller's `models/mobilenetv2.py` (there `mobile_half`, expansion 6, width 0.5).
"""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.networks.base import Network
from benchmark.networks.layers import conv, init_by_width

GROUPS = (  # expansion, width at full scale, blocks, stride; unlike on ImageNet the second group keeps the size
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STAGES = ((), (0, 1), (2,), (3, 4), (5, 6))  # groups of each stage
POOLED = 1280


class InvertedResidual(nn.Module):
    """1×1 expansion, 3×3 depthwise, 1×1 linear projection; the input is added where the shape is unchanged."""

    def __init__(self, width_in: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width_in * expansion
        self.residual = stride == 1 and width_in == width
        self.conv = nn.Sequential(
            conv(width_in, inner, 1),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            conv(inner, inner, 3, stride, groups=inner),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            conv(inner, width, 1),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(Network):
    """The network with a stem of stride 2; maps are read after the stem's ReLU and after groups 1, 2, 4 and 6.

    These groups end without activation, so their pre-activation is the map itself.
    """

    stages = 5

    def __init__(self, classes: int) -> None:
        super().__init__()
        width_in = 16
        self.conv1 = nn.Sequential(conv(3, width_in, 3, 2), nn.BatchNorm2d(width_in), nn.ReLU())
        self.blocks = nn.ModuleList()
        for expansion, full_width, n, stride in GROUPS:
            width = full_width // 2
            group = []
            for i in range(n):
                group.append(InvertedResidual(width_in, width, stride if i == 0 else 1, expansion))
                width_in = width
            self.blocks.append(nn.Sequential(*group))
        self.conv2 = nn.Sequential(conv(width_in, POOLED, 1), nn.BatchNorm2d(POOLED), nn.ReLU())
        self.classifier = nn.Sequential(nn.Linear(POOLED, classes))
        init_by_width(self)
        nn.init.normal_(self.head.weight, 0.0, 0.01)

    def stage(self, k: int, x: Tensor, pre_activation: bool) -> tuple[Tensor, Tensor | None]:
        if k == 0:
            before = self.conv1[1](self.conv1[0](x))
            return F.relu(before), before if pre_activation else None
        for group in STAGES[k]:
            x = self.blocks[group](x)
        return x, x if pre_activation else None

    def features(self, x: Tensor) -> Tensor:
        return self.conv2(x)

    @property
    def head(self) -> nn.Linear:
        return cast(nn.Linear, self.classifier[0])
