"""Tests of a plan's hours and gigabytes: which times count, and sums by hand."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.grid import estimate
from benchmark.grid.estimate import CacheSizes, StepTimes
from benchmark.grid.plan import Plan
from benchmark.runs.folder import read_json, write_json
from benchmark.runs.record import checksum
from tests.helpers import plan_of, student_runs

KD, CE = ("resnet14", "resnet8", "kd"), (None, "resnet8", "ce")


def change_result(folder: Path, **changes: Any) -> None:
    """Change keys of a run's result."""
    content = (read_json(folder / "result.json") or {}) | changes
    write_json(folder / "result.json", content | {"checksum": checksum(content)})


def write_epochs(folder: Path, *seconds: float, **more: float) -> None:
    """Replace the metrics of a run by epochs of so many seconds, a tenth of them for evaluation."""
    lines = [{"epoch": i, "step_s": 0.7 * s, "data_s": 0.2 * s, "eval_s": 0.1 * s} for i, s in enumerate(seconds, 1)]
    lines[0] |= more
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def with_published_batches(words: list[str], size: int) -> Plan:
    """Return a plan in which KD has the batch size of its publication."""
    plan = plan_of([*words, "recipe.per_method=true"])
    plan.methods[KD] = dataclasses.replace(plan.methods[KD], recipe={"batch_size": size})
    return plan


def speed_file(plan: Plan, folder: Path, **changes: Any) -> None:
    """Write a result of `speed` for the hardware of a plan."""
    content = {
        "batch_size": 16, "image_size": 16, "precision": "fp32", "hardware": plan.settings.hardware.describe(),
        "teacher_training_step_ms": {"ours": 300.0, "plain": 900.0},
        "rows": [
            {"method": "kd", "step_ms": 100.0, "student_ms": 50.0, "live_step_ms": 700.0},
            {"method": "mlld", "step_ms": 200.0, "student_ms": 60.0},
        ],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "resnet14-resnet8.json").write_text(json.dumps(content | changes))


# ------------------------------------------------------------ times


def test_finished_runs_time_what_they_trained(finished):
    """48 images in batches of 16 are 3 steps, evaluation included. Neither the first of several epochs counts, which is
    slower, nor the filling of caches."""
    runs = student_runs(plan_of(finished))
    write_epochs(runs["kd"].folder.path, 90.0, 6.0, 6.0, fill_s=50.0)
    write_epochs(runs["ce"].folder.path, 3.0, fill_s=70.0)
    times = estimate.of_finished_runs(plan_of(finished))
    assert times.seconds[KD] == pytest.approx(2.0) and times.seconds[CE] == pytest.approx(1.0)
    assert set(times.seconds) == {KD, CE, (None, "resnet14", "ce")} and times.origin == "3 finished runs"


def test_runs_on_fewer_images_time_their_steps_alone(finished):
    runs = student_runs(plan_of(finished))
    write_epochs(runs["kd"].folder.path, 6.0)
    change_result(runs["kd"].folder.path, step_ms=25.0)
    times = estimate.of_finished_runs(plan_of([*finished, "dataset.train_size=36"]))
    assert times.seconds[KD] == pytest.approx(0.025)


def test_epochs_without_times_leave_those_of_steps(finished):
    folder = student_runs(plan_of(finished))["kd"].folder.path
    (folder / "metrics.jsonl").write_text('{"epoch": 1, "loss": 1.0}\n')
    change_result(folder, step_ms=25.0)
    assert estimate.of_finished_runs(plan_of(finished)).seconds[KD] == pytest.approx(0.025)


@pytest.mark.parametrize("other", ["precision=bf16", "recipe.batch_size=8", "dataset.size=20", "threads=2"])
def test_runs_of_other_hardware_precision_or_sizes_do_not_count(finished, other):
    assert estimate.of_finished_runs(plan_of([*finished, other])).seconds == {}


def test_a_time_is_that_of_the_batches_of_its_method(finished, tmp_path):
    """Neither finished runs nor `speed` time batches of 24 images, nor KD's with 16 images where it has 24."""
    plan = with_published_batches(finished, 24)
    speed_file(plan, tmp_path / "reports" / "speed")
    for times in (estimate.of_finished_runs(plan), estimate.of_speed(plan)):
        assert KD not in times.seconds and {CE, (None, "resnet14", "ce")} <= set(times.seconds)
    config = student_runs(plan_of(finished))["kd"].folder.path / "config.yaml"
    config.write_text(config.read_text().replace("batch_size: 16", "batch_size: 24"))
    write_epochs(config.parent, 6.0)
    assert estimate.of_finished_runs(plan).seconds[KD] == pytest.approx(3.0)  # 48 images in two steps
    assert KD not in estimate.of_finished_runs(plan_of(finished)).seconds


def test_an_older_run_of_the_student_alone_counts_for_every_pair(finished, tmp_path):
    run = student_runs(plan_of(finished))["ce"]
    older = tmp_path / "runs" / "npz" / "resnet14-resnet8" / "ce" / run.identity
    older.parent.mkdir(parents=True)
    run.folder.path.parent.rename(older)
    write_epochs(older / "seed=0", 3.0)
    assert estimate.of_finished_runs(plan_of(finished)).seconds[CE] == pytest.approx(1.0)


