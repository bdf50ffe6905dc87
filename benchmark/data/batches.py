"""What loaders have in common: the batches of an epoch, in the order of the run's seed."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmark.data import augmentation
from benchmark.data.mixing import ImageRecipe
from benchmark.training.seeding import generator
from methods.contract import Batch

WEAK, STRONG = 0, 1  # indices of the views


class BatchLoader(ABC):
    """Training batches of one split in a new order and with new augmentation every epoch; all on `device`.

    Order, augmentation and the method's generator have one random stream each, derived from the seed and the epoch
    alone: an epoch is the same after any other epochs, on every device, for every method and network. The last, smaller
    batch is kept unless it is a single image, with which batch norm cannot be trained.

    labels: [N] on the CPU. outcomes: number of augmented views per image, by whose ids outputs of a teacher can be
    stored; None where views are not finite or not looked up. recipe: what it does to images and labels. rotation: most
    degrees by which an image is rotated.

    Raises ValueError where the split is too small for a batch of two images.
    """

    def __init__(
        self, labels: Tensor, batch_size: int, seed: int, device: torch.device | str, outcomes: int | None,
        recipe: ImageRecipe, rotation: float,
    ) -> None:  # fmt: skip
        self.batch_size, self.seed, self.device, self.recipe = batch_size, seed, device, recipe
        self.size, self.labels, self.rotation = len(labels), labels.to(device), rotation
        self.outcomes = None if recipe.alters_images or rotation else outcomes
        if len(self) == 0:
            raise ValueError(f"{self.size} images make no batch of two or more with batch size {batch_size}")

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        full, rest = divmod(self.size, self.batch_size)
        return full + (rest > 1) if self.batch_size > 1 else 0

    def order(self, epoch: int) -> Tensor:
        """Return the positions of an epoch's samples [M], all but a last single one, in their order, on the CPU."""
        order = torch.randperm(self.size, generator=generator("order", self.seed, epoch))
        return order[: min(self.size, len(self) * self.batch_size)]

    def angles(self, n: int, random: torch.Generator) -> Tensor:
        """Draw the angles [n] of rotations, in degrees, on the CPU; nothing is drawn where images are not rotated."""
        return self.rotation * (2 * torch.rand(n, generator=random) - 1) if self.rotation else torch.zeros(n)

    def rotated(self, images: Tensor, angles: Tensor) -> Tensor:
        """Rotate cropped images: uint8 [B, 3, H, W]."""
        return augmentation.rotate(images, angles) if self.rotation else images

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Height and width of a batch's images in pixels."""

    @abstractmethod
    def epoch(self, epoch: int, views: int = 1) -> Iterator[Batch]:
        """Yield the batches of one epoch, counted from 1, with one or two views of each image."""

    @abstractmethod
    def unaugmented_batches(self, indices: Tensor, batch_size: int) -> Iterator[Tensor]:
        """Yield images `indices` without augmentation, normalized: float32 [B, 3, H, W]."""

    def unaugmented(self, indices: Tensor) -> Tensor:
        """Return images `indices` [B] without augmentation, normalized: float32 [B, 3, H, W]."""
        return next(self.unaugmented_batches(indices, len(indices)))

    @abstractmethod
    def close(self) -> None:
        """End the processes that decode images, where there are any; the next epoch starts them again."""
