"""The named lists of pairs in `conf/pairs/`. No torch here: tables are made by the same names."""

from pathlib import Path

import yaml

FOLDER = Path(__file__).resolve().parent.parent / "conf" / "pairs"


def lists() -> dict[str, list[str]]:
    """The pairs of each list, by its name."""
    return {p.stem: yaml.safe_load(p.read_text())["pairs"] for p in sorted(FOLDER.glob("*.yaml"))}
