"""Tracking: one tracked run per trained network, recorded by another process, never a reason for a run to fail or wait.

metrics.jsonl is written in any case (`benchmark.runs.folder`), and the tracker's process reads it
(`benchmark.runs.trackers.worker`). Where that process fails, a second one records the run from its first epoch, offline
for W&B. Where that fails too, tracking.json in the run's folder keeps what `make sync` records later.
"""

import contextlib
import importlib.util
import os
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from benchmark.config.schema import TrackerConfig
from benchmark.errors import UserError
from benchmark.runs import folder as store
from benchmark.runs.trackers import wandb
from benchmark.runs.trackers.contract import Ending, Request
from benchmark.runs.trackers.process import TrackerProcess

TITLES = {"wandb": "W&B", "tensorboard": "TensorBoard", "trackio": "trackio"}
PENDING_FILE = "tracking.json"  # in the folder of a run whose tracking failed: what is to be recorded
INTERRUPTED_WAIT_S = 10.0  # after Ctrl-C, which should end soon
SYNC_WAIT_S = 60.0


class Tracked(Protocol):
    """A run that is being tracked."""

    def on_epoch_end(self) -> None:
        """Notice a line that was added to metrics.jsonl."""
        ...

    def summary(self, values: Mapping[str, Any]) -> None:
        """Record final values."""
        ...


class _Untracked:
    """Ignores everything, where tracking is off."""

    def on_epoch_end(self) -> None:
        """Do nothing."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Do nothing."""


