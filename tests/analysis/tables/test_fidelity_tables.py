"""The command `structure`: its tables from a tree of run folders, and every way that outputs can be missing."""

import csv
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from analysis import fidelity
from analysis.groups import group_runs
from analysis.load import load_runs
from analysis.tables import fidelity as structure_tables

PAIR, OTHER = "resnet20-resnet8", "resnet56-resnet20"
TABLES = [
    f"{group}-structure{end}"
    for group in ("cifar100-short", "digits-quick")
    for end in (".md", ".tex", ".csv", "-runs.csv", "-classes.csv", "-confused.csv")
]


def cells(markdown: str, label: str, block: int = 0) -> list[str]:
    """The cells of one row of the `block`-th table that has it."""
    rows = [line for line in markdown.splitlines() if line.startswith(f"| {label} ")]
    return [c.strip() for c in rows[block].strip("|").split("|")][1:]


def csv_rows(tables: Path, name: str) -> list[dict[str, str]]:
    with open(tables / name, newline="") as f:
        return list(csv.DictReader(f))


def outputs(folder: Path, logits: np.ndarray, labels: list[int]) -> None:
    np.savez(folder / "test_outputs.npz", logits=np.array(logits, np.float32), labels=np.array(labels))


@pytest.fixture
def varied(full):
    """The full tree, with outputs that differ between all runs and are right more often than not."""
    for i, path in enumerate(sorted(full.root.glob("**/test_outputs.npz"))):
        labels = np.arange(60) % 3
        logits = np.random.default_rng(i).normal(size=(60, 3)) + 1.5 * np.eye(3)[labels]
        np.savez(path, logits=logits.astype(np.float32), labels=labels, class_names=np.array(["cat", "dog", "emu"]))
    return full


def measure(tree) -> fidelity.Fidelity:
    """The first group, which is CIFAR-100's where the tree has several."""
    return fidelity.measure(group_runs(load_runs(tree.root).finished)[0], tree.root)


def test_every_group_has_its_files(full, analyse, tmp_path):
    status, out, err = analyse("structure")
    assert status == 0
    assert sorted(p.name for p in (tmp_path / "reports" / "tables").iterdir()) == sorted(TABLES)
    assert out.count("## Class structure passed on: ") == 2
    plots = {p.name for p in (tmp_path / "reports" / "plots").iterdir()}
    pairs = (f"cifar100-short-{PAIR}", f"cifar100-short-{OTHER}", f"digits-quick-{PAIR}")
    figures = ("structure", "structure-classes")
    assert plots == {f"{p}-{f}.{kind}" for p in pairs for f in figures for kind in ("png", "pdf")}
    assert err.count("written: ") == len(TABLES) + len(plots)


def test_same_bytes_in_another_process_with_other_hashes(varied, analyse, tmp_path):
    asked = ("structure", "dataset=cifar100", f"pair={OTHER}")
    analyse(*asked)
    subprocess.run(
        [sys.executable, "-m", "analysis", *asked, f"runs={varied.root}", f"reports={tmp_path / 'other'}"],
        check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": "7"},
    )  # fmt: skip
    made = list((tmp_path / "reports").glob("*/*"))
    assert len(made) == 6 + 4
    for path in made:
        assert (tmp_path / "other" / path.parent.name / path.name).read_bytes() == path.read_bytes(), path.name


def test_rows_are_those_of_the_group_and_what_is_unknown_is_a_dash(full, analyse):
    out = analyse("structure", "dataset=cifar100", f"pair={PAIR}")[1]
    labels = [line.split("|")[1].strip() for line in out.splitlines() if line.startswith("| ")]
    assert labels[2:] == ["Teacher", "Student", "KD", "CLKD (nu=0)", "CLKD (nu=0.4)"]
    teacher, kd = cells(out, "Teacher"), cells(out, "KD")
    assert teacher[0] == "1"
    assert [i for i, c in enumerate(teacher) if c == "–"] == [2, 3, 4, 5, 6]
    assert kd[5] == "–"  # three classes have no five first ones
    assert "Not in the table" in out  # what is unfinished is named
    assert "nan" not in out.split("Not in the table")[0].lower()


def test_numbers_by_hand(tree, analyse, tmp_path):
    """Four images of two classes each of a and b: KD's seeds get 3 and 4 right, the student alone 2 and 2."""
    tree.teacher("resnet20", 62.3)
    right = np.array([[4.0, 0], [4, 0], [0, 4], [0, 4]])
    labels = [0, 0, 1, 1]
    outputs(tree.root / "cifar100/teachers/resnet20/aaaaaaaaaaaa/seed=0", right, labels)
    for seed in range(2):
        outputs(tree.student(PAIR, "ce", "0000000000a1", seed, 60.0), right[[0, 2, 0, 2]], labels)
    outputs(tree.student(PAIR, "kd", "0000000000a2", 0, 60.0), right[[0, 2, 2, 2]], labels)
    outputs(tree.student(PAIR, "kd", "0000000000a2", 1, 60.0), right, labels)
    out = analyse("structure")[1]
    kd = cells(out, "KD")
    assert kd[:2] == ["2", "**87.50 ± 17.68**"]
    assert kd[2] == "–"  # two classes have one pair
    assert kd[4] == "**87.50 ± 17.68**"  # agreement
    wrong = 4 * (1 - 2 / (1 + math.exp(4)))  # KL of one image predicted the other way round
    assert kd[6].startswith(f"**{wrong / 4 / 2:.3f} ±")
    certain = 1 / (1 + math.exp(-4))
    ece = 100 * (certain - 0.75 + 1 - certain) / 2
    assert kd[7].startswith(f"**{ece:.2f} ±")
    text = (tmp_path / "reports/tables/cifar100-short-structure.md").read_text()
    assert text.startswith(out)
    assert cells(text, "1")[0] == "+50.00 ± 0.00"
    assert cells(text, "0")[0] == "+25.00 ± 35.36"
    assert "0 → 1 +25.00" in text


