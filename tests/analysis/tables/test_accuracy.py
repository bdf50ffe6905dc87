"""Tables from a tree of run folders: byte for byte, rule by rule, and every way a tree can be incomplete."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.runs.folder import RunFolder

EXPECTED = Path(__file__).parent / "expected"
PAIR = "resnet20-resnet8"


def cells(markdown: str, label: str, block: int = 0) -> list[str]:
    """The cells of one row of the `block`-th accuracy table that has it."""
    rows = [line for line in markdown.splitlines() if line.startswith(f"| {label} ")]
    return [c.strip() for c in rows[block].strip("|").split("|")][1:]


def csv_rows(reports: Path, name: str) -> list[dict[str, str]]:
    with open(reports / "tables" / name, newline="") as f:
        return list(csv.DictReader(f))


# ---------------------------------------------------------------- the fixture, byte for byte


def test_all_files_are_as_expected(full, analyse, tmp_path):
    status, out, err = analyse("table")
    made = sorted((tmp_path / "reports" / "tables").iterdir())
    assert status == 0
    assert [p.name for p in made] == sorted(p.name for p in EXPECTED.iterdir())
    for path in made:
        assert path.read_bytes() == (EXPECTED / path.name).read_bytes(), path.name
    texts = [(EXPECTED / f"{n}.md").read_text() for n in ("cifar100-short", "digits-quick")]
    assert out == "\n".join(texts)
    assert err.count("written: ") == len(made)


def test_same_bytes_in_another_process_with_other_hashes(full, tmp_path):
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-m", "analysis", "table", f"runs={full.root}", f"reports={tmp_path / 'other'}"],
            check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed},
        )  # fmt: skip
        for path in EXPECTED.iterdir():
            assert (tmp_path / "other" / "tables" / path.name).read_bytes() == path.read_bytes()


def test_expected_cells_by_hand():
    """Seeds 69 and 70: mean 69.5, deviation sqrt(0.25 + 0.25) = 0.7071; the student's 67, 68, 69 have mean 68."""
    markdown = (EXPECTED / "cifar100-short.md").read_text()
    assert cells(markdown, "KD")[:2] == ["**69.50 ± 0.71 (2)**", "+1.50"]
    assert cells(markdown, "Student") == ["68.00 ± 1.00 (3)", "–", "69.06 [1]", "60.00 ± 1.00 (3)", "–"]
    assert cells(markdown, "Teacher") == ["72.00 (1)", "–", "72.34 [1]", "62.30 (1)", "–"]


# ---------------------------------------------------------------- the numbers


def test_one_seed_has_no_deviation(tree, analyse, tmp_path):
    tree.student(PAIR, "kd", "0000000000a2", 0, 61.234)
    markdown = analyse("table")[1]
    assert cells(markdown, "KD") == ["**61.23 (1)**", "–"]
    assert "nan" not in markdown.lower()
    assert csv_rows(tmp_path / "reports", "cifar100-short.csv")[1]["std"] == ""


def test_best_on_test_never_enters_the_headline(tree, analyse, tmp_path):
    tree.student(PAIR, "kd", "0000000000a2", 0, 50.0, changes={"top1_best": 77.77})
    assert "77.77" not in analyse("table")[1]
    assert csv_rows(tmp_path / "reports", "cifar100-short.csv")[1]["best_mean"] == "77.77"


@pytest.mark.parametrize(
    ("kd", "crd", "clkd", "expected"),
    [
        (60.0, 61.0, 62.0, ["60.00 (1)", "<u>61.00 (1)</u>", "**62.00 (1)**"]),
        (62.0, 61.0, 62.0, ["**62.00 (1)**", "<u>61.00 (1)</u>", "**62.00 (1)**"]),
        (62.0, 61.0, 61.0, ["**62.00 (1)**", "<u>61.00 (1)</u>", "<u>61.00 (1)</u>"]),
        (62.004, 61.0, 61.996, ["**62.00 (1)**", "<u>61.00 (1)</u>", "**62.00 (1)**"]),  # equal as printed
        (62.0, 62.0, 62.0, ["**62.00 (1)**"] * 3),
    ],
)
def test_marks(tree, analyse, kd, crd, clkd, expected):
    tree.student(PAIR, "ce", "0000000000a1", 0, 99.0)  # neither the student nor the teacher is marked
    for i, (method, top1) in enumerate({"kd": kd, "crd": crd, "clkd": clkd}.items()):
        tree.student(PAIR, method, f"0000000000b{i}", 0, top1)
    markdown = analyse("table")[1]
    assert [cells(markdown, label)[0] for label in ("KD", "CRD", "CLKD")] == expected
    assert cells(markdown, "Student")[0] == "99.00 (1)"
    assert cells(markdown, "Teacher")[0] == "70.00 (1)"


