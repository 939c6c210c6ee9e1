"""Tables of every kind: what counts as a number, and what errors say."""

import datetime
import re
import tracemalloc
import warnings
from decimal import Decimal

import narwhals
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sklearn
import torch
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted, validate_data

from skae import (
    PCA,
    AutoencoderOutlierDetector,
    AutoencoderTransformer,
    DenoisingAutoencoder,
    VAETransformer,
)
from skae._denoising_ensemble import DenoisingEnsemble
from skae._validation import (
    NotNumbersError,
    check_finite,
    mean_score,
    validate_codes,
    validate_table,
    validate_weights,
)

AUTOENCODER = AutoencoderTransformer(1, hidden_layer_sizes=(3,), max_iter=1, random_state=0)
ESTIMATORS = [PCA(1), AUTOENCODER, AutoencoderOutlierDetector()]
# The detector with its default model takes tables of any columns.
OF_NUMBERS = [PCA(1), AUTOENCODER, AutoencoderOutlierDetector(PCA(1))]
NUMBERS = pd.DataFrame({"length": [1.0, 2.0, 4.0], "width": [3, 1, 2]})


def class_name(estimator):
    return type(estimator).__name__


# One rule for all containers: kinds of cells, and tables with a column of them beside numbers.

LENGTH = [1.0, 2.0, 4.0]
NAN = np.nan
NUMERIC = {
    "integers": ([3, 1, 2], [3, 1, 2]),
    "floats": ([3.5, 1.0, 2.0], [3.5, 1, 2]),
    "booleans": ([True, False, True], [1, 0, 1]),
    "decimals": ([Decimal("3.5"), Decimal("1"), Decimal("2")], [3.5, 1, 2]),
    "text of numbers": (["3.5", "1", "2e0"], [3.5, 1, 2]),
    "large integers": ([2**53, 1, 2], [2**53, 1, 2]),
}
UNKNOWN = {
    "integers": ([3, None, 2], [3, NAN, 2]),
    "floats": ([3.5, None, 2.0], [3.5, NAN, 2]),
    "booleans": ([True, None, True], [1, NAN, 1]),
    "decimals": ([Decimal("3.5"), None, Decimal("2")], [3.5, NAN, 2]),
    "text of numbers": (["3.5", None, "2e0"], [3.5, NAN, 2]),
    "nothing": ([None, None, None], [NAN, NAN, NAN]),
}
DAY = datetime.datetime(2020, 1, 1, 12)
REFUSED = {
    "text": (["Bern", "Ulm", "Graz"], "could not convert string to float: 'Bern'"),
    "bytes": ([b"a", b"b", b"c"], "could not convert string to float: b'a'"),
    "dates": ([DAY.date()] * 3, "dates or times"),
    "moments": ([DAY] * 3, "dates or times"),
    "times": ([DAY.time()] * 3, "dates or times"),
    "dates with a gap": ([DAY, None, DAY], "dates or times"),
    "durations": ([datetime.timedelta(1)] * 3, "durations"),
    "complex numbers": ([1j, 2j, 3j], "Complex data not supported"),
    "lists": ([[1.0], [2.0], [3.0]], "real number, not '(list|ndarray)'"),
    "dictionaries": ([{"a": 1}, {"a": 2}, {"a": 3}], r"real number, not 'dict'|lists or structs"),
}


def object_array(column):
    X = np.empty((3, 2), dtype=object)
    X[:, 0] = LENGTH
    for row, cell in enumerate(column):
        X[row, 1] = cell
    return X


def masked_array(column):
    mask = [[False, cell is None] for cell in column]
    X = object_array([1e9 if cell is None else cell for cell in column])
    try:
        return np.ma.array(X.astype(np.float64), mask=mask)
    except (TypeError, ValueError):
        return np.ma.array(X, mask=mask)


def with_numpy_type(column):
    """Column in NumPy's own type, such as datetime64, twice: an array has one type."""
    return np.column_stack([np.array(column)] * 2)


def arrow_dictionary(column):
    return pa.table({"length": LENGTH, "odd": pa.array(column).dictionary_encode()})


def pandas_of(make):
    return lambda column: pd.DataFrame({"length": LENGTH, "odd": make(column)})


