"""What the settings of an ablation reach, from its manifest and run folders.

`python -m benchmark ablate` writes the manifest `<runs>/ablations/<name>.json` before it trains (see
`benchmark.commands.ablate.manifest`), so that an unfinished ablation has tables too, which name the missing runs.

Settings are compared on the validation split, seed by seed. The chosen setting is the one with the highest mean there,
among those that have the most seeds finished; test accuracy is reported only for it and for the references.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.statistics import BASELINE
from benchmark.config.overrides import value_text
from benchmark.runs.folder import RunFolder
from benchmark.runs.record import UNREADABLE, RunRecord, RunStatus, number
from benchmark.statistics import Interval, mean_and_std, mean_interval
from benchmark.tables.model import NOTHING

FOLDER = "ablations"
HALF_DECADE = math.sqrt(10)
ROUNDING = 0.05  # values of a decade are rounded to two digits


# ---------------------------------------------------------------- settings and their runs


@dataclass(frozen=True)
class SettingRow:
    """A setting or a reference. val, test: top-1 in per cent at the last epoch, by seed, of the finished runs.

    options: overrides of this setting; values: all options that the grid varies, resolved; terms: loss terms in use,
    None where the grid does not vary them. missing: seed and reason of each run without a usable result.
    """

    label: str
    method: str
    options: Mapping[str, Any]
    values: Mapping[str, Any]
    terms: Sequence[str] | None
    val: Mapping[int, float]
    test: Mapping[int, float]
    missing: Sequence[str]

    @property
    def n(self) -> int:
        """Number of finished runs."""
        return len(self.val)

    @property
    def mean(self) -> float:
        """Mean validation accuracy; NaN without a finished run."""
        return mean_and_std(list(self.val.values()))[0]

    @property
    def std(self) -> float:
        """Sample standard deviation over seeds; NaN for fewer than two."""
        return mean_and_std(list(self.val.values()))[1]

    @property
    def recipe(self) -> dict[str, Any]:
        """The options outside the method that the grid varies."""
        return {k: v for k, v in self.values.items() if k.startswith("recipe.")}


@dataclass(frozen=True)
class Axis:
    """The values of an option that the grid varies. log: whether figures draw them on a logarithmic scale."""

    values: Sequence[Any]
    log: bool

    @property
    def numeric(self) -> bool:
        """Whether all values are numbers."""
        return all(number(value) is not None for value in self.values)


@dataclass(frozen=True)
class Ablation:
    """A manifest with the results of its runs. form: `axes`, `each` or `settings` (see `benchmark.commands.ablate`)."""

    name: str
    grid: str
    description: str
    dataset: str
    profile: str
    pair: str
    method: str
    title: str
    epochs: int
    validation: float
    validation_images: int
    seeds: Sequence[int]
    form: str
    axes: Mapping[str, Axis]
    default: SettingRow
    settings: Sequence[SettingRow]
    references: Sequence[SettingRow]

    @property
    def chosen(self) -> SettingRow | None:
        """The setting with the highest mean validation accuracy among those with the most seeds, the first of equals;
        None without a finished run."""
        most = max((r.n for r in self.settings), default=0)
        return max((r for r in self.settings if r.n == most), key=lambda r: r.mean) if most else None

    def reference(self, row: SettingRow, method: str = BASELINE) -> SettingRow | None:
        """Return the reference that was trained with the recipe of `row`; None without one."""
        return next((r for r in self.references if r.method == method and r.recipe == row.recipe), None)

    @property
    def has_baseline(self) -> bool:
        """Whether KD is a reference, and not the method of the ablation."""
        return self.method != BASELINE

    def varies_only(self, row: SettingRow, option: str) -> bool:
        """Return whether a setting differs from the default in no other option."""
        default = self.default.values.items()
        return row.method == self.default.method and all(row.values.get(o) == v for o, v in default if o != option)

    @property
    def missing(self) -> list[str]:
        """Label, seed and reason of all missing runs."""
        return [f"{r.label}, {m}" for r in (*self.settings, *self.references) for m in r.missing]


def load(runs: Path) -> tuple[list[Ablation], list[str]]:
    """Return all ablations of a folder of runs, and for each file that is not a manifest the reason."""
    ablations, problems = [], []
    for path in sorted((runs / FOLDER).glob("*.json")):
        try:
            ablations.append(_ablation(json.loads(path.read_bytes()), runs))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            problems.append(f"{path} is not an ablation's manifest ({type(e).__name__}: {e})")
    return ablations, problems


def _ablation(manifest: Mapping[str, Any], runs: Path) -> Ablation:
    """Check a manifest and read its runs. Raises ValueError, KeyError or TypeError for one of another form."""
    settings = [_row(entry, manifest["seeds"], runs) for entry in manifest["settings"]]
    texts = ("name", "grid", "description", "dataset", "profile", "pair", "method", "title", "form")
    numbers = ("epochs", "validation", "validation_images")
    for key in texts:
        if not isinstance(manifest[key], str):
            raise ValueError(f"{key} is no text")
    for key in numbers:
        if number(manifest[key]) is None:
            raise ValueError(f"{key} is no number")
    for row in settings:
        if not isinstance(row.label, str) or not set(manifest["axes"]) <= set(row.values):
            raise ValueError(f"the setting {row.label} has no label, or no value of an axis")
    if manifest["default"] not in {row.label for row in settings}:
        raise ValueError(f"the default {manifest['default']!r} is no setting")
    return Ablation(
        **{key: manifest[key] for key in (*texts, *numbers, "seeds")},
        axes={option: Axis(axis["values"], axis["log"]) for option, axis in manifest["axes"].items()},
        default=next(row for row in settings if row.label == manifest["default"]),
        settings=settings,
        references=[_row(entry, manifest["seeds"], runs) for entry in manifest["references"]],
    )


def _row(entry: Mapping[str, Any], seeds: Sequence[int], runs: Path) -> SettingRow:
    """Read the runs of a setting or reference of a manifest."""
    val, test, missing = {}, {}, []
    unsupported = entry["impossible"]
    if unsupported:
        missing.append(f"not supported: {unsupported}")
    if len({Path(folder).parent for folder in entry["runs"].values()}) > 1:
        raise ValueError(f"the runs of {entry['label']} have unlike configs")
    for seed in seeds if not unsupported else ():
        record, reason = _record(runs, entry["runs"][str(seed)], seed)
        if reason:
            missing.append(f"seed {seed}: {reason}")
        else:
            val[seed], test[seed] = record.val_top1_last, record.top1_last
    keys = ("label", "method", "options", "values", "terms")
    return SettingRow(**{key: entry[key] for key in keys}, val=val, test=test, missing=missing)


def _record(runs: Path, relative: str, seed: int) -> tuple[RunRecord, str]:
    """Return the record of a run, and the reason why it cannot be used; empty where it can."""
    folder = runs / relative
    if not folder.resolve().is_relative_to(runs.resolve()):
        raise ValueError(f"{relative} is not below the folder of runs")
    run = RunFolder(folder)
    record, status = run.record, run.status_record
    if status.status is None:
        return record, "not started"
    if status.status == RunStatus.RUNNING:
        return record, "running or interrupted"
    if status.status != RunStatus.DONE:
        return record, ": ".join(filter(None, (status.status, status.reason)))
    if record.problem == UNREADABLE:
        return record, UNREADABLE
    if (record.identity, record.seed) != (folder.parent.name, seed):
        return record, "its result.json belongs to another folder"
    if record.val_top1_last is None or not 0 <= record.val_top1_last <= 100:
        return record, "its result.json has no validation accuracy"
    return record, record.problem or ""


# ---------------------------------------------------------------- names and values as tables and figures write them


def short(option: str) -> str:
    """Return an option's name without the recipe's prefix."""
    return option.removeprefix("recipe.")


def text(value: Any) -> str:
    """Return an option's value as text."""
    return NOTHING if value is None else value_text(value)


