"""The runs that a command line chooses, in groups."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pandas as pd

from analysis.groups import ResultGroup, group_runs
from analysis.load import TEACHERS, Runs, UnfinishedRun, load_runs
from analysis.published import STUDENT
from benchmark.config.pairs import lists
from benchmark.config.schema import AnalysisOptions
from benchmark.errors import UserError, nearest

FILTERS = ("dataset", "profile", "pair", "method")
REMEDY = "make some with `make bench PAIR=wrn40_2-wrn16_2`, or give their folder as runs=…"


@dataclass(frozen=True)
class Selection:
    """The chosen runs. methods: those of all runs, chosen or not, so that colors do not depend on the choice."""

    options: AnalysisOptions
    groups: list[ResultGroup]
    unfinished: list[UnfinishedRun]
    methods: list[str]

    @property
    def root(self) -> Path:
        """Folder of all runs."""
        return Path(self.options.runs)

    @property
    def reports(self) -> Path:
        """Folder to write to."""
        return Path(self.options.reports)

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

    Raises UserError where there are no finished runs, for a name that no run has, or where the filters leave nothing.
    """
    everything = _load(Path(options.runs))
    known_pairs = {*everything.finished.pair, *(run.pair for run in everything.unfinished)}
    options = replace(options, pair=_pairs(options.pair, known_pairs))
    chosen = everything.finished
    for key in FILTERS:
        names: list[str] = getattr(options, key)
        available = set(everything.finished[key])
        available |= {getattr(run, key) for run in everything.unfinished if run.pair != TEACHERS} - {None}
        for name in names:
            if name not in available:
                raise UserError(f"no runs in {options.runs} have {key} {name!r}{nearest(name, available)}")
        if names:
            with_student = [*names, STUDENT] if key == "method" else names
            chosen = cast(pd.DataFrame, chosen[chosen[key].isin(with_student)])
    if chosen.empty:
        filters = " ".join(f"{key}={','.join(getattr(options, key))}" for key in FILTERS if getattr(options, key))
        raise UserError(f"no finished runs in {options.runs} have all of {filters}")
    unfinished = [run for run in everything.unfinished if _is_chosen(run, options)]
    return Selection(options, group_runs(chosen, options.pair), unfinished, list(everything.finished.method))


def _load(root: Path) -> Runs:
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
    return chosen and (not options.method or run.method in (*options.method, STUDENT))