CONTAINERS = {
    "list": lambda column: [list(row) for row in zip(LENGTH, column, strict=True)],
    "array of objects": object_array,
    "array": with_numpy_type,
    "masked array": masked_array,
    "pandas": pandas_of(pd.Series),
    "pandas objects": pandas_of(lambda column: pd.Series(column, dtype=object)),
    "pandas NA": pandas_of(
        lambda column: pd.Series([pd.NA if cell is None else cell for cell in column], dtype=object)
    ),
    "pandas nullable": pandas_of(lambda column: pd.Series(column).convert_dtypes()),
    "pandas categories": pandas_of(pd.Categorical),
    "pandas of arrow": pandas_of(
        lambda column: pd.Series(column, dtype=pd.ArrowDtype(pa.array(column).type))
    ),
    "polars": lambda column: pl.DataFrame({"length": LENGTH, "odd": column}, strict=False),
    "polars objects": lambda column: pl.DataFrame(
        {"length": LENGTH, "odd": pl.Series(column, dtype=pl.Object)}
    ),
    "polars categories": lambda column: pl.DataFrame(
        {"length": LENGTH, "odd": pl.Series(column, dtype=pl.Categorical)}
    ),
    "narwhals": lambda column: narwhals.from_native(CONTAINERS["polars"](column)),
    "arrow": lambda column: pa.table({"length": LENGTH, "odd": column}),
    "arrow batch": lambda column: pa.record_batch({"length": LENGTH, "odd": pa.array(column)}),
    "arrow dictionary": arrow_dictionary,
}
# A list or an array of lists is no table of two columns.
NO_TABLES = {("list", "lists"), ("array", "lists"), ("array of objects", "lists")}


CANNOT_HOLD = (
    TypeError,
    ValueError,
    NotImplementedError,
    pa.ArrowException,
    pl.exceptions.PolarsError,
)


def tables(kinds):
    """All pairs that exist: not every container can hold every kind."""
    pairs = []
    for container, make in CONTAINERS.items():
        for kind, (column, _) in kinds.items():
            try:
                make(column)
            except CANNOT_HOLD:
                continue
            if (container, kind) not in NO_TABLES:
                pairs.append(pytest.param(container, kind, id=f"{container}-{kind}"))
    return pairs


class Reader(PCA):
    """Gives what validation makes of a table."""

    def read(self, X, **options):
        return validate_table(self, X, reset=True, **options)


@pytest.mark.parametrize(("container", "kind"), tables(NUMERIC))
def test_numbers_in_every_container_are_the_same_numbers(container, kind):
    column, values = NUMERIC[kind]
    table = Reader().read(CONTAINERS[container](column))
    assert table.dtype == np.float64
    assert_array_equal(table[:, 1], values)
    assert_array_equal(table[:, 0], values if container == "array" else LENGTH)


@pytest.mark.parametrize(("container", "kind"), tables(UNKNOWN))
def test_missing_cells_of_every_container_are_unknown(container, kind):
    column, values = UNKNOWN[kind]
    X = CONTAINERS[container](column)
    assert_array_equal(Reader().read(X, ensure_all_finite="allow-nan")[:, 1], values)
    has_names = container.startswith(("pandas", "polars", "narwhals", "arrow"))
    label = "'odd'" if has_names else "1"
    message = rf"Input X contains NaN: \d unknown cells?, in columns? (0 \(\d\), )?{label} \("
    with pytest.raises(ValueError, match=message):
        Reader().read(X)


@pytest.mark.parametrize(("container", "kind"), tables(REFUSED))
def test_what_is_no_number_is_refused_in_every_container(container, kind):
    column, reason = REFUSED[kind]
    X = CONTAINERS[container](column)
    has_names = container.startswith(("pandas", "polars", "narwhals", "arrow"))
    label = "'odd'" if has_names else "(0, )?1"
    message = rf"Reader takes numbers, and these columns of X hold something else: {label}[.] Drop"
    # scikit-learn raises a ValueError for text and a TypeError for objects: this is both.
    for error in (ValueError, TypeError):
        with pytest.raises(error, match=message) as caught:
            Reader().read(X)
        assert re.search(reason, str(caught.value))


@pytest.mark.parametrize("estimator", OF_NUMBERS, ids=class_name)
@pytest.mark.parametrize("kind", ["dates", "durations", "times"])
@pytest.mark.parametrize("container", ["array", "pandas", "polars", "arrow", "list"])
def test_every_estimator_refuses_dates(estimator, container, kind):
    column, reason = REFUSED[kind]
    model = getattr(estimator, "estimator", estimator)
    with pytest.raises(ValueError, match=f"{class_name(model)} takes numbers.*{reason}"):
        clone(estimator).fit(CONTAINERS[container](column))


