"""End-to-end tests of training through the command line: interruption, concurrent commands, failures, bad input."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
import torch

from benchmark.__main__ import main
from benchmark.commands import bench as bench_command
from benchmark.grid import execution, executor_choice
from tests.conftest import ROOT
from tests.helpers import bench, let_be_interrupted, plan_of, same, student_runs, tracking_of, trained


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start Python in another process."""
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=let_be_interrupted,
    )  # fmt: skip


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"the condition did not hold within {seconds} s"
        time.sleep(0.02)


# ------------------------------------------------------------ executors


@pytest.mark.parametrize(
    ("gpus", "graphs", "jobs", "executor"),
    [
        ([], False, 1, None),
        ([], False, 3, ("Processes", 3, ())),
        (["0"], True, 1, None),
        (["0"], True, 3, ("Lockstep", 3)),
        (["0"], False, 3, ("Processes", 3, ())),
        (["4", "5"], True, 1, ("Processes", 1, ["4", "5"])),
        (["4", "5"], True, 3, ("Processes", 3, ["4", "5"])),
    ],
)
def test_runs_are_spread_over_gpus_or_side_by_side_on_one_whose_steps_are_captured(
    finished, monkeypatch, gpus, graphs, jobs, executor
):
    plan = plan_of(finished)
    hardware = dataclasses.replace(plan.settings.hardware, graphs=graphs)
    plan = dataclasses.replace(plan, settings=dataclasses.replace(plan.settings, hardware=hardware))
    plan.config.jobs = jobs
    used = []
    monkeypatch.setattr(executor_choice, "gpu_groups", lambda _: gpus)
    for name in ("Lockstep", "Processes"):
        monkeypatch.setattr(executor_choice, name, lambda *args, name=name: contextlib.nullcontext((name, *args)))
    monkeypatch.setattr(bench_command.execution, "run_plan", lambda _, __, executor=None: used.append(executor) or [])
    assert bench_command.train(plan, tracking_of(plan)) == [] and used == [executor]


# ------------------------------------------------------------ interruption and concurrency


def test_an_interrupted_command_resumes_bit_for_bit(tiny, tmp_path, capfd):
    overrides = [*tiny, "methods=kd", "recipe.epochs=96"]  # long enough to be interrupted twice
    plan, _ = bench(overrides)
    uninterrupted = trained(student_runs(plan)["kd"].folder)
    again = [*overrides, f"runs={tmp_path / 'again'}"]
    folder = student_runs(dataclasses.replace(plan_of(again), teachers=plan.teachers))["kd"].folder
    for how, status in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        process = start("-m", "benchmark", *again)
        epochs = len(folder.metrics())
        wait_for(lambda n=epochs: folder.checkpoint.exists() and len(folder.metrics()) > n)
        process.send_signal(how)
        out, err = process.communicate(timeout=60)
        assert process.returncode == status, out + err
        assert "Traceback" not in err
        assert folder.status == "running"
    capfd.readouterr()
    assert bench(again)[1][0].status == "done"
    assert "resumed after epoch" in capfd.readouterr().out
    assert same(trained(folder), uninterrupted)


@pytest.fixture
def hold(monkeypatch):
    """Return a context manager that holds a run's lock until the run is found held, then does `at_end` and ends."""
    wait_until_free, lock_is_held, run_is_busy = execution._once_free, threading.Event(), threading.Event()

    def note(run, outcome, *more):
        if outcome.status == "busy":
            run_is_busy.set()
        return wait_until_free(run, outcome, *more)

    monkeypatch.setattr(execution, "_once_free", note)

    @contextlib.contextmanager
    def held(folder, at_end=lambda: None):
        def another_process() -> None:
            with folder.lock():
                lock_is_held.set()
                assert run_is_busy.wait(120)
                at_end()

        thread = threading.Thread(target=another_process)
        thread.start()
        lock_is_held.wait()
        yield
        thread.join()

    return held


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_that_another_process_leaves_unfinished_is_trained(finished, capfd, hold, jobs):
    words = [*finished, "kd.temperature=2", f"jobs={jobs}"]
    folder = student_runs(plan_of(words))["kd"].folder
    with hold(folder):
        assert main(["bench", *words]) == 0
    assert "resnet14-resnet8 kd seed 0: another process trains it; waiting until it ends" in capfd.readouterr().out
    assert folder.done


