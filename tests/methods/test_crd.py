"""CRD: the loss against gathered rows, the sampler's distribution, the banks and the constants Z."""

import collections
import copy
import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from methods.contract import Batch, Context, Outputs, Shapes
from methods.crd import CRD, Sampler


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def context(labels, pooled=6):
    shapes = Shapes(((2, 8, 8),), pooled)
    return Context(5, shapes, shapes, labels, 20)


@pytest.fixture
def crd(make):
    """A small CRD in float64: 5 classes of 8 samples, 12 negatives of 32."""
    return make("crd", negatives=12, feature_dim=4).double()


def listed(counts):
    """The draws behind counts [n, N]: the numbers of the samples, each as often as it was drawn, [N, K]."""
    return torch.stack([torch.arange(len(column)).repeat_interleave(column) for column in counts.T.int()])


def samples_of(method, batch, seed):
    """The K + 1 samples per anchor that `losses` draws from a generator of this seed."""
    drawn = listed(method.sampler.other_classes(batch.labels, generator(seed)))
    return torch.cat([batch.indices[:, None], drawn], 1)


def naive_embedding(layer, features):
    found = []
    for row in features.tolist():
        weights = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        v = [sum(w * x for w, x in zip(ws, row, strict=True)) + bias for ws, bias in weights]
        length = math.sqrt(sum(x * x for x in v))
        found.append([x / length for x in v])
    return found


def naive_scores(embeddings, bank, samples, temperature):
    return [
        [math.exp(sum(a * b for a, b in zip(v, bank[i], strict=True)) / temperature) for i in picks]
        for v, picks in zip(embeddings, samples.tolist(), strict=True)
    ]


def naive_contrast(scores, z, n_data):
    noise, total = (len(scores[0]) - 1) / n_data, 0.0
    for first, *rest in scores:
        total += math.log(first / z / (first / z + noise + 1e-7))
        total += sum(math.log(noise / (x / z + noise + 1e-7)) for x in rest)
    return -total / len(scores)


def mean(rows):
    return float(np.mean(rows))


@pytest.mark.parametrize("seed", range(3))
def test_terms_equal_naive_loops_also_with_z_of_an_earlier_batch(crd, make_batch, make_outputs, seed):
    z = {}
    for step in range(2):
        student, teacher, batch = make_outputs(7, seed + step), make_outputs(7, seed + step + 50), make_batch(7, seed)
        batch.generator = generator(seed + step)
        samples = samples_of(crd, batch, seed + step)
        expected = {}
        for name, layer, bank, features in (
            ("crd_student", crd.embed_s, crd.bank_t, student.pooled),
            ("crd_teacher", crd.embed_t, crd.bank_s, teacher.pooled),
        ):
            scores = naive_scores(naive_embedding(layer, features), bank.tolist(), samples, 0.07)
            z.setdefault(name, mean(scores) * 40)
            expected[name] = naive_contrast(scores, z[name], 40)
        terms = crd.losses(student, teacher, batch)
        assert list(terms) == ["ce", *expected]
        for name, value in expected.items():
            assert terms[name].value.item() == pytest.approx(value, rel=1e-9), name
        assert [t.weight for t in terms.values()] == [1.0, 0.8, 0.8]


