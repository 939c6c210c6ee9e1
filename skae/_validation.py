"""What the estimators take for a table of numbers, and what they say about everything else."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any
from warnings import warn

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from scipy import sparse
from sklearn import get_config
from sklearn.base import BaseEstimator
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from skae._blocks import (
    ArrowTable,
    BlockTable,
    DaskTable,
    check_length,
    is_arrow_source,
    is_dask,
    map_of,
)
from skae._device_array import DeviceArray, on_host
from skae._sklearn_compat import _check_feature_names, _check_sample_weight, _get_feature_names

FLOATS = (np.float64, np.float32)
MAX_NAMED = 5

DATES = (datetime.date, datetime.time, np.datetime64, pd.Period)
DURATIONS = (datetime.timedelta, np.timedelta64)
NUMBERS = (Real, Decimal, np.bool_, str, bytes)  # of text, what it says decides


class NotNumbersError(TypeError, ValueError):
    """A table holds something that is no number.

    scikit-learn raises a ValueError for text and a TypeError for objects. Both catch this one.
    """


def validate_table(
    estimator: BaseEstimator,
    X: Any,
    *,
    reset: bool = True,
    accept_sparse: str | Sequence[str] | bool = False,
    dtype: Any = FLOATS,
    ensure_min_samples: int = 1,
    ensure_all_finite: bool | str = True,
) -> Any:
    """Turn a table into an array or sparse matrix of numbers that an estimator may use.

    It stands for `sklearn.utils.validation.validate_data`, whose options it takes, and sets or
    checks ``n_features_in_`` and ``feature_names_in_``. What is a number is said in `to_numbers`.

    Parameters
    ----------
    estimator : estimator
        Errors bear the name of its class, or its ``_public_name``.
    X : table of any kind
    reset : bool, default=True
        Whether this is a fit, from which later tables take number and names of columns.
    accept_sparse, ensure_min_samples, ensure_all_finite
        As in `sklearn.utils.check_array`. Sparse cells are always checked, and none may be NaN.
    dtype : {(numpy.float64, numpy.float32), None}
        What numbers become that are neither; None leaves them.

    Returns
    -------
    ndarray or sparse matrix
        Not copied if X can be used as it is. Integers of a memory map, and of any array that is not
        for a fit, are left to those who read them by blocks, see `float_dtype`.

    Raises
    ------
    ValueError
        If X is no table, or has the wrong columns, or holds a cell that is no number, unknown or
        infinite; with the columns, and what to do.
    """
    check_cells = ensure_all_finite is not False
    if not hasattr(estimator, "feature_names_in_"):
        n_columns = None if reset else estimator.n_features_in_
        if is_ready(X, n_columns, ensure_min_samples, check_cells):
            if reset:
                estimator.n_features_in_ = X.shape[1]
            return X
    X = native_table(X)
    check_names(estimator, X, reset)
    if isinstance(X, np.ndarray) and X.dtype.kind in "iu" and (not reset or map_of(X) is not None):
        dtype = None
    numbers = read_table(
        X,
        estimator,
        accept_sparse=accept_sparse,
        dtype=dtype,
        ensure_min_samples=ensure_min_samples,
        ensure_all_finite=ensure_all_finite,
    )
    check_width(estimator, numbers.shape[1], reset)
    return numbers


def check_width(estimator: BaseEstimator, n_features: int, reset: bool) -> None:
    """Set or compare the number of columns."""
    if reset:
        estimator.n_features_in_ = n_features
    elif n_features != estimator.n_features_in_:
        raise ValueError(
            f"X has {n_features} features, but {name_of(estimator)} is expecting "
            f"{estimator.n_features_in_} features as input."
        )


def validate_columns(estimator: BaseEstimator, names: Any, n_features: int, *, reset: bool) -> None:
    """Set or check the columns of an estimator for a table that is somewhere else.

    Parameters
    ----------
    estimator : estimator
    names : DataFrame or None
        One with the names of the columns; None if they have none.
    n_features : int
        Number of columns.
    reset : bool
        As in `validate_table`.
    """
    check_names(estimator, np.empty((0, n_features)) if names is None else names, reset)
    check_width(estimator, n_features, reset)


def read_table(
    X: Any,
    estimator: BaseEstimator,
    *,
    table: str = "X",
    accept_sparse: str | Sequence[str] | bool = False,
    dtype: Any = FLOATS,
    ensure_min_samples: int = 1,
    ensure_all_finite: bool | str = True,
) -> Any:
    """Do what `validate_table` does with the cells, of any table that goes beside X.

    Parameters
    ----------
    X : table of any kind
    estimator : estimator
        For messages.
    table : str, default="X"
        Name of the table in messages.
    accept_sparse, dtype, ensure_min_samples, ensure_all_finite
        As in `validate_table`.

    Returns
    -------
    ndarray or sparse matrix
    """
    owner = name_of(estimator)
    X = native_table(X, table)
    check_length(X)
    if isinstance(X, BlockTable):
        check_rows(X, owner, ensure_min_samples)
        if ensure_all_finite:
            allow_nan = ensure_all_finite == "allow-nan"
            check_finite(X, owner, X.column_names, allow_nan=allow_nan, table=table)
        return X
    if map_of(X) is not None and X.dtype.kind in "iu":
        dtype = None
    if isinstance(X, DeviceArray):
        return read_device_table(X, owner, table, dtype, ensure_min_samples, ensure_all_finite)
    numbers = to_numbers(X, estimator, table)
    if sparse.issparse(numbers) and not accept_sparse:
        dense = "sparse.to_dense()" if isinstance(X, pd.DataFrame) else "toarray()"
        raise TypeError(
            f"Sparse data was passed for {table}, but {owner} needs a dense table; pass "
            f"{table}.{dense}."
        )
    with np.errstate(over="ignore"):  # wider numbers become infinite, which is said below
        numbers = check_array(
            numbers,
            accept_sparse=accept_sparse,
            dtype=dtype,
            ensure_all_finite=False,
            ensure_min_samples=ensure_min_samples,
            estimator=owner,
            input_name=table,
        )
    if ensure_all_finite or sparse.issparse(numbers):
        allow_nan = ensure_all_finite == "allow-nan"
        check_finite(numbers, owner, column_labels(X), allow_nan=allow_nan, table=table)
    return numbers


def read_device_table(
    X: DeviceArray, owner: str, table: str, dtype: Any, min_samples: int, finite: bool | str
) -> DeviceArray | np.ndarray:
    """Do what `read_table` does, with a table on an accelerator.

    One with unknown cells, if these are allowed, comes to the host.
    """
    check_rows(X, owner, min_samples)
    if isinstance(dtype, type):
        X = X.astype(dtype, copy=False)
    if finite:
        check_finite(X, owner, allow_nan=finite == "allow-nan", table=table)
    if finite == "allow-nan" and not has_finite_sum(X):
        return X.to_host()
    return X


def check_rows(X: Any, owner: str, ensure_min_samples: int) -> None:
    """Raise a ValueError if a table has too few rows or no columns, in scikit-learn's words."""
    for size, wanted, what in ((len(X), ensure_min_samples, "sample"), (X.shape[1], 1, "feature")):
        if size < wanted:
            raise ValueError(
                f"Found array with {size} {what}(s) (shape={X.shape}) while a minimum of {wanted} "
                f"is required by {owner}."
            )


