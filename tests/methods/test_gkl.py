"""GKL: the variance form against pairs of classes, the class prior of the previous epoch, and its checkpoints."""

import copy
import math

import pytest
import torch

from methods.gkl import soft_cross_entropy, weighted_variance
from tests.methods.conftest import CLASSES, randn


def softmax(row, temperature):
    e = [math.exp(v / temperature) for v in row]
    return [v / sum(e) for v in e]


def naive_mse(student, teacher, weights):
    """Compare the differences of all pairs of classes, sample by sample."""
    total, norm = 0.0, 0.0
    for s, t, p in zip(student.tolist(), teacher.tolist(), weights.tolist(), strict=True):
        for i in range(len(p)):
            for j in range(len(p)):
                total += p[i] * p[j] * ((t[i] - t[j]) - (s[i] - s[j])) ** 2
                norm += p[i] * p[j]
    return total / (4 * norm)


def naive_cross_entropy(student, teacher, temperature):
    rows = zip(student.tolist(), teacher.tolist(), strict=True)
    losses = [
        -sum(b * math.log(a) for a, b in zip(softmax(s, temperature), softmax(t, temperature), strict=True))
        for s, t in rows
    ]
    return sum(losses) / len(losses)


def train_epoch(method, epoch, make_batch, make_outputs, steps=3):
    """Take steps without an optimizer in one epoch; return the batches and the teacher's logits."""
    method.on_epoch_start(epoch)
    seen = []
    for step in range(steps):
        batch, teacher = make_batch(6, 10 * epoch + step, epoch), make_outputs(6, 100 * epoch + step)
        method.losses(make_outputs(6, 7), teacher, batch)
        method.on_step_end()
        seen.append((batch.labels.tolist(), teacher.logits.tolist()))
    return seen


def naive_prior(seen, temperature):
    """Average the teacher's softmax over the samples of each class."""
    rows = [(y, softmax(z, temperature)) for labels, logits in seen for y, z in zip(labels, logits, strict=True)]
    prior = []
    for c in range(CLASSES):
        members = [p for y, p in rows if y == c]
        prior.append(
            [sum(v) / len(members) for v in zip(*members, strict=True)] if members else [1 / CLASSES] * CLASSES
        )
    return torch.tensor(prior, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(3))
def test_the_variance_form_equals_loops_over_pairs_of_classes(seed):
    student, teacher, weights = 3 * randn(6, 7, seed=seed), 3 * randn(6, 7, seed=seed + 10), randn(6, 7, seed=20).exp()
    result = weighted_variance(teacher - student, weights).item()
    assert result == pytest.approx(naive_mse(student, teacher, weights), rel=1e-12)


@pytest.mark.parametrize("prior", ["class", "sample"])
def test_terms_equal_naive_loops(make, make_batch, make_outputs, prior):
    method = make("gkl", prior=prior, gamma=0.3).double()
    seen = train_epoch(method, 1, make_batch, make_outputs)
    method.on_epoch_start(2)
    student, teacher, batch = make_outputs(7, 1), make_outputs(7, 2), make_batch(7, epoch=20)
    terms = method.losses(student, teacher, batch)
    assert list(terms) == ["ce", "mse", "sce"]
    assert [t.weight for t in terms.values()] == [1.0, 16.0, 1.0]
    q = torch.tensor([softmax(z, 4.0) for z in teacher.logits.tolist()], dtype=torch.float64)
    weights = (naive_prior(seen, 4.0)[batch.labels] if prior == "class" else q) ** 0.3
    expected = naive_mse(student.logits, teacher.logits, weights)
    assert terms["mse"].value.item() == pytest.approx(expected, rel=1e-9)
    expected = naive_cross_entropy(student.logits, teacher.logits, 4.0)
    assert terms["sce"].value.item() == pytest.approx(expected, rel=1e-9)


def test_a_value_by_hand():
    # one sample, weights 1 and 1, differences 0 and 2: the two ordered pairs give 2 · 2², and all four have weight 1
    difference, weights = torch.tensor([[0.0, 2.0]]), torch.ones(1, 2)
    assert weighted_variance(difference, weights).item() == pytest.approx(2 * 4 / (4 * 4))


def test_the_prior_is_uniform_in_the_first_epoch_and_then_that_of_the_previous_one(make, make_batch, make_outputs):
    method = make("gkl", prior_temperature=2.0).double()
    first = train_epoch(method, 1, make_batch, make_outputs)
    assert torch.equal(method.prior, torch.full_like(method.prior, 1 / CLASSES))
    second = train_epoch(method, 2, make_batch, make_outputs)
    torch.testing.assert_close(method.prior, naive_prior(first, 2.0))
    method.on_epoch_start(3)
    torch.testing.assert_close(method.prior, naive_prior(second, 2.0))


def test_a_class_without_samples_has_a_uniform_prior(make, make_batch, make_outputs):
    method = make("gkl").double()
    method.on_epoch_start(1)
    batch = make_batch(1)
    method.losses(make_outputs(1, 1), make_outputs(1, 2), batch)
    method.on_step_end()
    method.on_epoch_start(2)
    others = [c for c in range(CLASSES) if c != batch.labels.item()]
    assert torch.equal(method.prior[others], torch.full_like(method.prior[others], 1 / CLASSES))
    assert method.prior[batch.labels].sum().item() == pytest.approx(1)


def test_a_checkpoint_between_epochs_restores_the_prior(make, make_batch, make_outputs):
    method = make("gkl").double()
    train_epoch(method, 1, make_batch, make_outputs)
    resumed = make("gkl").double()
    resumed.load_state_dict(copy.deepcopy(method.state_dict()))
    for continued in (method, resumed):
        train_epoch(continued, 2, make_batch, make_outputs)
    assert torch.equal(method.prior, resumed.prior) and not torch.equal(method.prior[0], method.prior[1])
    assert torch.equal(method.prior_sums, resumed.prior_sums)


def test_gradients_equal_finite_differences(make_outputs):
    student, teacher, weights = (
        make_outputs(4, 1, grad=True).logits,
        make_outputs(4, 2).logits,
        randn(4, 5, seed=3).exp(),
    )
    assert torch.autograd.gradcheck(lambda z: weighted_variance(teacher - z, weights), student)
    assert torch.autograd.gradcheck(lambda z: soft_cross_entropy(z, teacher, 4.0), student)


def test_the_mean_squared_error_ignores_shifts_of_a_sample(make_outputs):
    difference, weights = make_outputs(6, 1).logits, randn(6, 5, seed=3).exp()
    shifted = difference + torch.arange(6.0)[:, None]
    torch.testing.assert_close(weighted_variance(shifted, weights), weighted_variance(difference, weights))


def test_warm_up_scales_both_distillation_terms(make, make_batch, make_outputs):
    terms = make("gkl", warmup=20.0).losses(make_outputs(4), make_outputs(4, 9), make_batch(4, epoch=5))
    assert [t.weight for t in terms.values()] == pytest.approx([1.0, 4.0, 0.25])