def test_a_run_that_another_process_finishes_is_done(finished, hold, capfd):
    words = [*finished, "kd.temperature=2"]
    plan, _ = bench(words)
    folder = student_runs(plan)["kd"].folder
    result = (folder.path / "result.json").rename(folder.path / "moved")
    capfd.readouterr()
    with hold(folder, at_end=lambda: result.rename(folder.path / "result.json")):
        _, (outcome,) = bench(words)
    assert outcome.status == "done" and folder.done and "epoch 1/1" not in capfd.readouterr().out


def test_a_finished_grid_in_a_folder_that_cannot_be_written_prints_its_table(finished, tmp_path, capfd, monkeypatch):
    runs, access = tmp_path / "runs", os.access
    monkeypatch.setattr("os.access", lambda path, mode: access(path, mode) and runs not in (path, *path.parents))
    assert main(["bench", *finished]) == 0
    assert "| Student " in capfd.readouterr().out
    assert main(["bench", *finished, "kd.temperature=2"]) == 2
    assert f"error: runs={runs}: {runs} is not writable; give another folder\n" in capfd.readouterr().err
    assert len(list(runs.glob("npz/*/kd/*"))) == 1


def test_commands_at_once_finish_with_status_0_and_never_mix_their_metrics(tiny, tmp_path):
    """The second has another method, and waits for the teacher that the first trains."""
    processes = [
        start("-m", "benchmark", "bench", *tiny, f"methods=ce,{method}", "recipe.epochs=12")
        for method in ("kd", "kd", "dkd")
    ]
    for process in processes:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0 and "Traceback" not in err, err
        assert "| Student " in out
    paths = list((tmp_path / "runs").glob("npz/*/*/*/seed=0/metrics.jsonl"))
    assert len(paths) == 4
    for path in paths:
        assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == list(range(1, 13))


# ------------------------------------------------------------ failures


def test_one_failed_and_one_diverged_run_do_not_stop_the_others(finished, capfd):
    overrides = [*finished, "methods=ce,kd,clkd", "kd.kd_weight=1e38", "jobs=2"]
    plan = plan_of(overrides)
    runs = student_runs(plan)
    path = runs["clkd"].folder.path
    path.parent.mkdir(parents=True)
    path.write_text("a file where the folder should be")
    assert main(["bench", *overrides]) == 1
    out, err = capfd.readouterr()
    assert "not finished: resnet14-resnet8 kd seed 0: diverged" in err and "step" in err and "Traceback" not in err
    assert "not finished: resnet14-resnet8 clkd seed 0: failed: FileExistsError" in err
    assert "| Student " in out and runs["kd"].folder.status == "diverged" and runs["kd"].folder.record.problem

    path.unlink()
    _, outcomes = bench([o for o in overrides if o != "jobs=2"])
    assert [(o.name.split()[1], o.status, o.reason) for o in outcomes] == [
        ("kd", "diverged", "in an earlier run"),  # it would diverge again
        ("clkd", "done", ""),
    ]


def test_plots_are_drawn_where_there_are_none(finished, tmp_path):
    assert main(["bench", *finished, f"reports={tmp_path / 'again'}"]) == 0
    plots = sorted((tmp_path / "again" / "plots").iterdir())
    assert plots
    drawn_at = [p.stat().st_mtime_ns for p in plots]
    for _ in range(2):  # the record of the first time without new plots does not forget them
        assert main(["bench", *finished, f"reports={tmp_path / 'again'}"]) == 0
        assert [p.stat().st_mtime_ns for p in plots] == drawn_at


