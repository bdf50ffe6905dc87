"""Whole runs on streamed images: interrupted ones resume bit for bit, whatever decodes the images."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark.grid.progress import Progress
from benchmark.grid.run import execute
from benchmark.runs.folder import RunFolder
from tests.benchmark.data.layouts import write_imagenet
from tests.conftest import ROOT
from tests.helpers import Killed, KilledAt, TrainedRun, bench, plan_of, same, student_runs, tracking_of, trained


def overrides(folder: Path, data: Path, *further: str) -> list[str]:
    """Return overrides for runs of seconds on 15 photographs of three classes."""
    return [
        "dataset=imagenet", f"data={data}", "dataset.size=32", "dataset.workers=0", f"runs={folder / 'runs'}",
        f"reports={folder / 'reports'}", "pair=resnet14-resnet8", "seeds=0", "references=false", "recipe.epochs=2",
        "recipe.batch_size=4", "tracker.mode=off", "teacher.min_top1=0", "device=cpu", "threads=1", "precision=fp32",
        "evaluate_every=1", "teacher.train_size=null", *further,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_imagenet(folder / "imagenet", train=5)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, data) -> dict[str, TrainedRun]:
    """Runs of two epochs without workers, by method."""
    plan, outcomes = bench(overrides(tmp_path_factory.mktemp("runs"), data, "methods=kd,mlld"))
    assert outcomes and all(outcome.status == "done" for outcome in outcomes)
    return {name: trained(run.folder) for name, run in student_runs(plan).items()}


def with_teacher(folder: Path, data: Path, *words: str):
    """Return the plan of kd and mlld whose teacher is trained."""
    plan = plan_of(overrides(folder, data, "methods=kd,mlld", *words))
    (teacher,) = plan.teachers.values()
    assert execute(teacher, tracking_of(plan), Progress(1)).status == "done"
    return plan


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(tmp_path, data, uninterrupted, workers):
    plan = with_teacher(tmp_path, data, f"dataset.workers={workers}")
    for name, run in student_runs(plan).items():
        with pytest.raises(Killed):
            execute(run, tracking_of(plan), KilledAt(2))
        assert execute(run, tracking_of(plan), Progress(1)).status == "done"
        assert same(trained(run.folder), uninterrupted[name])


def test_the_teacher_runs_live_and_a_line_says_so(tmp_path, data, capsys):
    plan = with_teacher(tmp_path, data)
    run = student_runs(plan)["kd"]
    assert execute(run, tracking_of(plan), Progress(1)).status == "done"
    line = "the views of its images are not finite: the teacher runs in every step, nothing is cached"
    assert capsys.readouterr().out.count(f"{run.name}: {line}\n") == 1
    assert not list((tmp_path / "runs").rglob("cache"))


def test_workers_are_no_part_of_the_identity_and_the_decoder_is(tmp_path, data):
    runs = [student_runs(with_teacher(tmp_path, data, *words))["kd"] for words in ([], ["dataset.workers=2"])]
    assert runs[0].identity == runs[1].identity
    recorded = runs[0].config["dataset"]
    assert recorded["decoder"] == "pil" and recorded["augmentation"] == "resized_crop"
    assert not {"workers", "loading", "root", "cache_dir"} & recorded.keys()


def test_a_run_by_dali_is_another_and_records_its_decoder(tmp_path, data):
    pytest.importorskip("nvidia.dali")
    run, by_pil = (student_runs(with_teacher(tmp_path, data, *words))["kd"] for words in (["dataset.decoder=dali"], []))
    assert run.config["dataset"]["decoder"] == "dali" and run.identity != by_pil.identity


def test_a_run_of_two_processes_has_the_metrics_of_one(tmp_path, data):
    gentle = ["recipe.lr=0.001", "recipe.batch_size=8", "methods=kd", "references=false"]  # rounding stays small
    lines = []
    for words in ([], ["distributed=true", "processes=2", f"runs={tmp_path / 'two'}"]):
        plan, outcomes = bench(overrides(tmp_path, data, *gentle, *words))
        assert {outcome.status for outcome in outcomes} == {"done"}
        lines.append(trained(student_runs(plan)["kd"].folder)[1])
    assert lines[1] == [pytest.approx(line, rel=1e-3, abs=1e-4) for line in lines[0]]


def test_a_run_fails_with_the_name_of_a_damaged_file(tmp_path, data):
    shutil.copytree(data, tmp_path / "data")
    damaged = tmp_path / "data" / "imagenet" / "train" / "n01" / "n01_2.JPEG"
    damaged.write_bytes(damaged.read_bytes()[:200])
    _, outcomes = bench(overrides(tmp_path, tmp_path / "data", "methods=ce", "dataset.workers=1"))
    assert all(str(damaged) in outcome.reason and outcome.status == "failed" for outcome in outcomes) and outcomes


def test_a_process_that_is_killed_leaves_no_worker_and_its_run_is_resumed(tmp_path, data, uninterrupted):
    """The command is killed by SIGKILL once the first epoch of a student is written, and then repeated."""
    words = overrides(tmp_path, data, "methods=kd", "dataset.workers=1")
    command = [sys.executable, "-m", "benchmark", "bench", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    lines: list[str] = []
    while process.poll() is None and not lines:
        metrics = list((tmp_path / "runs" / "imagenet").glob("resnet14-resnet8/kd/*/seed=0/metrics.jsonl"))
        lines = metrics[0].read_text().splitlines() if metrics else []
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert lines and json.loads(lines[0])["epoch"] == 1
    for _ in range(600):  # a worker notices the death of its parent within seconds
        if not session_members(process.pid):
            break
        time.sleep(0.1)
    assert not session_members(process.pid)
    assert subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL).returncode == 0
    (folder,) = (tmp_path / "runs" / "imagenet").glob("resnet14-resnet8/kd/*/seed=0")
    assert same(trained(RunFolder(folder)), uninterrupted["kd"])


def session_members(session: int) -> list[int]:
    """Return the living processes of a session, from /proc."""
    members = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            members.append(int(path.parent.name))
    return members
