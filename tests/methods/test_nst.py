"""NST: the kernel by loops over channels, for both ways to compute it."""

import math

import numpy as np
import pytest
import torch

from methods.contract import Context, Outputs, Shapes
from methods.nst import by_channels, by_positions, discrepancy
from tests.methods.conftest import halved, randn

STUDENT = ((2, 8, 8), (2, 8, 8), (3, 4, 4), (9, 2, 2))
TEACHER = ((5, 8, 8), (5, 4, 4), (7, 4, 4), (9, 4, 4), (6, 2, 2))


def naive_kernel(a, b):
    """Average the squared cosines of two lists of vectors."""
    total = 0.0
    for x in a:
        for y in b:
            cosine = sum(p * q for p, q in zip(x, y, strict=True)) / (math.hypot(*x) * math.hypot(*y))
            total += cosine**2
    return total / (len(a) * len(b))


def naive(student, teacher):
    student, teacher = student.numpy(), teacher.numpy()
    while student.shape[2] > teacher.shape[2]:
        student = halved(student)
    while teacher.shape[2] > student.shape[2]:
        teacher = halved(teacher)
    values = []
    for s, t in zip(student, teacher, strict=True):
        s, t = [c.flatten().tolist() for c in s], [c.flatten().tolist() for c in t]
        values.append(naive_kernel(t, t) + naive_kernel(s, s) - 2 * naive_kernel(s, t))
    return float(np.mean(values))


def test_terms_equal_naive_loops(make, make_batch):
    method = make("nst", Context(5, Shapes(STUDENT, 6), Shapes(TEACHER, 9), torch.arange(40) % 5, 20))
    assert method.requires.student.maps == method.requires.teacher.maps == {1, 2, 3}
    student = Outputs(randn(2, 5, seed=0), maps={k: randn(2, *s, seed=k) for k, s in enumerate(STUDENT)})
    teacher = Outputs(maps={k: randn(2, *s, seed=10 + k) for k, s in enumerate(TEACHER)})
    terms = method.losses(student, teacher, make_batch(2))
    expected = sum(naive(student.maps[k], teacher.maps[k]) for k in (1, 2, 3))
    assert list(terms) == ["ce", "nst"]
    assert terms["nst"].value.item() == pytest.approx(expected, rel=1e-10)
    assert [t.weight for t in terms.values()] == [1.0, 50.0]


@pytest.mark.parametrize("form", [by_channels, by_positions])
@pytest.mark.parametrize(("c_s", "c_t", "positions"), [(2, 3, 9), (5, 4, 4), (3, 3, 3)], ids=["many", "few", "equal"])
def test_both_forms_equal_naive_loops(form, c_s, c_t, positions):
    s, t = randn(2, c_s, positions, seed=1), randn(2, c_t, positions, seed=2)
    expected = 0.0
    for a, b in zip(
        (s / s.norm(dim=2, keepdim=True)).tolist(), (t / t.norm(dim=2, keepdim=True)).tolist(), strict=True
    ):
        expected += (naive_kernel(b, b) + naive_kernel(a, a) - 2 * naive_kernel(a, b)) / 2
    assert form(s.mT, t.mT).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("form", [by_channels, by_positions])
def test_a_zero_channel_has_a_cosine_of_0_with_all(form):
    s, t = randn(2, 3, 4, seed=5), randn(2, 3, 4, seed=6)
    s[:, 1] = 0
    lengths = [np.linalg.norm(x, axis=2, keepdims=True) for x in (s, t)]
    a, b = (x.numpy() / np.where(n > 0, n, 1) for x, n in zip((s, t), lengths, strict=True))
    cosines = [np.einsum("ncp,ndp->ncd", x, y) for x, y in ((b, b), (a, a), (a, b))]
    expected = np.dot([1, 1, -2], [(c**2).mean() for c in cosines])
    value = form(s.requires_grad_().mT, t.mT)
    assert value.item() == pytest.approx(expected, rel=1e-10)
    value.backward()
    assert s.grad.isfinite().all() and (s.grad[:, 1] == 0).all()


def test_a_value_by_hand():
    student, teacher = torch.tensor([[[[3.0, 0.0]]]]), torch.tensor([[[[1.0, 1.0]], [[0.0, -2.0]]]])
    # cosines squared: student with itself 1; teacher 1, 1/2, 1/2, 1; across 1/2, 0
    assert discrepancy(student, teacher).item() == pytest.approx(1 + 3 / 4 - 2 * 1 / 4, rel=1e-6)


def test_invariance_to_scale_sign_and_order_of_channels():
    student, teacher = randn(2, 3, 4, 4, seed=3), randn(2, 5, 4, 4, seed=4)
    changed = teacher[:, [4, 2, 0, 1, 3]] * torch.tensor([-1.0, 2, 3, 4, 5])[:, None, None]
    assert torch.allclose(discrepancy(student, teacher), discrepancy(student, changed))
    assert discrepancy(changed, teacher).abs() < 1e-12


@pytest.mark.parametrize("form", [by_channels, by_positions])
def test_gradient(form):
    student, teacher = randn(2, 5, 3, seed=6).requires_grad_(), randn(2, 5, 2, seed=7)
    assert torch.autograd.gradcheck(lambda s: form(s, teacher), student)
