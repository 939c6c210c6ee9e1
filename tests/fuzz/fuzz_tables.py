"""Random tables: of all containers and types, in any unit, and with cells that are no numbers."""

import datetime
import decimal
import tempfile
from dataclasses import dataclass

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import torch
from hypothesis import strategies as st
from scipy import sparse

FLOATS = ("float64", "float32", "float16")
LARGEST = np.finfo(np.float64).max
WHOLE = ("int8", "int64", "uint16", "bool")

COLUMNS = ("normal", "uniform", "counts", "constant", "zero", "copy", "outlier", "binary", "rare")


@dataclass(frozen=True)
class TableCase:
    """What a table is made of; `make_table` makes it."""

    n_rows: int
    columns: tuple[str, ...]
    exponents: tuple[int, ...]
    """Powers of ten that the columns are multiplied by."""
    offset: float = 0.0
    dtype: str = "float64"
    container: str = "array"
    repeated: bool = False
    """Whether the second half of the rows repeats the first one."""
    bad_cell: str = ""
    """What the first cell is replaced by."""
    seed: int = 0


def column(kind, n_rows, rng):
    values = {
        "normal": rng.normal(size=n_rows),
        "uniform": rng.uniform(size=n_rows),
        "counts": rng.poisson(2.0, n_rows),
        "constant": np.full(n_rows, 0.7),
        "zero": np.zeros(n_rows),
        "outlier": np.where(np.arange(n_rows) == 0, 1e6, rng.normal(size=n_rows)),
        "binary": rng.integers(0, 2, n_rows),
        "rare": (np.arange(n_rows) == n_rows - 1),
    }
    return values[kind].astype(np.float64)


BAD_CELLS = {
    "nan": np.nan,
    "inf": np.inf,
    "-inf": -np.inf,
    "None": None,
    "text": "a",
    "list": [1.0],
    "huge": 10**400,
    "complex": 1j,
}


@np.errstate(over="ignore")
def numbers_of(case):
    """The numbers of a table, an array of the case's dtype."""
    rng = np.random.default_rng(case.seed)
    columns = []
    for kind, exponent in zip(case.columns, case.exponents, strict=True):
        if kind == "copy":
            columns.append(columns[-1] if columns else np.ones(case.n_rows))
        else:
            columns.append((column(kind, case.n_rows, rng) + case.offset) * 10.0**exponent)
    X = np.clip(np.column_stack(columns), -LARGEST, LARGEST)
    if case.repeated:
        half = case.n_rows // 2
        X[half : 2 * half] = X[:half]
    if case.dtype == "object":
        X = X.astype(object)
    elif case.dtype in FLOATS:
        largest = float(np.finfo(case.dtype).max)
        X = np.clip(X, -largest, largest).astype(case.dtype)
    else:
        low, high = (0, 1) if case.dtype == "bool" else (0, 100)
        X = np.clip(np.round(X), low, high).astype(case.dtype)
    bad = BAD_CELLS.get(case.bad_cell)
    if case.bad_cell and case.n_rows > 0:
        if case.dtype in FLOATS and isinstance(bad, float):
            X[0, 0] = bad
        else:
            X = X.astype(object)
            X[0, 0] = bad
    return X


def names(X):
    return [f"c{place}" for place in range(X.shape[1])]


def polars_frame(X):
    return pl.DataFrame({name: values.tolist() for name, values in zip(names(X), X.T, strict=True)})


def memory_map(X):
    if X.dtype == object or X.size == 0:
        return X
    with tempfile.NamedTemporaryFile() as file:  # the map outlives the name
        mapped = np.memmap(file, dtype=X.dtype, mode="w+", shape=X.shape)
    mapped[:] = X
    return mapped


def read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


def strided(X):
    wide = np.zeros((2 * X.shape[0], 3 * X.shape[1]), X.dtype)
    wide[::2, ::3] = X
    return wide[::2, ::3]


def backwards(X):
    return X[::-1, ::-1].copy()[::-1, ::-1]


def nullable(X):
    return pd.DataFrame(X, columns=names(X)).convert_dtypes()


