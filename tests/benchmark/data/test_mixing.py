"""Mixup, CutMix, erasing and smoothing: blended images and targets agree, and follow from seed and epoch alone."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmark.data.datasets import Split
from benchmark.data.loader import Loader
from benchmark.data.mixing import ImageRecipe, Mixing
from tests.benchmark.data.examples import dataset_config

CLASSES, N, SIDE = 5, 6, 24
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


def flat_images() -> torch.Tensor:
    """Images of one value each, their position plus one."""
    return torch.arange(1.0, N + 1)[:, None, None, None].expand(N, 3, SIDE, SIDE).contiguous()


def recipe(**options) -> ImageRecipe:
    return ImageRecipe(**options, classes=CLASSES)


def share_of_first(images: torch.Tensor) -> float:
    """Return λ, for which the first image, of 1 blended with 6, has the mean λ + 6 (1 − λ)."""
    return (6 - images[0].mean().item()) / 5


@pytest.mark.parametrize("options", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
def test_targets_have_the_shares_of_the_images(options):
    shares, kinds = [], set()
    mixing = Mixing(recipe(**options), seed=0, epoch=1)
    for _ in range(40):
        images, labels, targets = mixing(flat_images(), LABELS)
        share = share_of_first(images)
        one_hot = F.one_hot(LABELS, CLASSES)
        assert targets is not None
        assert torch.allclose(targets, share * one_hot + (1 - share) * one_hot.flip(0), atol=1e-4)
        assert torch.equal(labels, LABELS if share >= 0.5 else LABELS.flip(0))
        kinds.add("mixup" if len(images[0].unique()) == 1 and 0.02 < share < 0.98 else "cutmix")
        shares.append(share)
    assert kinds == options.keys() or kinds == {*options, "cutmix"}
    assert np.std(shares) > 0.15 and 0.3 < np.mean(shares) < 0.75


def test_cutmix_pastes_a_rectangle_of_the_partner():
    mixing = Mixing(recipe(cutmix=1.0), seed=0, epoch=1)
    for _ in range(10):
        images, _, _ = mixing(flat_images(), LABELS)
        pasted = images[0, 0] == 6
        rows, columns = pasted.any(1), pasted.any(0)
        assert torch.equal(pasted, rows[:, None] & columns[None]), "a rectangle, the same in all channels"
        assert all(torch.equal(images[i, c] == 6 - i, pasted) for i in range(N) for c in range(3))


def test_smoothing_without_mixing_is_torchs_label_smoothing():
    logits = torch.randn(N, CLASSES, generator=torch.Generator().manual_seed(0))
    images, labels, targets = Mixing(recipe(smoothing=0.1), 0, 1)(flat_images(), LABELS)
    assert torch.equal(images, flat_images()) and torch.equal(labels, LABELS) and targets is not None
    expected = F.cross_entropy(logits, LABELS, label_smoothing=0.1)
    assert F.cross_entropy(logits, targets).item() == pytest.approx(expected.item(), rel=1e-6)


def test_smoothed_mixup_is_timms():
    mixup = pytest.importorskip("timm.data.mixup")
    images, _, targets = Mixing(recipe(mixup=0.8, smoothing=0.1), 3, 1)(flat_images(), LABELS)
    expected = mixup.mixup_target(LABELS, CLASSES, share_of_first(images), 0.1)
    assert torch.allclose(targets, expected, atol=1e-4)


def test_erasing_puts_noise_into_a_rectangle_of_some_images():
    erased, areas = 0, []
    mixing = Mixing(recipe(erasing=0.25), seed=0, epoch=1)
    for _ in range(60):
        images, labels, targets = mixing(flat_images(), LABELS)
        assert targets is None and torch.equal(labels, LABELS)
        for changed in (images != flat_images()).all(1):
            rows, columns = changed.any(1), changed.any(0)
            assert torch.equal(changed, rows[:, None] & columns[None])
            erased += bool(changed.any())
            areas += [changed.float().mean().item()] if changed.any() else []
    assert 60 <= erased <= 120, "of 360 images 90 on average, with a deviation of 8"
    assert min(areas) > 0.01 and max(areas) < 0.36


def test_a_batch_depends_on_seed_and_epoch_alone():
    options = recipe(mixup=0.8, cutmix=1.0, erasing=0.5, smoothing=0.1)

    def batch(seed: int, epoch: int) -> torch.Tensor:
        return Mixing(options, seed, epoch)(flat_images(), LABELS).images

    assert torch.equal(batch(0, 1), batch(0, 1))
    assert len({batch(seed, epoch).sum().item() for seed in (0, 1) for epoch in (1, 2)}) == 4


def test_a_resident_loader_mixes_and_leaves_its_views_without_ids():
    pixels = torch.randint(256, (N, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = Split(pixels.contiguous(memory_format=torch.channels_last), LABELS)
    config = dataset_config("digits", mean=[0.5] * 3, std=[0.5] * 3)
    plain, smooth, mixed = (
        Loader(split, config, N, 0, "cpu", options) for options in (recipe(), recipe(smoothing=0.1), recipe(mixup=0.8))
    )
    batches = [next(loader.epoch(1)) for loader in (plain, smooth, mixed)]
    assert [loader.outcomes for loader in (plain, smooth, mixed)] == [25, 25, None]
    assert [batch.targets is None for batch in batches] == [True, False, False]
    assert torch.equal(batches[0].images[0], batches[1].images[0])
    assert not torch.equal(batches[0].images[0], batches[2].images[0])
    assert batches[2].augmentation_ids == [None] and batches[1].augmentation_ids[0] is not None
    assert torch.equal(batches[0].class_targets, batches[0].labels)
    assert batches[2].class_targets is batches[2].targets
    assert dataclasses.replace(batches[0]).targets is None