def test_marks_follow_what_is_better_and_spare_the_baselines(varied):
    made = measure(varied)
    lines = structure_tables.lines_of(made, PAIR)
    marked = structure_tables.marks(lines)
    methods = {r["label"]: r for r in lines if r["method"] not in ("teacher", "ce")}
    assert {label for label, _ in marked} <= set(methods)
    for key, best in (("kl", min), ("ece", min), ("correlation_distance", min), ("agreement", max), ("top1", max)):
        values = {label: round(r[key], 4) for label, r in methods.items()}
        found = {label for (label, k), mark in marked.items() if k == key and mark == "best"}
        assert best(values, key=values.get) in found
    assert not any(k == "top5_overlap" for _, k in marked)


def test_csv_has_mean_deviation_and_count(varied, tmp_path):
    structure_tables.write(measure(varied), tmp_path / "reports")
    tables = tmp_path / "reports" / "tables"
    rows = csv_rows(tables, "cifar100-short-structure.csv")
    (kd,) = [r for r in rows if r["pair"] == PAIR and r["method"] == "kd"]
    assert (kd["dataset"], kd["profile"], kd["n"]) == ("cifar100", "short", "3")
    each = [
        float(r["agreement"])
        for r in csv_rows(tables, "cifar100-short-structure-runs.csv")
        if r["pair"] == PAIR and r["method"] == "kd"
    ]
    assert float(kd["agreement"]) == pytest.approx(np.mean(each), abs=1e-3)
    assert float(kd["agreement_std"]) == pytest.approx(np.std(each, ddof=1), abs=1e-3)
    assert (kd["top5_overlap"], kd["top5_overlap_n"]) == ("", "0")
    classes = csv_rows(tables, "cifar100-short-structure-classes.csv")
    assert {r["name"] for r in classes} == {"cat", "dog", "emu"}


def test_latex_has_one_tabular_a_pair_and_closes_everything(varied):
    text = structure_tables.latex(measure(varied))
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 1
    assert text.count("{") == text.count("}")
    assert r"resnet20 $\rightarrow$ resnet8" in text
    assert not set("±↑↓–→%").intersection(text.replace(r"\%", "").split("\n", 1)[1].replace("{%", ""))
    (kd,) = [line for line in text.splitlines() if line.startswith("KD ")][:1]
    assert kd.count("&") == 8


def test_broken_outputs_are_named_and_the_rest_is_measured(full, analyse):
    run = full.root / "cifar100" / PAIR / "kd/0000000000a2/seed=0"
    (run / "test_outputs.npz").write_bytes(b"PK\x03\x04 broken")
    status, out, _ = analyse("structure", "dataset=cifar100", f"pair={PAIR}")
    assert status == 0
    assert f"- cifar100/{PAIR}/kd/0000000000a2/seed=0 is left out: no usable test_outputs.npz there" in out
    assert cells(out, "KD")[0] == "2"
    assert cells(out, "Student")[0] == "3"


def test_a_long_list_of_what_is_missing_is_cut_on_the_terminal_only(tree, analyse, tmp_path):
    tree.teacher("resnet20", 62.3)
    tree.student(PAIR, "kd", "0000000000a2", 0, 60.0)
    for seed in range(25):
        (tree.student(PAIR, "ce", "0000000000a1", seed, 60.0) / "test_outputs.npz").unlink()
    out = analyse("structure")[1]
    assert out.count("is left out") == 20
    assert "- and 6 more" in out
    text = (tmp_path / "reports/tables/cifar100-short-structure.md").read_text()
    assert text.count("is left out") == 25


def test_without_any_outputs_it_says_so_and_writes_nothing(full, analyse, tmp_path):
    for path in full.root.glob("cifar100/**/test_outputs.npz"):
        path.unlink()
    status, out, err = analyse("structure", "dataset=cifar100")
    assert status == 2
    assert out == ""
    assert err.startswith("error: nothing to measure on cifar100, profile short, 19 runs; cifar100/")
    assert err.count("\n") == 1
    assert not (tmp_path / "reports").exists()
    status, out, err = analyse("structure")  # digits have theirs
    assert status == 0
    assert "digits, profile quick" in out
    assert "nothing to measure on cifar100" in err