# Columns of a mixed frame, from whole numbers.
MIXED = (
    lambda n: np.array(["a", "b", "c"])[n % 3],
    lambda n: pd.Timestamp("2020-02-28") + pd.to_timedelta(n, "D"),
    lambda n: np.array([True, False, None])[n % 3],
    lambda n: pd.Categorical(np.array(["low", "high"])[n % 2], ["low", "high"], ordered=True),
    lambda n: pd.to_timedelta(n, "h"),
    lambda n: pd.array([None if each % 4 == 3 else each for each in n.tolist()], "Int64"),
    lambda n: [datetime.time(each % 24, each % 60) for each in n.tolist()],
    lambda n: 2**60 + n,
    lambda n: pd.to_datetime(n, unit="s", utc=True).tz_convert("Europe/Berlin"),
    lambda n: [None] * len(n),
    lambda n: [[each] for each in n.tolist()],
    lambda n: [f"name {each}" for each in n.tolist()],
    lambda n: pd.Timestamp("1700-01-01") + pd.to_timedelta(n * 200, "D"),
    lambda n: [decimal.Decimal(each) / 8 for each in n.tolist()],
)


def mixed(X):
    """A frame of columns that are no numbers, and every third one of numbers."""
    columns = {}
    for place, values in enumerate(X.T):
        if place % 3 < 2:
            _, n = np.unique(values, return_inverse=True)
            values = MIXED[(place + 3 * X.size) % len(MIXED)](n)
        columns[f"c{place}"] = values
    return pd.DataFrame(columns)


CONTAINERS = {
    "array": lambda X: X,
    "Fortran": np.asfortranarray,
    "strided": strided,
    "backwards": backwards,
    "read-only": read_only,
    "memory map": memory_map,
    "list": lambda X: X.tolist(),
    "pandas": lambda X: pd.DataFrame(X, columns=names(X)),
    "pandas, names are numbers": pd.DataFrame,
    "pandas nullable": nullable,
    "pandas sparse": lambda X: pd.DataFrame(X, columns=names(X)).astype(pd.SparseDtype(X.dtype, 0)),
    "polars": lambda X: pl.DataFrame(X, schema=names(X)) if X.dtype != object else polars_frame(X),
    "pyarrow": lambda X: pa.table(
        {name: pa.array(values.tolist()) for name, values in zip(names(X), X.T, strict=True)}
    ),
    "csr": sparse.csr_array,
    "csc": sparse.csc_array,
    "csr matrix": sparse.csr_matrix,
    "coo": sparse.coo_array,
    "tensor": torch.from_numpy,
    "masked": lambda X: np.ma.masked_array(X, mask=False),
    "masked cell": lambda X: np.ma.masked_array(X, mask=np.arange(X.size).reshape(X.shape) == 0),
    "three axes": lambda X: X[:, :, np.newaxis],
    "one axis": lambda X: X[:, 0],
    "no columns": lambda X: X[:, :0],
    "big-endian": lambda X: X.astype(X.dtype.newbyteorder(">")),
    "longdouble": lambda X: X.astype(np.longdouble),
    "matrix": np.asmatrix,
    "names twice": lambda X: pd.DataFrame(X, columns=["c"] * X.shape[1]),
    "pandas of Arrow": lambda X: pd.DataFrame(X, columns=names(X)).convert_dtypes(
        dtype_backend="pyarrow"
    ),
    "record batch": lambda X: pa.RecordBatch.from_arrays(
        [pa.array(values.tolist()) for values in X.T], names=names(X)
    ),
    "lazy": lambda X: polars_frame(X).lazy(),
    "bfloat16": lambda X: torch.from_numpy(X).bfloat16(),
    "requires gradients": lambda X: torch.from_numpy(X).requires_grad_(),
    "dates": lambda X: np.zeros(X.shape, "M8[s]"),
    "nothing": lambda X: None,
    "text": lambda X: "text",
    "dict": lambda X: {"c0": X[:, 0]},
    "set": lambda X: set(X[:, 0].tolist()),
    "mixed": mixed,
    "mixed polars": lambda X: pl.from_pandas(mixed(X)),
    "mixed pyarrow": lambda X: pa.Table.from_pandas(mixed(X), preserve_index=False),
}


FRAME_ERRORS = (pa.ArrowException, pl.exceptions.PolarsError)


def make_table(case):
    """The table, or the array in it where the container does not take its type."""
    X = numbers_of(case)
    try:
        return CONTAINERS[case.container](X)
    except (TypeError, ValueError, ArithmeticError, RuntimeError, *FRAME_ERRORS):
        return X


