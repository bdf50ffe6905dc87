"""The processes of one run that is trained data-parallel, which this process starts and watches.

Each of them trains its share (`benchmark.training.parallel`); the first also reads and writes the run's folder, whose
lock this process holds. They exchange tensors by NCCL on GPUs, the n-th of them on the n-th GPU, and by Gloo on CPUs.
This process takes part in no exchange, so that it can end them whatever they wait for. They end with it.
"""

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from benchmark.config.method_files import describe_failure
from benchmark.console import protect_streams
from benchmark.grid.estimate import TimeKey
from benchmark.grid.processes import new_process
from benchmark.grid.progress import Progress
from benchmark.interruption import stop
from benchmark.runs import locks
from benchmark.runs.locks import RunBusy
from benchmark.training.evaluation import Diverged
from benchmark.training.hardware import Hardware
from benchmark.training.parallel import TIMEOUT, Parallel, PeerLost, ProcessGroup

CAUSE_WAIT_S = 5.0  # after a failure, for that of another process which may be its cause
END_WAIT_S = 15.0  # for processes to end by themselves; trackers have 10 s
STEP_INTERVAL_S = 0.1  # least time between two reports of a step
RESULT, FAILURE = "result", "failure"  # messages of a process; others are calls of a progress

Share = Callable[[Parallel, Progress], Any]  # what each process computes


@dataclass(frozen=True)
class Failure:
    """Why a process failed. kind: of the exception that is raised here. consequence: of the end of another process."""

    reason: str
    traceback: str = ""
    kind: str = "failed"
    consequence: bool = False


class ProcessFailed(RuntimeError):
    """Raised where one of a run's processes fails; the message is its reason. Its cause has the process's traceback."""


KINDS: dict[str, type[Exception]] = {"failed": ProcessFailed, "diverged": Diverged, "busy": RunBusy}


class RemoteTraceback(Exception):
    """The traceback of another process."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def train(share: Share, hardware: Hardware, progress: Progress, lock: Path, *, whole_batch_statistics: bool) -> Any:
    """Compute `share` in as many processes as `hardware` names. Return what the first returns.

    share: picklable. progress: shows what the first process reports. lock: of the run, which this process holds.
    whole_batch_statistics: see `ProcessGroup`. Raises Diverged and ProcessFailed; an exception of `progress` ends all.
    """
    if hardware.device == "cuda" and (gpus := torch.cuda.device_count()) < hardware.processes:
        raise ProcessFailed(f"the run needs {hardware.processes} GPUs, and {gpus} can be used here")
    with tempfile.TemporaryDirectory(prefix="kd-") as folder, contextlib.ExitStack() as stack:
        claim = locks.claim_on(lock)
        enter = functools.partial(_enter, hardware, Path(folder) / "store", claim, whole_batch_statistics, share)
        ranks = _Ranks(stack.enter_context(_started(enter, hardware.processes)))
        return ranks.watch(stack.enter_context(_shown(progress)))


class _Ranks:
    """The processes of a run, by the pipes through which they report."""

    def __init__(self, processes: Mapping[Connection, BaseProcess]) -> None:
        self._processes = dict(processes)
        self._numbers = {pipe: f"process {n} of {len(processes)}" for n, pipe in enumerate(processes, start=1)}
        self._reported: set[Connection] = set()  # those that sent a result or a failure
        self._failures: list[Failure] = []
        self._results: list[Any] = []

    def watch(self, show: Callable[..., None]) -> Any:
        """Wait until all have ended; return the result of the first. show: receives the calls of a progress."""
        deadline = None
        while self._processes:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            ready = connection.wait(list(self._processes), left)
            for pipe in ready:
                assert isinstance(pipe, Connection)
                self._receive(pipe, show)
            if self._failures and deadline is None:
                deadline = time.monotonic() + CAUSE_WAIT_S
            if self._failures and (not ready or not all(failure.consequence for failure in self._failures)):
                break
        if self._failures:
            self._raise()
        return next(result for rank, result in self._results if rank == 0)

    def _receive(self, pipe: Connection, show: Callable[..., None]) -> None:
        try:
            kind, *content = pipe.recv()
        except EOFError:
            process = self._processes.pop(pipe)
            process.join(END_WAIT_S)
            if pipe not in self._reported:
                self._failures.append(Failure(f"{self._numbers[pipe]} ended with status {process.exitcode}"))
            return
        if kind not in (RESULT, FAILURE):
            show(kind, *content)
            return
        self._reported.add(pipe)
        if kind == RESULT:
            self._results.append(content)
        else:
            self._failures.append(content[0])

    def _raise(self) -> None:
        failure = next((failure for failure in self._failures if not failure.consequence), self._failures[0])
        raise KINDS[failure.kind](failure.reason) from (
            RemoteTraceback(failure.traceback) if failure.traceback else None
        )


@contextlib.contextmanager
def _started(enter: Callable[..., None], size: int) -> Iterator[dict[Any, BaseProcess]]:
    """Start processes that call `enter(pipe, rank)`; at the end of the context end those that still run."""
    processes: dict[Any, BaseProcess] = {}  # by the pipe through which each reports
    try:
        for rank in range(size):
            receiver, sender = multiprocessing.Pipe(duplex=False)
            process = new_process(enter, (sender, rank), daemon=True)
            process.start()
            sender.close()
            processes[receiver] = process
        yield processes
    finally:
        for process in processes.values():
            process.terminate()
        deadline = time.monotonic() + END_WAIT_S
        for pipe, process in processes.items():
            process.join(max(deadline - time.monotonic(), 0.0))
            process.kill()  # one that waits for a device does not notice the signal
            process.join()
            pipe.close()


# ---------------------------------------------------------------- progress


class ForwardedProgress(Progress):
    """The progress of a run in a process that is watched by another, which shows it. send: sends a call there."""

    def __init__(self, send: Callable[[Any], None]) -> None:
        super().__init__(1)
        self._send, self._sent_at = send, 0.0

    @contextlib.contextmanager
    def cache_fill(self, name: str) -> Iterator[Callable[[float], None]]:
        """Yield a callback that takes the filled share of a run's teacher cache and shows it."""
        yield lambda share: self._send(("fill", name, share))

    def start(self, name: str, epochs: int, last_epoch: int, key: TimeKey | None = None) -> None:
        """Start a run."""
        self._send(("start", name, epochs, last_epoch, key))

    def step(self, step: int, steps: int) -> None:
        """Report a finished training step, though not each of many that follow quickly."""
        if (now := time.monotonic()) - self._sent_at >= STEP_INTERVAL_S:
            self._send(("step", step, steps))
            self._sent_at = now

    def epoch(self, line: Mapping[str, Any]) -> None:
        """Report a finished epoch by its line of metrics."""
        self._send(("epoch", line))

    def stop(self) -> None:
        """Do nothing: the watching process notices the end."""


