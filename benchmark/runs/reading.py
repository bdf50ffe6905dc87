"""Reading of files that anyone may have put into a run folder. No torch here.

A reader never hangs on a file that is not one (a FIFO, a device), and what it returns can be walked recursively and
written as UTF-8.
"""

import errno
import json
import os
import re
import stat
from pathlib import Path
from typing import Any, BinaryIO

import yaml

MAX_DEPTH = 50  # of nested lists and mappings; the files of a run need five
LONE_SURROGATES = re.compile("[\ud800-\udfff]")
MAX_VALUES = 100_000  # in a file, after aliases are expanded: a YAML of 1 kB can stand for 10⁹

YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader is ten times as fast


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading. Raises OSError for anything else, without waiting for a FIFO's writer."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return open(descriptor, "rb")


def read_bytes(path: Path) -> bytes:
    """Return the content of a regular file. Raises OSError for anything else, as `open_file` does."""
    with open_file(path) as file:
        return file.read()


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in `path`; None where the file is missing, broken, or holds something else."""
    try:
        value = json.loads(read_bytes(path))
        check_size(value)
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file. Raises OSError, or ValueError with what is wrong with the content."""
    try:
        value = yaml.load(read_bytes(path), YamlLoader)
    except (RecursionError, yaml.YAMLError) as e:
        raise ValueError("it is not valid YAML") from e
    check_size(value)
    return well_formed(value)


def check_size(value: Any) -> None:
    """Raise ValueError where lists and mappings are nested too deeply, within themselves, or hold too many values."""
    level, count = [value], 0
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in _children(parent)]
        count += len(level)
        if not level:
            return
        if count > MAX_VALUES:
            raise ValueError(f"it holds more than {MAX_VALUES:,} values")
    raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")


def well_formed(value: Any) -> Any:
    """Copy a JSON value with U+FFFD in place of lone surrogates, which no file or terminal can take."""
    if isinstance(value, str):
        return LONE_SURROGATES.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, dict):
        return {well_formed(k): well_formed(v) for k, v in value.items()}
    return [well_formed(v) for v in value] if isinstance(value, list) else value


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple | set) else []