def test_difference_that_rounds_to_nothing_has_no_sign(tree, analyse):
    tree.student(PAIR, "ce", "0000000000a1", 0, 60.0)
    tree.student(PAIR, "kd", "0000000000a2", 0, 59.999)
    assert cells(analyse("table")[1], "KD")[1] == "0.00"


def test_rows_by_year_then_title_and_no_year_last(tree, analyse):
    tree.student(PAIR, "clkd", "0000000000a1", 0, 60.0)
    tree.student(PAIR, "kd", "0000000000a2", 0, 60.0, changes={"year": None})
    tree.student(PAIR, "crd", "0000000000a3", 0, 60.0)
    tree.student(PAIR, "ce", "0000000000a4", 0, 60.0)
    block = analyse("table")[1].split("### Cost")[0]
    assert re.findall(r"^\| (\w+)", block, re.M) == ["Method", "Teacher", "Student", "CRD", "CLKD", "KD"]


def test_title_falls_back_to_the_method_and_shared_titles_are_told_apart(tree, analyse):
    tree.student(PAIR, "kd", "0000000000a1", 0, 60.0, changes={"title": None})
    assert cells(analyse("table")[1], "kd")[0] == "**60.00 (1)**"
    tree.student(PAIR, "crd", "0000000000a2", 0, 61.0, changes={"title": "kd"})
    markdown = analyse("table")[1]
    assert cells(markdown, "kd [kd]")[0] == "<u>60.00 (1)</u>"
    assert cells(markdown, "kd [crd]")[0] == "**61.00 (1)**"


# ---------------------------------------------------------------- unlike configs


def test_identities_are_never_averaged(tree, analyse):
    for i, nu in enumerate((0.0, 0.4, 10.0)):
        for seed in (0, 1):
            tree.student(PAIR, "clkd", f"0000000000a{i}", seed, 60.0 + i + seed, options={"nu": nu, "norm": "fro"})
    markdown = analyse("table")[1]
    for i, nu in enumerate(("0", "0.4", "10")):
        assert f"{60.5 + i:.2f} ± 0.71 (2)" in cells(markdown, f"CLKD (nu={nu})")[0]
    assert "norm=" not in markdown


def test_options_that_follow_the_pair_share_a_row(tree, analyse):
    tree.student("resnet20-resnet8", "kd", "0000000000a1", 0, 60.0, options={"T": 2.0})
    tree.student("resnet56-resnet8", "kd", "0000000000a2", 0, 61.0, options={"T": 6.0})
    assert cells(analyse("table")[1], "KD")[:3:2] == ["**60.00 (1)**", "**61.00 (1)**"]


def test_unlike_recipes_have_their_own_rows_and_baselines(tree, analyse):
    for i, (epochs, top1) in enumerate(((2, 30.0), (20, 60.0))):
        tree.student(PAIR, "ce", f"0000000000a{i}", 0, top1, epochs=epochs)
        tree.student(PAIR, "kd", f"0000000000b{i}", 0, top1 + 1 + i, epochs=epochs)
    tree.student(PAIR, "crd", "0000000000c0", 0, 64.0, epochs=40)
    markdown = analyse("table")[1]
    assert cells(markdown, "Student (epochs=2)")[0] == "30.00 (1)"
    assert cells(markdown, "KD (epochs=2)") == ["**31.00 (1)**", "+1.00"]  # the best of those that were trained so
    assert cells(markdown, "KD (epochs=20)") == ["**62.00 (1)**", "+2.00"]
    assert cells(markdown, "CRD (epochs=40)")[1] == "–"  # no student alone was trained that long
    assert "Runs: 2, 20, 40 epochs;" in markdown
    assert "Runs of one pair differ in recipe.epochs, recipe.milestones: compare like with like" in markdown


def test_pairs_of_unlike_length_are_named(tree, analyse):
    tree.student("resnet20-resnet8", "kd", "0000000000a1", 0, 60.0, epochs=2)
    tree.student("resnet56-resnet8", "kd", "0000000000a2", 0, 61.0, epochs=20)
    assert "not trained alike. Epochs: resnet20-resnet8 2; resnet56-resnet8 20." in analyse("table")[1]


