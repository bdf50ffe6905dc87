"""The core of CSKD: cosine distance of each class's predictions, temperatures by similarity."""

import numpy as np
import pytest
import torch

from methods.cskd import class_distance, cosine, similarity_temperatures


def softmax(logits, temperature):
    e = np.exp(logits / temperature)
    return e / e.sum(1, keepdims=True)


def naive_cosine(a, b):
    return float(a @ b / (np.sqrt((a * a).sum()) * np.sqrt((b * b).sum()) + 1e-8))


def naive_distance(student, teacher, temperatures):
    """Compare the batch's predictions class by class."""
    temperatures = np.asarray(temperatures)
    p_s, p_t = (softmax(z, temperatures[:, None]) for z in (student, teacher))
    alike = [naive_cosine(p_s[:, j], p_t[:, j]) for j in range(p_s.shape[1])]
    return 2 * np.mean(temperatures) ** 2 * (1 - np.mean(alike))


def naive_temperatures(student, teacher, lowest, highest):
    """Compute τ as the code does, by a line through (c_max, lowest) and (c_min, highest)."""
    c = np.array([naive_cosine(a, b) for a, b in zip(softmax(student, 1.0), softmax(teacher, 1.0), strict=True)])
    return (highest - lowest) / (c.min() - c.max()) * (c - c.max()) + lowest


@pytest.mark.parametrize("seed", range(3))
def test_terms_equal_naive_loops(make, make_batch, make_outputs, seed):
    student, teacher, batch = make_outputs(7, seed), make_outputs(7, seed + 100), make_batch(7, seed)
    terms = make("cskd").losses(student, teacher, batch)
    assert list(terms) == ["ce", "cs", "cswt"]
    strong = student.view(1).logits.numpy(), teacher.view(1).logits.numpy()
    assert terms["cs"].value.item() == pytest.approx(naive_distance(*strong, np.full(7, 4.0)), rel=1e-9)
    # temperatures come from the weak view, and are applied to the strong one
    weighted = naive_temperatures(student.logits.numpy(), teacher.logits.numpy(), 2.0, 6.0)
    assert terms["cswt"].value.item() == pytest.approx(naive_distance(*strong, weighted), rel=1e-9)
    rows = np.arange(7), batch.labels.numpy()
    ce = [-np.log(softmax(v.numpy(), 1.0)[rows]).mean() for v in (student.logits, student.view(1).logits)]
    assert terms["ce"].value.item() == pytest.approx(sum(ce), rel=1e-9)
    assert [t.weight for t in terms.values()] == [1.0, 1.0, 1.0]


def test_a_distance_by_hand():
    # at T 1 both of the student's columns are (1/2, 1/2), the teacher's (3/4, 1/4) and (1/4, 3/4): cosines of 2/√5
    student = torch.zeros(2, 2).double()
    teacher = torch.tensor([[3.0, 1.0], [1.0, 3.0]], dtype=torch.float64).log()
    distance = class_distance(student, teacher, torch.ones(2).double())
    assert distance.item() == pytest.approx(2 * (1 - 2 / 5**0.5), rel=1e-6)


def test_temperatures_rise_with_the_disagreement_of_the_networks(make_outputs):
    student, teacher = make_outputs(9, 1).logits, make_outputs(9, 2).logits
    student[4] = teacher[4]
    temperatures = similarity_temperatures(student, teacher, 2.0, 6.0)
    similarity = cosine(student.softmax(1), teacher.softmax(1))
    assert temperatures[4] == 2.0 == temperatures.min() and temperatures.max() == 6.0
    assert torch.equal(temperatures.argsort(), similarity.argsort(descending=True))


def test_all_samples_have_the_lowest_temperature_where_they_agree_equally(make_outputs):
    logits = make_outputs(1, 1).logits.expand(4, -1)
    assert similarity_temperatures(logits, logits.flip(1), 2.0, 6.0).tolist() == [2.0] * 4
    assert similarity_temperatures(logits[:1], logits[:1], 2.0, 6.0).tolist() == [2.0]


def test_the_temperatures_have_no_gradient(make, make_batch, make_outputs):
    student, teacher = make_outputs(6, 1, grad=True), make_outputs(6, 2)
    make("cskd").losses(student, teacher, make_batch(6))["cswt"].value.backward()
    assert student.logits.grad is None and student.view(1).logits.grad.abs().max() > 0


def test_gradients_equal_finite_differences(make_outputs):
    student, teacher = make_outputs(4, 1, grad=True).logits, make_outputs(4, 2).logits
    temperatures = torch.tensor([2.0, 3.0, 5.5, 6.0]).double()
    assert torch.autograd.gradcheck(lambda z: class_distance(z, teacher, temperatures), student)


def test_invariances(make_outputs):
    student, teacher = make_outputs(6, 1).logits, make_outputs(6, 2).logits
    fixed = torch.full((6,), 4.0).double()
    distance = class_distance(student, teacher, fixed)
    rows = torch.tensor([5, 2, 0, 1, 4, 3])
    torch.testing.assert_close(class_distance(student[rows], teacher[rows], fixed), distance)
    torch.testing.assert_close(class_distance(student.flip(1), teacher.flip(1), fixed), distance)
    shift = torch.arange(6.0).double()[:, None]
    torch.testing.assert_close(class_distance(student + shift, teacher - 3 * shift, fixed), distance)
    hotter = class_distance(student, teacher, 2 * fixed)
    torch.testing.assert_close(hotter, 4 * class_distance(student / 2, teacher / 2, fixed))
    assert 0 < distance <= 2 * 16
    # only directions count: doubling all probabilities of a class has no effect
    assert cosine(2 * student, teacher).tolist() == pytest.approx(cosine(student, teacher).tolist(), rel=1e-6)


def test_a_highest_temperature_below_the_lowest_is_rejected(make):
    with pytest.raises(ValueError, match="highest is 1"):
        make("cskd", highest=1.0)


def test_requires_only_the_logits_of_two_views(make):
    method = make("cskd")
    assert method.requires.views == 2 and not list(method.parameters()) and not method.state_dict()
    assert method.requires.teacher.logits and not (method.requires.teacher.pooled or method.requires.teacher.maps)
