"""Small data sets of random image files in the layouts of ImageNet and Tiny-ImageNet."""

from pathlib import Path

import numpy as np
from PIL import Image

WNIDS = ("n01", "n02", "n03")
SIDES = ((40, 30), (30, 44), (64, 64))  # width and height of the images, in turn


def write_image(path: Path, seed: int, size: tuple[int, int] = (40, 30)) -> None:
    """Write an image whose colors change slowly, so that a crop looks different from the whole."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR).save(path, "JPEG", quality=95)


def write_imagenet(root: Path, train: int = 4, val: int = 2) -> Path:
    """Write `train` and `val` images of each class in ImageNet's layout; return the root."""
    for part, n, first in (("train", train, 0), ("val", val, 1000)):
        for label, wnid in enumerate(WNIDS):
            for i in range(n):
                path = root / part / wnid / f"{wnid}_{i}.JPEG"
                write_image(path, first + 100 * label + i, SIDES[i % len(SIDES)])
    return root


def write_tiny_imagenet(root: Path, train: int = 4, val: int = 2) -> Path:
    """Write the same in Tiny-ImageNet's layout, with images of 64 × 64 pixels; return the root."""
    (root / "val").mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(reversed(WNIDS)) + "\n")  # in no order, as in the archive
    (root / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tcrane\nn03\tcrane\nn99\tanother\n")
    lines = []
    for label, wnid in enumerate(WNIDS):
        for i in range(train):
            write_image(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", 100 * label + i, (64, 64))
        for i in range(val):
            name = f"val_{len(lines)}.JPEG"
            write_image(root / "val" / "images" / name, 1000 + 100 * label + i, (64, 64))
            lines.append(f"{name}\t{wnid}\t0\t0\t62\t62")
    (root / "val" / "val_annotations.txt").write_text("\n".join(reversed(lines)) + "\n")
    return root
