"""MLLD: both forms against naive loops, and the masks of the published code, which only scale."""

import math

import numpy as np
import pytest
import torch

from methods.losses import kl_divergence
from methods.mlld import instance_losses, relation_losses

ALL = (4.0, 3.0, 5.0, 2.0, 6.0)


def softmax(row, temperature=1.0):
    e = [math.exp(v / temperature) for v in row]
    return [v / sum(e) for v in e]


def naive_kl(student, teacher, temperature):
    pairs = zip(student, teacher, strict=True)
    rows = [(softmax(s, temperature), softmax(t, temperature)) for s, t in pairs]
    return temperature**2 * sum(b * math.log(b / a) for s, t in rows for a, b in zip(s, t, strict=True)) / len(rows)


def naive_relation(student, teacher, temperature):
    """Sum the squared differences of the products of all pairs of rows, divided by the number of rows."""
    student, teacher = ([softmax(r, temperature) for r in rows] for rows in (student, teacher))
    n = len(student)
    total = 0.0
    for i in range(n):
        for j in range(n):
            of_student, of_teacher = (sum(a * b for a, b in zip(p[i], p[j], strict=True)) for p in (student, teacher))
            total += (of_student - of_teacher) ** 2
    return total / n


def naive_class_relation(student, teacher, temperature):
    """Sum the squared differences of the products of all pairs of columns, divided by their number."""
    student, teacher = (np.array([softmax(r, temperature) for r in rows]) for rows in (student, teacher))
    classes, total = student.shape[1], 0.0
    for i in range(classes):
        for j in range(classes):
            total += ((student[:, i] * student[:, j]).sum() - (teacher[:, i] * teacher[:, j]).sum()) ** 2
    return total / classes


def logits(outputs):
    return outputs.logits.tolist(), outputs.view(1).logits.tolist()


@pytest.mark.parametrize("n", [7, 8])
def test_the_published_code_equals_naive_loops(make, make_batch, make_outputs, n):
    student, teacher = make_outputs(n, 1), make_outputs(n, 2)
    terms = make("mlld").losses(student, teacher, make_batch(n))
    assert list(terms) == ["ce", "kd", "batch", "class"]
    (weak_s, strong_s), (weak_t, strong_t) = logits(student), logits(teacher)

    p = np.array([softmax(r) for r in weak_t])
    confident, common = p.max(1), p.sum(0)
    u = (confident <= np.percentile(confident, 50)).mean()
    v = (common <= np.percentile(common, 50)).mean()
    assert u == (0.5 if n == 8 else 4 / 7) and v == 3 / 5  # of 5 classes the median and two below

    kd = u * sum(naive_kl(weak_s, weak_t, t) for t in ALL)
    kd += sum(naive_kl(strong_s, strong_t, t) for t in (4.0, 3.0, 5.0))
    kd += sum(naive_kl(weak_s, weak_t, t) for t in (2.0, 6.0))
    batch = u * sum(naive_relation(weak_s, weak_t, t) for t in ALL)
    classes = v * sum(naive_class_relation(weak_s, weak_t, t) for t in ALL)
    values = [terms[k].value.item() for k in ("kd", "batch", "class")]
    assert values == pytest.approx([kd, batch, classes], rel=1e-9)
    assert [t.weight for t in terms.values()] == [0.1, 0.9, 0.9, 0.9]


def test_the_form_of_the_paper_equals_naive_loops(make, make_batch, make_outputs):
    student, teacher = make_outputs(6, 3), make_outputs(6, 4)
    terms = make("mlld", form="paper").losses(student, teacher, make_batch(6))
    views = list(zip(logits(student), logits(teacher), strict=True))
    for name, naive in (("kd", naive_kl), ("batch", naive_relation), ("class", naive_class_relation)):
        expected = sum(naive(s, t, temperature) for s, t in views for temperature in ALL)
        assert terms[name].value.item() == pytest.approx(expected, rel=1e-9), name


def test_cross_entropy_of_both_views(make, make_batch, make_outputs):
    student, batch = make_outputs(6, 3), make_batch(6)
    ce = make("mlld").losses(student, make_outputs(6, 4), batch)["ce"].value
    expected = [
        -math.log(softmax(r)[y]) for z in logits(student) for r, y in zip(z, batch.labels.tolist(), strict=True)
    ]
    assert ce.item() == pytest.approx(sum(expected) / 6, rel=1e-9)


