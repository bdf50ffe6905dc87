"""A tracker's process, seen from the process that trains: nothing here waits longer than it is told to."""

import json
import os
import signal
import subprocess
import sys
import tempfile

from benchmark.runs.trackers import wandb
from benchmark.runs.trackers.contract import Ending, Request

PIPE_BYTES = 60_000  # that a pipe takes without a reader


class TrackerProcess:
    """A process that records one run. Raises OSError where it cannot be started."""

    def __init__(self, request: Request) -> None:
        text = json.dumps(request.to_json()).encode() + b"\n"
        if len(text) > PIPE_BYTES:
            raise OSError(f"its configuration has {len(text)} bytes, more than {PIPE_BYTES}")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115, closed when the process has ended
        self._temporary = wandb.temporary_folder()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmark.runs.trackers.worker"], env=wandb.environment(self._temporary.name),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            start_new_session=True,  # Ctrl-C is for the training process, which then ends this one
        )  # fmt: skip
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(text)
            self._process.stdin.flush()
        except OSError:  # it has ended already: `finish` says why
            pass

    @property
    def has_ended(self) -> bool:
        """True where the process ended, which it does by itself only when it failed."""
        return self._process.poll() is not None

    def finish(self, ending: Ending, seconds: float) -> str | None:
        """Say how the run ended, and wait for the process, at most so long; return why it failed, or None.

        A process that takes longer is killed.
        """
        try:
            output, _ = self._process.communicate(json.dumps(ending.to_json()).encode(), seconds)
        except subprocess.TimeoutExpired:
            return f"no end within {seconds:g} s"
        finally:
            self._kill()
            self._temporary.cleanup()
        try:
            return json.loads(output)["error"]
        except ValueError:
            status = self._process.returncode  # below 0: killed, so that what it printed before is no reason
            return (self._last_error() if status > 0 else "") or f"its process ended with status {status}"
        finally:
            self._errors.close()

    def _kill(self) -> None:
        """End the process, where it still runs; W&B's service notices that, and ends too."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _last_error(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