def test_unlike_teachers_are_not_mixed(tree, analyse):
    for i, (sha256, top1) in enumerate({"d1" * 32: 70.0, "e2" * 32: 75.0}.items()):
        where = {"sha256": sha256, "teacher_top1": top1}
        tree.student(PAIR, "ce", f"0000000000a{i}", 0, 60.0 + i, **where)
        tree.student(PAIR, "kd", f"0000000000b{i}", 0, 63.0 + 3 * i, **where)
    markdown = analyse("table")[1]
    assert cells(markdown, "Teacher (teacher=d1d1d1d1)")[0] == "70.00 (1)"
    assert cells(markdown, "Teacher (teacher=e2e2e2e2)")[0] == "75.00 (1)"
    assert cells(markdown, "KD (teacher=d1d1d1d1)")[1] == "+3.00"
    assert cells(markdown, "KD (teacher=e2e2e2e2)")[1] == "+5.00"


def test_a_result_without_its_teachers_hash_still_counts(tree, analyse):
    for method, identity, top1 in (("ce", "0000000000a1", 60.0), ("kd", "0000000000a2", 61.0)):
        folder = tree.student(PAIR, method, identity, 0, top1, changes={"teacher_sha256": None})
        (folder / "config.yaml").unlink()
    assert cells(analyse("table")[1], "KD") == ["**61.00 (1)**", "+1.00"]


def test_identities_without_a_readable_config_are_told_apart_by_their_hash(tree, analyse):
    for i in (0, 1):
        folder = tree.student(PAIR, "kd", f"0000000000a{i}", 0, 60.0 + i)
        (folder / "config.yaml").write_text("{: not yaml")
    markdown = analyse("table")[1]
    assert cells(markdown, "KD (run 0000000000a0)")[0] == "<u>60.00 (1)</u>"
    assert cells(markdown, "KD (run 0000000000a1)")[0] == "**61.00 (1)**"


def test_profiles_have_tables_of_their_own(tree, analyse, tmp_path):
    tree.student(PAIR, "kd", "0000000000a1", 0, 60.0)
    tree.student(PAIR, "kd", "0000000000a2", 0, 70.0, profile="paper", epochs=240)
    analyse("table")
    assert "60.00 (1)" in (tmp_path / "reports/tables/cifar100-short.md").read_text()
    assert "70.00 (1)" in (tmp_path / "reports/tables/cifar100-paper.md").read_text()


def test_an_option_that_is_not_the_default_is_in_the_label(tree, analyse, tmp_path):
    pair = "wrn40_2-wrn16_2"
    for seed in (0, 1):
        tree.student(pair, "kd", "0000000000a1", seed, 40.0, options={"temperature": 2.0, "kd_weight": 0.9},
                     sha256="d1" * 32, changes={"changed": ["method.temperature"]})  # fmt: skip
    out = analyse("table")[1]
    assert cells(out, "KD (temperature=2)")[0].startswith("**40.00")
    for kind in ("csv", "tex"):
        assert "KD (temperature=2)" in (tmp_path / f"reports/tables/cifar100-short.{kind}").read_text()


# ---------------------------------------------------------------- published values


def test_published_values_are_comparable_with_the_papers_recipe_only(tree, analyse):
    pair = "wrn40_2-wrn16_2"
    tree.student(pair, "kd", "0000000000a1", 0, 75.0, profile="paper", epochs=240, sha256="d1" * 32)
    out = analyse("table")[1]
    assert cells(out, "KD") == ["**75.00 (1)**", "–", "74.92 [1]"]
    assert "which these runs follow" in out
    assert "- [1] HobbitLong/RepDistiller@b84f547 README.md; own runs (last epoch)" in out
    more = {"profile": "paper", "epochs": 240, "sha256": "d1" * 32}
    changes = {"changed": ["recipe.lr", "dataset.train_size"]}
    folder = tree.student(pair, "kd", "0000000000a1", 1, 75.0, **more, changes=changes)
    out = analyse("table")[1]
    assert "Runs: 240 epochs; not as in the profile: dataset.train_size null, recipe.lr 0.05;" in out
    assert "not comparable" in out
    shutil.rmtree(folder)
    tree.student(pair, "kd", "0000000000a2", 0, 40.0, profile="short", sha256="d1" * 32)
    assert "not comparable" in analyse("table", "profile=short")[1]
    tree.student(pair, "kd", "0000000000a3", 0, 40.0, profile="paper", epochs=2, sha256="d1" * 32)
    assert "not comparable" in analyse("table", "profile=paper")[1]


