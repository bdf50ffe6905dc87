"""AT: spatial attention, maps of unequal sizes, networks of unequal depth."""

import math

import numpy as np
import pytest
import torch

from methods.at import attention_distance
from methods.contract import Context, Outputs, Shapes
from tests.methods.conftest import halved

STUDENT = ((2, 8, 8), (2, 8, 8), (3, 4, 4), (4, 2, 2))
TEACHER = ((5, 8, 8), (5, 4, 4), (7, 4, 4), (6, 4, 4), (6, 2, 2))


def context(student=STUDENT, teacher=TEACHER):
    return Context(5, Shapes(student, 6), Shapes(teacher, 9), torch.arange(40) % 5, 20)


def outputs(stages, seed, n=3):
    generator = torch.Generator().manual_seed(seed)
    maps = {k: torch.randn(n, *shape, generator=generator, dtype=torch.float64) for k, shape in enumerate(stages)}
    return Outputs(torch.randn(n, 5, generator=generator, dtype=torch.float64), maps=maps)


def naive_attention(sample):
    """Average the squares of one sample's map [C, H, W] over channels, and scale the result to length 1."""
    channels, height, width = sample.shape
    energies = []
    for i in range(height):
        for j in range(width):
            energies.append(sum(sample[c, i, j] ** 2 for c in range(channels)) / channels)
    length = math.sqrt(sum(e * e for e in energies))
    return [e / length for e in energies]


def naive_distance(student, teacher):
    student, teacher = student.numpy(), teacher.numpy()
    while student.shape[2] > teacher.shape[2]:
        student = halved(student)
    while teacher.shape[2] > student.shape[2]:
        teacher = halved(teacher)
    differences = []
    for s, t in zip(student, teacher, strict=True):
        differences += [a - b for a, b in zip(naive_attention(s), naive_attention(t), strict=True)]
    return float(np.mean(np.square(differences)))


def test_terms_equal_naive_loops(make, make_batch):
    student, teacher = outputs(STUDENT, 1), outputs(TEACHER, 2)
    terms = make("at", context()).losses(student, teacher, make_batch(3))
    # the student has no counterpart of the teacher's fifth stage
    expected = sum(naive_distance(student.maps[k], teacher.maps[k]) for k in (1, 2, 3))
    assert list(terms) == ["ce", "at"]
    assert terms["at"].value.item() == pytest.approx(expected, rel=1e-10)
    assert [t.weight for t in terms.values()] == [1.0, 1000.0]


def test_a_value_by_hand():
    student = torch.tensor([[[[3.0, 0.0]], [[0.0, 2.0]]]])  # energies 4.5 and 2
    teacher = torch.tensor([[[[0.0, 1.0]]]])
    length = math.hypot(4.5, 2)
    expected = ((4.5 / length) ** 2 + (2 / length - 1) ** 2) / 2
    assert attention_distance(student, teacher).item() == pytest.approx(expected, rel=1e-6)


def test_gradient():
    student, teacher = outputs(STUDENT, 4).maps[1].requires_grad_(), outputs(TEACHER, 5).maps[1]
    assert torch.autograd.gradcheck(lambda s: attention_distance(s, teacher), student)


def test_requires_the_maps_of_all_shared_stages_but_the_stem(make):
    method = make("at", context())
    assert method.requires.student.maps == method.requires.teacher.maps == {1, 2, 3}
    assert not (method.requires.teacher.logits or method.requires.teacher.pooled)
    assert not list(method.parameters())
