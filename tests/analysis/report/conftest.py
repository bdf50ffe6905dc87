"""The page that most tests share, of a tree in which something of every kind is broken, missing, or hostile; and a
headless Chromium."""

import json
import re
import shutil
from collections.abc import Iterator
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
def opened(chromium, page) -> Iterator:  # in this order: without a browser no page is made
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
