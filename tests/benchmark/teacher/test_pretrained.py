"""Teachers with weights that timm publishes. The weights lie in a local file; nothing is downloaded."""

import pytest
import timm
import torch
from timm.models import generate_default_cfgs, register_model
from timm.models._builder import build_model_with_cfg
from timm.models._registry import _model_entrypoints, _model_pretrained_cfgs  # to remove what a test registers
from timm.models.resnet import BasicBlock, ResNet

from benchmark.errors import UserError
from tests.helpers import bench, plan_of

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.25, 0.2)
NORMALIZED = ["dataset.mean=[0.5,0.4,0.3]", "dataset.std=[0.25,0.25,0.2]"]
WORDS = ["pair=timm/kd_tiny-resnet8", "methods=kd", "teacher.pretrained=true"]


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A small network that timm offers with weights for six classes; its state dictionary."""
    torch.manual_seed(1)
    shape = {"block": BasicBlock, "layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8)}
    weights = ResNet(**shape, num_classes=6).state_dict()
    file = tmp_path / "published.pth"
    torch.save(weights, file)
    settings = {
        "file": str(file),
        "num_classes": 6,
        "mean": MEAN,
        "std": STD,
        "first_conv": "conv1",
        "classifier": "fc",
    }

    def kd_tiny(pretrained=False, **more):
        return build_model_with_cfg(ResNet, "kd_tiny", pretrained, **shape, **more)

    kd_tiny.__module__ = __name__
    monkeypatch.setitem(globals(), "default_cfgs", generate_default_cfgs({"kd_tiny.squares": settings}))
    register_model(kd_tiny)
    yield weights
    _model_entrypoints.pop("kd_tiny")
    for name in [name for name in _model_pretrained_cfgs if name.startswith("kd_tiny")]:
        _model_pretrained_cfgs.pop(name)


def test_a_pretrained_teacher_is_imported_with_its_own_weights(published, tiny):
    plan, outcomes = bench([*tiny, *WORDS, *NORMALIZED])
    assert [outcome.status for outcome in outcomes] == ["done"] * len(outcomes) and outcomes
    folder = plan.teachers["timm/kd_tiny"].folder
    stored = torch.load(folder.weights, weights_only=True)
    assert all(torch.equal(value, published[key.removeprefix("model.")]) for key, value in stored.items())
    assert folder.record.imported_from == "timm's weights of timm/kd_tiny" and folder.record.epochs is None
    assert bench([*tiny, *WORDS, *NORMALIZED])[1] == []


def test_images_must_be_normalized_as_the_weights_need(published, tiny):
    reason = r"another normalization: add dataset.mean=\[0.5,0.4,0.3\] dataset.std=\[0.25,0.25,0.2\]"
    with pytest.raises(UserError, match=reason):
        plan_of([*tiny, *WORDS])


def test_weights_of_another_number_of_classes_are_refused(tiny):
    assert timm.get_pretrained_cfg("test_resnet").num_classes == 1000
    with pytest.raises(UserError, match="timm/test_resnet is pretrained for 1000 classes, this data set has 6: train"):
        plan_of([*tiny, "pair=timm/test_resnet-resnet8", "methods=kd", "teacher.pretrained=true"])


@pytest.mark.parametrize(
    "words, reason",
    [
        (["pair=resnet14-resnet8"], "teacher.pretrained: resnet14 is not a network of timm at 16 px: use timm/<name>"),
        (["pair=timm/resnet26t-resnet8", "teacher.checkpoint=x.pth"], "two sources of one teacher: give one of them"),
        (["pair=timm/test_resnet-resnet8", "teacher.train_size=all"], "leave it out, or teacher.pretrained"),
    ],
)
def test_settings_that_contradict_pretrained_weights_are_refused(words, reason, tiny):
    with pytest.raises(UserError, match=reason):
        plan_of([*tiny, *words, "methods=kd", "teacher.pretrained=true"])


def test_weights_that_cannot_be_loaded_are_named(published, tiny, tmp_path):
    (tmp_path / "published.pth").unlink()
    with pytest.raises(
        UserError, match=r"timm/kd_tiny: its pretrained weights cannot be loaded \(.*teacher.checkpoint"
    ):
        plan_of([*tiny, *WORDS, *NORMALIZED])
