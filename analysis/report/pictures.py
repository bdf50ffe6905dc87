"""The figures of the report's page, each with a caption and a text for readers who cannot see it."""

from collections.abc import Iterator
from pathlib import Path

from analysis import ablation as ablations
from analysis.ablation import Ablation
from analysis.figures import correlation, curves, ranks, style, tsne
from analysis.figures import fidelity as fidelity_figures
from analysis.report.page import Picture, data_uri
from analysis.report.source import Source
from analysis.statistics import Ranking
from benchmark.tables import cells

CLASS_FIGURES = {
    "structure": "measures of the class structure passed on, by method",
    "structure-superclasses": "accuracy change of each superclass against the student alone, in points",
    "structure-classes": "accuracy change of classes against the student alone, in points",
}


def of_ranks(source: Source, ranking: Ranking) -> Iterator[Picture]:
    """Iterate over critical differences, outcomes and performance profile, as far as there is something to draw."""
    averages, within = (
        "; ".join(f"{row.label} {value:{form}}" for row, value in zip(ranking.rows, values, strict=True))
        for values, form in ((ranking.average, ".2f"), (ranking.share_within(1.0), ".0%"))
    )
    texts = {
        "ranks": (
            "Average ranks over the pairs, 1 the best; a bar joins methods that Nemenyi's test does not tell apart",
            f"Critical difference diagram. Average ranks: {averages}; difference {ranking.critical_difference:.2f}.",
        ),
        "wins": (
            "Wins/ties/losses of the row against the column, in pairs, by 95 % intervals",
            "Matrix of wins, ties and losses of each method against each other. The tables of ranks have its values.",
        ),
        "profile": (
            "Performance profile: share of the pairs on which a method is at most τ points below the best",
            f"Performance profile. Share of pairs within one point of the best: {within}.",
        ),
    }
    figures, problems = ranks.draw(source.group, ranking, source.colors)
    source.problems += problems
    for name, (caption, alt) in texts.items():
        if name in figures:
            yield source.picture(figures[name], name, alt, caption)


def of_curves(source: Source, pair: str) -> Iterator[Picture]:
    """Iterate over the learning curves of a pair, and its accuracy against training time."""
    lines, missing = curves.learning_curves(source.group, pair)
    source.problems += missing
    if not lines:
        return
    arrow = source.arrow(pair)
    ends = "; ".join(f"{line.row.label} {line.mean.iloc[-1]:.2f}" for line in lines)
    figure = curves.draw_curves(source.group, pair, lines, source.colors)
    alt = f"Line plot of test top-1 against the epoch for {arrow}. At the last epoch: {ends}."
    caption = f"{arrow}: test top-1 against the epoch, mean over seeds; bands are ± one standard deviation"
    yield source.picture(figure, "curves", alt, caption, pair)
    timed = [line for line in lines if line.seconds is not None]
    if timed:
        times = [(line.row.label, line.seconds) for line in timed]
        ends = "; ".join(f"{label} {cells.duration(s.iloc[-1]).text}" for label, s in times if s is not None)
        figure = curves.draw_times(source.group, pair, timed, source.colors)
        alt = f"Plot of test top-1 against training time for {arrow}. Total time: {ends}."
        caption = f"{arrow}: test top-1 against training time, evaluation not counted; dots: last epoch"
        yield source.picture(figure, "time", alt, caption, pair)


def of_classes(source: Source, pair: str) -> Iterator[Picture]:
    """Iterate over the class correlations of a pair, and the figures of its fidelity."""
    arrow = source.arrow(pair)
    # the reasons for missing ones are among the notes of the measures
    differences, _ = correlation.correlation_differences(source.group, pair, source.root)
    if differences:
        figure = correlation.draw_correlations(source.group, pair, differences)
        means = "; ".join(f"{d.row.label} {d.distance:.3f}" for d in differences)
        alt = f"Heat maps of class correlations, teacher minus student, for {arrow}. Mean |Δr|: {means}."
        caption = (
            f"{arrow}: correlation of the logits of each two classes over the test images, teacher minus student, mean "
            "over seeds. Red: the teacher ties the two classes more closely than the student; blue: less closely"
        )
        yield source.picture(figure, "correlation", alt, caption, pair)
    if pair in source.fidelity.pairs:
        for name, figure in fidelity_figures.draw(source.fidelity, pair, source.colors).items():
            text = CLASS_FIGURES[name]
            alt = f"Figure for {arrow}: {text}. The values are in the tables of this section or in its files."
            yield source.picture(figure, name, alt, f"{arrow}: {text}", pair)


def of_tsne(source: Source, pair: str) -> Iterator[Picture]:
    """Iterate over the joint projection of a pair's teacher and students: one picture, or none."""
    embedding, missing = tsne.embed(source.group, pair, source.root)
    source.problems += missing
    if embedding:
        figure = tsne.draw_embedding(source.group, pair, embedding)
        arrow, what = source.arrow(pair), embedding.description
        alt = f"Scatter plots of a t-SNE of the logits for {arrow}, colored by class. {what}"
        caption = f"{arrow}: {what} Crosses: medians of the teacher's points of each class"
        yield source.picture(figure, "tsne", alt, caption, pair)


def of_ablation(ablation: Ablation, png: Path) -> Picture:
    """Return the figure of an ablation from its file."""
    data = png.read_bytes()
    width = round(int.from_bytes(data[16:20]) * 96 / style.STYLE["savefig.dpi"])  # of the PNG's header
    text = f"{ablations.heading(ablation)}: {ablation.description}, validation accuracy with 95 % intervals"
    alt = f"Figure of the ablation, {text}. The values are in the table."
    return Picture(data_uri("png", data), width, alt, text, f"{ablations.FOLDER}/{png.stem}.pdf")
