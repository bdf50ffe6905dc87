"""The teacher's cache: exact, never trusted when damaged, safe to kill and to share."""

import dataclasses
import errno
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmark.runs import folder as files
from benchmark.runs.folder import RunFolder
from benchmark.teacher.cache import (
    GIGABYTE,
    MIN_TEACHER_BATCH,
    CacheHeader,
    TeacherCache,
    cacheable_kinds,
    expected_distinct_views,
    open_cache,
    should_prefill,
)
from methods.contract import Needs, Outputs
from tests.conftest import ROOT
from tests.helpers import bench

HEADER = CacheHeader("a" * 64, "b" * 64, "cpu", "fp32", "crops", "", samples=20, columns=18, classes=5, pooled=7)
NEEDS = Needs(logits=True, pooled=True, class_maps=[2])


def batch(samples, columns):
    """Samples, columns, and images that show which they are."""
    return samples, columns, (samples * 100 + columns).float()[:, None, None, None]


def truth(samples, columns, images) -> Outputs:
    """Rows that differ for every sample, column and entry."""
    base = images[:, :, 0, 0]
    logits, pooled, cams = torch.arange(5), torch.arange(7), torch.arange(20)
    cams = {2: torch.sin(base * 5 + cams).view(-1, 5, 2, 2)}
    return Outputs(torch.sin(base + logits), torch.cos(base * 3 + pooled), class_maps=cams)


def equal(a: Outputs, b: Outputs) -> bool:
    return (
        torch.equal(a.logits, b.logits)
        and torch.equal(a.pooled, b.pooled)
        and torch.equal(a.class_maps[2], b.class_maps[2])
    )


class Counting:
    """A teacher that counts the rows it computes."""

    def __init__(self, pause: float = 0.0):
        self.rows, self.pause = 0, pause

    def __call__(self, images, needs):
        time.sleep(self.pause)
        assert len(images) >= MIN_TEACHER_BATCH  # a smaller batch is padded with its first row
        assert needs == NEEDS
        self.rows += len(images.unique())
        return truth(None, None, images)


def make(root: Path, teacher=None, header=HEADER) -> tuple[TeacherCache, Counting]:
    teacher = teacher or Counting()
    return TeacherCache(root, header, NEEDS, teacher), teacher


def everything():
    places = torch.arange(HEADER.samples * HEADER.columns)
    return batch(places // HEADER.columns, places % HEADER.columns)


def view(samples, columns):
    return batch(samples, columns)[2]


def right(cache: TeacherCache) -> bool:
    return equal(cache(*everything()), truth(*everything()))


def test_rows_are_exact_and_computed_once(tmp_path):
    cache, teacher = make(tmp_path)
    queries = batch(torch.tensor([3, 3, 19, 0]), torch.tensor([0, 17, 5, 0]))
    for _ in range(3):
        assert equal(cache(*queries), truth(*queries))
    assert teacher.rows == 4
    again, teacher = make(tmp_path)  # as another process would
    assert equal(again(*queries), truth(*queries)) and teacher.rows == 0
    again(*batch(torch.tensor([3, 4]), torch.tensor([0, 0])))
    assert teacher.rows == 1
    assert again.share_filled() == 5 / (20 * 18)


def test_bf16_rows_lose_nothing(tmp_path):
    def halves(outputs):
        return Outputs(
            outputs.logits.bfloat16(), outputs.pooled.bfloat16(), class_maps={2: outputs.class_maps[2].bfloat16()}
        )

    cache, _ = make(
        tmp_path, lambda images, _: halves(truth(None, None, images)), dataclasses.replace(HEADER, precision="bf16")
    )
    for _ in range(2):
        assert equal(cache(*everything()), halves(truth(*everything())))


def test_damage_is_found_and_mended(tmp_path):
    cache, _ = make(tmp_path)
    cache.fill(50, view)
    path = cache.folder / "logits.bin"
    data = bytearray(path.read_bytes())
    data[4 * 5 * 7 + 2] ^= 1  # one bit of row 7
    data[4 * 5 * 9 : 4 * 5 * 12] = bytes(4 * 5 * 3)  # rows 9 to 11 zeroed, as by a lost page
    path.write_bytes(data)
    again, teacher = make(tmp_path)
    assert right(again) and teacher.rows == 4
    (cache.folder / "pooled.check").write_bytes(b"\xff" * (8 * 20 * 18))
    again, teacher = make(tmp_path)
    assert right(again) and teacher.rows == 20 * 18


def test_rows_in_the_place_of_others_are_computed_again(tmp_path):
    cache, _ = make(tmp_path)
    cache.fill(50, view)
    for path in cache.folder.glob("*.*"):
        if path.suffix in (".bin", ".check"):
            rows = np.fromfile(path, np.uint8).reshape(20 * 18, -1)
            rows[[4, 5, 70]] = rows[[5, 4, 4]]  # with their checksums
            rows.tofile(path)
    again, teacher = make(tmp_path)
    assert right(again) and teacher.rows == 3


def test_a_link_in_the_place_of_rows_is_not_written_through(tmp_path):
    cache, _ = make(tmp_path / "a")
    size = (cache.folder / "logits.bin").stat().st_size
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(bytes(size))
    (cache.folder / "logits.bin").unlink()
    (cache.folder / "logits.bin").symlink_to(elsewhere)
    again, _ = make(tmp_path / "a")
    assert right(again) and elsewhere.read_bytes() == bytes(size) and not (cache.folder / "logits.bin").is_symlink()


@pytest.mark.parametrize("name", ["logits.bin", "pooled.check"])
def test_a_truncated_file_is_made_anew(tmp_path, name):
    cache, _ = make(tmp_path)
    cache.fill(50, view)
    os.truncate(cache.folder / name, 100)
    again, teacher = make(tmp_path)
    assert right(again) and teacher.rows == 20 * 18


@pytest.mark.parametrize("what", ["teacher", "data", "device", "precision", "views", "drawn_by"])
def test_what_rows_depend_on_has_rows_of_its_own(tmp_path, what):
    make(tmp_path)[0].fill(50, view)
    other, _ = make(tmp_path, header=dataclasses.replace(HEADER, **{what: "bf16"}))
    assert other.share_filled() == 0


def test_rows_under_another_header_are_computed_again(tmp_path):
    """As where folders were mixed up by a copy."""
    cache, _ = make(tmp_path)
    cache.fill(50, view)
    files.write_json(cache.folder / "header.json", {**dataclasses.asdict(HEADER), "teacher": "another"})
    again, line = open_cache(tmp_path, HEADER, NEEDS, 1.0, teacher := Counting())
    assert "created again because its header did not match" in line
    assert again.share_filled() == 0 and right(again) and teacher.rows == 20 * 18
    assert "created again" not in open_cache(tmp_path, HEADER, NEEDS, 1.0, truth)[1]
    assert files.read_json(cache.folder / "header.json") == dataclasses.asdict(HEADER)


def test_a_folder_that_cannot_be_written_is_filled_on_first_use(tmp_path):
    cache, teacher = make(tmp_path)
    (cache.folder / "fill.lock").mkdir()
    assert cache.fill(10, view) == f"it cannot be filled ahead (Is a directory: {cache.folder / 'fill.lock'})"
    assert teacher.rows == 0 and right(cache)


def test_a_folder_that_cannot_be_read_leaves_the_teacher_live(tmp_path, monkeypatch):
    def refused(self):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "exists", refused)
    cache, line = open_cache(tmp_path, HEADER, Needs(logits=True), 1.0, truth)
    assert cache is None and "Permission denied; the teacher runs live" in line


