"""CC: products of the differences of neighboring samples."""

import pytest
import torch

from methods.cc import congruence
from methods.contract import Context, Outputs, Shapes
from tests.methods.conftest import randn


def naive(student, teacher):
    total = 0.0
    for i in range(len(student) - 1):
        for d in range(len(student[0])):
            total += abs(student[i][d] - teacher[i][d]) * abs(student[i + 1][d] - teacher[i + 1][d])
    return total / (len(student) - 1)


def test_terms_equal_naive_loops(make, make_batch):
    method = make("cc", Context(5, Shapes((), 6), Shapes((), 9), torch.arange(40) % 5, 20), feature_dim=4).double()
    student, teacher = (
        Outputs(randn(7, 5, seed=0), randn(7, 6, seed=1)),
        Outputs(pooled=randn(7, 9, seed=2)),
    )
    terms = method.losses(student, teacher, make_batch(7))

    def embedded(rows, layer):
        layers = list(zip(layer.weight.tolist(), layer.bias.tolist(), strict=True))
        return [[sum(a * b for a, b in zip(r, w, strict=True)) + c for w, c in layers] for r in rows.tolist()]

    expected = naive(embedded(student.pooled, method.embed_s), embedded(teacher.pooled, method.embed_t))
    assert list(terms) == ["ce", "cc"]
    assert terms["cc"].value.item() == pytest.approx(expected, rel=1e-10)
    assert [t.weight for t in terms.values()] == [1.0, 0.02]


def test_a_value_by_hand():
    student, teacher = torch.tensor([[1.0, -2.0], [0.0, 3.0], [5.0, 1.0]]), torch.zeros(3, 2)
    assert congruence(student, teacher).item() == ((0 + 6) + (0 + 3)) / 2


def test_a_single_sample_has_no_neighbor():
    student = torch.ones(1, 4, requires_grad=True)
    value = congruence(student, torch.zeros(1, 4))
    value.backward()
    assert value == 0 and student.grad.abs().max() == 0


def test_the_embeddings_have_the_published_size(make):
    method = make("cc", Context(5, Shapes((), 64), Shapes((), 256), torch.arange(40) % 5, 20))
    assert sum(p.numel() for p in method.parameters()) == (64 + 1) * 128 + (256 + 1) * 128


def test_gradient():
    student, teacher = randn(4, 3, seed=3).requires_grad_(), randn(4, 3, seed=4)
    assert torch.autograd.gradcheck(lambda s: congruence(s, teacher), student)