@pytest.mark.parametrize(
    "columns",
    [
        {"town": ["Bern", "Ulm", "Graz"]},
        {"town": ["Bern", "Ulm", "Graz"], "day": pd.date_range("2020-01-01", periods=3)},
        {"town": pd.Categorical(["Bern", "Ulm", "Ulm"])},
        {"day": pd.date_range("2020-01-01", periods=3, tz="UTC")},
        {"month": pd.period_range("2020-01-01", periods=3, freq="M")},
        {"range": pd.interval_range(0, 3)},
        {"parts": [{"a": 1}, {}, {}]},
    ],
    ids=["text", "text and dates", "categories", "dates", "periods", "intervals", "objects"],
)
@pytest.mark.parametrize("estimator", OF_NUMBERS, ids=class_name)
def test_columns_without_numbers_are_named(estimator, columns):
    listed = ", ".join(map(repr, columns))
    with pytest.raises(ValueError, match=f"X hold something else: {listed}[.] Drop them, or enc"):
        estimator.fit(NUMBERS.assign(**columns))
    assert not hasattr(estimator, "n_features_in_")


def test_the_names_of_many_columns_are_cut_short():
    X = pd.DataFrame({f"text{number}": ["a", "b"] for number in range(6)})
    with pytest.raises(ValueError, match="'text4', ...[.] Drop"):
        PCA(1).fit(X)


def test_new_rows_are_checked_as_well():
    pca = PCA(1).fit(NUMBERS)
    with pytest.raises(ValueError, match="hold something else: 'width'[.]"):
        pca.transform(NUMBERS.assign(width="narrow"))


def test_other_errors_are_those_of_scikit_learn():
    pca = PCA(1).fit(NUMBERS)
    with pytest.raises(ValueError, match="feature names should match"):
        pca.transform(NUMBERS.assign(town="Bern"))
    with pytest.raises(ValueError, match="contains NaN"):
        pca.inverse_transform([[np.nan]])
    with pytest.raises(ValueError, match="could not convert string to float"):
        PCA(1).fit(np.array([["a", "b"], ["c", "d"]]))


def test_text_that_is_numbers_is_taken_for_them():
    as_text = NUMBERS.assign(width=NUMBERS["width"].astype(str))
    assert_array_equal(PCA(1).fit_transform(as_text), PCA(1).fit_transform(NUMBERS))


def test_integers_that_no_float_holds_are_refused():
    with pytest.raises(ValueError, match="else: 0[.].*too large"):
        PCA(1).fit([[10**400, 1], [1, 2]])


@pytest.mark.parametrize("container", [pd.DataFrame, pl.DataFrame, pa.table, torch.tensor, list])
def test_single_precision_is_kept_where_all_columns_have_it(container):
    X = np.arange(6, dtype=np.float32).reshape(3, 2)
    frame = {"a": X[:, 0], "b": X[:, 1]}
    table = container(X if container in (torch.tensor, list) else frame)
    assert PCA(1).fit(table).transform(table).dtype == np.float32


# Tensors

TENSORS = {
    "bfloat16": torch.bfloat16,
    "half": torch.float16,
    "single": torch.float32,
    "integers": torch.int16,
    "booleans": torch.bool,
    "eight bits": torch.float8_e4m3fn,
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_of_every_real_type_are_numbers(kind):
    X = torch.tensor([[1.0, 2.0], [3.0, 0.0], [1.5, -2.0]]).to(TENSORS[kind])
    table = Reader().read(X)
    assert_array_equal(table, X.double().numpy())
    assert table.dtype == (np.float32 if kind == "single" else np.float64)


@pytest.mark.parametrize(
    ("X", "remedy"),
    [
        (torch.ones(3, 2, requires_grad=True), "requires gradients.*pass X.detach"),
        (torch.ones(3, 2).to_sparse(), "not dense; pass X.to_dense"),
        (torch.ones(3, 2, device="meta"), "device 'meta'.*pass X.cpu"),
        (torch.ones(3, 2) + 1j, "Complex data not supported"),
    ],
    ids=["gradients", "sparse", "other device", "complex"],
)
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=class_name)
def test_tensors_that_are_no_arrays_say_what_to_do(estimator, X, remedy):
    with pytest.raises(TypeError, match=remedy):
        clone(estimator).fit(X)


