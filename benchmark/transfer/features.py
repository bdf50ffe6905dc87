"""Pooled features of a frozen network: of a split, of any views, and of all views of a probe in a file.

Random crop and flip have 162 outcomes per image, of which 120 epochs visit 85 on average. Their features are computed
once, in float32, and read from a memory-mapped file, which saves 29 % of the forward passes of computing each epoch's
anew, and lets an interrupted probe continue. Both ways give the same features, bit for bit: all forward passes have the
same number of images, with which kernels round in the same way, and in eval mode no image depends on another.
"""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.backends import cudnn

from benchmark.config.schema import DatasetConfig
from benchmark.data.datasets import Split, normalize
from benchmark.networks import Network
from benchmark.runs.folder import read_json, write_json
from benchmark.teacher.cache import GIGABYTE, RESERVED_GB
from benchmark.transfer.views import Views
from methods.contract import Needs

FLOAT_BYTES = 4
POOLED = Needs(pooled=True)
Report = Callable[[int], None]  # receives the number of images whose features were just computed


class Extractor:
    """Computes the pooled features of a frozen network in eval mode, `batch` images in each forward pass.

    The network is on the device of the images, and provides pooled features.
    """

    def __init__(self, network: Network, batch: int) -> None:
        self._network, self.batch = network.eval().requires_grad_(False), batch
        self.seconds = 0.0  # spent so far

    def of_views(self, views: Views, places: Tensor, report: Report = lambda images: None) -> Tensor:
        """Return the features of the views at `places` [V]: float32 [V, D] on the CPU."""
        parts = []
        for part in places.split(self.batch):
            started = time.perf_counter()
            parts.append(self._features(views.images(self._padded(part)))[: len(part)].cpu())
            self.seconds += time.perf_counter() - started
            report(len(part))
        return torch.cat(parts)

    def of_split(self, split: Split, config: DatasetConfig) -> Tensor:
        """Return the features of the unaugmented images of a split: float32 [N, D] on the CPU."""
        parts, started = [], time.perf_counter()
        for part in torch.arange(len(split.labels)).split(self.batch):
            images = split.images[self._padded(part).to(split.images.device)]
            parts.append(self._features(normalize(images, config))[: len(part)].cpu())
        self.seconds += time.perf_counter() - started
        return torch.cat(parts)

    def _padded(self, positions: Tensor) -> Tensor:
        """Repeat the first position so that a pass has its full number of images."""
        return torch.cat([positions, positions[:1].expand(self.batch - len(positions))])

    @torch.no_grad()
    def _features(self, images: Tensor) -> Tensor:
        """Run the network without cuDNN's trial of kernels, which may choose others in the next process."""
        benchmark, cudnn.benchmark = cudnn.benchmark, False
        try:
            pooled = self._network(images, POOLED).pooled
        finally:
            cudnn.benchmark = benchmark
        assert pooled is not None, "asked for"
        return pooled.float()


class LiveFeatures:
    """Features of the views of an epoch, computed anew each time."""

    file_bytes = 0

    def __init__(self, extractor: Extractor, views: Views, report: Report) -> None:
        self._extractor, self._views, self._report = extractor, views, report

    def __call__(self, places: Tensor) -> Tensor:
        """Return the features of the views at `places` [N]: float32 [N, D]."""
        return self._extractor.of_views(self._views, places, self._report)


class StoredFeatures:
    """Features of all views that the epochs visit, in a file in the order of their places.

    The file grows by the rows of a forward pass; rows that an earlier process has written are kept where they depend on
    the same (`header`). places: ascending, [V].
    """

    def __init__(self, path: Path, places: Tensor, length: int, header: Mapping[str, Any]) -> None:
        self.path, self._places, self._length = path, places, length
        self._header = {**header, "views": len(places), "features": length}
        self._rows: Tensor | None = None

    @property
    def file_bytes(self) -> int:
        """Size of the complete file."""
        return file_bytes(len(self._places), self._length)

    def fill(self, extractor: Extractor, views: Views, report: Report) -> None:
        """Compute the missing rows. Raises OSError where they cannot be written."""
        description = self.path.with_suffix(".json")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if read_json(description) != self._header:
            self.path.unlink(missing_ok=True)
            write_json(description, self._header)
        with open(self.path, "ab") as file:
            done = self._whole_rows(file, extractor.batch)
            report(done)
            for part in self._places[done:].split(extractor.batch):
                file.write(extractor.of_views(views, part).numpy().data)
                report(len(part))
            file.flush()
            os.fsync(file.fileno())
        self._rows = torch.from_file(
            str(self.path), shared=False, size=len(self._places) * self._length, dtype=torch.float32
        ).view(-1, self._length)

    def __call__(self, places: Tensor) -> Tensor:
        """Return the features of the views at `places` [N]: float32 [N, D]."""
        assert self._rows is not None, "the file is filled first"
        return self._rows[torch.searchsorted(self._places, places)]

    def remove(self) -> None:
        """Remove the file."""
        self._rows = None
        for path in (self.path, self.path.with_suffix(".json")):
            path.unlink(missing_ok=True)

    def _whole_rows(self, file: BinaryIO, batch: int) -> int:
        """Cut off what a killed process has written of an incomplete pass; return the number of rows that are left."""
        rows = min(os.fstat(file.fileno()).st_size // (FLOAT_BYTES * self._length), len(self._places))
        rows = rows if rows == len(self._places) else rows // batch * batch
        file.truncate(rows * FLOAT_BYTES * self._length)
        return rows


def file_bytes(views: int, length: int) -> int:
    """Return the size of a file of features [views, length]."""
    return FLOAT_BYTES * views * length


def reason_for_live(size: int, folder: Path, limit_gb: float) -> str:
    """Say why a file of `size` bytes is not written to a folder; empty where it may be."""
    needed = size / GIGABYTE
    if needed > limit_gb:
        return f"{needed:.2g} GB are more than features_gb={limit_gb:g}"
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free / GIGABYTE
    if free < needed + RESERVED_GB:
        return f"{needed:.2g} GB do not fit: {free:.2g} GB are free, and {RESERVED_GB:g} GB must stay free"
    return ""
