"""GDKD: the groups of the teacher's top classes and of the others."""

import math

import pytest
import torch

from methods.dkd import nckd, tckd
from methods.gdkd import group_losses
from methods.losses import kl_divergence
from tests.methods.conftest import randn


def softmax(row):
    e = [math.exp(v) for v in row]
    return [v / sum(e) for v in e]


def divergence(p_s, p_t):
    return sum(b * math.log(b / a) for a, b in zip(p_s, p_t, strict=True))


def naive(student, teacher, k, temperature):
    totals = [0.0, 0.0, 0.0]
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        ranked = sorted(range(len(t)), key=lambda c: -t[c])
        groups = ranked[:k], ranked[k:]
        s, t = ([v / temperature for v in z] for z in (s, t))
        sums = [[sum(softmax(z)[c] for c in group) for group in groups] for z in (s, t)]
        totals[0] += divergence(*sums)
        for i, group in enumerate(groups, start=1):
            totals[i] += divergence(*(softmax([z[c] for c in group]) for z in (s, t)))
    return [temperature**2 * total / len(student) for total in totals]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_terms_equal_naive_loops(make, make_batch, make_outputs, k, temperature):
    student, teacher = make_outputs(8, k), make_outputs(8, k + 100)
    terms = make("gdkd", top=k, temperature=temperature).losses(student, teacher, make_batch(8, epoch=20))
    assert list(terms) == ["ce", "groups", "top", "rest"]
    values = [terms[name].value.item() for name in ("groups", "top", "rest")]
    assert values == pytest.approx(naive(student.logits, teacher.logits, k, temperature), rel=1e-9, abs=1e-12)
    assert [t.weight for t in terms.values()] == [1.0, 1.0, 2.0, 8.0]


def test_one_top_class_is_dkd_where_the_teacher_is_right(make_outputs):
    student, teacher = make_outputs(7, 1).logits, make_outputs(7, 2).logits
    groups, top, rest = group_losses(student, teacher, 1, 4.0)
    inputs = student, teacher, teacher.argmax(1), 4.0
    torch.testing.assert_close(groups, tckd(*inputs))
    torch.testing.assert_close(rest, nckd(*inputs))
    assert top.item() == 0


def test_kd_is_the_sum_of_the_terms_weighted_by_the_teachers_groups():
    student, teacher = randn(1, 7, seed=1), randn(1, 7, seed=2)
    groups, top, rest = group_losses(student, teacher, 3, 4.0)
    share = (teacher / 4).softmax(1).topk(3).values.sum()
    torch.testing.assert_close(groups + share * top + (1 - share) * rest, kl_divergence(student, teacher, 4.0))


def test_more_top_classes_than_there_are_leave_one_for_the_rest(make, make_batch, make_outputs):
    student, teacher, batch = make_outputs(6, 1), make_outputs(6, 2), make_batch(6)
    every, all_but_one = (make("gdkd", top=k).losses(student, teacher, batch) for k in (9, 4))
    assert every == all_but_one and every["rest"].value.item() == 0


def test_gradients_equal_finite_differences(make_outputs):
    student, teacher = make_outputs(4, 1, grad=True).logits, make_outputs(4, 2).logits
    assert torch.autograd.gradcheck(lambda z: group_losses(z, teacher, 2, 4.0), student)


def test_warm_up_scales_all_distillation_terms(make, make_batch, make_outputs):
    terms = make("gdkd", warmup=20.0).losses(make_outputs(4), make_outputs(4, 9), make_batch(4, epoch=5))
    assert [t.weight for t in terms.values()] == pytest.approx([1.0, 0.25, 0.5, 2.0])
