"""Teacher outputs for every augmented view of every training image, kept on disk.

Random crop and flip have finitely many outcomes (`benchmark.data.augmentation`), so the teacher's logits, pooled
features and pooled class activation maps can be stored exactly, one row per (sample, augmentation id), and serve every
student, method and seed. Strongly augmented views are not finite, but those of one seed are the same in every run, so
each epoch's can be stored and serve every student and method. Both are tables of samples × columns:

    <teacher's run>/cache/<key>/header.json             what the rows depend on; the key is its hash
                                <kind>.bin              [samples, columns, D], bfloat16 or float32
                                <kind>.check            [samples, columns] int64, a row's checksum; 0: not filled

A row is trusted only if it has the checksum that was written after it: rows that were never written, were cut off by a
kill, or are damaged are computed again. Several processes may read and fill at once; what two compute for one row is
the same. The files are reserved in full when they are created, so that a disk that fills up later cannot break them.
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

from benchmark.runs import folder as files
from benchmark.training.parallel import ALONE, Parallel
from methods.contract import NOT_READ, Needs, Outputs

GIGABYTE = 1e9
RESERVED_GB = 1.0  # disk space that a new cache leaves free for checkpoints and results
CLASS_MAPS = "cams"  # prefix of the kinds of rows that hold class activation maps, followed by the grid size
SPREAD = -7046029254386353131  # an odd number with bits all over: multiples of it differ in many bits
MIN_TEACHER_BATCH = 16  # kernels for fewer images round differently, and a row must not depend on its batch


@dataclass(frozen=True)
class CacheHeader:
    """Everything that the rows depend on. The names are those of the keys in header.json."""

    teacher: str  # content hash of the weights
    data: str  # fingerprint of the data set
    device: str  # a GPU rounds differently
    precision: str
    views: str  # augmentation key of the view
    drawn_by: str  # versions of the libraries that the augmentation depends on, if any
    samples: int
    columns: int  # augmentation ids per sample
    classes: int
    pooled: int  # number of pooled features

    @property
    def key(self) -> str:
        """Name of the cache's folder: twelve hex digits of the header's hash."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def dtype(self) -> torch.dtype:
        """Type in which the teacher computes; storing it loses nothing."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def row_length(self, kind: str) -> int:
        """Length D of the rows of a kind: `logits`, `pooled`, or `cams<m>`, the class maps on an m × m grid."""
        if kind == "pooled":
            return self.pooled
        return self.classes * (1 if kind == "logits" else int(kind.removeprefix(CLASS_MAPS)) ** 2)

    def gigabytes(self, kinds: list[str]) -> float:
        """Size of a full cache of these kinds of rows, checksums included."""
        row = sum(self.row_length(k) * self.dtype.itemsize + 8 for k in kinds)
        return self.samples * self.columns * row / GIGABYTE


def cacheable_kinds(needs: Needs) -> list[str] | None:
    """Return the kinds of rows that provide `needs`; None for no needs, or for feature maps, which are too large."""
    if needs.empty or needs != Needs(needs.logits, needs.pooled, class_maps=needs.class_maps):
        return None
    return (
        ["logits"] * needs.logits + ["pooled"] * needs.pooled + [f"{CLASS_MAPS}{m}" for m in sorted(needs.class_maps)]
    )


class Rows:
    """One kind of rows [samples, columns, D] in a memory-mapped file, and their checksums."""

    def __init__(self, folder: Path, kind: str, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
        samples, columns, length = shape
        self.values = _mapped(folder / f"{kind}.bin", samples * columns * length, dtype).view(-1, length)
        self.checks = _mapped(folder / f"{kind}.check", samples * columns, torch.int64)
        halves = length * dtype.itemsize // 2
        self._weights = torch.arange(1, halves + 1).mul(SPREAD).bitwise_or(1)  # odd: none is lost

    def read(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows [B, D] at `places` [B] (sample × columns + column), and a mask [B] of the valid ones."""
        rows = self.values[places]
        return rows, self.checks[places] == self._checksum(places, rows)

    def write(self, places: Tensor, rows: Tensor) -> None:
        """Store rows [B, D], already of the file's type, then their checksums."""
        self.values[places] = rows
        self.checks[places] = self._checksum(places, rows)

    def filled(self) -> int:
        """Number of rows that have been written, by their checksums alone."""
        return int(self.checks.count_nonzero())

    def _checksum(self, places: Tensor, rows: Tensor) -> Tensor:
        """Return the checksums [B] of rows [B, D], which tell a row in another's place, too; never 0."""
        sums = (rows.contiguous().view(torch.int16).long() * self._weights).sum(1)
        return (sums + (places * SPREAD << 1)).bitwise_or(1)  # shifted, as the lowest bit says nothing


