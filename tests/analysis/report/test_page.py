"""The report page: its content, and its script in a headless Chromium.

Most tests share one page, of a tree in which something of every kind is broken, missing, or hostile.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from analysis.__main__ import main
from analysis.figures import tsne
from benchmark.runs.folder import write_json
from tests.analysis.conftest import Tree, fill

A, B = "resnet20-resnet8", "resnet56-resnet20"
HOSTILE = '<script>document.title="owned"</script> "\'&$\\nosuch$'
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


class Page(HTMLParser):
    """A parsed page: tags with their attributes, and the visible text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.source = path, path.read_text()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._code = False
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._code = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._code = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._code else data

    def all(self, attribute: str) -> list[str]:
        return [a[attribute] or "" for _, a in self.tags if attribute in a]

    def headings(self) -> list[str]:
        return re.findall(r"<h3[^>]*>([^<]*)</h3>", self.source)


def damage(tree: Tree) -> None:
    """Damage files of each kind, and give a method, the classes and a W&B run hostile names."""
    folder = tree.root / "cifar100" / A
    (folder / "kd" / "0000000000a2" / "seed=2" / "result.json").write_text('{"status": "do')
    (folder / "ce" / "0000000000a1" / "seed=1" / "metrics.jsonl").write_bytes(b"\xff\xfe\x00")
    for path in tree.root.rglob("test_outputs.npz"):
        with np.load(path) as saved:
            arrays = {k: saved[k] for k in ("logits", "labels")}
        np.savez(path, **arrays, class_names=np.array([HOSTILE, "'", "$"]))
    (folder / "ce" / "0000000000a1" / "seed=2" / "test_outputs.npz").write_bytes(b"PK")
    result = tree.root / "cifar100" / B / "crd" / "0000000000b4" / "seed=0" / "result.json"
    changes = {"title": HOSTILE, "precision": HOSTILE, "hardware": {"name": HOSTILE}, "versions": {HOSTILE: HOSTILE}}
    write_json(result, json.loads(result.read_text()) | changes)
    write_json(result.with_name("wandb.json"), {"id": HOSTILE, "url": None})
    (folder / "ce" / "0000000000a1" / "seed=0" / "wandb.json").write_text("[1")
    write_json(folder / "kd/0000000000a2/seed=0/wandb.json", {"id": "abc", "url": "https://wandb.ai/a/b/runs/abc"})
    write_json(folder / "kd/0000000000a2/seed=1/wandb.json", {"id": "def", "url": "javascript:alert(1)"})
    ablate(tree)
    (tree.root / "ablations" / "half.json").write_text('{"name": ')


def ablate(tree: Tree) -> None:
    """An ablation of CLKD's nu made of copies of the tree's runs with a validation split; KD's last seed is missing."""

    def row(label: str, method: str, identity: str, nu: float | None, val: list[float]) -> dict:
        original, copy = tree.root / "cifar100" / A / method / identity, f"f{identity[1:]}"
        shutil.copytree(original, original.with_name(copy))
        folders = {str(s): f"cifar100/{A}/{method}/{copy}/seed={s}" for s in range(3)}
        for seed, top1 in enumerate(val):
            path = tree.root / folders[str(seed)] / "result.json"
            write_json(path, json.loads(path.read_text()) | {"identity": copy, "val_top1_last": top1})
        options = {} if label in ("KD", "default") else {"nu": nu}
        about = {"label": label, "method": method, "options": options, "values": {"nu": nu}}
        return about | {"terms": None, "runs": folders, "impossible": None}

    settings = [row("default", "clkd", "0000000000a3", 0.4, [50.0, 51.0, 52.0])]
    settings += [row("nu=0", "clkd", "0000000000a4", 0.0, [53.0, 52.0, 54.0])]
    manifest = {
        "name": "mine", "grid": "mine", "description": "with & without correlation", "dataset": "cifar100",
        "profile": "short", "pair": A, "method": "clkd", "title": "CLKD", "epochs": 20, "validation": 0.1,
        "validation_images": 5000, "seeds": [0, 1, 2], "form": "each", "default": "default", "settings": settings,
        "axes": {"nu": {"values": [0.0, 0.4], "log": False}},
        "references": [row("KD", "kd", "0000000000a2", None, [49.0, 50.0])],
    }  # fmt: skip
    write_json(tree.root / "ablations" / "mine.json", manifest)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Page:
    """The page of the CIFAR-100 runs of the damaged full tree; its figures and tables are beside it."""
    folder = tmp_path_factory.mktemp("report")
    tree = Tree(folder / "runs")
    fill(tree)
    damage(tree)
    rows = [{"method": "kd", "peak_mb": 1357.2}, {"method": "crd", "peak_mb": "much"}, 7]
    write_json(folder / "reports" / "speed" / f"{A}.json", {"rows": rows})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tsne, "MAX_POINTS", 100)
        chosen = ["dataset=cifar100", "profile=short", f"runs={tree.root}", f"reports={folder / 'reports'}"]
        assert main(["report", *chosen]) == 0
    return Page(folder / "reports" / "report.html")


