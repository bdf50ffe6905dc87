"""VGG with batch norm and one linear layer. Names and numerics as in RepDistiller's `models/vgg.py`."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.networks.base import Network
from benchmark.networks.layers import init_by_width

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {  # convolutions in each of the five stages, by depth
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


class VGG(Network):
    """vgg8, 11, 13, 16 and 19.

    convolutions: number of convolutions in each stage. Maps are read after a stage's last ReLU, before the max pooling
    that follows; pre-activations before that ReLU.
    """

    stages = 5

    def __init__(self, convolutions: Sequence[int], classes: int) -> None:
        super().__init__()
        width_in = 3
        for k, (n, width) in enumerate(zip(convolutions, WIDTHS, strict=True)):
            layers: list[nn.Module] = []
            for i in range(n):
                layers += [nn.ReLU()] if i else []
                layers += [nn.Conv2d(width_in, width, 3, padding=1), nn.BatchNorm2d(width)]
                width_in = width
            setattr(self, f"block{k}", nn.Sequential(*layers))
        self.classifier = nn.Linear(width_in, classes)
        init_by_width(self)
        nn.init.normal_(self.classifier.weight, 0.0, 0.01)

    def stage(self, k: int, x: Tensor, pre_activation: bool) -> tuple[Tensor, Tensor | None]:
        # the last two stages have the same size, except for 64-px images, whose maps are still 8 × 8 there
        if 0 < k < 4 or (k == 4 and x.shape[2] == 8):
            x = F.max_pool2d(x, 2)
        before = getattr(self, f"block{k}")(x)
        return F.relu(before), before if pre_activation else None

    def batch_norm(self, k: int) -> nn.BatchNorm2d:
        return getattr(self, f"block{k}")[-1]

    @property
    def head(self) -> nn.Linear:
        return self.classifier
