"""SP: similarities of the samples."""

import math

import pytest
import torch

from methods.contract import Context, Outputs, Shapes
from methods.sp import similarity, similarity_distance
from tests.methods.conftest import randn


def naive_similarity(maps):
    samples = [sample.flatten().tolist() for sample in maps]
    rows = []
    for a in samples:
        row = [sum(x * y for x, y in zip(a, b, strict=True)) for b in samples]
        length = math.sqrt(sum(v * v for v in row))
        rows.append([v / length for v in row])
    return rows


def test_terms_equal_naive_loops(make, make_batch):
    shapes = Shapes(((2, 4, 4), (3, 4, 4)), 3), Shapes(((2, 8, 8), (2, 8, 8), (5, 2, 2)), 5)
    method = make("sp", Context(5, *shapes, torch.arange(40) % 5, 20))
    assert method.requires.student.maps == {1} and method.requires.teacher.maps == {2}
    student = Outputs(randn(4, 5, seed=0), maps={1: randn(4, 3, 4, 4, seed=1)})
    teacher = Outputs(maps={2: randn(4, 5, 2, 2, seed=2)})
    terms = method.losses(student, teacher, make_batch(4))
    g_s, g_t = naive_similarity(student.maps[1]), naive_similarity(teacher.maps[2])
    expected = sum((g_s[i][j] - g_t[i][j]) ** 2 for i in range(4) for j in range(4)) / 16
    assert list(terms) == ["ce", "sp"]
    assert terms["sp"].value.item() == pytest.approx(expected, rel=1e-10)
    assert [t.weight for t in terms.values()] == [1.0, 3000.0]


def test_a_value_by_hand():
    # products [[1, 1], [1, 2]] and [[4, 0], [0, 9]]
    student = torch.tensor([[1.0, 0.0], [1.0, 1.0]])[:, :, None, None]
    teacher = torch.tensor([[2.0, 0.0], [0.0, 3.0]])[:, :, None, None]
    first = (1 / math.sqrt(2) - 1) ** 2 + 1 / 2
    second = 1 / 5 + (2 / math.sqrt(5) - 1) ** 2
    assert similarity_distance(student, teacher).item() == pytest.approx((first + second) / 4, rel=1e-6)


def test_invariance_to_scale_and_to_rotations_of_the_features():
    maps = randn(4, 6, 1, 1, seed=3)
    rotation = torch.linalg.qr(randn(6, 6, seed=4)).Q
    assert torch.allclose(similarity(maps), similarity(3 * torch.einsum("nchw,cd->ndhw", maps, rotation)))


def test_gradient():
    student, teacher = randn(4, 2, 2, 2, seed=5).requires_grad_(), randn(4, 3, 2, 2, seed=6)
    assert torch.autograd.gradcheck(lambda s: similarity_distance(s, teacher), student)
