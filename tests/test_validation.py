import numpy as np
import pandas as pd
import polars as pl
import pytest

from skae import PCA, AutoencoderOutlierDetector, AutoencoderTransformer

ESTIMATORS = [PCA(1), AutoencoderTransformer(1, max_iter=1), AutoencoderOutlierDetector()]
NUMBERS = pd.DataFrame({"length": [1.0, 2.0, 4.0], "width": [3, 1, 2]})


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: type(estimator).__name__)
@pytest.mark.parametrize(
    "columns",
    [
        {"town": ["Bern", "Ulm", "Graz"]},
        {"town": ["Bern", "Ulm", "Graz"], "day": pd.date_range("2020-01-01", periods=3)},
        {"town": pd.Categorical(["Bern", "Ulm", "Ulm"])},
        {"day": pd.date_range("2020-01-01", periods=3)},
        {"parts": [{"a": 1}, {}, {}]},
    ],
    ids=["text", "text and dates", "categories", "dates", "objects"],
)
def test_columns_without_numbers_are_named(estimator, columns):
    listed = ", ".join(map(repr, columns))
    with pytest.raises(ValueError, match=f"X hold something else: {listed}[.] Drop them, or enc"):
        estimator.fit(NUMBERS.assign(**columns))
    assert not hasattr(estimator, "n_features_in_")


def test_columns_of_polars_are_named():
    X = pl.DataFrame({"length": [1.0, 2.0, 4.0], "town": ["Bern", "Ulm", "Graz"]})
    with pytest.raises(ValueError, match="hold something else: 'town'[.]"):
        PCA(1).fit(X)


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
        pca.transform(NUMBERS.assign(width=np.nan))
    with pytest.raises(ValueError, match="could not convert string to float"):
        PCA(1).fit(np.array([["a", "b"], ["c", "d"]]))


def test_text_that_is_numbers_is_taken_for_them():
    as_text = NUMBERS.assign(width=NUMBERS["width"].astype(str))
    np.testing.assert_array_equal(PCA(1).fit_transform(as_text), PCA(1).fit_transform(NUMBERS))
