"""LDRLD: pairs of the student's largest logits, the largest together, and the rest."""

import dataclasses
import itertools
import math

import pytest
import torch

from methods.contract import Outputs
from methods.ldrld import rank_weights
from tests.methods.conftest import small_context

CLASSES = 12


def naive_kl(student, teacher, classes, temperature):
    """Compute T² · KL of one sample's softmaxes over some classes."""
    e_s, e_t = ([math.exp(z[c] / temperature) for c in classes] for z in (student, teacher))
    p_s, p_t = ([v / sum(e) for v in e] for e in (e_s, e_t))
    return temperature**2 * sum(b * math.log(b / a) for a, b in zip(p_s, p_t, strict=True))


def naive(student, teacher, k, temperature):
    """Compute L_local and L_rest, pair by pair."""
    local, rest = 0.0, 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        ranked = sorted(range(len(s)), key=lambda c, s=s: -s[c])
        terms = [naive_kl(s, t, ranked[:k], temperature)]
        for a, b in itertools.combinations(range(1, k + 1), 2):
            weight = 2 * math.exp(-0.05 * (a + b)) / (1.5 + abs(a - b))
            terms.append(weight * naive_kl(s, t, [ranked[a - 1], ranked[b - 1]], temperature))
        local += sum(terms) / len(terms)
        rest += naive_kl(s, t, ranked[k:], temperature) if ranked[k:] else 0.0
    return local / len(student), rest / len(student)


@pytest.fixture
def build(make):
    """build(**changes): LDRLD for 12 classes."""
    return lambda **changes: make("ldrld", dataclasses.replace(small_context(), classes=CLASSES), **changes)


def logits(n, seed):
    return 2 * torch.randn(n, CLASSES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("depth", [2, 7])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_terms_equal_naive_loops(build, make_batch, temperature, depth):
    student, teacher = logits(7, 1), logits(7, 2)
    method = build(temperature=temperature, depth=depth)
    terms = method.losses(Outputs(student), Outputs(teacher), make_batch(7))
    assert list(terms) == ["ce", "local", "rest"]
    local, rest = naive(student, teacher, depth, temperature)
    assert terms["local"].value.item() == pytest.approx(local, rel=1e-6)  # the weights of the pairs are float32
    assert terms["rest"].value.item() == pytest.approx(rest, rel=1e-9)
    assert [t.weight for t in terms.values()] == [1.0, 10.5, 7.0]


def test_equals_the_published_form_with_masked_logits(build, make_batch):
    # the code of LDRLD hides the other classes by subtracting 1000 from their scaled logits
    student, teacher = logits(7, 1), logits(7, 2)
    top = student.topk(7, 1).indices
    total, masked = 0.0, []
    for ranks in [*itertools.combinations(range(7), 2), tuple(range(7)), None]:
        mask = torch.zeros(7, CLASSES, dtype=torch.float64)
        mask = 1 - mask.scatter(1, top, 1) if ranks is None else mask.scatter(1, top[:, list(ranks)], 1)
        p_s, p_t = (torch.log_softmax(z / 4 - 1000 * (1 - mask), 1) for z in (student, teacher))
        masked.append(16 * (p_t.exp() * (p_t - p_s)).sum() / 7)
        if ranks is not None:
            a, b = ranks[0] + 1, ranks[1] + 1
            total += masked[-1] * (2 / (1.5 + b - a) * math.exp(-0.05 * (a + b)) if len(ranks) == 2 else 1)
    terms = build().losses(Outputs(student), Outputs(teacher), make_batch(7))
    assert terms["local"].value.item() == pytest.approx(total.item() / 22, rel=1e-6)
    assert terms["rest"].value.item() == pytest.approx(masked[-1].item(), rel=1e-9)


def test_weights_of_pairs_by_hand():
    pairs = torch.tensor([[0, 0, 5], [1, 6, 6]])
    expected = [2 * math.exp(-0.15) / 2.5, 2 * math.exp(-0.4) / 7.5, 2 * math.exp(-0.65) / 2.5]
    assert rank_weights(pairs).tolist() == pytest.approx(expected, rel=1e-6)


def test_gradients_equal_finite_differences(build, make_batch):
    method, teacher, batch = build(), logits(3, 2), make_batch(3)

    def loss(z):
        terms = method.losses(Outputs(z), Outputs(teacher), batch)
        return terms["local"].value + terms["rest"].value

    assert torch.autograd.gradcheck(loss, logits(3, 1).requires_grad_())


def test_invariance_to_the_order_of_classes_and_to_shifts(build, make_batch):
    student, teacher, batch = logits(6, 1), logits(6, 2), make_batch(6)
    order = torch.randperm(CLASSES, generator=torch.Generator().manual_seed(0))
    shift = torch.arange(6.0).double()[:, None]
    values = [
        [terms["local"].value.item(), terms["rest"].value.item()]
        for s, t in ((student, teacher), (student[:, order] + shift, teacher[:, order] - 2 * shift))
        for terms in [build().losses(Outputs(s), Outputs(t), batch)]
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_all_classes_are_local_where_there_are_no_more_than_k(make, make_batch, make_outputs):
    student, teacher = make_outputs(6, 1), make_outputs(6, 2)
    terms = make("ldrld").losses(student, teacher, make_batch(6))
    local, _ = naive(student.logits, teacher.logits, 5, 4.0)
    assert terms["local"].value.item() == pytest.approx(local, rel=1e-6)
    assert terms["rest"].value.item() == 0


def test_has_no_state(make):
    assert not make("ldrld").state_dict() and not list(make("ldrld").parameters())
