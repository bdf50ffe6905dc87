"""Training and evaluation batches decoded from image files, by worker processes or a GPU.

A decoder yields cropped pixels of requested images; the device flips, normalizes and casts them. What is drawn for an
image depends on the run's seed, the epoch and the image's position alone, so that batches are the same with any number
of workers, and an epoch is the same after any other epochs.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from benchmark.config.schema import CROP, RESIZED_CROP, DatasetConfig
from benchmark.data import augmentation, randaugment
from benchmark.data.batches import BatchLoader
from benchmark.data.datasets import Split, normalization, normalize
from benchmark.data.decoders import Decoder, Request, make_decoder
from benchmark.data.image_files import FileSplit
from benchmark.data.loader import Loader
from benchmark.data.mixing import PLAIN, ImageRecipe, Mixing
from benchmark.training.parallel import ALONE, Parallel
from benchmark.training.seeding import generator
from methods.contract import Batch


class StreamingLoader(BatchLoader):
    """Training batches of a split of image files; see `BatchLoader`.

    Views are random crops of the photographs (`augmentation=resized_crop`), or crops of the padded, resized images,
    which are the views of `Loader`, pixel by pixel. They have no ids, so that outputs of a teacher are not stored. A
    strong view is an independent crop and flip followed by RandAugment. Of processes that train together each decodes
    its rows of a batch, and all receive the pixels of the others.
    """

    def __init__(
        self, split: FileSplit, config: DatasetConfig, batch_size: int, seed: int, device: torch.device | str,
        recipe: ImageRecipe = PLAIN, parallel: Parallel = ALONE,
    ) -> None:  # fmt: skip
        super().__init__(split.labels, batch_size, seed, device, None, recipe, config.rotation)
        self._split, self._config, self._parallel = split, config, parallel
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
            pixels, indices = self._whole_batch(pixels, len(indices_cpu)), indices_cpu.to(self.device)
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
            self._decoder = make_decoder(
                self._split, self._config, self.seed, self.device, rand_augment=self.recipe.rand_augment
            )
        return self._decoder

    def _request(self, indices: Tensor, epoch: int, views: int) -> Request:
        positions = indices[self._parallel.rows(len(indices))].numpy()
        crops = self._config.augmentation == RESIZED_CROP
        return Request(positions, epoch, views) if crops else Request(positions)

    def _whole_batch(self, pixels: Tensor, count: int) -> Tensor:
        """Join the decoded rows of all processes, on the device: uint8 [V, n, H, W, 3] -> [V, count, H, W, 3]."""
        pixels = pixels.to(self.device, non_blocking=True)
        return self._parallel.join(pixels.transpose(0, 1), count).transpose(0, 1)

    def _augmented(self, pixels: Tensor, ids: Tensor, angles: Tensor) -> Tensor:
        """Pad, crop, flip and rotate decoded images: uint8 [B, H, W, 3], [B], [B] -> uint8 [B, 3, H, W]."""
        if not self._padding:  # then an id says only whether the image is mirrored
            return self.rotated(augmentation.mirror(pixels, ids.nonzero().flatten()).permute(0, 3, 1, 2), angles)
        padded = augmentation.pad(pixels.permute(0, 3, 1, 2), self._padding)
        rows = torch.arange(len(ids), device=self.device)
        crops = augmentation.crop_and_flip(padded, rows, ids.to(self.device), self._padding, self._flip)
        return self.rotated(crops, angles)

    def _normalized(self, images: Tensor) -> Tensor:
        return augmentation.standardize(images, *self._normalization)


def make_loader(
    split: Split | FileSplit, config: DatasetConfig, batch_size: int, seed: int, device: torch.device | str,
    recipe: ImageRecipe = PLAIN, parallel: Parallel = ALONE,
) -> BatchLoader:  # fmt: skip
    """Return the loader of a split, in memory or of files. All processes of `parallel` have the whole batches."""
    if isinstance(split, Split):
        return Loader(split, config, batch_size, seed, device, recipe)
    return StreamingLoader(split, config, batch_size, seed, device, recipe, parallel)


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
    decoder = make_decoder(split, config, 0, device)
    for pixels in decoder.decode([Request(part) for part in _parts(len(split.labels), batch_size)]):
        yield normalize(pixels[0].to(device, non_blocking=True).permute(0, 3, 1, 2), config)


def _parts(n: int, batch_size: int) -> list[np.ndarray]:
    return [np.arange(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]
