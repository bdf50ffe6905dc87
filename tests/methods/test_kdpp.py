"""KD++: the norm and direction loss, and the directions of the classes."""

import copy
import math

import pytest
import torch

from methods.contract import Context, Shapes
from methods.kdpp import norm_and_direction
from methods.losses import kl_divergence
from tests.methods.conftest import CLASSES, POOLED, randn, training_features


def naive_directions(features, labels):
    """Average the features of each class and divide by the length."""
    directions = []
    for c in range(CLASSES):
        members = [row for row, y in zip(features.tolist(), labels.tolist(), strict=True) if y == c]
        mean = [sum(v) / len(members) for v in zip(*members, strict=True)]
        length = math.sqrt(sum(v * v for v in mean))
        directions.append([v / length for v in mean])
    return directions


def naive_nd(student, teacher, directions, labels):
    total = 0.0
    for s, t, y in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        longest = max(math.sqrt(sum(v * v for v in f)) for f in (s, t))
        total += 1 - sum(a * b for a, b in zip(s, directions[y], strict=True)) / longest
    return total / len(labels)


def context(student, teacher):
    stages = ((2, 8, 8),)
    return Context(CLASSES, Shapes(stages, student), Shapes(stages, teacher), torch.arange(40) % CLASSES, 20)


def prepared(make, *args):
    """A method in float64, given features of that type."""
    method = make("kdpp", *args)
    features, labels = training_features(method.context)
    method = method.double()
    method.on_teacher_features(features.double(), labels)
    return method, naive_directions(features.double(), labels)


def test_terms_equal_naive_loops(make, make_batch, make_outputs):
    method, directions = prepared(make)
    assert not list(method.parameters())
    student, teacher, batch = make_outputs(7, 1), make_outputs(7, 2), make_batch(7, epoch=20)
    student.pooled[::2] *= 3  # longer than the teacher's, and shorter
    terms = method.losses(student, teacher, batch)
    assert list(terms) == ["ce", "kd", "nd"]
    assert [t.weight for t in terms.values()] == [1.0, 1.0, 2.0]
    expected = naive_nd(student.pooled, teacher.pooled, directions, batch.labels)
    assert terms["nd"].value.item() == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(terms["kd"].value, kl_divergence(student.logits, teacher.logits, 4.0))


def test_unequal_widths_have_one_linear_layer(make, make_batch, make_outputs):
    method, directions = prepared(make, context(POOLED, 4))
    assert [tuple(p.shape) for p in method.parameters()] == [(4, POOLED), (4,)]
    student, teacher, batch = make_outputs(5, 1), make_outputs(5, 2), make_batch(5)
    teacher.pooled = teacher.pooled[:, :4]
    embedded = student.pooled @ method.embed.weight.T + method.embed.bias
    expected = naive_nd(embedded, teacher.pooled, directions, batch.labels)
    value = method.losses(student, teacher, batch)["nd"].value
    assert value.item() == pytest.approx(expected, rel=1e-9)
    value.backward()
    assert all(p.grad.abs().max() > 0 for p in method.parameters())


def test_the_loss_falls_with_length_up_to_the_teachers_and_not_beyond():
    direction = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    teacher = torch.tensor([[0.0, 2.0]], dtype=torch.float64)
    values = [norm_and_direction(length * direction, teacher, direction).item() for length in (0.0, 1.0, 2.0, 5.0)]
    assert values == pytest.approx([1.0, 0.5, 0.0, 0.0])
    assert norm_and_direction(-teacher, teacher, direction).item() == pytest.approx(1.8)


def test_gradients_equal_finite_differences():
    student, teacher = randn(4, 3, seed=1).requires_grad_(), randn(4, 3, seed=2)
    directions = torch.nn.functional.normalize(randn(4, 3, seed=3))
    assert torch.autograd.gradcheck(lambda f: norm_and_direction(f, teacher, directions), student)


def test_warm_up_scales_kd_alone(make, make_batch, make_outputs):
    terms = make("kdpp", warmup=20.0).losses(make_outputs(4), make_outputs(4, 9), make_batch(4, epoch=5))
    assert [t.weight for t in terms.values()] == pytest.approx([1.0, 0.25, 2.0])


def test_a_method_that_received_no_features_has_no_finite_loss(make_options, make_batch, make_outputs):
    implementation, options = make_options("kdpp")
    method = implementation(options, context(POOLED, POOLED))
    assert method.losses(make_outputs(4), make_outputs(4, 9), make_batch(4))["nd"].value.isnan()


def test_a_checkpoint_holds_the_directions(make, make_options):
    method = make("kdpp")
    implementation, options = make_options("kdpp")
    resumed = implementation(options, method.context)
    resumed.load_state_dict(copy.deepcopy(method.state_dict()))
    assert torch.equal(resumed.directions, method.directions)
