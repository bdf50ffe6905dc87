"""Ablations: grids and their values, what is planned, trained and written, and the sweep for W&B."""

import dataclasses
import functools
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from wandb.sdk.launch.sweeps import utils as sweeps

from benchmark.__main__ import main
from benchmark.commands import ablate
from benchmark.config import compose as configs
from benchmark.config import files
from benchmark.grid import plan as grid
from methods.clkd import CLKD
from methods.contract import Batch, Context, Outputs, Shapes
from tests.conftest import write_tiny


def planned(arguments: list[str]) -> ablate.Study:
    return ablate.plan(ablate.parse(arguments))[0]


@functools.cache
def defaults(method: str) -> dict:
    """All options of a method and of the recipe, by the names that grids use."""
    recipe = {f"recipe.{k}": v for k, v in dataclasses.asdict(configs.load([]).recipe).items()}
    return dataclasses.asdict(configs.method(method, "", []).options) | recipe


# ---------------------------------------------------------------- values and settings


@pytest.mark.parametrize(
    ("spec", "default", "expected"),
    [
        ([0.1, 0.2], 0.4, [0.1, 0.2]),
        (["vector", "mean"], "vector", ["vector", "mean"]),
        ({"range": [0.1, 0.5, 0.1]}, 0.4, [0.1, 0.2, 0.3, 0.4, 0.5]),  # the end is in it
        ({"range": [4, 1, -2]}, 4, [4, 2]),
        ({"log": [16, 256, 5]}, 64, [16, 32, 64, 128, 256]),
        ({"log": [0.001, 1, 4]}, 0.4, [0.001, 0.01, 0.1, 1]),
        ({"decade": 3}, 0.4, [0.13, 0.4, 1.3]),  # 0.4 / √10 = 0.1265, 0.4 · √10 = 1.265
        ({"decade": 5}, 1.0, [0.32, 0.56, 1.0, 1.8, 3.2]),
        ({"log": [1024, 16384, 3]}, 16384, [1024, 4096, 16384]),
        ({"decade": 3}, 16384, [5200, 16384, 52000]),
    ],
)
def test_the_values_of_an_axis(spec, default, expected):
    found = ablate.values("w", spec, default)
    assert found == pytest.approx(expected) if isinstance(expected[0], float) else found == expected
    assert not isinstance(default, int) or all(isinstance(v, int) for v in found)


def test_a_list_a_range_and_a_log_range_are_given_on_the_command_line_too():
    request = ablate.parse(["clkd.nu=0.1,0.2", "clkd.mu=range:0:1:0.5", "clkd.beta=log:1:100:3", "seeds=0,1"])
    (found,) = request.grids
    made, axes = ablate.settings(found, {"nu": 0.4, "mu": 0.5, "beta": 2.0})
    assert axes == {"nu": [0.1, 0.2], "mu": [0.0, 0.5, 1.0], "beta": [1, 10, 100]}
    assert len(made) == 18 and made[0].options == {"nu": 0.1, "mu": 0.0, "beta": 1}
    assert (found.method, found.name, request.overrides) == ("clkd", "clkd-nu-mu-beta", ["seeds=0,1"])


SETTINGS = {  # settings of each ready-made grid
    "clkd_weights": 1 + 4 * 4, "clkd_components": 8, "clkd_readings": 6, "clkd_nmse": 2, "clkd_batch": 5,
    "dkd": 3 * 5, "kd": 4 * 4, "crd": 1 + 4 + 4 + 2 + 2, "fitnet": 1 + 4 + 2,
}  # fmt: skip


def test_the_ready_made_grids_have_no_setting_twice_and_only_options_that_exist():
    assert set(SETTINGS) == set(configs.group("ablation"))
    for name, count in SETTINGS.items():
        found = ablate.named(name)
        base = defaults(found.method)
        made, _ = ablate.settings(found, base)
        assert len(made) == count, name
        resolved = {json.dumps([s.method, base | dict(s.options)], sort_keys=True) for s in made}
        assert len(resolved) == count, name
        assert all(o in base for s in made for o in s.options), name


def test_each_weight_of_clkd_goes_over_a_decade_and_the_default_is_there_once():
    base = defaults("clkd")
    made, axes = ablate.settings(ablate.named("clkd_weights"), base)
    assert list(axes) == ["lambda_ce", "mu", "beta", "nu"]
    assert [s.label for s in made if not s.options] == ["default"]
    for option, values in axes.items():
        assert values[2] == base[option] and len(values) == 5
        assert max(values) / min(values) == pytest.approx(10, rel=0.03)


