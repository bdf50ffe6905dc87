"""What a recipe does to the images and labels of a batch beside crops and flips: mixup, CutMix, erasing, smoothing.

Operations and their random numbers are those of timm for whole batches, at most one of mixup and CutMix in each; the
numbers are drawn on the CPU from the run's seed and the epoch, so that all devices see the same batches.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.training.seeding import generator, seed_for

SWITCH_SHARE = 0.5  # of the batches that are CutMix's where mixup is on, too
ERASED_AREA, LOG_ASPECT, ERASING_TRIES = (0.02, 1 / 3), -math.log(0.3), 10  # as timm's RandomErasing has them


@dataclass(frozen=True)
class ImageRecipe:
    """The options of a recipe about images and labels, and the number of classes; by default none is used."""

    mixup: float = 0.0
    cutmix: float = 0.0
    erasing: float = 0.0
    smoothing: float = 0.0
    rand_augment: str | None = None
    classes: int = 0

    @staticmethod
    def from_recipe(recipe: Mapping[str, Any], classes: int) -> "ImageRecipe":
        """Return those of a resolved recipe, which lacks options that have their default."""
        names = ("mixup", "cutmix", "erasing", "smoothing", "rand_augment")
        return ImageRecipe(**{name: recipe[name] for name in names if name in recipe}, classes=classes)

    @property
    def mixes(self) -> bool:
        """Whether images are blended with others."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def alters_images(self) -> bool:
        """Whether a view is not determined by its crop and flip alone."""
        return self.mixes or self.erasing > 0 or self.rand_augment is not None


PLAIN = ImageRecipe()


class Mixed(NamedTuple):
    """A batch after mixing. labels: [N], of the image with the larger share. targets: [N, C], or None where they are
    the labels."""

    images: Tensor
    labels: Tensor
    targets: Tensor | None


class Mixing:
    """Mixes, erases and smooths the batches of one epoch, in their order."""

    def __init__(self, recipe: ImageRecipe, seed: int, epoch: int) -> None:
        self._recipe = recipe
        self._random = np.random.default_rng(seed_for("mixing", seed, epoch))
        self._erasing = np.random.default_rng(seed_for("erasing", seed, epoch))
        self._noise = generator("erasing noise", seed, epoch)

    def __call__(self, images: Tensor, labels: Tensor) -> Mixed:
        """Alter a batch: normalized images [N, 3, H, W], labels [N] of the classes."""
        recipe, share = self._recipe, 1.0
        if recipe.mixes:
            images, share = self._mix(images)
        if recipe.erasing:
            images = self._erase(images)
        if not recipe.mixes and not recipe.smoothing:
            return Mixed(images, labels, None)
        partner_labels = labels.flip(0)
        targets = self._smoothed(labels)
        if share < 1.0:
            targets = share * targets + (1 - share) * self._smoothed(partner_labels)
        return Mixed(images, labels if share >= 0.5 else partner_labels, targets)

    def _smoothed(self, labels: Tensor) -> Tensor:
        """Return ε / C + (1 − ε) · one-hot labels: [N] -> [N, C]."""
        one_hot = F.one_hot(labels, self._recipe.classes).float()
        return one_hot * (1 - self._recipe.smoothing) + self._recipe.smoothing / self._recipe.classes

    def _mix(self, images: Tensor) -> tuple[Tensor, float]:
        """Blend each image with the one at its place in the reversed batch; return them, and the share of the first."""
        cut = self._recipe.cutmix > 0 and (self._recipe.mixup == 0 or self._random.random() < SWITCH_SHARE)
        alpha = self._recipe.cutmix if cut else self._recipe.mixup
        share = float(self._random.beta(alpha, alpha))
        if not cut:
            return images * share + images.flip(0) * (1 - share), share
        height, width = images.shape[2:]
        side = math.sqrt(1 - share)
        top, bottom = self._interval(height, int(height * side))
        left, right = self._interval(width, int(width * side))
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
        return mixed, 1 - (bottom - top) * (right - left) / (height * width)

    def _interval(self, length: int, size: int) -> tuple[int, int]:
        """Return the ends of an interval around a random center, cut off at the image's border."""
        center = int(self._random.integers(0, length))
        return max(0, center - size // 2), min(length, center + size // 2)

    def _erase(self, images: Tensor) -> Tensor:
        """Replace a random rectangle by standard normal noise, in the chosen share of the images."""
        images, (height, width) = images.clone(), images.shape[2:]
        for i in np.flatnonzero(self._erasing.random(len(images)) < self._recipe.erasing).tolist():
            for _ in range(ERASING_TRIES):
                area = self._erasing.uniform(ERASED_AREA[0], ERASED_AREA[1]) * height * width
                aspect = math.exp(self._erasing.uniform(-LOG_ASPECT, LOG_ASPECT))
                h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
                if h < height and w < width:
                    top, left = (int(self._erasing.integers(0, n + 1)) for n in (height - h, width - w))
                    noise = torch.randn(3, h, w, generator=self._noise)
                    images[i, :, top : top + h, left : left + w] = noise.to(images.device)
                    break
        return images
