"""Ablations' tables and figures from manifests and run folders that are written by hand; golden values by hand."""

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from analysis import ablation
from analysis.figures import ablation as ablation_plots

T = 4.302653  # Student's t at 97.5 % with two degrees of freedom, from a printed table
NAME = "cifar100-short-resnet20-resnet8-mine"
SECRET = 12.34  # test accuracy of settings that were not chosen


class Study:
    """Writes a manifest and its runs below `root`; settings have one option, nu, unless said otherwise."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.read: dict[str, Any] = {
            "name": NAME, "grid": "mine", "description": "its weights", "dataset": "cifar100", "profile": "short",
            "pair": "resnet20-resnet8", "method": "clkd", "title": "CLKD", "epochs": 10, "validation": 0.1,
            "validation_images": 5000, "seeds": [0, 1, 2], "form": "each", "default": "default", "settings": [],
            "axes": {"nu": {"values": [0.1, 0.4, 1.6], "log": True}}, "references": [],
        }  # fmt: skip
        (root / "ablations").mkdir(parents=True)

    def row(
        self, label: str, values: dict[str, Any], val: Sequence[float], test: float = SECRET, *, method: str = "clkd",
        where: str = "settings", options: dict[str, Any] | None = None, terms: list[str] | None = None,
    ) -> list[Path]:  # fmt: skip
        """A setting or reference with its finished runs; returns their folders."""
        identity = f"{len(self.read['settings']) + 100 * len(self.read['references']):012x}"
        runs = {str(s): f"cifar100/resnet20-resnet8/{method}/{identity}/seed={s}" for s in self.read["seeds"]}
        self.read[where].append(
            {"label": label, "method": method, "options": options or {}, "values": values, "terms": terms}
            | {"runs": runs, "impossible": None}
        )
        for seed, top1 in enumerate(val):
            folder = self.root / runs[str(seed)]
            folder.mkdir(parents=True)
            result = {"status": "done", "identity": identity, "seed": seed, "val_top1_last": top1, "top1_last": test}
            (folder / "result.json").write_text(json.dumps(result))
            (folder / "status.json").write_text('{"status": "done", "reason": ""}')
        self.write()
        return [self.root / r for r in runs.values()]

    def write(self) -> None:
        (self.root / "ablations" / f"{NAME}.json").write_text(json.dumps(self.read))

    def references(self) -> None:
        self.row("KD", {"nu": None}, [49.0, 51.0, 50.0], 47.25, method="kd", where="references")
        self.row("Student", {"nu": None}, [45.0, 46.0, 47.0], 44.5, method="ce", where="references")

    @property
    def loaded(self) -> ablation.Ablation:
        (found,), problems = ablation.load(self.root)
        assert problems == []
        return found


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path / "runs")


@pytest.fixture
def weights(study: Study) -> Study:
    """nu at three values: the best is 0.1, by the test set it would be another."""
    study.references()
    study.row("default", {"nu": 0.4}, [50.0, 51.0, 52.0])
    study.row("nu=0.1", {"nu": 0.1}, [51.0, 53.0, 52.0], 48.75, options={"nu": 0.1})
    study.row("nu=1.6", {"nu": 1.6}, [48.0, 49.0, 50.0], 99.0, options={"nu": 1.6})
    return study


def lines(text: str) -> dict[str, list[str]]:
    """The cells of a Markdown table by its first column, without the marks of the best."""
    rows = [[c.strip().strip("*") for c in r.strip("|").split("|")] for r in text.splitlines() if r.startswith("|")]
    return {r[0]: r[1:] for r in rows}


# ---------------------------------------------------------------- the numbers


def test_means_paired_differences_and_their_intervals(weights):
    """nu=0.1 − default: 1, 2, 0, mean 1, sd 1; nu=0.1 − KD: 2, 2, 2; default − KD: 1, 0, 2."""
    rows = lines(ablation.markdown(weights.loaded))
    half = T / math.sqrt(3)
    spread = f"[−{half - 1:.2f}, +{half + 1:.2f}]"
    assert rows["default"] == ["51.00 ± 1.00 (3)", "–", f"+1.00 {spread}", "–"]
    assert rows["nu=0.1"] == ["52.00 ± 1.00 (3)", f"+1.00 {spread}", "+2.00", "48.75 ± 0.00 (3)"]
    assert rows["nu=1.6"][1:] == ["−2.00", f"−1.00 [−{half + 1:.2f}, +{half - 1:.2f}]", "–"]
    assert rows["KD"] == ["50.00 ± 1.00 (3)", "–", "–", "47.25 ± 0.00 (3)"]


def test_the_test_accuracy_is_shown_for_the_chosen_setting_and_the_references_alone(weights, tmp_path):
    found = weights.loaded
    assert found.chosen.label == "nu=0.1"
    for text in (ablation.markdown(found), ablation.latex(found), ablation.long_csv(found)):
        assert "48.75" in text and "47.25" in text and "44.5" in text
        assert "99" not in text and str(SECRET) not in text


def test_seeds_are_paired_and_one_that_is_missing_leaves_the_others(weights):
    """Without seed 1 of the default: nu=0.1 − default is 1, 0 on two seeds, a mean without an interval."""
    run = weights.root / weights.read["settings"][0]["runs"]["1"]
    (run / "status.json").write_text('{"status": "running", "reason": ""}')
    text = ablation.markdown(weights.loaded)
    assert lines(text)["nu=0.1"][1] == "+0.50" and lines(text)["default"][0] == "51.00 ± 1.41 (2)"
    assert "- default, seed 1: running or interrupted" in text and "with the most seeds finished" in text


def test_fewer_than_three_seeds_are_said(study):
    study.read["seeds"] = [0, 1]
    study.row("default", {"nu": 0.4}, [50.0, 51.0])
    study.row("nu=0.1", {"nu": 0.1}, [51.0, 53.0])
    text = ablation.markdown(study.loaded)
    assert "Fewer than 3 seeds: there are no intervals." in text and lines(text)["nu=0.1"][1] == "+1.50"


def test_a_setting_with_fewer_seeds_is_not_chosen(weights):
    weights.row("nu=0.2", {"nu": 0.2}, [90.0], options={"nu": 0.2})
    assert weights.loaded.chosen.label == "nu=0.1"


def test_the_sensitivity_is_the_range_over_the_decade_around_the_default(study):
    """Means 50, 52, 51 at nu 0.13, 0.4, 1.3: 2 points; 0.1 and 4 lie outside, mu is another option."""
    study.read["axes"]["mu"] = {"values": [0.5, 1.0], "log": True}
    study.row("default", {"nu": 0.4, "mu": 0.5}, [51.0, 52.0, 53.0])
    for nu, val in ((0.1, 10), (0.13, 50), (1.3, 51), (4.0, 99)):
        study.row(f"nu={nu}", {"nu": nu, "mu": 0.5}, [val - 2.0, val, val + 2.0])
    study.row("mu=1", {"nu": 0.4, "mu": 1.0}, [40.0, 40.0, 40.0])
    study.row("other", {"nu": 0.5, "mu": 1.0}, [0.0, 0.0, 0.0])
    nu, mu = ablation.sensitivities(study.loaded)
    assert (nu.option, nu.default, nu.values, nu.n) == ("nu", 0.4, [0.13, 0.4, 1.3], 3)
    assert nu.points == pytest.approx(2.0) and nu.std == pytest.approx(math.sqrt((1 + 4 + 4) / 3))
    assert mu.points == pytest.approx(12.0) and mu.std == pytest.approx(math.sqrt(0.5))
    assert "| nu     |     0.4 | 0.13, 0.4, 1.3 |        2.00 |" in ablation.markdown(study.loaded)


def test_settings_of_another_preset_do_not_enter_the_sensitivity(study):
    study.row("default", {"nu": 0.4}, [51.0, 52.0, 53.0])
    study.row("A1", {"nu": 0.5}, [10.0, 10.0, 10.0], method="clkd_a1")
    assert ablation.sensitivities(study.loaded) == []


def test_kd_is_compared_under_the_same_recipe(study):
    study.read["axes"] = {"recipe.batch_size": {"values": [16, 64], "log": True}}
    study.read["form"] = "axes"
    batch = "recipe.batch_size"
    study.row("KD", {batch: 64}, [50.0, 50.0, 50.0], method="kd", where="references")
    study.row("KD (batch_size=16)", {batch: 16}, [40.0, 40.0, 40.0], method="kd", where="references")
    study.row("batch_size=16", {batch: 16}, [41.0, 42.0, 43.0])
    study.row("batch_size=64", {batch: 64}, [52.0, 52.0, 52.0])
    study.read["default"] = "batch_size=64"
    study.write()
    rows = lines(ablation.markdown(study.loaded))
    assert rows["16"][2].startswith("+2.00 [") and rows["64 (default)"][2] == "+2.00"


def test_the_csv_holds_the_table_unrounded(weights):
    rows = {r["label"]: r for r in csv.DictReader(io.StringIO(ablation.long_csv(weights.loaded)))}
    best = rows["nu=0.1"]
    assert (best["chosen"], best["n"], best["seeds"], best["nu"]) == ("1", "3", "0 1 2", "0.1")
    assert float(best["val_low"]) == pytest.approx(52 - T / math.sqrt(3), abs=1e-3)
    assert float(best["delta_default_high"]) == pytest.approx(1 + T / math.sqrt(3), abs=1e-3)
    assert best["test_mean"] == "48.75" and rows["default"]["test_mean"] == "" and rows["KD"]["role"] == "reference"


def test_a_component_table_has_a_column_a_term(study):
    study.read |= {"form": "settings", "axes": {}, "default": "instance + class"}
    study.row("none", {"mu": 0.0}, [1.0, 2.0, 3.0], terms=[], options={"mu": 0.0})
    study.row("instance + class", {"mu": 0.5}, [2.0, 3.0, 4.0], terms=["instance", "class"])
    text = ablation.markdown(study.loaded)
    assert "| instance | class | options" in text and "| –        | –     | mu=0 " in text
    assert "| **✓**    | **✓** |" in text
    tex = ablation.latex(study.loaded)
    assert r"\textbf{$\checkmark$} & \textbf{$\checkmark$} & \textbf{-- (default)}" in tex
    columns = [r.count("&") for r in tex.splitlines() if r.endswith(r"\\")]
    assert set(columns) == {6}


# ---------------------------------------------------------------- what is missing, broken or foreign


def damage(kind: str, run: Path) -> str:
    """Spoils a run; returns what a table must say of it."""
    if kind == "absent":
        for p in run.iterdir():
            p.unlink()
        return "not begun"
    if kind == "half":
        (run / "result.json").write_text('{"status": "done", "ident')
        return "its result.json is missing or broken"
    if kind == "foreign":
        (run / "result.json").write_text(json.dumps({"identity": "f" * 12, "seed": 1, "val_top1_last": 1.0}))
        return "its result.json belongs to another folder"
    if kind == "failed":
        (run / "status.json").write_text('{"status": "failed", "reason": "out of memory"}')
        return "failed: out of memory"
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"val_top1_last": None}))
    return "its result.json has no validation accuracy"


@pytest.mark.parametrize("kind", ["absent", "half", "foreign", "failed", "unvalidated"])
def test_a_run_that_cannot_be_used_is_named_and_the_table_comes(weights, kind, analyse):
    said = damage(kind, weights.root / weights.read["settings"][2]["runs"]["1"])
    status, out, _ = analyse("ablation")
    assert status == 0 and f"- nu=1.6, seed 1: {said}" in out and lines(out)["nu=1.6"][0] == "49.00 ± 1.41 (2)"


def test_an_ablation_without_a_finished_run_has_its_table_and_no_figure(study, analyse, tmp_path):
    study.row("default", {"nu": 0.4}, [])
    status, out, _ = analyse("ablation")
    assert status == 0 and "- default, seed 2: not begun" in out and "NaN" not in out and "nan" not in out
    assert not list(tmp_path.rglob("*.png"))


def test_an_impossible_setting_is_named_with_its_reason(weights):
    weights.row("nu=9", {"nu": 9}, [])
    weights.read["settings"][-1] |= {"runs": {}, "impossible": "it does not fit"}
    weights.write()
    text = ablation.markdown(weights.loaded)
    assert "- nu=9, impossible: it does not fit" in text and lines(text)["nu=9"][0] == "–"


def test_foreign_files_are_passed_over_and_said(weights, analyse):
    folder = weights.root / "ablations"
    (folder / "other.json").write_text('{"name": "x"}')
    (folder / "half.json").write_text('{"name": ')
    (folder / "list.json").write_text("[1]")
    (folder / "notes.txt").write_text("not a manifest")
    status, out, err = analyse("ablation")
    assert status == 0 and err.count("is not an ablation's manifest") == 3 and "| nu=0.1" in out.replace("**", "")


@pytest.mark.parametrize(
    "change",
    [
        {"validation": "x"}, {"validation": None}, {"validation_images": [1]}, {"epochs": "x"}, {"default": "nope"},
        {"axes": {"mu": {"values": [1.0], "log": False}}},
    ],
)  # fmt: skip
def test_a_manifest_of_another_form_is_said(weights, analyse, change):
    weights.read |= change
    weights.write()
    status, _, err = analyse("ablation")
    assert status == 2 and "is not an ablation's manifest" in err and "Traceback" not in err


def test_unlike_configs_are_never_averaged(weights):
    runs = weights.read["settings"][1]["runs"]
    runs["2"] = weights.read["settings"][2]["runs"]["2"]
    weights.write()
    found, problems = ablation.load(weights.root)
    assert found == [] and "the runs of nu=0.1 have unlike configs" in problems[0]


def test_a_manifest_cannot_point_out_of_the_runs(weights):
    runs = weights.read["settings"][1]["runs"]
    weights.read["settings"][1]["runs"] = {s: f"../elsewhere/{r}" for s, r in runs.items()}
    weights.write()
    assert "not below the folder of runs" in ablation.load(weights.root)[1][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["grid=mime"], "has grid 'mime'; did you mean mine"),
        (["gird=mine"], "unknown key 'gird'; did you mean grid"),
        (["runs=nowhere"], "no ablations in nowhere/ablations"),
        (["table"], "ablation stands alone"),
    ],
)
def test_bad_input_gets_one_line(weights, analyse, arguments, message):
    status, _, err = analyse("ablation", *arguments)
    assert status == 2 and message in err and err.count("\n") == 1


def test_the_files_are_the_same_bytes_each_time_and_only_those_asked_for(weights, analyse, tmp_path):
    written: Callable[[], dict[str, bytes]] = lambda: {p.name: p.read_bytes() for p in tmp_path.glob("reports/*/*")}  # noqa: E731
    assert analyse("ablation", "grid=mine", "method=clkd", "pair=resnet20-resnet8")[0] == 0
    first = written()
    assert set(first) == {f"{NAME}{e}" for e in (".md", ".tex", ".csv", ".png", ".pdf")}
    assert analyse("ablation", f"name={NAME}")[0] == 0
    assert written() == first


# ---------------------------------------------------------------- figures


def test_a_weight_is_a_line_with_intervals_on_a_log_scale(weights):
    (ax,) = ablation_plots.draw_lines(weights.loaded).axes
    (own,) = [c for c in ax.containers if c.get_label() == "CLKD"]
    assert ax.get_xscale() == "log" and [t.get_text() for t in ax.get_xticklabels()] == ["0.1", "0.4", "1.6"]
    line, _, (bars,) = own
    assert line.get_xydata().tolist() == [[0.1, 52.0], [0.4, 51.0], [1.6, 49.0]]
    low, high = bars.get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((52 - T / math.sqrt(3), 52 + T / math.sqrt(3)), abs=1e-3)
    levels = {line.get_label(): line.get_ydata()[0] for line in ax.lines if line.get_label() in ("KD", "Student")}
    assert levels == {"KD": 50.0, "Student": 46.0}


def test_two_weights_are_a_heat_map_with_the_default_framed(study):
    study.references()
    study.read |= {"form": "axes", "default": "b"}
    study.read["axes"] = {"alpha": {"values": [1, 2], "log": False}, "beta": {"values": [4, 6, 8], "log": False}}
    for i, (alpha, beta) in enumerate([(1, 4), (1, 6), (1, 8), (2, 4), (2, 6)]):  # one is missing
        study.row("abcde"[i], {"alpha": alpha, "beta": beta}, [50.0 + i] * 3)
    figure = ablation_plots.draw_map(study.loaded)
    ax = figure.axes[0]
    texts = {t.get_position(): t.get_text() for t in ax.texts}
    assert texts == {(0, 0): "50.00", (1, 0): "51.00", (2, 0): "52.00", (0, 1): "53.00", (1, 1): "54.00", (2, 1): "–"}
    assert [p.get_xy() for p in ax.patches] == [(0.5, -0.5)]
    assert "KD 50.00" in figure.get_suptitle()


def test_a_list_of_settings_has_a_row_each(weights):
    weights.read |= {"form": "settings", "axes": {}}
    weights.write()
    (ax,) = ablation_plots.draw_settings(weights.loaded).axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["default", "nu=0.1", "nu=1.6"]
    assert [c[0].get_xydata().tolist() for c in ax.containers] == [[[51.0, 0.0]], [[52.0, 1.0]], [[49.0, 2.0]]]