@pytest.mark.parametrize("dataset", ["digits", "cifar10", "cifar100"])
def test_a_component_that_is_off_adds_nothing_and_one_that_is_on_has_its_weight(dataset):
    """The gradient of a setting's loss is that of the cross-entropy and the terms that are named, at their defaults."""
    base = configs.method("clkd", "", [f"dataset={dataset}"]).options
    made, _ = ablate.settings(ablate.named("clkd_components"), {})
    assert sorted(sorted(s.terms) for s in made) == sorted(
        sorted(t for i, t in enumerate(("instance", "class", "correlation")) if n >> i & 1) for n in range(8)
    )
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(16, 7, generator=generator) for _ in range(2))
    labels = torch.arange(16) % 7
    shapes = Shapes(((1, 1, 1),), 1)
    batch = Batch(torch.empty(16, 3, 1, 1), labels, labels, labels, 1, generator)

    def gradient(options, terms=None) -> torch.Tensor:
        z = student.clone().requires_grad_()
        method = CLKD(options, Context(7, shapes, shapes, labels, 1))
        losses = method.losses(Outputs(z), Outputs(teacher), batch)
        total = sum(t.value * t.weight for n, t in losses.items() if terms is None or n in ("ce", *terms))
        return torch.autograd.grad(total, z)[0]

    for setting in made:
        found = gradient(dataclasses.replace(base, **setting.options))
        torch.testing.assert_close(found, gradient(base, setting.terms), rtol=1e-6, atol=1e-8)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clkd.nuu=0.1,0.2"], "clkd has no option 'nuu'; did you mean nu"),
        (["kd.temperature=1,2", "method=clkd"], "kd.temperature is neither an option of clkd nor a key of the recipe"),
        (["recipe.batchsize=8,16"], "did you mean recipe.batch_size"),
        (["grid=clkd_weigts"], "unknown grid 'clkd_weigts'; did you mean clkd_weights"),
        (["method=dkdd"], "unknown method 'dkdd'; did you mean dkd"),
        (["method=ce"], "there is no grid of ce in conf/ablation"),
        (["grid=dkd", "method=kd"], "the grid dkd is of dkd, not of kd"),
        (["grid=kd", "kd.temperature=1,2"], "give either grid=kd or kd.temperature, not both"),
        (["methods=kd", "grid=kd"], "an ablation is of one method"),
        (["clkd.nu=log:0:1:3"], "a log scale needs ends above 0"),
        (["clkd.nu=range:0:1"], "nu cannot be range: [0, 1]"),
        (["clkd.nu=decade:4"], "an odd number of values"),
        (["clkd.nu=range:1:1e9:0.001"], "these are more than 1,000 values"),
        (["clkd.nu=range:0.1:1:0"], "its step does not lead from the first to the last"),
        (["clkd.nu=log:1:2:1000000000"], "2 to 1,000 values"),
        (["clkd.nu=decade:1000001"], "3 to 1,000"),
        (["clkd.nu=range:1:40:1", "clkd.mu=range:1:40:1"], "has 1,600 settings, more than 1,000"),
        (["clkd.nu=decade:x"], "cannot read 'clkd.nu=decade:x'"),
        (["clkd.nu=0.1,0.1"], "nu names a value twice"),
        (["clkd.nu=0.1,-1"], "clkd.nu is -1.0: it must be at least 0"),
        (["clkd.cc_norm=fro,fro3"], "clkd.cc_norm cannot be 'fro3'; did you mean"),
        (["grid=clkd_components", "clkd.mu=0.4"], "clkd.mu is given, but the grid clkd_components sets it"),
        (["grid=clkd_nmse", "train=nothing"], "train cannot be 'nothing'"),
        (["grid=clkd_nmse", "setting=Studen"], "clkd_nmse has no setting 'Studen'; did you mean Student"),
        (["grid=clkd_nmse", "setting=KD"], "the teacher resnet14 is not trained"),
    ],
)
def test_bad_input_gets_one_line(tiny, tmp_path, capsys, arguments, message):
    assert main(["ablate", *tiny, "dataset.validation=0.25", "train=none", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "runs" / "ablations").exists() and not (tmp_path / "reports").exists()


def test_a_broken_grid_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "ablation").mkdir()
    monkeypatch.setattr(files, "CONF", tmp_path)
    for text, message in (
        ("method: kd\ndescription: x\n", "needs one of axes, each and settings, not none"),
        ("method: kd\ndescription: x\naxis: {temperature: [1, 2]}\n", "is not a grid: Key 'axis' not in"),
        ("description: x\naxes: {temperature: [1]}\n", "is not a grid"),
        ("method: [\n", "is not a grid"),
    ):
        (tmp_path / "ablation" / "mine.yaml").write_text(text)
        with pytest.raises(ablate.UserError, match=re.escape(message)):
            ablate.named("mine")