def test_rules_of_the_sources_are_named(tree, analyse, tmp_path):
    tree.student("wrn40_2-wrn16_2", "kd", "0000000000a1", 0, 75.0, sha256="d1" * 32)
    tree.student("resnet32x4-vgg8", "kd", "0000000000a2", 0, 75.0, sha256="d1" * 32)
    out = analyse("table")[1]
    assert "README.md; own runs (last epoch)" in out
    assert re.search(r"- \[2\] DefangChen/SimKD .*; own runs \(epoch not stated\)", out)
    rows = {(r["pair"], r["method"]): r for r in csv_rows(tmp_path / "reports", "cifar100-short.csv")}
    for pair, rule in {"wrn40_2-wrn16_2": "last", "resnet32x4-vgg8": "unknown"}.items():
        assert (rows[pair, "kd"]["published_rule"], rows[pair, "kd"]["published_origin"]) == (rule, "own")


def test_no_published_column_without_published_values(full, analyse):
    out = analyse("table", "dataset=digits")[1]
    assert "ublished" not in out


# ---------------------------------------------------------------- runs that are not finished, and what is no run


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{broken", "its result.json is missing or broken"),
        ("[]", "its result.json is missing or broken"),
        (json.dumps({"status": "done", "dataset": "cifar100", "pair": PAIR, "method": "crd"}), "identity"),
    ],
)
def test_broken_results_are_named_not_fatal(tree, analyse, content, says):
    tree.student(PAIR, "kd", "0000000000a1", 0, 60.0)
    folder = tree.student(PAIR, "crd", "0000000000a2", 3, 60.0)
    (folder / "result.json").write_text(content)
    status, out, _ = analyse("table")
    assert status == 0
    assert f"Not in the table, 1 run:\n\n- {PAIR} crd seed=3: " in out
    assert says in out.split("Not in the table")[1]
    assert not [line for line in out.splitlines() if line.startswith("| CRD")]


@pytest.mark.parametrize("top1", [1e9, -1.0])
def test_an_accuracy_that_is_none_is_not_tabulated(tree, analyse, top1):
    tree.student(PAIR, "kd", "0000000000a1", 0, 60.0)
    tree.student(PAIR, "kd", "0000000000a1", 1, top1)
    out = analyse("table")[1]
    assert cells(out, "KD")[0] == "**60.00 (1)**"
    assert f"- {PAIR} kd seed=1: its result.json has no top1_last from 0 to 100, but {json.dumps(top1)}" in out


@pytest.mark.parametrize("value", ["Infinity", "1" + 400 * "0", "1e999", "true", "null"])
@pytest.mark.parametrize("field", ["wall_s", "step_ms", "top1_best", "agreement"])
def test_a_number_that_is_none_spoils_no_table(tree, analyse, field, value):
    folder = tree.student(PAIR, "kd", "0000000000a1", 0, 60.0)
    result = json.loads((folder / "result.json").read_text())
    whole = json.dumps(result | {field: "here"}).replace('"here"', value)
    (folder / "result.json").write_text(whole)
    status, out, _ = analyse("table", "plots")
    assert status == 0 and cells(out, "KD")[0] == "**60.00 (1)**"


def test_json_that_is_too_deep_is_a_broken_result(tree, analyse):
    tree.student(PAIR, "kd", "0000000000a1", 0, 60.0)
    folder = tree.student(PAIR, "kd", "0000000000a1", 1, 60.0)
    for name in ("result.json", "metrics.jsonl"):
        (folder / name).write_text(200_000 * "[")
    status, out, _ = analyse("table", "plots")
    assert status == 0 and "kd seed=1: its result.json is missing or broken" in out


def test_a_result_that_was_changed_is_left_out(tree, analyse):
    tree.student(PAIR, "kd", "0000000000a1", 0, 60.0)
    folder = tree.student(PAIR, "kd", "0000000000a1", 1, 61.0)
    run = RunFolder(folder)
    run.write_record(run.record)
    assert cells(analyse("table")[1], "KD")[0] == "**60.50 ± 0.71 (2)**"
    (folder / "result.json").write_text((folder / "result.json").read_text().replace("61.0", "81.0"))
    out = analyse("table")[1]
    assert cells(out, "KD")[0] == "**60.00 (1)**"
    assert f"- {PAIR} kd seed=1: its result.json was changed after it was written" in out


