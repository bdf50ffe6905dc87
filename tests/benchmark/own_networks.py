"""Networks as a user writes them; none is of this suite."""

import torch
from torch import nn


class Patches(nn.Module):
    """A small MLP on patches, [N, 3, 16, 16] -> [N, C]."""

    def __init__(self, classes, width=24):
        super().__init__()
        self.embed = nn.Conv2d(3, width, 4, 4)
        self.mix = nn.Sequential(nn.GELU(), nn.Conv2d(width, width, 3, padding=1), nn.GELU())
        self.out = nn.Linear(width, classes)

    def forward(self, x):
        return self.out(self.mix(self.embed(x)).mean((2, 3)))


def patches(classes):
    return Patches(classes)


def wide_patches(classes, image_size):
    assert image_size == 16
    return Patches(classes, width=32)


def no_module(classes):
    return torch.zeros(classes)


class InOneProcess(Patches):
    """Fails in training, in the second of several processes."""

    def forward(self, x):
        if self.training and torch.distributed.is_initialized() and torch.distributed.get_rank() == 1:
            raise RuntimeError("not here")
        return super().forward(x)


def fails_in_second_process(classes):
    return InOneProcess(classes)


class Dropping(Patches):
    """Has dropout, as a function."""

    def __init__(self, classes, share):
        super().__init__(classes)
        self.share = share

    def forward(self, x):
        return super().forward(torch.nn.functional.dropout(x, self.share, self.training))


def dropping(classes):
    return Dropping(classes, 0.1)


def dropping_nothing(classes):
    return Dropping(classes, 0.0)
