"""CLKD: every reading of the paper against naive loops."""

import itertools
import math

import pytest
import torch

from methods.clkd import correlation, correlation_loss, nmse

READINGS = list(
    itertools.product(["class", "instance"], ["batch", "class", "none"], ["C-1", "N-1"], ["fro2", "fro", "nmse"])
)


def columns(rows):
    return [list(c) for c in zip(*rows, strict=True)]


def naive_nmse(student, teacher, reduction):
    """Compute NMSE of two lists of vectors."""
    total, entries = 0.0, 0
    for s, t in zip(student, teacher, strict=True):
        norm_s, norm_t = math.sqrt(sum(v * v for v in s)), math.sqrt(sum(v * v for v in t))
        for a, b in zip(s, t, strict=True):
            total += (a / norm_s - b / norm_t) ** 2
            entries += 1
    return total / (len(student) if reduction == "vector" else entries)


def naive_correlation(z, shape, center, div):
    """Sum outer products of the class columns (instance) or of the sample rows (class)."""
    n, c = len(z), len(z[0])
    if center == "batch":
        means = [sum(col) / n for col in columns(z)]
        z = [[v - m for v, m in zip(row, means, strict=True)] for row in z]
    elif center == "class":
        z = [[v - sum(row) / c for v in row] for row in z]
    vectors = columns(z) if shape == "instance" else z
    size = len(vectors[0])
    matrix = [[0.0] * size for _ in range(size)]
    for vector in vectors:
        for i, j in itertools.product(range(size), repeat=2):
            matrix[i][j] += vector[i] * vector[j] / ((c if div == "C-1" else n) - 1)
    return matrix


def naive_correlation_loss(student, teacher, norm, reduction, classes):
    if norm == "nmse":
        return naive_nmse(student, teacher, reduction) / classes**2
    squares = sum((a - b) ** 2 for s, t in zip(student, teacher, strict=True) for a, b in zip(s, t, strict=True))
    return (squares if norm == "fro2" else math.sqrt(squares)) / classes**2


@pytest.mark.parametrize("reduction", ["vector", "mean"])
@pytest.mark.parametrize(("shape", "center", "div", "norm"), READINGS)
def test_terms_equal_naive_loops(make, make_batch, make_outputs, shape, center, div, norm, reduction):
    method = make("clkd", cc_shape=shape, cc_center=center, cc_div=div, cc_norm=norm, nmse_reduction=reduction)
    for seed, n in enumerate([3, 7]):  # fewer and more samples than classes
        student, teacher = make_outputs(n, seed), make_outputs(n, seed + 100)
        terms = method.losses(student, teacher, make_batch(n, seed))
        s, t = student.logits.tolist(), teacher.logits.tolist()
        expected = {
            "instance": naive_nmse(s, t, reduction),
            "class": naive_nmse(columns(s), columns(t), reduction),
            "correlation": naive_correlation_loss(
                naive_correlation(s, shape, center, div), naive_correlation(t, shape, center, div), norm, reduction, 5
            ),
        }
        assert list(terms) == ["ce", *expected]
        for name, value in expected.items():
            assert terms[name].value.item() == pytest.approx(value, rel=1e-10), name


@pytest.mark.parametrize(("shape", "center", "div", "norm"), READINGS)
def test_gradients_equal_finite_differences(make_outputs, shape, center, div, norm):
    student, teacher = make_outputs(3, 1, grad=True).logits, make_outputs(3, 2).logits

    def loss(z):
        g_s, g_t = (correlation(v, shape, center, div) for v in (z, teacher))
        return correlation_loss(g_s, g_t, norm, "vector", 5) + nmse(z, teacher, "vector") + nmse(z.T, teacher.T, "mean")

    assert torch.autograd.gradcheck(loss, student)


