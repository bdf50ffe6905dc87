"""Time by purpose."""

import pytest

from benchmark.training.stopwatch import Stopwatch


def test_times_of_a_name_are_summed_until_they_are_read(monkeypatch):
    times = iter([0.0, 1.0, 10.0, 12.0, 20.0, 20.5, 30.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    watch = Stopwatch("cpu")
    for name in ("step", "data", "step"):
        with watch(name):
            pass
    with pytest.raises(ZeroDivisionError), watch("data"):
        raise ZeroDivisionError  # a block that fails is not counted
    assert watch.read() == {"step": 1.5, "data": 2.0}
    assert watch.read() == {}


def test_events_of_a_gpu_are_read_after_one_synchronization(monkeypatch):
    clock, synchronized = iter([0.0, 250.0, 300.0, 1300.0]), []  # milliseconds

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.ms = next(clock)

        def elapsed_time(self, end):
            assert synchronized
            return end.ms - self.ms

    monkeypatch.setattr("torch.cuda.Event", Event)
    monkeypatch.setattr("torch.cuda.synchronize", lambda: synchronized.append(True))
    watch = Stopwatch("cuda")
    for _ in range(2):
        with watch("step"):
            pass
    assert not synchronized
    assert watch.read() == {"step": 1.25} and len(synchronized) == 1
    assert watch.read() == {}