@pytest.fixture
def bare(full) -> Tree:
    """The full tree without test outputs, so that few figures are drawn."""
    for path in full.root.rglob("test_outputs.npz"):
        path.unlink()
    return full


# ---------------------------------------------------------------- what is in it


def test_the_page_has_all_sections_files_and_anchors(page):
    assert page.headings() == [
        "Gains", "Results", "Significance", "Learning curves and time", "Class structure", "t-SNE", "Cost", "Protocol",
        "Provenance", "What is missing",
        "CLKD on resnet20 → resnet8, cifar100, profile short: with &amp; without correlation", "Other runs and files",
    ]  # fmt: skip
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    assert {h[1:] for h in page.all("href") if h.startswith("#")} <= set(ids)
    for name in ("", "-significance", "-structure"):
        assert (page.path.parent / f"tables/cifar100-short{name}.tex").is_file()
    named = re.findall(r"<code>([a-z]+/[^<]+\.pdf)</code>", page.source)
    assert {
        f"plots/cifar100-short-{p}-{f}.pdf" for p in (A, B) for f in ("differences", "curves", "correlation", "tsne")
    } <= set(named)
    assert all((page.path.parent / n).read_bytes().startswith(b"%PDF-") for n in named)


def test_the_page_needs_no_network(page):
    assert all(s.startswith("data:image/") for s in page.all("src"))
    assert [h for h in page.all("href") if not h.startswith("#")] == ["https://wandb.ai/a/b/runs/abc"]
    assert {tag for tag, a in page.tags if "href" in a} == {"a"}
    assert "link" not in {tag for tag, _ in page.tags}
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest", page.source)


def test_every_image_has_a_text_and_every_table_a_caption(page):
    alts = page.all("alt")
    tags = [tag for tag, _ in page.tags]
    assert tags.count("img") == len(alts) > 8
    assert all(len(alt) > 30 for alt in alts)
    assert tags.count("table") == tags.count("caption") > 8
    assert all(a.get("scope") for tag, a in page.tags if tag == "th")


def test_the_numbers_agree_with_hand_computed_ones(page):
    """The student's seeds end at 59, 60 and 61; KD's at 60.25 and 61.25, the third being broken; the better variant of
    CLKD's at 60.5, 61.5 and 62.5."""
    assert "<strong>61.50 ± 1.00 (3)</strong>" in page.source
    assert "<u>60.75 ± 0.71 (2)</u>" in page.source
    assert 'data-value="0.75"' in page.source
    assert ">+0.75<" in page.source
    assert {"65,792", "12,800,005", "1,357"} <= set(re.findall(r">([\d,]+)<", page.source))
    assert page.source.count('data-value="1357.2"') == 1
    assert f"cifar100/{A}/kd/0000000000a2/seed=1" in page.text


def test_missing_runs_and_files_are_named(page):
    for text in (
        f"{B} kd seed=2: running or interrupted",
        f"{A} crd seed=0: diverged: term kd is nan at step 12 (epoch 1)",
        f"{A} kd seed=2: its result.json is missing or broken",
        f"{A} KD: no run with seed 2",
        f"{B} CLKD (nu=0.4): no run with seed 1, 2",
        "seed=1: its metrics.jsonl has no test accuracies",
        f"cifar100/{A}/ce/0000000000a1/seed=2 is left out: no usable test_outputs.npz there",
        "half.json is not an ablation's manifest",
    ):
        assert text in page.text