def test_weights(make, make_batch, make_outputs):
    method = make("clkd", lambda_ce=0.2, mu=0.3, beta=4.0, nu=0.7)
    terms = method.losses(make_outputs(4), make_outputs(4, 9), make_batch(4))
    assert {k: t.weight for k, t in terms.items()} == pytest.approx(
        {"ce": 0.2, "instance": 0.3, "class": 0.3 * 4.0, "correlation": 0.7}
    )


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("clkd", dict(nmse_reduction="vector", cc_shape="class", cc_center="batch", cc_norm="fro2", beta=2.0)),
        ("clkd_a1", dict(nmse_reduction="mean", cc_shape="instance", cc_center="batch", cc_norm="fro2", beta=2.0)),
        ("clkd_a2", dict(nmse_reduction="mean", cc_shape="class", cc_center="batch", cc_norm="fro", beta=2.0)),
        ("clkd_b", dict(nmse_reduction="mean", cc_shape="class", cc_center="none", cc_norm="nmse", beta=1.0)),
        ("clkd_r1", dict(nmse_reduction="vector", cc_shape="instance", cc_center="class", cc_norm="fro2", beta=2.0)),
    ],
)
def test_presets_are_the_readings_of_the_reference(make, preset, changes):
    options = vars(make(preset).options)
    assert options == {"lambda_ce": 0.1, "mu": 0.5, "nu": 0.4, "cc_div": "C-1", **changes}


def test_invariances_of_nmse_and_correlation(make_outputs):
    student, teacher = make_outputs(6, 1).logits, make_outputs(6, 2).logits
    by_row, by_class = torch.arange(1.0, 7).double()[:, None], torch.arange(1.0, 6).double()
    # NMSE depends on directions alone
    torch.testing.assert_close(nmse(by_row * student, teacher, "vector"), nmse(student, teacher, "vector"))
    torch.testing.assert_close(nmse((by_class * student).T, teacher.T, "mean"), nmse(student.T, teacher.T, "mean"))
    # centering removes a constant per class, or per sample
    for shape in ("class", "instance"):
        for center, constant in (("batch", by_class), ("class", by_row)):
            torch.testing.assert_close(
                correlation(student + constant, shape, center, "C-1"), correlation(student, shape, center, "C-1")
            )
    # XᵀX and XXᵀ have the same Frobenius norm
    lengths = [correlation(student, shape, "batch", "C-1").square().sum() for shape in ("class", "instance")]
    torch.testing.assert_close(*lengths)


def test_default_matrix_is_the_covariance_of_the_classes(make_outputs):
    z = make_outputs(6, 1).logits
    torch.testing.assert_close(correlation(z, "class", "batch", "N-1"), torch.cov(z.T))
    torch.testing.assert_close(correlation(z, "instance", "class", "C-1"), torch.cov(z))


def test_reductions_differ_by_the_length_of_the_vectors(make_outputs):
    student, teacher = make_outputs(6, 1).logits, make_outputs(6, 2).logits
    torch.testing.assert_close(nmse(student, teacher, "vector"), 5 * nmse(student, teacher, "mean"))
    torch.testing.assert_close(nmse(student.T, teacher.T, "vector"), 6 * nmse(student.T, teacher.T, "mean"))


def test_the_gradient_of_a_zero_vector_is_moderate():
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    nmse(rows, torch.ones(2, 2), "vector").backward()
    assert rows.grad.isfinite().all()
    assert rows.grad.abs().max() <= 1


def test_unsquared_norm_has_gradient_zero_at_equal_matrices():
    matrix = torch.eye(3).requires_grad_()
    correlation_loss(matrix, torch.eye(3), "fro", "mean", 3).backward()
    assert matrix.grad.tolist() == torch.zeros(3, 3).tolist()


@pytest.mark.parametrize(("dataset", "batch"), [("digits", 32), ("cifar10", 64)])
def test_nu_is_scaled_with_the_number_of_classes_and_the_batch_size(read_yaml, dataset, batch):
    # the C x C sums over a batch grow with N / (C - 1), their squared difference with its square
    scale = (9 / batch) / (99 / 64)
    assert read_yaml("clkd")["datasets"][dataset]["nu"] == pytest.approx(0.4 * scale**2, rel=0.02)
