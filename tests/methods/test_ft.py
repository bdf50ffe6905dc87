"""FT: paraphraser, translator, and what each of the two stages of the training trains."""

import numpy as np
import pytest
import torch
from torch import nn

from methods.contract import Context, Outputs, Shapes, UnsupportedPair
from methods.ft import factor_distance
from tests.methods.conftest import randn


def context(student=(3, 4, 4), teacher=(4, 4, 4)):
    return Context(5, *(Shapes(((1, 8, 8), last), 4) for last in (student, teacher)), torch.arange(40) % 5, 20)


def naive_layers(layers, x):
    """3×3 convolutions, or transposed ones, batch norm over the batch where there is one, LeakyReLU, layer by layer."""
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
            x = (x - mean) / np.sqrt(variance + 1e-5)
        elif isinstance(layer, nn.LeakyReLU):
            x = np.where(x > 0, x, 0.1 * x)
        else:
            transposed = isinstance(layer, nn.ConvTranspose2d)
            weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
            n, _, h, w = x.shape
            out = np.zeros((n, len(bias), h + 2, w + 2)) + bias[:, None, None]
            for i, j, a, b in np.ndindex(h, w, 3, 3):
                if transposed:  # each entry is spread over its neighbours
                    out[:, :, i + a, j + b] += x[:, :, i, j] @ weight[:, :, a, b]
                else:  # the same with the kernel turned round
                    out[:, :, i + a, j + b] += x[:, :, i, j] @ weight[:, :, 2 - a, 2 - b].T
            x = out[:, :, 1:-1, 1:-1]
    return x


def naive_attention(factors, size):
    rows = []
    for sample in factors:
        while sample.shape[1] > size:
            c, h, w = sample.shape
            sample = sample.reshape(c, h // 2, 2, w // 2, 2).mean((2, 4))
        row = (sample**2).mean(0).flatten()
        rows.append(row / np.sqrt((row**2).sum()))
    return np.array(rows)


@pytest.mark.parametrize(
    ("student", "teacher"), [((3, 4, 4), (4, 4, 4)), ((3, 2, 2), (4, 4, 4)), ((3, 4, 4), (6, 2, 2))]
)
def test_terms_equal_naive_loops_stage_by_stage(make, make_batch, student, teacher):
    method = make("ft", context(student, teacher)).double()
    student_outputs = Outputs(randn(3, 5, seed=0), maps={1: randn(3, *student, seed=1)})
    teacher_outputs = Outputs(maps={1: randn(3, *teacher, seed=2)})
    factors = naive_layers(method.paraphraser.encoder, teacher_outputs.maps[1].numpy())
    assert factors.shape[1] == teacher[0] // 2

    first = method.losses(student_outputs, teacher_outputs, make_batch(3, epoch=0))
    reconstructed = naive_layers(method.paraphraser.decoder, factors)
    assert list(first) == ["paraphrase"] and first["paraphrase"].weight == 1.0
    assert first["paraphrase"].value.item() == pytest.approx(
        ((reconstructed - teacher_outputs.maps[1].numpy()) ** 2).mean(), rel=1e-10
    )

    then = method.losses(student_outputs, teacher_outputs, make_batch(3))
    size = min(student[1], teacher[1])
    s, t = (
        naive_attention(f, size) for f in (naive_layers(method.translator, student_outputs.maps[1].numpy()), factors)
    )
    assert list(then) == ["ce", "ft"]
    assert then["ft"].value.item() == pytest.approx(np.abs(s - t).mean(), rel=1e-10)
    assert [t.weight for t in then.values()] == [1.0, 200.0]


def trained_layers(method, terms):
    """Return the names of the layers that receive a gradient."""
    method.zero_grad()
    sum(t.weight * t.value for t in terms.values()).backward()
    return {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None}


def test_initialization_trains_the_paraphraser_and_training_the_translator(make, make_batch, make_outputs):
    method = make("ft")
    student, teacher = make_outputs(4, 1, torch.float32, grad=True), make_outputs(4, 2, torch.float32)
    assert trained_layers(method, method.losses(student, teacher, make_batch(4, epoch=-1))) == {"paraphraser"}
    assert student.maps[3].grad is None and student.logits.grad is None
    assert trained_layers(method, method.losses(student, teacher, make_batch(4, epoch=1))) == {"translator"}
    assert student.maps[3].grad is not None and student.logits.grad is not None


@pytest.mark.parametrize(("epochs", "whole"), [(30.0, 30), (2.5, 3), (0.0, 0)])
def test_the_initialization_stage_is_rounded_up_to_whole_epochs(make, epochs, whole):
    assert make("ft", init_epochs=epochs).requires.init_epochs == whole


def test_the_published_initialization_stage_is_30_of_240_epochs(make):
    assert make("ft").options.init_epochs == 30 * 20 / 240


def test_the_layers_have_the_parameter_counts_of_the_formula(make):
    method = make("ft", context((128, 8, 8), (256, 8, 8)))
    paraphraser = 2 * 9 * (256 * 256 + 256 * 128 + 128 * 128) + (256 + 128 + 128) + (128 + 256 + 256)
    translator = 9 * (128 * 128 + 128 * 128 + 128 * 128) + 3 * 3 * 128
    assert sum(p.numel() for p in method.paraphraser.parameters()) == paraphraser
    assert sum(p.numel() for p in method.translator.parameters()) == translator
    assert not list(
        method.paraphraser.buffers()
    )  # no batch norm, so the frozen paraphraser is the same in training and evaluation mode


def test_the_distance_is_invariant_to_scale():
    s, t = randn(3, 2, 4, 4, seed=1), randn(3, 2, 4, 4, seed=2)
    assert factor_distance(5 * s, t).item() == pytest.approx(factor_distance(s, t).item())
    assert factor_distance(s, -3 * s).item() < 1e-15


def test_a_rate_that_leaves_no_factor_is_rejected(make):
    with pytest.raises(ValueError, match=r"rate is 0\.1: no factor is left of the teacher's 4 channels"):
        make("ft", rate=0.1)


@pytest.mark.parametrize("shapes", [((3, 1, 1), (4, 2, 2)), ((3, 2, 2), (4, 1, 1))])
def test_maps_of_one_position_are_unsupported(make, shapes):
    with pytest.raises(UnsupportedPair, match="a single position"):
        make("ft", context(*shapes))


def test_gradient():
    student, teacher = randn(2, 3, 4, 4, seed=1).requires_grad_(), randn(2, 2, 2, 2, seed=2)
    assert torch.autograd.gradcheck(lambda s: factor_distance(s, teacher), student)
