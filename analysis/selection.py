"""The runs that a command line chooses, in groups, and what it leaves out."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pandas as pd

from analysis import outputs
from analysis.conditions import parse_where
from analysis.exclusions import EXCLUDED, excluded_runs
from analysis.grouping import group_runs
from analysis.groups import ResultGroup
from analysis.load import TEACHERS, Runs, UnfinishedRun, load_runs
from analysis.published import STUDENT
from benchmark.config.pairs import lists
from benchmark.config.schema import AnalysisOptions
from benchmark.errors import UserError, nearest
from benchmark.tables.cells import counted

FILTERS = ("dataset", "profile", "pair", "method")
RUN_FILTERS = (*FILTERS, "identity")
REMEDY = "make some with `make bench PAIR=wrn40_2-wrn16_2`, or give their folder as runs=…"


@dataclass(frozen=True)
class Selection:
    """The chosen runs.

    groups: runs that were trained alike, one group for each data set and profile. families: of the methods of all runs,
    as recorded, by method; without old runs' methods. left_out: what the tables do not show, and the command that shows
    it, one line each.
    """

    options: AnalysisOptions
    groups: list[ResultGroup]
    unfinished: list[UnfinishedRun]
    families: dict[str, str]
    left_out: list[str]

    @property
    def root(self) -> Path:
        """Folder of all runs."""
        return Path(self.options.runs)

    @property
    def reports(self) -> Path:
        """Folder to write to."""
        return Path(self.options.reports)

    @property
    def name(self) -> str:
        """Name that the selection's files carry; empty for all runs."""
        return self.groups[0].name

    def record(self, words: Sequence[str], written: Iterable[Path]) -> Path:
        """Write what the selection's files are made of. words: of the command line; written: the files."""
        return outputs.record(self.options, self.name, self.groups, words, written)

    def unfinished_of(self, group: ResultGroup) -> list[UnfinishedRun]:
        """Return the unfinished runs that would have been in a group."""
        return [run for run in self.unfinished if _belongs(run, group)]

    @property
    def unfinished_elsewhere(self) -> list[UnfinishedRun]:
        """The unfinished runs that belong to none of the groups."""
        return [run for run in self.unfinished if not any(_belongs(run, group) for group in self.groups)]


def _belongs(run: UnfinishedRun, group: ResultGroup) -> bool:
    return run.dataset == group.dataset and run.profile in (group.profile, None)


def select(options: AnalysisOptions) -> Selection:
    """Read all runs and apply the filters.

    Of each data set and profile the runs of the main conditions are chosen, and the others listed. Raises UserError
    where there are no finished runs, for a name that no run has, or where the filters leave nothing.
    """
    everything = load(Path(options.runs))
    known_pairs = {*everything.finished.pair, *(run.pair for run in everything.unfinished)}
    options = replace(options, pair=_pairs(options.pair, known_pairs))
    where = parse_where(options.where)
    is_excluded = everything.finished.folder.isin(excluded_runs(Path(options.runs)))
    available = cast(pd.DataFrame, everything.finished[~is_excluded])
    chosen = filter_runs(available, everything.unfinished, options)
    groups = [] if chosen.empty else group_runs(chosen, options.pair, where)
    if not groups:
        filters = " ".join(
            f"{key}={','.join(getattr(options, key))}" for key in (*RUN_FILTERS, "where") if getattr(options, key)
        )
        raise UserError(f"no finished runs in {options.runs} have all of {filters}")
    name = outputs.selection_name(options)
    main = [replace(group, name=name) for group in groups if not group.conditions]
    shown = {folder for group in main for folder in group.runs.folder}
    left_out = [_other_conditions(group, shown) for group in groups if group.conditions]
    left_out += _other_runs(available, main, groups) if options.identity else []
    n = everything.finished.folder[is_excluded].nunique()
    left_out += [f"{counted(n, 'run')} named in {options.runs}/{EXCLUDED}"] if n else []
    unfinished = [run for run in everything.unfinished if _is_chosen(run, options)]
    _check_highlight(options, everything.finished)
    return Selection(options, main, unfinished, _families(everything.finished), left_out)


