"""Tests of the progress of runs that a user sees."""

import pytest

from benchmark.grid.progress import Progress
from benchmark.grid.time_left import RunTimes, TimeLeft
from benchmark.grid.training_run import RunKind

TEACHER, CE = RunKind("teacher", None, "t", "ce"), RunKind("student", None, "s", "ce")
KD, CRD = RunKind("student", "t", "s", "kd"), RunKind("student", "t", "s", "crd")
WORK = {TEACHER: 40.0, CE: 10.0, KD: 10.0, CRD: 20.0}


def test_the_time_left_counts_the_runs_to_come(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    progress = Progress(3)
    for name, seconds in (("a", 100.0), ("b", 200.0)):
        progress.start(name, epochs=2, last_epoch=0)
        clock[0] += seconds
        progress.epoch({"epoch": 1, "loss": 1.0, "train_top1": 10.0, "test_top1": 20.0})
        clock[0] += seconds
        progress.stop()
    assert capsys.readouterr().out.splitlines() == [
        "[1/3] a  epoch 1/2  loss 1.000  train 10.00  test 20.00  left: 8 min",  # 100 s, then two runs of 200 s
        "[2/3] b  epoch 1/2  loss 1.000  train 10.00  test 20.00  left: 7 min",  # 200 s, then one run of 200 s
    ]


def test_an_epoch_that_was_not_evaluated_has_no_accuracy(capsys, monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 0.0)
    progress = Progress(1)
    progress.start("a", epochs=2, last_epoch=0)
    progress.epoch({"epoch": 1, "loss": 1.0, "train_top1": 10.0})
    progress.epoch({"epoch": 2, "loss": 1.0, "train_top1": 10.0, "val_top1": 20.0})
    assert capsys.readouterr().out.splitlines() == [
        "[1/1] a  epoch 1/2  loss 1.000  train 10.00  left: 0 s",
        "[1/1] a  epoch 2/2  loss 1.000  train 10.00  val 20.00  left: 0 s",
    ]


def test_a_run_in_another_process_reports_its_own_time_left(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    progress = Progress(9)
    assert progress.for_next_run().index == 0
    second = progress.for_next_run()
    second.start("b", epochs=4, last_epoch=2)
    clock[0] += 60.0
    second.epoch({"epoch": 3, "loss": 1.0, "train_top1": 10.0, "test_top1": 20.0})
    assert capsys.readouterr().out.splitlines() == [
        "[2/9] b: resumed after epoch 2",
        "[2/9] b  epoch 3/4  loss 1.000  train 10.00  test 20.00  left: 60 s",
    ]


def time_left(earlier=None):
    """A teacher, and two seeds of three methods, of 5 epochs."""
    return TimeLeft([TEACHER, *2 * [CE, KD, CRD]], RunTimes(lambda kind: 5, WORK.__getitem__, earlier or {}))


def test_runs_to_come_take_as_long_as_their_work():
    left = time_left()
    assert left.seconds() is None
    left.start(TEACHER)
    left.times.measure(TEACHER, 80.0)  # 2 s a unit
    assert left.seconds() == pytest.approx(5 * 2 * (10 + 10 + 20) * 2)


def test_measured_methods_count_before_earlier_runs_and_these_before_work():
    left = time_left({KD: 7.0, CE: 5.0})
    left.start(TEACHER)
    left.times.measure(KD, 9.0)
    rate = (9.0 / 10 + 5.0 / 10) / 2
    assert left.seconds() == pytest.approx(2 * 5 * (5.0 + 9.0 + 20 * rate))


def test_first_epochs_count_only_while_nothing_else_is_known():
    left = time_left()
    left.times.measure(TEACHER, 400.0, first=True)
    assert left.times.seconds_per_epoch(CRD) == pytest.approx(200.0)
    left.times.measure(KD, 30.0)
    left.times.measure(CE, 99.0, first=True)
    assert [left.times.seconds_per_epoch(kind) for kind in (TEACHER, CE, KD, CRD)] == [120.0, 30.0, 30.0, 60.0]


def test_a_run_takes_its_epochs_and_what_runs_take_beyond():
    """A teacher of 3 × 80 s took 300 s, KD's two runs 5 × 30 s took 170 s and 190 s."""
    left = time_left()
    left.times.measure(TEACHER, 80.0)
    left.times.measure_run(TEACHER, 300.0, 3)
    assert left.times.seconds(KD) == pytest.approx(5 * 20 + 60)  # 2 s a unit
    left.times.measure(KD, 30.0)
    left.times.measure_run(KD, 170.0, 5)
    left.times.measure_run(KD, 190.0, 5)
    assert left.times.seconds(KD) == pytest.approx(150 + 30)
    assert left.times.seconds(TEACHER) == pytest.approx(400 + 60)
    assert left.times.seconds_beyond(CE) == pytest.approx((60 + 20 + 40) / 3)


class Clock:
    """A clock that tests set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)


def train(progress: Progress, clock: Clock, epochs: list[list[float]], fills: list[float] | None = None) -> None:
    """Train epochs of steps that take so many seconds each; the last value is the evaluation's."""
    for epoch, (*steps, evaluation) in enumerate(epochs, 1):
        for step, seconds in enumerate(steps, 1):
            clock.now += seconds
            progress.step(step, len(steps))
        clock.now += evaluation
        fill_s = fills[epoch - 1] if fills else 0.0
        progress.epoch({"epoch": epoch, "loss": 1.0, "train_top1": 1.0, "test_top1": 2.0, "fill_s": fill_s})


def test_the_time_left_after_the_teacher_is_that_of_students(capsys, monkeypatch):
    """Fillings of caches and the first of several epochs do not count; what warming up takes, every run takes."""
    clock = Clock(monkeypatch)
    progress = Progress(7, time_left())
    progress.start("teacher", 5, 0, TEACHER)
    train(progress, clock, [[200.0, 0.0], *4 * [[80.0, 0.0]]])
    progress.stop()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("left: 17 min")  # 3 × 80 s, then 2 × 5 × (20 + 20 + 40) s
    assert lines[4].endswith("left: 13 min")  # the runs to come alone, before the teacher has ended
    progress.start("kd", 5, 0, KD)
    train(progress, clock, [[130.0, 0.0]], fills=[100.0])
    # 4 × 30 s; five runs to come that warm up for 120 s: kd 5 × 20 s by work, as its first epoch does not count, and
    # 2 × 5 × (20 + 40) s: 1420 s
    assert capsys.readouterr().out.splitlines()[0].endswith("left: 24 min")
    progress.stop()


def test_the_first_epoch_alone_is_judged_by_its_later_steps(capsys, monkeypatch):
    """Of 20 steps of 1 s, the first two take 30 s and 10 s; evaluation takes 5 s. A cache is filled for 20 s."""
    clock = Clock(monkeypatch)
    progress = Progress(1)
    progress.start("a", epochs=11, last_epoch=0)
    train(progress, clock, [[30.0, 10.0, *18 * [1.0], 5.0]])
    assert capsys.readouterr().out.splitlines()[0].endswith("left: 4 min")  # 10 × 25 s, not 10 × 63 s
    progress.stop()
    progress = Progress(1)
    progress.start("b", epochs=11, last_epoch=0)
    train(progress, clock, [[31.0, 11.0, *18 * [2.0], 5.0]], fills=[20.0])
    assert capsys.readouterr().out.splitlines()[0].endswith("left: 4 min")
    progress.stop()


def test_the_time_left_of_equal_runs_is_right_after_the_first(capsys, monkeypatch):
    """Runs of 3 epochs of 10 s, the first slower by 20 s, which take 15 s to load: 65 s each, and 40 s for a cache."""
    clock, kinds = Clock(monkeypatch), 6 * [KD]
    progress = Progress(6, TimeLeft(kinds, RunTimes(lambda _: 3, lambda _: 1.0, {})))
    for i in range(3):
        clock.now += 15.0  # loading
        progress.start("kd", 3, 0, KD)
        fill_s = 40.0 if i == 0 else 0.0
        train(progress, clock, [[30.0 + fill_s, 0.0], [10.0, 0.0], [10.0, 0.0]], fills=[fill_s, 0.0, 0.0])
        left = progress.time_left.seconds()
        progress.stop()
    # after the second run, whose loading was seen; 3 runs of 65 s, by the mean of 50 s for the first and 65 s
    assert left == pytest.approx(3 * (50 + 65) / 2)
    assert progress.time_left.seconds() == pytest.approx(3 * (50 + 65 + 65) / 3)
    assert progress.time_left.seconds() == pytest.approx(3 * 65, rel=0.3)
