"""Training batches: content, order, random streams, and the last batch."""

import dataclasses
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.data.datasets import Dataset, Split, load
from benchmark.data.loader import STRONG, WEAK, Loader
from methods.contract import Batch
from tests.benchmark.data.examples import NO_FOLDER, dataset_config
from tests.benchmark.data.test_augmentation import crop_by_pixel


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(dataset_config("digits"), NO_FOLDER)


def make_loader(dataset: Dataset, batch_size: int = 32, seed: int = 0, device: str = "cpu", **changes) -> Loader:
    return Loader(dataset.train, dataclasses.replace(dataset.config, **changes), batch_size, seed, device)


def order_and_ids(loader: Loader, epoch: int) -> tuple[list[int], list[int]]:
    """Return the indices and the augmentation ids of all samples of an epoch, in order."""
    batches = list(loader.epoch(epoch))
    ids = [batch.augmentation_ids[WEAK] for batch in batches]
    return torch.cat([batch.indices for batch in batches]).tolist(), torch.cat(ids).tolist()


def same_batch(a: Batch, b: Batch) -> bool:
    """Return whether two batches hold the same samples and images; labels follow from the indices."""
    images = all(torch.equal(x.cpu(), y.cpu()) for x, y in zip(a.images, b.images, strict=True))
    return images and torch.equal(a.indices.cpu(), b.indices.cpu())


@pytest.mark.parametrize(("padding", "flip"), [(2, False), (4, True)])
def test_batches_hold_the_samples_and_outcomes_that_they_name(digits, padding, flip):
    loader = make_loader(digits, padding=padding, flip=flip)
    mean, std = (np.array(v)[None, :, None, None] for v in (digits.config.mean, digits.config.std))
    indices = []
    for batch in loader.epoch(5):
        images, ids = batch.images[WEAK], batch.augmentation_ids[WEAK]
        assert batch.epoch == 5 and len(batch.images) == len(batch.augmentation_ids) == 1
        assert images.dtype == torch.float32 and images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(batch.labels, digits.train.labels[batch.indices])
        assert batch.indices_cpu is not None and torch.equal(batch.indices_cpu, batch.indices)
        pixels = np.rint((images.double().numpy() * std + mean) * 255).astype(np.uint8)
        for image, i, id in list(zip(pixels, batch.indices, ids, strict=True))[:3]:
            assert np.array_equal(image, crop_by_pixel(digits.train.images[i].numpy(), int(id), padding, flip))
        assert torch.equal(loader.augmented(batch.indices, ids), images)
        indices += batch.indices.tolist()
    assert sorted(indices) == list(range(200)) and loader.image_size == 16


def test_a_strong_view_is_a_column_of_its_epoch_and_changes_no_weak_view(digits):
    loader = make_loader(digits)
    pairs = list(zip(loader.epoch(3, views=2), loader.epoch(3), loader.epoch(3, views=2), strict=True))
    for both, weak_only, again in pairs:
        assert torch.equal(both.images[WEAK], weak_only.images[WEAK]) and same_batch(both, again)
        assert both.augmentation_ids[STRONG].tolist() == [2] * len(both.labels)
        assert both.images[STRONG].shape == both.images[WEAK].shape
    assert not torch.equal(pairs[0][0].images[STRONG], pairs[0][0].images[WEAK])
    before_training = next(loader.epoch(0, views=2))
    assert before_training.augmentation_ids[STRONG] is None and before_training.augmentation_ids[WEAK] is not None


def test_augmentation_keys_are_those_of_cache_headers(digits):
    loader = make_loader(digits, batch_size=64, seed=3, flip=True)
    assert loader.augmentation_key(WEAK) == "crops with padding 2 and flips"
    assert make_loader(digits).augmentation_key(WEAK) == "crops with padding 2"
    expected = "second views of seed 3 (crops with padding 2 and flips in batches of 64, RandAugment 2 × 10/30)"
    assert loader.augmentation_key(STRONG) == expected


