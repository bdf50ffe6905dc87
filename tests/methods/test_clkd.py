"""CLKD: every reading of the paper against naive loops."""

import dataclasses
import itertools
import math

import pytest
import torch

from methods.clkd import CLKDOptions, correlation, correlation_loss, nmse

READINGS = [
    dict(cc_shape=shape, cc_center=center, cc_div=div, cc_norm=norm)
    for shape, center, div, norm in itertools.product(
        ["class", "instance"], ["batch", "class", "none"], ["C-1", "N-1"], ["fro2", "fro", "nmse"]
    )
]
READINGS += [
    dict(cc_values=values, cc_temperature=2.0, cc_center=center, cc_scale=scale, cc_shape=shape, cc_div="1",
         cc_reduction=reduction)
    for values, center, scale, shape, reduction in itertools.product(
        ["logits", "softmax"], ["batch", "class", "none"], ["rows", "columns"], ["class", "instance"],
        ["mean", "vector", "sum"],
    )
]  # fmt: skip
LETTER = dict(
    cc_values="logits", cc_temperature=4.0, cc_center="batch", cc_scale="none", cc_shape="class", cc_div="C-1",
    cc_norm="fro2", cc_reduction="mean", cc_warmup=0.0, nmse_reduction="vector",
)  # fmt: skip


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


def naive_correlation(z, reading):
    """Sum outer products of the class columns (instance) or of the sample rows (class)."""
    n, c = len(z), len(z[0])
    if reading["cc_values"] == "softmax":
        z = [[math.exp(v / reading["cc_temperature"]) for v in row] for row in z]
        z = [[v / sum(row) for v in row] for row in z]
    if reading["cc_center"] == "batch":
        means = [sum(col) / n for col in columns(z)]
        z = [[v - m for v, m in zip(row, means, strict=True)] for row in z]
    elif reading["cc_center"] == "class":
        z = [[v - sum(row) / c for v in row] for row in z]
    if reading["cc_scale"] == "rows":
        z = unit_vectors(z)
    elif reading["cc_scale"] == "columns":
        z = columns(unit_vectors(columns(z)))
    vectors = columns(z) if reading["cc_shape"] == "instance" else z
    size = len(vectors[0])
    divisor = {"C-1": c - 1, "N-1": n - 1, "1": 1}[reading["cc_div"]]
    matrix = [[0.0] * size for _ in range(size)]
    for vector in vectors:
        for i, j in itertools.product(range(size), repeat=2):
            matrix[i][j] += vector[i] * vector[j] / divisor
    return matrix


def unit_vectors(rows):
    return [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in rows]


def naive_correlation_loss(student, teacher, reading, classes):
    squares = sum((a - b) ** 2 for s, t in zip(student, teacher, strict=True) for a, b in zip(s, t, strict=True))
    distance = {
        "fro2": squares, "fro": math.sqrt(squares), "nmse": naive_nmse(student, teacher, reading["nmse_reduction"]),
    }[reading["cc_norm"]]  # fmt: skip
    return distance / {"mean": classes**2, "vector": len(student), "sum": 1}[reading["cc_reduction"]]


@pytest.fixture
def clkd_options():
    """clkd_options(**changes): options of the letter of the third parties, with some changed."""
    weights = dict(lambda_ce=0.1, mu=0.5, beta=2.0, nu=0.4)
    return lambda **changes: CLKDOptions(**(weights | LETTER | changes))


@pytest.mark.parametrize("nmse_reduction", ["vector", "mean"])
@pytest.mark.parametrize("reading", READINGS, ids=lambda reading: "-".join(map(str, reading.values())))
def test_terms_equal_naive_loops(make, make_batch, make_outputs, reading, nmse_reduction):
    reading = LETTER | reading | dict(nmse_reduction=nmse_reduction)
    method = make("clkd", **reading)
    for seed, n in enumerate([3, 7]):  # fewer and more samples than classes
        student, teacher = make_outputs(n, seed), make_outputs(n, seed + 100)
        terms = method.losses(student, teacher, make_batch(n, seed))
        s, t = student.logits.tolist(), teacher.logits.tolist()
        expected = {
            "instance": naive_nmse(s, t, nmse_reduction),
            "class": naive_nmse(columns(s), columns(t), nmse_reduction),
            "correlation": naive_correlation_loss(
                naive_correlation(s, reading), naive_correlation(t, reading), reading, 5
            ),
        }
        assert list(terms) == ["ce", *expected]
        for name, value in expected.items():
            assert terms[name].value.item() == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("reading", READINGS, ids=lambda reading: "-".join(map(str, reading.values())))
def test_gradients_equal_finite_differences(clkd_options, make_outputs, reading):
    student, teacher = make_outputs(3, 1, grad=True).logits, make_outputs(3, 2).logits
    options = clkd_options(**reading)

    def loss(z):
        value = correlation_loss(correlation(z, options), correlation(teacher, options), options, 5)
        return value + nmse(z, teacher, "vector") + nmse(z.T, teacher.T, "mean")

    assert torch.autograd.gradcheck(loss, student)