def float_dtype(X: Any) -> np.dtype:
    """Dtype of the results for a validated table: its own, or float64 for integers."""
    return X.dtype if X.dtype.kind == "f" else np.dtype(np.float64)


def is_ready(
    X: Any, n_columns: int | None = None, min_samples: int = 1, check_cells: bool = True
) -> bool:
    """Whether X passes all checks as it is.

    For one row this takes a twentieth of the time of the checks that can say what is wrong.
    """
    return (
        type(X) is np.ndarray
        and X.ndim == 2
        and X.dtype in FLOATS
        and len(X) >= min_samples
        and X.shape[1] > 0
        and (n_columns is None or X.shape[1] == n_columns)
        and (not check_cells or has_finite_sum(X))
    )


def has_finite_sum(X: Any) -> bool:
    """Whether the sum is finite; if it is, so are all cells."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(X.sum()))


def validate_codes(estimator: BaseEstimator, X: Any) -> np.ndarray:
    """Turn the argument of ``inverse_transform`` into an array of ``n_components_`` columns.

    Parameters
    ----------
    estimator : estimator
        Fitted.
    X : table of any kind
        Codes. If its columns have names, they must be those that `transform` gives.

    Returns
    -------
    ndarray of shape (n_samples, n_components)

    Raises
    ------
    ValueError
        If X is no table of finite numbers, or its columns are not those of the codes.
    """
    check_is_fitted(estimator)
    if is_ready(X, estimator.n_components_):
        return X
    X = native_table(X)
    codes = read_table(X, estimator)
    if isinstance(codes, BlockTable):
        codes = np.asarray(codes)
    codes = codes.astype(float_dtype(codes), copy=False)
    owner = name_of(estimator)
    if codes.shape[1] != estimator.n_components_:
        raise ValueError(
            f"X has {codes.shape[1]} columns, but this {owner} has {estimator.n_components_} "
            f"components: n_components_={estimator.n_components_}. Pass what transform returns."
        )
    names = names_of(X)
    if names is not None:
        wanted = list(estimator.get_feature_names_out())
        numbered = [
            f"x{i}" for i in range(len(wanted))
        ]  # by scikit-learn, of columns without names
        if list(names) not in (wanted, numbered):
            raise ValueError(
                f"X has columns {listed(names)}, but the codes of {owner} have columns "
                f"{listed(wanted)}. Pass the columns in this order and with these names, or, if "
                "you know that they are in order, an array without names."
            )
    return codes


def validate_weights(sample_weight: ArrayLike, X: Any) -> np.ndarray:
    """Turn weights into a float64 array, one for each row of X, none negative.

    Parameters
    ----------
    sample_weight : array-like of shape (n_samples,), or number
    X : ndarray or sparse matrix of shape (n_samples, n_features)

    Returns
    -------
    ndarray of shape (n_samples,)

    Raises
    ------
    ValueError
        If they are no numbers, negative, all zero, NaN, infinite or not as many as X has rows.
    """
    if isinstance(X, DeviceArray):
        X = np.empty((len(X), 0))  # its length is all that matters
    if not isinstance(sample_weight, Real):
        sample_weight = to_array(sample_weight, "sample_weight")
        if sample_weight.ndim == 1:
            try:
                sample_weight = numbers_of(sample_weight)
            except (TypeError, ValueError, OverflowError) as error:
                raise NotNumbersError(f"sample_weight holds what is no number: {error}") from error
    return _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)


def mean_score(scores: Any, sample_weight: ArrayLike | None) -> float:
    """Weighted mean of the scores of rows, in float64; the lowest number if none can hold it."""
    scores = np.asarray(on_host(scores)).astype(np.float64, copy=False)
    weights = None
    if sample_weight is not None:
        weights = validate_weights(sample_weight, scores[:, np.newaxis])
        weights = weights / weights.max()
    with np.errstate(over="ignore"):
        mean = float(np.average(scores, weights=weights))
    return max(mean, float(np.finfo(np.float64).min))


def within_range(results: Any, worst: int | None = None) -> Any:
    """Check what a model makes of finite rows, which may be too large for the dtype.

    Parameters
    ----------
    results : ndarray of shape (n_samples, ...)
    worst : {1, -1, None}, default=None
        Whether the largest or the lowest number stands for what no number can hold, as it does for
        losses and scores; None if nothing can.

    Returns
    -------
    ndarray of shape (n_samples, ...)
        The results, all finite.

    Raises
    ------
    ValueError
        If some are not finite, and nothing stands for them.
    """
    if has_finite_sum(results):
        return results
    if isinstance(results, DeviceArray):
        corrected = within_range(results.to_host(), worst)
        return DeviceArray(results.on_same_device(corrected))
    is_bad = ~np.isfinite(results)
    if worst is not None:
        return np.where(is_bad, worst * np.finfo(results.dtype).max, results)
    (rows,) = np.nonzero(is_bad.reshape(len(results), -1).any(axis=1))
    if len(rows) == 0:
        return results
    raise ValueError(
        f"Row {rows[0]} of X holds numbers so large that {results.dtype} cannot hold what the "
        f"model makes of it; there are {len(rows)} such rows. Drop them, or replace the cells that "
        "stand for unknown values."
    )


# Cells


def to_numbers(X: Any, estimator: BaseEstimator, table: str = "X") -> Any:
    """Turn a table into an array or sparse matrix of numbers, with NaN for unknown cells.

    One rule holds for all containers, which are arrays, masked arrays, lists, sparse matrices,
    Torch tensors, and DataFrames of pandas, polars and pyarrow:

    ==================================  ========================================================
    integers, floats, decimals          numbers
    true and false                      1 and 0
    text                                the number that it spells, else refused
    categories, dictionary encoding     as what they stand for
    None, NaN, NA, NaT, null, masked    unknown, NaN
    dates, times, durations, periods    refused: a unit and a start have to be chosen
    complex numbers, lists, structs     refused
    all other objects                   refused
    ==================================  ========================================================

    Parameters
    ----------
    X : table of any kind
    estimator : estimator
        For messages.
    table : str, default="X"
        Name of the table in messages.

    Returns
    -------
    ndarray, DataFrame of NumPy's numbers, or sparse matrix
        float32 only if all columns are.

    Raises
    ------
    NotNumbersError
        With the first columns that hold something else, and what it is.
    ValueError
        If X does not have rows and columns.
    """
    if isinstance(X, np.matrix):
        return X  # check_array has a remedy
    if isinstance(X, pd.DataFrame):
        if X.shape[1] == 0:
            return np.empty(X.shape)
        if all(isinstance(dtype, np.dtype) and dtype.kind in "biuf" for dtype in X.dtypes):
            return X
        if is_sparse_frame(X):
            subtypes = {dtype.subtype for dtype in X.dtypes}
            common = np.result_type(*subtypes)
            if common == np.float16:  # which SciPy does not take
                common = np.dtype(np.float64)
            if subtypes != {common}:  # pandas makes objects of booleans and floats
                X = X.astype(pd.SparseDtype(common, 0))
            X = X.sparse.to_coo()
    if sparse.issparse(X):
        check_two_axes(X, estimator, table)
        if X.dtype.kind not in "biuf":
            raise NotNumbersError(
                f"{name_of(estimator)} takes numbers, and {table} is sparse with {X.dtype}."
                + " Complex data not supported." * (X.dtype.kind == "c")
            )
        return X
    columns = columns_of(X)
    if columns is None:
        array = to_array(X, table)
        check_two_axes(array, estimator, table, X)
        if array.dtype.kind in "biuf":
            return array
        columns = array.T
    return join_columns(columns, column_labels(X), estimator, table)


def join_columns(
    columns: Iterable[Any], labels: Sequence[Any] | None, estimator: BaseEstimator, table: str
) -> np.ndarray:
    """Put columns of any kind side by side, as numbers, (n_samples, n_features)."""
    numbers: list[np.ndarray] = []
    refused: dict[Any, str] = {}
    for place, column in enumerate(columns):
        try:
            numbers.append(numbers_of(to_array(column, table)))
        except (TypeError, ValueError, OverflowError) as error:
            refused[place if labels is None else labels[place]] = str(error)
    if refused:
        reasons = {reason: label for label, reason in reversed(refused.items())}
        reason, label = list(reasons.items())[-1]
        raise NotNumbersError(
            f"{name_of(estimator)} takes numbers, and these columns of {table} hold something "
            f"else: {listed(refused)}. Drop them, or encode them first, for example by "
            f"OneHotEncoder in a ColumnTransformer. In column {label!r}: {reason}."
        )
    if not numbers:
        return np.empty((0, 0))
    dtype = np.result_type(*numbers)
    # Column after column in memory, as they come.
    joined = np.empty((len(numbers), len(numbers[0])), dtype if dtype in FLOATS else np.float64)
    for row, column in zip(joined, numbers, strict=True):
        row[:] = column
    return joined.T


def numbers_of(column: np.ndarray) -> np.ndarray:
    """Numbers in a column, NaN for unknown cells, (n_samples,).

    Raises
    ------
    TypeError, ValueError or OverflowError
        If it holds something else; the message says what.
    """
    if column.ndim > 1:
        raise TypeError("lists or structs; make each of their parts a column")
    kind = column.dtype.kind
    if kind in "biuf":
        return column
    cells = column.astype(object)
    if kind in "mMc" and cells.size:
        raise TypeError(why_no_number(column.dtype.type))
    unknown = pd.isna(cells)
    known = cells[~unknown]
    for cell_type in dict.fromkeys(map(type, known)):
        if not issubclass(cell_type, NUMBERS) or issubclass(cell_type, DURATIONS):
            raise TypeError(why_no_number(cell_type))
    numbers = np.full(cells.shape, np.nan)
    numbers[~unknown] = known.astype(np.float64)
    return numbers


def why_no_number(cell_type: type) -> str:
    """Tell why cells of a type are not taken for numbers."""
    if issubclass(cell_type, complex | np.complexfloating):
        return "Complex data not supported; pass real and imaginary parts as two columns"
    if issubclass(cell_type, DATES):
        return "dates or times; turn them into numbers, such as days since the first one"
    if issubclass(cell_type, DURATIONS):
        return "durations; turn them into numbers, such as seconds"
    return f"float() argument must be a string or a real number, not '{cell_type.__name__}'"


def check_float32_cells(X: Any, owner: str, labels: Sequence[Any] | None, table: str) -> None:
    """Raise a ValueError that names the columns with cells too large for float32."""
    cells = X.data if sparse.issparse(X) else X
    largest = np.finfo(np.float32).max
    if cells.dtype != np.float64 or cells.size == 0:
        return
    if -largest <= cells.min() <= cells.max() <= largest:
        return
    counts = count_by_column(X, lambda block: np.abs(block) > largest)
    if counts.any():
        raise ValueError(
            f"Input {table} contains {counted(counts, labels, 'huge')}: {owner} is trained in "
            f"float32, which holds numbers up to {largest:.2g}. Scale these columns, or replace "
            "the cells if they stand for unknown values."
        )


def check_finite(
    X: Any,
    owner: str,
    labels: Sequence[Any] | None = None,
    *,
    allow_nan: bool = False,
    table: str = "X",
) -> None:
    """Raise a ValueError that names the columns with cells that are NaN or infinite.

    Parameters
    ----------
    X : ndarray or sparse matrix of shape (n_samples, n_features)
    owner : str
        Name of the class, for the message.
    labels : sequence, default=None
        Names of the columns; None counts them.
    allow_nan : bool, default=False
        Whether NaN is taken for an unknown cell, of dense tables.
    table : str, default="X"
        Name of the table, for the message.
    """
    if get_config()["assume_finite"] or X.dtype.kind != "f":
        return
    if has_finite_sum(X.data if sparse.issparse(X) else X):
        return
    counts = count_by_column(X, np.isnan)
    if counts.any() and (sparse.issparse(X) or not allow_nan):
        where = " in sparse tables" * sparse.issparse(X)
        raise ValueError(
            f"Input {table} contains NaN: {counted(counts, labels, 'unknown')}. {owner} does not "
            f"take unknown cells{where}. Drop these rows or columns, or fill the cells first, for "
            "example by SimpleImputer in a Pipeline."
        )
    counts = count_by_column(X, np.isinf)
    if counts.any():
        raise ValueError(
            f"Input {table} contains infinity or a value too large for {X.dtype!r}: "
            f"{counted(counts, labels, 'such')}. {owner} takes finite numbers. Drop these rows, "
            "or replace the cells by the largest value that can occur."
        )


def unknown_cells(
    X: Any, owner: str, labels: Sequence[Any] | None = None, *, table: str = "X"
) -> np.ndarray | None:
    """Find the unknown cells of a validated table that may have some.

    Parameters
    ----------
    X : ndarray or sparse matrix of shape (n_samples, n_features)
    owner, labels, table
        As in `check_finite`.

    Returns
    -------
    ndarray of bool of shape (n_samples, n_features) or None
        None if all cells are known.

    Raises
    ------
    ValueError
        If a cell is infinite; it names the columns.
    """
    if sparse.issparse(X) or X.dtype.kind != "f" or has_finite_sum(X):
        return None
    check_finite(X, owner, labels, allow_nan=True, table=table)
    unknown = on_host(X.isnan()) if isinstance(X, DeviceArray) else np.isnan(np.asarray(X))
    return unknown if unknown.any() else None


def count_by_column(X: Any, is_bad: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Count the cells of each column for which a function is true, (n_features,)."""
    if not sparse.issparse(X):
        blocks = (on_host(X[start : start + 4096]) for start in range(0, len(X), 4096))
        return sum(np.count_nonzero(is_bad(block), axis=0) for block in blocks)
    cells = X.tocoo()
    return np.bincount(cells.coords[1][is_bad(cells.data)], minlength=X.shape[1])


