"""RandAugment of batches: each operation against torchvision's of single images, and the random choice."""

import functools

import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms import functional as F

from benchmark.data import randaugment
from benchmark.data.randaugment import BINS, MAGNITUDE, OPERATIONS, rand_augment

SIDE = 32
TORCHVISION = v2.RandAugment(2, MAGNITUDE, BINS)
NAMES = list(TORCHVISION._AUGMENTATION_SPACE)


@functools.cache
def images() -> Tensor:
    """Return noise, smooth images, and ones with constant channels: uint8 [24, 3, SIDE, SIDE]."""
    random = torch.Generator().manual_seed(0)
    batch = torch.randint(0, 256, (24, 3, SIDE, SIDE), generator=random, dtype=torch.uint8)
    batch[:8] = F.resize(batch[:8, :, :4, :4], [SIDE, SIDE])
    batch[8], batch[9, 1], batch[10], batch[11] = 77, 5, 0, 255
    return batch.contiguous(memory_format=torch.channels_last)


def torchvision_magnitude(name: str, sign: int) -> float:
    """Return the magnitude that torchvision passes to an operation; its float32 values in double precision."""
    make_values, signed = TORCHVISION._AUGMENTATION_SPACE[name]
    values = make_values(BINS, SIDE, SIDE)
    if values is None:
        return 0.0
    if not values.is_floating_point():
        return int(values[MAGNITUDE])
    first, last = (round(float(v), 4) for v in values[[0, -1]])
    value = first + (last - first) * MAGNITUDE / (BINS - 1)
    assert value == pytest.approx(float(values[MAGNITUDE]), rel=1e-4)
    return value * sign if signed else value


@pytest.mark.parametrize(("number", "name"), list(enumerate(NAMES)))
def test_an_operation_equals_that_of_torchvision_on_single_images(number, name):
    for sign in (-1, 1):
        batch = OPERATIONS[number](images(), sign)
        assert batch.dtype == torch.uint8 and batch.shape == images().shape
        for image, result in zip(images(), batch, strict=True):
            expected = TORCHVISION._apply_image_or_video_transform(
                image, name, torchvision_magnitude(name, sign), InterpolationMode.NEAREST, TORCHVISION._fill
            )
            assert torch.equal(result, expected)


def test_there_are_as_many_operations_as_in_torchvision():
    assert len(OPERATIONS) == len(NAMES) == 14


@pytest.mark.parametrize("side", [16, 64])
def test_shifts_scale_with_the_image(side):
    image = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    image[..., side // 2, side // 2] = 255
    for number, axis in ((3, 2), (4, 1)):
        for sign in (-1, 1):
            position = OPERATIONS[number](image, sign)[0].nonzero()
            assert (position[:, axis] == side // 2 + sign * int(side * 150 / 331 / 3)).all()
            assert (position[:, 3 - axis] == side // 2).all()


def record_operations(monkeypatch) -> list[int]:
    """Replace operations by ones that append their number and sign to an image as a digit of base 28; return the list
    of the batch sizes with which they are called."""
    batch_sizes: list[int] = []

    def make_operation(number):
        def operation(x, sign):
            assert sign in (-1, 1)
            batch_sizes.append(len(x))
            return 28 * x + 2 * number + (sign > 0)

        return operation

    monkeypatch.setattr(randaugment, "OPERATIONS", tuple(map(make_operation, range(14))))
    return batch_sizes


def test_two_successive_operations_are_uniform_and_independent(monkeypatch):
    record_operations(monkeypatch)
    n = 28 * 28 * 100
    digits = rand_augment(torch.zeros(n, 1, 1, 1, dtype=torch.int64), torch.Generator().manual_seed(0))
    counts = digits.flatten().bincount(minlength=28 * 28).double()
    assert len(counts) == 28 * 28
    assert 1e-3 < stats.chisquare(counts).pvalue < 1 - 1e-3
    table = counts.view(28, 28)  # first by second operation, each with its sign
    for choices in (table.sum(0), table.sum(1)):
        for by in (0, 1):  # of signs, of operations
            assert 1e-3 < stats.chisquare(choices.view(14, 2).sum(by)).pvalue < 1 - 1e-3


def test_an_operation_is_called_once_for_all_images_that_drew_it(monkeypatch):
    batch_sizes = record_operations(monkeypatch)
    rand_augment(torch.zeros(500, 1, 1, 1, dtype=torch.int64), torch.Generator().manual_seed(0))
    assert len(batch_sizes) == 2 * 28 and sum(batch_sizes) == 2 * 500


def test_an_image_does_not_depend_on_the_other_images():
    base = rand_augment(images(), torch.Generator().manual_seed(3))
    other = images().clone()
    other[1::2] = 255 - other[1::2]
    augmented = rand_augment(other, torch.Generator().manual_seed(3))
    assert torch.equal(augmented[::2], base[::2]) and not torch.equal(augmented[1::2], base[1::2])
    # copies of one image show results of two operations each, and no mixture
    copies = rand_augment(images()[:1].expand(300, -1, -1, -1), torch.Generator().manual_seed(4))
    choices = [(operation, sign) for operation in OPERATIONS for sign in (-1, 1)]
    first = torch.cat([operation(images()[:1], sign) for operation, sign in choices])
    possible = {x.numpy().tobytes() for operation, sign in choices for x in operation(first, sign)}
    results = {x.numpy().tobytes() for x in copies}
    assert results <= possible and len(results) > 100


def test_the_generator_alone_decides_and_advances():
    first, again, other = (rand_augment(images(), torch.Generator().manual_seed(s)) for s in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)
    generator = torch.Generator().manual_seed(5)
    assert not torch.equal(rand_augment(images(), generator), rand_augment(images(), generator))


def test_input_and_global_generator_are_unchanged():
    before, state = images().clone(), torch.random.get_rng_state()
    augmented = rand_augment(images(), torch.Generator().manual_seed(7))
    assert torch.equal(images(), before) and torch.equal(torch.random.get_rng_state(), state)
    assert augmented.data_ptr() != images().data_ptr() and not torch.equal(augmented, before)
    assert augmented.dtype == torch.uint8 and augmented.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("n", [0, 1])
def test_small_batches(n):
    assert rand_augment(images()[:n], torch.Generator().manual_seed(0)).shape == (n, 3, SIDE, SIDE)