def test_a_method_alone_is_trained_beside_its_references_in_files_of_its_own_name(finished, tmp_path, capfd):
    """The student alone and KD are finished runs of the same folder."""
    words = [*finished, "methods=at", "references=true"]
    assert main(["bench", *words]) == 0
    out = capfd.readouterr().out
    assert out.startswith("added for comparison: ce (the student alone), kd (KD); references=false leaves them out\n")
    assert "runs: 1 to train, 3 done" in out
    line = next(line for line in out.splitlines() if line.startswith("| AT "))
    assert re.search(r"\| [+−]?\d+\.\d\d \|$", line)  # the difference to the student alone
    names = {path.name for path in (tmp_path / "reports").rglob("*.md")}
    assert any("resnet14-resnet8-at" in name for name in names) and not any("+ce" in name for name in names)


@pytest.mark.parametrize(
    ("more", "suggested"),
    [
        (["seeds=[0]"], "kd-benchmark bench pair=resnet14-resnet8 methods=ce,kd 'seeds=[0]' profile=paper\n"),
        (["dataset.test_size=30"], ""),
    ],
)
def test_the_papers_protocol_is_suggested_with_the_same_choices(more, suggested, monkeypatch, capsys, tmp_path):
    """Not after runs on images that the paper's protocol does not have."""
    monkeypatch.setattr("benchmark.commands.bench.train", lambda *_: [])
    words = ["pair=resnet14-resnet8", "methods=ce,kd", "tracker.mode=off"]
    assert main(["bench", *words, f"runs={tmp_path / 'runs'}", *more]) == 0
    text = capsys.readouterr().out.partition("The paper's protocol: ")[2]
    assert text == suggested


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bnech"], "unknown command 'bnech'; did you mean bench?"),
        (["bench", "plan"], "one command at a time"),
        (["pair=wrn40_2"], "wrn40_2"),
        (["pair=wrn40_2-wrn16_22x"], "wrn16_2"),
        (["pair=resnet21-resnet8"], "resnet20"),
        (["dataset=npz", "dataset.file=none.npz"], "none.npz"),
        (["teacher.checkpoint=none.pth"], "none.pth"),
        (["recipe.batch_size=5000"], "has only"),
        (["teacher.method=kd", "methods=ce"], "teacher.method=kd needs a teacher"),
        (["teacher.method=cee", "methods=ce"], "unknown teacher.method 'cee'; did you mean ce"),
        (["tracker.mode=offline", "tracker.project=a/b"], "tracker.project is 'a/b': W&B allows no / in a name"),
        (["threads=99999"], "threads is 99999: this machine has"),
        (["fitnet.hint_layer=9", "methods=fitnet"], "hint_layer is 9"),
        (["tracker.mode=online"], "wandb login"),
    ],
)
def test_bad_input_ends_with_one_line_and_status_2(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    assert main([*arguments, f"runs={tmp_path / 'runs'}", "precision=fp32"]) == 2
    out, err = capsys.readouterr()
    assert message in err and len(err.splitlines()) == 1 and err.startswith("error: ")
    assert out == ""
    assert not (tmp_path / "runs").exists()


# ------------------------------------------------------------ GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("graph", [False, True])
def test_runs_on_a_gpu_agree_with_the_cpu(tiny, tmp_path, graph):
    """Accuracies of a few epochs on 30 test images may differ by a few images."""
    overrides = [*tiny, "methods=ce,kd,crd,mlld,simkd", "crd.negatives=16", "recipe.epochs=6"]
    expected = {name: run.folder.record.top1_last for name, run in student_runs(bench(overrides)[0]).items()}
    plan, outcomes = bench([*overrides, "device=cuda", f"cuda_graph={graph}", f"runs={tmp_path / 'gpu'}"])
    assert {o.status for o in outcomes} == {"done"}
    for name, run in student_runs(plan).items():
        assert run.folder.record.top1_last == pytest.approx(expected[name], abs=20)
        assert run.folder.record.hardware["device"] == "cuda"
        assert run.folder.record.hardware["cuda_graph"] == graph
