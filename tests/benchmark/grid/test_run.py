"""Tests of one training run: what its folder holds, resuming, damaged files, failures."""

import contextlib
import dataclasses
import errno
import json
import math
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import methods
from benchmark.config import files
from benchmark.config.files import group_names
from benchmark.grid.build import load_teacher
from benchmark.grid.progress import Progress
from benchmark.grid.run import execute
from benchmark.grid.training_run import Outcome, TrainingRun
from benchmark.runs.folder import RunFolder, lock
from benchmark.runs.tracking import Tracking
from benchmark.runs.weights import load_weights, save
from methods.kd import KD
from tests.conftest import tiny_overrides
from tests.helpers import (
    Killed,
    KilledAt,
    TrainedRun,
    bench,
    plan_of,
    same,
    student_runs,
    tracking_of,
    trained,
    untracked,
)

METHOD = """
from dataclasses import dataclass
from torch.nn import functional as F
from methods.contract import Method

@dataclass
class Options:
    pass

class Mine(Method):
    Options = Options

    def losses(self, student, teacher, batch):
        STATEMENT
"""
METHODS = group_names("method")
CHECKPOINT_SHARE = "benchmark.grid.run.CHECKPOINT_SHARE"  # infinite: a checkpoint after every epoch


def run_again(overrides: list[str], method: str, progress: Progress | None = None) -> tuple[TrainingRun, Outcome]:
    """Execute the run of a method again, whose result is removed first."""
    plan = plan_of(overrides)
    run = student_runs(plan)[method]
    (run.folder.path / "result.json").unlink(missing_ok=True)
    return run, execute(run, tracking_of(plan), progress or Progress(1))


@pytest.fixture
def tracking(tmp_path) -> Tracking:
    return untracked(tmp_path)


# ------------------------------------------------------------ results


def test_a_run_folder_holds_config_metrics_result_outputs_and_weights(tiny):
    plan, outcomes = bench([*tiny, "methods=ce,kd,crd", "crd.negatives=8"])
    assert [o.status for o in outcomes] == ["done"] * 3
    folder, teacher = student_runs(plan)["kd"].folder, plan.teachers["resnet14"].folder
    result = json.loads((folder.path / "result.json").read_text())
    expected = {
        "dataset": "npz", "teacher": "resnet14", "student": "resnet8", "pair": "resnet14-resnet8", "method": "kd",
        "seed": 0, "profile": "quick", "epochs": 2, "status": "done", "extra_parameters": 0, "role": "student",
        "teacher_top1": teacher.record.top1_last, "teacher_top5": teacher.record.top5_last, "recipe": "cifar",
        "teacher_sha256": teacher.record.sha256, "pre_epochs": 0,
        "changed": ["recipe.epochs", "recipe.batch_size", "dataset.size", "dataset.padding", "teacher.train_size"],
        "val_top1_last": None,
    }  # fmt: skip
    assert {k: result[k] for k in expected} == expected
    assert all(result[key] >= 0 for key in ("top1_last", "top1_best", "teacher_top1", "wall_s", "step_ms"))
    assert {"python", "torch"} <= set(result["versions"]) and result["hardware"]["device"] == "cpu"
    assert teacher.record.changed_settings == folder.record.changed_settings
    assert not {"pair", "method", "teacher"} & set(json.loads((teacher.path / "result.json").read_text()))

    config = yaml.safe_load((folder.path / "config.yaml").read_text())
    assert config["method"] == {
        "name": "kd", "implementation": "kd", "temperature": 4.0, "ce_weight": 0.1, "kd_weight": 0.9,
        "standardise": False,
    }  # fmt: skip
    assert config["recipe"]["lr"] == 0.01 and config["teacher"]["sha256"] == result["teacher_sha256"]

    lines = folder.metrics()
    assert [m["epoch"] for m in lines] == [1, 2]
    assert set(lines[0]) == {
        "epoch", "lr", "loss", "loss/ce", "weighted/ce", "loss/kd", "weighted/kd", "train_top1", "test_top1",
        "test_top5", "agreement", "correlation_distance", "data_s", "step_s", "eval_s", "fill_s",
    }  # fmt: skip
    assert lines[0]["weighted/kd"] == pytest.approx(0.9 * lines[0]["loss/kd"])
    assert result["top1_last"] == lines[-1]["test_top1"]

    with np.load(folder.test_outputs) as saved:
        assert saved["logits"].shape == (30, 6)
        assert 100 * (saved["logits"].argmax(1) == saved["labels"]).mean() == pytest.approx(result["top1_last"])
    assert not folder.checkpoint.exists() and folder.status == "done"
    assert (student_runs(plan)["crd"].folder.record.extra_buffers or 0) > 2 * 48 * 128


