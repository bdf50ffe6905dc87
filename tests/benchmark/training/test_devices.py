"""Steps and evaluations keep to one device, checked with tensors that have a device and no content.

An operation on tensors of two devices is an error, and so is reading a number from a tensor.
"""

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from benchmark import networks
from benchmark.config.compose import load_config, load_method
from benchmark.config.files import group_names
from benchmark.data import datasets
from benchmark.training.evaluation import Evaluator, autocast
from methods import load
from methods.contract import Batch, Context, Needs, Outputs, Shapes, UnsupportedPair, weighted_sum

CLASSES, SAMPLES, SIZE = 100, 2_000, 16
COUNTS_LABELS = ("crd", "crd_kd")  # they read the labels' content when they are built
# pairs and precisions; the second is for methods that need maps of equal shapes
PAIRS = {"wrn10_2-vgg8": "bf16", "resnet14-resnet8": "fp32"}


def pair_shapes(pair: str) -> list[Shapes]:
    """Return the shapes of student and teacher."""
    return [networks.output_shapes(name, CLASSES, SIZE) for name in reversed(networks.split_pair(pair))]


def supports(name: str, pair: str) -> bool:
    config = load_method(name, pair, ["profile=paper"])
    try:
        load(config.implementation).requirements(config.options, *pair_shapes(pair))
    except UnsupportedPair:
        return False
    return True


def make_batch(epoch: int, views: int) -> Batch:
    images = [torch.rand(16, 3, SIZE, SIZE) for _ in range(views)]
    indices_cpu = torch.randint(SAMPLES, (16,), device="cpu")
    labels, indices = torch.randint(CLASSES, (16,)), torch.randint(SAMPLES, (16,))
    return Batch(images, labels, indices, epoch, torch.Generator(), indices_cpu, [indices_cpu] * views)


def run_views(network: networks.Network, images: list[torch.Tensor], needs: Needs, precision: str) -> Outputs:
    with autocast("cuda", precision):
        weak, *others = (network(x, needs) for x in images)
    weak.further_views = others
    return weak


@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.parametrize("name", [name for name in group_names("method") if name not in COUNTS_LABELS])
def test_a_step_keeps_to_its_device(name):
    pair, precision = next((pair, precision) for pair, precision in PAIRS.items() if supports(name, pair))
    config = load_method(name, pair, ["profile=paper"])
    teacher_name, student_name = networks.split_pair(pair)
    shapes = pair_shapes(pair)
    with FakeTensorMode(), torch.device("cuda"):
        student, teacher = (networks.build(n, CLASSES) for n in (student_name, teacher_name))
        method_class = load(config.implementation)
        requires = method_class.requirements(config.options, *shapes)
        batch_norms = networks.batch_norm_parameters(teacher, requires.batch_norms)
        context = Context(CLASSES, *shapes, torch.randint(CLASSES, (SAMPLES,)), 240, batch_norms)
        method = method_class(config.options, context)
        for epoch in {1 - requires.init_epochs, 1}:
            student_needs, teacher_needs = requires.needs(epoch)
            batch = make_batch(epoch, requires.views)
            outputs = run_views(student, batch.images, student_needs | Needs(logits=True), precision)
            with torch.no_grad():
                teacher_outputs = run_views(teacher, batch.images, teacher_needs, precision)
            terms = method.losses(outputs.select(student_needs), teacher_outputs.select(teacher_needs), batch)
            loss = weighted_sum(terms)
            method.on_step_end()
            assert loss.device.type == "cuda" and loss.shape == () and loss.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_an_evaluation_keeps_to_its_device(monkeypatch):
    dataset = datasets.load(load_config(["dataset=digits", "dataset.validation=0.1"]).dataset, Path())
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: 0.5)  # metrics are read from tensors without content
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda tensor: True)  # all logits are finite
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            network = networks.build("resnet8", dataset.classes)
        teacher_logits = torch.rand(len(dataset.test.labels), dataset.classes)
        evaluator = Evaluator(dataset, teacher_logits, "cuda", "bf16")
        epoch_measures, _ = evaluator(network, 1)
        measures, logits = evaluator.test(network, 1)
    assert epoch_measures.keys() == {"val_top1", "val_top5"}
    assert measures.keys() == {"test_top1", "test_top5", "agreement", "correlation_distance"}
    assert logits.device.type == "cuda" and logits.dtype == torch.float32


def test_a_tensor_on_the_cpu_and_a_read_number_are_errors():
    with FakeTensorMode():
        tensor = torch.rand(3, device="cuda")
        with pytest.raises(RuntimeError, match=r"same device|different devices"):
            tensor + torch.rand(3)
        with pytest.raises(DataDependentOutputException):
            tensor.sum().item()