class _TrackedRun:
    """A run that another process records; after a failure a second one does."""

    def __init__(self, tracking: "Tracking", request: Request) -> None:
        self._tracking, self._request, self._values, self._reason = tracking, request, {}, ""
        self._is_second = False
        self._process = self._start()

    def on_epoch_end(self) -> None:
        """Start the second process where the first has ended."""
        if self._process is not None and not self._is_second and self._process.has_ended:
            self._start_second(self._process.finish(Ending(), 1.0))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Record final values."""
        self._values = dict(values)

    def finish(self, *, failed: bool, interrupted: bool = False) -> None:
        """Wait until everything is recorded, but not long."""
        ending = Ending(self._values, failed)
        request = self._request
        seconds = request.retry_timeout if self._is_second else request.finish_timeout
        reason = self._finish(ending, min(seconds, INTERRUPTED_WAIT_S) if interrupted else seconds)
        if reason and not self._is_second and not interrupted:
            self._start_second(reason)
            reason = self._finish(ending, request.retry_timeout)
        if reason:
            self._keep(ending, reason)
        elif self._request.run_folder:
            (Path(self._request.run_folder) / PENDING_FILE).unlink(missing_ok=True)

    def _start(self) -> TrackerProcess | None:
        try:
            return TrackerProcess(self._request)
        except (OSError, ValueError, TypeError) as e:  # no memory for a process, or a config that JSON cannot hold
            self._reason = str(e)
            return None

    def _start_second(self, reason: str | None) -> None:
        self._is_second = True
        text = f"{self._request.name}: {TITLES[self._request.tracker]}: {reason or 'its process ended'}"
        if self._request.tracker == "wandb":
            self._tracking.mode = "offline"
            self._request = replace(self._request, mode="offline")
            _say(f"{text}; continuing offline, `make sync` uploads later")
        else:
            _say(f"{text}; recording it again")
        self._process = self._start()

    def _finish(self, ending: Ending, seconds: float) -> str | None:
        return self._reason if self._process is None else self._process.finish(ending, seconds)

    def _keep(self, ending: Ending, reason: str) -> None:
        """Say that the run is not tracked, and keep what `sync` tracks it by."""
        text = f"{self._request.name}: {TITLES[self._request.tracker]}: {reason}; it is not tracked"
        if self._request.run_folder is None:
            _say(text)
            return
        content = {"reason": reason, "request": self._request.to_json(), "ending": ending.to_json()}
        store.write_json(Path(self._request.run_folder) / PENDING_FILE, content)
        _say(f"{text}, but metrics.jsonl has its epochs: `make sync` records and uploads it later")


class Tracking:
    """Opens tracked runs. mode: of W&B (online or offline); on for other trackers; off.

    folder: that of all runs, in which trackers keep their files. Raises UserError where the configured tracker cannot
    work.
    """

    def __init__(self, config: TrackerConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.mode = "off"
        if config.name == "none" or config.mode == "off":
            return
        if importlib.util.find_spec(config.name) is None:
            package = "wandb" if config.name == "wandb" else f"'kd-benchmark[{config.name}]'"
            raise UserError(f"{config.name} is not installed: pip install {package}, or set tracker=none")
        if config.name == "wandb":
            self.mode = wandb.check_mode(config)
        elif config.mode == "auto":
            self.mode = "on"
        else:
            raise UserError(f"tracker.mode={config.mode} is one of W&B's: tracker={config.name} knows auto and off")

    @contextlib.contextmanager
    def run(
        self, *, name: str, group: str, job_type: str, tags: Sequence[str], config: Mapping[str, Any],
        folder: Path | None = None, first_epoch: int = 0, files: Sequence[Path] = (),
    ) -> Iterator[Tracked]:  # fmt: skip
        """Open a tracked run, and finish it at the end of the context.

        folder: of the run, whose metrics.jsonl is recorded. first_epoch: below 1 where there is an initialization
        stage. files: tables and plots.
        """
        if self.mode == "off":
            yield _Untracked()
            return
        settings = {k: v for k, v in vars(self.config).items() if k not in ("name", "mode")}
        request = Request(
            self.config.name, self.mode, str(self.folder), name, group, job_type, list(tags), dict(config), **settings,
            run_folder=str(folder) if folder else None, first_epoch=first_epoch, trainer_pid=os.getpid(),
            files=[str(file) for file in files],
        )  # fmt: skip
        if request.tracker == "wandb":
            request = replace(request, id=_wandb_id(folder))
        tracked = _TrackedRun(self, request)
        try:
            yield tracked
        except BaseException as e:
            _finish(tracked, failed=True, interrupted=not isinstance(e, Exception))
            raise
        _finish(tracked, failed=False)

    def publish(self, files: Sequence[Path], name: str, tags: Sequence[str], config: Mapping[str, Any]) -> None:
        """Record tables (.csv) and plots (.png) as a separate tracked run."""
        with self.run(name=name, group="reports", job_type="report", tags=tags, config=config, files=files):
            pass


def record_pending(path: Path) -> str | None:
    """Record a run by its tracking.json, which is then removed; return why that failed, None where it did not."""
    content = store.read_json(path) or {}
    try:
        request, ending = Request.from_json(content["request"]), Ending.from_json(content["ending"])
        request = replace(request, root=str(_root_of(path)), run_folder=str(path.parent))  # it may have been moved
        reason = TrackerProcess(request).finish(ending, SYNC_WAIT_S)
    except (KeyError, TypeError, OSError) as e:
        return f"{path} cannot be used: {e}"
    if reason is None:
        path.unlink(missing_ok=True)
    return reason


def _root_of(path: Path) -> Path:
    return path.parents[5]  # <runs>/<data set>/<pair>/<method>/<identity>/seed=<n>/tracking.json


def _wandb_id(folder: Path | None) -> str:
    """Return the id of a run's W&B run, which stays the same when the run is resumed."""
    if folder is None:
        return uuid.uuid4().hex[:12]
    path = folder / wandb.ID_FILE
    entry = store.read_json(path) or {}
    if not isinstance(entry.get("id"), str):
        entry["id"] = uuid.uuid4().hex[:12]
        store.write_json(path, {**entry, "url": None})  # now, since the tracker's process may never come so far
    return entry["id"]


def _finish(tracked: _TrackedRun, *, failed: bool, interrupted: bool = False) -> None:
    try:
        tracked.finish(failed=failed, interrupted=interrupted)
    except OSError as e:  # of a full disk, on which the reason cannot be kept
        _say(f"tracking: {e}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
