"""Tests of the folders of students alone, today's and those under a pair."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark.runs.students import finished_under_a_pair, identity_without_teacher, is_student_alone

CONFIG: dict[str, Any] = {
    "role": "student", "dataset": {"name": "digits"}, "student": "resnet8", "method": {"name": "ce"},
    "recipe": {"epochs": 2, "lr": 0.02}, "seed": 1,
}  # fmt: skip


def write(root: Path, pair: str, status: str = "done", seed: int = 1, **changes: Any) -> str:
    """Write a run under a pair by hand; returns its folder relative to the root."""
    relative = f"digits/{pair}/ce/0123456789ab/seed={seed}"
    folder = root / relative
    folder.mkdir(parents=True)
    config = CONFIG | {"teacher": {"network": pair.split("-")[0], "sha256": "ab" * 32}, "seed": seed} | changes
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "status.json").write_text(json.dumps({"status": status}))
    (folder / "result.json").write_text(json.dumps({"top1_last": 50.0, "sha256": "cd" * 32}))
    (folder / "weights.pt").touch()
    return relative


def test_the_identity_without_the_teacher_is_that_of_the_config_without_it():
    """Against the SHA-256 of the JSON, computed by hand."""
    text = (
        '{"dataset":{"name":"digits"},"method":{"name":"ce"},"recipe":{"epochs":2,"lr":0.02},"role":"student",'
        '"student":"resnet8"}'
    )
    assert identity_without_teacher(CONFIG) == hashlib.sha256(text.encode()).hexdigest()[:12]
    taught = {**CONFIG, "teacher": {"network": "resnet20", "sha256": "ab" * 32}, "seed": 7}
    assert identity_without_teacher(taught) == identity_without_teacher(CONFIG)
    assert identity_without_teacher({**CONFIG, "student": "resnet14"}) != identity_without_teacher(CONFIG)


@pytest.mark.parametrize(
    ("pair", "method", "alone"),
    [("resnet8", "ce", True), ("resnet8", "mine", True), ("resnet20-resnet8", "ce", True), ("a-b", "kd", False)],
)
def test_students_alone_are_told_by_their_folder(pair, method, alone):
    assert is_student_alone(pair, method) == alone


def test_the_first_finished_run_of_the_same_config_and_seed_is_found(tmp_path):
    assert finished_under_a_pair(tmp_path, CONFIG) is None
    write(tmp_path, "resnet14-resnet8", status="running")
    write(tmp_path, "resnet20-resnet8", recipe={"epochs": 3, "lr": 0.02})
    write(tmp_path, "resnet32-resnet8", seed=2)
    write(tmp_path, "resnet8-resnet14")
    assert finished_under_a_pair(tmp_path, CONFIG) is None
    first = write(tmp_path, "resnet44-resnet8")
    write(tmp_path, "resnet56-resnet8")
    assert finished_under_a_pair(tmp_path, CONFIG) == first
    assert finished_under_a_pair(tmp_path, {**CONFIG, "method": {"name": "mine"}}) is None
