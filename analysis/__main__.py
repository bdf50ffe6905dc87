"""`python -m analysis table|plots|structure|report [key=value …]`: what finished runs show, written to `reports`."""

import re
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from analysis import ablation, scale
from analysis.groups import ResultGroup, group_runs
from analysis.load import TEACHERS, Runs, UnfinishedRun, load_runs
from analysis.published import STUDENT
from analysis.tables import accuracy as tables
from analysis.tables import significance as statistics_tables
from benchmark.config.pairs import lists
from benchmark.errors import UserError, nearest, unwritable

COMMANDS = ("table", "plots", "structure", "report")
USAGE = """usage: python -m analysis table [plots] [structure] [report] [key=value …]

  table       tables of all finished runs: Markdown on the terminal; .md, .tex and .csv in <reports>/tables
  plots       learning curves and class correlations: .png and .pdf in <reports>/plots
  structure   how well class structure is passed on, from the test outputs of all runs: tables and plots likewise
  report      all of it in one page that needs no network, <reports>/report.html, with the files of its tables and plots

  or alone: python -m analysis ablation [key=value …]
              tables and plots of what `python -m benchmark ablate` made, in <reports>/ablations; also name=a,b grid=a,b
  or alone: python -m analysis scale [n=10000]
              seconds and memory that `table` takes for a generated tree of n runs

  runs=runs         folder of all runs
  reports=reports   folder to write to
  dataset=a,b       only these data sets; likewise
  profile=a,b       only these profiles
  pair=a,b          only these pairs, in this order, or those of a list of conf/pairs, such as classic
  method=a,b        only these methods (teacher and student alone always stay); all takes all, as of any of these"""


@dataclass
class Options:
    """The keys of the command line. An empty list takes all."""

    runs: str = "runs"
    reports: str = "reports"
    dataset: list[str] = field(default_factory=list)
    profile: list[str] = field(default_factory=list)
    pair: list[str] = field(default_factory=list)
    method: list[str] = field(default_factory=list)


REMEDY = "make some with `make bench PAIR=wrn40_2-wrn16_2`, or give their folder as runs=…"
FILTERS = ("dataset", "profile", "pair", "method")


def parse(arguments: Sequence[str]) -> tuple[list[str], Options]:
    """Commands and options. Raises UserError for what is not known."""
    commands = [a for a in arguments if "=" not in a]
    for command in commands:
        if command not in COMMANDS:
            raise UserError(f"unknown command {command!r}{nearest(command, COMMANDS)}")
    if not commands:
        raise UserError(f"no command given: python -m analysis with one or more of {', '.join(COMMANDS)}")
    known = [f.name for f in fields(Options)]
    options = Options()
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            continue
        if key not in known:
            raise UserError(f"unknown key {key!r}{nearest(key, known)}")
        names = [name.strip() for name in re.sub(r"^\[(.*)\]$", r"\1", value.strip()).split(",")]
        if not all(names):
            raise UserError(f"{argument!r} has an empty value: write {key}=…")
        setattr(options, key, value if key not in FILTERS else [] if "all" in names else names)
    return commands, options


def select(found: Runs, options: Options) -> Runs:
    """The runs asked for. Raises UserError for a name that no run has, or where no finished one is left."""
    done = found.finished
    options.pair = _pairs(options.pair, {*found.finished.pair, *(u.pair for u in found.unfinished)})
    for key in FILTERS:
        names: list[str] = getattr(options, key)
        known = set(found.finished[key]) | {getattr(u, key) for u in found.unfinished if u.pair != TEACHERS}
        for name in names:
            if name not in known:
                raise UserError(f"no runs in {options.runs} have {key} {name!r}{nearest(name, known - {None})}")
        if names:
            done = done[done[key].isin([*names, STUDENT] if key == "method" else names)]
    if done.empty:
        asked = " ".join(f"{k}={','.join(getattr(options, k))}" for k in FILTERS if getattr(options, k))
        raise UserError(f"no finished runs in {options.runs} have all of {asked}")
    return Runs(done, [u for u in found.unfinished if _asked(u, options)])


def _pairs(names: Iterable[str], known: Collection[str]) -> list[str]:
    """The pairs asked for; a list of `conf/pairs`, such as classic, stands for those of its pairs that have runs."""
    named = lists()
    return [p for n in names for p in ([q for q in named[n] if q in known] or [n] if n in named else [n])]


def _asked(run: UnfinishedRun, options: Options) -> bool:
    """True where the filters leave an unfinished run in. A teacher's belongs to all pairs with it."""
    asked = not options.dataset or run.dataset in options.dataset
    asked &= not options.profile or run.profile is None or run.profile in options.profile
    if run.pair == TEACHERS:
        return asked and (not options.pair or any(p.startswith(f"{run.method}-") for p in options.pair))
    asked &= not options.pair or run.pair in options.pair
    return asked and (not options.method or run.method in (*options.method, STUDENT))


