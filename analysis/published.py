"""Published accuracies (`published_results.csv`) and which of several values for the same thing is shown.

Columns of the file: dataset, teacher, student and method under this project's names; `label`, the method as its source
calls it; metric, value and std in per cent; rule, the epoch that the value is of (`last`, `best` on the test set, or
`unknown` where the source does not say); source.

Rows of third-party re-implementations and of ablations have methods of their own (`clkd-3rd-party-…`), so they never
stand as a method's published value.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

FILE = Path(__file__).with_name("published_results.csv")
EPOCHS = 240  # of the field's recipe, which these values are from
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
    def reference(self) -> str:
        """The source of the value with its rule, as it stands in a list of sources."""
        rule = {"last": "last epoch", "best": "best epoch on the test set"}.get(self.rule, "epoch not stated")
        return f"{self.source.split('; std:')[0]} ({rule})"


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
    rows = load()
    rows = rows[(rows.dataset == dataset) & (rows.method == method) & (rows.metric == "top1")]
    if method != STUDENT:
        rows = rows[rows.teacher == teacher]
    if method != TEACHER:
        rows = rows[rows.student == student]
    if rows.empty:
        return None
    rank = [next((i for i, p in enumerate(PROTOCOLS) if s.startswith(p)), len(PROTOCOLS)) for s in rows.source]
    row = rows.iloc[rank.index(min(rank))]
    return Published(float(row.value), None if pd.isna(row["std"]) else float(row["std"]), row.rule, row.source)


@functools.cache
def pair_order(dataset: str) -> dict[str, int]:
    """Rank of each published pair, as the field's tables have them: like architectures first."""
    rows = load()
    rows = rows[rows.dataset == dataset]
    return {p: i for i, p in enumerate(dict.fromkeys(rows.teacher + "-" + rows.student))}
