"""Tables of how well class structure is passed on: Markdown for the terminal, and .md, .tex and .csv files.

Numbers are mean ± sample standard deviation over seeds. Marks go to the distillation methods, by the mean as it is
printed; methods that tie share a mark.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import fidelity, predictions, published
from analysis.fidelity import LEVEL_PLURALS, MEASURES, ClassChanges, Fidelity, Measure
from analysis.groups import file_name
from analysis.load import UnfinishedRun
from analysis.tables.accuracy import (
    BEST,
    LATEX_BLOCKS,
    LISTED,
    NOTHING,
    SECOND,
    Table,
    csv_text,
    escape,
    fixed,
    grid,
    missing,
    setting,
    signed,
)
from benchmark.runs.folder import write_text

COLUMNS = 6  # methods side by side; further ones follow in blocks below
DEFINITIONS = (
    "Measured on the test set at the last epoch against the student's own teacher; mean ± sample standard deviation "
    "over seeds. Correlation r: Pearson's r between the class correlation matrices of the logits of student and "
    "teacher, above the diagonal; correlation distance: Frobenius norm of their difference over the number of classes. "
    "Agreement: same top-1 prediction; top-5 overlap: mean share of the teacher's five first classes among the "
    "student's. KL: KL(teacher || student) of the softmax at temperature 1. ECE: expected calibration error, "
    f"{predictions.CALIBRATION_BINS} bins."
)
MARKS = "Per pair and column, the {best} distillation method is {bold}, the {second} {underlined}."


def write(made: Fidelity, reports: Path, unfinished: Sequence[UnfinishedRun] = ()) -> list[Path]:
    """Write all files of a group to `<reports>/tables`; returns their paths."""
    stem = file_name(made.group.dataset, made.group.profile, "structure")
    texts = {
        f"{stem}.md": markdown(made, unfinished, listed=None) + "\n" + details(made),
        f"{stem}.tex": latex(made),
        f"{stem}.csv": summary_csv(made),
        f"{stem}-runs.csv": _frame_csv(made, made.runs),
        f"{stem}-classes.csv": _frame_csv(made, made.classes),
        f"{stem}-confused.csv": _frame_csv(made, made.confused),
    }
    folder = reports / "tables"
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


# ---------------------------------------------------------------- what stands in the tables


def lines_of(made: Fidelity, pair: str) -> list[dict[str, Any]]:
    """The rows of one pair's table as dictionaries of the `summary`'s columns."""
    return made.summary[made.summary.pair == pair].to_dict("records")


def marks(lines: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """BEST or SECOND by label and measure, of the distillation methods among one pair's rows."""
    found = {}
    for measure in MEASURES:
        methods = [r for r in lines if r["method"] not in (published.TEACHER, published.STUDENT)]
        printed = {r["label"]: fixed(r[measure.key], measure.digits) for r in methods}
        values = {t for t in printed.values() if t != NOTHING}
        ranked = sorted(values, key=lambda text: -measure.better * float(text))
        found |= {
            (label, measure.key): (BEST, SECOND)[ranked.index(t)] for label, t in printed.items() if t in ranked[:2]
        }
    return found


def _value(line: Mapping[str, Any], measure: Measure) -> tuple[str, str]:
    """Mean; deviation, and the number of runs where not all have a value."""
    n = line[f"{measure.key}_n"]
    spread = fixed(line[f"{measure.key}_std"], measure.digits)
    parts = [] if spread == NOTHING else [f"± {spread}"]
    parts += [f"({n})"] if 0 < n < line["n"] else []
    return fixed(line[measure.key], measure.digits), " ".join(parts)


def _header(measure: Measure) -> str:
    unit = f" [{measure.unit}]" if measure.unit else ""
    return f"{measure.title}{unit} {'↑' if measure.better > 0 else '↓'}"


def _blocks(names: Sequence[str], size: int) -> list[Sequence[str]]:
    return [names[i : i + size] for i in range(0, len(names), size)]


def _title(made: Fidelity, pair: str) -> str:
    return "{} → {}".format(*made.group.networks[pair])


# ---------------------------------------------------------------- Markdown


