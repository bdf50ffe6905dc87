"""FSP: flow matrices, the two stages of the training, and unsupported pairs."""

import math

import numpy as np
import pytest
import torch

from methods.contract import Context, Needs, Outputs, Shapes, UnsupportedPair
from methods.fsp import flow, flow_distance
from tests.methods.conftest import randn

STAGES = ((2, 8, 8), (2, 8, 8), (3, 4, 4), (4, 2, 2))


def context(student=STAGES, teacher=STAGES):
    return Context(5, Shapes(student, 4), Shapes(teacher, 4), torch.arange(40) % 5, 20)


def maps(seed, stages=STAGES):
    return {k: randn(3, *shape, seed=seed + k) for k, shape in enumerate(stages)}


def naive_flow(bottom, top):
    """Compute one sample's flow matrix by sums over the positions of the smaller map."""
    while bottom.shape[1] > top.shape[1]:
        c, h, w = bottom.shape
        bottom = bottom.reshape(c, h // 2, 2, w // 2, 2).mean((2, 4))
    matrix = np.zeros((len(top), len(bottom)))
    for i, j in np.ndindex(*bottom.shape[1:]):
        for a in range(len(top)):
            for b in range(len(bottom)):
                matrix[a, b] += top[a, i, j] * bottom[b, i, j] / (bottom.shape[1] * bottom.shape[2])
    return matrix


def naive(student, teacher):
    total = 0.0
    for k in range(len(student) - 1):
        squares = []
        for n in range(3):
            s, t = (naive_flow(m[k][n].numpy(), m[k + 1][n].numpy()) for m in (student, teacher))
            squares += ((s - t) ** 2).flatten().tolist()
        total += sum(squares) / len(squares)
    return total


def test_terms_equal_naive_loops_stage_by_stage(make, make_batch):
    method = make("fsp")
    student, teacher = Outputs(randn(3, 5, seed=0), maps=maps(1)), Outputs(maps=maps(11))
    first = method.losses(student, teacher, make_batch(3, epoch=0))
    assert list(first) == ["fsp"]
    assert first["fsp"].value.item() == pytest.approx(naive(student.maps, teacher.maps), rel=1e-10)
    assert first["fsp"].weight == 1.0
    batch = make_batch(3)
    then = method.losses(student, teacher, batch)
    assert list(then) == ["ce"]
    rows = zip(student.logits.tolist(), batch.labels.tolist(), strict=True)
    expected = sum(math.log(sum(math.exp(v) for v in z)) - z[y] for z, y in rows) / 3
    assert then["ce"].value.item() == pytest.approx(expected, rel=1e-10)


def test_a_value_by_hand():
    bottom, top = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]]), torch.tensor([[[[2.0]], [[-1.0]]]])
    assert flow(bottom, top).tolist() == [[[8.0], [-4.0]]]  # the mean of the bottom is 4


@pytest.mark.parametrize(("epochs", "whole"), [(30.0, 30), (2.5, 3), (0.0, 0)])
def test_the_initialization_stage_is_rounded_up_to_whole_epochs(make, epochs, whole):
    assert make("fsp", init_epochs=epochs).requires.init_epochs == whole


def test_the_published_initialization_stage_is_30_of_240_epochs(make):
    assert make("fsp").options.init_epochs == 30 * 20 / 240


def test_the_initialization_stage_requires_the_maps_of_all_stages_and_the_stem(make):
    method, maps = make("fsp"), Needs(maps=[0, 1, 2, 3])
    assert method.requires.needs(-1) == method.requires.needs(0) == (maps, maps)
    assert method.requires.needs(1) == (Needs(logits=True), Needs())
    assert not list(method.parameters())


@pytest.mark.parametrize("teacher", [((2, 8, 8), (2, 8, 8), (5, 4, 4), (4, 2, 2)), STAGES[:3]])
def test_unequal_channels_are_unsupported(make, teacher):
    with pytest.raises(UnsupportedPair, match=r"equal channels in all stages: \[2, 2, 3, 4\] \(student\), \["):
        make("fsp", context(teacher=teacher))


def test_map_sizes_may_differ(make, make_batch):
    larger = tuple((c, 2 * h, 2 * w) for c, h, w in STAGES)
    method = make("fsp", context(teacher=larger))
    terms = method.losses(Outputs(maps=maps(1)), Outputs(maps=maps(11, larger)), make_batch(3, epoch=0))
    assert terms["fsp"].value.isfinite()


def test_gradient():
    teacher = maps(11)
    student = [m.requires_grad_() for m in maps(1).values()]
    assert torch.autograd.gradcheck(lambda *s: flow_distance(dict(enumerate(s)), teacher), student)
