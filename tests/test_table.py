"""TableEncoder: there and back for columns of every kind, and words for those without a way."""

import datetime as dt
import pickle
import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import polars.testing
import pyarrow as pa
import pytest
import skops.io
from dateutil.tz import tzoffset
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm, rankdata
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

from skae import TableEncoder
from skae._table import _frames

N_ROWS = 60
MANY = 10**6

# These are part of scikit-learn's contract, but `parametrize_with_checks` does not yield them.
MORE_CHECKS = [
    estimator_checks.check_dataframe_column_names_consistency,
    estimator_checks.check_get_feature_names_out_error,
    estimator_checks.check_global_output_transform_pandas,
    estimator_checks.check_global_set_output_transform_polars,
    estimator_checks.check_inplace_ensure_writeable,
    estimator_checks.check_param_validation,
    estimator_checks.check_set_output_transform,
    estimator_checks.check_set_output_transform_pandas,
    estimator_checks.check_set_output_transform_polars,
    estimator_checks.check_transformer_get_feature_names_out,
    estimator_checks.check_transformer_get_feature_names_out_pandas,
]


@parametrize_with_checks([TableEncoder()])
def test_scikit_learn_check(estimator, check):
    check(estimator)


# These checks mix arrays and DataFrames on purpose.
@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names:UserWarning")
@pytest.mark.parametrize("check", MORE_CHECKS, ids=lambda check: check.__name__)
def test_scikit_learn_check_that_is_not_yielded(check):
    check("TableEncoder", TableEncoder())


# Tables of every kind of column


def with_gaps(values, every=7):
    """List of the values with None in every seventh place."""
    return [None if i % every == 3 else value for i, value in enumerate(values)]


def dates(rng, first, n_days):
    return [first + dt.timedelta(int(days)) for days in rng.integers(0, n_days, N_ROWS)]


def decimals(rng):
    return [Decimal(int(cents)).scaleb(-2) for cents in rng.integers(-(10**6), 10**6, N_ROWS)]


def pandas_table():
    rng = np.random.default_rng(0)
    letters = rng.choice(list("abc"), N_ROWS).tolist()
    moments = pd.Series(rng.integers(0, 2**31, N_ROWS)).astype("M8[s]")
    whole = rng.integers(0, 30, N_ROWS).tolist()
    flags = (rng.random(N_ROWS) < 0.5).tolist()
    reals = rng.normal(size=N_ROWS).tolist()
    days = dates(rng, dt.date(2000, 1, 1), 3000)
    times = [dt.time(*map(int, rng.integers(0, (24, 60, 60, 10**6)))) for _ in range(N_ROWS)]
    columns = {
        "int8": pd.Series(rng.integers(-128, 128, N_ROWS), dtype="int8"),
        "int64": pd.Series(rng.integers(-(2**52), 2**52, N_ROWS)),
        "wide int64": pd.Series(2**62 * rng.choice([-1, 1], N_ROWS)),
        "far int64": pd.Series(2**62 + rng.integers(0, 2**40, N_ROWS)),
        "Int64": pd.array(with_gaps(whole), dtype="Int64"),
        "whole floats": with_gaps([float(number) for number in whole]),
        "object integers": pd.Series(with_gaps(whole), dtype=object),
        "rounded": with_gaps(rng.normal(size=N_ROWS).round(2)),
        "bool": flags,
        "boolean": pd.array(with_gaps(flags), dtype="boolean"),
        "object booleans": pd.Series(with_gaps(flags), dtype=object),
        "str": with_gaps(letters),
        "object strings": pd.Series(with_gaps(letters), dtype=object),
        "object NaN": pd.Series(with_gaps(letters), dtype=object).fillna(np.nan),
        "object NA": pd.Series(with_gaps(letters), dtype=object).fillna(pd.NA),
        "string": pd.array(with_gaps(letters), dtype="string"),
        "string[python]": pd.array(with_gaps(letters), dtype="string[python]"),
        "category": pd.Categorical(with_gaps(letters), categories=list("cbaz")),
        "category of integers": pd.Categorical(rng.integers(5, 9, N_ROWS)),
        "category of dates": pd.Categorical(moments.dt.year.map(lambda y: pd.Timestamp(y, 1, 1))),
        "ordered": pd.Categorical(with_gaps(letters), categories=list("zcba"), ordered=True),
        "intervals": pd.cut(rng.normal(size=N_ROWS), [-4, -1, 0, 1, 4]),
        "datetime": moments.where(moments.index % 7 != 3),
        "datetime[ns]": pd.Series(rng.integers(-(2**62), 2**62, N_ROWS)).astype("M8[ns]"),
        "old datetime": pd.Series(rng.integers(-(2**35), 2**36, N_ROWS)).astype("M8[s]"),
        "Berlin": moments.dt.tz_localize("UTC").dt.tz_convert("Europe/Berlin"),
        "Sao Paulo": pd.date_range("2016-01-01", periods=N_ROWS, tz="America/Sao_Paulo"),
        "offset": moments.dt.tz_localize("+02:00"),
        "timedelta": pd.to_timedelta(rng.integers(-(10**15), 10**15, N_ROWS), unit="ns"),
        "dates": pd.Series(with_gaps(dates(rng, dt.date(1, 1, 1), 3_600_000)), dtype=object),
        "times": pd.Series(with_gaps(times), dtype=object),
        "decimals": pd.Series(with_gaps(decimals(rng)), dtype=object),
        "whole decimals": pd.Series([Decimal(i) for i in range(N_ROWS)], dtype=object),
        "sparse": pd.arrays.SparseArray(rng.choice([0.0, 0.0, 1.5, 2.5], N_ROWS)),
        "one text": "x",
        "one number": 0.1,
        "nothing": None,
        "NaN": np.nan,
        "arrow bool": pd.Series(with_gaps(flags), dtype="bool[pyarrow]"),
        "arrow text": pd.Series(with_gaps(letters), dtype=pd.ArrowDtype(pa.large_string())),
        "arrow date": pd.Series(with_gaps(days), dtype="date32[day][pyarrow]"),
        "arrow zone": moments.astype(pd.ArrowDtype(pa.timestamp("us", "UTC"))),
        "arrow decimals": pd.Series(decimals(rng), dtype=pd.ArrowDtype(pa.decimal128(8, 2))),
        "arrow dictionary": pd.Series(
            with_gaps(letters), dtype=pd.ArrowDtype(pa.dictionary(pa.int8(), pa.string()))
        ),
    }
    inexact = {
        "float64": with_gaps(reals),
        "Float64": pd.array(with_gaps(reals), dtype="Float64"),
        "float32": pd.Series(rng.lognormal(0, 3, N_ROWS), dtype="float32"),
        "heavy": rng.lognormal(0, 3, N_ROWS),
        "spike": np.where(np.arange(N_ROWS) % 3 == 0, 0.0, rng.lognormal(size=N_ROWS)),
        "huge": 1e300 * rng.normal(size=N_ROWS),
        "tiny": 1e-300 * rng.normal(size=N_ROWS),
    }
    index = pd.Index(range(100, 100 + N_ROWS), name="id")
    return pd.DataFrame(columns | inexact).set_axis(index), list(inexact)


