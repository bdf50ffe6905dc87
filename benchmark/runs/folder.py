"""The run store: one folder per run, written atomically and under a lock. No torch here.

    <runs>/<dataset>/<pair>/<method>/<identity>/seed=<n>/     a student with a teacher
    <runs>/<dataset>/<student>/<method>/<identity>/seed=<n>/  a student alone (`benchmark.runs.students`)
    <runs>/<dataset>/teachers/<network>/<identity>/seed=<n>/  a trained teacher
    <runs>/<dataset>/teachers/<network>/<identity>/imported/  a teacher imported from a checkpoint

A `/` in the name of a network, as in timm/resnet18, is a `+` in these folders.

Files of a run folder:

    config.yaml        the fully resolved config (`RunConfig`); the identity is its hash without the seed
    status.json        {"status": "running" | "done" | "failed" | "diverged" | "skipped", "reason": "…"}
    metrics.jsonl      one line per epoch, which is 0 or below in the initialization stage: epoch, lr, loss, loss/<term>
                       (raw), weighted/<term>, train_top1, data_s, step_s, eval_s, fill_s (while rows of the
                       teacher's caches are missing); in evaluated epochs val_top1 and val_top5 with a validation
                       split, and without one test_top1, test_top5, agreement and correlation_distance (top-5 with
                       more than 5 classes); accuracies in per cent, times in seconds
    result.json        written last (`RunRecord`, which documents the keys), with a checksum
    test_outputs.npz   test set at the last epoch: logits [N, C] float32, labels [N] int64, class_names [C]
    checkpoint.pt      state to resume from after the last recorded epoch; removed when the run is done
    weights.pt         final weights of the trained network
    method.pt          final state of the method's layers, where inference uses some of them
    error.txt          traceback of a failed run
    wandb.json         id and address of the run at W&B
    tensorboard/       event files, where the tracker is TensorBoard
    tracking.json      what a tracker failed to record
    transfer/          linear probes of the network (`benchmark.runs.transfer`)
    lock, lock.<n>     held by the process that writes the run (`benchmark.runs.locks`)

A run whose status is "running" while its lock is free was interrupted; the same command resumes it. A "skipped" run was
not trained, because its method does not support the pair.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from benchmark.runs import locks
from benchmark.runs.locks import HeldLock, lock
from benchmark.runs.locks import RunBusy as RunBusy  # part of this module, too
from benchmark.runs.reading import read_bytes, read_json
from benchmark.runs.record import TEACHERS, RunConfig, RunRecord, RunStatus, StatusRecord, checksum

ERROR_FILE = "error.txt"  # the traceback of what failed
SELECTIONS = "selections"  # folder of reports that records which runs and which command made each file
LARGEST_EPOCH = 10**9  # a larger one is a mistake
TRANSIENT = (errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)  # of file servers
RENAME_ATTEMPTS = 3


def identity(config: Mapping[str, Any]) -> str:
    """Return twelve hex digits of the SHA-256 of a resolved config without its seed (as JSON with sorted keys)."""
    rest = {k: v for k, v in config.items() if k != "seed"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def folder_name(name: str) -> str:
    """Return the folder's name of a pair or a network: `/`, as in timm/resnet18, becomes `+`, which neither holds."""
    return name.replace("/", "+")


def network_name(folder: str) -> str:
    """Return the name of the pair or network whose `folder_name` is `folder`."""
    return folder.replace("+", "/")


def location(folder: Path) -> tuple[str, str, str, str, str]:
    """Return data set, pair, method, identity and leaf of a run's folder, as their names are written elsewhere.

    For a teacher they are data set, `teachers`, network, identity and leaf. A `+` in a method's name, as in the
    combination kd+crd, stays.
    """
    dataset, pair, method, identity, leaf = folder.parts[-5:]
    return dataset, network_name(pair), network_name(method) if pair == TEACHERS else method, identity, leaf


