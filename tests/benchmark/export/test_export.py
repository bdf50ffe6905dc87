"""Exported students classify as they did when they were trained: their logits are those of the run's test outputs."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.__main__ import main
from benchmark.commands import export as command
from benchmark.export import files, load
from benchmark.runs.folder import RunFolder
from benchmark.runs.weights import load_weights, save
from tests.conftest import FINISHED, ROOT, tiny_overrides
from tests.helpers import bench

pytest.importorskip("safetensors")
pytest.importorskip("onnxscript")
METHODS = ("kd", "simkd")  # without and with layers that inference keeps


@pytest.fixture(scope="module")
def exported(tmp_path_factory, trained_runs) -> Path:
    """A folder with runs/ and their exports/."""
    folder = tmp_path_factory.mktemp("exported")
    shutil.copytree(trained_runs, folder / "runs")
    bench([*tiny_overrides(folder), *FINISHED, "methods=simkd"])
    assert main(["export", f"runs={folder / 'runs'}", f"exports={folder / 'exports'}", "method=kd,simkd"]) == 0
    return folder


def run_of(folder: Path, method: str) -> RunFolder:
    """Return the run of a method."""
    (path,) = (folder / "runs").glob(f"npz/*/{method}/*/seed=0")
    return RunFolder(path)


def export_of(folder: Path, method: str) -> Path:
    """Return the exported folder of a method."""
    (path,) = (folder / "exports").glob(f"npz-resnet14-resnet8-{method}-*-seed0")
    return path


def images_and_logits(folder: Path, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the test images [N, 3, H, W] from 0 to 1, and the logits [N, C] that training recorded for them."""
    with np.load(folder / "tiny.npz") as data:
        images = data["x_test"].transpose(0, 3, 1, 2).astype(np.float32) / 255
    with np.load(run_of(folder, method).test_outputs) as outputs:
        return images, outputs["logits"]


@pytest.mark.parametrize("method", METHODS)
def test_a_loaded_export_has_the_logits_of_the_run(exported, method):
    images, logits = images_and_logits(exported, method)
    model = load(export_of(exported, method))
    with torch.no_grad():
        np.testing.assert_allclose(model(torch.from_numpy(images)).numpy(), logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1, 30])
def test_onnx_has_the_logits_of_the_run(exported, method, size):
    onnxruntime = pytest.importorskip("onnxruntime")
    images, logits = images_and_logits(exported, method)
    session = onnxruntime.InferenceSession(export_of(exported, method) / "model.onnx")
    (outputs,) = session.run(None, {"images": images[:size]})
    np.testing.assert_allclose(outputs, logits[:size], rtol=1e-3, atol=1e-4)


def test_the_model_card_says_what_the_model_is(exported):
    folder, record = export_of(exported, "kd"), run_of(exported, "kd").record
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "config.json", "model.onnx", "model.safetensors",
    ]  # fmt: skip
    card = (folder / "README.md").read_text()
    assert "# resnet8, KD, taught by resnet14, on npz" in card
    for text in (f"{record.top1_last:.2f} % (test set)", record.identity, record.sha256, "resnet14-resnet8"):
        assert f"| {text} |" in card
    assert re.search(r"\| method: temperature \| 4.0 +\|", card) and re.search(r"\| recipe: epochs \| 1 +\|", card)


@pytest.mark.parametrize("page", ["card", "docs"])
def test_the_lines_that_load_a_model_run(exported, page, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    path = export_of(exported, "kd")
    monkeypatch.chdir(path.parent if page == "card" else exported)
    text = (path / "README.md" if page == "card" else ROOT / "docs" / "export.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        assert len(block.replace("\n\n", "\n").splitlines()) == 5
        code = re.sub(r"exports/cifar100[\w-]+", f"exports/{path.name}", block).replace("32, 32", "16, 16")
        exec(code, {})
    assert len(capsys.readouterr().out.splitlines()) >= 2


# ------------------------------------------------------------ what cannot be exported


@pytest.fixture
def runs(exported, tmp_path) -> Path:
    """A copy of the runs that the test may change."""
    shutil.copytree(exported / "runs", tmp_path / "runs")
    return tmp_path


def export(folder: Path, *words: str) -> int:
    """Run the command on the runs of a folder."""
    return main(["export", f"runs={folder / 'runs'}", f"exports={folder / 'exports'}", *words])


def test_a_run_without_weights_is_named_in_a_line(runs, capsys):
    folder = run_of(runs, "kd")
    folder.weights.unlink()
    for words in (["method=kd"], [f"run={folder.path}"]):
        assert export(runs, *words) == 2
        assert f"{folder.path}: it has no weights (weights.pt)" in capsys.readouterr().err
    assert not (runs / "exports").exists()


def test_other_weights_than_those_recorded_are_refused(runs, capsys):
    folder = run_of(runs, "kd")
    weights = load_weights(folder.weights)
    save(folder.weights, {name: tensor + 1 for name, tensor in weights.items()})
    assert export(runs, "method=kd") == 1
    assert capsys.readouterr().err.count("is not what the run has recorded") == 1
    assert list(runs.glob("exports/*")) == []


def test_a_missing_teacher_is_named(runs, capsys):
    shutil.rmtree(runs / "runs" / "npz" / "teachers")
    assert export(runs, "method=simkd") == 1
    assert "teachers" in capsys.readouterr().err


def test_an_export_appears_when_it_is_complete(runs, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_write_onnx", full)
    assert export(runs, "method=kd") == 2
    assert list(runs.glob("exports/.*")) == list(runs.glob("exports/*")) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=dkd"], "no finished runs with weights"),
        (["pair=resnet20-resnet8", "method=kd"], "no finished runs with weights"),
        (["seeds=1"], "no finished runs with weights"),
        (["run=nowhere"], "there is no such folder"),
        (["methods=kd"], "unknown key 'methods'; did you mean method"),
    ],
)
def test_a_choice_without_runs_is_refused(exported, words, message, capsys):
    assert export(exported, *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_student_alone_belongs_to_its_pairs(exported):
    options = command.load_export([f"runs={exported / 'runs'}", "pair=resnet14-resnet8", "seeds=0"])
    assert [folder.record.method for folder in command.chosen_runs(options)] == ["kd", "simkd", "ce"]


def test_missing_packages_are_named_with_their_extra(exported, monkeypatch, capsys):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    assert export(exported) == 2
    assert "pip install 'kd-benchmark[export]'" in capsys.readouterr().err
