"""Training batches, cropped, flipped and normalized on the device from one padded uint8 tensor of all images."""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmark.data import augmentation as augment
from benchmark.data import randaugment
from benchmark.data.datasets import DatasetConfig, Split
from benchmark.data.randaugment import rand_augment
from benchmark.training.seeding import generator
from methods.contract import Batch


class Loader:
    """Training batches of one split, each epoch a new order and new views; everything on `device`.

    Order, views and the method's generator have a stream each, seeded by the seed and the epoch alone: an epoch is the
    same whatever came before it, on every device, and for every method and network. The last, smaller batch is kept,
    unless it is a single image, with which batch norm cannot be trained.
    """

    def __init__(
        self, split: Split, config: DatasetConfig, batch_size: int, seed: int, device: torch.device | str
    ) -> None:
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self.padding, self.flip = config.padding, config.flip
        self.size = len(split.labels)
        self.images = augment.pad(split.images.to(device), config.padding)  # uint8 [N, H + 2p, W + 2p, 3]
        self.labels = split.labels.to(device)
        self.affine = augment.affine(config.mean, config.std, split.images.shape[3], device)
        if len(self) == 0:
            raise ValueError(f"{self.size} images make no batch of two or more with batch size {batch_size}")

    @property
    def side(self) -> int:
        """Pixels a side of a batch's images."""
        return self.images.shape[1] - 2 * self.padding

    @property
    def views(self) -> int:
        """Number of outcomes of the augmentation per image."""
        return augment.count_views(self.padding, self.flip)

    def __len__(self) -> int:
        """Steps per epoch."""
        full, rest = divmod(self.size, self.batch_size)
        return full + (rest > 1) if self.batch_size > 1 else 0

    @property
    def told(self) -> str:
        """What the views are, in words."""
        return f"crops with padding {self.padding}" + (" and flips" if self.flip else "")

    @property
    def second_told(self) -> str:
        """What the second views are, in words: all that they depend on but the images, the epoch and the libraries."""
        return f"second views of seed {self.seed} ({self.told} in batches of {self.batch_size}, {randaugment.TOLD})"

    def view(self, indices: Tensor, views: Tensor) -> Tensor:
        """The views `views` [B] of the images `indices` [B], normalised: float32 [B, 3, H, W] on `device`."""
        indices, views = indices.to(self.device), views.to(self.device)
        return augment.standardise(augment.augment(self.images, indices, views, self.padding, self.flip), *self.affine)

    def epoch(self, epoch: int, second_view: bool = False) -> Iterator[Batch]:
        """The batches of one epoch, counted from 1, with a second view where asked for. Indices are positions in the
        split. A second view is an independent crop and flip, then RandAugment."""
        # drawn on the CPU, so that all devices see the same batches
        order = torch.randperm(self.size, generator=generator("order", self.seed, epoch))
        views = torch.randint(self.views, (self.size,), generator=generator("views", self.seed, epoch))
        method = generator("method", self.seed, epoch, device=self.device)
        strong = generator("second view", self.seed, epoch)
        columns = order, views, order.to(self.device), views.to(self.device)
        batches = list(zip(*(column.split(self.batch_size) for column in columns), strict=True))
        for samples, shown, i, v in batches[: len(self)]:
            second = self._second(i, strong) if second_view else None
            yield Batch(self.view(i, v), self.labels[i], i, shown, epoch, method, second, samples)

    def _second(self, indices: Tensor, random: torch.Generator) -> Tensor:
        views = torch.randint(self.views, indices.shape, generator=random).to(self.device)
        weak = augment.augment(self.images, indices, views, self.padding, self.flip)
        return augment.standardise(rand_augment(weak, random), *self.affine)
