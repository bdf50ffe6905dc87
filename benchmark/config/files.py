"""Where the configuration files are."""

from pathlib import Path

from benchmark.errors import UserError

CONF = Path(__file__).resolve().parents[2] / "conf"


def group_names(group: str) -> list[str]:
    """Return the names in one group of `conf/`, such as the methods or the data sets, sorted."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def check_kinds() -> None:
    """Raise UserError where something in `conf/` is neither a file nor a folder: reading a FIFO would never end."""
    for path in CONF.rglob("*.yaml"):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UserError(f"conf/{path.relative_to(CONF)} is not a regular file: remove it, or write it again")
