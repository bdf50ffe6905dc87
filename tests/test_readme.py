"""What the README says is true: its commands run, its example of a method works."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import methods
from benchmark import networks
from benchmark.commands import ablate
from benchmark.commands import methods as catalogue
from benchmark.config import compose as configs
from benchmark.config import files, pairs
from benchmark.grid import plan as grid
from benchmark.runs.tracking import Tracking
from methods.contract import Batch, Outputs
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("make ")
] + re.findall(r"`(python -m [^`]*=[^`]*)`", README)
BIN = Path(sys.executable).parent


def make(*words: str) -> str:
    """What a make command prints; it must succeed."""
    done = subprocess.run(["make", f"BIN={BIN}", *words], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_there_are_commands():
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_s_overrides_are_accepted(command):
    line = make("-n", *shlex.split(command)[1:]).strip().splitlines()[-1] if command.startswith("make") else command
    if "-m benchmark " not in line or line.endswith((" pairs", " methods")):
        return
    command, *words = shlex.split(line.split("-m benchmark ")[1])
    words = [w for w in [command, *words] if "=" in w]
    if command == "ablate":
        ablate.parse(words)
        return
    words = [w for w in words if not w.startswith("trials=")]
    config = configs.load(words)
    for pair in config.pair:
        teacher, student = networks.split_pair(pair)
        for name in config.methods:
            configs.method(name, f"{teacher}-{student}", words)


def test_a_misspelt_variable_is_refused():
    done = subprocess.run(["make", "-n", "bench", "PAIRR=x"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "unknown variable PAIRR; known: " in done.stderr
    for goal, variable, said in (
        ("bench", "METHOD=kd", "METHOD is taken by ablate tune alone; give METHODS"),
        ("table", "SEEDS=0", "SEEDS is taken by bench plan ablate tune alone"),
        ("speed", "PROFILE=paper", "PROFILE is taken by bench plan ablate tune table"),
    ):
        done = subprocess.run(["make", "-n", goal, variable], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and said in done.stderr
    assert make("-n", "tune", "METHOD=kd", "TRIALS=2") and make("-n", "ablate", "METHOD=kd", "GRID=nu")
    assert "'runs=my runs'" in make("-n", "bench", "RUNS=my runs")


@pytest.mark.skipif(not (BIN / "installed").exists(), reason="the environment was not made by make")
def test_the_targets_run(tiny, tmp_path):
    listed = make("help")
    targets = re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert all(f"make {t} " in listed for t in targets)
    assert all(f"  {p} " in make("help", "PAIRS=1") for p in pairs.lists()["classic"])
    runs = f"RUNS={tmp_path / 'runs'}"
    more = " ".join(o for o in tiny if not o.startswith(("runs=", "pair=", "dataset=", "data=", "seeds=")))
    chosen = ["PAIR=resnet14-resnet8", "METHODS=ce,kd", "SEEDS=0,1", "DATASET=npz", f"DATA={tmp_path}", runs]
    printed = make("bench", *chosen, f"ARGS={more}")
    assert "cells: 4 to run, 0 done" in printed and "| KD " in printed
    again = make("bench", *chosen, f"ARGS={more}")
    assert "cells: 0 to run, 4 done" in again and "epoch" not in again.split("## npz")[0].split("cells:")[1]
    assert printed[printed.index("## npz") :] == again[again.index("## npz") :]
    reports = f"ARGS=reports={tmp_path / 'more'}"
    assert "| KD " in make("table", runs, reports)
    make("plots", runs, reports)
    assert len(list((tmp_path / "more" / "plots").glob("*.png"))) == 3


def test_the_list_of_methods_is_the_one_that_the_code_makes():
    listed = re.search(r"<!-- methods -->\n(.*?)<!-- end of methods -->", README, re.DOTALL)[1]
    assert listed == catalogue.markdown(), "run `make methods` and put its output between the marks"
    for name in configs.group("method"):
        assert f"| `{name}` |" in listed


def test_the_measured_results_make_their_table(command, tmp_path):
    done = command("analysis", "table", "runs=results", f"reports={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert all(f"| {title} " in done.stdout for title in ("Teacher", "Student", "KD", "FitNet", "CRD", "DKD", "CLKD"))


def test_the_example_of_a_method_is_complete(tiny, tmp_path, monkeypatch):
    section = README[README.index("## Add a method") :]
    code, text = (re.search(rf"```{kind}\n(.*?)```", section, re.DOTALL)[1] for kind in ("python", "yaml"))
    assert len((code + text).splitlines()) < 40
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "logit_mse.py").write_text(code)
    shutil.copytree(files.CONF, tmp_path / "conf")
    (tmp_path / "conf" / "method" / "logit_mse.yaml").write_text(text)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path / "methods")])
    monkeypatch.setattr(files, "CONF", tmp_path / "conf")

    overrides = [*tiny, "methods=logit_mse", "logit_mse.mse_weight=0.5"]
    config = configs.load(overrides)
    plan = grid.plan(config, overrides)
    assert [o.status for o in grid.run(plan, Tracking(config.tracker, plan.settings.runs))] == ["done"]
    (cell,) = plan.students("resnet14")
    line = cell.run.metrics()[-1]
    assert line["weighted/mse"] == pytest.approx(0.5 * line["loss/mse"])
    method = methods.load("logit_mse")(methods.load("logit_mse").Options(1.0, 0.5), None)
    batch = Batch(None, torch.tensor([0]), None, None, 1, None)
    terms = method.losses(Outputs(torch.tensor([[1.0, 3.0]])), Outputs(torch.tensor([[0.0, 0.0]])), batch)
    assert terms["mse"].value.item() == 5.0
