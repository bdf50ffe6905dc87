"""Whether the text of a figure can be read, measured on the boxes that the renderer draws it in."""

import itertools
import warnings

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from analysis.figures import style

SMALLEST = 7.0  # points
TOLERANCE = 0.5  # pixels of 1/100 inch by which boxes may touch


def drawn_texts(figure: Figure) -> list[tuple[Text, Bbox]]:
    """The texts that are drawn, tick labels outside the axes' limits left out, with their boxes in pixels."""
    texts: list[tuple[Text, Bbox]] = []
    draw = Text.draw

    def record(self, renderer, *args, **kwargs):
        if self.get_visible() and self.get_text().strip():
            texts.append((self, self.get_window_extent(renderer)))
        return draw(self, renderer, *args, **kwargs)

    figure.set_dpi(100)
    canvas = FigureCanvasAgg(figure)
    Text.draw = record
    try:
        canvas.draw()
    finally:
        Text.draw = draw
    return texts


def flaws(figure: Figure) -> list[str]:
    """Texts that overlap, leave the canvas or are too small at the width that the figure is meant for, warnings of the
    renderer, and a figure that is no column's width or higher than a page; empty for a figure that can be read."""
    with warnings.catch_warnings(record=True) as caught, matplotlib.rc_context(style.STYLE):
        warnings.simplefilter("always")
        texts = drawn_texts(figure)
    width, height = figure.get_size_inches()
    found = [f"warning: {w.message}" for w in caught]
    if round(width, 6) not in (style.COLUMN_WIDTH, style.TEXT_WIDTH):
        found.append(f"{width} inches wide")
    if height > style.PAGE_HEIGHT + 0.5:
        found.append(f"{height:.2f} inches high")
    canvas = Bbox([[0, 0], [100 * width, 100 * height]])
    for text, box in texts:
        if not (box.x0 >= -TOLERANCE and box.y0 >= -TOLERANCE and box.x1 <= canvas.x1 + TOLERANCE
                and box.y1 <= canvas.y1 + TOLERANCE):  # fmt: skip
            found.append(f"outside: {text.get_text()!r}")
        if text.get_fontsize() < SMALLEST:
            found.append(f"{text.get_fontsize()} pt: {text.get_text()!r}")
    for (a, first), (b, second) in itertools.combinations(texts, 2):
        wide = min(first.x1, second.x1) - max(first.x0, second.x0)
        high = min(first.y1, second.y1) - max(first.y0, second.y0)
        if wide > TOLERANCE and high > TOLERANCE:
            found.append(f"overlap: {a.get_text()!r} {b.get_text()!r}")
    return found
