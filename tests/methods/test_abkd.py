"""ABKD: the divergence against loops, its special cases, and the limits where its formula divides by 0."""

import math

import pytest
import torch
from torch.nn.functional import log_softmax

from methods.abkd import divergence
from methods.losses import kl_per_sample
from tests.methods.conftest import randn

LIMITS = [(0.0, 0.7), (0.7, 0.0), (0.7, -0.7), (-0.4, 0.4), (0.0, 0.0), (0.0, -0.6), (-0.6, 0.0)]


def softmax(row, temperature):
    e = [math.exp(v / temperature) for v in row]
    return [v / sum(e) for v in e]


def naive_divergence(q, p, a, b):
    """The general form, class by class, for a, b and a + b other than 0."""
    total = 0.0
    for x, y in zip(q, p, strict=True):
        total += y**a * x**b - a / (a + b) * y ** (a + b) - b / (a + b) * x ** (a + b)
    return -total / (a * b)


def probabilities(seed):
    """Logarithms of softmaxes [6, 5] of student and teacher."""
    return tuple(log_softmax(randn(6, 5, seed=s), 1) for s in (seed, seed + 50))


@pytest.mark.parametrize(("alpha", "beta"), [(0.8, 0.3), (0.3, 0.8), (1.5, -0.5), (-0.5, 1.2), (2.0, 1.0)])
def test_the_term_equals_naive_loops(make, make_batch, make_outputs, alpha, beta):
    student, teacher = make_outputs(7, 1), make_outputs(7, 2)
    method = make("abkd", alpha=alpha, beta=beta, temperature=3.0)
    terms = method.losses(student, teacher, make_batch(7))
    rows = zip(student.logits.tolist(), teacher.logits.tolist(), strict=True)
    expected = [naive_divergence(softmax(s, 3.0), softmax(t, 3.0), alpha, beta) for s, t in rows]
    assert list(terms) == ["ce", "abkd"]
    assert terms["abkd"].value.item() == pytest.approx(sum(expected) / 7, rel=1e-9)
    assert [t.weight for t in terms.values()] == [1.0, 32.0]


def test_special_values_are_the_divergences_of_their_names():
    log_q, log_p = probabilities(1)
    torch.testing.assert_close(divergence(log_q, log_p, 1.0, 0.0), kl_per_sample(log_q, log_p))
    torch.testing.assert_close(divergence(log_q, log_p, 0.0, 1.0), kl_per_sample(log_p, log_q))
    # alpha = beta = 1 is half the squared distance of the probabilities
    squared = (log_q.exp() - log_p.exp()).square().sum(1) / 2
    torch.testing.assert_close(divergence(log_q, log_p, 1.0, 1.0), squared)


@pytest.mark.parametrize(("alpha", "beta"), LIMITS)
def test_special_cases_are_limits_of_the_general_form(alpha, beta):
    """The mean of the general form on both sides of a limit differs from it by the square of their distance."""
    log_q, log_p = probabilities(2)
    step = 1e-3
    if alpha == 0 and beta == 0:
        sides = [(step, step), (-step, -step)]
    elif alpha == 0:
        sides = [(step, beta), (-step, beta)]
    else:
        sides = [(alpha, beta + step), (alpha, beta - step)]
    rows = list(zip(log_q.exp().tolist(), log_p.exp().tolist(), strict=True))
    values = [sum(naive_divergence(q, p, *side) for side in sides) / 2 for q, p in rows]
    assert divergence(log_q, log_p, alpha, beta).tolist() == pytest.approx(values, rel=1e-4)


@pytest.mark.parametrize(("alpha", "beta"), [(0.8, 0.3), *LIMITS])
def test_it_is_0_at_equality_positive_elsewhere_and_its_gradient_is_exact(alpha, beta):
    log_q, log_p = probabilities(3)
    assert divergence(log_p, log_p, alpha, beta).abs().max() < 1e-12
    assert divergence(log_q, log_p, alpha, beta).min() > 1e-3
    logits = randn(3, 5, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: divergence(log_softmax(z, 1), log_p[:3], alpha, beta), logits)


def test_a_value_by_hand():
    # p = (1/2, 1/2), q = (4/5, 1/5), alpha = beta = 1/2: −4 · (√(2/5) + √(1/10) − 1/2 − 1/2)
    log_p, log_q = (torch.tensor([v], dtype=torch.float64).log() for v in ([0.5, 0.5], [0.8, 0.2]))
    expected = 4 * (1 - math.sqrt(0.4) - math.sqrt(0.1))
    assert divergence(log_q, log_p, 0.5, 0.5).item() == pytest.approx(expected, rel=1e-12)
