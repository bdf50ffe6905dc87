"""The named lists of pairs in `conf/pairs/`. No torch here: tables use the same names."""

from pathlib import Path

import yaml

from benchmark.config import files
from benchmark.errors import UserError


def lists() -> dict[str, list[str]]:
    """Return the pairs of each list, by its name. Raises UserError for an invalid file."""
    return {path.stem: _read(path) for path in sorted((files.CONF / "pairs").glob("*.yaml"))}


def _read(path: Path) -> list[str]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as e:
        raise UserError(f"{path} cannot be read: {e}") from e
    pairs = content.get("pairs") if isinstance(content, dict) else None
    if not isinstance(pairs, list) or not pairs or not all(isinstance(p, str) for p in pairs):
        raise UserError(f"{path} is no list of pairs; it needs pairs: [wrn40_2-wrn16_2, …]")
    return pairs
