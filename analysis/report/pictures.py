"""The figures of the report's page, each with a caption and a text for readers who cannot see it."""

from collections.abc import Iterator
from pathlib import Path

from analysis import ablation as ablations
from analysis.ablation import Ablation
from analysis.figures import correlation, curves, differences, ranks, style, tsne
from analysis.figures import fidelity as fidelity_figures
from analysis.report.page import Picture, data_uri
from analysis.report.source import Source
from analysis.statistics import Ranking
from benchmark.tables import cells

CLASS_FIGURES = {
    "structure": "measures of the class structure passed on, by method; bars are ± one standard deviation over seeds",
    "structure-superclasses": "accuracy change of each superclass against the student alone, in points",
    "structure-classes": "accuracy change of classes against the student alone, in points",
}


def of_gains(source: Source) -> Iterator[Picture]:
    """Iterate over the heat maps of methods × pairs: none for one pair."""
    comparisons, top1 = source.results.comparisons, source.group.top1
    compared = differences.references(comparisons)
    for (name, draw), (method, by_row) in zip(
        differences.group_drawings(source.group, comparisons, source.appearance).items(), compared.items(), strict=False
    ):
        reference = differences.REFERENCES[method]
        caption = (
            f"Gain in {top1} against {reference}, in points, mean over common seeds; methods by their mean "
            "over the pairs"
        )
        alt = f"Heat map of methods and pairs: {len(by_row)} differences to {reference}. The tables have the values."
        yield from source.pictures(draw, name, alt, caption)


def of_differences(source: Source, pair: str) -> Iterator[Picture]:
    """Iterate over the forest plot of a pair."""
    comparisons, arrow, top1 = source.results.comparisons, source.arrow(pair), source.group.top1
    for name, draw in differences.pair_drawings(source.group, pair, comparisons, source.appearance).items():
        compared = differences.references(comparisons, pair)
        texts = [
            f"{row.label} {cells.signed(by_row[row.key, pair].difference)} against {differences.REFERENCES[method]}"
            for method, by_row in compared.items()
            for row in differences.sorted_rows(source.group, pair)
            if (row.key, pair) in by_row
        ]
        caption = (
            f"{arrow}: difference in {top1} with its 95 % interval over common seeds, methods by their mean, "
            "which stands behind their names. A hollow mark has no interval"
        )
        yield from source.pictures(draw, name, f"Forest plot for {arrow}. {'; '.join(texts)}.", caption, pair)


def of_ranks(source: Source, ranking: Ranking) -> Iterator[Picture]:
    """Iterate over critical differences, outcomes and performance profile, as far as there is something to draw."""
    averages, within = (
        "; ".join(f"{row.label} {value:{form}}" for row, value in zip(ranking.rows, values, strict=True))
        for values, form in ((ranking.average, ".2f"), (ranking.share_within(1.0), ".0%"))
    )
    shown = "a bar joins" if ranks.is_diagram(ranking, source.appearance) else "the band holds"
    others = "that Nemenyi's test does not tell apart" + ("" if shown == "a bar joins" else " from the best")
    outcomes = "Wins/ties/losses" if ranks.is_counted(len(ranking.rows), source.appearance) else "Wins minus losses"
    texts = {
        "ranks": (
            f"Average ranks over the pairs, 1 the best; {shown} methods {others}",
            f"Critical difference diagram. Average ranks: {averages}; difference {ranking.critical_difference:.2f}.",
        ),
        "wins": (
            f"{outcomes} of the row against the column, in pairs, by 95 % intervals",
            "Matrix of wins, ties and losses of each method against each other. The tables of ranks have its values.",
        ),
        "profile": (
            "Performance profile: share of the pairs on which a method is at most τ points below the best",
            f"Performance profile. Share of pairs within one point of the best: {within}.",
        ),
    }
    drawings = ranks.drawings(source.group, ranking, source.problems, source.appearance)
    for name, (caption, alt) in texts.items():
        if name in drawings:
            yield from source.pictures(drawings[name], name, alt, caption)


