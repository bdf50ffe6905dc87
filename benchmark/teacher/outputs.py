"""Teacher outputs of training batches: live, from a cache, or prefetched for several batches at once.

`TeacherOutputs` hides from the training loop where a batch's outputs come from. It owns the caches, one per view, with
their headers, and decides whether a cache is filled ahead.
"""

import copy
import functools
import itertools
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.backends import cudnn

from benchmark.data import randaugment
from benchmark.data.batches import WEAK, BatchLoader
from benchmark.data.loader import Loader
from benchmark.networks import Network
from benchmark.teacher.cache import (
    CacheHeader,
    TeacherCache,
    expected_distinct_views,
    open_cache,
    should_prefill,
)
from benchmark.training.evaluation import autocast, evaluation_batch_size
from benchmark.training.graphs import Reads, SharedPasses
from benchmark.training.parallel import ALONE, Parallel
from benchmark.training.stopwatch import Stopwatch
from methods.contract import NOT_READ, Batch, Context, Needs, Outputs, Requirements

SMALL_CACHE = 100  # evaluation batches; a smaller cache is not worth filling ahead


@dataclass(frozen=True)
class CachedOutputs:
    """What the caches hold for a batch, one entry per view; None for a view that the teacher must compute."""

    views: list[Outputs | None] = field(default_factory=list)

    def split(self, sizes: list[int]) -> list["CachedOutputs"]:
        """Divide what was read for several batches at once among them, by their sizes."""
        views = [[None] * len(sizes) if view is None else _split(view, sizes) for view in self.views]
        return [CachedOutputs([view[i] for view in views]) for i in range(len(sizes))]


