"""Tests of the plan of a command: identities, teachers, what is left to run, the order of runs, and what is printed."""

import dataclasses
import functools
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import methods
from benchmark.errors import UserError
from benchmark.grid.execution import cost, run_plan
from benchmark.grid.plan import Plan
from benchmark.grid.progress import Progress
from benchmark.grid.run import execute
from benchmark.grid.training_run import Outcome, TrainingRun
from benchmark.runs.folder import RunFolder
from benchmark.runs.record import RunStatus
from benchmark.training.graphs import SINGLE_GRAPH
from methods.ce import CE
from tests.benchmark.grid.test_run import flip_weight, truncate
from tests.helpers import bench, plan_of, same, student_runs, tracking_of, trained

# ------------------------------------------------------------ runs


def test_a_second_command_trains_nothing_and_a_new_seed_only_itself(finished):
    runs = student_runs(plan_of(finished))
    written = {name: run.folder.weights.stat().st_mtime_ns for name, run in runs.items()}
    assert bench(finished)[1] == []
    plan, outcomes = bench([*finished, "seeds=0,1"])
    assert [o.name for o in outcomes] == ["resnet8 ce seed 1", "resnet14-resnet8 kd seed 1"]
    assert all(run.folder.weights.stat().st_mtime_ns == written[name] for name, run in runs.items())
    assert all(run.folder.done for run in student_runs(plan).values())


def test_options_are_part_of_the_identity_and_hardware_seeds_and_tracking_are_not(finished):
    def identity(*more: str) -> str:
        return next(r.identity for r in student_runs(plan_of([*finished, *more])).values() if r.method == "kd")

    identities = [identity("kd.temperature=2"), identity("kd.kd_weight=0.5"), identity()]
    assert len(set(identities)) == 3
    assert identity("threads=2", "tracker.project=other", "seeds=7", "recipe.name=other") == identities[-1]


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("seeds=5", "seed 5: one run of each method on each pair, not 5 runs: seeds=0-4 is 5 seeds"),
        ("seeds=0", "seed 0: one run of each method on each pair"),
        ("seeds=0-2", "seeds 0, 1, 2"),
    ],
)
def test_the_plan_names_the_seeds(tiny, word, line):
    assert line in plan_of([*tiny, "methods=kd", word]).text().splitlines()


def test_a_student_needs_a_finished_teacher(tiny):
    plan = plan_of([*tiny, "methods=ce,kd"])
    assert plan.run_count("resnet14") == 1  # ce reads no teacher
    with pytest.raises(ValueError, match="resnet14 is not finished"):
        plan.students("resnet14")


def test_a_diverged_run_is_reported_and_not_repeated(finished):
    folder = student_runs(plan_of(finished))["kd"].folder
    folder.set_status(RunStatus.DIVERGED, "term kd is nan at step 3")
    assert "runs: 0 to train, 2 done, 1 diverged earlier" in plan_of(finished).text()
    _, (outcome,) = bench(finished)
    assert str(outcome) == "resnet14-resnet8 kd seed 0: diverged: in an earlier run"


def test_a_name_of_ones_own_is_that_of_folders_records_and_the_first_line(tiny, tmp_path):
    """Two data sets of one source differ in name and content."""
    overrides = [*tiny, "methods=ce", "recipe.epochs=1", "dataset.name=squares-16"]
    plan, outcomes = bench(overrides)
    assert {o.status for o in outcomes} == {"done"}
    run = student_runs(plan)["ce"]
    assert run.relative_path.startswith("squares-16/resnet8/ce/") and run.folder.record.dataset == "squares-16"
    assert plan.text().startswith("quick: squares-16, 48 training and 30 test images")
    assert "dataset.name" not in run.changed_settings
    config = run.folder.config.tree["dataset"]
    assert config["name"] == "squares-16" and len(config["fingerprint"]) == 64 and "source" not in config
    assert not list((tmp_path / "runs").glob("npz"))
    with pytest.raises(UserError, match=r"dataset\.name is 'mine', but cifar100 keeps its name"):
        plan_of(["dataset=cifar100", "dataset.name=mine"])


# ------------------------------------------------------------ the teacher's training images

SMALL = ["dataset.train_size=24", "recipe.epochs=1"]


