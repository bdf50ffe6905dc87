"""Students alone in the tables of all pairs with this student."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import statistics
from analysis.grouping import group_runs
from analysis.groups import ResultGroup
from analysis.load import load_runs
from analysis.predictions import PredictionReader, agreement, load_predictions
from tests.analysis.conftest import Tree
from tests.analysis.reading import cells

A, B, C = "resnet20-resnet8", "resnet56-resnet8", "resnet56-resnet20"


def alone(tree: Tree, student: str, seed: int, top1: float, identity: str = "00000000000a", **more: Any) -> Path:
    """Write a finished run of a student alone in the folder of today: without a teacher."""
    shared = tree.student(f"resnet20-{student}", "ce", identity, seed, top1, **more)
    folder = tree.create(student, "ce", identity, seed)
    for file in shared.iterdir():
        file.rename(folder / file.name)
    shared.rmdir()
    result = json.loads((folder / "result.json").read_text())
    for key in ("pair", "teacher", "teacher_top1", "teacher_sha256", "teacher_run", "agreement"):
        del result[key]
    (folder / "result.json").write_text(json.dumps(result))
    text = (folder / "config.yaml").read_text()
    config = text[: text.index("teacher:")] + text[text.index("  sha256:") :].split("\n", 1)[1]
    assert "teacher" not in config and "recipe" in config
    (folder / "config.yaml").write_text(config)
    return folder


def only_group(tree: Tree) -> ResultGroup:
    (group,) = group_runs(load_runs(tree.root).finished)
    return group


def students_of(tree: Tree, pair: str) -> dict[int, float]:
    """Accuracies of the only row of the student alone on a pair, by seed."""
    (row,) = [row for row in only_group(tree).student_rows if pair in row.seed_groups]
    return row.seed_groups[pair].by_seed("top1_last")


def test_a_student_alone_is_in_every_pair_with_this_student(tree, analyse):
    folder = alone(tree, "resnet8", 0, 60.0)
    for i, (pair, top1) in enumerate({A: 61.0, B: 62.5, C: 70.0}.items()):
        tree.student(pair, "kd", f"0000000000b{i}", 0, top1, teacher_top1=72.0 + i)
    frame = load_runs(tree.root).finished
    rows = frame[frame.method == "ce"].to_dict("records")
    assert [(r["pair"], r["teacher"], r["teacher_top1"], r["folder"]) for r in rows] == [
        (A, "resnet20", 72.0, folder), (B, "resnet56", 73.0, folder),
    ]  # fmt: skip
    assert all(math.isnan(r["agreement"]) for r in rows)
    text = analyse("table")[1]
    # C, which is published, then A and B; C and B have a column of published values
    assert cells(text, "Student") == ["–", "–", "–", "60.00 (1)", "–", "60.00 (1)", "–", "–"]
    assert [cells(text, "KD")[i] for i in (1, 4, 6)] == ["–", "+1.00", "+2.50"]
    assert [cells(text, "Teacher")[i] for i in (0, 3, 5)] == ["74.00 (1)", "72.00 (1)", "73.00 (1)"]


def test_fidelity_of_a_student_alone_is_measured_against_the_teacher_of_each_pair(tree, analyse):
    for network, top1 in (("resnet20", 70.0), ("resnet56", 73.0)):
        tree.teacher(network, top1)
    outputs = np.random.default_rng(5).normal(size=(40, 3)).astype(np.float32)
    labels, names = np.arange(40) % 3, np.array(["cat", "dog", "emu"])
    teacher = tree.root / "cifar100/teachers/resnet56/aaaaaaaaaaaa/seed=0"
    np.savez(teacher / "test_outputs.npz", logits=outputs, labels=labels, class_names=names)
    folder = alone(tree, "resnet8", 0, 60.0)
    for i, pair in enumerate((A, B)):
        tree.student(pair, "kd", f"0000000000b{i}", 0, 61.0)
    student = load_predictions(folder)
    assert student is not None
    text = analyse("structure")[1]
    for i, pair in enumerate((A, B)):
        (run,) = only_group(tree).student_rows[0].seed_groups[pair].seed_runs
        read = PredictionReader(tree.root).read(run.folder, run.teacher_run)
        assert not isinstance(read, str)
        assert (read[1].logits == outputs).all() == (pair == B)
        part = text.split("| Method ")[1 + i]
        assert f"{agreement(student, read[1]):.2f}" in cells("| Method " + part, "Student")


def test_older_runs_serve_the_other_pairs_and_their_own(tree):
    """Seeds 0 and 1 lie under A, with its teacher; seed 2 is of today. B also has an older copy of seed 0."""
    for seed in (0, 1):
        tree.student(A, "ce", "0000000000a1", seed, 60.0 + seed)
    alone(tree, "resnet8", 2, 62.0)
    tree.student(B, "ce", "0000000000a2", 0, 50.0)
    for i, pair in enumerate((A, B)):
        tree.student(pair, "kd", f"0000000000b{i}", 0, 61.0)
    assert students_of(tree, A) == {0: 60.0, 1: 61.0, 2: 62.0}
    assert students_of(tree, B) == {0: 50.0, 1: 61.0, 2: 62.0}
    frame = load_runs(tree.root).finished
    recorded = frame[(frame.method == "ce") & frame.agreement.notna()]
    assert list(zip(recorded.pair, recorded.seed, strict=True)) == [(A, 0), (A, 1), (B, 0)]
    group = only_group(tree)
    for pair in (A, B):
        seed_group = group.student_rows[0].seed_groups[pair]
        assert seed_group.n == 3
        assert group.baseline(group.method_rows[0].seed_groups[pair], pair) is seed_group


def test_other_recipes_are_in_another_group(tree):
    tree.student(A, "ce", "0000000000a1", 0, 60.0, epochs=20)
    alone(tree, "resnet8", 0, 65.0, epochs=40)
    tree.student(A, "kd", "0000000000b1", 0, 61.0, epochs=20)
    main, other = group_runs(load_runs(tree.root).finished)
    assert [row.label for row in main.rows] == ["Student", "KD"]
    assert [row.label for row in other.rows] == ["Student"] and other.conditions == ("recipe.epochs=40",)


def test_with_several_teachers_of_a_pair_it_is_compared_with_runs_of_its_protocol(tree):
    """One teacher a recipe, and two of the first recipe."""
    alone(tree, "resnet8", 0, 60.0, epochs=20)
    alone(tree, "resnet8", 0, 65.0, "00000000000b", epochs=40)
    for i, (sha256, epochs) in enumerate((("1a", 20), ("2b", 20), ("3c", 40))):
        tree.student(A, "kd", f"0000000000b{i}", 0, 61.0 + i, epochs=epochs, sha256=sha256 * 32, teacher_top1=70.0 + i)
    students = {}
    for group in group_runs(load_runs(tree.root).finished):
        (row,) = group.method_rows
        student = group.baseline(row.seed_groups[A], A)
        assert student is not None
        students[group.teachers[0].top1[A]] = student.mean("top1_last")
    assert students == {70.0: 60.0, 71.0: 60.0, 72.0: 65.0}


def test_a_pair_that_has_only_the_student_alone_has_a_folder_and_a_teacher(tree, analyse):
    alone(tree, "resnet8", 0, 60.0)
    (run,) = load_runs(tree.root).unfinished
    assert run.text.startswith("resnet8 ce seed=0: no pair has it as its student")
    (tree.root / "cifar100" / A).mkdir(exist_ok=True)
    assert load_runs(tree.root).finished.empty  # no teacher yet
    relative = tree.teacher("resnet20", 71.0)
    (tree.root / relative / "config.yaml").write_text("profile: short\n")
    text = analyse("table", f"pair={A}")[1]
    assert cells(text, "Teacher") == ["71.00 (1)", "–"] and cells(text, "Student") == ["60.00 (1)", "–"]


def test_an_unfinished_student_alone_is_missing_on_every_pair(tree):
    tree.ended("resnet8", "ce", "00000000000a", 1, "failed", "out of memory")
    for i, pair in enumerate((A, B, C)):
        tree.student(pair, "kd", f"0000000000b{i}", 0, 61.0)
    texts = [run.text for run in load_runs(tree.root).unfinished]
    assert texts == [f"{pair} ce seed=1: failed: out of memory" for pair in (A, B)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"student": "resnet20"}, 'says student "resnet20": it belongs'), ({"pair": A}, f'says pair "{A}": it belongs')],
)
def test_a_result_of_another_student_or_with_a_pair_is_in_the_wrong_folder(tree, changes, reason):
    path = alone(tree, "resnet8", 0, 60.0) / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert reason in load_runs(tree.root).unfinished[0].reason


def test_ranks_leave_out_a_student_alone_whose_runs_several_pairs_share(tree):
    for seed in range(3):
        alone(tree, "resnet8", seed, 60.0 + seed)
        for i, pair in enumerate((A, B)):
            for j, method in enumerate(("kd", "crd")):
                tree.student(pair, method, f"00000000{i:02x}{j:02x}", seed, 61.0 + i + j + seed * seed)
    group = only_group(tree)
    assert len(statistics.compare(group)) == 6  # on each pair CRD with KD, and both with the student alone
    ranking = statistics.rank(group)
    assert ranking is not None and [row.label for row in ranking.rows] == ["KD", "CRD"]
    assert ranking.exclusions == [f"Student: its runs are the same on {A} and {B}, no independent values"]


def test_the_page_links_the_runs_of_each_pair(tree, analyse, tmp_path):
    alone(tree, "resnet8", 0, 60.0)
    for i, pair in enumerate((A, B)):
        tree.student(pair, "kd", f"0000000000b{i}", 0, 61.0)
    assert analyse("report")[0] == 0
    html = (tmp_path / "reports" / "report.html").read_text()
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(set(ids)) == len(ids)
    for pair in (A, B):
        (target,) = [name for name in ids if name.endswith(f"runs-{pair}-00000000000a")]
        assert f'href="#{target}"' in html
