"""ReviewKD: the fused maps and the context loss by NumPy, the warm-up, and networks of unequal depth."""

import numpy as np
import pytest
import torch

from methods.contract import Context, Outputs, Shapes
from methods.reviewkd import BatchNorm, Fusion, context_loss, resize
from tests.methods.conftest import randn

STUDENT = ((2, 16, 16), (3, 16, 16), (2, 8, 8), (4, 4, 4))
TEACHER = ((2, 16, 16), (2, 16, 16), (5, 16, 16), (3, 8, 8))


def context(student=STUDENT, teacher=TEACHER):
    return Context(5, Shapes(student, 6), Shapes(teacher, 7), torch.arange(40) % 5, 20)


def outputs(stages, pooled, seed):
    maps = {k: randn(3, *shape, seed=seed + k) for k, shape in enumerate(stages)}
    return Outputs(randn(3, 5, seed=seed + 20), randn(3, pooled, seed=seed + 21), maps, maps)


def convolved(x, weight, bias=None):
    """Convolve [N, C, H, W] by an odd kernel [O, C, k, k], offset by offset, keeping the size."""
    reach = weight.shape[2] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    out = np.zeros((len(x), len(weight), *x.shape[2:]))
    for a in range(weight.shape[2]):
        for b in range(weight.shape[3]):
            part = padded[:, :, a : a + x.shape[2], b : b + x.shape[3]]
            out += np.einsum("nchw,oc->nohw", part, weight[:, :, a, b])
    return out if bias is None else out + bias[:, None, None]


def normed(x):
    return (x - x.mean((0, 2, 3), keepdims=True)) / np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-5)


def nearest(x, size):
    rows, columns = (np.arange(n) * old // n for n, old in zip(size, x.shape[2:], strict=True))
    return x[:, :, rows][:, :, :, columns]


def pooled(x, size):
    n, c, h, w = x.shape
    return x.reshape(n, c, size, h // size, size, w // size).mean((3, 5))


def naive_loss(s, t):
    total, weights = ((s - t) ** 2).mean(), 1.0
    for i, size in enumerate(size for size in (4, 2, 1) if size < s.shape[2]):
        total += ((pooled(s, size) - pooled(t, size)) ** 2).mean() / 2 ** (i + 1)
        weights += 1 / 2 ** (i + 1)
    return total / weights


def naive(method, student, teacher):
    """Sum over the stages, last to first."""
    levels = [(student.maps[k].numpy(), teacher.pre_activations[j].numpy()) for k, j in method.stages]
    levels.append((student.pooled.numpy()[:, :, None, None], teacher.pooled.numpy()[:, :, None, None]))
    total, handed = 0.0, None
    for fusion, (s, t) in reversed(list(zip(method.fusions, levels, strict=True))):
        p = {k: v.detach().numpy() for k, v in fusion.named_parameters()}
        x = normed(convolved(s, p["enter.0.weight"]))
        if handed is not None:
            u = nearest(handed, x.shape[2:])
            z = convolved(np.concatenate([x, u], 1), p["attention.weight"], p["attention.bias"])
            a = 1 / (1 + np.exp(-z))
            x = a[:, :1] * x + a[:, 1:] * u
        handed = nearest(x, t.shape[2:])
        total += naive_loss(normed(convolved(handed, p["leave.0.weight"])), t)
    return total


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
    method = make("reviewkd", context(student, teacher), warmup=0.0).double()
    assert method.stages == stages  # stages are paired from the last
    student_outputs, teacher_outputs = outputs(student, 6, 1), outputs(teacher, 7, 41)
    terms = method.losses(student_outputs, teacher_outputs, make_batch(3))
    assert list(terms) == ["ce", "reviewkd"]
    assert terms["reviewkd"].value.item() == pytest.approx(naive(method, student_outputs, teacher_outputs), rel=1e-10)
    assert [t.weight for t in terms.values()] == [1.0, 5.0]


@pytest.mark.parametrize(("epoch", "share"), [(1, 0.1), (5, 0.5), (10, 1.0), (40, 1.0)])
def test_the_weight_rises_over_the_warm_up(make, make_batch, make_outputs, epoch, share):
    method = make("reviewkd", warmup=10.0)
    terms = method.losses(
        make_outputs(4, 1, torch.float32), make_outputs(4, 2, torch.float32), make_batch(4, epoch=epoch)
    )
    assert terms["reviewkd"].weight == pytest.approx(5.0 * share)
    assert terms["ce"].weight == 1.0


def test_the_published_warm_up_is_20_of_240_epochs(make):
    assert make("reviewkd").options.warmup == pytest.approx(20 / 12)


def test_resnet32x4_resnet8x4_has_the_published_parameter_count(make):
    shapes = Shapes(((32, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8)), 256)
    method = make("reviewkd", Context(100, shapes, shapes, torch.arange(200) % 100, 20))
    assert sum(p.numel() for p in method.parameters()) == 1_808_774


def test_the_fused_maps_have_at_most_512_channels(make):
    shapes = Shapes(((1, 8, 8), (2, 8, 8)), 1280)
    method = make("reviewkd", Context(5, shapes, shapes, torch.arange(40) % 5, 20))
    assert method.fusions[0].enter[0].out_channels == 512


def test_the_loss_of_maps_of_one_position_is_the_mean_squared_difference():
    s, t = randn(3, 4, 1, 1, seed=1), randn(3, 4, 1, 1, seed=2)
    assert context_loss(s, t).item() == pytest.approx(((s - t) ** 2).mean().item())


def test_the_loss_by_hand():
    # 2 × 2: full size 1 with weight 1, the mean over all 0 with weight 1/2
    s = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]])
    assert context_loss(s, torch.zeros_like(s)).item() == pytest.approx(1 / 1.5)


def test_sizes_change_to_the_nearest_neighbor():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert resize(x, (4, 4))[0, 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    assert resize(x, (2, 2)) is x


def test_a_batch_of_one_uses_the_running_statistics_of_the_pooled_features():
    norm = BatchNorm(3)
    norm.running_mean += 1
    one = torch.tensor([2.0, 3.0, 4.0]).reshape(1, 3, 1, 1)
    assert torch.allclose(norm(one), one - 1, atol=1e-4) and norm.num_batches_tracked == 0
    two = torch.cat([one, 3 * one])
    torch.testing.assert_close(norm(two), torch.nn.BatchNorm2d(3)(two))


def test_gradient():
    fusion, target = Fusion(2, 3, 2, last=False).double(), randn(2, 2, 4, 4, seed=3)

    def value(student_map, deeper):
        output, fused = fusion(student_map, deeper, (4, 4))
        return context_loss(output, target) + fused.square().mean()

    inputs = randn(2, 2, 4, 4, seed=1).requires_grad_(), randn(2, 3, 2, 2, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(value, inputs)
