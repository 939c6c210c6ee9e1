import itertools
import math
import pickle
import pickletools
import random
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import skops.io
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse, stats
from sklearn import config_context, decomposition
from sklearn.base import BaseEstimator, clone
from sklearn.callback import ProgressBar
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import OneClassSVM
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

from skae import (
    PCA,
    AutoencoderOutlierDetector,
    AutoencoderTransformer,
    DenoisingAutoencoder,
    VAETransformer,
    _outliers,
    _shift,
)
from skae._denoising_ensemble import DenoisingEnsemble, Experts

SMALL_AE = AutoencoderTransformer(2, hidden_layer_sizes=(8,), max_iter=3, random_state=0)
SMALL_DAE = DenoisingAutoencoder(2, hidden_layer_sizes=(8,), max_iter=3, random_state=0)
ESTIMATORS = {
    "default": None,
    "denoiser in a pipeline": make_pipeline(StandardScaler(), SMALL_DAE),
    "PCA": PCA(2),
    "forest": IsolationForest(n_estimators=5, random_state=0),
}
MORE_ESTIMATORS = {
    "autoencoder": SMALL_AE,
    "scikit-learn's PCA in a pipeline": make_pipeline(StandardScaler(), decomposition.PCA()),
    "PCA of PCA": make_pipeline(StandardScaler(), PCA(3), PCA(2)),
    "factor analysis": decomposition.FactorAnalysis(1),
    "variational autoencoder": VAETransformer(
        1, hidden_layer_sizes=(8,), max_iter=2, random_state=0
    ),
    "mixture": GaussianMixture(2, random_state=0),
    "support vectors": make_pipeline(StandardScaler(), OneClassSVM()),
}


@pytest.fixture(autouse=True)
def little_work(monkeypatch):
    """How well the default model and sampled explanations do is no matter in most tests."""
    monkeypatch.setattr(DenoisingEnsemble, "_n_steps", 5)
    monkeypatch.setattr(AutoencoderOutlierDetector, "_n_background_rows", 4)


@pytest.fixture(scope="module")
def X():
    return load_iris(as_frame=True).data.rename(columns=lambda name: name.replace(" (cm)", ""))


@pytest.fixture(params=ESTIMATORS)
def detector(request):
    return AutoencoderOutlierDetector(ESTIMATORS[request.param], random_state=0)


def brute_force_shapley_values(value, n_features):
    """Mean over all orders of what a feature adds to the value of those before it."""
    contributions = np.zeros(n_features)
    for order in itertools.permutations(range(n_features)):
        for place, feature in enumerate(order):
            before = list(order[:place])
            contributions[feature] += value([*before, feature]) - value(before)
    return contributions / math.factorial(n_features)


# The contract of scikit-learn.

CHECKED = [
    AutoencoderOutlierDetector(),
    AutoencoderOutlierDetector(PCA(1)),
    AutoencoderOutlierDetector(PCA(1), calibration_fraction=None),
    AutoencoderOutlierDetector(PCA(1), cross_fit=True),
    AutoencoderOutlierDetector(clone(SMALL_AE).set_params(max_iter=1, early_stopping=False)),
]


def expected_failed_checks(detector):
    if detector.calibration_fraction is None:
        return {}
    # test_integer_weights_are_repetitions stands in.
    reason = "rows that are repeated are held out one by one"
    failed = {
        "check_sample_weight_equivalence_on_dense_data": reason,
        "check_sample_weight_equivalence_on_sparse_data": reason,
    }
    if detector.cross_fit:
        reason = "contamination is a share of rows that the model was not fitted to"
        failed |= {"check_outliers_train": reason, "check_outliers_fit_predict": reason}
    return failed


@pytest.mark.filterwarnings("ignore:fit_predict asks:UserWarning")
@parametrize_with_checks(CHECKED, expected_failed_checks=expected_failed_checks)
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore:fit_predict asks:UserWarning")
@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names:UserWarning")
@pytest.mark.parametrize("estimator", CHECKED, ids=repr)
@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_dataframe_column_names_consistency,
        estimator_checks.check_param_validation,
    ],
    ids=lambda check: check.__name__,
)
def test_scikit_learn_check_that_is_not_yielded(estimator, check):
    check(type(estimator).__name__, clone(estimator))


def test_scores_threshold_and_labels_belong_together(detector, X):
    labels = detector.fit(X).predict(X)
    scores = detector.score_samples(X)
    assert_array_equal(scores, detector.estimator_.score_samples(X))
    assert_array_equal(detector.decision_function(X), scores - detector.offset_)
    assert_array_equal(labels, np.where(scores < detector.offset_, -1, 1))
    assert_array_equal(detector.training_scores_, scores)
    assert_array_equal(detector.feature_names_in_, X.columns)
    assert detector.n_features_in_ == 4


@pytest.mark.filterwarnings("ignore:contamination=0.1 would need:UserWarning")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float32_tables(detector, X, dtype):
    X = X.to_numpy(dtype)
    detector.set_params(contamination=0.1).fit(X)
    assert 0.07 < np.mean(detector.predict(X) == -1) <= 0.1  # some rows are not unique
    assert_allclose(detector.explain(X).sum(axis=1), -detector.score_samples(X), rtol=2e-5)
    assert detector.training_scores_.dtype == np.float64  # half-way between two float32 numbers


def test_nested_parameters_are_searched(X):
    y = np.where(np.arange(len(X)) % 50 < 40, 1, -1)
    search = GridSearchCV(
        AutoencoderOutlierDetector(make_pipeline(StandardScaler(), PCA()), random_state=0),
        {"estimator__pca__n_components": [1, 3]},
        scoring="roc_auc",
        cv=2,
    ).fit(X, y)
    best = search.best_estimator_
    assert best.estimator_[-1].n_components_ == search.best_params_["estimator__pca__n_components"]
    assert best.estimator.steps[-1][1].n_components == best.estimator_[-1].n_components
    assert not hasattr(best.estimator[-1], "components_")


def test_the_default_model_finds_outliers_of_every_scale(monkeypatch):
    monkeypatch.setattr(DenoisingEnsemble, "_n_steps", 200)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 1)) @ np.ones((1, 5)) + 0.3 * rng.standard_normal((300, 5))
    outliers = np.where(rng.random((50, 5)) < 0.3, -1.0, 1.0) * X[:50]
    outliers = outliers[np.abs(outliers - X[:50]).max(axis=1) > 2.0]
    scale = np.array([1e-3, 1.0, 1.0, 1e3, 1.0])
    detector = AutoencoderOutlierDetector(random_state=0).fit(X[50:] * scale)
    rows = np.concatenate([X[:50], outliers]) * scale
    labels = np.repeat([0, 1], [50, len(outliers)])
    assert roc_auc_score(labels, -detector.score_samples(rows)) > 0.9


# Threshold.


@pytest.mark.parametrize("contamination", [0.01, 0.07, 0.1, 1 / 3, 0.5])
def test_contamination_is_the_share_that_scikit_learn_calls_outliers(X, contamination):
    forest = IsolationForest(n_estimators=50, contamination=contamination, random_state=0)
    detector = AutoencoderOutlierDetector(forest, contamination=contamination).fit(X)
    n_outliers = np.sum(detector.predict(X) == -1)
    assert contamination * len(X) - 1 < n_outliers <= contamination * len(X)
    if (contamination * len(X)).is_integer():
        assert_array_equal(detector.predict(X), forest.fit(X).predict(X))


@pytest.mark.parametrize(("contamination", "level"), [("auto", 0.05), (0.25, 0.25)])
def test_outliers_are_what_has_a_small_p_value(detector, X, contamination, level):
    X = X.sample(frac=1.0, random_state=0)
    detector.set_params(contamination=contamination, calibration_fraction=0.2).fit(X[:100])
    new = pd.concat([X[100:], 1.2 * X[100:]])
    assert_array_equal(detector.predict(new) == -1, detector.p_values(new) <= level)
    assert set(detector.predict(new)) == {-1, 1}


def test_auto_with_few_calibration_rows_takes_the_lowest_score(X):
    detector = AutoencoderOutlierDetector(PCA(2), random_state=0).fit(X[:20])
    assert len(detector.calibration_scores_) == 4
    assert_allclose(detector.offset_, detector.calibration_scores_.min(), rtol=1e-5)


