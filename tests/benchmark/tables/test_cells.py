"""Marks of printed numbers."""

import pytest

from benchmark.tables import cells
from benchmark.tables.model import BEST, NOTHING, SECOND

PRINTED = {"a": "9.50", "b": "10.00", "c": NOTHING, "d": "10.00", "e": "-1.00"}


@pytest.mark.parametrize(
    ("better", "marks"), [(1, {"b": BEST, "d": BEST, "a": SECOND}), (-1, {"e": BEST, "a": SECOND})]
)
def test_equal_numbers_share_a_mark_and_missing_ones_have_none(better, marks):
    assert cells.best_and_second(PRINTED, better) == marks


def test_a_single_number_is_the_best():
    assert cells.best_and_second({"a": "1.00", "b": NOTHING}) == {"a": BEST}
