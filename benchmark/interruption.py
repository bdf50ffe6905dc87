"""Signals that interrupt a process: Ctrl-C, and those that count as one."""

import contextlib
import signal
import threading
from collections.abc import Iterator

INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)  # Ctrl-C, kill, and Slurm near a time limit


def stop(*_: object) -> None:
    """Handle a signal by ending the process as Ctrl-C does, so that the same command resumes the interrupted run."""
    raise KeyboardInterrupt


@contextlib.contextmanager
def defer_interruptions() -> Iterator[None]:
    """Answer interruptions at the end of the context, not within it.

    It is for work that imports libraries. Some of them catch every exception of an import that they can do without
    (mpmath, which torch's compiler needs): an interruption at that moment would be lost, and the work would go on.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone is interrupted
        yield
        return
    received: list[int] = []
    handlers = {number: handler for number in INTERRUPTIONS if callable(handler := signal.getsignal(number))}
    for number in handlers:
        signal.signal(number, lambda n, _: received.append(n))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in received:
            signal.raise_signal(number)
