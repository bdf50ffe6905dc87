"""Capture of a training step as a CUDA graph, and its replay: one launch in place of hundreds.

A captured step repeats what it did to the same places in memory, with the Python numbers it was captured with. So the
tensors that a later step reads are copied to the places that the captured one read, and a capture serves one epoch,
within which neither the learning rate nor the weight of a term changes, and batches of one size.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from benchmark.teacher.outputs import CachedOutputs
from methods.contract import Batch

WARMUP_STEPS = 3  # eager steps before a first capture, in which libraries and optimizer allocate what they keep

StepResult = tuple[dict[str, Tensor], Tensor]  # detached terms by name, logits [N, C]
Step = Callable[[Batch, CachedOutputs], StepResult]
# Captures what a function does, without doing it; its random numbers are the generator's. Returns a function that
# replays it, and what the function returned: tensors that hold the values of the latest replay.
Capture = Callable[[Callable[[], Any], torch.Generator], tuple[Callable[[], None], Any]]


class CaptureError(RuntimeError):
    """A step does something that cannot be part of a CUDA graph."""


@functools.cache
def capture_stream() -> torch.cuda.Stream:
    """Return the stream on which this process captures: one for all, as torch keeps memory for every stream on which a
    matrix product was ever computed."""
    return torch.cuda.Stream()


def cuda_graph(function: Callable[[], Any], generator: torch.Generator) -> tuple[Callable[[], None], Any]:
    """The `Capture` of a GPU. Raises CaptureError."""
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    try:
        with torch.cuda.graph(graph, stream=capture_stream()):
            result = function()
    except RuntimeError as e:
        first: BaseException = e
        while first.__context__ is not None:  # ending a failed capture fails too
            first = first.__context__
        cause = str(first).partition("\n")[0]
        raise CaptureError(
            f"its step cannot be captured as a CUDA graph ({cause}): it must not wait for the GPU, as .item() and "
            "boolean masks do, nor read numbers from the CPU; or train it with cuda_graph=false"
        ) from e
    return graph.replay, result


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
        self._replay: Callable[[], None] | None = None
        self._result: Any = None
        # a GPU captures on a stream of its own only; tensors made on another stream would be waited for
        self._stream = capture_stream() if capture is cuda_graph else None

    def on_stage_change(self) -> None:
        """Prepare for steps that do something else, such as those after the initialization stage."""
        self._eager_steps = WARMUP_STEPS

    def __call__(self, batch: Batch, cached: CachedOutputs) -> StepResult:
        """Take one step and return its result, whose tensors the next step overwrites."""
        with self._on_capture_stream():
            if len(batch.labels) != self._batch_size:
                return self._step(batch, cached)
            if batch.epoch != self._epoch:
                self._epoch, self._eager_steps = batch.epoch, max(self._eager_steps, 1)
                self._replay, self._result = None, None  # free the memory of the previous capture
            if self._replay is None:
                if self._eager_steps > 0:
                    self._eager_steps -= 1
                    return self._step(batch, cached)
                self._capture(batch, cached)
            for place, tensor in zip(self._inputs, (*_tensors(batch), *_tensors(cached)), strict=True):
                place.copy_(tensor)
            assert self._replay is not None
            self._replay()
            return self._result

    def _capture(self, batch: Batch, cached: CachedOutputs) -> None:
        # a batch's tensors are views of its epoch's, which are freed before the captured step is replayed
        batch, cached = _map(torch.clone, batch), _map(torch.clone, cached)
        self._inputs = [*_tensors(batch), *_tensors(cached)]
        self._replay, self._result = self._capture_function(lambda: self._step(batch, cached), batch.generator)

    @contextlib.contextmanager
    def _on_capture_stream(self) -> Iterator[None]:
        if self._stream is None:
            yield
            return
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)


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
