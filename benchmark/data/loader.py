"""Training batches, cropped, flipped and normalized on the device from one padded uint8 tensor of all images."""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmark.config.schema import DatasetConfig
from benchmark.data import augmentation, randaugment
from benchmark.data.datasets import Split, normalization
from benchmark.training.seeding import generator
from methods.contract import Batch

WEAK, STRONG = 0, 1  # indices of the views
GPU_BATCHES = 32  # made at once on a GPU, which would wait for the launches of small operations


class Loader:
    """Training batches of one split in a new order and with new augmentation every epoch; all on `device`.

    Order, augmentation and the method's generator have one random stream each, derived from the seed and the epoch
    alone: an epoch is the same after any other epochs, on every device, for every method and network. The last, smaller
    batch is kept unless it is a single image, with which batch norm cannot be trained.

    Raises ValueError where the split is too small for a batch of two images.
    """

    def __init__(
        self, split: Split, config: DatasetConfig, batch_size: int, seed: int, device: torch.device | str
    ) -> None:
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self.padding, self.flip = config.padding, config.flip
        self._made_at_once = 1 if torch.device(device).type == "cpu" else GPU_BATCHES
        self.size = len(split.labels)
        self.images = augmentation.pad(split.images.to(device), config.padding)  # uint8 [N, H + 2p, W + 2p, 3]
        self.labels = split.labels.to(device)
        self._normalization = normalization(config, split.images.shape[3], device)
        if len(self) == 0:
            raise ValueError(f"{self.size} images make no batch of two or more with batch size {batch_size}")

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        full, rest = divmod(self.size, self.batch_size)
        return full + (rest > 1) if self.batch_size > 1 else 0

    @property
    def image_size(self) -> int:
        """Height and width of a batch's images in pixels."""
        return self.images.shape[1] - 2 * self.padding

    @property
    def outcomes(self) -> int:
        """Number of outcomes of crop and flip per image."""
        return augmentation.count_outcomes(self.padding, self.flip)

    def augmentation_key(self, view: int) -> str:
        """Describe what a view depends on besides images, epoch and library versions; persisted in cache headers."""
        weak = f"crops with padding {self.padding}" + (" and flips" if self.flip else "")
        if view == WEAK:
            return weak
        return f"second views of seed {self.seed} ({weak} in batches of {self.batch_size}, {randaugment.KEY})"

    def augmented(self, indices: Tensor, augmentation_ids: Tensor) -> Tensor:
        """Return weak views of images `indices` [B], normalized: float32 [B, 3, H, W]."""
        weak = self._crop(indices.to(self.device), augmentation_ids.to(self.device))
        return augmentation.standardize(weak, *self._normalization)

    def unaugmented(self, indices: Tensor) -> Tensor:
        """Return images `indices` [B] without augmentation, normalized: float32 [B, 3, H, W]."""
        return self.augmented(indices, torch.full_like(indices, augmentation.identity_id(self.padding, self.flip)))

    def epoch(self, epoch: int, views: int = 1) -> Iterator[Batch]:
        """Yield the batches of one epoch, counted from 1, with one or two views of each image.

        A strong view is an independent crop and flip followed by RandAugment. Its augmentation id is epoch − 1, the
        column of a cache; it has none before epoch 1.
        """
        # drawn on the CPU, so that all devices see the same batches
        order = torch.randperm(self.size, generator=generator("order", self.seed, epoch))
        ids = torch.randint(self.outcomes, (self.size,), generator=generator("views", self.seed, epoch))
        method = generator("method", self.seed, epoch, device=self.device)
        strong = generator("second view", self.seed, epoch)
        kept = min(self.size, len(self) * self.batch_size)
        columns = order[:kept], ids[:kept], order[:kept].to(self.device), ids[:kept].to(self.device)
        for group in zip(*(column.split(self._made_at_once * self.batch_size) for column in columns), strict=True):
            *columns_of_group, device_ids = group
            in_order = columns_of_group[-1]  # the indices on the device
            columns_of_group += [self.labels[in_order], self.augmented(in_order, device_ids)]
            for parts in zip(*(column.split(self.batch_size) for column in columns_of_group), strict=True):
                indices_cpu, weak_ids, indices, labels, weak = parts
                images, augmentation_ids = [weak], [weak_ids]
                if views > 1:
                    images.append(self._strong(indices, strong))
                    augmentation_ids.append(torch.full_like(weak_ids, epoch - 1) if epoch > 0 else None)
                yield Batch(images, labels, indices, epoch, method, indices_cpu, augmentation_ids)

    def _crop(self, indices: Tensor, augmentation_ids: Tensor) -> Tensor:
        return augmentation.crop_and_flip(self.images, indices, augmentation_ids, self.padding, self.flip)

    def _strong(self, indices: Tensor, random: torch.Generator) -> Tensor:
        ids = torch.randint(self.outcomes, indices.shape, generator=random).to(self.device)
        images = randaugment.rand_augment(self._crop(indices, ids), random)
        return augmentation.standardize(images, *self._normalization)
