"""The table of accuracies: its numbers, marks and rows, published values, and what its notes say."""

import re
import shutil

import pytest
import yaml

from tests.analysis.reading import cells, csv_records

PAIR = "resnet20-resnet8"
CSV = "reports/tables/cifar100-short.csv"


# ---------------------------------------------------------------- numbers and marks


def test_one_seed_has_no_deviation(tree, analyse, tmp_path):
    tree.student(PAIR, "kd", "0000000000a2", 0, 61.234)
    markdown = analyse("table")[1]
    assert cells(markdown, "KD") == ["**61.23 (1)**", "–"]
    assert "nan" not in markdown.lower()
    assert csv_records(tmp_path / CSV)[1]["std"] == ""


def test_the_best_test_accuracy_is_in_the_csv_file_only(tree, analyse, tmp_path):
    tree.student(PAIR, "kd", "0000000000a2", 0, 50.0, changes={"top1_best": 77.77})
    assert "77.77" not in analyse("table")[1]
    assert csv_records(tmp_path / CSV)[1]["best_mean"] == "77.77"


@pytest.mark.parametrize(
    ("kd", "crd", "clkd", "expected"),
    [
        (60.0, 61.0, 62.0, ["60.00 (1)", "<u>61.00 (1)</u>", "**62.00 (1)**"]),
        (62.0, 61.0, 62.0, ["**62.00 (1)**", "<u>61.00 (1)</u>", "**62.00 (1)**"]),
        (62.0, 61.0, 61.0, ["**62.00 (1)**", "<u>61.00 (1)</u>", "<u>61.00 (1)</u>"]),
        (62.004, 61.0, 61.996, ["**62.00 (1)**", "61.00 (1)", "<u>62.00 (1)</u>"]),  # equal as printed
        (62.0, 62.0, 62.0, ["62.00 (1)"] * 3),  # no method is better than another
    ],
)
def test_the_best_two_methods_are_marked_by_their_means(tree, analyse, kd, crd, clkd, expected):
    tree.student(PAIR, "ce", "0000000000a1", 0, 99.0)  # neither the student nor the teacher is marked
    for i, (method, top1) in enumerate({"kd": kd, "crd": crd, "clkd": clkd}.items()):
        tree.student(PAIR, method, f"0000000000b{i}", 0, top1)
    markdown = analyse("table")[1]
    assert [cells(markdown, label)[0] for label in ("KD", "CRD", "CLKD")] == expected
    assert cells(markdown, "Student")[0] == "99.00 (1)"
    assert cells(markdown, "Teacher")[0] == "70.00 (1)"


def test_of_equal_means_the_one_with_the_smaller_deviation_is_better(tree, analyse):
    for seed in range(3):
        tree.student(PAIR, "kd", "0000000000a1", seed, 60.0 + seed)
        tree.student(PAIR, "crd", "0000000000a2", seed, 60.5 + seed / 2)
        tree.student(PAIR, "clkd", "0000000000a3", seed, 60.0)
    markdown = analyse("table")[1]
    assert cells(markdown, "CRD")[0].startswith("**61.00") and cells(markdown, "KD")[0].startswith("<u>61.00")


def test_rows_with_fewer_seeds_are_shown_and_never_marked(tree, analyse):
    for seed in range(3):
        tree.student(PAIR, "kd", "0000000000a1", seed, 60.0 + seed)
        tree.student(PAIR, "crd", "0000000000a2", seed, 59.0 + seed)
    tree.student(PAIR, "clkd", "0000000000a3", 0, 75.0)
    markdown = analyse("table")[1]
    assert cells(markdown, "KD")[0].startswith("**61.00") and cells(markdown, "CRD")[0].startswith("<u>60.00")
    assert cells(markdown, "CLKD")[0] == "75.00 (1)"


def test_columns_of_means_over_pairs(tree, analyse):
    other = "resnet56-resnet8"
    tree.student(PAIR, "kd", "0000000000a1", 0, 60.0)
    tree.student(other, "kd", "0000000000a2", 0, 64.0)
    tree.student(PAIR, "crd", "0000000000b1", 0, 61.0)
    tree.student(other, "crd", "0000000000b2", 0, 62.0)
    tree.student(PAIR, "clkd", "0000000000c1", 0, 63.0)  # has no runs on the other pair
    markdown = analyse("table")[1]
    assert cells(markdown, "KD")[-2:] == ["62.00", "1.50"]
    assert cells(markdown, "CRD")[-2:] == ["61.50", "1.50"]
    assert cells(markdown, "CLKD")[-2:] == ["–", "–"]


