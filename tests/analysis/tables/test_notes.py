"""The note on the engine's code that made the rows of a table."""

from tests.analysis.conftest import Tree

PAIR = "resnet20-resnet8"


def note(tree: Tree, analyse) -> str:
    """The line about the engine's code; empty where there is none."""
    return next((line for line in analyse("table")[1].splitlines() if line.startswith("Runs were made")), "")


def made_by(tree: Tree, method: str, number: int, seed: int = 0, **code: object) -> None:
    """Write a run that records the code that made it."""
    tree.student(PAIR, method, f"0000000000a{number}", seed, 60.0 + number + seed, changes=dict(code))


def test_nothing_is_said_of_one_committed_version_or_of_older_results(tree, analyse):
    made_by(tree, "ce", 1)
    for number, method in enumerate(("kd", "crd"), 2):
        made_by(tree, method, number, engine_version="a" * 12, commit="c" * 40, clean=True)
    assert note(tree, analyse) == ""


def test_rows_by_different_versions_and_by_uncommitted_code_are_named_in_one_line(tree, analyse):
    made_by(tree, "ce", 1, engine_version="a" * 12, commit="c" * 40, clean=True)
    made_by(tree, "kd", 2, engine_version="a" * 12, commit="c" * 40, clean=True)
    made_by(tree, "kd", 2, seed=1, engine_version="b" * 12, commit="d" * 40, clean=False)
    made_by(tree, "crd", 3, engine_version="b" * 12)
    assert note(tree, analyse) == (
        "Runs were made by different versions of the engine's code (aaaaaaaaaaaa: Student, KD; bbbbbbbbbbbb: KD, CRD) "
        "and by uncommitted code (KD)."
    )


def test_uncommitted_code_of_one_version_is_named(tree, analyse):
    made_by(tree, "kd", 2, engine_version="a" * 12, commit="c" * 40, clean=False)
    assert note(tree, analyse) == "Runs were made by uncommitted code (KD)."


def test_many_rows_are_counted(tree, analyse):
    for i in range(8):
        changes = {"engine_version": "ab"[i > 6] * 12, "changed": ["method.nu"]}
        tree.student(PAIR, "clkd", f"0000000000a{i}", 0, 60.0, options={"nu": i}, changes=changes)
    assert "(aaaaaaaaaaaa: CLKD (nu=0), CLKD (nu=1), CLKD (nu=2), CLKD (nu=3), CLKD (nu=4), 2 more; b" in note(
        tree, analyse
    )