@pytest.mark.parametrize("fraction", [0.2, None])
def test_the_threshold_moves_without_another_fit(detector, X, fraction):
    detector.set_params(calibration_fraction=fraction, contamination=0.2).fit(X)
    model, scores = detector.estimator_, detector.score_samples(X)
    # The default model for outliers among the rows is another one than that for normal rows.
    for contamination in (0.2, 0.03) if detector.estimator is None else (0.2, "auto", 0.03):
        assert detector.set_contamination(contamination) is detector
        assert detector.estimator_ is model
        assert detector.contamination == contamination
        assert detector.offset_ == clone(detector).fit(X).offset_
    detector.offset_ = np.median(scores)
    assert_array_equal(detector.predict(X), np.where(scores < np.median(scores), -1, 1))


@pytest.mark.parametrize("contamination", [0, 0.6, -0.1, "high", None])
def test_a_threshold_that_cannot_be_leaves_the_old_one(X, contamination):
    detector = AutoencoderOutlierDetector(PCA(2), random_state=0).fit(X)
    before = dict(vars(detector))
    with pytest.raises(ValueError, match=f"contamination.*{contamination}"):
        detector.set_contamination(contamination)
    assert vars(detector) == before
    with pytest.raises(NotFittedError):
        clone(detector).set_contamination(0.1)


@pytest.mark.filterwarnings("ignore:contamination=.* would need:UserWarning")
@pytest.mark.parametrize("contamination", [0.04, 0.1, 0.25, 0.5])
@pytest.mark.parametrize(
    "estimator", [PCA(2), make_pipeline(StandardScaler(), PCA(2))], ids=["PCA", "pipeline"]
)
def test_integer_weights_are_repetitions(X, contamination, estimator):
    weights = np.random.default_rng(0).integers(0, 4, len(X))
    detector = AutoencoderOutlierDetector(estimator, contamination=contamination)
    weighted = clone(detector).fit(X, sample_weight=weights)
    repeated = detector.fit(X.loc[X.index.repeat(weights)])
    assert_allclose(weighted.offset_, repeated.offset_, rtol=1e-9)
    assert_array_equal(weighted.predict(X), repeated.predict(X))
    share = np.average(weighted.predict(X) == -1, weights=weights)
    assert contamination - 4 / weights.sum() < share <= contamination


@pytest.mark.filterwarnings("ignore:.*takes no sample_weight:UserWarning")
def test_weight_zero_is_absence(detector, X):
    weights = np.tile([1.0, 0.0, 1.0], len(X) // 3)
    weighted = clone(detector)
    weighted.fit(X, sample_weight=weights)
    desired = detector.fit(X[weights > 0], sample_weight=weights[weights > 0])
    assert_array_equal(weighted.score_samples(X), desired.score_samples(X))
    assert_array_equal(weighted.p_values(X), desired.p_values(X))
    assert weighted.offset_ == desired.offset_


# p-values.

NEAREST = KernelDensity(bandwidth=0.1)  # overfits: rows that it was fitted to score too high


class DistanceFromTheMean(BaseEstimator):
    """A model that costs nothing."""

    def fit(self, X, y=None):
        self.mean_ = np.mean(X, axis=0)
        return self

    def score_samples(self, X):
        return -np.linalg.norm(X - self.mean_, axis=1)


def one_p_value_each(detector, seed, n_repetitions, n_rows=60):
    """p-values of independent new rows, each by a detector of its own, and calibration sizes."""
    rng = np.random.default_rng(seed)
    p_values = np.empty(n_repetitions)
    for repetition in range(n_repetitions):
        rows = rng.standard_t(2, (n_rows + 1, 2))  # heavy tails
        detector.set_params(random_state=repetition).fit(rows[1:])
        p_values[repetition] = detector.p_values(rows[:1])[0]
    return p_values


def assert_binomial(n_events, n_repetitions, probability, alternative="two-sided"):
    test = stats.binomtest(int(n_events), n_repetitions, probability, alternative=alternative)
    assert test.pvalue > 1e-4, (n_events / n_repetitions, probability)


@pytest.mark.parametrize("estimator", [DistanceFromTheMean(), NEAREST], ids=repr)
def test_p_values_are_uniform_for_rows_of_the_same_distribution(estimator):
    n_calibration = 19
    detector = AutoencoderOutlierDetector(estimator, calibration_fraction=n_calibration / 60)
    p_values = one_p_value_each(detector, 0, 250)
    for k in (1, 2, 5, 10, 15):  # without ties they are uniform on 1/20, 2/20, ..., 1
        level = k / (n_calibration + 1)
        assert_binomial(np.sum(p_values <= level), len(p_values), level)


def test_cross_fitted_p_values_are_not_too_small():
    detector = AutoencoderOutlierDetector(DistanceFromTheMean(), cross_fit=True)
    p_values = one_p_value_each(detector, 0, 250)
    for level in (0.05, 0.1, 0.25, 0.5):
        assert_binomial(np.sum(p_values <= level), len(p_values), level, alternative="greater")


def test_auto_keeps_the_rate_of_false_alarms_and_scores_of_the_fit_do_not():
    rng = np.random.default_rng(0)
    n_alarms = {0.2: 0, None: 0}
    for repetition in range(100):
        X = rng.standard_t(2, (60, 2))
        for fraction in n_alarms:
            detector = AutoencoderOutlierDetector(
                NEAREST, calibration_fraction=fraction, random_state=repetition
            ).fit(X)
            n_alarms[fraction] += np.sum(detector.predict(rng.standard_t(2, (1, 2))) == -1)
    assert_binomial(n_alarms[0.2], 100, 0.05, alternative="greater")
    assert n_alarms[None] > 20


def test_p_values_count_scores_that_are_not_higher(X):
    detector = AutoencoderOutlierDetector(PCA(2), random_state=0).fit(X)
    calibration = detector.calibration_scores_
    assert len(calibration) == 30
    new = X + np.random.default_rng(0).normal(scale=0.3, size=X.shape)
    desired = [(1 + np.sum(calibration <= score)) / 31 for score in detector.score_samples(new)]
    assert_allclose(detector.p_values(new), desired, rtol=1e-12)


def test_ties_make_p_values_larger():
    rng = np.random.default_rng(0)
    levels = np.array([0.05, 0.1, 0.25, 0.5])
    counts = np.zeros(len(levels))
    for repetition in range(300):
        rows = rng.integers(0, 3, (61, 2)).astype(float)
        detector = AutoencoderOutlierDetector(DistanceFromTheMean(), random_state=repetition)
        detector.fit(rows[1:])
        counts += detector.p_values(rows[:1]) <= levels
    for count, level in zip(counts, levels, strict=True):
        assert_binomial(count, 300, level, alternative="greater")


@pytest.mark.filterwarnings("ignore:.*takes no sample_weight:UserWarning")
def test_weights_correct_p_values_for_rows_of_another_distribution():
    rng = np.random.default_rng(0)

    # Rows of the fit are uniform; new ones are more often far from zero.
    def density_ratio(x):
        return 0.5 + np.abs(x[:, 0])

    def new_row():
        while True:
            x = rng.uniform(-1, 1, (1, 1))
            if rng.uniform(0, 1.5) < density_ratio(x)[0]:
                return x

    detector = AutoencoderOutlierDetector(DistanceFromTheMean(), calibration_fraction=0.9)
    counts = {"weighted": 0, "unweighted": 0}
    for repetition in range(400):
        X, new = rng.uniform(-1, 1, (100, 1)), new_row()
        detector.set_params(random_state=repetition)
        for name, weights in (("weighted", density_ratio(X)), ("unweighted", None)):
            p_value = detector.fit(X, sample_weight=weights).p_values(new)[0]
            counts[name] += p_value <= 0.3
    assert_binomial(counts["weighted"], 400, 0.3, alternative="greater")
    assert counts["weighted"] > 0.2 * 400
    assert stats.binomtest(counts["unweighted"], 400, 0.3, alternative="greater").pvalue < 1e-4


class SecondColumn(BaseEstimator):
    """Score by the size of the second column, whose spread grows with the first."""

    def fit(self, X, y=None):
        self.n_features_in_ = 2
        return self

    def score_samples(self, X):
        return -np.abs(np.asarray(X)[:, 1])


def rows_with_first_column(first, rng):
    return np.column_stack([first, np.exp(0.5 * first) * rng.normal(size=len(first))])


@pytest.mark.parametrize("known_ratio", [True, False])
def test_density_ratios_correct_p_values_for_a_shift_of_the_columns(known_ratio):
    rng = np.random.default_rng(0)
    ratio = (lambda X: np.exp(X[:, 0] - 0.5)) if known_ratio else None
    n_repetitions = 200 if known_ratio else 8
    shares = {"corrected": [], "as they are": []}
    detector = AutoencoderOutlierDetector(SecondColumn(), calibration_fraction=0.5)
    for repetition in range(n_repetitions):
        X = rows_with_first_column(rng.normal(size=400), rng)
        new = rows_with_first_column(1.0 + rng.normal(size=200), rng)
        detector.set_params(random_state=repetition).fit(X)
        corrected = detector.p_values(new, X_fit=X, density_ratio=ratio)
        shares["corrected"].append(np.mean(corrected <= 0.2))
        shares["as they are"].append(np.mean(detector.p_values(new) <= 0.2))
    error = np.std(shares["corrected"]) / np.sqrt(n_repetitions)
    tolerance = 0.0 if known_ratio else 0.03
    assert np.mean(shares["corrected"]) < 0.2 + 3 * error + tolerance
    assert np.mean(shares["corrected"]) > 0.1
    assert np.mean(shares["as they are"]) > 0.27


def test_weighted_p_values_are_those_of_tibshirani(X):
    table = X.to_numpy()
    detector = AutoencoderOutlierDetector(NEAREST, random_state=0).fit(table)

    def weight(rows):
        return np.asarray(rows)[:, 0]

    p_values = detector.p_values(table[:7] + 0.1, X_fit=table, density_ratio=weight)
    calibration = table[detector._calibration_rows]
    assert_allclose(detector.score_samples(calibration), detector.calibration_scores_)
    own = weight(table[:7] + 0.1)
    lower = [
        weight(calibration)[detector.calibration_scores_ <= score].sum()
        for score in detector.score_samples(table[:7] + 0.1)
    ]
    assert_allclose(p_values, (own + lower) / (own + weight(calibration).sum()))


def test_equal_density_ratios_change_nothing(X):
    detector = AutoencoderOutlierDetector(PCA(2), random_state=0).fit(X)
    ones = detector.p_values(X, X_fit=X, density_ratio=lambda rows: np.full(len(rows), 3.0))
    assert_allclose(ones, detector.p_values(X))


def test_the_test_of_exchangeability_keeps_its_level_and_sees_a_shift():
    rng = np.random.default_rng(0)
    detector = AutoencoderOutlierDetector(PCA(1), calibration_fraction=0.5, random_state=0)
    p_values = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(25):
            X = rng.normal(size=(160, 2))
            p_values.append(
                detector.fit(X).check_exchangeability(rng.normal(size=(60, 2)), X).p_value
            )
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3
    with pytest.warns(UserWarning, match="promise nothing for rows of another distribution"):
        result = detector.check_exchangeability(2.0 + rng.normal(size=(60, 2)), X)
    assert result.p_value < 1e-4
    assert result.area > 0.8


def test_shifts_of_tables_with_columns_of_any_kind():
    rng = np.random.default_rng(0)

    def table(n, share):
        return pd.DataFrame(
            {
                "number": np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n)),
                "city": rng.choice(["a", "b", None], n, p=[share, 0.9 - share, 0.1]),
                "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 99, n), "D"),
                "flag": rng.random(n) < 0.5,
            }
        )

    known, same, other = table(300, 0.1), table(100, 0.1), table(100, 0.8)
    ratios, _ = _shift.density_ratios(known, other, 0)
    assert ratios[known["city"] == "a"].mean() > 3 * ratios[known["city"] == "b"].mean()
    assert _shift.exchangeability_test(known, same, 0).p_value > 0.01
    assert _shift.exchangeability_test(known, other, 0).p_value < 1e-4


