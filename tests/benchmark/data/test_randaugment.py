"""RandAugment of batches: each operation against torchvision's of single images, the draws, and what is left alone."""

import functools

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import InterpolationMode, RandAugment, v2
from torchvision.transforms import functional as F
from torchvision.transforms.autoaugment import _apply_op

from benchmark.data import randaugment
from benchmark.data.randaugment import BINS, MAGNITUDE, rand_augment

SIDE = 32
# torchvision's operations in its order: the magnitude's values, and whether it has a sign
SPACE = RandAugment(2, MAGNITUDE, BINS)._augmentation_space(BINS, (SIDE, SIDE))
OPERATIONS = list(enumerate(SPACE))


@functools.cache
def images():
    """Noise, smooth images, one of a single colour, one with a constant channel, black, and white."""
    own = torch.Generator().manual_seed(0)
    found = torch.randint(0, 256, (24, 3, SIDE, SIDE), generator=own, dtype=torch.uint8)
    found[:8] = F.resize(found[:8, :, :4, :4], [SIDE, SIDE])
    found[8], found[9, 1], found[10], found[11] = 77, 5, 0, 255
    return found.contiguous(memory_format=torch.channels_last)


def magnitude(values, signed, sign):
    """The strength in torchvision's values of it, which are float32, to double precision."""
    if values is None or values.ndim == 0:
        return 0.0
    first, last = (round(float(v), 4) for v in values[[0, -1]])
    value = first + (last - first) * MAGNITUDE / (BINS - 1) if values.is_floating_point() else int(values[MAGNITUDE])
    assert value == pytest.approx(float(values[MAGNITUDE]), rel=1e-4)
    return value * sign if signed else value


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("which", "name"), OPERATIONS)
def test_an_operation_equals_torchvision_s_of_each_image_alone(which, name, sign):
    found = randaugment._ALL[which](images(), sign)
    assert found.dtype == torch.uint8 and found.shape == images().shape
    theirs = v2.RandAugment(2, MAGNITUDE, BINS)
    values, signed = theirs._AUGMENTATION_SPACE[name]
    strength = magnitude(values(BINS, SIDE, SIDE), signed, sign)
    for image, ours in zip(images(), found, strict=True):
        expected = theirs._apply_image_or_video_transform(
            image, name, strength, InterpolationMode.NEAREST, theirs._fill
        )
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("which", "name"), OPERATIONS)
def test_an_operation_equals_pillow_s_to_a_level(which, name, sign):
    found, strength = randaugment._ALL[which](images(), sign), magnitude(*SPACE[name], sign)
    for image, ours in zip(images(), found, strict=True):
        by_pillow = _apply_op(F.to_pil_image(image), name, strength, InterpolationMode.NEAREST, None)
        difference = np.asarray(by_pillow).astype(int) - ours.permute(1, 2, 0).numpy()
        assert abs(difference).max() <= 1  # where one rounds and the other truncates


def test_there_are_no_other_operations():
    assert len(randaugment._ALL) == len(SPACE) == 14


@pytest.mark.parametrize("side", [16, 32, 64])
def test_shifts_grow_with_the_image(side):
    image = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    image[..., side // 2, side // 2] = 255
    for which, axis in ((3, 2), (4, 1)):
        for sign in (-1, 1):
            found = randaugment._ALL[which](image, sign)[0].nonzero()
            assert (found[:, axis] == side // 2 + sign * int(side * 150 / 331 / 3)).all()
            assert (found[:, 3 - axis] == side // 2).all()


def recording(monkeypatch):
    """Let each operation append its number, and whether its sign is positive, to the images as a digit of base 28."""
    codes = []

    def operation(which):
        def record(x, sign):
            assert sign in (-1, 1)
            codes.append(len(x))
            return 28 * x + 2 * which + (sign > 0)

        return record

    monkeypatch.setattr(randaugment, "_ALL", tuple(map(operation, range(14))))
    return codes


def test_two_operations_in_turn_each_equally_likely_and_independent(monkeypatch):
    recording(monkeypatch)
    n = 28 * 28 * 100
    drawn = rand_augment(torch.zeros(n, 1, 1, 1, dtype=torch.int64), torch.Generator().manual_seed(0))
    counts = drawn.flatten().bincount(minlength=28 * 28).double()
    assert len(counts) == 28 * 28
    # first operation and sign × second operation and sign: all 784 equally often
    assert 1e-3 < stats.chisquare(counts).pvalue < 1 - 1e-3
    table = counts.view(28, 28)
    for share in (table.sum(0), table.sum(1)):
        assert 1e-3 < stats.chisquare(share.view(14, 2).sum(1)).pvalue < 1 - 1e-3
        assert 1e-3 < stats.chisquare(share.view(14, 2).sum(0)).pvalue < 1 - 1e-3


def test_an_operation_is_called_once_for_all_images_that_drew_it(monkeypatch):
    sizes = recording(monkeypatch)
    rand_augment(torch.zeros(500, 1, 1, 1, dtype=torch.int64), torch.Generator().manual_seed(0))
    assert len(sizes) == 2 * 28 and sum(sizes) == 2 * 500


def test_images_do_not_influence_each_other():
    base = rand_augment(images(), torch.Generator().manual_seed(3))
    other = images().clone()
    other[1::2] = 255 - other[1::2]
    found = rand_augment(other, torch.Generator().manual_seed(3))
    assert torch.equal(found[::2], base[::2]) and not torch.equal(found[1::2], base[1::2])


def test_an_image_gets_what_was_drawn_for_it_whatever_the_others_drew():
    # repeated in all places, it shows at each place what an own pair of operations gives, and no mixture
    many = images()[:1].expand(300, -1, -1, -1)
    found = rand_augment(many, torch.Generator().manual_seed(4))
    signs = [(which, sign) for which in range(14) for sign in (-1, 1)]
    once = [randaugment._ALL[w](images()[:1], s) for w, s in signs]
    possible = {randaugment._ALL[w](x, s).numpy().tobytes() for x in once for w, s in signs}
    assert {x.numpy().tobytes() for x in found[:, None]} <= possible
    assert len({x.numpy().tobytes() for x in found}) > 100


def test_the_same_generator_gives_the_same_and_another_another():
    first, again, other = (rand_augment(images(), torch.Generator().manual_seed(s)) for s in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)
    own = torch.Generator().manual_seed(5)
    assert not torch.equal(rand_augment(images(), own), rand_augment(images(), own))  # it goes on


def test_leaves_its_input_and_the_global_generator_alone():
    before, state = images().clone(), torch.random.get_rng_state()
    found = rand_augment(images(), torch.Generator().manual_seed(7))
    assert torch.equal(images(), before) and torch.equal(torch.random.get_rng_state(), state)
    assert found.data_ptr() != images().data_ptr() and not torch.equal(found, before)
    assert found.dtype == torch.uint8 and found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_small_batches(n):
    assert rand_augment(images()[:n], torch.Generator().manual_seed(0)).shape == (n, 3, SIDE, SIDE)
