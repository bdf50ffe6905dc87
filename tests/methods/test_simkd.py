"""SimKD: the projector, the only term, and the inference model."""

import numpy as np
import pytest
import torch
from torch import nn

from benchmark import networks
from benchmark.networks import shapes
from methods.contract import Context, Needs, Outputs, Shapes
from methods.simkd import Projector
from tests.methods.conftest import halved, randn


def context(student, teacher):
    stages = ((1, 8, 8), student)
    return Context(5, Shapes(stages, 4), Shapes(stages, teacher[0], teacher), torch.arange(40) % 5, 20)


def naive_projection(projector, x):
    """Apply three convolutions, each with batch norm over the batch and ReLU."""
    for conv in (m for m in projector.modules() if isinstance(m, nn.Conv2d)):
        weight = conv.weight.detach().numpy()
        reach = weight.shape[2] // 2
        padded = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
        out = np.zeros((len(x), len(weight), *x.shape[2:]))
        for n, o, i, j in np.ndindex(*out.shape):
            out[n, o, i, j] = (weight[o] * padded[n, :, i : i + 2 * reach + 1, j : j + 2 * reach + 1]).sum()
        mean, variance = out.mean((0, 2, 3), keepdims=True), out.var((0, 2, 3), keepdims=True)
        x = np.maximum((out - mean) / np.sqrt(variance + 1e-5), 0)
    return x


@pytest.mark.parametrize(
    ("student", "teacher"), [((3, 4, 4), (6, 4, 4)), ((3, 4, 4), (6, 2, 2)), ((3, 2, 2), (6, 4, 4))]
)
def test_the_term_equals_naive_loops(make, make_batch, student, teacher):
    method = make("simkd", context(student, teacher)).double()
    student_outputs = Outputs(randn(3, 5, seed=0), maps={1: randn(3, *student, seed=1)})
    teacher_outputs = Outputs(last_map=randn(3, *teacher, seed=2))
    terms = method.losses(student_outputs, teacher_outputs, make_batch(3))
    s, t = student_outputs.maps[1].numpy(), teacher_outputs.last_map.numpy()
    s, t = halved(s) if s.shape[2] > t.shape[2] else s, halved(t) if t.shape[2] > s.shape[2] else t
    assert list(terms) == ["simkd"]
    assert terms["simkd"].value.item() == pytest.approx(((naive_projection(method.projector, s) - t) ** 2).mean())
    assert terms["simkd"].weight == 1.0


def test_requires_the_students_last_stage_and_the_teachers_last_map(make):
    method = make("simkd")
    assert method.requires.student == Needs(logits=True, maps=[3])
    assert method.requires.teacher == Needs(last_map=True)


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_the_projector_has_the_size_of_the_formula(factor):
    middle, projector = 256 // factor, Projector((128, 8, 8), (256, 8, 8), factor)
    convolutions = 128 * middle + 9 * middle**2 + middle * 256
    assert sum(p.numel() for p in projector.parameters()) == convolutions + 2 * (2 * middle + 256)


def test_a_factor_that_leaves_no_channel_is_rejected(make):
    with pytest.raises(ValueError, match=r"factor is 9, .* 6 channels"):
        make("simkd", factor=9)


@pytest.mark.parametrize("pair", ["resnet14-resnet8", "wrn16_1-vgg8", "vgg8-MobileNetV2", "resnet8x4-ShuffleV2"])
def test_the_inference_model_is_student_projector_average_and_the_teachers_classifier(make, pair):
    names = networks.split_pair(pair)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        teacher, student = (networks.build(name, 5) for name in names)
    teacher.eval().requires_grad_(False)
    method = make("simkd", Context(5, shapes(student, 16), shapes(teacher, 16), torch.arange(40) % 5, 20))
    model = method.inference_model(student, teacher).eval()
    assert not student.training and not method.projector.training
    images = randn(3, 3, 16, 16, seed=3).float()
    with torch.no_grad():
        maps = student(images, method.requires.student).maps[student.stages - 1]
        while maps.shape[2] > method.context.teacher.last_map[1]:
            maps = nn.functional.avg_pool2d(maps, 2)
        expected = teacher.head(method.projector.layers(maps).flatten(2).mean(2))
        torch.testing.assert_close(model(images).logits, expected)
    owned = {id(p) for p in method.parameters()}
    assert not owned & {id(p) for p in [*teacher.parameters(), *student.parameters()]}
    assert {id(p) for p in [*method.parameters(), *teacher.head.parameters()]} <= {id(p) for p in model.parameters()}
    assert not any(p.requires_grad for p in teacher.parameters())


def test_the_loss_is_zero_for_equal_maps_and_an_identity_projector(make_batch, make_outputs, make):
    method, batch = make("simkd", context((6, 2, 2), (6, 2, 2)), factor=1), make_batch(4)
    for layer in method.projector.layers:
        if isinstance(layer, nn.Conv2d):
            with torch.no_grad():
                layer.weight.copy_(nn.init.dirac_(torch.empty_like(layer.weight)))
    method.eval()  # batch norm with the statistics 0 and 1
    maps = randn(4, 6, 2, 2, seed=1).abs().float()
    terms = method.losses(Outputs(maps={1: maps}), Outputs(last_map=maps), batch)
    assert terms["simkd"].value.item() < 1e-8