def test_what_a_shift_needs_is_said(X):
    detector = AutoencoderOutlierDetector(PCA(2), random_state=0).fit(X)
    with pytest.raises(ValueError, match="X_fit has 10 rows, and fit was passed 150"):
        detector.p_values(X, X_fit=X[:10])
    with pytest.raises(ValueError, match="density_ratio needs X_fit"):
        detector.p_values(X, density_ratio=len)
    with pytest.raises(ValueError, match="density_ratio gave shape"):
        detector.p_values(X, X_fit=X, density_ratio=lambda rows: 1.0)
    with pytest.raises(ValueError, match="negative"):
        detector.p_values(X, X_fit=X, density_ratio=lambda rows: -np.ones(len(rows)))
    with pytest.warns(UserWarning, match="count as 1.0"):
        detector.p_values(X, X_fit=X, density_ratio=lambda rows: np.eye(len(rows))[0] + 1e-9)
    with pytest.raises(ValueError, match="at least 4 rows in X"):
        detector.check_exchangeability(X[:2], X)


def test_p_values_with_weights_give_the_row_the_largest_one():
    scores = np.array([3.0, 1.0, 2.0, 2.0, 5.0])
    weights = np.array([1.0, 4.0, 0.5, 1.5, 3.0])
    new = np.array([0.0, 1.0, 1.5, 2.0, 4.0, 5.0])
    desired = (4 + np.array([0, 4, 4, 6, 7, 10])) / 14
    assert_allclose(_outliers.conformal_p_values(new, scores, weights), desired)
    threshold = _outliers.conformal_threshold(scores, weights, 0.6)
    assert_allclose(threshold.offset, 2.0, rtol=1e-5)
    assert_allclose(threshold.share, 8 / 14)
    assert threshold.n_tied == 2


def test_scale_of_the_weights_does_not_matter(X):
    weights = np.random.default_rng(0).uniform(0.1, 3, len(X))
    first, second, equal, none = (
        AutoencoderOutlierDetector(NEAREST, random_state=0).fit(X, sample_weight=sample_weight)
        for sample_weight in (weights, 1000 * weights, np.full(len(X), 7), None)
    )
    assert_allclose(first.p_values(X), second.p_values(X))
    assert_allclose(first.offset_, second.offset_)
    assert_allclose(equal.p_values(X), none.p_values(X))
    assert_allclose(equal.offset_, none.offset_)
    assert not np.allclose(first.p_values(X), none.p_values(X))


TABLES_WITH_OUTLIERS = {
    "continuous": lambda normal, outliers: (normal, outliers),
    "tied": lambda normal, outliers: (np.round(2 * normal) / 2, np.round(2 * outliers) / 2),
    "discrete": lambda normal, outliers: (
        np.abs(np.round(normal)).clip(0, 2),
        np.abs(np.round(outliers)).clip(0, 3),
    ),
}


@pytest.mark.filterwarnings("ignore:No row is selected:UserWarning")
@pytest.mark.parametrize("estimator", [PCA(1), DistanceFromTheMean()], ids=repr)
@pytest.mark.parametrize("kind", TABLES_WITH_OUTLIERS)
@pytest.mark.parametrize("n_outliers", [0, 10, 50])
def test_selection_controls_the_false_discovery_rate(kind, estimator, n_outliers):
    rng = np.random.default_rng(0)
    false_share, found = [], []
    for repetition in range(60):
        normal = rng.standard_normal((350, 3))
        outliers = rng.standard_normal((n_outliers, 3)) + 4.0
        normal, outliers = TABLES_WITH_OUTLIERS[kind](normal, outliers)
        new = np.concatenate([outliers, normal[: 100 - n_outliers]])
        detector = AutoencoderOutlierDetector(
            estimator, calibration_fraction=0.8, random_state=repetition
        ).fit(normal[100:])
        selected = detector.select(new.astype(np.float32 if repetition % 2 else float), fdr=0.2)
        desired = stats.false_discovery_control(detector.p_values(new)) <= 0.2 + 1e-12
        assert_array_equal(selected, desired)
        false_share.append(selected[n_outliers:].sum() / max(selected.sum(), 1))
        found.append(selected[:n_outliers].mean() if n_outliers else 1.0)
    error = np.std(false_share) / np.sqrt(len(false_share))
    assert np.mean(false_share) < 0.2 + 3 * error
    if kind != "discrete":
        assert np.mean(found) > 0.8


@pytest.mark.filterwarnings("ignore:No row is selected:UserWarning")
@pytest.mark.parametrize("fdr", [0.01, 0.1, 0.5])
def test_selection_is_that_of_scipy(fdr):
    rng = np.random.default_rng(0)
    for n_calibration in (9, 19, 99):
        for _ in range(50):
            # Multiples of one share meet the bounds of the procedure exactly.
            p_values = rng.integers(1, n_calibration + 2, 20) / (n_calibration + 1)
            p_values[: rng.integers(0, 20)] = 1 / (n_calibration + 1)
            desired = stats.false_discovery_control(p_values) <= fdr * (1 + 1e-9)
            assert_array_equal(_outliers.benjamini_hochberg(p_values, fdr), desired)


def test_too_few_calibration_rows_to_select_are_not_silent():
    rng = np.random.default_rng(0)
    X, new = rng.standard_normal((100, 2)), rng.standard_normal((100, 2))
    new[:4] = 50.0
    detector = AutoencoderOutlierDetector(PCA(1), random_state=0).fit(X)
    assert 4 <= np.sum(detector.p_values(new) <= 1 / 21) < 48
    with pytest.warns(UserWarning, match="all 20 calibration rows.* takes at least 48 such rows"):
        assert not detector.select(new).any()
    assert_array_equal(np.flatnonzero(detector.select(new[:8])), np.arange(4))
    assert not detector.select(np.zeros((5, 2))).any()


