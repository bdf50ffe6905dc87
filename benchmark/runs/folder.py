"""The run store: one folder per run, written atomically, read by `analysis`. No torch here.

    <runs>/<dataset>/<pair>/<method>/<identity>/seed=<n>/     a student
    <runs>/<dataset>/teachers/<network>/<identity>/seed=<n>/  a teacher trained here; `imported/` for a checkpoint given

A run folder holds

    config.yaml        the fully resolved config; the identity is the hash of all of it but the seed
    status.json        {"status": "running" | "done" | "failed" | "diverged" | "skipped", "reason": "…"}
    metrics.jsonl      one line an epoch: epoch, lr, loss, loss/<term> (raw), weighted/<term>, train_top1, test_top1,
                       test_top5 (over 5 classes), val_top1 (with a validation split), agreement,
                       correlation_distance, data_s, step_s, eval_s, fill_s (while rows of the teacher's caches
                       were missing)
    result.json        written last: dataset, teacher, student, pair, method, seed, profile, identity, epochs,
                       top1_last, top1_best, teacher_top1, wall_s, step_ms, extra_parameters, versions, hardware,
                       status, teacher_run (folder relative to <runs>), code (a hash of the method's own file),
                       changed (settings that are not those of profile and method), checksum (of all that), …
    test_outputs.npz   logits [N, C] float32, labels [N] int64 and class_names [C] of the test set at the last epoch
    checkpoint.pt      everything needed to go on; removed when done
    weights.pt         the final weights of the trained network
    method.pt          those of the method's layers, where some of them are kept at inference
    lock               held (flock) by the process that writes the run

Accuracies are per cent. A run with status "running" whose lock is free was interrupted; the same command resumes it.
One that is "skipped" cannot be: the method does not fit the networks.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import yaml

STATUSES = ("running", "done", "failed", "diverged", "skipped")


class RunBusy(Exception):
    """Another process holds the run."""


def identity(config: Mapping[str, Any]) -> str:
    """Twelve hex digits of the SHA-256 of a resolved config without its seed (as JSON with sorted keys)."""
    rest = {k: v for k, v in config.items() if k != "seed"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write in place of `path`: the old content stays until the new one is complete on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    except OSError as e:
        if e.errno is not None and e.filename is None:  # a full disk does not say of which file
            e.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold the file `path`; the kernel lets go when the process ends, however it ends.

    Where another process holds it: waits for it, or else raises RunBusy.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as e:
            raise RunBusy(f"another process is writing {path.parent}") from e
        yield


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as f:
        f.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; a NaN or an infinity becomes null, so that any reader can read it."""
    write_text(path, json.dumps(_finite(value), indent=1) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`; None where the file is missing, broken, or holds something else."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_epoch(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**9


def checksum(result: Mapping[str, Any]) -> str:
    """Sixteen hex digits of the SHA-256 of a result's other keys (as JSON with sorted keys)."""
    rest = {k: v for k, v in result.items() if k != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


def unusable(result: Mapping[str, Any] | None) -> str | None:
    """Why a result says nothing of its run; None where it does."""
    if result is None:
        return "its result.json is missing or broken"
    top1 = result.get("top1_last")
    if isinstance(top1, bool) or not isinstance(top1, int | float) or not 0 <= top1 <= 100:
        return f"its result.json has no top1_last from 0 to 100, but {json.dumps(top1)}"
    if "checksum" in result and result["checksum"] != checksum(result):
        return "its result.json is not as it was written"
    return None


class RunFolder:
    """One run folder. Reading needs nothing; writing needs the lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def weights(self) -> Path:
        return self.folder / "weights.pt"

    @property
    def test_outputs(self) -> Path:
        return self.folder / "test_outputs.npz"

    @property
    def status(self) -> str | None:
        """One of STATUSES; None where the run was never begun (or its status cannot be read)."""
        status = (read_json(self.folder / "status.json") or {}).get("status")
        return status if status in STATUSES else None

    def set_status(self, status: str, reason: str = "") -> None:
        write_json(self.folder / "status.json", {"status": status, "reason": reason})

    @property
    def result(self) -> dict[str, Any] | None:
        return read_json(self.folder / "result.json")

    @property
    def done(self) -> bool:
        """True where the run is complete: status, a usable result and weights are all there."""
        result = self.result
        usable = unusable(result) is None and isinstance((result or {}).get("sha256"), str)
        return usable and self.status == "done" and self.weights.is_file()

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Hold the run for writing; raises RunBusy where another process does."""
        return lock(self.folder / "lock")

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write result.json, with a checksum by which a change is noticed."""
        result = _finite(result)
        write_json(self.folder / "result.json", {**result, "checksum": checksum(result)})

    def write_config(self, config: Mapping[str, Any]) -> None:
        write_text(self.folder / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one epoch to metrics.jsonl."""
        with open(self.folder / "metrics.jsonl", "a") as f:
            f.write(json.dumps(_finite(line)) + "\n")
            f.flush()
            os.fsync(f.fileno())  # before the checkpoint that goes on from here

    def metrics(self) -> list[dict[str, Any]]:
        """The epochs recorded so far; a half-written last line, or one that is none, is left out."""
        lines = []
        with contextlib.suppress(OSError), open(self.folder / "metrics.jsonl", "rb") as f:
            for text in f:
                with contextlib.suppress(ValueError, RecursionError):
                    lines.append(json.loads(text))
        return [line for line in lines if isinstance(line, dict) and _is_epoch(line.get("epoch"))]

    def rewind(self, epoch: int) -> None:
        """Forget the metrics of all epochs after `epoch`."""
        kept = [line for line in self.metrics() if line["epoch"] <= epoch]
        write_text(self.folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))
