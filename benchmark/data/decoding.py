"""Decoding of one image file by PIL, and the views of it that are made on the CPU: uint8 [size, size, 3].

torchvision is imported when an image is resized: its import would take as long as a whole plan.
"""

import importlib.util
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from PIL import Image

from benchmark.config.schema import DatasetConfig
from benchmark.data.image_folder import NO_IMAGE, open_image
from benchmark.errors import UserError, message_line


class UnreadableImage(Exception):
    """Raised where a file cannot be decoded; the message is the reason, on one line."""


def decode(path: str, as_shown: bool) -> Image.Image:
    """Decode a file as RGB. as_shown: as `image_folder` does; else as torchvision's loader. Raises UnreadableImage."""
    try:
        if as_shown:
            return open_image(path)
        with open(path, "rb") as file, Image.open(file) as image:
            return image.convert("RGB")
    except NO_IMAGE as error:
        raise UnreadableImage(message_line(error)) from error


def whole(image: Image.Image, size: int, shorter_side: int) -> np.ndarray:
    """Resize the shorter side of an image bilinearly, and crop the center of `size` × `size` pixels."""
    from torchvision.transforms.v2 import functional as F

    pixels: Any = image
    return np.asarray(F.center_crop(F.resize(pixels, [shorter_side]), [size, size]))


def random_crop(image: Image.Image, size: int) -> Image.Image:
    """Crop 8 to 100 % of an image's area at random, with an aspect of 3/4 to 4/3, and resize it to `size` pixels.

    It is torchvision's RandomResizedCrop, which draws from torch's global generator of the CPU.
    """
    from torchvision.transforms.v2 import RandomResizedCrop

    return cast(Image.Image, RandomResizedCrop(size)(image))


def timm_rand_augment(policy: str, config: DatasetConfig) -> Callable[[Image.Image], Image.Image]:
    """Return timm's RandAugment by its notation, such as rand-m9-mstd0.5-inc1, with the fill color and shifts that timm
    takes for images of this size.

    It draws from the global generators of Python and NumPy. Raises UserError without timm or for another notation.
    """
    if importlib.util.find_spec("timm") is None:
        raise UserError("recipe.rand_augment is timm's, which is not installed: pip install 'kd-benchmark[timm]'")
    from timm.data.auto_augment import rand_augment_transform

    assert config.mean is not None, "streamed images have configured statistics"
    fill = tuple(round(255 * mean) for mean in config.mean)
    try:
        if not policy.startswith("rand-"):
            raise ValueError("it begins with rand-")
        return rand_augment_transform(policy, {"translate_const": int(config.size * 0.45), "img_mean": fill})
    except (AssertionError, ValueError, KeyError) as e:
        raise UserError(f"recipe.rand_augment is {policy!r}: write it as timm does, rand-m9-mstd0.5-inc1") from e