def polars_table():
    rng = np.random.default_rng(0)
    letters = with_gaps(rng.choice(list("abc"), N_ROWS).tolist())
    wide = with_gaps(rng.integers(-(2**62), 2**62, N_ROWS).tolist())
    narrow = with_gaps(rng.integers(-(2**54), 2**55, N_ROWS).tolist())
    columns = {
        "String": letters,
        "Categorical": pl.Series(letters, dtype=pl.Categorical),
        "Enum": pl.Series(letters, dtype=pl.Enum(list("cbaz"))),
        "Boolean": with_gaps((rng.random(N_ROWS) < 0.5).tolist()),
        "Int8": pl.Series(with_gaps(rng.integers(0, 99, N_ROWS).tolist()), dtype=pl.Int8),
        "UInt64": pl.Series(rng.integers(0, 99, N_ROWS), dtype=pl.UInt64),
        "Int128": pl.Series(with_gaps(rng.integers(0, 99, N_ROWS).tolist()), dtype=pl.Int128),
        "Date": with_gaps(dates(rng, dt.date(1, 1, 1), 3_600_000)),
        "Time": pl.Series(with_gaps(rng.integers(0, 86_400 * 10**9, N_ROWS).tolist())).cast(
            pl.Time
        ),
        "Datetime": pl.Series(narrow).cast(pl.Datetime("us")),
        "Kathmandu": pl.Series(wide).cast(pl.Datetime("ns", "Asia/Kathmandu")),
        "Duration": pl.Series(with_gaps(rng.integers(-(2**50), 2**50, N_ROWS).tolist())).cast(
            pl.Duration("ns")
        ),
        "Decimal": pl.Series(with_gaps(decimals(rng)), dtype=pl.Decimal(12, 2)),
        "whole Decimal": pl.Series([Decimal(i) for i in range(N_ROWS)], dtype=pl.Decimal(9, 2)),
        "Null": pl.Series([None] * N_ROWS),
    }
    inexact = {"Float64": with_gaps(rng.normal(size=N_ROWS).tolist())}
    inexact["Float32"] = pl.Series(rng.normal(size=N_ROWS), dtype=pl.Float32)
    return pl.DataFrame(columns | inexact), list(inexact)


def pyarrow_table():
    rng = np.random.default_rng(0)
    letters = with_gaps(rng.choice(list("abc"), N_ROWS).tolist())
    days = with_gaps(rng.integers(-(10**5), 10**5, N_ROWS).tolist())
    hours = with_gaps([dt.time(int(hour)) for hour in rng.integers(0, 24, N_ROWS)])
    ticks = with_gaps(rng.integers(-(2**34), 2**35, N_ROWS).tolist())
    columns = {
        "dictionary": pa.array(letters).dictionary_encode(),
        "ordered": pa.DictionaryArray.from_arrays(
            pa.array(with_gaps([i % 3 for i in range(N_ROWS)]), pa.int8()),
            ["c", "b", "a"],
            ordered=True,
        ),
        "integers": pa.array(with_gaps([i % 5 for i in range(N_ROWS)])).dictionary_encode(),
        "string": letters,
        "large_string": pa.array(letters, pa.large_string()),
        "string_view": pa.array(letters, pa.string_view()),
        "date32": pa.array(days, pa.int32()).cast(pa.date32()),
        "date64": pa.array(days, pa.int32()).cast(pa.date32()).cast(pa.date64()),
        "time32": pa.array(hours, pa.time32("s")),
        "time64": pa.array(hours, pa.time64("ns")),
        "timestamp": pa.array(ticks).cast(pa.timestamp("s")),
        "offset": pa.array(ticks).cast(pa.timestamp("ms", "+02:00")),
        "duration": pa.array(ticks).cast(pa.duration("ms")),
        "decimal": pa.array(decimals(rng), pa.decimal128(8, 2)),
        "whole decimal": pa.array([Decimal(i) for i in range(N_ROWS)], pa.decimal128(9, 2)),
        "null": pa.nulls(N_ROWS),
        "bool": with_gaps((rng.random(N_ROWS) < 0.5).tolist()),
        "int16": pa.array(with_gaps([i % 9 for i in range(N_ROWS)]), pa.int16()),
        "halffloat": pa.array(rng.normal(size=N_ROWS).astype(np.float16)),
    }
    return pa.table(columns | {"double": rng.normal(size=N_ROWS)}), ["double"]


TABLES = {"pandas": pandas_table, "polars": polars_table, "pyarrow": pyarrow_table}


def assert_same_table(actual, desired, inexact=()):
    """Same columns, order, types and cells; floats of the inexact columns to nine digits."""
    assert type(actual) is type(desired)
    if isinstance(desired, pd.DataFrame):
        for name in desired:
            if name not in inexact:
                pd.testing.assert_series_equal(actual[name], desired[name], check_exact=True)
                continue
            size = desired[name].abs().max()
            pd.testing.assert_series_equal(
                actual[name] / size, desired[name] / size, rtol=1e-9, atol=1e-9
            )
        assert actual.columns.equals(desired.columns)
    elif isinstance(desired, pl.DataFrame):
        assert actual.schema == desired.schema
        for name in inexact:
            assert_array_equal(actual[name].is_null(), desired[name].is_null())
            assert_allclose(actual[name].to_numpy(), desired[name].to_numpy(), rtol=1e-9)
        exact = [name for name in desired.columns if name not in inexact]
        polars.testing.assert_frame_equal(actual[exact], desired[exact], check_exact=True)
    else:
        assert actual.schema.equals(desired.schema, check_metadata=True)
        for name in desired.column_names:
            if name in inexact:
                assert_allclose(actual[name], desired[name], rtol=1e-9)
            else:
                assert actual[name].to_pylist() == desired[name].to_pylist(), name


@pytest.fixture(params=TABLES)
def table(request):
    return TABLES[request.param]()


def codes_of(encoder, X):
    """Codes as a frame that keeps the index of pandas."""
    codes = encoder.transform(X)
    return pd.DataFrame(codes, index=X.index) if isinstance(X, pd.DataFrame) else codes


def test_every_type_comes_back_as_it_was(table):
    X, inexact = table
    encoder = TableEncoder().fit(X)
    assert_same_table(encoder.inverse_transform(codes_of(encoder, X)), X, inexact)


def test_rows_are_encoded_on_their_own(table):
    X, _ = table
    encoder = TableEncoder().fit(X)
    codes = encoder.transform(X)
    rows = X[10:20] if not isinstance(X, pa.Table) else X.slice(10, 10)
    assert_array_equal(encoder.transform(rows), codes[10:20])


def test_unknown_cells_are_nan_in_all_columns_of_the_cell(table):
    X, _ = table
    encoder = TableEncoder().fit(X)
    codes = encoder.transform(X)
    frame = X.to_pandas() if isinstance(X, pa.Table) else X
    for block in encoder.blocks_:
        column = frame[block.name]
        unknown = column.is_null() if isinstance(frame, pl.DataFrame) else column.isna()
        expected = np.repeat(unknown.to_numpy()[:, None], codes[:, block.columns].shape[1], axis=1)
        assert_array_equal(np.isnan(codes[:, block.columns]), expected, err_msg=str(block.name))
    assert encoder.blocks_[-1].columns.stop == codes.shape[1]


