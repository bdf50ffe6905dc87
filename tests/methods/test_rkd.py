"""RKD: distances and angles over pairs and triplets."""

import math

import pytest
import torch

from methods.contract import Context, Outputs, Shapes
from methods.rkd import relations
from tests.methods.conftest import randn


def naive_relations(rows):
    rows, n = rows.tolist(), len(rows)

    def between(a, b):
        return [y - x for x, y in zip(rows[a], rows[b], strict=True)]

    distances = [[math.hypot(*between(i, j)) for j in range(n)] for i in range(n)]
    positive = [d for row in distances for d in row if d > 0]
    mean = sum(positive) / len(positive)
    cosines = [[[0.0] * n for _ in range(n)] for _ in range(n)]
    for i in range(n):
        for j in range(n):
            for k in range(n):
                if i not in (j, k):
                    product = sum(a * b for a, b in zip(between(i, j), between(i, k), strict=True))
                    cosines[i][j][k] = product / (distances[i][j] * distances[i][k])
    return [d / mean for row in distances for d in row], [c for plane in cosines for row in plane for c in row]


def naive_huber(a, b):
    values = []
    for x, y in zip(a, b, strict=True):
        gap = abs(x - y)
        values.append(gap * gap / 2 if gap < 1 else gap - 0.5)
    return sum(values) / len(values)


def test_terms_equal_naive_loops(make, make_batch):
    method = make("rkd", Context(5, Shapes((), 6), Shapes((), 9), torch.arange(40) % 5, 20))
    student, teacher = (
        Outputs(randn(7, 5, seed=0), randn(7, 6, seed=1) + 3),
        Outputs(pooled=randn(7, 9, seed=2)),
    )
    teacher.pooled[0] *= 20  # a gap above 1
    terms = method.losses(student, teacher, make_batch(7))
    (d_s, a_s), (d_t, a_t) = naive_relations(student.pooled), naive_relations(teacher.pooled)
    assert list(terms) == ["ce", "distance", "angle"]
    assert terms["distance"].value.item() == pytest.approx(naive_huber(d_s, d_t), rel=1e-10)
    assert terms["angle"].value.item() == pytest.approx(naive_huber(a_s, a_t), rel=1e-10)
    assert [t.weight for t in terms.values()] == [1.0, 25.0, 50.0]


def test_a_triangle_by_hand():
    distances, cosines = relations(torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]], dtype=torch.float64))
    assert distances[0].tolist() == pytest.approx([0, 3 / 4, 1])  # the mean of 3, 4 and 5 is 4
    assert cosines[:, 0, 1].tolist() == pytest.approx([0, 0, 0.8])  # at the third point between the others
    assert cosines[0, 1, 2].item() == pytest.approx(0) and cosines[0, 1, 1].item() == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_single_precision_is_enough_where_features_share_a_large_mean(dtype):
    rows = 0.05 * randn(64, 128, seed=3) + 5
    all_relations, exact = relations(rows.to(dtype)), naive_relations(rows[:12])
    some_relations = relations(rows[:12].to(dtype))
    assert torch.allclose(some_relations[0].flatten().double(), torch.tensor(exact[0]).double(), atol=1e-4)
    assert torch.allclose(some_relations[1].flatten().double(), torch.tensor(exact[1]).double(), atol=1e-4)
    assert all_relations[1].abs().max() < 1 + 1e-4


def test_invariance_to_translation_scale_and_rotation():
    rows = randn(6, 5, seed=4)
    rotation = torch.linalg.qr(randn(5, 5, seed=5)).Q
    for a, b in zip(relations(rows), relations(3 * rows @ rotation + 7), strict=True):
        assert torch.allclose(a, b)


def test_equal_samples_have_no_distance_and_no_angle():
    rows = randn(5, 4, seed=6).float()
    rows[3] = rows[1]
    distances, cosines = relations(rows)
    assert distances[1, 3] == 0 and cosines[1, 3].abs().max() == 0
    assert distances.isfinite().all() and cosines.isfinite().all()


def test_gradient():
    assert torch.autograd.gradcheck(relations, randn(4, 3, seed=7).requires_grad_())
