"""The report page in a headless Chromium: its script, its layout at two widths, dark, and in print."""

import base64
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.analysis.report.conftest import HOSTILE, A, B

RESULTS = "#g0-results table"
SIGNIFICANCE = "#g0-significance [aria-label^='Differences to KD'] table"


def column(driver, index: int, table: str = RESULTS) -> list[str]:
    """The cells of a column, as far as they can be seen, in the last block of a table."""
    return driver.execute_script(
        "return [...[...document.querySelector(arguments[0]).tBodies].at(-1).rows].filter((row) => !row.hidden)"
        ".map((row) => row.cells[arguments[1]].textContent.trim())",
        table, index,
    )  # fmt: skip


@dataclass
class Heading:
    """A column's heading, and how it is sorted."""

    driver: object
    index: int
    table: str = RESULTS

    @property
    def element(self):
        return self.driver.find_elements("css selector", f"{self.table} th[data-sort]")[self.index]

    @property
    def button(self):
        return self.element.find_element("tag name", "button")

    @property
    def state(self) -> str | None:
        return self.element.get_attribute("aria-sort")


def titles(driver, table: str = RESULTS) -> list[str]:
    """The headings that can be seen."""
    heads = driver.find_elements("css selector", f"{table} th[data-sort]")
    return [h.text.removesuffix(" ↕") for h in heads if h.is_displayed()]


def box(driver, name: str, label: str):
    """A checkbox of the filters."""
    inputs = driver.find_elements("css selector", f"#filters input[name={name}]")
    return next(e for e in inputs if e.find_element("xpath", "..").text.strip().split(" (")[0] == label)


def choose(driver, name: str, to: str) -> None:
    driver.find_element("css selector", f"button[data-set={name}][data-to={to}]").click()


ROWS = ["KD", HOSTILE, "CLKD (nu=0.4)", "CLKD (nu=0)"]


def test_columns_sort_by_number_with_missing_values_last(opened):
    """Δ on the first pair, where the student's mean is 68, KD's and CLKD's 69.5 and CRD's 69.004; one variant of CLKD
    has no run there."""
    assert column(opened, 0) == ROWS
    assert titles(opened) == ["Method", "top-1", "Δ", "published", "top-1", "Δ", "top-1", "rank"]
    delta = Heading(opened, 2)
    states = []
    for _ in range(3):
        delta.button.send_keys("\n")  # as from the keyboard
        states.append((delta.state, column(opened, 0), column(opened, 2)))
    down, up, first = states
    assert down == ("descending", ["KD", "CLKD (nu=0.4)", HOSTILE, "CLKD (nu=0)"], ["+1.50", "+1.50", "+1.00", "–"])
    assert up == ("ascending", [HOSTILE, "KD", "CLKD (nu=0.4)", "CLKD (nu=0)"], ["+1.00", "+1.50", "+1.50", "–"])
    assert first[:2] == (None, ROWS)


def test_one_column_sorts_at_a_time(opened):
    """Δ on the second pair: KD is 0.75 above the student's mean, CLKD's variants 1.50 above and 0.50 below."""
    top1, delta = Heading(opened, 4), Heading(opened, 5)
    top1.button.click()
    delta.button.click()
    assert (top1.state, delta.state) == (None, "descending")
    assert column(opened, 5) == ["+1.50", "+0.75", "−0.50", "–"]
    table = "#g0-cost table"
    buffers = Heading(opened, titles(opened, table).index("extra buffers"), table)
    buffers.button.click()
    assert column(opened, buffers.index, table)[0] == "12,800,005"
    assert delta.state == "descending"  # each table by itself
    method = Heading(opened, 1, table)
    method.button.click()
    names = [label.split()[0] for label in column(opened, 1, table) if label != HOSTILE]
    assert method.state == "ascending"
    assert names == ["CLKD", "CLKD", "CLKD", "KD", "KD", "Student", "Student"]


def test_filters_hide_methods_and_pairs_also_after_sorting(opened):
    box(opened, "methods", "clkd").click()
    assert column(opened, 0) == ["KD", HOSTILE]
    Heading(opened, 1).button.click()
    assert set(column(opened, 0)) == {"KD", HOSTILE}
    compared = column(opened, 1, SIGNIFICANCE) + column(opened, 2, SIGNIFICANCE)
    assert "KD" in compared
    assert not any(label.startswith("CLKD") for label in compared)
    box(opened, "pairs", A).click()
    assert titles(opened) == ["Method", "top-1", "Δ", "published", "top-1", "rank"]
    assert set(column(opened, 0, "#g0-provenance table")) == {B}
    figures = [f for f in opened.find_elements("css selector", "#g0-curves figure") if f.is_displayed()]
    assert [f.text.split(":")[0] for f in figures] == ["resnet56 → resnet20"]
    choose(opened, "methods", "all")
    assert sorted(column(opened, 0)) == sorted(ROWS)


