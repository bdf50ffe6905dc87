"""`export`: write finished students as safetensors and ONNX with a model card, one folder per run."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.config.command_options import load_export
from benchmark.config.schema import ExportOptions
from benchmark.errors import UserError
from benchmark.runs.folder import RunFolder, location
from benchmark.runs.record import TEACHERS
from benchmark.runs.weights import DamagedFile

PACKAGES = ("safetensors", "onnx", "onnxscript")


def run(words: Sequence[str]) -> int:
    """Export the chosen runs; return the exit status: 1 where one of them could not be exported."""
    options = load_export(words)
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{', '.join(missing)} not installed: pip install 'kd-benchmark[export]'")
    from benchmark.export.files import export, folder_name

    status = 0
    for folder in chosen_runs(options):
        target = Path(options.exports).expanduser() / folder_name(folder)
        try:
            export(folder, target)
        except DamagedFile as e:
            print(f"not exported: {folder.path}: {e}", file=sys.stderr)
            status = 1
        else:
            print(f"written: {target}", flush=True)
    return status


def chosen_runs(options: ExportOptions) -> list[RunFolder]:
    """Return the finished runs that the options choose, and name those without weights on standard error.

    Raises UserError where there are none.
    """
    if options.run is not None:
        folder = RunFolder(Path(options.run).expanduser())
        if not folder.done:
            raise UserError(f"run={options.run}: {_problem(folder)}")
        return [folder]
    root = Path(options.runs).expanduser()
    folders = [RunFolder(path) for path in sorted(root.glob("*/*/*/*/seed=*")) if path.parts[-4] != TEACHERS]
    chosen = [folder for folder in folders if _passes(folder, options)]
    finished = [folder for folder in chosen if folder.done]
    for folder in chosen:
        if not folder.done and folder.record.problem is None:
            print(f"not exported: {folder.path}: {_problem(folder)}", file=sys.stderr)
    if not finished:
        raise UserError(f"no finished runs with weights in {root} pass the filters: see `kd-benchmark table runs=…`")
    return finished


def _problem(folder: RunFolder) -> str:
    """Why a run cannot be exported."""
    if not folder.path.is_dir():
        return "there is no such folder; give that of a run, as <runs>/<data set>/<pair>/<method>/<identity>/seed=0"
    if folder.record.problem is not None:
        return f"it is not finished: {folder.record.problem}"
    return "it has no weights (weights.pt)" if not folder.weights.is_file() else f"its status is {folder.status}"


def _passes(folder: RunFolder, options: ExportOptions) -> bool:
    dataset, pair, method, identity, leaf = location(folder.path)
    if options.pair and not any(
        name == pair or ("-" not in pair and name.endswith(f"-{pair}")) for name in options.pair
    ):
        return False
    filters = (
        (options.dataset, dataset), (options.method, method), (options.identity, identity),
        ([f"seed={seed}" for seed in options.seeds], leaf),
    )  # fmt: skip
    if not all(not names or name in names for names, name in filters):
        return False
    return not options.profile or folder.config.profile in options.profile  # read last, since it opens a file
