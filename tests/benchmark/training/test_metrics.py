import numpy as np
import pytest
import torch

from benchmark.grid.progress import Progress, duration
from benchmark.training import metrics

LOGITS = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0], [1.0, 2.0, 3.0], [9.0, 0.0, 1.0]])


def test_top_k_by_hand():
    labels = torch.tensor([0, 1, 1, 1])  # ranks of the labels: first, first, second, third
    assert [metrics.top_k(LOGITS, labels, k) for k in (1, 2, 3)] == [50.0, 75.0, 100.0]


def test_agreement_by_hand():
    other = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    assert metrics.agreement(LOGITS, other) == 75.0


def test_class_correlation_is_pearson_s():
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(metrics.class_correlation(logits), np.corrcoef(logits.numpy().T), atol=1e-6)


def test_a_constant_class_has_no_correlation():
    logits = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    logits[:, 1] = 2.0
    found = metrics.class_correlation(logits)
    assert found.isfinite().all() and found[1].abs().max() < 1e-6


def test_correlation_distance_by_hand():
    # classes fully correlated, against fully anticorrelated: R differs by 2 in the two places off the diagonal
    student = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    teacher = torch.tensor([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]])
    of = metrics.class_correlation
    assert metrics.correlation_distance(of(student), of(teacher)) == pytest.approx((2 * 2**2) ** 0.5 / 2)
    assert metrics.correlation_distance(of(student), of(5 * student + 1)) == pytest.approx(0, abs=1e-7)


def test_filling_is_told_once_a_minute(capsys, monkeypatch):
    times = iter([0.0, 30.0, 70.0, 80.0, 140.0])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    tell = Progress(1).cache_fill_reporter("a cell")
    for share in (0.1, 0.2, 0.3, 0.5):
        tell(share)
    assert capsys.readouterr().out.splitlines() == [
        "a cell: teacher cache 20 % filled  left: 5 min",
        "a cell: teacher cache 50 % filled  left: 2 min",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (95, "2 min"), (600, "10 min"), (5400, "1 h 30 min"), (7500, "2 h 05 min")],
)
def test_durations_are_short(seconds, text):
    assert duration(seconds) == text
