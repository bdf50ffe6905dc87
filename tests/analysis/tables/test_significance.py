"""Files of significance and ranks: against scipy and the files of the runs."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

A, B = "resnet20-resnet8", "resnet56-resnet20"


@pytest.fixture
def tested(tree):
    """Four seeds: CLKD far above KD and CRD far below on the first pair, about equal on the second."""
    rng = np.random.default_rng(5)
    for i, (pair, gains) in enumerate({A: {"crd": -3.0, "clkd": 3.0}, B: {"crd": 0.0, "clkd": 0.05}}.items()):
        for seed in range(4):
            for j, (method, gain) in enumerate({"ce": -1.0, "kd": 0.0, **gains}.items()):
                top1 = 60 + seed + gain + round(rng.normal(0, 0.1), 2)
                tree.student(pair, method, f"{i:06x}{j:06x}", seed, top1)
    return tree


def read(reports: Path, name: str) -> list[dict[str, str]]:
    with open(reports / "tables" / name, newline="") as f:
        return list(csv.DictReader(f))


def test_daggers_in_all_formats(tested, analyse, tmp_path):
    out = analyse("table")[1]
    block = out.split("### Against KD")[0]
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in block.splitlines() if line.startswith("| ")]
    ends = {(pair, r[0]): r[rows[0].index(pair)][-1] for r in rows for pair in (A, B)}
    assert (ends[A, "CLKD"], ends[A, "CRD"]) == ("†", "‡")
    assert not {ends[A, "KD"], ends[A, "Student"], ends[B, "CLKD"], ends[B, "CRD"]} & {"†", "‡"}
    assert block.count("†") == 2  # one entry and the explanation
    assert "corrected for the family of all comparisons with KD on the pair, 2 here (Bonferroni)" in block
    tex = (tmp_path / "reports/tables/cifar100-short.tex").read_text()
    assert tex.count(r"\textsuperscript{$\dagger$}") == 1
    assert tex.count(r"\textsuperscript{$\ddagger$}") == 1
    marked = {(r["pair"], r["method"]): r["significance_kd"] for r in read(tmp_path / "reports", "cifar100-short.csv")}
    assert (marked[A, "clkd"], marked[A, "crd"]) == ("better", "worse")
    assert marked[B, "clkd"] == marked[B, "crd"] == "none"
    assert marked[A, "kd"] == marked[A, "ce"] == ""


def test_the_summary_against_kd(tested, analyse, tmp_path):
    out = analyse("table")[1]
    summary = out.split("### Against KD")[1].split("### Cost")[0]
    (line,) = (x for x in summary.splitlines() if x.startswith("| CLKD "))
    (row,) = (
        r
        for r in read(tmp_path / "reports", "cifar100-short-significance.csv")
        if (r["pair"], r["method"], r["other_method"]) == (A, "clkd", "kd")
    )
    text = line.split("|")[3].strip()
    assert text.startswith(f"+{float(row['difference']):.2f} [+{float(row['low']):.2f}, +{float(row['high']):.2f}] p ")
    assert text.endswith("(4) †")


def test_the_files_of_significance(tested, analyse, tmp_path):
    status, _, err = analyse("table")
    assert status == 0
    rows = read(tmp_path / "reports", "cifar100-short-significance.csv")
    assert len(rows) == 2 * (2 + 3)
    by_rows = {(r["pair"], r["method"], r["other_method"]): r for r in rows}
    top1 = {}
    for method in ("kd", "crd"):
        (folder,) = (tested.root / "cifar100" / A / method).iterdir()
        top1[method] = [json.loads((folder / f"seed={s}/result.json").read_text())["top1_last"] for s in range(4)]
    difference = np.mean(np.subtract(top1["crd"], top1["kd"]))
    row = by_rows[A, "crd", "kd"]
    assert float(row["difference"]) == pytest.approx(difference, abs=1e-4)
    assert (row["n"], row["seeds"], row["significant"], row["family_size"]) == ("4", "0 1 2 3", "worse", "2")
    assert float(row["p_adjusted"]) == pytest.approx(2 * float(row["p"]), rel=1e-5)
    error = (float(row["low"]) - difference) / stats.t.ppf(0.05 / 2 / 2, float(row["df"]))
    assert float(row["p"]) == pytest.approx(2 * stats.t.sf(abs(difference) / error, float(row["df"])), rel=0.01)
    assert by_rows[A, "kd", "ce"]["family_size"] == "3"
    markdown = (tmp_path / "reports/tables/cifar100-short-significance.md").read_text()
    assert "Tests in the families of each pair: 2 against KD, 3 against the student alone." in markdown
    assert len([x for x in markdown.splitlines() if x.startswith("| CLKD ")]) == 4
    ranks = (tmp_path / "reports/tables/cifar100-short-ranks.md").read_text()
    assert "4 rows on 2 pairs. Friedman: χ²(3) = " in ranks
    assert err.count("-significance.") == 3 and err.count("-ranks.") == 3


def test_every_two_rows_are_compared_on_request(tested, analyse, tmp_path):
    analyse("table", "pairwise=true")
    rows = read(tmp_path / "reports", "cifar100-short-pairwise.csv")
    assert len(rows) == 2 * 6 and {r["family_size"] for r in rows} == {"6"}
    for pair in (A, B):
        p = {r["p"]: float(r["p_adjusted"]) for r in rows if r["pair"] == pair}
        ordered = sorted(p, key=float)
        steps = [(6 - i) * float(text) for i, text in enumerate(ordered)]
        expected = [min(1, max(steps[: i + 1])) for i in range(6)]
        assert [p[text] for text in ordered] == pytest.approx(expected, rel=1e-5)
    markdown = (tmp_path / "reports/tables/cifar100-short-pairwise.md").read_text()
    assert "Holm's correction over the family" in markdown and f"{A}: 6 tests." in markdown
    assert "[" not in markdown.split("### ")[1]  # no intervals beside a step-down correction
    families = read(tmp_path / "reports", "cifar100-short-significance.csv")
    assert {r["family_size"] for r in families} == {"2", "3"}  # unchanged


def test_every_two_rows_are_compared_by_table_only(tested, analyse, tmp_path):
    assert analyse("table")[0] == 0
    assert not list((tmp_path / "reports/tables").glob("*-pairwise.*"))
    status, _, err = analyse("plots", "pairwise=true")
    assert status == 2 and "unknown key 'pairwise'" in err


def test_one_pair_has_no_ranks(tested, analyse, tmp_path):
    analyse("table", f"pair={A}")
    names = {p.name for p in (tmp_path / "reports" / "tables").iterdir()}
    assert f"cifar100-short-{A}-significance.md" in names
    assert f"cifar100-short-{A}-ranks.md" not in names


def test_fewer_than_three_seeds_are_reported_without_an_explanation(tree, analyse, tmp_path):
    for seed in (0, 1):
        tree.student(A, "kd", "0000000000a1", seed, 60.0 + seed)
        tree.student(A, "crd", "0000000000a2", seed, 65.0)
    out = analyse("table")[1]
    assert "No test against KD: 2 seeds in common, and at least 3 are needed." in out
    assert "†" not in out and "### Against KD" not in out
    markdown = (tmp_path / "reports/tables/cifar100-short-significance.md").read_text()
    assert "n = 2: too few for a test" in markdown
    assert "No test was made: at most 2 seeds in common" in markdown
    assert "nan" not in markdown + (tmp_path / "reports/tables/cifar100-short-significance.csv").read_text()


def test_several_variants_of_kd_are_reported(tree, analyse):
    for seed in range(3):
        changes = {"changed": ["method.T"]}
        tree.student(A, "kd", "0000000000a1", seed, 60.0 + seed, options={"T": 2.0}, changes=changes)
        tree.student(A, "kd", "0000000000a2", seed, 60.1 + seed, options={"T": 4.0}, changes=changes)
        tree.student(A, "crd", "0000000000a3", seed, 61.0)
    assert "No test against KD: none of its variants here is the default." in analyse("table")[1]


def test_a_table_needs_no_scipy_where_nothing_is_tested(tree, tmp_path):
    tree.student(A, "kd", "0000000000a1", 0, 60.0)
    tree.student(A, "ce", "0000000000a2", 0, 59.0)
    program = (
        "import sys; from analysis.__main__ import main; s = main(sys.argv[1:]); sys.exit(s or 'scipy' in sys.modules)"
    )
    process = subprocess.run(
        [sys.executable, "-c", program, "table", f"runs={tree.root}", f"reports={tmp_path / 'r'}"], capture_output=True
    )
    assert process.returncode == 0, process.stderr
