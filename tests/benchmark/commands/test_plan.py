"""`plan` through the command line: its table, its list, and what it needs no data for."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys

import pytest

from benchmark.__main__ import main
from benchmark.commands import probe, speed_harness
from benchmark.grid.estimate import StepTimes
from benchmark.grid.run import execute
from tests.conftest import ROOT
from tests.helpers import Killed, KilledAt, bench, plan_of, student_runs, tracking_of


def printed(capsys, *words: str) -> str:
    """What `plan` prints."""
    capsys.readouterr()
    assert main(["plan", *words]) == 0
    return capsys.readouterr().out


def row(text: str, pair: str) -> list[str]:
    """The cells of a pair's line, after its name."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {pair} ")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def times(tmp_path, words: list[str]) -> None:
    """Write a result of `speed`: 1200 s a step for everything."""
    plan = plan_of(words)
    content = {
        "batch_size": 16, "image_size": 16, "precision": "fp32", "hardware": plan.settings.hardware.describe(),
        "teacher_training_step_ms": {"ours": 1.2e6},
        "rows": [{"method": "kd", "step_ms": 1.2e6, "student_ms": 1.2e6}],
    }  # fmt: skip
    folder = tmp_path / "reports" / "speed"
    folder.mkdir(parents=True)
    (folder / "resnet14-resnet8.json").write_text(json.dumps(content))


def test_runs_and_hours_of_each_pair_with_shared_runs_counted_once(tiny, tmp_path, capsys):
    """3 steps of 1200 s are an hour an epoch; 2 epochs, of teacher, student alone and KD with two seeds."""
    words = [*tiny, "methods=ce,kd", "seeds=0,1"]
    times(tmp_path, words)
    text = printed(capsys, *words, "pair=resnet14-resnet8,resnet14-resnet20")
    assert row(text, "resnet14-resnet8")[:3] == ["5", "0", "10.0"]
    assert row(text, "resnet14-resnet20")[:3] == ["4", "0", "–"]  # of resnet20 no time is known
    assert row(text, "all")[:3] == ["9", "0", "≥ 10.0"]
    assert "Hours: by speed/ of 1 pair on this hardware" in text
    assert "No step time is known on this hardware for 4 runs: `make plan PROBE=1`" in text
    assert "`make speed PAIR=resnet14-resnet8`" in text
    assert not (tmp_path / "runs").exists()


def test_every_run_is_listed_on_request(finished, tmp_path, capsys):
    times(tmp_path, finished)
    text = printed(capsys, *finished, "seeds=0,1", "methods=ce,kd,fsp,at", "list=true", "recipe.epochs=1")
    assert "teacher resnet14: done\nresnet8 ce seed 0: done\nresnet8 ce seed 1: to train, " in text
    assert "\nresnet14-resnet8 kd seed 0: done\n" in text
    assert re.search(r"\nresnet14-resnet8 kd seed 1: to train, \d+ s\n", text)
    assert "\nresnet14-resnet8 at seed 0: to train\n" in text
    assert "seed 0: done" not in printed(capsys, *finished)


def test_a_method_that_does_not_support_the_pair_is_no_run_to_train(tiny, capsys):
    text = printed(capsys, *tiny, "pair=vgg8-resnet8", "methods=kd,fsp", "list=true")
    assert "vgg8-resnet8 fsp: n/a: " in text and "vgg8-resnet8 fsp seed 0: n/a" in text
    assert row(text, "vgg8-resnet8")[:2] == ["2", "0"] and "runs: 2 to train, 0 done" in text


def test_a_teacher_in_training_is_reported_with_its_epoch(tiny, tmp_path, capsys):
    words = [*tiny, "methods=kd", "recipe.epochs=4"]
    times(tmp_path, words)
    plan = plan_of(words)
    with pytest.raises(Killed):
        execute(plan.teachers["resnet14"], tracking_of(plan), KilledAt(3))
    text = printed(capsys, *words, "list=true")
    assert "teacher resnet14: epoch 3 of 4 is trained (in progress or interrupted)" in text
    assert "\nteacher resnet14: to train, 3 of 4 epochs trained, 60 min\n" in text
    assert row(text, "resnet14-resnet8")[:3] == ["2", "0", "5.0"]


