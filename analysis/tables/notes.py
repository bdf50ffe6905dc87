"""What a reader must know besides the numbers of a group's tables. Every renderer and the report's page use these."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis import published, statistics
from analysis.conditions import TEACHER_TRAIN_SIZE, format_setting
from analysis.groups import MethodRow, ResultGroup
from analysis.tables.results import Results
from benchmark.runs.record import number
from benchmark.statistics import MIN_SEEDS
from benchmark.tables.cells import counted

LISTED = 20  # reasons of skipped runs in one note
PAPER_PROFILES = ("paper", "imagenet", "tinyimagenet")  # whose recipes are those of published tables
DECODER = "dataset.decoder"  # key of a run's config
NAMED = 5  # rows that one version of the engine's code is followed by


def setting(group: ResultGroup) -> str:
    """Return recipe, epochs, the teachers' training images where they have their own, the decoder of a streamed data
    set, settings that differ from the profile's, precision, hardware and versions of all runs."""
    runs = group.runs
    epochs = sorted(set(runs.epochs))
    precisions = sorted(set(runs.precision.dropna()))
    recipes = sorted(set(runs.recipe.dropna()))  # older results do not record it
    parts = [f"recipe {', '.join(recipes)}"] if recipes else []
    parts.append(f"{', '.join(map(str, epochs))} epoch{'' if epochs == [1] else 's'}")
    parts += [f"images decoded by {', '.join(decoders)}"] if (decoders := _decoders(group)) else []
    parts += [teachers] if (teachers := teacher_images(group)) else []
    changes = changed_settings(group)
    parts += [f"not as in the profile: {', '.join(changes)}"] if changes else []
    parts += [f"precision {', '.join(precisions)}"] if precisions else []
    parts.append(", ".join(machines(group)))
    parts.append(" / ".join(sorted({", ".join(f"{k} {v}" for k, v in vs.items()) for vs in runs.versions if vs})))
    return "; ".join(filter(None, parts))


def _decoders(group: ResultGroup) -> list[str]:
    """The decoders of a data set that is streamed from files; none for one in memory."""
    of_rows = (s.config.get(DECODER) for row in group.rows for s in row.seed_groups.values())
    return sorted({str(decoder) for decoder in of_rows if decoder is not None})


def teacher_images(group: ResultGroup) -> str:
    """Return how many images the teachers were trained on where these are not just their students'; empty elsewhere."""
    of_rows = (s.config.get(TEACHER_TRAIN_SIZE) for row in group.rows for s in row.seed_groups.values())
    sizes = {size for size in map(number, of_rows) if size is not None}
    if not sizes:
        return ""
    numbers = " or ".join(format_setting(size) for size in sorted(sizes))
    return f"teachers trained on {numbers} images, those of their students included"


def machines(group: ResultGroup) -> list[str]:
    """Return the machines that the runs were made on."""
    return sorted({hardware(h) for h in group.runs.hardware} - {""})


def hardware(described: Mapping[str, Any]) -> str:
    """Return a machine's name, device, threads and processes of a run; empty where nothing is recorded."""
    name, device, threads = (described.get(k) for k in ("name", "device", "threads"))
    details = [str(device)] if device else []
    details += [counted(threads, "thread")] if device == "cpu" and threads else []
    details += [f"{processes} processes a run"] if (processes := described.get("processes")) else []
    details += ["compiled"] if described.get("compiled") else []
    return f"{name or 'unknown'} ({', '.join(details)})" if details else str(name or "")


def changed_settings(group: ResultGroup) -> list[str]:
    """Return the settings of recipe and data set that differ from the profile's, with their values.

    The number of epochs is left out, since every table states it.
    """
    values: dict[str, set[str]] = {}
    for seed_group in (seed_group for row in group.rows for seed_group in row.seed_groups.values()):
        for key in seed_group.changed_settings:
            if not key.startswith("method.") and key != "recipe.epochs":
                values.setdefault(key, set()).add(format_setting(seed_group.config.get(key)))
    return [f"{key} {' or '.join(sorted(texts))}" for key, texts in sorted(values.items())]


def follows_paper(group: ResultGroup) -> bool:
    """Return whether the runs follow the recipe of the published values."""
    return (
        group.profile in PAPER_PROFILES
        and set(group.runs.epochs) == {published.epochs(group.dataset)}
        and not changed_settings(group)
    )


def published_note(group: ResultGroup) -> str:
    """Return whether published values may be compared with the group's."""
    recipe = f"Published values are from the {published.epochs(group.dataset)}-epoch recipe"
    if follows_paper(group):
        return (
            f"{recipe}, which these runs follow, with teachers of their own; mind the epoch that each source reports."
        )
    return f"{recipe}: they are not comparable with this table."


