"""Loss functions that methods share: values by hand, gradients, and edge cases."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from methods.contract import Shapes, UnsupportedPair
from methods.losses import (
    SquaredSum,
    attention,
    binary_logits,
    check_resizable,
    cosine_decay,
    cross_entropy_term,
    halving_total,
    kl_divergence,
    kl_per_sample,
    last_stages,
    mse,
    non_target_logits,
    normalize_rows,
    pool_to_smaller,
    resizing_convolution,
    self_product,
    share_up_to_median,
    shared_stages,
    standardize_logits,
    total,
    warmup_ramp,
)
from tests.methods.conftest import randn


def probabilities(*rows):
    return torch.tensor(rows, dtype=torch.float64).log()


# ---------------------------------------------------------------- terms


def test_cross_entropy_is_the_mean_negative_log_probability_of_the_labels(make_batch, make_outputs):
    student, batch = make_outputs(7), make_batch(7)
    expected = [-math.log(p[y]) for p, y in zip(student.logits.softmax(1).tolist(), batch.labels.tolist(), strict=True)]
    term = cross_entropy_term(student, batch, 0.3)
    assert term.value.item() == pytest.approx(sum(expected) / 7, rel=1e-12)
    assert term.weight == 0.3


def test_totals_of_scalars_by_hand():
    values = [torch.tensor(v) for v in (8.0, 4.0, 3.0)]
    assert total(values).item() == 15
    assert halving_total(values).item() == 8 / 4 + 4 / 2 + 3


@pytest.mark.parametrize(
    ("epochs", "epoch", "ramp"),
    [(20.0, 1, 0.05), (20.0, 15, 0.75), (20.0, 20, 1), (20.0, 21, 1), (0.0, 1, 1), (0.5, 1, 1)],
)
def test_the_warm_up_is_linear_from_epoch_1(epochs, epoch, ramp):
    assert warmup_ramp(epoch, epochs) == pytest.approx(ramp)


@pytest.mark.parametrize(
    ("epoch", "factor"), [(1, 1), (150, 1), (165, (1 + math.sqrt(3) / 2) / 2), (195, 0.5), (210, 0.25), (240, 0)]
)  # 15, 45, 60 and 90 of the 90 epochs after 150: cos 30°, 90°, 120°, 180°
def test_the_decay_follows_half_a_cosine_to_0_in_the_last_epoch(epoch, factor):
    assert cosine_decay(epoch, 150.0, 240) == pytest.approx(factor, abs=1e-12)
    assert cosine_decay(epoch, 240.0, 240) == 1


# ---------------------------------------------------------------- logits


def test_kl_divergence_by_hand():
    # p_t = (3/4, 1/4), p_s = (1/2, 1/2) at T = 2
    student, teacher = torch.zeros(1, 2).double(), torch.tensor([[2 * math.log(3), 0.0]], dtype=torch.float64)
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert kl_divergence(student, teacher, 2.0).item() == pytest.approx(expected, rel=1e-12)


def test_the_gradient_of_kl_is_t_times_the_difference_of_probabilities(make_outputs):
    # d/dz_s of T² KL is T (p_s − p_t) / N
    student, teacher = make_outputs(4, 1, grad=True).logits, make_outputs(4, 2).logits
    kl_divergence(student, teacher, 3.0).backward()
    expected = 3.0 * ((student / 3).softmax(1) - (teacher / 3).softmax(1)) / 4
    torch.testing.assert_close(student.grad, expected.detach())


def test_kl_is_invariant_to_shifts_and_scales_with_the_temperature(make_outputs):
    student, teacher = make_outputs(6, 1).logits, make_outputs(6, 2).logits
    value, shift = kl_divergence(student, teacher, 2.0), torch.arange(6.0).double()[:, None]
    torch.testing.assert_close(kl_divergence(student + shift, teacher - 3 * shift, 2.0), value)
    torch.testing.assert_close(kl_divergence(5 * student, 5 * teacher, 10.0), 25 * value)
    assert kl_divergence(student + shift, student, 2.0).item() == pytest.approx(0, abs=1e-12)


def test_kl_per_sample_averages_to_the_divergence(make_outputs):
    student, teacher = make_outputs(6, 1).logits, make_outputs(6, 2).logits
    torch.testing.assert_close(kl_per_sample(student, teacher).mean(), kl_divergence(student, teacher, 1.0))


def test_standardized_rows_by_hand():
    # mean 2, unbiased variance ((−1)² + 0 + 1²) / 2 = 1; scale and shift of a row do not count
    rows = torch.tensor([[1.0, 2.0, 3.0], [10.0, 30.0, 50.0]], dtype=torch.float64)
    expected = torch.tensor([[-1.0, 0.0, 1.0]] * 2, dtype=torch.float64)
    torch.testing.assert_close(standardize_logits(rows), expected, atol=2e-7, rtol=0)


def test_equal_logits_are_centered_but_not_divided():
    rows = torch.full((2, 4), 7.0, requires_grad=True)
    standardized = standardize_logits(rows)
    assert standardized.abs().max() == 0
    standardized.square().sum().backward()
    assert rows.grad.isfinite().all()


def test_non_target_logits_keep_the_order_of_the_other_classes():
    logits = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert non_target_logits(logits, torch.tensor([1, 0])).tolist() == [[1, 3], [5, 6]]


def test_binary_logits_give_the_probability_of_the_target():
    logits = probabilities([0.5, 0.2, 0.3], [0.1, 0.6, 0.3])
    expected = torch.tensor([[0.2, 0.8], [0.1, 0.9]], dtype=torch.float64)
    torch.testing.assert_close(binary_logits(logits, torch.tensor([1, 0])).softmax(1), expected)


@pytest.mark.parametrize(
    ("values", "share"), [([3, 1, 2, 4], 0.5), ([3, 1, 2], 2 / 3), ([1, 1, 1, 5], 0.75), ([2, 2], 1), ([7], 1)]
)
def test_share_up_to_the_median(values, share):
    assert share_up_to_median(torch.tensor(values).float()).item() == pytest.approx(share)


# ---------------------------------------------------------------- feature maps


def shapes(*channels):
    return Shapes(tuple((c, 8, 8) for c in channels), channels[-1])


def test_stages_of_networks_of_unequal_depth_are_paired_from_the_first_or_the_last():
    shallow, deep = shapes(1, 2, 3), shapes(1, 2, 3, 4, 5)
    assert shared_stages(shallow, deep) == shared_stages(deep, shallow) == [1, 2]
    assert last_stages(shallow, deep) == [(1, 3), (2, 4)]
    assert last_stages(deep, shallow) == [(3, 1), (4, 2)]
    assert last_stages(deep, deep) == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_the_larger_map_is_pooled_to_the_smaller():
    large, small = randn(2, 3, 4, 4, seed=1), randn(2, 5, 2, 2, seed=2)
    pooled = F.avg_pool2d(large, 2)
    for a, b in (pool_to_smaller(large, small), reversed(pool_to_smaller(small, large))):
        torch.testing.assert_close(a, pooled)
        assert b is small
    assert all(a is b for a, b in zip(pool_to_smaller(large, large), (large, large), strict=True))


def test_rows_are_normalized_but_a_zero_row_stays_zero_with_a_moderate_gradient():
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    unit = normalize_rows(rows)
    torch.testing.assert_close(unit, torch.tensor([[0.0, 0.0], [0.6, 0.8]]))
    unit.sum().backward()
    assert rows.grad.isfinite().all() and rows.grad.abs().max() <= 1


def test_a_self_product_has_the_gradient_of_the_square():
    x = randn(3, 4, seed=1).requires_grad_()
    product = self_product(x.detach().mT @ x)
    torch.testing.assert_close(product, x.mT @ x)
    (gradient,) = torch.autograd.grad((product * random_symmetric(4)).sum(), x)
    (expected,) = torch.autograd.grad((x.mT @ x * random_symmetric(4)).sum(), x)
    torch.testing.assert_close(gradient, expected)


def random_symmetric(n):
    matrix = randn(n, n, seed=5)
    return matrix + matrix.mT


def test_attention_is_the_normalized_mean_square_over_channels():
    maps = torch.tensor([[[[3.0, 0.0]], [[0.0, 2.0]]]])  # energies 4.5 and 2
    length = math.hypot(4.5, 2)
    assert attention(maps)[0].tolist() == pytest.approx([4.5 / length, 2 / length])


def test_attention_is_invariant_to_scale_sign_and_order_of_channels():
    maps = randn(3, 3, 4, 4, seed=3)
    torch.testing.assert_close(attention(maps), attention(-7 * maps[:, [2, 0, 1]]))


def test_gradients_of_map_losses_equal_finite_differences():
    maps, target = randn(2, 2, 3, 3, seed=1).requires_grad_(), randn(2, 2, 3, 3, seed=2)
    assert torch.autograd.gradcheck(lambda x: mse(x, target), maps)
    assert torch.autograd.gradcheck(SquaredSum.apply, maps)


def test_the_gradient_of_mse_keeps_the_memory_format_of_the_map():
    maps = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    formats = []
    inner = maps * 1.0
    inner.register_hook(lambda gradient: formats.append(gradient.is_contiguous(memory_format=torch.channels_last)))
    mse(inner, torch.zeros(2, 3, 4, 4)).backward()
    assert formats == [True]
    torch.testing.assert_close(maps.grad, 2 * maps.detach() / 96)


# ---------------------------------------------------------------- layers


@pytest.mark.parametrize(
    ("student", "teacher", "layer", "kernel"),
    [
        ((2, 4, 4), (3, 2, 2), nn.Conv2d, (3, 3)),
        ((2, 2, 2), (3, 4, 4), nn.ConvTranspose2d, (4, 4)),
        ((2, 4, 4), (3, 4, 4), nn.Conv2d, (1, 1)),
        ((2, 5, 4), (3, 3, 3), nn.Conv2d, (3, 2)),
        # stage 2 of pairs of unlike architectures
        ((16, 8, 8), (256, 8, 8), nn.Conv2d, (1, 1)),
        ((16, 8, 8), (512, 16, 16), nn.ConvTranspose2d, (4, 4)),
        ((232, 8, 8), (128, 16, 16), nn.ConvTranspose2d, (4, 4)),
    ],
    ids=["halves", "doubles", "equal", "trims", "vgg13-MobileNetV2", "ResNet50-MobileNetV2", "resnet32x4-ShuffleV2"],
)
def test_one_convolution_maps_student_to_teacher(student, teacher, layer, kernel):
    convolution = resizing_convolution(student, teacher)
    assert type(convolution) is layer and convolution.kernel_size == kernel and convolution.bias is not None
    assert convolution(torch.zeros(2, *student)).shape == (2, *teacher)


@pytest.mark.parametrize(
    ("student", "teacher"), [((4, 8, 8), (6, 32, 32)), ((4, 8, 16), (6, 16, 8)), ((4, 4, 4), (6, 6, 6))]
)
def test_other_ratios_are_unsupported_and_the_message_has_both_shapes(student, teacher):
    for function in (check_resizable, resizing_convolution):
        with pytest.raises(UnsupportedPair, match="cannot map") as error:
            function(student, teacher)
        assert str(student) in str(error.value) and str(teacher) in str(error.value)
