"""The time left of a grid whose runs train side by side, against simulated grids whose end is known."""

import heapq
import json
from concurrent.futures import Future
from dataclasses import dataclass

import pytest

from benchmark.grid.grid_progress import GridProgress
from benchmark.grid.time_left import RunTimes, times_of_plan
from benchmark.grid.training_run import Outcome, RunKind, TrainingRun
from tests.helpers import plan_of

STUDENT, TEACHER = RunKind("student", None, "resnet8", "ce"), RunKind("teacher", None, "resnet8", "ce")


@dataclass(frozen=True)
class Times:
    """Seconds of each run of a simulated grid."""

    epochs: int
    epoch: float
    first: float  # epoch
    loading: float = 0.0  # before it
    filling: float = 0.0  # a cache, in the first epoch of the first run

    def ends_of_epochs(self, i: int) -> list[float]:
        """When the epochs of run `i` end, from its beginning."""
        ends = [self.loading + self.first + (self.filling if i == 0 else 0.0)]
        for _ in range(self.epochs - 1):
            ends.append(ends[-1] + self.epoch)
        return ends


def events(times: Times, runs: int, places: int) -> list[tuple[float, int, int]]:
    """What happens when: the second, the run, and its finished epochs; 0 when it begins."""
    free, happened = [0.0] * places, []
    for i in range(runs):
        begin = heapq.heappop(free)
        ends = [begin + end for end in times.ends_of_epochs(i)]
        happened += [(begin, i, 0), *((end, i, n) for n, end in enumerate(ends, 1))]
        heapq.heappush(free, ends[-1])
    return sorted(happened)


@pytest.mark.parametrize(
    ("times", "runs", "places"),
    [
        (Times(epochs=10, epoch=10.0, first=10.0), 12, 4),
        (Times(epochs=10, epoch=10.0, first=40.0, loading=30.0, filling=80.0), 16, 4),
        (Times(epochs=2, epoch=10.0, first=60.0, loading=10.0), 7, 2),
        (Times(epochs=1, epoch=0.0, first=20.0, loading=40.0, filling=30.0), 9, 3),
        (Times(epochs=200, epoch=1.0, first=9.0), 5, 2),
        (Times(epochs=5, epoch=10.0, first=30.0, loading=5.0), 6, 1),
    ],
)
def test_the_time_left_of_equal_runs_is_right_from_the_end_of_the_first_on(tiny, times, runs, places, capsys):
    """Within 30 per cent at every event from then on, or within a tenth of a run, which counts at the end."""
    planned = plan_of([*tiny, "methods=ce", f"seeds=0-{runs - 1}", f"recipe.epochs={times.epochs}"]).students_alone()
    clock = [0.0]
    grid = GridProgress([STUDENT] * runs, RunTimes(lambda _: times.epochs, lambda _: 1.0, {}), places, lambda: clock[0])
    futures = [Future() for _ in planned]
    for run, future in zip(planned, futures, strict=True):
        grid.add(run, future)
    assert grid.seconds_left() is None
    happened = events(times, runs, places)
    end = max(second for second, *_ in happened)
    compared = 0
    for second, i, epochs in happened:
        clock[0] = second
        write(planned[i], times, i, epochs)
        if epochs == times.epochs:
            futures[i].set_result(Outcome("", "done", seconds=times.ends_of_epochs(i)[-1]))
        left = grid.seconds_left()
        if any(future.done() for future in futures):
            assert left == pytest.approx(end - second, rel=0.3, abs=0.1 * times.ends_of_epochs(1)[-1])
            compared += 1
    assert compared > runs and left == 0.0
    assert f"1 of {runs} runs ended  left: " in capsys.readouterr().out


def write(run: TrainingRun, times: Times, i: int, epochs: int) -> None:
    """Write what a run leaves in its folder when it begins and at the end of an epoch."""
    folder = run.folder.path
    if epochs == 0:
        folder.mkdir(parents=True)
        (folder / "lock.1").touch()
        return
    seconds = times.first if epochs == 1 else times.epoch
    line = {"epoch": epochs, "step_s": seconds, "eval_s": 0.0}
    if epochs == 1 and i == 0:
        line["fill_s"] = times.filling
    with open(folder / "metrics.jsonl", "a") as f:
        f.write(json.dumps(line) + "\n")
    if epochs == times.epochs:
        (folder / "lock.1").unlink()


