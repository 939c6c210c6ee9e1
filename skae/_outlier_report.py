"""What is said about the rows and columns of a table in words: reasons by cell, and a report."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

# Rows and columns that are looked at for copies among the columns.
MAX_ROWS_COMPARED = 2000
MAX_COLUMNS_COMPARED = 200
NEARLY_COPIES = 0.999


def shares_as_far_out(values: pd.Series, known: pd.Series) -> np.ndarray:
    """Share of known rows that lie as far out as each value, on its side of the median.

    Of values that are no numbers, and of unknown cells, it is the share of rows with the same.
    """
    unknown = values.isna().to_numpy()
    shares = np.full(len(values), float(known.isna().mean()))
    if is_ordered(known) and is_ordered(values):
        sorted_values = np.sort(as_numbers(known.dropna()))
        numbers = as_numbers(values[~unknown])
        not_above = np.searchsorted(sorted_values, numbers, side="right")
        below = np.searchsorted(sorted_values, numbers, side="left")
        n_beyond = np.minimum(not_above, len(sorted_values) - below)
        shares[~unknown] = n_beyond / len(known)
    else:
        counts = known.dropna().astype(str).value_counts() / len(known)
        texts = values[~unknown].astype(str)
        shares[~unknown] = texts.map(counts).fillna(0.0).to_numpy(dtype=np.float64)
    return shares


def is_ordered(column: pd.Series) -> bool:
    """Whether the values of a column lie on a line: numbers and times, but not truth values."""
    dtype = column.dtype
    if pd.api.types.is_bool_dtype(dtype):
        return False
    return bool(
        pd.api.types.is_numeric_dtype(dtype)
        or pd.api.types.is_datetime64_any_dtype(dtype)
        or pd.api.types.is_timedelta64_dtype(dtype)
    )


def as_numbers(column: pd.Series) -> np.ndarray:
    """Numbers in the order of the values."""
    if pd.api.types.is_numeric_dtype(column.dtype):
        return column.to_numpy(dtype=np.float64)
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        column = column.dt.tz_localize(None)
    kind = "datetime64[ns]" if column.dtype.kind == "M" else "timedelta64[ns]"
    return column.to_numpy(dtype=kind).astype(np.int64).astype(np.float64)


def reasons(
    frame: pd.DataFrame,
    contributions: pd.DataFrame,
    expected: pd.DataFrame | None,
    known: pd.DataFrame,
) -> pd.DataFrame:
    """One line for each cell: what it adds to the score, its value, and how unusual that is."""
    n_rows, n_columns = frame.shape
    shares = np.column_stack(
        [
            shares_as_far_out(frame.iloc[:, place], known.iloc[:, place])
            for place in range(n_columns)
        ]
    )
    index = pd.MultiIndex.from_arrays(
        [frame.index.repeat(n_columns), np.tile(frame.columns.to_numpy(), n_rows)],
        names=["row", "column"],
    )
    same_type = len(set(frame.dtypes)) == 1
    values = frame.to_numpy() if same_type else frame.astype(object).to_numpy()
    cells = {"contribution": contributions.to_numpy().ravel(), "value": values.ravel()}
    if expected is not None:
        cells["expected"] = expected.to_numpy().ravel()
    return pd.DataFrame({**cells, "as_far_out": shares.ravel()}, index=index)


def n_duplicates(frame: pd.DataFrame) -> int:
    """Count the rows that equal an earlier one."""
    return int(frame.astype(str).duplicated().sum())


def constant_columns(frame: pd.DataFrame) -> list[Any]:
    """Names of the columns that have one value at most."""
    return [name for name, column in frame.items() if column.astype(str).nunique() <= 1]


def nearly_copies(frame: pd.DataFrame) -> list[tuple[Any, Any]]:
    """Pairs of columns that tell the same: by rank correlation, or by equal values."""
    rows = frame.iloc[:MAX_ROWS_COMPARED, :MAX_COLUMNS_COMPARED]
    constant = set(constant_columns(rows))
    columns = [name for name in rows.columns if name not in constant]
    ordered = [name for name in columns if is_ordered(rows[name])]
    ranks = pd.DataFrame(
        {name: pd.Series(as_numbers_or_gaps(rows[name])).rank() for name in ordered}
    )
    correlations = ranks.corr().abs()
    pairs = [
        (first, second)
        for first, second in combinations(ordered, 2)
        if correlations.loc[first, second] >= NEARLY_COPIES
    ]
    others = [name for name in columns if name not in set(ordered)]
    texts = {name: rows[name].astype(str) for name in others}
    return pairs + [
        (first, second)
        for first, second in combinations(others, 2)
        if (texts[first] == texts[second]).mean() >= NEARLY_COPIES
    ]


def as_numbers_or_gaps(column: pd.Series) -> np.ndarray:
    """Numbers in the order of the values, NaN where unknown."""
    numbers = np.full(len(column), np.nan)
    known = column.notna().to_numpy()
    numbers[known] = as_numbers(column[known])
    return numbers


@dataclass(frozen=True)
class OutlierReport:
    """What `AutoencoderOutlierDetector.report` says of a table. Notebooks show it as HTML.

    Attributes
    ----------
    rows : DataFrame
        The strangest rows, one line each: outlier score, p-value if there are calibration rows,
        whether it is called an outlier, and the columns that are blamed most, with value and
        expected value.
    findings : DataFrame of shape (n_findings, 2)
        ``finding`` and ``value``: what was found in the whole table.
    """

    rows: pd.DataFrame
    findings: pd.DataFrame

    def to_html(self) -> str:
        """Both tables as HTML.

        Returns
        -------
        html : str
            A part of a page, with all text escaped.
        """
        return "\n".join(
            f"<h4>{escape(title)}</h4>\n{table.to_html(index=index, escape=True)}"
            for title, table, index in (
                ("Strangest rows", self.rows, True),
                ("The whole table", self.findings, False),
            )
        )

    def _repr_html_(self) -> str:
        return self.to_html()


def described_cell(cell: pd.Series) -> str:
    """One reason in words, such as "area = 9.7, expected 5.1"."""
    text = f"{cell.name[1]} = {shown(cell['value'])}"
    if "expected" in cell.index and not pd.isna(cell["expected"]):
        text += f", expected {shown(cell['expected'])}"
    return text


def shown(value: Any) -> str:
    """Value as text, numbers with four digits."""
    is_float = isinstance(value, (float, np.floating))
    return f"{value:.4g}" if is_float else str(value)
