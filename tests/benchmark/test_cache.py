"""The teacher's cache: exact, never trusted when damaged, safe to kill and to share."""

import dataclasses
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmark.__main__ import main
from benchmark.cache import FEWEST, GIGA, Header, TeacherCache, cheaper_ahead, opened, visited, wanted
from benchmark.store import Run
from methods.contract import Needs, Outputs
from tests.conftest import ROOT

HEADER = Header("a" * 64, "b" * 64, "fp32", 1, True, samples=20, views=18, logits=5, pooled=7)
BOTH = Needs(logits=True, pooled=True)


def truth(indices, views, needs=BOTH):
    """Rows that differ for every sample, view and column."""
    base = (indices * 100 + views).float()[:, None]
    return Outputs(torch.sin(base + torch.arange(5)), torch.cos(base * 3 + torch.arange(7)))


class Counting:
    """A teacher that counts the rows it computes."""

    def __init__(self, pause: float = 0.0):
        self.rows, self.pause = 0, pause

    def __call__(self, indices, views, needs):
        time.sleep(self.pause)
        assert len(indices) >= FEWEST  # a smaller batch is padded with its first row
        self.rows += len(set(zip(indices.tolist(), views.tolist(), strict=True)))
        return truth(indices, views)


def make(root: Path, teacher=None, header=HEADER, kinds=("logits", "pooled")) -> tuple[TeacherCache, Counting]:
    teacher = teacher or Counting()
    return TeacherCache(root, header, list(kinds), teacher), teacher


def everything(cache: TeacherCache):
    places = torch.arange(HEADER.samples * HEADER.views)
    return places // HEADER.views, places % HEADER.views


def right(cache: TeacherCache) -> bool:
    found, wanted_ = cache(*everything(cache)), truth(*everything(cache))
    return torch.equal(found.logits, wanted_.logits) and torch.equal(found.pooled, wanted_.pooled)


def test_rows_are_exact_and_computed_once(tmp_path):
    cache, teacher = make(tmp_path)
    indices, views = torch.tensor([3, 3, 19, 0]), torch.tensor([0, 17, 5, 0])
    for _ in range(3):
        out = cache(indices, views)
        assert torch.equal(out.logits, truth(indices, views).logits)
        assert torch.equal(out.pooled, truth(indices, views).pooled)
    assert teacher.rows == 4
    again, teacher = make(tmp_path)  # as another process would
    assert torch.equal(again(indices, views).logits, truth(indices, views).logits) and teacher.rows == 0
    again(torch.tensor([3, 4]), torch.tensor([0, 0]))
    assert teacher.rows == 1
    assert again.share_filled() == 5 / (20 * 18)


def test_bf16_rows_lose_nothing(tmp_path):
    cache, _ = make(
        tmp_path,
        lambda i, v, n: Outputs(truth(i, v).logits.bfloat16(), truth(i, v).pooled.bfloat16()),
        dataclasses.replace(HEADER, precision="bf16"),
    )
    for _ in range(2):
        assert torch.equal(cache(*everything(cache)).logits, truth(*everything(cache)).logits.bfloat16())


def test_damage_is_found_and_mended(tmp_path):
    cache, _ = make(tmp_path)
    cache.fill(50, "cpu")
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


@pytest.mark.parametrize("name", ["logits.bin", "pooled.check"])
def test_a_truncated_file_is_made_anew(tmp_path, name):
    cache, _ = make(tmp_path)
    cache.fill(50, "cpu")
    os.truncate(cache.folder / name, 100)
    again, teacher = make(tmp_path)
    assert right(again) and teacher.rows == 20 * 18


@pytest.mark.parametrize("change", [{"teacher": "c"}, {"data": "c"}, {"precision": "bf16"}, {"flip": False}])
def test_what_rows_depend_on_has_rows_of_its_own(tmp_path, change):
    make(tmp_path)[0].fill(50, "cpu")
    other, _ = make(tmp_path, header=dataclasses.replace(HEADER, **change))
    assert other.share_filled() == 0


