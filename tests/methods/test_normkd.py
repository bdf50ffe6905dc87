"""NormKD: a temperature for each sample."""

import math

import pytest
import torch

from methods.losses import kl_divergence, standardize_logits
from methods.normkd import normalized_kl


def naive(student, teacher, temperature):
    def sample_temperature(z):
        mean = sum(z) / len(z)
        return temperature * math.sqrt(sum((v - mean) ** 2 for v in z) / (len(z) - 1))

    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        e_s, e_t = ([math.exp(v / sample_temperature(z)) for v in z] for z in (s, t))
        p_s, p_t = ([v / sum(e) for v in e] for e in (e_s, e_t))
        total += sample_temperature(t) ** 2 * sum(b * math.log(b / a) for a, b in zip(p_s, p_t, strict=True))
    return total / len(student)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_terms_equal_naive_loops(make, make_batch, make_outputs, seed, temperature):
    student, teacher = make_outputs(7, seed), make_outputs(7, seed + 100)
    terms = make("normkd", temperature=temperature).losses(student, teacher, make_batch(7, seed))
    assert list(terms) == ["ce", "kd"]
    assert terms["kd"].value.item() == pytest.approx(naive(student.logits, teacher.logits, temperature), rel=1e-6)
    assert [t.weight for t in terms.values()] == [0.1, 0.9]


def test_a_value_by_hand():
    # both standardise to (1, 0, −1) up to order; the teacher's deviation is 3
    student = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64)
    teacher = torch.tensor([[0.0, 3.0, -3.0]], dtype=torch.float64)
    z = sum(math.exp(v) for v in (1, 0, -1))
    by_hand = 9 * ((math.exp(1) * (1 - 0) + math.exp(0) * (0 - 1)) / z)
    assert normalized_kl(student, teacher, 1.0).item() == pytest.approx(by_hand, rel=1e-6)


def test_for_one_sample_it_is_kd_of_standardized_logits_times_the_teachers_variance(make_outputs):
    for i in range(5):
        student, teacher = make_outputs(5, 1).logits[[i]], make_outputs(5, 2).logits[[i]]
        lskd = kl_divergence(standardize_logits(student), standardize_logits(teacher), 2.0)
        torch.testing.assert_close(normalized_kl(student, teacher, 2.0), teacher.var() * lskd)


def test_gradients_equal_finite_differences(make_outputs):
    # the student's temperature has a gradient
    student, teacher = make_outputs(4, 1, grad=True).logits, make_outputs(4, 2).logits
    assert torch.autograd.gradcheck(lambda z: normalized_kl(z, teacher, 2.0), student)


def test_invariances(make_outputs):
    student, teacher = make_outputs(6, 1).logits, make_outputs(6, 2).logits
    value, by_row = normalized_kl(student, teacher, 2.0), torch.arange(1.0, 7).double()[:, None]
    torch.testing.assert_close(normalized_kl(by_row * student + by_row, teacher - by_row, 2.0), value)
    torch.testing.assert_close(normalized_kl(student, 3 * teacher, 2.0), 9 * value)


def test_equal_teacher_logits_give_zero_loss_and_gradient():
    student = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = normalized_kl(student, torch.ones(2, 5), 2.0)
    loss.backward()
    assert loss.item() == 0 and student.grad.abs().max() == 0
