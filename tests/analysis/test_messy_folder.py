"""All outputs of a folder as researchers have it: explorations, trials, unfinished runs, several data sets, people."""

import json
import re
import warnings
from pathlib import Path

import pytest

from tests.analysis.conftest import Tree
from tests.analysis.reading import cells

A, B = "resnet20-resnet8", "resnet56-resnet8"
SECRET = 12.34  # test accuracy of runs that a validation split chooses between
MINE = {"device": "cpu", "name": "My CPU", "threads": 2}
THEIRS = {"device": "cuda", "name": "Their GPU"}
VALIDATION = "cifar100-short+validation"


def fill_messy(tree: Tree) -> None:
    """The paper's runs: two pairs, four methods, three seeds. Beside them what piles up in a year."""
    for network, top1 in (("resnet20", 69.0), ("resnet56", 72.0)):
        tree.teacher(network, top1)
    for i, pair in enumerate((A, B)):
        for seed in range(3):
            noise, hardware = (0.0, 0.3, -0.2)[seed] + 0.01 * i, MINE if seed else THEIRS
            where = {"teacher_top1": 69.0 + 3 * i, "changes": {"hardware": hardware}}
            tree.student(pair, "ce", f"00000000{i}0ce", seed, 60.0 + noise, **where)
            tree.student(pair, "kd", f"00000000{i}0d4", seed, 62.0 - noise, options={"T": 4.0}, **where)
            two_views = {"changes": {"hardware": hardware, "views": 2}}
            tree.student(pair, "crd", f"00000000{i}0c4", seed, 66.0 + noise, **where | two_views)
            tree.student(pair, "clkd", f"00000000{i}0c1", seed, 65.0 + noise / 2, options={"nu": 0.4}, **where)
    # an exploration of one seed that is better than everything
    tree.student(A, "kd", "0000000000d2", 0, 67.89, options={"T": 2.0}, changes={"changed": ["method.T"]})
    # a debug run, and another person's run with another teacher
    tree.student(A, "kd", "0000000000db", 0, 5.55, epochs=1, changes={"changed": ["recipe.epochs"]})
    tree.student(A, "kd", "0000000000ee", 0, 66.66, sha256="e5" * 32, teacher_top1=75.0)
    # trials and settings of an ablation, on a validation split
    for i in range(3):
        folder = tree.student(
            A, "clkd", f"0000000000f{i}", 0, SECRET, options={"nu": 0.1 * i},
            changes={"val_top1_last": 50.0 + i, "changed": ["method.nu", "dataset.validation"]},
        )  # fmt: skip
        lines = [{"epoch": e, "loss": 1.0, "test_top1": SECRET, "val_top1": 40.0 + e} for e in (1, 2, 3)]
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    # unfinished ones
    tree.ended(A, "crd", "0000000000a7", 3, "running")
    tree.ended(B, "clkd", "0000000000a8", 4, "failed", "RuntimeError: out of memory")
    # other data sets
    for name, top1 in (("flowers", 81.0), ("birds", 71.0)):
        for j, method in enumerate(("ce", "kd")):
            tree.student(A, method, f"00000000e{j}{top1:.0f}", 0, top1 + j, dataset=name, profile="quick")


@pytest.fixture
def messy(tree: Tree) -> Tree:
    fill_messy(tree)
    return tree


def texts(folder: Path) -> dict[str, str]:
    """All text files below a folder, by their path."""
    suffixes = (".md", ".tex", ".csv", ".html", ".json")
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.suffix in suffixes}


def test_no_output_shows_a_sealed_test_accuracy(messy, analyse, tmp_path):
    status, out, err = analyse("table", "plots", "structure", "report")
    assert status == 0
    outputs = {"stdout": out, "stderr": err} | texts(tmp_path / "reports")
    assert any(VALIDATION in name for name in outputs)
    for name, text in outputs.items():
        assert "12.34" not in text and "12.3" not in re.sub(r"data:[^\"]*", "", text), name
    assert "52.00" in outputs[f"tables/{VALIDATION}.md"]
    assert "sealed, since it has a validation split" in outputs["report.html"]


