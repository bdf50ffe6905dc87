"""Who runs the cells: anything with `submit`. Serial is this process; Processes trains several cells side by side."""

import multiprocessing
import signal
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol


class Executor(Protocol):
    """Runs functions somewhere: here, in a pool of processes, on Slurm through submitit, on Ray."""

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future:
        """Run `function(*args)` and give its future."""


class Serial:
    """Runs what is submitted at once, in this process."""

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future:
        future: Future = Future()
        future.set_result(function(*args))
        return future


class Processes:
    """Runs up to `jobs` functions at a time, each in a fresh process of its own.

    A process that dies fails its own future alone. Use as a context: leaving it by an exception ends all that is
    running, and what is waiting is not begun.
    """

    def __init__(self, jobs: int) -> None:
        self._threads = ThreadPoolExecutor(jobs)
        self._running: set[BaseProcess] = set()
        self._stopped, self._starting = False, threading.Lock()

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future:
        return self._threads.submit(self._run, function, *args)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            with self._starting:
                self._stopped = True
                for process in self._running:
                    process.terminate()
        self._threads.shutdown(wait=True)

    def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        # spawned, not forked: neither CUDA nor the thread pools of torch survive a fork
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(theirs, function, args), daemon=True)
        with self._starting:
            if self._stopped:
                raise CancelledError
            process.start()
            self._running.add(process)
        theirs.close()
        try:
            result = ours.recv()
        except EOFError:
            process.join()
            raise RuntimeError(f"its process ended with status {process.exitcode}") from None
        finally:
            with self._starting:
                self._running.discard(process)
        process.join()
        if isinstance(result, BaseException):
            raise result
        return result


def _child(pipe: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the parent's word (SIGTERM) counts
    try:
        pipe.send(function(*args))
    except KeyboardInterrupt:
        pass
    except Exception as e:
        pipe.send(e)


def stop(*_: Any) -> None:
    """A signal handler that ends a process as Ctrl-C does: what is being trained goes on at the next call."""
    raise KeyboardInterrupt