def counted(counts: np.ndarray, labels: Sequence[Any] | None, adjective: str) -> str:
    """Say how many cells there are, and in which columns."""
    places = np.flatnonzero(counts)
    total = int(counts.sum())
    named = [
        f"{int(place) if labels is None else labels[place]!r} ({counts[place]})"
        for place in places[:MAX_NAMED]
    ]
    return (
        f"{total} {adjective} cell{'s' * (total > 1)}, in column{'s' * (len(places) > 1)} "
        + ", ".join(named)
        + ", ..." * (len(places) > MAX_NAMED)
    )


# Containers


def native_table(X: Any, table: str = "X") -> Any:
    """Turn a table into one of which scikit-learn can take rows and see the names of columns."""
    if isinstance(X, torch.Tensor):
        return array_of_tensor(X, table)
    if isinstance(X, BlockTable):
        return X
    if is_arrow_source(X):
        return ArrowTable(X, table)
    if is_dask(X):
        return DaskTable(X)
    if hasattr(X, "collect_schema") and hasattr(X, "collect"):
        raise TypeError(
            f"{table} is a {type(X).__name__}, whose values are not computed yet; pass "
            f"{table}.collect()."
        )
    is_sequence = hasattr(X, "__len__") and not isinstance(X, str | bytes | dict | set)
    if not (is_sequence or hasattr(X, "shape") or hasattr(X, "__array__")):
        advice = f"; pandas.DataFrame({table}) makes one of columns in a dict"
        raise ValueError(
            f"Expected 2D array, got scalar array instead: {table} is of type {type(X).__name__}, "
            f"and a table of rows and columns is needed{advice * isinstance(X, dict)}."
        )
    if type(X).__module__.startswith("narwhals") and hasattr(X, "to_native"):
        X = X.to_native()
    if type(X).__name__ == "RecordBatch" and hasattr(X, "schema"):
        X = sys.modules["pyarrow"].Table.from_batches([X])
    check_distinct_names(X, table)
    return X