@pytest.mark.parametrize("fdr", [0.0, 1.0, -0.1, "low", None])
def test_a_false_discovery_rate_that_cannot_be(X, fdr):
    detector = AutoencoderOutlierDetector(PCA(2), random_state=0).fit(X)
    with pytest.raises(ValueError, match=f"'fdr' parameter of .*select .* {fdr!r}"):
        detector.select(X, fdr=fdr)


@pytest.mark.parametrize(
    ("parameters", "n_calibration"),
    [
        ({"calibration_fraction": 0.3}, 45),
        ({"cross_fit": True}, 150),
        ({"cross_fit": True, "calibration_fraction": 0.34}, 150),
    ],
)
def test_calibration_rows(X, parameters, n_calibration):
    X = X + np.random.default_rng(0).normal(scale=1e-3, size=X.shape)  # no two rows are equal
    detector = AutoencoderOutlierDetector(PCA(2), random_state=0, **parameters).fit(X)
    assert detector.calibration_scores_.shape == (n_calibration,)
    fitted_to = np.ones(len(X), dtype=bool)
    if not detector.cross_fit:
        distance = np.subtract.outer(detector.calibration_scores_, detector.training_scores_)
        fitted_to = np.abs(distance).min(axis=0) > 1e-9
        assert_allclose(detector.training_scores_[~fitted_to], detector.calibration_scores_)
    else:
        correlation = stats.pearsonr(detector.training_scores_, detector.calibration_scores_)
        assert correlation.statistic > 0.95
    assert_allclose(detector.estimator_.mean_, X[fitted_to].mean())
    other = clone(detector).set_params(random_state=1).fit(X)
    assert set(other.calibration_scores_) != set(detector.calibration_scores_)


def test_without_calibration_there_are_no_p_values(X):
    for parameters in ({"calibration_fraction": None}, {"contamination": 0.05}):
        detector = AutoencoderOutlierDetector(PCA(2), **parameters).fit(X)
        assert detector.calibration_scores_ is None
        assert np.sum(detector.predict(X) == -1) == 7
        assert_array_equal(detector.estimator_.mean_, PCA(2).fit(X).mean_)
        for method in (detector.p_values, detector.select):
            with pytest.raises(ValueError, match="p_values .* with calibration_fraction=0.2"):
                method(X)


# Ties.


def categories(n_rows, rng, shares=(0.3, 0.2, 0.15, 0.1, 0.08, 0.06, 0.05, 0.03, 0.02, 0.01)):
    """One column of categories, one-hot: the rows are of ten kinds."""
    return np.eye(len(shares))[rng.choice(len(shares), n_rows, p=shares)]


TIE_MODELS = ESTIMATORS | {
    "reconstruction without error": AutoencoderTransformer(9, max_iter=1, random_state=0),
    "PCA of all components": PCA(),
    "mixture": GaussianMixture(2, random_state=0),
}


@pytest.mark.parametrize("fitted_as", [np.float32, np.float64])
@pytest.mark.parametrize("name", TIE_MODELS)
def test_a_row_is_judged_the_same_in_any_dtype_and_company(name, fitted_as):
    rng = np.random.default_rng(0)
    detector = AutoencoderOutlierDetector(TIE_MODELS[name], random_state=0)
    detector.fit(categories(300, rng).astype(fitted_as))
    rows = categories(200, rng)
    kinds = rows.argmax(axis=1)
    labels, p_values = detector.predict(rows), detector.p_values(rows)
    for same in (rows.astype(np.float32), rows.astype(np.float16), sparse.csr_array(rows)):
        if name in ("PCA", "PCA of all components") or not sparse.issparse(same):
            assert_array_equal(detector.predict(same), labels)
            assert_array_equal(detector.p_values(same), p_values)
    for kind in np.unique(kinds):
        assert len(set(labels[kinds == kind])) == len(set(p_values[kinds == kind])) == 1
    for number, kind in zip(*np.unique(kinds, return_index=True)[::-1], strict=True):
        alone = rows[number : number + 1].astype(np.float32)
        assert kinds[number] == kind
        assert detector.predict(alone)[0] == labels[number]
        assert detector.p_values(alone)[0] == p_values[number]


@pytest.mark.filterwarnings("ignore:contamination=.* would need:UserWarning")
@pytest.mark.parametrize("contamination", [0.02, 0.1, 0.25, 0.4, 0.5])
@pytest.mark.parametrize("name", TIE_MODELS)
def test_equal_rows_of_the_fit_have_one_label(name, contamination):
    X = categories(300, np.random.default_rng(0))
    detector = AutoencoderOutlierDetector(
        TIE_MODELS[name], contamination=contamination, random_state=0
    ).fit(X)
    labels = detector.predict(X)
    assert np.mean(labels == -1) <= contamination
    assert_array_equal(detector.predict(X.astype(np.float32)), labels)
    assert_array_equal(np.concatenate([detector.predict(row[np.newaxis]) for row in X]), labels)
    for kind in range(10):
        assert len(set(labels[X[:, kind] == 1])) <= 1


@pytest.mark.parametrize("fraction", [None, 0.5])
def test_a_tie_makes_no_majority_of_outliers(fraction):
    X = np.repeat([[0.0, 1.0], [1.0, 0.0]], [370, 130], axis=0)

    class DistanceFromTheRareRow(DistanceFromTheMean):
        def score_samples(self, X):
            return -np.linalg.norm(X - [1.0, 0.0], axis=1)

    detector = AutoencoderOutlierDetector(
        DistanceFromTheRareRow(), contamination=0.2, calibration_fraction=fraction, random_state=0
    )
    with pytest.warns(UserWarning, match=r"contamination=0.2 would need .* amid \d+ row"):
        detector.fit(X)
    assert np.all(detector.predict(X) == 1)
    with pytest.warns(UserWarning, match="contamination=0.3 would need"):
        detector.set_contamination(0.3)
    assert np.all(detector.predict(X) == 1)


def test_the_smaller_share_is_taken_where_ties_leave_a_choice():
    X = np.repeat([[0.0], [4.0], [5.0]], [370, 100, 30], axis=0)
    detector = AutoencoderOutlierDetector(
        DistanceFromTheMean(), contamination=0.2, calibration_fraction=None
    )
    with pytest.warns(UserWarning, match="amid 100 row.* share of 0.06 as outliers"):
        detector.fit(X)
    assert_array_equal(detector.predict(X), np.repeat([1, 1, -1], [370, 100, 30]))
    detector.set_contamination(0.26)  # all that it asks for
    assert_array_equal(detector.predict(X), np.repeat([1, -1, -1], [370, 100, 30]))


@pytest.mark.parametrize("scale", [1e-300, 1e-20, 1.0, 1e250])
@pytest.mark.parametrize("shift", [0.0, -1000.0, 3.0])
def test_scores_that_differ_by_rounding_are_ties(scale, shift):
    rng = np.random.default_rng(0)
    levels = scale * (shift + np.array([-3.0, -1.0, -0.5, 2.0]))
    kinds, new_kinds = rng.integers(0, 4, 50), np.arange(4)

    def rounded(kinds):
        return levels[kinds] + 1e-9 * scale * rng.uniform(-1, 1, len(kinds))

    calibration, weights = rounded(kinds), rng.uniform(0.5, 2.0, 50)
    desired = (weights.max() + [weights[kinds <= kind].sum() for kind in new_kinds]) / (
        weights.max() + weights.sum()
    )
    p_values = _outliers.conformal_p_values(rounded(new_kinds), calibration, weights)
    assert_allclose(p_values, desired, rtol=1e-12)
    for level in (0.1, 0.3, 0.6, 0.9):
        offset = _outliers.conformal_threshold(calibration, weights, level).offset
        is_low = rounded(new_kinds) < offset
        if desired[0] <= level:
            assert_array_equal(is_low, desired <= level)
        offset = _outliers.contamination_threshold(calibration, weights, level).offset
        below = np.array([weights[kinds <= kind].sum() for kind in new_kinds]) / weights.sum()
        assert_array_equal(rounded(new_kinds) < offset, below <= level)


