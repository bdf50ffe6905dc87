"""DIST: correlations within samples and within classes."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from methods.dist import decorrelation


def softmax(z, temperature):
    e = np.exp(z / temperature)
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("seed", range(3))
def test_terms_equal_the_correlations_of_scipy(make, make_batch, make_outputs, seed, temperature):
    student, teacher = make_outputs(7, seed), make_outputs(7, seed + 100)
    terms = make("dist", temperature=temperature).losses(student, teacher, make_batch(7, seed))
    assert list(terms) == ["ce", "inter", "intra"]
    p_s, p_t = softmax(student.logits.numpy(), temperature), softmax(teacher.logits.numpy(), temperature)
    for name, pairs in (("inter", zip(p_s, p_t, strict=True)), ("intra", zip(p_s.T, p_t.T, strict=True))):
        expected = 1 - np.mean([stats.pearsonr(a, b)[0] for a, b in pairs])
        assert terms[name].value.item() == pytest.approx(temperature**2 * expected, rel=1e-5), name


def test_a_value_by_hand():
    # less the means: (−1, 0, 1) and (−1, 1, 0), whose cosine is 1 / 2; a second pair of opposite rows has −1
    student = torch.tensor([[0.0, 1.0, 2.0], [1.0, 2.0, 3.0]], dtype=torch.float64)
    teacher = torch.tensor([[1.0, 3.0, 2.0], [9.0, 5.0, 1.0]], dtype=torch.float64)
    assert decorrelation(student, teacher).item() == pytest.approx(1 - (0.5 - 1) / 2, rel=1e-7)


def test_the_epsilon_of_the_published_code_is_in_the_denominator():
    # vectors of length 1e-4 each: 1e-8 / (1e-8 + 1e-8)
    rows = 1e-4 / math.sqrt(2) * torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    assert decorrelation(rows, rows).item() == pytest.approx(0.5, rel=1e-9)


def test_weights(make, make_batch, make_outputs):
    method = make("dist", ce_weight=0.5, dist_weight=3.0, beta=0.2, gamma=0.7)
    terms = method.losses(make_outputs(4), make_outputs(4, 9), make_batch(4))
    assert [t.weight for t in terms.values()] == pytest.approx([0.5, 0.6, 2.1])
    published = make("dist").losses(make_outputs(4), make_outputs(4, 9), make_batch(4))
    assert [t.weight for t in published.values()] == [1.0, 2.0, 2.0]


def test_gradients_equal_finite_differences(make_outputs):
    student, teacher = make_outputs(4, 1, grad=True).logits, make_outputs(4, 2).logits.softmax(1)
    assert torch.autograd.gradcheck(lambda z: decorrelation(z.softmax(1), teacher), student)
    assert torch.autograd.gradcheck(lambda z: decorrelation(z.softmax(1).T, teacher.T), student)


def test_invariance_to_scale_and_shift_of_a_row(make_outputs):
    student, teacher = make_outputs(6, 1).logits, make_outputs(6, 2).logits
    by_row = torch.arange(1.0, 7).double()[:, None]
    torch.testing.assert_close(decorrelation(by_row * student + by_row, teacher), decorrelation(student, teacher))
    torch.testing.assert_close(decorrelation(-student, teacher), 2 - decorrelation(student, teacher))


def test_rows_of_equal_entries_are_uncorrelated_with_a_moderate_gradient():
    rows = torch.full((1, 100), 0.01, requires_grad=True)
    loss = decorrelation(rows, torch.eye(1, 100))
    loss.backward()
    assert loss.item() == pytest.approx(1, abs=1e-6)
    assert rows.grad.abs().max() < 2
