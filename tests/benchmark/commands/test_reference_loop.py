"""The reference loop trains the student, leaves the teacher alone, and augments as this suite does."""

import copy

import pytest
import torch

from benchmark.commands import speed_harness
from benchmark.commands.reference_loop import REFERENCE_IMPLEMENTATIONS, ReferenceLoop
from benchmark.commands.speed_harness import Measurement, SpeedHarness
from benchmark.config.compose import load_config

WORDS = [
    "profile=speed", "pair=resnet14-resnet8", "device=cpu", "threads=1", "dataset.size=16", "recipe.batch_size=16",
    "crd.negatives=32",
]  # fmt: skip


@pytest.fixture
def harness(monkeypatch) -> SpeedHarness:
    monkeypatch.setattr(speed_harness, "IMAGES", 600)
    config = load_config([*WORDS, "methods=ce,kd,fitnet,crd,mlld,clkd"])
    return SpeedHarness(Measurement(config, WORDS, "resnet14", "resnet8", 2, 1, ("fp32", "fp32")))


def reference_loop(harness: SpeedHarness, name: str, batch_size: int = 16) -> ReferenceLoop:
    teacher = harness.network("resnet14", reference=True).eval().requires_grad_(False)
    return ReferenceLoop(
        harness.network("resnet8", reference=True), harness.method(name), teacher, harness.dataset.train,
        harness.dataset.config, batch_size, harness.schedule, "cpu",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["ce", "kd", "fitnet", "crd", "mlld"])
def test_the_student_is_trained_and_the_teacher_is_not(harness, name):
    loop, method = reference_loop(harness, name), type(harness.method(name))
    before = copy.deepcopy(loop.teacher.state_dict())
    assert type(loop.method) is REFERENCE_IMPLEMENTATIONS.get(method, method)
    batch = loop.batch()
    assert len(batch.images) == (2 if name == "mlld" else 1)
    assert all(images.shape == (16, 3, 16, 16) and images.is_contiguous() for images in batch.images)
    assert torch.equal(harness.dataset.train.labels[batch.indices], batch.labels)
    loop.batch = lambda: batch
    losses = [loop.step().item() for _ in range(12)]
    assert losses[-1] < losses[0]
    assert all(torch.equal(v, before[k]) for k, v in loop.teacher.state_dict().items())


def test_each_image_is_a_view_of_this_suite_s_augmentation(harness):
    batch = reference_loop(harness, "ce", batch_size=4).batch()
    for image, index in zip(batch.images[0], batch.indices, strict=True):
        views = harness.loader.augmented(index.expand(162), torch.arange(162))
        assert (views - image).abs().amax((1, 2, 3)).min() < 1e-5