def of_curves(source: Source, pair: str) -> Iterator[Picture]:
    """Iterate over the learning curves of a pair, and its accuracy against the time of a run."""
    lines, missing = curves.learning_curves(source.group, pair)
    source.problems.extend(missing)
    arrow, top1 = source.arrow(pair), source.group.top1
    ends = "; ".join(f"{line.row.label} {line.mean.iloc[-1]:.2f}" for line in lines)
    times = [(line.row.label, line.seconds) for line in lines if line.seconds is not None]
    durations = "; ".join(f"{label} {cells.duration(s.iloc[-1]).text}" for label, s in times if s is not None)
    texts = {
        "curves": (
            f"{arrow}: {top1} against the epoch, mean over seeds; bands are ± one standard deviation",
            f"Line plot of {top1} against the epoch for {arrow}. At the last epoch: {ends}.",
        ),
        "time": (
            f"{arrow}: {top1} against the time per run of the cost table, training with evaluation, divided "
            "among the epochs by their training steps; marks: last epoch ± one standard deviation",
            f"Plot of {top1} against time for {arrow}. Total time: {durations}.",
        ),
    }
    for name, draw in curves.drawings(source.group, pair, lines, source.appearance).items():
        caption, alt = texts[name]
        yield from source.pictures(draw, name, alt, caption, pair)


def of_classes(source: Source, pair: str) -> Iterator[Picture]:
    """Iterate over the class correlations of a pair, and the figures of its fidelity."""
    arrow = source.arrow(pair)
    # the reasons for missing ones are among the notes of the measures
    correlations, _ = correlation.correlation_differences(source.group, pair, source.root)
    if correlations:
        means = "; ".join(f"{d.row.label} {d.distance:.3f}" for d in correlations)
        alt = f"Heat maps of class correlations, teacher minus student, for {arrow}. Mean |Δr|: {means}."
        caption = (
            f"{arrow}: correlation of the logits of each two classes over the test images: the teacher's own, then "
            "teacher minus student, mean over seeds. Red: the teacher ties the two classes more closely than the "
            f"student; blue: less closely. {correlation.ORDER}"
        )
        look = source.appearance
        yield from source.pictures(
            lambda: correlation.draw_correlations(source.group, pair, correlations, look),
            "correlation",
            alt,
            caption,
            pair,
        )
    if pair in source.fidelity.pairs:
        for name, draw in fidelity_figures.drawings(source.fidelity, pair, source.appearance).items():
            text = CLASS_FIGURES[name]
            alt = f"Figure for {arrow}: {text}. The values are in the tables of this section or in its files."
            yield from source.pictures(draw, name, alt, f"{arrow}: {text}", pair)


def of_tsne(source: Source, pair: str) -> Iterator[Picture]:
    """Iterate over the joint projection of a pair's teacher and students."""
    embedding, missing = tsne.embed(source.group, pair, source.root, source.appearance)
    source.problems.extend(missing)
    if embedding:
        arrow, what, look = source.arrow(pair), embedding.description, source.appearance
        alt = f"Scatter plots of a t-SNE of the logits for {arrow}, colored by class. {what}"
        caption = f"{arrow}: {what} Crosses: medians of the teacher's points of each class"
        yield from source.pictures(
            lambda: tsne.draw_embedding(source.group, pair, embedding, look), "tsne", alt, caption, pair
        )


def of_ablation(ablation: Ablation, png: Path) -> Picture:
    """Return the figure of an ablation from its file."""
    data = png.read_bytes()
    width = round(int.from_bytes(data[16:20]) * 96 / style.STYLE["savefig.dpi"])  # of the PNG's header
    text = f"{ablations.heading(ablation)}: {ablation.description}, validation accuracy with 95 % intervals"
    alt = f"Figure of the ablation, {text}. The values are in the table."
    return Picture(data_uri("png", data), width, alt, text, f"{ablations.FOLDER}/{png.stem}.pdf")