# Shapes


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.ones(4), r"Expected 2D array, got 1D array.*Reshape your data: X.reshape\(-1, 1\)"),
        (pd.Series([1.0, 2.0]), r"got 1D array.*type Series.*X.to_frame\(\)"),
        (pl.Series([1.0, 2.0]), r"got 1D array.*type Series.*X.to_frame\(\)"),
        (pa.chunked_array([[1.0, 2.0]]), "got 1D array.*type ChunkedArray"),
        (torch.ones(4), "got 1D array"),
        (3.0, "got scalar array.*type float"),
        (None, "got scalar array.*type NoneType"),
        ("table.csv", "got scalar array.*type str"),
        ({"a": [1.0, 2.0]}, r"got scalar array.*pandas.DataFrame\(X\)"),
        ((row for row in [[1.0, 2.0]]), "got scalar array.*type generator"),
        ([[1.0, 2.0], [3.0]], "rows of X have different lengths"),
        (np.ones((5, 6, 6)), r"Found array with dim 3.*X.reshape\(len\(X\), -1\)"),
        (torch.ones(5, 6, 6), r"dim 3.*\(5, 6, 6\).*X.reshape\(len\(X\), -1\)"),
        (sparse.coo_array(np.ones((5, 6, 6))), r"dim 3.*X.reshape\(X.shape\[0\], -1\)"),
        (pl.DataFrame({"a": [1.0, 2.0]}).lazy(), r"LazyFrame.*pass X.collect\(\)"),
        (narwhals.from_native(pl.LazyFrame({"a": [1.0]})), r"LazyFrame.*pass X.collect\(\)"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("method", ["fit", "transform"])
def test_what_is_no_table_says_how_to_make_one(X, message, method):
    estimator = clone(AUTOENCODER).fit(np.random.default_rng(0).normal(size=(9, 2)))
    with pytest.raises((TypeError, ValueError), match=message):
        getattr(estimator, method)(X)
    if method == "fit":
        with pytest.raises((TypeError, ValueError), match=message):
            PCA(1).fit(X)


@pytest.mark.parametrize(
    ("shape", "advice"),
    [
        ((5, 8, 8), r"Conv2dNetwork\(\(8, 8\)\).*Conv1dNetwork\(\(8, 8\)\)"),
        ((5, 8, 8, 3), r"Conv2dNetwork\(\(8, 8, 3\)\)"),
        ((5, 3, 8, 8), r"numpy.moveaxis\(X, 1, -1\).*Conv2dNetwork\(\(8, 8, 3\)\)"),
    ],
)
def test_images_are_told_of_the_network_for_them(shape, advice):
    with pytest.raises(ValueError, match=advice):
        AutoencoderTransformer().fit(np.ones(shape))
    with pytest.raises(ValueError, match="-1[)][.]$"):  # PCA has no network
        PCA().fit(np.ones(shape))


# Cells that are unknown or infinite


@pytest.mark.parametrize(
    ("container", "cell", "message"),
    [
        *(
            (container, np.nan, r"NaN: 3 unknown cells, in columns 1 \(2\), 4 \(1\)[.] Aut.*sparse")
            for container in (sparse.csr_array, sparse.csc_array)
        ),
        *(
            (container, cell, r"infinity or .* dtype\('float64'\): 3 such cells, in columns 1")
            for container in (np.asarray, pd.DataFrame, sparse.csr_array, sparse.csc_array)
            for cell in (np.inf, -np.inf)
        ),
    ],
)
def test_columns_with_cells_that_are_not_finite_are_named_and_counted(container, cell, message):
    X = np.random.default_rng(0).normal(size=(20, 6))
    X[[3, 5], 1] = X[7, 4] = cell
    with pytest.raises(ValueError, match=message):
        AutoencoderTransformer(2).fit(container(X))


@pytest.mark.parametrize("method", ["transform", "inverse_transform", "score_samples"])
def test_infinity_in_new_rows_names_the_columns_of_the_frame(method):
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 3)), columns=list("abc"))
    estimator = clone(AUTOENCODER).set_output(transform="pandas").fit(X)
    rows = estimator.transform(X) if method == "inverse_transform" else X.copy()
    rows.iloc[4, -1] = np.inf
    name = rows.columns[-1]
    with pytest.raises(ValueError, match=f"infinity.* 1 such cell, in column '{name}'"):
        getattr(estimator, method)(rows)


