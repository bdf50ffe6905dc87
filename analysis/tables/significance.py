"""Files of the tests of one group: `<name>-significance.md`, `.tex` and `.csv` with every comparison, and
`<name>-ranks.md` and `.csv` where there are several pairs. Same runs, same bytes."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from analysis import statistics
from analysis.statistics import Comparison, Ranking
from analysis.tables.accuracy import NOTHING, Table, csv_text, escape, fixed, grid, p_value, signed
from benchmark.runs.folder import write_text

TAUS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)  # points of accuracy, of the performance profile
HEADER = ("Method", "against", "n", "difference", "95 % interval", "p", "Holm", "d_z", "note")


def write(table: Table, reports: Path) -> list[Path]:
    """Write the files to `<reports>/tables`; returns their paths. None where no two rows were trained alike."""
    if not table.comparisons:
        return []
    texts = {
        "significance.md": significance_markdown(table),
        "significance.tex": significance_latex(table),
        "significance.csv": significance_csv(table),
    }
    if ranking := statistics.rank(table.group, table.comparisons):
        texts |= {"ranks.md": ranks_markdown(table, ranking), "ranks.csv": ranks_csv(table, ranking)}
    paths = [reports / "tables" / f"{table.name}-{name}" for name in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_text(path, text)
    return paths


# ---------------------------------------------------------------- every comparison


def explanation(table: Table) -> str:
    """How the columns of the significance table are made."""
    text = (
        "Top-1 accuracy on the test set at the last epoch, compared seed by seed over the n seeds that both rows "
        "have, of runs with equal settings outside the method and the same teacher. Difference: the row minus the one "
        "it is compared with, in points, with its 95 % interval by Student's t (not corrected). p: two-sided paired "
        "t-test, followed by Holm's correction over all comparisons on the pair. d_z: Cohen's effect size for paired "
        "data, mean over standard deviation of the differences. "
    )
    n = max(c.n for c in table.comparisons)
    if n < statistics.MIN_SEEDS:
        return f"{text}No test was made: at most {n} seed{'' if n == 1 else 's'} in common, at least 3 are needed."
    return f"{text}† marks the better and ‡ the worse after Holm's correction at 5 %."


def _by_pair(table: Table) -> Iterator[tuple[str, list[Comparison]]]:
    for pair, of in groupby(table.comparisons, lambda c: c.pair):
        yield pair, list(of)


def _left_out(table: Table, pair: str, made: int) -> str:
    """What is not compared on a pair, and why."""
    rows = sum(pair in r.seed_groups for r in table.group.rows)
    if not (missing := math.comb(rows, 2) - made):
        return ""
    if rows <= statistics.MAX_ROWS:
        return f"{missing} of {math.comb(rows, 2)} comparisons are not made: the rows were not trained alike."
    return (
        f"{rows} rows: beyond {statistics.MAX_ROWS}, only comparisons with the student alone and KD are made, of rows "
        "trained alike."
    )


def _cells(c: Comparison) -> list[str]:
    interval = NOTHING if math.isnan(c.low) else f"[{signed(c.low)}, {signed(c.high)}]"
    dagger = {1: " †", -1: " ‡", 0: ""}[c.significant]
    tests = [_p(c.t_p), _p(c.t_holm), signed(c.d_z)]
    return [c.row.label, c.other.label, str(c.n), signed(c.difference) + dagger, interval, *tests, c.note]


def _p(p: float) -> str:
    return NOTHING if math.isnan(p) else p_value(p)


def significance_markdown(table: Table) -> str:
    group = table.group
    parts = [f"## {group.dataset}, profile {group.profile}: significance", explanation(table)]
    for pair, of in _by_pair(table):
        parts += [f"### {pair}", grid(HEADER, [_cells(c) for c in of], left=2)]
        parts += [note] if (note := _left_out(table, pair, len(of))) else []
    return "\n\n".join(parts) + "\n"


def significance_latex(table: Table) -> str:
    """One longtable, which breaks over pages."""
    group = table.group
    caption = escape(f"{group.dataset}, profile {group.profile}. {explanation(table)}")
    header = " & ".join([*map(escape, HEADER[:5]), "$p$", "Holm", "$d_z$"]) + r" \\"
    lines = [r"% needs \usepackage{booktabs,longtable}", r"{\scriptsize\setlength{\tabcolsep}{3pt}"]
    lines += [r"\begin{longtable}{llrrrrrr}", rf"\caption{{{caption}}}"]
    lines += [rf"\label{{tab:{table.name.replace('_', '-')}-significance}} \\"]
    lines += [r"\toprule", header, r"\midrule", r"\endfirsthead", r"\toprule", header, r"\midrule", r"\endhead"]
    lines += [r"\bottomrule", r"\endfoot"]
    for i, (pair, of) in enumerate(_by_pair(table)):
        teacher, student = group.networks[pair]
        note = _left_out(table, pair, len(of))
        title = escape(f"{teacher} → {student}{f' ({note})' if note else ''}")
        lines += [r"\midrule"] if i else []
        lines += [rf"\multicolumn{{8}}{{l}}{{\emph{{{title}}}}} \\*"]
        lines += [" & ".join(map(escape, _cells(c)[:8])) + r" \\" for c in of]
    return "\n".join([*lines, r"\end{longtable}}", ""])


def significance_csv(table: Table) -> str:
    """One line a comparison; p-values to seven significant digits."""
    group = table.group
    place = {"dataset": group.dataset, "profile": group.profile}
    rows = [
        place
        | {"pair": c.pair, "method": c.row.method, "label": c.row.label}
        | {"identity": c.row.seed_groups[c.pair].identity, "other_method": c.other.method, "other_label": c.other.label}
        | {"other_identity": c.other.seed_groups[c.pair].identity, "n": c.n, "seeds": " ".join(map(str, c.seeds))}
        | {"difference": c.difference, "low": c.low, "high": c.high, "d_z": c.d_z, "note": c.note}
        | {k: _digits(getattr(c, k)) for k in ("t_p", "t_holm")}
        | {"significant": {1: "better", -1: "worse", 0: "" if math.isnan(c.t_holm) else "none"}[c.significant]}
        for c in table.comparisons
    ]
    columns = [
        "dataset", "profile", "pair", "method", "label", "identity", "other_method", "other_label", "other_identity",
        "n", "seeds", "difference", "low", "high", "t_p", "t_holm", "d_z", "significant",
        "note",
    ]  # fmt: skip
    return csv_text(columns, rows)


def _digits(p: float) -> str:
    return "" if math.isnan(p) else f"{p:.7g}"


# ---------------------------------------------------------------- ranks over pairs


def _order(ranking: Ranking) -> list[int]:
    """Rows by their average rank."""
    return sorted(range(len(ranking.rows)), key=lambda i: (ranking.average[i], i))


def friedman_note(ranking: Ranking) -> str:
    """Friedman's and Nemenyi's tests in words."""
    k, pairs = len(ranking.rows), len(ranking.pairs)
    text = f"{k} rows on {pairs} pairs. "
    if k < 3:
        return f"{text}Friedman's test needs three rows."
    p = f"p {p_value(ranking.friedman_p)}" if ranking.friedman_p < 0.001 else f"p = {p_value(ranking.friedman_p)}"
    text += f"Friedman: χ²({k - 1}) = {fixed(ranking.friedman)}, {p}"
    text += " (its χ² is a rough approximation for fewer than 10 pairs)" if pairs < 10 else ""
    return (
        f"{text}. Nemenyi: average ranks that differ by less than {fixed(ranking.critical_difference)} are not told "
        "apart at 5 %."
    )


def ranks_markdown(table: Table, ranking: Ranking) -> str:
    group, order = table.group, _order(ranking)
    labels = [ranking.rows[i].label for i in order]
    seeds = sorted({len(s) for s in ranking.seeds.values()})
    within = [ranking.share_within(tau) for tau in TAUS]
    profile = [
        [label, fixed(ranking.average[i]), *(f"{100 * w[i]:.0f} %" for w in within)]
        for i, label in zip(order, labels, strict=True)
    ]
    outcomes = [
        [label, *(NOTHING if i == j else "/".join(map(str, outcome(ranking, i, j))) for j in order)]
        for i, label in zip(order, labels, strict=True)
    ]
    parts = [
        f"## {group.dataset}, profile {group.profile}: ranks over pairs",
        f"Rows that have runs on every pair, ranked on each by their mean over the seeds that all of them have "
        f"({', '.join(map(str, seeds))} a pair); 1 is the best. ≤ τ: share of pairs on which a row is at most τ points "
        "below the best (performance profile).",
        grid(["Method", "average rank", *(f"≤ {tau:g}" for tau in TAUS)], profile, left=1),
        friedman_note(ranking),
        "Win/tie/loss, row against column: on how many pairs the row is better, not told apart, worse. A win is a "
        "paired difference whose 95 % interval (Student's t, not corrected) lies above 0.",
        grid(["Method", *labels], outcomes, left=1),
    ]
    if ranking.untested:
        parts.append(
            f"{ranking.untested} comparisons have no interval, for want of three common seeds or of any spread."
        )
    if ranking.exclusions:
        parts.append("Left out:\n\n" + "\n".join(f"- {text}" for text in ranking.exclusions))
    return "\n\n".join(parts) + "\n"


def outcome(ranking: Ranking, i: int, j: int) -> tuple[int, int, int]:
    """Wins, ties and losses of row i against row j."""
    return int(ranking.wins[i, j]), int(ranking.ties[i, j]), int(ranking.wins[j, i])


def ranks_csv(table: Table, ranking: Ranking) -> str:
    """One line a row and pair, and one for each row over all pairs, which has the average rank and the profile."""
    place = {"dataset": table.group.dataset, "profile": table.group.profile}
    within = {f"within_{tau:g}": ranking.share_within(tau) for tau in TAUS}
    rows: list[dict[str, Any]] = []
    for i in _order(ranking):
        about = place | {"method": ranking.rows[i].method, "label": ranking.rows[i].label}
        outcomes = [outcome(ranking, i, j) for j in range(len(ranking.rows)) if i != j]
        totals = {k: _total(outcomes, at) for at, k in enumerate(("wins", "ties", "losses"))}
        profile = {k: float(w[i]) for k, w in within.items()}
        rows.append(about | {"pair": "all", "rank": float(ranking.average[i])} | totals | profile)
        for j, pair in enumerate(ranking.pairs):
            mean, rank = float(ranking.means[i, j]), float(ranking.ranks[i, j])
            rows.append(about | {"pair": pair, "n": len(ranking.seeds[pair]), "mean": mean, "rank": rank})
    columns = ["dataset", "profile", "method", "label", "pair", "n", "mean", "rank", "wins", "ties", "losses", *within]
    return csv_text(columns, rows)


def _total(outcomes: Iterable[Sequence[int]], at: int) -> int:
    return sum(o[at] for o in outcomes)
