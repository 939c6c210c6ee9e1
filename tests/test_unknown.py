"""PCA of rows with unknown cells against direct maximization and closed forms of Gaussians."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import optimize, sparse
from sklearn import decomposition
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import KNNImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skae import PCA, _unknown
from skae._unknown import Gaussian

IRIS = load_iris().data
WINE = StandardScaler().fit_transform(load_wine().data)
CANCER = StandardScaler().fit_transform(load_breast_cancer().data)


def with_gaps(X, share=0.3, seed=0):
    hidden = np.random.default_rng(seed).random(X.shape) < share
    return np.where(hidden, np.nan, X)


def log_density(X, mean, covariance):
    """Log-density of the known cells of each row, row by row."""
    densities = []
    for row in X:
        known = ~np.isnan(row)
        part = covariance[np.ix_(known, known)]
        centred = row[known] - mean[known]
        distance = centred @ np.linalg.solve(part, centred)
        log_determinant = np.linalg.slogdet(2.0 * np.pi * part)[1]
        densities.append(-0.5 * (distance + log_determinant))
    return np.array(densities)


def conditional_means(X, mean, covariance):
    """Unknown cells given the known ones, row by row."""
    filled = X.copy()
    for row in filled:
        known = ~np.isnan(row)
        between = covariance[np.ix_(~known, known)]
        part = covariance[np.ix_(known, known)]
        row[~known] = mean[~known] + between @ np.linalg.solve(part, row[known] - mean[known])
    return filled


# The maximum of the likelihood


def maximum_of_the_likelihood(X, k, weights):
    """Maximize over mean, loadings and noise numerically, from PCA of the filled rows."""
    d = X.shape[1]
    weights = np.ones(len(X)) if weights is None else weights

    def unpack(parameters):
        mean, loadings = parameters[:d], parameters[d:-1].reshape(d, k)
        return mean, loadings @ loadings.T + np.exp(parameters[-1]) * np.eye(d)

    def loss(parameters):
        return -weights @ log_density(X, *unpack(parameters))

    filled = np.where(np.isnan(X), np.nanmean(X, axis=0), X)
    start = decomposition.PCA(k).fit(filled)
    loadings = start.components_.T * np.sqrt(start.explained_variance_)
    parameters = [*start.mean_, *loadings.ravel(), np.log(start.noise_variance_)]
    found = optimize.minimize(loss, parameters, method="BFGS", options={"gtol": 1e-5})
    return -found.fun, *unpack(found.x)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("k", [1, 2])
def test_fit_is_the_maximum_of_the_likelihood_of_the_known_cells(k, weighted):
    X = with_gaps(IRIS[::6])
    weights = np.random.default_rng(1).uniform(0.2, 1.8, len(X)) if weighted else None
    largest, mean, covariance = maximum_of_the_likelihood(X, k, weights)
    pca = PCA(k).fit(X, sample_weight=weights)
    # As for complete rows, variances are unbiased ones.
    known = ~np.isnan(X).all(axis=1)
    weight = float(known.sum() if weights is None else weights[known].sum())
    likely = pca.get_covariance() * (weight - 1) / weight
    row_weights = np.ones(len(X)) if weights is None else weights
    assert row_weights @ log_density(X, pca.mean_, likely) >= largest - 1e-4
    assert_allclose(pca.mean_, mean, atol=2e-2)
    assert_allclose(likely, covariance, atol=2e-2)


@pytest.mark.parametrize("k", [0, 2, 5, 12, 13, None])
def test_complete_rows_have_the_moments_of_scikit_learns_pca(k):
    # One row without known cells sends all others through the EM algorithm.
    X = np.vstack([WINE, np.full(13, np.nan)])
    pca, expected = PCA(k).fit(X), decomposition.PCA(k).fit(WINE)
    for name in ("explained_variance_", "explained_variance_ratio_", "singular_values_"):
        assert_allclose(getattr(pca, name), getattr(expected, name), rtol=1e-9)
    assert_allclose(pca.components_, expected.components_, atol=1e-8)
    assert_allclose(pca.noise_variance_, expected.noise_variance_, rtol=1e-9)
    assert_allclose(pca.get_covariance(), expected.get_covariance(), atol=1e-9)
    assert_allclose(pca.transform(WINE), expected.transform(WINE), atol=1e-8)
    assert_allclose(pca.score_samples(WINE), expected.score_samples(WINE), rtol=1e-8)


def test_no_iteration_lowers_the_likelihood():
    X = with_gaps(WINE, 0.5)
    weights = np.full(len(X), 1 / len(X))
    moments = _unknown._moments_of_columns(X, weights)
    densities = []
    for _ in range(20):
        gaussian = _unknown.most_likely(*moments, 4)
        *moments, density = gaussian.expected_moments(X, weights)
        densities.append(density)
    assert np.all(np.diff(densities) > 0.0)


@pytest.mark.parametrize("n_components", [0.8, "mle"])
def test_number_of_components_is_that_of_the_variances_of_the_full_gaussian(n_components):
    X = with_gaps(WINE, 0.1)
    variances = PCA().fit(X).explained_variance_
    k = PCA(n_components).fit(X).n_components_
    if n_components == 0.8:
        shares = np.cumsum(variances) / variances.sum()
        assert shares[k - 2] <= 0.8 < shares[k - 1]
    else:
        assert 1 <= k < 13


def test_share_of_the_variance_is_that_of_the_kept_components():
    pca = PCA(0.8).fit(with_gaps(WINE))
    total = np.trace(pca.get_covariance())
    assert_allclose(pca.explained_variance_ratio_, pca.explained_variance_ / total, rtol=1e-9)


def test_integer_weights_are_repetitions():
    X = with_gaps(WINE)
    weights = np.random.default_rng(0).integers(0, 3, len(X))
    weighted, repeated = PCA(2).fit(X, None, weights), PCA(2).fit(np.repeat(X, weights, axis=0))
    assert_allclose(weighted.get_covariance(), repeated.get_covariance(), atol=1e-3)
    assert_allclose(weighted.mean_, repeated.mean_, atol=1e-3)


def test_rows_without_weight_may_hold_anything_unknown():
    X = np.vstack([WINE, with_gaps(WINE)])
    weights = np.repeat([1.0, 0.0], len(WINE))
    assert_allclose(
        PCA(3).fit(X, None, weights).get_covariance(), PCA(3).fit(WINE).get_covariance(), atol=1e-9
    )


@pytest.mark.parametrize("exponent", [-140, 150])
def test_squares_outside_the_range_of_numbers_are_no_harm(exponent):
    X = with_gaps(WINE)
    scale = 10.0**exponent
    found = PCA(2).fit(X * scale)
    assert_allclose(found.components_, PCA(2).fit(X).components_, atol=1e-6)
    assert_allclose(found.impute(X * scale), PCA(2).fit(X).impute(X) * scale, rtol=1e-4)


# Rows given their known cells


@pytest.mark.parametrize("k", [0, 1, 4, 9, 13])
@pytest.mark.parametrize("repeated", [False, True])
def test_impute_is_the_closed_form_conditional_mean(k, repeated):
    X = with_gaps(WINE)
    if repeated:  # few patterns of known cells
        X = np.where(np.isnan(np.tile(X[:4], (45, 1))[: len(X)]), np.nan, WINE)
    pca = PCA(k).fit(X)
    expected = conditional_means(X, pca.mean_, np.linalg.inv(pca.get_precision()))
    filled = pca.impute(X)
    assert_allclose(filled, expected, atol=1e-8)
    known = ~np.isnan(X)
    assert_array_equal(filled[known], X[known])
    assert_allclose(pca.transform(X), pca.transform(filled), atol=1e-10)


@pytest.mark.parametrize("k", [0, 1, 4, 9, 13])
def test_score_is_the_log_density_of_the_known_cells(k):
    X = with_gaps(WINE)
    pca = PCA(k).fit(X)
    expected = log_density(X, pca.mean_, np.linalg.inv(pca.get_precision()))
    assert_allclose(pca.score_samples(X), expected, rtol=1e-8)
    assert_allclose(pca.score(X), expected.mean(), rtol=1e-8)


@pytest.mark.parametrize("k", [2, 9])
def test_codes_are_the_posterior_mean_of_those_of_drawn_rows(k):
    pca = PCA(k).fit(WINE)
    covariance = np.linalg.inv(pca.get_precision())
    row = with_gaps(WINE[:1], 0.4)
    known = ~np.isnan(row[0])
    part = covariance[np.ix_(known, known)]
    between = covariance[np.ix_(~known, known)]
    mean = conditional_means(row, pca.mean_, covariance)[0]
    rest = covariance[np.ix_(~known, ~known)] - between @ np.linalg.solve(part, between.T)
    rows = np.tile(mean, (100_000, 1))
    rng = np.random.default_rng(0)
    rows[:, ~known] = rng.multivariate_normal(mean[~known], rest, len(rows))
    assert_allclose(pca.transform(row)[0], pca.transform(rows).mean(axis=0), atol=0.02)


def test_a_fit_to_complete_rows_takes_new_rows_with_gaps():
    pca = PCA(3).fit(IRIS)
    X = with_gaps(IRIS)
    expected = conditional_means(X, pca.mean_, pca.get_covariance())
    assert_allclose(pca.impute(X), expected, atol=1e-9)
    complete = ~np.isnan(X).any(axis=1)
    for method in ("transform", "score_samples", "contributions", "expected", "impute"):
        result = getattr(pca, method)
        assert np.isfinite(result(X)).all()
        assert_allclose(result(X)[complete], result(IRIS)[complete], rtol=1e-12, atol=1e-14)


def test_expected_cells_are_means_given_the_other_known_cells():
    X = with_gaps(WINE[:20])
    pca = PCA(4).fit(WINE)
    covariance = np.linalg.inv(pca.get_precision())
    expected = conditional_means(X, pca.mean_, covariance)
    for place in np.argwhere(~np.isnan(X)):
        others = X[place[0] : place[0] + 1].copy()
        others[0, place[1]] = np.nan
        expected[*place] = conditional_means(others, pca.mean_, covariance)[0, place[1]]
    assert_allclose(pca.expected(X), expected, atol=1e-8)


def test_contributions_are_those_of_the_density_of_the_known_cells():
    X = with_gaps(WINE)
    pca = PCA(4).fit(WINE)
    contributions = pca.contributions(X)
    assert_allclose(contributions.sum(axis=1), -pca.score_samples(X), rtol=1e-9)
    assert_array_equal(contributions[np.isnan(X)], 0.0)
    known = ~np.isnan(X[0])
    part = np.linalg.inv(pca.get_precision())[np.ix_(known, known)]
    centred = (X[0] - pca.mean_)[known]
    shapley = 0.5 * centred * np.linalg.solve(part, centred)
    rest = (-pca.score_samples(X[:1])[0] - shapley.sum()) / known.sum()
    assert_allclose(contributions[0, known], shapley + rest, rtol=1e-8)


def test_moments_given_known_cells_agree_between_few_and_many_equations(monkeypatch):
    X = with_gaps(WINE)
    weights = np.full(len(X), 1 / len(X))
    gaussian = _unknown.most_likely(*_unknown._moments_of_columns(X, weights), 3)
    by_code = gaussian.expected_moments(X, weights)
    wide = Gaussian(
        gaussian.mean,
        torch.nn.functional.pad(gaussian.loadings, (0, 10)),  # ten loadings of zero
        gaussian.noise_variance,
    )
    for one, other in zip(by_code, wide.expected_moments(X, weights), strict=True):
        assert_allclose(one, other, atol=1e-10)
    monkeypatch.setattr(_unknown, "_BLOCK_BYTES", 5000)  # blocks of some rows
    for one, other in zip(by_code, gaussian.expected_moments(X, weights), strict=True):
        assert_allclose(one, other, atol=1e-10)


def test_uncertainty_of_unknown_cells_is_their_conditional_covariance():
    X = with_gaps(IRIS[:1], 0.5, seed=2)
    known = ~np.isnan(X[0])
    assert 0 < known.sum() < 4
    for k in (1, 3):
        pca = PCA(k).fit(IRIS)
        S = np.linalg.inv(pca.get_precision())
        expected = np.zeros((4, 4))
        between = S[np.ix_(~known, known)]
        expected[np.ix_(~known, ~known)] = S[np.ix_(~known, ~known)] - between @ np.linalg.solve(
            S[np.ix_(known, known)], between.T
        )
        _, covariance, _ = pca._gaussian().expected_moments(X, np.ones(1))
        assert_allclose(covariance, expected, atol=1e-10)


# What comes of it


@pytest.mark.parametrize("k", [10, None])
def test_hidden_cells_are_found_better_than_by_column_means_and_neighbours(k):
    gaps = with_gaps(CANCER)
    hidden = np.isnan(gaps)

    def error(filled):
        return np.square(filled - CANCER)[hidden].mean()

    ours = error(PCA(k).fit(gaps).impute(gaps))
    assert ours < 0.3 * np.square(CANCER)[hidden].mean()
    assert ours < error(KNNImputer().fit_transform(gaps))


def test_columns_that_follow_from_others_are_filled_exactly():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 3))
    X = np.column_stack([X, X[:, 0] + X[:, 1], np.full(100, 7.0)])
    gaps = X.copy()
    gaps[:30, 3] = gaps[20:40, 4] = np.nan
    filled = PCA().fit(gaps).impute(gaps)
    assert_allclose(filled, X, atol=1e-4)


@pytest.mark.parametrize(
    "container",
    [
        lambda X: X,
        lambda X: np.ma.array(np.nan_to_num(X), mask=np.isnan(X)),
        lambda X: pd.DataFrame(X),
        lambda X: pd.DataFrame(X).astype("Float64"),
        lambda X: pl.DataFrame(X, nan_to_null=True),
        lambda X: torch.from_numpy(X),
        lambda X: [[None if np.isnan(cell) else cell for cell in row] for row in X],
    ],
    ids=["array", "masked", "pandas", "NA", "polars", "tensor", "list"],
)
@pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning")
def test_unknown_cells_of_all_containers_are_one_thing(container):
    X = with_gaps(IRIS)
    pca = PCA(2).fit(container(X))
    expected = PCA(2).fit(X)
    assert_array_equal(pca.components_, expected.components_)
    assert_array_equal(pca.impute(container(X)), expected.impute(X))
    assert_array_equal(pca.fit_transform(container(X)), expected.transform(X))


def test_float32_rows_give_float32_results():
    X = with_gaps(WINE).astype(np.float32)
    pca = PCA(3).fit(X)
    expected = PCA(3).fit(X.astype(np.float64))
    for method in ("transform", "impute", "score_samples"):
        result = getattr(pca, method)(X)
        assert result.dtype == np.float32
        assert_allclose(result, getattr(expected, method)(X), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("solver", ["auto", "covariance_eigh", "gram_eigh", "full", "randomized"])
@pytest.mark.parametrize("whiten", [False, True])
def test_the_solver_for_complete_rows_does_not_matter(solver, whiten):
    X = with_gaps(IRIS)
    pca = PCA(2, svd_solver=solver, whiten=whiten).fit(X)
    plain = PCA(2).fit(X)
    assert_array_equal(pca.components_, plain.components_)
    deviations = np.sqrt(plain.explained_variance_) if whiten else 1.0
    assert_allclose(pca.transform(X), plain.transform(X) / deviations, rtol=1e-12)


def test_a_pipeline_takes_gaps():
    X = with_gaps(IRIS)
    codes = make_pipeline(StandardScaler(), PCA(2)).fit_transform(X)
    assert codes.shape == (150, 2)
    assert np.isfinite(codes).all()


def test_imputing_leaves_the_rows_as_they_are():
    X = with_gaps(IRIS)
    before = X.copy()
    pca = PCA(2).fit(X)
    filled = pca.impute(X)
    assert_array_equal(X, before)
    complete = pca.impute(IRIS)
    assert_array_equal(complete, IRIS)
    assert not np.shares_memory(complete, IRIS)
    assert_array_equal(pca.impute(sparse.csr_array(IRIS)), IRIS)
    assert np.isfinite(filled).all()


def test_threads_are_as_before():
    before = torch.get_num_threads()
    PCA(2).fit(with_gaps(IRIS)).impute(with_gaps(IRIS))
    assert torch.get_num_threads() == before


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_at_the_end_of_the_numbers_have_the_lowest_score(dtype):
    pca = PCA(2).fit(with_gaps(IRIS).astype(dtype))
    row = np.array([[np.nan, np.finfo(dtype).max / 4, 0.0, 1.0]], dtype=dtype)
    assert pca.score_samples(row)[0] < -1e30
    assert np.isfinite(pca.contributions(row)).all()


# Little is known


def test_a_row_without_known_cells_is_the_mean():
    pca = PCA(2).fit(with_gaps(IRIS))
    row = np.full((1, 4), np.nan)
    assert_allclose(pca.impute(row)[0], pca.mean_)
    assert_allclose(pca.transform(row), 0.0, atol=1e-14)
    assert_array_equal(pca.score_samples(row), 0.0)
    assert_array_equal(pca.contributions(row), 0.0)
    assert_allclose(pca.expected(row)[0], pca.mean_)


def test_a_row_without_known_cells_does_not_change_the_fit():
    X = with_gaps(IRIS)
    more = np.insert(X, 7, np.nan, axis=0)
    assert_array_equal(PCA(2).fit(more).components_, PCA(2).fit(X).components_)


@pytest.mark.parametrize(
    ("X", "columns"),
    [
        (pd.DataFrame(with_gaps(IRIS), columns=list("abcd")).assign(c=np.nan), "column: 'c'"),
        (np.column_stack([IRIS, np.full((150, 2), np.nan)]), "2 columns: 4, 5"),
        (np.full((3, 2), np.nan), "2 columns: 0, 1"),
    ],
)
def test_columns_without_known_cells_are_an_error_that_names_them(X, columns):
    with pytest.raises(ValueError, match=f"{columns}.*drop it"):
        PCA(1).fit(X)


def test_columns_known_only_in_rows_without_weight_are_an_error():
    X = IRIS.copy()
    X[10:, 2] = np.nan
    weights = np.repeat([0.0, 1.0], [10, 140])
    with pytest.raises(ValueError, match="in rows of positive weight: 2"):
        PCA(2).fit(X, None, weights)


@pytest.mark.parametrize("shape", [(2, 2), (3, 8), (8, 8), (12, 5)])
def test_few_rows_give_finite_results(shape):
    rng = np.random.default_rng(0)
    X = rng.normal(size=shape)
    X[0, 0] = X[1, 1] = np.nan
    for k in (None, 1):
        pca = PCA(k).fit(X)
        for result in (pca.transform(X), pca.impute(X), pca.score_samples(X)):
            assert np.isfinite(result).all()


def test_infinite_cells_are_no_unknown_cells():
    X = with_gaps(IRIS)
    X[3, 1] = np.inf
    pca = PCA(2).fit(IRIS)
    for use in (pca.transform, pca.impute, pca.score_samples, clone(pca).fit):
        with pytest.raises(ValueError, match=r"infinity .*: 1 such cell, in column 1 \(1\)"):
            use(X)


def test_moments_cannot_be_added_to_rows_with_gaps():
    X = with_gaps(IRIS)
    with pytest.raises(ValueError, match="Input X contains NaN: partial_fit.*Pass all rows to fit"):
        PCA(2).partial_fit(X)
    with pytest.raises(ValueError, match="whose rows had unknown cells. Pass all rows to fit"):
        PCA(2).fit(X).partial_fit(IRIS)


def test_a_fit_after_one_with_gaps_can_be_continued():
    pca = PCA(2).fit(with_gaps(IRIS)).fit(IRIS[:100]).partial_fit(IRIS[100:])
    assert_allclose(pca.components_, PCA(2).fit(IRIS).components_, atol=1e-9)


def test_too_few_iterations_are_a_warning_that_says_what_helps(monkeypatch):
    monkeypatch.setattr(_unknown, "_MAX_ITERATIONS", 1)
    with pytest.warns(ConvergenceWarning, match="PCA has not converged.*fewer components"):
        PCA(5).fit(with_gaps(WINE))


def test_sparse_rows_have_no_unknown_cells():
    X = sparse.csr_array(with_gaps(IRIS))
    with pytest.raises(ValueError, match="Input X contains NaN"):
        PCA(2).fit(X)


@pytest.mark.parametrize("exponent", [600, 1000])
def test_variances_that_no_number_holds_are_an_error(exponent):
    X = np.ldexp(np.random.default_rng(0).normal(size=(20, 3)), exponent)
    X[3, 1] = np.nan
    with pytest.raises(ValueError, match="range"):
        PCA(2).fit(X)