def test_a_teacher_with_further_training_images_equals_one_that_has_them_as_its_students(tiny):
    """Both are trained on all 48 images, normalized alike, so that their weights agree bit for bit."""
    constants = ["dataset.mean=[0.3,0.3,0.3]", "dataset.std=[0.2,0.2,0.2]", "recipe.epochs=1"]
    words = [*tiny, *constants, "methods=ce,kd"]
    plan, outcomes = bench([*words, "dataset.train_size=24", "teacher.train_size=48"])
    assert {o.status for o in outcomes} == {"done"}
    whole, _ = bench([*words, "teacher.train_size=all"])  # which has no effect there
    (teacher,), (expected,) = plan.teachers.values(), whole.teachers.values()
    assert same(trained(teacher.folder), trained(expected.folder)) and teacher.identity != expected.identity
    runs = student_runs(plan)
    assert teacher.folder.config.tree["training_split"] == {"size": 48, "fingerprint": whole.dataset.fingerprint}
    assert runs["kd"].folder.config.tree["teacher"]["train_size"] == 48
    assert "teacher.train_size" in runs["kd"].folder.record.changed_settings
    assert "teacher" not in runs["ce"].folder.config.tree and "training_split" not in expected.config
    assert "train_size" not in student_runs(whole)["kd"].config["teacher"]
    assert plan.text().startswith("quick: npz, 24 training and 30 test images of 6 classes, 1 epochs at batch 16; ")
    assert "teachers are trained on 48 images" in plan.text() and "teachers" not in whole.text()


def test_the_quick_profile_has_a_teacher_that_saw_all_digits_outside_the_test_set(tmp_path):
    plan = plan_of([f"runs={tmp_path}"])
    assert [len(split.train.labels) for split in (plan.dataset, plan.dataset.of_teacher)] == [200, 797]
    assert plan.teachers["resnet20"].config["training_split"]["size"] == 797
    held_out = plan_of([f"runs={tmp_path}", "dataset.validation=0.1"])
    assert held_out.teachers["resnet20"].config["training_split"]["size"] == 797 - 20


def test_the_number_of_the_teacher_s_images_is_part_of_identities_only_where_they_are_its_own(tiny):
    def identities(*more: str) -> list[str]:
        plan = plan_of([*tiny, *SMALL, "methods=ce,kd", *more])
        student = plan._student(("resnet14", "resnet8", "kd"), "a" * 64, 0)
        (alone,) = plan.students_alone()
        return [plan.teachers["resnet14"].identity, student.identity, alone.identity]

    without, every, thirty = identities(), identities("teacher.train_size=all"), identities("teacher.train_size=30")
    assert identities("teacher.train_size=24") == without and identities("teacher.train_size=48") == every
    for of_teacher_and_student in zip(without[:2], every[:2], thirty[:2], strict=True):
        assert len(set(of_teacher_and_student)) == 3
    assert without[2] == every[2] == thirty[2]
    assert identities("evaluate_every=7") == without


def test_a_teacher_whose_training_images_have_changed_fails(tiny, tmp_path):
    words = [*tiny, *SMALL, "methods=kd", "teacher.train_size=all"]
    plan = plan_of(words)
    students = plan.dataset.train.labels, plan.dataset.train.images
    with np.load(tmp_path / "tiny.npz") as saved:
        arrays = dict(saved)
    arrays["x_train"] = arrays["x_train"].copy()
    of_students = {image.numpy().transpose(1, 2, 0).tobytes() for image in students[1]}
    others = [i for i, image in enumerate(arrays["x_train"]) if image.tobytes() not in of_students]
    assert len(others) == 24
    arrays["x_train"][others[0], 0, 0, 0] ^= 1
    np.savez(tmp_path / "tiny.npz", **arrays)
    outcome = execute(plan.teachers["resnet14"], tracking_of(plan), Progress(1))
    assert outcome.status == "failed" and "the data set npz has changed since the run was planned" in outcome.reason


def test_an_imported_teacher_has_no_number_of_training_images(finished, tmp_path):
    weights = plan_of(finished).teachers["resnet14"].folder.weights
    words = [*finished, "dataset.train_size=24", f"teacher.checkpoint={weights}"]
    with pytest.raises(UserError, match=r"teacher\.train_size is of a teacher that is trained here: leave it out, or"):
        plan_of([*words, "teacher.train_size=all"])
    assert plan_of([*words, "teacher.train_size=null"]).dataset.teacher is None
    by_profile = [word for word in words if not word.startswith("teacher.train_size=")]
    assert plan_of(by_profile).config.teacher.train_size == "all" and plan_of(by_profile).dataset.teacher is None


# ------------------------------------------------------------ students alone