def test_an_ablation_shows_the_test_accuracy_of_the_chosen_setting_only(page):
    """nu=0 − default: 3, 1 and 2 points. On the test set nu=0 reaches 59.50 and KD 60.75; the default's is 61.50."""
    part = page.source[page.source.index('<section id="ablation-0"') :]
    part = part[: part.index("</section>")]
    assert "<strong>53.00 ± 1.00 (3)</strong>" in part
    assert 'data-value="2.0"><strong>+2.00 [−0.48, +4.48]</strong>' in part
    assert {"59.50", "60.75"} <= set(re.findall(r"\d\d\.\d\d", part))
    assert "61.5" not in part
    assert "KD, seed 2: its result.json is missing or broken" in part
    assert "<code>ablations/mine.pdf</code>" in part
    assert (page.path.parent / "ablations" / "mine.pdf").is_file()


def test_only_tracked_runs_that_are_online_are_linked(page):
    assert "def, offline" in page.text
    assert "javascript:" not in page.source


def test_names_from_run_folders_are_escaped(page):
    assert page.text.count(HOSTILE) > 20
    assert page.source.lower().count("<script") == 1
    assert not any(name.startswith("on") for _, a in page.tags for name in a)


def test_command_line_filters_select_the_runs_of_the_page(bare, analyse, tmp_path):
    assert analyse("report", f"pair={A}", "method=kd", "dataset=cifar100")[:2] == (0, "")
    page = Page(tmp_path / "reports" / "report.html")
    assert B not in page.text
    assert "CLKD" not in page.text
    assert "KD" in page.text


def test_the_page_without_test_outputs_is_the_same_bytes_in_another_process(bare, analyse, tmp_path):
    assert analyse("report", "dataset=digits")[0] == 0
    page = Page(tmp_path / "reports" / "report.html")
    assert "t-SNE" not in page.headings()
    assert f"no t-SNE on {A}: no run has a usable test_outputs.npz beside its teacher's" in page.text
    arguments = ["report", "dataset=digits", f"runs={bare.root}", f"reports={tmp_path / 'other'}"]
    subprocess.run(
        [sys.executable, "-m", "analysis", *arguments], check=True, capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )  # fmt: skip
    assert (tmp_path / "other" / "report.html").read_text() == page.source


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium and chromedriver on PATH (Debian: apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--window-size=1400,900")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(page, chromium) -> Iterator:
    """The page, open; afterwards nothing may stand in the console, and nothing may have been asked of a network."""
    chromium.get_log("browser")
    chromium.get_log("performance")
    chromium.get(page.path.as_uri())
    yield chromium
    assert chromium.get_log("browser") == []
    events = [json.loads(e["message"])["message"] for e in chromium.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert any(u.startswith("file:") for u in urls)
    assert [u for u in urls if not u.startswith(("file:", "data:"))] == []


RESULTS = "#g0-results table"
PAIRWISE = "#g0-significance [aria-label^='Every two rows'] table"


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


ROWS = ["KD", HOSTILE, "CLKD (nu=0)", "CLKD (nu=0.4)"]


def test_columns_sort_by_number_with_missing_values_last(opened):
    """Δ on the first pair, where the student's mean is 68, KD's and CLKD's 69.5 and CRD's 69.004; one variant of CLKD
    has no run there."""
    assert column(opened, 0) == ROWS
    assert titles(opened) == ["Method", "top-1", "Δ", "published", "top-1", "Δ"]
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
    compared = column(opened, 1, PAIRWISE) + column(opened, 2, PAIRWISE)
    assert "KD" in compared
    assert not any(label.startswith("CLKD") for label in compared)
    box(opened, "pairs", A).click()
    assert titles(opened) == ["Method", "top-1", "Δ", "published"]
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


def test_unsupported_pairs_and_unequal_cost_are_shown(tree, tmp_path):
    """A marked label still leads to its runs and is chosen by its method; an impossible cell is n/a."""
    tree.teacher("resnet20", 62.3)
    tree.student(A, "ce", "0000000000a1", 0, 60.0)
    tree.student(A, "kd", "0000000000a2", 0, 61.0, changes={"pre_epochs": 2})
    tree.student(B, "ce", "0000000000b1", 0, 68.0)
    tree.ended(B, "kd", "0000000000b2", 0, "skipped", "it does not fit")
    for path in tree.root.rglob("test_outputs.npz"):
        path.unlink()
    assert main(["report", f"runs={tree.root}", f"reports={tmp_path / 'out'}"]) == 0
    page = Page(tmp_path / "out" / "report.html")
    assert "KD *" in page.text and "n/a" in page.text and "it does not fit" in page.text
    assert any(h.endswith("runs-0000000000a2") for h in page.all("href"))