@pytest.mark.parametrize("size", [1.0, 10.0, 1e5, 1e300])
def test_any_numbers_are_decoded_as_values_that_the_columns_can_have(table, size):
    X, _ = table
    encoder = TableEncoder().fit(X)
    codes = size * np.random.default_rng(1).normal(size=encoder.transform(X).shape)
    with np.errstate(all="raise"):
        decoded = encoder.inverse_transform(codes)
    assert type(decoded) is type(X)
    # Values without a code would be a warning, and warnings are errors here.
    again = encoder.transform(decoded)
    unknown = [block.columns.start for block in encoder.blocks_ if block.name in UNKNOWN]
    assert_array_equal(np.flatnonzero(np.isnan(again).any(axis=0)), unknown)
    assert np.isinf(again).sum() == 0
    if isinstance(X, pd.DataFrame):
        assert list(decoded.dtypes) == list(X.dtypes)
        assert (decoded[["Int64", "whole floats", "heavy", "spike"]] >= 0).all(axis=None)
        assert decoded["dates"].map(lambda day: 1 <= day.year <= 9999).all()
        assert np.array_equal(decoded["rounded"].round(2), decoded["rounded"])
    elif isinstance(X, pl.DataFrame):
        assert decoded.schema == X.schema
        decoded.rows()  # Python can hold all values
    else:
        assert decoded.schema == X.schema
        decoded.to_pylist()


UNKNOWN = {"nothing", "NaN", "Null", "null"}


@pytest.mark.parametrize("way", ["pickle", "skops"])
def test_copies_in_files_give_the_same_bits(table, way):
    X, _ = table
    encoder = TableEncoder(kinds=None).fit(X)
    codes = encoder.transform(X)
    if way == "pickle":
        copy = pickle.loads(pickle.dumps(encoder))
    else:
        file = skops.io.dumps(encoder)
        # Nothing but the class itself has to be trusted.
        trusted = skops.io.get_untrusted_types(data=file)
        assert trusted == ["skae._table._encoder.TableEncoder"]
        copy = skops.io.loads(file, trusted=trusted)
    assert_array_equal(copy.transform(X), codes)
    assert_same_table(copy.inverse_transform(codes), encoder.inverse_transform(codes))
    assert copy.blocks_ == encoder.blocks_
    pd.testing.assert_frame_equal(copy.schema_, encoder.schema_)


def test_input_is_not_changed():
    X, _ = pandas_table()
    before = X.copy(deep=True)
    encoder = TableEncoder().fit(X)
    encoder.inverse_transform(encoder.transform(X))
    pd.testing.assert_frame_equal(X, before, check_exact=True)


# Round trips of drawn values

MICROSECONDS = st.integers(-(2**52), 2**52 - 1)
DRAWN = {
    "integers": (st.integers(-(2**52), 2**52 - 1), "Int64", pl.Int64, pa.int64()),
    "bytes": (st.integers(0, 255), "UInt8", pl.UInt8, pa.uint8()),
    "booleans": (st.booleans(), "boolean", pl.Boolean, pa.bool_()),
    "text": (st.text("abcé\0 ", max_size=3), "string", pl.String, pa.string()),
    "dates": (st.dates(), object, pl.Date, pa.date32()),
    "times": (st.times(), object, pl.Time, pa.time64("us")),
    "datetimes": (
        st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2040, 1, 1)),
        "datetime64[us]",
        pl.Datetime("us"),
        pa.timestamp("us"),
    ),
    "durations": (
        MICROSECONDS.map(lambda n: dt.timedelta(microseconds=n)),
        "timedelta64[us]",
        pl.Duration("us"),
        pa.duration("us"),
    ),
    "decimals": (
        st.decimals(-99999, 99999, places=2, allow_nan=False),
        pd.ArrowDtype(pa.decimal128(9, 2)),
        pl.Decimal(9, 2),
        pa.decimal128(9, 2),
    ),
}


def drawn_table(library, name, values):
    _, pandas_type, polars_type, arrow_type = DRAWN[name]
    if library == "pandas":
        return pd.DataFrame({name: pd.Series(values, dtype=pandas_type)})
    if library == "polars":
        return pl.DataFrame({name: pl.Series(values, dtype=polars_type)})
    return pa.table({name: pa.array(values, arrow_type)})


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.integers(-(2**52), 2**52 - 1), min_size=1, max_size=30),
    st.integers(-(2**62), 2**62),
)
@example([0, 0, 0, 0, 0, 0, -70, 2_251_799_813_685_217], 0)
def test_integers_within_the_digits_of_a_float_come_back_exactly(values, origin):
    X = pd.DataFrame({"x": np.array(values) + origin})
    encoder = TableEncoder().fit(X)
    pd.testing.assert_frame_equal(encoder.inverse_transform(encoder.transform(X)), X)


@pytest.mark.parametrize("library", TABLES)
@pytest.mark.parametrize("name", DRAWN)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_drawn_values_come_back_exactly(library, name, data):
    elements = st.none() | DRAWN[name][0]
    values = data.draw(st.lists(elements, min_size=1, max_size=30))
    X = drawn_table(library, name, values)
    encoder = TableEncoder(max_categories=MANY).fit(X)
    assert_same_table(encoder.inverse_transform(encoder.transform(X)), X)


@example(values=[0.0] * 20 + [1.2e308], width=64)
@example(values=[0.0] + [5e-324] * 30, width=64)
@example(values=[1.0] + [1e-200 * i for i in range(60)], width=64)
@settings(deadline=None, max_examples=100)
@given(
    values=st.lists(
        st.floats(allow_infinity=False) | st.sampled_from([0.0, 1.0, 1e9]), min_size=1, max_size=60
    ),
    width=st.sampled_from([32, 64]),
)
def test_drawn_floats_come_back_to_nine_digits(values, width):
    with np.errstate(over="ignore"):
        x = np.array(values).astype(f"float{width}")
    x[np.isinf(x)] = 0.0
    X = pd.DataFrame({"x": x})
    encoder = TableEncoder().fit(X)
    codes = encoder.transform(X)
    assert_array_equal(np.isnan(codes[:, 0]), np.isnan(x))
    again = encoder.inverse_transform(codes)["x"].to_numpy()
    assert again.dtype == x.dtype
    known = x[~np.isnan(x)].astype(np.float64)
    if len(known):
        unit = max(np.abs(known).max(), 1e-300)
        known, again = known / unit, again[~np.isnan(x)].astype(np.float64) / unit
        digits = 1e-9 if width == 64 else 1e-7
        assert np.all(np.abs(again - known) <= digits * (np.abs(known) + np.std(known)))


@settings(deadline=None, max_examples=100)
@given(
    ticks=st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=20, unique=True),
    zone=st.sampled_from([None, "Europe/Berlin", "Asia/Kathmandu", "America/Sao_Paulo"]),
)
def test_nanoseconds_over_centuries_come_back_exactly(ticks, zone):
    times = pd.Series(np.array(ticks).view("M8[ns]"))
    X = pd.DataFrame(
        {"t": times if zone is None else times.dt.tz_localize("UTC").dt.tz_convert(zone)}
    )
    encoder = TableEncoder().fit(X)
    again = encoder.inverse_transform(encoder.transform(X))
    if "day" in encoder.schema_["transformation"][0] or max(ticks) - min(ticks) < 2**53:
        pd.testing.assert_frame_equal(again, X)


# Kinds


def schema(X, **parameters):
    return TableEncoder(**parameters).fit(X).schema_.set_index("column")