def load(root: Path) -> Runs:
    """All runs below a folder. Raises UserError where none is finished."""
    if not root.is_dir():
        raise UserError(f"no runs: there is no folder {root} ({REMEDY})")
    found = load_runs(root)
    if not found.finished.empty:
        return found
    if not found.unfinished:
        raise UserError(f"no runs in {root} ({REMEDY})")
    first = found.unfinished[0].text
    raise UserError(f"no finished runs in {root}, {len(found.unfinished)} unfinished, such as {first} ({REMEDY})")


def unfinished_of(group: ResultGroup, found: Iterable[UnfinishedRun]) -> list[UnfinishedRun]:
    """The unfinished runs that would have been in a group."""
    return [u for u in found if u.dataset == group.dataset and u.profile in (group.profile, None)]


def make_tables(made: Sequence[ResultGroup], unfinished: Sequence[UnfinishedRun], options: Options) -> list[Path]:
    """Print and write the tables of all groups; returns the files."""
    written = []
    named: set[UnfinishedRun] = set()
    for i, group in enumerate(made):
        beside = unfinished_of(group, unfinished)
        named |= set(beside)
        table = tables.build(group, beside)
        written += tables.write(table, Path(options.reports))
        written += statistics_tables.write(table, Path(options.reports))
        print(("\n" if i else "") + tables.markdown(table), end="")
    if rest := [u for u in unfinished if u not in named]:
        print(f"\n{tables.missing(rest)}")
    return written


def make_plots(made: Sequence[ResultGroup], methods: Iterable[str], options: Options) -> list[Path]:
    """Draw the figures of all groups; returns the files. What cannot be drawn is said on standard error."""
    from analysis.figures import correlation, curves, ranks, style  # importing matplotlib is slower than a table

    colors, reports = style.method_colors(methods), Path(options.reports)
    written = []
    for group in made:
        for paths, problems in (
            curves.write(group, reports, colors),
            correlation.write(group, Path(options.runs), reports),
            ranks.write(group, reports, colors),
        ):
            written += paths
            for problem in problems:
                print(problem, file=sys.stderr)
    return written


def make_structure(made: Sequence[ResultGroup], methods: Iterable[str], found: Runs, options: Options) -> list[Path]:
    """Print and write the measures of class structure of all groups; returns the files. Raises UserError where no run
    has test outputs."""
    from analysis import fidelity
    from analysis.figures import fidelity as fidelity_figures
    from analysis.figures import style
    from analysis.tables import fidelity as structure_tables

    palette, reports = style.method_colors(methods), Path(options.reports)
    written, nothing = [], []
    for group in made:
        measured = fidelity.measure(group, Path(options.runs))
        if not measured.pairs:
            where = f"{group.dataset}, profile {group.profile}"
            nothing.append(f"nothing to measure on {where}, {len(group.runs)} runs; {measured.notes[0]}")
            continue
        beside = unfinished_of(group, found.unfinished)
        print(("\n" if written else "") + structure_tables.markdown(measured, beside), end="")
        written += structure_tables.write(measured, reports, beside)
        written += fidelity_figures.write(measured, reports, palette)
    if not written:
        raise UserError(nothing[0])
    for problem in nothing:
        print(problem, file=sys.stderr)
    return written


def make_report(made: Sequence[ResultGroup], methods: Iterable[str], found: Runs, options: Options) -> list[Path]:
    """Write the page and the files of its tables and figures; returns them all."""
    from analysis.report import page as report  # see `make_plots`

    beside = [(group, unfinished_of(group, found.unfinished)) for group in made]
    named = {u for _, of in beside for u in of}
    rest = [u for u in found.unfinished if u not in named]

    def asked(of: ablation.Ablation) -> bool:
        return all(not getattr(options, k) or getattr(of, k) in getattr(options, k) for k in FILTERS)

    written, problems = report.write(beside, rest, methods, asked, Path(options.runs), Path(options.reports))
    for problem in problems:
        print(problem, file=sys.stderr)
    return written


def main(arguments: Sequence[str]) -> int:
    """Run the commands; returns the exit status."""
    if not arguments or set(arguments) & {"-h", "--help"}:
        print(USAGE)
        return 0
    try:
        if arguments[0] == "scale":
            scale.main(arguments[1:])
            return 0
        if arguments[0] == "ablation":
            for path in ablation.main(arguments[1:]):
                print(f"written: {path}", file=sys.stderr)
            return 0
        commands, options = parse(arguments)
        everything = load(Path(options.runs))
        found = select(everything, options)
        made = group_runs(found.finished, options.pair)
        written = []
        if "table" in commands:
            written += make_tables(made, found.unfinished, options)
        if "plots" in commands:
            written += make_plots(made, everything.finished.method, options)
        if "structure" in commands:
            written += make_structure(made, everything.finished.method, found, options)
        if "report" in commands:
            written += make_report(made, everything.finished.method, found, options)
    except (UserError, OSError) as e:
        print(f"error: {unwritable(e) if isinstance(e, OSError) else e}", file=sys.stderr)
        return 2
    for path in dict.fromkeys(written):
        print(f"written: {path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
