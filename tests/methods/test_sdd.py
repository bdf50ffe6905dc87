"""SDD: KD and DKD of regions."""

import math

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from methods.contract import Needs, Outputs
from methods.dkd import nckd, tckd
from methods.losses import kl_divergence
from methods.sdd import region_weights, regional_logits


def class_maps(n, size, seed):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(n, 5, size, size, generator=generator, dtype=torch.float64)


def naive_regions(maps, cells):
    """Average class activation maps over all regions of each sample; the cells of a grid are in row order."""
    rows = []
    for sample in maps:
        regions, size = [], sample.shape[1]
        for m in cells:
            side = size // m
            for i in range(m):
                for j in range(m):
                    patch = sample[:, i * side : (i + 1) * side, j * side : (j + 1) * side]
                    regions.append([sum(v for row in c for v in row) / side**2 for c in patch.tolist()])
        rows.append(regions)
    return rows


def naive_kd(z_s, z_t, temperature):
    e_s, e_t = ([math.exp(v / temperature) for v in z] for z in (z_s, z_t))
    p_s, p_t = ([v / sum(e) for v in e] for e in (e_s, e_t))
    return temperature**2 * sum(b * math.log(b / a) for a, b in zip(p_s, p_t, strict=True))


def naive(student, teacher, labels, cells, temperature, complementary):
    """Compute the distillation term of SD-KD, region by region."""
    terms = []
    regions = zip(naive_regions(student, cells), naive_regions(teacher, cells), labels.tolist(), strict=True)
    for regions_s, regions_t, y in regions:
        right = [z.index(max(z)) == y for z in regions_t]
        for z_s, z_t, r in zip(regions_s, regions_t, right, strict=True):
            terms.append((1 if r == right[0] else complementary) * naive_kd(z_s, z_t, temperature))
    return sum(terms) / len(terms)


def outputs(maps):
    """Build the outputs of a network with these class activation maps [N, C, H, W]."""
    return Outputs(maps.mean((2, 3)), class_maps={m: adaptive_avg_pool2d(maps, m) for m in (2, 4)})


@pytest.mark.parametrize(
    ("pools", "cells"), [((True, False), [1, 2]), ((True, True), [1, 2, 4]), ((False, True), [1, 4])]
)
@pytest.mark.parametrize("size", [4, 8])
def test_sd_kd_equals_naive_loops(make, make_batch, pools, cells, size):
    student, teacher, batch = class_maps(6, size, 1), class_maps(6, size, 2), make_batch(6)
    method = make("sdd", pool_2=pools[0], pool_4=pools[1], complementary=3.0)
    terms = method.losses(outputs(student), outputs(teacher), batch)
    assert list(terms) == ["ce", "kd"]
    expected = naive(student, teacher, batch.labels, cells, 4.0, 3.0)
    assert terms["kd"].value.item() == pytest.approx(expected, rel=1e-9)
    assert [t.weight for t in terms.values()] == [0.1, 0.9]


def test_sd_dkd_is_the_weighted_mean_of_dkd_over_the_regions(make, make_batch):
    student, teacher, batch = class_maps(5, 4, 1), class_maps(5, 4, 2), make_batch(5, epoch=20)
    student, teacher = outputs(student), outputs(teacher)
    terms = make("sdd_dkd").losses(student, teacher, batch)
    assert list(terms) == ["ce", "tckd", "nckd"]
    z_s, z_t = regional_logits(student, [2]), regional_logits(teacher, [2])
    w = region_weights(z_t, batch.labels, 2.0)
    for name, term in (("tckd", tckd), ("nckd", nckd)):
        each = [
            w[i, m] * term(z_s[[i], m], z_t[[i], m], batch.labels[[i]], 4.0) for i in range(5) for m in range(5)
        ]  # 1 + 4 regions
        torch.testing.assert_close(terms[name].value, sum(each) / 25)
    assert [t.weight for t in terms.values()] == [1.0, 1.0, 8.0]


def test_without_cells_the_terms_are_kd_and_dkd(make, make_batch):
    student, teacher, batch = outputs(class_maps(6, 4, 1)), outputs(class_maps(6, 4, 2)), make_batch(6)
    terms = make("sdd", pool_2=False).losses(student, teacher, batch)
    torch.testing.assert_close(terms["kd"].value, kl_divergence(student.logits, teacher.logits, 4.0))
    terms = make("sdd_dkd", pool_2=False).losses(student, teacher, batch)
    torch.testing.assert_close(terms["tckd"].value, tckd(student.logits, teacher.logits, batch.labels, 4.0))


def test_regions_equal_naive_loops_with_the_whole_image_first():
    maps = class_maps(3, 8, 1)
    torch.testing.assert_close(
        regional_logits(outputs(maps), [2, 4]), torch.tensor(naive_regions(maps, [1, 2, 4])).double()
    )
    torch.testing.assert_close(regional_logits(outputs(maps), [4])[:, 0], maps.mean((2, 3)))


def test_weights_by_hand():
    # the label is 0; the teacher is right on the whole of the first sample, wrong on that of the second
    right, wrong, other = [1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]
    teacher = torch.tensor([[right, right, wrong], [wrong, right, other]])
    assert region_weights(teacher, torch.tensor([0, 0]), 2.0).tolist() == [[1, 1, 2], [1, 2, 1]]


def test_gradients_equal_finite_differences(make, make_batch):
    teacher, batch = outputs(class_maps(2, 4, 2)), make_batch(2)
    for name in ("sdd", "sdd_dkd"):
        method = make(name, pool_4=True)

        def loss(maps, method=method):
            terms = method.losses(outputs(maps), teacher, batch)
            return sum(t.weight * t.value for t in terms.values())

        assert torch.autograd.gradcheck(loss, class_maps(2, 4, 1).requires_grad_())


def test_requires_the_class_activation_maps_of_both_networks(make):
    for grids, pools in (({2}, {}), ({2, 4}, {"pool_4": True}), ((), {"pool_2": False})):
        method = make("sdd", **pools)
        assert method.requires.student == method.requires.teacher == Needs(logits=True, class_maps=grids)


def test_sd_dkd_has_a_warm_up_and_sd_kd_has_none(make, make_batch, make_outputs):
    terms = {n: make(n).losses(make_outputs(4), make_outputs(4, 9), make_batch(4)) for n in ("sdd", "sdd_dkd")}
    assert terms["sdd"]["kd"].weight == 0.9
    assert terms["sdd_dkd"]["nckd"].weight == pytest.approx(8 * 12 / 20)  # epoch 1 of 20 / 12


def test_pairs_of_unlike_architectures_have_finer_regions(read_yaml):
    for name in ("sdd", "sdd_dkd"):
        pairs = read_yaml(name)["pairs"]
        assert pairs["ResNet50-vgg8"]["pool_4"] and pairs["wrn40_2-ShuffleV1"]["pool_4"]
        assert "pool_4" not in pairs.get("vgg13-vgg8", {})
    assert read_yaml("sdd_dkd")["pairs"]["vgg13-MobileNetV2"] == {"pool_4": True, "beta": 6.0}