def test_kinds_are_read_from_types_and_values():
    X, _ = pandas_table()
    kinds = schema(X)["kind"]
    expected = {
        "number": ["float64", "Float64", "float32", "heavy", "huge", "decimals", "sparse"],
        "integer": ["int8", "int64", "far int64"],
        "count": ["Int64", "whole floats", "object integers"],
        "boolean": ["bool", "boolean", "object booleans", "arrow bool"],
        "category": ["str", "object strings", "string", "category", "arrow dictionary"],
        "ordinal": ["ordered", "intervals"],
        "datetime": ["datetime", "old datetime", "Berlin", "arrow zone"],
        "date": ["dates", "arrow date"],
        "time": ["times"],
        "duration": ["timedelta"],
        "constant": ["one text", "one number", "nothing", "NaN"],
    }
    for kind, names in expected.items():
        assert set(kinds[names]) == {kind}
    assert schema(pd.DataFrame({"x": [0, 1, 1], "y": [0.0, 1.0, np.nan]}))["kind"].to_list() == [
        "boolean",
        "boolean",
    ]


def test_schema_says_what_is_unknown_and_how_wide_columns_are():
    X = pd.DataFrame({"town": ["Ulm", None, "Bonn", "Ulm"], "n": [3.5, 2.25, np.nan, np.nan]})
    encoder = TableEncoder().fit(X)
    expected = pd.DataFrame(
        {
            "column": ["town", "n"],
            "kind": ["category", "number"],
            "transformation": ["one-hot", "standardize"],
            "unknown": [0.25, 0.5],
            "n_encoded": [2, 1],
        }
    )
    pd.testing.assert_frame_equal(encoder.schema_, expected)
    town, n = encoder.blocks_
    assert (town.name, town.kind, town.columns, town.n_levels) == (
        "town",
        "category",
        slice(0, 2),
        2,
    )
    assert (n.name, n.kind, n.columns, n.n_levels) == ("n", "number", slice(2, 3), None)


def test_numbers_are_standardized_over_the_known_cells():
    x = np.random.default_rng(0).normal(5, 3, size=100)
    x[::9] = np.nan
    expected = StandardScaler().fit_transform(x[:, None])
    assert_allclose(TableEncoder().fit_transform(pd.DataFrame({"x": x})), expected, rtol=1e-12)


def test_plain_arrays_are_tables_of_numbers():
    X = np.random.default_rng(0).normal(size=(50, 3))
    X[3, 1] = np.nan
    encoder = TableEncoder().fit(X)
    codes = encoder.transform(X)
    assert_allclose(codes, StandardScaler().fit_transform(X), rtol=1e-12)
    again = encoder.inverse_transform(codes)
    assert type(again) is np.ndarray
    assert_allclose(again, X, rtol=1e-12)
    assert list(encoder.get_feature_names_out()) == ["x0", "x1", "x2"]
    masked = np.ma.masked_array(np.nan_to_num(X), np.isnan(X))
    assert_array_equal(TableEncoder().fit_transform(masked), codes)


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.uint16, bool])
def test_arrays_come_back_in_their_dtype(dtype):
    X = np.random.default_rng(0).integers(0, 2 if dtype is bool else 100, (30, 2)).astype(dtype)
    encoder = TableEncoder().fit(X)
    again = encoder.inverse_transform(encoder.transform(X))
    assert again.dtype == dtype
    assert_array_equal(again, X)


def test_heavy_tails_are_pulled_in_and_others_left_alone():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(
        {
            "normal": rng.normal(size=500),
            "uniform": rng.random(500),
            "two peaks": np.r_[rng.normal(-4, 1, 250), rng.normal(4, 1, 250)],
            "lognormal": rng.lognormal(size=500),
            "cauchy": rng.standard_cauchy(500),
            "exponential": rng.exponential(size=500),
        }
    )
    transformations = schema(X)["transformation"]
    assert set(transformations[:3]) == {"standardize"}
    assert set(transformations[3:]) == {"arcsinh"}
    codes = TableEncoder().fit_transform(X)
    assert np.abs(codes).max() < 6
    assert_allclose(codes.mean(axis=0), 0, atol=1e-9)
    assert_allclose(codes.std(axis=0), 1, rtol=1e-9)


def test_a_spike_is_given_back_as_often_as_it_was():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"x": np.where(rng.random(2000) < 0.4, 0.0, rng.lognormal(size=2000))})
    encoder = TableEncoder().fit(X)
    assert encoder.schema_["transformation"][0] == "quantile"
    codes = encoder.transform(X)[:, 0]
    # Normal scores of mean ranks, but for units.
    scores = norm.ppf((rankdata(X["x"]) - 0.5) / len(X))
    assert np.corrcoef(codes, scores)[0, 1] > 1 - 1e-5
    units = np.polyfit(scores, codes, 1)
    drawn = encoder.inverse_transform(np.polyval(units, rng.normal(size=(20_000, 1))))["x"]
    share = (X["x"] == 0).mean()
    assert abs((drawn == 0).mean() - share) < 0.02
    assert drawn.between(X["x"].min(), X["x"].max()).all()
    assert_allclose(drawn.quantile([0.6, 0.9]), X["x"].quantile([0.6, 0.9]), rtol=0.1)


def test_a_column_is_bounded_where_many_rows_are_at_its_extreme():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(
        {
            "stars": rng.integers(1, 6, 200),
            "percent": rng.normal(80, 20, 200).clip(max=100),
            "height": rng.normal(170, 10, 200),
            "balance": rng.normal(0, 10, 200),
        }
    )
    encoder = TableEncoder().fit(X)
    low, high = (encoder.inverse_transform(np.full((1, 4), size)).iloc[0] for size in (-1e3, 1e3))
    assert (low["stars"], high["stars"]) == (1, 5)
    assert (low["percent"] >= 0, high["percent"]) == (True, 100)
    assert (low["height"], high["height"] > 1000) == (0, True)
    assert low["balance"] < -1000


def test_numbers_keep_the_digits_of_the_column():
    x = np.random.default_rng(0).normal(size=100)
    X = pd.DataFrame({"rounded": x.round(1), "exact": x, "float32": x.round(2).astype(np.float32)})
    encoder = TableEncoder().fit(X)
    drawn = encoder.inverse_transform(np.random.default_rng(1).normal(size=(50, 3)))
    assert_array_equal(drawn["rounded"], drawn["rounded"].round(1))
    assert_array_equal(drawn["float32"], drawn["float32"].round(2))
    assert not np.array_equal(drawn["exact"], drawn["exact"].round(6))


def test_categories_are_one_hot_as_in_scikit_learn():
    town = np.random.default_rng(0).choice(["Ulm", "Bonn", "Jena"], (50, 1))
    expected = OneHotEncoder(sparse_output=False).fit(town)
    encoder = TableEncoder().fit(pd.DataFrame(town, columns=["town"]))
    assert_array_equal(
        encoder.transform(pd.DataFrame(town, columns=["town"])), expected.transform(town)
    )
    assert list(encoder.get_feature_names_out()) == list(expected.get_feature_names_out(["town"]))