def check_distinct_names(X: Any, table: str) -> None:
    """Raise a ValueError if two columns of a DataFrame have one name."""
    if isinstance(X, pd.DataFrame):
        twice = [] if X.columns.is_unique else X.columns[X.columns.duplicated()].unique()
    else:  # pyarrow's; polars has no such tables
        names = getattr(X, "column_names", [])
        twice = [] if len(set(names)) == len(names) else {n for n in names if names.count(n) > 1}
    if len(twice) > 0:
        raise ValueError(
            f"Several columns of {table} have the same name: {listed(twice)}. Rename them, so that "
            "each column has a name of its own."
        )


def columns_of(X: Any) -> Iterable[Any] | None:
    """Columns of a DataFrame, each of which NumPy can turn into an array; None of anything else."""
    if isinstance(X, pd.DataFrame):
        return (X.iloc[:, place] for place in range(X.shape[1]))
    for name in ("iter_columns", "itercolumns"):  # polars, pyarrow
        if hasattr(X, name):
            return getattr(X, name)()
    return None


def column_labels(X: Any) -> Sequence[Any] | None:
    """Names of the columns of a DataFrame, of any type."""
    if isinstance(X, BlockTable):
        return X.column_names
    if columns_of(X) is None:
        return None
    return list(X.column_names if hasattr(X, "column_names") else X.columns)


