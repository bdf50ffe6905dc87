"""Published accuracies (`published_results.csv`), and which of several values for the same thing is shown.

Columns of the file: dataset, teacher, student and method under this project's names; `label`, the method as its source
calls it; metric, value and std in per cent; rule, the epoch that the value belongs to (`last`, `best` on the test set,
or `unknown` where the source does not say); source. LSKD's source does not say either: its rows with standardization
have the rule `best`, because they agree with the best epochs of its public logs (median distance 0.11 points, to the
last epochs 0.34).

Whether a value comes from the source's own runs or was copied by it (`Published.origin`) follows from the source.

Rows of third-party re-implementations and of ablations have their own methods (`clkd-3rd-party-…`), so they never stand
as a method's published value.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.frames import rows_where

FILE = Path(__file__).with_name("published_results.csv")
# epochs of the field's recipe on a data set, by which these values were obtained; 240 on CIFAR
EPOCHS = {"imagenet": 100, "tinyimagenet": 200}
CIFAR_EPOCHS = 240
OWN_RUNS = ("HobbitLong/RepDistiller", "DefangChen/SimKD")  # sources that ran every method themselves
PREFERRED_SOURCES = ("HobbitLong/RepDistiller", "megvii-research/mdistiller")
TEACHER, STUDENT = "teacher", "ce"  # methods of the baselines
ORIGINS = {"own": "own runs", "copied": "copied", "unknown": "own runs or copied: not stated"}
RULES = {"last": "last epoch", "best": "best epoch on the test set", "unknown": "epoch not stated"}


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
        return "own" if self.source.startswith(OWN_RUNS) else "unknown"

    @property
    def reference(self) -> str:
        """The source of the value with its origin and rule, as it stands in a list of sources."""
        return f"{self.source.split('; std:')[0]}; {ORIGINS[self.origin]} ({RULES.get(self.rule, RULES['unknown'])})"


@functools.cache
def load() -> pd.DataFrame:
    """Return the whole file, in its order."""
    return pd.read_csv(FILE, dtype={"value": float, "std": float})


@functools.cache
def find(dataset: str, teacher: str, student: str, method: str, metric: str = "top1") -> Published | None:
    """Return the published accuracy to show; None where there is none. metric: top1 or top5.

    Of several, RepDistiller's value is taken (its rule is ours, the last epoch), then mdistiller's, then the first in
    the file. A baseline depends on one network only, so the teacher's value may come from any pair with this teacher,
    and that of the student alone from any pair with this student.
    """
    rows = [
        row
        for row in _rows(metric).get((dataset, method), ())
        if (method == STUDENT or row["teacher"] == teacher) and (method == TEACHER or row["student"] == student)
    ]
    if not rows:
        return None
    row = min(rows, key=lambda r: _preference(r["source"]))
    return Published(row["value"], None if pd.isna(row["std"]) else row["std"], row["rule"], row["source"])


def probe_name(target: str, source: str) -> str:
    """Return the file's name of the data set of linear probes: on `target`, of students trained on `source`."""
    return f"{target}-linear-probe(from {source})"


def epochs(dataset: str) -> int:
    """Return the length of the recipe by which the published values on a data set were obtained."""
    return EPOCHS.get(dataset, CIFAR_EPOCHS)


def _preference(source: str) -> int:
    """Rank of a source, 0 the most preferred."""
    ranks = [i for i, prefix in enumerate(PREFERRED_SOURCES) if source.startswith(prefix)]
    return ranks[0] if ranks else len(PREFERRED_SOURCES)


@functools.cache
def _rows(metric: str) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The file's rows of a metric by data set and method."""
    frame = load()
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows_where(frame, metric=metric).to_dict("records"):
        rows.setdefault((row["dataset"], row["method"]), []).append(row)
    return rows


@functools.cache
def pair_order(dataset: str) -> dict[str, int]:
    """Return the rank of each published pair, as the field's tables order them: similar architectures first."""
    rows = rows_where(load(), dataset=dataset)
    return {p: i for i, p in enumerate(dict.fromkeys(rows.teacher + "-" + rows.student))}
