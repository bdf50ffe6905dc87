"""Decoders of image files: worker processes yield the pixels of requested batches, by PIL, or NVIDIA DALI does.

Memory: a worker holds two batches of uint8 pixels, one decoded image, and the arrays of paths that all processes share.
"""

import contextlib
import gc
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from benchmark.config.schema import RESIZED_CROP, DatasetConfig
from benchmark.data import resized_copy
from benchmark.data.batches import WEAK
from benchmark.data.decoding import UnreadableImage, decode, random_crop, timm_rand_augment, whole
from benchmark.data.image_files import FileSplit
from benchmark.data.limits import EVALUATED_SHARE
from benchmark.errors import UserError
from benchmark.training.hardware import return_freed_memory
from benchmark.training.seeding import seed_for

MOST_WORKERS = 16  # by default; more of them decode faster than a GPU trains
VIEW_STREAMS = ("decoded view", "decoded second view")  # purposes of random numbers of the views of an image


@dataclass(frozen=True)
class Request:
    """What is decoded at once. epoch: of random crops; None: centered images. views: 1, or 2 random crops."""

    positions: np.ndarray  # int64 [B], in the split
    epoch: int | None = None
    views: int = 1


class Decoder(Protocol):
    """Decodes batches of a split."""

    def decode(self, requests: Sequence[Request]) -> Iterator[Tensor]:
        """Yield the batches of requests in their order: uint8 [V, B, size, size, 3], on the CPU or the device.

        Raises UserError where a file cannot be decoded.
        """
        ...


def make_decoder(
    split: FileSplit, config: DatasetConfig, seed: int, device: torch.device | str, *, rand_augment: str | None = None
) -> Decoder:
    """Return the decoder that the data set names, of the files or of their resized copy, which is made if need be."""
    if config.cache_dir is not None:
        split = resized_copy.ensure(split, config.cache_dir)
    if config.decoder == "dali":
        from benchmark.data.dali import DaliDecoder  # which imports this module

        return DaliDecoder(split, config, seed, device)
    return PilDecoder(split, config, seed, device, rand_augment)


class PilDecoder:
    """Decodes batches in worker processes, which wait for the next pass between two of them."""

    def __init__(
        self, split: FileSplit, config: DatasetConfig, seed: int, device: torch.device | str,
        rand_augment: str | None = None,
    ) -> None:  # fmt: skip
        batches = DecodedBatches(split, config, seed, rand_augment)
        on_gpu = torch.device(device).type == "cuda"
        self._workers = Workers(batches, worker_count(config, device), pin_memory=on_gpu)

    def decode(self, requests: Sequence[Request]) -> Iterator[Tensor]:
        """See `Decoder`; the batches are on the CPU."""
        return self._workers.answer(requests)


class DecodedBatches(Dataset[Any]):
    """Decodes requested batches: uint8 [V, B, size, size, 3]; or the reason, a string, why a file cannot be decoded."""

    def __init__(self, split: FileSplit, config: DatasetConfig, seed: int, rand_augment: str | None = None) -> None:
        self._split, self._size, self._seed = split, config.size, seed
        self._rand_augment = None if rand_augment is None else timm_rand_augment(rand_augment, config)
        self._shorter_side = evaluated_side(config)

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
                return unreadable(path, error)
            for view in range(request.views):
                pixels[view, i] = self._view(image, request.epoch, position, view)
        return batch

    def _view(self, image: Image.Image, epoch: int | None, position: int, view: int) -> np.ndarray:
        if epoch is None:
            return whole(image, self._size, self._shorter_side)
        with seeded_view(view, self._seed, epoch, position):
            crop = random_crop(image, self._size)
            if self._rand_augment is not None and view == WEAK:
                crop = self._rand_augment(crop)
            return np.asarray(crop)


def evaluated_side(config: DatasetConfig) -> int:
    """Return the shorter side in pixels to which an image is resized before its center is cropped."""
    return round(config.size / EVALUATED_SHARE) if config.augmentation == RESIZED_CROP else config.size


def unreadable(path: str, reason: UnreadableImage) -> str:
    """Return the line that names a file that cannot be decoded."""
    return f"{path} cannot be read as an image ({reason}): remove or replace it"


@contextlib.contextmanager
def seeded_view(view: int, seed: int, epoch: int, position: int) -> Iterator[None]:
    """Seed the global generators of the CPU for a view of an image and restore them afterwards: torch's, from which
    torchvision draws, and Python's and NumPy's, from which timm's RandAugment draws."""
    seed_of_view = seed_for(VIEW_STREAMS[view], seed, epoch, position)
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed_of_view)
            random.seed(seed_of_view)
            np.random.seed(seed_of_view % 2**32)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


class Workers:
    """Processes that compute an item of a data set for each request; 0: this process does."""

    def __init__(self, items: Dataset[Any], number: int, *, pin_memory: bool = False) -> None:
        self.number, self._requests = number, _Requests()
        self._loader = DataLoader(
            items, batch_size=None, sampler=self._requests, num_workers=self.number, worker_init_fn=_prepare_worker,
            collate_fn=_unchanged, pin_memory=pin_memory, persistent_workers=self.number > 0,
            generator=torch.Generator(),  # else it draws from the global one, with which networks are initialized
        )  # fmt: skip

    def answer(self, requests: Sequence[Request]) -> Iterator[Any]:
        """Yield the items of requests in their order. Raises UserError with an item that is a string."""
        self._requests.requests = requests
        for item in self._loader:
            if isinstance(item, str):
                raise UserError(item)
            yield item


class _Requests(Sampler[Request]):
    """The requests of the next pass over a `DataLoader`, which may outlive many of them."""

    def __init__(self) -> None:
        self.requests: Sequence[Request] = ()

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests)


def _prepare_worker(_: int) -> None:
    gc.freeze()  # objects that a worker inherits stay: an unreachable DALI pipeline would hang in its destructor
    return_freed_memory()


def _unchanged(item: Any) -> Any:
    return item


def worker_count(config: DatasetConfig, device: torch.device | str) -> int:
    """Return the number of worker processes of a run. By default it has on a GPU one for each of its CPU threads but
    one, at most 16; on a CPU one for every second thread, since training needs them too."""
    if config.workers is not None:
        return config.workers
    threads = torch.get_num_threads()
    return max(1, min(threads - 1, MOST_WORKERS) if torch.device(device).type == "cuda" else threads // 2)
