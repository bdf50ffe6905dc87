"""The documentation builds without warnings, and its generated parts are complete."""

import importlib.util
import re
import subprocess
import sys
from types import ModuleType

import pytest

from benchmark.config.files import group_names
from benchmark.runs.record import RunRecord
from tests.conftest import ROOT


def load(name: str) -> ModuleType:
    """Import a module of docs/, which is no package, from its file."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """The hooks that write generated parts of the pages."""
    return load("hooks")


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed")
def test_the_documentation_builds_without_warnings(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    table = (tmp_path / "methods.html").read_text()
    assert all(f"<code>{name}</code>" in table for name in group_names("method"))
    pages = list(tmp_path.rglob("*.html"))
    assert not any("<!-- generated" in page.read_text() for page in pages)
    loaded = re.compile(r'<(?:script|link|img)[^>]*(?:src|href)="https?://')  # fetched when a page opens
    assert not any(loaded.search(page.read_text()) for page in pages)


def test_the_keys_of_result_json_are_documented_with_their_names_on_disk(hooks):
    table = hooks.fields("benchmark/runs/record.py:RunRecord")
    keys = re.findall(r"^\| `(\w+)`", table, re.MULTILINE)
    record = RunRecord.from_json({"top1_last": 50.0})
    assert keys[:3] == ["status", "role", "dataset"] and {"top1_last", *record.to_json()} <= set(keys)
    assert "pre_epochs" in keys and "init_epochs" not in keys and "problem" not in keys
    assert "|  |" not in table, "a field of RunRecord lacks the comment that says what it means"


def test_keys_of_a_yaml_file_are_documented_by_their_dotted_names(hooks):
    table = hooks.yaml_keys("conf/config.yaml")
    assert "| `teacher.cache_gb` | `20.0` |" in table and "| `seeds` | `[0]` |" in table and "defaults" not in table


@pytest.mark.parametrize(
    "path",
    [
        "config",
        "recipe/cifar",
        "tracker/wandb",
        "dataset/cifar100",
        "ablate",
        "plan",
        "tune",
        "speed",
        "analysis",
        "transfer",
    ],
)
def test_every_key_has_a_comment(hooks, path):
    assert "|  |" not in hooks.yaml_keys(f"conf/{path}.yaml")


def test_every_named_list_of_pairs_is_documented(hooks):
    assert all(f"- `{name}` (" in hooks.pair_lists() for name in group_names("pairs"))


def test_parameters_in_docstrings_become_a_list():
    pytest.importorskip("griffe")
    docstring = "Train.\n\nlogits, labels: [N, C] and\n    [N].\nepoch: from 1.\n\nRaises: nothing."
    expected = "Train.\n\n- `logits, labels`: [N, C] and\n    [N].\n- `epoch`: from 1.\n\nRaises: nothing."
    assert load("griffe_lists").as_markdown(docstring) == expected