def test_sparse_evaluation_changes_neither_training_nor_the_last_epoch(tiny, tmp_path):
    words = [*tiny, "methods=kd", "recipe.epochs=6"]
    expected = student_runs(bench(words)[0])["kd"].folder
    other = tmp_path / "sparse"
    shutil.copytree(tmp_path / "runs/npz/teachers", other / "npz/teachers")
    folder = student_runs(bench([*words, f"runs={other}", "evaluate_every=4"])[0])["kd"].folder
    assert folder.path.relative_to(other) == expected.path.relative_to(tmp_path / "runs")  # of the same identity
    (weights, lines), (expected_weights, every) = trained(folder), trained(expected)
    assert all(torch.equal(weights[k], expected_weights[k]) for k in expected_weights)
    assert [line["epoch"] for line in lines if "test_top1" in line] == [2, 6]
    of_test = {"test_top1", "test_top5", "agreement", "correlation_distance"}
    for line, full in zip(lines, every, strict=True):
        assert line == (full if line["epoch"] in (2, 6) else {k: v for k, v in full.items() if k not in of_test})
    assert (folder.record.evaluated_epochs, expected.record.evaluated_epochs) == (2, 6)
    assert folder.record.top1_last == expected.record.top1_last
    assert folder.record.top1_best == max(lines[1]["test_top1"], lines[5]["test_top1"])


def test_a_resumed_run_is_evaluated_in_the_same_epochs(tiny, monkeypatch):
    monkeypatch.setattr(CHECKPOINT_SHARE, math.inf)
    words = [*tiny, "methods=ce", "recipe.epochs=5", "evaluate_every=2"]
    plan = plan_of(words)
    (run,) = plan.students_alone()
    with pytest.raises(Killed):
        execute(run, tracking_of(plan), KilledAt(4))
    assert execute(run, tracking_of(plan), Progress(1)).status == "done"
    assert [line["epoch"] for line in run.folder.metrics() if "test_top1" in line] == [1, 3, 5]
    assert run.folder.record.top1_last == run.folder.metrics()[-1]["test_top1"]


@pytest.mark.parametrize("busy", [False, True])
def test_a_prefilled_cache_changes_nothing(finished, tmp_path, capsys, monkeypatch, busy):
    expected = trained(student_runs(plan_of(finished))["kd"].folder)
    (checks,) = (tmp_path / "runs").rglob("logits.check")
    shutil.rmtree(next((tmp_path / "runs").rglob("cache")))
    monkeypatch.setattr("benchmark.teacher.outputs.evaluation_batch_size", lambda *_: 16)
    monkeypatch.setattr("benchmark.teacher.outputs.should_prefill", lambda *_: True)
    with lock(checks.with_name("fill.lock")) if busy else contextlib.nullcontext():
        run, _ = run_again(finished, "kd")
    out = capsys.readouterr().out
    assert ", 0 % filled, the rest ahead: 1 visits of an image see 1 of its 50 views" in out
    assert ("another process is filling it" in out) == busy
    assert np.fromfile(checks, dtype=np.int64).all() != busy
    assert same(trained(run.folder), expected)


def test_the_cache_may_be_on_a_local_disk_and_changes_nothing(finished, tmp_path, monkeypatch):
    expected = trained(student_runs(plan_of(finished))["kd"].folder)
    shutil.rmtree(next((tmp_path / "runs").rglob("cache")))
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "local disk"))
    run, _ = run_again([*finished, "teacher.cache_dir=$NODE_DISK/caches"], "kd")
    assert same(trained(run.folder), expected)
    assert list((tmp_path / "local disk" / "caches" / (run.teacher_run or "")).glob("*/logits.bin"))
    assert not list((tmp_path / "runs").rglob("*.bin"))
    monkeypatch.delenv("NODE_DISK")
    _, outcome = run_again([*finished, "teacher.cache_dir=$NODE_DISK/caches"], "kd")
    assert "teacher.cache_dir=$NODE_DISK/caches: the variable is not set on" in outcome.reason