def test_a_student_alone_is_trained_once_for_all_its_pairs(tiny, tmp_path):
    pairs = ["resnet14-resnet8", "resnet20-resnet8", "resnet14-resnet14"]
    plan, outcomes = bench([*tiny, f"pair={','.join(pairs)}", "methods=ce,kd", "seeds=0,1", "recipe.epochs=1"])
    assert {o.status for o in outcomes} == {"done"}
    assert sorted(o.name for o in outcomes) == sorted(
        [f"{name} ce seed {seed}" for name in ("resnet8", "resnet14") for seed in (0, 1)]
        + [f"{pair} kd seed {seed}" for pair in pairs for seed in (0, 1)]
    )
    for pair in pairs:
        assert (tmp_path / "runs" / "npz" / pair).is_dir()
    of_resnet20 = [run.relative_path for run in plan.students("resnet20") if run.method == "ce"]
    assert of_resnet20 == [run.relative_path for run in plan.students("resnet14") if run.pair == "resnet8"]
    assert plan.text().endswith("runs: 0 to train, 12 done")


def under_a_pair(plan: Plan) -> TrainingRun:
    """The run of the student alone as it was before it lost its teacher."""
    run, taught = student_runs(plan)["ce"], student_runs(plan)["kd"]
    config = {**run.config, "teacher": taught.config["teacher"]}
    return dataclasses.replace(run, config=config, teacher_run=taught.teacher_run)


def test_an_older_finished_run_under_a_pair_stands_for_the_student_alone(finished):
    plan = plan_of(finished)
    run, older = student_runs(plan)["ce"], under_a_pair(plan)
    expected = trained(run.folder)
    shutil.rmtree(run.folder.path)
    assert execute(older, tracking_of(plan), Progress(1)).status == "done"
    weights, lines = trained(older.folder)
    assert older.folder.path.parts[-4] == "resnet14-resnet8" and older.folder.record.pair == "resnet14-resnet8"
    against_teacher = ("agreement", "correlation_distance")
    assert all(key in line for line in lines for key in against_teacher)
    lines = [{k: v for k, v in line.items() if k not in against_teacher} for line in lines]
    assert same((weights, lines), expected)

    again = [*finished, "pair=resnet14-resnet8,resnet20-resnet8"]
    assert [o.name for o in bench(again)[1]] == ["resnet20-resnet8 kd seed 0"]
    assert student_runs(plan_of(again))["ce"].folder.path == older.folder.path
    (older.folder.path / "result.json").unlink()
    assert [o.name for o in bench(again)[1]] == ["resnet8 ce seed 0"]  # in the folder of today


def test_a_student_alone_of_another_recipe_or_seed_is_no_older_copy(finished):
    plan = plan_of(finished)
    shutil.rmtree(student_runs(plan)["ce"].folder.path)
    assert execute(under_a_pair(plan), tracking_of(plan), Progress(1)).status == "done"
    assert student_runs(plan_of(finished))["ce"].finished_copy is not None
    for other in ("recipe.lr=0.1", "seeds=3", "dataset.padding=1"):
        (alone,) = plan_of([*finished, other]).students_alone()
        assert alone.finished_copy is None


def test_students_alone_wait_for_no_teacher(tiny):
    executor = RecordingExecutor()
    plan = plan_of([*tiny, "pair=resnet14-resnet8,resnet20-resnet8", "methods=ce,kd", "recipe.epochs=1"])
    submit_all(plan, executor)
    assert executor.order[:3] == ["teacher resnet20", "teacher resnet14", "resnet8 ce seed 0"]


def test_a_method_whose_final_model_may_use_the_teacher_keeps_it(tiny, monkeypatch):
    plan, before_the_change = (plan_of([*tiny, "methods=ce"]) for _ in range(2))
    assert before_the_change.needs_no_teacher(("resnet14", "resnet8", "ce"))
    monkeypatch.setattr(CE, "inference_model", lambda self, student, teacher: teacher)
    assert not plan.needs_no_teacher(("resnet14", "resnet8", "ce"))


# ------------------------------------------------------------ teachers


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip_weight(folder.weights, torch.load(folder.weights, weights_only=True)),
        lambda folder: truncate(folder.weights),
        lambda folder: truncate(folder.test_outputs),
    ],
)
def test_a_damaged_teacher_is_rejected(finished, damage: Callable[[RunFolder], None]):
    folder = plan_of(finished).teachers["resnet14"].folder
    damage(folder)
    with pytest.raises(UserError) as e:
        plan_of(finished)
    assert str(e.value) == f"the teacher in {folder.path} is damaged: remove its result.json to train it again"


