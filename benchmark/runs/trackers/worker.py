"""The process that records one run: `python -m benchmark.runs.trackers.worker`.

Standard input: a line with a `Request` as JSON; then nothing while the run is trained, whose metrics.jsonl is read
about once a second; then an `Ending` as JSON and the end of the input, which comes alone where the training process was
killed.
Standard output: `{"error": null}`, or the reason of a failure, as JSON.
"""

import json
import os
import signal
import sys
import threading
from importlib import import_module
from pathlib import Path

from benchmark.runs.folder import RunFolder
from benchmark.runs.trackers.contract import Ending, Request, Tracker

POLL_S = 1.0  # between two looks at the metrics
CLASSES = {"wandb": "WandbTracker", "tensorboard": "TensorBoardTracker", "trackio": "TrackioTracker"}


def open_tracker(request: Request) -> Tracker:
    """Return the tracker that a request names."""
    return getattr(import_module(f"benchmark.runs.trackers.{request.tracker}"), CLASSES[request.tracker])(request)


class Input:
    """Standard input, read by a thread of its own so that the end of the run is noticed at any time."""

    def __init__(self) -> None:
        self.request = Request.from_json(json.loads(sys.stdin.buffer.readline()))
        self.ending, self._closed = Ending(), threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        if text := sys.stdin.buffer.read():
            self.ending = Ending.from_json(json.loads(text))
        self._closed.set()

    def wait_for_end(self, seconds: float) -> bool:
        """Wait until the run has ended, at most so long; return whether it has."""
        return self._closed.wait(seconds)


def record(source: Input) -> None:
    """Record the run, epoch by epoch, until it ends."""
    request, recorded, ended = source.request, 0, False
    tracker = open_tracker(request)
    tracker.publish([Path(file) for file in request.files])
    while not ended:
        ended = source.wait_for_end(POLL_S)
        if ended:  # the default action of the signal ends the process: nobody may be left to do so
            signal.setitimer(signal.ITIMER_REAL, request.finish_timeout + request.retry_timeout)
        lines = RunFolder(Path(request.run_folder)).metrics() if request.run_folder else []
        for line in lines[recorded:]:
            tracker.log(line)
        recorded = len(lines)
    tracker.finish(source.ending)


def main() -> None:
    """Record a run and report on standard output; never returns."""
    report = os.dup(1)  # not inherited by processes that a tracker starts
    os.dup2(2, 1)  # what trackers print is no report
    error = None
    try:
        record(Input())
    except BaseException as e:  # also sys.exit in a tracker
        error = next((line.strip() for line in str(e).splitlines() if line.strip()), type(e).__name__)
    os.write(report, json.dumps({"error": error}).encode())
    os._exit(0)  # hooks that trackers register for the exit may hang


if __name__ == "__main__":
    main()
