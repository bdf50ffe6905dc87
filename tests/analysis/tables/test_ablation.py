"""Tables of ablations; golden values by hand."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.ablation import Ablation
from analysis.tables import ablation as tables
from tests.analysis.reading import csv_records
from tests.analysis.study import NAME, SECRET, T


def lines(text: str) -> dict[str, list[str]]:
    """Return the cells of a Markdown table by its first column, without the marks of the best."""
    rows = [[c.strip().strip("*") for c in r.strip("|").split("|")] for r in text.splitlines() if r.startswith("|")]
    return {row[0]: row[1:] for row in rows}


def written(folder: Path, ablation: Ablation, end: str) -> Path:
    """Write the files of an ablation; return the path of one of them."""
    return next(path for path in tables.write(ablation, folder) if path.name == f"{ablation.name}{end}")


def tex(folder: Path, ablation: Ablation) -> str:
    """Return the LaTeX file."""
    return written(folder, ablation, ".tex").read_text()


def test_cells_show_means_and_paired_differences_with_intervals(weights):
    """nu=0.1 − default: 1, 2, 0, mean 1, sd 1; nu=0.1 − KD: 2, 2, 2; default − KD: 1, 0, 2."""
    rows = lines(tables.document(weights.loaded))
    half = T / math.sqrt(3)
    spread = f"[−{half - 1:.2f}, +{half + 1:.2f}]"
    assert rows["default"] == ["51.00 ± 1.00 (3)", "–", f"+1.00 {spread}", "–"]
    assert rows["nu=0.1"] == ["52.00 ± 1.00 (3)", f"+1.00 {spread}", "+2.00", "48.75 ± 0.00 (3)"]
    assert rows["nu=1.6"][1:] == ["−2.00", f"−1.00 [−{half + 1:.2f}, +{half - 1:.2f}]", "–"]
    assert rows["KD"] == ["50.00 ± 1.00 (3)", "–", "–", "47.25 ± 0.00 (3)"]


def test_test_accuracy_is_shown_for_the_chosen_setting_and_the_references_only(weights, tmp_path):
    ablation = weights.loaded
    assert ablation.chosen.label == "nu=0.1"
    for text in (tables.document(ablation), tex(tmp_path, ablation), written(tmp_path, ablation, ".csv").read_text()):
        assert "48.75" in text and "47.25" in text and "44.5" in text
        assert "99" not in text and str(SECRET) not in text


def test_differences_use_the_common_seeds_only(weights):
    """Without seed 1 of the default: nu=0.1 − default is 1, 0 on two seeds, a mean without an interval."""
    run = weights.root / weights.read["settings"][0]["runs"]["1"]
    (run / "status.json").write_text('{"status": "running", "reason": ""}')
    text = tables.document(weights.loaded)
    assert lines(text)["nu=0.1"][1] == "+0.50" and lines(text)["default"][0] == "51.00 ± 1.41 (2)"
    assert "- default, seed 1: running or interrupted" in text and "with the most seeds finished" in text


def test_a_note_says_that_two_seeds_give_no_intervals(study):
    study.read["seeds"] = [0, 1]
    study.row("default", {"nu": 0.4}, [50.0, 51.0])
    study.row("nu=0.1", {"nu": 0.1}, [51.0, 53.0])
    text = tables.document(study.loaded)
    assert "Fewer than 3 seeds: there are no intervals." in text and lines(text)["nu=0.1"][1] == "+1.50"


def test_kd_with_the_same_recipe_is_the_reference(study):
    study.read["axes"] = {"recipe.batch_size": {"values": [16, 64], "log": True}}
    study.read["form"] = "axes"
    batch = "recipe.batch_size"
    study.row("KD", {batch: 64}, [50.0, 50.0, 50.0], method="kd", where="references")
    study.row("KD (batch_size=16)", {batch: 16}, [40.0, 40.0, 40.0], method="kd", where="references")
    study.row("batch_size=16", {batch: 16}, [41.0, 42.0, 43.0])
    study.row("batch_size=64", {batch: 64}, [52.0, 52.0, 52.0])
    study.read["default"] = "batch_size=64"
    study.write()
    rows = lines(tables.document(study.loaded))
    assert rows["16"][2].startswith("+2.00 [") and rows["64 (default)"][2] == "+2.00"


def test_the_csv_file_has_unrounded_numbers(weights, tmp_path):
    rows = {r["label"]: r for r in csv_records(written(tmp_path, weights.loaded, ".csv"))}
    best = rows["nu=0.1"]
    assert (best["chosen"], best["n"], best["seeds"], best["nu"]) == ("1", "3", "0 1 2", "0.1")
    assert float(best["val_low"]) == pytest.approx(52 - T / math.sqrt(3), abs=1e-3)
    assert float(best["delta_default_high"]) == pytest.approx(1 + T / math.sqrt(3), abs=1e-3)
    assert best["test_mean"] == "48.75" and rows["default"]["test_mean"] == "" and rows["KD"]["role"] == "reference"


def test_each_loss_term_has_a_column(study, tmp_path):
    study.read |= {"form": "settings", "axes": {}, "default": "instance + class"}
    study.row("none", {"mu": 0.0}, [1.0, 2.0, 3.0], terms=[], options={"mu": 0.0})
    study.row("instance + class", {"mu": 0.5}, [2.0, 3.0, 4.0], terms=["instance", "class"])
    text = tables.document(study.loaded)
    assert "| instance | class | options" in text and "| –        | –     | mu=0 " in text
    assert "| **✓**    | **✓** |" in text
    latex = tex(tmp_path, study.loaded)
    assert r"\textbf{$\checkmark$} & \textbf{$\checkmark$} & \textbf{-- (default)}" in latex
    rows = [r for r in latex.splitlines() if r.endswith(r"\\") and "multicolumn" not in r]
    assert {r.count("&") for r in rows} == {7}  # the zero spread of the test accuracies has a column


def test_an_ablation_without_finished_runs_has_a_table_and_no_figure(study, analyse, tmp_path):
    study.row("default", {"nu": 0.4}, [])
    status, out, _ = analyse("ablation")
    assert status == 0 and "- default, seed 2: not started" in out and "NaN" not in out and "nan" not in out
    assert not list(tmp_path.rglob("*.png"))


def test_an_unsupported_setting_is_named_with_the_reason(weights):
    weights.row("nu=9", {"nu": 9}, [])
    weights.read["settings"][-1] |= {"runs": {}, "impossible": "it does not fit"}
    weights.write()
    text = tables.document(weights.loaded)
    assert "- nu=9, not supported: it does not fit" in text and lines(text)["nu=9"][0] == "–"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["grid=mime"], "has grid 'mime'; did you mean mine"),
        (["gird=mine"], "unknown key 'gird'; did you mean grid"),
        (["runs=nowhere"], "no ablations in nowhere/ablations"),
        (["table"], "ablation stands alone"),
    ],
)
def test_bad_arguments_are_reported_on_one_line(weights, analyse, arguments, message):
    status, _, err = analyse("ablation", *arguments)
    assert status == 2 and message in err and err.count("\n") == 1


def test_the_files_of_the_chosen_ablation_are_the_same_bytes_each_time(weights, analyse, tmp_path):
    written: Callable[[], dict[str, bytes]] = lambda: {p.name: p.read_bytes() for p in tmp_path.glob("reports/*/*")}  # noqa: E731
    assert analyse("ablation", "grid=mine", "method=clkd", "pair=resnet20-resnet8")[0] == 0
    first = written()
    assert set(first) == {f"{NAME}{e}" for e in (".md", ".tex", ".csv", ".png", ".pdf")}
    assert analyse("ablation", f"name={NAME}")[0] == 0
    assert written() == first
