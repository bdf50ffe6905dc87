"""Tests of the progress that a user sees."""

import pytest

from benchmark.grid.progress import Progress, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (95, "2 min"), (600, "10 min"), (5400, "1 h 30 min"), (7500, "2 h 05 min")],
)
def test_durations_are_short(seconds, text):
    assert duration(seconds) == text


def test_cache_filling_is_reported_once_a_minute(capsys, monkeypatch):
    times = iter([0.0, 30.0, 70.0, 80.0, 140.0])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    report = Progress(1).cache_fill_reporter("a run")
    for share in (0.1, 0.2, 0.3, 0.5):
        report(share)
    assert capsys.readouterr().out.splitlines() == [
        "a run: teacher cache 20 % filled  left: 5 min",
        "a run: teacher cache 50 % filled  left: 2 min",
    ]


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