def test_difference_that_rounds_to_nothing_has_no_sign(tree, analyse):
    tree.student(PAIR, "ce", "0000000000a1", 0, 60.0)
    tree.student(PAIR, "kd", "0000000000a2", 0, 59.999)
    assert cells(analyse("table")[1], "KD")[1] == "0.00"


def test_rows_are_sorted_by_year_and_title_and_methods_without_a_year_are_last(tree, analyse):
    tree.student(PAIR, "clkd", "0000000000a1", 0, 60.0)
    tree.student(PAIR, "kd", "0000000000a2", 0, 60.0, changes={"year": None})
    tree.student(PAIR, "crd", "0000000000a3", 0, 60.0)
    tree.student(PAIR, "ce", "0000000000a4", 0, 60.0)
    block = analyse("table")[1].split("### Cost")[0]
    assert re.findall(r"^\| (\w+)", block, re.M) == ["Method", "Teacher", "Student", "CRD", "CLKD", "KD"]


def test_shared_titles_are_followed_by_the_method_name(tree, analyse):
    tree.student(PAIR, "kd", "0000000000a1", 0, 60.0, changes={"title": None})
    assert cells(analyse("table")[1], "kd")[0] == "**60.00 (1)**"
    tree.student(PAIR, "crd", "0000000000a2", 0, 61.0, changes={"title": "kd"})
    markdown = analyse("table")[1]
    assert cells(markdown, "kd [kd]")[0] == "<u>60.00 (1)</u>"
    assert cells(markdown, "kd [crd]")[0] == "**61.00 (1)**"


# ---------------------------------------------------------------- runs of unlike configs


def test_runs_of_different_identities_are_never_averaged(tree, analyse):
    for i, nu in enumerate((0.0, 0.4, 10.0)):
        for seed in (0, 1):
            tree.student(PAIR, "clkd", f"0000000000a{i}", seed, 60.0 + i + seed, options={"nu": nu, "norm": "fro"})
    markdown = analyse("table")[1]
    for i, nu in enumerate(("0", "0.4", "10")):
        assert f"{60.5 + i:.2f} ± 0.71 (2)" in cells(markdown, f"CLKD (nu={nu})")[0]
    assert "norm=" not in markdown


def test_options_that_differ_between_pairs_only_share_a_row(tree, analyse):
    tree.student("resnet20-resnet8", "kd", "0000000000a1", 0, 60.0, options={"T": 2.0})
    tree.student("resnet56-resnet8", "kd", "0000000000a2", 0, 61.0, options={"T": 6.0})
    assert cells(analyse("table")[1], "KD")[:3:2] == ["**60.00 (1)**", "**61.00 (1)**"]


def test_runs_of_other_recipes_are_listed_with_the_command_that_shows_them(tree, analyse):
    for i, (epochs, top1) in enumerate(((2, 30.0), (20, 60.0))):
        tree.student(PAIR, "ce", f"0000000000a{i}", 0, top1, epochs=epochs)
        tree.student(PAIR, "kd", f"0000000000b{i}", 0, top1 + 1 + i, epochs=epochs)
        tree.student(PAIR, "kd", f"0000000000b{i}", 1, top1 + 1 + i, epochs=epochs)
    tree.student(PAIR, "crd", "0000000000c0", 0, 64.0, epochs=20)
    markdown = analyse("table")[1]
    assert cells(markdown, "KD") == ["**62.00 ± 0.00 (2)**", "+2.00"] and "31.00" not in markdown
    command = "make table DATASET=cifar100 PROFILE=short WHERE='recipe.epochs=2'"
    assert f"- 3 runs of cifar100, profile short with recipe.epochs=2: {command}" in markdown
    markdown = analyse("table", "where=recipe.epochs=2")[1]
    assert cells(markdown, "KD")[1] == "+1.00" and "62.00" not in markdown and "Not shown" not in markdown


def test_pairs_with_unequal_numbers_of_epochs_are_named(tree, analyse):
    """Nothing says which of the two is meant: neither run records a changed setting."""
    tree.student("resnet20-resnet8", "kd", "0000000000a1", 0, 60.0, epochs=2)
    tree.student("resnet56-resnet8", "kd", "0000000000a2", 0, 61.0, epochs=20)
    assert "not trained alike. Epochs: resnet20-resnet8 2; resnet56-resnet8 20." in analyse("table")[1]