@pytest.mark.parametrize("root", ["reports", "runs"])
def test_results_of_speed_are_read_among_reports_and_runs(tiny, tmp_path, root):
    plan = plan_of(tiny)
    assert estimate.of_speed(plan).seconds == {}
    speed_file(plan, tmp_path / root / "speed")
    assert estimate.of_speed(plan).seconds == {
        KD: 0.1, CE: 0.06, ("resnet14", "resnet8", "mlld"): 0.2, (None, "resnet14", "ce"): 0.3,
    }  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [{"batch_size": 64}, {"image_size": 32}, {"precision": "bf16"}, {"hardware": {"device": "cuda"}}, {"rows": "none"}],
)
def test_results_of_speed_of_something_else_do_not_count(tiny, tmp_path, changes):
    plan = plan_of(tiny)
    speed_file(plan, tmp_path / "reports" / "speed", **changes)
    assert KD not in estimate.of_speed(plan).seconds


def test_the_first_of_two_times_counts():
    times = StepTimes({KD: 1.0}, "runs").or_else(StepTimes({KD: 2.0, CE: 3.0}, "speed"))
    assert times == StepTimes({KD: 1.0, CE: 3.0}, "runs, speed")
    assert times.or_else(StepTimes({}, "nothing")).origin == "runs, speed"


# ------------------------------------------------------------ hours


def test_hours_are_those_of_the_epochs_that_are_left(tiny):
    """3 steps an epoch at 1200 s are an hour; AB has one epoch of initialization in 8."""
    plan = plan_of([*tiny, "methods=ce,kd,ab", "recipe.epochs=8"])
    ab = ("resnet14", "resnet8", "ab")
    times = StepTimes({KD: 1200.0, CE: 600.0, ab: 1200.0, (None, "resnet14", "ce"): 2400.0}, "")
    assert estimate.steps_per_epoch(plan, KD) == 3
    assert estimate.student_hours(plan, times, KD) == pytest.approx(8)
    assert estimate.student_hours(plan, times, KD, trained_epochs=5) == pytest.approx(3)
    assert estimate.student_hours(plan, times, ("resnet14", "resnet8", "ce")) == pytest.approx(4)
    assert estimate.student_hours(plan, times, ab) == pytest.approx(9)
    assert estimate.student_hours(plan, times, ab, trained_epochs=0) == pytest.approx(8)
    assert estimate.teacher_hours(plan, times, "resnet14", 2) == pytest.approx(12)
    assert estimate.student_hours(plan, StepTimes({}, ""), KD) is None
    assert estimate.teacher_hours(plan, StepTimes({}, ""), "resnet14") is None


@pytest.mark.parametrize(("batch_size", "steps"), [(16, 3), (10, 5), (47, 1), (20, 3)])
def test_a_last_batch_of_one_image_is_no_step(tiny, batch_size, steps):
    assert estimate.steps_per_epoch(plan_of([*tiny, f"recipe.batch_size={batch_size}"]), KD) == steps
    published = with_published_batches([*tiny, "methods=ce,kd"], batch_size)
    assert estimate.steps_per_epoch(published, KD) == steps and estimate.steps_per_epoch(published, CE) == 3
    hours = estimate.student_hours(published, StepTimes({KD: 1800.0}, ""), KD)  # two epochs
    assert hours == pytest.approx(steps)
    others = "" if batch_size == 16 else f", {batch_size} (kd)"
    assert f"2 epochs at batch 16{others}\n" in published.text()


# ------------------------------------------------------------ gigabytes


def test_caches_count_each_kind_of_rows_once_for_a_teacher(tiny):
    """48 images, 5 × 5 crops with flips, 6 classes, 64 pooled features; float32 values and 8 bytes of checksum a row.
    MLLD's strong views have a column for each of 2 epochs, and are others in each of 2 seeds."""
    plan = plan_of([*tiny, "methods=ce,kd,crd,mlld,at", "seeds=0,1"])
    sizes = CacheSizes(plan)
    logits, pooled = 48 * 50 * (6 * 4 + 8), 48 * 50 * (64 * 4 + 8)
    strong = 2 * 48 * 2 * (6 * 4 + 8)
    expected = {"ce": 0, "kd": logits, "crd": pooled, "mlld": strong, "at": 0}
    for method, size in expected.items():
        assert sizes.add(("resnet14", "resnet8", method)) == pytest.approx(size / 1e9)
    assert sizes.add(KD) == 0


def test_caches_beyond_the_limit_are_not_made(tiny):
    plan = plan_of([*tiny, "methods=kd", "teacher.cache_gb=1e-5"])
    assert CacheSizes(plan).add(KD) == 0


def test_a_run_folder_holds_weights_and_test_logits(finished):
    plan = plan_of(finished)
    folder = student_runs(plan)["ce"].folder
    entries = sum(value.numel() for value in torch.load(folder.weights, weights_only=True).values())
    assert estimate.run_gigabytes(plan, "resnet8") == pytest.approx(4 * (entries + 30 * 6) / 1e9)