# ------------------------------------------------------------ who trains the runs


@pytest.fixture
def hourly(tiny, tmp_path) -> list[str]:
    """A grid of runs of 2 hours: a teacher, and two seeds of the student alone, of KD and of AT, which has no time."""
    words = [*tiny, "methods=ce,kd,at", "seeds=0,1"]
    times(tmp_path, words)
    return words


def test_the_time_of_a_serial_plan_is_that_of_its_runs(hourly, capsys):
    text = printed(capsys, *hourly)
    assert "Executor local: one run after another in this process." in text
    assert (
        "Compute time: 10 h 00 min of 5 runs; elapsed: 10 h 00 min with 1 place; longest run: 2 h 00 min, teacher "
        "resnet14. Without 2 runs of which no step time is known."
    ) in text


def test_jobs_shorten_the_time_elapsed(hourly, capsys):
    """Two places: the teacher beside one student alone, the other beside the first KD, then the second KD."""
    text = printed(capsys, *hourly, "jobs=2")
    assert "Executor local: 2 runs at a time, each in a process of its own on cpu." in text
    assert "Compute time: 10 h 00 min of 5 runs; elapsed: 6 h 00 min with 2 places; longest run: 2 h 00 min" in text


def test_arrays_of_slurm_and_their_order(hourly, capsys):
    words = ["executor=slurm", "executor.cpus=1", "executor.partition=long", "executor.array_parallelism=3"]
    text = printed(capsys, *hourly, *words)
    assert (
        "Executor slurm in partition long, at most 3 runs of an array at a time:\n"
        "- an array of 3 runs at once, 1 teacher among them\n"
        "- an array of 4 runs after the job of teacher resnet14\n"
    ) in text
    assert "Compute time: 10 h 00 min of 5 runs; elapsed: 4 h 00 min with 3 places" in text


def test_earlier_times_count_on_nodes_with_as_many_cores(hourly, capsys):
    assert "No step time is known on the machines of executor=slurm." in printed(
        capsys, *hourly, "executor=slurm", "executor.cpus=2", "threads=2"
    )


def test_runs_of_ray_share_a_gpu(hourly, capsys):
    text = printed(
        capsys, *hourly, "executor=ray", "executor.gpus=0.25", "executor.address=10.0.0.1:6379", "device=auto"
    )
    assert (
        "Executor ray on 10.0.0.1:6379: a task for each run, which takes 1 core and 0.25 GPU (4 runs a GPU); students "
        "start when their teacher has ended."
    ) in text
    text = printed(capsys, *hourly, "executor=ray")
    assert "Compute time: 10 h 00 min of 5 runs; longest run: 2 h 00 min, teacher resnet14. The time elapsed" in text


def test_a_run_of_several_processes_is_described_with_them(hourly, capsys):
    text = printed(capsys, *hourly, "distributed=true", "processes=2")
    assert "Executor local: one run after another in 2 processes." in text
    words = ["executor=ray", "executor.gpus=4", "executor.address=10.0.0.1:6379", "device=auto", "distributed=true"]
    assert "which takes 1 core and 4 GPU; students start" in printed(capsys, *hourly, *words)


def test_a_finished_plan_says_nothing_of_executors(finished, capsys):
    assert "Executor" not in printed(capsys, *finished)


# ------------------------------------------------------------ data


def test_a_named_data_set_need_not_be_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("benchmark.data.datasets.load", lambda *_: pytest.fail("the images are read"))
    words = ["profile=paper", "pair=resnet56-resnet20", f"runs={tmp_path / 'runs'}", f"data={tmp_path / 'data'}"]
    text = printed(capsys, *words, "methods=ce,kd")
    assert "paper: cifar100, 50,000 training and 10,000 test images of 100 classes, 240 epochs at batch 64" in text
    assert f"cifar100 is not in {tmp_path / 'data'} and will be downloaded" in text
    assert row(text, "resnet56-resnet20")[:2] == ["7", "0"]
    assert not (tmp_path / "data").exists() and not (tmp_path / "runs").exists()


