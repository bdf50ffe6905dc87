"""Image files of a folder, as square uint8 RGB arrays. Every file is read as a viewer shows it, or refused by name."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from benchmark.errors import UserError

OF_FILE_MANAGERS = ("Thumbs.db", "desktop.ini")  # like hidden files, no images and no mistake
LISTED = 10  # unreadable files that an error names
NO_IMAGE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)  # raised by PIL for such files
BACKGROUND = "white"  # behind transparent pixels
GRAY_16_BITS = ("I;16", "I;16L", "I;16B", "I;16N")  # PIL's modes


@dataclass
class Unreadable:
    """Files that cannot be read as images, with the reasons."""

    reasons: dict[str, str] = field(default_factory=dict)  # by path

    def check(self) -> None:
        """Raise UserError where there are any; it names their number and the first of them."""
        if not self.reasons:
            return
        named = [f"{path} ({' '.join(reason.split())})" for path, reason in list(self.reasons.items())[:LISTED]]
        if len(self.reasons) == 1:
            path, _, reason = named[0].partition(" (")
            raise UserError(f"{path} cannot be read as an image ({reason}: remove or replace it")
        more = f", and {len(self.reasons) - LISTED} more" if len(self.reasons) > LISTED else ""
        raise UserError(
            f"{len(self.reasons)} files cannot be read as images: {', '.join(named)}{more}: remove or replace them"
        )


def test_folder(root: Path) -> Path:
    """Return `<root>/test`, or `<root>/val` where there is no `test`.

    Raises UserError where the root, its `train` or that folder is missing.
    """
    test = root / "test" if (root / "test").is_dir() or not (root / "val").is_dir() else root / "val"
    for folder in (root, root / "train", test):
        if not folder.is_dir():
            raise UserError(
                f"{folder} is not a folder: images belong in {root}/train/<class>/ and {root}/test/<class>/"
            )
    return test


def class_names(folder: Path) -> list[str]:
    """Return the names of the classes of a folder, in order. Raises UserError where there are none."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if not names:
        raise UserError(f"{folder} has no folder of a class: images belong in {folder}/<class>/")
    return names


def check_same_classes(names: Mapping[Path, Sequence[str]]) -> None:
    """Raise UserError where the folders of training and test images have different classes. names: by folder."""
    (train, of_train), (test, of_test) = names.items()
    if list(of_train) != list(of_test):
        name = min(set(of_train) ^ set(of_test))
        folder = train if name in of_train else test
        raise UserError(f"class {name!r} is in {folder} only: {train} and {test} must have the same classes")


def read_classes(folder: Path, size: int, unreadable: Unreadable) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Read `<folder>/<class>/**`: images uint8 [N, size, size, 3], labels [N], names of the classes in order.

    Images are resized so that the shorter side has `size` pixels, and center-cropped. Files that cannot be read are
    added to `unreadable`, and their images are undefined. Raises UserError where there are no classes, or one of them
    has no file.
    """
    names = class_names(folder)
    files = [list(list_files(folder / name)) for name in names]
    if empty := [name for name, of_class in zip(names, files, strict=True) if not of_class]:
        raise UserError(f"{folder} has no image of class {', '.join(empty)}")
    labels = np.repeat(np.arange(len(names)), [len(of_class) for of_class in files])
    images = np.empty((len(labels), size, size, 3), np.uint8)
    for image, path in zip(images, (path for of_class in files for path in of_class), strict=True):
        try:
            image[:] = read_image(path, size)
        except NO_IMAGE as error:
            unreadable.reasons[path] = str(error) or type(error).__name__
    return images, labels, tuple(names)


def read_image(path: str, size: int) -> np.ndarray:
    """Read an image, uint8 [size, size, 3]: upright, in 8 bits, on white where transparent, the first of its frames.

    Raises OSError, ValueError or another error of PIL's, whose text is a reason.
    """
    from torchvision.transforms.functional import center_crop, resize

    pixels: Any = open_image(path)
    return np.asarray(center_crop(resize(pixels, [size]), [size, size]))


def open_image(path: str) -> Image.Image:
    """Open an image as `read_image` does, in its own size. Raises what that raises."""
    if not os.path.isfile(path):
        raise OSError("it is not a regular file")  # opening a named pipe would wait for a writer
    with Image.open(path) as image:
        return _as_rgb(ImageOps.exif_transpose(image))


def list_files(folder: Path) -> Iterator[str]:
    """Yield the files of a class in a fixed order, except hidden ones and those of file managers."""
    for parent, _, names in sorted(os.walk(folder, followlinks=True)):
        for name in sorted(names):
            if not name.startswith(".") and name not in OF_FILE_MANAGERS:
                yield os.path.join(parent, name)


def _as_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode. Raises ValueError where its values have no known range."""
    if image.mode in GRAY_16_BITS or (image.mode == "I" and image.format == "PNG"):  # "I" in older versions of PIL
        values = np.asarray(image).astype(np.float64)
        return Image.fromarray((values / 257).round().astype(np.uint8)).convert("RGB")  # 65535 becomes 255
    if image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits, whose white is not known: save it with 8 or 16 bits a channel")
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, BACKGROUND)
        opaque.alpha_composite(image.convert("RGBA"))
        return opaque.convert("RGB")
    return image.convert("RGB")
