"""Tests of tracking by what wandb's offline files hold, read without wandb's reader."""

import json
from pathlib import Path

import numpy as np
import pytest
import wandb
from PIL import Image

from benchmark.__main__ import main
from benchmark.config.compose import load_config
from benchmark.config.schema import TrackerConfig
from benchmark.errors import UserError
from benchmark.runs.folder import RunFolder
from benchmark.runs.tracking import Tracking
from tests.benchmark.runs.wandb_file import contents


def settings(*overrides: str) -> TrackerConfig:
    return load_config(list(overrides)).tracker


def offline(folder: Path) -> list[dict]:
    """Return the contents of all offline runs below a folder, ordered by time, as their names are."""
    wandb.teardown()  # waits until wandb's service has written everything
    return [contents(p) for p in sorted((folder / "wandb").glob("offline-run-*"))]


ARGUMENTS = {
    "name": "pair kd seed 0", "group": "pair/kd/1a2b", "job_type": "student", "tags": ["digits", "quick"],
    "config": {"method": {"name": "kd", "temperature": 4.0}, "seed": 0},
}  # fmt: skip


@pytest.fixture
def logged_out(monkeypatch, tmp_path):
    """No login to W&B, and no variables that configure it."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


def test_auto_is_offline_without_a_login_and_online_with_one(logged_out, monkeypatch, tmp_path):
    assert Tracking(settings(), tmp_path).mode == "offline"
    monkeypatch.setenv("WANDB_MODE", "online")
    assert Tracking(settings(), tmp_path).mode == "online"
    monkeypatch.delenv("WANDB_MODE")
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password " + "k" * 40)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert Tracking(settings(), tmp_path).mode == "online"


def test_online_mode_needs_a_login(logged_out, tmp_path):
    with pytest.raises(UserError, match="wandb login"):
        Tracking(settings("tracker.mode=online"), tmp_path)


def test_tracking_that_is_off_writes_nothing(tmp_path):
    with Tracking(settings("tracker.mode=off"), tmp_path / "w").run(**ARGUMENTS, id_file=tmp_path / "ids.json") as run:
        run.log({"epoch": 1})
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_continues_its_wandb_run(logged_out, tmp_path):
    tracking = Tracking(settings("tracker.mode=offline", "tracker.project=proj"), tmp_path)
    for epoch in (1, 2):
        with tracking.run(**ARGUMENTS, id_file=tmp_path / "wandb.json") as run:
            run.log({"epoch": epoch, "loss": 1.0 / epoch})
            run.summary({"top1_last": 50.0, "top1_best": 60.0})
    first, second = offline(tmp_path)
    assert first["run"].run_id == second["run"].run_id == json.loads((tmp_path / "wandb.json").read_text())["id"]
    assert [r["epoch"] for part in (first, second) for r in part["history"]] == [1, 2]
    assert [r["_step"] for part in (first, second) for r in part["history"]] == [1, 2]
    run = first["run"]
    assert (run.project, run.run_group, run.job_type) == ("proj", ARGUMENTS["group"], "student")
    assert (run.display_name, list(run.tags)) == ("pair kd seed 0", ["digits", "quick"])
    config = {u.key: json.loads(u.value_json) for u in run.config.update}
    assert config["method"] == {"name": "kd", "temperature": 4.0} and config["seed"] == 0
    assert first["summary"]["top1_last"] == 50.0 and first["summary"]["top1_best"] == 60.0
    assert first["exit"] == 0


def test_epochs_of_an_initialization_stage_are_logged(logged_out, tmp_path):
    with Tracking(settings("tracker.mode=offline"), tmp_path).run(**ARGUMENTS, first_epoch=-2) as run:
        for epoch in range(-2, 3):
            run.log({"epoch": epoch, "loss": 1.0})
    (run,) = offline(tmp_path)
    assert [r["epoch"] for r in run["history"]] == [-2, -1, 0, 1, 2]
    assert [r["_step"] for r in run["history"]] == [0, 1, 2, 3, 4]


def test_an_unknown_wandb_mode_is_rejected(logged_out, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(UserError, match="WANDB_MODE is 'ofline': it must be one of online, offline, disabled"):
        Tracking(settings(), tmp_path)


def test_a_failing_run_is_finished_as_failed(logged_out, tmp_path):
    tracking = Tracking(settings("tracker.mode=offline"), tmp_path)
    with pytest.raises(KeyboardInterrupt), tracking.run(**ARGUMENTS, id_file=tmp_path / "wandb.json"):
        raise KeyboardInterrupt
    (run,) = offline(tmp_path)
    assert run["exit"] == 1


def test_an_unreachable_server_is_reported_once_and_loses_no_run(logged_out, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    wandb.teardown()  # otherwise its service keeps the settings of earlier tests
    tracking = Tracking(settings("tracker.mode=auto", "tracker.init_timeout=2"), tmp_path)
    assert tracking.mode == "online"
    for k in range(2):
        with tracking.run(**ARGUMENTS, id_file=tmp_path / f"{k}.json") as run:
            run.log({"epoch": 1, "loss": 2.0})
    assert capsys.readouterr().err.count("continuing offline") == 1
    assert [[r["loss"] for r in run["history"]] for run in offline(tmp_path)] == [[2.0], [2.0]]


def test_a_command_logs_teacher_students_and_report(logged_out, tiny, tmp_path):
    overrides = [*tiny, "methods=kd", "tracker.mode=offline"]
    assert main(overrides) == 0
    runs = offline(tmp_path / "runs")
    by_type: dict[str, list[dict]] = {}
    for run in runs:
        by_type.setdefault(run["run"].job_type, []).append(run)
    assert {k: len(v) for k, v in by_type.items()} == {"teacher": 1, "student": 1, "report": 1}
    assert all(run["exit"] == 0 for run in runs)
    kd = next(r for r in by_type["student"] if "kd" in r["run"].tags)
    (folder,) = (tmp_path / "runs").glob("npz/resnet14-resnet8/kd/*/seed=0")
    lines = RunFolder(folder).metrics()
    # one log call per epoch, with the content of metrics.jsonl
    logged = [{k: v for k, v in row.items() if not k.startswith("_")} for row in kd["history"]]
    assert logged == lines
    assert kd["run"].run_group == f"resnet14-resnet8/kd/{folder.parent.name}"
    assert kd["summary"]["top1_last"] == RunFolder(folder).record.top1_last
    config = {u.key: json.loads(u.value_json) for u in kd["run"].config.update}
    assert config["recipe"]["epochs"] == 2 and config["method"]["kd_weight"] == 0.9
    (row,) = by_type["report"][0]["history"]
    assert row["tables/npz-quick-resnet14-resnet8-kd._type"] == "table-file"
    assert row["plots/npz-quick-resnet14-resnet8-kd-resnet14-resnet8-curves._type"] == "image-file"


def test_tables_and_plots_are_published(logged_out, tmp_path):
    (tmp_path / "t.csv").write_text("method,mean\nkd,50.0\n")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "p.png")
    tracking = Tracking(settings("tracker.mode=offline"), tmp_path / "w")
    tracking.publish([tmp_path / "t.csv", tmp_path / "p.png", tmp_path / "t.tex"], "report", ["x"], {})
    (run,) = offline(tmp_path / "w")
    kinds = {k.removesuffix("._type"): v for k, v in run["history"][0].items() if k.endswith("._type")}
    assert kinds == {"tables/t": "table-file", "plots/p": "image-file"}
