"""OFD: margins against SciPy and numerical integration, the partial distance, and networks of unequal depth."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm, truncnorm

from methods.contract import Context, Outputs, Shapes, UnsupportedPair
from methods.ofd import margins, partial_distance
from tests.methods.conftest import batch_norms, randn

STUDENT = ((2, 8, 8), (2, 8, 8), (3, 4, 4), (4, 2, 2))
TEACHER = ((2, 8, 8), (5, 8, 8), (6, 8, 8), (3, 4, 4))


def context(student=STUDENT, teacher=TEACHER, with_batch_norms=True):
    shapes = Shapes(student, 6), Shapes(teacher, 7, batch_norms=with_batch_norms)
    return Context(5, *shapes, torch.arange(40) % 5, 20, batch_norms(teacher, seed=3, dtype=torch.float64))


def outputs(stages, seed):
    maps = {k: randn(2, *shape, seed=seed + k) for k, shape in enumerate(stages)}
    return Outputs(randn(2, 5, seed=seed + 20), pre_activations=maps)


def naive_margin(bias, scale):
    if norm.cdf(0, bias, scale) <= 0.001:
        return -3 * scale
    return truncnorm.mean(-np.inf, -bias / scale, loc=bias, scale=scale)


def naive(connector, student, teacher, margin):
    """Apply a matrix, batch norm over the batch, and the three cases, position by position."""
    matrix = connector[0].weight.detach().numpy()[:, :, 0, 0]
    connected = np.einsum("oc,nchw->nohw", matrix, student.numpy())
    connected = (connected - connected.mean((0, 2, 3), keepdims=True)) / np.sqrt(
        connected.var((0, 2, 3), keepdims=True) + 1e-5
    )
    step = teacher.shape[2] // connected.shape[2]
    total = 0.0
    for n, c, i, j in np.ndindex(*connected.shape):
        block = teacher[n, c, i * step : (i + 1) * step, j * step : (j + 1) * step]
        s, t, m = connected[n, c, i, j], block.mean().item(), margin[c]
        if t > 0:
            total += (s - t) ** 2
        elif t > m:
            total += (s - t) ** 2 if s > t else 0
        else:
            total += (s - m) ** 2 if s > m else 0
    return total / len(connected)


@pytest.mark.parametrize(
    ("student", "teacher", "stages"),
    [
        (STUDENT, TEACHER, [(1, 1), (2, 2), (3, 3)]),
        (STUDENT, TEACHER[1:], [(2, 1), (3, 2)]),
        (STUDENT[1:], TEACHER, [(1, 2), (2, 3)]),
    ],
    ids=["equal", "student longer", "teacher longer"],
)
def test_terms_equal_naive_loops(make, make_batch, student, teacher, stages):
    method = make("ofd", context(student, teacher)).double()
    assert method.stages == stages  # stages are paired from the last
    student_outputs, teacher_outputs = outputs(student, 1), outputs(teacher, 101)
    terms = method.losses(student_outputs, teacher_outputs, make_batch(2))
    expected = 0.0
    for i, ((k, j), connector) in enumerate(zip(stages, method.connectors, strict=True)):
        bias, scale = (v.tolist() for v in method.context.teacher_batch_norms[j])
        margin = [naive_margin(b, g) for b, g in zip(bias, scale, strict=True)]
        distance = naive(connector, student_outputs.pre_activations[k], teacher_outputs.pre_activations[j], margin)
        expected += distance / 2 ** (len(stages) - 1 - i)
    assert list(terms) == ["ce", "ofd"]
    assert terms["ofd"].value.item() == pytest.approx(expected, rel=1e-10)
    assert [t.weight for t in terms.values()] == [1.0, 0.001]


@pytest.mark.parametrize(("bias", "scale"), [(0.0, 1.0), (0.5, 0.3), (-1.2, 0.7), (2.0, 0.66), (-30.0, 0.1)])
def test_margins_are_the_mean_of_the_negative_part(bias, scale):
    margin = margins(torch.tensor([bias]).double(), torch.tensor([scale]).double()).item()
    low, mass = bias - 12 * scale, norm.cdf(0, bias, scale)
    integral = quad(lambda x: x * norm.pdf(x, bias, scale), low, min(0.0, bias + 12 * scale))[0]
    assert margin == pytest.approx(integral / mass, rel=1e-6)
    assert margin < 0


@pytest.mark.parametrize(("bias", "scale", "margin"), [(4.0, 1.0, -3.0), (1e4, 1e-3, -3e-3), (1.0, 0.0, 0.0)])
def test_rarely_negative_channels_have_a_margin_of_three_deviations(bias, scale, margin):
    assert margins(torch.tensor([bias]), torch.tensor([scale])).item() == pytest.approx(margin)


def test_the_margin_of_a_constant_negative_channel_is_its_value():
    assert margins(torch.tensor([-2.0]), torch.tensor([0.0])).item() == -2.0


@pytest.mark.parametrize(
    ("student", "teacher", "distance"),
    [
        (1.0, -3.0, 4.0),  # active, silent in the teacher: to the margin −1
        (-2.0, -3.0, 0.0),  # silent enough
        (1.0, -0.5, 2.25),  # to the teacher's value, between margin and 0
        (-0.7, -0.5, 0.0),
        (-2.0, 3.0, 25.0),
        (4.0, 3.0, 1.0),
    ],
)
def test_distances_by_hand(student, teacher, distance):
    s, t = (torch.full((1, 1, 1, 1), v) for v in (student, teacher))
    assert partial_distance(s, t, torch.tensor([-1.0])).item() == pytest.approx(distance)


def test_resnet32x4_resnet8x4_has_the_published_parameter_count(make):
    stages = ((32, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8))
    assert sum(p.numel() for p in make("ofd", context(stages, stages)).parameters()) == 86_912


def test_a_teacher_without_batch_norm_before_its_activations_is_unsupported(make):
    with pytest.raises(UnsupportedPair, match="batch norm"):
        make("ofd", context(with_batch_norms=False))


def test_gradient():
    student, teacher = randn(2, 3, 2, 2, seed=1).requires_grad_(), randn(2, 3, 2, 2, seed=2)
    margin = torch.tensor([-0.5, -1.0, -0.1]).double()
    assert torch.autograd.gradcheck(lambda s: partial_distance(s, teacher, margin), student)
