"""PKT: affinities and divergence."""

import math

import pytest
import torch

from methods.contract import Context, Outputs, Shapes
from methods.pkt import affinities, divergence
from tests.methods.conftest import randn


def naive_affinities(rows):
    rows = rows.tolist()
    affinity_rows = []
    for a in rows:
        row = []
        for b in rows:
            cosine = sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
            row.append((cosine + 1) / 2)
        affinity_rows.append([v / sum(row) for v in row])
    return affinity_rows


def test_terms_equal_naive_loops(make, make_batch):
    method = make("pkt", Context(5, Shapes((), 6), Shapes((), 9), torch.arange(40) % 5, 20))
    student, teacher = (
        Outputs(randn(7, 5, seed=0), randn(7, 6, seed=1)),
        Outputs(pooled=randn(7, 9, seed=2)),
    )
    terms = method.losses(student, teacher, make_batch(7))
    total = 0.0
    for q_row, p_row in zip(naive_affinities(student.pooled), naive_affinities(teacher.pooled), strict=True):
        for q, p in zip(q_row, p_row, strict=True):
            total += p * math.log((p + 1e-7) / (q + 1e-7))
    assert list(terms) == ["ce", "pkt"]
    assert terms["pkt"].value.item() == pytest.approx(total / 49, rel=1e-10)
    assert [t.weight for t in terms.values()] == [1.0, 30000.0]


def test_a_value_by_hand():
    # right angles give cosine 0, so rows (1, 1/2) / (3/2); opposite vectors give rows (1, 0)
    right, opposite = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[2.0, 0.0], [-1.0, 0.0]])
    assert affinities(right).flatten().tolist() == pytest.approx([2 / 3, 1 / 3, 1 / 3, 2 / 3])
    assert affinities(opposite).flatten().tolist() == pytest.approx([1, 0, 0, 1])
    value = divergence(affinities(right), affinities(opposite))
    assert value.item() == pytest.approx(2 * math.log(3 / 2) / 4, rel=1e-5)


def test_affinities_are_invariant_to_the_scale_of_a_sample():
    rows = randn(5, 4, seed=3)
    assert torch.allclose(affinities(rows), affinities(rows * torch.tensor([[1.0], [2], [3], [4], [5]])))


def test_the_divergence_is_not_negative():
    values = [divergence(affinities(randn(9, 3, seed=i)), affinities(randn(9, 3, seed=i + 50))) for i in range(50)]
    assert min(values) >= 0


def test_gradient():
    student, teacher = randn(4, 3, seed=4).requires_grad_(), affinities(randn(4, 5, seed=5))
    assert torch.autograd.gradcheck(lambda s: divergence(affinities(s), teacher), student)
