"""Mistaken input of every kind is refused in one line: a few hundred of the cases of `make fuzz`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import fuzz

ROOT = Path(__file__).resolve().parent.parent
CASES = {"command": 80, "method": 45, "data": 45, "checkpoint": 30, "run": 5}


@pytest.mark.parametrize("kind", CASES)
def test_damaged_input_is_refused_in_one_line(tmp_path, kind):
    process = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--kind", kind, "--cases", str(CASES[kind])],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stdout == f"{CASES[kind]} cases, 0 failed\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["x=1"], None),
        (["raise"], "status 3"),
        (["exit 5"], "status 5"),
        (["two lines"], "status 2 with 2 lines of error"),
        (["silent"], "status 2 with 0 lines of error"),
        (["hang"], "no end after 1 s"),
        (["write"], "left behind"),
    ],
)
def test_a_bad_end_is_noticed(tmp_path, monkeypatch, words, expected):
    def command(arguments: list[str]) -> int:
        match arguments[0]:
            case "raise":
                raise ValueError
            case "exit 5":
                return 5
            case "two lines":
                print("error: a\nerror: b", file=sys.stderr)
                return 2
            case "silent":
                return 2
            case "hang":
                while True:
                    pass
            case "write":
                Path("data/left").write_text("x")
        return 0

    monkeypatch.setattr(fuzz, "SECONDS", 1)
    monkeypatch.setitem(fuzz.KINDS, "command", lambda folder, rng: fuzz.Case(command, words))
    result = fuzz.problem(tmp_path / "case", "command", 0)
    assert result is None if expected is None else (result or "").startswith(expected)
