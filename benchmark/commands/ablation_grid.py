"""Grids of an ablation: files of `conf/ablation/` or options of the command line, expanded to settings.

A grid has one of three forms:

    axes      option -> values; every combination is a setting
    each      option -> values; one option at a time, the others at their defaults
    settings  a list of named settings: options, or another preset of the method (method: clkd_a1), or both

An option is one of the method's (nu) or a key of the recipe (recipe.batch_size). Values are a list, or

    {range: [a, b, step]}  range:a:b:step   a, a + step, … up to and including b
    {log: [a, b, n]}       log:a:b:n        n values, evenly spaced on a log scale
    {decade: n}            decade:n         n values, likewise, from default ÷ √10 to default × √10; n is odd

with the second column on the command line, where a list is a,b,c.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmark.config import files
from benchmark.config.overrides import Sweep, value_text
from benchmark.errors import UserError, nearest
from methods.options import is_number

MAX_VALUES = 1_000  # of an axis, and settings of a grid
LOG_SCALE_RATIO = 10.0  # an axis is drawn on a log scale from this ratio of its largest to its smallest value
RECIPE = "recipe."  # prefix of the options that are not the method's


@dataclass
class SettingFile:
    """A setting as a grid's file has it."""

    label: str | None = None  # null: the terms, or the options
    method: str | None = None  # another preset of the method
    options: dict[str, Any] = field(default_factory=dict)
    terms: list[str] | None = None  # active terms of the loss, for a table with a column per term


@dataclass
class GridFile:
    """The content of a file of `conf/ablation/`."""

    method: str = "???"
    description: str = "???"
    axes: dict[str, Any] = field(default_factory=dict)
    each: dict[str, Any] = field(default_factory=dict)
    settings: list[SettingFile] = field(default_factory=list)


@dataclass(frozen=True)
class Grid:
    """A grid before the defaults of a pair are known. form: axes, each or settings."""

    name: str
    method: str
    description: str
    form: str
    axes: Mapping[str, Sweep]
    settings: Sequence[SettingFile]

    @property
    def methods(self) -> list[str]:
        """The method and its presets that the settings name."""
        return list(dict.fromkeys([self.method, *(s.method for s in self.settings if s.method)]))

    def is_log(self, option: str, values: Sequence[Any]) -> bool:
        """Return whether an axis is drawn on a log scale."""
        if isinstance(spec := self.axes[option], dict):
            return "range" not in spec
        if any(not is_number(v) or v <= 0 for v in values):
            return False
        return max(values) >= LOG_SCALE_RATIO * min(values)


@dataclass(frozen=True)
class Setting:
    """One row of an ablation. options: those of the method by name, those of the recipe as `recipe.<key>`."""

    label: str
    method: str
    options: Mapping[str, Any]
    terms: Sequence[str] | None = None

    @property
    def recipe_options(self) -> dict[str, Any]:
        """The options of the recipe."""
        return {k: v for k, v in self.options.items() if k.startswith(RECIPE)}

    @property
    def method_options(self) -> dict[str, Any]:
        """The options of the method."""
        return {k: v for k, v in self.options.items() if not k.startswith(RECIPE)}


def load_grid(name: str) -> Grid:
    """Return a grid of `conf/ablation/`. Raises UserError for an unknown name or an invalid file."""
    names = files.group_names("ablation")
    if name not in names:
        raise UserError(f"unknown grid {name!r}{nearest(name, names)}")
    path = files.CONF / "ablation" / f"{name}.yaml"
    try:
        content = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(GridFile), OmegaConf.load(path)))
    except (OmegaConfBaseException, yaml.YAMLError, OSError) as e:
        raise UserError(f"{path} is not a grid: {str(e).splitlines()[0]}") from e
    return grid_from_file(name, cast(GridFile, content))


def grid_from_file(name: str, content: GridFile) -> Grid:
    """Return a grid from the content of its file."""
    forms = [f for f in ("axes", "each", "settings") if getattr(content, f)]
    if len(forms) != 1:
        raise UserError(f"the grid {name} needs one of axes, each and settings, not {' and '.join(forms) or 'none'}")
    return Grid(name, content.method, content.description, forms[0], content.axes or content.each, content.settings)


def grid_from_options(method: str, axes: Mapping[str, Sweep]) -> Grid:
    """Return the grid of the options that a command line sweeps over."""
    options = {key.removeprefix(f"{method}."): values for key, values in axes.items()}
    name = "-".join([method, *(o.removeprefix(RECIPE) for o in options)])
    return Grid(name, method, " × ".join(axes), "axes", options, [])


