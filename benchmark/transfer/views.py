"""The augmented views of a target's training images that the epochs of a probe visit."""

import torch
from torch import Tensor

from benchmark.data import augmentation
from benchmark.data.datasets import Dataset, Split, normalization
from benchmark.training.seeding import generator


class Views:
    """Crops and flips of all training images of a data set, on one device.

    Order and augmentation ids of an epoch follow from the seed and the epoch alone, so that they are the same for all
    students. A view is an image with one of its `outcomes`; its place is image × outcomes + augmentation id.
    """

    def __init__(self, dataset: Dataset, seed: int, device: str) -> None:
        config, train = dataset.config, dataset.train
        assert isinstance(train, Split), "a probe reads images in memory"
        self.seed, self.device, self.size = seed, device, len(train.labels)
        self.labels = train.labels
        self.outcomes = augmentation.count_outcomes(config.padding, config.flip)
        self._padding, self._flip = config.padding, config.flip
        self._padded = augmentation.pad(train.images.to(device), config.padding)
        self._normalization = normalization(config, train.images.shape[3], device)

    def draw(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Return the images of an epoch, counted from 1, in their order, and the places of their views: int64 [N]."""
        order = torch.randperm(self.size, generator=generator("order", self.seed, epoch))
        ids = torch.randint(self.outcomes, (self.size,), generator=generator("views", self.seed, epoch))
        return order, order * self.outcomes + ids

    def visited(self, epochs: int) -> Tensor:
        """Return the places of all views that the epochs visit, ascending and without repetition: int64 [V]."""
        visited = torch.zeros(self.size * self.outcomes, dtype=torch.bool)
        for epoch in range(1, epochs + 1):
            visited[self.draw(epoch)[1]] = True
        return visited.nonzero()[:, 0]

    def images(self, places: Tensor) -> Tensor:
        """Return the views at `places` [B], normalized: float32 [B, 3, H, W]."""
        places = places.to(self.device)
        views = augmentation.crop_and_flip(
            self._padded, places // self.outcomes, places % self.outcomes, self._padding, self._flip
        )
        return augmentation.standardize(views, *self._normalization)
