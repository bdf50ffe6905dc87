"""The benchmark of the tables: its generated tree, and its report."""

import pytest

from analysis import scale
from analysis.scale import Measurement


def test_the_generated_tree_has_all_tables(tree, analyse, tmp_path):
    scale.generate(tree.root, range(200))
    status, out, _ = analyse("table")
    assert status == 0
    names = {p.name for p in (tmp_path / "reports" / "tables").iterdir()}
    assert {"cifar100-paper-significance.md", "cifar100-paper-ranks.md", "cifar100-short-significance.md"} <= names
    assert "## cifar100, profile paper" in out and "## cifar100, profile short" in out
    assert out.count("running or interrupted") == 2  # one in a hundred
    assert "± " in out and "(5)" in out


def test_a_larger_tree_holds_the_smaller_one(tmp_path):
    scale.generate(tmp_path / "a", range(50))
    scale.generate(tmp_path / "b", range(30))
    scale.generate(tmp_path / "b", range(30, 50))
    trees = [
        {p.relative_to(tmp_path / x): p.read_bytes() for p in (tmp_path / x).rglob("*") if p.is_file()} for x in "ab"
    ]
    assert trees[0] == trees[1]
    assert sum(p.name == "status.json" for p in trees[0]) == 50


def test_a_quarter_half_and_all_are_measured(monkeypatch, capsys):
    measured = []

    def measure(folder, runs):
        measured.append((runs, sum(1 for _ in folder.glob("runs/*/*/*/*/seed=*"))))
        return Measurement(runs, runs / 100, runs / 200, 50.0)

    monkeypatch.setattr(scale, "measure", measure)
    scale.main(["n=80"])
    assert measured == [(20, 20), (40, 40), (80, 80)]
    row = capsys.readouterr().out.splitlines()[-1]
    assert [c.strip() for c in row.strip("|").split("|")] == ["80", "0.8", "0.4", "10.00", "50", "2.00"]


def test_a_fresh_process_is_measured(tmp_path):
    scale.generate(tmp_path / "runs", range(40))
    measurement = scale.measure(tmp_path, 40)
    assert measurement.runs == 40
    assert measurement.cpu_s > 0 and measurement.wall_s > 0 and 20 < measurement.peak_mib < 2048
    assert (tmp_path / "reports" / "tables" / "cifar100-paper.md").is_file()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("n=ten", "Value 'ten' of type 'str' could not be converted to Integer"),
        ("n=3", "n is 3: it must be at least 40"),
        ("runs=x", "unknown key 'runs'; known: n"),
        ("10", "unknown key '10'; known: n"),
    ],
)
def test_bad_arguments_are_one_line(argument, message, capsys):
    from analysis.__main__ import main

    assert main(["scale", argument]) == 2
    out = capsys.readouterr()
    assert out.out == "" and out.err.count("\n") == 1 and message in out.err
