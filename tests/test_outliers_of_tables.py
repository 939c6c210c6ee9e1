"""The detector takes tables as they are, and explains in their columns and values."""

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from skae import PCA, AutoencoderOutlierDetector, TableAutoencoder, VAETransformer
from skae._outliers import fit_parameters
from skae._table import needs_encoding


def make_table(n, seed):
    """Columns of several kinds around one hidden number."""
    rng = np.random.default_rng(seed)
    size = rng.normal(size=n)
    town = np.array(["Bonn", "Jena", "Ulm"])[np.digitize(size, [-0.5, 0.5])]
    return pd.DataFrame(
        {
            "town": town,
            "member": rng.uniform(size=n) < expit(4 * size),
            "income": (40 + 10 * size + 2 * rng.normal(size=n)).round(1),
            "since": pd.Timestamp("2020-01-01") + pd.to_timedelta((100 * size).round(), unit="D"),
        },
        index=np.arange(n) + 1000,
    )


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(1)
    complete = make_table(300, 0)
    complete["member"] = complete["member"].astype("boolean")
    return complete.mask(rng.uniform(size=complete.shape) < 0.1)


@pytest.fixture(scope="module")
def strange():
    """New rows that are usual, but for an income that does not go with the others."""
    rows = make_table(30, 2)
    rows["member"] = rows["member"].astype("boolean")
    rows.loc[rows.index[0], ["town", "income"]] = ["Bonn", 70.0]
    return rows


MODELS = [None, TableAutoencoder(PCA(2)), TableAutoencoder(VAETransformer(1, max_iter=5))]


@pytest.fixture(scope="module", params=MODELS, ids=["default", "PCA", "VAE"])
def detector(request, table):
    estimator = None if request.param is None else clone(request.param)
    return AutoencoderOutlierDetector(estimator, random_state=0).fit(table)


def test_reasons_are_columns_of_the_table(detector, strange):
    rows = strange.iloc[:3]
    contributions, expected = detector.explain(rows, expected=True)
    assert list(contributions.columns) == list(expected.columns) == list(rows.columns)
    assert_array_equal(contributions.index, rows.index)
    assert_allclose(contributions.sum(axis=1), -detector.score_samples(rows), rtol=1e-6)
    assert contributions.iloc[0].idxmax() in ("town", "income")
    assert np.argmin(detector.score_samples(strange)) == 0


def test_expected_values_are_those_that_columns_can_have(detector, strange):
    _, expected = detector.explain(strange.iloc[:3], expected=True)
    assert set(expected["town"]) <= {"Bonn", "Jena", "Ulm"}
    assert expected["since"].dtype.kind == "M"
    assert set(expected["member"]) <= {True, False}
    assert expected["income"].between(10, 70).all()


def test_unknown_cells_are_hardly_evidence(detector, table):
    usual = make_table(200, 3)
    usual["member"] = usual["member"].astype("boolean")
    gaps = usual.mask(np.random.default_rng(0).uniform(size=usual.shape) < 0.3)
    scores = [detector.score_samples(rows) for rows in (usual, gaps)]
    assert all(np.isfinite(values).all() for values in scores)
    # Which rows have gaps cannot be told from low scores.
    labels = np.repeat([0, 1], len(usual))
    assert roc_auc_score(labels, -np.concatenate(scores)) < 0.6


def test_labels_and_p_values_of_raw_tables(detector, strange):
    assert detector.p_values(strange)[0] < 0.05
    assert set(detector.predict(strange)) <= {-1, 1}


def test_files_of_detectors_of_tables(detector, strange, tmp_path):
    joblib.dump(detector, tmp_path / "detector.joblib")
    again = joblib.load(tmp_path / "detector.joblib")
    assert_array_equal(again.score_samples(strange), detector.score_samples(strange))


def test_other_libraries(table, strange):
    scores, values = [], []
    for of in (lambda t: pl.from_pandas(t.reset_index(drop=True)), lambda t: t):
        detector = AutoencoderOutlierDetector(TableAutoencoder(PCA(2)), random_state=0)
        detector.fit(of(table))
        scores.append(detector.score_samples(of(strange)))
        values.append(detector.explain(of(strange)[:2], expected=True)[1])
    assert_allclose(*scores, rtol=1e-6)
    assert_array_equal(values[0]["town"], values[1]["town"])


def test_tables_of_numbers_need_no_encoding(table):
    numbers = table[["income"]].assign(many=1, yes=True, some=pd.array([1, None] * 150))
    assert not needs_encoding(numbers)
    assert not needs_encoding(numbers.to_numpy())
    for name in ("town", "since"):
        assert needs_encoding(numbers.assign(more=table[name]))
        assert needs_encoding(pl.DataFrame({"a": [1.0], "more": [str(name)]}))


def test_weights_reach_the_model_behind_the_encoder():
    model = AutoencoderOutlierDetector()._unfitted(0, is_mixed=True)
    parameters = fit_parameters(model, np.ones(3))
    assert "denoisingensemble__sample_weight" in parameters