def test_rare_levels_share_a_column_as_in_scikit_learn():
    letters = np.repeat(list("abcdefg"), [30, 20, 10, 4, 3, 2, 1])[:, None]
    expected = OneHotEncoder(max_categories=4, sparse_output=False).fit(letters)
    X = pd.DataFrame(letters, columns=["x"])
    encoder = TableEncoder(max_categories=4).fit(X)
    codes = encoder.transform(X)
    assert_array_equal(codes, expected.transform(letters))
    assert encoder.schema_["transformation"][0] == "one-hot, rare levels grouped"
    assert encoder.get_feature_names_out()[-1] == "x_infrequent"
    assert set(encoder.inverse_transform(codes)["x"]) == set("abcd")  # the most frequent of d to g


def test_ordered_categories_are_thresholds():
    sizes = pd.CategoricalDtype(["S", "M", "L", "XL"], ordered=True)
    X = pd.DataFrame({"size": pd.Series(["M", "S", None, "XL", "M"], dtype=sizes)})
    encoder = TableEncoder().fit(X)
    assert_array_equal(encoder.transform(X), [[1, 0], [0, 0], [np.nan] * 2, [1, 1], [1, 0]])
    assert list(encoder.get_feature_names_out()) == ["size_M", "size_XL"]
    decoded = encoder.inverse_transform([[0.4, 0.3], [0.2, 0.9], [0.6, 0.8]])["size"]
    assert decoded.to_list() == ["S", "M", "XL"]
    assert decoded.dtype == sizes


def test_many_ordered_levels_are_ranks():
    levels = [f"{i:03d}" for i in range(80)]
    X = pd.DataFrame({"x": pd.Categorical(levels, levels, ordered=True)})
    encoder = TableEncoder(max_categories=20).fit(X)
    codes = encoder.transform(X)
    assert_allclose(codes, StandardScaler().fit_transform(np.arange(80.0)[:, None]))
    pd.testing.assert_frame_equal(encoder.inverse_transform(codes), X)
    assert encoder.blocks_[0].n_levels == 80


def angle(codes, names, part):
    """Share of a cycle from its sine and cosine."""
    sine, cosine = (codes[:, list(names).index(f"t_{part}_{wave}")] for wave in ("sin", "cos"))
    return np.arctan2(sine, cosine) / (2 * np.pi) % 1


@pytest.mark.parametrize("zone", [None, "Europe/Berlin", "America/Sao_Paulo", "Asia/Kathmandu"])
def test_parts_of_the_calendar_are_those_of_the_local_clock(zone):
    ticks = np.random.default_rng(0).integers(0, 2**31, 200)
    times = pd.Series(ticks).astype("M8[s]").dt.tz_localize("UTC").dt.tz_convert(zone or "UTC")
    times = times if zone else times.dt.tz_localize(None)
    encoder = TableEncoder().fit(times.to_frame("t"))
    codes, names = encoder.transform(times.to_frame("t")), encoder.get_feature_names_out()
    clock = times.dt
    seconds = 3600 * clock.hour + 60 * clock.minute + clock.second
    assert_allclose(angle(codes, names, "time_of_day"), seconds / 86_400, atol=1e-12)
    assert_allclose(angle(codes, names, "weekday"), clock.day_of_week / 7, atol=1e-12)
    days = 365 + clock.is_leap_year
    assert_allclose(angle(codes, names, "day_of_year"), (clock.day_of_year - 1) / days, atol=1e-12)
    assert_allclose(codes[:, 0], StandardScaler().fit_transform(ticks[:, None])[:, 0], rtol=1e-9)


def test_parts_of_the_calendar_that_do_not_vary_are_kept():
    mondays = pd.date_range("2015-01-05", periods=100, freq="7D", tz="Europe/Berlin")
    nines = mondays + pd.Timedelta("9h")
    X = pd.DataFrame(
        {"midnight": mondays, "nine": nines.tz_localize(None).tz_localize("Asia/Tokyo")}
    )
    encoder = TableEncoder().fit(X)
    assert set(encoder.schema_["transformation"]) == {"time line, year"}
    drawn = encoder.inverse_transform(np.random.default_rng(0).normal(size=(200, 6)))
    for name, hour in {"midnight": 0, "nine": 9}.items():
        clock = drawn[name].dt
        assert set(clock.day_of_week) == {0}
        assert set(zip(clock.hour, clock.minute, clock.second, strict=True)) == {(hour, 0, 0)}


def test_the_time_of_day_is_decoded_from_its_own_code():
    hours = pd.Series(pd.date_range("2000-01-01", periods=5000, freq="37h"))
    office = hours[hours.dt.hour.between(9, 16) & (hours.dt.day_of_week < 5)].to_frame("t")
    encoder = TableEncoder().fit(office)
    codes = encoder.transform(office)
    codes[:, 0] += np.random.default_rng(0).normal(scale=0.1, size=len(codes))  # months
    drawn = encoder.inverse_transform(codes)["t"]
    assert_array_equal(drawn.dt.hour, office["t"].dt.hour)
    assert_array_equal(drawn.dt.day_of_week, office["t"].dt.day_of_week)


def test_times_are_given_back_in_the_resolution_of_the_column():
    X = pd.DataFrame(
        {"t": pd.date_range("2020-01-01 00:10", periods=300, freq="15h").as_unit("ns")}
    )
    encoder = TableEncoder().fit(X)
    drawn = encoder.inverse_transform(np.random.default_rng(0).normal(size=(100, 5)))["t"]
    assert (drawn.dt.floor("min") == drawn).all()


def test_the_day_of_a_time_is_a_circle():
    X = pd.DataFrame({"t": [dt.time(23, 59), dt.time(0, 1), dt.time(12, 0)]})
    late, early, noon = TableEncoder().fit_transform(X)
    assert np.linalg.norm(late - early) < 0.01
    assert np.linalg.norm(late - noon) > 1.9


def test_kinds_can_be_chosen():
    X = pd.DataFrame(
        {"zip": [89073, 53111, 89073], "flag": [0, 1, 1], "grade": [3, 1, 2], "n": [1.5, 2.0, 2.5]}
    )
    kinds = {"zip": "category", "flag": "number", "grade": "ordinal", "n": "category"}
    encoder = TableEncoder(kinds).fit(X)
    assert dict(zip(X, encoder.schema_["kind"], strict=True)) == kinds
    assert list(encoder.get_feature_names_out()) == [
        *("zip_53111", "zip_89073"),
        "flag",
        *("grade_2", "grade_3"),
        *("n_1.5", "n_2", "n_2.5"),
    ]
    pd.testing.assert_frame_equal(encoder.inverse_transform(encoder.transform(X)), X)
    enum = pl.DataFrame({"e": pl.Series(["b", "a", "c"], dtype=pl.Enum(["c", "b", "a"]))})
    encoder = TableEncoder({"e": "ordinal"}).fit(enum)
    assert_array_equal(encoder.transform(enum), [[1, 0], [1, 1], [0, 0]])
    polars.testing.assert_frame_equal(encoder.inverse_transform(encoder.transform(enum)), enum)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("number", 1.5),
        ("number", 3),
        ("count", 3),
        ("boolean", True),
        ("category", "Ulm"),
        ("ordinal", 3),
        ("datetime", pd.Timestamp("2020-02-29 12:34:56")),
        ("date", dt.date(1066, 10, 14)),
        ("time", dt.time(12, 34, 56, 789)),
        ("duration", pd.Timedelta("3D")),
        ("constant", "Ulm"),
    ],
)
def test_chosen_kinds_of_columns_of_one_value_come_back(kind, value):
    X = pd.DataFrame({"x": [value, value]})
    encoder = TableEncoder({"x": kind}).fit(X)
    assert encoder.schema_["kind"][0] == kind
    pd.testing.assert_frame_equal(encoder.inverse_transform(encoder.transform(X)), X)
    noise = np.random.default_rng(0).normal(size=(20, encoder.transform(X).shape[1]))
    assert encoder.inverse_transform(noise).dtypes.equals(X.dtypes)


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        ({"a": "numeric"}, r"kinds\['a'\] is 'numeric'. It must be one of 'number'"),
        ({"zip": "category"}, "kinds names a column 'zip', which is not a column of X"),
        (
            {"a": "number"},
            "column 'a' is of kind 'number', but it holds text, which can be of kind",
        ),
        ({"b": "integer"}, "column 'b' is of kind 'integer', but it holds numbers that are not"),
        ({"c": "count"}, "column 'c' is of kind 'count', but it holds negative numbers"),
        ({"c": "boolean"}, "column 'c' is of kind 'boolean', but it holds other values than 0 and"),
        ({"d": "ordinal"}, "column 'd' is of kind 'ordinal', but it holds categories without an"),
        ({"c": "constant"}, "column 'c' is of kind 'constant', but it holds integers, which can"),
    ],
)
def test_kinds_that_columns_cannot_have_are_refused(kinds, words):
    X = pd.DataFrame(
        {"a": ["x", "y"], "b": [0.5, 1.0], "c": [-1, 2], "d": pd.Categorical(["x", "y"])}
    )
    with pytest.raises(ValueError, match=words):
        TableEncoder(kinds).fit(X)


