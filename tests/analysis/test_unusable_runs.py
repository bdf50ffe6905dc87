"""Runs that are unfinished, broken or unusable are left out of the tables and named with the reason."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
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


def config(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "config.yaml").write_text(text)


def fifo(name: str) -> Callable[[Path], object]:
    def replace(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return replace


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("damage", "reason"),
    {
        "profile": (config("profile: 3"), "its config.yaml says profile: 3, which is no name"),
        "validation": (
            config("dataset: {validation: x}"),
            "its config.yaml says dataset.validation: x, which is no fraction",
        ),
        "no mapping": (config("recipe: [1]"), "its config.yaml says recipe: [1], which is no group of settings"),
        "no settings": (config("3"), "its config.yaml holds no settings"),
        "no YAML": (config("a: ["), "its config.yaml is broken: it is not valid YAML"),
        "within itself": (config("a: &a {b: *a}"), "its config.yaml is broken: it is nested more than 50 levels deep"),
        "deep": (
            config("a: " + 60 * "[" + 60 * "]"),
            "its config.yaml is broken: it is nested more than 50 levels deep",
        ),
        "very deep": (config("a: " + 100_000 * "["), "its config.yaml is broken: it is not valid YAML"),
        "bomb": (config(BOMB), "its config.yaml is broken: it holds more than 100,000 values"),
        "config is a FIFO": (fifo("config.yaml"), "its config.yaml cannot be read: it is not a regular file"),
        "result is a FIFO": (fifo("result.json"), "its result.json is missing or broken"),
    }.values(),
)
def test_a_run_with_a_damaged_file_is_named_and_the_others_are_tabulated(tree, kd, analyse, damage, reason):
    damage(kd[0])
    status, out, _ = analyse("table")
    assert status == 0 and cells(out, "KD")[0].startswith("**63.00")
    assert f"- {PAIR} kd seed=0: {reason}" in out


def test_a_missing_config_leaves_a_run_in_the_table(tree, kd, analyse):
    (kd[0] / "config.yaml").unlink()
    assert "seed=0: " not in analyse("table")[1]


@pytest.mark.parametrize("name", ["metrics.jsonl", "test_outputs.npz", "status.json"])
def test_fifos_do_not_hang(tree, kd, analyse, name):
    tree.teacher("resnet20", 70.0)
    fifo(name)(kd[0])
    status, out, _ = analyse("table", "structure", "plots")
    assert status == 0 and cells(out, "KD")[0].startswith("**62.50")


@pytest.mark.parametrize("logits", [np.full((40, 3), "a"), np.full((40, 3), 1j), np.full((40, 3), np.nan)])
def test_logits_that_are_no_finite_numbers_are_left_out_of_the_fidelity(tree, kd, analyse, logits):
    tree.teacher("resnet20", 70.0)
    np.savez(kd[0] / "test_outputs.npz", logits=logits, labels=np.arange(40) % 3)
    status, out, _ = analyse("structure")
    assert status == 0 and "kd/0000000000a1/seed=0 is left out: no usable test_outputs.npz there" in out


def test_lone_surrogates_are_replaced(tree, kd, analyse):
    path = kd[0] / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"title": "A\ud800B", "commit": "\udfff"}))
    shutil.copytree(kd[0].parent.parent, kd[0].parents[2] / "k\udcff")
    status, out, _ = analyse("table")
    assert status == 0 and out.encode() and "k\N{REPLACEMENT CHARACTER} seed=0" in out


def test_folders_that_cannot_be_listed_are_named(tree, kd, analyse, monkeypatch):
    secret = tree.student(PAIR, "crd", "0000000000a3", 0, 61.0)
    scandir = os.scandir

    def refuse(path):
        if Path(path) in (secret.parents[1], kd[0]):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    out = analyse("table")[1]
    assert f"- {PAIR} crd *: its folder cannot be read: Permission denied" in out
    assert f"- {PAIR} kd seed=0: its folder cannot be read: Permission denied" in out
    assert cells(out, "KD")[0].startswith("**63.00")
