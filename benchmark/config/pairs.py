"""The named lists of pairs in `conf/pairs/`. No torch here: tables are made by the same names."""

from pathlib import Path

import yaml

from benchmark.errors import UserError

FOLDER = Path(__file__).resolve().parents[2] / "conf" / "pairs"


def lists() -> dict[str, list[str]]:
    """The pairs of each list, by its name. Raises UserError for a file that is not understood."""
    return {p.stem: _read(p) for p in sorted(FOLDER.glob("*.yaml"))}


def _read(path: Path) -> list[str]:
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as e:
        raise UserError(f"{path} cannot be read: {e}") from e
    pairs = found.get("pairs") if isinstance(found, dict) else None
    if not isinstance(pairs, list) or not pairs or not all(isinstance(p, str) for p in pairs):
        raise UserError(f"{path} is no list of pairs; it needs pairs: [wrn40_2-wrn16_2, …]")
    return pairs