def _families(finished: pd.DataFrame) -> dict[str, str]:
    """The recorded family of each method; of several the first by the runs' folders."""
    recorded = finished.dropna(subset="family").drop_duplicates("method")
    return dict(zip(recorded.method, recorded.family, strict=True))


def _check_highlight(options: AnalysisOptions, finished: pd.DataFrame) -> None:
    """Raise UserError for a method to highlight that no run has."""
    available = set(finished.method)
    for name in options.highlight:
        if name not in {*available, "all"}:
            raise UserError(
                f"no runs in {options.runs} have the method to highlight {name!r}{nearest(name, available)}"
            )


def load(root: Path) -> Runs:
    """Read all runs below a folder. Raises UserError where none is finished."""
    if not root.is_dir():
        raise UserError(f"no runs: there is no folder {root} ({REMEDY})")
    everything = load_runs(root)
    if not everything.finished.empty:
        return everything
    if not everything.unfinished:
        raise UserError(f"no runs in {root} ({REMEDY})")
    first, n = everything.unfinished[0].text, len(everything.unfinished)
    raise UserError(f"no finished runs in {root}, {n} unfinished, such as {first} ({REMEDY})")


def filter_runs(runs: pd.DataFrame, unfinished: Iterable[UnfinishedRun], options: AnalysisOptions) -> pd.DataFrame:
    """Return the finished runs with the chosen names, and of the chosen pairs the student alone.

    Raises UserError for a name that no run, finished or not, has.
    """
    unfinished = [run for run in unfinished if run.pair != TEACHERS]
    chosen = runs
    for key in RUN_FILTERS:
        names: list[str] = getattr(options, key)
        available = set(runs[key]) | {name for run in unfinished if (name := getattr(run, key, None))}
        for name in names:
            if name not in available and key != "identity":
                raise UserError(f"no runs in {options.runs} have {key} {name!r}{nearest(name, available)}")
        if names:
            with_student = [*names, STUDENT] if key == "method" else names
            chosen = cast(pd.DataFrame, chosen[chosen[key].isin(with_student)])
    return chosen


def _other_conditions(group: ResultGroup, shown: Collection[Path]) -> str:
    """Say how many runs were trained unlike the `shown` ones of the main group, and which command shows them."""
    where, n = ",".join(group.conditions), len(set(group.runs.folder) - set(shown))
    return f"{counted(n, 'run')} of {group.heading} with {where}: {_command(group, where)}"


def _other_runs(runs: pd.DataFrame, main: Sequence[ResultGroup], groups: Sequence[ResultGroup]) -> list[str]:
    """Say how many runs of the same data set and profile were not asked for, and which command shows them."""
    shown = {folder for group in groups for folder in group.runs.folder}
    lines = []
    for group in main:
        others = runs[(runs.dataset == group.dataset) & (runs.profile == group.profile) & ~runs.folder.isin(shown)]
        if n := others.folder.nunique():
            lines.append(f"{counted(n, 'other run')} of {group.heading}: {_command(group)}")
    return lines


def _command(group: ResultGroup, where: str = "") -> str:
    """Return the command that makes the tables of a data set and profile."""
    condition = f" WHERE='{where}'" if where else ""
    return f"make table DATASET={group.dataset} PROFILE={group.profile}{condition}"


def _pairs(names: Iterable[str], pairs_with_runs: Collection[str]) -> list[str]:
    """Replace each list of `conf/pairs`, such as classic, by its pairs that have runs."""
    named = lists()
    pairs = []
    for name in names:
        with_runs = [pair for pair in named.get(name, ()) if pair in pairs_with_runs]
        pairs += with_runs or [name]
    return pairs


def _is_chosen(run: UnfinishedRun, options: AnalysisOptions) -> bool:
    """Return whether the filters let an unfinished run through. A teacher's belongs to all pairs with this teacher."""
    chosen = not options.dataset or run.dataset in options.dataset
    chosen &= not options.profile or run.profile is None or run.profile in options.profile
    if run.pair == TEACHERS:
        return chosen and (not options.pair or any(pair.startswith(f"{run.method}-") for pair in options.pair))
    chosen &= not options.pair or run.pair in options.pair
    chosen &= not options.identity or run.identity in options.identity
    return chosen and (not options.method or run.method in (*options.method, STUDENT))
