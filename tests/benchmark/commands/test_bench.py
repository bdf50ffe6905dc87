"""The command from end to end: plan, skip, resume, refuse, fail; what a run folder holds."""

import contextlib
import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import methods
from benchmark.__main__ import main
from benchmark.config import compose as configs
from benchmark.grid import plan as grid
from benchmark.grid.progress import Progress
from benchmark.grid.run import TrainingRun, execute
from benchmark.runs.folder import RunFolder, lock
from benchmark.runs.tracking import Tracking
from benchmark.runs.weights import load_weights, save
from tests.conftest import ROOT


def bench(overrides: list[str]) -> tuple[grid.Plan, list]:
    """Plan and run in this process; the plan, and how the cells ended."""
    config = configs.load(overrides)
    plan = grid.make_plan(config, overrides)
    return plan, grid.run_plan(plan, Tracking(config.tracker, plan.settings.runs))


def cells(plan: grid.Plan) -> dict[str, TrainingRun]:
    """The student cells by method (and seed, where there are several)."""
    found = [c for t in plan.teachers for c in plan.students(t)]
    return {c.method if len(plan.config.seeds) == 1 else f"{c.method}-{c.config['seed']}": c for c in found}


def trained(run: RunFolder) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """What a run ended with: its weights, and its metrics without the times."""
    lines = [{k: v for k, v in m.items() if not k.endswith("_s")} for m in run.metrics()]
    return torch.load(run.weights, weights_only=True), lines


def same(a, b) -> bool:
    return a[1] == b[1] and a[0].keys() == b[0].keys() and all(torch.equal(a[0][k], b[0][k]) for k in a[0])


def test_a_run_folder_holds_everything_that_is_promised(tiny):
    plan, outcomes = bench([*tiny, "methods=ce,kd,crd", "crd.negatives=8"])
    assert [o.status for o in outcomes] == ["done"] * 3
    run = cells(plan)["kd"].folder
    result = json.loads((run.path / "result.json").read_text())
    wanted = {
        "dataset": "npz", "teacher": "resnet14", "student": "resnet8", "pair": "resnet14-resnet8", "method": "kd",
        "seed": 0, "profile": "quick", "epochs": 2, "status": "done", "extra_parameters": 0, "role": "student",
    }  # fmt: skip
    assert {k: result[k] for k in wanted} == wanted
    for key in ("top1_last", "top1_best", "teacher_top1", "wall_s", "step_ms"):
        assert result[key] >= 0
    assert result["changed"] == ["recipe.epochs", "recipe.batch_size", "dataset.size", "dataset.padding"]
    assert {"python", "torch"} <= set(result["versions"]) and result["hardware"]["device"] == "cpu"
    teacher = plan.teachers["resnet14"].folder
    assert list(teacher.record.changed_settings) == result["changed"]
    assert result["teacher_top1"] == teacher.record.top1_last
    assert result["teacher_sha256"] == teacher.record.sha256

    config = yaml.safe_load((run.path / "config.yaml").read_text())
    assert config["method"] == {
        "name": "kd", "implementation": "kd", "temperature": 4.0, "ce_weight": 0.1, "kd_weight": 0.9,
        "standardise": False,
    }  # fmt: skip
    assert config["recipe"]["lr"] == 0.02 and config["teacher"]["sha256"] == result["teacher_sha256"]

    lines = run.metrics()
    assert [m["epoch"] for m in lines] == [1, 2]
    assert set(lines[0]) == {
        "epoch", "lr", "loss", "loss/ce", "weighted/ce", "loss/kd", "weighted/kd", "train_top1", "test_top1",
        "test_top5", "agreement", "correlation_distance", "data_s", "step_s", "eval_s", "fill_s",
    }  # fmt: skip
    assert lines[0]["weighted/kd"] == pytest.approx(0.9 * lines[0]["loss/kd"])
    assert result["top1_last"] == lines[-1]["test_top1"]

    saved, labels = np.load(run.test_outputs)["logits"], np.load(run.test_outputs)["labels"]
    assert saved.shape == (30, 6)
    assert 100 * (saved.argmax(1) == labels).mean() == pytest.approx(result["top1_last"], abs=1e-4)
    assert not run.checkpoint.exists() and run.status == "done"
    assert cells(plan)["crd"].folder.record.extra_buffers > 2 * 48 * 128