def dagger_note(results: Results) -> str:
    """Return the meaning of the daggers, or why there are none; empty where KD has no row to be compared with."""
    comparisons = results.kd_comparisons.values()
    if tested := {c.family_size for c in comparisons} - {0}:
        sizes = " to ".join(map(str, sorted({min(tested), max(tested)})))
        return (
            "† significantly better than KD, ‡ significantly worse, at 5 %: moderated paired t-test over common seeds, "
            f"corrected for the family of all comparisons with KD on the pair, {sizes} here (Bonferroni)."
        )
    if comparisons:
        seeds = max(c.n for c in comparisons)
        reason = f"{counted(seeds, 'seed')} in common, and at least {MIN_SEEDS} are needed"
        return f"No test against KD: {reason if seeds < MIN_SEEDS else 'all differences are equal'}."
    several = sum(row.method == statistics.BASELINE for row in results.group.rows) > 1
    return "No test against KD: none of its variants here is the default." if several else ""


def unequal_cost(row: MethodRow) -> list[str]:
    """Return what makes a row's numbers not comparable with the others' at equal cost."""
    runs = [seed_group.runs for seed_group in row.seed_groups.values()]
    epochs = sorted({int(frame.init_epochs.max()) for frame in runs if frame.init_epochs.max() > 0})
    reasons = [f"{' or '.join(map(str, epochs))} epoch{'' if epochs == [1] else 's'} before"] if epochs else []
    reasons += ["two views"] if any((frame.views > 1).any() for frame in runs) else []
    keeps_layers = any((frame.inference_parameters > frame.parameters).any() for frame in runs)
    return reasons + (["layers kept at inference"] if keeps_layers else [])


def label(row: MethodRow) -> str:
    """Return the label of a row, with an asterisk where it is not at equal cost."""
    return f"{row.label} *" if unequal_cost(row) else row.label


def cost_notes(rows: Iterable[MethodRow]) -> list[str]:
    """Return the note on the rows that are not at equal cost; none where all are."""
    flagged = [f"{row.label} ({', '.join(reasons)})" for row in rows if (reasons := unequal_cost(row))]
    return [f"* Not at equal cost: {'; '.join(flagged)}."] if flagged else []


def remarks(results: Results) -> list[str]:
    """Return all notes below the table of accuracies."""
    group = results.group
    notes = [note] if (note := dagger_note(results)) else []
    notes += cost_notes(group.rows)
    if reasons := {f"{run.pair} {run.method}: {run.reason.removeprefix('skipped: ')}" for run in results.skipped}:
        notes.append(f"n/a: not possible on the pair: {'; '.join(sorted(reasons)[:LISTED])}.")
    notes += _mixed_code(results)
    notes += [note] if (note := engine_note(results)) else []
    notes += [
        f"{row.label} on {pair} is compared with nothing: no config.yaml of its runs can be read."
        for row in group.rows
        for pair, seed_group in row.seed_groups.items()
        if seed_group.config_is_missing
    ]
    epochs = {pair: tuple(sorted(set(values))) for pair, values in group.runs.groupby("pair").epochs}
    if len(set(epochs.values())) > 1:
        by_pair = "; ".join(f"{pair} {', '.join(map(str, epochs[pair]))}" for pair in group.pairs)
        notes.append(f"The pairs were not trained alike. Epochs: {by_pair}.")
    return notes


def _mixed_code(results: Results) -> Iterable[str]:
    """Rows whose seeds ran different versions of the method's code."""
    for row in results.group.rows:
        for pair, seed_group in row.seed_groups.items():
            if seed_group.runs.code_version.nunique() > 1:
                by_code = seed_group.runs.groupby("code_version")
                seeds = (f"seed {', '.join(map(str, runs.seed))} by {code}" for code, runs in by_code)
                yield (
                    f"{row.label} on {pair}: its runs were made by different versions of its code ({'; '.join(seeds)})."
                )


def engine_note(results: Results) -> str:
    """Return which rows were made by different versions of the engine's code or by uncommitted code; empty where none
    were. Older results do not record either."""
    by_version: dict[str, list[str]] = {}
    uncommitted = []
    for row in results.group.rows:
        runs = pd.concat([seed_group.runs for seed_group in row.seed_groups.values()])
        for version in sorted(set(runs.engine_version.dropna())):
            by_version.setdefault(version, []).append(row.label)
        uncommitted += [row.label] if runs.clean.eq(False).any() else []
    parts = []
    if len(by_version) > 1:
        versions = "; ".join(f"{version}: {_names(labels)}" for version, labels in by_version.items())
        parts.append(f"by different versions of the engine's code ({versions})")
    parts += [f"by uncommitted code ({_names(uncommitted)})"] if uncommitted else []
    return f"Runs were made {' and '.join(parts)}." if parts else ""


def _names(labels: Sequence[str]) -> str:
    more = [f"{len(labels) - NAMED} more"] if len(labels) > NAMED else []
    return ", ".join([*labels[:NAMED], *more])