class TeacherOutputs:
    """Outputs of a frozen teacher for training batches.

    teacher: the network in eval mode on `device`; None for a method that reads nothing of one. parallel: the processes
    among which each batch is divided. source: names the teacher and all that the loader's batches depend on, so that
    runs of equal sources can share a pass; None: its passes are not shared. Raises ValueError where the method needs a
    teacher and there is none.
    """

    def __init__(
        self, teacher: Network | None, requires: Requirements, loader: BatchLoader, *, device: str, precision: str,
        parallel: Parallel = ALONE, source: str | None = None,
    ) -> None:  # fmt: skip
        if teacher is None and not (requires.teacher.empty and requires.needs(0)[1].empty):
            raise ValueError("the method needs a teacher")
        self.teacher, self.requires, self.loader = teacher, requires, loader
        self.device, self.precision, self.parallel, self._source = device, precision, parallel, source
        self.network = None if teacher is None else cast_frozen_weights(teacher, precision)
        self.caches: list[TeacherCache | None] = [None] * requires.views
        self.fill_batch = evaluation_batch_size(device, loader.image_size)
        self.batches_at_once = max(1, self.fill_batch // loader.batch_size)
        self._rows_missing = True  # until an epoch has computed none

    # ------------------------------------------------------------ one batch

    def lookup(self, batch: Batch) -> CachedOutputs:
        """Read what the caches hold for this process's share of a batch, on the CPU and outside a captured step."""
        return self._lookup(self.parallel.share(batch))

    def _lookup(self, batch: Batch) -> CachedOutputs:
        if self.requires.needs(batch.epoch)[1] != self.requires.teacher:
            return CachedOutputs([None] * len(batch.images))  # the caches serve the stage after the initialization
        views = zip(self.caches, batch.augmentation_ids, batch.images, strict=False)
        return CachedOutputs([_read(cache, batch.indices_cpu, ids, images) for cache, ids, images in views])

    def shared_reads(self, batch: Batch, cached: CachedOutputs) -> Reads:
        """Return what a step with this batch reads of passes that steps of other runs may read as well."""
        needs = self.requires.needs(batch.epoch)[1]
        if self._source is None or needs.empty:
            return {}
        views = itertools.zip_longest(range(len(batch.images)), cached.views)
        return {self._pass_key(batch, view): needs for view, outputs in views if outputs is None}

    def _pass_key(self, batch: Batch, view: int) -> Hashable:
        assert batch.indices_cpu is not None
        return self._source, batch.epoch, view, batch.indices_cpu.numpy().tobytes()

    def complete(
        self, batch: Batch, cached: CachedOutputs, teacher: Callable[..., Outputs] | None = None,
        passes: SharedPasses | None = None,
    ) -> Outputs:  # fmt: skip
        """Return the outputs for all views of a batch: cached ones, and the others computed by the teacher.

        cached: of this process's share, which alone is computed here. teacher: the forward function to use, such as a
        compiled one; the network itself by default. passes: computes those of `shared_reads`.
        """
        needs = self.requires.needs(batch.epoch)[1]
        if needs.empty:
            return Outputs()
        views = []
        for images, outputs in itertools.zip_longest(self.parallel.share(batch).images, cached.views):
            if outputs is None:
                compute = functools.partial(self.live, images, teacher=teacher)
                if passes is None or self._source is None:
                    outputs = compute(needs)
                else:
                    outputs = passes(self._pass_key(batch, len(views)), compute)
            views.append(outputs)
        return self.parallel.gather(replace(views[WEAK], further_views=views[1:]), len(batch.labels))

    def __call__(self, batch: Batch) -> Outputs:
        """Return the outputs for all views of a batch, from the caches or the network."""
        return self.complete(batch, self.lookup(batch))

    @torch.no_grad()
    def live(self, images: Tensor, needs: Needs, teacher: Callable[..., Outputs] | None = None) -> Outputs:
        """Run the teacher on images [B, 3, H, W]."""
        forward = self.network if teacher is None else teacher
        assert forward is not None, "a method without a teacher needs no outputs"
        with autocast(self.device, self.precision):
            return forward(images, needs)

    @torch.no_grad()
    def training_features(self, images: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the teacher's pooled features [M, D] of unaugmented training images, in float32, and their labels [M].

        images: the first M of them, all by default.
        """
        indices = torch.arange(self.loader.size if images is None else min(images, self.loader.size))
        share = indices[self.parallel.rows(len(indices))]
        batches = self.loader.unaugmented_batches(share, self.fill_batch)
        features = torch.cat([self._compute_rows(batch, Needs(pooled=True)).pooled.float() for batch in batches])
        return self.parallel.gather_rows(features, len(indices)), self.loader.labels[: len(indices)]

    @property
    def live_passes(self) -> int:
        """Teacher forward passes per training step once all caches are full."""
        if self.requires.teacher.empty:
            return 0
        return sum(cache is None for cache in self.caches)

    # ------------------------------------------------------------ an epoch

    def prefetch(self, batches: Iterable[Batch], watch: Stopwatch) -> Iterator[tuple[Batch, CachedOutputs]]:
        """Yield batches with what the caches hold for them, read for several batches at once on a GPU and where rows
        are missing.

        A GPU would wait for the launches of small reads and passes. `watch` separates loading ("data") from filling
        ("fill").
        """
        batches = iter(batches)
        while True:
            fills = self._rows_missing and any(cache is not None for cache in self.caches)
            with watch("data"):
                group = list(itertools.islice(batches, self.batches_at_once if fills or self.device == "cuda" else 1))
            if not group:
                return
            computed = self._rows_computed()
            with watch("fill" if fills else "data"):
                shares = [self.parallel.share(batch) for batch in group]
                whole = shares[0] if len(group) == 1 else _concatenate(shares)
                parts = self._lookup(whole).split([len(batch.labels) for batch in shares])
            yield from zip(group, parts, strict=True)
            self._rows_missing = self._rows_computed() > computed

    def _rows_computed(self) -> int:
        return sum(cache.computed for cache in self.caches if cache is not None)

    # ------------------------------------------------------------ caches

    def header(self, view: int, context: Context, teacher_sha256: str, fingerprint: str) -> CacheHeader:
        """Return the header of a view's cache, for the teacher and data with these content hashes."""
        weak, loader = view == WEAK, self._resident_loader
        return CacheHeader(
            teacher_sha256,
            fingerprint,
            self.device,
            self.precision,
            views=loader.augmentation_key(view),
            drawn_by="" if weak else randaugment.drawn_by(),
            samples=self.loader.size,
            columns=loader.crops if weak else context.epochs,
            classes=context.classes,
            pooled=context.teacher.pooled,
        )

    def open_caches(
        self, root: Path, context: Context, teacher_sha256: str, fingerprint: str, limit_gb: float
    ) -> list[str]:
        """Open a cache for every view below `root` where they can serve; return a line about each for the user.

        Of several processes the first creates the files. A cache that one of them cannot open is used by none.
        """
        lines = []
        for view in range(len(self.caches)):
            header = self.header(view, context, teacher_sha256, fingerprint)
            if self.parallel.rank > 0:
                self.parallel.wait()
            cache, line = open_cache(root, header, self.requires.teacher, limit_gb, self._compute_rows)
            if self.parallel.rank == 0:
                self.parallel.wait()
            if not self.parallel.agree(cache is not None) and cache is not None:
                cache, line = None, f"{line}: another process cannot open it; the teacher runs live"
            self.caches[view] = cache
            lines.append(line)
        return lines

    def connect(
        self, root: Path, context: Context, teacher_sha256: str, fingerprint: str, *, limit_gb: float, visits: int,
        announce: Callable[[str], None], report_progress: Callable[[float], None],
    ) -> None:  # fmt: skip
        """Open the caches, announce in a line each how they are filled, and fill ahead where that is cheaper.

        visits: how often each image will be looked up, over all runs that share the cache.
        """
        if self.loader.outcomes is None:
            if not self.requires.teacher.empty:
                announce("the views of its images are not finite: the teacher runs in every step, nothing is cached")
            return
        lines = self.open_caches(root, context, teacher_sha256, fingerprint, limit_gb)
        weak, prefill = self.caches[WEAK], False
        for view, cache in enumerate(self.caches):
            if cache is None:
                continue
            when = "on first use"
            if view == WEAK:
                prefill, reason = self.parallel.from_first(self._prefill_decision(cache, visits))
                when = ("ahead" if prefill else when) + reason
            lines[view] += f", {100 * cache.share_filled():.0f} % filled, the rest {when}"
        for line in filter(None, lines):
            announce(line)
        if prefill and weak:
            augmented = self._resident_loader.augmented
            if reason := weak.fill(self.fill_batch, augmented, report_progress, self.parallel):
                announce(f"{reason}; missing rows are computed on first use")

    @property
    def _resident_loader(self) -> Loader:
        """The loader, whose views are finite where there are caches."""
        assert isinstance(self.loader, Loader)
        return self.loader

    def _prefill_decision(self, cache: TeacherCache, visits: int) -> tuple[bool, str]:
        """Return whether to fill a cache ahead, and the reason as it is shown to the user."""
        outcomes = cache.header.columns
        missing = cache.header.samples * outcomes * (1 - cache.share_filled())
        if missing < SMALL_CACHE * self.fill_batch:
            return False, " (it is small)"
        seconds_ahead = self.seconds_per_row(cache.needs, self.fill_batch)
        seconds_on_use = self.seconds_per_row(cache.needs, self.loader.batch_size * self.batches_at_once)
        distinct = expected_distinct_views(outcomes, visits)
        reason = f": {visits} visits of an image see {distinct:.0f} of its {outcomes} views"
        return should_prefill(outcomes, visits, seconds_ahead, seconds_on_use), reason

    def seconds_per_row(self, needs: Needs, batch_size: int) -> float:
        """Measure the seconds per image of filling a cache in passes of `batch_size`: the faster of two passes after
        one to warm up."""
        loader = self._resident_loader
        indices = torch.arange(min(batch_size, loader.size), device=self.device)
        images = loader.augmented(indices, indices % loader.crops)
        wait, times = torch.cuda.synchronize if self.device == "cuda" else lambda: None, []
        for _ in range(3):
            wait()
            start = time.perf_counter()
            self._compute_rows(images, needs)
            wait()
            times.append(time.perf_counter() - start)
        return min(times[1:]) / len(indices)

    @torch.no_grad()
    def _compute_rows(self, images: Tensor, needs: Needs) -> Outputs:
        """Run the teacher to fill a cache: never compiled, so that rows are the same whoever fills it, and without
        cuDNN's trial of kernels, since batches have any size."""
        benchmark, cudnn.benchmark = cudnn.benchmark, False
        try:
            return self.live(images, needs)
        finally:
            cudnn.benchmark = benchmark


def cast_frozen_weights(network: Network, precision: str) -> Network:
    """Copy a frozen network with its conv and linear weights already in bf16, so that autocast need not cast them in
    every forward pass. Outputs are identical. In fp32 the network itself is returned."""
    if precision != "bf16":
        return network
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(torch.bfloat16)
    return network


def _split(outputs: Outputs, sizes: list[int]) -> list[Outputs | None]:
    """Divide outputs that a cache holds, by rows."""
    pooled = _split_rows(outputs.pooled, sizes)
    class_maps = {m: maps.split(sizes) for m, maps in outputs.class_maps.items()}
    return [
        Outputs(logits, pooled[i], class_maps={m: parts[i] for m, parts in class_maps.items()})
        for i, logits in enumerate(_split_rows(outputs.logits, sizes))
    ]


def _split_rows(rows: Tensor | None, sizes: list[int]) -> Sequence[Tensor]:
    return [NOT_READ] * len(sizes) if rows is None else rows.split(sizes)


def _read(cache: TeacherCache | None, indices_cpu: Tensor | None, ids: Tensor | None, images: Tensor) -> Outputs | None:
    """Read a view's outputs from its cache; None where the view has no cache or cannot be looked up."""
    return None if cache is None or indices_cpu is None or ids is None else cache(indices_cpu, ids, images)


def _concatenate(group: Sequence[Batch]) -> Batch:
    """Join several batches of an epoch into one, as far as the caches read them."""
    views = range(len(group[0].images))
    return replace(
        group[0],
        images=[torch.cat([batch.images[view] for batch in group]) for view in views],
        augmentation_ids=[_joined([batch.augmentation_ids[view] for batch in group]) for view in views],
        indices_cpu=_joined([batch.indices_cpu for batch in group]),
    )


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if len(present) == len(parts) else None