def fingerprint(X):
    """What must not change in an argument."""
    if isinstance(X, pd.DataFrame):
        cells = [str(X.iloc[:, place].tolist()) for place in range(X.shape[1])]
        return cells, list(map(str, X.dtypes)), list(X.columns), list(X.index)
    if isinstance(X, pl.DataFrame):
        return str(X.to_dict(as_series=False)), str(X.schema)
    if isinstance(X, pa.Table | pa.RecordBatch):
        return str(X.to_pydict())
    if sparse.issparse(X):
        parts = (getattr(X, name, None) for name in ("data", "indices", "indptr", "row", "col"))
        return X.format, [None if part is None else (part.dtype, part.tobytes()) for part in parts]
    if isinstance(X, torch.Tensor):
        return X.dtype, X.requires_grad, str(X.detach().tolist())
    if isinstance(X, np.ma.MaskedArray):
        return X.data.tobytes(), np.ma.getmaskarray(X).tobytes()
    if isinstance(X, np.ndarray) and X.dtype != object:
        return X.dtype, X.shape, X.strides, X.flags.writeable, X.tobytes()
    return repr(X)


def table_cases(max_rows=30, max_columns=12):
    """Strategy for tables; most of them are ordinary in most respects."""
    return st.builds(
        table_case,
        st.integers(1, max_rows),
        st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=max_columns),
        st.sampled_from(("one", "one", "one", "common", "apart", "extreme")),
        st.integers(-300, 300),
        st.sampled_from((0.0, 0.0, 0.0, 1.0, 1e6, 1e12)),
        st.sampled_from(("float64",) * 4 + ("float32",) * 3 + (*FLOATS, *WHOLE, "object")),
        st.sampled_from((*CONTAINERS, "array", "array", "csr", "pandas")),
        st.sampled_from((False, False, True)),
        st.sampled_from(("",) * 40 + tuple(BAD_CELLS)),
        st.integers(0, 2**16),
    )


def table_case(
    n_rows, columns, scales, exponent, offset, dtype, container, repeated, bad_cell, seed
):
    rng = np.random.default_rng(seed)
    n_columns = len(columns)
    exponents = {
        "one": np.zeros(n_columns, dtype=int),
        "common": np.full(n_columns, exponent),
        "apart": rng.integers(-12, 13, n_columns),
        "extreme": rng.integers(-300, 301, n_columns),
    }[scales]
    return TableCase(
        n_rows,
        tuple(columns),
        tuple(exponents.tolist()),
        offset,
        dtype,
        container,
        repeated,
        bad_cell,
        seed,
    )


WEIGHTS = {
    "uniform": lambda n, rng: rng.uniform(size=n),
    "counts": lambda n, rng: rng.integers(0, 3, n),
    "ones": lambda n, rng: np.ones(n, dtype=np.float32),
    "concentrated": lambda n, rng: np.where(np.arange(n) == 0, 1000.0, 1e-3),
    "one row": lambda n, rng: (np.arange(n) == 0).astype(float),
    "zero": lambda n, rng: np.zeros(n),
    "huge": lambda n, rng: rng.uniform(1.0, 2.0, n) * 1e300,
    "largest": lambda n, rng: np.full(n, np.finfo(float).max),
    "tiny": lambda n, rng: rng.uniform(1.0, 2.0, n) * 1e-300,
    "denormal": lambda n, rng: np.full(n, 5e-324),
    "apart": lambda n, rng: 10.0 ** rng.uniform(-300, 300, n),
    "negative": lambda n, rng: -np.ones(n),
    "NaN": lambda n, rng: np.full(n, np.nan),
    "infinite": lambda n, rng: np.full(n, np.inf),
    "short": lambda n, rng: np.ones(max(n - 1, 0)),
    "text": lambda n, rng: ["a"] * n,
    "number": lambda n, rng: 2.0,
    "two axes": lambda n, rng: np.ones((n, 2)),
    "series": lambda n, rng: pd.Series(rng.uniform(size=n), dtype="Float64"),
    "booleans": lambda n, rng: rng.uniform(size=n) < 0.7,
}


def make_weights(kind, n_rows, seed):
    """Weights of the rows, or None."""
    return None if kind is None else WEIGHTS[kind](n_rows, np.random.default_rng(seed))


WEIGHT_KINDS = st.sampled_from((None,) * 30 + tuple(WEIGHTS))
