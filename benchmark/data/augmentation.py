"""Random crop and horizontal flip of image batches as tensor operations on the images' device.

The augmentation has finitely many outcomes. The outcome with augmentation id `id` of an image padded by `p` zeros is
the window at row `dy` and column `dx` of the padded image, mirrored where `flip` is 1:

    id = (dy · (2p + 1) + dx) · F + flip        0 ≤ dy, dx ≤ 2p;  F = 2 with flips, else 1 (and flip = 0)

The unaugmented image is dy = dx = p, flip = 0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def count_outcomes(padding: int, flip: bool) -> int:
    """Return the number of outcomes per image: (2 · padding + 1)² · (2 with flips, else 1)."""
    return (2 * padding + 1) ** 2 * (2 if flip else 1)


def identity_id(padding: int, flip: bool) -> int:
    """Return the augmentation id of the unaugmented image."""
    return padding * (2 * padding + 2) * (2 if flip else 1)


def pad(images: Tensor, padding: int) -> Tensor:
    """Add `padding` zeros on all four sides: uint8 [N, 3, H, W] -> [N, H + 2p, W + 2p, 3] in NHWC memory."""
    return functional.pad(images.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding)).contiguous()


def crop_and_flip(padded: Tensor, indices: Tensor, augmentation_ids: Tensor, padding: int, flip: bool) -> Tensor:
    """Return the outcomes `augmentation_ids` [B] of images `indices` [B]: uint8 [B, 3, H, W] in channels_last memory.

    padded: images as `pad` returns them for the same `padding`.
    """
    height, width = padded.shape[1] - 2 * padding, padded.shape[2] - 2 * padding
    flips = 2 if flip else 1
    corner, side = augmentation_ids // flips, 2 * padding + 1
    # every window of every image, [N, dy, dx, H, W, 3], without a copy: a crop then copies whole rows
    windows = padded.unfold(1, height, 1).unfold(2, width, 1).permute(0, 1, 2, 4, 5, 3)
    images = windows[indices, corner // side, corner % side]
    if flip:
        images = torch.where((augmentation_ids % flips).bool()[:, None, None, None], images.flip(2), images)
    return images.permute(0, 3, 1, 2)


def mirror(images: Tensor, indices: Tensor) -> Tensor:
    """Return a copy of the images, uint8 [N, H, W, 3], of which `indices` [M], on the CPU, are mirrored.

    Without padding this is `crop_and_flip` in a third of its time.
    """
    copy, indices = images.clone(), indices.to(images.device)
    copy[indices] = images[indices].flip(2)
    return copy


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotate images counterclockwise by `degrees` [B] about their centers: uint8 [B, 3, H, W] -> uint8 [B, 3, H, W] in
    channels_last memory.

    Pixels are the nearest ones, and black outside of the image, as in torchvision's RandomRotation.
    """
    radians = degrees.to(images.device, torch.float64).deg2rad()
    cos, sin, zero = radians.cos(), radians.sin(), torch.zeros_like(radians)
    height, width = images.shape[2:]
    # from places in the result to places in the image; the coordinates of both sides run from −1 to 1
    matrix = torch.stack([cos, -sin * height / width, zero, sin * width / height, cos, zero], 1).view(-1, 2, 3)
    grid = functional.affine_grid(matrix, [len(images), 1, height, width], align_corners=False).float()
    rotated = functional.grid_sample(images.float(), grid, mode="nearest", align_corners=False)
    return rotated.to(torch.uint8).contiguous(memory_format=torch.channels_last)


def scale_and_shift(
    mean: Sequence[float], std: Sequence[float], width: int, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Return scale and shift [width · 3] that map an NHWC row of bytes to (byte / 255 − mean) / std per channel."""
    scale = torch.tensor([1 / (255 * s) for s in std], dtype=torch.float64)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float64)
    return scale.float().repeat(width).to(device), shift.float().repeat(width).to(device)


def standardize(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Scale and shift uint8 [N, 3, H, W] to float32 in channels_last memory, as `scale_and_shift` returns for W."""
    rows = images.permute(0, 2, 3, 1).flatten(2).float()  # [N, H, W · 3]: long rows are faster than rows of 3
    rows.mul_(scale).add_(shift)
    return rows.unflatten(2, (images.shape[3], 3)).permute(0, 3, 1, 2)
