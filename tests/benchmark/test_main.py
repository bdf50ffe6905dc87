"""The command line: dispatch to commands and to the analysis, help, exit statuses."""

import importlib
import os
import re
import sys
import tomllib

import pytest

from benchmark.__main__ import ANALYSIS, TRAINING, main
from benchmark.config.schema import AnalysisOptions, Config, PlanOptions, TuneOptions
from benchmark.runs.folder import RunBusy
from methods.options import leaf_fields
from tests.conftest import ROOT


@pytest.mark.parametrize("name", TRAINING)
def test_every_command_is_a_module_with_a_run_function(name):
    assert callable(importlib.import_module(f"benchmark.commands.{name}").run)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["bench", "help"]])
def test_the_help_is_printed_on_request_and_without_arguments(arguments, capsys, monkeypatch):
    monkeypatch.setattr("benchmark.commands.bench.run", lambda words: pytest.fail("runs are trained"))
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("usage: kd-benchmark <command>")


def test_every_key_and_variable_is_in_the_help(capsys):
    assert main(["--help"]) == 0
    words = set(re.findall(r"[\w.]+", capsys.readouterr().out))
    shared = set(leaf_fields(Config)) - {"method"}
    missing = {*shared, *leaf_fields(AnalysisOptions), *leaf_fields(TuneOptions), *leaf_fields(PlanOptions)} - words
    assert missing == set()
    variables = re.search(r"^VARIABLES = (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(variables[1].split()) - {"PYTHON", "BIN", "PAIRS"} <= words  # of installation, and of `make help`


def test_every_command_is_in_the_help_and_has_a_make_target(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name in {**TRAINING, **ANALYSIS}:
        assert f"\n  {name} " in text
        assert name in targets or name in ("pairs", "ablation")  # `make help PAIRS=1`, and what `ablate` runs


def test_the_console_script_is_this_module():
    script = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["kd-benchmark"]
    module, function = script.split(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tabel"], "unknown command 'tabel'; did you mean table"),
        (["bench", "bnch"], "unknown command 'bnch'; did you mean bench"),
        (["methods", "foo=1"], "methods takes no keys: leave foo=1 out"),
        (["bench", "plan"], "one command at a time, not bench plan"),
    ],
)
def test_invalid_commands_end_with_status_2(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1


def test_analysis_commands_replace_the_process(monkeypatch):
    class Replaced(BaseException):
        pass

    def execv(path, arguments):
        raise Replaced(path, arguments)

    monkeypatch.setattr(os, "execv", execv)
    with pytest.raises(Replaced) as e:
        main(["table", "plots", "runs=results"])
    assert e.value.args == (sys.executable, [sys.executable, "-m", "analysis", "table", "plots", "runs=results"])


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (RunBusy("another process holds the run"), 1, "error: another process holds the run"),
        (OSError(28, "No space left on device", "runs/x"), 2, "error: runs/x: No space left on device"),
        (KeyboardInterrupt(), 130, "stopped; the same command continues after the last finished epoch"),
    ],
)
def test_errors_of_a_command_end_in_one_line(monkeypatch, capsys, error, status, message):
    def run(words):
        raise error

    monkeypatch.setattr("benchmark.commands.plan.run", run)
    assert main(["plan"]) == status
    assert capsys.readouterr().err.strip() == message