@pytest.mark.parametrize("n_rows", [1000, 100_000])
def test_scores_of_their_own_are_no_ties(n_rows):
    scores = np.random.default_rng(0).standard_t(2, n_rows)
    for share in (0.01, 0.1, 0.5):
        threshold = _outliers.contamination_threshold(scores, np.ones(n_rows), share)
        assert not threshold.misses(share)
        assert_allclose(np.mean(scores < threshold.offset), share, rtol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("estimator", [None, PCA(2), NEAREST, DistanceFromTheMean()], ids=repr)
def test_the_promise_holds_for_discrete_tables(estimator, dtype):
    """New rows come in the other dtype and alone, and all rows are of few kinds."""
    rng = np.random.default_rng(0)
    other = np.float64 if dtype == np.float32 else np.float32
    n_repetitions = 60 if estimator is None else 200
    p_values, labels = np.empty(n_repetitions), np.empty(n_repetitions)
    for repetition in range(n_repetitions):
        if repetition % 2:
            rows = categories(101, rng)
        else:
            rows = rng.poisson(0.5, (101, 3)) / 3.0  # no number of float32 but zero and one
            rows = rows.astype(np.float32).astype(np.float64)
        detector = AutoencoderOutlierDetector(
            estimator, calibration_fraction=0.4, random_state=repetition
        ).fit(rows[1:].astype(dtype))
        new = rows[:1].astype(other)
        p_values[repetition], labels[repetition] = (
            detector.p_values(new)[0],
            detector.predict(new)[0],
        )
    assert_array_equal(labels == -1, p_values <= 0.05)
    for level in (0.05, 0.1, 0.25, 0.5):
        n_small = np.sum(p_values <= level)
        assert_binomial(n_small, n_repetitions, level, alternative="greater")


# Scores that are no numbers.


class Spoilt(DistanceFromTheMean):
    """Gives what is not finite for rows that begin with a large number."""

    def __init__(self, value=np.nan):
        self.value = value

    def score_samples(self, X):
        return np.where(X[:, 0] > 10.0, self.value, super().score_samples(X))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("parameters", [{}, {"contamination": 0.1}, {"cross_fit": True}])
def test_a_score_that_is_not_finite_is_an_outlier(value, parameters):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((100, 2))
    X[:2, 0] = 11.0  # of the rows of the fit as well
    new = np.array([[20.0, 0.0], [0.0, 0.0]])
    detector = AutoencoderOutlierDetector(Spoilt(value), random_state=0, **parameters).fit(X)
    assert_array_equal(detector.predict(new), [-1, 1])
    assert_array_equal(detector.decision_function(new) < 0, [True, False])
    assert detector.score_samples(new)[0] == -np.inf
    assert np.isfinite(detector.offset_)
    if detector.calibration_scores_ is not None:
        assert_array_equal(detector.p_values(new) <= 0.05, [True, False])


@pytest.mark.parametrize("parameters", [{}, {"contamination": 0.1}, {"cross_fit": True}])
def test_a_model_without_finite_scores_is_an_error(parameters):
    X = 20.0 + np.random.default_rng(0).standard_normal((100, 2))
    X[0] = 0.0
    with pytest.raises(ValueError, match="Spoilt gives .* scores that are not finite"):
        AutoencoderOutlierDetector(Spoilt(), random_state=0, **parameters).fit(X)


@pytest.mark.parametrize("heavy", [1e3, 1e6, 1e100, 1e300])
@pytest.mark.parametrize("contamination", ["auto", 0.1])
def test_weights_that_concentrate_leave_a_detector(heavy, contamination):
    X = np.random.default_rng(0).standard_normal((50, 4))
    for place in range(0, 50, 7):
        weights = np.ones(50)
        weights[place] = heavy
        detector = AutoencoderOutlierDetector(contamination=contamination, random_state=0)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "contamination=.* would need", UserWarning)
            detector.fit(X, sample_weight=weights)
        assert np.all(np.isfinite(detector.training_scores_))
        assert_array_equal(detector.predict(np.full((1, 4), 50.0)), [-1])


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
@pytest.mark.parametrize("estimator", [None, SMALL_AE, PCA(2), decomposition.PCA(2)], ids=repr)
@pytest.mark.parametrize("size", [1e30, 1e160, 1.7e308])
def test_huge_rows_are_outliers(X, estimator, size):
    detector = AutoencoderOutlierDetector(estimator, random_state=0).fit(X.to_numpy())
    rows = np.array([np.full(4, size), np.full(4, -size), [5.0, size, 4.0, 1.0]])
    assert_array_equal(detector.predict(rows), [-1, -1, -1])
    assert_allclose(detector.p_values(rows), 1 / 31)


@pytest.mark.parametrize("n_rows", [3, 4, 5, 10])
def test_tables_of_few_rows(n_rows):
    X = np.random.default_rng(0).standard_normal((n_rows, 2))
    detector = AutoencoderOutlierDetector(random_state=0).fit(X)
    assert np.all(np.isfinite(detector.training_scores_))
    assert_array_equal(detector.predict([[50.0, 50.0]]), [-1])


# What fit does once, and what fit_predict asks.


@pytest.mark.parametrize(
    ("parameters", "n_scored"),
    [({}, 100), ({"contamination": 0.1}, 100), ({"cross_fit": True}, 200)],
)
def test_fit_scores_a_row_once_with_each_model(parameters, n_scored):
    scored = []

    class Counting(DistanceFromTheMean):
        def score_samples(self, X):
            scored.extend((id(self), *row) for row in X)
            return super().score_samples(X)

    X = np.random.default_rng(0).standard_normal((100, 2))
    AutoencoderOutlierDetector(Counting(), random_state=0, **parameters).fit(X)
    assert len(scored) == len(set(scored)) == n_scored


def test_fit_predict_says_what_auto_is_not_made_for():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.standard_normal((270, 4)), rng.uniform(-5, 5, (30, 4))])
    is_outlier = np.arange(300) >= 270
    with pytest.warns(UserWarning, match="Set contamination to the share to look for"):
        labels = AutoencoderOutlierDetector(random_state=0).fit_predict(X)
    assert_array_equal(labels, AutoencoderOutlierDetector(random_state=0).fit(X).predict(X))
    found = AutoencoderOutlierDetector(contamination=0.1, random_state=0).fit_predict(X) == -1
    assert np.mean(found[is_outlier]) > 0.2 + np.mean(labels[is_outlier] == -1)
    weights = np.where(is_outlier, 1e-6, 1.0)
    detector = AutoencoderOutlierDetector(PCA(2), contamination=0.01)
    labels = detector.fit_predict(X, sample_weight=weights)
    assert_array_equal(labels, detector.fit(X, sample_weight=weights).predict(X))


# Messages.


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda X: X.assign(**{"sepal width": np.inf}), "Input X contains infinity"),
        (lambda X: X.assign(**{"sepal width": "wide"}), "sepal width"),
        (lambda X: X.iloc[:, :3], "feature names"),
        (lambda X: X.to_numpy()[:, :3], "3 features"),
        (lambda X: X.to_numpy()[:, 0], "1D array"),
    ],
)
@pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning")
def test_errors_of_the_default_model_name_the_class_that_was_typed(X, spoil, message):
    detector = AutoencoderOutlierDetector(random_state=0).fit(X)
    calls = [detector.predict, detector.p_values, detector.explain]
    if "feature" not in message:
        calls.append(AutoencoderOutlierDetector(random_state=0).fit)
    for call in calls:
        with pytest.raises(ValueError, match=message) as raised:
            call(spoil(X))
        assert "DenoisingEnsemble" not in str(raised.value)


def test_gaps_are_no_evidence_for_the_detector(X):
    gaps = X.mask(np.random.default_rng(0).random(X.shape) < 0.2)
    detector = AutoencoderOutlierDetector(random_state=0).fit(gaps)
    assert get_tags(detector).input_tags.allow_nan
    contributions, expected = detector.explain(gaps, expected=True)
    assert np.all(contributions.to_numpy()[gaps.isna()] == 0.0)
    assert_allclose(contributions.sum(axis=1), -detector.score_samples(gaps))
    assert not expected.isna().any(axis=None)
    assert np.mean(detector.predict(gaps) == 1) > 0.8
    with pytest.raises(ValueError, match=r"no cell is known.*drop it") as raised:
        detector.fit(X.assign(**{"sepal width": np.nan}))
    assert "DenoisingEnsemble" not in str(raised.value)


def test_the_default_model_leaves_threads_alone_and_takes_one(monkeypatch, X):
    seen = set()

    def noted(function):
        def note(*arguments):
            seen.add(torch.get_num_threads())
            return function(*arguments)

        return note

    monkeypatch.setattr(Experts, "loss", noted(Experts.loss))
    monkeypatch.setattr(Experts, "distances", noted(Experts.distances))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        AutoencoderOutlierDetector(random_state=0).fit(X).predict(X)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == {1}