def markdown(made: Fidelity, unfinished: Sequence[UnfinishedRun] = (), listed: int | None = LISTED) -> str:
    """The measures, one block a pair, and what is not in them. listed: how many runs are named, None for all."""
    group = made.group
    parts = [f"## Class structure passed on: {group.dataset}, profile {group.profile}", DEFINITIONS]
    parts.append(MARKS.format(best="**best**", bold="bold", second="<u>second</u>", underlined="underlined"))
    parts.append(f"Runs: {setting(Table(group, lines=[], unfinished=[], comparisons=[]))}.")
    for pair in made.pairs:
        parts += [f"### {_title(made, pair)}", grid(*_block(made, pair), left=1)]
    if made.notes:
        shown = made.notes[:listed]
        rest = len(made.notes) - len(shown)
        more = [f"and {rest} more"] if rest else []
        parts.append("Missing:\n\n" + "\n".join(f"- {note}" for note in [*shown, *more]))
    parts += [missing(unfinished)] if unfinished else []
    return "\n\n".join(parts) + "\n"


def _block(made: Fidelity, pair: str) -> tuple[list[str], list[list[str]]]:
    lines = lines_of(made, pair)
    marked = marks(lines)
    rows = []
    for line in lines:
        row = [line["label"], str(line["n"])]
        for measure in MEASURES:
            text = " ".join(filter(None, _value(line, measure)))
            mark = marked.get((line["label"], measure.key))
            row.append({BEST: f"**{text}**", SECOND: f"<u>{text}</u>"}.get(mark or "", text))
        rows.append(row)
    return ["Method", "seeds", *map(_header, MEASURES)], rows


def details(made: Fidelity) -> str:
    """Accuracy changes of classes, and the pairs of classes that students confuse, for each pair."""
    parts = []
    for pair in made.pairs:
        for to, whom in (("student", "the student alone"), ("teacher", "the teacher")):
            for level in made.levels(pair):
                if change := made.class_changes(pair, level, to):
                    parts += [f"### {_title(made, pair)}: accuracy of {LEVEL_PLURALS[level]} against {whom}"]
                    parts += [_change_note(change), *_change_blocks(change)]
        if not made.confused[made.confused.pair == pair].empty:
            parts += [f"### {_title(made, pair)}: classes confused more often than by the teacher", CONFUSED_NOTE]
            parts += _confused_blocks(made, pair)
    return "\n\n".join(parts) + "\n" if parts else ""


CONFUSED_NOTE = (
    f"The {predictions.CONFUSED_PAIRS} largest of each method, true class → predicted class: share of the true class's "
    "images that the student predicts so minus the share that its teacher does, in points, averaged over seeds."
)


def _change_note(change: ClassChanges) -> str:
    order = "the largest mean gain first"
    if change.partial:
        order = (
            f"the {fidelity.EXTREME_CLASSES} classes with the largest mean gain, then the "
            f"{fidelity.EXTREME_CLASSES} that lose most"
        )
    return f"Points between runs of one seed, mean ± sample standard deviation over seeds (their number); {order}."


def _change_blocks(change: ClassChanges) -> list[str]:
    grids = []
    for labels in _blocks(list(change.mean.index), COLUMNS):
        header = [change.level, *(f"{label} ({change.n[label]})" for label in labels)]
        rows = []
        for name in change.mean:
            cells = []
            for label in labels:
                std = change.std.loc[label, name]
                spread = "" if math.isnan(std) else f" ± {fixed(std)}"
                cells.append(f"{signed(change.mean.loc[label, name])}{spread}")
            rows.append([name, *cells])
        grids.append(grid(header, rows, left=1))
    return grids


def _confused_blocks(made: Fidelity, pair: str) -> list[str]:
    frame = made.confused[made.confused.pair == pair]
    listed = {
        label: [f"{r.true} → {r.predicted} {signed(r.excess)}" for r in of.itertuples()]
        for label, of in frame.groupby("label", sort=False)
    }
    grids = []
    for labels in _blocks(list(listed), COLUMNS):
        longest = max(len(listed[label]) for label in labels)
        rows = [[listed[k][i] if i < len(listed[k]) else "" for k in labels] for i in range(longest)]
        grids.append(grid(labels, rows, left=len(labels)))
    return grids


# ---------------------------------------------------------------- LaTeX, CSV