def test_runs_of_another_teacher_are_listed_with_the_command_that_shows_them(tree, analyse):
    for i, (sha256, top1) in enumerate({"d1" * 32: 70.0, "e2" * 32: 75.0}.items()):
        where = {"sha256": sha256, "teacher_top1": top1}
        tree.student(PAIR, "ce", f"0000000000a{i}", 0, 60.0, **where)  # the same run, whatever the teacher
        for seed in range(1 + i):
            tree.student(PAIR, "kd", f"0000000000b{i}", seed, 63.0 + 2 * i, **where)
    markdown = analyse("table")[1]
    assert cells(markdown, "Teacher")[0] == "75.00 (1)" and cells(markdown, "KD")[1] == "+5.00"
    assert "WHERE='teacher.sha256=d1d1d1d1d1d1'" in markdown
    markdown = analyse("table", "where=teacher.sha256=d1d1d1d1d1d1")[1]
    assert cells(markdown, "Teacher")[0] == "70.00 (1)" and cells(markdown, "KD")[1] == "+3.00"


def test_the_line_on_the_runs_has_the_teachers_training_images_where_they_have_their_own(tree, analyse):
    tree.student(PAIR, "ce", "0000000000a0", 0, 60.0)
    plain = tree.student(PAIR, "kd", "0000000000a1", 0, 63.0)
    assert "teachers trained" not in analyse("table")[1]
    config = yaml.safe_load((plain / "config.yaml").read_text())
    config["teacher"]["train_size"] = 797
    (plain / "config.yaml").write_text(yaml.safe_dump(config))
    markdown = analyse("table")[1]
    line = "Runs: 20 epochs; teachers trained on 797 images, those of their students included; precision"
    assert line in markdown and cells(markdown, "KD")[1] == "+3.00"  # the student alone is in the same table


def test_variants_stand_below_the_default_which_is_the_reference(tree, analyse):
    for seed in range(3):
        tree.student(PAIR, "kd", "0000000000a1", seed, 60.0 + seed, options={"T": 4.0})
        tree.student(PAIR, "crd", "0000000000a3", seed, 63.0 + 1.1 * seed)
    tree.student(PAIR, "kd", "0000000000a2", 0, 70.0, options={"T": 2.0}, changes={"changed": ["method.T"]})
    block = analyse("table")[1].split("### ")[0]
    assert re.findall(r"^\| (KD[^|]*?) +\|", block, re.M) == ["KD", "KD (T=2)"]
    assert "No test against KD" not in block


def test_a_result_without_the_hash_of_its_teacher_counts(tree, analyse):
    for method, identity, top1 in (("ce", "0000000000a1", 60.0), ("kd", "0000000000a2", 61.0)):
        folder = tree.student(PAIR, method, identity, 0, top1, changes={"teacher_sha256": None})
        (folder / "config.yaml").unlink()
    assert cells(analyse("table")[1], "KD")[1] == "+1.00"


def test_identities_without_a_config_are_labeled_by_their_hash(tree, analyse):
    for i in (0, 1):
        folder = tree.student(PAIR, "kd", f"0000000000a{i}", 0, 60.0 + i)
        (folder / "config.yaml").unlink()
    markdown = analyse("table")[1]
    assert cells(markdown, "KD (run 0000000000a0)")[0] == "60.00 (1)"  # not marked: its settings are unknown
    assert cells(markdown, "KD (run 0000000000a1)")[0] == "61.00 (1)"


def test_each_profile_has_its_own_table(tree, analyse, tmp_path):
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


def test_sources_name_the_epoch_they_report(tree, analyse, tmp_path):
    tree.student("wrn40_2-wrn16_2", "kd", "0000000000a1", 0, 75.0, sha256="d1" * 32)
    tree.student("resnet32x4-vgg8", "kd", "0000000000a2", 0, 75.0, sha256="d1" * 32)
    out = analyse("table")[1]
    assert "README.md; own runs (last epoch)" in out
    assert re.search(r"- \[2\] DefangChen/SimKD .*; own runs \(epoch not stated\)", out)
    rows = {(r["pair"], r["method"]): r for r in csv_records(tmp_path / CSV)}
    for pair, rule in {"wrn40_2-wrn16_2": "last", "resnet32x4-vgg8": "unknown"}.items():
        assert (rows[pair, "kd"]["published_rule"], rows[pair, "kd"]["published_origin"]) == (rule, "own")