def test_a_notice_appears_when_no_pair_is_selected(opened):
    notice = opened.find_element("id", "nothing")
    assert not notice.is_displayed()
    choose(opened, "pairs", "none")
    assert notice.is_displayed()
    assert not opened.find_element("css selector", RESULTS).is_displayed()
    choose(opened, "pairs", "all")
    assert not notice.is_displayed()


def test_a_mean_links_to_its_runs(opened):
    opened.find_element("css selector", f"{RESULTS} tbody:last-of-type a").click()
    assert f"cifar100/{B}/kd/0000000000b2/seed=0" in opened.find_element("css selector", "tr:target").text


def test_the_printed_page_has_all_tables_and_no_controls(opened):
    content = base64.b64decode(opened.print_page())
    assert content.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", content)) >= 4
    width = 794 - 2 * 49  # CSS pixels of A4 between the margins
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        assert not opened.find_element("id", "filters").is_displayed()
        assert not opened.find_element("tag name", "nav").is_displayed()
        wide = opened.execute_script(
            "return [...document.querySelectorAll('table, img')].map((e) => [e.getBoundingClientRect().right,"
            " e.caption?.textContent ?? e.alt]).filter(([right]) => right > innerWidth + 1)"
        )
        assert wide == []
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_hostile_names_are_never_executed(opened):
    assert opened.title == "Knowledge distillation: report"
    assert HOSTILE in column(opened, 0)


# ---------------------------------------------------------------- layout


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, at most ten seconds."""
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


@pytest.fixture
def resize(opened) -> Iterator[Callable[..., None]]:
    """Set the width of the window, and the media that the page is shown on."""

    def to(width: int, scheme: str = "light") -> None:
        metrics = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 600}
        opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen", "features": features})
        opened.execute_script("for (const e of document.querySelectorAll('details')) e.open = true")

    yield to
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_no_column_is_cut_at_1400_pixels(opened, resize):
    resize(1400)
    cut = opened.execute_script(
        "return [...document.querySelectorAll('.table')].filter((e) => e.scrollWidth > e.clientWidth + 1)"
        ".map((e) => e.ariaLabel)"
    )
    assert cut == []
    assert opened.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_text_needs_no_scrolling_at_420_pixels(opened, resize):
    resize(420)
    assert opened.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    wide = opened.execute_script(
        "return [...document.querySelectorAll('h1, h2, h3, h4, p, li, figcaption, summary, caption, label')]"
        ".filter((e) => e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.textContent.slice(0, 60))"
    )
    assert wide == []
    sizes = opened.execute_script(
        "return [...document.querySelectorAll('figcaption, caption')]"
        ".map((e) => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert sizes and min(sizes) >= 13
    scrolls = opened.execute_script(
        "return [...document.querySelectorAll('.table, .image')].map((e) => getComputedStyle(e).overflowX)"
    )
    assert set(scrolls) == {"auto"}


def luminance(driver, selector: str, attribute: str) -> float:
    """The mean of red, green and blue of a color, 0 … 255."""
    script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    red, green, blue = map(float, re.findall(r"[\d.]+", driver.execute_script(script, selector, attribute))[:3])
    return (red + green + blue) / 3


def test_the_page_is_dark_where_the_reader_prefers_it_and_figures_stay_on_white(opened, resize):
    resize(1400, "dark")
    assert luminance(opened, "body", "backgroundColor") < 60 < 180 < luminance(opened, "body", "color")
    assert luminance(opened, "tbody th", "backgroundColor") < 60
    assert luminance(opened, ".image", "backgroundColor") == 255
    resize(1400, "light")
    assert luminance(opened, "body", "backgroundColor") == 255 and luminance(opened, "body", "color") < 60


def test_links_look_like_links(opened):
    styles = opened.execute_script(
        "return [...document.querySelectorAll('main a, nav a')].map((a) => [getComputedStyle(a).textDecorationLine,"
        " getComputedStyle(a).color, getComputedStyle(a.parentElement).color])"
    )
    assert len(styles) > 10
    assert {line for line, *_ in styles} == {"underline"}
    assert all(color != around for _, color, around in styles)


def test_a_link_opens_the_folded_table_that_it_leads_into(opened):
    row = opened.execute_script(
        "const row = document.querySelector('#g0-provenance tr[id]');"
        "const details = document.createElement('details'); details.className = 'folded';"
        "const table = row.closest('.table'); table.before(details); details.append(table); return row.id"
    )
    details = opened.find_element("css selector", "#g0-provenance details.folded")
    assert details.get_attribute("open") is None
    opened.execute_script("location.hash = arguments[0]", row)
    wait_for(lambda: details.get_attribute("open") is not None)
    assert opened.find_element("css selector", "tr:target").is_displayed()


def test_folded_tables_are_printed(opened):
    opened.execute_script("for (const e of document.querySelectorAll('details.folded')) e.open = false")
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    heights = opened.execute_script(
        "return [...document.querySelectorAll('details.folded table')].map((e) => e.getBoundingClientRect().height)"
    )
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert heights and min(heights) > 50