def expand_grid(grid: Grid, defaults: Mapping[str, Any]) -> tuple[list[Setting], dict[str, list[Any]]]:
    """Return a grid's settings, and the values of its axes. defaults: of the options that are axes.

    Raises UserError for values that cannot be, too many settings, or a label that occurs twice.
    """
    axes = {option: axis_values(option, sweep, defaults[option]) for option, sweep in grid.axes.items()}
    if grid.form == "axes":
        if (n := math.prod(map(len, axes.values()))) > MAX_VALUES:
            raise UserError(f"the grid {grid.name} has {n:,} settings, more than {MAX_VALUES:,}: give fewer values")
        points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
        settings = [Setting(options_label(point), grid.method, point) for point in points]
    elif grid.form == "each":
        points = [{o: v} for o, values in axes.items() for v in values if v != defaults[o]]
        settings = [Setting("default", grid.method, {})]
        settings += [Setting(options_label(point), grid.method, point) for point in points]
    else:
        settings = [_setting_from_file(grid.method, s) for s in grid.settings]
    labels = [s.label for s in settings]
    if repeated := {label for label in labels if labels.count(label) > 1}:
        raise UserError(f"the grid {grid.name} has two settings labelled {', '.join(sorted(repeated))}")
    return settings, axes


def _setting_from_file(method: str, content: SettingFile) -> Setting:
    terms = None if content.terms is None else " + ".join(content.terms) or "none"
    label = content.label or terms or options_label(content.options) or content.method or "default"
    return Setting(label, content.method or method, content.options, content.terms)


def axis_values(option: str, sweep: Sweep, default: Any) -> list[Any]:
    """Return the values of an axis; numbers are whole where the default is. Raises UserError where there are none."""
    integral = isinstance(default, int) and not isinstance(default, bool)
    if isinstance(sweep, list):
        values = sweep
    else:
        try:
            ((scale, numbers),) = sweep.items()
            numbers = [numbers] if isinstance(numbers, int) else list(numbers)
            values: list[Any] = _scale_values(scale, numbers, default, integral)
        except (AttributeError, TypeError, ValueError) as e:
            reason = f" ({e})" if isinstance(e, ValueError) else ""
            raise UserError(
                f"{option} cannot be {_sweep_text(sweep)}{reason}: give a list, range: [a, b, step], "
                "log: [a, b, n], or decade: n, on the command line as a,b,c, range:a:b:step, log:a:b:n or decade:n"
            ) from e
        values = list(dict.fromkeys(round(v) if integral else v for v in values))
    if not values:
        raise UserError(f"{option} has no values: give at least one")
    if len({repr(v) for v in values}) < len(values):
        raise UserError(f"{option} names a value twice: {', '.join(map(value_text, values))}")
    return values


def _scale_values(scale: str, numbers: Sequence[float], default: Any, integral: bool) -> list[float]:
    """Return the values of a range, a log scale or a decade. Raises ValueError with the reason why there are none."""
    if scale == "range":
        first, last, step = numbers
        if not step or (last - first) / step < 0:
            raise ValueError("its step does not lead from the first to the last")
        if (last - first) / step >= MAX_VALUES:
            raise ValueError(f"these are more than {MAX_VALUES:,} values")
        return [float(f"{first + i * step:.10g}") for i in range(math.floor((last - first) / step + 1e-9) + 1)]
    if scale == "log":
        first, last, n = numbers
        if min(first, last) <= 0 or n != int(n) or not 2 <= n <= MAX_VALUES:
            raise ValueError(f"a log scale needs ends above 0 and 2 to {MAX_VALUES:,} values")
        inner = (first * (last / first) ** (i / (n - 1)) for i in range(1, int(n) - 1))
        return [first, *(v if integral else float(f"{v:.3g}") for v in inner), last]
    if scale == "decade":
        (n,) = numbers
        if not is_number(default) or default <= 0:
            raise ValueError(f"its default is {value_text(default)}, and a decade needs one above 0")
        if n != int(n) or not 3 <= n <= MAX_VALUES or n % 2 == 0:
            raise ValueError(f"a decade has an odd number of values, 3 to {MAX_VALUES:,}")
        factors = ((i, 10 ** (i / (n - 1))) for i in range(-(int(n) // 2), int(n) // 2 + 1))
        return [float(f"{default * f:.2g}") if i else default for i, f in factors]
    raise ValueError(f"unknown kind {scale!r}")


def _sweep_text(sweep: Any) -> str:
    return ", ".join(f"{k}: {v}" for k, v in sweep.items()) if isinstance(sweep, dict) else str(sweep)


def options_label(options: Mapping[str, Any]) -> str:
    """Return options as the label of a setting, such as `nu=0.1, batch_size=32`."""
    return ", ".join(f"{k.removeprefix(RECIPE)}={value_text(v)}" for k, v in options.items())
