"""Decoding of image files by NVIDIA DALI: on a GPU, or on the CPU where there is none.

Worker processes read the files and draw the same random crops as for PIL; DALI decodes, crops and resizes. Its decoders
and its resizing round differently from PIL's, and decode damaged parts of files differently: the pixels differ by a
few of 255 levels, so that a run's identity names the decoder. Transparent pixels are not put on white.
"""

import contextlib
import importlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from benchmark.config.schema import DatasetConfig
from benchmark.data.decoders import Request, Workers, evaluated_side, seeded_view, unreadable, worker_count
from benchmark.data.decoding import UnreadableImage, decode
from benchmark.data.image_files import FileSplit
from benchmark.data.image_folder import NO_IMAGE
from benchmark.errors import UserError, message_line

DEPTH = 2  # batches that DALI works on at a time
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # Exif tag of an image's rotation, and its values that exchange the sides


class Encoded(NamedTuple):
    """The files of a batch, one after another, and the windows of the views."""

    content: Tensor  # uint8 [bytes of all files]
    ends: Tensor  # int64 [B], where each file ends in `content`
    windows: Tensor  # float32 [V, B, 4]: top, left, bottom, right, in pixels of the decoded image


class EncodedBatches(Dataset[Any]):
    """Reads the files of requested batches and draws their crops; the reason, a string, where one is no image."""

    def __init__(self, split: FileSplit, config: DatasetConfig, seed: int) -> None:
        from torchvision.transforms.v2 import RandomResizedCrop

        self._split, self._config, self._seed = split, config, seed
        self._random_crop = RandomResizedCrop(config.size)

    def __getitem__(self, request: Request) -> Encoded | str:
        """Read a batch."""
        files, windows = [], torch.empty(request.views, len(request.positions), 4)
        for i, position in enumerate(request.positions.tolist()):
            path = self._split.path(position)
            try:
                height, width = image_sides(path, self._split.files.as_shown)
                files.append(torch.from_numpy(np.fromfile(path, np.uint8)))
            except NO_IMAGE as error:
                return unreadable(path, UnreadableImage(message_line(error)))
            for view in range(request.views):
                windows[view, i] = torch.tensor(self._window(height, width, request.epoch, position, view))
        ends = torch.tensor([len(file) for file in files]).cumsum(0)
        return Encoded(torch.cat(files), ends, windows)

    def _window(
        self, height: int, width: int, epoch: int | None, position: int, view: int
    ) -> tuple[float, float, float, float]:
        if epoch is None:
            top, bottom = self._center(height, min(height, width))
            left, right = self._center(width, min(height, width))
            return top, left, bottom, right
        with seeded_view(view, self._seed, epoch, position):
            crop = self._random_crop.make_params([torch.empty(1, height, width, device="meta")])
        return crop["top"], crop["left"], crop["top"] + crop["height"], crop["left"] + crop["width"]

    def _center(self, side: int, shorter: int) -> tuple[float, float]:
        """Return where torchvision's CenterCrop of a resized side starts and ends, in pixels of the original side."""
        size, resized = self._config.size, evaluated_side(self._config) * side // shorter
        start = round((resized - size) / 2)
        return start * side / resized, (start + size) * side / resized


def image_sides(path: str, as_shown: bool) -> tuple[int, int]:
    """Return height and width in pixels of an image, from its header. as_shown: after the rotation of cameras."""
    with Image.open(path) as image:
        turned = as_shown and image.getexif().get(ORIENTATION) in TURNED
        return (image.width, image.height) if turned else (image.height, image.width)


class DaliDecoder:
    """Decodes batches of a split by a DALI pipeline; see `Decoder`. The batches are on the device."""

    def __init__(self, split: FileSplit, config: DatasetConfig, seed: int, device: torch.device | str) -> None:
        self._split, self._size, self._device = split, config.size, torch.device(device)
        self._workers = Workers(EncodedBatches(split, config, seed), worker_count(config, device))
        self._batches: Iterator[Encoded] = iter(())  # of the pass
        self._pipeline: Any = None
        self._views, self._batch_size = 0, 0  # of the pipeline

    def decode(self, requests: Sequence[Request]) -> Iterator[Tensor]:
        """See `Decoder`."""
        if not requests:
            return
        pipeline = self._prepare(requests[0].views, max(len(request.positions) for request in requests))
        self._batches = self._workers.answer(requests)
        for i in range(len(requests)):
            try:
                views = pipeline.run()
            except RuntimeError as error:
                raise UserError(self._reason(requests[i : i + DEPTH], error)) from error
            yield torch.stack([torch.from_dlpack(view.as_tensor()) for view in views])
        with contextlib.suppress(StopIteration):
            pipeline.run()
        pipeline.reset()
        self._pipeline = pipeline

    def _prepare(self, views: int, batch_size: int) -> Any:
        """Return a pipeline for `views` views of up to `batch_size` images. The decoder keeps it only after a complete
        pass: batches of an abandoned one would come in the next."""
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None and views == self._views and batch_size <= self._batch_size:
            return pipeline
        self._views, self._batch_size = views, batch_size
        gpu = None
        if self._device.type == "cuda":
            gpu = torch.cuda.current_device() if self._device.index is None else self._device.index
        return _pipeline(
            self._next_arrays, views, self._size, "cpu" if gpu is None else "mixed", self._split.files.as_shown,
            batch_size=batch_size, num_threads=max(1, self._workers.number), prefetch_queue_depth=DEPTH, device_id=gpu,
        )  # fmt: skip

    def _next_arrays(self) -> tuple[Any, ...]:
        """Return the files of the next batch, and where the window of each view starts and ends.

        Raises StopIteration at the end of the pass.
        """
        encoded = next(self._batches)
        content, starts = encoded.content.numpy(), [0, *encoded.ends.tolist()]
        files = [content[start:end] for start, end in itertools.pairwise(starts)]
        corners = [
            np.ascontiguousarray(part) for view in encoded.windows.numpy() for part in (view[:, :2], view[:, 2:])
        ]
        return files, *corners

    def _reason(self, requests: Sequence[Request], error: RuntimeError) -> str:
        """Name the file that PIL cannot read either; without one, repeat DALI's reason."""
        for position in itertools.chain.from_iterable(request.positions.tolist() for request in requests):
            path = self._split.path(position)
            try:
                decode(path, self._split.files.as_shown)
            except UnreadableImage as reason:
                return unreadable(path, reason)
        return (
            f"DALI cannot decode images of {self._split.files.root} ({message_line(error)}): give dataset.decoder=pil"
        )


def _pipeline(
    source: Callable[[], tuple[Any, ...]], views: int, size: int, decoding_device: str, as_shown: bool, **options: Any
) -> Any:
    dali: Any = importlib.import_module("nvidia.dali")  # an optional package
    fn, types = dali.fn, dali.types

    @dali.pipeline_def(**options)
    def build() -> Any:
        files, *corners = fn.external_source(source=source, num_outputs=1 + 2 * views)
        images = fn.decoders.image(
            files, device=decoding_device, output_type=types.RGB, adjust_orientation=as_shown
        )  # fmt: skip
        return tuple(
            fn.resize(
                images, size=(size, size), interp_type=types.INTERP_LINEAR, antialias=True, roi_start=start, roi_end=end
            )
            for start, end in zip(corners[::2], corners[1::2], strict=True)
        )

    return build()
