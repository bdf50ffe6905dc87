"""RLD: sample confidence and masked correlation."""

import math

import pytest
import torch

from methods.dkd import nckd, tckd
from methods.rld import mcd, scd


def softmax(row):
    e = [math.exp(v) for v in row]
    return [v / sum(e) for v in e]


def divergence(p_s, p_t):
    return sum(b * math.log(b / a) for a, b in zip(p_s, p_t, strict=True))


def naive(student, teacher, labels, temperature):
    confidence, correlation = 0.0, 0.0
    for s, t, y in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        p_s, p_t = softmax([v / temperature for v in s])[y], max(softmax([v / temperature for v in t]))
        confidence += divergence((p_s, 1 - p_s), (p_t, 1 - p_t))
        below = [c for c in range(len(t)) if t[c] < t[y]]
        if below:
            correlation += divergence(*(softmax([z[c] / temperature for c in below]) for z in (s, t)))
    return temperature**2 * confidence / len(labels), temperature**2 * correlation / len(labels)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("seed", range(3))
def test_terms_equal_naive_loops(make, make_batch, make_outputs, seed, temperature):
    student, teacher, batch = make_outputs(8, seed), make_outputs(8, seed + 100), make_batch(8, seed)
    terms = make("rld", temperature=temperature).losses(student, teacher, batch)
    assert list(terms) == ["ce", "scd", "mcd"]
    confidence, correlation = naive(student.logits, teacher.logits, batch.labels, temperature)
    assert terms["scd"].value.item() == pytest.approx(confidence, rel=1e-9)
    assert terms["mcd"].value.item() == pytest.approx(correlation, rel=1e-9)


def test_the_terms_are_those_of_dkd_where_the_teacher_is_right(make_outputs):
    student, teacher = make_outputs(7, 1).logits, make_outputs(7, 2).logits
    inputs = student, teacher, teacher.argmax(1), 4.0
    torch.testing.assert_close(scd(*inputs), tckd(*inputs))
    torch.testing.assert_close(mcd(*inputs), nckd(*inputs))


def test_classes_above_the_label_have_no_gradient(make_outputs):
    teacher = torch.tensor([[3.0, 2.0, 1.0, 0.0]], dtype=torch.float64)
    student = torch.tensor([[5.0, 1.0, 0.5, 2.0]], dtype=torch.float64, requires_grad=True)
    mcd(student, teacher, torch.tensor([1]), 1.0).backward()
    assert student.grad[0, :2].tolist() == [0, 0]
    assert student.grad[0, 2:].abs().min() > 0


def test_a_sample_with_no_class_left_adds_nothing():
    teacher, student = torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[0.0, 5.0, 1.0]], requires_grad=True)
    loss = mcd(student, teacher, torch.tensor([2]), 4.0)
    loss.backward()
    assert loss.item() == 0 and student.grad.abs().max() == 0


def test_gradients_equal_finite_differences(make_batch, make_outputs):
    student, teacher, labels = make_outputs(4, 1, grad=True).logits, make_outputs(4, 2).logits, make_batch(4).labels
    for term in (scd, mcd):
        assert torch.autograd.gradcheck(lambda z, term=term: term(z, teacher, labels, 4.0), student)


def test_invariance_to_shifts_of_a_sample(make_batch, make_outputs):
    student, teacher, labels = make_outputs(6, 1).logits, make_outputs(6, 2).logits, make_batch(6).labels
    shift = torch.arange(6.0).double()[:, None]
    for term in (scd, mcd):
        value = term(student, teacher, labels, 4.0)
        torch.testing.assert_close(term(student + shift, teacher - 2 * shift, labels, 4.0), value)


@pytest.mark.parametrize(
    ("warmup", "epoch", "ramp"), [(20.0, 1, 0.05), (20.0, 20, 1), (20.0, 21, 1), (0.0, 1, 1), (0.5, 1, 1)]
)
def test_warm_up_scales_both_distillation_terms(make, make_batch, make_outputs, warmup, epoch, ramp):
    method = make("rld", warmup=warmup)
    terms = method.losses(make_outputs(4), make_outputs(4, 9), make_batch(4, epoch=epoch))
    assert [t.weight for t in terms.values()] == pytest.approx([1.0, ramp, 8 * ramp])
