"""WKD-F: means and standard deviations of channels in cells, the regressor, the decay, and the sum with WKD-L."""

import math

import numpy as np
import pytest
import torch

from methods.contract import Context, Needs, Shapes
from methods.wkd_f import cell_moments, gaussian_distance
from tests.methods.conftest import randn


def context(student, teacher):
    shapes = (Shapes(((2, 8, 8), stage), stage[0]) for stage in (student, teacher))
    return Context(5, *shapes, torch.arange(40) % 5, 20)


def naive_distance(student, teacher, bounds, mean_ratio):
    """Compare samples, cells and channels one by one; bounds: first and last position of each cell per side."""
    student, teacher = student.numpy(), teacher.numpy()
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        for a, b in bounds:
            for c, d in bounds:
                for channel in range(len(s)):
                    x, y = s[channel, a:b, c:d], t[channel, a:b, c:d]
                    deviations = [math.sqrt(np.var(v, ddof=1) + 1e-5) for v in (x, y)]
                    total += mean_ratio * (x.mean() - y.mean()) ** 2 + (deviations[0] - deviations[1]) ** 2
    return total / (len(student) * len(bounds) ** 2)


@pytest.mark.parametrize(
    ("grid", "bounds"), [(1, [(0, 6)]), (2, [(0, 3), (3, 6)]), (4, [(0, 2), (1, 3), (3, 5), (4, 6)])]
)
def test_the_distance_equals_naive_loops(grid, bounds):
    student, teacher = randn(3, 2, 6, 6, seed=1), randn(3, 2, 6, 6, seed=2)
    result = gaussian_distance(student, teacher, grid, 4.0).item()
    assert result == pytest.approx(naive_distance(student, teacher, bounds, 4.0), rel=1e-9)


def test_a_value_by_hand():
    # one channel of two positions: means 1 and 0, variances 2 and 0
    student = torch.tensor([[[[0.0, 2.0]]]], dtype=torch.float64)
    deviation = (math.sqrt(2 + 1e-5) - math.sqrt(1e-5)) ** 2
    result = gaussian_distance(student, torch.zeros_like(student), 1, 3.0).item()
    assert result == pytest.approx(3 + deviation, rel=1e-12)


def test_a_single_position_has_no_variance():
    mean, deviation = cell_moments(torch.full((1, 2, 1, 1), 3.0), 1)
    assert mean.flatten().tolist() == [3, 3]
    assert deviation.flatten().tolist() == pytest.approx([math.sqrt(1e-5)] * 2)


@pytest.mark.parametrize(
    ("student", "teacher"), [((2, 4, 4), (3, 4, 4)), ((2, 2, 2), (3, 4, 4)), ((2, 4, 4), (3, 2, 2))]
)
def test_terms_compare_the_regressed_map_with_the_teachers(make, make_batch, make_outputs, student, teacher):
    method = make("wkd_f", context(student, teacher)).double()
    assert method.requires.student == Needs(logits=True, maps=[1]) and method.requires.teacher == Needs(maps=[1])
    student_outputs, teacher_outputs = make_outputs(3, 1), make_outputs(3, 2)
    student_outputs.maps[1], teacher_outputs.maps[1] = randn(3, *student, seed=3), randn(3, *teacher, seed=4)
    terms = method.losses(student_outputs, teacher_outputs, make_batch(3))
    assert list(terms) == ["ce", "moments"]
    with torch.no_grad():
        regressed = method.regressor(student_outputs.maps[1])  # in training mode: with the batch's statistics
    side = teacher[1]
    expected = naive_distance(regressed, teacher_outputs.maps[1], [(0, side)], 4.0)
    assert terms["moments"].value.item() == pytest.approx(expected, rel=1e-9)
    assert [t.weight for t in terms.values()] == [1.0, 0.08]


def test_gradients_equal_finite_differences():
    student, teacher = randn(2, 2, 3, 3, seed=1).requires_grad_(), randn(2, 2, 3, 3, seed=2)
    for grid in (1, 2):
        assert torch.autograd.gradcheck(lambda f, grid=grid: gaussian_distance(f, teacher, grid, 4.0), student)


def test_the_distance_ignores_where_in_a_cell_a_value_is():
    student, teacher = randn(2, 3, 4, 4, seed=1), randn(2, 3, 4, 4, seed=2)
    torch.testing.assert_close(
        gaussian_distance(student.flip(2, 3), teacher, 1, 4.0), gaussian_distance(student, teacher, 1, 4.0)
    )


def test_the_weight_decays_after_its_start(make, make_batch, make_outputs):
    method = make("wkd_f", decay_start=12.5).double()  # of 20 epochs
    weights = [
        method.losses(make_outputs(4), make_outputs(4, 9), make_batch(4, epoch=e))["moments"].weight
        for e in (12, 15, 20)
    ]
    assert weights == pytest.approx([0.08, 0.08 * (1 + math.cos(math.pi / 3)) / 2, 0])


def test_wkd_lf_has_the_terms_of_both_and_one_cross_entropy(make, make_batch, make_outputs):
    method, student, teacher = make("wkd_lf"), make_outputs(6, 1, torch.float32), make_outputs(6, 2, torch.float32)
    terms = method.losses(student, teacher, make_batch(6))
    assert list(terms) == ["ce", "target", "transport", "moments"]
    assert [t.weight for t in terms.values()] == [1.0, 1.0, 600.0, 0.08]
    alone = make("wkd_l").losses(student, teacher, make_batch(6))
    assert torch.equal(terms["transport"].value, alone["transport"].value)
    assert method.requires.teacher_features
