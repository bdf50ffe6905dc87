"""Tempered Kullback-Leibler divergence."""

import math

import pytest
import torch

from methods.losses import kl_divergence, standardize_logits


def softmax(row):
    e = [math.exp(v) for v in row]
    return [v / sum(e) for v in e]


def naive_kl(student, teacher, temperature):
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p_s, p_t = softmax([v / temperature for v in s]), softmax([v / temperature for v in t])
        total += sum(b * math.log(b / a) for a, b in zip(p_s, p_t, strict=True))
    return temperature**2 * total / len(student)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("seed", range(3))
def test_terms_equal_naive_loops(make, make_batch, make_outputs, seed, temperature):
    student, teacher = make_outputs(7, seed), make_outputs(7, seed + 100)
    terms = make("kd", temperature=temperature).losses(student, teacher, make_batch(7, seed))
    assert list(terms) == ["ce", "kd"]
    expected = naive_kl(student.logits, teacher.logits, temperature)
    assert terms["kd"].value.item() == pytest.approx(expected, rel=1e-10)
    assert [t.weight for t in terms.values()] == [0.1, 0.9]


def test_a_value_by_hand():
    # p_t = (3/4, 1/4), p_s = (1/2, 1/2) at T = 2
    student, teacher = torch.zeros(1, 2).double(), torch.tensor([[2 * math.log(3), 0.0]], dtype=torch.float64)
    by_hand = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert kl_divergence(student, teacher, 2.0).item() == pytest.approx(by_hand, rel=1e-12)


def test_gradient_is_t_times_the_difference_of_probabilities(make_outputs):
    # d/dz_s of T² KL is T (p_s − p_t) / N
    student, teacher = make_outputs(4, 1, grad=True).logits, make_outputs(4, 2).logits
    kl_divergence(student, teacher, 3.0).backward()
    expected = 3.0 * ((student / 3).softmax(1) - (teacher / 3).softmax(1)) / 4
    torch.testing.assert_close(student.grad, expected.detach())


def test_invariances(make_outputs):
    student, teacher = make_outputs(6, 1).logits, make_outputs(6, 2).logits
    value = kl_divergence(student, teacher, 2.0)
    shift = torch.arange(6.0).double()[:, None]
    torch.testing.assert_close(kl_divergence(student + shift, teacher - 3 * shift, 2.0), value)
    torch.testing.assert_close(kl_divergence(5 * student, 5 * teacher, 10.0), 25 * value)
    assert kl_divergence(student + shift, student, 2.0).item() == pytest.approx(0, abs=1e-12)


def test_needs_only_the_teachers_logits(make):
    needs = make("kd").requires.teacher
    assert needs.logits
    assert not (needs.pooled or needs.maps or needs.pre_activations)


def test_standardised_rows_by_hand():
    # mean 2, unbiased variance ((−1)² + 0 + 1²) / 2 = 1; scale and shift of a row do not count
    rows = torch.tensor([[1.0, 2.0, 3.0], [10.0, 30.0, 50.0]], dtype=torch.float64)
    expected = torch.tensor([[-1.0, 0.0, 1.0]] * 2, dtype=torch.float64)
    torch.testing.assert_close(standardize_logits(rows), expected, atol=2e-7, rtol=0)


def test_lskd_equals_kd_of_logits_standardised_by_numpy(make, make_batch, make_outputs):
    student, teacher = make_outputs(7, 1), make_outputs(7, 2)
    z_s, z_t = ((z - z.mean(1, keepdims=True)) / (1e-7 + z.std(1, ddof=1, keepdims=True))
                for z in (student.logits.numpy(), teacher.logits.numpy()))  # fmt: skip
    terms = make("lskd").losses(student, teacher, make_batch(7))
    assert terms["kd"].value.item() == pytest.approx(naive_kl(z_s, z_t, 2.0), rel=1e-10)
    assert [t.weight for t in terms.values()] == [0.1, 9.0]


def test_the_published_weights_of_lskd_on_pairs(read_yaml):
    pairs = read_yaml("lskd")["pairs"]
    assert pairs["resnet110-resnet20"] == {"temperature": 4.0, "kd_weight": 12.0}
    assert pairs["ResNet50-MobileNetV2"] == {"temperature": 3.0, "kd_weight": 1.0}