@pytest.mark.parametrize(
    ("name", "value"), [("kinds", "category"), ("max_categories", 1), ("unsupported", "ignore")]
)
def test_bad_parameters_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        TableEncoder(**{name: value}).fit(pd.DataFrame({"x": [1.0, 2.0]}))


# Unknown cells and new values


def test_types_without_a_missing_value_become_nullable():
    X = pd.DataFrame(
        {"i": np.arange(5), "b": [True, False] * 2 + [True], "u": np.arange(5, dtype="u1")}
    )
    encoder = TableEncoder().fit(X)
    codes = encoder.transform(X)
    codes[1] = np.nan
    again = encoder.inverse_transform(codes)
    assert [str(dtype) for dtype in again.dtypes] == ["Int64", "boolean", "UInt8"]
    assert again.isna().sum(axis=1).to_list() == [0, 3, 0, 0, 0]
    again = TableEncoder().fit(np.arange(6).reshape(3, 2)).inverse_transform([[0, np.nan]])
    assert_array_equal(again, [[2, np.nan]])


def test_new_values_of_columns_of_few_values_are_unknown_cells_with_a_warning():
    sizes = pd.CategoricalDtype(["S", "M", "L"], ordered=True)
    X = pd.DataFrame(
        {
            "town": ["Ulm", "Bonn"],
            "size": pd.Series(["S", "L"], dtype=sizes),
            "flag": [0, 1],
            "same": 7,
        }
    )
    new = pd.DataFrame(
        {
            "town": ["Jena", "Ulm"],
            "size": pd.Series(["M", "L"], dtype=sizes),
            "flag": [2, 1],
            "same": [8, 7],
        }
    )
    encoder = TableEncoder().fit(X)
    words = r"unknown cells now. 'town': Jena; 'size': M; 'flag': 2; 'same': 8"
    with pytest.warns(UserWarning, match=words):
        codes = encoder.transform(new)
    assert np.isnan(codes[0]).all()
    assert not np.isnan(codes[1]).any()
    assert encoder.inverse_transform(codes).isna().to_numpy().tolist() == [[True] * 4, [False] * 4]


def test_columns_of_nothing_known_stay_unknown(recwarn):
    X = pd.DataFrame(
        {"a": [np.nan] * 3, "b": [None] * 3, "c": pd.Series([pd.NaT] * 3), "d": [1, 2, 3]}
    )
    encoder = TableEncoder({"b": "category", "a": "count"}).fit(X)
    assert_array_equal(np.isnan(encoder.transform(X)).all(axis=0), [True, True, True, False])
    pd.testing.assert_frame_equal(encoder.inverse_transform(encoder.transform(X)), X)
    assert not recwarn.list
    with pytest.warns(UserWarning, match="'a': 1.5"):
        codes = encoder.transform(X.assign(a=1.5))
    assert np.isnan(codes[:, 0]).all()


def test_a_column_that_is_wholly_unknown_in_new_rows_is_unknown(table):
    X, _ = table
    encoder = TableEncoder().fit(X)
    if isinstance(X, pd.DataFrame):
        nothing = pd.DataFrame({name: [None, None] for name in X})
    elif isinstance(X, pl.DataFrame):
        nothing = pl.DataFrame({name: [None, None] for name in X.columns})
    else:
        nothing = pa.table({name: pa.nulls(2) for name in X.column_names})
    codes = encoder.transform(nothing)
    assert np.isnan(codes).all()
    again = encoder.inverse_transform(codes)
    if isinstance(again, pl.DataFrame):
        assert set(again.null_count().row(0)) == {2}
    else:
        frame = again if isinstance(again, pd.DataFrame) else again.to_pandas()
        assert frame.isna().to_numpy().all()


# Frames


def test_rows_of_another_library_are_encoded_alike():
    rng = np.random.default_rng(0)
    columns = {
        "town": rng.choice(["Ulm", "Bonn"], 20).tolist(),
        "n": with_gaps(rng.integers(0, 9, 20).tolist()),
        "t": [dt.datetime(2020, 1, 1) + dt.timedelta(hours=7 * i) for i in range(20)],
    }
    frames = [pl.DataFrame(columns), pa.table(columns), pd.DataFrame(columns)]
    frames[2]["t"] = frames[2]["t"].astype("M8[ns]")
    encoder = TableEncoder().fit(frames[0])
    codes = [encoder.transform(frame) for frame in frames]
    assert_array_equal(codes[1], codes[0])
    assert_array_equal(codes[2], codes[0])
    assert type(encoder.inverse_transform(codes[2])) is pl.DataFrame


def test_frames_of_other_libraries_come_back_as_those_of_pandas(monkeypatch):
    X = pl.DataFrame({"town": ["Ulm", "Bonn", None], "n": [1.5, 2.5, 3.5]})
    monkeypatch.delitem(_frames.COLUMN_WRITERS, "polars")
    encoder = TableEncoder().fit(X)
    pd.testing.assert_frame_equal(encoder.inverse_transform(encoder.transform(X)), X.to_pandas())


def test_integers_that_no_float_tells_apart_come_back_to_fifteen_digits():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"x": rng.integers(0, 2**64, 50, dtype=np.uint64)})
    X["y"] = rng.integers(-(2**63), 2**63, 50)
    encoder = TableEncoder().fit(X)
    again = encoder.inverse_transform(encoder.transform(X))
    assert again.dtypes.equals(X.dtypes)
    assert_allclose(again.astype(float), X.astype(float), rtol=1e-13, atol=2**63 * 1e-15)


