"""What a teacher says of every view of every training image, kept on disk.

Random crop and flip have finitely many outcomes (`data.augmentation`), so the teacher's logits, pooled features and
pooled class activation maps can be stored exactly, one row for each (sample, view), and serve every student, method
and seed. Strongly augmented second views are endless, but those of one seed are the same in every run, so that each
epoch's can be stored and serve every student and method. Both are tables of samples × columns:

    <teacher's run>/cache/<key>/header.json             what the rows depend on; the key is its hash
                                <kind>.bin              [samples, columns, D], bfloat16 or float32
                                <kind>.check            [samples, columns] int64, a row's checksum; 0: not filled

A row is trusted only when it has the checksum that was written after it: what was never written, was cut off by a kill,
or is damaged, is computed again. Several processes may read and fill at once; what two compute of one row is the same.
The files are reserved in full when they are made, so that a disk that fills up later cannot take them away.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmark.runs import folder as store
from methods.contract import Needs, Outputs

GIGA = 1e9  # bytes
SPARE = 1.0  # GB that a new cache leaves free for checkpoints and results
CAMS = "cams"  # the kinds of rows of class activation maps begin with it
FEWEST = 16  # rows computed at a time; kernels for fewer round differently, and a row should not depend on its company


@dataclass(frozen=True)
class Header:
    """All that the rows depend on."""

    teacher: str  # content hash
    data: str  # fingerprint
    device: str  # a GPU rounds otherwise
    precision: str
    views: str  # what is done to an image
    drawn_by: str  # versions of the libraries that this depends on, if on any
    samples: int
    columns: int
    classes: int
    pooled: int  # number of pooled features

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def dtype(self) -> torch.dtype:
        """The type the network computes in: storing it loses nothing."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def length(self, kind: str) -> int:
        """Length D of the rows of a kind: `logits`, `pooled`, or `cams<m>`, the maps of the m × m grid."""
        if kind == "pooled":
            return self.pooled
        return self.classes * (1 if kind == "logits" else int(kind.removeprefix(CAMS)) ** 2)

    def gigabytes(self, kinds: list[str]) -> float:
        """Size of a full cache of these kinds of rows, with its checksums."""
        row = sum(self.length(k) * self.dtype.itemsize + 8 for k in kinds)
        return self.samples * self.columns * row / GIGA


def wanted(needs: Needs) -> list[str] | None:
    """The kinds of rows that serve `needs`; None where they do not suffice (feature maps are too large to keep)."""
    if needs.nothing or needs != Needs(needs.logits, needs.pooled, cams=needs.cams):
        return None
    return ["logits"] * needs.logits + ["pooled"] * needs.pooled + [f"{CAMS}{m}" for m in sorted(needs.cams)]


