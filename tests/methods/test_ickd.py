"""ICKD: correlations of channels."""

import math

import pytest
import torch

from methods.contract import Context, Outputs, Shapes
from methods.ickd import correlation_distance, row_products
from tests.methods.conftest import randn


def naive_correlations(sample):
    channels = [c.flatten().tolist() for c in sample]
    rows = []
    for a in channels:
        row = [sum(x * y for x, y in zip(a, b, strict=True)) for b in channels]
        length = math.sqrt(sum(v * v for v in row)) or 1.0
        rows.append([v / length for v in row])
    return rows


def naive_distance(student, teacher):
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        for row_s, row_t in zip(naive_correlations(s), naive_correlations(t), strict=True):
            total += sum((a - b) ** 2 for a, b in zip(row_s, row_t, strict=True))
    return total / (len(student) * student.shape[1])


def naive_embedding(maps, embed):
    """Apply a matrix to each position, then batch norm with the batch's statistics."""
    mixed = torch.einsum("nchw,dc->ndhw", maps, embed[0].weight[:, :, 0, 0])
    for c in range(mixed.shape[1]):
        values = mixed[:, c].flatten().tolist()
        mean = sum(values) / len(values)
        variance = sum((v - mean) ** 2 for v in values) / len(values)
        mixed[:, c] = (mixed[:, c] - mean) / math.sqrt(variance + 1e-5)
    return mixed


def test_terms_equal_naive_loops(make, make_batch):
    shapes = Shapes(((2, 4, 4), (3, 4, 4)), 3), Shapes(((2, 8, 8), (2, 8, 8), (5, 2, 2)), 5)
    method = make("ickd", Context(5, *shapes, torch.arange(40) % 5, 20)).double()
    assert method.requires.student.maps == {1} and method.requires.teacher.maps == {2}
    student = Outputs(randn(4, 5, seed=0), maps={1: randn(4, 3, 4, 4, seed=1)})
    teacher = Outputs(maps={2: randn(4, 5, 2, 2, seed=2)})
    terms = method.losses(student, teacher, make_batch(4))
    with torch.no_grad():
        expected = naive_distance(naive_embedding(student.maps[1], method.embed), teacher.maps[2])
    assert list(terms) == ["ce", "ickd"]
    assert terms["ickd"].value.item() == pytest.approx(expected, rel=1e-10)
    assert [t.weight for t in terms.values()] == [1.0, 2.5]


def test_row_products_are_those_of_the_matrices():
    a, b = randn(2, 5, 3, seed=3), randn(2, 5, 4, seed=4)
    assert torch.allclose(row_products(a, b), ((a @ a.mT) * (b @ b.mT)).sum(2))


def test_a_zero_channel_has_zero_correlations():
    student, teacher = randn(2, 4, 2, 2, seed=5), randn(2, 4, 2, 2, seed=6)
    teacher[0, 1] = 0
    student[1] = 0
    expected = naive_distance(student, teacher)
    assert correlation_distance(student, teacher).item() == pytest.approx(expected, rel=1e-10)


def test_invariance_to_scale_and_to_rotations_of_the_positions():
    student, teacher = randn(2, 5, 1, 4, seed=7), randn(2, 5, 2, 2, seed=8)
    rotation = torch.linalg.qr(randn(4, 4, seed=9)).Q
    assert torch.allclose(correlation_distance(student, teacher), correlation_distance(3 * student @ rotation, teacher))


def test_the_embedding_has_the_published_size(make):
    shapes = Shapes(((64, 8, 8),), 64), Shapes(((256, 8, 8),), 256)
    method = make("ickd", Context(100, *shapes, torch.arange(200) % 100, 20))
    assert sum(p.numel() for p in method.parameters()) == 64 * 256 + 2 * 256


def test_gradient():
    student, teacher = randn(2, 3, 2, 2, seed=10).requires_grad_(), randn(2, 3, 2, 1, seed=11)
    assert torch.autograd.gradcheck(lambda s: correlation_distance(s, teacher), student)
