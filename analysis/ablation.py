"""`python -m analysis ablation [key=value …]`: what an ablation's settings reach, from its manifest and run folders.

Keys: runs and reports, the folders; name, dataset, profile, pair, method and grid choose among the ablations (a,b).

`python -m benchmark ablate` writes `<runs>/ablations/<name>.json` before it trains (see
`benchmark.commands.ablate.manifest`), so that an ablation which is
not finished has its tables too; they name what is missing.

Settings are compared on the validation split, seed by seed. The chosen setting is the one with the highest mean there,
among those that have the most seeds finished; the test accuracy is looked up for it and for the references alone.
"""

import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.groups import file_name
from analysis.tables.accuracy import NOTHING, csv_text, escape, fixed, grid, signed, spread
from benchmark.errors import UserError, nearest
from benchmark.runs.folder import read_json, unusable, write_text
from benchmark.statistics import MIN_SEEDS, Interval, mean_interval

FOLDER = "ablations"
BASELINE, STUDENT = "kd", "ce"
HALF_DECADE = math.sqrt(10)
ROUNDING = 0.05  # values of a decade are rounded to two digits
LISTED = 20  # missing runs named under a table
FILTERS = ("name", "dataset", "profile", "pair", "method", "grid")


# ---------------------------------------------------------------- what was measured