@pytest.mark.parametrize("busy", [False, True])
def test_a_cache_is_filled_ahead_where_that_is_cheaper(tiny, tmp_path, capsys, monkeypatch, busy):
    plan, _ = bench([*tiny, "methods=kd"])
    expected = trained(cells(plan)["kd"].folder)
    (checks,) = (tmp_path / "runs").rglob("logits.check")
    monkeypatch.setattr("benchmark.grid.run.evaluation_batch_size", lambda *_: 16)
    monkeypatch.setattr("benchmark.grid.run.cheaper_ahead", lambda *_: True)
    checks = tmp_path / "others" / checks.relative_to(tmp_path / "runs")
    capsys.readouterr()
    with lock(checks.with_name("fill.lock")) if busy else contextlib.nullcontext():
        plan, _ = bench([*tiny, "methods=kd", f"runs={tmp_path / 'others'}"])
    out = capsys.readouterr().out
    assert ", 0 % filled, the rest ahead: 2 visits of an image see 2 of its 50 views" in out
    assert ("another process is filling it" in out) == busy
    assert np.fromfile(checks, dtype=np.int64).all() != busy
    assert same(trained(cells(plan)["kd"].folder), expected)


def test_a_second_call_trains_nothing_and_a_new_seed_just_itself(tiny):
    plan, _ = bench([*tiny, "methods=ce,kd"])
    before = {n: c.folder.weights.stat().st_mtime_ns for n, c in cells(plan).items()}
    _, outcomes = bench([*tiny, "methods=ce,kd"])
    assert outcomes == []
    plan, outcomes = bench([*tiny, "methods=ce,kd", "seeds=0,1"])
    assert [o.name for o in outcomes] == ["resnet14-resnet8 ce seed 1", "resnet14-resnet8 kd seed 1"]
    assert {n: c.folder.weights.stat().st_mtime_ns for n, c in cells(plan).items() if n.endswith("-0")} == {
        f"{n}-0": t for n, t in before.items()
    }


def test_every_option_is_part_of_the_identity_and_nothing_about_the_machine_is(tiny, tmp_path):
    plan, _ = bench([*tiny, "methods=kd", "recipe.epochs=1"])

    def identity(*more: str) -> str:
        overrides = [*tiny, "methods=kd", "recipe.epochs=1", *more]
        return cells(grid.make_plan(configs.load(overrides), overrides))["kd"].identity

    base = identity()
    assert base == cells(plan)["kd"].identity
    assert base == identity("threads=2", "tracker.project=other", "seeds=7")
    for change in ("kd.temperature=2", "kd.kd_weight=0.5"):
        assert identity(change) != base


class Killed(BaseException):
    """Stands for an interruption in the middle of an epoch."""


@pytest.mark.parametrize("name", configs.group("method"))
def test_two_and_two_epochs_equal_four_bit_for_bit(tiny, tmp_path, monkeypatch, name):
    monkeypatch.setattr("benchmark.grid.run.CHECKPOINT_SHARE", math.inf)  # a checkpoint after every epoch
    overrides = [*tiny, f"methods={name}", "recipe.epochs=4", "recipe.batch_size=20"]
    overrides += ["crd.negatives=8"] if name == "crd" else []
    plan, _ = bench(overrides)
    whole = trained(cells(plan)[name].folder)

    again = [*overrides, f"runs={tmp_path / 'again'}"]
    config = configs.load(again)
    plan = grid.make_plan(config, again)
    tracking = Tracking(config.tracker, plan.settings.runs)
    assert execute(plan.teachers["resnet14"], tracking, Progress(2)).status == "done"
    (cell,) = plan.students("resnet14")

    class Stop(Progress):
        def epoch(self, line):
            if line["epoch"] == 3:  # its metrics are written, its checkpoint is not
                raise Killed

    with pytest.raises(Killed):
        execute(cell, tracking, Stop(1))
    assert cell.folder.status == "running" and not cell.folder.done
    assert torch.load(cell.folder.checkpoint, weights_only=True)["epoch"] == 2
    assert execute(cell, tracking, Progress(1)).status == "done"
    assert same(trained(cell.folder), whole)


