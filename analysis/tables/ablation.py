"""Tables of an ablation: its settings with the references, and the sensitivity to each option."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.ablation import FOLDER, Ablation, SettingRow, heading, paired, sensitivities, short, text
from analysis.tables import csv, latex
from analysis.tables.files import write_texts
from benchmark.runs.folder import file_name
from benchmark.statistics import MIN_SEEDS, Interval, few_images_note, mean_and_std, mean_interval
from benchmark.tables import cells, markdown
from benchmark.tables.model import BEST, EMPTY, NOTHING, TEXT, Cell, Column, Line, Listing, Table

BLANK = Cell("")
SENSITIVITY = (
    "Sensitivity: highest minus lowest mean validation accuracy over an option's values from default ÷ √10 to "
    "default × √10, all else at the defaults, in points. Noise alone keeps it above 0: compare it with the standard "
    "deviation over seeds of one setting."
)
SENSITIVITY_COLUMNS = ("ablation", "option", "default", "values", "sensitivity", "std", "n")


def tables(ablation: Ablation) -> list[Table]:
    """Return the table of settings, and that of sensitivities where there are any."""
    return [table(ablation), *([sensitivity] if (sensitivity := sensitivity_table(ablation)) else [])]


def table(ablation: Ablation) -> Table:
    """Return the references and the settings with their validation accuracies; the chosen setting is marked."""
    kd = ["Δ KD"] if ablation.has_baseline else []
    columns = [Column(title, TEXT) for title in _setting_titles(ablation)]
    columns += map(Column, ["val top-1", "Δ default", *kd, "test top-1"])
    blank = [BLANK] * (len(_setting_titles(ablation)) - 1)
    references = [
        Line([Cell(row.label), *blank, *_numbers(ablation, row, setting=False)]) for row in ablation.references
    ]
    settings = []
    for row in ablation.settings:
        line = [*_setting(ablation, row), *_numbers(ablation, row, setting=True)]
        settings.append(Line([_marked(cell) for cell in line] if row is ablation.chosen else line))
    missing = [Listing(f"Missing, {len(ablation.missing)}", ablation.missing)] if ablation.missing else []
    blocks = [block for block in (references, settings) if block]
    return Table(
        f"{ablation.title}: {ablation.description}", columns, blocks, intro=_explanation(ablation), lists=missing
    )


def title(ablation: Ablation) -> str:
    """Return the heading above an ablation's tables."""
    return f"{heading(ablation)}: {ablation.description}"


def _explanation(ablation: Ablation) -> list[str]:
    several = " among those with the most seeds finished" if len({r.n for r in ablation.settings}) > 1 else ""
    paragraphs = [
        "Top-1 accuracy in per cent at the last epoch: mean ± sample standard deviation (number of seeds), on the "
        f"validation split ({100 * ablation.validation:g} % of the training images, {ablation.validation_images:,}) "
        f"and on the test set. The setting in bold has the highest mean validation accuracy{several}; test accuracy is "
        "reported only for it and for the references. Δ: mean paired difference of the validation accuracies over "
        "common seeds in points, with its 95 % confidence interval (paired t), not corrected for the number of "
        "settings.",
        f"{ablation.epochs} epochs; seeds {', '.join(map(str, ablation.seeds))}.",
    ]
    if note := few_images_note(ablation.validation_images):
        paragraphs.append(note)
    if max((row.n for row in ablation.settings), default=0) < MIN_SEEDS:
        paragraphs.append(f"Fewer than {MIN_SEEDS} seeds: there are no intervals.")
    if ablation.default.recipe:
        paragraphs.append("Δ KD is taken to KD trained with the same recipe. All settings have the same teacher.")
    return paragraphs


def _terms(ablation: Ablation) -> list[str]:
    return list(dict.fromkeys(term for row in ablation.settings for term in row.terms or ()))


def _setting_titles(ablation: Ablation) -> list[str]:
    """Titles of the columns that describe a setting."""
    if ablation.form == "axes":
        return [short(option) for option in ablation.axes]
    return (_terms(ablation) or ["setting"]) + (["options"] if ablation.form == "settings" else [])


def _setting(ablation: Ablation, row: SettingRow) -> list[Cell]:
    """The cells that describe a setting; the last one says which is the default."""
    default = " (default)" if row is ablation.default else ""
    if ablation.form == "axes":
        values = [text(row.values[option]) for option in ablation.axes]
        return list(map(Cell, [*values[:-1], values[-1] + default]))
    terms = _terms(ablation)
    if terms and row.terms is not None:
        described = ["✓" if term in row.terms else NOTHING for term in terms]
    else:
        described = [row.label + default * (row.label != "default"), *[""] * (len(terms) - 1)]
        default = ""
    if ablation.form == "settings":
        options = [row.method] if row.method != ablation.method else []
        options += [f"{short(option)}={text(value)}" for option, value in row.options.items()]
        described.append((", ".join(options) or NOTHING) + default)
    return list(map(Cell, described))


