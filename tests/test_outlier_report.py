import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.ensemble import IsolationForest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skae import PCA, AutoencoderOutlierDetector
from skae._outlier_report import constant_columns, n_duplicates, nearly_copies, shares_as_far_out


@pytest.fixture(scope="module")
def X():
    return load_iris(as_frame=True).data.rename(columns=lambda name: name.replace(" (cm)", ""))


@pytest.fixture(scope="module")
def detector(X):
    return AutoencoderOutlierDetector(PCA(2), random_state=0).fit(X)


def mixed_table(n):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "number": rng.normal(size=n),
            "colour": rng.choice(["red", "blue", "green"], n, p=[0.6, 0.39, 0.01]),
            "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 99, n), "D"),
        }
    )


def test_shares_count_rows_on_the_same_side_of_the_median():
    known = pd.Series([1.0, 2.0, 2.0, 3.0, np.nan])
    values = pd.Series([0.0, 1.0, 2.0, 3.0, 9.0, np.nan])
    np.testing.assert_allclose(shares_as_far_out(values, known), [0, 0.2, 0.6, 0.2, 0, 0.2])


def test_shares_of_values_without_order_are_those_of_equal_ones():
    known = pd.Series(["a", "a", "b", None])
    values = pd.Series(["a", "b", "c", None])
    np.testing.assert_allclose(shares_as_far_out(values, known), [0.5, 0.25, 0.0, 0.25])
    truth = pd.Series([True, True, False, True])
    np.testing.assert_allclose(shares_as_far_out(truth[:3], truth), [0.75, 0.75, 0.25])


def test_times_are_ordered():
    known = pd.Series(pd.date_range("2020-01-01", periods=10))
    values = pd.Series(pd.to_datetime(["2019-01-01", "2020-01-02", "2020-01-10"]))
    np.testing.assert_allclose(shares_as_far_out(values, known), [0.0, 0.2, 0.1])


def test_reasons_give_contribution_value_and_expected_value(detector, X):
    contributions, expected = detector.explain(X[:5], expected=True)
    reasons = detector.reasons(X[:5])
    assert list(reasons.columns) == ["contribution", "value", "expected", "as_far_out"]
    assert reasons.index.names == ["row", "column"]
    for name, table in (("contribution", contributions), ("value", X[:5]), ("expected", expected)):
        pd.testing.assert_frame_equal(
            reasons[name].unstack()[X.columns], table, check_names=False, check_dtype=False
        )


def test_reasons_of_raw_tables():
    X = mixed_table(200)
    encode = ColumnTransformer(
        [
            ("numbers", StandardScaler(), ["number"]),
            ("colours", OneHotEncoder(), ["colour"]),
        ]
    )
    forest = IsolationForest(n_estimators=5, random_state=0)
    detector = AutoencoderOutlierDetector(make_pipeline(encode, forest), random_state=0).fit(X)
    reasons = detector.reasons(X[:3])
    assert "expected" not in reasons.columns
    assert reasons.loc[(0, "colour"), "value"] == X.loc[0, "colour"]
    share = (X["colour"] == X.loc[0, "colour"]).mean()
    assert reasons.loc[(0, "colour"), "as_far_out"] == pytest.approx(share)
    report = detector.report(X)
    assert set(report.rows.columns) >= {"outlier score", "p-value", "outlier", "reason 1"}


def test_the_report_lists_the_strangest_rows_and_blames_the_spoilt_cell(detector, X):
    spoilt = X.set_axis([f"flower {row}" for row in range(len(X))])
    spoilt.iloc[7, 2] = 60.0
    report = detector.report(spoilt, n_rows=4, n_columns=2)
    assert len(report.rows) == 4
    assert report.rows.index[0] == "flower 7"
    assert report.rows["outlier score"].is_monotonic_decreasing
    assert report.rows["outlier"].iloc[0]
    assert report.rows["reason 1"].iloc[0].startswith("petal length = 60, expected ")
    assert list(report.rows.columns)[-2:] == ["reason 1", "reason 2"]


def test_findings_about_columns_and_copies_of_rows():
    rng = np.random.default_rng(0)
    number = rng.normal(size=50)
    frame = pd.DataFrame(
        {
            "a": number,
            "b": 3.0 - 2.0 * number,
            "c": np.exp(number),
            "d": rng.normal(size=50),
            "same": 1.0,
            "city": rng.choice(["x", "y"], 50),
        }
    )
    frame["town"] = frame["city"]
    frame = pd.concat([frame, frame[:3]], ignore_index=True)
    assert n_duplicates(frame) == 3
    assert constant_columns(frame) == ["same"]
    pairs = [("a", "b"), ("a", "c"), ("b", "c"), ("city", "town")]
    assert nearly_copies(frame) == pairs


@pytest.mark.parametrize("spoilt", [False, True])
def test_findings_say_whether_outliers_are_likely(spoilt):
    X = np.random.default_rng(0).normal(size=(300, 3))
    X[: 12 * spoilt] += 12.0
    detector = AutoencoderOutlierDetector(PCA(2), contamination=0.1).fit(X)
    findings = detector.report(X, n_rows=1).findings.set_index("finding")["value"]
    assert findings["outliers among the rows of fit"] == ("likely" if spoilt else "not seen")
    assert findings["rows"] == 300
    assert findings["rows called outliers"] == 30


def test_findings_state_the_rate_of_false_alarms(detector, X):
    findings = detector.report(X).findings.set_index("finding")["value"]
    n, below = len(detector.calibration_scores_), 0
    below = np.count_nonzero(detector.calibration_scores_ < detector.offset_)
    expected = f"{(1 + below) / (1 + n):.1%}"
    assert findings["normal rows called outliers, at most on average"] == expected


def test_html_is_escaped(detector, X):
    report = detector.report(X.set_axis([f"<script>{row}" for row in range(len(X))]))
    html = report._repr_html_()
    assert html == report.to_html()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert html.count("<table") == 2


@pytest.mark.parametrize("parameter", ["n_rows", "n_columns"])
def test_bad_parameters_of_the_report_are_named(detector, X, parameter):
    with pytest.raises(ValueError, match=parameter):
        detector.report(X, **{parameter: 0})