def test_curves_of_runs_with_a_validation_split_are_those_of_validation(messy):
    from analysis.figures.curves import learning_curves
    from analysis.grouping import group_runs
    from analysis.load import load_runs

    runs = load_runs(messy.root).finished
    (group,) = group_runs(runs[runs.profile == "short+validation"])
    curves, problems = learning_curves(group, A)
    assert problems == [] and [c.mean.tolist() for c in curves] == [[41.0, 42.0, 43.0]] * 3


def test_the_headline_is_that_of_the_papers_runs(messy, analyse):
    text = analyse("table", "dataset=cifar100", "profile=short")[1]
    accuracy = text.split("### ")[0]
    labels = re.findall(r"^\| (\w.*?) +\|", accuracy, re.M)
    assert labels == ["Method", "Teacher", "Student", "KD", "KD (T=2)", "CRD *", "CLKD"]
    kd, variant, crd, clkd = (cells(accuracy, label) for label in ("KD", "KD (T=2)", "CRD *", "CLKD"))
    assert variant[0] == "67.89 (1)"  # shown, and never marked
    assert crd[0].startswith("66.03") and not crd[0].endswith("**")  # two views
    assert clkd[0].startswith("**65.02") and kd[0].startswith("<u>61.97")
    assert "†" in clkd[0] and kd[1] == "+1.93"
    assert "5.55" not in text and "66.66" not in text
    assert cells(accuracy, "CLKD")[-2] == "65.02"  # mean over pairs
    for line in ("- 1 run of cifar100, profile short with recipe.epochs=1: ", "- 1 run of cifar100, profile short with "
                 "teacher.sha256=e5e5e5e5e5e5: "):  # fmt: skip
        assert line + "make table DATASET=cifar100 PROFILE=short WHERE=" in text
    assert f"- {A} crd seed=3: running or interrupted" in text and "out of memory" in text
    assert "My CPU (cpu, 2 threads), Their GPU (cuda)" in text


def test_the_listed_commands_show_the_other_runs(messy, analyse):
    assert "5.55 (1)" in analyse("table", "profile=short", "where=recipe.epochs=1")[1]
    other = analyse("table", "profile=short", "where=teacher.sha256=e5e5e5e5e5e5")[1]
    assert cells(other, "KD")[0].endswith("66.66 (1)**") and cells(other, "KD")[1] == "+6.63"


def test_marks_do_not_depend_on_runs_that_are_not_in_the_table(messy, analyse):
    before = analyse("table", "profile=short")[1].split("### Cost")[0]
    analyse("drop", "where=recipe.epochs=1")
    analyse("drop", "where=teacher.sha256=e5e5e5e5e5e5")
    after = analyse("table", "profile=short")[1].split("### Cost")[0]
    assert after == before


def test_data_sets_of_ones_own_have_tables_of_their_own(messy, analyse, tmp_path):
    analyse("table")
    tables = {p.name for p in (tmp_path / "reports/tables").glob("*.md")}
    assert {"flowers-quick.md", "birds-quick.md", "cifar100-short.md", f"{VALIDATION}.md"} <= tables
    assert "81.00" not in (tmp_path / "reports/tables/birds-quick.md").read_text()


def test_figures_are_drawn_without_a_warning(messy, analyse):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        status, _, err = analyse("plots", "structure", "dataset=cifar100", "profile=short")
    assert status == 0 and "Traceback" not in err


def test_best_of_an_ablation_and_its_test_accuracy_stand_in_its_own_table_alone(messy, analyse):
    out = analyse("table", "profile=short+validation")[1]
    assert cells(out, "CLKD (nu=0.2)")[0] == "**52.00 (1)**"
    assert "on the validation split" in out and "Teacher" not in out.split("### ")[0]


def test_figures_of_a_validation_split_say_so(messy, analyse, tmp_path):
    assert analyse("report", "profile=short+validation")[0] == 0
    text = (tmp_path / "reports/report.html").read_text()
    assert "validation top-1 against the epoch" in text and "test top-1" not in text
