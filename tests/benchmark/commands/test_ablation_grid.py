"""Grids of an ablation: values of an axis, settings of the grids in conf/ablation, invalid files."""

import dataclasses
import functools
import itertools
import json
import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.commands.ablation_grid import MAX_VALUES, axis_values, expand_grid, load_grid
from benchmark.config import files
from benchmark.config.compose import load_config, load_method
from benchmark.errors import UserError
from methods.clkd import CLKD
from methods.contract import Batch, Context, Outputs, Shapes

SETTINGS = {  # settings of each grid in conf/ablation
    "clkd_weights": 1 + 4 * 4, "clkd_components": 8, "clkd_components_letter": 8, "clkd_readings": 7, "clkd_nmse": 2,
    "clkd_batch": 5, "clkd_screen": 26, "kd_screen": 26,
    "dkd": 3 * 5, "kd": 4 * 4, "crd": 1 + 4 + 4 + 2 + 2, "fitnet": 1 + 4 + 2,
}  # fmt: skip


@functools.cache
def defaults(method: str) -> dict[str, Any]:
    """All options of a method on CIFAR-100, for which the grids are made, and of the recipe, by the names in grids."""
    recipe = {f"recipe.{k}": v for k, v in dataclasses.asdict(load_config([]).recipe).items()}
    return dataclasses.asdict(load_method(method, "", ["dataset=cifar100"]).options) | recipe


@pytest.mark.parametrize(
    ("sweep", "default", "expected"),
    [
        ([0.1, 0.2], 0.4, [0.1, 0.2]),
        (["vector", "mean"], "vector", ["vector", "mean"]),
        ({"range": [0.1, 0.5, 0.1]}, 0.4, [0.1, 0.2, 0.3, 0.4, 0.5]),  # the end is included
        ({"range": [4, 1, -2]}, 4, [4, 2]),
        ({"log": [16, 256, 5]}, 64, [16, 32, 64, 128, 256]),
        ({"log": [0.001, 1, 4]}, 0.4, [0.001, 0.01, 0.1, 1]),
        ({"decade": 3}, 0.4, [0.13, 0.4, 1.3]),  # 0.4 / √10 = 0.1265, 0.4 · √10 = 1.265
        ({"decade": 5}, 1.0, [0.32, 0.56, 1.0, 1.8, 3.2]),
        ({"log": [1024, 16384, 3]}, 16384, [1024, 4096, 16384]),
        ({"decade": 3}, 16384, [5200, 16384, 52000]),
    ],
)
def test_values_of_an_axis(sweep, default, expected):
    values = axis_values("w", sweep, default)
    assert values == pytest.approx(expected) if isinstance(expected[0], float) else values == expected
    assert not isinstance(default, int) or all(isinstance(v, int) for v in values)


@given(st.floats(1e-6, 1e6), st.sampled_from([3, 5, 7, 9]))
def test_a_decade_is_symmetric_around_the_default(default, n):
    values = axis_values("w", {"decade": n}, default)
    assert len(values) == n and values[n // 2] == default and values == sorted(values)
    assert math.log10(values[-1] / values[0]) == pytest.approx(1, abs=0.05)


@given(st.floats(-10, 10), st.floats(0, 20), st.floats(0.05, 5))
def test_a_range_has_even_steps_up_to_its_end(first, width, step):
    values = axis_values("w", {"range": [first, first + width, step]}, 0.5)
    assert len(values) <= MAX_VALUES and values[0] == pytest.approx(first)
    assert all(b - a == pytest.approx(step, abs=1e-6) for a, b in itertools.pairwise(values))
    assert first + width - step - 1e-6 <= values[-1] <= first + width + 1e-6


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"log": [0, 1, 3]}, "a log scale needs ends above 0"),
        ({"range": [0, 1]}, "w cannot be range: [0, 1]"),
        ({"decade": 4}, "an odd number of values"),
        ({"range": [1, 1e9, 0.001]}, "these are more than 1,000 values"),
        ({"range": [0.1, 1, 0]}, "its step does not lead from the first to the last"),
        ({"log": [1, 2, 1000000000]}, "2 to 1,000 values"),
        ({"decade": 1000001}, "3 to 1,000"),
        ([0.1, 0.1], "w names a value twice"),
        ([], "w has no values"),
    ],
)
def test_invalid_values_of_an_axis(sweep, message):
    with pytest.raises(UserError, match=re.escape(message)):
        axis_values("w", sweep, 0.4)


@pytest.mark.parametrize("name", files.group_names("ablation"))
def test_grids_have_distinct_settings_of_existing_options(name):
    grid = load_grid(name)
    base = defaults(grid.method)
    settings, _ = expand_grid(grid, base)
    resolved = {json.dumps([s.method, base | dict(s.options)], sort_keys=True) for s in settings}
    assert len(settings) == len(resolved) == SETTINGS[name]
    assert all(option in base for s in settings for option in s.options)


def test_clkd_weights_span_a_decade_and_contain_the_default_once():
    base = defaults("clkd")
    settings, axes = expand_grid(load_grid("clkd_weights"), base)
    assert list(axes) == ["lambda_ce", "mu", "beta", "nu"]
    assert [s.label for s in settings if not s.options] == ["default"]
    for option, values in axes.items():
        assert values[2] == base[option] and len(values) == 5
        assert max(values) / min(values) == pytest.approx(10, rel=0.03)


@pytest.mark.parametrize("dataset", ["digits", "cifar10", "cifar100"])
@pytest.mark.parametrize(("name", "changes"), [("clkd_components", {"lambda_ce": 1.0}), ("clkd_components_letter", {})])
def test_components_have_their_default_weight_or_none(dataset, name, changes):
    """The gradient of a setting's loss is that of the cross-entropy and the active terms, at their defaults."""
    grid = load_grid(name)
    base = dataclasses.replace(load_method(grid.method, "", [f"dataset={dataset}"]).options, **changes)
    settings, _ = expand_grid(grid, {})
    assert sorted(sorted(s.terms or []) for s in settings) == sorted(
        sorted(t for i, t in enumerate(("instance", "class", "correlation")) if n >> i & 1) for n in range(8)
    )
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(16, 7, generator=generator) for _ in range(2))
    labels = torch.arange(16) % 7
    shapes = Shapes(((1, 1, 1),), 1)
    batch = Batch([torch.empty(16, 3, 1, 1)], labels, labels, 1, generator)

    def gradient(options, terms=None) -> torch.Tensor:
        logits = student.clone().requires_grad_()
        losses = CLKD(options, Context(7, shapes, shapes, labels, 1)).losses(Outputs(logits), Outputs(teacher), batch)
        total = sum(t.value * t.weight for n, t in losses.items() if terms is None or n in ("ce", *terms))
        return torch.autograd.grad(total, logits)[0]

    for setting in settings:
        actual = gradient(dataclasses.replace(base, **setting.options))
        torch.testing.assert_close(actual, gradient(base, setting.terms), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: kd\ndescription: x\n", "needs one of axes, each and settings, not none"),
        ("method: kd\ndescription: x\naxis: {temperature: [1, 2]}\n", "is not a grid: Key 'axis' not in"),
        ("description: x\naxes: {temperature: [1]}\n", "is not a grid"),
        ("method: [\n", "is not a grid"),
    ],
)
def test_an_invalid_grid_file_is_named(tmp_path, monkeypatch, text, message):
    (tmp_path / "ablation").mkdir()
    monkeypatch.setattr(files, "CONF", tmp_path)
    (tmp_path / "ablation" / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        load_grid("mine")
