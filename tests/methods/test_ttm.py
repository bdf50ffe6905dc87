"""TTM and WTTM: a student at temperature 1 matches the power-transformed teacher."""

import math

import pytest
import torch

from methods.losses import kl_divergence
from methods.ttm import matching_loss, power_sum

CLASSIC = {  # teacher-student: γ, then β of TTM and of WTTM
    "wrn40_2-wrn16_2": (0.1, 101, 4), "wrn40_2-wrn40_1": (0.1, 76, 3), "resnet56-resnet20": (0.3, 7, 1.5),
    "resnet110-resnet20": (0.2, 8, 2), "resnet110-resnet32": (0.1, 33, 1.5), "resnet32x4-resnet8x4": (0.1, 100, 3),
    "vgg13-vgg8": (0.1, 45, 2.25), "vgg13-MobileNetV2": (0.2, 16, 3), "ResNet50-MobileNetV2": (0.2, 20, 5),
    "ResNet50-vgg8": (0.1, 70, 2), "resnet32x4-ShuffleV1": (0.2, 12, 1.4), "resnet32x4-ShuffleV2": (0.4, 40, 16),
    "wrn40_2-ShuffleV1": (0.3, 8, 3),
}  # fmt: skip


def softmax(row):
    e = [math.exp(v) for v in row]
    return [v / sum(e) for v in e]


def naive(student, teacher, gamma, weighted):
    """Compute the term from powers of probabilities, as published."""
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        powers = [p**gamma for p in softmax(t)]
        target = [v / sum(powers) for v in powers]
        divergence = sum(b * math.log(b / a) for a, b in zip(softmax(s), target, strict=True))
        total += (sum(powers) if weighted else 1) * divergence
    return total / len(student)


@pytest.mark.parametrize("gamma", [0.1, 0.4, 1.0])
@pytest.mark.parametrize(("name", "weighted", "beta"), [("ttm", False, 45.0), ("wttm", True, 2.25)])
def test_terms_equal_naive_loops(make, make_batch, make_outputs, name, weighted, beta, gamma):
    student, teacher = make_outputs(7, 1), make_outputs(7, 2)
    terms = make(name, gamma=gamma).losses(student, teacher, make_batch(7))
    assert list(terms) == ["ce", "ttm"]
    expected = naive(student.logits, teacher.logits, gamma, weighted)
    assert terms["ttm"].value.item() == pytest.approx(expected, rel=1e-9)
    assert [t.weight for t in terms.values()] == [1.0, beta]


def test_a_value_by_hand():
    # p = (16, 1) / 17 to the power 1/2 is (4, 1) / √17: U = 5 / √17, p' = (4/5, 1/5)
    student, teacher = torch.zeros(1, 2).double(), torch.tensor([[16.0, 1.0]], dtype=torch.float64).log()
    divergence = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    assert matching_loss(student, teacher, 0.5, False).item() == pytest.approx(divergence, rel=1e-12)
    assert matching_loss(student, teacher, 0.5, True).item() == pytest.approx(5 / math.sqrt(17) * divergence, rel=1e-12)


def test_at_power_1_both_are_kd_at_temperature_1(make_outputs):
    student, teacher = make_outputs(6, 1).logits, make_outputs(6, 2).logits
    for weighted in (False, True):
        torch.testing.assert_close(matching_loss(student, teacher, 1.0, weighted), kl_divergence(student, teacher, 1.0))


def test_loss_and_gradient_vanish_where_the_student_is_the_transformed_teacher(make_outputs):
    teacher = make_outputs(6, 2).logits
    student = (0.2 * teacher).requires_grad_()
    loss = matching_loss(student, teacher, 0.2, True)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12) and student.grad.abs().max() < 1e-12


def test_the_weight_is_largest_for_a_flat_teacher():
    flat, sure = torch.zeros(1, 5).double(), torch.tensor([[200.0, 0, 0, 0, 0]], dtype=torch.float64)
    assert power_sum(flat, 0.2).item() == pytest.approx(5**0.8)
    assert power_sum(sure, 0.2).item() == pytest.approx(1)


def test_gradients_equal_finite_differences(make_outputs):
    student, teacher = make_outputs(4, 1, grad=True).logits, make_outputs(4, 2).logits
    for weighted in (False, True):
        assert torch.autograd.gradcheck(lambda z, w=weighted: matching_loss(z, teacher, 0.3, w), student)


def test_invariance_to_shifts_of_a_sample(make_outputs):
    student, teacher, shift = make_outputs(6, 1).logits, make_outputs(6, 2).logits, torch.arange(6.0).double()[:, None]
    value = matching_loss(student, teacher, 0.2, True)
    torch.testing.assert_close(matching_loss(student + shift, teacher - 2 * shift, 0.2, True), value)


def test_the_published_values_of_the_pairs(read_yaml):
    for name, column in (("ttm", 1), ("wttm", 2)):
        expected = {pair: {"gamma": row[0], "beta": float(row[column])} for pair, row in CLASSIC.items()}
        assert read_yaml(name)["pairs"] == expected