def is_sparse_frame(X: pd.DataFrame) -> bool:
    """Whether all columns hold numbers and leave out their zeros."""
    return all(
        isinstance(dtype, pd.SparseDtype) and dtype.subtype.kind in "biuf" and dtype.fill_value == 0
        for dtype in X.dtypes
    )


def to_array(X: Any, table: str) -> np.ndarray:
    """Turn an array-like, a column or a tensor into an array of any dtype; masked cells are NaN."""
    if isinstance(X, torch.Tensor):
        return array_of_tensor(X, table)
    if isinstance(X, pd.Series) and pd.api.types.is_numeric_dtype(X.dtype):
        if isinstance(X.dtype, pd.SparseDtype | np.dtype):
            return np.asarray(X)
        if getattr(X.dtype, "kind", "O") in "biuf":  # nullable
            is_single = X.dtype.kind == "f" and X.dtype.itemsize == 4
            return X.to_numpy(np.float32 if is_single else np.float64, na_value=np.nan)
    if hasattr(getattr(X, "type", None), "index_type"):
        X = X.cast(X.type.value_type)  # pyarrow's own conversion gives a null any category
    if isinstance(X, list | tuple) and any(isinstance(row, np.ma.MaskedArray) for row in X):
        X = np.ma.array(X)
    if isinstance(X, np.ma.MaskedArray):
        return fill_masked(X)
    try:
        return X if isinstance(X, np.ndarray) else np.asarray(X)
    except (TypeError, ValueError, RuntimeError) as error:
        if "inhomogeneous" in str(error):
            raise ValueError(
                f"The rows of {table} have different lengths, or cells are lists; cut or pad them "
                "to one length."
            ) from error
        raise NotNumbersError(f"{table} cannot be turned into an array: {error}") from error


