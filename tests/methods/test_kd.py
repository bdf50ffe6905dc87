"""KD and LSKD: the terms, and the published weights."""

import math

import pytest


def softmax(row):
    e = [math.exp(v) for v in row]
    return [v / sum(e) for v in e]


def naive_kl(student, teacher, temperature):
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p_s, p_t = softmax([v / temperature for v in s]), softmax([v / temperature for v in t])
        total += sum(b * math.log(b / a) for a, b in zip(p_s, p_t, strict=True))
    return temperature**2 * total / len(student)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("seed", range(3))
def test_terms_equal_naive_loops(make, make_batch, make_outputs, seed, temperature):
    student, teacher = make_outputs(7, seed), make_outputs(7, seed + 100)
    terms = make("kd", temperature=temperature).losses(student, teacher, make_batch(7, seed))
    assert list(terms) == ["ce", "kd"]
    expected = naive_kl(student.logits, teacher.logits, temperature)
    assert terms["kd"].value.item() == pytest.approx(expected, rel=1e-10)
    assert [t.weight for t in terms.values()] == [0.1, 0.9]


def test_requires_only_the_teachers_logits(make):
    needs = make("kd").requires.teacher
    assert needs.logits
    assert not (needs.pooled or needs.maps or needs.pre_activations)


def test_lskd_equals_kd_of_logits_standardized_by_numpy(make, make_batch, make_outputs):
    student, teacher = make_outputs(7, 1), make_outputs(7, 2)
    z_s, z_t = ((z - z.mean(1, keepdims=True)) / (1e-7 + z.std(1, ddof=1, keepdims=True))
                for z in (student.logits.numpy(), teacher.logits.numpy()))  # fmt: skip
    terms = make("lskd").losses(student, teacher, make_batch(7))
    assert terms["kd"].value.item() == pytest.approx(naive_kl(z_s, z_t, 2.0), rel=1e-10)
    assert [t.weight for t in terms.values()] == [0.1, 9.0]


def test_the_published_weights_of_lskd_on_pairs(read_yaml):
    pairs = read_yaml("lskd")["pairs"]
    assert pairs["resnet110-resnet20"] == {"temperature": 4.0, "kd_weight": 12.0}
    assert pairs["ResNet50-MobileNetV2"] == {"temperature": 3.0, "kd_weight": 1.0}