def test_students_wait_for_their_teacher(tiny):
    """Two places: a teacher of 100 s, beside it another of 10 s and its two students of 30 s; at last one of the first,
    of 5 s, and a student alone of 40 s from 70 s on."""
    plan = plan_of([*tiny, "pair=resnet14-resnet8,resnet20-resnet8", "methods=ce", "recipe.epochs=1"])
    (alone,), slow, fast = plan.students_alone(), plan.teachers["resnet14"], plan.teachers["resnet20"]
    kd_of_slow, kd_of_fast = (RunKind("student", teacher.network, "resnet8", "kd") for teacher in (slow, fast))
    seconds = {slow.kind: 100.0, fast.kind: 10.0, alone.kind: 40.0, kd_of_slow: 5.0, kd_of_fast: 30.0}
    kinds = [slow.kind, fast.kind, kd_of_fast, kd_of_fast, kd_of_slow, alone.kind]
    grid = GridProgress(kinds, RunTimes(lambda _: 1, lambda _: 1.0, seconds), 2, lambda: 0.0)
    grid.add(slow, Future())
    grid.add(fast, Future())
    assert grid.seconds_left() == 110.0


def test_a_run_whose_process_dies_counts_as_ended(tiny, capsys):
    plan = plan_of([*tiny, "methods=ce", "seeds=0,1"])
    grid = GridProgress([STUDENT] * 2, RunTimes(lambda _: 2, lambda _: 1.0, {STUDENT: 5.0}), 1, lambda: 0.0)
    futures = [Future(), Future()]
    for run, future in zip(plan.students_alone(), futures, strict=True):
        grid.add(run, future)
    assert grid.seconds_left() == 20.0
    futures[0].set_exception(RuntimeError("its process ended with status -9"))
    assert capsys.readouterr().out == "1 of 2 runs ended  left: 10 s\n"


def test_lines_tell_how_many_runs_have_ended(tiny, capsys, monkeypatch):
    monkeypatch.setattr("benchmark.progress.LINE_INTERVAL_S", 0.0)
    plan = plan_of([*tiny, "methods=ce", "seeds=0,1"])
    grid = GridProgress([STUDENT] * 2, RunTimes(lambda _: 2, lambda _: 1.0, {STUDENT: 5.0}), 1, lambda: 0.0)
    futures = [Future(), Future()]
    with grid:
        for run, future in zip(plan.students_alone(), futures, strict=True):
            grid.add(run, future)
        futures[0].set_exception(RuntimeError("its process ended with status -9"))
    lines = capsys.readouterr().err.splitlines()
    assert {"grid:  0 of 2 runs ended  left: 20 s", "grid:  1 of 2 runs ended  left: 10 s"} <= set(lines)


def test_runs_that_an_interruption_cancels_do_not_count_as_ended(tiny, capsys):
    plan = plan_of([*tiny, "methods=ce", "seeds=0-2"])
    futures = [Future(), Future(), Future()]
    with GridProgress([STUDENT] * 3, RunTimes(lambda _: 2, lambda _: 1.0, {STUDENT: 5.0}), 1, lambda: 0.0) as grid:
        for run, future in zip(plan.students_alone(), futures, strict=True):
            grid.add(run, future)
        futures[0].set_result(Outcome("", "done", seconds=5.0))
    futures[1].set_exception(RuntimeError("its process ended with status -15"))
    futures[2].cancel()
    assert capsys.readouterr().out == "1 of 3 runs ended  left: 20 s\n"


def test_a_teacher_is_timed_by_its_own_images(tmp_path):
    """797 images train the teacher and 200 the student of the same network; 1,000 test images evaluate both. A training
    image counts three forward passes, a test image one."""
    plan = plan_of(["pair=resnet8-resnet8", f"runs={tmp_path}", "device=cpu", "precision=fp32"])
    assert len(plan.dataset.of_teacher.train.labels) == 797 and len(plan.dataset.train.labels) == 200
    times = times_of_plan(plan, [STUDENT, TEACHER])
    times.measure(STUDENT, 16.0)
    assert times.seconds_per_epoch(TEACHER) == pytest.approx(16.0 * (3 * 797 + 1000) / (3 * 200 + 1000))