@contextlib.contextmanager
def _shown(progress: Progress) -> Iterator[Callable[..., None]]:
    """Yield a function that makes the calls of a ForwardedProgress on `progress`, which is stopped at the end."""
    with contextlib.ExitStack() as run, contextlib.ExitStack() as cache:
        report: Callable[[float], None] | None = None

        def show(call: str, *args: Any) -> None:
            nonlocal report
            if call == "fill":
                name, share = args
                report = report or cache.enter_context(progress.cache_fill(name))
                report(share)
                return
            cache.close()
            if call == "start":
                run.callback(progress.stop)
            getattr(progress, call)(*args)

        yield show


# ---------------------------------------------------------------- in each process


def _enter(
    hardware: Hardware, store: Path, claim: locks.Claim | None, whole_batch_statistics: bool, share: Share,
    pipe: Connection, rank: int,
) -> None:  # fmt: skip
    """Compute a share and send its result, or why there is none. Ends the process, whose threads may not end."""
    status = 0
    try:
        _follow_parent()
        protect_streams()
        if claim is not None:
            locks.share(claim)
        try:
            _join_group(hardware, store, rank)
            result = share(ProcessGroup(whole_batch_statistics), ForwardedProgress(pipe.send))
            pipe.send((RESULT, rank, result))
            distributed.barrier()  # one that ends early would break what others still exchange
            distributed.destroy_process_group()
        except (Exception, SystemExit) as e:  # a method may call sys.exit
            with contextlib.suppress(OSError):
                pipe.send((FAILURE, _failure(e, f"process {rank + 1} of {hardware.processes}")))
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except KeyboardInterrupt:
        status = 130
    finally:
        os._exit(status)


def _follow_parent() -> None:
    """Leave signals of a terminal and of Slurm to the process that watches this one, and end when it has ended."""
    signal.signal(signal.SIGTERM, stop)
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, name="parent", daemon=True).start()


def _join_group(hardware: Hardware, store: Path, rank: int) -> None:
    """Join torch's process group, by a file of this machine, and choose the GPU."""
    more: dict[str, Any] = {}
    if hardware.device == "cuda":
        torch.cuda.set_device(rank)
        more["device_id"] = torch.device("cuda", rank)
    backend = "nccl" if hardware.device == "cuda" else "gloo"
    distributed.init_process_group(
        backend, init_method=f"file://{store}", rank=rank, world_size=hardware.processes, timeout=TIMEOUT, **more
    )


def _failure(error: BaseException, process: str) -> Failure:
    text = "".join(traceback.format_exception(error))
    kind = next((kind for kind, of_kind in KINDS.items() if isinstance(error, of_kind)), "failed")
    if kind != "failed":
        return Failure(str(error), text, kind)
    return Failure(f"{describe_failure(error)}, in {process}", text, consequence=isinstance(error, PeerLost))
