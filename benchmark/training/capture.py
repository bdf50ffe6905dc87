"""Capture of a training step as a CUDA graph, and its replay: one launch in place of hundreds.

A captured step repeats what it did to the same places in memory, with the Python numbers it was captured with. So the
tensors that a later step reads are copied to the places that the captured one read, and a capture serves one epoch,
within which neither the learning rate nor the weight of a term changes, and batches of one size.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmark.teacher.outputs import CachedOutputs
from benchmark.training.graphs import Capture, Reads, SharedPasses
from methods.contract import Batch

WARMUP_STEPS = 3  # eager steps before a first capture, in which libraries and optimizer allocate what they keep


class StepResult(NamedTuple):
    """What a training step computed, detached."""

    terms: dict[str, Tensor]  # scalars by name
    logits: Tensor  # [N, C]
    row: Tensor  # the terms and the number of hits as one tensor [T + 1], all that an epoch keeps of a step


Step = Callable[[Batch, CachedOutputs, SharedPasses | None], StepResult]


class GraphedStep:
    """Training steps by replay of a captured `step`, for batches of `batch_size`; other batches run eagerly.

    The first step of each epoch runs eagerly too: what an epoch begins with, such as compiling a kernel for a number
    that has changed, cannot happen during a capture.

    reads: returns what a step reads of passes that it can share with the steps of other runs.
    """

    def __init__(
        self, step: Step, batch_size: int, capture: Capture, reads: Callable[[Batch, CachedOutputs], Reads]
    ) -> None:
        self._step, self._batch_size, self._capture_function = step, batch_size, capture
        self._reads = reads
        self._eager_steps = WARMUP_STEPS  # left to run before the next capture
        self._epoch: int | None = None
        self._inputs: list[Tensor] = []
        self._replay: Callable[[], StepResult] | None = None

    def on_stage_change(self) -> None:
        """Prepare for steps that do something else, such as those after the initialization stage."""
        self._eager_steps = WARMUP_STEPS

    def __call__(self, batch: Batch, cached: CachedOutputs) -> StepResult:
        """Take one step and return its result, whose tensors the next step overwrites."""
        if len(batch.labels) != self._batch_size:
            return self._take_eagerly(batch, cached)
        if batch.epoch != self._epoch:
            self._epoch, self._eager_steps = batch.epoch, max(self._eager_steps, 1)
            self._replay = None  # free the memory of the previous capture
        if self._replay is None:
            if self._eager_steps > 0:
                self._eager_steps -= 1
                return self._take_eagerly(batch, cached)
            self._capture(batch, cached)
        for place, tensor in zip(self._inputs, _inputs(batch, cached), strict=True):
            place.copy_(tensor)
        assert self._replay is not None
        return self._replay()

    def _take_eagerly(self, batch: Batch, cached: CachedOutputs) -> StepResult:
        with self._on_capture_stream():
            return self._step(batch, cached, None)

    def _capture(self, batch: Batch, cached: CachedOutputs) -> None:
        # a batch's tensors are views of its epoch's, which are freed before the captured step is replayed; caches are
        # not read within a step
        batch = dataclasses.replace(_map(torch.clone, batch), augmentation_ids=[])
        cached = _map(torch.clone, cached)
        self._inputs = _inputs(batch, cached)
        with self._on_capture_stream():
            self._replay = self._capture_function(
                lambda passes: self._step(batch, cached, passes), batch.generator, self._reads(batch, cached)
            )

    @contextlib.contextmanager
    def _on_capture_stream(self) -> Iterator[None]:
        stream = self._capture_function.stream
        if stream is None:
            yield
            return
        current = torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            yield
        current.wait_stream(stream)


def _inputs(batch: Batch, cached: CachedOutputs) -> list[Tensor]:
    """Return the tensors that a step reads."""
    targets = [] if batch.targets is None else [batch.targets]
    return [*batch.images, batch.labels, batch.indices, *targets, *_tensors(cached)]


def _map(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply `function` to all tensors in nested dataclasses, mappings and lists."""
    if isinstance(value, Tensor):
        return function(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{k: _map(function, v) for k, v in vars(value).items()})
    if isinstance(value, Mapping):
        return {k: _map(function, v) for k, v in value.items()}
    if isinstance(value, list):
        return [_map(function, v) for v in value]
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield all tensors in nested dataclasses, mappings and lists, in their order."""
    if isinstance(value, Tensor):
        yield value
    elif dataclasses.is_dataclass(value):
        yield from itertools.chain.from_iterable(map(_tensors, vars(value).values()))
    elif isinstance(value, Mapping):
        yield from itertools.chain.from_iterable(map(_tensors, value.values()))
    elif isinstance(value, list):
        yield from itertools.chain.from_iterable(map(_tensors, value))
