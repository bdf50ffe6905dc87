"""Streamed batches: what they show, that workers and other epochs do not alter them, and what a damaged file does."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from benchmark.data.batches import STRONG, WEAK
from benchmark.data.datasets import Dataset, load
from benchmark.data.decoders import DecodedBatches, Request
from benchmark.data.image_files import FileSplit
from benchmark.data.loader import Loader
from benchmark.data.mixing import ImageRecipe
from benchmark.data.streaming import StreamingLoader, evaluation_batches, make_loader
from benchmark.errors import UserError
from benchmark.training.seeding import seed_for
from methods.contract import Batch
from tests.benchmark.data.examples import dataset_config
from tests.benchmark.data.layouts import write_imagenet, write_tiny_imagenet

SIZE = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    write_imagenet(folder / "imagenet", train=5)
    write_tiny_imagenet(folder / "tiny-imagenet-200", train=5)
    return folder


def photographs(folder, **changes) -> Dataset:
    return load(dataset_config("imagenet", **{"size": SIZE, "workers": 0, **changes}), folder)


def loader_of(dataset: Dataset, seed: int = 3, batch_size: int = 4) -> StreamingLoader:
    loader = make_loader(dataset.train, dataset.config, batch_size, seed, "cpu")
    assert isinstance(loader, StreamingLoader)
    return loader


def same(a: Batch, b: Batch) -> bool:
    images = len(a.images) == len(b.images) and all(map(torch.equal, a.images, b.images))
    return images and torch.equal(a.labels, b.labels) and torch.equal(a.indices, b.indices) and a.epoch == b.epoch


def all_same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) > 0 and all(map(same, a, b))


# ------------------------------------------------------------ content


def test_a_random_crop_is_torchvisions_of_the_seed_the_epoch_and_the_image(folder):
    dataset = photographs(folder, flip=False, mean=[0, 0, 0], std=[1, 1, 1])
    batch = next(loader_of(dataset, seed=3).epoch(2))
    assert isinstance(dataset.train, FileSplit)
    for image, index in zip(batch.images[WEAK], batch.indices.tolist(), strict=True):
        photograph = Image.open(dataset.train.path(index)).convert("RGB")
        torch.manual_seed(seed_for("decoded view", 3, 2, index))
        crop = transforms.RandomResizedCrop(SIZE)(photograph)
        assert torch.allclose(image, transforms.ToTensor()(crop), atol=1e-6)


def test_a_batch_fulfills_the_contract_of_the_resident_loader(folder):
    dataset = photographs(folder)
    batches = list(loader_of(dataset).epoch(1, views=2))
    assert [len(batch.labels) for batch in batches] == [4, 4, 4, 3]
    for batch in batches:
        assert batch.augmentation_ids == [None, None] and len(batch.images) == 2 and batch.epoch == 1
        for images in batch.images:
            assert images.dtype == torch.float32 and images.shape[1:] == (3, SIZE, SIZE)
            assert images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(batch.labels, dataset.train.labels[batch.indices])
        assert batch.indices_cpu is not None and torch.equal(batch.indices_cpu, batch.indices)
        assert not torch.equal(batch.images[WEAK], batch.images[STRONG])
    assert sorted(torch.cat([batch.indices for batch in batches]).tolist()) == list(range(15))


def test_the_order_is_that_of_the_resident_loader(folder):
    """So it is for all data sets of a size: it depends on the run's seed and the epoch."""
    streamed = loader_of(photographs(folder), seed=5)
    resident = load(dataset_config("tinyimagenet"), folder)
    loader = make_loader(resident.train, resident.config, 4, 5, "cpu")
    for epoch in (1, 2):
        indices = [torch.cat([batch.indices for batch in each.epoch(epoch)]) for each in (streamed, loader)]
        assert torch.equal(*indices)


def test_half_of_the_images_are_mirrored(folder):
    dataset, mirrored = photographs(folder), 0
    unflipped = photographs(folder, flip=False)
    for epoch in range(1, 7):
        for a, b in zip(loader_of(dataset).epoch(epoch), loader_of(unflipped).epoch(epoch), strict=True):
            for image, plain in zip(a.images[WEAK], b.images[WEAK], strict=True):
                mirrored += torch.equal(image, plain.flip(2))
                assert torch.equal(image, plain.flip(2)) != torch.equal(image, plain)
    assert 25 <= mirrored <= 65, "of 90 images, 45 on average with a deviation of 4.7"


@pytest.mark.parametrize("size", [32, 48, 224])
def test_evaluation_shows_the_center_of_the_resized_photograph(folder, size):
    dataset = photographs(folder, size=size)
    images = torch.cat(list(evaluation_batches(dataset.test, dataset.config, 4, "cpu")))
    steps = [
        transforms.Resize({32: 37, 48: 55, 224: 256}[size]), transforms.CenterCrop(size), transforms.ToTensor(),
        transforms.Normalize(dataset.config.mean, dataset.config.std),
    ]  # fmt: skip
    assert isinstance(dataset.test, FileSplit) and len(images) == len(dataset.test.labels) == 6
    for index, image in enumerate(images):
        expected = transforms.Compose(steps)(Image.open(dataset.test.path(index)).convert("RGB"))
        assert torch.allclose(image, expected, atol=1e-5)


def test_unaugmented_images_are_those_of_an_evaluation(folder):
    dataset = photographs(folder)
    loader = make_loader(dataset.train, dataset.config, 4, 0, "cpu")
    every = torch.cat(list(evaluation_batches(dataset.train, dataset.config, 7, "cpu")))
    chosen = torch.tensor([14, 0, 3])
    assert torch.equal(loader.unaugmented(chosen), every[chosen])
    assert [len(part) for part in loader.unaugmented_batches(torch.arange(15), 6)] == [6, 6, 3]


