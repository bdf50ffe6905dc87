"""CRLD: KD within and across two views, of the samples on which the teacher is confident."""

import math

import pytest
import torch

from methods.crld import confident_mean


def softmax(row, temperature=1.0):
    e = [math.exp(v / temperature) for v in row]
    return [v / sum(e) for v in e]


def naive_kd(s, t, temperature):
    pairs = zip(softmax(s, temperature), softmax(t, temperature), strict=True)
    return temperature**2 * sum(b * math.log(b / a) for a, b in pairs)


@pytest.mark.parametrize(("weak_threshold", "strong_threshold"), [(0.7, 0.6), (0.0, 0.0), (1.0, 0.8)])
def test_terms_equal_naive_loops(make, make_batch, make_outputs, weak_threshold, strong_threshold):
    student, teacher, batch = make_outputs(8, 1), make_outputs(8, 2), make_batch(8)
    method = make("crld", weak_threshold=weak_threshold, strong_threshold=strong_threshold)
    terms = method.losses(student, teacher, batch)
    assert list(terms) == ["ce", "within", "cross"]
    views = (outputs.view(i).logits.tolist() for outputs in (student, teacher) for i in (0, 1))
    expected = dict.fromkeys(terms, 0.0)
    for weak_s, strong_s, weak_t, strong_t, y in zip(*views, batch.labels.tolist(), strict=True):
        expected["ce"] -= math.log(softmax(weak_s)[y]) + math.log(softmax(strong_s)[y])
        if max(softmax(weak_t)) >= weak_threshold:
            expected["within"] += naive_kd(weak_s, weak_t, 4.0) + naive_kd(strong_s, strong_t, 4.0)
        if max(softmax(strong_t)) >= strong_threshold:
            expected["cross"] += naive_kd(strong_s, weak_t, 4.0) + naive_kd(weak_s, strong_t, 4.0)
    for name, term in terms.items():
        assert term.value.item() == pytest.approx(expected[name] / 8, rel=1e-9, abs=1e-12), name
    assert [t.weight for t in terms.values()] == [1.0, 2.0, 0.5]


def test_the_mean_is_over_all_samples_by_hand():
    # confidences 3/4, 1/2 and 1/3
    teacher = torch.tensor([[3.0, 0.5, 0.5], [2.0, 1.0, 1.0], [1.0, 1.0, 1.0]]).log()
    values = torch.tensor([6.0, 3.0, 30.0])
    assert confident_mean(values, teacher, 0.75 - 1e-6).item() == 2
    assert confident_mean(values, teacher, 0.4).item() == 3
    assert confident_mean(values, teacher, 0.0).item() == 13


def test_a_sample_below_the_threshold_has_no_gradient(make, make_batch, make_outputs):
    student, teacher = make_outputs(6, 1, grad=True), make_outputs(6, 2)
    terms = make("crld", weak_threshold=0.8).losses(student, teacher, make_batch(6))
    terms["within"].value.backward()
    confident = teacher.logits.softmax(1).amax(1) >= 0.8
    assert 0 < confident.sum() < 6
    for view in (0, 1):
        reached = student.view(view).logits.grad.abs().amax(1) > 0
        assert torch.equal(reached, confident)


def test_gradients_equal_finite_differences(make, make_batch, make_outputs):
    method, teacher, batch = make("crld", weak_threshold=0.5), make_outputs(4, 2), make_batch(4)

    def total(weak, strong):
        student = make_outputs(4, 1)
        student.logits, student.view(1).logits = weak, strong
        return sum(t.weight * t.value for t in method.losses(student, teacher, batch).values())

    assert torch.autograd.gradcheck(total, (make_outputs(4, 1, grad=True).logits, make_outputs(4, 3, grad=True).logits))


def test_requires_only_the_logits_of_two_views(make):
    method = make("crld")
    assert method.requires.views == 2 and not list(method.parameters()) and not method.state_dict()
