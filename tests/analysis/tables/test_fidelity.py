"""Tables of class structure from a tree of run folders, and every way that test outputs can be missing."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from analysis import fidelity
from analysis.fidelity import Fidelity
from analysis.figures import fidelity as figures
from analysis.grouping import group_runs
from analysis.load import load_runs
from analysis.tables import fidelity as tables
from benchmark.tables.model import BEST
from tests.analysis.conftest import Tree
from tests.analysis.reading import cells, csv_records

PAIR = "resnet20-resnet8"
ENDS = (".md", ".tex", ".csv", "-runs.csv", "-classes.csv", "-confused.csv")
WRITE = """
import sys
from pathlib import Path
from tests.analysis.tables.test_fidelity import measure, tables
tables.write(measure(Path(sys.argv[1])), Path(sys.argv[2]))
"""


def outputs(folder: Path, logits: np.ndarray, labels: list[int]) -> None:
    """Replace the test outputs of a run; classes have no names."""
    np.savez(folder / "test_outputs.npz", logits=np.array(logits, np.float32), labels=np.array(labels))


def measure(root: Path) -> Fidelity:
    """Measure the first group, which is CIFAR-100's where the tree has several."""
    return fidelity.measure(group_runs(load_runs(root).finished)[0], root)


@pytest.fixture
def varied(full: Tree) -> Tree:
    """The full tree, with outputs that differ between all runs and are right more often than not."""
    for i, path in enumerate(sorted(full.root.glob("**/test_outputs.npz"))):
        labels = np.arange(60) % 3
        logits = np.random.default_rng(i).normal(size=(60, 3)) + 1.5 * np.eye(3)[labels]
        np.savez(path, logits=logits.astype(np.float32), labels=labels, class_names=np.array(["cat", "dog", "emu"]))
    return full


def test_the_command_writes_tables_and_figures_of_a_group(full, analyse, tmp_path):
    status, out, err = analyse("structure", "dataset=digits")
    assert status == 0 and out.startswith("## Class structure passed on: digits, profile quick\n")
    written = {path.relative_to(tmp_path / "reports").as_posix() for path in tmp_path.glob("reports/[!s]*/*")}
    figures = {f"plots/digits-quick-{PAIR}-structure{end}" for end in (".png", ".pdf", "-classes.png", "-classes.pdf")}
    assert written == figures | {f"tables/digits-quick-structure{end}" for end in ENDS}
    assert err.count("written: ") == len(written) + 1  # and the record of the selection


def test_another_process_with_other_hashes_writes_the_same_bytes(varied, tmp_path):
    paths = tables.write(measure(varied.root), tmp_path)
    subprocess.run(
        [sys.executable, "-c", WRITE, str(varied.root), str(tmp_path / "other")], check=True, capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )  # fmt: skip
    assert [path.name for path in paths] == [f"cifar100-short-structure{end}" for end in ENDS]
    for path in paths:
        assert (tmp_path / "other" / "tables" / path.name).read_bytes() == path.read_bytes(), path.name


def test_rows_are_those_of_the_group_and_unknown_measures_are_dashes(full):
    markdown = tables.document(measure(full.root))
    part = markdown.split(f"### {PAIR}")[1]
    labels = [line.split("|")[1].strip() for line in part.splitlines() if line.startswith("| ")]
    assert labels[2:] == ["Teacher", "Student", "KD", "CLKD (nu=0.4)", "CLKD (nu=0)"]
    teacher, kd = cells(part, "Teacher"), cells(part, "KD")
    assert teacher[0] == "1" and [i for i, cell in enumerate(teacher) if cell == "–"] == [2, 3, 4, 5, 6]
    assert kd[5] == "–"  # three classes have no five first ones
    assert "nan" not in markdown.lower()


def test_numbers_agree_with_hand_computed_ones(tree, tmp_path):
    """Two images of each of two classes: KD's seeds get 3 and 4 right, the student alone 2 and 2."""
    tree.teacher("resnet20", 62.3)
    right, labels = np.array([[4.0, 0], [4, 0], [0, 4], [0, 4]]), [0, 0, 1, 1]
    outputs(tree.root / "cifar100/teachers/resnet20/aaaaaaaaaaaa/seed=0", right, labels)
    for seed in range(2):
        outputs(tree.student(PAIR, "ce", "0000000000a1", seed, 60.0), right[[0, 2, 0, 2]], labels)
    outputs(tree.student(PAIR, "kd", "0000000000a2", 0, 60.0), right[[0, 2, 2, 2]], labels)
    outputs(tree.student(PAIR, "kd", "0000000000a2", 1, 60.0), right, labels)
    tables.write(measure(tree.root), tmp_path)
    markdown = (tmp_path / "tables/cifar100-short-structure.md").read_text()
    kd = cells(markdown, "KD")
    assert kd[:3] == ["2", "**87.50 ± 17.68**", "–"]  # two classes have one pair, so no correlation of pairs
    assert kd[4] == "**87.50 ± 17.68**"  # agreement
    wrong = 4 * (1 - 2 / (1 + math.exp(4)))  # KL of one image predicted the other way round
    assert kd[6].startswith(f"**{wrong / 4 / 2:.3f} ±")
    certain = 1 / (1 + math.exp(-4))
    assert kd[7].startswith(f"**{100 * (certain - 0.75 + 1 - certain) / 2:.2f} ±")
    assert cells(markdown, "1")[0] == "+50.00 ± 0.00" and cells(markdown, "0")[0] == "+25.00 ± 35.36"
    assert re.search(rf"\| {PAIR} \| KD +\| 0 +\| 1 +\| +25.00 \| +0.00 \| \+25.00 \|", markdown)