def file_name(*parts: str) -> str:
    """Join parts to the stem of a file's name, without characters that file systems or LaTeX reject."""
    return re.sub(r"[^\w.+-]", "_", "-".join(parts))


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file that replaces `path` once it is complete on the disk; until then the old content stays.

    Where writing fails, `path` is unchanged. An OSError names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}.part")  # hosts may share the folder
    try:
        with open(part, "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        _replace(part, path)
    except OSError as e:
        if e.errno is not None and e.filename is None:  # the error of a full disk lacks the file name
            e.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


def _replace(part: Path, path: Path) -> None:
    """Rename a file to `path`. A file server that fails for a moment is asked again.

    Where the answer to a rename is lost, it is repeated and finds no file: `path` is then the renamed one.
    """
    renamed = os.stat(part).st_ino
    for attempt in range(1, RENAME_ATTEMPTS + 1):
        try:
            os.replace(part, path)
            return
        except FileNotFoundError:
            if not os.path.exists(path) or os.stat(path).st_ino != renamed:
                raise
            return
        except OSError as e:
            if e.errno not in TRANSIENT or attempt == RENAME_ATTEMPTS:
                raise
            time.sleep(attempt)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as f:
        f.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically. NaN and infinities become null, which every JSON reader accepts."""
    write_text(path, json.dumps(finite(value), indent=1) + "\n")


class RunFolder:
    """One run folder. Reading is always possible; whoever writes must hold the lock."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoint(self) -> Path:
        """Path of the state to resume from."""
        return self.path / "checkpoint.pt"

    @property
    def weights(self) -> Path:
        """Path of the final weights of the trained network."""
        return self.path / "weights.pt"

    @property
    def method_state(self) -> Path:
        """Path of the final state of the method's layers."""
        return self.path / "method.pt"

    @property
    def test_outputs(self) -> Path:
        """Path of the test logits, labels and class names."""
        return self.path / "test_outputs.npz"

    @property
    def status_record(self) -> StatusRecord:
        """The status, and the reason for it."""
        return StatusRecord.from_json(read_json(self.path / "status.json"))

    @property
    def status(self) -> RunStatus | None:
        """The status; None where the run was never started, or its status cannot be read."""
        return self.status_record.status

    def set_status(self, status: RunStatus, reason: str = "") -> None:
        """Write the status, and the reason for it."""
        locks.verify(self.lock_file)
        write_json(self.path / "status.json", StatusRecord(status, reason).to_json())

    @property
    def record(self) -> RunRecord:
        """The result; its `problem` says why it cannot be used, where the file is missing or broken too."""
        return RunRecord.from_json(read_json(self.path / "result.json"))

    def write_record(self, record: RunRecord) -> None:
        """Write the result, with a checksum by which a later change is noticed."""
        locks.verify(self.lock_file)
        content = finite(record.to_json())
        write_json(self.path / "result.json", {**content, "checksum": checksum(content)})

    @property
    def config(self) -> RunConfig:
        """The resolved config; empty where it cannot be read."""
        return RunConfig.read(self.path / "config.yaml")

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the resolved config."""
        write_text(self.path / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))

    @property
    def done(self) -> bool:
        """True where the run is complete: status, a usable result and weights are all there."""
        record = self.record
        usable = record.problem is None and record.sha256 is not None
        return usable and self.status == RunStatus.DONE and self.weights.is_file()

    @property
    def lock_file(self) -> Path:
        """Path of the lock."""
        return self.path / "lock"

    @property
    def is_locked(self) -> bool:
        """Whether a process seems to be writing the run."""
        return locks.is_held(self.lock_file)

    def lock(self, wait: bool = False) -> contextlib.AbstractContextManager[HeldLock]:
        """Hold the run for writing. Raises RunBusy where another process holds it, unless it is to be waited for."""
        return lock(self.lock_file, wait)

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one epoch to metrics.jsonl. Raises RunBusy where another host has taken over the lock."""
        locks.verify(self.lock_file)
        with open(self.path / "metrics.jsonl", "a") as f:
            f.write(json.dumps(finite(line)) + "\n")
            f.flush()
            os.fsync(f.fileno())  # before the checkpoint that a resumed run continues from

    def metrics(self) -> list[dict[str, Any]]:
        """Return the epochs recorded so far, without lines that are incomplete or have no epoch."""
        lines = []
        with contextlib.suppress(OSError):
            for text in read_bytes(self.path / "metrics.jsonl").splitlines():
                with contextlib.suppress(ValueError, RecursionError):
                    lines.append(json.loads(text))
        return [line for line in lines if isinstance(line, dict) and _is_epoch(line.get("epoch"))]

    def rewind(self, epoch: int) -> None:
        """Remove the metrics of all epochs after `epoch`."""
        remaining = [line for line in self.metrics() if line["epoch"] <= epoch]
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in remaining))


def finite(value: Any) -> Any:
    """Return a copy of a JSON value, with None in place of NaN and infinities."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return value


def _is_epoch(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST_EPOCH
