import errno
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from benchmark.errors import unwritable
from benchmark.runs import folder as store
from benchmark.runs.folder import RunBusy, RunFolder

CONFIG = {"method": {"name": "kd", "temperature": 4.0}, "recipe": {"epochs": 2}, "seed": 3}


def test_identity_ignores_the_seed_and_the_order_of_keys_and_nothing_else():
    same = {"seed": 9, "recipe": {"epochs": 2}, "method": {"temperature": 4.0, "name": "kd"}}
    assert store.identity(CONFIG) == store.identity(same)
    assert store.identity(CONFIG) != store.identity({**CONFIG, "recipe": {"epochs": 3}})
    assert store.identity(CONFIG) != store.identity({**CONFIG, "method": {"name": "kd", "temperature": 4.5}})


def test_identity_is_stable_over_versions():
    # sha256 of {"a":1,"b":[1.5,null]}
    assert store.identity({"b": [1.5, None], "a": 1, "seed": 0}) == "993a7a2ceb87"


def test_atomic_keeps_the_old_content_when_writing_fails(tmp_path):
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
def test_broken_json_reads_as_nothing(tmp_path, content):
    (tmp_path / "status.json").write_bytes(content)
    assert store.read_json(tmp_path / "status.json") is None
    assert RunFolder(tmp_path).status is None


def test_a_full_disk_is_told_with_the_file(tmp_path, monkeypatch):
    store.write_text(tmp_path / "a.txt", "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left on device") as e:
        store.write_text(tmp_path / "a.txt", "new")
    assert unwritable(e.value) == f"{tmp_path / 'a.txt'}: No space left on device"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


def test_a_run_is_done_only_when_complete(tmp_path):
    run = RunFolder(tmp_path)
    run.set_status("done")
    assert not run.done
    result = {"top1_last": 1.0, "sha256": "ab" * 32}
    store.write_json(tmp_path / "result.json", result)
    assert not run.done
    run.weights.write_bytes(b"x")
    assert run.done
    for wrong in ({}, result | {"top1_last": 1e9}, result | {"top1_last": None}, {"top1_last": 1.0}):
        store.write_json(tmp_path / "result.json", wrong)
        assert not run.done
    store.write_json(tmp_path / "result.json", result)
    run.set_status("diverged", "term kd is nan at step 7")
    assert not run.done and run.status == "diverged"


def test_rewind_forgets_later_epochs_and_a_half_written_line(tmp_path):
    run = RunFolder(tmp_path)
    for epoch in (1, 2, 3):
        run.append_metrics({"epoch": epoch, "loss": 1.0 / epoch})
    with open(tmp_path / "metrics.jsonl", "a") as f:
        f.write('{"epoch": 4, "lo')
    assert [m["epoch"] for m in run.metrics()] == [1, 2, 3]
    run.rewind(2)
    run.append_metrics({"epoch": 3, "loss": 9.0})
    assert [m["loss"] for m in run.metrics()] == [1.0, 0.5, 9.0]


def _hold(folder: Path, held) -> None:
    with RunFolder(folder).lock():
        held.set()
        time.sleep(60)


def test_the_lock_refuses_a_second_process_and_ends_with_its_holder(tmp_path):
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=_hold, args=(tmp_path, held))
    process.start()
    try:
        assert held.wait(30)
        with pytest.raises(RunBusy, match="another process"), RunFolder(tmp_path).lock():
            pass
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    with RunFolder(tmp_path).lock():  # free again, though its holder never said so
        pass
