"""NKD: target and normalized non-target terms."""

import math

import pytest
import torch

from methods.dkd import nckd
from methods.nkd import nontarget_loss, target_loss


def softmax(row):
    e = [math.exp(v) for v in row]
    return [v / sum(e) for v in e]


def naive(student, teacher, labels, temperature):
    target, others = 0.0, 0.0
    for s, t, y in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        target -= softmax(t)[y] * math.log(softmax(s)[y])
        q_s, q_t = (softmax([v / temperature for c, v in enumerate(z) if c != y]) for z in (s, t))
        others -= sum(b * math.log(a) for a, b in zip(q_s, q_t, strict=True))
    return target / len(labels), temperature**2 * others / len(labels)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_terms_equal_naive_loops(make, make_batch, make_outputs, seed, temperature):
    student, teacher, batch = make_outputs(7, seed), make_outputs(7, seed + 100), make_batch(7, seed)
    terms = make("nkd", temperature=temperature).losses(student, teacher, batch)
    assert list(terms) == ["ce", "target", "nontarget"]
    target, others = naive(student.logits, teacher.logits, batch.labels, temperature)
    assert terms["target"].value.item() == pytest.approx(target, rel=1e-10)
    assert terms["nontarget"].value.item() == pytest.approx(others, rel=1e-10)
    assert [t.weight for t in terms.values()] == [1.0, 1.0, 3.5]


def test_a_value_by_hand():
    # p_t = (1/2, 1/4, 1/4), p_s = (1/4, 1/4, 1/2); the label is the first
    student, teacher = (torch.tensor([p], dtype=torch.float64).log() for p in ([0.25, 0.25, 0.5], [0.5, 0.25, 0.25]))
    label = torch.tensor([0])
    assert target_loss(student, teacher, label).item() == pytest.approx(0.5 * math.log(4), rel=1e-12)
    others = -(0.5 * math.log(1 / 3) + 0.5 * math.log(2 / 3))
    assert nontarget_loss(student, teacher, label, 1.0).item() == pytest.approx(others, rel=1e-12)


def test_the_non_target_term_is_that_of_dkd_and_the_teachers_entropy(make_batch, make_outputs):
    student, teacher, labels = make_outputs(7, 1).logits, make_outputs(7, 2).logits, make_batch(7).labels
    entropy = nontarget_loss(teacher, teacher, labels, 3.0)
    torch.testing.assert_close(
        nontarget_loss(student, teacher, labels, 3.0), nckd(student, teacher, labels, 3.0) + entropy
    )


def test_gradients_equal_finite_differences(make_batch, make_outputs):
    student, teacher, labels = make_outputs(4, 1, grad=True).logits, make_outputs(4, 2).logits, make_batch(4).labels
    assert torch.autograd.gradcheck(lambda z: target_loss(z, teacher, labels), student)
    assert torch.autograd.gradcheck(lambda z: nontarget_loss(z, teacher, labels, 3.0), student)


def test_the_target_logit_does_not_enter_the_non_target_term(make_batch, make_outputs):
    student, teacher, labels = make_outputs(4, 1, grad=True).logits, make_outputs(4, 2).logits, make_batch(4).labels
    nontarget_loss(student, teacher, labels, 3.0).backward()
    assert student.grad[range(4), labels].abs().max() == 0
    assert student.grad.abs().max() > 0


def test_invariance_to_shifts_of_a_sample(make_batch, make_outputs):
    student, teacher, labels = make_outputs(6, 1).logits, make_outputs(6, 2).logits, make_batch(6).labels
    shift = torch.arange(6.0).double()[:, None]
    for term in (target_loss, lambda *inputs: nontarget_loss(*inputs, 3.0)):
        torch.testing.assert_close(term(student + shift, teacher - 2 * shift, labels), term(student, teacher, labels))
