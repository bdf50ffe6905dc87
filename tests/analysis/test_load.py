"""Run folders read into a frame: what counts as finished, what does not and why, configs and metrics."""

import json
import math

import pytest

from analysis.load import load_config, load_metrics, load_runs
from benchmark.runs.folder import RunFolder
from benchmark.runs.record import RunRecord, RunStatus

PAIR = "resnet20-resnet8"


def test_finished_runs_have_the_fields_of_their_record(tree):
    folder = tree.student(PAIR, "kd", "0000000000a1", 3, 61.5, changes={"pre_epochs": 2, "changed": ["recipe.lr"]})
    (run,) = load_runs(tree.root).finished.to_dict("records")
    assert (run["dataset"], run["pair"], run["method"], run["seed"], run["folder"]) == (
        "cifar100", PAIR, "kd", 3, folder,
    )  # fmt: skip
    assert (run["top1_last"], run["init_epochs"], run["changed_settings"]) == (61.5, 2.0, ("recipe.lr",))
    assert run["code_version"] is None
    assert math.isnan(run["views"])


def test_every_field_survives_writing_and_loading(tree):
    """A record written by the benchmark, not by hand."""
    record = RunRecord(
        status=RunStatus.DONE, dataset="digits", pair=PAIR, teacher="resnet20", student="resnet8", method="kd", seed=0,
        profile="quick", identity="0000000000a1", epochs=2, top1_last=90.0, val_top1_last=91.0, code_version="c0de",
    )  # fmt: skip
    run = RunFolder(tree.root / "digits" / PAIR / "kd" / "0000000000a1" / "seed=0")
    run.write_record(record)
    run.set_status(RunStatus.DONE)
    (row,) = load_runs(tree.root).finished.to_dict("records")
    assert row["profile"] == "quick+validation"  # trained on fewer images, so in a table of its own
    assert (row["title"], row["code_version"]) == ("kd", "c0de")


@pytest.mark.parametrize(
    ("status", "reason", "text"),
    [
        ("running", "", "running or interrupted"),
        ("diverged", "term kd is nan", "diverged: term kd is nan"),
        ("failed", "failed: out of\nmemory", "failed: out of memory"),
        ("skipped", "skipped: not the same image size", "skipped: not the same image size"),
        ("failed", "", "failed"),
    ],
)
def test_unfinished_runs_have_a_reason_on_one_line(tree, status, reason, text):
    tree.ended(PAIR, "kd", "0000000000a1", 0, status, reason)
    runs = load_runs(tree.root)
    (run,) = runs.unfinished
    assert runs.finished.empty
    assert run.text == f"{PAIR} kd seed=0: {text}"
    assert (run.profile, run.skipped) == ("short", status == "skipped")


def test_the_profile_of_an_unfinished_run_names_its_validation_split(tree):
    folder = tree.ended(PAIR, "kd", "0000000000a1", 0, "running")
    tree.config(folder, {"profile": "short", "dataset": {"validation": 0.1}})
    assert load_runs(tree.root).unfinished[0].profile == "short+validation"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seed": 1}, "its result.json says seed 1: it belongs to another folder"),
        ({"identity": "0000000000ff"}, 'its result.json says identity "0000000000ff": it belongs to another folder'),
        ({"profile": None}, "its result.json has no profile"),
        ({"epochs": 20.5}, "its result.json has no epochs"),
        ({"top1_last": 101}, "its result.json has no top1_last from 0 to 100, but 101"),
        ({"status": "running"}, "its result.json says running"),
    ],
)
def test_unusable_results_are_reported(tree, changes, reason):
    tree.student(PAIR, "kd", "0000000000a1", 0, 60.0, changes=changes)
    runs = load_runs(tree.root)
    assert runs.finished.empty
    assert runs.unfinished[0].reason == reason


def test_folders_that_are_no_runs_are_ignored(full):
    """The full tree has notes, W&B folders, copies and a file beside its runs."""
    runs = load_runs(full.root)
    assert len(runs.finished) == 21
    assert len(runs.unfinished) == 3
    (full.root / "cifar100" / PAIR / "kd" / "0000000000ee" / "seed=0").mkdir(parents=True)
    assert len(load_runs(full.root).unfinished) == 3  # not started
    assert load_runs(full.root / "nowhere").finished.empty


def test_configs_are_flat_and_hashable(tree):
    folder = tree.student(PAIR, "kd", "0000000000a1", 0, 60.0, options={"list": [1, [2, 3]], "maps": [{"b": 1}]})
    config = load_config(folder)
    assert config["recipe.milestones"] == (12.5, 15.0)
    assert config["method.list"] == (1, (2, 3))
    assert config["method.maps"] == (json.dumps({"b": 1}),)
    assert len(frozenset(config.items())) == len(config)


@pytest.mark.parametrize("content", [b"- a\n- b\n", b"a: [", b"\xff\xfe\x00", None])
def test_a_config_that_cannot_be_read_is_empty(tmp_path, content):
    if content is not None:
        (tmp_path / "config.yaml").write_bytes(content)
    assert load_config(tmp_path) == {}


def test_metrics_add_up_time_until_it_is_unknown(tmp_path):
    lines = [
        {"epoch": 1, "test_top1": 10.0, "data_s": 1.0, "step_s": 2.0},
        {"epoch": 2, "test_top1": None, "data_s": 1.0, "step_s": 3.0},
        {"epoch": 3, "test_top1": 1e400, "data_s": 1.0},
        {"epoch": 4, "test_top1": 30.0, "data_s": 1.0, "step_s": 2.0},
        {"epoch": 2, "test_top1": True, "data_s": 0.5, "step_s": 3.0},  # the last line of an epoch counts
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    metrics = load_metrics(tmp_path)
    assert list(metrics.index) == [1, 2, 3, 4]
    assert metrics.top1.tolist() == pytest.approx([10.0, math.nan, math.nan, 30.0], nan_ok=True)
    assert metrics.seconds.tolist() == pytest.approx([3.0, 6.5, math.nan, math.nan], nan_ok=True)
