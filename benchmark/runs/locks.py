"""Locks on files of a folder that several hosts may share. No torch here.

    lock       held by flock. Within a host this excludes processes exactly, and the kernel releases it when they end.
    lock.<n>   there while a process holds the lock: JSON with host, pid, token and beat, a number that the holder
               raises every HEARTBEAT_S seconds

`flock` may not reach other hosts (NFS mounted with `nolock` or `local_lock`, Lustre without `flock`), and a host that
dies may leave its lock at the server. So a process also creates `lock.<n>`, which exactly one can do. Where another
host's file is there, the process watches its content for EXPIRY_S seconds by its own clock: a change shows that the
holder is alive; without one the holder counts as dead, and `lock.<n+1>` replaces the file. Clocks of hosts are
never compared. A holder that was paused for longer finds its file removed (`verify`) and must stop writing.

Assumed of the file system: creating a file exclusively and renaming it are atomic, and a file that is opened shows what
another host wrote and closed before (NFS from version 3, Lustre, GPFS, CephFS, BeeGFS).
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.runs.reading import read_bytes

HEARTBEAT_S = 10.0  # seconds between two signs of life of a holder
EXPIRY_S = 90.0  # a lock without a sign of life for so long is dead: eight beats may be lost
POLL_S = 1.0  # seconds between two looks at another host's lock
ATTEMPTS = 3  # where two hosts create their files at once, both step back and try again
NO_FLOCK = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)

_held: dict[Path, "HeldLock | Claim"] = {}  # the locks of this process, and those that it writes under


class RunBusy(Exception):
    """Raised when another process holds the run."""


@dataclass(frozen=True)
class Claim:
    """Names a lock that is held. A process that writes for the holder verifies the lock by it."""

    path: Path  # of the lock
    file: Path  # that says who holds it
    token: str

    def verify(self) -> None:
        """Raise RunBusy where another host has replaced the lock, because its holder was paused for too long."""
        holder = _read(self.file)
        if holder is None or self.token.encode() not in holder:
            raise RunBusy(f"another host has taken over {self.path.parent}: this process gave no sign of life")


class HeldLock:
    """A lock that this process holds. beat: a thread raises it until `release`."""

    def __init__(self, path: Path, number: int, token: str) -> None:
        self.path, self._name, self._token = path, f"{path.name}.{number}", token
        self._beat, self._released = 0, threading.Event()
        self._thread = threading.Thread(target=self._live, name=f"lock {path}", daemon=True)
        self._thread.start()

    @property
    def file(self) -> Path:
        """The file that says who holds the lock."""
        return self.path.with_name(self._name)

    def follow(self, folder: Path) -> None:
        """Continue in another folder, to which that of the lock was moved."""
        self.path = folder / self.path.name

    def verify(self) -> None:
        """Raise RunBusy where another host has replaced the lock, because this process was paused for too long."""
        self.claim.verify()

    @property
    def claim(self) -> Claim:
        """What another process verifies the lock by."""
        return Claim(self.path, self.file, self._token)

    def release(self) -> None:
        """End the signs of life, and remove the file where it is still this lock's."""
        self._released.set()
        self._thread.join()
        with contextlib.suppress(RunBusy, OSError):
            self.verify()
            self.file.unlink()

    def _live(self) -> None:
        while not self._released.wait(HEARTBEAT_S):
            self._beat += 1
            with contextlib.suppress(OSError, RunBusy):  # a file server that does not answer now may do so later
                self.verify()
                with open(self.file, "r+b") as f:  # never creates a file that another host has removed
                    f.write(_content(self._token, self._beat))


@contextlib.contextmanager
def lock(path: Path, wait: bool = False) -> Iterator[HeldLock]:
    """Hold an exclusive lock on the file `path`, among all processes of all hosts that share its folder.

    wait: wait for another process that holds the lock, instead of raising RunBusy. Raises OSError for a symbolic link,
    which would be written through.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        raise OSError(errno.ELOOP, "a symbolic link where the file of a lock belongs; remove it", str(path))
    with open(path, "a", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666)) as f:
        exact = _flock(f.fileno(), path, wait)
        held = _acquire(path, exact, wait)
        _held[path] = held
        try:
            yield held
        finally:
            del _held[path]
            held.release()


def is_held(path: Path) -> bool:
    """Return whether a process seems to hold the lock on `path`; one that died on another host still does."""
    try:
        return bool(_numbered(path))
    except FileNotFoundError:
        return False


def claim_on(path: Path) -> Claim | None:
    """Return what another process verifies the lock on `path` by; None where this process does not hold it."""
    held = _held.get(path)
    return held.claim if isinstance(held, HeldLock) else held


def share(claim: Claim) -> None:
    """Let this process write under a lock that the process holds which started it."""
    _held[claim.path] = claim


def verify(path: Path) -> None:
    """Raise RunBusy where this process held the lock on `path` and another host has taken it over."""
    if (held := _held.get(path)) is not None:
        held.verify()


def _flock(descriptor: int, path: Path, wait: bool) -> bool:
    """Take the lock of the kernel. Return False where the file system has none. Raises RunBusy."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as e:
        raise RunBusy(f"another process is writing {path.parent}") from e
    except OSError as e:
        if e.errno in NO_FLOCK:
            return False
        raise
    return True


