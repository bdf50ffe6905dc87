"""Training and evaluation batches decoded from image files by worker processes.

A worker decodes whole batches by PIL and crops them; the device flips, normalizes and casts them. What is drawn for an
image depends on the run's seed, the epoch and the image's position alone, so that batches are the same with any number
of workers, and an epoch is the same after any other epochs.

Memory: a worker holds two batches of uint8 pixels, one decoded image, and the arrays of paths that all processes share.
"""

import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from benchmark.config.schema import CROP, RESIZED_CROP, DatasetConfig
from benchmark.data import augmentation, randaugment, resized_copy
from benchmark.data.batches import WEAK, BatchLoader
from benchmark.data.datasets import Split, normalization, normalize
from benchmark.data.decoding import UnreadableImage, decode, random_crop, timm_rand_augment, whole
from benchmark.data.image_files import FileSplit
from benchmark.data.limits import EVALUATED_SHARE
from benchmark.data.loader import Loader
from benchmark.data.mixing import PLAIN, ImageRecipe, Mixing
from benchmark.errors import UserError
from benchmark.training.hardware import return_freed_memory
from benchmark.training.seeding import generator, seed_for
from methods.contract import Batch

MOST_WORKERS = 16  # by default; more of them decode faster than a GPU trains
VIEW_STREAMS = ("decoded view", "decoded second view")  # purposes of random numbers of the views of an image


@dataclass(frozen=True)
class Request:
    """What a worker decodes at once. epoch: of random crops; None: centered images. views: 1, or 2 random crops."""

    positions: np.ndarray  # int64 [B], in the split
    epoch: int | None = None
    views: int = 1


class RequestedBatches(Dataset[Any]):
    """Decodes requested batches: uint8 [V, B, size, size, 3]; or the reason, a string, why a file cannot be decoded."""

    def __init__(
        self, split: FileSplit, config: DatasetConfig, seed: int, rand_augment: str | None = None
    ) -> None:  # fmt: skip
        self._split, self._size, self._seed = split, config.size, seed
        self._rand_augment = None if rand_augment is None else timm_rand_augment(rand_augment, config)
        self._shorter_side = config.size
        if config.augmentation == RESIZED_CROP:
            self._shorter_side = round(config.size / EVALUATED_SHARE)

    def __getitem__(self, request: Request) -> Tensor | str:
        """Decode a batch."""
        shape = (request.views, len(request.positions), self._size, self._size, 3)
        batch = torch.empty(shape, dtype=torch.uint8)
        pixels = batch.numpy()
        for i, position in enumerate(request.positions.tolist()):
            path = self._split.path(position)
            try:
                image = decode(path, self._split.files.as_shown)
            except UnreadableImage as error:
                return f"{path} cannot be read as an image ({error}): remove or replace it"
            for view in range(request.views):
                if request.epoch is None:
                    pixels[view, i] = whole(image, self._size, self._shorter_side)
                else:
                    with _seeded(VIEW_STREAMS[view], self._seed, request.epoch, position):
                        crop = random_crop(image, self._size)
                        if self._rand_augment is not None and view == WEAK:
                            crop = self._rand_augment(crop)
                        pixels[view, i] = np.asarray(crop)
        return batch


@contextlib.contextmanager
def _seeded(purpose: str, *parts: int) -> Iterator[None]:
    """Seed the global generators of the CPU and restore them afterwards: torch's, from which torchvision draws, and
    Python's and NumPy's, from which timm's RandAugment draws."""
    seed, python, numpy = seed_for(purpose, *parts), random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


class _Requests(Sampler[Request]):
    """The requests of the next pass over a `DataLoader`, which may outlive many of them."""

    def __init__(self) -> None:
        self.requests: Sequence[Request] = ()

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests)


class Decoder:
    """Decodes batches of a split in worker processes, which wait for the next pass between two of them."""

    def __init__(
        self, split: FileSplit, config: DatasetConfig, seed: int, device: torch.device | str, *,
        rand_augment: str | None = None,
    ) -> None:  # fmt: skip
        device_type = torch.device(device).type
        if config.cache_dir is not None:
            split = resized_copy.ensure(split, config.cache_dir)
        workers = config.workers if config.workers is not None else default_workers(device_type)
        self._requests, batches = _Requests(), RequestedBatches(split, config, seed, rand_augment)
        self._loader = DataLoader(
            batches, batch_size=None, sampler=self._requests, num_workers=workers,
            worker_init_fn=_prepare_worker, collate_fn=_unchanged, pin_memory=device_type == "cuda",
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # else it draws from the global one, with which networks are initialized
        )  # fmt: skip

    def decode(self, requests: Sequence[Request]) -> Iterator[Tensor]:
        """Yield the batches of requests in their order, uint8 [V, B, size, size, 3] on the CPU.

        Raises UserError where a file cannot be decoded.
        """
        self._requests.requests = requests
        for batch in self._loader:
            if isinstance(batch, str):
                raise UserError(batch)
            yield batch


def _prepare_worker(_: int) -> None:
    return_freed_memory()


def _unchanged(batch: Any) -> Any:
    return batch