@dataclass(frozen=True)
class SettingRow:
    """A setting or a reference. val, test: top-1 in per cent at the last epoch, by seed, of the finished runs.

    options: what sets it apart; values: all options that the grid varies, resolved. missing: seed and reason of each
    run that is not there.
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
        return len(self.val)

    @property
    def mean(self) -> float:
        """Mean validation accuracy; NaN without a finished run."""
        return float(np.mean(list(self.val.values()))) if self.val else math.nan

    @property
    def std(self) -> float:
        """Sample standard deviation over seeds; NaN for fewer than two."""
        return float(np.std(list(self.val.values()), ddof=1)) if self.n > 1 else math.nan

    @property
    def recipe(self) -> dict[str, Any]:
        """What the grid varies outside the method."""
        return {k: v for k, v in self.values.items() if k.startswith("recipe.")}


@dataclass(frozen=True)
class Axis:
    """An option that the grid varies, in the order of its values."""

    values: Sequence[Any]
    log: bool

    @property
    def numeric(self) -> bool:
        return all(isinstance(v, int | float) and not isinstance(v, bool) for v in self.values)


@dataclass(frozen=True)
class Ablation:
    """One manifest with what its runs reached. form: axes, each or settings (see `benchmark.commands.ablate`)."""

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
        """The highest mean validation accuracy among the settings with the most seeds; the first of equals."""
        most = max((r.n for r in self.settings), default=0)
        return max((r for r in self.settings if r.n == most), key=lambda r: r.mean) if most else None

    def reference(self, row: SettingRow, method: str = BASELINE) -> SettingRow | None:
        """A reference trained with the recipe of `row`."""
        return next((r for r in self.references if r.method == method and r.recipe == row.recipe), None)

    @property
    def has_baseline(self) -> bool:
        """True where KD is something else than the default itself."""
        return self.method != BASELINE

    @property
    def missing(self) -> list[str]:
        return [f"{r.label}, {m}" for r in (*self.settings, *self.references) for m in r.missing]


def load(runs: Path) -> tuple[list[Ablation], list[str]]:
    """All ablations of a folder of runs, and what is no manifest there and why."""
    found, problems = [], []
    for path in sorted((runs / FOLDER).glob("*.json")):
        try:
            found.append(_ablation(json.loads(path.read_bytes()), runs))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            problems.append(f"{path} is not an ablation's manifest ({type(e).__name__}: {e})")
    return found, problems


def _ablation(read: Mapping[str, Any], runs: Path) -> Ablation:
    settings = [_row(r, read["seeds"], runs) for r in read["settings"]]
    text = ("name", "grid", "description", "dataset", "profile", "pair", "method", "title", "form")
    for key in text:
        if not isinstance(read[key], str):
            raise ValueError(f"{key} is no text")
    for key in ("epochs", "validation", "validation_images"):
        if isinstance(read[key], bool) or not isinstance(read[key], int | float):
            raise ValueError(f"{key} is no number")
    for row in settings:
        if not isinstance(row.label, str) or not set(read["axes"]) <= set(row.values):
            raise ValueError(f"the setting {row.label} has no label, or no value of an axis")
    if read["default"] not in {row.label for row in settings}:
        raise ValueError(f"the default {read['default']!r} is no setting")
    return Ablation(
        **{k: read[k] for k in (*text, "epochs", "validation", "validation_images", "seeds")},
        axes={k: Axis(v["values"], v["log"]) for k, v in read["axes"].items()},
        default=next(r for r in settings if r.label == read["default"]),
        settings=settings,
        references=[_row(r, read["seeds"], runs) for r in read["references"]],
    )


def _row(read: Mapping[str, Any], seeds: Sequence[int], runs: Path) -> SettingRow:
    val, test, missing = {}, {}, []
    if read["impossible"]:
        missing.append(f"impossible: {read['impossible']}")
    identities = {Path(folder).parent for folder in read["runs"].values()}
    if len(identities) > 1:
        raise ValueError(f"the runs of {read['label']} have unlike configs")
    for seed in seeds if not read["impossible"] else ():
        result, why = _result(runs, read["runs"][str(seed)], seed)
        if why:
            missing.append(f"seed {seed}: {why}")
        else:
            val[seed], test[seed] = result["val_top1_last"], result["top1_last"]
    keys = ("label", "method", "options", "values", "terms")
    return SettingRow(**{k: read[k] for k in keys}, val=val, test=test, missing=missing)


def _result(runs: Path, relative: str, seed: int) -> tuple[Mapping[str, Any], str]:
    """The result of a finished run, or why there is none."""
    folder = runs / relative
    if not folder.resolve().is_relative_to(runs.resolve()):
        raise ValueError(f"{relative} is not below the folder of runs")
    status = read_json(folder / "status.json")
    if status is None:
        return {}, "not begun"
    if status.get("status") == "running":
        return {}, "running or interrupted"
    if status.get("status") != "done":
        return {}, ": ".join(str(status[k]) for k in ("status", "reason") if status.get(k))
    result = read_json(folder / "result.json")
    wrong = unusable(result)
    if result is None:
        return {}, wrong
    if (result.get("identity"), result.get("seed")) != (folder.parent.name, seed):
        return {}, "its result.json belongs to another folder"
    val = result.get("val_top1_last")
    if isinstance(val, bool) or not isinstance(val, int | float) or not 0 <= val <= 100:
        return {}, "its result.json has no validation accuracy"
    return result, wrong or ""


# ---------------------------------------------------------------- statistics


def paired(row: SettingRow, other: SettingRow | None) -> Interval:
    """Mean difference of validation accuracies, `row` minus `other`, over the seeds that both have, in points."""
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
    """Of each numeric option that has at least two values in its decade, the default among them."""
    found = []
    base = ablation.default
    for option, centre in base.values.items():
        if isinstance(centre, bool) or not isinstance(centre, int | float) or centre <= 0:
            continue
        rows = {
            r.values[option]: r
            for r in ablation.settings
            if r.method == base.method and r.n and _others(r, option) == _others(base, option)
        }
        near = HALF_DECADE * (1 + ROUNDING)
        values = sorted(v for v in rows if isinstance(v, int | float) and centre / near <= v <= centre * near)
        seeds = set.intersection(*(set(rows[v].val) for v in values)) if values else set()
        if centre not in values or len(values) < 2 or not seeds:
            continue
        table = np.array([[rows[v].val[s] for s in sorted(seeds)] for v in values])
        means = table.mean(axis=1)
        std = float(np.sqrt(table.var(axis=1, ddof=1).mean())) if len(seeds) > 1 else math.nan
        found.append(Sensitivity(option, centre, values, float(means.max() - means.min()), std, len(seeds)))
    return found


def _others(row: SettingRow, option: str) -> dict[str, Any]:
    return {k: v for k, v in row.values.items() if k != option}


# ---------------------------------------------------------------- tables


def short(option: str) -> str:
    """An option's name without the recipe's prefix."""
    return option.removeprefix("recipe.")


def text(value: Any) -> str:
    """A value as tables and figures write it."""
    if value is None or isinstance(value, bool):
        return {None: NOTHING, True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def heading(ablation: Ablation) -> str:
    teacher, _, student = ablation.pair.partition("-")
    return f"{ablation.title} on {teacher} → {student}, {ablation.dataset}, profile {ablation.profile}"


def _terms(ablation: Ablation) -> list[str]:
    return list(dict.fromkeys(t for r in ablation.settings for t in r.terms or ()))


def table_header(ablation: Ablation) -> list[str]:
    if ablation.form == "axes":
        what = [short(o) for o in ablation.axes]
    else:
        what = _terms(ablation) or ["setting"]
        what += ["options"] if ablation.form == "settings" else []
    return what


def _what(ablation: Ablation, row: SettingRow) -> list[str]:
    """The cells that say what a setting is."""
    mark = " (default)" if row is ablation.default else ""
    if ablation.form == "axes":
        cells = [text(row.values[o]) for o in ablation.axes]
        return [*cells[:-1], cells[-1] + mark]
    terms = _terms(ablation)
    if terms and row.terms is not None:
        cells = ["✓" if t in row.terms else NOTHING for t in terms]
    else:
        cells = [row.label + mark * (row.label != "default"), *[""] * (len(terms) - 1)]
        mark = ""
    if ablation.form == "settings":
        says = [row.method] if row.method != ablation.method else []
        says += [f"{short(o)}={text(v)}" for o, v in row.options.items()]
        cells.append((", ".join(says) or NOTHING) + mark)
    return cells


def _numbers(ablation: Ablation, row: SettingRow, *, setting: bool) -> list[str]:
    value = NOTHING if not row.n else f"{fixed(row.mean)} {spread(row.std, row.n)}"
    cells = [value]
    cells += [_difference(paired(row, ablation.default)) if setting and row is not ablation.default else NOTHING]
    if ablation.has_baseline:
        cells += [_difference(paired(row, ablation.reference(row))) if setting else NOTHING]
    shown = row.test and (not setting or row is ablation.chosen)
    test = list(row.test.values())
    std = float(np.std(test, ddof=1)) if len(test) > 1 else math.nan
    return [*cells, f"{fixed(float(np.mean(test)))} {spread(std, len(test))}" if shown else NOTHING]


def _difference(found: Interval) -> str:
    if math.isnan(found.low):
        return signed(found.mean)
    return f"{signed(found.mean)} [{signed(found.low)}, {signed(found.high)}]"


def table_columns(ablation: Ablation) -> list[str]:
    kd = ["Δ KD"] if ablation.has_baseline else []
    return [*table_header(ablation), "val top-1", "Δ default", *kd, "test top-1"]


def table_rows(ablation: Ablation) -> Iterator[tuple[SettingRow, list[str]]]:
    """The references, then the settings, with their cells."""
    blank = len(table_header(ablation)) - 1
    for row in ablation.references:
        yield row, [row.label, *[""] * blank, *_numbers(ablation, row, setting=False)]
    for row in ablation.settings:
        yield row, [*_what(ablation, row), *_numbers(ablation, row, setting=True)]


def notes(ablation: Ablation) -> list[str]:
    """What a reader must know beside the numbers."""
    said = [
        "Top-1 accuracy in per cent at the last epoch: mean ± sample standard deviation (number of seeds), on the "
        "validation split "
        f"({100 * ablation.validation:g} % of the training images, {ablation.validation_images:,}) and "
        "on the test set. The setting in bold has the highest mean validation accuracy"
        + (" among those with the most seeds finished" if len({r.n for r in ablation.settings}) > 1 else "")
        + "; the test accuracy was looked up for it and for the references alone. Δ: mean paired difference of the "
        "validation accuracies over common seeds in points, with its 95 % confidence interval (paired t), not "
        "corrected for the number of settings.",
        f"{ablation.epochs} epochs; seeds {', '.join(map(str, ablation.seeds))}.",
    ]
    if max((r.n for r in ablation.settings), default=0) < MIN_SEEDS:
        said.append(f"Fewer than {MIN_SEEDS} seeds: there are no intervals.")
    if ablation.default.recipe:
        said.append("Δ KD is taken to KD trained with the same recipe. All settings have the same teacher.")
    return said


SENSITIVITY = (
    "Sensitivity: highest minus lowest mean validation accuracy over an option's values from default ÷ √10 to "
    "default × √10, all else at the defaults, in points. Noise alone keeps it above 0: compare it with the standard "
    "deviation over seeds of one setting."
)


def _sensitivity_rows(found: Iterable[Sensitivity]) -> list[list[str]]:
    return [
        [short(s.option), text(s.default), ", ".join(map(text, s.values)), fixed(s.points), fixed(s.std), str(s.n)]
        for s in found
    ]


SENSITIVITY_HEADER = ("option", "default", "values", "sensitivity", "std over seeds", "seeds")


def markdown(ablation: Ablation) -> str:
    """The component table with all that belongs to it."""
    rows = []
    for row, cells in table_rows(ablation):
        if row is ablation.chosen:
            cells = [f"**{c}**" if c and c != NOTHING else c for c in cells]
        rows.append(cells)
    parts = [f"## {heading(ablation)}: {ablation.description}", *notes(ablation)]
    parts.append(grid(table_columns(ablation), rows, left=len(table_header(ablation))))
    if found := sensitivities(ablation):
        parts += [SENSITIVITY, grid(SENSITIVITY_HEADER, _sensitivity_rows(found), left=1)]
    if missing := ablation.missing:
        lines = [f"- {m}" for m in missing[:LISTED]]
        lines += [f"- and {len(missing) - LISTED} more"] if len(missing) > LISTED else []
        parts.append(f"Missing, {len(missing)}:\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def latex(ablation: Ablation) -> str:
    """The component table as a LaTeX table environment; needs booktabs, and amssymb for the marks of terms."""

    def line(cells: Iterable[str], bold: bool = False) -> str:
        shown = [_latex(c) for c in cells]
        return " & ".join(rf"\textbf{{{c}}}" if bold and c else c for c in shown) + r" \\"

    left = len(table_header(ablation))
    lines = ["% needs \\usepackage{booktabs} and \\usepackage{amssymb}", r"\begin{table}[t]", r"\centering"]
    lines += [r"\footnotesize", r"\setlength{\tabcolsep}{4pt}"]
    caption = " ".join([f"{heading(ablation)}: {ablation.description}.", *notes(ablation)])
    lines += [rf"\caption{{{_latex(caption)}}}", rf"\label{{tab:{ablation.name.replace('_', '-')}}}"]
    lines += [rf"\begin{{tabular}}{{{'l' * left}{'r' * (len(table_columns(ablation)) - left)}}}", r"\toprule"]
    lines += [line(table_columns(ablation)), r"\midrule"]
    for i, (row, cells) in enumerate(table_rows(ablation)):
        lines += [r"\midrule"] if i == len(ablation.references) and i else []
        lines.append(line(cells, bold=row is ablation.chosen))
    lines += [r"\bottomrule", r"\end{tabular}"]
    if found := sensitivities(ablation):
        lines += [r"\par\medskip", r"\begin{tabular}{llrrrr}", r"\toprule", line(SENSITIVITY_HEADER), r"\midrule"]
        lines += [line(r) for r in _sensitivity_rows(found)]
        lines += [r"\bottomrule", r"\end{tabular}", rf"\par\smallskip{{\scriptsize {_latex(SENSITIVITY)}}}"]
    if ablation.missing:
        lines.append(rf"\par\smallskip{{\scriptsize Missing runs: {len(ablation.missing)}.}}")
    return "\n".join([*lines, r"\end{table}", ""])


def _latex(cell: str) -> str:
    return escape(cell).replace("✓", r"$\checkmark$").replace("÷", r"$\div$")


def long_csv(ablation: Ablation) -> str:
    """One line a setting and reference, unrounded to four digits."""
    varied = list(ablation.default.values)
    rows = []
    for row in (*ablation.references, *ablation.settings):
        setting = row not in ablation.references
        own = mean_interval(list(row.val.values()))
        to_default = paired(row, ablation.default) if setting and row is not ablation.default else Interval(math.nan)
        to_kd = paired(row, ablation.reference(row)) if setting and ablation.has_baseline else Interval(math.nan)
        shown = not setting or row is ablation.chosen
        test = list(row.test.values()) if shown else []
        rows.append(
            {"ablation": ablation.name, "role": "setting" if setting else "reference", "label": row.label}
            | {"method": row.method, "options": json.dumps(dict(row.options))}
            | {short(o): "" if row.values[o] is None else text(row.values[o]) for o in varied}
            | {"default": int(row is ablation.default), "chosen": int(row is ablation.chosen)}
            | {"n": row.n, "seeds": " ".join(map(str, row.val))}
            | {"val_mean": own.mean, "val_std": row.std, "val_low": own.low, "val_high": own.high}
            | {"delta_default": to_default.mean, "delta_default_low": to_default.low}
            | {"delta_default_high": to_default.high, "delta_kd": to_kd.mean, "delta_kd_low": to_kd.low}
            | {"delta_kd_high": to_kd.high, "test_mean": float(np.mean(test)) if test else math.nan}
            | {"test_std": float(np.std(test, ddof=1)) if len(test) > 1 else math.nan}
        )
    return csv_text(list(rows[0]), rows)


def sensitivity_csv(ablation: Ablation) -> str:
    """One line an option; see `Sensitivity`."""
    rows = [
        {"ablation": ablation.name, "option": s.option, "default": text(s.default)}
        | {"values": " ".join(map(text, s.values)), "sensitivity": s.points, "std": s.std, "n": s.n}
        for s in sensitivities(ablation)
    ]
    return csv_text(["ablation", "option", "default", "values", "sensitivity", "std", "n"], rows)


def write(ablation: Ablation, reports: Path) -> list[Path]:
    """Write the tables and figures of an ablation to `<reports>/ablations`; returns their paths."""
    from analysis.figures import ablation as ablation_plots

    folder, stem = reports / FOLDER, file_name(ablation.name)
    texts = {
        f"{stem}.md": markdown(ablation),
        f"{stem}.tex": latex(ablation),
        f"{stem}.csv": long_csv(ablation),
    }
    if sensitivities(ablation):
        texts[f"{stem}-sensitivity.csv"] = sensitivity_csv(ablation)
    for name, content in texts.items():
        write_text(folder / name, content)
    return [*(folder / n for n in texts), *ablation_plots.write(ablation, folder)]


# ---------------------------------------------------------------- the command


def main(arguments: Sequence[str]) -> list[Path]:
    """Make the tables and figures of the ablations asked for, print the tables; returns the files."""
    given = {"runs": "runs", "reports": "reports"}
    known = (*given, *FILTERS)
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise UserError(f"ablation stands alone: {argument!r} is a command of its own")
        if key not in known:
            raise UserError(f"unknown key {key!r}{nearest(key, known)}")
        given[key] = value
    root = Path(given.pop("runs"))
    reports = Path(given.pop("reports"))
    found, problems = load(root)
    for problem in problems:
        print(problem, file=sys.stderr)
    if not found:
        raise UserError(f"no ablations in {root / FOLDER}: make one with `make ablate METHOD=clkd`")
    for key, value in given.items():
        names = [n.strip() for n in re.sub(r"^\[(.*)\]$", r"\1", value.strip()).split(",")]
        there = {getattr(a, key) for a in found}
        for name in names:
            if name not in there:
                raise UserError(f"no ablation in {root / FOLDER} has {key} {name!r}{nearest(name, there)}")
        found = [a for a in found if getattr(a, key) in names]
    written = []
    for i, ablation in enumerate(found):
        print(("\n" if i else "") + markdown(ablation), end="")
        written += write(ablation, reports)
    return written
