"""Tests of the typed content of a run folder's files."""

import dataclasses
import json
import math
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.runs.folder import RunFolder, read_json
from benchmark.runs.record import RunConfig, RunRecord, RunStatus, StatusRecord, checksum

RESULTS = Path(__file__).parents[3] / "results"
RECORD = RunRecord(
    status=RunStatus.DONE, role="student", dataset="cifar100", network="resnet8", pair="resnet20-resnet8",
    teacher="resnet20", student="resnet8", method="kd", title="KD", year=2015, family="logits", teacher_top1=69.5,
    teacher_top5=92.0, recipe="cifar",
    teacher_sha256="ab" * 32, teacher_run="cifar100/teachers/resnet20/0123456789ab/seed=0", seed=0, profile="paper",
    identity="0123456789ab", epochs=240, top1_last=60.25, top1_best=60.5, top5_last=88.0, agreement=70.0,
    correlation_distance=0.25, wall_s=800.0, step_ms=30.5, parameters=83892, extra_parameters=0, extra_buffers=0,
    inference_parameters=83892, init_epochs=3, views=1, precision="fp32", changed_settings=("recipe.epochs",),
    code_version="0" * 12, engine_version="1" * 12, commit="2" * 40, clean=False,
    sha256="cd" * 32, versions={"torch": "2.11"}, hardware={"device": "cpu"},
)  # fmt: skip

text = st.text("aé0 ", max_size=4)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(text, inner, max_size=2),
    max_leaves=3,
)
keys = st.sampled_from([*RECORD.to_json(), "checksum", "unknown"])


def test_every_stored_result_is_read_without_loss():
    paths = sorted(RESULTS.rglob("result.json"))
    assert len(paths) > 50
    for path in paths:
        content = read_json(path)
        record = RunRecord.from_json(content)
        assert record.problem is None and record.status is RunStatus.DONE, path
        written = record.to_json()
        assert content is not None and {k: written[k] for k in content if k != "checksum"} == {
            k: v for k, v in content.items() if k != "checksum"
        }
        assert RunRecord.from_json(written) == record


def test_keys_on_disk_keep_their_names():
    content = RECORD.to_json()
    assert content["pre_epochs"] == 3 and content["code"] == "0" * 12 and content["changed"] == ["recipe.epochs"]
    assert content["val_top1_last"] is None  # a measurement that was not made is null, not missing
    assert "imported_from" not in content and "problem" not in content
    assert content.keys() == {
        "status", "role", "dataset", "network", "pair", "teacher", "student", "method", "title", "year", "family",
        "teacher_top1", "teacher_top5", "teacher_sha256", "teacher_run", "seed", "profile", "recipe", "identity",
        "epochs", "top1_last",
        "top1_best", "top5_last", "val_top1_last", "agreement", "correlation_distance", "wall_s", "step_ms",
        "parameters", "extra_parameters", "extra_buffers", "inference_parameters", "pre_epochs", "views", "precision",
        "changed", "code", "engine_version", "commit", "clean", "sha256", "versions", "hardware",
    }  # fmt: skip


@given(st.dictionaries(keys, json_values))
def test_any_content_is_read_and_a_value_of_another_type_counts_as_missing(content):
    record = RunRecord.from_json(content)
    assert RunRecord.from_json(record.to_json()) == record
    assert record.title is None or isinstance(record.title, str)
    for number in (record.top1_last, record.wall_s, record.parameters, record.year):
        assert number is None or (not isinstance(number, bool) and math.isfinite(number) and abs(number) < 1e15)


@given(st.sampled_from([f.name for f in dataclasses.fields(RunRecord) if f.name != "problem"]))
def test_a_record_without_a_field_keeps_the_others(name):
    default = RunRecord.from_json({})
    partial = dataclasses.replace(RECORD, **{name: getattr(default, name)})
    assert RunRecord.from_json(json.loads(json.dumps(partial.to_json()))) == partial


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "its result.json is missing or broken"),
        ({}, "its result.json has no top1_last from 0 to 100, but null"),
        ({"top1_last": True}, "its result.json has no top1_last from 0 to 100, but true"),
        ({"top1_last": 100.5}, "its result.json has no top1_last from 0 to 100, but 100.5"),
        ({"top1_last": "60"}, 'its result.json has no top1_last from 0 to 100, but "60"'),
        ({"top1_last": 60, "checksum": "0" * 16}, "its result.json was changed after it was written"),
        ({"top1_last": 60, "checksum": None}, "its result.json was changed after it was written"),
        ({"top1_last": 60, "checksum": checksum({"top1_last": 60})}, None),
        ({"top1_last": 60}, None),
    ],
)
def test_a_record_names_its_problem(content, problem):
    assert RunRecord.from_json(content).problem == problem


def test_a_written_record_is_read_back_and_a_change_of_the_file_is_noticed(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_record(dataclasses.replace(RECORD, agreement=math.nan))
    assert folder.record == dataclasses.replace(RECORD, agreement=None) and folder.record.problem is None
    path = tmp_path / "result.json"
    path.write_text(path.read_text().replace("60.25", "61.25"))
    assert folder.record.problem == "its result.json was changed after it was written"


def test_reading_a_record_takes_microseconds():
    content = RECORD.to_json() | {"checksum": checksum(RECORD.to_json())}
    started = time.process_time()
    for _ in range(1000):
        RunRecord.from_json(content)
    assert time.process_time() - started < 0.5  # 500 µs each, with room for a slow machine; about 40 are usual


@given(st.none() | st.dictionaries(st.sampled_from(["status", "reason"]), json_values))
def test_any_status_file_is_read(content):
    record = StatusRecord.from_json(content)
    assert record.status is None or record.status == (content or {})["status"]


def test_status_file_holds_status_and_reason(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.status_record == StatusRecord()
    folder.set_status(RunStatus.DIVERGED, "term kd is nan at step 7")
    assert json.loads((tmp_path / "status.json").read_text()) == {
        "status": "diverged",
        "reason": "term kd is nan at step 7",
    }
    assert folder.status_record == StatusRecord(RunStatus.DIVERGED, "term kd is nan at step 7")


def test_config_gives_typed_parts_and_flat_values(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_config(
        {"dataset": {"validation": 0.1}, "recipe": {"milestones": [1, 2]}, "profile": "short", "list": [{"a": 1}]}
    )
    config = folder.config
    assert (config.profile, config.validation, config.recipe) == ("short", 0.1, {"milestones": [1, 2]})
    assert config.flat() == {
        "dataset.validation": 0.1, "recipe.milestones": (1, 2), "profile": "short", "list": ('{"a": 1}',)
    }  # fmt: skip


@pytest.mark.parametrize("content", [None, "[[[", "[1]", "dataset: 3", "profile: {a: 1}"])
def test_a_broken_config_reads_as_empty(tmp_path, content):
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    config = RunConfig.read(tmp_path / "config.yaml")
    assert (config.profile, config.validation, dict(config.method)) == (None, 0.0, {})
