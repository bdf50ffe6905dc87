"""Metrics of logits by hand and against NumPy."""

import numpy as np
import pytest
import torch

from benchmark.training import metrics

LOGITS = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0], [1.0, 2.0, 3.0], [9.0, 0.0, 1.0]])


def test_top_k_by_hand():
    labels = torch.tensor([0, 1, 1, 1])  # of rank 1, 1, 2 and 3
    assert [metrics.top_k(LOGITS, labels, k) for k in (1, 2, 3)] == [50.0, 75.0, 100.0]


def test_the_first_of_equal_logits_is_the_prediction():
    ties = torch.zeros(2, 40, dtype=torch.bfloat16)
    assert metrics.top_k(ties, torch.tensor([0, 1])) == 50.0


def test_agreement_by_hand():
    other = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    assert metrics.agreement(LOGITS, other) == 75.0


def test_class_correlation_is_that_of_pearson_and_0_for_a_constant_class():
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(metrics.class_correlation(logits), np.corrcoef(logits.numpy().T), atol=1e-6)
    logits[:, 1] = 2.0
    correlation = metrics.class_correlation(logits)
    assert correlation.isfinite().all() and correlation[1].abs().max() < 1e-6


def test_correlation_distance_by_hand():
    # fully correlated classes against fully anticorrelated ones: R differs by 2 in both off-diagonal entries
    student = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    teacher = torch.tensor([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]])
    r_student, r_teacher, r_scaled = map(metrics.class_correlation, (student, teacher, 5 * student + 1))
    assert metrics.correlation_distance(r_student, r_teacher) == pytest.approx((2 * 2**2) ** 0.5 / 2)
    assert metrics.correlation_distance(r_student, r_scaled) == pytest.approx(0, abs=1e-7)