# What a fitted detector keeps.


TABLES = {
    "array": lambda X: X.to_numpy(),
    "float32": lambda X: X.to_numpy(np.float32),
    "list": lambda X: X.to_numpy().tolist(),
    "pandas": lambda X: X,
    "polars": lambda X: pl.DataFrame(X.to_dict("series")),
    "nullable": lambda X: X.astype("Float64"),
    "nullable integers": lambda X: (10 * X).round().astype("Int64"),
    "narrow nullable": lambda X: X.astype("Float32"),
    "Arrow": lambda X: X.convert_dtypes(dtype_backend="pyarrow"),
    "narrow Arrow": lambda X: X.astype("float[pyarrow]"),
    "narrow polars": lambda X: pl.DataFrame(X.astype(np.float32).to_dict("series")),
    "Arrow table": lambda X: pa.Table.from_pandas(X),
    "narrow Arrow table": lambda X: pa.Table.from_pandas(X.astype(np.float32)),
    "tensor": lambda X: torch.tensor(X.to_numpy(np.float32)),
    "booleans": lambda X: X.mean() < X,
    "names that are numbers": lambda X: X.set_axis(range(4), axis=1),
    "sparse": lambda X: sparse.csr_array(X.to_numpy()),
}


@pytest.mark.parametrize("container", TABLES)
@pytest.mark.parametrize(
    "estimator",
    [None, SMALL_AE, PCA(2), decomposition.PCA(1), GaussianMixture(1)],
    ids=["default", "autoencoder", "PCA", "PCA of scikit-learn", "sampled"],
)
def test_files_hold_arrays_whatever_was_fitted_to(X, container, estimator):
    if container == "sparse" and not isinstance(estimator, PCA | AutoencoderTransformer):
        return  # they do not take sparse rows
    table = TABLES[container](X)
    detector = AutoencoderOutlierDetector(estimator, random_state=0).fit(table)
    data = skops.io.dumps(detector)
    types = skops.io.get_untrusted_types(data=data)
    if not isinstance(estimator, GaussianMixture):
        assert [name for name in types if not name.startswith("skae.")] == []
    loaded = skops.io.loads(data, trusted=types)
    rows = table[:4]
    explanation = detector.explain(rows)
    assert_array_equal(loaded.explain(rows), explanation)
    assert_array_equal(pickle.loads(pickle.dumps(detector)).explain(rows), explanation)
    assert {dtype.kind for dtype in explanation.dtypes} == {"f"}
    assert_allclose(explanation.sum(axis=1), -detector.score_samples(rows), rtol=1e-5)
    if not isinstance(estimator, GaussianMixture):
        _, expected = detector.explain(rows, expected=True)
        assert {dtype.kind for dtype in expected.dtypes} == {"f"}


def test_columns_of_any_kind_go_through_files_and_back():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "number": rng.standard_normal(60),
            "kind": pd.Categorical(rng.choice(["a", "b"], 60)),
            "text": rng.choice(["x", "y"], 60),
            "day": pd.date_range("2020-01-01", periods=60, tz="Europe/Paris"),
            "hour": pd.date_range("2020-01-01", periods=60, freq="h"),
            "count": pd.array(rng.integers(0, 9, 60), dtype="Int64"),
            "flag": rng.random(60) < 0.5,
        }
    )

    def to_numbers(frame):
        assert frame["day"].dt.tz is not None
        return np.column_stack(
            [
                frame["number"],
                frame["kind"] == "a",
                frame["text"] == "x",
                frame["day"].dt.day_of_year,
                frame["hour"].dt.hour,
                frame["count"].astype(float),
                frame["flag"],
            ]
        ).astype(float)

    model = make_pipeline(FunctionTransformer(to_numbers), GaussianMixture(1, reg_covar=1e-3))
    detector = AutoencoderOutlierDetector(model, random_state=0).fit(frame)
    contributions = detector.explain(frame[:3])
    assert_allclose(contributions.sum(axis=1), -detector.score_samples(frame[:3]), rtol=1e-7)
    for values, name in zip(detector._background, frame.columns, strict=True):
        assert isinstance(values, np.ndarray)
        assert set(pd.Series(values, dtype=frame[name].dtype)) <= set(frame[name])


# Explanation.


@pytest.mark.parametrize("estimator", ESTIMATORS | MORE_ESTIMATORS)
def test_contributions_sum_to_the_outlier_score(X, estimator):
    estimator = (ESTIMATORS | MORE_ESTIMATORS)[estimator]
    detector = AutoencoderOutlierDetector(estimator, random_state=0).fit(X)
    rows = X.iloc[::30]
    explanation = detector.explain(rows)
    assert_allclose(explanation.sum(axis=1), -detector.score_samples(rows), rtol=1e-9)
    assert_array_equal(explanation.columns, X.columns)
    assert_array_equal(explanation.index, rows.index)
    alone = detector.explain(rows.iloc[[3]])
    assert_allclose(alone, explanation.iloc[[3]], rtol=1e-9, atol=1e-12)
    assert_array_equal(detector.explain(rows), explanation)


@pytest.mark.parametrize("estimator", [None, make_pipeline(StandardScaler(), PCA(2))])
def test_the_broken_cell_is_found(monkeypatch, X, estimator):
    monkeypatch.setattr(DenoisingEnsemble, "_n_steps", 200)
    detector = AutoencoderOutlierDetector(estimator, random_state=0).fit(X)
    broken = X.iloc[[3, 60, 130]].copy()
    for place, name in enumerate(X.columns[:3]):
        broken.iloc[place, place] += 8 * X[name].std()
    assert list(detector.explain(broken).idxmax(axis=1)) == list(X.columns[:3])
    _, expected = detector.explain(broken, expected=True)
    for place in range(3):
        assert expected.iloc[place, place] < broken.iloc[place, place] - X.std().iloc[place]


def test_autoencoders_are_explained_by_their_reconstruction(X):
    pipeline = make_pipeline(StandardScaler(), SMALL_AE)
    detector = AutoencoderOutlierDetector(pipeline, random_state=0).fit(X)
    scaler, model = detector.estimator_
    scaled = scaler.transform(X)
    explanation, expected = detector.explain(X, expected=True)
    assert_allclose(explanation, np.square(model.reconstruct(scaled) - scaled) / 4, rtol=1e-9)
    assert_allclose(expected, model.reconstruct(scaled) * scaler.scale_ + scaler.mean_)
    assert_array_equal(expected.columns, X.columns)
    assert_array_equal(expected.index, X.index)


@pytest.mark.parametrize(
    "estimator", [PCA(2), PCA(), decomposition.PCA(1), decomposition.FactorAnalysis(1)], ids=repr
)
def test_gaussian_models_are_explained_by_shapley_values(X, estimator):
    detector = AutoencoderOutlierDetector(
        make_pipeline(StandardScaler(), estimator), random_state=0
    ).fit(X)
    scaler, model = detector.estimator_
    density = stats.multivariate_normal(model.mean_, model.get_covariance())
    explanation = detector.explain(X[:3])
    for row, actual in zip(scaler.transform(X[:3]), explanation.to_numpy(), strict=True):

        def value(features, row=row):
            mixed = model.mean_.copy()
            mixed[features] = row[features]
            return -density.logpdf(mixed)

        desired = brute_force_shapley_values(value, 4) + value([]) / 4
        assert_allclose(actual, desired, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "estimator", [PCA(2), decomposition.PCA(), decomposition.FactorAnalysis(1)]
)
def test_gaussian_models_expect_the_conditional_mean(X, estimator):
    detector = AutoencoderOutlierDetector(estimator, random_state=0).fit(X)
    model = detector.estimator_
    mean, covariance = model.mean_, model.get_covariance()
    deviation = X.to_numpy() - mean
    _, expected = detector.explain(X, expected=True)
    for j in range(4):
        others = np.arange(4) != j
        slopes = np.linalg.solve(covariance[np.ix_(others, others)], covariance[others, j])
        assert_allclose(expected.iloc[:, j], mean[j] + deviation[:, others] @ slopes, rtol=1e-6)


@pytest.mark.parametrize("estimator", [SMALL_AE, SMALL_DAE, PCA(2)], ids=repr)
@pytest.mark.parametrize("container", [np.asarray, sparse.csr_array])
def test_contributions_of_a_model_sum_to_minus_its_score(X, estimator, container):
    X = container(X.to_numpy())
    model = clone(estimator).fit(X)
    contributions, expected = model.contributions(X), model.expected(X)
    assert contributions.shape == expected.shape == X.shape
    assert_allclose(contributions.sum(axis=1), -model.score_samples(X), rtol=1e-7)
    if estimator in (SMALL_AE, SMALL_DAE):
        assert_array_equal(expected, model.reconstruct(X))