def _numbers(ablation: Ablation, row: SettingRow, *, setting: bool) -> list[Cell]:
    """Validation accuracy, differences to the default and to KD, and test accuracy where it is reported."""
    to_default, to_kd = _differences(ablation, row, setting=setting)
    numbers = [cells.mean(row.mean, row.std, row.n), cells.difference(to_default.mean, to_default.low, to_default.high)]
    numbers += [cells.difference(to_kd.mean, to_kd.low, to_kd.high)] if ablation.has_baseline else []
    test = _test_accuracies(ablation, row, setting=setting)
    return [*numbers, cells.mean(*mean_and_std(test), len(test)) if test else EMPTY]


def _differences(ablation: Ablation, row: SettingRow, *, setting: bool) -> tuple[Interval, Interval]:
    """Paired differences of a setting to the default and to KD with the same recipe."""
    nothing = Interval(math.nan)
    to_default = paired(row, ablation.default) if setting and row is not ablation.default else nothing
    return to_default, paired(row, ablation.reference(row)) if setting and ablation.has_baseline else nothing


def _test_accuracies(ablation: Ablation, row: SettingRow, *, setting: bool) -> list[float]:
    """Test accuracies over seeds of the references and of the chosen setting; empty for all other settings."""
    return list(row.test.values()) if not setting or row is ablation.chosen else []


def _marked(cell: Cell) -> Cell:
    return cell if cell.text in ("", NOTHING) else replace(cell, mark=BEST)


def sensitivity_table(ablation: Ablation) -> Table | None:
    """Return the sensitivity to each option; None where there is none."""
    lines = [
        Line([
            Cell(short(sensitivity.option)), Cell(text(sensitivity.default), value=sensitivity.default),
            Cell(", ".join(map(text, sensitivity.values))),
            cells.number(sensitivity.points), cells.number(sensitivity.std), cells.integer(sensitivity.n),
        ])
        for sensitivity in sensitivities(ablation)
    ]  # fmt: skip
    if not lines:
        return None
    columns = [Column("option", TEXT), Column("default"), Column("values", TEXT)]
    columns += map(Column, ("sensitivity", "std over seeds", "seeds"))
    return Table("Sensitivity to each option", columns, [lines], title="Sensitivity", notes=[SENSITIVITY])


def records(ablation: Ablation) -> Iterator[dict[str, Any]]:
    """Iterate over one record for each reference and setting."""
    for row in (*ablation.references, *ablation.settings):
        setting = row not in ablation.references
        val = mean_interval(list(row.val.values()))
        to_default, to_kd = _differences(ablation, row, setting=setting)
        test_mean, test_std = mean_and_std(_test_accuracies(ablation, row, setting=setting))
        yield (
            {"ablation": ablation.name, "role": "setting" if setting else "reference", "label": row.label}
            | {"method": row.method, "options": json.dumps(dict(row.options))}
            | {short(option): "" if row.values[option] is None else text(row.values[option])
               for option in ablation.default.values}
            | {"default": int(row is ablation.default), "chosen": int(row is ablation.chosen)}
            | {"n": row.n, "seeds": " ".join(map(str, row.val))}
            | {"val_mean": val.mean, "val_std": row.std, "val_low": val.low, "val_high": val.high}
            | {"delta_default": to_default.mean, "delta_default_low": to_default.low}
            | {"delta_default_high": to_default.high, "delta_kd": to_kd.mean, "delta_kd_low": to_kd.low}
            | {"delta_kd_high": to_kd.high, "test_mean": test_mean, "test_std": test_std}
        )  # fmt: skip


def sensitivity_records(ablation: Ablation) -> Iterator[dict[str, Any]]:
    """Iterate over one record for each option, by `SENSITIVITY_COLUMNS`."""
    for sensitivity in sensitivities(ablation):
        origin = {"ablation": ablation.name, "option": sensitivity.option, "default": text(sensitivity.default)}
        values = {"values": " ".join(map(text, sensitivity.values))}
        yield origin | values | {"sensitivity": sensitivity.points, "std": sensitivity.std, "n": sensitivity.n}


# ---------------------------------------------------------------- files


def document(ablation: Ablation) -> str:
    """Return the tables of an ablation as they are printed."""
    return markdown.document(title(ablation), tables(ablation))


def write(ablation: Ablation, reports: Path) -> list[Path]:
    """Write the files of an ablation's tables to `<reports>/ablations`; return their paths."""
    ablation_tables = tables(ablation)
    settings = list(records(ablation))
    texts = {
        ".md": document(ablation),
        ".tex": latex.floats(
            ablation.name,
            f"{title(ablation)}.",
            [replace(table, title="") for table in ablation_tables],
        ),
        ".csv": csv.render(list(settings[0]), settings),
    }
    if sensitivities := list(sensitivity_records(ablation)):
        texts["-sensitivity.csv"] = csv.render(SENSITIVITY_COLUMNS, sensitivities)
    return write_texts(reports / FOLDER, file_name(ablation.name), texts)