def test_outcomes_are_about_equally_frequent(digits):
    loader = make_loader(digits, 64)
    counts = np.bincount([id for epoch in range(1, 11) for id in order_and_ids(loader, epoch)[1]])
    assert len(counts) == loader.outcomes == 25
    assert counts.min() > 40 and counts.max() < 120  # 2,000 draws: 80 each, with a standard deviation of 9


def test_order_and_outcomes_follow_the_seed_and_the_epoch_alone(digits):
    loader = make_loader(digits)
    first, second = order_and_ids(loader, 1), order_and_ids(loader, 2)
    assert order_and_ids(make_loader(digits), 2) == second  # without the epoch before
    assert order_and_ids(make_loader(digits, 50), 1) == first  # in batches of another size
    other_seed = order_and_ids(make_loader(digits, seed=1), 1)
    for a, b in ((first, second), (first, other_seed)):
        assert a[0] != b[0] and a[1] != b[1]


def test_draws_of_a_method_change_no_batch_and_differ_between_steps_and_epochs(digits):
    drawing, idle, draws = make_loader(digits), make_loader(digits), []
    for epoch in (1, 2):
        for a, b in zip(drawing.epoch(epoch), idle.epoch(epoch), strict=True):
            draws.append(tuple(torch.rand(7, generator=a.generator).tolist()))
            assert same_batch(a, b)
    assert len(set(draws)) == len(draws)
    again = next(make_loader(digits).epoch(2))
    assert tuple(torch.rand(7, generator=again.generator).tolist()) == draws[len(drawing)]


@settings(max_examples=50)
@given(size=st.integers(1, 40), batch_size=st.integers(1, 45))
def test_the_last_batch_is_kept_unless_it_is_a_single_image(size, batch_size):
    split = Split(torch.zeros(size, 3, 4, 4, dtype=torch.uint8), torch.zeros(size, dtype=torch.int64))
    config = dataset_config("digits", padding=0, mean=[0, 0, 0], std=[1, 1, 1])
    slices = [min(batch_size, size - start) for start in range(0, size, batch_size)]
    expected = [n for n in slices if n > 1]
    build: Callable[[], Loader] = lambda: Loader(split, config, batch_size, 0, "cpu")  # noqa: E731
    if not expected:
        with pytest.raises(ValueError, match="no batch of two"):
            build()
        return
    assert [len(batch.labels) for batch in build().epoch(1)] == expected
    assert len(build()) == len(expected)


def test_no_global_generator_is_used():
    def states():
        return torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()

    before = states()
    dataset = load(dataset_config("digits", validation=0.2), NO_FOLDER)
    list(make_loader(dataset).epoch(1, views=2))
    assert states() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_are_the_same_on_cpu_and_gpu(digits):
    cpu, cuda = (make_loader(digits, device=device, flip=True) for device in ("cpu", "cuda"))
    for a, b in zip(cpu.epoch(1), cuda.epoch(1), strict=True):
        assert b.images[WEAK].is_cuda and b.generator.device.type == "cuda"
        assert torch.equal(a.indices, b.indices.cpu()) and torch.equal(*(x.augmentation_ids[WEAK] for x in (a, b)))
        torch.testing.assert_close(a.images[WEAK], b.images[WEAK].cpu())


def test_rotations_follow_seed_and_epoch_and_leave_views_without_ids(digits):
    loader, plain = make_loader(digits, rotation=20.0), make_loader(digits)
    assert loader.outcomes is None and plain.outcomes is not None
    batches = list(loader.epoch(3, views=2))
    assert all(batch.augmentation_ids == [None, None] for batch in batches)
    assert all(map(same_batch, batches, make_loader(digits, rotation=20.0).epoch(3, views=2)))
    loader._made_at_once = 4  # as on a GPU
    assert all(map(same_batch, batches, loader.epoch(3, views=2)))
    rotated = [a.images[WEAK] != b.images[WEAK] for a, b in zip(batches, plain.epoch(3), strict=True)]
    share = torch.cat(rotated).flatten(1).any(1).float().mean()
    assert 0.7 < share < 0.9, "angles below 3.8 of 20 degrees move no pixel of a side of 16 by half a pixel"
    assert torch.equal(loader.unaugmented(torch.arange(5)), plain.unaugmented(torch.arange(5)))
