"""`plan`: print what `bench` would do."""

from collections.abc import Sequence

from benchmark.config.compose import load_config
from benchmark.grid import plan as grid


def run(words: Sequence[str]) -> int:
    """Print the plan; return the exit status."""
    print(grid.make_plan(load_config(words), words).text())
    return 0
