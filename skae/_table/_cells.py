"""The cells of one column as an array of numbers, whichever library the column is from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd

# Names of the forms in messages.
FORMS = {
    "integer": "integers",
    "number": "numbers",
    "boolean": "booleans",
    "text": "text",
    "category": "categories",
    "datetime": "datetimes",
    "date": "dates",
    "time": "times of day",
    "duration": "durations",
    "unknown": "nothing but unknown cells",
}
INT64 = np.iinfo(np.int64)
NOT_A_TIME = INT64.min
# Of Python's timedelta, 999,999,999 days. Libraries that hold more cannot show it.
MAX_SECONDS = 999_999_999 * 86_400
NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


class UnsupportedColumnError(ValueError):
    """A column that has no encoding. Its text is the reason, and says what to do."""


@dataclass(frozen=True)
class Cells:
    """One column as numbers.

    ``values`` are floats for the form "number"; 0 and 1 for "boolean"; places in ``levels`` for
    "text" and "category", -1 for a level that is not there; days since 1970 for "date",
    nanoseconds since midnight for "time" and ``unit`` for "datetime" (in UTC) and "duration".
    """

    form: str
    values: np.ndarray
    known: np.ndarray
    levels: pd.Index | None = None
    details: dict[str, Any] = field(default_factory=dict)
    """``ordered`` of categories, ``unit`` and ``zone`` of times, ``scale`` of decimals, ``dtype``
    of floats, and ``limits`` of what the type of the column holds."""

    @property
    def known_values(self) -> np.ndarray:
        """Values of the known cells."""
        return self.values[self.known]

    def relative_to(self, levels: pd.Index) -> Cells:
        """Places of the same levels in another index."""
        assert self.levels is not None
        places = np.append(levels.get_indexer(self.levels), -1)
        return replace(self, values=places[self.values], levels=levels)


def read_cells(column: Any) -> Cells:
    """Read a column of pandas, polars or pyarrow.

    Raises
    ------
    UnsupportedColumnError
        If the column holds something that has no encoding.
    ValueError
        If the column holds infinite numbers.
    """
    if isinstance(column, pd.Series):
        dtype = column.dtype
        if isinstance(dtype, pd.SparseDtype):
            column = column.sparse.to_dense()
        elif isinstance(dtype, pd.ArrowDtype):
            column = column.array.__arrow_array__()
        elif isinstance(dtype, pd.DatetimeTZDtype):
            # narwhals does not know all names of zones, such as America/Sao_Paulo.
            utc = column.dt.tz_convert("UTC").dt.tz_localize(None)
            return ticks_cells("datetime", utc.to_numpy(), name_of_zone(dtype))
    series = nw.from_native(column, series_only=True)
    reader = READERS.get(type(series.dtype).__name__, read_other)
    return reader(series)


def known_cells(series: nw.Series) -> np.ndarray:
    """Return where the column has no null."""
    return np.asarray((~series.is_null()).to_numpy(), dtype=bool)


def filled(series: nw.Series, value: Any) -> np.ndarray:
    """Values with another one in place of nulls."""
    return np.asarray(series.fill_null(value).to_numpy())


def read_integers(series: nw.Series) -> Cells:
    """Read whole numbers; those that are no int64 as floats."""
    values = filled(series, 0)
    details = {"limits": (int(np.iinfo(values.dtype).min), int(np.iinfo(values.dtype).max))}
    is_large = values.dtype == np.uint64 and values.max(initial=0) > INT64.max
    values = values.astype(np.float64 if is_large else np.int64)
    return Cells("integer", values, known_cells(series), details=details)


def read_large_integers(series: nw.Series) -> Cells:
    """Read integers of 128 bits, of which a float holds 53."""
    values = np.asarray(series.cast(nw.Float64).to_numpy(), dtype=np.float64)
    details = {"limits": (-(2.0**126), 2.0**126)}
    return Cells("integer", np.nan_to_num(values), known_cells(series), details=details)


def read_floats(series: nw.Series) -> Cells:
    """Read real numbers. NaN is an unknown cell."""
    values = np.asarray(series.to_numpy())
    values = values if values.dtype.kind == "f" else values.astype(np.float64)
    largest = float(np.finfo(values.dtype).max)
    details = {"limits": (-largest, largest), "dtype": str(values.dtype)}
    return real_cells(values.astype(np.float64), details)


def real_cells(values: np.ndarray, details: dict[str, Any]) -> Cells:
    """Cells of real numbers, with NaN where they are unknown."""
    if np.isinf(values).any():
        raise ValueError("infinite numbers")
    known = ~np.isnan(values)
    return Cells("number", np.where(known, values, 0.0), known, details=details)


def read_decimals(series: nw.Series) -> Cells:
    """Read decimal numbers as floats."""
    values = np.asarray(series.cast(nw.Float64).to_numpy(), dtype=np.float64)
    native: Any = series.to_native()
    dtype = native.dtype if hasattr(native, "dtype") else native.type
    scale = dtype.scale
    # A float has about 15 digits. Rounding the next one must not give a digit more than there are.
    largest = 10.0 ** (dtype.precision - scale) * (1.0 - 1e-15) - 10.0**-scale
    return real_cells(values, {"scale": scale, "limits": (-largest, largest)})


def read_booleans(series: nw.Series) -> Cells:
    """Read booleans as 0 and 1."""
    return Cells("boolean", filled(series, False).astype(np.int64), known_cells(series))


def read_text(series: nw.Series) -> Cells:
    """Read strings as places in the sorted list of them."""
    # An array of NumPy's own strings would lose zeros at their ends.
    return text_cells(np.array(series.to_list(), dtype=object), known_cells(series))


def text_cells(values: np.ndarray, known: np.ndarray) -> Cells:
    """Cells of strings."""
    places = np.full(len(values), -1)
    if not known.any():
        return Cells("unknown", places, known)
    places[known], levels = pd.factorize(values[known], sort=True)
    return Cells("text", places, known, pd.Index([str(level) for level in levels], dtype=object))


def read_categories(series: nw.Series) -> Cells:
    """Read a categorical column as places in its list of categories."""
    native = series.to_native()
    if series.implementation.is_polars():
        cells = read_text(series.cast(nw.String))
        if not isinstance(series.dtype, nw.Enum) or cells.form == "unknown":
            return cells
        cells = cells.relative_to(pd.Index(series.dtype.categories, dtype=object))
        # An Enum fixes the strings that may occur; it does not claim that they have an order.
        return replace(cells, form="category", details={"ordered": False, "sorted": True})
    if series.implementation.is_pyarrow():
        native = native.to_pandas()
    levels, ordered = native.cat.categories, bool(native.cat.ordered)
    check_levels(levels)
    values = native.cat.codes.to_numpy().astype(np.int64)
    known = values >= 0
    details = {"ordered": ordered, "sorted": ordered}
    return Cells("category" if known.any() else "unknown", values, known, levels, details)


def check_levels(levels: pd.Index) -> None:
    """Refuse categories that are neither text, numbers, times nor intervals of these."""
    if isinstance(levels, pd.IntervalIndex):
        levels = levels.left
    if isinstance(levels.dtype, pd.DatetimeTZDtype) or levels.dtype.kind in "mMiufb":
        return
    kinds = {type(level) for level in levels}
    if not kinds <= {str, int, float, bool}:
        names = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise UnsupportedColumnError(f"categories of type {names}; make them strings")


def read_ticks(form: str) -> Any:
    """Make a reader of times that NumPy has a type for."""

    def read(series: nw.Series) -> Cells:
        return ticks_cells(form, series.to_numpy(), getattr(series.dtype, "time_zone", None))

    return read


def ticks_cells(form: str, values: np.ndarray, zone: str | None = None) -> Cells:
    """Cells of NumPy's datetimes and durations."""
    unit, _ = np.datetime_data(values.dtype)
    ticks = values.view(np.int64)
    known = ticks != NOT_A_TIME
    details: dict[str, Any] = {"unit": unit, "zone": zone}
    if form == "duration":
        longest = min(INT64.max, MAX_SECONDS * 10**9 // NANOSECONDS[unit])
        details["limits"] = (-longest, longest)
    return Cells(form, np.where(known, ticks, 0), known, details=details)


def name_of_zone(dtype: pd.DatetimeTZDtype) -> str:
    """Name by which pandas finds the time zone again."""
    try:
        if pd.api.types.pandas_dtype(str(dtype)) == dtype:
            return str(dtype.tz)
    except TypeError:
        pass
    raise UnsupportedColumnError(
        f"a time zone without a name, {dtype.tz!r}; convert it by column.dt.tz_convert('UTC')"
    )


def read_times(series: nw.Series) -> Cells:
    """Read times of day in nanoseconds."""
    known = known_cells(series)
    if series.implementation.is_pyarrow():
        import pyarrow as pa

        native = series.to_native().cast(pa.time64("ns")).cast(pa.int64())
        series = nw.from_native(native, series_only=True)
    values = filled(series.cast(nw.Int64), 0)
    return Cells("time", values.astype(np.int64), known, details={"unit": "ns"})


def read_other(series: nw.Series) -> Cells:
    """Read a column that narwhals has no type for, or refuse it."""
    native = series.to_native()
    name = str(getattr(native, "dtype", None) or native.type)
    known = known_cells(series)
    if not known.any():
        return Cells("unknown", np.full(len(known), -1), known)
    if isinstance(native, pd.Series) and native.dtype == object:
        return read_objects(native.to_numpy(), known)
    if name.startswith("date64"):
        return ticks_cells("datetime", series.to_numpy())
    if name in ("float16", "halffloat"):
        return read_floats(series)
    what = next((REFUSED[word] for word in REFUSED if word in name.lower()), None)
    raise UnsupportedColumnError(what or f"values of type {name}, which have no encoding")


def read_objects(values: np.ndarray, known: np.ndarray) -> Cells:
    """Read Python objects of one type."""
    found = pd.api.types.infer_dtype(values[known], skipna=False)
    if found in ("floating", "mixed-integer-float", "decimal"):
        numbers = np.full(len(values), np.nan)
        numbers[known] = values[known].astype(np.float64)
        details = {"scale": decimal_places(values[known])} if found == "decimal" else {}
        return real_cells(numbers, details)
    numbers = np.zeros(len(values), dtype=np.int64)
    if found in ("boolean", "integer"):
        try:
            numbers[known] = values[known].astype(np.int64)
        except OverflowError:
            reason = "integers of more than 64 bits; make them floats"
            raise UnsupportedColumnError(reason) from None
        return Cells(found, numbers, known)
    if found == "date":
        numbers[known] = values[known].astype("M8[D]").view(np.int64)
        return Cells("date", numbers, known, details={"unit": "D", "zone": None})
    if found == "time":
        if any(time.tzinfo is not None for time in values[known]):
            raise UnsupportedColumnError("times of day with a time zone; make them strings")
        numbers[known] = [nanoseconds(time) for time in values[known]]
        return Cells("time", numbers, known, details={"unit": "ns"})
    raise UnsupportedColumnError(OBJECTS.get(found) or mixed_types(values[known]))


def decimal_places(values: np.ndarray) -> int:
    """Digits behind the point of the finest of Python's decimals."""
    exponents = [value.as_tuple().exponent for value in values if value.is_finite()]
    return max(0, -min(exponents, default=0))


def nanoseconds(time: Any) -> int:
    """Nanoseconds since midnight."""
    seconds = 3600 * time.hour + 60 * time.minute + time.second
    return 10**9 * seconds + 1000 * time.microsecond


def mixed_types(values: np.ndarray) -> str:
    """Reason why Python objects have no encoding."""
    names = sorted({type(value).__name__ for value in values})
    listed = ", ".join(names[:5])
    if len(names) == 1:
        return f"Python objects of type {listed}, which have no encoding; make columns of them"
    return f"values of several types ({listed}); make them all of one type"


NESTED = "nested values; give each part a column of its own"
COMPLEX = "complex numbers; give real and imaginary parts columns of their own"
BYTES = "bytes; decode them to strings"
DATETIME_OBJECTS = (
    "Python datetimes, or several time zones; convert them by pandas.to_datetime(column, utc=True)"
)
# A word in the name of a type, and the reason why there is no encoding.
REFUSED = {
    "list": NESTED,
    "array": NESTED,
    "struct": NESTED,
    "map": NESTED,
    "union": NESTED,
    "complex": COMPLEX,
    "binary": BYTES,
    "period": "periods; convert them by column.dt.to_timestamp()",
    "interval": "intervals; make them an ordered category by column.astype('category')",
    "object": "Python objects, which have no encoding",
}
OBJECTS = {
    "complex": COMPLEX,
    "bytes": BYTES,
    "datetime": DATETIME_OBJECTS,
    "datetime64": DATETIME_OBJECTS,
    "timedelta": "Python timedeltas; convert them by pandas.to_timedelta(column)",
    "timedelta64": "Python timedeltas; convert them by pandas.to_timedelta(column)",
}
# By the names of narwhals' types, which are more with each version.
READERS: dict[str, Any] = {
    **{f"{sign}Int{bits}": read_integers for sign in ("", "U") for bits in (8, 16, 32, 64)},
    **dict.fromkeys(("Int128", "UInt128"), read_large_integers),
    **dict.fromkeys(("Float16", "Float32", "Float64"), read_floats),
    **dict.fromkeys(("Categorical", "Enum"), read_categories),
    "Decimal": read_decimals,
    "Boolean": read_booleans,
    "String": read_text,
    "Datetime": read_ticks("datetime"),
    "Duration": read_ticks("duration"),
    "Date": read_ticks("date"),
    "Time": read_times,
}