def test_runs_of_one_setting_by_different_code_are_said(tree, analyse):
    for seed, code in enumerate(("c0de00000001", "c0de00000001", "c0de00000002")):
        tree.student(PAIR, "kd", "0000000000a1", seed, 60.0, changes={"code": code})
        tree.student(PAIR, "ce", "0000000000a2", seed, 60.0, changes={"code": "c0de00000003"})
    out = analyse("table")[1]
    note = "its runs were made by different versions of its code (seed 0, 1 by c0de00000001; seed 2 by c0de00000002)."
    assert f"KD on {PAIR}: {note}" in out and out.count("different versions of its code") == 1


def test_a_row_that_is_compared_with_nothing_says_why(tree, analyse):
    for seed in (0, 1):
        tree.student(PAIR, "ce", "0000000000a0", seed, 60.0)
        folder = tree.student(PAIR, "kd", "0000000000a1", seed, 61.0)
        if seed == 0:
            (folder / "config.yaml").write_text("[[[")
    out = analyse("table")[1]
    assert cells(out, "KD")[1] == "+1.00" and "compared with nothing" not in out  # the other seed's config is the same
    (folder / "config.yaml").unlink()
    out = analyse("table")[1]
    assert cells(out, "KD")[1] == "–"
    assert f"KD on {PAIR} is compared with nothing: no config.yaml of its runs can be read." in out


def test_all_stands_for_no_choice(tree, analyse):
    tree.student(PAIR, "kd", "0000000000a1", 0, 60.0)
    assert analyse("table", "method=all", "pair=all") == analyse("table")


@pytest.mark.parametrize("field", ["top1_last", "profile", "teacher", "epochs"])
def test_a_result_without_what_a_table_needs_is_named(tree, analyse, field):
    tree.student(PAIR, "kd", "0000000000a1", 0, 60.0)
    tree.student(PAIR, "kd", "0000000000a1", 1, 60.0, changes={field: None})
    out = analyse("table")[1]
    assert f"- {PAIR} kd seed=1: its result.json has no {field}" in out
    assert cells(out, "KD")[0] == "**60.00 (1)**"


def test_a_copied_run_does_not_count_twice(tree, analyse):
    folder = tree.student(PAIR, "kd", "0000000000a1", 0, 60.0)
    shutil.copytree(folder, folder.with_name("seed=1"))
    out = analyse("table")[1]
    assert cells(out, "KD")[0] == "**60.00 (1)**"
    assert "kd seed=1: its result.json says seed 0: it belongs to another folder" in out


def test_a_result_of_a_run_that_is_being_made_again_does_not_count(tree, analyse):
    tree.student(PAIR, "kd", "0000000000a1", 0, 60.0)
    folder = tree.student(PAIR, "kd", "0000000000a1", 1, 60.0)
    (folder / "status.json").write_text('{"status": "running", "reason": ""}')
    out = analyse("table")[1]
    assert cells(out, "KD")[0] == "**60.00 (1)**"
    assert "kd seed=1: running or interrupted" in out


def test_a_failed_teacher_is_named(tree, analyse):
    tree.student(PAIR, "kd", "0000000000a1", 0, 60.0)
    folder = tree.root / "cifar100/teachers/resnet56/bbbbbbbbbbbb/seed=0"
    folder.mkdir(parents=True)
    (folder / "status.json").write_text('{"status": "diverged", "reason": "term ce is nan\\nat step 3"}')
    assert "- teacher resnet56 seed=0: diverged: term ce is nan at step 3" in analyse("table")[1]
    assert "resnet56" not in analyse("table", f"pair={PAIR}")[1]


def test_many_unfinished_runs_are_counted_and_the_first_named(tree, analyse):
    tree.student(PAIR, "kd", "0000000000a1", 0, 60.0)
    for seed in range(30):
        tree.ended(PAIR, "crd", "0000000000a2", seed, "running")
    out = analyse("table")[1]
    assert "Not in the table, 30 runs:" in out
    assert out.count("running or interrupted") == 20
    assert "- and 10 more" in out


# ---------------------------------------------------------------- choosing


