"""Cells side by side: the same results, failures stay with their cell, an interruption ends everything."""

import dataclasses
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import CancelledError, Future

import pytest

from benchmark.__main__ import main
from benchmark.config import compose as configs
from benchmark.grid import plan as grid
from benchmark.grid.executors import Processes
from benchmark.runs.folder import RunFolder
from benchmark.runs.tracking import Tracking


def meet(folder, name: str, others: int) -> int:
    """Waits until `others` more have come here at the same time; the number of this process."""
    (folder / name).touch()
    end = time.monotonic() + 60
    while len(list(folder.iterdir())) <= others:
        assert time.monotonic() < end, "alone"
        time.sleep(0.01)
    return os.getpid()


def die(how: int) -> None:
    os.kill(os.getpid(), how)


def fail() -> None:
    raise ValueError("no luck")


def test_jobs_run_at_the_same_time_in_processes_of_their_own(tmp_path):
    with Processes(2) as pool:
        a, b = pool.submit(meet, tmp_path, "a", 1), pool.submit(meet, tmp_path, "b", 1)
        assert len({a.result(), b.result(), os.getpid()}) == 3


def test_no_more_than_jobs_at_once(tmp_path):
    with Processes(1) as pool:
        alone = pool.submit(meet, tmp_path, "a", 0)
        assert pool.submit(meet, tmp_path, "b", 0).result() != alone.result()


def test_a_process_that_dies_fails_its_own_future(tmp_path):
    with Processes(2) as pool:
        dead, failed, well = pool.submit(die, signal.SIGKILL), pool.submit(fail), pool.submit(meet, tmp_path, "a", 0)
        assert well.result()
        with pytest.raises(RuntimeError, match="ended with status -9"):
            dead.result()
        with pytest.raises(ValueError, match="no luck"):
            failed.result()


def test_leaving_by_an_exception_ends_what_runs_and_begins_nothing_more(tmp_path):
    with pytest.raises(KeyboardInterrupt), Processes(1) as pool:
        pool.submit(meet, tmp_path, "a", 99)
        waiting = pool.submit(meet, tmp_path, "b", 99)
        while not (tmp_path / "a").exists():
            time.sleep(0.01)
        raise KeyboardInterrupt
    assert waiting.cancelled() and not (tmp_path / "b").exists()
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPool")]


def test_leaving_begins_nothing_that_was_about_to_begin(tmp_path, monkeypatch):
    context, about = multiprocessing.get_context("spawn"), threading.Event()

    def slow(_):
        about.set()
        time.sleep(1)  # until the pool has ended what it knows to be running
        return context

    monkeypatch.setattr("benchmark.grid.executors.multiprocessing.get_context", slow)
    with pytest.raises(KeyboardInterrupt), Processes(1) as pool:
        future = pool.submit((tmp_path / "ran").touch)
        assert about.wait(30)
        raise KeyboardInterrupt
    with pytest.raises(CancelledError):
        future.result()
    assert not (tmp_path / "ran").exists()


def results(runs) -> dict[str, list]:
    return {
        str(p.parent.relative_to(runs)): [
            {k: v for k, v in m.items() if not k.endswith("_s")} for m in RunFolder(p.parent).metrics()
        ]
        for p in runs.glob("npz/*/*/*/seed=*/result.json")
    }


def test_two_jobs_give_what_one_gives(tiny, tmp_path, capfd):
    overrides = [*tiny, "methods=ce,kd,fitnet,clkd", "seeds=0,1"]
    assert main([*overrides, f"runs={tmp_path / 'one'}"]) == 0
    assert main([*overrides, f"runs={tmp_path / 'two'}", "jobs=2"]) == 0
    assert "2 runs at a time" in capfd.readouterr().out
    one, two = results(tmp_path / "one"), results(tmp_path / "two")
    assert len(one) == 9 and one == two


def test_jobs_on_a_gpu_are_told_of_mps_where_it_does_not_run(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    overrides = [*tiny, "methods=kd", "jobs=2"]
    plan = grid.make_plan(configs.load(overrides), overrides)
    assert "MPS" not in plan.text()
    machine = dataclasses.replace(plan.settings.hardware, device="cuda")
    plan = dataclasses.replace(plan, settings=dataclasses.replace(plan.settings, hardware=machine))
    assert "without MPS the runs take turns on the GPU" in plan.text()
    (tmp_path / "control").touch()
    assert "MPS" not in plan.text()


class Recording:
    """An executor that runs here, notes the order, and loses the cells of one method as a dying process would."""

    def __init__(self, lost: str = ""):
        self.order, self.lost = [], lost

    def submit(self, function, cell, *args):
        self.order.append(cell.name)
        future = Future()
        if cell.method == self.lost:
            future.set_exception(RuntimeError("its process ended with status -9"))
        else:
            future.set_result(function(cell, *args))
        return future


def run(overrides: list[str], executor) -> list:
    config = configs.load(overrides)
    plan = grid.make_plan(config, overrides)
    return grid.run_plan(plan, Tracking(config.tracker, plan.settings.runs), executor)


def test_the_longest_cells_go_first_and_outcomes_keep_their_order(tiny):
    overrides = [*tiny, "pair=resnet8-resnet8,wrn16_2-resnet8,resnet14-resnet20", "methods=at", "recipe.epochs=1"]
    executor = Recording()
    outcomes = run(overrides, executor)
    assert executor.order[:3] == ["teacher wrn16_2", "teacher resnet14", "teacher resnet8"]
    assert executor.order[3:] == [f"{p} at seed 0" for p in ("resnet14-resnet20", "wrn16_2-resnet8", "resnet8-resnet8")]
    assert [o.name for o in outcomes] == [
        f"{p} at seed 0" for p in ("resnet8-resnet8", "wrn16_2-resnet8", "resnet14-resnet20")
    ]


def test_what_a_method_adds_counts_for_the_order(tiny):
    """Epochs before the first (AB: 30 of 240), a second view, a live teacher, and how deep it is run."""
    executor = Recording()
    run([*tiny, "methods=ce,kd,crd_kd,fitnet,at,ab,mlld", "recipe.epochs=8", "crd_kd.crd.negatives=8"], executor)
    order = [name.split()[1] for name in executor.order[1:]]
    assert order == ["mlld", "ab", "at", "fitnet", "ce", "kd", "crd_kd"]


def test_a_cell_whose_process_died_does_not_stop_the_others(tiny):
    outcomes = run([*tiny, "methods=ce,kd,clkd", "recipe.epochs=1"], Recording(lost="kd"))
    assert [o.status for o in outcomes] == ["done", "failed", "done"]
    assert "ended with status -9" in outcomes[1].reason