def test_no_published_column_without_published_values(full, analyse):
    out = analyse("table", "dataset=digits")[1]
    assert "ublished" not in out


# ---------------------------------------------------------------- notes


def test_a_note_names_rows_whose_runs_have_different_code_versions(tree, analyse):
    for seed, code in enumerate(("c0de00000001", "c0de00000001", "c0de00000002")):
        tree.student(PAIR, "kd", "0000000000a1", seed, 60.0, changes={"code": code})
        tree.student(PAIR, "ce", "0000000000a2", seed, 60.0, changes={"code": "c0de00000003"})
    out = analyse("table")[1]
    note = "its runs were made by different versions of its code (seed 0, 1 by c0de00000001; seed 2 by c0de00000002)."
    assert f"KD on {PAIR}: {note}" in out and out.count("different versions of its code") == 1


def test_a_note_names_rows_without_a_readable_config(tree, analyse):
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


def test_unsupported_pairs_are_na_with_the_reason_in_a_note(full, analyse):
    other = "resnet56-resnet20"
    full.ended(PAIR, "fsp", "0000000000f1", 0, "skipped", "FSP needs equal channels")  # nowhere possible
    full.ended(other, "fsp", "0000000000f2", 0, "skipped", "FSP needs equal channels")
    shutil.rmtree(full.root / "cifar100" / PAIR / "crd")
    full.ended(PAIR, "crd", "0000000000f3", 0, "skipped", "too few | classes")  # possible on the other pair
    out = analyse("table", "dataset=cifar100")[1]
    assert [c for c in cells(out, "fsp") if c != "–"] == ["n/a", "n/a"]
    assert cells(out, "CRD")[-4:] == ["n/a", "–", "–", "–"]
    for reason in (f"{PAIR} crd: too few | classes", f"{other} fsp: FSP needs equal channels"):
        assert reason in out
    assert "fsp seed=0" not in out  # no run is missing: it cannot be
    tex = (full.root.parent / "reports" / "tables" / "cifar100-short.tex").read_text()
    assert "\nfsp & {n/a} & " in tex


def test_methods_at_unequal_cost_are_marked(tree, analyse):
    tree.teacher("resnet20", 62.3)
    for seed in range(2):
        tree.student(PAIR, "ce", "0000000000a1", seed, 60.0, changes={"parameters": 100, "inference_parameters": 100})
        before = {"pre_epochs": 3, "views": 1, "parameters": 100, "inference_parameters": 100}
        tree.student(PAIR, "kd", "0000000000a2", seed, 61.0, changes=before)
        more_layers = {"pre_epochs": 0, "views": 2, "parameters": 100, "inference_parameters": 150}
        tree.student(PAIR, "crd", "0000000000a3", seed, 62.0, changes=more_layers)
    out = analyse("table")[1]
    assert cells(out, "KD *")[0].startswith("61.00")  # not marked
    assert "* Not at equal cost: KD (3 epochs before); CRD (two views, layers kept at inference)." in out
    assert "| Student " in out and "| Student *" not in out


def test_runs_with_a_validation_split_have_their_own_table(tree, analyse):
    """They were trained on fewer images."""
    tree.teacher("resnet20", 62.3)
    tree.student(PAIR, "ce", "0000000000a1", 0, 60.0)
    tree.student(PAIR, "ce", "0000000000a2", 0, 58.0, changes={"val_top1_last": 57.0})
    out = analyse("table")[1]
    plain, validation = out.split("## cifar100, profile short+validation")
    assert cells(plain, "Student")[0] == "60.00 (1)" and cells(validation, "Student")[0] == "57.00 (1)"
    assert "on the validation split" in validation and "Teacher" not in validation
    out = analyse("table", "profile=short+validation")[1]
    assert "57.00 (1)" in out and "60.00 (1)" not in out and "58.00" not in out


# ---------------------------------------------------------------- top-5


