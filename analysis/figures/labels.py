"""Text that fits: measured in inches, wrapped, shortened, and spread so that no two labels overlap."""

import functools
import re
from collections.abc import Sequence

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

SMALL, NORMAL, TITLE = 7.0, 8.0, 9.0  # points; SMALL is the smallest that a figure has in print
LINE = 1.35 / 72  # inches from line to line per point of size
ELLIPSIS = "…"
FAMILY = "DejaVu Sans"  # comes with matplotlib


@functools.lru_cache(maxsize=4096)
def text_width(text: str, size: float = SMALL) -> float:
    """Return the width of a text of one line in inches. size: in points."""
    font = FontProperties(family=FAMILY, size=size)
    return TextToPath().get_text_width_height_descent(text, font, False)[0] / 72  # type: ignore[arg-type]


def widest(texts: Sequence[str], size: float = SMALL) -> float:
    """Return the width of the widest of some texts in inches, line by line; 0 of none."""
    return max((text_width(line, size) for text in texts for line in text.split("\n")), default=0.0)


def height_of(text: str, size: float = SMALL) -> float:
    """Return the height in inches that the lines of a text need."""
    return (text.count("\n") + 1) * LINE * size


def shorten(text: str, inches: float, size: float = SMALL) -> str:
    """Return a text of one line that is at most so wide: its middle is left out, since labels differ at their ends."""
    if text_width(text, size) <= inches:
        return text
    keep = len(text) - 1
    while keep > 1 and text_width(_cut(text, keep), size) > inches:
        keep -= 1
    return _cut(text, keep)


def _cut(text: str, keep: int) -> str:
    end = keep // 2
    return text[: keep - end].rstrip() + ELLIPSIS + text[len(text) - end :].lstrip()


def wrap(text: str, inches: float, size: float = SMALL, lines: int = 2) -> str:
    """Return a text broken at spaces into at most so many lines, each at most so wide; what is left over is shortened
    in the last line. A label is broken before its parenthesis first."""
    if text_width(text, size) <= inches:
        return text
    parts = re.split(r" (?=\()", text, maxsplit=1)
    if len(parts) == 2 and lines > 1 and text_width(parts[0], size) <= inches:
        return f"{parts[0]}\n{wrap(parts[1], inches, size, lines - 1)}"
    words, line = text.split(" "), ""
    while words and lines > 1 and text_width(f"{line} {words[0]}".strip(), size) <= inches:
        line = f"{line} {words.pop(0)}".strip()
    if not line:
        return shorten(text, inches, size)
    return f"{line}\n{wrap(' '.join(words), inches, size, lines - 1)}" if words else line


def fit(texts: Sequence[str], inches: float, size: float = SMALL, lines: int = 1) -> list[str]:
    """Return the texts wrapped and shortened to so many lines of such a width, those that became equal numbered."""
    fitted: list[str] = []
    for text in (text.replace("\n", " ") for text in texts):
        short = wrap(text, inches, size, lines)
        number = 1
        while short in fitted and short != text:
            number += 1
            mark = f" #{number}"
            short = wrap(text, inches - text_width(mark, size), size, lines) + mark
        fitted.append(short)
    return fitted


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return positions between low and high, at least `gap` apart and in the order of the wanted ones, at the least sum
    of squared distances to them. The gap shrinks where there is not enough room.

    By the pool-adjacent-violators algorithm on the positions minus the gaps before them.
    """
    n = len(wanted)
    if not n:
        return []
    gap = min(gap, (high - low) / max(n - 1, 1))
    order = sorted(range(n), key=lambda i: wanted[i])
    pools: list[tuple[float, int]] = []  # mean and size of neighbors that touch each other
    for place, i in enumerate(order):
        mean, size = wanted[i] - place * gap, 1
        while pools and pools[-1][0] >= mean:
            previous, count = pools.pop()
            mean, size = (previous * count + mean * size) / (count + size), count + size
        pools.append((mean, size))
    starts = [min(max(mean, low), high - (n - 1) * gap) for mean, size in pools for _ in range(size)]
    positions = [0.0] * n
    for place, i in enumerate(order):
        positions[i] = starts[place] + place * gap
    return positions