def test_decoded_rows_have_the_index_of_the_codes():
    X, _ = pandas_table()
    encoder = TableEncoder().set_output(transform="pandas").fit(X)
    codes = encoder.transform(X)
    assert codes.index.equals(X.index)
    assert list(codes.columns) == list(encoder.get_feature_names_out())
    assert encoder.inverse_transform(codes[::-2]).index.equals(X.index[::-2])
    assert encoder.inverse_transform(codes.to_numpy()).index.equals(pd.RangeIndex(N_ROWS))


def test_codes_may_be_a_frame_of_polars():
    X, _ = polars_table()
    encoder = TableEncoder().set_output(transform="polars").fit(X)
    codes = encoder.transform(X)
    assert type(codes) is pl.DataFrame
    assert_same_table(encoder.inverse_transform(codes), encoder.inverse_transform(codes.to_numpy()))


def test_names_of_columns_come_back():
    X = pd.DataFrame({2020: [1.5, 2.5], 2021: ["a", "b"]}).rename_axis(columns="year")
    encoder = TableEncoder().fit(X)
    pd.testing.assert_frame_equal(encoder.inverse_transform(encoder.transform(X)), X)
    assert list(encoder.get_feature_names_out()) == ["2020", "2021_a", "2021_b"]
    with pytest.raises(
        ValueError, match=r"columns of X are \[2021, 2020\].*but were \[2020, 2021\]"
    ):
        encoder.transform(X[[2021, 2020]])


def test_names_of_encoded_columns_are_unique():
    X = pd.DataFrame({"a": ["b_c", "d"], "a_b": ["c", "d"], "a_d": [1.5, 2.5]})
    names = TableEncoder().fit(X).get_feature_names_out()
    assert list(names) == ["a_b_c", "a_d", "a_b_c_2", "a_b_d", "a_d_2"]


def test_encoder_is_a_step_of_a_pipeline_and_of_a_column_transformer():
    X, _ = pandas_table()
    X = X.loc[:, X.notna().all()]
    X = X.drop(columns=["huge", "tiny"])
    model = make_pipeline(TableEncoder(), PCA(3)).set_output(transform="pandas")
    codes = model.fit_transform(X)
    again = model.inverse_transform(codes)
    assert list(again.dtypes) == list(X.dtypes)
    assert again.columns.equals(X.columns)
    columns = ColumnTransformer([("table", TableEncoder(), ["str", "bool"])], remainder="drop")
    X, _ = pandas_table()
    assert_array_equal(columns.fit_transform(X), TableEncoder().fit_transform(X[["str", "bool"]]))
    assert list(columns.get_feature_names_out())[:2] == ["table__str_a", "table__str_b"]


def test_clones_are_not_fitted_and_keep_parameters():
    encoder = TableEncoder({"x": "category"}, max_categories=7, unsupported="drop")
    encoder.fit(pd.DataFrame({"x": [1, 2, 2]}))
    copy = clone(encoder)
    assert copy.get_params() == encoder.get_params()
    for use in (lambda: copy.schema_, lambda: copy.blocks_, copy.get_feature_names_out):
        with pytest.raises(NotFittedError):
            use()


def test_tags_say_that_gaps_and_categories_are_welcome():
    tags = get_tags(TableEncoder()).input_tags
    assert tags.allow_nan
    assert tags.categorical
    assert not tags.sparse


# Bad input


N_BAD = 40
LISTS = [[1, 2]] * N_BAD
TEXT = [f"a sentence of its own, number {i}" for i in range(N_BAD)]
UNSUPPORTED = {
    "lists": (pd.DataFrame({"bad": LISTS}), "Python objects of type list"),
    "objects": (pd.DataFrame({"bad": [{"a": 1}] * N_BAD}), "Python objects of type dict"),
    "several types": (
        pd.DataFrame({"bad": [1, "a"] * (N_BAD // 2)}),
        r"several types \(int, str\)",
    ),
    "complex": (pd.DataFrame({"bad": np.ones(N_BAD) * 1j}), "complex numbers; give real and"),
    "complex objects": (pd.DataFrame({"bad": [1j] * N_BAD}, dtype=object), "complex numbers"),
    "bytes": (pd.DataFrame({"bad": [b"a"] * N_BAD}), "bytes; decode them"),
    "periods": (pd.DataFrame({"bad": pd.period_range("2020", periods=N_BAD)}), "periods; convert"),
    "intervals": (pd.DataFrame({"bad": pd.interval_range(0, N_BAD)}), "intervals; make them"),
    "huge integers": (pd.DataFrame({"bad": [2**70] * N_BAD}), "more than 64 bits"),
    "mixed time zones": (
        pd.DataFrame(
            {"bad": [pd.Timestamp(0, tz="UTC"), pd.Timestamp(0, tz="Asia/Tokyo")] * (N_BAD // 2)},
            dtype=object,
        ),
        "several time zones; convert them by pandas.to_datetime",
    ),
    "a zone without a name": (
        pd.DataFrame(
            {"bad": pd.Series([pd.Timestamp(0)] * N_BAD).dt.tz_localize(tzoffset("x", 60))}
        ),
        "a time zone without a name.*tz_convert",
    ),
    "Python timedeltas": (
        pd.DataFrame({"bad": [dt.timedelta(1)] * N_BAD}, dtype=object),
        "to_timedelta",
    ),
    "times with zones": (
        pd.DataFrame({"bad": [dt.time(1, tzinfo=dt.UTC)] * N_BAD}, dtype=object),
        "time zone; make them strings",
    ),
    "tuples as categories": (
        pd.DataFrame({"bad": pd.Categorical([(1, i) for i in range(N_BAD)])}),
        "categories of type tuple",
    ),
    "polars list": (pl.DataFrame({"bad": LISTS}), "nested values; give each part"),
    "polars struct": (pl.DataFrame({"bad": [{"a": 1}] * N_BAD}), "nested values"),
    "polars array": (
        pl.DataFrame({"bad": pl.Series(LISTS, dtype=pl.Array(pl.Int64, 2))}),
        "nested values",
    ),
    "polars binary": (pl.DataFrame({"bad": [b"a"] * N_BAD}), "bytes"),
    "polars object": (
        pl.DataFrame({"bad": pl.Series([object()] * N_BAD, dtype=pl.Object)}),
        "Python objects",
    ),
    "arrow list": (pa.table({"bad": LISTS}), "nested values"),
    "arrow struct": (pa.table({"bad": [{"a": 1}] * N_BAD}), "nested values"),
    "arrow map": (
        pa.table({"bad": pa.array([[("a", 1)]] * N_BAD, pa.map_(pa.string(), pa.int64()))}),
        "nested values",
    ),
    "arrow binary": (pa.table({"bad": [b"a"] * N_BAD}), "bytes"),
    "free text": (pd.DataFrame({"bad": TEXT}), "skrub.StringEncoder"),
    "10,000 levels": (
        pd.DataFrame({"bad": pd.Categorical([f"level {i % 10_000}" for i in range(20_000)])}),
        "10,000 different values in 20,000 known cells",
    ),
}


def with_column(X, name):
    """Add a column of numbers at the end."""
    numbers = np.arange(len(X) if not isinstance(X, pa.Table) else X.num_rows) / 4
    if isinstance(X, pd.DataFrame):
        return X.assign(**{name: numbers})
    if isinstance(X, pl.DataFrame):
        return X.with_columns(pl.Series(name, numbers))
    return X.append_column(name, pa.array(numbers))


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_columns_without_an_encoding_are_refused_or_left_out(name):
    X, words = UNSUPPORTED[name]
    parameters = {"max_categories": 20}
    with pytest.raises(ValueError, match=f"column 'bad' holds .*{words}"):
        TableEncoder(**parameters).fit(X)
    X = with_column(X, "good")
    encoder = TableEncoder(unsupported="drop", **parameters)
    with pytest.warns(UserWarning, match=f"leaves out .*column 'bad' holds .*{words}"):
        encoder.fit(X)
    assert encoder.schema_["kind"].to_list() == ["dropped", "number"]
    assert [block.name for block in encoder.blocks_] == ["good"]
    codes = encoder.transform(X)
    assert codes.shape == (len(X["good"]), 1)
    good = X[["good"]] if isinstance(X, (pd.DataFrame, pl.DataFrame)) else X.select(["good"])
    assert_same_table(encoder.inverse_transform(codes), good, ["good"])


def test_a_column_of_many_levels_is_taken_if_the_user_wants_it():
    X = pd.DataFrame({"zip": [f"{i:05d}" for i in range(100)] + ["00007"] * 3})
    encoder = TableEncoder({"zip": "category"}, max_categories=10).fit(X)
    assert encoder.transform(X).shape == (103, 10)


@pytest.mark.parametrize("library", TABLES)
def test_infinity_is_an_error_that_names_the_column(library):
    make = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}[library]
    good, bad = make({"x": [1.0, 2.5]}), make({"x": [1.0, -np.inf]})
    with pytest.raises(ValueError, match="Column 'x' of X holds infinite numbers"):
        TableEncoder().fit(bad)
    with pytest.raises(ValueError, match="Column 'x' of X holds infinite numbers"):
        TableEncoder().fit(good).transform(bad)
    with pytest.raises(ValueError, match="infinity"):
        TableEncoder().fit(good).inverse_transform([[np.inf]])


def test_duplicate_names_and_levels_of_names_are_refused():
    with pytest.raises(ValueError, match="same name: 'a'. Rename them"):
        TableEncoder().fit(pd.DataFrame(np.ones((3, 2)), columns=["a", "a"]))
    with pytest.raises(ValueError, match="same name: 'a'"):
        TableEncoder().fit(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]))
    columns = pd.MultiIndex.from_product([["a"], ["b", "c"]])
    with pytest.raises(ValueError, match="names of several levels. Join them"):
        TableEncoder().fit(pd.DataFrame(np.ones((3, 2)), columns=columns))


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ([1.5, 2.5], ["a", "b"], "holds text now, and numbers in fit"),
        (["a", "b"], [1, 2], "holds integers now, and text in fit"),
        ([True, False], [1.5, 2.0], "holds numbers now, and booleans in fit"),
        ([1, 2], pd.to_datetime(["2020-01-01", "2021-01-01"]), "holds datetimes now, and integers"),
        (["a", "b"], [[1], [2]], "holds Python objects of type list"),
        (
            pd.to_datetime(["2020-01-01", "2021-01-01"]),
            pd.to_datetime(["2020-01-01", "2021-01-01"]).tz_localize("UTC"),
            "holds datetimes with a time zone, only in fit or only now",
        ),
    ],
)
def test_a_column_that_changes_its_kind_is_an_error(before, now, words):
    encoder = TableEncoder().fit(pd.DataFrame({"x": before}))
    with pytest.raises(ValueError, match=f"Column 'x' of X {words}"):
        encoder.transform(pd.DataFrame({"x": now}))


