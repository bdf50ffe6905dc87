"""Parts of data frames, typed."""

from collections.abc import Iterator
from typing import Any, cast

import pandas as pd


def rows_where(frame: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """Return the rows of a frame whose columns have these values."""
    mask = pd.Series(True, index=frame.index)
    for column, value in values.items():
        mask &= frame[column] == value
    return cast(pd.DataFrame, frame[mask])


def grouped(frame: pd.DataFrame, columns: list[str], **options: Any) -> Iterator[tuple[Any, pd.DataFrame]]:
    """Yield the values of several columns with the rows that have them. options: of pandas' `groupby`."""
    yield from cast(Any, frame.groupby(columns, **options))
