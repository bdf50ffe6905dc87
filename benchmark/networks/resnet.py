"""ResNets for 32-px images: the CIFAR form (1512.03385, section 4.2) and the ImageNet form with a 3×3 stem.

Names and numerics as in `models/resnet.py` and `models/resnetv2.py` of RepDistiller. Maps are read after a stage's
last ReLU, pre-activations before it.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.networks.base import Network
from benchmark.networks.layers import conv, init_kaiming, projection


class CifarBlock(nn.Module):
    """Basic block of the CIFAR form. `forward` returns the sum before the block's last ReLU."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(width_in, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = projection(width_in, width, stride)

    @property
    def last_batch_norm(self) -> nn.BatchNorm2d:
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(out)) + self.downsample(x)


class BasicBlock(nn.Module):
    """Basic block of the ImageNet form. `forward` returns the sum before the block's last ReLU."""

    expansion = 1

    def __init__(self, width_in: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(width_in, planes, 3, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv(planes, planes, 3)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = projection(width_in, planes, stride)

    @property
    def last_batch_norm(self) -> nn.BatchNorm2d:
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(out)) + self.shortcut(x)


class Bottleneck(nn.Module):
    """Bottleneck block with the stride in the 3×3 convolution. `forward` returns the sum before its last ReLU."""

    expansion = 4

    def __init__(self, width_in: int, planes: int, stride: int) -> None:
        super().__init__()
        width = planes * self.expansion
        self.conv1 = conv(width_in, planes, 1)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv(planes, planes, 3, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = conv(planes, width, 1)
        self.bn3 = nn.BatchNorm2d(width)
        self.shortcut = projection(width_in, width, stride)

    @property
    def last_batch_norm(self) -> nn.BatchNorm2d:
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return self.bn3(self.conv3(out)) + self.shortcut(x)


class _PostActivation(Network):
    """A stem of conv1 and bn1, and groups layer1, layer2, … of blocks that end in a sum and a ReLU."""

    conv1: nn.Conv2d
    bn1: nn.BatchNorm2d

    def stage(self, k: int, x: Tensor, pre_activation: bool) -> tuple[Tensor, Tensor | None]:
        if k == 0:
            before = self.bn1(self.conv1(x))
            x = F.relu(before)
        else:
            for block in getattr(self, f"layer{k}"):
                before = block(x)
                x = F.relu(before)
        return x, before if pre_activation else None

    def batch_norm(self, k: int) -> nn.BatchNorm2d:
        return self.bn1 if k == 0 else getattr(self, f"layer{k}")[-1].last_batch_norm


class CifarResNet(_PostActivation):
    """resnet<6n+2>: a stem and three groups of n blocks.

    depth: 6n+2. widths: of the stem and the groups.
    """

    stages = 4

    def __init__(self, depth: int, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        n = (depth - 2) // 6
        self.conv1 = conv(3, widths[0], 3)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = self._group(n, widths[0], widths[1], 1)
        self.layer2 = self._group(n, widths[1], widths[2], 2)
        self.layer3 = self._group(n, widths[2], widths[3], 2)
        self.fc = nn.Linear(widths[3], classes)
        init_kaiming(self)

    @staticmethod
    def _group(n: int, width_in: int, width: int, stride: int) -> nn.Sequential:
        rest = [CifarBlock(width, width, 1) for _ in range(n - 1)]
        return nn.Sequential(CifarBlock(width_in, width, stride), *rest)

    @property
    def head(self) -> nn.Linear:
        return self.fc


class ImageNetResNet(_PostActivation):
    """ResNet18, 34 (basic blocks), 50, 101 (bottlenecks) with a 3×3 stem of stride 1 and no max pooling.

    blocks: number of blocks in each of the four groups, whose planes are 64, 128, 256 and 512.
    """

    stages = 5

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], blocks: Sequence[int], classes: int) -> None:
        super().__init__()
        self.conv1 = conv(3, 64, 3)
        self.bn1 = nn.BatchNorm2d(64)
        width = 64
        for k, n in enumerate(blocks, start=1):
            planes = 64 * 2 ** (k - 1)
            group = []
            for i in range(n):
                group.append(block(width, planes, 2 if i == 0 and k > 1 else 1))
                width = planes * block.expansion
            setattr(self, f"layer{k}", nn.Sequential(*group))
        self.linear = nn.Linear(width, classes)
        init_kaiming(self)

    @property
    def head(self) -> nn.Linear:
        return self.linear