def test_integers_with_new_gaps_are_still_integers():
    encoder = TableEncoder().fit(pd.DataFrame({"x": [1, 2, 3]}))
    codes = encoder.transform(pd.DataFrame({"x": [1.0, np.nan, 3.0]}))
    assert encoder.inverse_transform(codes)["x"].to_list() == [1, pd.NA, 3]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a"], "Feature names seen at fit time, yet now missing:\n- b"),
        (["a", "b", "c"], "Feature names unseen at fit time:\n- c"),
        (["b", "a"], "Feature names must be in the same order"),
    ],
)
def test_missing_extra_and_reordered_columns_are_errors(names, words):
    X = pd.DataFrame({"a": ["x", "y"], "b": [1.0, 2.5], "c": [1, 2]})
    encoder = TableEncoder().fit(X[["a", "b"]])
    for frame in (X[names], pl.DataFrame(X.to_dict("list"))[names]):
        with pytest.raises(ValueError, match=words):
            encoder.transform(frame)


@pytest.mark.parametrize("library", TABLES)
def test_empty_frames_are_errors(library):
    make = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}[library]
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        TableEncoder().fit(
            make({"x": pa.array([], pa.float64())} if library == "pyarrow" else {"x": []})
        )
    with pytest.raises(ValueError, match=r"0 sample\(s\)|0 feature\(s\)"):
        TableEncoder().fit(make({}))


def test_one_row_is_a_table_of_constants(table):
    X, _ = table
    row = X.slice(0, 1) if isinstance(X, pa.Table) else X[:1]
    encoder = TableEncoder().fit(row)
    assert set(encoder.schema_["kind"]) == {"constant"}
    codes = codes_of(encoder, row)
    assert set(np.unique(np.nan_to_num(codes))) == {0.0}
    assert_same_table(encoder.inverse_transform(codes), row)


def test_other_things_than_tables_are_refused_in_words():
    with pytest.raises(ValueError, match="lazy frame.*collect"):
        TableEncoder().fit(pl.LazyFrame({"x": [1]}))
    with pytest.raises(ValueError, match="Expected 2D array, got 1D"):
        TableEncoder().fit([1.0, 2.0])
    with pytest.raises(ValueError, match="array of datetime64.*DataFrame"):
        TableEncoder().fit(np.zeros((3, 2), dtype="M8[D]"))
    encoder = TableEncoder().fit(pd.DataFrame({"x": [1.0, 2.5]}))
    with pytest.raises(ValueError, match="X has 2 columns, but TableEncoder gives 1"):
        encoder.inverse_transform(np.ones((2, 2)))


def test_a_failed_fit_leaves_the_earlier_one():
    X = pd.DataFrame({"x": ["a", "b"]})
    encoder = TableEncoder().fit(X)
    codes = encoder.transform(X)
    with pytest.raises(ValueError, match="infinite"):
        encoder.fit(pd.DataFrame({"y": [1.0, np.inf], "x": 1.0}))
    assert_array_equal(encoder.transform(X), codes)


def test_nothing_is_warned_of_on_the_way_of_a_good_table(table):
    X, _ = table
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder = TableEncoder().fit(X)
        encoder.inverse_transform(encoder.transform(X))


def test_masked_arrays_of_text_are_refused_as_other_arrays_are():
    X = np.ma.masked_array(np.array([["a", 1.0], ["b", 2.0]], dtype=object), mask=False)
    with pytest.raises(ValueError, match="In column 0"):
        TableEncoder().fit(X)


def test_sparse_columns_of_objects_come_back_as_objects():
    dtype = pd.SparseDtype(object, 0)
    frame = pd.DataFrame({"a": pd.Series([0, 1, 0, 1]).astype(object).astype(dtype)})
    encoder = TableEncoder().fit(frame)
    restored = encoder.inverse_transform(encoder.transform(frame))
    assert restored["a"].tolist() == [0, 1, 0, 1]
