"""RandAugment (Cubuk et al., arXiv 1909.13719) of whole batches, where the images are; draws from a given generator.

Operations, ranges and magnitude bins are torchvision's (`transforms.RandAugment`): 14 operations, each equally likely,
at magnitude 10 of 31 bins; geometric and colour operations with a random sign. An operation is applied at once to all
images of the batch that drew it.

Not the RandAugment(2, 10) of MLLD's published code, which is FixMatch's, of the same 14 operations: there the 10 is not
used, each magnitude is drawn uniformly, colours are only weakened, by factors of 0.05 to 0.95, shifts reach 0.3 of the
side, and a grey square of up to half the side covers a part of each image.
"""

import math
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor
from torchvision.transforms.v2 import functional as F

OPERATIONS, MAGNITUDE, BINS = 2, 10, 31  # operations an image, and their strength
SHARE = MAGNITUDE / (BINS - 1)
KEY = f"RandAugment {OPERATIONS} × {MAGNITUDE}/{BINS - 1}"
DRAWN_BY = f"torch {torch.__version__}, torchvision {torchvision.__version__}"  # others may draw or round otherwise


def _shear(x: Tensor, across: float, down: float) -> Tensor:
    shear = [math.degrees(math.atan(across)), math.degrees(math.atan(down))]
    return F.affine(x, angle=0.0, translate=[0, 0], scale=1.0, shear=shear, center=[0, 0])


def _translate(x: Tensor, across: float, down: float) -> Tensor:
    return F.affine(x, angle=0.0, translate=[int(across), int(down)], scale=1.0, shear=[0.0, 0.0])


def _reach(x: Tensor) -> float:
    """Largest shift in pixels: 150 of the 331 pixels that the operation was designed for."""
    return SHARE * 150 / 331 * x.shape[-1]


# each takes images uint8 [M, 3, H, W] and a sign
_ALL: tuple[Callable[[Tensor, int], Tensor], ...] = (
    lambda x, sign: x,
    lambda x, sign: _shear(x, sign * SHARE * 0.3, 0.0),
    lambda x, sign: _shear(x, 0.0, sign * SHARE * 0.3),
    lambda x, sign: _translate(x, sign * _reach(x), 0.0),
    lambda x, sign: _translate(x, 0.0, sign * _reach(x)),
    lambda x, sign: F.rotate(x, sign * SHARE * 30.0),
    lambda x, sign: F.adjust_brightness(x, 1 + sign * SHARE * 0.9),
    lambda x, sign: F.adjust_saturation(x, 1 + sign * SHARE * 0.9),
    lambda x, sign: F.adjust_contrast(x, 1 + sign * SHARE * 0.9),
    lambda x, sign: F.adjust_sharpness(x, 1 + sign * SHARE * 0.9),
    lambda x, sign: F.posterize(x, 8 - round(SHARE * 4)),
    lambda x, sign: F.solarize(x, 255 - 255 * SHARE),
    lambda x, sign: F.autocontrast(x),
    lambda x, sign: F.equalize(x),
)


def rand_augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 [N, 3, H, W] -> uint8 [N, 3, H, W], each image by operations of its own, drawn on the CPU."""
    images = images.clone()
    drawn = [torch.randint(2 * len(_ALL), (len(images),), generator=generator) for _ in range(OPERATIONS)]
    # which images drew the first, the second, …; copied at once, as a GPU is waited for with each copy
    order = torch.stack([d.argsort(stable=True) for d in drawn]).to(images.device)
    for places, d in zip(order, drawn, strict=True):
        for which, at in enumerate(places.split(d.bincount(minlength=2 * len(_ALL)).tolist())):
            if len(at):
                images[at] = _ALL[which // 2](images[at], 2 * (which % 2) - 1)
    return images
