"""When a list of tasks ends that a number of places work on."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """Work for one place. after: name of the task that must have ended before."""

    seconds: float
    name: str = ""
    after: str | None = None


def elapsed_seconds(tasks: Sequence[Task], places: int) -> float:
    """Return the seconds until the last task ends, where each free place takes the first task that may start.

    A name in `after` that no task has counts as ended. Raises ValueError where tasks wait for each other.
    """
    open_names = {task.name for task in tasks if task.name}
    waiting, running = list(tasks), list[tuple[float, int, str]]()
    now, free = 0.0, places
    while waiting:
        blocked = []
        for i, task in enumerate(waiting):
            if not free:
                blocked += waiting[i:]
                break
            if task.after in open_names:
                blocked.append(task)
                continue
            heapq.heappush(running, (now + task.seconds, id(task), task.name))
            free -= 1
        waiting = blocked
        if waiting and not running:
            raise ValueError(f"tasks wait for each other: {', '.join(task.name for task in waiting)}")
        if waiting:
            now, _, name = heapq.heappop(running)
            open_names.discard(name)
            free += 1
    return max((end for end, *_ in running), default=now)