# ---------------------------------------------------------------- what is planned, trained and written


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[list[str], Path]:
    """An ablation of KD's temperature over two seeds, run from end to end: its arguments, and the folder it is in."""
    folder = tmp_path_factory.mktemp("ablate")
    write_tiny(folder / "tiny.npz", train=60)  # one image of each class in the validation split
    arguments = [
        "dataset=npz", f"data={folder}", "dataset.file=tiny.npz", "dataset.size=16", "dataset.padding=2",
        f"runs={folder / 'runs'}", f"reports={folder / 'reports'}", "pair=resnet14-resnet8", "seeds=0,1",
        "recipe.epochs=1", "recipe.batch_size=16", "tracker.mode=off", "teacher.min_top1=0", "device=cpu", "threads=1",
        "precision=fp32", "kd.temperature=2,4",
    ]  # fmt: skip
    torch.set_num_threads(1)
    assert main(["ablate", *arguments, "train=teacher"]) == 0
    assert not list((folder / "runs").glob("npz/resnet14-resnet8/*"))
    assert main(["ablate", *arguments]) == 0
    return arguments, folder


NAME = "npz-quick-resnet14-resnet8-kd-temperature"


def manifest(folder: Path) -> dict:
    return json.loads((folder / "runs" / "ablations" / f"{NAME}.json").read_text())


def test_the_manifest_names_every_run_and_all_of_them_are_trained(made):
    read = manifest(made[1])
    about = {
        "method": "kd",
        "title": "KD",
        "form": "axes",
        "seeds": [0, 1],
        "validation": 0.1,
        "validation_images": 6,
        "pair": "resnet14-resnet8",
    }
    assert {k: read[k] for k in about} == about
    assert read["axes"] == {"temperature": {"values": [2, 4], "log": False}}
    assert [r["label"] for r in read["settings"]] == ["temperature=2", "temperature=4"]
    assert read["default"] == "temperature=4" and [r["label"] for r in read["references"]] == ["KD", "Student"]
    assert read["settings"][1]["runs"] == read["references"][0]["runs"]
    for row in read["settings"] + read["references"]:
        assert set(row["runs"]) == {"0", "1"} and row["impossible"] is None
        for folder in row["runs"].values():
            result = json.loads((made[1] / "runs" / folder / "result.json").read_text())
            assert result["status"] == "done" and 0 <= result["val_top1_last"] <= 100
    config = yaml.safe_load((made[1] / "runs" / read["settings"][0]["runs"]["0"] / "config.yaml").read_text())
    assert config["method"]["temperature"] == 2.0 and config["dataset"]["validation"] == 0.1


def test_a_setting_is_the_same_run_that_bench_would_make(made):
    overrides = [*made[0][:-1], "methods=kd,ce", "dataset.validation=0.1", "kd.temperature=2"]
    plan = grid.make_plan(configs.load(overrides), overrides)
    found = {(c.method, str(c.config["seed"])): c.relative_path for c in plan.students("resnet14")}
    read = manifest(made[1])
    assert read["settings"][0]["runs"] == {s: found["kd", s] for s in "01"}
    assert read["references"][1]["runs"] == {s: found["ce", s] for s in "01"}


def test_tables_and_figures_are_made_and_a_second_call_trains_nothing(made, capfd):
    files = {p.name.removeprefix(NAME) for p in (made[1] / "reports" / "ablations").iterdir()}
    assert files == {".md", ".tex", ".csv", ".png", ".pdf", "-sensitivity.csv", "-sweep.yaml"}
    before = {p: p.stat().st_mtime_ns for p in (made[1] / "runs").rglob("weights.pt")}
    assert len(before) == 1 + 3 * 2
    assert main(["ablate", *made[0]]) == 0
    printed = capfd.readouterr().out
    assert "runs: 0 to train, 6 done" in printed and "| temperature |" in printed
    assert {p: p.stat().st_mtime_ns for p in (made[1] / "runs").rglob("weights.pt")} == before


def test_a_failed_setting_is_told_and_the_others_have_their_table(made, capfd, monkeypatch):
    """A diverged run is not taken up again: exit status 1, and a table that says so."""
    run = made[1] / "runs" / manifest(made[1])["settings"][0]["runs"]["1"]
    saved = (run / "status.json").read_text()
    (run / "status.json").write_text('{"status": "diverged", "reason": "the loss is nan"}')
    assert main(["ablate", *made[0]]) == 1
    (run / "status.json").write_text(saved)
    out, err = capfd.readouterr()
    assert "not finished: resnet14-resnet8 kd seed 1: diverged" in err
    assert "- temperature=2, seed 1: diverged: the loss is nan" in out


