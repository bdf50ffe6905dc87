"""Contrastive loss and samplers of CRD: values against gathered bank rows, and the distribution of the draws."""

import collections
import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from methods.contrast import Contrast, Sampler
from tests.methods.conftest import randn


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def list_draws(counts):
    """List the drawn samples of counts [n, N], each as often as it was drawn: [N, K]."""
    return torch.stack([torch.arange(len(column)).repeat_interleave(column) for column in counts.T.int()])


both_algorithms = pytest.mark.parametrize("thinning", [True, False], ids=["thinned", "largest keys"])


# ---------------------------------------------------------------- loss


def gathered_loss(anchors, bank, samples, temperature, z=None):
    """Compute the loss from gathered rows; samples [N, K + 1] have the positive first. Returns the loss and Z."""
    noise = (samples.shape[1] - 1) / len(bank)
    scores = torch.einsum("nkd,nd->nk", bank[samples], anchors).div(temperature).exp()
    z = scores.detach().mean() * len(bank) if z is None else z
    x = scores / z
    positive = (x[:, 0] / (x[:, 0] + noise + 1e-7)).log().sum()
    negative = (noise / (x[:, 1:] + noise + 1e-7)).log().sum()
    return -(positive + negative) / len(anchors), z


@pytest.mark.parametrize("n", [30, 1000])  # 1000 rows are convolved as 500 images
@pytest.mark.parametrize("z", [None, 25.0])
def test_loss_and_gradient_equal_those_of_gathered_rows(n, z):
    anchors = F.normalize(randn(4, 6, seed=1)).requires_grad_()
    bank, labels = F.normalize(randn(n, 6, seed=2)), torch.arange(n) % 5
    drawn = Sampler(labels, 7, True).other_classes(torch.arange(4), generator(3))
    samples = torch.cat([torch.arange(4)[:, None], list_draws(drawn)], 1)
    expected, expected_z = gathered_loss(anchors, bank, samples, 0.5, z)
    unset = torch.tensor(-1.0 if z is None else z, dtype=torch.float64)
    loss, new_z = Contrast.apply(anchors, bank, torch.arange(4), drawn.double(), 7, 0.5, unset)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-10)
    assert float(new_z) == pytest.approx(float(expected_z), rel=1e-10) and not new_z.requires_grad
    (gradient,) = torch.autograd.grad(loss, anchors)
    (expected_gradient,) = torch.autograd.grad(expected, anchors)
    torch.testing.assert_close(gradient, expected_gradient)


def test_the_loss_by_hand():
    # scores e^0 = 1 throughout, so Z = 4 and x = 1/4; noise 2/4: positive 1/3, each negative 2/3
    bank, anchors = torch.zeros(4, 2).double(), torch.ones(1, 2).double()
    drawn = torch.tensor([[0.0], [0.0], [1.0], [1.0]]).double()
    loss, z = Contrast.apply(anchors, bank, torch.tensor([0]), drawn, 2, 1.0, torch.tensor(-1.0).double())
    assert z.item() == 4
    assert loss.item() == pytest.approx(-math.log(1 / 3) - 2 * math.log(2 / 3), rel=1e-5)


# ---------------------------------------------------------------- samplers


def test_positives_are_uniform_within_the_class():
    labels = torch.tensor([2, 0, 1, 2, 0, 1, 2, 0, 1, 2])
    anchors = torch.arange(3).repeat(500)
    drawn = Sampler(labels, 3, True).same_class(anchors, generator(1))
    for label in range(3):
        counts = drawn[anchors == label].bincount(minlength=10)
        assert counts[labels != label].sum() == 0
        assert stats.chisquare(counts[labels == label].numpy()).pvalue > 1e-3


@both_algorithms
def test_cifar_sized_negatives_are_distinct_and_of_other_classes(thinning):
    labels = torch.arange(50_000) % 100
    anchors = torch.tensor([0, 7, 7, 99])
    counts = Sampler(labels, 16_384, thinning).other_classes(anchors, generator())
    assert counts.shape == (50_000, 4)
    assert counts.max() == 1
    assert counts.sum(0).tolist() == [16_384] * 4
    assert not counts[labels[:, None] == anchors].any()
    assert (counts[:, 1] & counts[:, 2]).sum() < 6_500  # drawn independently for each anchor
    # frequencies by class and by thousand of samples are those of a uniform draw
    for groups in (labels, torch.arange(50_000) // 1000):
        allowed, drawn = groups[labels != 7].bincount(), groups[counts[:, 1].bool()].bincount()
        expected = allowed[allowed > 0] * 16_384 / allowed.sum()
        assert stats.chisquare(drawn[allowed > 0].numpy(), expected.double().numpy(), sum_check=False).pvalue > 1e-3


@both_algorithms
@pytest.mark.parametrize("k", [1, 3, 5])
def test_without_replacement_every_subset_is_equally_likely(thinning, k):
    labels = torch.tensor([2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 2])
    anchors = torch.arange(3).repeat(2000)
    drawn = list_draws(Sampler(labels, k, thinning).other_classes(anchors, generator(1)))
    assert drawn.shape == (6000, k)
    for label in range(3):
        others = [i for i, y in enumerate(labels.tolist()) if y != label]
        counter = collections.Counter(tuple(sorted(row)) for row in drawn[anchors == label].tolist())
        counts = [counter.pop(subset, 0) for subset in itertools.combinations(others, k)]
        assert not counter
        assert stats.chisquare(counts).pvalue > 1e-3


def test_draws_of_two_anchors_are_independent():
    labels = torch.tensor([0, 0, 1, 1, 1, 1])
    drawn = list_draws(Sampler(labels, 2, True).other_classes(torch.zeros(2 * 6000, dtype=torch.long), generator(1)))
    pairs = collections.Counter((tuple(a), tuple(b)) for a, b in drawn.view(6000, 2, 2).tolist())
    assert len(pairs) == 36
    assert stats.chisquare(list(pairs.values())).pvalue > 1e-3


def test_with_replacement_every_draw_is_uniform():
    labels = torch.tensor([2, 0, 1, 2, 0, 1, 2, 0, 1, 2])
    anchors = torch.arange(3).repeat(200)
    counts = Sampler(labels, 20, True).other_classes(anchors, generator(1))
    assert counts.sum(0).tolist() == [20] * 600
    for label in range(3):
        allowed, drawn = labels != label, counts[:, anchors == label]
        assert drawn[~allowed].sum() == 0
        assert stats.chisquare(drawn[allowed].sum(1).numpy()).pvalue > 1e-3
    # draws of one anchor are independent: how often a sample is among its 20 is binomial
    often = counts[labels != 2][:, anchors == 2].flatten().bincount(minlength=21)
    expected = stats.binom(20, 1 / 6).pmf(np.arange(21)) * often.sum().item()
    merged = [[*row[:7], sum(row[7:])] for row in (often.tolist(), expected.tolist())]
    assert stats.chisquare(*merged).pvalue > 1e-3


@both_algorithms
def test_draws_repeat_only_for_classes_with_fewer_negatives_than_k(thinning):
    labels = torch.tensor([0] * 8 + [1] * 2 + [2] * 2)  # 4 negatives for class 0, 10 for the others
    for k, repeated in ((4, []), (5, [0]), (10, [0]), (11, [0, 1, 2])):
        counts = Sampler(labels, k, thinning).other_classes(torch.arange(3), generator())
        assert counts.sum(0).tolist() == [k] * 3
        assert not counts[labels[:, None] == torch.arange(3)].any()
        assert [i for i in range(3) if counts[:, i].max() > 1] == repeated
