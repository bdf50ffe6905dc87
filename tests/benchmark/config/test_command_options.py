"""The options of commands in conf/<command>.yaml: defaults, types, limits, unknown keys."""

import dataclasses
import subprocess
import sys

import pytest
import yaml

from benchmark.config import files
from benchmark.config.command_options import load_analysis, load_options, load_scale
from benchmark.config.schema import (
    AblateOptions,
    AnalysisOptions,
    ScaleOptions,
    SimulateOptions,
    SpeedOptions,
    TransferOptions,
    TuneOptions,
)
from benchmark.errors import UserError
from tests.conftest import ROOT

COMMANDS = {
    "tune": TuneOptions, "ablate": AblateOptions, "speed": SpeedOptions, "analysis": AnalysisOptions,
    "scale": ScaleOptions, "simulate": SimulateOptions, "transfer": TransferOptions,
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_the_files_have_the_keys_of_their_schemas(command):
    content = yaml.safe_load((files.CONF / f"{command}.yaml").read_text())
    options, others = load_options(command, COMMANDS[command], [])
    assert dataclasses.asdict(options) == content and others == []


def test_words_of_the_command_are_set_and_others_are_returned():
    options, others = load_options("tune", TuneOptions, ["trials=3", "methods=kd", "trials=4"])
    assert (options.trials, options.sampler_seed, others) == (4, 0, ["methods=kd"])


@pytest.mark.parametrize(
    ("command", "word", "message"),
    [
        ("tune", "trials=0", "trials is 0: it must be at least 1"),
        ("tune", "trials=many", "Value 'many' of type 'str' could not be converted to Integer"),
        ("tune", "trials=2,3", "trials takes one value, not 2,3"),
        ("ablate", "train=nothing", "train cannot be 'nothing'"),
        ("speed", "rounds=1", "rounds is 1: it must be at least 2"),
    ],
)
def test_invalid_values_are_refused(command, word, message):
    with pytest.raises(UserError) as e:
        load_options(command, COMMANDS[command], [word])
    assert message in str(e.value) and "\n" not in str(e.value)


def test_filters_of_the_analysis(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    options = load_analysis(["pair=[classic]", "method=kd, dkd", "dataset=all,digits", "runs=~/runs", "reports=a b"])
    assert (options.pair, options.method, options.dataset, options.profile) == (["classic"], ["kd", "dkd"], [], [])
    assert (options.runs, options.reports) == (str(tmp_path / "runs"), "a b")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pairs=x"], "unknown key 'pairs'; did you mean pair"),
        (["name=x"], "unknown key 'name'"),
        (["pair="], "'pair=' has an empty value: write pair=…"),
    ],
)
def test_unknown_keys_of_the_analysis_are_refused(words, message):
    with pytest.raises(UserError) as e:
        load_analysis(words, ["runs", "reports", "pair"])
    assert message in str(e.value)


def test_the_size_of_the_scale_benchmark():
    assert load_scale(["n=40"]).n == 40
    with pytest.raises(UserError, match="n is 3: it must be at least 40"):
        load_scale(["n=3"])


def test_analysis_options_import_neither_torch_nor_hydra():
    code = (
        "import sys; from benchmark.config.command_options import load_analysis; load_analysis(['pair=a']); "
        "sys.exit(bool({'torch', 'hydra'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