def test_many_columns_with_nan_are_cut_short():
    with pytest.raises(ValueError, match=r"8 unknown.* 4 \(1\), \.\.\.[.] PCA"):
        check_finite(np.full((1, 8), np.nan), "PCA")


def test_cells_whose_sum_overflows_are_finite():
    check_finite(np.array([[1.7e308, 1.7e308]]), "PCA")
    check_finite(np.array([[3e38, 3e38]], dtype=np.float32), "PCA")


def test_scikit_learns_switch_for_finite_data_is_kept():
    with sklearn.config_context(assume_finite=True):
        check_finite(np.array([[np.nan]]), "PCA")


@pytest.mark.parametrize("table", ["infinity", "dates", "3-D", "columns", "names"])
def test_the_default_detector_speaks_under_its_own_name(monkeypatch, table):
    monkeypatch.setattr(DenoisingEnsemble, "_n_steps", 2)
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 2)), columns=["a", "b"])
    detector = AutoencoderOutlierDetector(random_state=0).fit(X)
    rows = {
        "infinity": X.assign(a=np.inf),
        "dates": X.assign(a=np.datetime64("2020-01-01")),
        "3-D": np.ones((2, 2, 2)),
        "columns": np.ones((2, 3)),
        "names": X.to_numpy(),
    }[table]
    if table == "names":
        with pytest.warns(UserWarning, match="AutoencoderOutlierDetector was fitted with"):
            detector.predict(rows)
        return
    if table in ("3-D", "columns"):
        detector = AutoencoderOutlierDetector(random_state=0).fit(X.to_numpy())
    with pytest.raises(ValueError, match="AutoencoderOutlierDetector") as error:
        detector.predict(rows)
    assert "DenoisingEnsemble" not in str(error.value)


# Sparse tables


def sparse_frame(X, fill_value=0.0):
    return pd.DataFrame(X, columns=list("abc")).astype(pd.SparseDtype(float, fill_value))


@pytest.fixture
def zeros():
    X = np.random.default_rng(0).normal(size=(12, 3))
    return np.where(X > 0.0, X, 0.0)


@pytest.mark.parametrize("fill_value", [0.0, 1.0, np.nan])
@pytest.mark.parametrize("solver", ["auto", "arpack", "covariance_eigh", "gram_eigh"])
def test_sparse_frames_are_the_tables_that_they_stand_for(zeros, solver, fill_value):
    frame = sparse_frame(zeros, fill_value)
    pca = PCA(2, svd_solver=solver, random_state=0).fit(frame)
    assert_array_equal(pca.feature_names_in_, list("abc"))
    desired = PCA(2, svd_solver=solver, random_state=0).fit(zeros).explained_variance_
    np.testing.assert_allclose(pca.explained_variance_, desired, rtol=1e-10)
    assert sparse.issparse(Reader().read(frame, accept_sparse="csr")) == (fill_value == 0.0)


def test_frames_with_some_sparse_columns_are_dense(zeros):
    frame = pd.DataFrame(zeros, columns=list("abc"))
    mixed = frame.assign(b=pd.arrays.SparseArray(zeros[:, 1]))
    assert_array_equal(Reader().read(mixed, accept_sparse="csr"), zeros)


def test_indicators_of_pandas_are_numbers():
    frame = pd.get_dummies(pd.Series(list("abcab")), sparse=True)
    desired = frame.to_numpy().astype(float)
    assert_array_equal(Reader().read(frame, accept_sparse="csr").toarray(), desired)


@pytest.mark.parametrize("solver", ["full", "randomized"])
def test_sparse_frames_are_refused_by_dense_solvers(zeros, solver):
    with pytest.raises(TypeError, match=f"svd_solver='{solver}' would need the sparse X"):
        PCA(2, svd_solver=solver).fit(sparse_frame(zeros))


def test_nan_in_a_sparse_frame_is_unknown(zeros):
    zeros[2, 1] = np.nan
    for fill_value in (0.0, np.nan):
        frame = sparse_frame(zeros, fill_value)
        for estimator in (PCA(1), clone(AUTOENCODER)):
            if fill_value == 0.0:
                with pytest.raises(ValueError, match="NaN.* not take unknown cells in sparse"):
                    estimator.fit(frame)
            else:  # such a frame is dense
                codes = clone(estimator).fit_transform(zeros)
                np.testing.assert_allclose(estimator.fit_transform(frame), codes, rtol=1e-6)