def test_filters_choose_and_pairs_keep_their_order(full, analyse):
    out = analyse("table", "pair=resnet20-resnet8,resnet56-resnet20", "method=kd", "dataset=cifar100")[1]
    assert re.findall(r"resnet\d+-resnet\d+", out)[:2] == ["resnet20-resnet8", "resnet56-resnet20"]
    assert cells(out, "KD")[0] == "**61.25 ± 1.00 (3)**"
    assert cells(out, "Student")[0] == "60.00 ± 1.00 (3)"
    assert "CLKD" not in out
    assert "crd" not in out
    assert out == analyse("table", f"pair=[{PAIR},resnet56-resnet20]", "method=[kd]", "dataset=[cifar100]")[1]


def test_a_method_that_only_failed_may_be_asked_for(full, analyse):
    status, out, _ = analyse("table", f"pair={PAIR}", "method=kd,crd", "profile=short")
    assert status == 0
    assert "crd seed=0: diverged: term kd is nan" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["table", "pairs=a"], "unknown key 'pairs'; did you mean pair"),
        (["tabel"], "unknown command 'tabel'; did you mean table?"),
        (["pair=a"], "no command given"),
        (["table", "pair="], "'pair=' has an empty value"),
        (["table", "pair=a,,b"], "'pair=a,,b' has an empty value"),
        (["table", "dataset=cifar10"], "have dataset 'cifar10'; did you mean cifar100"),
        (["table", "profile=papr"], "have profile 'papr'; known: quick, short"),
        (["table", "pair=resnet20-resnet9"], "did you mean resnet20-resnet8"),
        (["plots", "method=clk"], "have method 'clk'; did you mean clkd"),
        (["table", "dataset=digits", "profile=short"], "have all of dataset=digits profile=short"),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(full, analyse, tmp_path, arguments, says):
    status, out, err = analyse(*arguments)
    assert status == 2
    assert out == ""
    assert says in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "reports").exists()


def test_no_runs(tree, analyse, tmp_path):
    for prepare in (lambda: None, tree.root.mkdir, lambda: (tree.root / "wandb" / "run").mkdir(parents=True)):
        prepare()
        status, out, err = analyse("table", "plots")
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert str(tree.root) in err
        assert "make bench" in err
    tree.ended(PAIR, "kd", "0000000000a1", 0, "failed", "no memory")
    status, out, err = analyse("table")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "no finished runs" in err
    assert "failed: no memory" in err


def test_reports_that_cannot_be_written_are_one_line(full, analyse, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = analyse("table", f"reports={tmp_path / 'file'}")
    assert status == 2
    assert err.count("\n") == 1


def test_alone_it_prints_usage_and_it_never_imports_torch(tmp_path):
    code = "import sys, analysis.__main__ as m, analysis.figures.curves; m.main([])"
    code += "; sys.exit(bool({'torch', 'matplotlib.pyplot'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: python -m analysis")


# ---------------------------------------------------------------- LaTeX


def columns(row: str) -> int:
    """How many columns a LaTeX row fills."""
    spans = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", row))
    return len(re.findall(r"(?<!\\)&", row)) + 1 + spans


def test_latex_rows_fill_their_columns(full, analyse, tmp_path):
    for i in range(9):
        tree_pair = f"resnet110-resnet{8 + 6 * i}"
        full.student(tree_pair, "kd", f"00000000010{i}", 0, 60.0, teacher_top1=71.0)
    analyse("table", "dataset=cifar100")
    text = (tmp_path / "reports/tables/cifar100-short.tex").read_text()
    tabulars = re.findall(r"\\begin\{tabular\}\{l([^\n]*)\}\n(.*?)\\end\{tabular\}", text, re.S)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2  # 11 pairs, two a block, three blocks a page
    assert len(tabulars) == 6
    for layout, body in tabulars:
        width = 1 + re.sub(r"@\{.*?\}", "", layout).count("r")
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(rows) >= 4
        assert not [r for r in rows if set(r.removesuffix(r" \\").split(" & ")[1:]) == {"--"}]  # rows without an entry
        assert {columns(r) for r in rows} == {width}
    assert text.count("{") == text.count("}")
    assert len(set(re.findall(r"\\label\{(.*?)\}", text))) == 2


def test_latex_escapes():
    from analysis.tables.accuracy import escape

    assert escape(r"a_b & 5% #1 $x {y} ~ ^ \z [2]") == (
        r"a\_b \& 5\% \#1 \$x \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}z {[}2{]}"
    )
    assert escape("± − Δ") == r"$\pm$ $-$ $\Delta$"