def fill_masked(X: Any) -> np.ndarray:
    """Put NaN, or None among objects, in the place of masked cells."""
    if not np.ma.is_masked(X):
        return np.asarray(X)
    if X.dtype.kind in "biuf":
        return X.astype(X.dtype if X.dtype in FLOATS else np.float64).filled(np.nan)
    cells = np.array(X.data, dtype=object if X.dtype.kind not in "mMc" else None)
    if cells.dtype == object:
        cells[np.ma.getmaskarray(X)] = None
    return cells


def array_of_tensor(X: torch.Tensor, table: str) -> np.ndarray:
    """Turn a tensor in host memory into an array, without a copy if NumPy has its type."""
    check_plain_tensor(X, table)
    if X.device.type != "cpu":
        raise NotNumbersError(
            f"{table} is a tensor that is on the device {str(X.device)!r}, and results are in host "
            f"memory; pass {table}.cpu(), or use sklearn.set_config(array_api_dispatch=True), with "
            "which they are on the device of the rows."
        )
    try:
        return X.resolve_conj().resolve_neg().numpy()
    except TypeError:  # bfloat16 and still shorter numbers
        return X.to(torch.float64).numpy()


def check_plain_tensor(X: torch.Tensor, table: str) -> None:
    """Raise an error for a tensor that has no dense cells, or gradients."""
    what = None
    if X.is_nested or X.layout != torch.strided:
        what = "is not dense", "to_dense()"
    elif X.requires_grad:
        what = "requires gradients, and results do not carry any", "detach()"
    if what is not None:
        raise NotNumbersError(f"{table} is a tensor that {what[0]}; pass {table}.{what[1]}.")


