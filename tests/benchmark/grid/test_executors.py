"""Tests of runs in several processes: equal results, isolated failures, and an interruption that ends everything."""

import os
import signal
import threading
import time
from concurrent.futures import CancelledError
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from benchmark.grid.execution import run_plan
from benchmark.grid.executors import Processes
from benchmark.grid.processes import new_process
from benchmark.runs.folder import RunFolder
from tests.helpers import plan_of, tracking_of


def meet(folder: Path, name: str, others: int) -> int:
    """Wait until `others` more processes are here at the same time; return the id of this process."""
    (folder / name).touch()
    end = time.monotonic() + 60
    while len(list(folder.iterdir())) <= others:
        assert time.monotonic() < end, "no other process came"
        time.sleep(0.01)
    return os.getpid()


def die(by: int) -> None:
    os.kill(os.getpid(), by)


def fail() -> None:
    raise ValueError("no luck")


def test_jobs_run_at_the_same_time_in_separate_processes(tmp_path):
    with Processes(2) as pool:
        a, b = pool.submit(meet, tmp_path, "a", 1), pool.submit(meet, tmp_path, "b", 1)
        assert len({a.result(), b.result(), os.getpid()}) == 3


def test_at_most_jobs_processes_run_at_once(tmp_path):
    with Processes(1) as pool:
        first = pool.submit(meet, tmp_path, "a", 0)
        assert pool.submit(meet, tmp_path, "b", 0).result() != first.result()


def gpu_seen_with_others(folder: Path, name: str) -> str:
    meet(folder, name, 3)
    return os.environ["CUDA_VISIBLE_DEVICES"]


def test_processes_are_spread_over_the_gpus_and_each_sees_one(tmp_path):
    with Processes(2, ["3", "GPU-5f"]) as pool:
        futures = [pool.submit(gpu_seen_with_others, tmp_path, name) for name in "abcd"]
        assert sorted(future.result() for future in futures) == ["3", "3", "GPU-5f", "GPU-5f"]
        assert pool.submit(gpu_seen_with_others, tmp_path, "e").result() in ("3", "GPU-5f")
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_a_process_that_dies_fails_only_its_future(tmp_path):
    with Processes(2) as pool:
        dead, failed, healthy = pool.submit(die, signal.SIGKILL), pool.submit(fail), pool.submit(meet, tmp_path, "a", 0)
        assert healthy.result()
        with pytest.raises(RuntimeError, match="ended with status -9"):
            dead.result()
        with pytest.raises(ValueError, match="no luck"):
            failed.result()


def test_processes_that_die_while_others_start_keep_their_status():
    with Processes(4) as pool:
        for dead in [pool.submit(die, signal.SIGKILL) for _ in range(24)]:
            with pytest.raises(RuntimeError, match="ended with status -9"):
                dead.result()


def test_an_exception_ends_running_functions_and_cancels_waiting_ones(tmp_path):
    with pytest.raises(KeyboardInterrupt), Processes(1) as pool:
        pool.submit(meet, tmp_path, "a", 99)
        waiting = pool.submit(meet, tmp_path, "b", 99)
        while not (tmp_path / "a").exists():
            time.sleep(0.01)
        raise KeyboardInterrupt
    assert waiting.cancelled() and not (tmp_path / "b").exists()
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPool")]


def test_an_exception_cancels_a_function_whose_process_is_about_to_start(tmp_path, monkeypatch):
    about_to_start = threading.Event()

    def slow(*args: Any, **options: Any) -> BaseProcess:
        about_to_start.set()
        time.sleep(1)  # meanwhile the pool terminates all processes that run
        return new_process(*args, **options)

    monkeypatch.setattr("benchmark.grid.executors.new_process", slow)
    with pytest.raises(KeyboardInterrupt), Processes(1) as pool:
        future = pool.submit((tmp_path / "ran").touch)
        assert about_to_start.wait(30)
        raise KeyboardInterrupt
    with pytest.raises(CancelledError):
        future.result()
    assert not (tmp_path / "ran").exists()


def metrics(runs: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the metrics of all runs without the times, by folder."""
    return {
        str(p.parent.relative_to(runs)): [
            {k: v for k, v in m.items() if not k.endswith("_s")} for m in RunFolder(p.parent).metrics()
        ]
        for p in runs.glob("npz/*/*/*/seed=*/result.json")
    }


def test_two_jobs_give_the_results_of_one(finished, tmp_path):
    plan = plan_of([*finished, f"runs={tmp_path / 'two'}"])
    with Processes(2) as executor:
        outcomes = run_plan(plan, tracking_of(plan), executor)
    assert [o.status for o in outcomes] == ["done", "done"]
    one, two = metrics(tmp_path / "runs"), metrics(tmp_path / "two")
    assert len(one) == 3 and one == two
