"""Whole runs of methods with an initialization stage, layers kept at inference, or two parts; unsupported pairs."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from benchmark import networks
from benchmark.__main__ import main
from benchmark.data import datasets
from benchmark.grid.progress import Progress
from benchmark.grid.run import execute
from benchmark.runs.folder import RunFolder
from methods.contract import Needs
from methods.simkd import Projector
from tests.helpers import Killed, bench, plan_of, same, student_runs, tracking_of, trained

INITIALIZED = ["methods=ft", "ft.init_epochs=2.5"]  # rounded up to three epochs


def epochs(folder: RunFolder) -> list[int]:
    return [line["epoch"] for line in folder.metrics()]


class KilledBeforeCheckpoint(Progress):
    """Interrupts a run when the metrics of an epoch are written and its checkpoint is not."""

    last_epoch: int

    def epoch(self, line: Mapping[str, Any]) -> None:
        if line["epoch"] == self.last_epoch:
            raise Killed


def test_an_initialization_stage_is_trained_and_resumed_bit_for_bit(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmark.grid.run.CHECKPOINT_SHARE", math.inf)  # a checkpoint after every epoch
    plan, _ = bench([*tiny, *INITIALIZED])
    folder = student_runs(plan)["ft"].folder
    whole = trained(folder)
    assert epochs(folder) == [-2, -1, 0, 1, 2]
    for line in folder.metrics():
        initial = line["epoch"] < 1
        assert ("loss/paraphrase" in line) == initial
        assert ("loss/ce" in line) == ("loss/ft" in line) == (not initial)
        assert not initial or line["lr"] == plan.config.recipe.lr
    assert folder.record.init_epochs == 3 and folder.record.epochs == 2

    plan = plan_of([*tiny, *INITIALIZED, f"runs={tmp_path / 'again'}"])
    tracking = tracking_of(plan)
    assert execute(plan.teachers["resnet14"], tracking, Progress(2)).status == "done"
    (run,) = plan.students("resnet14")
    for last_epoch, saved in ((-1, -2), (0, -1), (1, 0)):  # twice within the stage, and right after it
        progress = KilledBeforeCheckpoint(1)
        progress.last_epoch = last_epoch
        with pytest.raises(Killed):
            execute(run, tracking, progress)
        checkpoint = torch.load(run.folder.checkpoint, weights_only=True)
        assert checkpoint["epoch"] == saved and epochs(run.folder)[-1] == last_epoch
    assert execute(run, tracking, Progress(1)).status == "done"
    assert same(trained(run.folder), whole)


def test_layers_kept_at_inference_are_evaluated_and_saved(tiny, tmp_path):
    plan, _ = bench([*tiny, "methods=simkd", "recipe.epochs=6"])
    folder, teacher_folder = student_runs(plan)["simkd"].folder, plan.teachers["resnet14"].folder
    dataset = datasets.load(plan.config.dataset, tmp_path)
    teacher, student = (networks.build(name, dataset.classes) for name in ("resnet14", "resnet8"))
    teacher.load_state_dict(torch.load(teacher_folder.weights, weights_only=True))
    student.load_state_dict(torch.load(folder.weights, weights_only=True))
    student_map = networks.output_shapes("resnet8", dataset.classes, 16).stages[-1]
    projector = Projector(student_map, networks.output_shapes("resnet14", dataset.classes, 16).last_map, 2)
    state = torch.load(folder.method_state, weights_only=True)
    projector.load_state_dict({k.removeprefix("projector."): v for k, v in state.items()})
    for module in (teacher, student, projector):
        module.eval()
    with torch.no_grad():
        images = datasets.normalize(dataset.test.images, dataset.config)
        outputs = student(images, Needs(logits=True, maps=[3]))
        logits = teacher.fc(projector(outputs.maps[3]).mean((2, 3)))
    hits = (logits.argmax(1) == dataset.test.labels).float()
    record = folder.record
    assert record.top1_last == folder.metrics()[-1]["test_top1"]
    assert record.top1_last == pytest.approx(100 * hits.mean().item(), abs=1e-4)
    saved = torch.from_numpy(np.load(folder.test_outputs)["logits"])
    torch.testing.assert_close(saved, logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(saved, outputs.logits, atol=0.1), "the student's own classifier is another"
    layers = sum(p.numel() for p in projector.parameters())
    student_head, teacher_head = (sum(p.numel() for p in network.fc.parameters()) for network in (student, teacher))
    assert record.extra_parameters == layers
    assert record.inference_parameters == record.parameters - student_head + layers + teacher_head


def test_a_method_without_layers_at_inference_saves_none(tiny):
    plan, _ = bench([*tiny, "methods=fitnet", "recipe.epochs=1"])
    folder = student_runs(plan)["fitnet"].folder
    assert not folder.method_state.exists()
    assert folder.record.extra_parameters > 0
    assert folder.record.inference_parameters == folder.record.parameters


def test_a_run_on_an_unsupported_pair_is_skipped_with_the_reason(tiny, capfd):
    overrides = [*tiny, "pair=wrn16_2-resnet8", "methods=ce,fsp", "recipe.epochs=1"]
    reason = "FSP needs equal channels in all stages: [16, 16, 32, 64] (student), [16, 32, 64, 128] (teacher)"
    assert main(["plan", *overrides]) == 0
    assert f"wrn16_2-resnet8 fsp: n/a: {reason}" in capfd.readouterr().out
    assert main(overrides) == 0
    out, err = capfd.readouterr()
    assert f"n/a: wrn16_2-resnet8 fsp seed 0: {reason}" in err and "not finished" not in err
    assert any("FSP" in line and "n/a" in line for line in out.splitlines())
    runs = student_runs(plan_of(overrides))
    assert runs["ce"].folder.done
    assert runs["fsp"].folder.status == "skipped" and runs["fsp"].folder.record.problem
    assert reason in json.loads((runs["fsp"].folder.path / "status.json").read_text()).values()
    assert main(overrides) == 0, "nothing is left to do"


def test_a_command_whose_runs_are_all_unsupported_ends_with_one_line(tiny, tmp_path, capsys):
    assert main([*tiny, "pair=wrn16_2-resnet8", "methods=fsp"]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: fsp on wrn16_2-resnet8: FSP needs equal channels") and len(err.splitlines()) == 1
    assert out == "" and not (tmp_path / "runs").exists()


def test_a_combination_has_the_terms_of_both_parts(tiny):
    """In an epoch of one step all start alike: terms equal those of the parts alone, and the loss is their sum."""
    overrides = [*tiny, "methods=crd,kd,crd_kd", "recipe.epochs=1", "recipe.batch_size=48"]
    plan, outcomes = bench([*overrides, "crd.negatives=8", "crd_kd.crd.negatives=8"])
    assert [o.status for o in outcomes] == ["done"] * 3
    crd, kd, both = (student_runs(plan)[name].folder.metrics()[0] for name in ("crd", "kd", "crd_kd"))
    terms = {k.removeprefix("loss/") for k in both if k.startswith("loss/")}
    assert terms == {"ce", "crd_student", "crd_teacher", "kd"}
    for name, alone in (("ce", crd), ("crd_student", crd), ("crd_teacher", crd), ("kd", kd)):
        assert both[f"loss/{name}"] == pytest.approx(alone[f"loss/{name}"], rel=1e-5)
    # one cross-entropy, CRD's, and KD's term at its full weight
    assert both["loss"] == pytest.approx(crd["loss"] + kd["loss/kd"], rel=1e-5)
    assert both["loss"] == pytest.approx(sum(both[f"weighted/{name}"] for name in terms), rel=1e-5)


@pytest.mark.parametrize("name", ["gkl", "wkd_l", "kdpp"])
def test_statistics_of_the_teacher_survive_an_interruption(tiny, tmp_path, monkeypatch, name):
    """Methods that keep what they saw of the teacher in earlier epochs, or before training, in buffers."""
    monkeypatch.setattr("benchmark.grid.run.CHECKPOINT_SHARE", math.inf)
    overrides = [*tiny, f"methods={name}", "recipe.epochs=4"]
    plan, _ = bench(overrides)
    whole = trained(student_runs(plan)[name].folder)
    plan = plan_of([*overrides, f"runs={tmp_path / 'again'}"])
    tracking = tracking_of(plan)
    assert execute(plan.teachers["resnet14"], tracking, Progress(2)).status == "done"
    (run,) = plan.students("resnet14")
    for last_epoch in (1, 3):  # before the first checkpoint, and with one after epoch 2
        progress = KilledBeforeCheckpoint(1)
        progress.last_epoch = last_epoch
        with pytest.raises(Killed):
            execute(run, tracking, progress)
    assert execute(run, tracking, Progress(1)).status == "done"
    assert same(trained(run.folder), whole)
