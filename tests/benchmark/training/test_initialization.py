"""From end to end what a few methods need beyond the others: a first stage, layers kept at inference, two methods at
once, and cells that cannot be."""

import json
import math

import numpy as np
import pytest
import torch

from benchmark import networks
from benchmark.__main__ import main
from benchmark.config import compose as configs
from benchmark.data import datasets as data
from benchmark.data.datasets import normalize
from benchmark.grid import plan as grid
from benchmark.grid.progress import Progress
from benchmark.grid.run import execute
from benchmark.networks import shapes
from benchmark.runs.tracking import Tracking
from methods.contract import Needs
from methods.simkd import Projector
from tests.helpers import Killed, bench, same, trained
from tests.helpers import student_runs as cells

FIRST_STAGE = ["methods=ft", "ft.init_epochs=2.5"]  # three epochs: it is rounded up


def epochs(run) -> list[int]:
    return [line["epoch"] for line in run.metrics()]


def test_a_first_stage_is_trained_killed_and_resumed_bit_for_bit(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmark.grid.run.CHECKPOINT_SHARE", math.inf)  # a checkpoint after every epoch
    plan, _ = bench([*tiny, *FIRST_STAGE])
    run = cells(plan)["ft"].folder
    whole = trained(run)
    assert epochs(run) == [-2, -1, 0, 1, 2]
    for line in run.metrics():
        first = line["epoch"] < 1
        assert ("loss/paraphrase" in line) == first and ("loss/ce" in line) == ("loss/ft" in line) == (not first)
        assert not first or line["lr"] == plan.config.recipe.lr
    assert run.record.init_epochs == 3 and run.record.epochs == 2

    again = [*tiny, *FIRST_STAGE, f"runs={tmp_path / 'again'}"]
    config = configs.load(again)
    plan = grid.make_plan(config, again)
    tracking = Tracking(config.tracker, plan.settings.runs)
    assert execute(plan.teachers["resnet14"], tracking, Progress(2)).status == "done"
    (cell,) = plan.students("resnet14")

    class Stop(Progress):
        """Stops where the metrics of an epoch are written, and its checkpoint is not."""

        at = -1

        def epoch(self, line):
            if line["epoch"] == self.at:
                raise Killed

    for at, saved in ((-1, -2), (0, -1), (1, 0)):  # twice within the first stage, and right after it
        Stop.at = at
        with pytest.raises(Killed):
            execute(cell, tracking, Stop(1))
        assert torch.load(cell.folder.checkpoint, weights_only=True)["epoch"] == saved and epochs(cell.folder)[-1] == at
    assert execute(cell, tracking, Progress(1)).status == "done"
    assert same(trained(cell.folder), whole)


def test_what_is_evaluated_is_the_student_with_the_layers_that_are_kept(tiny, tmp_path):
    plan, _ = bench([*tiny, "methods=simkd", "recipe.epochs=6"])
    run, teacher_run = cells(plan)["simkd"].folder, plan.teachers["resnet14"].folder
    dataset = data.load(plan.config.dataset, tmp_path)
    teacher, student = (networks.build(name, dataset.classes) for name in ("resnet14", "resnet8"))
    teacher.load_state_dict(torch.load(teacher_run.weights, weights_only=True))
    student.load_state_dict(torch.load(run.weights, weights_only=True))
    projector = Projector(shapes(student, 16).stages[-1], shapes(teacher, 16).final, 2)
    kept = torch.load(run.path / "method.pt", weights_only=True)
    projector.load_state_dict({k.removeprefix("projector."): v for k, v in kept.items()})
    for module in (teacher, student, projector):
        module.eval()
    with torch.no_grad():
        given = student(normalize(dataset.test.images, dataset.config), Needs.of(logits=True, maps=[3]))
        logits = teacher.fc(projector(given.maps[3]).mean((2, 3)))
    hits = (logits.argmax(1) == dataset.test.labels).float()
    assert run.record.top1_last == run.metrics()[-1]["test_top1"] == pytest.approx(100 * hits.mean().item(), abs=1e-4)
    saved = torch.from_numpy(np.load(run.test_outputs)["logits"])
    torch.testing.assert_close(saved, logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(saved, given.logits, atol=0.1)  # the student's own classifier is another
    layers = sum(p.numel() for p in projector.parameters())
    assert run.record.extra_parameters == layers
    classifiers = [sum(p.numel() for p in network.fc.parameters()) for network in (student, teacher)]
    assert run.record.inference_parameters == run.record.parameters - classifiers[0] + layers + classifiers[1]


def test_a_method_whose_student_stands_alone_keeps_nothing(tiny):
    plan, _ = bench([*tiny, "methods=fitnet", "recipe.epochs=1"])
    run = cells(plan)["fitnet"].folder
    assert not (run.path / "method.pt").exists()
    assert run.record.extra_parameters > 0
    assert run.record.inference_parameters == run.record.parameters


def test_a_cell_that_cannot_be_is_skipped_with_its_reason(tiny, capfd):
    overrides = [*tiny, "pair=wrn16_2-resnet8", "methods=ce,fsp", "recipe.epochs=1"]
    reason = "FSP needs equal channels in all stages: [16, 16, 32, 64] (student), [16, 32, 64, 128] (teacher)"
    assert main(["plan", *overrides]) == 0
    assert f"wrn16_2-resnet8 fsp: n/a: {reason}" in capfd.readouterr().out
    assert main(overrides) == 0
    out, err = capfd.readouterr()
    assert f"n/a: wrn16_2-resnet8 fsp seed 0: {reason}" in err and "not finished" not in err
    assert any("FSP" in line and "n/a" in line for line in out.splitlines())
    found = cells(grid.make_plan(configs.load(overrides), overrides))
    assert found["ce"].folder.done
    assert found["fsp"].folder.status == "skipped" and found["fsp"].folder.record.problem
    status = json.loads((found["fsp"].folder.path / "status.json").read_text())
    assert reason in status.values()
    assert main(overrides) == 0  # nothing is left to do


def test_a_command_without_a_cell_that_can_be_ends_with_one_line(tiny, tmp_path, capsys):
    assert main([*tiny, "pair=wrn16_2-resnet8", "methods=fsp"]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: fsp on wrn16_2-resnet8: FSP needs equal channels") and len(err.splitlines()) == 1
    assert out == "" and not (tmp_path / "runs").exists()


def test_two_methods_at_once_have_the_terms_of_both(tiny):
    """In an epoch of one step all begin alike: the terms are those of the parts alone, and the loss is their sum."""
    overrides = [*tiny, "methods=crd,kd,crd_kd", "recipe.epochs=1", "recipe.batch_size=48"]
    plan, outcomes = bench([*overrides, "crd.negatives=8", "crd_kd.crd.negatives=8"])
    assert [o.status for o in outcomes] == ["done"] * 3
    crd, kd, both = (cells(plan)[name].folder.metrics()[0] for name in ("crd", "kd", "crd_kd"))
    terms = {k.removeprefix("loss/") for k in both if k.startswith("loss/")}
    assert terms == {"ce", "crd_student", "crd_teacher", "kd"}
    for name, alone in (("ce", crd), ("crd_student", crd), ("crd_teacher", crd), ("kd", kd)):
        assert both[f"loss/{name}"] == pytest.approx(alone[f"loss/{name}"], rel=1e-5)
    # one cross-entropy, CRD's, and KD's term at its full weight
    expected = crd["loss"] + kd["loss/kd"]
    assert both["loss"] == pytest.approx(expected, rel=1e-5)
    assert both["loss"] == pytest.approx(sum(both[f"weighted/{name}"] for name in terms), rel=1e-5)
