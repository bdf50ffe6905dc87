"""Runs as tasks of Ray, on a running cluster or on one that is started on this machine for the command.

A task whose node died is repeated by Ray on another one, where the run continues from its last checkpoint: all nodes
see the folder of all runs. What a task prints is shown by the command.
"""

import functools
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from benchmark.config.schema import ExecutorConfig
from benchmark.console import protect_streams
from benchmark.errors import UserError
from benchmark.grid.training_run import BUSY, Outcome
from benchmark.runs.locks import EXPIRY_S
from benchmark.training.graphs import SINGLE_GRAPH, Capture

BUSY_POLL_S = 2.0


class RayCluster:
    """Runs each submitted function as a task of Ray with the resources of `options`.

    Use it as a context manager: leaving the context by an exception cancels the tasks. Raises UserError where Ray is
    not installed, its cluster is not reachable, or no node has the resources of a run.
    """

    capture: Capture = SINGLE_GRAPH

    def __init__(self, options: ExecutorConfig) -> None:
        if importlib.util.find_spec("ray") is None:
            raise UserError("executor=ray needs Ray: pip install -c constraints.txt -e '.[ray]'")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # lines of different runs may be equal
        import ray

        self._options, self._tasks = options, []
        try:
            ray.init(
                address=options.address or "local", log_to_driver=True, configure_logging=False,
                include_dashboard=False if options.address is None else None,
            )  # fmt: skip
        except (ConnectionError, RuntimeError, ValueError) as e:
            raise UserError(f"executor.address={options.address}: {str(e).splitlines()[0]}") from e
        self._check_resources()

    def _check_resources(self) -> None:
        import ray

        per_run = {"CPU": self._options.cpus or 1, "GPU": self._options.gpus or 0}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(node.get(kind, 0) >= amount for kind, amount in per_run.items()) for node in nodes):
            largest = ", ".join(f"{max((n.get(kind, 0) for n in nodes), default=0):g} {kind}" for kind in per_run)
            ray.shutdown()
            raise UserError(f"no node of the Ray cluster has executor.cpus and executor.gpus: at most {largest}")

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Run `function(*args)` as a task and return its future."""
        import ray

        future: Future[Any] = Future()
        task = ray.remote(
            num_cpus=self._options.cpus or 1, num_gpus=self._options.gpus or 0, max_retries=self._options.retries or 0,
            max_calls=1,  # a fresh process for each run, which returns all of its memory
        )(_call).remote(function, *args)  # fmt: skip
        self._tasks.append(task)
        task.future().add_done_callback(functools.partial(_copy_result, future))
        return future

    def __enter__(self) -> "RayCluster":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        import ray

        sys.stdout.flush()
        if kind is not None:
            for task in self._tasks:
                ray.cancel(task, force=True)
        ray.shutdown()


def _call(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function of a run. While another process holds the run, wait: its node may be dying."""
    protect_streams()
    started = time.monotonic()
    while True:
        result = function(*args)
        busy = isinstance(result, Outcome) and result.status == BUSY
        if not busy or time.monotonic() - started > EXPIRY_S:
            return result
        time.sleep(BUSY_POLL_S)


def _copy_result(future: Future[Any], task: Future[Any]) -> None:
    """Hand on the result of a task, or its error in one line."""
    if task.cancelled():
        future.cancel()
    elif (error := task.exception()) is not None:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        future.set_exception(RuntimeError(lines[-1] if lines else type(error).__name__))
    else:
        future.set_result(task.result())