def _filler(root: Path, pause: float) -> subprocess.Popen:
    code = (
        "import sys; from pathlib import Path; from tests.benchmark.teacher.test_cache import Counting, make, view\n"
        f"make(Path(sys.argv[1]), Counting({pause}))[0].fill(10, view)"
    )
    return subprocess.Popen([sys.executable, "-c", code, str(root)], cwd=ROOT)


def test_filling_survives_a_kill(tmp_path):
    process = _filler(tmp_path, 0.05)
    cache, teacher = make(tmp_path)
    while cache.share_filled() < 0.1:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    shares = []
    assert cache.fill(10, view, shares.append) is None
    assert shares == sorted(shares) and len(shares) == 20 * 18 / 10 and shares[-1] == 1
    assert 0 < teacher.rows <= 0.9 * 20 * 18
    assert right(cache) and cache.share_filled() == 1


def test_two_processes_fill_and_read_at_once(tmp_path):
    process = _filler(tmp_path, 0.02)
    cache, teacher = make(tmp_path)
    generator = torch.Generator().manual_seed(0)
    while process.poll() is None:
        queries = batch(*(torch.randint(n, (16,), generator=generator) for n in (20, 18)))
        assert equal(cache(*queries), truth(*queries))
    assert process.returncode == 0
    before = teacher.rows
    assert right(cache) and teacher.rows == before


def test_a_second_filler_leaves_it_to_the_first(tmp_path):
    process = _filler(tmp_path, 0.05)
    cache, teacher = make(tmp_path)
    while cache.share_filled() == 0:
        time.sleep(0.01)
    assert cache.fill(10, view) == "another process is filling it"
    assert process.poll() is None and teacher.rows == 0
    process.kill()
    process.wait()


def test_feature_maps_are_not_kept():
    assert cacheable_kinds(Needs(maps=[2])) is None and cacheable_kinds(Needs(logits=True, pre_activations=[1])) is None
    assert cacheable_kinds(Needs()) is None
    assert cacheable_kinds(Needs(pooled=True)) == ["pooled"]
    assert cacheable_kinds(Needs(logits=True, class_maps=[4, 2])) == ["logits", "cams2", "cams4"]


