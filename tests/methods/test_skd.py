"""SKD: the directions of the logits, their Mahalanobis distance, and the masks, which only scale."""

import math

import numpy as np
import pytest
import torch

from methods.skd import directions, mahalanobis_length
from tests.methods.conftest import randn


def naive_direction(student, teacher, ridge):
    """Compare the cosines of all pairs of samples; whiten their differences by NumPy's covariance and inverse."""
    n, c = student.shape
    difference = np.zeros((n, n))
    for sign, logits in ((1, student.numpy()), (-1, teacher.numpy())):
        for i in range(n):
            for j in range(n):
                cosine = logits[i] @ logits[j] / math.sqrt((logits[i] ** 2).sum() * (logits[j] ** 2).sum())
                difference[i, j] += sign * cosine / c
    inverse = np.linalg.inv(np.cov(difference, rowvar=False) + ridge * np.eye(n))
    return np.mean([math.sqrt(row @ inverse @ row) for row in difference])


def naive_kd(student, teacher, temperature):
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        e_s, e_t = ([math.exp(v / temperature) for v in z] for z in (s, t))
        total += sum(b / sum(e_t) * math.log(b / sum(e_t) / (a / sum(e_s))) for a, b in zip(e_s, e_t, strict=True))
    return temperature**2 * total / len(student)


@pytest.mark.parametrize("n", [7, 8])
def test_terms_equal_naive_loops_with_masks_that_scale(make, make_batch, make_outputs, n):
    student, teacher = make_outputs(n, 1), make_outputs(n, 2)
    terms = make("skd", ridge=0.01).losses(student, teacher, make_batch(n))
    assert list(terms) == ["ce", "kd", "direction"]
    p = np.exp(teacher.logits.numpy())
    p /= p.sum(1, keepdims=True)
    confidence, frequency = p.max(1), p.sum(0)
    u = (confidence <= np.percentile(confidence, 50)).mean()
    v = (frequency <= np.percentile(frequency, 50)).mean()
    assert u == (0.5 if n == 8 else 4 / 7) and v == 3 / 5
    expected = u * naive_kd(student.logits, teacher.logits, 4.0)
    assert terms["kd"].value.item() == pytest.approx(expected, rel=1e-9)
    expected = v * naive_direction(student.logits, teacher.logits, 0.01)
    assert terms["direction"].value.item() == pytest.approx(expected, rel=1e-7)
    assert [t.weight for t in terms.values()] == [0.1, 0.9, 0.9]


def test_a_value_by_hand():
    # the rows (a, 0) and (−a, 0) have covariance 2 a² in the first column
    rows = torch.tensor([[0.3, 0.0], [-0.3, 0.0]], dtype=torch.float64)
    assert mahalanobis_length(rows, 0.1).item() == pytest.approx(0.3 / math.sqrt(2 * 0.09 + 0.1), rel=1e-12)


def test_a_single_row_has_no_covariance():
    rows = torch.tensor([[0.3, 0.4]], dtype=torch.float64)
    assert mahalanobis_length(rows, 0.25).item() == pytest.approx(0.5 / 0.5, rel=1e-12)


def test_equal_directions_have_no_distance_and_a_gradient_of_0():
    teacher = randn(6, 5, seed=1)
    student = (torch.arange(1.0, 7.0)[:, None] * teacher).requires_grad_()  # longer, in the same directions
    assert mahalanobis_length(directions(student) - directions(teacher), 0.1).item() == pytest.approx(0, abs=1e-7)
    rows = torch.zeros(4, 4, requires_grad=True)
    mahalanobis_length(rows, 0.1).backward()
    assert rows.grad.abs().max() == 0


def test_gradients_equal_finite_differences():
    student, teacher = randn(5, 4, seed=1).requires_grad_(), randn(5, 4, seed=2)

    def loss(z):
        return mahalanobis_length(directions(z) - directions(teacher), 0.01)

    assert torch.autograd.gradcheck(loss, student)


def test_invariance_to_the_order_of_samples_and_classes():
    student, teacher = randn(6, 5, seed=1), randn(6, 5, seed=2)
    rows, columns = torch.tensor([3, 0, 5, 1, 4, 2]), torch.tensor([3, 0, 4, 1, 2])
    before = mahalanobis_length(directions(student) - directions(teacher), 0.1)
    moved = (z[rows][:, columns] for z in (student, teacher))
    after = mahalanobis_length(directions(next(moved)) - directions(next(moved)), 0.1)
    torch.testing.assert_close(before, after)