def check_two_axes(X: Any, estimator: BaseEstimator, table: str, given: Any = None) -> None:
    """Raise a ValueError that says how to reshape if X does not have rows and columns."""
    if X.ndim == 2:
        return
    owner = name_of(estimator)
    kind = type(X if given is None else given).__name__
    if X.ndim < 2:
        found = "scalar" if X.ndim == 0 else "1D"
        message = f"Expected 2D array, got {found} array instead: {table} is of type {kind}"
        if X.ndim == 0:
            raise ValueError(f"{message}, and {owner} takes rows and columns.")
        frame = f" ({table}.to_frame())" * hasattr(given, "to_frame")
        raise ValueError(
            f"{message} and length {X.shape[0]}. Reshape your data: {table}.reshape(-1, 1) makes "
            f"it one column{frame}, {table}.reshape(1, -1) one row."
        )
    length = f"{table}.shape[0]" if sparse.issparse(X) else f"len({table})"
    message = (
        f"Found array with dim {X.ndim}, while dim <= 2 is required by {owner}: {table} has shape "
        f"{X.shape}. Make each of its {X.shape[0]} parts a row, {table}.reshape({length}, -1)."
    )
    if hasattr(estimator, "network"):
        message += network_advice(X.shape, table)
    raise ValueError(message)