def test_runs_are_found_by_the_data_of_an_earlier_run_without_reading_images(tmp_path, capsys, monkeypatch):
    words = [
        "pair=resnet14-resnet8", "methods=ce,kd", "seeds=0", "recipe.epochs=1", "dataset.train_size=64",
        "dataset.test_size=50",
        f"runs={tmp_path / 'runs'}", f"reports={tmp_path / 'reports'}", "tracker.mode=off", "teacher.min_top1=0",
        "device=cpu", "threads=1", "precision=fp32",
    ]  # fmt: skip
    plan, _ = bench(words)
    monkeypatch.setattr("benchmark.data.datasets.load", lambda *_: pytest.fail("the images are read"))
    assert row(printed(capsys, *words), "resnet14-resnet8")[:2] == ["0", "3"]
    monkeypatch.undo()
    assert row(printed(capsys, *words, "dataset.train_size=65"), "resnet14-resnet8")[:2] == ["3", "0"]
    shutil.rmtree(student_runs(plan)["kd"].folder.path)
    assert row(printed(capsys, *words), "resnet14-resnet8")[:2] == ["1", "2"]


@pytest.mark.parametrize("word", ["prob=true", "list=maybe", "dataset.train_size=60000"])
def test_bad_input_is_one_line(word, tmp_path, capsys):
    words = ["profile=paper", f"runs={tmp_path / 'runs'}", f"data={tmp_path / 'data'}", word]
    assert main(["plan", *words]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and word.split("=")[0] in err


# ------------------------------------------------------------ probe


def test_a_probe_times_what_no_run_has_timed(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(speed_harness, "IMAGES", 600)
    words = [*finished, "methods=ce,kd,at"]
    capsys.readouterr()
    assert main(["plan", *words, "probe=true"]) == 0
    out, err = capsys.readouterr()
    assert "probe: resnet14-resnet8, 1 loop\n" in err
    assert "Hours: by 3 finished runs, a probe of 1 loop on this hardware" in out and "No step time" not in out
    assert row(out, "resnet14-resnet8")[2] not in ("–", "0.00")
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["npz"]  # its caches are gone


def test_a_probe_times_each_method_with_its_batches(tiny, monkeypatch):
    monkeypatch.setattr(speed_harness, "IMAGES", 600)
    words = [*tiny, "methods=ce,kd", "recipe.per_method=true"]
    plan = plan_of(words)
    kd = ("resnet14", "resnet8", "kd")
    plan.methods[kd] = dataclasses.replace(plan.methods[kd], recipe={"batch_size": 24})
    sizes = []

    def record_size(harness, name, caches):
        sizes.append((name, harness.student, harness.loader.batch_size))
        return 1.0

    monkeypatch.setattr(probe, "_seconds_per_step", record_size)
    times = probe.probe(plan, words, StepTimes({}, ""))
    assert sizes == [("ce", "resnet14", 16), ("ce", "resnet8", 16), ("kd", "resnet8", 24)]
    assert set(times.seconds) == {(None, "resnet14", "ce"), (None, "resnet8", "ce"), kd}


def test_a_plan_imports_no_training_loop(tmp_path):
    """Importing it, or what torch's own shapes of networks import, would take as long as the rest of the plan."""
    code = (
        "import sys; from benchmark.__main__ import main; "
        "assert main(['plan', 'profile=paper', 'pair=classic', 'methods=all', *sys.argv[1:]]) == 0; "
        "slow = {'benchmark.training.trainer', 'torchvision', 'wandb', 'torch._dynamo', 'sympy'} & set(sys.modules); "
        "assert not slow, slow"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, f"runs={tmp_path / 'runs'}", f"data={tmp_path / 'data'}"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
