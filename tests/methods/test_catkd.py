"""CAT-KD: pooled class activation maps, and the published options."""

import numpy as np
import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from methods.catkd import attention_distance
from methods.contract import Needs, Outputs
from tests.methods.conftest import randn


def naive_attention(cam, resolution, normalise):
    """Average the blocks of one class activation map [H, W]; blocks may overlap."""
    h, w = cam.shape
    out = np.zeros((resolution, resolution))
    for i in range(resolution):
        for j in range(resolution):
            rows = slice(i * h // resolution, -(-(i + 1) * h // resolution))
            columns = slice(j * w // resolution, -(-(j + 1) * w // resolution))
            out[i, j] = cam[rows, columns].mean()
    return out / np.sqrt((out**2).sum()) if normalise else out


def naive(student, teacher, resolution, normalise):
    total, entries = 0.0, 0
    for n in range(len(student)):
        for c in range(student.shape[1]):
            s, t = (naive_attention(m[n, c].numpy(), resolution, normalise) for m in (student, teacher))
            total += ((s - t) ** 2).sum()
            entries += resolution**2
    return total / entries


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({}, (8, 4)),
        ({"normalise": True, "resolution": 2}, (2, 8)),
        ({"normalise": True, "resolution": 4}, (4, 8)),
        ({"resolution": 4}, (2, 6)),  # more positions than the map has: they repeat
        ({"resolution": 3}, (8, 3)),
    ],
)
def test_terms_equal_naive_loops(make, make_batch, options, sizes):
    method = make("catkd", **options)
    student, teacher = (randn(3, 5, size, size, seed=size) for size in sizes)
    grid = options.get("resolution", 2)
    pooled_s, pooled_t = ({grid: adaptive_avg_pool2d(m, grid)} for m in (student, teacher))  # as networks return them
    terms = method.losses(
        Outputs(randn(3, 5, seed=0), class_maps=pooled_s), Outputs(class_maps=pooled_t), make_batch(3)
    )
    expected = naive(student, teacher, grid, options.get("normalise", False))
    assert list(terms) == ["ce", "catkd"]
    assert terms["catkd"].value.item() == pytest.approx(expected, rel=1e-10)
    assert [t.weight for t in terms.values()] == [1.0, 15.0]


def test_normalized_maps_are_invariant_to_scale():
    student, teacher = randn(2, 3, 4, 4, seed=1), randn(2, 3, 4, 4, seed=2)
    scaled = student * torch.tensor([0.1, 1.0, 7.0])[:, None, None]
    assert attention_distance(scaled, teacher, True) == pytest.approx(attention_distance(student, teacher, True).item())


def test_requires_the_class_activation_maps(make):
    method = make("catkd")
    assert method.requires.student == Needs(logits=True, class_maps=[2])
    assert method.requires.teacher == Needs(class_maps=[2])
    assert not list(method.parameters())


PUBLISHED = {  # weight, resolution, normalised
    "resnet32x4-resnet8x4": (15.0, 2, False),
    "wrn40_2-wrn16_2": (12.0, 2, False),
    "wrn40_2-wrn40_1": (1.5, 2, False),
    "resnet56-resnet20": (0.7, 2, False),
    "resnet110-resnet32": (1.8, 2, False),
    "vgg13-vgg8": (4.5, 2, False),
    "ResNet50-MobileNetV2": (40.0, 2, True),
    "vgg13-MobileNetV2": (15.0, 2, True),
    "resnet32x4-ShuffleV1": (600.0, 4, True),
    "resnet32x4-ShuffleV2": (600.0, 4, True),
    "wrn40_2-ShuffleV1": (80.0, 4, True),
}


def test_has_the_published_options_of_each_pair(read_yaml):
    keys = "catkd_weight", "resolution", "normalise"
    options = {pair: tuple(o[k] for k in keys) for pair, o in read_yaml("catkd")["pairs"].items()}
    assert options == PUBLISHED


@pytest.mark.parametrize("normalise", [False, True])
def test_gradient(normalise):
    student, teacher = randn(2, 2, 2, 2, seed=1).requires_grad_(), randn(2, 2, 2, 2, seed=2)
    assert torch.autograd.gradcheck(lambda s: attention_distance(s, teacher, normalise), student)
