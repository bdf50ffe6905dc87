"""Capture of a training step as a CUDA graph, and its replay: one launch in place of hundreds.

A captured step repeats what it did to the same places in memory, with the Python numbers it was captured with. So the
tensors that a later step reads are copied to the places that the captured one read, and a capture serves one epoch,
within which neither the learning rate nor the weight of a term changes, and batches of one size.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from benchmark.teacher.outputs import CachedOutputs
from methods.contract import Batch

WARMUP_STEPS = 3  # eager steps before a first capture, in which libraries and optimizer allocate what they keep


class StepResult(NamedTuple):
    """What a training step computed, detached."""

    terms: dict[str, Tensor]  # scalars by name
    logits: Tensor  # [N, C]
    row: Tensor  # the terms and the number of hits as one tensor [T + 1], all that an epoch keeps of a step


Step = Callable[[Batch, CachedOutputs], StepResult]


class CaptureError(RuntimeError):
    """A step does something that cannot be part of a CUDA graph."""


class Branch(NamedTuple):
    """One of the functions that a CUDA graph does side by side."""

    function: Callable[[], Any]
    generator: torch.Generator  # of its random numbers
    stream: torch.cuda.Stream | None  # on which its tensors live and it is captured; None without a GPU


class Capture(Protocol):
    """Captures steps of a run for their replay."""

    @property
    def stream(self) -> torch.cuda.Stream | None:
        """The stream for all steps of the run: a captured step waits for tensors made on another one. None without a
        GPU."""
        ...

    def __call__(self, function: Callable[[], Any], generator: torch.Generator) -> Callable[[], Any]:
        """Capture what `function` does, without doing it; its random numbers are the generator's.

        Returns a function that replays it and returns what the captured call returned: tensors that hold the values of
        the latest replay. Raises CaptureError.
        """
        ...


class SingleGraph:
    """Captures the steps of one run as a CUDA graph of their own."""

    @property
    def stream(self) -> torch.cuda.Stream:
        """The stream of all captures."""
        return capture_stream()

    def __call__(self, function: Callable[[], Any], generator: torch.Generator) -> Callable[[], Any]:
        """Capture what `function` does. Raises CaptureError."""
        replay, (result,) = capture_branches([Branch(function, generator, self.stream)])

        def replay_and_return() -> Any:
            replay()
            return result

        return replay_and_return


SINGLE_GRAPH = SingleGraph()


@functools.cache
def capture_stream() -> torch.cuda.Stream:
    """Return the stream on which this process captures: one for all, as torch keeps memory for every stream on which a
    matrix product was ever computed."""
    return torch.cuda.Stream()


def capture_branches(branches: Sequence[Branch]) -> tuple[Callable[[], None], list[Any]]:
    """Capture what functions do as parallel branches of one CUDA graph, without doing it.

    Returns a function that replays them all, and what the functions returned. Raises CaptureError.
    """
    graph, origin = torch.cuda.CUDAGraph(), capture_stream()
    streams = [branch.stream or origin for branch in branches]
    others = [stream for stream in streams if stream != origin]
    for branch in branches:
        graph.register_generator_state(branch.generator)
    results = []
    try:
        with torch.cuda.graph(graph, stream=origin):
            for branch, stream in zip(branches, streams, strict=True):
                if stream in others:
                    stream.wait_stream(origin)
                with torch.cuda.stream(stream):
                    results.append(branch.function())
            for stream in others:
                origin.wait_stream(stream)
    except RuntimeError as e:
        first: BaseException = e
        while first.__context__ is not None:  # ending a failed capture fails too
            first = first.__context__
        cause = str(first).partition("\n")[0]
        raise CaptureError(
            f"its step cannot be captured as a CUDA graph ({cause}): it must not wait for the GPU, as .item() and "
            "boolean masks do, nor read numbers from the CPU; or train it with cuda_graph=false"
        ) from e
    return graph.replay, results


class GraphedStep:
    """Training steps by replay of a captured `step`, for batches of `batch_size`; other batches run eagerly.

    The first step of each epoch runs eagerly too: what an epoch begins with, such as compiling a kernel for a number
    that has changed, cannot happen during a capture.
    """

    def __init__(self, step: Step, batch_size: int, capture: Capture) -> None:
        self._step, self._batch_size, self._capture_function = step, batch_size, capture
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
            return self._step(batch, cached)

    def _capture(self, batch: Batch, cached: CachedOutputs) -> None:
        # a batch's tensors are views of its epoch's, which are freed before the captured step is replayed; caches are
        # not read within a step
        batch = dataclasses.replace(_map(torch.clone, batch), indices_cpu=None, augmentation_ids=[])
        cached = _map(torch.clone, cached)
        self._inputs = _inputs(batch, cached)
        with self._on_capture_stream():
            self._replay = self._capture_function(lambda: self._step(batch, cached), batch.generator)

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
    return [*batch.images, batch.labels, batch.indices, *_tensors(cached)]


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
