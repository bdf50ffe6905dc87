"""DKD: target-class and non-target-class terms."""

import math

import pytest
import torch

from methods.dkd import nckd, tckd
from methods.losses import kl_divergence


def softmax(row):
    e = [math.exp(v) for v in row]
    return [v / sum(e) for v in e]


def naive(student, teacher, labels, temperature):
    """Compute TCKD and NCKD from the probabilities, as the paper defines them."""
    target, others = 0.0, 0.0
    for s, t, y in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        p_s, p_t = softmax([v / temperature for v in s]), softmax([v / temperature for v in t])
        target += p_t[y] * math.log(p_t[y] / p_s[y]) + (1 - p_t[y]) * math.log((1 - p_t[y]) / (1 - p_s[y]))
        for c in range(len(s)):
            if c != y:
                q_s, q_t = p_s[c] / (1 - p_s[y]), p_t[c] / (1 - p_t[y])
                others += q_t * math.log(q_t / q_s)
    scale = temperature**2 / len(labels)
    return scale * target, scale * others


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("seed", range(3))
def test_terms_equal_naive_loops(make, make_batch, make_outputs, seed, temperature):
    student, teacher, batch = make_outputs(7, seed), make_outputs(7, seed + 100), make_batch(7, seed)
    terms = make("dkd", temperature=temperature).losses(student, teacher, batch)
    assert list(terms) == ["ce", "tckd", "nckd"]
    target, others = naive(student.logits, teacher.logits, batch.labels, temperature)
    assert terms["tckd"].value.item() == pytest.approx(target, rel=1e-9)
    assert terms["nckd"].value.item() == pytest.approx(others, rel=1e-9)


def test_equals_the_published_form_with_a_masked_target(make_outputs, make_batch):
    # mdistiller masks the target by subtracting 1000 from its scaled logit
    student, teacher, labels = make_outputs(7, 1).logits, make_outputs(7, 2).logits, make_batch(7).labels
    mask = 1000 * torch.nn.functional.one_hot(labels, student.shape[1])
    masked = kl_divergence(student / 4 - mask, teacher / 4 - mask, 1.0) * 16
    torch.testing.assert_close(nckd(student, teacher, labels, 4.0), masked)


def test_is_a_decomposition_of_kd(make_outputs, make_batch):
    # for one sample: KD = TCKD + (1 − p_t,y) · NCKD
    labels = make_batch(7).labels
    for i in range(7):
        student, teacher, y = make_outputs(7, 3).logits[[i]], make_outputs(7, 4).logits[[i]], labels[[i]]
        rest = 1 - (teacher / 4).softmax(1)[0, y]
        whole = tckd(student, teacher, y, 4.0) + rest * nckd(student, teacher, y, 4.0)
        torch.testing.assert_close(whole.squeeze(), kl_divergence(student, teacher, 4.0))


def test_gradients_equal_finite_differences(make_outputs, make_batch):
    student, teacher, labels = make_outputs(4, 1, grad=True).logits, make_outputs(4, 2).logits, make_batch(4).labels
    for term in (tckd, nckd):
        assert torch.autograd.gradcheck(lambda z, term=term: term(z, teacher, labels, 4.0), student)


def test_the_target_logit_does_not_enter_nckd(make_outputs, make_batch):
    student, teacher, labels = make_outputs(4, 1, grad=True).logits, make_outputs(4, 2).logits, make_batch(4).labels
    nckd(student, teacher, labels, 4.0).backward()
    assert student.grad[range(4), labels].abs().max() == 0
    assert student.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("warmup", "epoch", "ramp"),
    [(20.0, 1, 0.05), (20.0, 15, 0.75), (20.0, 20, 1), (20.0, 21, 1), (0.0, 1, 1), (0.5, 1, 1)],
)
def test_warm_up_scales_both_distillation_terms(make, make_batch, make_outputs, warmup, epoch, ramp):
    method = make("dkd", warmup=warmup, alpha=3.0)
    terms = method.losses(make_outputs(4), make_outputs(4, 9), make_batch(4, epoch=epoch))
    assert [t.weight for t in terms.values()] == pytest.approx([1.0, 3 * ramp, 8 * ramp])


def test_nckd_is_zero_and_tckd_is_kd_for_two_classes(make_outputs):
    student, teacher, labels = (
        make_outputs(4, 1).logits[:, :2],
        make_outputs(4, 2).logits[:, :2],
        torch.tensor([0, 1, 1, 0]),
    )
    assert nckd(student, teacher, labels, 4.0).item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(tckd(student, teacher, labels, 4.0), kl_divergence(student, teacher, 4.0))


def test_the_logarithm_is_finite_for_a_certain_target():
    # 1 − p_y underflows to 0 in float32; its logarithm is −200 + log 2
    teacher, student = torch.zeros(1, 3), torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    value = tckd(student, teacher, torch.tensor([0]), 1.0)
    value.backward()
    expected = (1 / 3) * math.log(1 / 3) + (2 / 3) * (math.log(2 / 3) + 200 - math.log(2))
    assert value.item() == pytest.approx(expected, rel=1e-6)
    assert student.grad[0].tolist() == pytest.approx([2 / 3, -1 / 3, -1 / 3], rel=1e-6)


def test_logit_standardization(make, make_batch, make_outputs):
    student, teacher, batch = make_outputs(7, 1), make_outputs(7, 2), make_batch(7, epoch=20)
    z_s, z_t = (
        (z - z.mean(1, keepdim=True)) / (1e-7 + z.std(1, keepdim=True)) for z in (student.logits, teacher.logits)
    )
    terms = make("dkd_ls").losses(student, teacher, batch)
    target, others = naive(z_s, z_t, batch.labels, 2.0)
    assert [t.value.item() for t in terms.values()][1:] == pytest.approx([target, others], rel=1e-9)
    assert [t.weight for t in terms.values()] == [1.0, 9.0, 72.0]


def test_the_published_weights_of_dkd_with_standardization(read_yaml):
    # w = 18 and beta = 2 there
    assert read_yaml("dkd_ls")["pairs"]["resnet56-resnet20"] == {"temperature": 3.0, "alpha": 18.0, "beta": 36.0}