def heading(ablation: Ablation) -> str:
    """Return method, pair, data set and profile."""
    teacher, _, student = ablation.pair.partition("-")
    return f"{ablation.title} on {teacher} → {student}, {ablation.dataset}, profile {ablation.profile}"


# ---------------------------------------------------------------- statistics


def paired(row: SettingRow, other: SettingRow | None) -> Interval:
    """Return the mean difference of validation accuracies, `row` minus `other`, over common seeds, in points."""
    seeds = sorted(row.val.keys() & other.val.keys()) if other else []
    return mean_interval([row.val[s] - other.val[s] for s in seeds] if other else [])


@dataclass(frozen=True)
class Sensitivity:
    """How much the validation accuracy depends on an option within a decade around its default.

        S(w) = max a(v) − min a(v),   v over the values of w with default / √10 ≤ v ≤ default · √10,

    a(v) the mean validation top-1 in per cent with w = v and every other option at its default, over the seeds that all
    of these settings have; S is in points. Being a range, it is above 0 by noise alone: compare it with `std`, the
    standard deviation over seeds of one such setting (pooled).
    """

    option: str
    default: float
    values: Sequence[float]
    points: float
    std: float
    n: int


def sensitivities(ablation: Ablation) -> list[Sensitivity]:
    """Return the sensitivity to each numeric option with at least two values in its decade, the default among them."""
    candidates = (_sensitivity(ablation, option, default) for option, default in ablation.default.values.items())
    return [sensitivity for sensitivity in candidates if sensitivity]


def _sensitivity(ablation: Ablation, option: str, default: Any) -> Sensitivity | None:
    if number(default) is None or default <= 0:
        return None
    rows = {row.values[option]: row for row in ablation.settings if row.n and ablation.varies_only(row, option)}
    near = HALF_DECADE * (1 + ROUNDING)
    values = sorted(v for v in rows if isinstance(v, int | float) and default / near <= v <= default * near)
    seeds = set.intersection(*(set(rows[v].val) for v in values)) if values else set()
    if default not in values or len(values) < 2 or not seeds:
        return None
    accuracies = np.array([[rows[v].val[seed] for seed in sorted(seeds)] for v in values])
    means = accuracies.mean(axis=1)
    std = float(np.sqrt(accuracies.var(axis=1, ddof=1).mean())) if len(seeds) > 1 else math.nan
    return Sensitivity(option, default, values, float(means.max() - means.min()), std, len(seeds))