def _acquire(path: Path, exact: bool, wait: bool) -> HeldLock:
    """Create the next `lock.<n>`. exact: `flock` excludes all other processes of this host. Raises RunBusy."""
    attempts = 0
    while True:
        dead = {n: holder for n, file in _numbered(path).items() if (holder := _read(file)) is not None}
        for n, holder in dead.items():
            dead[n] = _await_death(path.with_name(f"{path.name}.{n}"), holder, exact, wait)
        if (held := _create(path, dead)) is not None:
            return held
        attempts += 1
        if attempts == ATTEMPTS and not wait:
            raise RunBusy(f"another host is writing {path.parent}")
        time.sleep(POLL_S * (1 + os.getpid() % 7 / 7))  # not in step with another host


def _await_death(file: Path, holder: bytes, exact: bool, wait: bool) -> bytes:
    """Watch a lock until it counts as dead, and return its last content. Raises RunBusy where its holder lives."""
    if exact and _described(holder).get("host") == host():
        return holder  # a process of this host that lived would have the kernel's lock
    watched_since = time.monotonic()
    while time.monotonic() - watched_since < EXPIRY_S:
        time.sleep(POLL_S)
        seen = _read(file)
        if seen is None:  # released
            return holder
        if seen != holder:
            if not wait and holder:  # an empty file is one whose holder has only just created it
                writer = _described(seen)
                name = str(writer.get("host", "another host")).split("/")[0]
                raise RunBusy(f"process {writer.get('pid')} of {name} is writing {file.parent}")
            holder, watched_since = seen, time.monotonic()
    return holder


def _create(path: Path, dead: dict[int, bytes]) -> HeldLock | None:
    """Create the file above the dead ones, and remove those. Return None where another host came first."""
    number, token = max(dead, default=0) + 1, uuid.uuid4().hex
    file = path.with_name(f"{path.name}.{number}")
    try:
        with open(file, "xb") as f:
            f.write(_content(token, 0))
    except FileExistsError:
        return None
    # the folder is read again: another host may have replaced the dead lock, or found none, in the meantime
    others = {n: _read(other) for n, other in _numbered(path).items() if n != number}
    if any(holder is not None and holder != dead.get(n) for n, holder in others.items()):
        file.unlink(missing_ok=True)
        return None
    for n in others:
        path.with_name(f"{path.name}.{n}").unlink(missing_ok=True)
    return HeldLock(path, number, token)


def _numbered(path: Path) -> dict[int, Path]:
    """Return the files `lock.<n>` by their numbers."""
    form = re.compile(re.escape(path.name) + r"\.([1-9]\d*)")
    names = os.listdir(path.parent)
    return {int(match[1]): path.with_name(name) for name in names if (match := form.fullmatch(name))}


def _read(file: Path) -> bytes | None:
    """Return the content of a file; None where it is gone."""
    try:
        return read_bytes(file)
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ESTALE):  # removed by another host
            return None
        raise


def _content(token: str, beat: int) -> bytes:
    """Return what a holder writes, of the same length at every beat so that no write leaves a rest of another."""
    holder = {"host": host(), "pid": os.getpid(), "token": token, "beat": f"{beat:012d}"}
    return json.dumps(holder).encode() + b"\n"


def _described(holder: bytes) -> dict[str, Any]:
    """Return the content of a lock; empty where it is cut off."""
    try:
        value = json.loads(holder)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def host() -> str:
    """Return the name of this host and the id of its boot, which two machines of the same name do not share."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as f:
            boot = f.read().strip()
    except OSError:
        boot = ""
    return f"{socket.gethostname()}/{boot}"
