"""Where the configuration files are."""

from pathlib import Path

CONF = Path(__file__).resolve().parents[2] / "conf"


def group_names(group: str) -> list[str]:
    """Return the names in one group of `conf/`, such as the methods or the data sets, sorted."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))
