"""CRD: loss and gradients against gathered bank rows, the memory banks, and the constants Z."""

import copy
import math

import numpy as np
import pytest
import torch

from methods.contract import Batch, Context, Outputs, Shapes
from tests.methods.test_contrast import generator, list_draws


def context(labels, pooled=6):
    shapes = Shapes(((2, 8, 8),), pooled)
    return Context(5, shapes, shapes, labels, 20)


@pytest.fixture
def crd(make):
    """A small CRD in float64: 5 classes of 8 samples, 12 negatives of 32."""
    return make("crd", negatives=12, feature_dim=4).double()


def samples_of(method, batch, seed):
    """Return the K + 1 samples per anchor that `losses` draws from a generator of this seed, [N, K + 1]."""
    drawn = list_draws(method.sampler.other_classes(batch.labels, generator(seed)))
    return torch.cat([batch.indices[:, None], drawn], 1)


def naive_embedding(layer, features):
    results = []
    for row in features.tolist():
        weights = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        v = [sum(w * x for w, x in zip(ws, row, strict=True)) + bias for ws, bias in weights]
        length = math.sqrt(sum(x * x for x in v))
        results.append([x / length for x in v])
    return results


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
def test_terms_equal_naive_loops_with_z_of_the_first_batch(crd, make_batch, make_outputs, seed):
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
    results = torch.autograd.grad(terms["crd_student"].value + terms["crd_teacher"].value, inputs)
    for a, b in zip(results, expected, strict=True):
        torch.testing.assert_close(a, b)
        assert a.abs().max() > 0


def test_a_step_updates_only_the_rows_of_the_batch_with_the_embeddings_of_the_step(crd, make_batch, make_outputs):
    student, teacher, batch = make_outputs(7, 1), make_outputs(7, 2), make_batch(7)
    before = copy.deepcopy(crd.state_dict())
    embeddings = {"s": naive_embedding(crd.embed_s, student.pooled), "t": naive_embedding(crd.embed_t, teacher.pooled)}
    crd.losses(student, teacher, batch)
    assert torch.equal(crd.bank_s, before["bank_s"])  # unchanged until the step ends
    with torch.no_grad():
        crd.embed_s.weight += 1  # the optimizer's step
        crd.on_step_end()
    others = sorted(set(range(40)) - set(batch.indices.tolist()))
    for side, bank in (("s", crd.bank_s), ("t", crd.bank_t)):
        old = before[f"bank_{side}"]
        assert torch.equal(bank[others], old[others])
        for v, i in zip(embeddings[side], batch.indices.tolist(), strict=True):
            mixed = [0.5 * m + 0.5 * x for m, x in zip(old[i].tolist(), v, strict=True)]
            length = math.sqrt(sum(x * x for x in mixed))
            assert bank[i].tolist() == pytest.approx([x / length for x in mixed], rel=1e-10)
    torch.testing.assert_close(crd.bank_s[batch.indices].norm(dim=1), torch.ones(7).double())


def test_the_banks_are_updated_once_per_step(crd, make_batch, make_outputs):
    crd.losses(make_outputs(7, 1), make_outputs(7, 2), make_batch(7))
    crd.on_step_end()
    once = crd.bank_s.clone()
    crd.on_step_end()
    assert torch.equal(crd.bank_s, once)


def test_z_is_set_by_the_first_batch_and_restored_from_a_checkpoint(make, crd, make_batch, make_outputs):
    assert crd.params[2:4].tolist() == [-1, -1]
    crd.losses(make_outputs(7, 1), make_outputs(7, 2), make_batch(7))
    crd.on_step_end()
    z = crd.params.clone()
    assert z[2] > 0
    assert z[3] > 0
    resumed = make("crd", negatives=12, feature_dim=4).double()
    resumed.load_state_dict(copy.deepcopy(crd.state_dict()))
    values = []
    for method in (crd, resumed):
        terms = method.losses(make_outputs(7, 3), make_outputs(7, 4), make_batch(7, 9))
        method.on_step_end()
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


def test_mode_relax_draws_the_positive_from_the_class(make, make_batch, make_outputs):
    # the positives are drawn first, then the negatives
    method = make("crd", negatives=12, feature_dim=4, mode="relax").double()
    student, teacher, batch = make_outputs(7, 1), make_outputs(7, 2), make_batch(7)
    random = generator(3)
    positives = method.sampler.same_class(batch.labels, random)
    samples = torch.cat([positives[:, None], list_draws(method.sampler.other_classes(batch.labels, random))], 1)
    scores = naive_scores(naive_embedding(method.embed_s, student.pooled), method.bank_t.tolist(), samples, 0.07)
    batch.generator = generator(3)
    results = method.losses(student, teacher, batch)["crd_student"].value.item()
    assert results == pytest.approx(naive_contrast(scores, mean(scores) * 40, 40), rel=1e-9)


def test_the_negatives_depend_on_the_generator_alone(crd, make_batch, make_outputs):
    def value(seed):
        fresh = copy.deepcopy(crd)
        batch = make_batch(7)
        batch.generator = generator(seed)
        return fresh.losses(make_outputs(7, 1), make_outputs(7, 2), batch)["crd_student"].value.item()

    assert value(1) == value(1)
    assert value(1) != value(2)


def test_training_makes_the_positive_score_highest(make):
    """After training, most samples score highest with their own row of the other network's bank."""
    labels = torch.arange(20) % 5
    method = make("crd", context(labels), negatives=12, feature_dim=4)
    features = torch.randn(20, 6, generator=generator(2))
    outputs = Outputs(torch.zeros(20, 5), features)
    optimizer = torch.optim.SGD(method.parameters(), 0.05, 0.9)
    random = generator(4)
    values = []
    for _ in range(150):
        terms = method.losses(outputs, outputs, Batch([], labels, torch.arange(20), 1, random))
        value = terms["crd_student"].value + terms["crd_teacher"].value
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        with torch.no_grad():
            method.on_step_end()
        values.append(value.item())
    assert values[-1] < 0.5 * values[0]
    hits = (method.embed_s(features) @ method.bank_t.T).argmax(1) == torch.arange(20)
    assert hits.float().mean() > 0.8


def test_a_training_set_of_one_class_is_rejected(make):
    with pytest.raises(ValueError, match="at least two classes"):
        make("crd", context(torch.zeros(10).long()))


def test_the_digits_have_as_many_negatives_per_image_as_cifar(read_yaml):
    crd = read_yaml("crd")
    assert crd["datasets"]["digits"]["negatives"] == round(200 * crd["negatives"] / 50_000)
