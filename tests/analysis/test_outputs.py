"""Names of a selection's files, what they record, and that no selection replaces another's files."""

import json
import shutil

import pytest

PAIR, OTHER = "resnet20-resnet8", "resnet56-resnet20"


@pytest.fixture
def tables(tmp_path):
    """tables(): names of the Markdown files of tables."""
    return lambda: sorted(p.name for p in (tmp_path / "reports" / "tables").glob("*.md") if "-sig" not in p.name)


def record(tmp_path, name="all"):
    return json.loads((tmp_path / "reports" / "selections" / f"{name}.json").read_text())


def test_every_selection_has_files_of_its_own(full, analyse, tables, tmp_path):
    analyse("table", "dataset=cifar100")
    everything = (tmp_path / "reports/tables/cifar100-short.md").read_text()
    for words in ([f"pair={PAIR}"], [f"pair={PAIR}", "method=kd"], ["where=recipe.epochs=20"], ["selection=main"]):
        assert analyse("table", "dataset=cifar100", *words)[0] == 0
    names = ["", f"-{PAIR}", f"-{PAIR}-kd", "-main", "-recipe.epochs_20"]
    assert [n for n in tables() if "ranks" not in n] == sorted(f"cifar100-short{name}.md" for name in names)
    assert (tmp_path / "reports/tables/cifar100-short.md").read_text() == everything


def test_another_folder_of_runs_does_not_replace_the_files(full, analyse, tables, tmp_path):
    analyse("table", "dataset=digits")
    before = (tmp_path / "reports/tables/digits-quick.md").read_text()
    shutil.copytree(full.root / "digits", tmp_path / "others" / "digits")
    shutil.rmtree(tmp_path / "others/digits/resnet20-resnet8/kd")
    for _ in range(2):
        assert analyse("table", f"runs={tmp_path / 'others'}")[0] == 0
    assert (tmp_path / "reports/tables/digits-quick.md").read_text() == before
    first, second = tables()
    assert first.startswith("digits-quick-") and second == "digits-quick.md"  # the same name again for the same folder


def test_a_name_that_another_selection_has_gets_a_suffix(full, analyse, tables):
    analyse("table", "dataset=digits", "selection=main")
    analyse("table", "dataset=digits", "selection=main", "method=kd")
    assert len(tables()) == 2 and "digits-quick-main.md" in tables()


def test_the_record_says_which_runs_and_which_command_made_the_files(full, analyse, tmp_path):
    analyse("table", "profile=quick")
    analyse("table", "plots", "profile=short")
    content = record(tmp_path)
    assert content["files"].keys() == {"digits-quick", "cifar100-short"}  # that of the other profile is kept
    digits = content["files"]["digits-quick"]
    assert digits["runs"] == [f"digits/{PAIR}/{m}/0000000000c{i}/seed=0" for i, m in ((1, "ce"), (2, "kd"))]
    assert digits["command"].startswith("kd-benchmark table profile=quick") and digits["made"].startswith("20")
    assert content["files"]["cifar100-short"]["command"].startswith("kd-benchmark table plots profile=short")
    for stem, entry in content["files"].items():
        assert entry["files"] == sorted(
            p.relative_to(tmp_path / "reports").as_posix() for p in (tmp_path / "reports").glob(f"*/{stem}*")
        )


def test_long_names_are_cut_and_stay_distinct(full, analyse, tables):
    for i in range(2):
        analyse("table", "dataset=digits", f"selection={'long' * 20}{i}")
    assert len(tables()) == 2 and all(len(name) <= len("digits-quick-.md") + 60 for name in tables())


def test_figures_and_the_report_carry_the_name(full, analyse, tmp_path):
    analyse("plots", "report", "dataset=digits", "selection=main")
    assert (tmp_path / f"reports/plots/digits-quick-main-{PAIR}-curves.png").is_file()
    assert (tmp_path / "reports/report-main.html").is_file()