def top5_tree(tree):
    """Three seeds with top-5 accuracies, of which the student alone's are higher by one point than KD's."""
    for seed, top1 in enumerate((59.0, 60.0, 61.0)):
        more = {"teacher_top5": 91.5}
        tree.student(PAIR, "ce", "0000000000a1", seed, top1, changes={"top5_last": 85.0 + seed, **more})
        tree.student(PAIR, "kd", "0000000000a2", seed, top1 + 2, changes={"top5_last": 84.0 + seed, **more})


def test_top5_has_a_table_and_files_of_its_own(tree, analyse, tmp_path):
    top5_tree(tree)
    markdown = analyse("table", "accuracy=top5")[1]
    assert "## cifar100, profile short: Top-5" in markdown and "Top-5 accuracy on the test set in per cent" in markdown
    assert cells(markdown, "Teacher") == ["91.50 (1)", "–"]
    assert cells(markdown, "Student") == ["86.00 ± 1.00 (3)", "–"]
    assert cells(markdown, "KD") == ["**85.00 ± 1.00 (3)**", "−1.00"]
    assert not (tmp_path / CSV).exists()
    (teacher, student, kd) = csv_records(tmp_path / "reports/tables/cifar100-short-top5.csv")
    assert (student["mean"], kd["delta_student"], kd["teacher_top5"], teacher["mean"]) == ("86", "-1", "91.5", "91.5")
    assert "best_mean" not in kd and "teacher_top1" not in kd
    text = (tmp_path / "reports/tables/cifar100-short-top5.tex").read_text()
    assert r"\label{tab:cifar100-short-top5}" in text and "Top-5 accuracy in per cent" in text
    significance = (tmp_path / "reports/tables/cifar100-short-top5-significance.md").read_text()
    assert "Top-5 accuracy on the test set at the last epoch" in significance


def test_both_accuracies_leave_the_files_of_top1_as_they_are(tree, analyse, tmp_path):
    top5_tree(tree)
    top1 = analyse("table")[1]
    before = {path: path.read_bytes() for path in (tmp_path / "reports/tables").iterdir()}
    both = analyse("table", "accuracy=both")[1]
    assert both.startswith(top1) and both.count("accuracy on the test set in per cent") == 2
    assert {path: path.read_bytes() for path in before} == before


def test_results_without_top5_are_read_and_shown_as_missing(tree, analyse):
    top5_tree(tree)
    tree.student(PAIR, "crd", "0000000000a3", 0, 60.0)  # older than the key, or of five classes
    status, markdown, _ = analyse("table", "accuracy=top5")
    assert status == 0 and cells(markdown, "CRD") == ["–", "–"]


def test_top5_of_a_validation_split_is_not_that_of_the_test_set(tree, analyse):
    changes = {"val_top1_last": 50.0, "val_top5_last": 80.0, "top5_last": 99.0}
    tree.student(PAIR, "kd", "0000000000a2", 0, 60.0, changes=changes)
    markdown = analyse("table", "accuracy=top5")[1]
    assert cells(markdown, "KD")[0] == "**80.00 (1)**" and "99.00" not in markdown


def test_published_top5_stands_beside_on_imagenet(tree, analyse):
    """LSKD's table prints 89.80 for KD and 92.86 for the teacher of ResNet50 and MobileNetV1."""
    shutil.rmtree(tree.root, ignore_errors=True)
    tree.student(
        "ResNet50-MobileNetV1", "kd", "0000000000a2", 0, 70.0, dataset="imagenet", profile="imagenet", sha256="d" * 64,
        changes={"top5_last": 89.5, "teacher_top5": 92.9},
    )  # fmt: skip
    markdown = analyse("table", "accuracy=both")[1]
    top1, top5 = markdown.split("## imagenet, profile imagenet: Top-5")
    assert cells(top1, "KD")[-1] == "70.50 [2]" and cells(top5, "KD")[-1].startswith("89.80")
    assert cells(top5, "Teacher")[0] == "92.90 (1)" and cells(top5, "Teacher")[-1].startswith("92.86")
    assert "100-epoch recipe" in top1


def test_the_line_of_the_protocol_names_recipe_and_decoder(tree, analyse):
    folder = tree.student(PAIR, "kd", "0000000000a2", 0, 60.0, changes={"recipe": "imagenet"})
    assert "Runs: recipe imagenet; 20 epochs; precision" in analyse("table")[1]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["dataset"]["decoder"] = "turbo"
    tree.config(folder, config)
    assert "Runs: recipe imagenet; 20 epochs; images decoded by turbo; precision" in analyse("table")[1]
