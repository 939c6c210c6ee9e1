"""DataFrames of pandas, polars and pyarrow: their columns, and the same kind of frame again.

Columns are read by narwhals. They are written by each library itself, because only it knows all of
its types: nullable and sparse ones, strings of several sorts, Arrow's dictionaries. What is kept of
a frame is plain, so that files of it need no trust.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd

from skae._table._cells import NANOSECONDS, NOT_A_TIME, Cells

# What stands for an unknown cell among Python objects.
MISSING = {"None": None, "nan": np.nan, "NA": pd.NA, "NaT": pd.NaT}


@dataclass(frozen=True)
class Frame:
    """A table as a list of columns."""

    library: str
    """pandas, polars, pyarrow, or numpy for an array, whose columns are those of pandas."""
    names: list[Hashable]
    columns: list[Any]
    native: Any


def open_frame(X: Any) -> Frame | None:
    """Columns of a DataFrame, None if X is something else.

    Raises
    ------
    ValueError
        If columns share a name or have several levels of names, or the frame is not in memory.
    """
    if isinstance(X, pd.DataFrame):
        if isinstance(X.columns, pd.MultiIndex):
            raise ValueError(
                "The columns of X have names of several levels. Join them first, for example by "
                "X.columns = X.columns.map('_'.join)."
            )
        names = list(X.columns)
        check_unique(names)
        return Frame("pandas", names, [X.iloc[:, i] for i in range(X.shape[1])], X)
    if hasattr(X, "column_names"):
        check_unique(X.column_names)
    frame = nw.from_native(X, pass_through=True)
    if isinstance(frame, nw.LazyFrame):
        raise ValueError(
            f"X is a lazy frame, a {type(X).__name__}. Bring it into memory first, for example by "
            "X.collect()."
        )
    if not isinstance(frame, nw.DataFrame):
        return None
    library = frame.implementation.value
    if library not in COLUMN_WRITERS:
        frame, library = nw.from_native(frame.to_pandas()), "pandas"
    columns = [column.to_native() for column in frame.iter_columns()]
    return Frame(library, list(frame.columns), columns, frame.to_native())


def check_unique(names: list[Hashable]) -> None:
    """Refuse names that occur twice."""
    twice = [str(name) for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f"Several columns of X have the same name: {', '.join(map(repr, twice[:5]))}. "
            "Rename them, so that each column has a name of its own."
        )


def open_array(X: np.ndarray) -> Frame:
    """Columns of an array."""
    names: list[Hashable] = [f"x{i}" for i in range(X.shape[1])]
    return Frame("numpy", names, [pd.Series(X[:, i]) for i in range(X.shape[1])], X)


def layout_of(frame: Frame, kept: list[int]) -> dict[str, Any]:
    """Plain description of these columns of a frame, without its cells."""
    layout: dict[str, Any] = {"library": frame.library}
    if frame.library == "numpy":
        return layout | {"types": [str(frame.native.dtype)]}
    if frame.library == "pandas":
        return layout | {
            "index": index_state(frame.native.columns[kept]),
            "name": frame.native.columns.name,
            "types": [column_state(frame.columns[i]) for i in kept],
        }
    if frame.library == "polars":
        file = io.BytesIO()
        frame.native[:0, kept].write_ipc(file)
        return layout | {"types": file.getvalue()}
    return layout | {"types": frame.native.select(kept).schema.serialize().to_pybytes()}


def write_frame(layout: dict[str, Any], columns: list[Cells], index: Any = None) -> Any:
    """Frame as the layout describes it, with these cells."""
    library = layout["library"]
    write = COLUMN_WRITERS[library]
    if library == "numpy":
        return write_array(np.dtype(layout["types"][0]), columns)
    if library == "pandas":
        series = [
            write(type_of(state), cells, MISSING[state.get("missing", "None")])
            for state, cells in zip(layout["types"], columns, strict=True)
        ]
        frame = pd.DataFrame(dict(enumerate(series)))
        frame.columns = index_of(layout["index"]).rename(layout["name"])
        return frame if index is None else frame.set_axis(index, axis=0)
    if library == "polars":
        import polars as pl

        schema = pl.read_ipc(io.BytesIO(layout["types"])).schema
        pairs = zip(schema.items(), columns, strict=True)
        return pl.DataFrame([write(dtype, cells).alias(name) for (name, dtype), cells in pairs])
    import pyarrow as pa

    schema = pa.ipc.read_schema(pa.py_buffer(layout["types"]))
    arrays = [write(kind, cells) for kind, cells in zip(schema.types, columns, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def replace_columns(frame: Frame, columns: dict[int, Cells]) -> Any:
    """Frame with other cells in some columns, in their types; the others are as they were."""
    names = [frame.names[position] for position in columns]
    if frame.library == "numpy":
        filled = np.array(frame.native, dtype=np.result_type(frame.native, np.float32))
        for position, cells in columns.items():
            filled[:, position] = with_nan(cells)
        return filled
    layout = layout_of(frame, list(columns))
    if frame.library == "pandas":
        for state, cells in zip(layout["types"], columns.values(), strict=True):
            if "categories" in state:  # they may have become more
                assert cells.levels is not None
                state["categories"] = index_state(cells.levels)
        table = frame.native.copy()
        if columns:
            written = write_frame(layout, list(columns.values()), table.index)
            for place, position in enumerate(columns):
                table.isetitem(position, written.iloc[:, place])
        return table
    if not columns:
        return frame.native
    written = write_frame(layout, list(columns.values()))
    if frame.library == "polars":
        return frame.native.with_columns(written)
    table = frame.native
    for name in names:
        place = table.column_names.index(name)
        table = table.set_column(place, table.schema.field(name), written.column(name))
    return table


def write_array(dtype: np.dtype, columns: list[Cells]) -> np.ndarray:
    """Array of numbers; of floats if cells are unknown that the dtype cannot hold."""
    if dtype.kind != "f" and not all(cells.known.all() for cells in columns):
        dtype = np.dtype(np.float64)
    values = np.column_stack([with_nan(cells) for cells in columns])
    if dtype.kind in "iu" and columns:
        values = np.column_stack([cells.values for cells in columns])
    return values.astype(dtype)


def with_nan(cells: Cells) -> np.ndarray:
    """Floats with NaN in unknown cells."""
    return np.where(cells.known, cells.values, np.nan)


# pandas


def type_state(dtype: Any) -> dict[str, Any]:
    """Plain description of a type of pandas."""
    if isinstance(dtype, pd.CategoricalDtype):
        return {"categories": index_state(dtype.categories), "ordered": bool(dtype.ordered)}
    if isinstance(dtype, pd.ArrowDtype):
        import pyarrow as pa

        schema = pa.schema([("", dtype.pyarrow_dtype)])
        return {"arrow": schema.serialize().to_pybytes()}
    if isinstance(dtype, pd.StringDtype):
        return {"storage": dtype.storage, "has_nan": dtype.na_value is not pd.NA}
    return {"dtype": str(dtype)}


def column_state(column: pd.Series) -> dict[str, Any]:
    """Plain description of the type of a column, and what Python objects have for unknown ones."""
    state = type_state(column.dtype)
    unknown = column[column.isna()]
    if len(unknown) and pd.api.types.is_object_dtype(column.dtype):
        names = {"float": "nan", "NAType": "NA", "NaTType": "NaT"}
        state["missing"] = names.get(type(unknown.iloc[0]).__name__, "None")
    return state


def type_of(state: dict[str, Any]) -> Any:
    """Type of pandas from its description."""
    if "categories" in state:
        return pd.CategoricalDtype(index_of(state["categories"]), ordered=state["ordered"])
    if "arrow" in state:
        import pyarrow as pa

        return pd.ArrowDtype(pa.ipc.read_schema(pa.py_buffer(state["arrow"])).types[0])
    if "storage" in state:
        # Before pandas 3 the name of the storage said so.
        is_named = state["storage"].endswith("_numpy")
        missing = {"na_value": np.nan} if state["has_nan"] and not is_named else {}
        return pd.StringDtype(state["storage"], **missing)
    if state["dtype"].startswith("Sparse[object"):  # a name that pandas does not read back
        return np.dtype(object)
    return pd.api.types.pandas_dtype(state["dtype"])


def index_state(index: pd.Index) -> dict[str, Any]:
    """Plain description of an index."""
    if isinstance(index, pd.IntervalIndex):
        ends = {"left": index_state(index.left), "right": index_state(index.right)}
        return ends | {"closed": index.closed}
    state = type_state(index.dtype)
    if isinstance(index, (pd.DatetimeIndex, pd.TimedeltaIndex)):
        return state | {"ticks": index.asi8}
    return state | {"values": index.tolist()}


def index_of(state: dict[str, Any]) -> pd.Index:
    """Index from its description."""
    if "left" in state:
        left, right = index_of(state["left"]), index_of(state["right"])
        return pd.IntervalIndex.from_arrays(left, right, closed=state["closed"])
    if "ticks" in state:
        return pd.Index(times_of(state["ticks"], type_of(state)))
    return pd.Index(state["values"], dtype=type_of(state))


def times_of(ticks: np.ndarray, dtype: Any) -> pd.Series:
    """Series of datetimes or durations from counts of their unit, in UTC."""
    if isinstance(dtype, pd.DatetimeTZDtype):
        utc = pd.DatetimeIndex(ticks.view(f"M8[{dtype.unit}]")).tz_localize("UTC")
        return pd.Series(utc.tz_convert(dtype.tz))
    return pd.Series(ticks.view(dtype))


def pandas_column(dtype: Any, cells: Cells, missing: Any) -> pd.Series:
    """Column of pandas. An unknown cell makes a type nullable that is not."""
    values, known = cells.values, cells.known
    if isinstance(dtype, pd.ArrowDtype):
        array = arrow_column(dtype.pyarrow_dtype, cells)
        return pd.Series(pd.arrays.ArrowExtensionArray(array))
    if isinstance(dtype, pd.CategoricalDtype):
        places = np.where(known, values, -1)
        return pd.Series(pd.Categorical.from_codes(places, dtype=dtype))
    if isinstance(dtype, pd.DatetimeTZDtype) or dtype.kind in "mM":
        return times_of(np.where(known, values, NOT_A_TIME), dtype)
    if pd.api.types.is_object_dtype(dtype):
        return pd.Series(python_objects(cells, missing), dtype=object)
    if isinstance(dtype, pd.SparseDtype):
        if not known.all():
            dtype = pd.SparseDtype(np.float64, np.nan)
        values = values if known.all() else with_nan(cells)
        return pd.Series(values.astype(dtype.subtype)).astype(dtype)
    if isinstance(dtype, pd.StringDtype):
        return pd.Series(python_objects(cells), dtype=dtype)
    if isinstance(dtype, np.dtype):
        if dtype.kind == "f":
            return pd.Series(with_nan(cells).astype(dtype))
        series = pd.Series(values.astype(dtype))
        return series if known.all() else series.convert_dtypes().where(known)
    return pd.Series(values.astype(dtype.numpy_dtype)).astype(dtype).where(known)


def python_objects(cells: Cells, missing: Any = None) -> np.ndarray:
    """Python objects, and the one that stands for unknown ones."""
    values = cells.values[cells.known]
    found: list[Any]
    if cells.levels is not None:
        found = list(cells.levels.to_numpy(dtype=object)[values])
    elif cells.form == "boolean":
        found = values.astype(bool).tolist()
    elif cells.form == "date":
        found = values.view("M8[D]").tolist()
    elif cells.form == "time":
        found = [time.time() for time in (values // 1000).view("M8[us]").tolist()]
    elif "scale" in cells.details:
        found = [Decimal(f"{value:.{cells.details['scale']}f}") for value in values]
    else:
        found = values.tolist()
    objects = np.full(len(cells.values), missing, dtype=object)
    objects[cells.known] = found
    return objects


# polars


def polars_column(dtype: Any, cells: Cells) -> Any:
    """Column of polars."""
    import polars as pl

    if not cells.known.any():
        return pl.Series([None] * len(cells.values), dtype=dtype)
    if "scale" in cells.details:
        # A float that becomes a decimal is cut, not rounded, by older versions of polars.
        return pl.Series(python_objects(cells).tolist(), dtype=dtype)
    values = pl.Series(cells.values)
    masked = pl.select(pl.when(pl.Series(cells.known)).then(values)).to_series()
    if cells.levels is None:
        return masked.cast(dtype)
    levels = pl.Series(cells.levels.to_list(), dtype=pl.String)
    return levels.gather(masked).cast(dtype)


# pyarrow


def arrow_column(kind: Any, cells: Cells) -> Any:
    """Column of pyarrow."""
    import pyarrow as pa

    types = pa.types
    if not cells.known.any():
        return pa.nulls(len(cells.values), kind)
    unknown = ~cells.known
    if cells.levels is None:
        if types.is_floating(kind):
            return pa.array(cells.values.astype(kind.to_pandas_dtype()), mask=unknown)
        if types.is_decimal(kind):
            return pa.array(cells.values.astype(np.float64), mask=unknown).cast(kind)
        array = pa.array(cells.values, mask=unknown)
        if types.is_time(kind):
            array = pa.array(cells.values // NANOSECONDS[kind.unit], mask=unknown)
        return (array.cast(pa.int32()) if is_short_time(kind) else array).cast(kind)
    places = pa.array(np.where(unknown, 0, cells.values), mask=unknown)
    if types.is_dictionary(kind):
        levels = pa.array(cells.levels, type=kind.value_type)
        indices = places.cast(kind.index_type)
        return pa.DictionaryArray.from_arrays(indices, levels, ordered=kind.ordered)
    return pa.array(cells.levels.to_list(), type=pa.string()).take(places).cast(kind)


def is_short_time(kind: Any) -> bool:
    """Whether a type of times is stored in 32 bits."""
    return bool(re.fullmatch(r"date32.*|time32.*", str(kind)))


COLUMN_WRITERS: dict[str, Any] = {
    "numpy": None,
    "pandas": pandas_column,
    "polars": polars_column,
    "pyarrow": arrow_column,
}
