"""Processes that are forked from a server: what they inherit from this process, and not from the server."""

import os
import sys
from pathlib import Path

from benchmark.grid.processes import new_process
from benchmark.grid.progress import Progress
from benchmark.grid.run import execute
from benchmark.grid.training_run import TrainingRun
from tests.helpers import plan_of, untracked


def report(path: Path) -> None:
    path.write_text(f"{os.environ.get('KD_TEST')} {os.environ.get('KD_MORE')} {os.getcwd()} {os.getppid()}")
    print("output")
    print("error", file=sys.stderr)


def run(path: Path, **environment: str) -> list[str]:
    process = new_process(report, (path,), environment=environment)
    process.start()
    process.join()
    assert process.exitcode == 0
    return path.read_text().split()


def test_variables_folder_and_outputs_are_those_of_now(tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("KD_TEST", raising=False)
    first = run(tmp_path / "first")
    assert first[:2] == ["None", "None"] and capfd.readouterr() == ("output\n", "error\n")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    monkeypatch.setenv("KD_TEST", "set later")
    second = run(tmp_path / "second", KD_MORE="more")
    assert second[:4] == ["set", "later", "more", str(tmp_path / "folder")] and capfd.readouterr().err == "error\n"
    assert first[-1] == second[-1] != str(os.getpid()), "both are children of one server"
    assert "KD_MORE" not in os.environ


def test_a_closed_output_is_no_obstacle(tmp_path, capfd):
    saved = os.dup(1)
    os.close(1)
    try:
        assert run(tmp_path / "report")
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def train(run: TrainingRun, path: Path) -> None:
    before = set(sys.modules)
    outcome = execute(run, untracked(path.parent), Progress(1))
    path.write_text("\n".join([outcome.status, *(set(sys.modules) - before)]))


def test_training_imports_no_library_anew(tmp_path):
    """torch imports its compiler at an optimizer's first use, and scikit-learn takes as long: the server has both."""
    plan = plan_of(["profile=quick", "recipe.epochs=1", "threads=1", f"runs={tmp_path / 'runs'}"])
    process = new_process(train, (plan.teachers["resnet20"], tmp_path / "imported"))
    process.start()
    process.join()
    status, *imported = (tmp_path / "imported").read_text().splitlines()
    assert status == "done"
    assert [name for name in imported if name.startswith(("torch._dynamo", "torch._inductor", "sklearn.utils"))] == []
