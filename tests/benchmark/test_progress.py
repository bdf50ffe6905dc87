"""Progress: lines by a fake clock, and the bar on a pseudo-terminal."""

import io
import os
import pty
import select

import pytest

from benchmark.progress import Meter, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (95, "2 min"), (600, "10 min"), (5400, "1 h 30 min"), (7500, "2 h 05 min")],
)
def test_durations_are_short(seconds, text):
    assert duration(seconds) == text


class Clock:
    """A clock that stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_line_is_written_every_30_seconds_with_the_time_left():
    clock, stream = Clock(), io.StringIO()
    with Meter("plots", 10, stream=stream, clock=clock) as meter:
        for now, steps in ((10.0, 1), (29.9, 1), (30.0, 1), (59.9, 1), (61.0, 1)):
            clock.now = now
            meter.advance(steps, f"figure {now:.0f}")
    assert stream.getvalue().splitlines() == [
        "plots: 30 %  figure 30  left: 70 s",  # 7 steps of 10 s
        "plots: 50 %  figure 61  left: 61 s",  # 5 steps of 12.2 s
    ]


def test_work_without_a_finished_step_shows_the_time_spent():
    clock, stream = Clock(), io.StringIO()
    meter = Meter("download", stream=stream, clock=clock)
    clock.now = 29.0
    meter.tick()
    clock.now = 31.0
    meter.tick()
    meter.tick()
    assert stream.getvalue() == "download:  since 31 s\n"


def test_what_was_done_before_does_not_count_for_the_time_left():
    clock = Clock()
    meter = Meter("run", 10, done=8, stream=io.StringIO(), clock=clock)
    clock.now = 20.0
    meter.advance()
    assert meter.seconds_left() == pytest.approx(20.0)


def test_another_line_postpones_the_next():
    clock, stream = Clock(), io.StringIO()
    meter = Meter("run", 10, stream=stream, clock=clock)
    clock.now = 25.0
    meter.postpone()
    clock.now = 54.0
    meter.advance()
    assert stream.getvalue() == ""
    clock.now = 55.0
    meter.advance()
    assert stream.getvalue() == "run: 20 %  left: 4 min\n"  # 2 steps in 55 s, 8 to come


def read_all(terminal: int) -> str:
    """Return what was written to a terminal; one read gives at most a part of it."""
    content = b""
    while select.select([terminal], [], [], 0.0)[0]:
        content += os.read(terminal, 4096)
    return content.decode()


def test_a_terminal_shows_a_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    controller, terminal = pty.openpty()
    with open(terminal, "w", encoding="utf-8") as stream:
        with Meter("[1/3] kd", 4, stream=stream, clock=Clock(), keep=True) as meter:
            meter.advance(3, "epoch 3/4")
        shown = read_all(controller)
        with Meter("outer", 2, stream=stream, clock=Clock()), Meter("inner", 2, stream=stream, clock=Clock()) as inner:
            assert not inner.is_bar  # of two bars, one would overwrite the other
    os.close(controller)
    assert "[1/3] kd" in shown and "75%" in shown and "epoch 3/4" in shown and "\x1b[" in shown


def test_one_of_several_processes_shows_lines_on_a_terminal_too():
    controller, terminal = pty.openpty()
    clock = Clock()
    with open(terminal, "w", encoding="utf-8") as stream:
        meter = Meter("run", 4, stream=stream, clock=clock, plain=True)
        clock.now = 30.0
        meter.advance()
        assert not meter.is_bar and os.read(controller, 1000) == b"run: 25 %  left: 2 min\r\n"
    os.close(controller)
