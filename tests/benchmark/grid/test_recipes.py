"""Whole runs by the recipe of transformers: averaged weights, blended images, methods that have no rule for them."""

import numpy as np
import pytest
import torch

from benchmark.grid.progress import Progress
from benchmark.grid.run import execute
from benchmark.networks import build
from benchmark.training.evaluation import Evaluator
from tests.benchmark.data.layouts import write_imagenet
from tests.benchmark.grid.test_streamed_runs import overrides
from tests.helpers import Killed, KilledAt, bench, same, student_runs, tracking_of, trained

RECIPE = ["recipe=imagenet_vit", "recipe.epochs=3", "recipe.batch_size=4", "recipe.lr=1e-3", "recipe.warmup_epochs=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_imagenet(folder / "imagenet", train=5)
    return folder


@pytest.fixture(scope="module")
def planned(tmp_path_factory, data):
    pytest.importorskip("timm")
    words = overrides(tmp_path_factory.mktemp("runs"), data, "dataset.size=64", "methods=ce,kd,dkd,crd,mlld,loca,dot")
    plan, outcomes = bench([*words, *RECIPE, "pair=timm/test_resnet-timm/test_vit", "recipe.ema_decay=0.9"])
    return plan, {outcome.name.split()[-3]: outcome for outcome in outcomes if "seed" in outcome.name}


@pytest.fixture
def plan(planned):
    return planned[0]


def test_methods_with_a_rule_for_blended_images_are_trained_and_others_say_why(planned):
    outcomes = planned[1]
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        "ce": "done", "kd": "done", "dkd": "done",
        "crd": "skipped", "mlld": "skipped", "loca": "skipped", "dot": "skipped",
    }  # fmt: skip
    reasons = {name: outcome.reason for name, outcome in outcomes.items()}
    assert "its memory holds an embedding of each image" in reasons["crd"]
    assert "it compares two views of an image" in reasons["mlld"]
    assert "it corrects teachers by the label" in reasons["loca"]
    assert "its optimizer steps are its own, to which recipe.optimizer does not apply" in reasons["dot"]


def test_an_interrupted_run_resumes_to_the_bit_with_its_averaged_weights(plan, tmp_path):
    run = student_runs(plan)["kd"]
    expected = trained(run.folder)
    (run.folder.path / "result.json").unlink()
    for path in run.folder.path.iterdir():
        if path.is_file():
            path.unlink()
    with pytest.raises(Killed):
        execute(run, tracking_of(plan), KilledAt(3))
    state = torch.load(run.folder.checkpoint, weights_only=True)["trainer"]
    assert not torch.equal(state["average"]["model.head.weight"], state["network"]["model.head.weight"])
    assert execute(run, tracking_of(plan), Progress(1)).status == "done"
    assert same(trained(run.folder), expected)


def test_the_kept_weights_are_those_that_were_evaluated(plan):
    run = student_runs(plan)["ce"]
    network = build(run.network, 3, 64)
    network.load_state_dict(torch.load(run.folder.weights, weights_only=True))
    measures, logits = Evaluator(plan.dataset, None, "cpu", "fp32").test(network, 1)
    with np.load(run.folder.test_outputs) as saved:
        assert np.allclose(logits.numpy(), saved["logits"], atol=1e-5)
    assert measures["test_top1"] == run.folder.record.top1_last
    assert not (run.folder.path / "method.pt").exists()


def test_the_rates_of_the_epochs_are_recorded(plan):
    """A warm-up of one epoch from 5e-7, then a cosine over 3 epochs from 1e-3 to 1e-6, of which one epoch is over."""
    rates = [line["lr"] for line in student_runs(plan)["ce"].folder.metrics()]
    assert rates == pytest.approx([5e-7, 1e-6 + 0.75 * (1e-3 - 1e-6), 1e-6 + 0.25 * (1e-3 - 1e-6)])
