"""The command line of `python -m analysis`: filters, and one line for bad input."""

import re
import subprocess
import sys

import pytest

from analysis.figures.style import appearance
from analysis.selection import select
from benchmark.config.command_options import load_analysis
from tests.analysis.reading import cells

PAIR = "resnet20-resnet8"


def test_filters_select_runs_and_pairs_keep_the_given_order(full, analyse):
    out = analyse("table", "pair=resnet20-resnet8,resnet56-resnet20", "method=kd", "dataset=cifar100")[1]
    assert re.findall(r"resnet\d+-resnet\d+", out)[:2] == ["resnet20-resnet8", "resnet56-resnet20"]
    assert cells(out, "KD")[0] == "**61.25 ± 1.00 (3)**"
    assert cells(out, "Student")[0] == "60.00 ± 1.00 (3)"
    assert "CLKD" not in out
    assert "crd" not in out
    assert out == analyse("table", f"pair=[{PAIR},resnet56-resnet20]", "method=[kd]", "dataset=[cifar100]")[1]


def test_a_method_without_finished_runs_can_be_selected(full, analyse):
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
        (["plots", "highlight=clk"], "have the method to highlight 'clk'; did you mean clkd"),
        (["plots", "titles=maybe"], "titles"),
        (["plots", "width=colum"], "width cannot be 'colum'; did you mean column?"),
        (["table", "width=column"], "unknown key 'width'"),
        (["table", "highlight=kd"], "unknown key 'highlight'"),
        (["table", "dataset=digits", "profile=short"], "have all of dataset=digits profile=short"),
    ],
)
def test_bad_arguments_give_one_line_and_exit_status_2(full, analyse, tmp_path, arguments, says):
    status, out, err = analyse(*arguments)
    assert status == 2
    assert out == ""
    assert says in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "reports").exists()


def test_a_folder_without_finished_runs_gives_one_line(tree, analyse, tmp_path):
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


def test_an_unwritable_reports_folder_gives_one_line(full, analyse, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = analyse("table", f"reports={tmp_path / 'file'}")
    assert status == 2
    assert err.count("\n") == 1


def test_without_arguments_usage_is_printed_and_torch_is_not_imported(tmp_path):
    code = "import sys, analysis.__main__ as m, analysis.figures.curves; m.main([])"
    code += "; sys.exit(bool({'torch', 'matplotlib.pyplot'} & set(sys.modules)))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0
    assert process.stdout.startswith("usage: python -m analysis")


def test_all_is_the_same_as_no_filter(tree, analyse):
    tree.student(PAIR, "kd", "0000000000a1", 0, 60.0)
    assert analyse("table", "method=all", "pair=all") == analyse("table")


@pytest.mark.parametrize(
    ("words", "highlight", "titles", "width"),
    [
        ([], (), True, 6.9),
        (["highlight=kd,clkd", "titles=false"], ("kd", "clkd"), False, 6.9),
        (["highlight=all", "width=column"], ("all",), True, 3.3),
    ],
)
def test_figures_are_drawn_as_the_command_line_says(full, words, highlight, titles, width):
    options = load_analysis([f"runs={full.root}", *words])
    look = appearance(select(options))
    assert (look.highlight, look.titles, look.width) == (highlight, titles, width)


def test_families_are_those_that_the_runs_recorded(tree):
    tree.student(PAIR, "kd", "0000000000a1", 0, 60.0, changes={"family": "logits"})
    tree.student(PAIR, "crd", "0000000000a2", 0, 60.0)  # an old result without a family
    look = appearance(select(load_analysis([f"runs={tree.root}"])))
    assert look.families == {"kd": "logits"}


def test_a_list_of_pairs_selects_its_pairs_with_runs(full, analyse):
    status, out, _ = analyse("table", "pair=classic", "dataset=cifar100")
    assert status == 0
    assert "resnet56-resnet20" in out and "resnet20-resnet8" not in out  # the one is classic, the other is not
    status, _, err = analyse("table", "pair=published")
    assert status == 2 and "have pair 'published'" in err
