"""Tables of linear probes: numbers, tests, published values, which probes are shown, files and the report's section."""

import json

import pytest

from tests.analysis.probes import write_probe
from tests.analysis.reading import cells, csv_records

PAIR = "wrn40_2-wrn16_2"
ENDS = (".md", ".tex", ".csv", "-significance.csv")
CSV = "reports/tables/cifar100-paper-transfer.csv"
STUDENTS = {"ce": (69.0, 70.0, 71.0), "kd": (70.0, 71.0, 72.5), "crd": (72.0, 73.5, 74.0)}  # on STL-10, by seed


@pytest.fixture
def probed(tree):
    """Three students of three methods, probed on STL-10; two of them on Tiny-ImageNet; and their teacher."""
    sha256 = "d" * 64
    teacher = tree.root / tree.teacher("wrn40_2", 75.0, profile="paper")
    content = json.loads((teacher / "result.json").read_text())
    (teacher / "result.json").write_text(json.dumps(content | {"sha256": sha256}))
    write_probe(teacher, "stl10", 68.25)
    for i, (method, values) in enumerate(STUDENTS.items()):
        for seed, top1 in enumerate(values):
            run = tree.student(
                PAIR, method, f"0000000000a{i}", seed, 73.0 + i, profile="paper", epochs=240, sha256=sha256,
                teacher_top1=75.0, changes={"sha256": f"{i}{seed}" * 32},
            )  # fmt: skip
            write_probe(run, "stl10", top1)
            if seed < 2 and method != "ce":
                write_probe(run, "tinyimagenet", top1 / 2, "012345abcdef")
    return tree


def test_methods_stand_against_targets_with_published_values_beside(probed, analyse):
    """STL-10 of CRD: mean (72 + 73.5 + 74) / 3 = 73.17, deviation sqrt(1.0833) = 1.04; the student's mean is 70."""
    status, markdown, _ = analyse("transfer")
    assert status == 0 and "## cifar100, profile paper: transfer" in markdown
    assert cells(markdown, "Teacher") == ["68.25 (1)", "–", "68.60 [1]", "–", "–", "–"]
    assert cells(markdown, "Student") == ["70.00 ± 1.00 (3)", "–", "69.70 [1]", "–", "–", "–"]
    assert cells(markdown, "CRD") == [
        "**73.17 ± 1.04 (3)** †", "+3.17", "71.60 [1]", "**36.38 ± 0.53 (2)**", "–", "35.60 [1]",
    ]  # fmt: skip
    assert "- [1] giakoumoglou/distillers older README; own runs or copied: not stated (epoch not stated)" in markdown
    assert "eval mode" in markdown and "training mode" in markdown
    assert "Probes on stl10: 32 px, 120 epochs, by CRD's protocol." in markdown


def test_differences_to_kd_have_intervals_and_tests(probed, analyse, tmp_path):
    """Differences of CRD to KD by seed: 2.0, 2.5, 1.5, mean 2.0. One test is a plain paired t-test: deviation 0.5,
    t = 2 / (0.5 / sqrt(3)) = 6.928 with 2 degrees of freedom, p = 0.0202, half width 4.303 · 0.5 / sqrt(3) = 1.242."""
    markdown = analyse("transfer")[1]
    assert "### Transfer of wrn40_2-wrn16_2 against KD" in markdown
    against = markdown.split("against KD")[1]
    assert cells(against, "CRD")[0] == "+2.00 [+0.76, +3.24] p 0.020 (3) †"
    stl10, *_ = [r for r in csv_records(tmp_path / CSV) if (r["method"], r["target"]) == ("crd", "stl10")]
    assert (stl10["delta_kd"], stl10["significance_kd"], stl10["n_kd"]) == ("2", "better", "3")
    assert float(stl10["low_kd"]) == pytest.approx(2 - 1.242, abs=2e-3)
    assert float(stl10["p_kd"]) == pytest.approx(0.0202, abs=2e-4)
    path = tmp_path / "reports/tables/cifar100-paper-transfer-significance.csv"
    tests = {(r["target"], r["method"], r["other_method"]): r for r in csv_records(path)}
    assert (
        tests["stl10", "crd", "kd"]["significant"] == "better" and float(tests["stl10", "kd", "ce"]["difference"]) > 1
    )
    assert (stl10["published"], stl10["published_rule"], stl10["probe_identity"]) == ("71.6", "unknown", "abcdef012345")


def test_files_are_markdown_latex_and_csv_in_both_accuracies(probed, analyse, tmp_path):
    assert analyse("transfer", "accuracy=both")[0] == 0
    names = {path.name for path in (tmp_path / "reports/tables").iterdir()}
    assert names == {f"cifar100-paper-transfer{m}{e}" for m in ("", "-top5") for e in ENDS}
    markdown = (tmp_path / "reports/tables/cifar100-paper-transfer-top5.md").read_text()
    assert cells(markdown, "CRD")[0] == "**93.17 ± 1.04 (3)** †"
    text = (tmp_path / "reports/tables/cifar100-paper-transfer.tex").read_text()
    assert r"\label{tab:cifar100-paper-transfer}" in text and "stl10" in text and "giakoumoglou" in text


