"""VID: the likelihood against SciPy, and its trained variance."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from methods.contract import Context, Outputs, Shapes
from methods.vid import Likelihood, negative_log_likelihood
from tests.methods.conftest import halved, randn

STUDENT = ((2, 8, 8), (2, 8, 8), (3, 4, 4), (4, 2, 2))
TEACHER = ((5, 8, 8), (5, 4, 4), (7, 4, 4), (6, 4, 4), (6, 2, 2))


def naive(layer, student, teacher):
    """Apply three matrices with ReLU between, then SciPy's Gaussian density, position by position."""
    student, teacher = student.numpy(), teacher.numpy()
    while student.shape[2] > teacher.shape[2]:
        student = halved(student)
    while teacher.shape[2] > student.shape[2]:
        teacher = halved(teacher)
    first, second, third = (layer.mean[i].weight.detach().numpy()[:, :, 0, 0] for i in (0, 2, 4))
    deviation = np.sqrt(np.log1p(np.exp(layer.log_scale.detach().numpy())) + 1e-5)
    values = []
    for n, i, j in np.ndindex(len(student), *student.shape[2:]):
        mean = third @ np.maximum(second @ np.maximum(first @ student[n, :, i, j], 0), 0)
        values += list(-norm.logpdf(teacher[n, :, i, j], mean, deviation) - 0.5 * math.log(2 * math.pi))
    return float(np.mean(values))


def test_terms_equal_naive_loops(make, make_batch):
    shapes = Shapes(STUDENT, 6), Shapes(TEACHER, 9)
    method = make("vid", Context(5, *shapes, torch.arange(40) % 5, 20)).double()
    assert method.requires.student.maps == method.requires.teacher.maps == {1, 2, 3}
    for k, layer in enumerate(method.likelihoods):
        layer.log_scale.data += randn(len(layer.log_scale), seed=20 + k)
    student = Outputs(randn(2, 5, seed=0), maps={k: randn(2, *s, seed=k) for k, s in enumerate(STUDENT)})
    teacher = Outputs(maps={k: randn(2, *s, seed=10 + k) for k, s in enumerate(TEACHER)})
    terms = method.losses(student, teacher, make_batch(2))
    # the student has no counterpart of the teacher's fifth stage
    expected = sum(naive(method.likelihoods[k - 1], student.maps[k], teacher.maps[k]) for k in (1, 2, 3))
    assert list(terms) == ["ce", "vid"]
    assert terms["vid"].value.item() == pytest.approx(expected, rel=1e-10)
    assert [t.weight for t in terms.values()] == [1.0, 1.0]


def test_the_variance_starts_at_5_and_is_trained_to_the_mean_squared_errors():
    layer = Likelihood(2, 3)
    variance = torch.nn.functional.softplus(layer.log_scale) + 1e-5
    assert torch.allclose(variance, torch.full((3,), 5.0))
    # for a fixed mean the best variance of a channel is the mean square of its errors
    spread = torch.tensor([0.1, 1.0, 2.0])
    x = spread[:, None, None] * randn(64, 3, 4, 4, seed=1).float()
    optimizer = torch.optim.Adam([layer.log_scale], 0.05)
    for _ in range(500):
        variance = torch.nn.functional.softplus(layer.log_scale) + 1e-5
        value = negative_log_likelihood(torch.zeros_like(x), variance, x)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert torch.allclose(variance, x.square().mean((0, 2, 3)), rtol=0.02)


def test_the_term_may_be_negative():
    assert negative_log_likelihood(torch.zeros(1, 1, 1, 1), torch.tensor([0.01]), torch.zeros(1, 1, 1, 1)) < 0


def test_the_layers_have_the_published_size(make):
    shapes = Shapes(((32, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8)), 256)
    method = make("vid", Context(100, shapes, shapes, torch.arange(200) % 100, 20))
    assert sum(p.numel() for p in method.parameters()) == sum(3 * c * c + c for c in (64, 128, 256))


def test_gradient():
    mean, scale = randn(2, 3, 2, 2, seed=2).requires_grad_(), randn(3, seed=3).exp().requires_grad_()
    x = randn(2, 3, 2, 2, seed=4)
    assert torch.autograd.gradcheck(lambda m, v: negative_log_likelihood(m, v, x), (mean, scale))
