"""Capture of what functions do as CUDA graphs, of one run or as branches of several."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch


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
