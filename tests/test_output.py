"""DataFrames from `inverse_transform` and `reconstruct`, where scikit-learn's `set_output` asks.

The checks of scikit-learn are for `transform` alone. These are the same for the way back.
"""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from pandas.testing import assert_frame_equal
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, QuantileTransformer

from skae import (
    PCA,
    AutoencoderOutlierDetector,
    AutoencoderTransformer,
    DenoisingAutoencoder,
    TableEncoder,
    VAETransformer,
)

ESTIMATORS = [
    PCA(2),
    PCA(2, whiten=True),
    *(
        cls(2, max_iter=2, random_state=0)
        for cls in (AutoencoderTransformer, DenoisingAutoencoder, VAETransformer)
    ),
]
IRIS = load_iris(as_frame=True).data
IRIS.index = [f"flower {number}" for number in range(len(IRIS))]
X = IRIS.to_numpy()
NAMES = list(IRIS.columns)
FRAMES = {"pandas": pd.DataFrame, "polars": pl.DataFrame}


@pytest.fixture(params=ESTIMATORS, ids=str)
def estimator(request):
    return clone(request.param)


def ways_back(estimator, table):
    """Give the rows that each method gives, of a table and of its codes."""
    rows = {"inverse_transform": estimator.inverse_transform(estimator.transform(table))}
    if hasattr(estimator, "reconstruct"):
        rows["reconstruct"] = estimator.reconstruct(table)
    return rows


def arrays(estimator, table):
    return ways_back(clone(estimator).set_output(transform="default").fit(table), table)


def test_rows_are_arrays_by_default(estimator):
    for rows in ways_back(estimator.fit(IRIS), IRIS).values():
        assert type(rows) is np.ndarray


@pytest.mark.parametrize("container", FRAMES)
def test_set_output_gives_rows_names_but_no_other_values(estimator, container):
    table = IRIS if container == "pandas" else pl.from_pandas(IRIS)
    framed = ways_back(estimator.fit(table).set_output(transform=container), table)
    for method, rows in arrays(estimator, table).items():
        assert type(framed[method]) is FRAMES[container]
        assert list(framed[method].columns) == NAMES
        assert_array_equal(framed[method].to_numpy(), rows)


def test_rows_have_the_index_of_the_table_that_they_are_made_of(estimator):
    estimator.set_output(transform="pandas").fit(IRIS)
    for rows in ways_back(estimator, IRIS[::-3]).values():
        assert rows.index.equals(IRIS.index[::-3])
    codes = estimator.transform(IRIS)
    assert estimator.inverse_transform(codes.to_numpy()).index.equals(pd.RangeIndex(len(X)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("container", FRAMES)
def test_columns_have_the_dtype_of_the_array(estimator, container, dtype):
    estimator.set_output(transform=container).fit(X)
    for rows in ways_back(estimator, X.astype(dtype)).values():
        assert rows.to_numpy().dtype == dtype


@pytest.mark.parametrize("container", FRAMES)
def test_columns_without_names_are_numbered_as_by_scikit_learn(estimator, container):
    scaler = MinMaxScaler().set_output(transform=container).fit(X)
    for rows in ways_back(estimator.set_output(transform=container).fit(X), X).values():
        assert list(rows.columns) == list(scaler.transform(X).columns) == ["x0", "x1", "x2", "x3"]


@pytest.mark.parametrize("container", FRAMES)
def test_the_global_option_asks_as_well_and_set_output_has_the_last_word(estimator, container):
    estimator.fit(IRIS)
    with sklearn.config_context(transform_output=container):
        for rows in ways_back(estimator, IRIS).values():
            assert type(rows) is FRAMES[container]
        estimator.set_output(transform="default")
        for rows in ways_back(estimator, IRIS).values():
            assert type(rows) is np.ndarray


def test_an_unknown_container_is_refused_as_by_transform(estimator):
    codes = estimator.fit(X).transform(X)
    estimator.set_output(transform="parchment")
    for call in (estimator.transform, estimator.inverse_transform):
        with pytest.raises(
            ValueError, match="output config must be in .*'polars'.*, got parchment"
        ):
            call(X if call == estimator.transform else codes)


@pytest.mark.parametrize("container", FRAMES)
def test_a_pipeline_gives_a_frame_if_the_steps_before_do(estimator, container):
    table = IRIS if container == "pandas" else pl.from_pandas(IRIS)
    root = FunctionTransformer(
        np.sqrt, inverse_func=np.square, feature_names_out="one-to-one", check_inverse=False
    )
    if container == "polars":
        root.set_params(
            func=lambda X: X.select(pl.all().sqrt()), inverse_func=lambda X: X.select(pl.all() ** 2)
        )
    model = make_pipeline(root, estimator).set_output(transform=container).fit(table)
    rows = model.inverse_transform(model.transform(table))
    assert type(rows) is FRAMES[container]
    assert list(rows.columns) == NAMES
    model = make_pipeline(FunctionTransformer(np.sqrt, np.square), clone(estimator)).fit(X)
    desired = np.square(model[-1].inverse_transform(model.transform(X)))
    assert_allclose(rows.to_numpy(), desired)


def test_a_table_encoder_before_gives_the_table_with_the_index_of_the_codes(estimator):
    model = make_pipeline(TableEncoder(), estimator).set_output(transform="pandas").fit(IRIS)
    again = model.inverse_transform(model.transform(IRIS)[40:60])
    assert list(again.columns) == NAMES
    assert again.index.equals(IRIS.index[40:60])


@pytest.mark.parametrize("container", FRAMES)
@pytest.mark.parametrize("scaler", [MinMaxScaler(), QuantileTransformer(n_quantiles=20), PCA(3)])
def test_a_pipeline_leads_back_to_the_same_values_with_and_without_frames(
    estimator, scaler, container
):
    model = make_pipeline(scaler, estimator).fit(X)
    codes = model.transform(X)
    desired = model.inverse_transform(codes)
    # Fitted to frames with the same names; and fitted to arrays, with frames asked for later.
    framed = clone(model).set_output(transform=container).fit(X)
    for other in (framed, model.set_output(transform=container)):
        assert_allclose(other.inverse_transform(codes), desired, rtol=1e-12)


def test_samples_and_expected_values_stay_arrays():
    vae = VAETransformer(2, max_iter=2, random_state=0).fit(IRIS)
    desired = vae.sample(5, random_state=0), vae.expected(IRIS)
    vae.set_output(transform="pandas")
    for rows, other in zip(
        (vae.sample(5, random_state=0), vae.expected(IRIS)), desired, strict=True
    ):
        assert type(rows) is np.ndarray
        assert_array_equal(rows, other)


def test_explanations_are_the_same_around_a_pipeline_of_frames():
    model = make_pipeline(PCA(3), PCA(2))
    arrays = (
        AutoencoderOutlierDetector(model, random_state=0).fit(IRIS).explain(IRIS[:5], expected=True)
    )
    model.set_output(transform="pandas")
    frames = (
        AutoencoderOutlierDetector(model, random_state=0).fit(IRIS).explain(IRIS[:5], expected=True)
    )
    for frame, other in zip(frames, arrays, strict=True):
        assert_frame_equal(frame, other)