def test_sparse_frames_where_dense_ones_are_needed_say_so(zeros):
    with pytest.raises(TypeError, match=r"Outl.* needs a dense table; pass X.sparse.to_dense"):
        AutoencoderOutlierDetector().fit(sparse_frame(zeros))
    with pytest.raises(TypeError, match=r"Outl.* needs a dense table; pass X.toarray"):
        AutoencoderOutlierDetector().fit(sparse.csr_array(zeros))


# Codes


@pytest.mark.parametrize("container", ["pandas", "polars"])
@pytest.mark.parametrize("estimator", [PCA(2), clone(AUTOENCODER).set_params(n_components=2)])
def test_columns_of_codes_have_their_names_and_order(estimator, container):
    X = np.random.default_rng(0).normal(size=(20, 3))
    estimator = clone(estimator).fit(X).set_output(transform=container)
    codes = estimator.transform(X)
    assert_array_equal(
        estimator.inverse_transform(codes), estimator.inverse_transform(codes.to_numpy())
    )
    first, second = codes.columns
    with pytest.raises(
        ValueError, match=f"X has columns '{second}', '{first}', but .*'{first}', '"
    ):
        estimator.inverse_transform(codes[[second, first]])
    renamed = {first: "z", second: "y"}
    renamed = codes.rename(renamed) if container == "polars" else codes.rename(columns=renamed)
    with pytest.raises(ValueError, match="X has columns .* an array without names"):
        estimator.inverse_transform(renamed)


@pytest.mark.parametrize("estimator", [PCA(2), clone(AUTOENCODER).set_params(n_components=2)])
def test_codes_are_checked_as_tables_are(estimator):
    X = np.random.default_rng(0).normal(size=(20, 3))
    estimator = clone(estimator).fit(X)
    for codes, message in [
        (np.ones((4, 3)), "X has 3 columns, but .* n_components_=2"),
        (np.full((4, 2), np.nan), "Input X contains NaN"),
        (np.ones(2), "Expected 2D array"),
        (np.ma.array(np.ones((4, 2)), mask=True), "contains NaN: 8"),
        (np.ones((4, 2), dtype="M8[s]"), "takes numbers"),
        ([["a", "b"]], "could not convert"),
    ]:
        with pytest.raises(ValueError, match=message):
            estimator.inverse_transform(codes)


@pytest.mark.parametrize(
    ("X_clean", "message"),
    [
        (NUMBERS.assign(width=np.nan), "X_clean contains NaN in all cells of .*: 'width'"),
        (NUMBERS.assign(width=DAY), "columns of X_clean hold something else: 'width'"),
        (NUMBERS.assign(width=np.inf), "X_clean contains infinity.*: 3 such cells.* 'width'"),
        (np.ones((3, 2, 1)), r"X_clean has shape .* X_clean.reshape\(len\(X_clean\), -1\)"),
        (torch.ones(3, 2, requires_grad=True), "X_clean is a tensor that requires gradients"),
    ],
    ids=["NaN", "dates", "infinity", "3-D", "gradients"],
)
def test_the_clean_rows_of_pairs_are_read_as_tables_are(X_clean, message):
    with pytest.raises(ValueError, match=message):
        DenoisingAutoencoder(1).fit(NUMBERS, X_clean=X_clean)


# Weights


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ma.array([1.0, 1e9, 1.0], mask=[0, 1, 0]), "sample_weight contains NaN"),
        (np.ones(3, dtype="m8[s]"), "sample_weight holds what is no number: durations"),
        (pd.Series([1.0, pd.NA, 1.0], dtype=object), "sample_weight contains NaN"),
        (["a", "b", "c"], "sample_weight holds what is no number: could not convert"),
        (torch.ones(3, requires_grad=True), "sample_weight is a tensor that requires"),
        (np.ones((3, 1)), "must be 1D"),
    ],
    ids=["masked", "durations", "NA", "text", "gradients", "2-D"],
)
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=class_name)
def test_weights_that_are_none_are_refused(estimator, weights, message):
    with pytest.raises(ValueError, match=message):
        clone(estimator).fit(NUMBERS, sample_weight=weights)