def test_a_bound_of_the_density_is_no_sum_over_columns():
    assert not hasattr(VAETransformer, "contributions")
    assert hasattr(VAETransformer, "expected")


def test_sampled_shapley_values_are_exact_for_pairs_of_features(X):
    # The density of one normal distribution has no interaction of more than two features.
    detector = AutoencoderOutlierDetector(GaussianMixture(1), random_state=0).fit(X)
    background = detector._background.T
    row = X.iloc[140].to_numpy()

    def value(features):
        mixed = background.copy()
        mixed[:, features] = row[features]
        return -detector.score_samples(pd.DataFrame(mixed, columns=X.columns)).mean()

    desired = brute_force_shapley_values(value, 4) + value([]) / 4
    assert_allclose(detector.explain(X[140:141]).to_numpy()[0], desired, rtol=1e-7)


def test_sampled_shapley_values_are_near_for_any_score(monkeypatch, X):
    monkeypatch.setattr(AutoencoderOutlierDetector, "_n_background_rows", 16)
    forest = IsolationForest(n_estimators=10, random_state=0)
    detector = AutoencoderOutlierDetector(forest, random_state=0).fit(X)
    row = X.iloc[131].to_numpy()
    background = detector._background.T

    def value(features):
        mixed = background.copy()
        mixed[:, features] = row[features]
        return -detector.score_samples(pd.DataFrame(mixed, columns=X.columns)).mean()

    desired = brute_force_shapley_values(value, 4)
    explanation = detector.explain(X[131:132]).to_numpy()[0]
    assert_allclose(explanation - value([]) / 4, desired, atol=0.15 * np.ptp(desired))


def test_rows_to_compare_with_are_drawn_by_weight(X):
    is_heavy = np.arange(len(X)) % 2 == 1
    weights = np.where(is_heavy, 1.0, 1e-9)
    detector = AutoencoderOutlierDetector(PCA(2), random_state=0).fit(X, sample_weight=weights)
    drawn = set(map(tuple, detector._background.T))
    assert len(drawn) == 4
    assert drawn <= set(X[is_heavy].itertuples(index=False, name=None))


def test_long_tables_are_explained_in_portions(monkeypatch, X):
    detector = AutoencoderOutlierDetector(GaussianMixture(2, random_state=0), random_state=0).fit(X)
    desired = detector.explain(X[:8])
    monkeypatch.setattr(AutoencoderOutlierDetector, "_max_cells", 20 * 3)
    assert_allclose(detector.explain(X[:8]), desired, rtol=1e-9)


@pytest.mark.parametrize("estimator", [SMALL_AE, GaussianMixture(1)], ids=["exact", "sampled"])
@pytest.mark.parametrize("fitted_on", ["array", "pandas", "polars"])
def test_explanations_of_other_tables(X, estimator, fitted_on):
    tables = {"array": X.to_numpy(), "pandas": X, "polars": pl.DataFrame(X.to_dict("series"))}
    detector = AutoencoderOutlierDetector(estimator, random_state=0).fit(tables[fitted_on])
    desired = detector.explain(tables[fitted_on][:5])
    assert_allclose(desired.sum(axis=1), -detector.score_samples(tables[fitted_on][:5]))
    names = [f"x{i}" for i in range(4)] if fitted_on == "array" else list(X.columns)
    assert list(desired.columns) == names
    if fitted_on != "array":
        for table in (tables["pandas"], tables["polars"]):
            assert_allclose(detector.explain(table[:5]), desired)
        with pytest.raises(ValueError, match="feature names"):
            detector.explain(X[X.columns[::-1]])
    with pytest.raises(ValueError, match="X has 3 features|now missing"):
        detector.explain(X.to_numpy()[:, :3] if fitted_on == "array" else X.iloc[:, :3])


def test_names_that_are_no_strings_are_kept(X):
    frame = X.set_axis([2020, 2021, 2022, 2023], axis=1)
    for estimator in (SMALL_AE, GaussianMixture(1)):
        detector = AutoencoderOutlierDetector(estimator, random_state=0).fit(frame)
        assert list(detector.explain(frame[:2]).columns) == [2020, 2021, 2022, 2023]


def test_tables_with_columns_of_any_kind(X):
    mixed = X.assign(
        colour=np.where(X["petal width"] > 1, "blue", "white"),
        region=pd.Categorical(np.where(X["petal width"] > 1.7, "north", "south")),
    )
    encoder = ColumnTransformer(
        [("code", OneHotEncoder(sparse_output=False), ["colour", "region"])],
        remainder=StandardScaler(),
    )
    detector = AutoencoderOutlierDetector(make_pipeline(encoder, SMALL_DAE), random_state=0)
    detector.fit(mixed)
    odd = mixed.iloc[:2].assign(colour="blue")
    explanation = detector.explain(odd)
    assert list(explanation.columns) == list(mixed.columns)
    assert_allclose(explanation.sum(axis=1), -detector.score_samples(odd))
    with pytest.raises(ValueError, match="expected=True .* ColumnTransformer has none"):
        detector.explain(odd, expected=True)


def test_a_step_without_names_is_explained_by_sampling(X):
    for names in (None, "one-to-one"):
        logarithm = FunctionTransformer(np.log1p, np.expm1, feature_names_out=names)
        detector = AutoencoderOutlierDetector(
            make_pipeline(logarithm, "passthrough", SMALL_AE), random_state=0
        ).fit(X)
        model, inner = detector.estimator_[-1], np.log1p(X[:5])
        explanation, expected = detector.explain(X[:5], expected=True)
        assert_allclose(explanation.sum(axis=1), -detector.score_samples(X[:5]))
        assert_allclose(expected, np.expm1(model.reconstruct(inner)))
        exact = model.reconstruction_error(inner, per_feature=True)
        assert np.allclose(explanation, exact / 4) == (names is not None)


def test_sparse_tables(X):
    counts = np.where(X > 3, np.round(X), 0.0)
    for estimator in (SMALL_AE, PCA(2)):
        desired = AutoencoderOutlierDetector(estimator, random_state=0).fit(counts)
        detector = clone(desired).fit(sparse.coo_array(counts))
        rows = sparse.csr_array(counts)
        assert_allclose(detector.score_samples(rows), desired.score_samples(counts), rtol=1e-3)
        assert_allclose(detector.p_values(rows), desired.p_values(counts), atol=0.04)
        explanation, expected = detector.explain(rows, expected=True)
        assert_allclose(explanation.sum(axis=1), -detector.score_samples(rows))
        assert expected.shape == counts.shape


def test_models_that_expect_nothing(X):
    detector = AutoencoderOutlierDetector(GaussianMixture(1), random_state=0).fit(X)
    with pytest.raises(ValueError, match="expected=True needs a model .* GaussianMixture does not"):
        detector.explain(X, expected=True)


# Weights on their way.


def test_weights_reach_every_step_of_a_pipeline_that_takes_them(X):
    weights = np.random.default_rng(0).uniform(0, 2, len(X))
    detector = AutoencoderOutlierDetector(
        make_pipeline(StandardScaler(), PCA(2)), calibration_fraction=None
    ).fit(X, sample_weight=weights)
    scaler, pca = detector.estimator_
    assert_allclose(scaler.mean_, np.average(X, axis=0, weights=weights))
    assert_allclose(pca.mean_, 0.0, atol=1e-12)


def test_weights_that_the_model_does_not_take_are_not_silent(X):
    detector = AutoencoderOutlierDetector(
        GaussianMixture(1, random_state=0), contamination=0.1, random_state=0
    )
    with pytest.warns(UserWarning, match="GaussianMixture takes no sample_weight"):
        detector.fit(X, sample_weight=np.arange(1, len(X) + 1))
    assert detector.offset_ != clone(detector).fit(X).offset_


def test_weights_are_routed(X):
    weights = np.random.default_rng(0).uniform(0.1, 2, len(X))
    with config_context(enable_metadata_routing=True):
        for requested in (True, False):
            pca = PCA(2).set_fit_request(sample_weight=requested)
            detector = AutoencoderOutlierDetector(pca, calibration_fraction=None)
            detector.fit(X, sample_weight=weights)
            desired = PCA(2).fit(X, sample_weight=weights if requested else None)
            assert_array_equal(detector.estimator_.mean_, desired.mean_)
        with pytest.raises(ValueError, match="sample_weight"):
            AutoencoderOutlierDetector(PCA(2)).fit(X, sample_weight=weights)
        AutoencoderOutlierDetector().fit(X, sample_weight=weights)
        AutoencoderOutlierDetector(PCA(2)).fit(X)


