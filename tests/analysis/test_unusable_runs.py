"""Runs that are unfinished, broken or unusable are left out of the tables and named with the reason."""

import json
import shutil
from pathlib import Path

import pytest

from benchmark.runs.folder import RunFolder
from tests.analysis.conftest import Tree
from tests.analysis.reading import cells

PAIR = "resnet20-resnet8"


@pytest.fixture
def kd(tree: Tree) -> list[Path]:
    """Folders of six finished runs of KD."""
    return [tree.student(PAIR, "kd", "0000000000a1", seed, 60.0 + seed) for seed in range(6)]


def test_unusable_runs_are_left_out_and_named(tree, kd, analyse):
    (kd[1] / "result.json").write_text("{broken")
    (kd[2] / "result.json").write_text(200_000 * "[")
    run = RunFolder(kd[3])
    run.write_record(run.record)
    (kd[3] / "result.json").write_text((kd[3] / "result.json").read_text().replace("63.0", "83.0"))
    (kd[4] / "status.json").write_text('{"status": "running", "reason": ""}')
    (kd[5] / "result.json").write_text(json.dumps({"status": "done", "pair": PAIR, "top1_last": 60.0}))
    shutil.copytree(kd[0], kd[0].with_name("seed=6"))
    status, out, _ = analyse("table")
    assert status == 0 and cells(out, "KD")[0] == "**60.00 (1)**"
    named = out.split("Not in the table, 6 runs:\n\n")[1].split("\n\n")[0].splitlines()
    reasons = [
        "its result.json is missing or broken",
        "its result.json is missing or broken",
        "its result.json was changed after it was written",
        "running or interrupted",
        "its result.json says dataset null: it belongs to another folder",
        "its result.json says seed 0: it belongs to another folder",
    ]
    assert named == [f"- {PAIR} kd seed={seed}: {reason}" for seed, reason in enumerate(reasons, 1)]


@pytest.mark.parametrize("top1", [1e9, -1.0])
def test_an_accuracy_outside_0_to_100_is_unusable(tree, kd, analyse, top1):
    tree.student(PAIR, "kd", "0000000000a1", 6, top1)
    out = analyse("table")[1]
    assert cells(out, "KD")[0] == "**62.50 ± 1.87 (6)**"
    assert f"- {PAIR} kd seed=6: its result.json has no top1_last from 0 to 100, but {json.dumps(top1)}" in out


def test_unusable_numbers_besides_the_accuracy_are_unknown(tree, analyse):
    values = ("Infinity", "1" + 400 * "0", "1e999", "true", "null")
    fields = ("wall_s", "step_ms", "top1_best", "agreement")
    for seed, (field, value) in enumerate((f, v) for f in fields for v in values):
        path = tree.student(PAIR, "kd", "0000000000a1", seed, 60.0) / "result.json"
        result = json.loads(path.read_text())
        path.write_text(json.dumps(result | {field: "here"}).replace('"here"', value))
    status, out, _ = analyse("table")
    assert status == 0 and cells(out, "KD")[0] == "**60.00 ± 0.00 (20)**"
    assert cells(out, f"{PAIR} | KD")[1:4] == ["20", "0:07:23", "33.1"]  # 431 s + the mean 12 of seeds 5 to 19


def test_a_failed_teacher_is_named(tree, kd, analyse):
    folder = tree.root / "cifar100/teachers/resnet56/bbbbbbbbbbbb/seed=0"
    folder.mkdir(parents=True)
    (folder / "status.json").write_text('{"status": "diverged", "reason": "term ce is nan\\nat step 3"}')
    assert "- teacher resnet56 seed=0: diverged: term ce is nan at step 3" in analyse("table")[1]
    assert "resnet56" not in analyse("table", f"pair={PAIR}")[1]


def test_many_unfinished_runs_are_counted_and_the_first_named(tree, kd, analyse):
    for seed in range(30):
        tree.ended(PAIR, "crd", "0000000000a2", seed, "running")
    out = analyse("table")[1]
    assert "Not in the table, 30 runs:" in out
    assert out.count("running or interrupted") == 20 and "- and 10 more" in out