def network_advice(shape: tuple[int, ...], table: str) -> str:
    """Name the network that would use the shape of the parts of a table."""
    if len(shape) > 4:
        return ""
    if len(shape) == 4 and shape[1] in (1, 3, 4) and shape[3] not in (1, 3, 4):
        image_shape = (*shape[2:], shape[1])
        return (
            f" If they are images with colours first, move these to the end, "
            f"numpy.moveaxis({table}, 1, -1), before they become rows; "
            f"network=Conv2dNetwork({image_shape}) then knows rows as images."
        )
    advice = f" For images, network=Conv2dNetwork({shape[1:]}) knows rows as images"
    if len(shape) == 3:
        advice += f"; for sequences, network=Conv1dNetwork({shape[1:]}) as sequences"
    return advice + "."


# Columns


def name_of(estimator: BaseEstimator) -> str:
    """Name of the class that the user typed."""
    return getattr(estimator, "_public_name", type(estimator).__name__)


def names_of(X: Any) -> np.ndarray | None:
    """Names of the columns if all of them are text."""
    if isinstance(X, np.ndarray | list | torch.Tensor) or sparse.issparse(X):
        return None  # looking for them would take longer than one row through a network
    if isinstance(X, BlockTable):
        return None if X.column_names is None else np.asarray(X.column_names, dtype=object)
    return _get_feature_names(X)


def check_names(estimator: BaseEstimator, X: Any, reset: bool) -> None:
    """Set or compare the names of columns, as scikit-learn does."""
    fitted_names = getattr(estimator, "feature_names_in_", None)
    names = names_of(X)
    if not reset and (names is None) != (fitted_names is None):
        fitted_with = f"but {name_of(estimator)} was fitted with"
        warn(
            f"X does not have valid feature names, {fitted_with} feature names"
            if names is None
            else f"X has feature names, {fitted_with}out feature names",
            stacklevel=2,
        )
    elif reset or names is not None:
        if isinstance(X, BlockTable):
            X = pd.DataFrame(columns=X.column_names)
        _check_feature_names(estimator, X, reset=reset)


def listed(names: Iterable[Any]) -> str:
    """First of the names, quoted."""
    quoted = list(map(repr, names))
    return ", ".join(quoted[:MAX_NAMED]) + ", ..." * (len(quoted) > MAX_NAMED)
