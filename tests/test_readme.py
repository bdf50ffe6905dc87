"""The commands of the README and of the pages of docs/ are valid, and the README's example of a method works."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import methods
from analysis.__main__ import main as analysis
from benchmark.config import files, pairs
from benchmark.config.command_options import (
    load_analysis,
    load_export,
    load_options,
    load_scale,
    load_sync,
    load_transfer,
)
from benchmark.config.compose import MethodComposer, load_config
from benchmark.config.overrides import key_of, parse_sweep
from benchmark.config.schema import AblateOptions, PlanOptions, SpeedOptions, TuneOptions
from methods.contract import Batch, Context, Outputs, Shapes
from tests.conftest import ROOT
from tests.helpers import bench

README = (ROOT / "README.md").read_text()
PAGES = [README, *(page.read_text() for page in sorted((ROOT / "docs").glob("*.md")))]
COMMANDS = sorted(
    {
        line.split("#")[0].strip()
        for page in PAGES
        for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
        for line in block.splitlines()
        if line.startswith(("make ", "kd-benchmark "))
    }
)
TRAINING = {"bench": None, "plan": PlanOptions, "tune": TuneOptions, "ablate": AblateOptions, "speed": SpeedOptions}
BIN = Path(sys.executable).parent


def make(*words: str) -> str:
    """Run a make target that must succeed; return its output."""
    # a make that runs the tests would have this one announce its folders
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    process = subprocess.run(
        ["make", f"BIN={BIN}", *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def check(command: str, words: list[str]) -> None:
    """Parse the words of a command; raises UserError for any that it does not take."""
    if command == "scale":
        load_scale(words)
    elif command in (loaders := {"sync": load_sync, "export": load_export, "transfer": load_transfer}):
        loaders[command](words)
    elif command not in TRAINING:
        load_analysis(words)
    else:
        if (schema := TRAINING[command]) is not None:
            options, words = load_options(command, schema, words)
            if getattr(options, "profile", None):
                words = [f"profile={options.profile}", *words]
        config = load_config([w for w in words if key_of(w).split(".")[0] not in files.group_names("method")])
        single = [w for w in words if parse_sweep(w) is None]
        composer = MethodComposer(single)
        for name in {key_of(w).split(".")[0] for w in words} & set(files.group_names("method")):
            composer.method(name, config.pair[0])


@pytest.mark.parametrize("page", ["README.md", "results/README.md"])
def test_a_table_of_measured_runs_is_that_of_their_folders(page, tmp_path, capsys):
    tables = re.findall(r"<!-- table of (\S+) -->\n(.*?)\n<!-- end of table -->", (ROOT / page).read_text(), re.DOTALL)
    assert tables
    for runs, table in tables:
        assert analysis(["table", f"runs={ROOT / runs}", f"reports={tmp_path}"]) == 0
        assert table.startswith("| Method") and table in capsys.readouterr().out


def test_the_pages_show_commands():
    assert len(COMMANDS) >= 20


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_pages_is_accepted(command):
    if "my_networks:" in command:  # tests/benchmark/test_distillation.py runs it, with that file
        return
    line = command
    if command.startswith("make "):
        line = make("-n", *shlex.split(command)[1:]).replace("\\\n", " ").strip().splitlines()[-1]
    match = re.search(r"(?:kd-benchmark|-m benchmark|-m analysis) (.*)", line)
    if match is None:  # a target that runs a tool of its own: test, docs, sync, help
        return
    name, *words = shlex.split(match[1])
    check(name, words)


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_links_between_the_pages_of_the_repository_lead_somewhere():
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_an_unknown_make_variable_is_refused():
    process = subprocess.run(["make", "-n", "bench", "PAIRR=x"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert process.returncode == 2 and "unknown variable PAIRR" in process.stderr


def test_a_make_variable_with_a_quote_is_refused():
    process = subprocess.run(["make", "-n", "bench", "RUNS=it's"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert process.returncode == 2 and "RUNS holds a quote" in process.stderr


@pytest.mark.parametrize(
    ("target", "variable"), [("bench", "METHOD=kd"), ("table", "SEEDS=0"), ("speed", "PROFILE=paper")]
)
def test_a_make_variable_that_the_target_does_not_take_is_refused(target, variable):
    process = subprocess.run(["make", "-n", target, variable], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert process.returncode == 2 and variable.split("=")[0] in process.stderr


def test_make_passes_the_variables_of_each_target():
    assert make("-n", "tune", "METHOD=kd", "TRIALS=2") and make("-n", "ablate", "METHOD=kd", "GRID=nu")
    assert "pairwise=1" in make("-n", "table", "PAIRWISE=1")
    assert "'runs=my runs'" in make("-n", "bench", "RUNS=my runs")


@pytest.mark.skipif(not (BIN / "installed").exists(), reason="the environment was not made by make")
def test_the_targets_run(tiny, tmp_path):
    listed = make("help")
    targets = re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert all(f"make {target} " in listed for target in targets)
    listed_pairs = make("help", "PAIRS=1")
    assert all(f"  {pair} " in listed_pairs for pair in pairs.lists()["classic"])
    runs = f"RUNS={tmp_path / 'runs'}"
    more = " ".join(w for w in tiny if not w.startswith(("runs=", "pair=", "dataset=", "data=", "seeds=")))
    chosen = ["PAIR=resnet14-resnet8", "METHODS=ce,kd", "SEEDS=0,1", "DATASET=npz", f"DATA={tmp_path}", runs]
    printed = make("bench", *chosen, f"ARGS={more}")
    assert "5 to train, 0 done" in printed and "| KD " in printed
    again = make("bench", *chosen, f"ARGS={more}")
    assert "0 to train, 5 done" in again
    assert printed[printed.index("## npz") :] == again[again.index("## npz") :]
    reports = f"ARGS=reports={tmp_path / 'more'}"
    assert "| KD " in make("table", runs, reports)
    make("plots", runs, reports)
    names = {path.stem.rsplit("-", 1)[-1] for path in (tmp_path / "more" / "plots").glob("*.png")}
    assert names == {"differences", "curves", "time", "correlation"}


def test_the_measured_results_make_their_table(command, tmp_path):
    process = command("analysis", "table", "runs=results", f"reports={tmp_path}")
    assert process.returncode == 0, process.stderr
    assert all(
        f"| {title} " in process.stdout for title in ("Teacher", "Student", "KD", "FitNet", "CRD", "DKD", "CLKD")
    )


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

    plan, outcomes = bench([*tiny, "methods=logit_mse", "logit_mse.mse_weight=0.5"])
    assert [outcome.status for outcome in outcomes] == ["done"]
    (training_run,) = plan.students("resnet14")
    line = training_run.folder.metrics()[-1]
    assert line["weighted/mse"] == pytest.approx(0.5 * line["loss/mse"])

    method_class, shapes = methods.load("logit_mse"), Shapes(stages=((4, 8, 8),), pooled=4)
    context = Context(2, shapes, shapes, train_labels=torch.tensor([0]), epochs=1)
    method = method_class(method_class.Options(1.0, 0.5), context)
    batch = Batch([], torch.tensor([0]), torch.tensor([0]), 1, torch.Generator())
    terms = method.losses(Outputs(torch.tensor([[1.0, 3.0]])), Outputs(torch.tensor([[0.0, 0.0]])), batch)
    assert terms["mse"].value.item() == 5.0