def test_a_relation_by_hand():
    # two samples, two classes: P_s = [[1/2, 1/2], [1/2, 1/2]], P_t = [[3/4, 1/4], [1/4, 3/4]] at T 1
    student = torch.zeros(2, 2).double()
    teacher = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)]], dtype=torch.float64)
    # P_t P_tᵀ = P_tᵀ P_t = [[5/8, 3/8], [3/8, 5/8]], of the student 1/2 throughout: 4 · (1/8)² / 2
    batch, classes = relation_losses(student, teacher, torch.ones(1))
    assert batch.item() == pytest.approx(1 / 32) and classes.item() == pytest.approx(1 / 32)


@pytest.mark.parametrize("form", ["published_code", "paper"])
def test_standardization_affects_the_kl_alone(make, make_batch, make_outputs, form):
    student, teacher, batch = make_outputs(7, 1), make_outputs(7, 2), make_batch(7)
    raw, standardized = (
        make("mlld_ls", form=form, standardise=on).losses(student, teacher, batch) for on in (False, True)
    )
    assert raw["kd"].value != standardized["kd"].value
    for name in ("ce", "batch", "class"):
        assert raw[name].value == standardized[name].value
    # the KL is invariant to the mean and scale of a sample
    scale = torch.arange(1.0, 8.0)[:, None]
    scaled = make_outputs(7, 1)
    scaled.logits, scaled.view(1).logits = scale * scaled.logits + 5, scale * scaled.view(1).logits - scale
    teacher_moved = make_outputs(7, 2)
    teacher_moved.view(1).logits = 3 * teacher_moved.view(1).logits
    scaled_terms = make("mlld_ls", form=form).losses(scaled, teacher_moved, batch)
    torch.testing.assert_close(scaled_terms["kd"].value, standardized["kd"].value, rtol=1e-5, atol=0)


def test_the_published_weights_of_mlld_with_standardization(read_yaml):
    tree = read_yaml("mlld_ls")
    assert (tree["temperature"], tree["kd_weight"], tree["batch_weight"], tree["class_weight"]) == (2.0, 9.0, 9.0, 9.0)
    of_pairs = {"kd_weight": 6.0, "batch_weight": 6.0, "class_weight": 6.0}
    assert tree["pairs"] == dict.fromkeys(("vgg13-vgg8", "vgg13-MobileNetV2", "resnet32x4-ShuffleV2"), of_pairs)


def test_gradients_equal_finite_differences(make, make_batch, make_outputs):
    temperatures, teacher = torch.tensor(ALL), make_outputs(4, 2).logits
    student = make_outputs(4, 1, grad=True).logits
    assert torch.autograd.gradcheck(lambda z: instance_losses(z, teacher, temperatures), student)
    assert torch.autograd.gradcheck(lambda z: relation_losses(z, teacher, temperatures), student)
    batch, teacher_outputs = make_batch(4), make_outputs(4, 2)
    for form in ("published_code", "paper"):
        method = make("mlld", form=form)

        def total(first, second, method=method):
            outputs = make_outputs(4, 1)
            outputs.logits, outputs.view(1).logits = first, second
            return sum(t.weight * t.value for t in method.losses(outputs, teacher_outputs, batch).values())

        assert torch.autograd.gradcheck(total, (student, make_outputs(4, 3, grad=True).logits))


def test_the_instance_level_is_kd_at_every_temperature(make_outputs):
    student, teacher = make_outputs(5, 1).logits, make_outputs(5, 2).logits
    values = instance_losses(student, teacher, torch.tensor(ALL)).tolist()
    assert values == pytest.approx([kl_divergence(student, teacher, t).item() for t in ALL], rel=1e-12)


def test_invariance_to_the_order_of_samples_and_classes(make, make_batch, make_outputs):
    student, teacher, batch = make_outputs(6, 1), make_outputs(6, 2), make_batch(6)
    method = make("mlld")
    before = method.losses(student, teacher, batch)
    rows, columns = torch.randperm(6, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 0, 4, 1, 2])
    for view in (student, student.view(1), teacher, teacher.view(1)):
        view.logits = view.logits[rows][:, columns]
    after = method.losses(student, teacher, batch)
    for name in ("kd", "batch", "class"):
        torch.testing.assert_close(before[name].value, after[name].value)


def test_requires_only_the_logits_of_two_views(make):
    method = make("mlld")
    assert method.requires.views == 2 and not list(method.parameters()) and not method.state_dict()
    for needs in (method.requires.student, method.requires.teacher):
        assert needs.logits and needs.last_stage is None and not (needs.pooled or needs.maps or needs.class_maps)
