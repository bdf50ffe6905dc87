"""`python -m analysis table|plots|structure|report|ablation|scale|simulate [key=value …]`: results of finished runs."""

import sys
from collections.abc import Sequence
from pathlib import Path

from analysis import commands, exclusions, scale, simulation
from analysis.selection import RUN_FILTERS, select
from benchmark.config.command_options import load_analysis
from benchmark.console import protect_streams
from benchmark.errors import UserError, describe_os_error, nearest
from benchmark.tables.cells import counted

COMMANDS = {
    "table": commands.tables,
    "transfer": commands.transfer,
    "plots": commands.plots,
    "structure": commands.fidelity,  # its name on the command line and in file names
    "report": commands.report,
}
FOLDERS = ("runs", "reports")
ALONE = ("ablation", "drop", "restore")  # commands that are not combined with others
TABLE_OPTIONS = ("pairwise",)
ACCURACY_OPTIONS = ("accuracy", "target")  # of table and transfer
MEASUREMENTS = {"scale": scale.main, "simulate": simulation.main}  # of this code itself; they stand alone
FIGURES = ("highlight", "titles", "width")  # keys of the commands that draw figures
USAGE = """usage: python -m analysis table [transfer] [plots] [structure] [report] [key=value …]

  table       tables of all finished runs: Markdown on the terminal; .md, .tex and .csv in <reports>/tables
  transfer    tables of linear probes of the students on other data sets; they are among those of table, too
  plots       gains with their intervals, learning curves, class correlations and ranks: .png and .pdf in
              <reports>/plots, to be shown in a two-column paper as they are
  structure   fidelity: how well class structure is passed on, from the test outputs of all runs; tables and plots
  report      all of it in one page that needs no network, <reports>/report.html, with the files of its tables and plots

  or alone: python -m analysis ablation [key=value …]
              tables and plots of the ablations of `python -m benchmark ablate`, in <reports>/ablations; also name=a,b
              and grid=a,b
  or alone: python -m analysis drop [key=value …] and python -m analysis restore [runs=…]
              move the runs that pass the filters to <runs>/.trash, and all of them back
  or alone: python -m analysis scale [n=10000]
              seconds and memory that `table` takes for a generated tree of n runs
  or alone: python -m analysis simulate [tables=4000] [seed=0]
              false marks and power of the tests of significance, on simulated runs

  runs=runs         folder of all runs
  reports=reports   folder to write to
  dataset=a,b       only these data sets
  profile=a,b       only these profiles
  pair=a,b          only these pairs, in this order, or those of a list of conf/pairs, such as classic
  method=a,b        only these methods (teacher and student alone always stay); all stands for all, in any filter
  identity=a,b      only runs of these identities: the names of their folders
  where=key=value   only runs with this setting, as in where=recipe.epochs=240,precision=fp32
  selection=main    a name for the selection, which its files carry
  accuracy=both     of table and transfer: top1, top5 or both
  target=a,b        of table and transfer: only probes on these data sets
  pairwise=true     of table: also compare every two rows of a pair, in files of their own
  highlight=a,b     methods that stand out in figures of many, or all, the others in gray; by default the student alone,
                    KD, CLKD and the best four
  titles=false      figures without titles, for papers
  width=column      figures for one column of a two-column paper, 3.3 in, as <name>-column; what cannot be read there
                    stays as wide as both columns, 6.9 in, and is named. By default all are so wide: width=page"""


def run(arguments: Sequence[str]) -> list[Path]:
    """Run the commands and return the files that they wrote. Raises UserError for unknown commands and keys."""
    if measure := MEASUREMENTS.get(arguments[0]):
        measure(arguments[1:])
        return []
    names = [argument for argument in arguments if "=" not in argument]
    words = [argument for argument in arguments if "=" in argument]
    if arguments[0] in ALONE:
        if len(names) > 1:
            raise UserError(f"{arguments[0]} stands alone: {names[1]!r} is a command of its own")
        return _run_alone(arguments[0], words)
    for name in names:
        if name not in COMMANDS:
            raise UserError(f"unknown command {name!r}{nearest(name, COMMANDS)}")
    if not names:
        raise UserError(f"no command given: python -m analysis with one or more of {', '.join(COMMANDS)}")
    keys = [*FOLDERS, *RUN_FILTERS, "where", "selection", "command"]
    keys += [*(TABLE_OPTIONS if "table" in names else ()), *(FIGURES if set(names) - {"table", "transfer"} else ())]
    keys += ACCURACY_OPTIONS if {"table", "transfer"} & set(names) else ()
    selection = select(load_analysis(words, keys))
    written = [path for name, command in COMMANDS.items() if name in names for path in command(selection)]
    return [*written, selection.record([*names, *words], written)]


def _run_alone(command: str, words: Sequence[str]) -> list[Path]:
    """Run a command that takes no selection of tables; return the files that it wrote."""
    if command == "ablation":
        return commands.ablation(load_analysis(words, (*FOLDERS, *commands.ABLATION_FILTERS, "titles", "width")))
    if command == "drop":
        options = load_analysis(words, ("runs", *exclusions.FILTERS))
        moved, place = exclusions.drop(options), f"dropped to {options.runs}/{exclusions.TRASH}"
    else:
        options = load_analysis(words, ("runs",))
        moved, place = exclusions.restore(Path(options.runs)), f"restored to {options.runs}"
    print("\n".join([f"{counted(len(moved), 'run')} {place}:", *map(str, moved)]))
    return []


def main(arguments: Sequence[str]) -> int:
    """Run the commands; return the exit status."""
    if not arguments or set(arguments) & {"-h", "--help"}:
        print(USAGE)
        return 0
    try:
        written = run(arguments)
    except (UserError, OSError) as e:
        print(f"error: {describe_os_error(e) if isinstance(e, OSError) else e}", file=sys.stderr)
        return 2
    for path in dict.fromkeys(written):
        print(f"written: {path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    protect_streams()
    sys.exit(main(sys.argv[1:]))