def test_gradients_equal_those_of_gathered_rows(crd, make_batch, make_outputs):
    student, teacher, batch = make_outputs(7, 1, grad=True), make_outputs(7, 2), make_batch(7)
    batch.generator = generator(5)
    samples = samples_of(crd, batch, 5)
    inputs = [student.pooled, *crd.parameters()]

    def gathered(layer, features, bank):
        v = layer.weight @ features.T + layer.bias[:, None]
        v = (v / v.square().sum(0).sqrt()).T
        x = torch.stack([(bank[samples[i]] * v[i]).sum(1) for i in range(7)]).div(0.07).exp()
        x = x / (x.detach().mean() * 40)
        c = 12 / 40
        first, rest = x[:, 0], x[:, 1:]
        return -((first / (first + c + 1e-7)).log().sum() + (c / (rest + c + 1e-7)).log().sum()) / 7

    naive = gathered(crd.embed_s, student.pooled, crd.bank_t) + gathered(crd.embed_t, teacher.pooled, crd.bank_s)
    expected = torch.autograd.grad(naive, inputs)
    terms = crd.losses(student, teacher, batch)
    found = torch.autograd.grad(terms["crd_student"].value + terms["crd_teacher"].value, inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
        assert a.abs().max() > 0


def test_step_updates_just_the_batchs_rows_with_the_steps_embeddings(crd, make_batch, make_outputs):
    student, teacher, batch = make_outputs(7, 1), make_outputs(7, 2), make_batch(7)
    before = copy.deepcopy(crd.state_dict())
    embeddings = {"s": naive_embedding(crd.embed_s, student.pooled), "t": naive_embedding(crd.embed_t, teacher.pooled)}
    crd.losses(student, teacher, batch)
    assert torch.equal(crd.bank_s, before["bank_s"])  # not while scoring
    with torch.no_grad():
        crd.embed_s.weight += 1  # the optimiser's step
        crd.after_step()
    others = sorted(set(range(40)) - set(batch.indices.tolist()))
    for side, bank in (("s", crd.bank_s), ("t", crd.bank_t)):
        old = before[f"bank_{side}"]
        assert torch.equal(bank[others], old[others])
        for v, i in zip(embeddings[side], batch.indices.tolist(), strict=True):
            mixed = [0.5 * m + 0.5 * x for m, x in zip(old[i].tolist(), v, strict=True)]
            length = math.sqrt(sum(x * x for x in mixed))
            assert bank[i].tolist() == pytest.approx([x / length for x in mixed], rel=1e-10)
    torch.testing.assert_close(crd.bank_s[batch.indices].norm(dim=1), torch.ones(7).double())


def test_the_step_is_taken_once(crd, make_batch, make_outputs):
    crd.losses(make_outputs(7, 1), make_outputs(7, 2), make_batch(7))
    crd.after_step()
    once = crd.bank_s.clone()
    crd.after_step()
    assert torch.equal(crd.bank_s, once)


def test_z_is_set_by_the_first_batch_and_goes_on_from_a_checkpoint(make, crd, make_batch, make_outputs):
    assert crd.params[2:4].tolist() == [-1, -1]
    crd.losses(make_outputs(7, 1), make_outputs(7, 2), make_batch(7))
    crd.after_step()
    z = crd.params.clone()
    assert z[2] > 0
    assert z[3] > 0
    resumed = make("crd", negatives=12, feature_dim=4).double()
    resumed.load_state_dict(copy.deepcopy(crd.state_dict()))
    values = []
    for method in (crd, resumed):
        terms = method.losses(make_outputs(7, 3), make_outputs(7, 4), make_batch(7, 9))
        method.after_step()
        values.append([t.value.item() for t in terms.values()])
        assert torch.equal(method.params, z)
    assert values[0] == values[1]
    assert torch.equal(crd.bank_t, resumed.bank_t)


def test_parameter_counts_are_the_published_ones(make):
    method = make("crd", context(torch.arange(50_000) % 100, pooled=256))  # resnet32x4-resnet8x4 on CIFAR-100
    trained = sum(p.numel() for p in method.parameters())
    assert trained == 65_792
    assert trained + sum(b.numel() for b in method.buffers()) == 12_865_797
    assert method.bank_s.abs().max() <= 1 / math.sqrt(128 / 3)
    assert method.bank_s.norm(dim=1).mean().item() == pytest.approx(1, abs=0.01)
    assert not torch.equal(method.bank_s, method.bank_t)


both_ways = pytest.mark.parametrize("thinning", [True, False], ids=["thinned", "largest keys"])


@both_ways
def test_cifar_sized_negatives_are_distinct_and_of_other_classes(thinning):
    labels = torch.arange(50_000) % 100
    anchors = torch.tensor([0, 7, 7, 99])
    counts = Sampler(labels, 16_384, thinning).other_classes(anchors, generator())
    assert counts.shape == (50_000, 4)
    assert counts.max() == 1
    assert counts.sum(0).tolist() == [16_384] * 4
    assert not counts[labels[:, None] == anchors].any()
    assert (counts[:, 1] & counts[:, 2]).sum() < 6_500  # drawn anew for each anchor
    # as many as chance would have it of each class and of each thousand of samples
    for groups in (labels, torch.arange(50_000) // 1000):
        allowed, found = groups[labels != 7].bincount(), groups[counts[:, 1].bool()].bincount()
        expected = allowed[allowed > 0] * 16_384 / allowed.sum()
        assert stats.chisquare(found[allowed > 0].numpy(), expected.double().numpy(), sum_check=False).pvalue > 1e-3


@both_ways
@pytest.mark.parametrize("k", [1, 3, 5])
def test_without_replacement_every_subset_is_equally_likely(thinning, k):
    labels = torch.tensor([2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 2])
    anchors = torch.arange(3).repeat(2000)
    drawn = listed(Sampler(labels, k, thinning).other_classes(anchors, generator(1)))
    assert drawn.shape == (6000, k)
    for own in range(3):
        others = [i for i, y in enumerate(labels.tolist()) if y != own]
        seen = collections.Counter(tuple(sorted(row)) for row in drawn[anchors == own].tolist())
        counts = [seen.pop(subset, 0) for subset in itertools.combinations(others, k)]
        assert not seen
        assert stats.chisquare(counts).pvalue > 1e-3


def test_two_anchors_draws_are_independent():
    labels = torch.tensor([0, 0, 1, 1, 1, 1])
    drawn = listed(Sampler(labels, 2, True).other_classes(torch.zeros(2 * 6000, dtype=torch.long), generator(1)))
    pairs = collections.Counter((tuple(a), tuple(b)) for a, b in drawn.view(6000, 2, 2).tolist())
    assert len(pairs) == 36
    assert stats.chisquare(list(pairs.values())).pvalue > 1e-3


def test_with_replacement_every_draw_is_uniform():
    labels = torch.tensor([2, 0, 1, 2, 0, 1, 2, 0, 1, 2])
    anchors = torch.arange(3).repeat(200)
    counts = Sampler(labels, 20, True).other_classes(anchors, generator(1))
    assert counts.sum(0).tolist() == [20] * 600
    for own in range(3):
        allowed, drawn = labels != own, counts[:, anchors == own]
        assert drawn[~allowed].sum() == 0
        assert stats.chisquare(drawn[allowed].sum(1).numpy()).pvalue > 1e-3
    # draws of one anchor are independent: how often a sample is among its 20 is binomial
    often = counts[labels != 2][:, anchors == 2].flatten().bincount(minlength=21)
    expected = stats.binom(20, 1 / 6).pmf(np.arange(21)) * often.sum().item()
    merged = [[*row[:7], sum(row[7:])] for row in (often.tolist(), expected.tolist())]
    assert stats.chisquare(*merged).pvalue > 1e-3


@both_ways
def test_replaces_only_for_classes_with_too_few_negatives(thinning):
    labels = torch.tensor([0] * 8 + [1] * 2 + [2] * 2)  # 4 negatives for class 0, 10 for the others
    for k, repeated in ((4, []), (5, [0]), (10, [0]), (11, [0, 1, 2])):
        counts = Sampler(labels, k, thinning).other_classes(torch.arange(3), generator())
        assert counts.sum(0).tolist() == [k] * 3
        assert not counts[labels[:, None] == torch.arange(3)].any()
        assert [i for i in range(3) if counts[:, i].max() > 1] == repeated


def test_relax_takes_any_sample_of_the_class_as_positive(make, make_batch, make_outputs):
    labels = torch.tensor([2, 0, 1, 2, 0, 1, 2, 0, 1, 2])
    anchors = torch.arange(3).repeat(500)
    drawn = Sampler(labels, 3, True).same_class(anchors, generator(1))
    for own in range(3):
        counts = drawn[anchors == own].bincount(minlength=10)
        assert counts[labels != own].sum() == 0
        assert stats.chisquare(counts[labels == own].numpy()).pvalue > 1e-3
    # in the loss: the positives are drawn first, then the negatives
    method = make("crd", negatives=12, feature_dim=4, mode="relax").double()
    student, teacher, batch = make_outputs(7, 1), make_outputs(7, 2), make_batch(7)
    own = generator(3)
    positives = method.sampler.same_class(batch.labels, own)
    samples = torch.cat([positives[:, None], listed(method.sampler.other_classes(batch.labels, own))], 1)
    scores = naive_scores(naive_embedding(method.embed_s, student.pooled), method.bank_t.tolist(), samples, 0.07)
    batch.generator = generator(3)
    found = method.losses(student, teacher, batch)["crd_student"].value.item()
    assert found == pytest.approx(naive_contrast(scores, mean(scores) * 40, 40), rel=1e-9)


def test_the_generator_alone_decides_the_negatives(crd, make_batch, make_outputs):
    def value(seed):
        fresh = copy.deepcopy(crd)
        batch = make_batch(7)
        batch.generator = generator(seed)
        return fresh.losses(make_outputs(7, 1), make_outputs(7, 2), batch)["crd_student"].value.item()

    assert value(1) == value(1)
    assert value(1) != value(2)


def test_learns_to_tell_the_positive(make):
    """With embeddings trained, each sample's own row of the other bank scores highest."""
    labels = torch.arange(20) % 5
    method = make("crd", context(labels), negatives=12, feature_dim=4)
    features = torch.randn(20, 6, generator=generator(2))
    outputs = Outputs(torch.zeros(20, 5), features)
    optimiser = torch.optim.SGD(method.parameters(), 0.05, 0.9)
    own = generator(4)
    values = []
    for _ in range(150):
        terms = method.losses(outputs, outputs, Batch(None, labels, torch.arange(20), labels, 1, own))
        value = terms["crd_student"].value + terms["crd_teacher"].value
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        with torch.no_grad():
            method.after_step()
        values.append(value.item())
    assert values[-1] < 0.5 * values[0]
    hits = (method.embed_s(features) @ method.bank_t.T).argmax(1) == torch.arange(20)
    assert hits.float().mean() > 0.8


def test_refuses_a_training_set_of_one_class_and_a_momentum_above_one(make):
    with pytest.raises(ValueError, match="at least two classes"):
        make("crd", context(torch.zeros(10).long()))
    with pytest.raises(ValueError, match=r"momentum is 1\.5"):
        make("crd", momentum=1.5)


def test_the_published_form_gives_the_same_loss_and_gradients(crd):
    """GatheringCRD is what `make speed` compares with: it must compute the same, but for its draws."""
    gathering = copy.deepcopy(crd)
    gathering.__class__ = CRD.published
    labels = torch.arange(40) % 5
    indices = torch.tensor([3, 11, 29])
    batch = Batch(None, labels[indices], indices, None, 1, generator())
    drawn = gathering.negatives(batch)
    assert (labels[drawn] != batch.labels[:, None]).all() and drawn.shape == (3, 12)
    assert all(len(set(row.tolist())) == 12 for row in drawn)
    random = generator(1)
    pooled = [torch.randn(3, 6, generator=random, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    logits = torch.randn(3, 5, generator=random, dtype=torch.float64)
    counts = torch.zeros(40, 3, dtype=torch.float64).scatter_(0, drawn.T, 1.0)
    found = []
    for method, negatives in ((crd, counts), (gathering, drawn)):
        method.negatives = lambda _, negatives=negatives: negatives
        terms = method.losses(Outputs(logits, pooled[0]), Outputs(None, pooled[1]), batch)
        loss = sum(t.weight * t.value for t in terms.values())
        found.append([loss, *torch.autograd.grad(loss, [*pooled, *method.parameters()])])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
