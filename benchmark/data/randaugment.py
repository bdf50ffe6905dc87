"""RandAugment (Cubuk et al., arXiv 1909.13719) of whole batches on the images' device.

Operations, ranges and magnitude bins are torchvision's (`transforms.RandAugment`): 14 operations, each equally likely,
at magnitude 10 of 31 bins; geometric and color operations have a random sign. Each operation is applied once to all
images of the batch that drew it.

This is not the RandAugment(2, 10) of MLLD's published code, which is FixMatch's variant of the same 14 operations:
there the 10 is unused, each magnitude is drawn uniformly, colors are only weakened (factors 0.05 to 0.95), shifts reach
0.3 of the side, and a gray square of up to half the side covers a part of each image.
"""

import math
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

OPERATIONS_PER_IMAGE, MAGNITUDE, BINS = 2, 10, 31
STRENGTH = MAGNITUDE / (BINS - 1)  # share of each operation's range
KEY = f"RandAugment {OPERATIONS_PER_IMAGE} × {MAGNITUDE}/{BINS - 1}"  # persisted in cache headers


def drawn_by() -> str:
    """Return the versions of the libraries whose operations are used; others may draw or round differently."""
    import torchvision

    return f"torch {torch.__version__}, torchvision {torchvision.__version__}"


def _functional() -> ModuleType:
    """Import torchvision's operations, which takes half a second, only where images are altered by them."""
    from torchvision.transforms.v2 import functional

    return functional


def _shear(x: Tensor, horizontal: float, vertical: float) -> Tensor:
    shear = [math.degrees(math.atan(horizontal)), math.degrees(math.atan(vertical))]
    return _functional().affine(x, angle=0.0, translate=[0, 0], scale=1.0, shear=shear, center=[0, 0])


def _translate(x: Tensor, horizontal: float, vertical: float) -> Tensor:
    return _functional().affine(x, angle=0.0, translate=[int(horizontal), int(vertical)], scale=1.0, shear=[0.0, 0.0])


def _shift(x: Tensor) -> float:
    """Return the shift in pixels; its range is 150 of the 331 pixels that the operation was designed for."""
    return STRENGTH * 150 / 331 * x.shape[-1]


# functions of images uint8 [M, 3, H, W] and a sign, −1 or 1, in torchvision's order
OPERATIONS: tuple[Callable[[Tensor, int], Tensor], ...] = (
    lambda x, sign: x,
    lambda x, sign: _shear(x, sign * STRENGTH * 0.3, 0.0),
    lambda x, sign: _shear(x, 0.0, sign * STRENGTH * 0.3),
    lambda x, sign: _translate(x, sign * _shift(x), 0.0),
    lambda x, sign: _translate(x, 0.0, sign * _shift(x)),
    lambda x, sign: _functional().rotate(x, sign * STRENGTH * 30.0),
    lambda x, sign: _functional().adjust_brightness(x, 1 + sign * STRENGTH * 0.9),
    lambda x, sign: _functional().adjust_saturation(x, 1 + sign * STRENGTH * 0.9),
    lambda x, sign: _functional().adjust_contrast(x, 1 + sign * STRENGTH * 0.9),
    lambda x, sign: _functional().adjust_sharpness(x, 1 + sign * STRENGTH * 0.9),
    lambda x, sign: _functional().posterize(x, 8 - round(STRENGTH * 4)),
    lambda x, sign: _functional().solarize(x, 255 - 255 * STRENGTH),
    lambda x, sign: _functional().autocontrast(x),
    lambda x, sign: _functional().equalize(x),
)


def rand_augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Apply two random operations to each image: uint8 [N, 3, H, W] -> uint8 [N, 3, H, W].

    generator: on the CPU, so that all devices see the same images.
    """
    images = images.clone()
    choices = 2 * len(OPERATIONS)  # an operation and a sign
    draws = [torch.randint(choices, (len(images),), generator=generator) for _ in range(OPERATIONS_PER_IMAGE)]
    # positions grouped by choice; one copy for all rounds, as every copy to a GPU waits for it
    order = torch.stack([draw.argsort(stable=True) for draw in draws]).to(images.device)
    for positions, draw in zip(order, draws, strict=True):
        for choice, members in enumerate(positions.split(draw.bincount(minlength=choices).tolist())):
            if len(members):
                images[members] = OPERATIONS[choice // 2](images[members], 2 * (choice % 2) - 1)
    return images