@pytest.mark.parametrize(
    "weights",
    [
        [1, 2, 3],
        torch.tensor([1.0, 2.0, 3.0]),
        pl.Series([1.0, 2.0, 3.0]),
        pd.Series([1, 2, 3], dtype="Int64", index=[3, 4, 5]),
        pa.chunked_array([[1.0, 2.0, 3.0]]),
        [Decimal(1), Decimal(2), Decimal(3)],
    ],
    ids=lambda weights: type(weights).__name__,
)
def test_weights_may_come_in_any_container(weights):
    assert_array_equal(validate_weights(weights, NUMBERS), [1.0, 2.0, 3.0])


# What scikit-learn's own check does, for tables that need no more


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_plain_arrays_are_returned_as_they_are(dtype, order):
    X = np.asarray(np.random.default_rng(0).normal(size=(9, 3)), dtype=dtype, order=order)
    fitted = PCA(2).fit(X)
    assert validate_table(fitted, X, reset=False) is X
    codes = np.ones((4, 2), dtype=dtype, order=order)
    assert validate_codes(fitted, codes) is codes


@pytest.mark.parametrize("names", [None, ["a", "b"], [0, 1]])
@pytest.mark.parametrize("fitted_names", [None, ["a", "b"]])
def test_names_and_numbers_of_columns_are_kept_as_by_scikit_learn(names, fitted_names):
    X = np.arange(6.0).reshape(3, 2)
    first = X if fitted_names is None else pd.DataFrame(X, columns=fitted_names)
    second = X if names is None else pd.DataFrame(X, columns=names)
    states = []
    for check in (validate_table, validate_data):
        estimator = PCA()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            check(estimator, first, reset=True)
            check(estimator, second, reset=False)
        check(estimator, second, reset=True)
        names_in = list(getattr(estimator, "feature_names_in_", []))
        states.append((names_in, estimator.n_features_in_, [str(w.message) for w in caught]))
    assert states[0] == states[1]


# Integers that are read by blocks

BY_BLOCKS = {
    "PCA": PCA(2),
    "autoencoder": AutoencoderTransformer(2, hidden_layer_sizes=(4,), max_iter=1, random_state=0),
    "VAE": VAETransformer(2, hidden_layer_sizes=(4,), max_iter=1, random_state=0),
    "detector": AutoencoderOutlierDetector(PCA(2), random_state=0),
    "default detector": AutoencoderOutlierDetector(random_state=0),
}
METHODS = ["transform", "reconstruction_error", "score_samples", "predict", "p_values"]


def integer_map(path, n_rows, n_columns, dtype):
    rng = np.random.default_rng(0)
    np.save(path / "X.npy", rng.integers(0, 100, (n_rows, n_columns)).astype(dtype))
    return np.load(path / "X.npy", mmap_mode="r")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64])
@pytest.mark.parametrize("name", BY_BLOCKS)
def test_integers_are_the_same_numbers_as_floats(monkeypatch, tmp_path, name, dtype):
    monkeypatch.setattr(DenoisingEnsemble, "_n_steps", 2)
    mapped = integer_map(tmp_path, 200, 3, dtype)
    floats = np.array(mapped, dtype=np.float64)
    estimator, desired = clone(BY_BLOCKS[name]).fit(mapped), clone(BY_BLOCKS[name]).fit(floats)
    for method in METHODS:
        if hasattr(estimator, method):
            results = [getattr(estimator, method)(X) for X in (mapped, np.array(mapped), floats)]
            for result in results:
                assert result.dtype == results[2].dtype
                np.testing.assert_allclose(result, results[2], rtol=1e-10, atol=1e-10)
            np.testing.assert_allclose(
                results[2], getattr(desired, method)(floats), rtol=1e-5, atol=1e-6
            )
    if hasattr(estimator, "partial_fit"):
        estimator.partial_fit(mapped)


def peak_memory(function, *arguments):
    """Bytes of NumPy that a call holds at once, at most."""
    tracemalloc.start()
    try:
        function(*arguments)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("method", ["transform", "reconstruction_error", "score_samples"])
@pytest.mark.parametrize("name", ["PCA", "autoencoder", "VAE", "detector"])
def test_an_integer_map_is_never_a_whole_table_of_floats(tmp_path, name, method):
    X = integer_map(tmp_path, 200_000, 30, np.int8)
    estimator = clone(BY_BLOCKS[name]).fit(X[:1000])
    if hasattr(estimator, method):
        in_float64 = 8 * X.size  # 48 MB
        assert peak_memory(getattr(estimator, method), X) < 0.8 * in_float64