class TeacherCache:
    """The rows of one teacher on one training split that provide `needs`, filled on first use or ahead.

    compute: returns the teacher's outputs for images [B, 3, H, W]. Raises OSError where the disk has no room.
    """

    def __init__(
        self, root: Path, header: CacheHeader, needs: Needs, compute: Callable[[Tensor, Needs], Outputs]
    ) -> None:
        self.header, self.needs, self._compute = header, needs, compute
        self.computed = 0  # rows computed by this process
        self.discarded = False  # True where rows under another header were deleted
        self.folder = root / header.key
        # two processes creating a file at once would each fill one that the other does not read
        with files.lock(self.folder / "make.lock", wait=True):
            for part in self.folder.glob("*.part"):  # left by a process that was killed while creating it
                part.unlink()
            if files.read_json(self.folder / "header.json") != asdict(header):
                # copied folders can be mixed up: rows under another header may belong to another teacher
                for rows in (*self.folder.glob("*.bin"), *self.folder.glob("*.check")):
                    rows.unlink()
                    self.discarded = True
                files.write_json(self.folder / "header.json", asdict(header))
            shape = (header.samples, header.columns)
            kinds = cacheable_kinds(needs) or []
            self.rows = {k: Rows(self.folder, k, (*shape, header.row_length(k)), header.dtype) for k in kinds}

    def __call__(self, indices_cpu: Tensor, columns: Tensor, images: Tensor) -> Outputs:
        """Return the teacher's outputs for `images` [B, 3, H, W] on their device; missing rows are computed and kept.

        indices_cpu, columns: [B] int64 on the CPU, so that a busy device is not waited for.
        """
        places = indices_cpu * self.header.columns + columns
        cached = {kind: rows.read(places) for kind, rows in self.rows.items()}
        missing = ~torch.stack([valid for _, valid in cached.values()]).all(0)
        if missing.any():
            positions = missing.nonzero()[:, 0]
            computed = self._add(places[positions], images, positions)
            for kind, (rows, _) in cached.items():
                rows[positions] = computed[kind]
        on_device = {kind: rows.to(images.device, non_blocking=True) for kind, (rows, _) in cached.items()}
        return _outputs_from_rows(on_device, self.header.classes)

    def _add(self, places: Tensor, images: Tensor, positions: Tensor) -> dict[str, Tensor]:
        """Compute the rows of the images at `positions` [M] of `images` [B, 3, H, W], and keep them at `places` [M]."""
        padding = positions[:1].expand(max(MIN_TEACHER_BATCH - len(positions), 0))
        outputs = _rows_from_outputs(
            self._compute(images[torch.cat([positions, padding]).to(images.device)], self.needs)
        )
        computed = {k: outputs[k][: len(positions)].to("cpu", self.header.dtype) for k in self.rows}
        for kind, rows in computed.items():
            self.rows[kind].write(places, rows)
        self.computed += len(positions)
        return computed

    def share_filled(self) -> float:
        """Share of the rows that have been written, from 0 to 1."""
        return min(r.filled() for r in self.rows.values()) / (self.header.samples * self.header.columns)

    def fill(
        self,
        batch_size: int,
        augmented: Callable[[Tensor, Tensor], Tensor],
        report_progress: Callable[[float], None] = lambda share: None,
        parallel: Parallel = ALONE,
    ) -> str | None:
        """Compute all missing rows, `batch_size` at a time. Return why it was not done: another process is filling the
        cache, or the folder is not writable.

        augmented: returns the images [B, 3, H, W] of samples [B] in columns [B]. report_progress: receives the share of
        the rows that are done. parallel: the processes that divide the work, of which the first holds the lock.
        """
        rows = self.header.samples * self.header.columns
        with contextlib.ExitStack() as stack:
            reason = self._hold_fill_lock(stack) if parallel.rank == 0 else None
            if reason := parallel.from_first(reason):
                return reason
            for places in parallel.deal(torch.arange(rows).split(batch_size)):
                missing = places[~torch.stack([r.read(places)[1] for r in self.rows.values()]).all(0)]
                if len(missing):
                    images = augmented(missing // self.header.columns, missing % self.header.columns)
                    self._add(missing, images, torch.arange(len(missing)))
                report_progress((int(places[-1]) + 1) / rows)
            parallel.wait()
        return None

    def _hold_fill_lock(self, stack: contextlib.ExitStack) -> str | None:
        """Hold the lock of filling until the stack is left. Return why that is not possible."""
        try:
            stack.enter_context(files.lock(self.folder / "fill.lock"))
        except files.RunBusy:
            return "another process is filling it"
        except OSError as e:
            return f"it cannot be filled ahead ({e.strerror}: {self.folder / 'fill.lock'})"
        return None


def _rows_from_outputs(outputs: Outputs) -> dict[str, Tensor]:
    """Return outputs as rows [B, D] of each kind."""
    rows = {f"{CLASS_MAPS}{m}": maps.flatten(1) for m, maps in outputs.class_maps.items()}
    for kind, value in (("logits", outputs.logits), ("pooled", outputs.pooled)):
        if value is not None:
            rows[kind] = value
    return rows


def _outputs_from_rows(rows: dict[str, Tensor], classes: int) -> Outputs:
    """Return rows [B, D] of each kind as outputs."""
    grids = {int(k.removeprefix(CLASS_MAPS)): k for k in rows if k.startswith(CLASS_MAPS)}
    class_maps = {m: rows[k].view(-1, classes, m, m) for m, k in grids.items()}
    return Outputs(rows.get("logits", NOT_READ), rows.get("pooled", NOT_READ), class_maps=class_maps)


def expected_distinct_views(outcomes: int, visits: int) -> float:
    """Expected number of distinct views of an image after `visits` uniform draws from `outcomes`."""
    return outcomes * (1 - (1 - 1 / outcomes) ** visits)


def should_prefill(outcomes: int, visits: int, seconds_ahead: float, seconds_on_use: float) -> bool:
    """Return whether computing all outcomes ahead, at `seconds_ahead` each, costs less than computing those that
    `visits` draws will reach, at `seconds_on_use` each."""
    return outcomes * seconds_ahead < expected_distinct_views(outcomes, visits) * seconds_on_use


def open_cache(
    root: Path, header: CacheHeader, needs: Needs, limit_gb: float, compute: Callable[[Tensor, Needs], Outputs]
) -> tuple[TeacherCache | None, str]:
    """Open or create the cache that provides `needs`, and return it with a line about it for the user.

    Returns None and the reason where the teacher has to run live: feature maps are needed (the line is empty then), the
    cache would exceed `limit_gb`, or the disk has no room.
    """
    kinds = cacheable_kinds(needs)
    if kinds is None:
        return None, ""
    size = header.gigabytes(kinds)
    description = f"teacher cache of {' and '.join(kinds)} on {header.views}, {size:.2g} GB"
    if size > limit_gb:
        return None, f"no {description}: more than teacher.cache_gb={limit_gb:g}; the teacher runs live"
    try:
        new = header.gigabytes([k for k in kinds if not (root / header.key / f"{k}.bin").exists()])
        if new and (free := _free_gigabytes(root)) < new + RESERVED_GB:
            room = f"{free:.2g} GB of the disk are free, and {RESERVED_GB:g} GB must stay free"
            return None, f"no {description}: {room}; the teacher runs live"
        cache = TeacherCache(root, header, needs, compute)
        return cache, description + ", created again because its header did not match" * cache.discarded
    except OSError as e:
        return None, f"no {description}: {e.strerror}; the teacher runs live"


def _free_gigabytes(folder: Path) -> float:
    """Return the free space of the disk that holds `folder`, which need not exist yet."""
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free / GIGABYTE


def _mapped(path: Path, length: int, dtype: torch.dtype) -> Tensor:
    """Map a file of `length` values into memory; create it, all zero, where it is missing, a link to somewhere else, or
    has another size.

    Raises OSError where the disk has no room for it, or the process no addresses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or not path.exists() or path.stat().st_size != length * dtype.itemsize:
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
