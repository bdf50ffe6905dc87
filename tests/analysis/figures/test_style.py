"""Files and colors of all figures: complete, sound, deterministic."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from analysis.figures import style
from tests.analysis.figures.conftest import COLORS, PAIR


def test_every_pair_has_its_figures_in_both_formats(plots):
    pairs = ("cifar100-short-resnet20-resnet8", "cifar100-short-resnet56-resnet20", "digits-quick-resnet20-resnet8")
    stems = {f"{p}-{f}" for p in pairs for f in ("curves", "correlation")}
    stems |= {"cifar100-short-ranks", "cifar100-short-profile"}  # of several pairs
    assert {p.name for p in plots.iterdir()} == {f"{stem}.{suffix}" for stem in stems for suffix in ("png", "pdf")}


def test_files_are_sound(plots):
    for path in plots.glob("*.png"):
        with Image.open(path) as image:
            image.load()
            assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)
            assert min(image.size) > 400
            assert np.asarray(image.convert("L")).std() > 5
    for path in plots.glob("*.pdf"):
        content = path.read_bytes()
        assert content.startswith(b"%PDF-")
        assert content.rstrip().endswith(b"%%EOF")
        assert b"CreationDate" not in content


def test_bytes_do_not_depend_on_process_hash_seed_and_other_methods(plots, filled, tmp_path):
    """Colors are assigned to all methods of the runs, so a figure stays the same when fewer pairs are drawn."""
    selection = ["dataset=cifar100", f"pair={PAIR}", f"runs={filled.root}", f"reports={tmp_path}"]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-m", "analysis", "plots", *selection], check=True, env=environment)
    paths = list((tmp_path / "plots").iterdir())
    assert len(paths) == 4
    for path in paths:
        assert path.read_bytes() == (plots / path.name).read_bytes(), path.name


def test_methods_have_distinct_colors():
    assert len(set(COLORS.values())) == 4
    assert COLORS["ce"] == style.STUDENT_COLOR
    assert style.method_colors(["clkd", "kd", "crd"])["clkd"] == COLORS["clkd"]


def test_long_labels_are_wrapped_before_their_parenthesis():
    assert style.wrap_label("CLKD (nu=0.4, temperature=4, beta=2)") == "CLKD\n(nu=0.4, temperature=4, beta=2)"
    assert style.wrap_label("CLKD (nu=0.4)") == "CLKD (nu=0.4)"