def test_a_fit_to_an_integer_map_holds_its_float32_copy_only(tmp_path):
    X = integer_map(tmp_path, 200_000, 30, np.int8)
    estimator = clone(BY_BLOCKS["autoencoder"]).set_params(batch_size=4096)
    assert peak_memory(estimator.fit, X) < 1.3 * 4 * X.size


def test_codes_in_an_integer_map_are_numbers(tmp_path):
    codes = integer_map(tmp_path, 50, 2, np.int32)
    for name in ("PCA", "autoencoder"):
        estimator = clone(BY_BLOCKS[name]).fit(np.random.default_rng(0).normal(size=(30, 3)))
        desired = estimator.inverse_transform(codes.astype(float))
        assert_array_equal(estimator.inverse_transform(codes), desired)


@pytest.mark.parametrize("loss", ["bernoulli", "gaussian"])
def test_losses_take_integers(loss):
    X = np.random.default_rng(0).integers(0, 2, (40, 3)).astype(np.uint8)
    estimator = AutoencoderTransformer(1, loss=loss, max_iter=1, random_state=0).fit(X)
    assert_array_equal(estimator.score_samples(X), estimator.score_samples(X.astype(float)))


def test_a_fit_forgets_names_of_columns():
    estimator = DenoisingAutoencoder(1, max_iter=1, random_state=0).fit(NUMBERS)
    check_is_fitted(estimator, "feature_names_in_")
    assert not hasattr(estimator.fit(NUMBERS.to_numpy(dtype=float)), "feature_names_in_")


@pytest.mark.parametrize("types", [("bool", "float64"), ("bool", "bool"), ("float16", "float16")])
def test_sparse_frames_of_any_numbers_are_numbers(types):
    numbers = np.array([[0, 1], [1, 0], [0, 0], [1, 1]])
    frame = pd.DataFrame(
        {
            name: pd.arrays.SparseArray(numbers[:, i].astype(t), fill_value=np.zeros((), t)[()])
            for i, (name, t) in enumerate(zip("ab", types, strict=True))
        }
    )
    validated = validate_table(PCA(), frame, accept_sparse="csr")
    assert validated.dtype == np.float64
    assert_array_equal(validated.toarray(), numbers)


def test_sparse_frames_of_objects_are_refused_by_column():
    frame = pd.DataFrame({"a": [0, 1], "b": [0, "x"]}, dtype=object).astype(
        pd.SparseDtype(object, 0)
    )
    with pytest.raises(NotNumbersError, match="'b'"):
        validate_table(PCA(), frame, accept_sparse="csr")


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.0], [1e300, 2e300, 1e308]])
def test_mean_score_is_the_mean_in_more_digits(weights):
    scores = np.array([-1.0, -3.0, -7.5], dtype=np.float32)
    desired = np.average(
        scores.astype(np.longdouble), weights=None if weights is None else np.longdouble(weights)
    )
    assert mean_score(scores, weights) == pytest.approx(float(desired), rel=1e-14)


def test_mean_of_the_lowest_scores_is_the_lowest_number():
    assert mean_score(np.full(4, np.finfo(float).min), None) == np.finfo(float).min


@pytest.mark.parametrize("library", ["pandas", "pyarrow"])
@pytest.mark.parametrize(
    "estimator", [PCA(), AutoencoderTransformer(1), AutoencoderOutlierDetector()], ids=class_name
)
def test_columns_of_one_name_are_refused(estimator, library):
    X = np.eye(3)
    frame = pd.DataFrame(X, columns=["a", "b", "a"])
    if library == "pyarrow":
        frame = pa.table([pa.array(column) for column in X], names=["a", "b", "a"])
    with pytest.raises(ValueError, match="Several columns of X have the same name: 'a'. Rename"):
        estimator.fit(frame)


def test_numbers_wider_than_float64_are_named_if_it_cannot_hold_them():
    X = np.eye(3, dtype=np.longdouble)
    X[1, 2] = np.longdouble(10) ** 400
    if not np.isfinite(X).all():
        pytest.skip("longdouble is float64 here")
    with pytest.raises(ValueError, match="too large.* in column 2"):
        AutoencoderTransformer(1).fit(X)
