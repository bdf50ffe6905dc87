"""LoCa: the calibrated teacher."""

import math

import pytest
import torch

from methods.loca import calibrate
from methods.losses import kl_divergence


def softmax(row):
    e = [math.exp(v) for v in row]
    return [v / sum(e) for v in e]


def naive(teacher, labels, temperature, alpha):
    """Compute the probabilities p' as the paper defines them."""
    rows = []
    for z, y in zip(teacher.tolist(), labels.tolist(), strict=True):
        p = softmax([v / temperature for v in z])
        k = p.index(max(p))
        if k != y:
            s = alpha / (1 - p[y] + p[k])
            p = [s * v for v in p]
            p[y] = 1 - sum(v for c, v in enumerate(p) if c != y)
        rows.append(p)
    return rows


@pytest.mark.parametrize("alpha", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_probabilities_and_loss_equal_naive_loops(make, make_batch, make_outputs, temperature, alpha):
    student, teacher, batch = make_outputs(8, 1), make_outputs(8, 2), make_batch(8)
    expected = naive(teacher.logits, batch.labels, temperature, alpha)
    calibrated = (calibrate(teacher.logits, batch.labels, temperature, alpha) / temperature).softmax(1)
    torch.testing.assert_close(calibrated, torch.tensor(expected, dtype=torch.float64))
    terms = make("loca", temperature=temperature, alpha=alpha).losses(student, teacher, batch)
    assert list(terms) == ["ce", "kd"]
    total = 0.0
    for z, p in zip(student.logits.tolist(), expected, strict=True):
        p_s = softmax([v / temperature for v in z])
        total += sum(b * math.log(b / a) for a, b in zip(p_s, p, strict=True))
    assert terms["kd"].value.item() == pytest.approx(temperature**2 * total / 8, rel=1e-9)
    assert [t.weight for t in terms.values()] == [0.1, 0.9]


def test_a_value_by_hand():
    # p = (0.6, 0.3, 0.1), the label is the last: s = 0.9 / (1 − 0.1 + 0.6) = 0.6, p' = (0.36, 0.18, 0.46)
    teacher = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64).log()
    calibrated = calibrate(teacher, torch.tensor([2]), 1.0, 0.9).softmax(1)
    assert calibrated[0].tolist() == pytest.approx([0.36, 0.18, 0.46], rel=1e-12)


def test_the_label_becomes_the_most_probable_class_and_the_others_keep_their_ratios(make_batch, make_outputs):
    teacher, labels = make_outputs(8, 2).logits, make_batch(8).labels
    assert (teacher.argmax(1) != labels).any()
    calibrated = calibrate(teacher, labels, 4.0, 0.9)
    assert torch.equal(calibrated.argmax(1), labels)
    others = torch.ones_like(teacher).scatter(1, labels[:, None], 0).bool()
    assert torch.equal(calibrated[others], teacher[others])  # only the label's logit changes


def test_at_alpha_1_the_label_is_as_probable_as_the_prediction(make_batch, make_outputs):
    teacher, labels = make_outputs(8, 2).logits, make_batch(8).labels
    calibrated = calibrate(teacher, labels, 4.0, 1.0).gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(calibrated, teacher.amax(1))


def test_a_correct_teacher_is_unchanged(make, make_batch, make_outputs):
    student, teacher, batch = make_outputs(8, 1), make_outputs(8, 2), make_batch(8)
    batch.labels = teacher.logits.argmax(1)
    terms = make("loca").losses(student, teacher, batch)
    torch.testing.assert_close(terms["kd"].value, kl_divergence(student.logits, teacher.logits, 4.0), rtol=0, atol=0)


def test_gradients_equal_finite_differences(make_batch, make_outputs):
    student, labels = make_outputs(4, 1, grad=True).logits, make_batch(4).labels
    target = calibrate(make_outputs(4, 2).logits, labels, 4.0, 0.9)
    assert torch.autograd.gradcheck(lambda z: kl_divergence(z, target, 4.0), student)
