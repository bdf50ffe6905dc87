"""Ablations: grids and their values, what is planned, trained and written, and the sweep for W&B."""

import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from wandb.sdk.launch.sweeps import utils as sweeps

from benchmark.__main__ import main
from benchmark.commands import ablate
from benchmark.commands.ablation_grid import expand_grid
from benchmark.commands.ablation_plan import AblationPlan, plan_ablations
from benchmark.config import files
from benchmark.errors import UserError
from tests.conftest import tiny_overrides, write_tiny
from tests.helpers import plan_of


def planned(arguments: list[str]) -> AblationPlan:
    request = ablate.parse(arguments)
    return plan_ablations(request.grids, request.overrides)[0]


def test_lists_and_scales_on_the_command_line():
    request = ablate.parse(["clkd.nu=0.1,0.2", "clkd.mu=range:0:1:0.5", "clkd.beta=log:1:100:3", "seeds=0,1"])
    (grid,) = request.grids
    settings, axes = expand_grid(grid, {"nu": 0.4, "mu": 0.5, "beta": 2.0})
    assert axes == {"nu": [0.1, 0.2], "mu": [0.0, 0.5, 1.0], "beta": [1, 10, 100]}
    assert len(settings) == 18 and settings[0].options == {"nu": 0.1, "mu": 0.0, "beta": 1}
    assert (grid.method, grid.name, request.overrides) == ("clkd", "clkd-nu-mu-beta", ["seeds=0,1"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["grid=clkd_weigts"], "unknown grid 'clkd_weigts'; did you mean clkd_weights"),
        (["method=dkdd"], "unknown method 'dkdd'; did you mean dkd"),
        (["method=ce"], "there is no grid of ce in conf/ablation"),
        (["grid=dkd", "method=kd"], "the grid dkd is of dkd, not of kd"),
        (["grid=kd", "kd.temperature=1,2"], "give either grid=kd or kd.temperature, not both"),
        (["methods=kd", "grid=kd"], "an ablation is of one method"),
        (["clkd.nu=decade:x"], "cannot read 'clkd.nu=decade:x'"),
        (["grid=clkd_nmse", "train=nothing"], "train cannot be 'nothing'"),
        (["grid=clkd_nmse,kd", "setting=KD"], "setting= chooses from one grid"),
    ],
)
def test_invalid_command_lines(words, message):
    with pytest.raises(UserError, match=re.escape(message)):
        ablate.parse(words)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clkd.nuu=0.1,0.2"], "clkd has no option 'nuu'; did you mean nu"),
        (["kd.temperature=1,2", "method=clkd"], "kd.temperature is no option of clkd and no key of the recipe"),
        (["recipe.batchsize=8,16"], "did you mean recipe.batch_size"),
        (["clkd.nu=range:1:40:1", "clkd.mu=range:1:40:1"], "has 1,600 settings, more than 1,000"),
        (["clkd.nu=0.1,-1"], "clkd.nu is -1.0: it must be at least 0"),
        (["clkd.cc_norm=fro,fro3"], "clkd.cc_norm cannot be 'fro3'; did you mean"),
        (["grid=clkd_components", "clkd.mu=0.4"], "clkd.mu is given, but the grid clkd_components sets it"),
        (["grid=clkd_nmse", "setting=Studen"], "clkd_nmse has no setting 'Studen'; did you mean Student"),
        (["grid=clkd_nmse", "setting=KD"], "the teacher resnet14 is not trained"),
    ],
)
def test_settings_that_cannot_be_planned_are_refused_in_one_line(tiny, tmp_path, capsys, arguments, message):
    assert main(["ablate", *tiny, "dataset.validation=0.25", "train=none", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "runs" / "ablations").exists() and not (tmp_path / "reports").exists()


class FinishedAblation(NamedTuple):
    """The arguments of a command that is done, and the folder that holds its runs and reports."""

    arguments: list[str]
    folder: Path


@pytest.fixture(scope="module")
def finished_ablation(tmp_path_factory) -> FinishedAblation:
    """An ablation of KD's temperature over two seeds, run from end to end."""
    folder = tmp_path_factory.mktemp("ablate")
    arguments = [*tiny_overrides(folder), "seeds=0,1", "recipe.epochs=1", "kd.temperature=2,4"]
    write_tiny(folder / "tiny.npz", train=60)  # one image of each class in the validation split
    torch.set_num_threads(1)
    assert main(["ablate", *arguments, "train=teacher"]) == 0
    assert not list((folder / "runs").glob("npz/resnet14-resnet8/*"))
    assert main(["ablate", *arguments]) == 0
    return FinishedAblation(arguments, folder)


NAME = "npz-quick-resnet14-resnet8-kd-temperature"


def manifest(folder: Path) -> dict:
    return json.loads((folder / "runs" / "ablations" / f"{NAME}.json").read_text())


def test_the_manifest_lists_finished_runs_of_all_settings(finished_ablation):
    content = manifest(finished_ablation.folder)
    about = {
        "method": "kd",
        "title": "KD",
        "form": "axes",
        "seeds": [0, 1],
        "validation": 0.1,
        "validation_images": 6,
        "pair": "resnet14-resnet8",
    }
    assert {k: content[k] for k in about} == about
    assert content["axes"] == {"temperature": {"values": [2, 4], "log": False}}
    assert [r["label"] for r in content["settings"]] == ["temperature=2", "temperature=4"]
    assert content["default"] == "temperature=4" and [r["label"] for r in content["references"]] == ["KD", "Student"]
    assert content["settings"][1]["runs"] == content["references"][0]["runs"]
    for row in content["settings"] + content["references"]:
        assert set(row["runs"]) == {"0", "1"} and row["impossible"] is None
        for folder in row["runs"].values():
            result = json.loads((finished_ablation.folder / "runs" / folder / "result.json").read_text())
            assert result["status"] == "done" and 0 <= result["val_top1_last"] <= 100
    config = yaml.safe_load(
        (finished_ablation.folder / "runs" / content["settings"][0]["runs"]["0"] / "config.yaml").read_text()
    )
    assert config["method"]["temperature"] == 2.0 and config["dataset"]["validation"] == 0.1


def test_a_setting_has_the_runs_that_bench_would_train(finished_ablation):
    overrides = [*finished_ablation.arguments[:-1], "methods=kd,ce", "dataset.validation=0.1", "kd.temperature=2"]
    plan = plan_of(overrides)
    folders = {(c.method, str(c.config["seed"])): c.relative_path for c in plan.students("resnet14")}
    content = manifest(finished_ablation.folder)
    assert content["settings"][0]["runs"] == {s: folders["kd", s] for s in "01"}
    assert content["references"][1]["runs"] == {s: folders["ce", s] for s in "01"}


def test_tables_and_figures_are_written_and_a_second_call_trains_nothing(finished_ablation, capfd):
    files = {p.name.removeprefix(NAME) for p in (finished_ablation.folder / "reports" / "ablations").iterdir()}
    assert files == {".md", ".tex", ".csv", ".png", ".pdf", "-sensitivity.csv", "-sweep.yaml"}
    before = {p: p.stat().st_mtime_ns for p in (finished_ablation.folder / "runs").rglob("weights.pt")}
    assert len(before) == 1 + 3 * 2
    assert main(["ablate", *finished_ablation.arguments]) == 0
    printed = capfd.readouterr().out
    assert "runs: 0 to train, 7 done" in printed and "| temperature |" in printed
    assert {p: p.stat().st_mtime_ns for p in (finished_ablation.folder / "runs").rglob("weights.pt")} == before


def test_a_diverged_setting_is_reported_and_the_others_have_a_table(finished_ablation, capfd, monkeypatch):
    run = finished_ablation.folder / "runs" / manifest(finished_ablation.folder)["settings"][0]["runs"]["1"]
    saved = (run / "status.json").read_text()
    (run / "status.json").write_text('{"status": "diverged", "reason": "the loss is nan"}')
    assert main(["ablate", *finished_ablation.arguments]) == 1
    (run / "status.json").write_text(saved)
    out, err = capfd.readouterr()
    assert "not finished: resnet14-resnet8 kd seed 1: diverged" in err
    assert "- temperature=2, seed 1: diverged: the loss is nan" in out


def test_references_follow_a_varied_recipe_but_the_teacher_does_not(finished_ablation, capsys):
    plan = planned([*finished_ablation.arguments[:-1], "method=fitnet", "recipe.batch_size=8,16,64"])
    (ablation,) = plan.ablations
    assert {e.setting.label: e.reason is not None for e in ablation.settings} == {
        "batch_size=8": False, "batch_size=16": False, "batch_size=64": True,
    }  # fmt: skip
    assert "not possible: batch_size=64: recipe.batch_size is 64: npz has only 54 training images" in plan.text()
    assert ablation.default == "batch_size=16" and ablation.varied_options == ["recipe.batch_size"]
    labels = ["KD", "KD (batch_size=8)", "KD (batch_size=64)", "Student", "Student (batch_size=8)"]
    assert [e.setting.label for e in ablation.references][:5] == labels
    runs = plan.students("resnet14")
    assert len(runs) == 3 * 2 * 2 and len(plan.students_alone()) == 2 * 2
    assert plan.run_count("resnet14") == 2 * 2 * 2  # of the others, which need the teacher
    assert {c.config["recipe"]["batch_size"] for c in runs} == {8, 16}
    assert len({json.dumps(c.config["teacher"]) for c in runs if "teacher" in c.config}) == 1
    trained = {*manifest(finished_ablation.folder)["references"][0]["runs"].values()}
    assert trained <= {c.relative_path for c in runs}


def test_presets_and_several_grids_share_runs(finished_ablation):
    plan = planned([*finished_ablation.arguments[:-1], "grid=clkd_readings,clkd_nmse"])
    readings, reduction = plan.ablations
    methods = [e.setting.method for e in readings.settings]
    assert methods == ["clkd", "clkd_letter", "clkd_r1", "clkd_a1", "clkd_a2", "clkd_b", "clkd"]
    assert [e.value("nu") for e in readings.settings][-1] == 0 and readings.default == "recommended"
    assert reduction.default == "nmse_reduction=vector"
    runs = plan.students("resnet14")
    assert len(runs) == (7 + 1 + 2) * 2  # the default is in both
    assert plan.run_count("resnet14") == (7 + 1 + 1) * 2  # without the student alone
    assert {c.config["dataset"]["validation"] for c in runs} == {0.1}


def test_without_a_grid_all_grids_of_the_method_are_run():
    of_letter = {"clkd_components_letter", "clkd_screen"}
    assert {g.name for g in ablate.parse(["method=clkd"]).grids} == {
        n for n in files.group_names("ablation") if n.startswith("clkd") and n not in of_letter
    }
    assert {g.name for g in ablate.parse(["method=clkd_letter"]).grids} == of_letter
    assert [g.name for g in ablate.parse(["method=dkd"]).grids] == ["dkd"]


def test_wandb_reads_the_sweep_and_its_commands_train_runs_of_the_ablation(finished_ablation, capsys):
    """By W&B's own reading of the file and its own making of the command line."""
    path = finished_ablation.folder / "reports" / "ablations" / f"{NAME}-sweep.yaml"
    config = sweeps.load_sweep_config(str(path))
    assert config and config["method"] == "grid" and config["program"] == "benchmark"
    allowed = {"name", "description", "project", "program", "command", "method", "metric", "parameters"}
    assert (
        set(config) <= allowed and set(config["metric"]) == {"name", "goal"} and config["metric"]["goal"] == "maximize"
    )
    assert all(re.fullmatch(r"[A-Za-z_][\w.-]*", k) and list(v) == ["values"] for k, v in config["parameters"].items())
    content = manifest(finished_ablation.folder)
    rows = {r["label"]: r for r in content["settings"] + content["references"]}
    parameters = {k: v["values"] for k, v in config["parameters"].items()}
    assert parameters == {"setting": list(rows), "seeds": [0, 1]}
    assert not any(w.startswith("tracker.mode") for w in config["command"])  # that of the agent counts
    for label, seed in (("temperature=2", 1), ("Student", 0)):
        values = sweeps.create_sweep_command_args({"args": {"setting": {"value": label}, "seeds": {"value": seed}}})
        values |= {"program": [config["program"]], "interpreter": ["python"], "env": ["/usr/bin/env"]}
        command = sweeps.create_sweep_command(config["command"])
        words = [w for c in command for w in (values[c[2:-1]] if c.startswith("${") else [c])]
        assert words[:5] == ["/usr/bin/env", "python", "-m", "benchmark", "ablate"]
        label = ablate.parse(words[5:]).options.setting
        assert label is not None
        runs = ablate.single_setting(planned(words[5:]), label).students("resnet14")
        assert [r.relative_path for r in runs] == [rows[label]["runs"][str(seed)]]


def test_a_single_setting_trains_its_run_and_writes_no_manifest(finished_ablation, capsys):
    before = {p for p in finished_ablation.folder.rglob("*")}
    arguments = [a for a in finished_ablation.arguments if not a.startswith("seeds=")]
    assert main(["ablate", *arguments, "setting=temperature=2", "seeds=7"]) == 0
    new = {p for p in finished_ablation.folder.rglob("*") if p not in before and p.name == "result.json"}
    assert [p.parent.name for p in new] == ["seed=7"]
    assert manifest(finished_ablation.folder)["seeds"] == [0, 1]


def test_jobs_train_settings_at_the_same_time(tiny, tmp_path, capfd):
    """Two temperatures, one of them KD's own, and the student alone; the time left is that of all of them."""
    words = [*tiny, "recipe.epochs=1", "dataset.validation=0.25", "jobs=2"]
    assert main(["ablate", "method=kd", "kd.temperature=2,4", *words]) == 0
    out = capfd.readouterr().out
    assert "1 of 3 runs ended" in out and "2 of 3 runs ended" in out and "3 of 3" not in out
    runs = tmp_path / "runs" / "npz"
    assert len([*runs.glob("resnet14-resnet8/kd/*/seed=0/result.json")]) == 2
    assert len([*runs.glob("resnet8/ce/*/seed=0/result.json")]) == 1
