"""Locks among hosts that share a folder: other hosts are simulated by what they would leave in the files."""

import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.runs import folder as store
from benchmark.runs import locks
from benchmark.runs.folder import RunFolder
from benchmark.runs.locks import RunBusy, lock


class FakeTime:
    """A clock that passes in `sleep` alone, and calls `on_sleep` then."""

    def __init__(self) -> None:
        self.now = 0.0
        self.on_sleep: Callable[[], object] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_sleep()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(locks, "time", fake)
    return fake


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)


def write_holder(folder: Path, number: int = 1, host: str = "node7/abc", beat: int = 0, hours: float = 0) -> None:
    """Write what a holder on another host leaves; hours: by which that host's clock is off."""
    file = folder / f"lock.{number}"
    file.write_text(json.dumps({"host": host, "pid": 77, "token": "t", "beat": beat}))
    moment = time.time() + 3600 * hours
    os.utime(file, (moment, moment))


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_held_lock_says_who_holds_it_and_leaves_nothing_but_its_file(tmp_path, clock):
    with lock(tmp_path / "lock"):
        holder = json.loads((tmp_path / "lock.1").read_text())
        assert (holder["host"], holder["pid"]) == (locks.host(), os.getpid())
    assert files(tmp_path) == ["lock"] and clock.now == 0


@pytest.mark.parametrize("hours", [-1, 0, 1])
def test_the_lock_of_a_dead_host_expires_whatever_its_clock_was(tmp_path, clock, hours):
    write_holder(tmp_path, 3, hours=hours)
    with lock(tmp_path / "lock"):
        assert files(tmp_path) == ["lock", "lock.4"]
        assert clock.now >= locks.EXPIRY_S
    assert files(tmp_path) == ["lock"]


@pytest.mark.parametrize("hours", [-1, 0, 1])
def test_the_lock_of_a_living_host_is_respected_whatever_its_clock_is(tmp_path, clock, hours):
    write_holder(tmp_path, hours=hours)
    clock.on_sleep = lambda: write_holder(tmp_path, beat=int(clock.now / locks.HEARTBEAT_S), hours=hours)
    with pytest.raises(RunBusy, match="process 77 of node7 is writing"), lock(tmp_path / "lock"):
        pass
    assert files(tmp_path) == ["lock", "lock.1"] and clock.now <= locks.HEARTBEAT_S + locks.POLL_S


def test_a_host_that_lives_until_it_releases_the_lock_is_waited_for(tmp_path, clock):
    def live() -> None:
        if clock.now < 500:
            write_holder(tmp_path, beat=int(clock.now / locks.HEARTBEAT_S))
        else:
            (tmp_path / "lock.1").unlink(missing_ok=True)

    live()
    clock.on_sleep = live
    with lock(tmp_path / "lock", wait=True):
        assert 500 <= clock.now < 510


def test_a_dead_process_of_this_host_is_not_waited_for(tmp_path, clock):
    write_holder(tmp_path, host=locks.host())
    with lock(tmp_path / "lock"):
        assert clock.now == 0


def test_after_a_reboot_or_on_a_host_of_the_same_name_the_lock_is_watched(tmp_path, clock):
    write_holder(tmp_path, host=locks.host().split("/")[0] + "/another-boot")
    with lock(tmp_path / "lock"):
        assert clock.now >= locks.EXPIRY_S


def test_a_file_that_its_host_left_empty_expires(tmp_path, clock):
    (tmp_path / "lock.1").touch()
    with lock(tmp_path / "lock"):
        assert clock.now >= locks.EXPIRY_S


def test_a_host_that_comes_first_wins(tmp_path, clock, monkeypatch):
    """Another host replaces the dead lock after this one has found it dead, but before its own attempt."""
    write_holder(tmp_path)
    create = locks._create

    def late(path: Path, dead: dict[int, bytes]) -> locks.HeldLock | None:
        write_holder(tmp_path, 2, host="node8/x", beat=int(clock.now))
        (tmp_path / "lock.1").unlink(missing_ok=True)
        return create(path, dead)

    monkeypatch.setattr(locks, "_create", late)
    clock.on_sleep = lambda: (tmp_path / "lock.2").exists() and write_holder(tmp_path, 2, "node8/x", int(clock.now))
    with pytest.raises(RunBusy, match="process 77 of node8 is writing"), lock(tmp_path / "lock"):
        pass