def test_the_teacher_stays_where_the_recipe_is_varied_and_the_references_follow_it(made, capsys):
    study = planned([*made[0][:-1], "method=fitnet", "recipe.batch_size=8,16,64"])
    (found,) = study.ablations
    assert {e.setting.label: e.why is not None for e in found.entries} == {
        "batch_size=8": False, "batch_size=16": False, "batch_size=64": True,
    }  # fmt: skip
    assert "impossible: batch_size=64: recipe.batch_size is 64: npz has only 54 training images" in study.text()
    assert found.default == "batch_size=16" and found.varied == ["recipe.batch_size"]
    labels = ["KD", "KD (batch_size=8)", "KD (batch_size=64)", "Student", "Student (batch_size=8)"]
    assert [e.setting.label for e in found.references][:5] == labels
    cells = study.students("resnet14")
    assert len(cells) == study.count("resnet14") == 3 * 2 * 2
    assert {c.config["recipe"]["batch_size"] for c in cells} == {8, 16}
    assert len({json.dumps(c.config["teacher"]) for c in cells}) == 1
    known = {*manifest(made[1])["references"][0]["runs"].values()}
    assert known <= {c.relative_path for c in cells}


def test_settings_of_other_presets_and_several_grids_share_their_runs(made):
    study = planned([*made[0][:-1], "grid=clkd_readings,clkd_nmse"])
    readings, reduction = study.ablations
    methods = [e.setting.method for e in readings.entries]
    assert methods == ["clkd", "clkd_r1", "clkd_a1", "clkd_a2", "clkd_b", "clkd"]
    assert [e.value("nu") for e in readings.entries][-1] == 0 and readings.default == "recommended"
    assert reduction.default == "nmse_reduction=vector"
    cells = study.students("resnet14")
    assert len(cells) == study.count("resnet14") == (6 + 1 + 2) * 2  # the default is in both
    assert {c.config["dataset"]["validation"] for c in cells} == {0.1}


def test_without_a_grid_all_of_the_method_s_are_run():
    assert {g.name for g in ablate.parse(["method=clkd"]).grids} == {n for n in SETTINGS if n.startswith("clkd")}
    assert [g.name for g in ablate.parse(["method=dkd"]).grids] == ["dkd"]


# ---------------------------------------------------------------- W&B


def test_the_sweep_is_one_that_wandb_runs_and_each_of_its_runs_is_one_of_the_ablation_s(made, capsys):
    """By W&B's own reading of the file and its own making of the command line."""
    path = made[1] / "reports" / "ablations" / f"{NAME}-sweep.yaml"
    config = sweeps.load_sweep_config(str(path))
    assert config and config["method"] == "grid" and config["program"] == "benchmark"
    allowed = {"name", "description", "project", "program", "command", "method", "metric", "parameters"}
    assert (
        set(config) <= allowed and set(config["metric"]) == {"name", "goal"} and config["metric"]["goal"] == "maximize"
    )
    assert all(re.fullmatch(r"[A-Za-z_][\w.-]*", k) and list(v) == ["values"] for k, v in config["parameters"].items())
    read = manifest(made[1])
    rows = {r["label"]: r for r in read["settings"] + read["references"]}
    parameters = {k: v["values"] for k, v in config["parameters"].items()}
    assert parameters == {"setting": list(rows), "seeds": [0, 1]}
    assert not any(w.startswith("tracker.mode") for w in config["command"])  # that of the agent counts
    for label, seed in (("temperature=2", 1), ("Student", 0)):
        given = sweeps.create_sweep_command_args({"args": {"setting": {"value": label}, "seeds": {"value": seed}}})
        given |= {"program": [config["program"]], "interpreter": ["python"], "env": ["/usr/bin/env"]}
        command = sweeps.create_sweep_command(config["command"])
        words = [w for c in command for w in (given[c[2:-1]] if c.startswith("${") else [c])]
        assert words[:5] == ["/usr/bin/env", "python", "-m", "benchmark", "ablate"]
        request = ablate.parse(words[5:])
        cells = ablate.only(ablate.plan(request)[0], request.setting).students("resnet14")
        assert [c.relative_path for c in cells] == [rows[label]["runs"][str(seed)]]


def test_one_setting_alone_trains_its_cell_and_writes_nothing_else(made, capsys):
    before = {p for p in made[1].rglob("*")}
    arguments = [a for a in made[0] if not a.startswith("seeds=")]
    assert main(["ablate", *arguments, "setting=temperature=2", "seeds=7"]) == 0
    new = {p for p in made[1].rglob("*") if p not in before and p.name == "result.json"}
    assert [p.parent.name for p in new] == ["seed=7"]
    assert manifest(made[1])["seeds"] == [0, 1]
