"""Runs sorted into result groups, rows and seed groups."""

import math

import pytest

from analysis.conditions import format_setting, parse_where
from analysis.grouping import group_runs
from analysis.load import load_runs
from benchmark.errors import UserError

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
        ("Student", 0), ("KD", 0), ("CRD", 0), ("CLKD (nu=0.4)", 0), ("CLKD (nu=0)", 1),
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


def test_runs_trained_unlike_are_in_groups_of_their_own(tree):
    for i, epochs in enumerate((20, 40)):
        tree.student(A, "ce", f"0000000000a{i}", 0, 60.0 + i, epochs=epochs)
        tree.student(A, "kd", f"0000000000b{i}", 0, 61.0 + i, epochs=epochs)
    tree.student(A, "kd", "0000000000b1", 1, 61.0, epochs=40)  # the main group has the most runs
    main, other = groups(tree)
    assert (main.conditions, other.conditions) == ((), ("recipe.epochs=20",))
    for group in (main, other):
        student, row = group.rows
        assert (student.label, row.label) == ("Student", "KD")
        assert group.baseline(row.seed_groups[A], A) is student.seed_groups[A]


def test_the_profiles_settings_come_before_changed_ones(tree):
    for seed in range(3):
        changes = {"changed": ["recipe.epochs"]}
        tree.student(A, "kd", "0000000000a1", seed, 60.0, epochs=2, changes=changes)
    tree.student(A, "kd", "0000000000a2", 0, 60.0)
    tree.student(B, "kd", "0000000000a3", 0, 60.0, epochs=2, changes=changes)
    main, other = groups(tree)
    assert (main.pairs, main.conditions) == ([A], ())
    assert (other.pairs, other.conditions) == ([B, A], ("recipe.epochs=2",))


def test_runs_of_another_teacher_are_in_a_group_of_their_own(tree):
    for i, sha256 in enumerate(("1a" * 32, "2b" * 32)):
        tree.student(A, "kd", f"0000000000a{i}", 0, 60.0, sha256=sha256, teacher_top1=70.0 + i)
    tree.student(A, "crd", "0000000000b1", 0, 60.0, sha256="2b" * 32, teacher_top1=71.0)
    tree.student(B, "kd", "0000000000c1", 0, 60.0, teacher_top1=72.0)
    main, other = groups(tree)
    assert [t.top1 for t in main.teachers] == [{A: 71.0, B: 72.0}]
    assert [t.top1 for t in other.teachers] == [{A: 70.0}]
    assert other.conditions == ("teacher.sha256=1a1a1a1a1a1a",)


def test_where_selects_runs_by_any_setting(tree):
    for i, epochs in enumerate((20, 40)):
        tree.student(A, "kd", f"0000000000a{i}", 0, 60.0 + i, epochs=epochs, options={"T": 2.0 + i})
    runs = load_runs(tree.root).finished
    for words in (["recipe.epochs=40"], ["method.T=3"], ["recipe.epochs=40", "method.T=3"]):
        (group,) = group_runs(runs, where=parse_where(words))
        assert set(group.runs.identity) == {"0000000000a1"}
    assert group_runs(runs, where=parse_where(["recipe.epochs=40", "method.T=2"])) == []
    for words, says in ((["recipe.epoch=40"], "did you mean"), (["recipe.epochs=41"], "there is 20, 40")):
        with pytest.raises(UserError, match=says):
            group_runs(runs, where=parse_where(words))


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
