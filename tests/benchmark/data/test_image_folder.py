"""Image files of every kind are read as a viewer shows them, or are refused by name."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.data.image_folder import Unreadable, read_classes, read_image
from benchmark.errors import UserError

SIZE = 16
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def full(color: tuple[int, ...], mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (SIZE, SIZE), color)


def read(image: Image.Image, tmp_path: Path, name: str = "image.png", **options) -> np.ndarray:
    image.save(tmp_path / name, **options)
    return read_image(str(tmp_path / name), SIZE)


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (257 * 100, 100), (40_000, 156), (65_535, 255)])
def test_16_bit_gray_is_scaled_to_8_bits(tmp_path, value, expected):
    """40,000 of 65,535 are 155.64 of 255."""
    pixels = read(Image.fromarray(np.full((SIZE, SIZE), value, np.uint16)), tmp_path)
    assert (pixels == expected).all()


def test_transparent_pixels_are_white_and_half_transparent_ones_are_mixed_with_it(tmp_path):
    assert (read(full((*RED, 0), "RGBA"), tmp_path) == WHITE).all()
    assert (read(full((*RED, 255), "RGBA"), tmp_path) == RED).all()
    half = read(full((*RED, 128), "RGBA"), tmp_path)
    assert half[..., 0].min() == 255 and abs(int(half[0, 0, 1]) - 127) <= 1
    assert (read(full((0, 0), "LA"), tmp_path) == WHITE).all()
    palette = full(RED).quantize(2)
    assert (read(palette, tmp_path, transparency=palette.getpixel((0, 0))) == WHITE).all()


def test_an_image_is_turned_upright(tmp_path):
    """EXIF orientation 6: the camera's first row is the right side of the scene."""
    image = full(GREEN)
    image.paste(RED, (0, 0, SIZE, SIZE // 2))  # stored above
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = read(image, tmp_path, exif=exif)
    assert (pixels[:, : SIZE // 2] == GREEN).all() and (pixels[:, SIZE // 2 :] == RED).all()


def test_of_an_animated_gif_the_first_frame_counts(tmp_path):
    pixels = read(full(RED), tmp_path, "a.gif", save_all=True, append_images=[full(BLUE)])
    assert (pixels == RED).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "RGB"])
def test_other_modes_become_rgb(tmp_path, mode):
    image = Image.new("L", (SIZE, SIZE), 255).convert(mode)
    pixels = read(image, tmp_path, "image.tif")
    assert pixels.shape == (SIZE, SIZE, 3) and pixels.min() >= 254


@pytest.fixture
def folder(tmp_path):
    """A folder of two classes with two images each, of several formats, a nested one and files of file managers."""
    for name in ("ant/a.gif", "ant/b.PNG", "bee/deep/c.jpg", "bee/d.webp"):
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        full(RED if "ant" in name else BLUE).save(path)
    for name in (".DS_Store", "Thumbs.db"):
        (tmp_path / "train" / "ant" / name).write_bytes(b"?")
    return tmp_path / "train"


def test_all_formats_of_a_class_are_read_and_files_of_file_managers_are_not(folder):
    unreadable = Unreadable()
    images, labels, names = read_classes(folder, SIZE, unreadable)
    unreadable.check()
    assert names == ("ant", "bee") and labels.tolist() == [0, 0, 1, 1] and images.shape == (4, SIZE, SIZE, 3)
    assert (images[:2, ..., 0] > 250).all() and (images[2:, ..., 2] > 250).all()


def test_all_unreadable_files_are_named_at_once(folder):
    for i in range(11):
        (folder / "ant" / f"x{i:02}.txt").write_text("no image")
    os.mkfifo(folder / "ant" / "c.png")
    Image.fromarray(np.zeros((SIZE, SIZE), np.float32)).save(folder / "bee" / "e.tif")
    unreadable = Unreadable()
    read_classes(folder, SIZE, unreadable)
    assert "32 bits" in unreadable.reasons[str(folder / "bee" / "e.tif")]
    with pytest.raises(UserError) as error:
        unreadable.check()
    text = str(error.value)
    assert text.startswith(f"13 files cannot be read as images: {folder}/ant/c.png (it is not a regular file), ")
    assert "x08.txt" in text and "x09.txt" not in text and text.endswith(", and 3 more: remove or replace them")


def test_one_unreadable_file_is_named_alone(folder):
    (folder / "ant" / "b.PNG").write_bytes(b"")
    unreadable = Unreadable()
    read_classes(folder, SIZE, unreadable)
    with pytest.raises(UserError, match=r"b\.PNG cannot be read as an image \(.*\): remove or replace it$"):
        unreadable.check()


def test_classes_without_files_are_named(folder):
    (folder / "cat").mkdir()
    with pytest.raises(UserError, match="has no image of class cat"):
        read_classes(folder, SIZE, Unreadable())
    (folder.parent / "empty").mkdir()
    with pytest.raises(UserError, match="has no folder of a class"):
        read_classes(folder.parent / "empty", SIZE, Unreadable())
