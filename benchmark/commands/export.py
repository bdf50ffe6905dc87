"""`export`: write finished students as safetensors and ONNX with a model card, one folder per run."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.commands.finished_students import chosen_students, reason_unusable
from benchmark.config.command_options import load_export
from benchmark.config.schema import ExportOptions
from benchmark.errors import UserError
from benchmark.runs.folder import RunFolder
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
            raise UserError(f"run={options.run}: {reason_unusable(folder)}")
        return [folder]
    finished, unusable = chosen_students(options)
    for folder in unusable:
        print(f"not exported: {folder.path}: {reason_unusable(folder)}", file=sys.stderr)
    if not finished:
        raise UserError(
            f"no finished runs with weights in {options.runs} pass the filters: see `kd-benchmark table runs=…`"
        )
    return finished
