"""The finished students that a command line chooses, for the commands that read their weights."""

from collections.abc import Sequence
from pathlib import Path

from benchmark.config.overrides import expand_seeds
from benchmark.config.pairs import lists
from benchmark.config.schema import StudentFilters
from benchmark.runs.folder import RunFolder, location
from benchmark.runs.record import TEACHERS


def chosen_students(options: StudentFilters, always: Sequence[str] = ()) -> tuple[list[RunFolder], list[RunFolder]]:
    """Return the runs of students that pass the filters: the finished ones, and those that have a result and no usable
    weights.

    A student alone belongs to all pairs with this student. always: methods that pass the filter of methods.
    """
    root = Path(options.runs).expanduser()
    pairs = [pair for name in options.pair for pair in lists().get(name, [name])]
    seeds = [f"seed={seed}" for seed in expand_seeds(options.seeds)]
    methods = [*options.method, *always] if options.method else []
    folders = [RunFolder(path) for path in sorted(root.glob("*/*/*/*/seed=*")) if path.parts[-4] != TEACHERS]
    chosen = [folder for folder in folders if _passes(folder, options, pairs, methods, seeds)]
    finished = [folder for folder in chosen if folder.done]
    unusable = [folder for folder in chosen if not folder.done and folder.record.problem is None]
    return finished, unusable


def reason_unusable(folder: RunFolder) -> str:
    """Say why the weights of a run cannot be used."""
    if not folder.path.is_dir():
        return "there is no such folder; give that of a run, as <runs>/<data set>/<pair>/<method>/<identity>/seed=0"
    if folder.record.problem is not None:
        return f"it is not finished: {folder.record.problem}"
    return "it has no weights (weights.pt)" if not folder.weights.is_file() else f"its status is {folder.status}"


def _passes(
    folder: RunFolder, options: StudentFilters, pairs: Sequence[str], methods: Sequence[str], seeds: Sequence[str]
) -> bool:
    dataset, pair, method, identity, leaf = location(folder.path)
    if pairs and not any(name == pair or ("-" not in pair and name.endswith(f"-{pair}")) for name in pairs):
        return False
    filters = (
        (options.dataset, dataset), (methods, method), (options.identity, identity), (seeds, leaf),
    )  # fmt: skip
    if not all(not names or name in names for names, name in filters):
        return False
    return not options.profile or folder.config.profile in options.profile  # read last, since it opens a file