def latex(made: Fidelity) -> str:
    """The measures as LaTeX tables, several pairs in each; needs booktabs and graphicx."""
    floats = _blocks(made.pairs, LATEX_BLOCKS)
    return "% needs \\usepackage{booktabs,graphicx}\n" + "\n".join(
        _float(made, pairs, i) for i, pairs in enumerate(floats)
    )


def _float(made: Fidelity, pairs: Sequence[str], number: int) -> str:
    group = made.group
    caption = escape(f"Class structure passed on, {group.dataset}, profile {group.profile}. {DEFINITIONS} ")
    bold, under = r"\textbf{bold}", r"\underline{underlined}"
    caption += MARKS.format(best="best", bold=bold, second="second", underlined=under)
    if number:
        caption = escape(f"Class structure passed on, {group.dataset}, profile {group.profile}. (Continued.)")
    name = file_name(group.dataset, group.profile, "structure").replace("_", "-")
    lines = [r"\begin{table}[t]", r"\centering", r"\scriptsize", r"\setlength{\tabcolsep}{2pt}"]
    lines += [rf"\caption{{{caption}}}", rf"\label{{tab:{name}{f'-{number + 1}' if number else ''}}}"]
    for pair in pairs:
        lines += [r"\par\medskip", *_tabular(made, pair)]
    left_out = sum("is left out" in note for note in made.notes)
    if left_out and not number:
        runs = f"{left_out} run{'s' * (left_out > 1)}"
        lines += [r"\par\smallskip", rf"\parbox{{\linewidth}}{{\raggedright {runs} could not be measured.}}"]
    return "\n".join([*lines, r"\end{table}", ""])


def _tabular(made: Fidelity, pair: str) -> list[str]:
    lines = lines_of(made, pair)
    marked = marks(lines)
    titles = [_latex_header(m) for m in MEASURES]
    made_lines = [r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"]  # long labels shrink it
    made_lines += [rf"\begin{{tabular}}{{lr{'r' * len(MEASURES)}}}", r"\toprule"]
    made_lines.append(_row([rf"\multicolumn{{{len(MEASURES) + 2}}}{{l}}{{{escape(_title(made, pair))}}}"]))
    made_lines += [r"\midrule", _row(["Method", "n", *(t for t, _ in titles)]), _row(["", "", *(u for _, u in titles)])]
    section = None
    for line in lines:
        kind = line["method"] in (published.TEACHER, published.STUDENT)
        made_lines += [r"\midrule"] if kind != section else []
        section = kind
        cells = [_latex_value(line, m, marked.get((line["label"], m.key), "")) for m in MEASURES]
        made_lines.append(_row([escape(line["label"]), str(line["n"]), *cells]))
    return [*made_lines, r"\bottomrule", r"\end{tabular}}"]


def _latex_header(measure: Measure) -> tuple[str, str]:
    """Title and, below it, unit and direction, in few words: nine columns have to fit the width of a page."""
    short = {"correlation_r": "corr. $r$", "correlation_distance": "corr. dist.", "top5_overlap": "top-5", "kl": "KL"}
    arrow = r"$\uparrow$" if measure.better > 0 else r"$\downarrow$"
    unit = f"{escape(measure.unit)} " if measure.unit else ""
    return short.get(measure.key, measure.title), f"{unit}{arrow}"


def _latex_value(line: Mapping[str, Any], measure: Measure, mark: str) -> str:
    mean, spread = _value(line, measure)
    text = {BEST: rf"\textbf{{{mean}}}", SECOND: rf"\underline{{{mean}}}"}.get(mark, escape(mean))
    return f"{text}{{\\tiny {escape(spread.replace('± ', '±'))}}}" if spread else text


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells).strip() + r" \\"


def summary_csv(made: Fidelity) -> str:
    """One line a pair and label, with mean, deviation and count of every measure."""
    return _frame_csv(made, made.summary)


def _frame_csv(made: Fidelity, frame: pd.DataFrame) -> str:
    place = {"dataset": made.group.dataset, "profile": made.group.profile}
    rows = (place | dict(zip(frame, values, strict=True)) for values in frame.itertuples(index=False, name=None))
    return csv_text([*place, *frame], rows)
