"""Random crop and flip against a pixel loop, and normalization against its formula."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmark.data import augmentation
from benchmark.data.datasets import normalize
from tests.benchmark.data.examples import dataset_config


def crop_by_pixel(image: np.ndarray, augmentation_id: int, padding: int, flip: bool) -> np.ndarray:
    """Return one outcome of an image [3, H, W], pixel by pixel."""
    height, width = image.shape[1:]
    mirrored = flip and augmentation_id % 2 == 1
    corner = augmentation_id // 2 if flip else augmentation_id
    dy, dx = corner // (2 * padding + 1), corner % (2 * padding + 1)
    outcome = np.zeros_like(image)
    for c, y, x in itertools.product(range(3), range(height), range(width)):
        row = y + dy - padding
        column = (width - 1 - x if mirrored else x) + dx - padding
        if 0 <= row < height and 0 <= column < width:
            outcome[c, y, x] = image[c, row, column]
    return outcome


@given(st.lists(st.booleans(), min_size=1, max_size=5))
def test_mirrored_images_are_copies_from_right_to_left(mirrored):
    images = torch.randint(256, (len(mirrored), 4, 5, 3), dtype=torch.uint8)
    before = images.clone()
    result = augmentation.mirror(images, torch.tensor(mirrored).nonzero().flatten())
    for image, mirror, original in zip(result.numpy(), mirrored, before.numpy(), strict=True):
        np.testing.assert_array_equal(image, original[:, ::-1] if mirror else original)
    assert torch.equal(images, before)


@settings(max_examples=25)
@given(data=st.data(), padding=st.integers(0, 4), flip=st.booleans(), side=st.integers(4, 7))
def test_crop_and_flip_equals_a_pixel_loop(data, padding, flip, side):
    images = data.draw(arrays(np.uint8, (3, 3, side, side)))
    outcomes = (2 * padding + 1) ** 2 * (1 + flip)
    pairs = data.draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, outcomes - 1)), min_size=1, max_size=8))
    indices, ids = torch.tensor(pairs).unbind(1)
    padded = augmentation.pad(torch.from_numpy(images), padding)
    views = augmentation.crop_and_flip(padded, indices, ids, padding, flip)
    assert np.array_equal(views.numpy(), np.stack([crop_by_pixel(images[i], id, padding, flip) for i, id in pairs]))


def test_all_outcomes_of_an_image_differ():
    image = torch.randint(1, 256, (1, 3, 7, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for padding, flip, outcomes in ((4, True, 162), (2, False, 25), (0, True, 2), (0, False, 1)):
        assert augmentation.count_outcomes(padding, flip) == outcomes
        ids = torch.arange(outcomes)
        views = augmentation.crop_and_flip(augmentation.pad(image, padding), ids * 0, ids, padding, flip)
        assert len(views.flatten(1).unique(dim=0)) == outcomes


@settings(max_examples=25)
@given(padding=st.integers(0, 4), flip=st.booleans())
def test_one_outcome_is_the_unaugmented_image(padding, flip):
    images = torch.randint(1, 256, (3, 3, 7, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ids = torch.full((3,), augmentation.identity_id(padding, flip))
    padded = augmentation.pad(images, padding)
    assert torch.equal(augmentation.crop_and_flip(padded, torch.arange(3), ids, padding, flip), images)


def test_normalization_is_the_formula_in_channels_last_memory():
    images = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    config = dataset_config("cifar100")
    normalized = normalize(images, config)
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (config.mean, config.std))
    torch.testing.assert_close(normalized.double(), (images.double() / 255 - mean) / std, atol=1e-6, rtol=0)
    assert normalized.dtype == torch.float32 and normalized.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(16, 16), (12, 20)])
def test_rotations_are_torchvisions_of_each_image(shape):
    from torchvision.transforms.v2 import functional as F

    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (8, 3, *shape), generator=random, dtype=torch.uint8)
    degrees = torch.tensor([0.0, 20.0, -20.0, 7.5, -3.25, 90.0, 180.0, 45.0])
    rotated = augmentation.rotate(images, degrees)
    assert torch.equal(rotated[0], images[0]) and torch.equal(rotated[6], images[6].flip(1, 2))
    for image, angle, result in zip(images, degrees.tolist(), rotated, strict=True):
        differing = (F.rotate(image, angle) != result).any(0).float().mean()
        assert differing <= 0.02, "pixels half way between two may be rounded to either"