def test_a_target_can_be_chosen_and_the_tables_of_runs_come_with_those_of_probes(probed, analyse, tmp_path):
    markdown = analyse("transfer", "target=stl10")[1]
    assert "tinyimagenet" not in markdown and cells(markdown, "CRD")[0].startswith("**73.17")
    assert (tmp_path / "reports/tables/cifar100-paper-stl10-transfer.md").is_file()  # not that of all targets
    everything = analyse("table")[1]
    assert (
        "### Transfer of wrn40_2-wrn16_2" in everything and "Top-1 accuracy on the test set in per cent" in everything
    )


def test_rows_that_are_not_at_equal_cost_are_flagged_and_never_marked(probed, analyse):
    for path in probed.root.glob("cifar100/*/crd/*/*/result.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"views": 2}))
    markdown = analyse("transfer")[1]
    assert cells(markdown, "CRD *")[0] == "73.17 ± 1.04 (3) †" and cells(markdown, "KD")[0].startswith("**71.17")
    assert "* Not at equal cost: CRD (two views)." in markdown
    assert "Students: 240 epochs; precision bf16" in markdown


def test_probes_of_another_protocol_are_listed_not_averaged(probed, analyse):
    (run,) = probed.root.glob("cifar100/*/crd/*/seed=0")
    write_probe(run, "stl10", 10.0, "fedcba987654", protocol={"epochs": 2, "lr": 1.0})
    markdown = analyse("transfer")[1]
    assert cells(markdown, "CRD")[0].startswith("**73.17")
    assert "- 1 probe on stl10 with epochs 2, lr 1" in markdown


def test_probes_by_the_protocol_go_before_more_of_another_one(tree, analyse):
    for seed in range(3):
        run = tree.student("resnet20-resnet8", "kd", "0000000000a1", seed, 60.0 + seed)
        write_probe(run, "digits", 30.0, "000000000001", protocol={"epochs": 2})
    write_probe(run, "digits", 50.0)
    markdown = analyse("transfer")[1]
    assert cells(markdown, "KD")[0] == "**50.00 (1)**" and "- 3 probes on digits with epochs 2" in markdown


def test_probes_that_cannot_count_are_left_out(probed, analyse):
    """An unfinished probe, one whose result was changed, and one of weights that the run no longer has."""
    runs = {path.parts[-3] + path.name: path for path in probed.root.glob("cifar100/*/*/*/seed=*")}
    for name, change in {"crdseed=0": {"student_sha256": "0" * 64}, "crdseed=1": {"checksum": "0" * 16}}.items():
        path = runs[name] / "transfer/stl10/abcdef012345/result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    (runs["kdseed=0"] / "transfer/stl10/abcdef012345/status.json").write_text('{"status": "running"}')
    markdown = analyse("transfer")[1]
    assert cells(markdown, "CRD")[0] == "74.00 (1)" and cells(markdown, "KD")[0].startswith("**71.75 ± 1.06 (2)")
    assert "- 1 probe of weights that a run no longer has: repeat the command" in markdown


def test_changed_settings_of_the_protocol_are_named(tree, analyse):
    run = tree.student("resnet20-resnet8", "kd", "0000000000a1", 0, 60.0)
    write_probe(run, "digits", 50.0, protocol={"epochs": 3, "milestones": [1.0, 2.0]})
    markdown = analyse("transfer")[1]
    assert "Probes on digits: 32 px, 3 epochs, not as in CRD's protocol: epochs 3, milestones [1.0, 2.0]." in markdown
    assert "published" not in markdown.split("### Transfer")[1].splitlines()[2]


def test_runs_without_probes_are_said_to_have_none(full, analyse):
    status, out, err = analyse("transfer")
    assert (status, out) == (2, "") and "no probes of these students" in err
    assert "Transfer" not in analyse("table")[1]


def test_the_report_has_a_section(probed, analyse, tmp_path):
    assert analyse("report")[0] == 0
    page = (tmp_path / "reports/report.html").read_text()
    assert "<h3" in page and "Linear probes of wrn40_2 → wrn16_2" in page and "73.17 ± 1.04 (3)" in page
    assert (tmp_path / "reports/tables/cifar100-paper-transfer.csv").is_file()


def test_a_damaged_config_of_a_probe_costs_no_table(probed, analyse):
    for path in probed.root.glob("cifar100/*/*/*/*/transfer/*/*/config.yaml"):
        path.write_text("probe: 3\ndataset: []\n")
    status, markdown, _ = analyse("transfer")
    assert status == 0 and cells(markdown, "CRD")[0].startswith("**73.17")