def test_the_correlation_warms_up(make, make_batch, make_outputs):
    method = make("clkd", nu=0.8, cc_warmup=4.0)
    weights = [
        method.losses(make_outputs(4), make_outputs(4, 9), dataclasses.replace(make_batch(4), epoch=e))["correlation"]
        for e in (1, 3, 4, 9)
    ]
    assert [t.weight for t in weights] == pytest.approx([0.2, 0.6, 0.8, 0.8])


def test_weights(make, make_batch, make_outputs):
    method = make("clkd", lambda_ce=0.2, mu=0.3, beta=4.0, nu=0.7)
    terms = method.losses(make_outputs(4), make_outputs(4, 9), make_batch(4))
    assert {k: t.weight for k, t in terms.items()} == pytest.approx(
        {"ce": 0.2, "instance": 0.3, "class": 0.3 * 4.0, "correlation": 0.7}
    )


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("clkd_letter", dict(nmse_reduction="vector", cc_shape="class", cc_center="batch", cc_norm="fro2", beta=2.0)),
        ("clkd_a1", dict(nmse_reduction="mean", cc_shape="instance", cc_center="batch", cc_norm="fro2", beta=2.0)),
        ("clkd_a2", dict(nmse_reduction="mean", cc_shape="class", cc_center="batch", cc_norm="fro", beta=2.0)),
        ("clkd_b", dict(nmse_reduction="mean", cc_shape="class", cc_center="none", cc_norm="nmse", beta=1.0)),
        ("clkd_r1", dict(nmse_reduction="vector", cc_shape="instance", cc_center="class", cc_norm="fro2", beta=2.0)),
    ],
)
def test_presets_are_the_readings_of_the_reference(make, preset, changes):
    options = vars(make(preset).options)
    assert options == {"lambda_ce": 0.1, "mu": 0.5, "nu": 0.4, **LETTER, **changes}


def test_invariances_of_nmse_and_correlation(clkd_options, make_outputs):
    student, teacher = make_outputs(6, 1).logits, make_outputs(6, 2).logits
    by_row, by_class = torch.arange(1.0, 7).double()[:, None], torch.arange(1.0, 6).double()
    # NMSE depends on directions alone
    torch.testing.assert_close(nmse(by_row * student, teacher, "vector"), nmse(student, teacher, "vector"))
    torch.testing.assert_close(nmse((by_class * student).T, teacher.T, "mean"), nmse(student.T, teacher.T, "mean"))
    # centering removes a constant per class, or per sample
    for shape in ("class", "instance"):
        for center, constant in (("batch", by_class), ("class", by_row)):
            options = clkd_options(cc_shape=shape, cc_center=center)
            torch.testing.assert_close(correlation(student + constant, options), correlation(student, options))
    # XᵀX and XXᵀ have the same Frobenius norm
    lengths = [correlation(student, clkd_options(cc_shape=s)).square().sum() for s in ("class", "instance")]
    torch.testing.assert_close(*lengths)


def test_matrices_are_the_textbook_ones(clkd_options, make_outputs):
    z = make_outputs(6, 1).logits
    over_samples = dict(cc_shape="instance", cc_center="class")
    torch.testing.assert_close(correlation(z, clkd_options(cc_div="N-1")), torch.cov(z.T))
    torch.testing.assert_close(correlation(z, clkd_options(**over_samples)), torch.cov(z))
    pearson = correlation(z, clkd_options(cc_scale="columns", cc_div="1"))
    torch.testing.assert_close(pearson, torch.corrcoef(z.T))
    torch.testing.assert_close(
        correlation(z, clkd_options(**over_samples, cc_scale="rows", cc_div="1")), torch.corrcoef(z)
    )


def test_reductions_differ_by_the_length_of_the_vectors(make_outputs):
    student, teacher = make_outputs(6, 1).logits, make_outputs(6, 2).logits
    torch.testing.assert_close(nmse(student, teacher, "vector"), 5 * nmse(student, teacher, "mean"))
    torch.testing.assert_close(nmse(student.T, teacher.T, "vector"), 6 * nmse(student.T, teacher.T, "mean"))


def test_the_gradient_of_a_zero_vector_is_moderate():
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    nmse(rows, torch.ones(2, 2), "vector").backward()
    assert rows.grad.isfinite().all()
    assert rows.grad.abs().max() <= 1


def test_unsquared_norm_has_gradient_zero_at_equal_matrices(clkd_options):
    matrix = torch.eye(3).requires_grad_()
    correlation_loss(matrix, torch.eye(3), clkd_options(cc_norm="fro"), 3).backward()
    assert matrix.grad.tolist() == torch.zeros(3, 3).tolist()


@pytest.mark.parametrize(("dataset", "batch"), [("digits", 20), ("cifar10", 64)])
def test_nu_is_scaled_with_the_number_of_classes_and_the_batch_size(read_yaml, dataset, batch):
    # the C x C sums over a batch grow with N / (C - 1), their squared difference with its square
    scale = (9 / batch) / (99 / 64)
    assert read_yaml("clkd_letter")["datasets"][dataset]["nu"] == pytest.approx(0.4 * scale**2, rel=0.02)
