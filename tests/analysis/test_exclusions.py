"""Runs that are left out: listed in a file, or dropped and restored."""

import fcntl

import pytest

from tests.analysis.reading import cells

PAIR = "resnet20-resnet8"


@pytest.fixture
def kd(tree):
    """Two variants of KD beside the student alone."""
    tree.student(PAIR, "ce", "0000000000a1", 0, 60.0)
    tree.student(PAIR, "kd", "0000000000a2", 0, 61.0, options={"T": 4.0})
    tree.student(PAIR, "kd", "0000000000a3", 0, 99.0, options={"T": 2.0}, changes={"changed": ["method.T"]})
    return tree


def snapshot(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != "lock"}


def test_a_listed_run_is_left_out_and_the_table_says_so(kd, analyse):
    (kd.root / "excluded.txt").write_text(f"# a debug run\ncifar100/{PAIR}/kd/0000000000a3  # T = 2\n\n")
    out = analyse("table")[1]
    assert cells(out, "KD")[1] == "+1.00" and "99.00" not in out
    assert f"- 1 run named in {kd.root}/excluded.txt" in out


def test_a_path_that_no_run_has_is_named_with_its_line(kd, analyse):
    (kd.root / "excluded.txt").write_text("\ncifar100/typo\n")
    status, out, err = analyse("table")
    assert (status, out) == (2, "") and "excluded.txt:2: there is no run at cifar100/typo" in err


def test_dropped_runs_are_in_no_table_and_come_back(kd, analyse):
    before = snapshot(kd.root)
    status, out, _ = analyse("drop", "where=method.T=2")
    assert status == 0 and f"1 run dropped to {kd.root}/.trash:\ncifar100/{PAIR}/kd/0000000000a3/seed=0" in out
    assert "99.00" not in analyse("table")[1]
    assert not (kd.root / f"cifar100/{PAIR}/kd/0000000000a3").exists()  # no empty folder is left
    assert analyse("restore")[0] == 0
    assert snapshot(kd.root) == before
    assert "99.00" in analyse("table")[1]


def test_drop_takes_unfinished_runs_and_never_teachers(kd, analyse):
    kd.teacher("resnet20", 70.0)
    kd.ended(PAIR, "crd", "0000000000a4", 0, "failed", "out of memory")
    assert "3 runs dropped" in analyse("drop", f"pair={PAIR}", "method=kd,crd")[1]
    assert (kd.root / "cifar100/teachers/resnet20/aaaaaaaaaaaa/seed=0/result.json").is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "name the runs to drop, by one or more of dataset=…"),
        (["method=kdd"], "has all of method=kdd"),
        (["where=T"], "where=T is no condition"),
    ],
)
def test_bad_requests_drop_nothing(kd, analyse, words, says):
    before = snapshot(kd.root)
    status, _, err = analyse("drop", *words)
    assert status == 2 and says in err and "Traceback" not in err
    assert snapshot(kd.root) == before


def test_a_run_in_training_is_not_dropped(kd, analyse):
    with open(kd.root / f"cifar100/{PAIR}/kd/0000000000a3/seed=0/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, _, err = analyse("drop", "identity=0000000000a3")
    assert status == 2 and "is in training: stop it first" in err
    assert "99.00" in analyse("table")[1]


def test_restore_replaces_no_run(kd, analyse):
    analyse("drop", "identity=0000000000a2")
    kd.student(PAIR, "kd", "0000000000a2", 0, 65.0)
    status, _, err = analyse("restore")
    assert status == 2 and "exists: remove it, or" in err
    assert "65.00" in analyse("table")[1]


def test_nothing_to_restore_is_said(kd, analyse):
    assert "nothing to restore" in analyse("restore")[2]
