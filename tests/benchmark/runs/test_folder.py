"""Tests of the run folder: identity, atomic files, completeness, metrics, the lock."""

import errno
import json
import multiprocessing
import os
import signal
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from benchmark.errors import describe_os_error
from benchmark.runs import folder as store
from benchmark.runs.folder import RunBusy, RunFolder
from benchmark.runs.record import RunStatus

CONFIG = {"method": {"name": "kd", "temperature": 4.0}, "recipe": {"epochs": 2}, "seed": 3}


def test_the_identity_ignores_only_the_seed_and_the_order_of_keys():
    same = {"seed": 9, "recipe": {"epochs": 2}, "method": {"temperature": 4.0, "name": "kd"}}
    assert store.identity(CONFIG) == store.identity(same)
    assert store.identity(CONFIG) != store.identity({**CONFIG, "recipe": {"epochs": 3}})
    assert store.identity(CONFIG) != store.identity({**CONFIG, "method": {"name": "kd", "temperature": 4.5}})


def test_file_names_have_no_special_characters():
    assert store.file_name("a b", "c/d", "e+f_1.2") == "a_b-c_d-e+f_1.2"


def test_the_identity_of_a_config_never_changes():
    # sha256 of {"a":1,"b":[1.5,null]}
    assert store.identity({"b": [1.5, None], "a": 1, "seed": 0}) == "993a7a2ceb87"


def test_a_failed_write_leaves_the_old_content(tmp_path):
    path = tmp_path / "result.json"
    store.write_json(path, {"top1_last": 1.0})
    with pytest.raises(RuntimeError), store.atomic(path) as f:
        f.write(b'{"top1')
        raise RuntimeError
    assert json.loads(path.read_text()) == {"top1_last": 1.0}
    assert os.listdir(tmp_path) == ["result.json"]


def test_json_has_no_nan(tmp_path):
    store.write_json(tmp_path / "a.json", {"x": float("nan"), "y": [float("inf"), 1.0]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": None, "y": [None, 1.0]}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_broken_json_reads_as_none(tmp_path, content):
    (tmp_path / "status.json").write_bytes(content)
    assert store.read_json(tmp_path / "status.json") is None
    assert RunFolder(tmp_path).status is None


def test_the_error_of_a_full_disk_names_the_file(tmp_path, monkeypatch):
    store.write_text(tmp_path / "a.txt", "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left on device") as e:
        store.write_text(tmp_path / "a.txt", "new")
    assert describe_os_error(e.value) == f"{tmp_path / 'a.txt'}: No space left on device"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


def test_a_run_is_done_only_when_complete(tmp_path):
    folder = RunFolder(tmp_path)
    folder.set_status(RunStatus.DONE)
    assert not folder.done
    result = {"top1_last": 1.0, "sha256": "ab" * 32}
    store.write_json(tmp_path / "result.json", result)
    assert not folder.done
    folder.weights.write_bytes(b"x")
    assert folder.done
    for unusable in ({}, result | {"top1_last": 1e9}, result | {"top1_last": None}, {"top1_last": 1.0}):
        store.write_json(tmp_path / "result.json", unusable)
        assert not folder.done
    store.write_json(tmp_path / "result.json", result)
    folder.set_status(RunStatus.DIVERGED, "term kd is nan at step 7")
    assert not folder.done and folder.status == "diverged"


def test_rewind_removes_later_epochs_and_an_incomplete_line(tmp_path):
    folder = RunFolder(tmp_path)
    for epoch in (1, 2, 3):
        folder.append_metrics({"epoch": epoch, "loss": 1.0 / epoch})
    with open(tmp_path / "metrics.jsonl", "a") as f:
        f.write('{"epoch": 4, "lo')
    assert [m["epoch"] for m in folder.metrics()] == [1, 2, 3]
    folder.rewind(2)
    folder.append_metrics({"epoch": 3, "loss": 9.0})
    assert [m["loss"] for m in folder.metrics()] == [1.0, 0.5, 9.0]


def _hold_lock(folder: Path, locked: Event) -> None:
    with RunFolder(folder).lock():
        locked.set()
        time.sleep(60)


def test_a_lock_excludes_other_processes_and_ends_with_its_own(tmp_path):
    context = multiprocessing.get_context("spawn")
    locked = context.Event()
    process = context.Process(target=_hold_lock, args=(tmp_path, locked))
    process.start()
    try:
        assert locked.wait(30)
        with pytest.raises(RunBusy, match="another process"), RunFolder(tmp_path).lock():
            pass
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    with RunFolder(tmp_path).lock():  # released by the kernel
        pass


def test_a_link_in_the_place_of_a_lock_is_not_written_through(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="a symbolic link where the file of a lock belongs"):
        RunFolder(tmp_path / "run").lock().__enter__()
    assert not (tmp_path / "elsewhere").exists()
