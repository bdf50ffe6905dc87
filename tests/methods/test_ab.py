"""AB: distance to the activation boundaries, connectors, and the two stages of the training."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from methods.ab import boundary_distance
from methods.contract import Context, Needs, Outputs, Shapes, UnsupportedPair
from tests.methods.conftest import randn

STUDENT = ((2, 8, 8), (2, 8, 8), (3, 4, 4), (4, 4, 4), (1, 2, 2))
TEACHER = ((2, 8, 8), (5, 8, 8), (6, 4, 4), (4, 4, 4))


def context(student=STUDENT, teacher=TEACHER):
    return Context(5, Shapes(student, 4), Shapes(teacher, 4), torch.arange(40) % 5, 20)


def outputs(stages, seed):
    maps = {k: randn(3, *shape, seed=seed + k) for k, shape in enumerate(stages)}
    return Outputs(randn(3, 5, seed=seed + 20), pre_activations=maps)


def naive_connection(connector, x):
    """Apply a 1×1 convolution with bias and batch norm, or the identity."""
    if isinstance(connector, nn.Identity):
        return x.numpy()
    weight, bias = (p.detach().numpy() for p in connector[0].parameters())
    x = np.einsum("oc,nchw->nohw", weight[:, :, 0, 0], x.numpy()) + bias[:, None, None]
    return (x - x.mean((0, 2, 3), keepdims=True)) / np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-5)


def naive(student, teacher, margin):
    total = 0.0
    for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True):
        if t > 0 and s <= margin:
            total += (s - margin) ** 2
        if t <= 0 and s > -margin:
            total += (s + margin) ** 2
    return total / len(student)


def test_terms_equal_naive_loops_stage_by_stage(make, make_batch):
    method = make("ab", context(), margin=0.7).double()
    assert method.stages == [1, 2, 3]  # the teacher has no counterpart of the student's fifth stage
    assert [isinstance(c, nn.Identity) for c in method.connectors] == [False, False, True]
    student, teacher = outputs(STUDENT, 1), outputs(TEACHER, 51)
    first = method.losses(student, teacher, make_batch(3, epoch=0))
    distances = [
        naive(naive_connection(c, student.pre_activations[k]), teacher.pre_activations[k].numpy(), 0.7)
        for k, c in zip((1, 2, 3), method.connectors, strict=True)
    ]
    expected = 3 / 1000 * (distances[0] / 4 + distances[1] / 2 + distances[2])
    assert list(first) == ["ab"] and first["ab"].weight == 1.0
    assert first["ab"].value.item() == pytest.approx(expected, rel=1e-10)

    batch = make_batch(3)
    then = method.losses(student, teacher, batch)
    rows = zip(student.logits.tolist(), batch.labels.tolist(), strict=True)
    expected = sum(math.log(sum(math.exp(v) for v in z)) - z[y] for z, y in rows) / 3
    assert list(then) == ["ce"]
    assert then["ce"].value.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("student", "teacher", "distance"),
    [
        (0.5, 3.0, 0.25),  # active, but not by the margin of 1
        (1.5, 3.0, 0.0),
        (-2.0, 0.1, 9.0),
        (-0.5, -3.0, 0.25),
        (-1.5, -0.1, 0.0),
        (2.0, 0.0, 9.0),  # at 0 the teacher's unit is silent
    ],
)
def test_distances_by_hand(student, teacher, distance):
    s, t = (torch.full((1, 1, 1, 1), v) for v in (student, teacher))
    assert boundary_distance(s, t, 1.0).item() == pytest.approx(distance)


def test_the_distance_depends_only_on_the_sign_of_the_teacher():
    s, t = randn(2, 3, 4, 4, seed=1), randn(2, 3, 4, 4, seed=2)
    assert torch.equal(boundary_distance(s, t, 1.0), boundary_distance(s, 100 * t, 1.0))


def test_the_initialization_stage_does_not_train_the_classifier(make, make_batch, make_outputs):
    method, student = make("ab"), make_outputs(4, 1, torch.float32, grad=True)
    method.losses(student, make_outputs(4, 2, torch.float32), make_batch(4, epoch=0))["ab"].value.backward()
    assert student.logits.grad is None
    assert (
        all(student.pre_activations[k].grad is not None for k in (1, 2, 3)) and student.pre_activations[0].grad is None
    )


def test_after_the_initialization_stage_only_the_students_logits_are_required(make):
    requires = make("ab").requires
    stages = Needs(pre_activations=[1, 2, 3])
    assert requires.needs(0) == (stages, stages)
    assert requires.needs(1) == (Needs(logits=True), Needs())


@pytest.mark.parametrize(("epochs", "whole"), [(30.0, 30), (2.5, 3), (0.0, 0)])
def test_the_initialization_stage_is_rounded_up_to_whole_epochs(make, epochs, whole):
    assert make("ab", init_epochs=epochs).requires.init_epochs == whole


def test_the_published_initialization_stage_is_30_of_240_epochs(make):
    assert make("ab").options.init_epochs == 30 * 20 / 240


def test_sizes_that_no_single_convolution_aligns_are_unsupported(make):
    with pytest.raises(UnsupportedPair, match="cannot map"):
        make("ab", context(((1, 8, 8), (2, 2, 2)), ((1, 8, 8), (2, 8, 8))))


def test_gradient():
    student, teacher = randn(2, 3, 2, 2, seed=1).requires_grad_(), randn(2, 3, 2, 2, seed=2)
    assert torch.autograd.gradcheck(lambda s: boundary_distance(s, teacher, 1.0), student)
