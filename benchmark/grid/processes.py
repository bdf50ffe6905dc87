"""Processes that this one starts: each is forked from a server that has imported the code once.

A process that is spawned imports torch for seconds before it works, and one that is forked from this process would
inherit the state of CUDA and the threads of torch, which do not survive that. The server has neither.
"""

import multiprocessing
import os
from collections.abc import Callable, Mapping
from multiprocessing import reduction
from multiprocessing.process import BaseProcess
from typing import Any

# by the server: the code of runs, and what it imports only while it trains (torch's optimizers, the digits)
IMPORTED = ["benchmark.grid.run", "benchmark.grid.data_parallel", "torch._dynamo", "sklearn.datasets"]
OUTPUTS = (1, 2)  # descriptors


def new_process(
    target: Callable[..., None], args: tuple[Any, ...], *, environment: Mapping[str, str] | None = None,
    daemon: bool = False,
) -> BaseProcess:  # fmt: skip
    """Return a process, not yet started, that calls `target(*args)`, both picklable.

    environment: variables that it has in addition to those of this process.
    """
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
    else:
        context = multiprocessing.get_context("spawn")
    # the server has the variables and the outputs of the time at which it was started
    variables = {**os.environ, **(environment or {})}
    outputs = [_Descriptor(number) for number in OUTPUTS]
    return context.Process(target=_call, args=(variables, outputs, target, args), daemon=daemon)


class _Descriptor:
    """An open file that another process adopts under the same number. duplicate: of it, in that process."""

    def __init__(self, number: int, duplicate: Any = None) -> None:
        self._number, self._duplicate = number, duplicate

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        try:
            os.fstat(self._number)
        except OSError:  # it is closed
            return _Descriptor, (self._number,)
        return _Descriptor, (self._number, reduction.DupFd(self._number))

    def adopt(self) -> None:
        """Take the file's place in this process; nothing is done for one that was closed."""
        if self._duplicate is not None:
            descriptor = self._duplicate.detach()
            os.dup2(descriptor, self._number)
            os.close(descriptor)


def _call(
    variables: Mapping[str, str], outputs: list[_Descriptor], target: Callable[..., None], args: tuple[Any, ...]
) -> None:
    os.environ.clear()
    os.environ.update(variables)  # before CUDA starts, which it does at its first use
    for output in outputs:
        output.adopt()
    target(*args)
