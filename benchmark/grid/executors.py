"""Executors of runs: anything with `submit`. `Serial` uses this process, `Processes` several local ones.

`benchmark.grid.lockstep` has the one for several runs in one process.
"""

import dataclasses
import multiprocessing
import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from benchmark.console import protect_streams
from benchmark.grid.processes import new_process
from benchmark.grid.training_run import Outcome
from benchmark.interruption import stop
from benchmark.training.graphs import SINGLE_GRAPH, Capture


class Executor(Protocol):
    """Runs functions somewhere: here, in a pool of processes, on Slurm through submitit, on Ray."""

    @property
    def capture(self) -> Capture:
        """What captures the training steps of its runs on a GPU."""
        ...

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Run `function(*args)` and return its future."""
        ...


class Serial:
    """Runs each submitted function at once, in this process; its exceptions are raised by `submit`."""

    capture: Capture = SINGLE_GRAPH

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Run `function(*args)` and return its finished future."""
        future: Future[Any] = Future()
        future.set_result(function(*args))
        return future


class Processes:
    """Runs up to `jobs` functions at a time, or on each GPU, each in a fresh process.

    gpus: entries of CUDA_VISIBLE_DEVICES; each process sees one of them, and each is used by up to `jobs` processes.
    A process that dies fails only its own future. Use it as a context manager: leaving the context by an exception
    terminates the running processes and cancels the functions that wait.
    """

    capture: Capture = SINGLE_GRAPH

    def __init__(self, jobs: int, gpus: Sequence[str] = ()) -> None:
        self._places: queue.SimpleQueue[Mapping[str, str]] = queue.SimpleQueue()  # environment of a process
        for _ in range(jobs):  # the first processes go to different GPUs
            for gpu in gpus:
                self._places.put({"CUDA_VISIBLE_DEVICES": gpu})
            if not gpus:
                self._places.put({})
        self._threads = ThreadPoolExecutor(self._places.qsize())
        self._running: set[BaseProcess] = set()
        self._stopped, self._lock = False, threading.Lock()

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Run `function(*args)` in a fresh process once one of the `jobs` places is free, and return its future."""
        return self._threads.submit(self._run, function, *args)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            with self._lock:
                self._stopped = True
                for process in self._running:
                    process.terminate()
        self._threads.shutdown(wait=True)

    def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        environment = self._places.get()
        started = time.monotonic()
        try:
            result = self._run_at(environment, function, args)
            if isinstance(result, Outcome):  # with the start of its process, which the run could not see
                return dataclasses.replace(result, seconds=time.monotonic() - started)
            return result
        finally:
            self._places.put(environment)

    def _run_at(self, environment: Mapping[str, str], function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        # not a daemon, which could not start the processes of a run that several train together
        process = new_process(_run_and_send, (sender, function, args), environment=environment)
        with self._lock:
            if self._stopped:
                raise CancelledError
            process.start()
            self._running.add(process)
        sender.close()
        try:
            result = receiver.recv()
        except EOFError:
            self._join(process)
            raise RuntimeError(f"its process ended with status {process.exitcode}") from None
        finally:
            with self._lock:
                self._running.discard(process)
        self._join(process)
        if isinstance(result, BaseException):
            raise result
        return result

    def _join(self, process: BaseProcess) -> None:
        """Wait until a process has ended, and read its status.

        The status can be read once, and each start of a process reads those of all that have ended: hence the lock.
        """
        connection.wait([process.sentinel])
        with self._lock:
            process.join()


def _run_and_send(pipe: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent answers it with SIGTERM
    protect_streams()
    try:
        pipe.send(function(*args))
    except KeyboardInterrupt:
        pass
    except Exception as e:
        pipe.send(e)