def test_a_run_that_another_host_has_taken_over_is_left_alone(finished, monkeypatch):
    plan = plan_of([*finished, "kd.temperature=2"])
    run = student_runs(plan)["kd"]
    folder, write = run.folder, RunFolder.append_metrics

    def lose_the_lock(self: RunFolder, line: dict[str, Any]) -> None:
        (self.path / "lock.1").rename(self.path / "lock.2")
        (self.path / "lock.2").write_text('{"host": "node7/abc", "pid": 7, "token": "other", "beat": 1}')
        write(self, line)

    monkeypatch.setattr(RunFolder, "append_metrics", lose_the_lock)
    outcome = execute(run, tracking_of(plan), Progress(1))
    assert outcome.status == "busy" and "another host has taken over" in outcome.reason
    assert folder.status == "running" and folder.metrics() == []
    assert not (folder.path / "error.txt").exists() and (folder.path / "lock.2").exists()


def test_the_result_of_a_student_alone_names_no_teacher_and_no_pair(finished):
    folder = student_runs(plan_of(finished))["ce"].folder
    result = json.loads((folder.path / "result.json").read_text())
    expected = {"student": "resnet8", "network": "resnet8", "method": "ce", "title": "Student", "year": None}
    assert {k: result[k] for k in expected} == expected
    assert not {"pair", "teacher", "teacher_top1", "teacher_sha256", "teacher_run"} & result.keys()
    assert result["agreement"] is None and result["correlation_distance"] is None
    assert folder.path.parts[-5:-2] == ("npz", "resnet8", "ce")
    assert "teacher" not in folder.config.tree


def test_a_changed_result_is_made_again(finished, capsys):
    plan = plan_of(finished)
    run = student_runs(plan)["kd"]
    path = run.folder.path / "result.json"
    written = path.read_text()
    path.write_text(written.replace('"agreement": ', '"agreement": 9'))
    assert not run.folder.done
    assert execute(run, tracking_of(plan), Progress(1)).status == "done"
    assert "result.json was changed after it was written; the run restarts" in capsys.readouterr().err
    times = re.compile(r'"(wall_s|step_ms|checksum)": .*')
    assert times.sub("", path.read_text()) == times.sub("", written)


# ------------------------------------------------------------ resuming


@pytest.fixture(scope="module")
def runs_by_method(tmp_path_factory) -> Iterator[Callable[[str], TrainingRun]]:
    """Returns the run of two epochs of any method, with a trained teacher; every epoch has a checkpoint."""
    overrides = [*tiny_overrides(tmp_path_factory.mktemp("methods")), "methods=all", "recipe.batch_size=20"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CHECKPOINT_SHARE, math.inf)
        plan = plan_of([*overrides, "crd.negatives=8", "crd_kd.crd.negatives=8"])
        execute(plan.teachers["resnet14"], tracking_of(plan), Progress(1))
        runs = student_runs(plan)
        yield runs.__getitem__


@pytest.mark.parametrize("name", METHODS)
def test_a_run_killed_in_its_second_epoch_resumes_bit_for_bit(runs_by_method, tracking, name):
    run = runs_by_method(name)
    assert execute(run, tracking, Progress(1)).status == "done"
    uninterrupted = trained(run.folder)
    shutil.rmtree(run.folder.path)
    shutil.rmtree(run.settings.runs / (run.teacher_run or "") / "cache", ignore_errors=True)
    with pytest.raises(Killed):
        execute(run, tracking, KilledAt(2))
    assert run.folder.status == "running" and not run.folder.done
    assert torch.load(run.folder.checkpoint, weights_only=True)["epoch"] == 1
    assert execute(run, tracking, Progress(1)).status == "done"
    assert same(trained(run.folder), uninterrupted)


