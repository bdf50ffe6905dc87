"""Records as CSV. A CSV file has columns of its own, numbers to four digits instead of cells as they are printed."""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

FORMULA = ("=", "+", "-", "@")  # first characters of a formula


def render(columns: Sequence[str], records: Iterable[Mapping[str, Any]]) -> str:
    """Return a CSV file. A column that a record lacks, None and NaN are empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({k: _text(v) for k, v in record.items()})
    return out.getvalue()


def _text(value: Any) -> Any:
    """Return a float to four digits without trailing zeros, and text with plain line ends, which the writer quotes.

    Text that a spreadsheet would run as a formula, such as a name that begins with =, gets an apostrophe before it.
    """
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4f}".rstrip("0").rstrip(".")
    if not isinstance(value, str):
        return value
    return ("'" if value.startswith(FORMULA) else "") + re.sub(r"\r\n?", "\n", value)
