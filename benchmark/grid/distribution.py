"""What a run that several processes train together cannot do, checked before anything is trained."""

import functools
from collections.abc import Iterable

import torch

from benchmark import networks
from benchmark.config.schema import Config
from benchmark.data.datasets import Dataset
from benchmark.errors import UserError


def check(config: Config, processes: int, dataset: Dataset, trained: Iterable[str]) -> None:
    """Raise UserError where the batches cannot be divided among the processes, or a network draws random numbers.

    trained: the networks that are trained.
    """
    least = processes if config.batch_norm_statistics == "global" else 2 * processes
    for data in {id(d): d for d in (dataset, dataset.of_teacher)}.values():
        smallest = smallest_batch(len(data.train.labels), config.recipe.batch_size)
        if smallest < least:
            per_process = "" if least == processes else ", two in each for statistics of its own"
            raise UserError(
                f"processes is {processes}: the smallest batch of {len(data.train.labels):,} training images has "
                f"{smallest}{per_process}; give fewer processes, or another recipe.batch_size"
            )
    evaluated = dataset.test if dataset.val is None else dataset.val
    if (images := min(len(evaluated.labels), len(dataset.test.labels))) < processes:
        raise UserError(f"processes is {processes}: only {images} images are evaluated; give fewer processes")
    for name in dict.fromkeys(trained):
        if draws_random_numbers(name, dataset.classes, dataset.config.size):
            raise UserError(
                f"network {name} draws random numbers in training, as dropout does, which would differ between "
                "processes: train it with distributed=false"
            )


def smallest_batch(images: int, batch_size: int) -> int:
    """Return the number of images of the smallest batch of an epoch; a last batch of one image is left out."""
    last = images % batch_size
    return last if last > 1 else batch_size


@functools.cache
def draws_random_numbers(name: str, classes: int, image_size: int) -> bool:
    """Return whether a network's forward pass in training draws random numbers of torch, on a CPU."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = networks.build(name, classes, image_size).train()
        before = torch.get_rng_state()
        network(torch.zeros(2, 3, image_size, image_size))
        return not torch.equal(before, torch.get_rng_state())
