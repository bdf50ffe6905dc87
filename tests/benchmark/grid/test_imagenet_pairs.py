"""Every method on pairs of timm's networks: it takes two training steps, or says why the pair is unsupported."""

import math
from types import SimpleNamespace

import pytest
import torch

from benchmark import networks
from benchmark.data.datasets import Split
from benchmark.data.loader import Loader
from benchmark.grid.build import build_method
from benchmark.networks import build
from benchmark.teacher.outputs import TeacherOutputs
from benchmark.training.trainer import Schedule, Trainer
from methods.contract import UnsupportedPair
from methods.options import identity_values
from tests.methods.conftest import NAMES, make_options, read_yaml  # noqa: F401

CLASSES, SIZE, IMAGES, BATCH = 6, 64, 12, 6
# timm's small networks for tests
CNN, VIT = "timm/test_resnet", "timm/test_vit"
NOT_PROVIDED = "which this network does not provide"
CLASS_MAPS = dict.fromkeys(("catkd", "sdd", "sdd_dkd"), NOT_PROVIDED)
UNSUPPORTED = {  # (teacher, student): the reasons of unsupported methods, by name
    (CNN, CNN): {},
    (VIT, VIT): {**CLASS_MAPS, "simkd": NOT_PROVIDED, "ofd": "batch norm and activation"},
    (CNN, VIT): {**CLASS_MAPS, "fsp": "equal channels", "ab": "one convolution cannot map"},
    ("ResNet34", "ResNet18"): {},
    ("ResNet50", "MobileNetV1"): {"fsp": "equal channels"},
    ("timm/deit_tiny_patch16_224", "timm/vit_tiny_patch16_224"): {
        **CLASS_MAPS, "simkd": NOT_PROVIDED, "ofd": "batch norm and activation",
    },
}  # fmt: skip
TRAINED = [pair for pair in UNSUPPORTED if set(pair) <= {CNN, VIT}]
READ_OF_CNN = ("ab", "catkd", "fsp", "ofd", "reviewkd", "simkd")  # what transformers do not provide, or not so
RUNS = [(pair, name) for pair in TRAINED for name in (READ_OF_CNN if pair == (CNN, CNN) else NAMES)]
RUNS = [(pair, name) for pair, name in RUNS if name not in UNSUPPORTED[pair]]


@pytest.mark.parametrize("pair", UNSUPPORTED, ids="-".join)
def test_an_unsupported_method_names_the_reason(pair, make_options):  # noqa: F811
    size = SIZE if pair in TRAINED else 224
    teacher, student = (networks.output_shapes(name, 100, size) for name in pair)
    reasons = {}
    for name in NAMES:
        method, options = make_options(name)
        try:
            method.requirements(options, student, teacher).check_provided(student, teacher)
        except UnsupportedPair as e:
            reasons[name] = str(e)
    assert reasons.keys() == UNSUPPORTED[pair].keys()
    assert all(part in reasons[name] for name, part in UNSUPPORTED[pair].items())


def dataset_of_noise():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (IMAGES, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    split = Split(images.contiguous(memory_format=torch.channels_last), torch.arange(IMAGES) % CLASSES)
    config = SimpleNamespace(size=SIZE, padding=4, flip=True, rotation=0.0, mean=[0.5] * 3, std=[0.25] * 3)
    return SimpleNamespace(train=split, classes=CLASSES, config=config)


@pytest.mark.parametrize(("pair", "name"), RUNS, ids=["-".join([*pair, name]) for pair, name in RUNS])
def test_a_supported_method_takes_two_steps(pair, name, make_options, read_yaml):  # noqa: F811
    dataset, (teacher_name, student_name) = dataset_of_noise(), pair
    options = identity_values(make_options(name)[1])
    config = {"name": name, "implementation": read_yaml(name)["implementation"], **options}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = build(student_name, CLASSES, SIZE)
        teacher = build(teacher_name, CLASSES, SIZE).eval().requires_grad_(False)
    method = build_method(config, student_name, teacher_name, dataset, 20, 0, "cpu", teacher)
    loader = Loader(dataset.train, dataset.config, BATCH, 0, "cpu")
    outputs = TeacherOutputs(teacher, method.requires, loader, device="cpu", precision="fp32")
    trainer = Trainer(student, method, outputs, Schedule(0.01, 0.9, False, 1e-4, [], 0.1))
    before = [p.clone() for p in student.parameters()]
    if method.requires.init_epochs:
        trainer.epoch(0, lambda step, steps: None)
    line = trainer.epoch(1, lambda step, steps: None)
    assert math.isfinite(line["loss"])
    assert any(not torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))
