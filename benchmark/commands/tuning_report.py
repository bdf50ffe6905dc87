"""Reports of a tuning: all trials as CSV, the chosen setting as a method's YAML, a summary in Markdown."""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from benchmark.commands.tuning_space import describe_distribution
from benchmark.commands.tuning_study import Trial, Tuning
from benchmark.config.overrides import is_shared, key_of, override_text, value_text
from benchmark.statistics import few_images_note, mean_interval
from benchmark.tables import cells, markdown
from benchmark.tables.model import EMPTY, TEXT, Cell, Column, Line, Table


def option_words(method: str, options: Mapping[str, Any]) -> list[str]:
    """Return options as words of the command line, such as `kd.temperature=3.5`."""
    return [f"{method}.{name}={override_text(value)}" for name, value in options.items()]


def fixed_options(words: Sequence[str]) -> list[str]:
    """Return the method's options that a command line sets, by dotted name."""
    return [key_of(word).split(".", 1)[1] for word in words if not is_shared(word)]


def announcement(tuning: Tuning, at_once: int = 1) -> str:
    """Return the budget and the search space, printed before anything is trained. at_once: trials at a time."""
    lines = [f"tuning {tuning.method.name} on {tuning.pair}: {_budget_text(tuning)}"]
    if at_once > 1:
        lines.append(f"{at_once} trials at a time: each is proposed from those that are finished by then")
    lines += _few_images(tuning)
    for name, distribution in tuning.space.items():
        default = value_text(tuning.method.values[name])
        lines.append(f"  {tuning.method.name}.{name}: {describe_distribution(distribution)}, default {default}")
    return "\n".join(lines)


def history(tuning: Tuning, trials: Sequence[Trial]) -> str:
    """Return all trials as CSV."""
    head = [
        "trial", "state", *tuning.space, *(f"val_seed_{s}" for s in tuning.seeds), "val_mean", "pruned_at_seed",
        "pruned_at_epoch", "reason",
    ]  # fmt: skip
    text = io.StringIO()
    writer = csv.DictWriter(text, head, lineterminator="\n")
    writer.writeheader()
    for t in trials:
        val = {f"val_seed_{s}": v for s, v in t.val.items()}
        mean = t.mean if t.state == "complete" else None
        row = {"trial": t.number, "state": t.state, **t.options, **val, "val_mean": mean}
        writer.writerow(row | {"pruned_at_seed": t.seed, "pruned_at_epoch": t.epoch, "reason": t.reason})
    return text.getvalue()


def overlay(tuning: Tuning, chosen: Trial) -> str:
    """Return the chosen setting as the YAML file of a method `<method>_tuned`, for `conf/method/`.

    Its options stand under the pair they were chosen for, since a pair's own values take precedence over a method's.
    """
    name = tuning.method.name
    options = {k: tuning.method.values[k] for k in fixed_options(tuning.overrides)} | chosen.options
    tree = {
        "defaults": [name, "_self_"],
        "name": f"{name}_tuned",
        "about": {"title": f"{tuning.method.about['title']} (tuned)"},
        "pairs": {tuning.pair: options},
    }
    return (
        f"# {name} on {tuning.pair}, chosen on a validation split of {tuning.plan.dataset.name}: {_budget_text(tuning)}"
        f"\n# To use it: copy this file to conf/method/{name}_tuned.yaml, and name {name}_tuned among the methods.\n"
        f"# Or without it: {' '.join(option_words(name, options))}\n"
        + yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=120)
    )