def test_a_teacher_that_may_not_be_read_is_not_called_damaged(finished, monkeypatch):
    folder = plan_of(finished).teachers["resnet14"].folder

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("benchmark.runs.weights.open_file", refuse)
    with pytest.raises(UserError) as e:
        plan_of(finished)
    assert str(e.value) == f"the teacher in {folder.path} cannot be read: Permission denied: {folder.weights}"


@pytest.mark.parametrize("content", [None, "{}"])
def test_a_teacher_without_a_usable_result_is_trained_again(finished, content):
    folder = plan_of(finished).teachers["resnet14"].folder
    before = trained(folder)
    path = folder.path / "result.json"
    path.unlink() if content is None else path.write_text(content)
    assert "teacher resnet14: to be trained\nruns: 2 to train, 1 done" in plan_of(finished).text()
    _, outcomes = bench(finished)
    assert outcomes == [] or {o.status for o in outcomes} == {"done"}
    assert same(trained(folder), before)


def test_a_teacher_below_the_bound_is_rejected_and_its_students_are_not_trained(tiny):
    plan, outcomes = bench([*tiny, "methods=ce,kd", "recipe.epochs=1", "teacher.min_top1=100"])
    assert [o.name for o in outcomes] == ["teacher resnet14", "1 runs of resnet14", "resnet8 ce seed 0"]
    assert [o.status for o in outcomes] == ["failed", "failed", "done"]
    assert all("less than the 100.00 % of teacher.min_top1" in o.reason for o in outcomes[:2])
    runs = student_runs(plan)
    assert runs["ce"].folder.done and not runs["kd"].folder.path.exists()


def test_options_that_do_not_suit_the_momentum_are_refused_before_any_training(finished):
    words = [*finished, "methods=dot", "dot.delta=0.2"]
    with pytest.raises(UserError, match=r"dot on .*: delta is 0.2: with a momentum of 0.9 it must be at most 0.1"):
        plan_of(words)
    assert plan_of([*words, "recipe.momentum=0.5"])


def test_an_import_waits_for_another_process_that_imports_the_same(finished, tmp_path):
    teacher = plan_of(finished).teachers["resnet14"].folder
    words = [*finished, f"teacher.checkpoint={teacher.weights}"]
    imported, taken, ended = plan_of(words).teachers["resnet14"].folder, threading.Event(), []

    def another_process() -> None:
        with imported.lock():
            taken.set()
            time.sleep(0.5)
            ended.append(True)

    thread = threading.Thread(target=another_process)
    thread.start()
    taken.wait()
    plan_of(words)
    assert ended
    thread.join()


def test_a_checkpoint_is_imported_once_and_its_content_is_the_identity(finished, tmp_path):
    teacher = plan_of(finished).teachers["resnet14"].folder
    checkpoint = tmp_path / "ckpt_epoch_240.pth"
    torch.save({"epoch": 240, "model": torch.load(teacher.weights, weights_only=True)}, checkpoint)
    plan, outcomes = bench([*finished, f"teacher.checkpoint={checkpoint}"])
    assert outcomes == []  # the students of the trained teacher, whose weights are the same, are those of this one
    record = plan.teachers["resnet14"].folder.record
    assert (record.sha256, record.top1_last) == (teacher.record.sha256, teacher.record.top1_last)
    assert record.imported_from == "ckpt_epoch_240.pth" and record.epochs is None and record.seed is None
    assert "teacher resnet14: imported, " in plan.text()
    with pytest.raises(UserError, match="resnet14"):  # names the network that fits
        plan_of([*finished, f"teacher.checkpoint={checkpoint}", "pair=resnet20-resnet8"])
    with pytest.raises(UserError, match=r"teacher\.checkpoint is one file, but the pairs have teachers"):
        plan_of([*finished, f"teacher.checkpoint={checkpoint}", "pair=resnet14-resnet8,resnet20-resnet8"])


# ------------------------------------------------------------ text


def test_runs_of_another_version_of_a_method_are_counted(finished, monkeypatch):
    text = plan_of(finished).text()
    assert text.endswith("runs: 0 to train, 3 done")
    current = methods.code_version
    monkeypatch.setattr(methods, "code_version", lambda name: "0" * 12 if name == "kd" else current(name))
    message = "done with another version of their method's code: 1 kd (remove their folders to repeat them)"
    assert message in plan_of(finished).text()