def test_a_host_that_took_the_freed_lock_meanwhile_wins(tmp_path, clock, monkeypatch):
    """The dead lock was replaced and released, and a third host holds `lock.1` anew, when this one creates `lock.2`."""
    write_holder(tmp_path)
    create = locks._create

    def late(path: Path, dead: dict[int, bytes]) -> locks.HeldLock | None:
        write_holder(tmp_path, 1, host="node9/x", beat=int(clock.now))
        return create(path, dead)

    monkeypatch.setattr(locks, "_create", late)
    clock.on_sleep = lambda: monkeypatch.setattr(locks, "_create", late)
    with pytest.raises(RunBusy, match=r"another host is writing|process 77 of node9"), lock(tmp_path / "lock"):
        pass
    assert files(tmp_path) == ["lock", "lock.1"]


def test_where_the_kernel_has_no_locks_processes_of_one_host_exclude_each_other(tmp_path, no_flock, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.01)
    monkeypatch.setattr(locks, "POLL_S", 0.01)
    with lock(tmp_path / "lock"), pytest.raises(RunBusy, match="is writing"), lock(tmp_path / "lock"):
        pass
    with lock(tmp_path / "lock"):
        pass


def test_one_of_many_hosts_replaces_a_dead_lock_at_a_time(tmp_path, no_flock, monkeypatch):
    """Threads stand for hosts; each takes and releases the lock that a dead one has left."""
    for name, seconds in (("HEARTBEAT_S", 0.01), ("POLL_S", 0.005), ("EXPIRY_S", 2.0)):
        monkeypatch.setattr(locks, name, seconds)
    monkeypatch.setattr(locks, "host", lambda: threading.current_thread().name.replace("lock ", ""))
    write_holder(tmp_path)
    inside, most, entered = 0, 0, []

    def enter() -> None:
        nonlocal inside, most
        with lock(tmp_path / "lock", wait=True):
            inside += 1
            most = max(most, inside)
            time.sleep(0.02)
            entered.append(threading.current_thread().name)
            inside -= 1

    threads = [threading.Thread(target=enter, name=f"host{i}/boot") for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (most, len(entered)) == (1, 6) and files(tmp_path) == ["lock"]


def test_a_process_that_was_paused_too_long_writes_no_more(tmp_path, clock):
    folder = RunFolder(tmp_path)
    with folder.lock():
        folder.append_metrics({"epoch": 1})
        write_holder(tmp_path, 2)
        (tmp_path / "lock.1").unlink()
        before = files(tmp_path)
        for write in (lambda: folder.append_metrics({"epoch": 2}), lambda: folder.set_status(store.RunStatus.DONE)):
            with pytest.raises(RunBusy, match="another host has taken over"):
                write()
    assert files(tmp_path) == before and len(folder.metrics()) == 1


# ------------------------------------------------------------ renames of a file server


def failing_rename(monkeypatch: pytest.MonkeyPatch, failures: int, *, done: bool, code: int = errno.ESTALE) -> None:
    """Let the first renames fail. done: the file is renamed nevertheless, and the answer lost."""
    rename, left = os.replace, failures

    def replace(source: Path, target: Path) -> None:
        nonlocal left
        left -= 1
        if left >= 0 and done:
            rename(source, target)
        if left >= 0:
            raise OSError(code, os.strerror(code))
        rename(source, target)

    monkeypatch.setattr(store.os, "replace", replace)
    monkeypatch.setattr(store.time, "sleep", lambda _: None)


@pytest.mark.parametrize("done", [False, True])
def test_a_rename_that_fails_once_is_repeated(tmp_path, monkeypatch, done):
    store.write_text(tmp_path / "a", "old")
    failing_rename(monkeypatch, 1, done=done)
    store.write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new" and files(tmp_path) == ["a"]


@pytest.mark.parametrize(("failures", "code"), [(3, errno.ESTALE), (1, errno.EACCES)])
def test_a_rename_that_keeps_failing_leaves_the_old_content(tmp_path, monkeypatch, failures, code):
    store.write_text(tmp_path / "a", "old")
    failing_rename(monkeypatch, failures, done=False, code=code)
    with pytest.raises(OSError) as error:
        store.write_text(tmp_path / "a", "new")
    assert error.value.errno == code and error.value.filename == str(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "old" and files(tmp_path) == ["a"]
