"""When a list of tasks ends, by schedules drawn by hand."""

import pytest

from benchmark.grid.schedule import Task, elapsed_seconds


@pytest.mark.parametrize(
    ("seconds", "places", "elapsed"),
    [
        ([], 2, 0), ([5], 3, 5), ([5, 4, 3], 1, 12), ([5, 4, 3], 2, 7), ([1, 1, 1, 9], 2, 10), ([9, 1, 1, 1], 2, 9),
        ([2] * 7, 3, 6),
    ],
)  # fmt: skip
def test_a_free_place_takes_the_next_task(seconds, places, elapsed):
    assert elapsed_seconds([Task(s) for s in seconds], places) == elapsed


def test_a_task_waits_for_others_while_later_ones_start():
    """Two places: a (0 to 4) beside c (0 to 3) and d (3 to 4); b, which waits for a, takes 4 to 10."""
    tasks = [Task(4, "a"), Task(6, "b", "a"), Task(3), Task(1)]
    assert elapsed_seconds(tasks, 2) == 10
    assert elapsed_seconds(tasks, 1) == 14
    assert elapsed_seconds([Task(6, "b", "ended before")], 2) == 6


def test_tasks_that_wait_for_each_other_are_refused():
    with pytest.raises(ValueError, match="wait for each other: a, b"):
        elapsed_seconds([Task(1, "a", "b"), Task(1, "b", "a")], 2)