def default_workers(device: str) -> int:
    """Return the number of worker processes of a run: on a GPU one for each of its CPU threads but one, at most 16; on
    a CPU one for every second thread, since training needs them too."""
    threads = torch.get_num_threads()
    return max(1, min(threads - 1, MOST_WORKERS)) if device == "cuda" else max(1, threads // 2)


class StreamingLoader(BatchLoader):
    """Training batches of a split of image files; see `BatchLoader`.

    Views are random crops of the photographs (`augmentation=resized_crop`), or crops of the padded, resized images,
    which are the views of `Loader`, pixel by pixel. They have no ids, so that outputs of a teacher are not stored. A
    strong view is an independent crop and flip followed by RandAugment.
    """

    def __init__(
        self, split: FileSplit, config: DatasetConfig, batch_size: int, seed: int, device: torch.device | str,
        recipe: ImageRecipe = PLAIN,
    ) -> None:  # fmt: skip
        super().__init__(split.labels, batch_size, seed, device, None, recipe, config.rotation)
        self._split, self._config = split, config
        self._flip, self._padding = config.flip, config.padding if config.augmentation == CROP else 0
        self._ids = augmentation.count_outcomes(self._padding, self._flip)
        self._normalization = normalization(config, config.size, device)
        self._decoder: Decoder | None = None

    @property
    def image_size(self) -> int:
        """Height and width of a batch's images in pixels."""
        return self._config.size

    def epoch(self, epoch: int, views: int = 1) -> Iterator[Batch]:
        """Yield the batches of one epoch, counted from 1, with one or two views of each image."""
        order = self.order(epoch)
        ids = torch.randint(self._ids, (self.size,), generator=generator("views", self.seed, epoch))[: len(order)]
        method = generator("method", self.seed, epoch, device=self.device)
        strong, mixing = generator("second view", self.seed, epoch), Mixing(self.recipe, self.seed, epoch)
        angles = self.angles(len(order), generator("rotation", self.seed, epoch))
        batches = list(zip(*(column.split(self.batch_size) for column in (order, ids, angles)), strict=True))
        decoded = self._open().decode([self._request(indices, epoch, views) for indices, *_ in batches])
        for (indices_cpu, weak_ids, weak_angles), pixels in zip(batches, decoded, strict=True):
            pixels, indices = pixels.to(self.device, non_blocking=True), indices_cpu.to(self.device)
            weak = self._normalized(self._augmented(pixels[0], weak_ids, weak_angles))
            weak, labels, targets = mixing(weak, self.labels[indices])
            images = [weak]
            if views > 1:
                strong_ids = torch.randint(self._ids, indices_cpu.shape, generator=strong)
                base = self._augmented(pixels[-1], strong_ids, self.angles(len(strong_ids), strong))
                images.append(self._normalized(randaugment.rand_augment(base, strong)))
            yield Batch(images, labels, indices, epoch, method, indices_cpu, [None] * views, targets)

    def unaugmented_batches(self, indices: Tensor, batch_size: int) -> Iterator[Tensor]:
        """Yield images `indices` as they are evaluated, normalized: float32 [B, 3, H, W]."""
        requests = [Request(part.numpy()) for part in indices.cpu().split(batch_size)]
        for pixels in self._open().decode(requests):
            yield self._normalized(pixels[0].to(self.device).permute(0, 3, 1, 2))

    def close(self) -> None:
        """End the workers."""
        self._decoder = None

    def _open(self) -> Decoder:
        if self._decoder is None:
            self._decoder = Decoder(
                self._split, self._config, self.seed, self.device, rand_augment=self.recipe.rand_augment
            )
        return self._decoder

    def _request(self, indices: Tensor, epoch: int, views: int) -> Request:
        crops = self._config.augmentation == RESIZED_CROP
        return Request(indices.numpy(), epoch, views) if crops else Request(indices.numpy())

    def _augmented(self, pixels: Tensor, ids: Tensor, angles: Tensor) -> Tensor:
        """Pad, crop, flip and rotate decoded images: uint8 [B, H, W, 3], [B], [B] -> uint8 [B, 3, H, W]."""
        padded = augmentation.pad(pixels.permute(0, 3, 1, 2), self._padding)
        rows = torch.arange(len(ids), device=self.device)
        crops = augmentation.crop_and_flip(padded, rows, ids.to(self.device), self._padding, self._flip)
        return self.rotated(crops, angles)

    def _normalized(self, images: Tensor) -> Tensor:
        return augmentation.standardize(images, *self._normalization)


def make_loader(
    split: Split | FileSplit, config: DatasetConfig, batch_size: int, seed: int, device: torch.device | str,
    recipe: ImageRecipe = PLAIN,
) -> BatchLoader:  # fmt: skip
    """Return the loader of a split, in memory or of files."""
    if isinstance(split, Split):
        return Loader(split, config, batch_size, seed, device, recipe)
    return StreamingLoader(split, config, batch_size, seed, device, recipe)


def evaluation_batches(
    split: Split | FileSplit, config: DatasetConfig, batch_size: int, device: torch.device | str
) -> Iterator[Tensor]:
    """Yield all images of a split without augmentation, normalized, on the device: float32 [B, 3, H, W].

    Photographs are resized to a shorter side of size / 0.875 pixels, of which the center is taken.
    """
    if isinstance(split, Split):
        for images in split.images.split(batch_size):
            yield normalize(images, config)
        return
    decoder = Decoder(split, config, 0, device)
    for pixels in decoder.decode([Request(part) for part in _parts(len(split.labels), batch_size)]):
        yield normalize(pixels[0].to(device, non_blocking=True).permute(0, 3, 1, 2), config)


def _parts(n: int, batch_size: int) -> list[np.ndarray]:
    return [np.arange(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]
