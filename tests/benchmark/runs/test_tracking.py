"""Tests of tracking by what wandb's offline files hold, read without wandb's reader."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.__main__ import main
from benchmark.config.compose import load_config
from benchmark.config.schema import TrackerConfig
from benchmark.errors import UserError
from benchmark.runs import tracking as module
from benchmark.runs.folder import RunFolder
from benchmark.runs.tracking import Tracking
from tests.benchmark.runs.wandb_file import contents


def settings(*overrides: str) -> TrackerConfig:
    """Return the options of a tracker, by default without limits that a busy machine would exceed."""
    return load_config(["tracker.finish_timeout=120", "tracker.retry_timeout=120", *overrides]).tracker


def offline(folder: Path) -> list[dict]:
    """Return the contents of all offline runs below a folder, ordered by time, as their names are."""
    return [contents(p) for p in sorted((folder / "wandb").glob("offline-run-*"))]


def track(tracking: Tracking, folder: RunFolder, epochs: Sequence[int], first_epoch: int = 1) -> None:
    """Record epochs as training does, with a loss of 1."""
    with tracking.run(**ARGUMENTS, folder=folder.path, first_epoch=first_epoch) as run:
        for epoch in epochs:
            folder.append_metrics({"epoch": epoch, "loss": 1.0})
            run.on_epoch_end()
        run.summary({"top1_last": 50.0, "top1_best": 60.0})


ARGUMENTS = {
    "name": "pair kd seed 0", "group": "pair/kd/1a2b", "job_type": "student", "tags": ["digits", "quick", 80 * "x"],
    "config": {"method": {"name": "kd", "temperature": 4.0}, "seed": 0},
}  # fmt: skip


def test_auto_is_offline_without_a_login_and_online_with_one(logged_out, monkeypatch, tmp_path):
    assert Tracking(settings(), tmp_path).mode == "offline"
    monkeypatch.setenv("WANDB_MODE", "online")
    assert Tracking(settings(), tmp_path).mode == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert Tracking(settings(), tmp_path).mode == "off"
    monkeypatch.delenv("WANDB_MODE")
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password " + "k" * 40)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert Tracking(settings(), tmp_path).mode == "online"


def test_online_mode_needs_a_login(logged_out, tmp_path):
    with pytest.raises(UserError, match="wandb login"):
        Tracking(settings("tracker.mode=online"), tmp_path)


@pytest.mark.parametrize("how", ["tracker=none", "tracker.mode=off"])
def test_tracking_that_is_off_writes_nothing(how, tmp_path):
    with Tracking(settings(how), tmp_path / "w").run(**ARGUMENTS, folder=tmp_path) as run:
        run.on_epoch_end()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tracker", ["tensorboard", "trackio"])
def test_a_tracker_that_is_not_installed_is_named_with_its_extra(tracker, monkeypatch, tmp_path):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"{tracker} is not installed: pip install 'kd-benchmark\[{tracker}\]'"):
        Tracking(settings(f"tracker={tracker}"), tmp_path)


@pytest.mark.parametrize("limit", [120, 0.5], ids=["ends", "is killed"])
def test_no_temporary_files_stay(limit, logged_out, folder, monkeypatch, tmp_path):
    """Of the process that is asked for a login, nor of the one that records, also where it is killed."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("TMPDIR", str(temporary))
    tracking = Tracking(settings(f"tracker.finish_timeout={limit}", f"tracker.retry_timeout={limit}"), tmp_path)
    track(tracking, folder, [1])
    assert list(temporary.iterdir()) == []


def test_only_wandb_has_modes(tmp_path):
    with pytest.raises(UserError, match=r"tracker\.mode=online is one of W&B's"):
        Tracking(settings("tracker=tensorboard", "tracker.mode=online"), tmp_path)


def test_an_offline_run_holds_what_was_trained(logged_out, folder, tmp_path):
    track(Tracking(settings("tracker.mode=offline", "tracker.project=proj"), tmp_path), folder, [1, 2])
    (content,) = offline(tmp_path)
    run = content["run"]
    assert run.run_id == json.loads((folder.path / "wandb.json").read_text())["id"]
    assert (run.project, run.run_group, run.job_type) == ("proj", ARGUMENTS["group"], "student")
    assert (run.display_name, list(run.tags)) == ("pair kd seed 0", ["digits", "quick", 64 * "x"])  # W&B's limit
    config = {u.key: json.loads(u.value_json) for u in run.config.update}
    assert config["method"] == {"name": "kd", "temperature": 4.0} and config["seed"] == 0
    assert [(r["_step"], r["epoch"], r["loss"]) for r in content["history"]] == [(1, 1, 1.0), (2, 2, 1.0)]
    assert content["summary"]["top1_last"] == 50.0 and content["summary"]["top1_best"] == 60.0
    assert content["exit"] == 0


def test_a_resumed_run_replaces_its_part_by_one_with_all_epochs(logged_out, folder, tmp_path):
    tracking = Tracking(settings("tracker.mode=offline"), tmp_path)
    with pytest.raises(KeyboardInterrupt), tracking.run(**ARGUMENTS, folder=folder.path):
        folder.append_metrics({"epoch": 1})
        raise KeyboardInterrupt
    (first,) = offline(tmp_path)
    assert first["exit"] == 1
    folder.append_metrics({"epoch": 2})  # while nothing was tracked
    track(tracking, folder, [3])
    (second,) = offline(tmp_path)
    assert first["run"].run_id == second["run"].run_id
    assert [[r["epoch"] for r in part["history"]] for part in (first, second)] == [[1], [1, 2, 3]]
    assert second["exit"] == 0


def test_epochs_of_an_initialization_stage_are_logged(logged_out, folder, tmp_path):
    track(Tracking(settings("tracker.mode=offline"), tmp_path), folder, range(-2, 3), first_epoch=-2)
    (run,) = offline(tmp_path)
    assert [r["epoch"] for r in run["history"]] == [-2, -1, 0, 1, 2]
    assert [r["_step"] for r in run["history"]] == [0, 1, 2, 3, 4]


def test_a_command_logs_teacher_students_and_report(logged_out, tiny, tmp_path):
    overrides = [*tiny, "methods=kd", "tracker.mode=offline", "tracker.finish_timeout=120"]
    assert main(overrides) == 0
    runs = offline(tmp_path / "runs")
    by_type: dict[str, list[dict]] = {}
    for run in runs:
        by_type.setdefault(run["run"].job_type, []).append(run)
    assert {k: len(v) for k, v in by_type.items()} == {"teacher": 1, "student": 1, "report": 1}
    assert all(run["exit"] == 0 for run in runs)
    kd = next(r for r in by_type["student"] if "kd" in r["run"].tags)
    (path,) = (tmp_path / "runs").glob("npz/resnet14-resnet8/kd/*/seed=0")
    lines = RunFolder(path).metrics()
    # one log call per epoch, with the content of metrics.jsonl
    logged = [{k: v for k, v in row.items() if not k.startswith("_")} for row in kd["history"]]
    assert logged == lines
    assert kd["run"].run_group == f"resnet14-resnet8/kd/{path.parent.name}"
    assert kd["summary"]["top1_last"] == RunFolder(path).record.top1_last
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
