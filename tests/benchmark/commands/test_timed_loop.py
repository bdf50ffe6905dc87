"""Times of a loop: samples of several steps, alternating turns, median and drift."""

import itertools

from benchmark.commands.timed_loop import TimedLoop, take_turns


def test_loops_take_turns_in_alternating_order():
    steps: list[str] = []
    loops = [TimedLoop(lambda name=name: steps.append(name)) for name in "abc"]
    take_turns(loops, 3, 1, lambda: None)
    assert "".join(steps) == "abccbaabc" and all(len(loop.seconds) == 3 for loop in loops)


def test_the_steps_of_a_sample_share_its_time(monkeypatch):
    monkeypatch.setattr("time.perf_counter", itertools.count().__next__)
    steps, waits = [], []
    loop = TimedLoop(lambda: steps.append(1), steps_per_sample=4)
    assert loop.run(2, lambda: waits.append(len(steps))) == [0.25, 0.25]
    assert waits == [0, 4, 4, 8]


def test_median_and_drift_by_hand():
    loop = TimedLoop(lambda: None, [1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0])
    assert loop.ms == 2500 and loop.drift == 4.0
