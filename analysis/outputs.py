"""The names of a selection's files, and what each selection is made of.

Every selection of runs has files of its own. `<reports>/selections/<name>.json` records, by the stem of the files that
carry the name, the command, the time and the run folders behind them. A name that belongs to another selection, of
another folder of runs or other filters, is not taken: the new files get a suffix.
"""

import datetime
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from analysis.groups import ResultGroup
from benchmark.config.schema import AnalysisOptions
from benchmark.runs.folder import SELECTIONS, file_name, read_json, write_json

EVERYTHING = "all"  # name of the record of a selection without a name
LONGEST_NAME = 60  # characters; a longer one is cut and completed by a hash
FILTERS = ("pair", "method", "where", "identity")  # those of data sets and profiles only choose between files


def selection_name(options: AnalysisOptions) -> str:
    """Return the name that a selection's files carry: the user's, else that of its filters; empty without filters."""
    if options.selection:
        name = file_name(options.selection)
    else:
        parts = ["+".join(getattr(options, key)) for key in _filters(options)]
        name = file_name(*filter(None, parts)) if any(parts) else ""
    if len(name) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME - 7].rstrip('-_')}-{_hash(name)[:6]}"
    key = _key(options)
    recorded = read_json(_path(options, name))
    if recorded is None or recorded.get("key") == key:
        return name
    return "-".join(filter(None, (name, key[:6])))


def record(
    options: AnalysisOptions, name: str, groups: Sequence[ResultGroup], words: Sequence[str], written: Iterable[Path]
) -> Path:
    """Write what the files of a selection are made of, and return the path.

    words: of the command line. written: the files of the selection that the command wrote.
    """
    root, reports, path = Path(options.runs), Path(options.reports), _path(options, name)
    earlier = (read_json(path) or {}).get("files")
    files: dict[str, Any] = earlier if isinstance(earlier, dict) else {}  # of other data sets and profiles, too
    stems = [g.stem for g in groups]
    for g in groups:
        by_earlier_commands = [file for file in files.get(g.stem, {}).get("files", []) if (reports / file).is_file()]
        by_this_one = [p.relative_to(reports).as_posix() for p in written if _stem_of(p, stems) == g.stem]
        files[g.stem] = {
            "command": options.command or " ".join(["kd-benchmark", *words]),
            "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "runs": sorted(f.relative_to(root).as_posix() for f in g.runs.folder),
            "files": sorted({*by_earlier_commands, *by_this_one}),
        }
    write_json(path, {"runs_folder": options.runs, "key": _key(options), "files": files})
    return path


def _stem_of(path: Path, stems: Sequence[str]) -> str:
    """The longest of the stems that a file's name starts with; empty for none."""
    return max((stem for stem in stems if path.name.startswith(stem)), key=len, default="")


def _path(options: AnalysisOptions, name: str) -> Path:
    return Path(options.reports) / SELECTIONS / f"{name or EVERYTHING}.json"


def _filters(options: AnalysisOptions) -> list[str]:
    """The filters that make a selection; that of the targets of probes where it is given, as it is younger than some
    records."""
    return [*FILTERS, *(["target"] if options.target else [])]


def _key(options: AnalysisOptions) -> str:
    """Hash of what a selection is: the folder of runs, and the command that it shows the runs of, else the filters."""
    what = [options.command] if options.command else {key: sorted(getattr(options, key)) for key in _filters(options)}
    return _hash(json.dumps([str(Path(options.runs).resolve()), what]))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
