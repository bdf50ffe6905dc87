"""Runs sorted into result groups, rows and seed groups."""

import math

import pytest

from analysis.groups import format_setting, group_runs
from analysis.load import load_runs

A, B = "resnet20-resnet8", "resnet56-resnet20"


def groups(tree, *pairs):
    return group_runs(load_runs(tree.root).finished, pairs)


def labels(tree) -> list[str]:
    (group,) = groups(tree)
    return [row.label for row in group.rows]


def test_groups_are_by_data_set_and_profile_and_pairs_in_the_order_asked_for(full):
    cifar100, digits = groups(full)
    assert (cifar100.dataset, cifar100.profile, cifar100.pairs) == ("cifar100", "short", [B, A])  # B is published
    assert (digits.dataset, digits.profile, digits.pairs) == ("digits", "quick", [A])
    assert groups(full, A, B)[0].pairs == [A, B]
    assert cifar100.networks == {A: ("resnet20", "resnet8"), B: ("resnet56", "resnet20")}
    assert [row.label for row in cifar100.rows_on(B)] == ["Student", "KD", "CRD", "CLKD (nu=0.4)"]


def test_variants_are_labeled_by_the_options_that_differ(full):
    rows = groups(full)[0].rows
    assert [(row.label, row.variant) for row in rows] == [
        ("Student", 0), ("KD", 0), ("CRD", 0), ("CLKD (nu=0)", 0), ("CLKD (nu=0.4)", 1),
    ]  # fmt: skip
    assert len({row.key for row in rows}) == 5
    assert set(rows[1].seed_groups) == {A, B}  # KD has another T on each pair, which follows the pair


def test_seed_groups_have_mean_and_sample_deviation(full):
    seed_group = groups(full)[0].rows[1].seed_groups[A]
    assert (seed_group.n, seed_group.identity) == (3, "0000000000a2")
    assert [run.seed for run in seed_group.seed_runs] == [0, 1, 2]
    assert (seed_group.mean("top1_last"), seed_group.std("top1_last")) == pytest.approx((61.25, 1.0))
    assert seed_group.by_seed("top1_last") == {0: 60.25, 1: 61.25, 2: 62.25}
    assert math.isnan(seed_group.mean("views"))
    assert math.isnan(groups(full)[1].rows[0].seed_groups[A].std("top1_last"))


def test_settings_outside_the_method_label_rows_and_choose_the_baseline(tree):
    for i, epochs in enumerate((20, 40)):
        tree.student(A, "ce", f"0000000000a{i}", 0, 60.0 + i, epochs=epochs)
        tree.student(A, "kd", f"0000000000b{i}", 0, 61.0 + i, epochs=epochs)
    (group,) = groups(tree)
    assert group.differing_settings == ["recipe.epochs", "recipe.milestones"]
    assert [r.label for r in group.rows] == [
        "Student (epochs=20)", "Student (epochs=40)", "KD (epochs=20)", "KD (epochs=40)",
    ]  # fmt: skip
    for student, row in zip(group.student_rows, group.method_rows, strict=True):
        assert group.baseline(row.seed_groups[A], A) is student.seed_groups[A]


def test_several_teachers_have_their_own_rows(tree):
    for i, sha256 in enumerate(("1a" * 32, "2b" * 32)):
        tree.student(A, "kd", f"0000000000a{i}", 0, 60.0, sha256=sha256, teacher_top1=70.0 + i)
    (group,) = groups(tree)
    assert [t.label for t in group.teachers] == ["Teacher (teacher=1a1a1a1a)", "Teacher (teacher=2b2b2b2b)"]
    assert [t.top1[A] for t in group.teachers] == [70.0, 71.0]
    assert [r.label for r in group.rows] == ["KD (teacher=1a1a1a1a)", "KD (teacher=2b2b2b2b)"]


def test_runs_without_a_config_are_labeled_by_their_identity_and_compared_with_nothing(tree):
    tree.student(A, "ce", "0000000000a0", 0, 60.0)
    for i in (1, 2):
        (tree.student(A, "kd", f"0000000000a{i}", 0, 60.0) / "config.yaml").unlink()
    (group,) = groups(tree)
    rows = group.method_rows
    assert [row.label for row in rows] == ["KD (run 0000000000a1)", "KD (run 0000000000a2)"]
    assert all(row.seed_groups[A].config_is_missing for row in rows)
    assert all(row.seed_groups[A].training_conditions is None for row in rows)
    assert group.baseline(rows[0].seed_groups[A], A) is None


def test_changed_options_are_in_the_label(tree):
    tree.student(A, "kd", "0000000000a1", 0, 60.0, options={"T": 2.0}, changes={"changed": ["method.T"]})
    assert labels(tree) == ["KD (T=2)"]


def test_methods_are_sorted_by_year_then_title_without_a_year_last(tree):
    for i, (method, year) in enumerate((("crd", None), ("clkd", 2015), ("kd", 2015), ("ce", None))):
        tree.student(A, method, f"0000000000a{i}", 0, 60.0, changes={"year": year})
    assert labels(tree) == ["Student", "CLKD", "KD", "CRD"]


def test_methods_that_share_a_title_are_followed_by_their_name(tree):
    for i, method in enumerate(("kd", "clkd")):
        tree.student(A, method, f"0000000000a{i}", 0, 60.0, changes={"title": "Same"})
    assert labels(tree) == ["Same [kd]", "Same [clkd]"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (0.5, "0.5"),
        (4.0, "4"),
        ((1, 2.5), "[1, 2.5]"),
        ("ab" * 20, "abababab"),
        ("x", "x"),
    ],
)
def test_settings_are_written_as_in_a_label(value, text):
    assert format_setting(value) == text
