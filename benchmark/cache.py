"""What a teacher says of every view of every training image, kept on disk.

Random crop and flip have finitely many outcomes (`benchmark.augment`), so the teacher's logits and pooled features can
be stored exactly, one row for each (sample, view), and serve every student, method and seed:

    <teacher's run>/cache/<key>/header.json                      what the rows depend on; the key is its hash
                                logits.bin, pooled.bin           [n, views, D], bfloat16 or float32
                                logits.check, pooled.check       [n, views] int64, a row's checksum; 0: not filled

A row is trusted only when it has the checksum that was written after it: what was never written, was cut off by a kill,
or is damaged, is computed again. Several processes may read and fill at once; what two compute of one row is the same.
The files are reserved in full when they are made, so that a disk that fills up later cannot take them away.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmark import store
from methods.contract import Needs, Outputs

GIGA = 1e9  # bytes
FEWEST = 16  # rows computed at a time; kernels for fewer round differently, and a row should not depend on its company


@dataclass(frozen=True)
class Header:
    """All that the rows depend on."""

    teacher: str  # content hash
    data: str  # fingerprint
    precision: str
    padding: int
    flip: bool
    samples: int
    views: int
    logits: int  # row lengths
    pooled: int

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def dtype(self) -> torch.dtype:
        """The type the network computes in: storing it loses nothing."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def gigabytes(self, kinds: list[str]) -> float:
        """Size of a full cache of these kinds of rows, with its checksums."""
        row = sum(getattr(self, k) * self.dtype.itemsize + 8 for k in kinds)
        return self.samples * self.views * row / GIGA


def wanted(needs: Needs) -> list[str] | None:
    """The kinds of rows that serve `needs`; None where they do not suffice (feature maps are too large to keep)."""
    kinds = [k for k in ("logits", "pooled") if getattr(needs, k)]
    return kinds if kinds and needs == Needs(**dict.fromkeys(kinds, True)) else None


class Rows:
    """One kind of rows [n, views, D] in a file mapped into memory, and their checksums."""

    def __init__(self, folder: Path, kind: str, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
        n, views, length = shape
        self.values = _mapped(folder / f"{kind}.bin", n * views * length, dtype).view(n * views, length)
        self.checks = _mapped(folder / f"{kind}.check", n * views, torch.int64)
        halves = length * dtype.itemsize // 2
        self._weights = torch.arange(1, halves + 1).mul(-7046029254386353131).bitwise_or(1)  # odd, so none is lost

    def read(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """The rows at `places` [B] (sample × views + view), and which of them are there: [B, D], bool [B]."""
        rows = self.values[places]
        return rows, self.checks[places] == self._checksum(rows)

    def write(self, places: Tensor, rows: Tensor) -> None:
        """Store rows [B, D], of the file's type, then their checksums."""
        self.values[places] = rows
        self.checks[places] = self._checksum(rows)

    def filled(self) -> int:
        """How many rows have been written, by their checksums alone."""
        return int(self.checks.count_nonzero())

    def _checksum(self, rows: Tensor) -> Tensor:
        return (rows.contiguous().view(torch.int16).long() * self._weights).sum(1).bitwise_or(1)


class TeacherCache:
    """The rows of one teacher on one training split, filled on first use or ahead.

    compute: what the teacher's network gives for training samples `indices` [B] in the views `views` [B].
    """

    def __init__(
        self, root: Path, header: Header, kinds: list[str], compute: Callable[[Tensor, Tensor, Needs], Outputs]
    ) -> None:
        self.header, self._compute = header, compute
        self.folder = root / header.key
        self.needs = Needs(logits="logits" in kinds, pooled="pooled" in kinds)
        if store.read_json(self.folder / "header.json") != asdict(header):
            store.write_json(self.folder / "header.json", asdict(header))
        shape = (header.samples, header.views)
        self.rows = {k: Rows(self.folder, k, (*shape, getattr(header, k)), header.dtype) for k in kinds}

    def __call__(self, indices: Tensor, views: Tensor) -> Outputs:
        """The teacher's outputs for a batch, on the indices' device; missing rows are computed and kept."""
        places = (indices * self.header.views + views).cpu()
        found = {k: r.read(places) for k, r in self.rows.items()}
        missing = ~torch.stack([there for _, there in found.values()]).all(0)
        if missing.any():
            at = missing.nonzero()[:, 0]
            padded = torch.cat([at, at[:1].expand(max(FEWEST - len(at), 0))]).to(indices.device)
            fresh = self._compute(indices[padded], views[padded], self.needs)
            for kind, (rows, _) in found.items():
                computed = getattr(fresh, kind)[: len(at)].to("cpu", self.header.dtype)
                rows[at] = computed
                self.rows[kind].write(places[at], computed)
        return Outputs(**{k: rows.to(indices.device, non_blocking=True) for k, (rows, _) in found.items()})

    def share_filled(self) -> float:
        """Share of the rows that have been written."""
        return min(r.filled() for r in self.rows.values()) / (self.header.samples * self.header.views)

    def fill(self, batch: int, device: torch.device | str) -> None:
        """Compute all rows that are missing, `batch` at a time. Left to the other where a process is already at it."""
        with contextlib.suppress(store.Busy), store.lock(self.folder / "fill.lock"):
            for places in torch.arange(self.header.samples * self.header.views).split(batch):
                missing = places[~torch.stack([r.read(places)[1] for r in self.rows.values()]).all(0)]
                if len(missing):
                    self(missing.to(device) // self.header.views, missing.to(device) % self.header.views)


def visited(views: int, visits: int) -> float:
    """Expected number of different views of an image after `visits` uniform draws."""
    return views * (1 - (1 - 1 / views) ** visits)


def cheaper_ahead(views: int, visits: int, seconds_ahead: float, seconds_live: float) -> bool:
    """Whether filling all views at once, at `seconds_ahead` a row, costs less than the views that `visits` draws will
    miss, at `seconds_live` a row."""
    return views * seconds_ahead < visited(views, visits) * seconds_live


def opened(
    root: Path, header: Header, needs: Needs, limit: float, compute: Callable[[Tensor, Tensor, Needs], Outputs]
) -> tuple[TeacherCache | None, str]:
    """The cache that serves `needs`, and a line about it; None where the teacher has to run live, and the line why.

    limit: the largest size, in GB. The line is empty where there is nothing to say.
    """
    kinds = wanted(needs)
    if kinds is None:
        return None, ""
    what = f"teacher cache of {' and '.join(kinds)}, {(size := header.gigabytes(kinds)):.2g} GB"
    if size > limit:
        return None, f"no {what}: more than teacher.cache_gb={limit:g}; the teacher runs live"
    try:
        return TeacherCache(root, header, kinds, compute), what
    except OSError as e:
        return None, f"no {what}: {e.strerror}; the teacher runs live"


def seconds_a_row(compute: Callable[[], object], rows: int, synchronise: Callable[[], object]) -> float:
    """Seconds that a forward pass takes for one of its `rows`: the faster of two after one to warm up."""
    times = []
    for _ in range(3):
        synchronise()
        began = time.perf_counter()
        compute()
        synchronise()
        times.append(time.perf_counter() - began)
    return min(times[1:]) / rows


def _mapped(path: Path, length: int, dtype: torch.dtype) -> Tensor:
    """A file of `length` values mapped into memory, made, all zero, where it is missing or of another size.

    Raises OSError where the disk has no room for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.stat().st_size != length * dtype.itemsize:
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            with open(part, "wb") as f:
                os.posix_fallocate(f.fileno(), 0, length * dtype.itemsize)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    return torch.from_file(str(path), shared=True, size=length, dtype=dtype)