@pytest.mark.parametrize("rotation", [0.0, 20.0])
@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("size", [32, 64])
def test_streamed_padded_crops_are_those_of_images_in_memory_to_the_bit(folder, views, size, rotation):
    loaders = []
    for loading in ("device", "stream"):
        config = dataset_config("tinyimagenet", size=size, loading=loading, workers=0, rotation=rotation)
        dataset = load(config, folder)
        loaders.append(make_loader(dataset.train, dataset.config, 4, 1, "cpu"))
        assert dataset.fingerprint == load(dataset_config("tinyimagenet"), folder).fingerprint
    assert isinstance(loaders[0], Loader) and isinstance(loaders[1], StreamingLoader)
    for epoch in (1, 2):
        assert all_same(list(loaders[0].epoch(epoch, views)), list(loaders[1].epoch(epoch, views)))


# ------------------------------------------------------------ what must not matter


@pytest.mark.parametrize("workers", [1, 4])
def test_batches_are_the_same_with_any_number_of_workers(folder, workers):
    alone, spread = loader_of(photographs(folder)), loader_of(photographs(folder, workers=workers))
    for epoch in (1, 2):
        assert all_same(list(alone.epoch(epoch, 2)), list(spread.epoch(epoch, 2)))
    spread.close()
    assert all_same(list(alone.epoch(3)), list(spread.epoch(3))), "workers start again"
    spread.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_is_the_same_after_other_epochs_and_after_an_abandoned_one(folder, workers):
    fresh, used = (loader_of(photographs(folder, workers=workers)) for _ in range(2))
    list(used.epoch(1))
    abandoned = used.epoch(2)
    next(abandoned)
    assert all_same(list(fresh.epoch(3)), list(used.epoch(3)))
    fresh.close()
    used.close()


def test_epochs_seeds_and_views_differ(folder):
    dataset = photographs(folder, flip=False)
    batches = DecodedBatches(dataset.train, dataset.config, 0)
    positions = np.arange(15)
    first = batches[Request(positions, 1, 2)]
    others = [
        batches[Request(positions, 2, 2)],
        DecodedBatches(dataset.train, dataset.config, 1)[Request(positions, 1, 2)],
        first.flip(0),
    ]
    assert all((first[0] != other[0]).flatten(1).any(1).all() for other in others)


def test_streaming_leaves_torchs_global_generator_alone(folder):
    state = torch.random.get_rng_state()
    for workers in (0, 1):
        loader = loader_of(photographs(folder, workers=workers))
        list(loader.epoch(1, 2))
        loader.close()
    assert torch.equal(torch.random.get_rng_state(), state)


# ------------------------------------------------------------ RandAugment of a recipe


def rand_augmented(dataset: Dataset, policy: str | None, views: int = 1) -> list[Batch]:
    loader = make_loader(dataset.train, dataset.config, 4, 0, "cpu", ImageRecipe(rand_augment=policy))
    batches = list(loader.epoch(1, views))
    loader.close()
    return batches


def test_rand_augment_is_timms_of_the_same_crop(folder):
    timm = pytest.importorskip("timm.data.auto_augment")
    dataset = photographs(folder, flip=False, mean=[0.5] * 3, std=[1.0] * 3)
    operation = timm.rand_augment_transform("rand-m9-mstd0.5-inc1", {"translate_const": 14, "img_mean": (128,) * 3})
    (batch, *_), assigned = rand_augmented(dataset, "rand-m9-mstd0.5-inc1"), 0
    assert isinstance(dataset.train, FileSplit)
    for image, index in zip(batch.images[WEAK], batch.indices.tolist(), strict=True):
        seed = seed_for("decoded view", 0, 1, index)
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        crop = transforms.RandomResizedCrop(SIZE)(Image.open(dataset.train.path(index)).convert("RGB"))
        expected = transforms.ToTensor()(operation(crop)) - 0.5
        assert torch.allclose(image, expected, atol=1e-6)
        assigned += 1
    assert assigned == 4


def test_rand_augment_is_the_same_with_workers_and_leaves_strong_views_and_random_states_alone(folder):
    pytest.importorskip("timm")
    before = random.getstate(), np.random.get_state()[1].tolist()
    alone, spread = (
        rand_augmented(photographs(folder, workers=workers), "rand-m9-mstd0.5-inc1", 2) for workers in (0, 1)
    )
    plain = rand_augmented(photographs(folder), None, 2)
    assert all_same(alone, spread)
    assert all(torch.equal(a.images[STRONG], b.images[STRONG]) for a, b in zip(alone, plain, strict=True))
    assert not any(torch.equal(a.images[WEAK], b.images[WEAK]) for a, b in zip(alone, plain, strict=True))
    assert before == (random.getstate(), np.random.get_state()[1].tolist())


@pytest.mark.parametrize("policy", ["m9", "augmix-m3", "rand-m9-q3"])
def test_another_notation_of_rand_augment_is_refused(folder, policy):
    pytest.importorskip("timm")
    with pytest.raises(UserError, match=f"recipe.rand_augment is '{policy}': write it as timm does"):
        rand_augmented(photographs(folder), policy)


# ------------------------------------------------------------ faults


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_no_image_is_named(tmp_path, workers):
    root = write_imagenet(tmp_path / "imagenet")
    damaged = root / "train" / "n02" / "n02_1.JPEG"
    damaged.write_bytes(damaged.read_bytes()[:100])
    loader = loader_of(photographs(tmp_path, workers=workers))
    with pytest.raises(UserError, match=r"n02_1.JPEG cannot be read as an image \(.*\): remove or replace it$"):
        list(loader.epoch(1))
    loader.close()
