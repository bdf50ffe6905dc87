"""Training batches, cropped, flipped and normalized on the device from one padded uint8 tensor of all images."""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmark.config.schema import DatasetConfig
from benchmark.data import augmentation, randaugment
from benchmark.data.batches import STRONG as STRONG  # part of this module, too
from benchmark.data.batches import WEAK, BatchLoader
from benchmark.data.datasets import Split, normalization
from benchmark.data.mixing import PLAIN, ImageRecipe, Mixing
from benchmark.training.seeding import generator
from methods.contract import Batch

GPU_BATCHES = 32  # made at once on a GPU, which would wait for the launches of small operations


class Loader(BatchLoader):
    """Training batches of a split that is in memory; see `BatchLoader`."""

    def __init__(
        self, split: Split, config: DatasetConfig, batch_size: int, seed: int, device: torch.device | str,
        recipe: ImageRecipe = PLAIN,
    ) -> None:  # fmt: skip
        self.padding, self.flip = config.padding, config.flip
        self.crops = augmentation.count_outcomes(self.padding, self.flip)
        super().__init__(split.labels, batch_size, seed, device, self.crops, recipe, config.rotation)
        self._made_at_once = 1 if torch.device(device).type == "cpu" else GPU_BATCHES
        self.images = augmentation.pad(split.images.to(device), config.padding)  # uint8 [N, H + 2p, W + 2p, 3]
        self._normalization = normalization(config, split.images.shape[3], device)

    @property
    def image_size(self) -> int:
        """Height and width of a batch's images in pixels."""
        return self.images.shape[1] - 2 * self.padding

    def augmentation_key(self, view: int) -> str:
        """Describe what a view depends on besides images, epoch and library versions; persisted in cache headers."""
        weak = f"crops with padding {self.padding}" + (" and flips" if self.flip else "")
        if view == WEAK:
            return weak
        return f"second views of seed {self.seed} ({weak} in batches of {self.batch_size}, {randaugment.KEY})"

    def augmented(self, indices: Tensor, augmentation_ids: Tensor) -> Tensor:
        """Return weak views of images `indices` [B], normalized: float32 [B, 3, H, W]."""
        return self._standardized(self._crop(indices.to(self.device), augmentation_ids.to(self.device)))

    def unaugmented_batches(self, indices: Tensor, batch_size: int) -> Iterator[Tensor]:
        """Yield images `indices` without augmentation, normalized: float32 [B, 3, H, W]."""
        identity = augmentation.identity_id(self.padding, self.flip)
        for part in indices.split(batch_size):
            yield self.augmented(part, torch.full_like(part, identity))

    def epoch(self, epoch: int, views: int = 1) -> Iterator[Batch]:
        """Yield the batches of one epoch, counted from 1, with one or two views of each image.

        A strong view is an independent crop and flip followed by RandAugment. Its augmentation id is epoch − 1, the
        column of a cache; it has none before epoch 1.
        """
        # drawn on the CPU, so that all devices see the same batches
        order = self.order(epoch)
        ids = torch.randint(self.crops, (self.size,), generator=generator("views", self.seed, epoch))[: len(order)]
        method = generator("method", self.seed, epoch, device=self.device)
        strong, mixing = generator("second view", self.seed, epoch), Mixing(self.recipe, self.seed, epoch)
        angles = self.angles(len(order), generator("rotation", self.seed, epoch))
        columns = order, ids, angles, order.to(self.device), ids.to(self.device)
        for group in zip(*(column.split(self._made_at_once * self.batch_size) for column in columns), strict=True):
            group_cpu, group_ids, group_angles, in_order, device_ids = group
            weak = self._standardized(self.rotated(self._crop(in_order, device_ids), group_angles))
            columns_of_group = group_cpu, group_ids, in_order, self.labels[in_order], weak
            for parts in zip(*(column.split(self.batch_size) for column in columns_of_group), strict=True):
                indices_cpu, weak_ids, indices, labels, weak = parts
                weak, labels, targets = mixing(weak, labels)
                images, augmentation_ids = [weak], [weak_ids if self.outcomes else None]
                if views > 1:
                    images.append(self._strong(indices, strong))
                    augmentation_ids.append(
                        torch.full_like(weak_ids, epoch - 1) if epoch > 0 and self.outcomes else None
                    )
                yield Batch(images, labels, indices, epoch, method, indices_cpu, augmentation_ids, targets)

    def close(self) -> None:
        """There is no process to end."""

    def _crop(self, indices: Tensor, augmentation_ids: Tensor) -> Tensor:
        return augmentation.crop_and_flip(self.images, indices, augmentation_ids, self.padding, self.flip)

    def _strong(self, indices: Tensor, random: torch.Generator) -> Tensor:
        ids = torch.randint(self.crops, indices.shape, generator=random).to(self.device)
        images = self.rotated(self._crop(indices, ids), self.angles(len(ids), random))
        return self._standardized(randaugment.rand_augment(images, random))

    def _standardized(self, images: Tensor) -> Tensor:
        return augmentation.standardize(images, *self._normalization)
