"""Ablations read from manifests and run folders: chosen settings, sensitivities, and what cannot be used."""

import json
import math
from pathlib import Path

import pytest

from analysis import ablation
from analysis.tables import ablation as tables


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
    assert "| nu     |     0.4 | 0.13, 0.4, 1.3 |        2.00 |" in tables.document(study.loaded)


def test_settings_of_another_preset_do_not_enter_the_sensitivity(study):
    study.row("default", {"nu": 0.4}, [51.0, 52.0, 53.0])
    study.row("A1", {"nu": 0.5}, [10.0, 10.0, 10.0], method="clkd_a1")
    assert ablation.sensitivities(study.loaded) == []


def damage(kind: str, run: Path) -> str:
    """Damage a run; return the reason that must be given."""
    if kind == "absent":
        for p in run.iterdir():
            p.unlink()
        return "not started"
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
def test_an_unusable_run_is_named_with_the_reason(weights, kind):
    reason = damage(kind, weights.root / weights.read["settings"][2]["runs"]["1"])
    loaded = weights.loaded
    assert loaded.missing == [f"nu=1.6, seed 1: {reason}"] and list(loaded.settings[2].val.values()) == [48.0, 50.0]


def test_files_that_are_not_manifests_are_reported(weights, analyse):
    folder = weights.root / "ablations"
    (folder / "other.json").write_text('{"name": "x"}')
    (folder / "half.json").write_text('{"name": ')
    (folder / "list.json").write_text("[1]")
    (folder / "notes.txt").write_text("not a manifest")
    status, out, err = analyse("ablation")
    assert status == 0 and err.count("is not an ablation's manifest") == 3 and "| **nu=0.1** |" in out


@pytest.mark.parametrize(
    "change",
    [
        {"validation": "x"}, {"validation": None}, {"validation_images": [1]}, {"epochs": "x"}, {"default": "nope"},
        {"axes": {"mu": {"values": [1.0], "log": False}}},
    ],
)  # fmt: skip
def test_a_manifest_of_another_form_is_reported(weights, analyse, change):
    weights.read |= change
    weights.write()
    status, _, err = analyse("ablation")
    assert status == 2 and "is not an ablation's manifest" in err and "Traceback" not in err


def test_unlike_configs_are_never_averaged(weights):
    runs = weights.read["settings"][1]["runs"]
    runs["2"] = weights.read["settings"][2]["runs"]["2"]
    weights.write()
    ablations, problems = ablation.load(weights.root)
    assert ablations == [] and "the runs of nu=0.1 have unlike configs" in problems[0]


def test_a_manifest_cannot_refer_to_folders_outside_the_runs(weights):
    runs = weights.read["settings"][1]["runs"]
    weights.read["settings"][1]["runs"] = {s: f"../elsewhere/{r}" for s, r in runs.items()}
    weights.write()
    assert "not below the folder of runs" in ablation.load(weights.root)[1][0]