def _start(arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmark", *arguments], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # tests that run in the background of a shell have it ignored, and would hand that down
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def _wait_for(folder: Path, pattern: str, seconds: float = 120) -> Path:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for found in folder.glob(pattern):
            return found
        time.sleep(0.02)
    raise AssertionError(f"{pattern} did not appear in {folder}")


@pytest.mark.parametrize(("how", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_stopped_command_goes_on_where_it_was(tiny, tmp_path, command, how, status):
    overrides = [*tiny, "methods=kd", "recipe.epochs=40"]
    plan, _ = bench(overrides)
    whole = trained(cells(plan)["kd"].folder)

    again = [*overrides, f"runs={tmp_path / 'again'}"]
    process = _start(again)
    _wait_for(tmp_path / "again" / "npz" / "resnet14-resnet8", "kd/*/seed=0/checkpoint.pt")
    process.send_signal(how)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, out + err
    assert "Traceback" not in err
    (folder,) = (tmp_path / "again").glob("npz/resnet14-resnet8/kd/*/seed=0")
    assert RunFolder(folder).status == "running"

    done = command("benchmark", *again)
    assert done.returncode == 0, done.stderr
    assert "resumed after epoch" in done.stdout
    assert same(trained(RunFolder(folder)), whole)


def test_a_run_that_another_process_holds_is_left_alone(tiny, command):
    bench([*tiny, "methods=ce", "recipe.epochs=1"])
    overrides = [*tiny, "methods=ce,kd", "recipe.epochs=1"]
    kd = cells(grid.make_plan(configs.load(overrides), overrides))["kd"].folder
    with kd.lock():
        second = command("benchmark", *overrides)
    assert second.returncode == 1 and "Traceback" not in second.stderr
    assert f"not finished: resnet14-resnet8 kd seed 0: busy: another process is writing {kd.folder}" in second.stderr
    assert "| Student " in second.stdout and [p.name for p in kd.folder.iterdir()] == ["lock"]


def test_two_processes_at_once_never_mix_their_lines(tiny, tmp_path):
    overrides = [*tiny, "methods=ce,kd", "recipe.epochs=20"]
    processes = [_start(overrides) for _ in range(2)]
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode in (0, 1) and "Traceback" not in err
    found = list((tmp_path / "runs").glob("npz/*/*/*/seed=0/metrics.jsonl"))
    assert len(found) == 3
    for path in found:
        assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == list(range(1, 21))


def flip(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Overwrite a byte of a weight that the file holds."""
    content = bytearray(path.read_bytes())
    content[content.index(weights["fc.weight"].numpy().tobytes()) + 100] ^= 0x55
    path.write_bytes(content)


def flip_checkpoint(run: RunFolder) -> None:
    flip(run.checkpoint, torch.load(run.checkpoint, weights_only=True)["trainer"]["network"])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-99])


def of_another_kind(run: RunFolder) -> None:
    torch.save({"model": {}}, run.checkpoint)


def without_an_epoch(run: RunFolder) -> None:
    lines = run.metrics()
    (run.path / "metrics.jsonl").write_text("".join(json.dumps({"loss": m["loss"]}) + "\n" for m in lines))


def of_other_code(run: RunFolder) -> None:
    save(run.checkpoint, load_weights(run.checkpoint) | {"code": "0" * 12})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: cut(run.checkpoint), "checkpoint.pt is damaged"),
        (flip_checkpoint, "checkpoint.pt is damaged"),
        (of_another_kind, "checkpoint.pt is no checkpoint of a run"),
        (without_an_epoch, "metrics.jsonl lacks epochs"),
        (of_other_code, "its checkpoint was written by another version of ce's code"),
    ],
)
def test_a_run_whose_checkpoint_is_not_whole_begins_anew(tiny, capsys, damage, said):
    plan, _ = bench([*tiny, "methods=ce"])
    (cell,) = plan.students("resnet14")
    whole = trained(cell.folder)
    tracking = Tracking(plan.config.tracker, plan.settings.runs)

    class Stop(Progress):
        def step(self, step, steps):
            if len(cell.folder.metrics()) == 1:
                raise Killed

    (cell.folder.path / "result.json").unlink()
    with pytest.raises(Killed):
        execute(cell, tracking, Stop(1))
    damage(cell.folder)
    assert execute(cell, tracking, Progress(1)).status == "done"
    assert f"{said}; the run restarts" in capsys.readouterr().err
    assert same(trained(cell.folder), whole)


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: flip(run.weights, torch.load(run.weights, weights_only=True)),
        lambda run: cut(run.weights),
        lambda run: cut(run.test_outputs),
    ],
)
def test_a_damaged_teacher_is_refused_with_the_remedy(tiny, capsys, damage):
    plan, _ = bench([*tiny, "methods=ce", "recipe.epochs=1"])
    run = plan.teachers["resnet14"].folder
    whole = trained(run)
    damage(run)
    assert main(["bench", *tiny, "methods=kd", "recipe.epochs=1"]) == 2
    err = capsys.readouterr().err
    assert f"the teacher in {run.path} is damaged: remove its result.json" in err and "Traceback" not in err
    (run.path / "result.json").unlink()
    assert main(["bench", *tiny, "methods=kd", "recipe.epochs=1"]) == 0
    assert same(trained(run), whole)


def test_a_teacher_without_a_usable_result_is_trained_again(tiny, capsys):
    plan, _ = bench([*tiny, "methods=ce", "recipe.epochs=1"])
    run = plan.teachers["resnet14"].folder
    record = run.record
    (run.path / "result.json").write_text("{}")
    assert main(["bench", *tiny, "methods=kd", "recipe.epochs=1"]) == 0
    assert "teacher resnet14: to be trained" in capsys.readouterr().out
    assert (run.record.sha256, run.record.top1_last) == (record.sha256, record.top1_last)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_cell_whose_folder_cannot_be_made_fails_alone(tiny, capsys, jobs):
    bench([*tiny, "methods=ce", "recipe.epochs=1"])
    overrides = [*tiny, "methods=kd,clkd", "recipe.epochs=1"]
    folder = cells(grid.make_plan(configs.load(overrides), overrides))["kd"].folder.path
    folder.parent.mkdir(parents=True)
    folder.write_text("in the way")
    assert main(["bench", *overrides, f"jobs={jobs}"]) == 1
    assert "not finished: resnet14-resnet8 kd seed 0: failed: FileExistsError" in capsys.readouterr().err
    assert cells(grid.make_plan(configs.load(overrides), overrides))["clkd"].folder.done


def test_a_result_that_was_changed_is_made_again(tiny, capsys):
    plan, _ = bench([*tiny, "methods=ce", "recipe.epochs=1"])
    (cell,) = plan.students("resnet14")
    written = (cell.folder.path / "result.json").read_text()
    wall = re.compile(r'"(wall_s|step_ms|checksum)": .*')
    (cell.folder.path / "result.json").write_text(written.replace('"agreement": ', '"agreement": 9'))
    assert not cell.folder.done
    assert main(["bench", *tiny, "methods=ce", "recipe.epochs=1"]) == 0
    assert "result.json was changed after it was written; the run restarts" in capsys.readouterr().err
    assert wall.sub("", (cell.folder.path / "result.json").read_text()) == wall.sub("", written)


def test_cells_of_other_code_are_said(tiny, capsys, monkeypatch):
    overrides = [*tiny, "methods=ce,kd", "recipe.epochs=1"]
    bench(overrides)
    monkeypatch.setattr(methods, "code", lambda name: f"another {name}")
    assert main(["plan", *overrides]) == 0
    out = capsys.readouterr().out
    assert "runs: 0 to train, 2 done" in out
    assert "1 of kd were done by another version of its code: remove their folders to repeat them" in out


def test_the_plots_are_drawn_where_there_are_none(tiny, tmp_path):
    overrides = [*tiny, "methods=ce", "recipe.epochs=1", f"reports={tmp_path / 'again'}"]
    bench([*tiny, "methods=ce", "recipe.epochs=1"])
    assert main(["bench", *overrides]) == 0
    drawn = sorted((tmp_path / "again" / "plots").iterdir())
    assert drawn
    before = [p.stat().st_mtime_ns for p in drawn]
    assert main(["bench", *overrides]) == 0
    assert [p.stat().st_mtime_ns for p in drawn] == before


def test_a_damaged_checkpoint_is_said_and_the_run_begins_anew(tiny, capsys):
    plan, _ = bench([*tiny, "methods=ce", "recipe.epochs=1"])
    (cell,) = plan.students("resnet14")
    whole = trained(cell.folder)
    (cell.folder.path / "result.json").unlink()
    cell.folder.checkpoint.write_bytes(b"PK\x03\x04 half a file")
    (cell.folder.path / "weights.pt.77.part").write_bytes(b"left over")
    assert execute(cell, Tracking(plan.config.tracker, plan.settings.runs), Progress(1)).status == "done"
    assert "is damaged; the run restarts" in capsys.readouterr().err
    assert same(trained(cell.folder), whole) and not list(cell.folder.path.glob("*.part"))


@pytest.mark.parametrize("left", [[1], [2], []])
def test_a_checkpoint_whose_epochs_are_not_all_recorded_is_not_gone_on_from(tiny, capsys, monkeypatch, left):
    # as after a power loss: a result would be taken from the wrong epoch
    monkeypatch.setattr("benchmark.grid.run.CHECKPOINT_SHARE", math.inf)
    overrides = [*tiny, "methods=ce", "recipe.epochs=3"]
    plan = grid.make_plan(configs.load(overrides), overrides)
    tracking = Tracking(plan.config.tracker, plan.settings.runs)
    (teacher,) = plan.teachers.values()

    class Stop(Progress):
        def step(self, step, steps):
            if len(teacher.folder.metrics()) == 2:
                raise Killed

    with pytest.raises(Killed):
        execute(teacher, tracking, Stop(1))
    assert torch.load(teacher.folder.checkpoint, weights_only=True)["epoch"] == 2
    lines = [m for m in teacher.folder.metrics() if m["epoch"] in left]
    (teacher.folder.path / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in lines))
    assert execute(teacher, tracking, Progress(1)).status == "done"
    assert "lacks epochs; the run restarts" in capsys.readouterr().err
    assert [m["epoch"] for m in teacher.folder.metrics()] == [1, 2, 3]


def test_a_full_disk_fails_its_cell_alone(tiny, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    overrides = [*tiny, "methods=ce,kd", "recipe.epochs=1"]
    plan = grid.make_plan(configs.load(overrides), overrides)
    tracking = Tracking(plan.config.tracker, plan.settings.runs)
    assert execute(plan.teachers["resnet14"], tracking, Progress(2)).status == "done"
    first, second = plan.students("resnet14")
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        outcome = execute(first, tracking, Progress(2))
    assert outcome.status == "failed" and outcome.reason.startswith("OSError: [Errno 28] No space left on device")
    assert execute(second, tracking, Progress(2)).status == "done"
    assert execute(first, tracking, Progress(2)).status == "done"  # the same command again, once there is room


def test_a_diverged_cell_does_not_stop_the_others(tiny, capsys):
    overrides = [*tiny, "methods=ce,kd", "kd.kd_weight=1e38"]
    assert main(overrides) == 1
    err = capsys.readouterr().err
    assert "not finished: resnet14-resnet8 kd seed 0: diverged" in err and "step" in err
    plan = grid.make_plan(configs.load(overrides), overrides)
    found = cells(plan)
    assert found["ce"].folder.done
    assert found["kd"].folder.status == "diverged" and found["kd"].folder.record.problem
    assert main(overrides) == 1  # it would diverge again, so it is not tried again, but still said
    assert "in an earlier run" in capsys.readouterr().err


def test_a_failed_cell_is_recorded_and_tried_again(tiny, monkeypatch):
    overrides = [*tiny, "methods=ce,kd"]

    def broken(*_):
        raise RuntimeError("out of luck\nsecond line")

    with monkeypatch.context() as m:
        m.setattr(methods.kd.KD, "losses", broken)
        plan, outcomes = bench(overrides)
    run = cells(plan)["kd"].folder
    assert {o.status for o in outcomes} == {"done", "failed"}
    assert run.status == "failed" and "out of luck" in (run.path / "error.txt").read_text()
    _, outcomes = bench(overrides)
    assert [o.status for o in outcomes] == ["done"] and run.done


def test_a_teacher_that_knows_nothing_is_refused(tiny):
    plan, outcomes = bench([*tiny, "methods=ce,kd", "teacher.min_top1=100", "recipe.epochs=1"])
    assert {o.status for o in outcomes} == {"failed"}
    assert any("less than the 100.00 % of teacher.min_top1" in o.reason for o in outcomes)
    assert not any(c.folder.path.exists() for c in cells(plan).values())


def test_a_user_s_own_teacher_is_imported_once_and_its_content_is_the_identity(tiny, tmp_path, capsys):
    plan, _ = bench([*tiny, "methods=ce"])
    own = tmp_path / "ckpt_epoch_240.pth"
    torch.save({"epoch": 240, "model": torch.load(plan.teachers["resnet14"].folder.weights, weights_only=True)}, own)
    overrides = [*tiny, "methods=kd", f"teacher.checkpoint={own}"]
    imported, outcomes = bench(overrides)
    assert [o.name for o in outcomes] == ["resnet14-resnet8 kd seed 0"]  # no teacher was trained
    cell = imported.teachers["resnet14"]
    assert cell.folder.record.sha256 == plan.teachers["resnet14"].folder.record.sha256
    assert cell.folder.record.top1_last == plan.teachers["resnet14"].folder.record.top1_last
    assert main(["plan", *overrides]) == 0
    assert "imported" in capsys.readouterr().out
    assert main(["plan", *tiny, f"teacher.checkpoint={own}", "pair=resnet20-resnet8"]) == 2
    assert "resnet14" in capsys.readouterr().err  # says which network it fits


def test_a_changed_teacher_is_noticed(tiny):
    plan, _ = bench([*tiny, "methods=ce", "recipe.epochs=1"])
    (cell,) = plan.students("resnet14")
    weights = torch.load(plan.teachers["resnet14"].folder.weights, weights_only=True)
    weights["fc.bias"] += 1
    torch.save(weights, plan.teachers["resnet14"].folder.weights)
    (cell.folder.path / "result.json").unlink()
    outcome = execute(cell, Tracking(plan.config.tracker, plan.settings.runs), Progress(1))
    assert outcome.status == "failed" and "has changed since the run was planned" in outcome.reason


@pytest.mark.parametrize(
    ("arguments", "said"),
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
def test_bad_commands_end_with_one_line_and_status_2(arguments, said, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    assert main([*arguments, f"runs={tmp_path / 'runs'}"]) == 2
    out, err = capsys.readouterr()
    assert said in err and len(err.splitlines()) == 1 and err.startswith("error: ")
    assert out == ""
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("graph", [False, True])
def test_cells_run_on_a_gpu_as_on_the_cpu(tiny, tmp_path, graph):
    """Accuracies of a few epochs on 30 test images, so within a few images."""
    overrides = [*tiny, "methods=ce,kd,crd,mlld,simkd", "crd.negatives=16", "recipe.epochs=6"]
    expected = {n: c.folder.record.top1_last for n, c in cells(bench(overrides)[0]).items()}
    plan, outcomes = bench([*overrides, "device=cuda", f"cuda_graph={graph}", f"runs={tmp_path / 'gpu'}"])
    assert {o.status for o in outcomes} == {"done"}
    for name, cell in cells(plan).items():
        assert cell.folder.record.top1_last == pytest.approx(expected[name], abs=20)
        assert cell.folder.record.hardware["device"] == "cuda"
        assert cell.folder.record.hardware["cuda_graph"] == graph
