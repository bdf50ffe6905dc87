"""Tests of what a result records of the code that made it."""

import json
import subprocess
from pathlib import Path

import pytest

from benchmark.runs import provenance
from benchmark.runs.provenance import WorkingTree, version_of, working_tree
from tests.helpers import bench, plan_of, student_runs


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def repository(tmp_path) -> Path:
    """A repository with one committed file in benchmark/."""
    (tmp_path / "benchmark").mkdir()
    (tmp_path / "benchmark" / "a.py").write_text("x = 1\n")
    git(tmp_path, "init", "-q")
    return tmp_path


def state(root: Path) -> WorkingTree | None:
    working_tree.cache_clear()
    return working_tree(root)


def test_the_commit_and_whether_code_differs_from_it(repository):
    assert state(repository) is None  # nothing is committed yet
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "first")
    commit = git(repository, "rev-parse", "HEAD").strip()
    assert state(repository) == WorkingTree(commit, clean=True)
    (repository / "notes.txt").write_text("outside the code")
    assert state(repository) == WorkingTree(commit, clean=True)
    (repository / "methods").mkdir()
    (repository / "methods" / "mine.py").write_text("a new method")
    assert state(repository) == WorkingTree(commit, clean=False)
    (repository / "methods" / "mine.py").unlink()
    (repository / "benchmark" / "a.py").write_text("x = 2\n")
    assert state(repository) == WorkingTree(commit, clean=False)


def test_without_a_working_tree_or_git_nothing_is_recorded(repository, monkeypatch):
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "first")
    assert state(repository / "benchmark") is None  # not its top folder
    monkeypatch.setenv("PATH", str(repository / "nowhere"))
    assert state(repository) is None


def test_git_is_asked_once_per_process(repository, monkeypatch):
    calls, run = [], subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *words, **more: (calls.append(words), run(*words, **more))[1])
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "first")
    calls.clear()
    assert state(repository) == working_tree(repository) == working_tree(repository)
    assert len(calls) == 1


def test_comments_and_docstrings_do_not_change_the_version_and_statements_do():
    code = {"a.py": '"""Text."""\nx = 1  # one\n', "b.py": "y = 2\n"}
    assert version_of(code) == version_of({"b.py": "y   = 2", "a.py": '"""Another text."""\n\nx = 1\n'})
    assert len({version_of(code), version_of({**code, "b.py": "y = 3"}), version_of({"a.py": code["a.py"]})}) == 3


def test_the_engine_is_what_training_depends_on():
    names = set(provenance._SOURCES)
    assert {"training/trainer.py", "data/loader.py", "networks/resnet.py", "teacher/cache.py", "grid/run.py"} <= names
    assert not any(name.startswith(("commands/", "tables/", "runs/")) for name in names)


def test_a_result_records_the_code_that_was_read_at_the_start(tiny, monkeypatch):
    tree = WorkingTree("a" * 40, clean=False)
    monkeypatch.setattr(provenance, "working_tree", lambda: tree)
    plan, _ = bench([*tiny, "methods=ce", "recipe.epochs=1"])
    for folder in (plan.teachers["resnet14"].folder, student_runs(plan)["ce"].folder):
        result = json.loads((folder.path / "result.json").read_text())
        expected = {"commit": "a" * 40, "clean": False, "engine_version": provenance.engine_version()}
        assert {key: result[key] for key in expected} == expected
    monkeypatch.setattr(provenance, "working_tree", lambda: None)
    assert "kd" in student_runs(bench([*tiny, "methods=ce,kd", "recipe.epochs=1"])[0])
    record = student_runs(plan_of([*tiny, "methods=ce,kd", "recipe.epochs=1"]))["kd"].folder.record
    assert (record.commit, record.clean) == (None, None) and record.engine_version == provenance.engine_version()