def summary(tuning: Tuning, trials: Sequence[Trial], chosen: Trial, tests: Mapping[int, Sequence[float]]) -> str:
    """Return the result in Markdown. tests: test accuracy of each seed, by the trial's number."""
    name, default, data = tuning.method.name, trials[0], tuning.plan.dataset
    assert data.val is not None
    default_val = list(default.val.values()) if default.state == "complete" else None
    setting = " ".join(option_words(name, chosen.options))
    notes = [f"The chosen setting as overrides: `{setting}`", *_few_images(tuning)]
    if default.state != "complete":
        notes.insert(0, f"The default is without numbers: {default.state}, {default.reason}.")
    tables = [
        _options_table(tuning, trials, chosen),
        _accuracy_table(
            "Validation accuracy", f"Validation accuracy at the last epoch, % ({len(data.val.labels):,} images). The "
            "choice was made by it, so the chosen setting's is higher than is to be expected elsewhere.",
            tuning.seeds, default_val, list(chosen.val.values()), [],
        ),
        _accuracy_table(
            "Test accuracy", f"Test accuracy at the last epoch, % ({len(data.test.labels):,} images). It had no part "
            "in the choice.", tuning.seeds, tests.get(default.number), tests[chosen.number], notes,
        ),
    ]  # fmt: skip
    return markdown.document(f"Tuning of {name} on {tuning.pair} ({data.name}, {tuning.plan.config.profile})", tables)


def _options_table(tuning: Tuning, trials: Sequence[Trial], chosen: Trial) -> Table:
    states, default = [t.state for t in trials], trials[0]
    trained = sum(len(t.val) * tuning.epochs + (t.epoch or 0) * (t.seed not in t.val) for t in trials)
    budget = len(trials) * len(tuning.seeds) * tuning.epochs
    lines = [
        Line([Cell(key), Cell(describe_distribution(distribution)), Cell(value_text(default.options[key])),
              Cell(value_text(chosen.options[key]))])
        for key, distribution in tuning.space.items()
    ]  # fmt: skip
    return Table(
        "Chosen options", [Column(title, TEXT) for title in ("Option", "Searched", "Default", "Chosen")], [lines],
        intro=[
            f"Budget: {_budget_text(tuning)}.",
            f"Trials: {states.count('complete')} complete, {states.count('pruned')} pruned, "
            f"{states.count('diverged')} diverged; {trained:,} of {budget:,} epochs trained.",
            f"Chosen: trial {chosen.number}{', the default' if chosen is default else ''}.",
        ],
    )  # fmt: skip


def _accuracy_table(
    caption: str, intro: str, seeds: Sequence[int], default: Sequence[float] | None, chosen: Sequence[float],
    notes: Sequence[str],
) -> Table:  # fmt: skip
    """Return accuracies by seed, with the mean paired difference and its 95 % interval. default: None where pruned."""
    before = [math.nan] * len(seeds) if default is None else default
    lines = [
        Line([Cell(str(seed)), cells.number(d), cells.number(c), _difference(c - d)])
        for seed, d, c in zip(seeds, before, chosen, strict=True)
    ]
    if default is not None:
        interval = mean_interval([c - d for c, d in zip(chosen, default, strict=True)])
        bounds = f"(n = {len(seeds)}: no interval)"
        if not math.isnan(interval.low):
            bounds = f"[{interval.low:+.2f}, {interval.high:+.2f}]"
        means = [cells.number(statistics.fmean(values)) for values in (default, chosen)]
        lines.append(Line([Cell("mean"), *means, Cell(f"{interval.mean:+.2f}", bounds)]))
    columns = [Column("Seed", TEXT), Column("Default"), Column("Chosen"), Column("Difference [95 % interval]")]
    return Table(caption, columns, [lines], intro=[intro], notes=notes)


def _few_images(tuning: Tuning) -> list[str]:
    """The warning that the choice is by few images, where it is."""
    assert tuning.plan.dataset.val is not None
    note = few_images_note(len(tuning.plan.dataset.val.labels))
    return [note] if note else []


def _difference(value: float) -> Cell:
    return EMPTY if math.isnan(value) else Cell(f"{value:+.2f}", value=value)


def _budget_text(tuning: Tuning) -> str:
    return f"{tuning.trials} trials of {cells.counted(len(tuning.seeds), 'seed')} and {tuning.epochs} epochs"
