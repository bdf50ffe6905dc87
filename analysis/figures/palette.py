"""Color and marker of each method, the same in every figure of a project whatever else the figure shows.

The families share hues: logits blue to magenta, features red to yellow, relations green, the student alone gray. The
methods of the suite have chosen colors, in steps that are as large as their family's hues allow; any other method has
one that follows from its name and its family.
"""

import colorsys
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

STUDENT_COLOR, TEACHER_COLOR = "#767676", "#000000"
OTHER_COLOR = "#b9b9b9"  # of rows that a figure does not highlight
HIGHLIGHT_INK = "#1c1c1c"
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p", "h", ">", "<", "d", "*", "8")
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))  # of a method's variants
CONTRAST = 4.5  # of colored text on white, at least
BRIGHTEST = 0.6  # of a color that follows from a name, so that it can be seen on white
HUES = {"logits": (0.5, 0.92), "features": (-0.05, 0.14), "relations": (0.22, 0.47)}  # of families, in turns
METHODS = {
    "ce": (STUDENT_COLOR, "o"),
    # logits
    "kd": ("#0871c1", "o"), "clkd": ("#ac3599", "s"), "dkd": ("#533d64", "D"), "dist": ("#a68db9", "^"),
    "lskd": ("#8e64e7", "v"), "mlld": ("#6737b7", "P"), "nkd": ("#21abb8", "X"), "ctkd": ("#1d666d", "p"),
    "normkd": ("#e65fb3", "h"), "wttm": ("#1336ac", ">"), "ttm": ("#7b638d", "<"), "loca": ("#76007e", "d"),
    "sdd": ("#5f97f4", "*"), "rld": ("#5f88ab", "8"), "ldrld": ("#853e69", "o"), "clkd_letter": ("#b16792", "s"),
    "clkd_r1": ("#bc70ee", "D"), "clkd_a1": ("#435698", "^"), "clkd_a2": ("#8f0f52", "v"), "clkd_b": ("#6855d6", "P"),
    "cskd": ("#b951c0", "X"), "dkd_ls": ("#0e4f64", "p"), "mlld_ls": ("#3a788b", "h"), "ctkd_ls": ("#541ea0", ">"),
    "sdd_dkd": ("#8c2293", "<"),
    # features
    "crd": ("#dd4a24", "o"), "reviewkd": ("#544714", "s"), "at": ("#a8004c", "D"), "fitnet": ("#a69866", "^"),
    "vid": ("#836d03", "v"), "simkd": ("#a8727d", "P"), "ofd": ("#f35a88", "X"), "nst": ("#8c431f", "p"),
    "ft": ("#762840", "h"), "ab": ("#e07937", ">"), "catkd": ("#b54249", "<"), "crd_kd": ("#ad762f", "d"),
    "fitnet_kd": ("#bf878e", "*"), "dot": ("#da4274", "8"),
    # relations
    "rkd": ("#218258", "o"), "sp": ("#96a212", "s"), "pkt": ("#474c1c", "D"), "cc": ("#2baea1", "^"),
    "fsp": ("#079f2b", "v"), "ickd": ("#828857", "P"),
}  # fmt: skip


@dataclass(frozen=True)
class RowStyle:
    """How a row of a table is drawn. highlighted: False for a row that recedes, in gray, behind others."""

    color: str
    marker: str
    dashes: str | tuple[int, tuple[float, ...]]
    filled: bool
    highlighted: bool = True

    @property
    def line(self) -> dict[str, Any]:
        """Color and dashes of a line."""
        return {"color": self.color, "linestyle": self.dashes}

    @property
    def mark(self) -> dict[str, Any]:
        """Color and shape of a mark."""
        return {"color": self.color, "marker": self.marker, "markerfacecolor": self.color if self.filled else "white"}

    @property
    def bar(self) -> str:
        """Color of error bars, which are drawn above the marks."""
        return HIGHLIGHT_INK if self.highlighted else "#8f8f8f"

    @property
    def ink(self) -> str:
        """Color of the row's name: dark where it is highlighted, so that it can be read."""
        return HIGHLIGHT_INK if self.highlighted else "#6e6e6e"


def method_mark(method: str, family: str | None = None) -> tuple[str, str]:
    """Return color and marker of a method. family: of a method that has no chosen color."""
    if method in METHODS:
        return METHODS[method]
    digest = hashlib.sha256(method.encode()).digest()
    low, high = HUES.get(family or "", (0.0, 1.0))
    hue = low + (high - low) * digest[0] / 255
    lightness, saturation = 0.32 + 0.18 * digest[1] / 255, 0.45 + 0.4 * digest[2] / 255
    rgb = colorsys.hls_to_rgb(hue % 1, lightness, saturation)
    rgb = [part * min(1.0, BRIGHTEST / _brightness(rgb)) for part in rgb]  # yellow and cyan would be hard to see
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb), MARKERS[digest[3] % len(MARKERS)]


def _brightness(rgb: Sequence[float]) -> float:
    """How bright a color looks, 0 … 1, by the luma of ITU-R BT.709."""
    return 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2]


def text_color(color: str) -> str:
    """Return a color for text on white, darkened as far as it needs for the contrast of 4.5 that WCAG 2 asks."""
    rgb = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    while 1.05 / (_luminance(rgb) + 0.05) < CONTRAST:
        rgb = [0.97 * part for part in rgb]
    return "#" + "".join(f"{int(255 * part):02x}" for part in rgb)


def _luminance(rgb: Sequence[float]) -> float:
    """The relative luminance of WCAG 2, 0 … 1."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def row_style(method: str, variant: int, family: str | None, *, highlighted: bool = True) -> RowStyle:
    """Return the style of one variant of a method: the color is the method's, markers and dashes tell variants apart.

    The first variant has the method's own marker, filled; the others have the next ones, every second one hollow.
    """
    color, marker = method_mark(method, family)
    place = (MARKERS.index(marker) + variant) % len(MARKERS)
    color = color if highlighted else OTHER_COLOR
    return RowStyle(color, MARKERS[place], DASHES[variant % len(DASHES)], variant % 2 == 0, highlighted)
