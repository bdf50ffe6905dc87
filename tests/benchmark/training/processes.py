"""Processes that train one network together on the CPU, started once and reused by many tests."""

import contextlib
import multiprocessing
import tempfile
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from benchmark.grid.processes import new_process
from benchmark.training.parallel import ProcessGroup


@contextlib.contextmanager
def group_of(size: int) -> Iterator[Callable[..., list[Any]]]:
    """Start `size` processes. Yield call(function, *args): what `function(group, *args)` returns in each of them, None
    for one that ended."""
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        for rank in range(size):
            ours, theirs = multiprocessing.Pipe()
            process = new_process(_serve, (theirs, rank, size, Path(folder) / "store"), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)

        def call(function: Callable[..., Any], *args: Any) -> list[Any]:
            for pipe in pipes:
                pipe.send((function, args))
            results = [_received(pipe) for pipe in pipes]
            for result in results:
                assert not isinstance(result, Failure), f"a process raised: {result}"
            return results

        try:
            yield call
        finally:
            for process in processes:
                process.terminate()
                process.join()


class Failure(str):
    """The traceback of a process."""


def _received(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        return None


def _serve(pipe: Connection, rank: int, size: int, store: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    with contextlib.suppress(EOFError):
        while True:
            function, args = pipe.recv()
            try:
                pipe.send(function(ProcessGroup(), *args))
            except Exception:
                pipe.send(Failure(traceback.format_exc()))
