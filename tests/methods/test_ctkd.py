"""CTKD: the learned temperature and its reversed gradient."""

import math

import pytest
import torch

from methods.ctkd import Reversal, strength
from methods.losses import kl_divergence, standardize_logits

START = 1 + 20 / (1 + math.exp(-1))  # T where t is 1


def test_the_initial_loss_is_kd_at_the_temperature_of_the_authors(make, make_batch, make_outputs):
    student, teacher, batch = make_outputs(7, 1), make_outputs(7, 2), make_batch(7)
    terms = make("ctkd").double().losses(student, teacher, batch)
    assert list(terms) == ["ce", "kd"]
    total = 0.0
    for s, t in zip(student.logits.tolist(), teacher.logits.tolist(), strict=True):
        e_s, e_t = ([math.exp(v / START) for v in z] for z in (s, t))
        total += sum(b / sum(e_t) * math.log(b / sum(e_t) / (a / sum(e_s))) for a, b in zip(e_s, e_t, strict=True))
    assert terms["kd"].value.shape == ()
    assert terms["kd"].value.item() == pytest.approx(START**2 * total / 7, rel=1e-9)
    assert [t.weight for t in terms.values()] == [0.1, 0.9]


def test_has_one_parameter(make):
    method = make("ctkd")
    assert [p.shape for p in method.parameters()] == [()]
    assert method.temperature(1).item() == pytest.approx(START, rel=1e-6)


@pytest.mark.parametrize(
    ("epoch", "expected"), [(1, 0.0244717), (5, 0.5), (10, 1.0), (11, 1.0), (240, 1.0)]
)  # (1 − cos(π / 10)) / 2 = 0.0245
def test_strength_rises_along_a_cosine(epoch, expected):
    assert strength(epoch, 10.0) == pytest.approx(expected, abs=1e-6)
    assert strength(epoch, 0.0) == 1.0


@pytest.mark.parametrize("epoch", [1, 5, 20])
def test_the_temperatures_gradient_is_reversed_and_the_students_is_not(make, make_batch, make_outputs, epoch):
    student, teacher = make_outputs(4, 1, grad=True), make_outputs(4, 2)
    method = make("ctkd", warmup=10.0).double()
    method.losses(student, teacher, make_batch(4, epoch=epoch))["kd"].value.backward()

    def value(t):
        return kl_divergence(student.logits.detach(), teacher.logits, 1 + 20 / (1 + math.exp(-t))).item()

    slope = (value(1 + 1e-5) - value(1 - 1e-5)) / 2e-5
    assert method.t.grad.item() == pytest.approx(-strength(epoch, 10.0) * slope, rel=1e-4)
    logits = student.logits.detach().requires_grad_()
    kl_divergence(logits, teacher.logits, START).backward()
    torch.testing.assert_close(student.logits.grad, logits.grad, rtol=1e-6, atol=1e-9)


def test_training_the_temperature_raises_the_loss(make, make_batch, make_outputs):
    method, student, teacher = make("ctkd"), make_outputs(8, 1), make_outputs(8, 2)
    optimizer = torch.optim.SGD(method.parameters(), 0.05)
    values = []
    for _ in range(20):
        loss = method.losses(student, teacher, make_batch(8, epoch=20))["kd"].value
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values == sorted(values) and values[-1] > values[0]


def test_reversal_is_the_identity_with_a_reversed_gradient():
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    y = Reversal.apply(x, 0.25)
    assert torch.equal(y, x)
    (y * torch.tensor([4.0, 8.0])).sum().backward()
    assert x.grad.tolist() == [-1.0, -2.0]


def test_gradients_equal_finite_differences(make, make_batch, make_outputs):
    method, teacher, batch = make("ctkd").double(), make_outputs(4, 2), make_batch(4)

    def loss(z):
        student = make_outputs(4, 1)
        student.logits = z
        return method.losses(student, teacher, batch)["kd"].value

    assert torch.autograd.gradcheck(loss, make_outputs(4, 1, grad=True).logits)


def test_logit_standardization(make, make_batch, make_outputs):
    student, teacher, batch = make_outputs(7, 1), make_outputs(7, 2), make_batch(7)
    terms = make("ctkd_ls").double().losses(student, teacher, batch)
    initial = 2 * START  # base temperature 2
    expected = kl_divergence(standardize_logits(student.logits), standardize_logits(teacher.logits), initial)
    assert terms["kd"].value.item() == pytest.approx(expected.item(), rel=1e-9)
    assert [t.weight for t in terms.values()] == [0.1, 9.0]


def test_the_temperature_with_standardization_stays_in_the_range_of_the_authors_logs(make):
    method = make("ctkd_ls")
    with torch.no_grad():
        method.t.fill_(-30.0)
        assert method.temperature(1).item() == pytest.approx(2.0)  # all logs end just above 2
        method.t.fill_(1.0)
        assert method.temperature(1).item() >= 30.4  # the highest after the first epoch
