"""Capture of what functions do as CUDA graphs, of one run or as branches of several."""

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from methods.contract import Needs, Outputs

Reads = Mapping[Hashable, Needs]  # what a step reads of passes of a teacher, by keys that equal passes share


class CaptureError(RuntimeError):
    """A step does something that cannot be part of a CUDA graph."""


class Branch(NamedTuple):
    """One of the functions that a CUDA graph does side by side."""

    function: Callable[["SharedPasses"], Any]
    generator: torch.Generator  # of its random numbers
    stream: torch.cuda.Stream | None  # on which its tensors live and it is captured; None without a GPU
    reads: Reads  # of its function


class SharedPasses:
    """The passes of teachers that the branches of a graph read, each computed once for all of them.

    On a GPU they run beside the branches, on a stream of their own. begin: an event at the beginning of the capture,
    for which they wait; None without a GPU. An instance must live until the capture ends: it holds outputs that other
    streams read, whose memory would be used again.
    """

    def __init__(self, branches: Sequence[Branch], begin: torch.cuda.Event | None) -> None:
        self._begin = begin
        self._needs: dict[Hashable, Needs] = {}
        for branch in branches:
            for key, needs in branch.reads.items():
                self._needs[key] = self._needs.get(key, Needs()) | needs
        self._computed: dict[Hashable, tuple[Outputs, torch.cuda.Event | None]] = {}

    def __call__(self, key: Hashable, compute: Callable[[Needs], Outputs]) -> Outputs:
        """Return the pass of a key with all that branches read of it; the first branch that asks computes it."""
        if key not in self._computed:
            self._computed[key] = self._compute(self._needs[key], compute)
        outputs, end = self._computed[key]
        if end is not None:
            torch.cuda.current_stream().wait_event(end)
        return outputs

    def _compute(self, needs: Needs, compute: Callable[[Needs], Outputs]) -> tuple[Outputs, torch.cuda.Event | None]:
        if self._begin is None:
            return compute(needs), None
        stream = _pass_stream()
        stream.wait_event(self._begin)
        with torch.cuda.stream(stream):
            return compute(needs), _record_event(stream)


class Capture(Protocol):
    """Captures steps of a run for their replay."""

    @property
    def stream(self) -> torch.cuda.Stream | None:
        """The stream for all steps of the run: a captured step waits for tensors made on another one. None without a
        GPU."""
        ...

    def __call__(
        self, function: Callable[[SharedPasses], Any], generator: torch.Generator, reads: Reads
    ) -> Callable[[], Any]:
        """Capture what `function` does, without doing it; its random numbers are the generator's.

        reads: what it reads of the passes that it is given, by their keys.

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

    def __call__(
        self, function: Callable[[SharedPasses], Any], generator: torch.Generator, reads: Reads
    ) -> Callable[[], Any]:
        """Capture what `function` does. Raises CaptureError."""
        replay, (result,) = capture_branches([Branch(function, generator, self.stream, reads)])

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


def _record_event(stream: torch.cuda.Stream) -> torch.cuda.Event:
    event = torch.cuda.Event()
    event.record(stream)
    return event


@functools.cache
def _pass_stream() -> torch.cuda.Stream:
    """Return the stream on which this process captures the passes of teachers."""
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
            passes = SharedPasses(branches, _record_event(origin))
            for branch, stream in zip(branches, streams, strict=True):
                if stream in others:
                    stream.wait_stream(origin)
                with torch.cuda.stream(stream):
                    results.append(branch.function(passes))
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