# House rules.


def outputs(detector, X):
    methods = ("predict", "score_samples", "decision_function", "p_values", "explain")
    return {name: np.asarray(getattr(detector, name)(X[::10])) for name in methods}


def test_pickles_give_the_same_bits_and_hold_nothing_of_torch(detector, X):
    data = pickle.dumps(detector.fit(X), protocol=5)
    other = pickle.loads(data)
    after = outputs(other, X)
    for name, result in outputs(detector, X).items():
        assert_array_equal(after[name], result, err_msg=name)
    strings = [argument for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)]
    assert not [text for text in strings if text.split(".")[0] == "torch"]


def test_refit_equals_first_fit(detector, X):
    first = outputs(detector.fit(X), X)
    for name, result in outputs(clone(detector).fit(X), X).items():
        assert_array_equal(result, first[name], err_msg=name)


def test_global_random_state_is_untouched(detector, X):
    def state():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = state()
    outputs(detector.fit(X), X)
    assert state() == before


class Recorder:
    """A callback that keeps what it was told."""

    max_propagation_depth = None

    def __init__(self):
        self.tasks = []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        self.tasks.append((type(estimator).__name__, context.task_name))

    def on_fit_task_end(self, estimator, context):
        pass


@pytest.mark.parametrize(("cross_fit", "n_fits"), [(False, 1), (True, 6)])
def test_callbacks_see_every_fit(X, cross_fit, n_fits):
    model = clone(SMALL_AE).set_params(max_iter=2)
    detector = AutoencoderOutlierDetector(model, cross_fit=cross_fit, random_state=0)
    recorder = Recorder()
    detector.set_callbacks(recorder).fit(X)
    of_the_model = [("AutoencoderTransformer", name) for name in ("fit", "epoch", "epoch")]
    assert recorder.tasks == [("AutoencoderOutlierDetector", "fit"), *n_fits * of_the_model]
    assert_array_equal(detector.predict(X), clone(detector).fit(X).predict(X))


def test_progress_bar_alone_and_in_a_pipeline(X, capsys):
    detector = AutoencoderOutlierDetector(SMALL_AE, random_state=0)
    clone(detector).set_callbacks(ProgressBar()).fit(X)
    shown = capsys.readouterr().out
    assert "AutoencoderOutlierDetector - fit" in shown
    assert "fit without calibration rows" in shown
    pipeline = make_pipeline(StandardScaler(), detector).set_callbacks(ProgressBar()).fit(X)
    assert "AutoencoderOutlierDetector - fit" in capsys.readouterr().out
    assert pipeline.predict(X).shape == (150,)


def test_only_fitting_writes_attributes(detector, X):
    detector.fit(X)
    before = dict(vars(detector))
    outputs(detector, X)
    assert vars(detector) == before
    assert "AutoencoderOutlierDetector" in detector._repr_html_()


BAD = {
    "no score_samples": ({"estimator": StandardScaler()}, "'fit' and 'score_samples'"),
    "pipeline without": (
        {"estimator": make_pipeline(PCA(), StandardScaler())},
        "'fit' and 'score_samples'",
    ),
    "contamination": ({"contamination": 0.7}, "contamination.* 0.7"),
    "fraction": ({"calibration_fraction": 1.0}, "calibration_fraction.* 1.0"),
    "none to calibrate": (
        {"calibration_fraction": 0.001},
        "calibration_fraction=0.001 of 150 .* none to calibrate",
    ),
    "none to fit": (
        {"calibration_fraction": 0.999},
        "calibration_fraction=0.999 of .* none to fit",
    ),
    "too many folds": (
        {"calibration_fraction": 0.001, "cross_fit": True},
        "calibration_fraction=0.001 of 150 .* none to calibrate",
    ),
    "folds of None": (
        {"calibration_fraction": None, "cross_fit": True},
        "cross_fit=True .* calibration_fraction=None",
    ),
    "folds of 0.6": (
        {"calibration_fraction": 0.6, "cross_fit": True},
        "cross_fit=True .* calibration_fraction=0.6",
    ),
    "device": ({"device": "cpu"}, "device='cpu' .* no effect on estimator=PCA"),
    "verbose": ({"verbose": True}, "verbose=True .* no effect on estimator=PCA"),
    "unknown device": ({"estimator": None, "device": "tpu"}, "device='tpu'"),
    "of the estimator": ({"estimator": PCA(9)}, "n_components=9"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_parameters(X, case):
    parameters, message = BAD[case]
    detector = AutoencoderOutlierDetector(PCA(2), random_state=0).fit(X)
    attributes = dict(vars(detector))
    detector.set_params(**parameters)
    with pytest.raises(ValueError, match=message):
        detector.fit(X)
    assert {name: vars(detector)[name] for name in attributes if name.endswith("_")} == {
        name: value for name, value in attributes.items() if name.endswith("_")
    }
    assert detector.predict(X).shape == (150,)


@pytest.mark.parametrize(
    ("weights", "message"),
    [(-np.ones(150), "Negative"), (np.zeros(150), "zero"), (np.ones(3), "inconsistent|shape")],
)
def test_bad_weights(X, weights, message):
    with pytest.raises(ValueError, match=message):
        AutoencoderOutlierDetector(PCA(2)).fit(X, sample_weight=weights)


@pytest.mark.parametrize(
    "method", ["predict", "score_samples", "decision_function", "p_values", "select", "explain"]
)
def test_methods_need_a_fit(X, method):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(AutoencoderOutlierDetector(), method)(X)


def test_calibration_rows_may_weigh_far_less_than_others():
    X = np.random.default_rng(0).normal(size=(40, 2))
    detector = AutoencoderOutlierDetector(PCA(1), random_state=0).fit(X)
    held_out = np.isin(detector.training_scores_, detector.calibration_scores_)
    weights = np.where(held_out, 1e-300, 1e300 / 40)
    weighted = AutoencoderOutlierDetector(PCA(1), random_state=0).fit(X, sample_weight=weights)
    # All calibration rows weigh the same, and rows of the same weight are rows without.
    below = weighted.score_samples(X)[:, np.newaxis] >= weighted.calibration_scores_
    assert_allclose(weighted.p_values(X), (1 + below.sum(axis=1)) / (1 + held_out.sum()))


def test_rows_of_score_minus_infinity_are_outliers_with_an_explanation():
    X = np.random.default_rng(0).normal(size=(40, 3))
    model = VAETransformer(1, hidden_layer_sizes=(4,), max_iter=1, random_state=0)
    detector = AutoencoderOutlierDetector(model, random_state=0).fit(X)
    far = np.array([[0.0, 1e200, 0.0]])
    assert detector.score_samples(far) == -np.inf
    assert detector.predict(far) == -1
    contributions = detector.explain(far).to_numpy()
    assert np.isfinite(contributions).all()
    assert contributions[0].argmax() == 1


@pytest.mark.parametrize("zero", [0, 0.0])
def test_sparse_frames_of_float32_have_the_scores_of_float64(zero):
    X = (np.arange(24).reshape(8, 3) % 5).astype(np.float32)
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    sparse_frame = frame.astype(pd.SparseDtype(np.float32, zero))
    detector = AutoencoderOutlierDetector(PCA(1), random_state=0).fit(frame.astype(np.float64))
    desired = detector.score_samples(frame.astype(np.float64))
    assert_allclose(detector.score_samples(sparse_frame), desired, rtol=1e-9)
    clone(detector).fit(sparse_frame)


def test_a_wide_table_is_scored_by_the_most_likely_density_of_pca():
    # scikit-learn divides what is left out among n - k directions, where there are d - k.
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(3, 200))
    X, new = (
        rng.normal(size=(n, 3)) @ loadings + 0.5 * rng.normal(size=(n, 200)) for n in (40, 50)
    )
    detector = AutoencoderOutlierDetector(
        make_pipeline(StandardScaler(with_std=False), PCA(3)), calibration_fraction=None,
        contamination=0.1,
    ).fit(X)  # fmt: skip
    pca = PCA(3).fit(X)
    left_out = np.square(X - pca.inverse_transform(pca.transform(X))).sum() / (39 * (200 - 3))
    covariance = pca.components_.T @ np.diag(pca.explained_variance_ - left_out) @ pca.components_
    density = stats.multivariate_normal(X.mean(axis=0), covariance + left_out * np.eye(200))
    assert_allclose(detector.score_samples(new), density.logpdf(new), rtol=1e-6)
    assert density.logpdf(new).mean() > pca.score(new) + 10
    contributions = detector.explain(new)
    assert_allclose(contributions.sum(axis=1), -density.logpdf(new), rtol=1e-6)