def _filler(root: Path, pause: float) -> subprocess.Popen:
    code = (
        "import sys; from pathlib import Path; from tests.benchmark.test_cache import Counting, make\n"
        f"make(Path(sys.argv[1]), Counting({pause}))[0].fill(10, 'cpu')"
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
    cache.fill(10, "cpu")
    assert 0 < teacher.rows <= 0.9 * 20 * 18
    assert right(cache) and cache.share_filled() == 1


def test_two_processes_fill_and_read_at_once(tmp_path):
    process = _filler(tmp_path, 0.02)
    cache, teacher = make(tmp_path)
    generator = torch.Generator().manual_seed(0)
    while process.poll() is None:
        i, v = (torch.randint(n, (16,), generator=generator) for n in (20, 18))
        assert torch.equal(cache(i, v).logits, truth(i, v).logits)
    assert process.returncode == 0
    before = teacher.rows
    assert right(cache) and teacher.rows == before


def test_a_second_filler_leaves_it_to_the_first(tmp_path):
    process = _filler(tmp_path, 0.05)
    cache, teacher = make(tmp_path)
    while cache.share_filled() == 0:
        time.sleep(0.01)
    cache.fill(10, "cpu")
    assert process.poll() is None and teacher.rows == 0
    process.kill()
    process.wait()


def test_feature_maps_are_not_kept():
    assert wanted(Needs.of(maps=[2])) is None and wanted(Needs.of(logits=True, preact=[1])) is None
    assert wanted(Needs()) is None
    assert wanted(Needs(pooled=True)) == ["pooled"]


def test_size_by_hand_and_the_limit(tmp_path):
    header = Header("a", "b", "fp32", 4, True, samples=50000, views=162, logits=100, pooled=128)
    assert header.gigabytes(["logits"]) * GIGA == 50000 * 162 * (400 + 8)
    cache, line = opened(tmp_path, header, Needs(logits=True), 3.0, truth)
    assert cache is None and "3.3 GB: more than teacher.cache_gb=3; the teacher runs live" in line
    assert not any(tmp_path.iterdir())


def test_a_full_disk_leaves_the_teacher_live(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # no file larger than that can be made
    try:
        cache, line = opened(tmp_path, HEADER, Needs(logits=True), 1.0, truth)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert cache is None and "the teacher runs live" in line and "too large" in line
    assert not list(tmp_path.rglob("*.bin")) and not list(tmp_path.rglob("*.part"))


def test_filling_ahead_pays_when_most_views_will_be_seen():
    assert visited(162, 1) == pytest.approx(1)
    assert visited(162, 2) == pytest.approx(2 - 1 / 162)
    assert visited(162, 240) == pytest.approx(125.3, abs=0.1)
    assert cheaper_ahead(162, 240, 1.0, 1.5) and not cheaper_ahead(162, 240, 1.0, 1.0)
    assert not cheaper_ahead(162, 1, 1.0, 8.0)


@pytest.mark.parametrize("method", ["kd", "crd", "fitnet"])
def test_a_run_with_a_cache_equals_one_with_a_live_teacher(tiny, tmp_path, capsys, method):
    lines = []
    for name, limit in (("cached", 20), ("cached again", 20), ("live", 0)):
        runs = tmp_path / name.split()[0]
        for folder in runs.glob("npz/resnet14-resnet8/*/*/seed=0"):
            (folder / "result.json").unlink()
        overrides = [*tiny, f"methods={method}", f"runs={runs}", f"teacher.cache_gb={limit}"]
        assert main([*overrides, "crd.negatives=8"] if method == "crd" else overrides) == 0
        (folder,) = runs.glob(f"npz/resnet14-resnet8/{method}/*/seed=0")
        lines.append([{k: v for k, v in m.items() if not k.endswith("_s")} for m in Run(folder).metrics()])
        said = capsys.readouterr().out
        if method != "fitnet":
            assert ("the teacher runs live" in said) == (name == "live")
    cached, again, live = lines
    assert cached == again
    assert cached == live  # bit for bit here: every batch has FEWEST rows or more
