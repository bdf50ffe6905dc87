"""Colors and markers of methods."""

import colorsys
import subprocess
import sys

import pytest
from matplotlib.colors import to_rgb

from analysis.figures import palette
from tests.analysis.figures.many import FAMILIES


def hue(method: str, family: str | None = None) -> float:
    return colorsys.rgb_to_hls(*to_rgb(palette.method_mark(method, family)[0]))[0]


def contrast_with_white(color: str) -> float:
    """The contrast ratio of WCAG 2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)


def test_no_two_methods_of_the_suite_look_alike():
    assert len(set(palette.METHODS.values())) == len(palette.METHODS)
    assert len({color for color, _ in palette.METHODS.values()}) == len(palette.METHODS)
    assert all(contrast_with_white(color) > 2.2 for color, _ in palette.METHODS.values())


def test_text_in_the_color_of_a_method_can_be_read():
    """Darkened to a contrast of 4.5, in steps of 3 %, by which the contrast grows less than 0.4; dark colors stay."""
    for color, _ in palette.METHODS.values():
        text = palette.text_color(color)
        assert contrast_with_white(text) >= 4.5
        assert text == color if contrast_with_white(color) >= 4.5 else contrast_with_white(text) < 4.9


@pytest.mark.parametrize("family", ["logits", "features", "relations"])
def test_families_share_hues(family):
    """Blue to magenta, red to yellow, and green, of the methods with chosen colors and of any others."""
    low, high = {"logits": (0.48, 0.93), "features": (0.88, 1.2), "relations": (0.15, 0.5)}[family]
    chosen = [hue(method) for method in FAMILIES[family].split() if method in palette.METHODS]
    others = [hue(f"custom{i}", family) for i in range(50)]
    for value in [*chosen, *others]:
        assert low <= value <= high or low <= value + 1 <= high


def test_the_color_of_a_custom_method_follows_from_its_name():
    mark = palette.method_mark("my_method", "logits")
    code = "from analysis.figures import palette; print(palette.method_mark('my_method', 'logits'))"
    other_process = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert other_process.stdout.strip() == str(mark)
    colors = {palette.method_mark(f"custom{i}")[0] for i in range(40)}
    assert len(colors) > 35
    assert all(contrast_with_white(color) > 1.9 for color in colors)


def test_variants_share_the_color_and_differ_by_mark_and_dashes():
    rows = [palette.row_style("clkd", variant, "logits") for variant in range(8)]
    assert {row.color for row in rows} == {palette.METHODS["clkd"][0]}
    assert len({(row.marker, row.filled) for row in rows}) == 8
    assert len({row.dashes for row in rows[:4]}) == 4
    assert rows[0].marker == palette.METHODS["clkd"][1] and rows[0].filled and rows[0].dashes == "-"


def test_a_row_that_recedes_is_gray_and_keeps_its_mark():
    row = palette.row_style("kd", 0, "logits", highlighted=False)
    assert (row.color, row.marker) == (palette.OTHER_COLOR, "o")
