"""That a step's forward pass and the evaluation keep to one device, told by tensors that have one and no content.

A tensor left on the CPU beside those on a GPU is an error there, and so is a number that is read from it.
"""

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from benchmark import networks
from benchmark.config import compose as configs
from benchmark.data import datasets as data
from benchmark.training.evaluation import Evaluator, autocast
from methods import load, options
from methods.contract import Batch, Context, Needs, UnsupportedPair, total

CLASSES, IMAGES, SIZE = 100, 2_000, 32
COUNTS = ("crd", "crd_kd")  # count the labels while they are built, which needs their content


@pytest.mark.parametrize(("pair", "precision"), [("resnet32x4-resnet8x4", "fp32"), ("wrn40_2-ShuffleV1", "bf16")])
@pytest.mark.parametrize("name", [n for n in configs.group("method") if n not in COUNTS])
def test_a_step_keeps_to_its_device(name, pair, precision):
    chosen = configs.method(name, pair, ["profile=paper"])
    kind, student_and_teacher = load(chosen.implementation), networks.split_pair(pair)[::-1]
    with torch.device("meta"):
        shapes = [networks.shapes(networks.build(n, CLASSES), SIZE) for n in student_and_teacher]
    values = {k: v for k, v in chosen.resolved().items() if k not in ("name", "implementation")}
    with FakeTensorMode(), torch.device("cuda"):
        context = Context(CLASSES, *shapes, torch.randint(CLASSES, (IMAGES,)), 240)
        try:
            method = kind(options(kind.Options, values), context)
        except UnsupportedPair as reason:
            pytest.skip(str(reason))
        student, teacher = (networks.build(n, CLASSES) for n in student_and_teacher)
        for epoch in (1 - method.pre_epochs, 1):
            method.begin(epoch)
            needs = method.student_needs | Needs(logits=True), method.teacher_needs
            places = torch.randint(IMAGES, (16,), device="cpu")
            second = torch.rand(16, 3, SIZE, SIZE) if method.second_view else None
            batch = Batch(
                torch.rand(16, 3, SIZE, SIZE), torch.randint(CLASSES, (16,)), torch.randint(IMAGES, (16,)),
                places, epoch, None, second, places,
            )  # fmt: skip
            given = []
            for network, wanted in zip((student, teacher), needs, strict=True):
                with autocast("cuda", precision):
                    outputs = network(batch.images, wanted)
                    if second is not None:
                        outputs.second = network(second, wanted)
                given.append(outputs.only(wanted))
            loss = total(method.losses(*given, batch))
            method.after_step()
            assert loss.device.type == "cuda" and loss.shape == () and loss.dtype == torch.float32


def test_the_evaluation_keeps_to_its_device(monkeypatch):
    dataset = data.load(configs.load(["dataset=digits", "dataset.validation=0.1"]).dataset, Path())
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: 0.5)  # a measure is read, of tensors without content
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda tensor: True)  # all logits are finite
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            network = networks.build("resnet8", dataset.classes)
        teacher_logits = torch.rand(len(dataset.test.labels), dataset.classes)
        found, logits = Evaluator(dataset, teacher_logits, "cuda", "bf16")(network, 1)
    assert found.keys() == {"test_top1", "test_top5", "val_top1", "agreement", "correlation_distance"}
    assert logits.device.type == "cuda" and logits.dtype == torch.float32


def test_a_tensor_on_the_cpu_is_noticed():
    with FakeTensorMode():
        given = torch.rand(3, device="cuda")
        with pytest.raises(RuntimeError, match=r"same device|different devices"):
            given + torch.rand(3)
        with pytest.raises(DataDependentOutputException):
            given.sum().item()