def test_jobs_that_share_a_gpu_without_mps_are_reported(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    plan = plan_of([*finished, "jobs=2"])
    assert "MPS" not in plan.text() and "2 runs at a time" in plan.text()
    hardware = dataclasses.replace(plan.settings.hardware, device="cuda")
    plan = dataclasses.replace(plan, settings=dataclasses.replace(plan.settings, hardware=hardware))
    assert "without MPS the runs take turns on the GPU" in plan.text()
    (tmp_path / "control").touch()
    assert "MPS" not in plan.text()


# ------------------------------------------------------------ order


class RecordingExecutor:
    """Records the order of submission. Trains teachers here, nothing else; loses runs of the method `lost`."""

    capture = SINGLE_GRAPH

    def __init__(self, lost: str = "") -> None:
        self.order: list[str] = []
        self.lost = lost

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        run: TrainingRun = args[0]
        self.order.append(run.name)
        future: Future[Any] = Future()
        if run.method == self.lost:
            future.set_exception(RuntimeError("its process ended with status -9"))
        elif run.config["role"] == "teacher":
            future.set_result(function(*args))
        else:
            future.set_result(Outcome(run.name, RunStatus.DONE))
        return future


def submit_all(plan: Plan, executor: RecordingExecutor) -> Sequence[Outcome]:
    return run_plan(plan, tracking_of(plan), executor)


def test_expensive_runs_start_first_and_outcomes_keep_their_order(tiny):
    pairs = ["resnet8-resnet8", "wrn16_2-resnet8", "resnet14-resnet20"]
    executor = RecordingExecutor()
    plan = plan_of([*tiny, f"pair={','.join(pairs)}", "methods=at", "recipe.epochs=1"])
    outcomes = submit_all(plan, executor)
    assert executor.order[:3] == ["teacher wrn16_2", "teacher resnet14", "teacher resnet8"]
    assert executor.order[3:] == [f"{p} at seed 0" for p in ("resnet14-resnet20", "wrn16_2-resnet8", "resnet8-resnet8")]
    assert [o.name for o in outcomes] == [f"{p} at seed 0" for p in pairs]


def test_students_start_when_their_teacher_is_trained_though_another_is_not(tiny):
    class UnfinishedFuture(Future[Any]):
        """Fails where its end is waited for."""

        def result(self, timeout: float | None = None) -> Any:
            assert self.done()
            return super().result(timeout)

    class SlowExecutor(RecordingExecutor):
        """Ends the training of the larger teacher when a student of the smaller one has been submitted."""

        def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
            if args[0].name == "teacher resnet20":
                self.order.append(args[0].name)
                self.teacher, self.train = UnfinishedFuture(), functools.partial(function, *args)
                return self.teacher
            if args[0].name == "resnet14-resnet8 kd seed 0":
                self.teacher.set_result(self.train())
            return super().submit(function, *args)

    executor = SlowExecutor()
    plan = plan_of([*tiny, "pair=resnet20-resnet8,resnet14-resnet8", "methods=kd", "recipe.epochs=1"])
    outcomes = submit_all(plan, executor)
    assert executor.order == [
        "teacher resnet20", "teacher resnet14", "resnet14-resnet8 kd seed 0", "resnet20-resnet8 kd seed 0"
    ]  # fmt: skip
    assert [o.name for o in outcomes] == ["resnet20-resnet8 kd seed 0", "resnet14-resnet8 kd seed 0"], "in their order"


def test_the_cost_counts_initialization_views_and_the_depth_of_a_live_teacher(finished):
    """MLLD has a second view; no cache holds the maps of AT and FitNet; AB has one initialization epoch for eight."""
    names = ["mlld", "at", "fitnet", "ab", "ce", "kd", "crd_kd"]
    teachers = plan_of(finished).teachers
    plan = plan_of([*finished, f"methods={','.join(names)}", "recipe.epochs=8"])
    runs = student_runs(dataclasses.replace(plan, teachers=teachers))
    costs = {name: cost(runs[name], plan.dataset) for name in names}
    assert sorted(names, key=lambda name: -costs[name]) == names  # stable: equal costs keep their order
    assert costs["ce"] == costs["kd"] == costs["crd_kd"] and costs["mlld"] == 2 * costs["ce"]
    assert costs["ab"] > 9 / 8 * costs["ce"]  # plus the live teacher of that epoch
    assert cost(dataclasses.replace(runs["at"], unsupported_reason="unequal stages"), plan.dataset) == 0


def test_a_run_whose_process_died_does_not_stop_the_others(finished):
    outcomes = submit_all(plan_of([*finished, "methods=fitnet,sp,clkd"]), RecordingExecutor(lost="sp"))
    assert [o.status for o in outcomes] == ["done", "failed", "done"]
    assert "ended with status -9" in outcomes[1].reason
