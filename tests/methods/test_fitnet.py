"""FitNet: the regressor and the mean squared difference from the teacher's map."""

import math

import pytest
import torch
from torch import nn

from methods.contract import Context, Shapes
from methods.fitnet import Regressor


def context(student, teacher):
    def shapes(stage):
        return Shapes(((1, 8, 8), (1, 8, 8), stage), 4)

    return Context(5, shapes(student), shapes(teacher), torch.arange(10) % 5, 20)


def naive_convolution(x, layer, stride, pad):
    """A convolution, or a transposed one, of x [N, C, H, W] by loops over samples, channels, places and offsets."""
    weight, bias, x = layer.weight.tolist(), layer.bias.tolist(), x.tolist()
    kh, kw = layer.kernel_size
    transposed = isinstance(layer, nn.ConvTranspose2d)
    h, w = len(x[0][0]), len(x[0][0][0])
    if transposed:
        height, width = (h - 1) * stride - 2 * pad + kh, (w - 1) * stride - 2 * pad + kw
    else:
        height, width = (h + 2 * pad - kh) // stride + 1, (w + 2 * pad - kw) // stride + 1
    out = [[[[b] * width for _ in range(height)] for b in bias] for _ in x]
    for n in range(len(x)):
        for o in range(len(bias)):
            for c in range(len(x[0])):
                for p in range(kh * kw):
                    a, b = divmod(p, kw)
                    if transposed:
                        pairs = [(i, j, i * stride - pad + a, j * stride - pad + b) for i in range(h) for j in range(w)]
                        pairs = [q for q in pairs if 0 <= q[2] < height and 0 <= q[3] < width]
                        factor = weight[c][o][a][b]
                    else:
                        places = [(i, j) for i in range(height) for j in range(width)]
                        pairs = [(i * stride - pad + a, j * stride - pad + b, i, j) for i, j in places]
                        pairs = [q for q in pairs if 0 <= q[0] < h and 0 <= q[1] < w]
                        factor = weight[o][c][a][b]
                    for i, j, k, m in pairs:
                        out[n][o][k][m] += factor * x[n][c][i][j]
    return out


def naive_hint(convolved, teacher):
    """Batch norm with the batch's statistics, ReLU, and the mean squared difference to the teacher's map."""
    teacher = teacher.tolist()
    total, entries = 0.0, 0
    for c in range(len(teacher[0])):
        values = [v for sample in convolved for row in sample[c] for v in row]
        mean = sum(values) / len(values)
        variance = sum((v - mean) ** 2 for v in values) / len(values)
        for sample, target in zip(convolved, teacher, strict=True):
            for row, goal in zip(sample[c], target[c], strict=True):
                for v, t in zip(row, goal, strict=True):
                    total += (max(0.0, (v - mean) / math.sqrt(variance + 1e-5)) - t) ** 2
                    entries += 1
    return total / entries


@pytest.mark.parametrize(
    ("student", "teacher", "kernel", "stride", "pad"),
    [
        ((2, 4, 4), (3, 2, 2), (3, 3), 2, 1),
        ((2, 2, 2), (3, 4, 4), (4, 4), 2, 1),
        ((2, 4, 4), (3, 4, 4), (1, 1), 1, 0),
        ((2, 5, 4), (3, 3, 3), (3, 2), 1, 0),
    ],
    ids=["halves", "doubles", "equal", "trims"],
)
def test_terms_equal_naive_loops(make, make_batch, make_outputs, student, teacher, kernel, stride, pad):
    method = make("fitnet", context(student, teacher)).double()
    generator = torch.Generator().manual_seed(5)
    student_outputs, teacher_outputs = make_outputs(3, 1), make_outputs(3, 2)
    student_outputs.maps[2] = torch.randn(3, *student, generator=generator).double()
    teacher_outputs.maps[2] = torch.randn(3, *teacher, generator=generator).double()
    terms = method.losses(student_outputs, teacher_outputs, make_batch(3))
    assert method.regressor[0].kernel_size == kernel
    expected = naive_hint(
        naive_convolution(student_outputs.maps[2], method.regressor[0], stride, pad), teacher_outputs.maps[2]
    )
    assert list(terms) == ["ce", "hint"]
    assert terms["hint"].value.item() == pytest.approx(expected, rel=1e-10)
    assert [t.weight for t in terms.values()] == [1.0, 100.0]


def test_resnet32x4_resnet8x4_has_the_published_parameter_count():
    shape = (128, 16, 16)
    assert sum(p.numel() for p in Regressor(shape, shape).parameters()) == 16_768


def test_a_stage_that_a_network_lacks_is_rejected(make):
    with pytest.raises(ValueError, match=r"hint_layer is 3.* is 2"):
        make("fitnet", context((2, 4, 4), (3, 4, 4)), hint_layer=3)


def test_requires_the_map_of_the_hint_layer_alone(make):
    method = make("fitnet", hint_layer=1)
    assert method.requires.student.maps == {1}
    assert method.requires.teacher.maps == {1}
    assert not (method.requires.teacher.logits or method.requires.teacher.pooled)


def test_the_regressor_can_learn_the_hint(make, make_batch, make_outputs):
    method = make("fitnet")
    student_outputs, teacher_outputs, batch = (
        make_outputs(8, 1, torch.float32),
        make_outputs(8, 2, torch.float32),
        make_batch(8),
    )
    teacher_outputs.maps[2] = 3 * student_outputs.maps[2].relu()
    optimizer = torch.optim.SGD(method.parameters(), 0.05, 0.9)
    values = []
    for _ in range(200):
        value = method.losses(student_outputs, teacher_outputs, batch)["hint"].value
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.05 * values[0]
