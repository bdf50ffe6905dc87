"""Files and colors of all figures: complete, sound, deterministic."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from analysis.__main__ import main
from analysis.figures import curves, palette, style
from tests.analysis.figures import many
from tests.analysis.figures.conftest import LOOK, PAIR, result_group


def test_every_pair_has_its_figures_in_both_formats(plots):
    pairs = ("cifar100-short-resnet20-resnet8", "cifar100-short-resnet56-resnet20", "digits-quick-resnet20-resnet8")
    stems = {f"{p}-{f}" for p in pairs for f in ("curves", "correlation", "differences")}
    stems |= {f"cifar100-short-{f}" for f in ("ranks", "profile", "gains-student", "gains-kd")}  # of several pairs
    assert {p.name for p in plots.iterdir()} == {f"{stem}.{suffix}" for stem in stems for suffix in ("png", "pdf")}


def test_files_are_sound(plots):
    for path in plots.glob("*.png"):
        with Image.open(path) as image:
            image.load()
            assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)
            assert image.size[0] == round(200 * style.TEXT_WIDTH)
            assert image.size[1] > 150
            assert np.asarray(image.convert("L")).std() > 5
    for path in plots.glob("*.pdf"):
        content = path.read_bytes()
        assert content.startswith(b"%PDF-")
        assert content.rstrip().endswith(b"%%EOF")
        assert b"CreationDate" not in content


def test_figures_of_one_column(filled, tmp_path, capsys):
    """Gains of two pairs stand in a column; on paper a file is as wide as its PDF says, 72 units an inch."""
    chosen = ["dataset=cifar100", "width=column", f"runs={filled.root}", f"reports={tmp_path}"]
    assert main(["plots", *chosen]) == 0
    pairs = ("cifar100-short-resnet20-resnet8", "cifar100-short-resnet56-resnet20")
    stems = {f"{p}-{f}" for p in pairs for f in ("curves", "correlation", "differences")}
    stems |= {f"cifar100-short-{f}" for f in ("ranks", "profile", "gains-student", "gains-kd")}
    names = {f"{stem}-column.{suffix}" for stem in stems for suffix in ("png", "pdf")}
    assert {p.name for p in (tmp_path / "plots").iterdir()} == names
    assert " in wide" not in capsys.readouterr().err
    for path in (tmp_path / "plots").glob("*.pdf"):
        assert b"/MediaBox [ 0 0 237.6 " in path.read_bytes(), path.name


def test_bytes_do_not_depend_on_process_hash_seed_and_other_methods(plots, filled, tmp_path):
    """Colors are assigned to all methods of the runs, so a figure stays the same when fewer pairs are drawn."""
    selection = ["dataset=cifar100", f"pair={PAIR}", f"runs={filled.root}", f"reports={tmp_path}"]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-m", "analysis", "plots", *selection], check=True, env=environment)
    paths = list((tmp_path / "plots").iterdir())
    assert len(paths) == 6
    for path in paths:
        assert path.read_bytes() == (plots / path.name).read_bytes(), path.name


def test_few_rows_all_stand_out(filled):
    group = result_group(filled.root)
    assert all(row.highlighted for row in LOOK.on_pair(group, PAIR).values())


def test_of_many_rows_the_references_and_the_best_stand_out(many_runs):
    """Of 45 rows the student alone, KD, CLKD and the four of the highest accuracies that are none of them."""
    group = many.part(many_runs, 45, 1)
    (pair,) = group.pairs
    accuracy = {row.method: row.seed_groups[pair].mean("top1_last") for row in group.rows}
    best = set(sorted(accuracy, key=lambda method: -accuracy[method])[:4])
    highlighted = {method for (method, _), row in LOOK.on_pair(group, pair).items() if row.highlighted}
    assert highlighted == best | {"ce", "kd", "clkd"}
    assert len(highlighted) == 7


@pytest.mark.parametrize("pairs", [1, 13])
def test_chosen_methods_stand_out(many_runs, pairs):
    group, look = many.part(many_runs, 45, pairs), style.Appearance(highlight=("sp", "vid"))
    for styles in (look.on_pair(group, group.pairs[0]), look.over_pairs(group)):
        assert {method for (method, _), row in styles.items() if row.highlighted} == {"sp", "vid"}
        assert styles["sp", 0].color == palette.method_mark("sp")[0]
        assert styles["rkd", 0].color == palette.OTHER_COLOR


def test_a_figure_without_the_chosen_methods_has_the_default(many_runs):
    group = many.part(many_runs, 45, 1)
    chosen, default = (style.Appearance(highlight=h).on_pair(group, group.pairs[0]) for h in (("elsewhere",), ()))
    assert chosen == default


def test_all_methods_can_be_chosen(many_runs):
    styles = style.Appearance(highlight=("all",)).over_pairs(many.part(many_runs, 45, 13))
    assert len(styles) == 45 and all(row.highlighted for row in styles.values())


def test_a_color_does_not_depend_on_what_else_is_shown(many_runs):
    few, lots = (style.Appearance(highlight=("all",)).over_pairs(many.part(many_runs, n, 13)) for n in (5, 45))
    assert all(lots[key] == row for key, row in few.items())


def test_titles_can_be_left_out(filled):
    group = result_group(filled.root)
    pair_curves, _ = curves.learning_curves(group, PAIR)
    with_title, without = (
        curves.draw_curves(group, PAIR, pair_curves, style.Appearance(titles=titles)) for titles in (True, False)
    )
    assert [t.get_text() for t in with_title.texts] == ["Test top-1: resnet20 → resnet8 on cifar100, profile short"]
    assert without.texts == []
    assert without.get_figheight() < with_title.get_figheight()


def test_parts_are_as_equal_as_possible():
    assert [len(part) for part in style.chunks(range(46), 16)] == [15, 16, 15]
    assert [list(part) for part in style.chunks([1, 2], 5)] == [[1, 2]]
    assert [list(part) for part in style.chunks([1, 2], 1)] == [[1], [2]]