@dataclasses.dataclass(frozen=True)
class Interrupted:
    """A teacher's run of three epochs, killed in the last one, and what it gives without an interruption."""

    run: TrainingRun
    uninterrupted: TrainedRun


@pytest.fixture(scope="module")
def interrupted_once(tmp_path_factory) -> Interrupted:
    plan = plan_of([*tiny_overrides(tmp_path_factory.mktemp("interrupted")), "methods=ce", "recipe.epochs=3"])
    (run,) = plan.teachers.values()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CHECKPOINT_SHARE, math.inf)
        execute(run, tracking_of(plan), Progress(1))
        uninterrupted = trained(run.folder)
        shutil.rmtree(run.folder.path)
        with pytest.raises(Killed):
            execute(run, tracking_of(plan), KilledAt(3))
    return Interrupted(run, uninterrupted)


@pytest.fixture
def interrupted(interrupted_once, tmp_path) -> Interrupted:
    """A copy that the test may change."""
    run = interrupted_once.run
    shutil.copytree(run.settings.runs, tmp_path / "runs")
    run = dataclasses.replace(run, settings=dataclasses.replace(run.settings, runs=tmp_path / "runs"))
    return dataclasses.replace(interrupted_once, run=run)


def flip_weight(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Change a byte of a weight in a file."""
    content = bytearray(path.read_bytes())
    content[content.index(weights["fc.weight"].numpy().tobytes()) + 100] ^= 0x55
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-99])


def flip_checkpoint(folder: RunFolder) -> None:
    flip_weight(folder.checkpoint, torch.load(folder.checkpoint, weights_only=True)["trainer"]["network"])


MISFIT = "checkpoint.pt does not fit the networks and the method of this run"


def replace_entry(part: str, key: str, value: object) -> Callable[[RunFolder], None]:
    """Return a function that sets an entry of a part of the checkpoint, which stays readable."""

    def damage(folder: RunFolder) -> None:
        saved = load_weights(folder.checkpoint)
        saved["trainer"][part][key] = value
        save(folder.checkpoint, saved)

    return damage


def set_epochs(*epochs: int) -> Callable[[RunFolder], None]:
    """Return a function that leaves only these epochs in metrics.jsonl, as a power loss may."""

    def damage(folder: RunFolder) -> None:
        lines = [json.dumps(m) + "\n" for m in folder.metrics() if m["epoch"] in epochs]
        (folder.path / "metrics.jsonl").write_text("".join(lines))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: truncate(folder.checkpoint), "checkpoint.pt is damaged"),
        (lambda folder: folder.checkpoint.write_bytes(b"PK\x03\x04 half a file"), "checkpoint.pt is damaged"),
        (flip_checkpoint, "checkpoint.pt is damaged"),
        (lambda folder: torch.save({"model": {}}, folder.checkpoint), "checkpoint.pt is not the checkpoint of a run"),
        (replace_entry("network", "stem.conv.weight", torch.zeros(3)), MISFIT),
        (replace_entry("network", "another", torch.zeros(3)), MISFIT),
        (replace_entry("method", "another", torch.zeros(3)), MISFIT),
        (replace_entry("optimiser", "state", {0: {"momentum_buffer": torch.zeros(3)}}), MISFIT),
        (replace_entry("optimiser", "param_groups", [{"lr": 0.1}]), MISFIT),
        (replace_entry("optimiser", "param_groups", 7), MISFIT),
        (set_epochs(1), "metrics.jsonl lacks epochs"),
        (set_epochs(2), "metrics.jsonl lacks epochs"),
        (set_epochs(), "metrics.jsonl lacks epochs"),
        (
            lambda folder: save(folder.checkpoint, load_weights(folder.checkpoint) | {"code": "0" * 12}),
            "its checkpoint was written by another version of ce's code",
        ),
    ],
)
def test_a_run_whose_checkpoint_cannot_be_used_restarts(interrupted, tracking, capsys, damage, message):
    folder = interrupted.run.folder
    (folder.path / "weights.pt.77.part").write_bytes(b"left by a killed process")
    damage(folder)
    assert execute(interrupted.run, tracking, Progress(1)).status == "done"
    assert f"{message}; the run restarts" in capsys.readouterr().err
    assert [m["epoch"] for m in folder.metrics()] == [1, 2, 3]
    assert same(trained(folder), interrupted.uninterrupted) and not list(folder.path.glob("*.part"))


def test_a_checkpoint_without_a_code_version_is_used(interrupted, tracking, capsys):
    folder = interrupted.run.folder
    save(folder.checkpoint, {k: v for k, v in load_weights(folder.checkpoint).items() if k != "code"})
    assert execute(interrupted.run, tracking, Progress(1)).status == "done"
    captured = capsys.readouterr()
    assert "resumed after epoch 2" in captured.out and captured.err == ""
    assert same(trained(folder), interrupted.uninterrupted)


# ------------------------------------------------------------ failures


def test_a_full_disk_fails_its_run_alone(finished, tracking, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        run, outcome = run_again(finished, "ce")
    assert outcome.status == "failed" and outcome.reason.startswith("OSError: [Errno 28] No space left on device")
    assert run_again(finished, "kd")[1].status == "done"
    assert execute(run, tracking, Progress(1)).status == "done"  # the same command, once there is room


def test_a_failed_run_is_recorded_and_tried_again(finished, monkeypatch):
    def broken(*_):
        raise RuntimeError("out of luck\nsecond line")

    with monkeypatch.context() as patch:
        patch.setattr(KD, "losses", broken)
        run, outcome = run_again(finished, "kd")
    path = run.folder.path / "error.txt"
    assert outcome.reason == f"RuntimeError: out of luck (traceback in {path})"
    assert run.folder.status == "failed" and "second line" in path.read_text()
    _, outcomes = bench(finished)
    assert [o.status for o in outcomes] == ["done"] and run.folder.done
    assert not path.exists()  # the failure is over


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("student.logits @ teacher.logits", "RuntimeError: "),
        ("F.relu('text')", "TypeError: "),
        ("raise ValueError", "ValueError: "),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_the_reason_of_a_failure_in_a_method_names_its_file_and_line(tiny, tmp_path, monkeypatch, statement, reason):
    """However deep in torch the error is raised."""
    (tmp_path / "methods").mkdir()
    file = tmp_path / "methods" / "mine.py"
    file.write_text(METHOD.replace("STATEMENT", statement))
    shutil.copytree(files.CONF, tmp_path / "conf")
    text = "name: mine\nimplementation: mine\nabout: { title: Mine, year: 2026, family: logits }\n"
    (tmp_path / "conf" / "method" / "mine.yaml").write_text(text)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path / "methods")])
    monkeypatch.setattr(files, "CONF", tmp_path / "conf")
    monkeypatch.delitem(sys.modules, "methods.mine", raising=False)
    _, (outcome,) = bench([*tiny, "methods=mine", "recipe.epochs=1"])
    line = METHOD.splitlines().index("        STATEMENT") + 1
    assert outcome.status == "failed" and outcome.reason.startswith(reason) and "\n" not in outcome.reason
    assert f" ({file}:{line}) (traceback in " in outcome.reason


def test_a_teacher_that_changed_after_planning_is_noticed(finished, tracking):
    plan = plan_of(finished)
    run, weights = student_runs(plan)["kd"], plan.teachers["resnet14"].folder.weights
    (run.folder.path / "result.json").unlink()
    state = torch.load(weights, weights_only=True)
    torch.save({**state, "fc.bias": state["fc.bias"] + 1}, weights)
    outcome = execute(run, tracking, Progress(1))
    assert outcome.status == "failed" and "has changed since the run was planned" in outcome.reason


def test_a_method_that_changes_its_teacher_fails(finished, monkeypatch):
    teachers, losses = [], KD.losses

    def load(*arguments):
        teachers.append(load_teacher(*arguments)[0])
        return teachers[0], load_teacher(*arguments)[1]

    def change_teacher(self, *arguments):
        next(teachers[0].parameters()).add_(1.0)
        return losses(self, *arguments)

    monkeypatch.setattr("benchmark.grid.preparation.load_teacher", load)
    monkeypatch.setattr(KD, "losses", change_teacher)
    _, outcome = run_again(finished, "kd")
    assert outcome.status == "failed" and "kd changed its teacher" in outcome.reason
