"""ShuffleNet V1 (1707.01083) and V2 (1807.11164) for 32-px images, with a 1×1 stem and no max pooling.

Names and numerics as in RepDistiller's `models/ShuffleNetv1.py` and `models/ShuffleNetv2.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.networks.base import Network
from benchmark.networks.layers import conv, shuffle

STEM = 24


class UnitV1(nn.Module):
    """ShuffleNet unit: grouped 1×1, shuffle, depthwise 3×3, grouped 1×1. `forward` returns the map before its last
    ReLU.

    At stride 2 the average-pooled input is concatenated to the result, otherwise the input is added.
    """

    def __init__(self, width_in: int, width: int, stride: int, groups: int) -> None:
        super().__init__()
        inner = width // 4
        self.stride = stride
        self.groups = 1 if width_in == STEM else groups  # the stem has too few channels for groups
        self.conv1 = conv(width_in, inner, 1, groups=self.groups)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv(inner, inner, 3, stride, groups=inner)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv(inner, width, 1, groups=groups)
        self.bn3 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        out = shuffle(F.relu(self.bn1(self.conv1(x))), self.groups)
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.stride == 1:
            return out + x
        return torch.cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], 1)


class ShuffleV1(Network):
    """ShuffleNet V1: groups of 4, 8 and 4 units with 240, 480 and 960 channels, and 3 convolution groups."""

    stages = 4

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = conv(3, STEM, 1)
        self.bn1 = nn.BatchNorm2d(STEM)
        width_in = STEM
        for k, (n, width) in enumerate(((4, 240), (8, 480), (4, 960)), start=1):
            rest = [UnitV1(width, width, 1, 3) for _ in range(n - 1)]
            setattr(self, f"layer{k}", nn.Sequential(UnitV1(width_in, width - width_in, 2, 3), *rest))
            width_in = width
        self.linear = nn.Linear(width_in, classes)

    def stage(self, k: int, x: Tensor, pre_activation: bool) -> tuple[Tensor, Tensor | None]:
        if k == 0:
            before = self.bn1(self.conv1(x))
            x = F.relu(before)
        else:
            for unit in getattr(self, f"layer{k}"):
                before = unit(x)
                x = F.relu(before)
        return x, before if pre_activation else None

    @property
    def head(self) -> nn.Linear:
        return self.linear


class UnitV2(nn.Module):
    """V2 unit of stride 1. `forward` returns the identity half, and the convolved half before its last ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = conv(half, half, 1)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = conv(half, half, 3, groups=half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv(half, half, 1)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        identity, out = x.chunk(2, 1)
        out = F.relu(self.bn1(self.conv1(out)))
        return identity, self.bn3(self.conv3(self.bn2(self.conv2(out))))


class DownV2(nn.Module):
    """V2 unit of stride 2: two branches on the whole input, each producing half of the channels."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = conv(width_in, width_in, 3, 2, groups=width_in)
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv2 = conv(width_in, half, 1)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv(width_in, half, 1)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = conv(half, half, 3, 2, groups=half)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = conv(half, half, 1)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = F.relu(self.bn3(self.conv3(x)))
        right = self.bn5(self.conv5(self.bn4(self.conv4(right))))
        return shuffle(F.relu(torch.cat([left, right], 1)), 2)


class ShuffleV2(Network):
    """ShuffleNet V2: groups of a stride-2 unit and 3, 7 or 3 further ones with 116, 232 and 464 channels, then a 1×1
    convolution to 1024.

    As in the field, a pre-activation has its channels in the order before the last shuffle: the identity half, then the
    convolved half. So map = shuffle(relu(pre-activation)), as the identity half is not negative.
    """

    stages = 4

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = conv(3, STEM, 1)
        self.bn1 = nn.BatchNorm2d(STEM)
        width_in = STEM
        for k, (n, width) in enumerate(((3, 116), (7, 232), (3, 464)), start=1):
            setattr(self, f"layer{k}", nn.Sequential(DownV2(width_in, width), *(UnitV2(width) for _ in range(n))))
            width_in = width
        self.conv2 = conv(width_in, 1024, 1)
        self.bn2 = nn.BatchNorm2d(1024)
        self.linear = nn.Linear(1024, classes)

    def stage(self, k: int, x: Tensor, pre_activation: bool) -> tuple[Tensor, Tensor | None]:
        if k == 0:
            before = self.bn1(self.conv1(x))
            return F.relu(before), before if pre_activation else None
        down, *units = getattr(self, f"layer{k}")
        x = down(x)
        for unit in units:
            identity, convolved = unit(x)
            x = shuffle(torch.cat([identity, F.relu(convolved)], 1), 2)
        return x, torch.cat([identity, convolved], 1) if pre_activation else None

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(x)))

    @property
    def head(self) -> nn.Linear:
        return self.linear