def test_size_by_hand_and_the_limit(tmp_path):
    header = CacheHeader("a", "b", "cpu", "fp32", "crops", "", samples=50000, columns=162, classes=100, pooled=128)
    assert header.gigabytes(["logits"]) * GIGABYTE == 50000 * 162 * (400 + 8)
    assert header.gigabytes(["pooled", "cams4"]) * GIGABYTE == 50000 * 162 * (512 + 8 + 16 * 400 + 8)
    cache, line = open_cache(tmp_path, header, Needs(logits=True), 3.0, truth)
    assert cache is None and "3.3 GB: more than teacher.cache_gb=3; the teacher runs live" in line
    assert not any(tmp_path.iterdir())


def test_a_full_disk_leaves_the_teacher_live(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # no file larger than that can be made
    try:
        cache, line = open_cache(tmp_path, HEADER, Needs(logits=True), 1.0, truth)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert cache is None and "the teacher runs live" in line and "too large" in line
    assert not list(tmp_path.rglob("*.bin")) and not list(tmp_path.rglob("*.part"))


def test_a_new_cache_leaves_room_for_what_else_is_written(tmp_path, monkeypatch):
    size = HEADER.gigabytes(["logits"])
    free = (1.0 + size / 2) * GIGABYTE
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    cache, line = open_cache(tmp_path / "not there yet", HEADER, Needs(logits=True), 1.0, truth)
    assert cache is None and "1 GB of the disk are free, and 1 GB must stay free; the teacher runs live" in line
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free + size * GIGABYTE))
    assert open_cache(tmp_path, HEADER, Needs(logits=True), 1.0, truth)[0] is not None
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    assert open_cache(tmp_path, HEADER, Needs(logits=True), 1.0, truth)[0] is not None  # it has its room already


def test_too_little_memory_to_map_it_leaves_the_teacher_live(tmp_path, monkeypatch):
    def no_room(*_, **__):
        raise RuntimeError("unable to mmap 6480 bytes from file: Cannot allocate memory (12)")

    monkeypatch.setattr("torch.from_file", no_room)
    cache, line = open_cache(tmp_path, HEADER, Needs(logits=True), 1.0, truth)
    assert cache is None and "cannot be mapped into memory; the teacher runs live" in line


def _open_at_once(root: Path, ready, go, results) -> None:
    reserve = os.posix_fallocate
    # so that all are making the file at once
    os.posix_fallocate = lambda *arguments: (time.sleep(0.2), reserve(*arguments))
    ready.put(1)
    go.wait()
    cache, _ = make(root)
    cache(*everything())
    again, teacher = make(root)
    assert right(again)
    results.put((teacher.rows, (root / HEADER.key / "logits.bin").stat().st_ino))


def test_processes_that_open_it_at_once_fill_the_same_files(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, results, go = context.Queue(), context.Queue(), context.Event()
    (tmp_path / HEADER.key).mkdir()
    (tmp_path / HEADER.key / "logits.bin.77.part").write_bytes(b"left by a kill")
    processes = [context.Process(target=_open_at_once, args=(tmp_path, ready, go, results)) for _ in range(3)]
    for process in processes:
        process.start()
    for _ in processes:
        ready.get(timeout=60)
    go.set()
    reports = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert [rows for rows, _ in reports] == [0, 0, 0] and len({inode for _, inode in reports}) == 1
    assert not list(tmp_path.rglob("*.part"))


def test_filling_ahead_pays_when_most_views_will_be_seen():
    assert expected_distinct_views(162, 1) == pytest.approx(1)
    assert expected_distinct_views(162, 2) == pytest.approx(2 - 1 / 162)
    assert expected_distinct_views(162, 240) == pytest.approx(125.3, abs=0.1)
    assert should_prefill(162, 240, 1.0, 1.5) and not should_prefill(162, 240, 1.0, 1.0)
    assert not should_prefill(162, 1, 1.0, 8.0)


@pytest.mark.parametrize("method", ["kd", "crd", "sdd", "mlld", "fitnet"])
def test_a_run_with_a_cache_equals_one_with_a_live_teacher(tiny, tmp_path, capsys, method):
    lines = []
    for name, limit in (("cached", 20), ("cached again", 20), ("live", 0)):
        runs = tmp_path / name.split()[0]
        for folder in runs.glob("npz/resnet14-resnet8/*/*/seed=0"):
            (folder / "result.json").unlink()
        overrides = [*tiny, f"methods={method}", f"runs={runs}", f"teacher.cache_gb={limit}"]
        bench([*overrides, "crd.negatives=8"] if method == "crd" else overrides)
        (folder,) = runs.glob(f"npz/resnet14-resnet8/{method}/*/seed=0")
        lines.append([{k: v for k, v in m.items() if not k.endswith("_s")} for m in RunFolder(folder).metrics()])
        output = capsys.readouterr().out
        if method != "fitnet":
            assert ("the teacher runs live" in output) == (name == "live")
    cached, again, live = lines
    assert cached == again
    assert cached == live  # bit for bit here: every batch has MIN_TEACHER_BATCH rows or more
