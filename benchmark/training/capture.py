"""A training step recorded once and replayed: on a GPU as a CUDA graph, one launch in place of hundreds.

A recording does what the step did to the places in memory that it read and wrote, with the Python numbers it was made
with. So what a later step reads anew is copied to where the recorded one read it, and a recording serves one epoch,
within which neither the learning rate nor the weight of a term changes, and batches of one size.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from methods.contract import Batch, Outputs

WARM = 3  # steps run as they are before a first recording: libraries and optimiser make what they keep in them


@dataclass(frozen=True)
class Known:
    """What the teacher's caches have for a batch: of the first view and of the second; None of what is not cached."""

    first: Outputs | None = None
    second: Outputs | None = None


Step = Callable[[Batch, Known], tuple[dict[str, Tensor], Tensor]]
# Records what a function does, without doing it, its random numbers being the generator's. Returns what does it, each
# time it is called, and what the function returned: tensors, whose values are those of the last time.
Recorder = Callable[[Callable[[], Any], torch.Generator], tuple[Callable[[], None], Any]]


class Unrecordable(RuntimeError):
    """A step does what cannot be in a CUDA graph."""


@functools.cache
def recording_stream() -> torch.cuda.Stream:
    """The stream on which this process records, one for all: torch keeps memory for each on which a matrix product was
    ever computed."""
    return torch.cuda.Stream()


def cuda_graph(function: Callable[[], Any], generator: torch.Generator) -> tuple[Callable[[], None], Any]:
    """The `Recorder` of a GPU. Raises Unrecordable."""
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    try:
        with torch.cuda.graph(graph, stream=recording_stream()):
            given = function()
    except RuntimeError as e:
        first: BaseException = e
        while first.__context__ is not None:  # ending a recording that went wrong goes wrong too
            first = first.__context__
        cause = str(first).partition("\n")[0]
        raise Unrecordable(
            f"its step cannot be recorded as a CUDA graph ({cause}): it must not wait for the GPU, as .item() and "
            "boolean masks do, nor take numbers from the CPU; or train it with cuda_graph=false"
        ) from e
    return graph.replay, given


class Replayed:
    """Training steps by recordings of `step`, for batches of `size`; other steps are run as they are.

    So is the first of each epoch: what an epoch begins with, such as a kernel that is compiled for a number that has
    changed, cannot be made while a step is recorded.
    """

    def __init__(self, step: Step, size: int, record: Recorder) -> None:
        self._step, self._size, self._record = step, size, record
        self._warm = WARM
        self._epoch: int | None = None  # of the recording, or of the steps before it
        self._inputs: list[Tensor] = []
        self._replay: Callable[[], None] | None = None
        self._given: Any = None
        # a GPU records on no stream but one of its own, and what was made on another would be waited for
        self._stream = recording_stream() if record is cuda_graph else None

    def begin_stage(self) -> None:
        """What a step does is about to change."""
        self._warm = WARM

    def __call__(self, batch: Batch, known: Known) -> tuple[dict[str, Tensor], Tensor]:
        """One step, and what it returns; its tensors are written anew by the next."""
        with self._aside():
            if len(batch.labels) != self._size:
                return self._step(batch, known)
            if batch.epoch != self._epoch:
                self._epoch, self._warm = batch.epoch, max(self._warm, 1)
                self._replay, self._given = None, None  # free the memory of the last one
            if self._replay is None:
                if self._warm > 0:
                    self._warm -= 1
                    return self._step(batch, known)
                self._make(batch, known)
            for place, tensor in zip(self._inputs, (*_tensors(batch), *_tensors(known)), strict=True):
                place.copy_(tensor)
            self._replay()
            return self._given

    def _make(self, batch: Batch, known: Known) -> None:
        batch, known = _map(torch.clone, batch), _map(torch.clone, known)  # a batch's are parts of its epoch's
        self._inputs = [*_tensors(batch), *_tensors(known)]
        self._replay, self._given = self._record(lambda: self._step(batch, known), batch.generator)

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        if self._stream is None:
            yield
            return
        usual = torch.cuda.current_stream()
        self._stream.wait_stream(usual)
        with torch.cuda.stream(self._stream):
            yield
        usual.wait_stream(self._stream)


def _map(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Nested dataclasses and mappings with `function` applied to all tensors."""
    if isinstance(value, Tensor):
        return function(value)
    if dataclasses.is_dataclass(value):
        return dataclasses.replace(value, **{k: _map(function, v) for k, v in vars(value).items()})
    if isinstance(value, Mapping):
        return {k: _map(function, v) for k, v in value.items()}
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested dataclasses and mappings, in their order."""
    if isinstance(value, Tensor):
        yield value
    elif dataclasses.is_dataclass(value):
        yield from itertools.chain.from_iterable(map(_tensors, vars(value).values()))
    elif isinstance(value, Mapping):
        yield from itertools.chain.from_iterable(map(_tensors, value.values()))