def test_latex_compiles(full, analyse, tmp_path):
    if not (pdflatex := shutil.which("pdflatex")):
        pytest.skip("pdflatex is not installed")
    if subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True).returncode:
        pytest.skip("the LaTeX package booktabs is not installed")
    full.student(PAIR, "kd", "0000000000d1", 0, 60.0, options={"T": 4.0, "odd_key": r"50% of #1 & $x^2$ {~\y} [z]"})
    analyse("table", "dataset=cifar100")
    name = "reports/tables/cifar100-short"
    document = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}\input{{{name}}}\end{{document}}"
    (tmp_path / "doc.tex").write_text(document)
    made = subprocess.run(
        [pdflatex, "-interaction=nonstopmode", "-halt-on-error", "doc.tex"], cwd=tmp_path, capture_output=True
    )
    assert made.returncode == 0, made.stdout.decode(errors="replace")[-2000:]
    assert (tmp_path / "doc.pdf").stat().st_size > 1000


def test_a_list_of_pairs_stands_for_those_that_have_runs(full, analyse):
    status, out, _ = analyse("table", "pair=classic", "dataset=cifar100")
    assert status == 0
    assert "resnet56-resnet20" in out and "resnet20-resnet8" not in out  # the one is classic, the other is not
    status, _, err = analyse("table", "pair=published")
    assert status == 2 and "have pair 'published'" in err


# ---------------------------------------------------------------- what cannot be, unequal cost, validation splits


def test_what_cannot_be_is_shown_with_its_reason(full, analyse):
    other = "resnet56-resnet20"
    full.ended(PAIR, "fsp", "0000000000f1", 0, "skipped", "FSP needs equal channels")  # nowhere possible
    full.ended(other, "fsp", "0000000000f2", 0, "skipped", "FSP needs equal channels")
    shutil.rmtree(full.root / "cifar100" / PAIR / "crd")
    full.ended(PAIR, "crd", "0000000000f3", 0, "skipped", "too few | classes")  # possible on the other pair
    out = analyse("table", "dataset=cifar100")[1]
    assert [c for c in cells(out, "fsp") if c != "–"] == ["n/a", "n/a"]
    assert cells(out, "CRD")[-2:] == ["n/a", "–"]
    for reason in (f"{PAIR} crd: too few | classes", f"{other} fsp: FSP needs equal channels"):
        assert reason in out
    assert "fsp seed=0" not in out  # no run is missing: it cannot be
    tex = (full.root.parent / "reports" / "tables" / "cifar100-short.tex").read_text()
    assert "\nfsp & n/a & " in tex


def test_what_is_not_at_equal_cost_is_marked(tree, analyse):
    tree.teacher("resnet20", 62.3)
    for seed in range(2):
        tree.student(PAIR, "ce", "0000000000a1", seed, 60.0, changes={"parameters": 100, "inference_parameters": 100})
        before = {"pre_epochs": 3, "views": 1, "parameters": 100, "inference_parameters": 100}
        tree.student(PAIR, "kd", "0000000000a2", seed, 61.0, changes=before)
        kept = {"pre_epochs": 0, "views": 2, "parameters": 100, "inference_parameters": 150}
        tree.student(PAIR, "crd", "0000000000a3", seed, 62.0, changes=kept)
    out = analyse("table")[1]
    assert cells(out, "KD *")[0].startswith("<u>61.00")
    assert "* Not at equal cost: KD (3 epochs before); CRD (two views, layers kept at inference)." in out
    assert "| Student " in out and "| Student *" not in out


def test_runs_with_a_validation_split_have_a_table_of_their_own(tree, analyse):
    """They were trained on fewer images."""
    tree.teacher("resnet20", 62.3)
    tree.student(PAIR, "ce", "0000000000a1", 0, 60.0)
    tree.student(PAIR, "ce", "0000000000a2", 0, 58.0, changes={"val_top1_last": 57.0})
    out = analyse("table")[1]
    plain, held = out.split("## cifar100, profile short+validation")
    assert cells(plain, "Student")[0] == "60.00 (1)" and cells(held, "Student")[0] == "58.00 (1)"
    out = analyse("table", "profile=short+validation")[1]
    assert "58.00 (1)" in out and "60.00 (1)" not in out
