"""Tests of the progress of runs that a user sees."""

import pytest

from benchmark.grid.progress import Progress
from benchmark.grid.time_left import TimeLeft

TEACHER, CE, KD, CRD = (None, "t", "ce"), (None, "s", "ce"), ("t", "s", "kd"), ("t", "s", "crd")
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
    return TimeLeft([TEACHER, *2 * [CE, KD, CRD]], lambda key: 5, WORK.__getitem__, earlier or {})


def test_runs_to_come_take_as_long_as_their_work():
    left = time_left()
    assert left.seconds() is None
    left.start(TEACHER)
    left.measure(TEACHER, 80.0)  # 2 s a unit
    assert left.seconds() == pytest.approx(5 * 2 * (10 + 10 + 20) * 2)


def test_measured_methods_count_before_earlier_runs_and_these_before_work():
    left = time_left({KD: 7.0, CE: 5.0})
    left.start(TEACHER)
    left.measure(KD, 9.0)
    rate = (9.0 / 10 + 5.0 / 10) / 2
    assert left.seconds() == pytest.approx(2 * 5 * (5.0 + 9.0 + 20 * rate))


def test_the_time_left_after_the_teacher_is_that_of_students(capsys, monkeypatch):
    """Fillings of caches and the first of several epochs do not count."""
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    progress = Progress(7, time_left())
    progress.start("teacher", 5, 0, TEACHER)
    for epoch, seconds in ((1, 200.0), (2, 80.0)):
        clock[0] += seconds
        progress.epoch({"epoch": epoch, "loss": 1.0, "train_top1": 1.0, "test_top1": 2.0, "fill_s": 0.0})
    assert capsys.readouterr().out.splitlines()[1].endswith("left: 17 min")  # 3 × 80 s, then 2 × 5 × 80 s
    progress.stop()
    progress.start("kd", 5, 0, KD)
    clock[0] += 130.0
    progress.epoch({"epoch": 1, "loss": 1.0, "train_top1": 1.0, "test_top1": 2.0, "fill_s": 100.0})
    # 4 × 30 s; kd 5 × 30 s; a unit of work takes 2.5 s: the others 2 × 5 × 75 s
    assert capsys.readouterr().out.splitlines()[0].endswith("left: 17 min")
    progress.stop()
