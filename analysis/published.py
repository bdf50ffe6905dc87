"""Published accuracies (`published_results.csv`) and which of several values for the same thing is shown.

Columns of the file: dataset, teacher, student and method under this project's names; `label`, the method as its source
calls it; metric, value and std in per cent; rule, the epoch that the value is of (`last`, `best` on the test set, or
`unknown` where the source does not say); source.

Whether a value is from the source's own runs or copied by it (`Published.origin`) follows from the source.

Rows of third-party re-implementations and of ablations have methods of their own (`clkd-3rd-party-…`), so they never
stand as a method's published value.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

FILE = Path(__file__).with_name("published_results.csv")
EPOCHS = 240  # of the field's recipe, which these values are from
OWN = ("HobbitLong/RepDistiller", "DefangChen/SimKD")  # sources that ran every method themselves
PROTOCOLS = ("HobbitLong/RepDistiller", "megvii-research/mdistiller")  # the order in which sources are preferred
TEACHER, STUDENT = "teacher", "ce"  # methods of the baselines


@dataclass(frozen=True)
class Published:
    """One published accuracy in per cent; std is None where the source gives none."""

    value: float
    std: float | None
    rule: str
    source: str

    @property
    def origin(self) -> str:
        """`own` for the source's own runs, `copied` from another one, `unknown` where the source does not say."""
        if "secondary source" in self.source:
            return "copied"
        return "own" if self.source.startswith(OWN) else "unknown"

    @property
    def reference(self) -> str:
        """The source of the value with its origin and rule, as it stands in a list of sources."""
        origin = {"own": "own runs", "copied": "copied"}.get(self.origin, "own runs or copied: not stated")
        rule = {"last": "last epoch", "best": "best epoch on the test set"}.get(self.rule, "epoch not stated")
        return f"{self.source.split('; std:')[0]}; {origin} ({rule})"


@functools.cache
def load() -> pd.DataFrame:
    """The whole file, in its order."""
    return pd.read_csv(FILE, dtype={"value": float, "std": float})


@functools.cache
def find(dataset: str, teacher: str, student: str, method: str) -> Published | None:
    """The published top-1 accuracy to show; None where there is none.

    Of several, RepDistiller's value is taken (its rule is ours, the last epoch), then mdistiller's, then the first in
    the file. A baseline depends on one network only, so the teacher's value may come from any pair with this teacher,
    and that of the student alone from any pair with this student.
    """
    rows = [
        row
        for row in _top1().get((dataset, method), ())
        if (method == STUDENT or row["teacher"] == teacher) and (method == TEACHER or row["student"] == student)
    ]
    if not rows:
        return None
    rank = [next((i for i, p in enumerate(PROTOCOLS) if r["source"].startswith(p)), len(PROTOCOLS)) for r in rows]
    row = rows[rank.index(min(rank))]
    return Published(row["value"], None if pd.isna(row["std"]) else row["std"], row["rule"], row["source"])


@functools.cache
def _top1() -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The file's rows of top-1 accuracies by data set and method."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in load().to_dict("records"):
        if row["metric"] == "top1":
            found.setdefault((row["dataset"], row["method"]), []).append(row)
    return found


@functools.cache
def pair_order(dataset: str) -> dict[str, int]:
    """Rank of each published pair, as the field's tables have them: like architectures first."""
    rows = load()
    rows = rows[rows.dataset == dataset]
    return {p: i for i, p in enumerate(dict.fromkeys(rows.teacher + "-" + rows.student))}