class Rows:
    """One kind of rows [samples, columns, D] in a file mapped into memory, and their checksums."""

    def __init__(self, folder: Path, kind: str, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
        samples, columns, length = shape
        self.values = _mapped(folder / f"{kind}.bin", samples * columns * length, dtype).view(-1, length)
        self.checks = _mapped(folder / f"{kind}.check", samples * columns, torch.int64)
        halves = length * dtype.itemsize // 2
        self._weights = torch.arange(1, halves + 1).mul(-7046029254386353131).bitwise_or(1)  # odd, so none is lost

    def read(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """The rows at `places` [B] (sample × columns + column), and which of them are there: [B, D], bool [B]."""
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
    """The rows of one teacher on one training split that serve `needs`, filled on first use or ahead.

    compute: what the teacher's network gives for images [B, 3, H, W]. Raises OSError where the disk has no room.
    """

    def __init__(self, root: Path, header: Header, needs: Needs, compute: Callable[[Tensor, Needs], Outputs]) -> None:
        self.header, self.needs, self._compute = header, needs, compute
        self.computed = 0  # rows, by this process
        self.discarded = False  # whether rows were there under another header
        self.folder = root / header.key
        # two processes that made a file at once would each fill one that the other does not read
        with store.lock(self.folder / "make.lock", wait=True):
            for part in self.folder.glob("*.part"):  # left by a process that was killed while making it
                part.unlink()
            if store.read_json(self.folder / "header.json") != asdict(header):
                # a copy can mix folders up: rows under another header may be another teacher's
                for rows in (*self.folder.glob("*.bin"), *self.folder.glob("*.check")):
                    rows.unlink()
                    self.discarded = True
                store.write_json(self.folder / "header.json", asdict(header))
            shape = (header.samples, header.columns)
            self.rows = {k: Rows(self.folder, k, (*shape, header.length(k)), header.dtype) for k in wanted(needs)}

    def __call__(self, samples: Tensor, columns: Tensor | int, images: Tensor) -> Outputs:
        """The teacher's outputs for `images` [B, 3, H, W], on their device; missing rows are computed and kept.

        samples, columns: [B] int64 on the CPU, so that a device that has work to do is not waited for.
        """
        places = samples * self.header.columns + columns
        found = {k: r.read(places) for k, r in self.rows.items()}
        missing = ~torch.stack([there for _, there in found.values()]).all(0)
        if missing.any():
            at = missing.nonzero()[:, 0]
            fresh = self._add(places[at], images, at)
            for kind, (rows, _) in found.items():
                rows[at] = fresh[kind]
        rows = {k: rows.to(images.device, non_blocking=True) for k, (rows, _) in found.items()}
        return _outputs(rows, self.header.classes)

    def _add(self, places: Tensor, images: Tensor, at: Tensor) -> dict[str, Tensor]:
        """Compute the rows of the images at `at` [M], among `images` [B, 3, H, W], and keep them at `places` [M]."""
        padded = torch.cat([at, at[:1].expand(max(FEWEST - len(at), 0))]).to(images.device)
        given = _rows(self._compute(images[padded], self.needs))
        fresh = {k: given[k][: len(at)].to("cpu", self.header.dtype) for k in self.rows}
        for kind, rows in fresh.items():
            self.rows[kind].write(places, rows)
        self.computed += len(at)
        return fresh

    def share_filled(self) -> float:
        """Share of the rows that have been written."""
        return min(r.filled() for r in self.rows.values()) / (self.header.samples * self.header.columns)

    def fill(
        self, batch: int, view: Callable[[Tensor, Tensor], Tensor], tell: Callable[[float], None] = lambda share: None
    ) -> str | None:  # fmt: skip
        """Compute all rows that are missing, `batch` at a time. Returns why not, where it is left to a process that is
        at it, or where the folder cannot be written.

        view: the images [B, 3, H, W] of samples [B] in columns [B]. tell: told the share that is done.
        """
        rows = self.header.samples * self.header.columns
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(store.lock(self.folder / "fill.lock"))
            except store.Busy:
                return "another process is filling it"
            except OSError as e:
                return f"it cannot be filled ahead ({e.strerror}: {self.folder / 'fill.lock'})"
            for places in torch.arange(rows).split(batch):
                missing = places[~torch.stack([r.read(places)[1] for r in self.rows.values()]).all(0)]
                if len(missing):
                    images = view(missing // self.header.columns, missing % self.header.columns)
                    self._add(missing, images, torch.arange(len(missing)))
                tell((int(places[-1]) + 1) / rows)
        return None


def _rows(outputs: Outputs) -> dict[str, Tensor]:
    """Outputs as rows [B, D] of each kind."""
    cams = {f"{CAMS}{m}": maps.flatten(1) for m, maps in outputs.cams.items()}
    return {"logits": outputs.logits, "pooled": outputs.pooled, **cams}


def _outputs(rows: dict[str, Tensor], classes: int) -> Outputs:
    """Rows [B, D] of each kind as outputs."""
    grids = {int(k.removeprefix(CAMS)): k for k in rows if k.startswith(CAMS)}
    cams = {m: rows[k].view(-1, classes, m, m) for m, k in grids.items()}
    return Outputs(rows.get("logits"), rows.get("pooled"), cams=cams)


def visited(views: int, visits: int) -> float:
    """Expected number of different views of an image after `visits` uniform draws."""
    return views * (1 - (1 - 1 / views) ** visits)


def cheaper_ahead(views: int, visits: int, seconds_ahead: float, seconds_live: float) -> bool:
    """Whether filling all views at once, at `seconds_ahead` a row, costs less than the views that `visits` draws will
    miss, at `seconds_live` a row."""
    return views * seconds_ahead < visited(views, visits) * seconds_live


def opened(
    root: Path, header: Header, needs: Needs, limit: float, compute: Callable[[Tensor, Needs], Outputs]
) -> tuple[TeacherCache | None, str]:
    """The cache that serves `needs`, and a line about it; None where the teacher has to run live, and the line why.

    limit: the largest size, in GB. The line is empty where there is nothing to say.
    """
    kinds = wanted(needs)
    if kinds is None:
        return None, ""
    what = f"teacher cache of {' and '.join(kinds)} on {header.views}, {(size := header.gigabytes(kinds)):.2g} GB"
    if size > limit:
        return None, f"no {what}: more than teacher.cache_gb={limit:g}; the teacher runs live"
    try:
        new = header.gigabytes([k for k in kinds if not (root / header.key / f"{k}.bin").exists()])
        if new and (free := _free(root)) < new + SPARE:
            room = f"{free:.2g} GB of the disk are free, and {SPARE:g} have to stay"
            return None, f"no {what}: {room}; the teacher runs live"
        found = TeacherCache(root, header, needs, compute)
        return found, what + ", made anew as its header was another" * found.discarded
    except OSError as e:
        return None, f"no {what}: {e.strerror}; the teacher runs live"


def _free(folder: Path) -> float:
    """Free space in GB of the disk that `folder`, which need not be there yet, is on."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free / GIGA


def _mapped(path: Path, length: int, dtype: torch.dtype) -> Tensor:
    """A file of `length` values mapped into memory, made, all zero, where it is missing or of another size.

    Raises OSError where the disk has no room for it, or the process no addresses.
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
    try:
        return torch.from_file(str(path), shared=True, size=length, dtype=dtype)
    except RuntimeError as e:
        raise OSError(errno.ENOMEM, f"{path} cannot be mapped into memory") from e
