"""TableEncoder: a DataFrame to numbers, and numbers to the same DataFrame."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, ClassVar, Self

import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags, check_array
from sklearn.utils.validation import check_is_fitted, validate_data

from skae._documentation import DocumentationLinkMixin
from skae._persistence import reading, with_versions
from skae._processes import check_alone
from skae._rollback import unchanged_on_failure
from skae._sklearn_compat import Interval, StrOptions, _check_feature_names_in
from skae._table._cells import Cells, UnsupportedColumnError, read_cells
from skae._table._frames import (
    Frame,
    index_of,
    index_state,
    layout_of,
    open_array,
    open_frame,
    replace_columns,
    write_frame,
)
from skae._table._kinds import KINDS, check_choice, check_form, in_unit, kind_of
from skae._table._scaling import FARTHEST
from skae._validation import validate_table

MAX_NAMED = 5


@dataclass(frozen=True)
class Block:
    """The encoded columns of one column of the table."""

    name: Hashable
    """Name of the column."""
    kind: str
    columns: slice
    """Where its numbers are in an encoded row."""
    n_levels: int | None
    """How many values it can take, None for numbers and times."""


class TableEncoder(DocumentationLinkMixin, TransformerMixin, BaseEstimator):
    """Encode the columns of a table as numbers, and decode numbers as the same table.

    Numbers, counts, booleans, categories, ordered categories, dates, times and durations are read
    from a DataFrame of pandas, polars or pyarrow, or from an array of numbers. `inverse_transform`
    gives a DataFrame of the same library, with the same columns, order, types, categories and time
    zones. Whatever numbers it gets, it gives values that the column can have.

    An unknown cell (NaN, None, NA, null, NaT, masked) is NaN in all encoded columns of the cell,
    and is unknown again after `inverse_transform`.

    Parameters
    ----------
    kinds : dict, default=None
        Kinds of columns by their names, such as ``{"zip": "category"}``: "number", "integer",
        "count", "boolean", "category", "ordinal", "datetime", "date", "time", "duration" or
        "constant". The kinds of all other columns are read from their types and values.
    max_categories : int, default=50
        Encoded columns of a category at most. A column with more levels keeps a column for each of
        its most frequent levels, and the others share one. An ordered category with more levels is
        encoded by its ranks.
    unsupported : {"raise", "drop"}, default="raise"
        What to do with columns that have no encoding, such as free text, identifiers and lists:
        raise an error, or leave them out with a warning. `inverse_transform` does not give back a
        column that was left out.

    Attributes
    ----------
    schema_ : DataFrame of shape (`n_features_in_`, 5)
        For each column of the table its name, kind, transformation, share of unknown cells and
        number of encoded columns.
    blocks_ : tuple of Block
        For each encoded column of the table its ``name``, ``kind``, the slice of its numbers
        (``columns``) and the number of values that it can take (``n_levels``, None for numbers).
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns of X, if it had any that are all strings.

    See Also
    --------
    sklearn.compose.ColumnTransformer : Transformers of your choice by column, without a way back.

    Notes
    -----
    What comes back exactly, of the rows of `fit`: booleans, categories that are not grouped,
    constants, dates and times; integers and durations that span less than 2^53 units; and datetimes
    that span less than 2^53 of the coarsest unit (hour, minute, second, ...) that all of them are a
    multiple of, or that have an encoded time of day. Other numbers come back to ten digits of the
    value or of the column's standard deviation.

    New rows are encoded like those of `fit`. They are decoded to the digits and the resolution that
    the column had in `fit`, and within its bounds: a column that was never negative stays so. The
    user guide says how each kind is encoded.

    Examples
    --------
    >>> import pandas as pd
    >>> from skae import TableEncoder
    >>> df = pd.DataFrame(
    ...     {
    ...         "town": ["Ulm", "Bonn", None, "Ulm"],
    ...         "height": [1.62, 1.78, 1.8, 1.71],
    ...         "since": pd.to_datetime(["2019-03-01", "2021-07-15", "2020-01-31", None]),
    ...     }
    ... )
    >>> encoder = TableEncoder().fit(df)
    >>> encoder.schema_
       column      kind         transformation  unknown  n_encoded
    0    town  category                one-hot     0.25          2
    1  height    number            standardize     0.00          1
    2   since  datetime  time line, week, year     0.25          5
    >>> encoder.transform(df).shape
    (4, 8)
    >>> encoder.inverse_transform(encoder.transform(df))
       town  height      since
    0   Ulm    1.62 2019-03-01
    1  Bonn    1.78 2021-07-15
    2   NaN    1.80 2020-01-31
    3   Ulm    1.71        NaT
    """

    _parameter_constraints: ClassVar[dict[str, list]] = {
        "kinds": [dict, None],
        "max_categories": [Interval(Integral, 2, None, closed="left")],
        "unsupported": [StrOptions({"raise", "drop"})],
    }

    def __init__(
        self,
        kinds: dict[Hashable, str] | None = None,
        *,
        max_categories: int = 50,
        unsupported: str = "raise",
    ) -> None:
        self.kinds = kinds
        self.max_categories = max_categories
        self.unsupported = unsupported

    def fit(self, X: Any, y: Any = None) -> Self:
        """Read the kinds of the columns and learn how to encode them.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Table.
        y : Ignored
            Present for API consistency.

        Returns
        -------
        self : object
            Fitted estimator.

        Raises
        ------
        ValueError
            If columns have no encoding and are not to be dropped, if they cannot have the kinds
            that `kinds` gives them, if numbers are infinite, or if names of columns are not unique.
        """
        self._validate_params()
        check_alone(type(self).__name__)
        with unchanged_on_failure(self):
            self._fit(self._open(X, reset=True))
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Encode a table.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Table with the columns of `fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_encoded)
            Numbers, NaN for unknown cells. Values that a column of few values did not have in
            `fit` are unknown cells, and there is a warning.

        Raises
        ------
        ValueError
            If columns are missing, new or in another order, or hold something else than in `fit`,
            or if numbers are infinite.
        """
        check_is_fitted(self)
        frame = self._open(X, reset=False)
        codes = np.empty((len_of(frame), self._n_encoded))
        unseen = {}
        for column, block in zip(self._columns, self.blocks_, strict=True):
            codes[:, block.columns], new = encode(column, frame)
            if len(new):
                unseen[column["name"]] = new
        if unseen:
            warn_of_unseen(unseen)
        return codes

    def inverse_transform(self, X: ArrayLike) -> Any:
        """Decode numbers.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_encoded)
            Numbers as `transform` gives them, or as a model gives them back. A cell with a NaN
            among its numbers is unknown.

        Returns
        -------
        DataFrame or ndarray of shape (n_samples, n_features)
            Table of the library that `fit` had. Its index is that of X if both are of pandas. An
            unknown cell makes a column of integers or booleans nullable.

        Raises
        ------
        ValueError
            If X does not have as many columns as `transform` gives.
        """
        check_is_fitted(self)
        index = X.index if isinstance(X, pd.DataFrame) else None
        return write_frame(self._layout, self._decode(X), index)

    def sum_by_column(self, X: ArrayLike) -> np.ndarray:
        """Add up numbers of encoded columns, such as parts of a score, by column of the table.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_encoded)
            A number for each encoded column.

        Returns
        -------
        ndarray of shape (n_samples, `n_features_in_`)
            Their sum for each column of the table; zero for one that was left out.
        """
        check_is_fitted(self)
        values = self._validate_encoded(X)
        sums = np.zeros((len(values), self.n_features_in_))
        for column, block in zip(self._columns, self.blocks_, strict=True):
            sums[:, column["position"]] = values[:, block.columns].sum(axis=1)
        return sums

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the encoded columns, such as "town_Ulm" and "since_weekday_sin".

        Parameters
        ----------
        input_features : array-like of str, default=None
            Names of the columns of X, for a table that had none.

        Returns
        -------
        ndarray of shape (n_encoded,)
            Unique names.
        """
        check_is_fitted(self)
        names = _check_feature_names_in(self, input_features)
        if input_features is None and not hasattr(self, "feature_names_in_"):
            names = [str(name) for name in self._names]
        full = [
            f"{names[column['position']]}_{suffix}" if suffix else names[column["position"]]
            for column in self._columns
            for suffix in column["suffixes"]
        ]
        return np.asarray(unique(full), dtype=object)

    @property
    def schema_(self) -> pd.DataFrame:
        """Kinds of the columns and how they are encoded."""
        check_is_fitted(self)
        rows = {i: (name, "dropped", "none", np.nan, 0) for i, name in enumerate(self._names)}
        for column in self._columns:
            transformation = KINDS[column["kind"]].describe(column["state"])
            n_encoded = len(column["suffixes"])
            row = (column["name"], column["kind"], transformation, column["unknown"], n_encoded)
            rows[column["position"]] = row
        names = ["column", "kind", "transformation", "unknown", "n_encoded"]
        return pd.DataFrame(list(rows.values()), columns=names)

    @property
    def blocks_(self) -> tuple[Block, ...]:
        """Where the columns are in an encoded row."""
        check_is_fitted(self)
        return tuple(blocks_of(self._columns))

    def _validate_encoded(self, X: ArrayLike) -> np.ndarray:
        codes = check_array(X, dtype=np.float64, ensure_all_finite="allow-nan")
        if codes.shape[1] != self._n_encoded:
            raise ValueError(
                f"X has {codes.shape[1]} columns, but TableEncoder gives {self._n_encoded} encoded "
                "columns and needs all of them to decode."
            )
        return codes

    def _decode(self, X: ArrayLike) -> list[Cells]:
        """Cells of each encoded column of the table."""
        codes = np.clip(self._validate_encoded(X), -FARTHEST, FARTHEST)
        return [
            decode(column, codes[:, block.columns])
            for column, block in zip(self._columns, self.blocks_, strict=True)
        ]

    def _fill(self, X: Any, codes: np.ndarray) -> Any:
        """Table X with decoded numbers in its unknown cells, in its own types.

        Columns without unknown cells are as they are.
        """
        frame = self._open(X, reset=False)
        filled = {}
        for column, cells in zip(self._columns, self._decode(codes), strict=True):
            own = read_column(frame, column["position"])
            if not own.known.all():
                filled[column["position"]] = completed(own, cells)
        return replace_columns(frame, filled)

    def _encode_part(self, X: Any) -> tuple[np.ndarray, dict[int, Cells]]:
        """Encode rows of some columns of the table.

        Returns
        -------
        codes : ndarray of shape (n_samples, n_encoded)
            NaN in the other columns.
        cells : dict
            What is given, by the numbers of the encoded columns of the table.
        """
        frame = open_frame(X)
        if frame is None or not frame.names:
            raise ValueError(
                "conditions must be a DataFrame with columns of the table, one row for each "
                f"condition, and is {type(X).__name__}."
            )
        known = {column["name"] for column in self._columns}
        for name in frame.names:
            if name not in known:
                raise ValueError(
                    f"conditions has a column {name!r}, which is none that the model has a "
                    f"distribution of: {list(known)[:MAX_NAMED]}, ..."
                )
        codes = np.full((len_of(frame), self._n_encoded), np.nan)
        given: dict[int, Cells] = {}
        for number, (column, block) in enumerate(zip(self._columns, self.blocks_, strict=True)):
            if column["name"] not in frame.names:
                continue
            part = column | {"position": frame.names.index(column["name"])}
            codes[:, block.columns], new = encode(part, frame)
            if new:
                raise ValueError(
                    f"conditions has values of column {column['name']!r} that it did not have in "
                    f"fit: {', '.join(new[:MAX_NAMED])}. The model knows nothing of them."
                )
            given[number] = in_unit(read_column(frame, part["position"]), column["details"])
        return codes, given

    def _decode_given(self, codes: np.ndarray, given: dict[int, Cells], rows: np.ndarray) -> Any:
        """Decode numbers, with given cells in their place.

        Parameters
        ----------
        codes : ndarray of shape (n_samples, n_encoded)
        given : dict
            From `_encode_part`.
        rows : ndarray of shape (n_samples,)
            Which row of the given cells each row has.
        """
        columns = self._decode(codes)
        for number, cells in given.items():
            columns[number] = completed(taken(cells, rows), columns[number])
        for number, cells in enumerate(columns):
            levels = self._columns[number]["levels"]
            if levels is not None and number in given:
                columns[number] = cells.relative_to(index_of(levels))
        return write_frame(self._layout, columns)

    @property
    def _n_encoded(self) -> int:
        return sum(len(column["suffixes"]) for column in self._columns)

    def _open(self, X: Any, reset: bool) -> Frame:
        """Check shape and names of a table and open it."""
        frame = open_frame(X)
        if frame is None:
            if isinstance(X, np.ndarray) and X.dtype.kind in "mM":
                raise ValueError(
                    f"X is an array of {X.dtype}. Give TableEncoder a DataFrame of columns that "
                    "are no numbers."
                )
            return open_array(
                validate_table(self, X, reset=reset, dtype=None, ensure_all_finite="allow-nan")
            )
        for n, what in ((len_of(frame), "sample"), (len(frame.names), "feature")):
            if n == 0:
                raise ValueError(
                    f"Found array with 0 {what}(s) (shape={X.shape}) while a minimum of 1 is "
                    "required by TableEncoder."
                )
        validate_data(self, frame.native, reset=reset, skip_check_array=True)
        # scikit-learn compares only names that are strings.
        if not reset and self._has_names and frame.names != self._names:
            raise ValueError(
                f"The columns of X are {frame.names[:MAX_NAMED]}, ..., but were "
                f"{self._names[:MAX_NAMED]}, ... in fit. Give the same columns in the same order."
            )
        return frame

    def _fit(self, frame: Frame) -> None:
        kinds = self.kinds or {}
        check_kinds(kinds, frame.names)
        columns, reasons = [], {}
        for position, name in enumerate(frame.names):
            try:
                cells = read_column(frame, position)
                column = fit_column(cells, kinds.get(name), self.max_categories)
                columns.append({"name": name, "position": position} | column)
            except UnsupportedColumnError as error:
                if name in kinds:
                    raise ValueError(
                        f"kinds says that column {name!r} is of kind {kinds[name]!r}, but it holds "
                        f"{error}."
                    ) from None
                reasons[name] = str(error)
        report_unsupported(reasons, self.unsupported, any_left=bool(columns))
        self._columns = columns
        self._names = frame.names
        self._has_names = frame.library != "numpy"
        self._layout = layout_of(frame, [column["position"] for column in columns])

    def __getstate__(self) -> dict[str, Any]:
        return with_versions(super().__getstate__())

    def __setstate__(self, state: dict[str, Any]) -> None:
        with reading(self, state) as state:
            super().__setstate__(state)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        return tags


def len_of(frame: Frame) -> int:
    """Return the number of rows."""
    return int(frame.native.shape[0])


def check_kinds(kinds: dict[Hashable, str], names: list[Hashable]) -> None:
    """Refuse kinds that do not exist, and kinds of columns that are not there."""
    for name, kind in kinds.items():
        if name not in names:
            raise ValueError(f"kinds names a column {name!r}, which is not a column of X.")
        if kind not in KINDS:
            listed = ", ".join(map(repr, KINDS))
            raise ValueError(f"kinds[{name!r}] is {kind!r}. It must be one of {listed}.")


def read_column(frame: Frame, position: int) -> Cells:
    """Read a column, and name it in errors."""
    try:
        return read_cells(frame.columns[position])
    except UnsupportedColumnError:
        raise
    except ValueError as error:
        raise ValueError(
            f"Column {frame.names[position]!r} of X holds {error}. An unknown cell is NaN; replace "
            "the others by numbers."
        ) from None


def fit_column(cells: Cells, wanted: str | None, max_categories: int) -> dict[str, Any]:
    """Describe one column in plain containers."""
    if not cells.known.any():
        kind = "constant"  # whatever is wanted: part of a table may have gaps only
    elif wanted is not None:
        check_choice(wanted, cells)
        kind = wanted
    else:
        kind = kind_of(cells)
    state = KINDS[kind].fit(cells, max_categories, wanted is not None)
    return {
        "kind": kind,
        "form": cells.form if cells.known.any() else "unknown",
        "unknown": float(np.mean(~cells.known)),
        "levels": None if cells.levels is None else index_state(cells.levels),
        "details": cells.details,
        "suffixes": KINDS[kind].names(state, cells),
        "state": state,
    }


def encode(column: dict[str, Any], frame: Frame) -> tuple[np.ndarray, list[str]]:
    """Numbers of one column, and values that it did not have in `fit`."""
    try:
        cells = read_column(frame, column["position"])
        check_form(column["form"], cells)
        own = in_unit(cells, column["details"])
    except UnsupportedColumnError as error:
        raise ValueError(f"Column {column['name']!r} of X holds {error}.") from None
    if not cells.known.any() or column["form"] == "unknown":
        codes = np.full((len(cells.known), len(column["suffixes"])), np.nan)
    else:
        if cells.levels is not None:
            own = cells.relative_to(index_of(column["levels"]))
        codes = KINDS[column["kind"]].encode(column["state"], own)
        codes[~cells.known] = np.nan
    new = np.unique(cells.values[cells.known & np.isnan(codes[:, 0])])
    if cells.levels is not None:
        new = cells.levels[new].to_numpy()
    return codes, [str(value) for value in new.tolist()]


def decode(column: dict[str, Any], codes: np.ndarray) -> Cells:
    """Cells of one column from its numbers."""
    known = ~np.isnan(codes).any(axis=1)
    if column["form"] == "unknown":
        known = np.zeros_like(known)
    values = KINDS[column["kind"]].decode(column["state"], np.where(known[:, None], codes, 0.0))
    levels = None if column["levels"] is None else index_of(column["levels"])
    return Cells(column["form"], values, known, levels, column["details"])


def needs_encoding(X: Any) -> bool:
    """Whether a table is a DataFrame with columns that are not all numbers.

    Raises
    ------
    ValueError
        If names of columns are not unique.
    """
    frame = open_frame(X)
    return frame is not None and not all(map(is_numeric, frame.columns))


def is_numeric(column: Any) -> bool:
    """Whether a column has a type of numbers or booleans."""
    if isinstance(column, pd.Series) and isinstance(column.dtype, pd.SparseDtype):
        return column.dtype.kind in "fiub"
    dtype = nw.from_native(column, series_only=True).dtype
    return dtype.is_numeric() or dtype == nw.Boolean


def taken(cells: Cells, rows: np.ndarray) -> Cells:
    """Take some cells of a column by their numbers."""
    return replace(cells, values=cells.values[rows], known=cells.known[rows])


def completed(cells: Cells, others: Cells) -> Cells:
    """Cells of a column, with those of another one where they are unknown."""
    if cells.form == "unknown":
        return others
    if others.form == "unknown":
        return cells
    others = in_unit(others, cells.details)
    levels = cells.levels
    if levels is not None and others.levels is not None:
        used = np.unique(others.values[~cells.known & others.known])
        new = others.levels[used]
        levels = levels.append(new[~new.isin(levels)])
        others = others.relative_to(levels)
    values = np.where(cells.known, cells.values, others.values)
    return replace(cells, values=values, known=cells.known | others.known, levels=levels)


def blocks_of(columns: list[dict[str, Any]]) -> Iterator[Block]:
    """Slices of encoded rows, one after the other."""
    start = 0
    for column in columns:
        stop = start + len(column["suffixes"])
        n_levels = KINDS[column["kind"]].n_levels(column["state"])
        yield Block(column["name"], column["kind"], slice(start, stop), n_levels)
        start = stop


def unique(names: list[str]) -> list[str]:
    """Names with a number behind those that were there before, as "a_b" of a_b and of a, b."""
    seen: set[str] = set()
    for i, name in enumerate(names):
        number = 2
        while names[i] in seen:
            names[i] = f"{name}_{number}"
            number += 1
        seen.add(names[i])
    return names


def report_unsupported(reasons: dict[Hashable, str], unsupported: str, any_left: bool) -> None:
    """Raise an error or warn, if columns have no encoding."""
    if not reasons:
        return
    listed = "; ".join(f"column {name!r} holds {why}" for name, why in reasons.items())
    if unsupported == "raise" or not any_left:
        hint = "Or leave these columns out by unsupported='drop'." if any_left else ""
        raise ValueError(f"TableEncoder cannot encode X: {listed}. {hint}".strip())
    warnings.warn(f"TableEncoder leaves out what it cannot encode: {listed}.", stacklevel=4)


def warn_of_unseen(unseen: dict[Hashable, list[str]]) -> None:
    """Warn of values that become unknown cells."""
    listed = "; ".join(
        f"{name!r}: {', '.join(new[:MAX_NAMED])}{', ...' * (len(new) > MAX_NAMED)}"
        for name, new in unseen.items()
    )
    warnings.warn(
        f"X has values that the columns did not have in fit. They are unknown cells now. {listed}",
        stacklevel=3,
    )