def test_marks_follow_the_better_direction_and_spare_the_baselines(varied):
    measured = measure(varied.root)
    table = tables.table(measured)
    rows = measured.summary[measured.summary.pair == PAIR].to_dict("records")
    methods = {row["label"]: row for row in rows if row["method"] not in ("teacher", "ce")}
    lines = {line.cells[1].text: line.cells[3:] for line in table.lines if line.pair == PAIR}
    marks = {
        (label, m.key): c.mark for label, row in lines.items() for m, c in zip(fidelity.MEASURES, row, strict=True)
    }
    assert not any(mark for (label, _), mark in marks.items() if label not in methods)
    for key, best in (("kl", min), ("ece", min), ("correlation_distance", min), ("agreement", max), ("top1", max)):
        values = {label: round(row[key], 4) for label, row in methods.items()}
        assert marks[best(values, key=lambda label: values[label]), key] == BEST
    assert not any(mark for (_, key), mark in marks.items() if key == "top5_overlap")


def test_csv_has_mean_deviation_and_count(varied, tmp_path):
    tables.write(measure(varied.root), tmp_path)
    stem = tmp_path / "tables/cifar100-short-structure"
    of_kd = lambda end: [  # noqa: E731
        r for r in csv_records(stem.with_name(stem.name + end)) if (r["pair"], r["method"]) == (PAIR, "kd")
    ]
    (kd,) = of_kd(".csv")
    assert (kd["dataset"], kd["profile"], kd["n"]) == ("cifar100", "short", "3")
    seeds = [float(record["agreement"]) for record in of_kd("-runs.csv")]
    assert float(kd["agreement"]) == pytest.approx(np.mean(seeds), abs=1e-3)
    assert float(kd["agreement_std"]) == pytest.approx(np.std(seeds, ddof=1), abs=1e-3)
    assert (kd["top5_overlap"], kd["top5_overlap_n"]) == ("", "0")
    assert {record["name"] for record in of_kd("-classes.csv")} == {"cat", "dog", "emu"}


def test_latex_has_one_tabular_for_each_pair(varied, tmp_path):
    tables.write(measure(varied.root), tmp_path)
    text = (tmp_path / "tables/cifar100-short-structure.tex").read_text()
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    assert text.count(r"\begin{table*}") == text.count(r"\end{table*}") == 1
    assert rf"{{l}}{{\emph{{{PAIR}}}}}" in text and r"dist. $\downarrow$}" in text
    assert {line.count("&") for line in text.splitlines() if line.startswith(("KD ", "Teacher "))} == {8}


def test_broken_outputs_are_named_and_the_other_runs_are_measured(full, tmp_path):
    (full.root / f"cifar100/{PAIR}/kd/0000000000a2/seed=0/test_outputs.npz").write_bytes(b"PK\x03\x04 broken")
    markdown = tables.document(measure(full.root))
    part = markdown.split(f"### {PAIR}")[1]
    assert f"- cifar100/{PAIR}/kd/0000000000a2/seed=0 is left out: no usable test_outputs.npz there" in part
    assert cells(part, "KD")[0] == "2" and cells(part, "Student")[0] == "3"


def test_long_lists_of_missing_runs_are_cut_on_the_terminal_only(tree, tmp_path):
    tree.teacher("resnet20", 62.3)
    tree.student(PAIR, "kd", "0000000000a2", 0, 60.0)
    for seed in range(25):
        (tree.student(PAIR, "ce", "0000000000a1", seed, 60.0) / "test_outputs.npz").unlink()
    measured = measure(tree.root)
    printed = tables.document(measured)
    assert printed.count("is left out") == 20 and "- and 6 more" in printed
    tables.write(measured, tmp_path)
    assert (tmp_path / "tables/cifar100-short-structure.md").read_text().count("is left out") == 25


def test_groups_without_test_outputs_are_named(full, analyse, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "write", lambda *_: [])
    for path in full.root.glob("cifar100/**/test_outputs.npz"):
        path.unlink()
    status, out, err = analyse("structure", "dataset=cifar100")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: nothing to measure on cifar100, profile short, 19 runs; cifar100/")
    assert not (tmp_path / "reports").exists()
    status, out, err = analyse("structure")  # digits have theirs
    assert status == 0 and "digits, profile quick" in out and "nothing to measure on cifar100" in err
