"""Text that fits into inches, and labels that are spread."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.figures import labels


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "Zs"]), max_size=60), st.floats(0.3, 3.0))
def test_a_shortened_text_is_no_wider_than_asked_for(text, inches):
    short = labels.shorten(text, inches)
    assert labels.text_width(short) <= inches
    assert short == text or "…" in short


def test_the_middle_is_left_out():
    short = labels.shorten("CLKD (nu=0.4, temperature=4, beta=2)", 1.0)
    assert short.startswith("CLKD (") and short.endswith("=2)") and "…" in short


def test_a_label_is_broken_before_its_parenthesis_first():
    text = "CLKD (nu=0.4, beta=2)"
    assert labels.wrap(text, 3.0) == text
    assert labels.wrap(text, 0.9) == "CLKD\n(nu=0.4, beta=2)"
    assert labels.wrap("one two three four", 0.6, lines=3) == "one two\nthree four"


def test_labels_that_became_equal_are_numbered():
    same_ends = [f"a{'x' * 60}{i}{'y' * 60}b" for i in range(3)]
    fitted = labels.fit(same_ends, 1.0)
    assert len(set(fitted)) == 3
    assert all(labels.text_width(text) <= 1.0 for text in fitted)
    assert fitted[1].endswith(" #2")


positions = st.lists(st.floats(0, 1), min_size=1, max_size=20)


@given(positions, st.floats(0.001, 0.05))
def test_spread_labels_keep_their_order_and_distance(wanted, gap):
    places = labels.spread(wanted, gap, 0.0, 1.0)
    order = np.argsort(wanted, kind="stable")
    assert all(b - a >= gap - 1e-9 for a, b in zip(np.take(places, order), np.take(places, order)[1:], strict=False))
    assert min(places) >= -1e-9 and max(places) <= 1 + 1e-9


def test_labels_move_as_little_as_needed():
    assert labels.spread([0.2, 0.8], 0.1, 0, 1) == pytest.approx([0.2, 0.8])
    assert labels.spread([0.5, 0.5], 0.1, 0, 1) == pytest.approx([0.45, 0.55])
    assert labels.spread([1.0, 1.0, 0.3], 0.1, 0, 1) == pytest.approx([0.9, 1.0, 0.3])
    assert labels.spread([0.5] * 5, 1.0, 0, 1) == pytest.approx([0, 0.25, 0.5, 0.75, 1])  # not enough room
