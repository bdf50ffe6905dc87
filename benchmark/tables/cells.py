"""Numbers as the tables write them: text with fixed digits, true minus signs, and a dash where nothing is known."""

import math
from collections.abc import Mapping
from typing import TypeVar

from benchmark.tables.model import BEST, EMPTY, NOTHING, SECOND, Cell

Key = TypeVar("Key")


def fixed(value: float, digits: int = 2) -> str:
    """Return a number with `digits` decimals."""
    return NOTHING if math.isnan(value) else f"{value:.{digits}f}"


def signed(value: float) -> str:
    """Return a difference in points with its sign; none where it rounds to zero."""
    text = fixed(abs(value))
    if math.isnan(value) or float(text) == 0:
        return text
    return f"{'+' if value > 0 else '−'}{text}"


def p_value(p: float) -> str:
    """Return a p-value with three digits."""
    return "<0.001" if p < 0.001 else fixed(p, 3)


def counted(n: int, noun: str) -> str:
    """Return a number of things: `1 run`, `2 runs`."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def best_and_second(printed: Mapping[Key, str], better: int = 1) -> dict[Key, str]:
    """Return the marks of the best and the second of printed numbers, by key; equal ones share a mark.

    better: 1 where a higher number is better, −1 where a lower one is.
    """
    ranked = sorted(set(printed.values()) - {NOTHING}, key=float, reverse=better > 0)[:2]
    return {key: (BEST, SECOND)[ranked.index(text)] for key, text in printed.items() if text in ranked}


def number(value: float | None, digits: int = 2) -> Cell:
    """Return a cell of a number; of a dash for None and NaN."""
    return EMPTY if value is None or math.isnan(value) else Cell(fixed(value, digits), value=value)


def integer(value: float | None) -> Cell:
    """Return a cell of a whole number with commas between thousands."""
    return EMPTY if value is None or math.isnan(value) else Cell(f"{value:,.0f}", value=value)


def difference(value: float, low: float = math.nan, high: float = math.nan) -> Cell:
    """Return a cell of a difference, with its interval [low, high] where there is one."""
    if math.isnan(value):
        return EMPTY
    return Cell(signed(value), "" if math.isnan(low) else f"[{signed(low)}, {signed(high)}]", value=value)


def mean(value: float, std: float, n: int, digits: int = 2) -> Cell:
    """Return a cell of a mean ± sample standard deviation (number of runs)."""
    if math.isnan(value):
        return EMPTY
    return Cell(fixed(value, digits), value=value, spread="" if math.isnan(std) else fixed(std, digits), count=n)


def duration(seconds: float) -> Cell:
    """Return a cell of a time as h:mm:ss."""
    if math.isnan(seconds):
        return EMPTY
    minutes, rest = divmod(round(seconds), 60)
    return Cell(f"{minutes // 60}:{minutes % 60:02}:{rest:02}", value=seconds)
