"""PCA against scikit-learn, the float64 SVD and closed forms, sign for sign."""

import os
import pickle
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import mpmath
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.linalg import null_space
from scipy.stats import multivariate_normal
from sklearn import decomposition
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import skae
from skae import PCA, _decomposition, _device

SOLVERS = ["auto", "covariance_eigh", "gram_eigh", "full", "randomized", "arpack"]
EXACT = ["covariance_eigh", "gram_eigh", "full", "arpack"]
IRIS = load_iris().data
SEEDS = st.integers(0, 2**32 - 1)


def correlated(n, d, seed=0, mean=3.0):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(d, d)) * np.geomspace(1.0, 0.1, d)
    return rng.normal(size=(n, d)) @ mixing + mean


def exact_variances(X, weights=None):
    weights = np.ones(len(X)) if weights is None else weights
    X = np.asarray(X, dtype=np.float64)
    centred = X - weights @ X / weights.sum()
    values = np.linalg.svd(np.sqrt(weights)[:, None] * centred, compute_uv=False)
    return values**2 / (weights.sum() - 1)


def assert_same_fit(pca, other, rtol=1e-8, atol=1e-10):
    for name in (
        "components_",
        "explained_variance_",
        "explained_variance_ratio_",
        "singular_values_",
        "mean_",
        "noise_variance_",
    ):
        assert_allclose(getattr(pca, name), getattr(other, name), rtol, atol, err_msg=name)
    assert pca.n_components_ == other.n_components_


# The contract of scikit-learn

CHECKED = [
    PCA(),
    PCA(n_components=1, whiten=True),
    PCA(n_components=1, svd_solver="gram_eigh"),
    PCA(n_components=1, svd_solver="full"),
    PCA(n_components=1, svd_solver="randomized", random_state=0),
]


def expected_failed_checks(estimator):
    if estimator.svd_solver == "auto":
        return {}
    # This check calls partial_fit after fit. Of these solvers none keeps the moments that rows
    # could be added to, and to forget the rows of fit without a word would be worse.
    return {"check_fit_score_takes_y": "partial_fit after fit by a solver without moments"}


@parametrize_with_checks(CHECKED, expected_failed_checks=expected_failed_checks)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_parameters_are_those_of_scikit_learn_and_device():
    expected = decomposition.PCA().get_params() | {"device": "auto"}
    assert PCA().get_params() == expected
    with pytest.raises(TypeError):
        PCA(2, True)


def test_fitted_attributes_are_those_of_scikit_learn_and_n_samples_seen():
    frame = pd.DataFrame(IRIS, columns=list("abcd"))
    expected = set(vars(decomposition.PCA(2).fit(frame))) - set(decomposition.PCA().get_params())
    fitted = vars(PCA(2).fit(frame))
    kept = {"n_samples_seen_", "_accumulated", "_left_out_variance"}
    assert set(fitted) - set(PCA().get_params()) == expected | kept


@pytest.mark.parametrize("solver", SOLVERS)
def test_only_numpy_lives_on_a_fitted_estimator(solver):
    pca = PCA(2, svd_solver=solver).fit(IRIS)
    if solver == "auto":
        pca = PCA(2).partial_fit(IRIS)
    assert b"torch" not in pickle.dumps(pca)
    assert_array_equal(pickle.loads(pickle.dumps(pca)).transform(IRIS), pca.transform(IRIS))


# Exactness


@pytest.mark.parametrize("solver", EXACT)
@pytest.mark.parametrize("shape", [(200, 10), (60, 60), (20, 90), (3, 2), (2, 3)])
def test_every_exact_solver_equals_scikit_learn_sign_for_sign(solver, shape):
    X = correlated(*shape)
    k = min(shape) - 1
    expected = decomposition.PCA(k, svd_solver="full").fit(X)
    assert_same_fit(PCA(k, svd_solver=solver, random_state=0).fit(X), expected)


@pytest.mark.parametrize("solver", ["covariance_eigh", "gram_eigh", "full"])
@pytest.mark.parametrize("n_components", [None, 0, 0.3, 0.9, 0.9999])
@pytest.mark.parametrize("shape", [(80, 12), (12, 12)])
def test_counts_of_components_equal_scikit_learn(solver, n_components, shape):
    X = correlated(*shape)
    expected = decomposition.PCA(n_components, svd_solver="full").fit(X)
    pca = PCA(n_components, svd_solver=solver).fit(X)
    assert pca.n_components_ == expected.n_components_
    assert_allclose(pca.noise_variance_, expected.noise_variance_, rtol=1e-9)


@pytest.mark.parametrize("solver", ["auto", "covariance_eigh", "full"])
def test_mle_equals_scikit_learn(solver):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4)) @ rng.normal(size=(4, 12)) + 0.1 * rng.normal(size=(300, 12))
    expected = decomposition.PCA("mle", svd_solver="full").fit(X)
    assert PCA("mle", svd_solver=solver).fit(X).n_components_ == expected.n_components_ == 4


@pytest.mark.parametrize("shape", [(60_000, 40), (1_000, 300), (300, 2_000)])
def test_float32_with_a_large_mean_keeps_its_variances(shape):
    X = np.random.default_rng(0).normal(1e4, 1.0, shape).astype(np.float32)
    k = min(shape) - 1
    pca = PCA(k).fit(X)
    assert pca.explained_variance_.dtype == np.float32
    assert np.abs(pca.explained_variance_ / exact_variances(X)[:k] - 1).max() < 1e-5


@pytest.mark.parametrize("solver", ["auto", "covariance_eigh", "gram_eigh", "full"])
@pytest.mark.parametrize("shape", [(200, 12), (12, 200)])
def test_variances_over_twenty_decades_keep_their_digits(solver, shape):
    rng = np.random.default_rng(0)
    m = min(shape)
    left = np.linalg.qr(rng.normal(size=(shape[0], m)) - 0.0)[0]
    left -= left.mean(axis=0)
    right = np.linalg.qr(rng.normal(size=(shape[1], m)))[0]
    X = (left * np.geomspace(1.0, 1e-10, m)) @ right.T
    pca = PCA(m - 1, svd_solver=solver).fit(X)
    assert_allclose(pca.singular_values_, np.linalg.svd(X - X.mean(axis=0))[1][: m - 1], rtol=1e-4)
    assert_allclose(pca.components_ @ pca.components_.T, np.eye(m - 1), atol=1e-8)


def test_features_of_very_different_units_are_both_found():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(0, 1e5, 1000), rng.normal(0, 1e-4, 1000)])
    assert_allclose(PCA().fit(X).explained_variance_, exact_variances(X), rtol=1e-8)


def variances_of_mpmath(X, weights=None):
    """Variances to 120 digits from the cells as they are."""
    with mpmath.workdps(120):
        rows = mpmath.matrix(np.asarray(X, dtype=np.float64).tolist())
        counts = [mpmath.mpf(float(w)) for w in (np.ones(len(X)) if weights is None else weights)]
        n, d = rows.rows, rows.cols
        for j in range(d):
            mean = mpmath.fdot((counts[i], rows[i, j]) for i in range(n)) / sum(counts)
            for i in range(n):
                rows[i, j] = mpmath.sqrt(counts[i]) * (rows[i, j] - mean)
        values = mpmath.eigsy(rows.T * rows / (sum(counts) - 1), eigvals_only=True)
        return np.sort([float(value) for value in values])[::-1]


SCALES = [1e-12, 1e-7, 1.0, 1e6, 1e12]
TABLES = {
    "dense": np.asarray,
    "sparse": sparse.csr_array,
    "pandas": pd.DataFrame,
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mean", [0.0, 100.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(24, 5), (4, 5)])
@pytest.mark.parametrize("table", TABLES)
def test_columns_of_any_scale_keep_their_digits(table, shape, weighted, mean, dtype):
    rng = np.random.default_rng(0)
    X = ((rng.normal(size=shape) + mean) * rng.permutation(SCALES)).astype(dtype)
    weights = rng.uniform(0.5, 2.0, shape[0]) if weighted else None
    k = min(5, shape[0] - 1)
    exact = variances_of_mpmath(X, weights)[:k]
    rtol = 1e-4 if dtype == np.float32 else 1e-9
    for solver in SOLVERS:
        if table == "sparse" and solver in ("full", "randomized"):
            continue
        n_computed = min(k, 4) if solver in ("arpack", "randomized") else k
        n_computed = min(n_computed, 3) if solver == "arpack" and shape[0] == 4 else n_computed
        pca = PCA(n_computed, svd_solver=solver, random_state=0).fit(
            TABLES[table](X), None, weights
        )
        assert_allclose(pca.explained_variance_, exact[:n_computed], rtol=rtol, err_msg=solver)
        axes = pca.components_
        assert_allclose(axes @ axes.T, np.eye(n_computed), atol=1e-6)
    parts = np.array_split(np.arange(shape[0]), 2)
    pca = PCA()
    for part in parts:
        pca.partial_fit(TABLES[table](X[part]), None, None if weights is None else weights[part])
    if shape == (24, 5):
        assert_allclose(pca.explained_variance_[:k], exact, rtol=max(rtol, 1e-7))


@pytest.mark.parametrize("solver", ["auto", "covariance_eigh", "full", "randomized", "arpack"])
def test_large_float32_data_keeps_columns_of_small_scale(solver):
    rng = np.random.default_rng(0)
    scales = [1e5, 10, 1, 0.5, 0.2, 0.1, 0.01]
    X = (rng.normal(size=(60_000, 7)) * scales + [1e6, 0, 0, 0, 0, 0, 0]).astype(np.float32)
    X = np.tile(X, (5, 1))
    pca = PCA(6 if solver in ("randomized", "arpack") else 7, svd_solver=solver, random_state=0)
    exact = np.sort(np.var(X, axis=0, dtype=np.float64, ddof=1))[::-1]
    assert_allclose(pca.fit(X).explained_variance_, exact[: pca.n_components_], rtol=1e-3)


def test_nanoseconds_beside_ordinary_columns_hide_nothing():
    rng = np.random.default_rng(0)
    time = 1_700_000_000_000_000_000 + rng.integers(0, 2_592_000_000_000_000, 300)
    X = np.column_stack([time, rng.normal(20, 5, 300), rng.normal(1013, 10, 300)])
    exact = variances_of_mpmath(X)
    for solver in ("auto", "covariance_eigh", "gram_eigh", "full"):
        assert_allclose(PCA(svd_solver=solver).fit(X).explained_variance_, exact, rtol=1e-9)
    for solver in ("randomized", "arpack"):
        pca = PCA(2, svd_solver=solver, random_state=0).fit(X)
        assert_allclose(pca.explained_variance_, exact[:2], rtol=1e-9)
    streamed = PCA().partial_fit(X[:100]).partial_fit(X[100:])
    assert_allclose(streamed.explained_variance_, exact, rtol=1e-9)


def test_large_means_of_square_float32_data_hide_nothing():
    X = (1e6 + np.random.default_rng(0).normal(size=(600, 600))).astype(np.float32)
    pca = PCA(5, random_state=0, iterated_power=30).fit(X)
    assert pca._fit_svd_solver == "randomized"
    assert_allclose(pca.explained_variance_, exact_variances(X)[:5], rtol=1e-3)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.1, -7.3, 1e18 / 3])
@pytest.mark.parametrize("container", [np.asarray, sparse.csr_array])
def test_constant_columns_have_no_variance_at_all(solver, dtype, value, container):
    if container is not np.asarray and solver in ("full", "randomized"):
        return
    rng = np.random.default_rng(0)
    varying = rng.normal(size=(200, 1)).astype(dtype)
    X = np.hstack([varying, np.full((200, 3), value, dtype=dtype)])
    pca = PCA(3, svd_solver=solver, whiten=True, random_state=0).fit(container(X))
    assert_array_equal(pca.explained_variance_[1:], 0.0)
    assert_array_equal(pca.mean_[1:], X[0, 1:])
    Z = pca.transform(container(X))
    assert_array_equal(Z[:, 1:], 0.0)
    assert_allclose(Z[:, 0].std(ddof=1), 1.0, rtol=1e-4)
    streamed = PCA(3, whiten=True)
    for rows in np.array_split(np.arange(200), 3):
        streamed.partial_fit(container(X[rows]))
    assert_array_equal(streamed.explained_variance_[1:], 0.0)
    weighted = PCA(3, svd_solver=solver, random_state=0)
    weighted.fit(container(X), sample_weight=rng.uniform(size=200))
    assert_array_equal(weighted.explained_variance_[1:], 0.0)


@pytest.mark.parametrize("solver", ["auto", "gram_eigh"])
def test_columns_that_vary_in_their_last_digits_only_have_that_variance(solver):
    rng = np.random.default_rng(0)
    unit = np.spacing(1e15)
    X = np.column_stack([1e15 + unit * rng.integers(0, 5, 400), rng.normal(size=400)])
    assert_allclose(PCA(svd_solver=solver).fit(X).explained_variance_, variances_of_mpmath(X))


def test_partial_fit_of_float32_counts_no_rounding_as_rank():
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(6_000, 10)) @ rng.normal(size=(10, 150))).astype(np.float32)
    pca = PCA(0.9999999).partial_fit(X[:3000]).partial_fit(X[3000:])
    assert pca.n_components_ == PCA(0.9999999, svd_solver="full").fit(X).n_components_ == 10


def test_partial_fit_finds_small_variances_of_scaled_columns():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(500, 3)) * [3e6, 40.0, 5e-3]
    pca = PCA().partial_fit(X[:200]).partial_fit(X[200:])
    assert_allclose(pca.explained_variance_, variances_of_mpmath(X), rtol=1e-9)


EXTREMES = [(1e-24, np.float32), (1e-40, np.float32), (1e25, np.float32), (1e39, np.float64)]
EXTREMES += [(1e-150, np.float64), (1e150, np.float64)]


@pytest.mark.parametrize("solver", [*SOLVERS, "partial_fit"])
@pytest.mark.parametrize(("scale", "dtype"), EXTREMES)
@pytest.mark.parametrize("container", [np.asarray, sparse.csr_array])
def test_data_of_extreme_scale_is_whitened(solver, scale, dtype, container):
    if container is not np.asarray and solver in ("full", "randomized"):
        return
    X = (correlated(100, 5, mean=0.0) * scale).astype(dtype)
    if solver == "partial_fit":
        pca = PCA(2, whiten=True).partial_fit(container(X[:50])).partial_fit(container(X[50:]))
    else:
        pca = PCA(2, svd_solver=solver, whiten=True, random_state=0).fit(container(X))
    exact = exact_variances(X.astype(np.float64) / scale)[:2]
    deviations = np.sqrt(pca.explained_variance_) / scale
    assert_allclose(deviations, np.sqrt(exact), rtol=1e-4)
    assert_allclose(pca.transform(container(X)).std(axis=0, ddof=1), 1.0, rtol=1e-3)


@pytest.mark.parametrize("solver", [*SOLVERS, "partial_fit"])
@pytest.mark.parametrize("scale", [1e-170, 1e160])
def test_variances_outside_of_float64_are_an_error_that_names_the_column(solver, scale):
    X = pd.DataFrame(correlated(60, 3, mean=0.0) * scale, columns=list("abc"))
    fit = PCA().partial_fit if solver == "partial_fit" else PCA(2, svd_solver=solver).fit
    with pytest.raises(ValueError, match=r"variance of column '[abc]' .* range of float64"):
        fit(X)


@pytest.mark.parametrize("solver", SOLVERS)
def test_mark_for_no_data_does_not_overflow(solver):
    X = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    X[5, 1] = -3.4e38
    pca = PCA(2, svd_solver=solver, whiten=True, random_state=0).fit(X)
    assert_allclose(
        pca.explained_variance_[0], np.var(X[:, 1].astype(np.float64), ddof=1), rtol=1e-6
    )
    assert_allclose(pca.transform(X).std(axis=0, ddof=1), 1.0, rtol=1e-4)


def test_rows_that_are_too_far_away_are_an_error_or_improbable():
    pca = PCA(2).fit(IRIS)
    far = np.full((2, 4), [[1.0], [1.7e308]])
    with pytest.raises(ValueError, match="Row 1 of X is so far"):
        pca.transform(far)
    scores = pca.score_samples(far)
    assert np.isfinite(scores).all()
    assert scores[1] == np.finfo(np.float64).min


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6, 1e12])
def test_mle_does_not_depend_on_the_unit(scale):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4)) @ rng.normal(size=(4, 12)) + 0.1 * rng.normal(size=(300, 12))
    assert PCA("mle").fit(X * scale).n_components_ == 4


def test_signs_do_not_depend_on_the_order_of_the_rows():
    rng = np.random.default_rng(0)
    X = StandardScaler().fit_transform(rng.normal(size=(500, 2)) @ [[1.0, 0.6], [0.0, 1.0]])
    for dtype in (np.float32, np.float64):
        for order in [rng.permutation(500) for _ in range(20)]:
            axes = PCA().fit(X[order].astype(dtype)).components_
            assert_allclose(axes, np.sqrt([[0.5, 0.5], [0.5, 0.5]]) * [[1, 1], [1, -1]], atol=1e-6)


def test_likely_noise_variance_of_wide_data_is_that_of_all_directions():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 5)) @ rng.normal(size=(5, 2000)) + 0.5 * rng.normal(size=(150, 2000))
    pca = PCA(5).fit(X)
    total = X.var(axis=0, ddof=1).sum()
    likely = (total - exact_variances(X)[:5].sum()) / (2000 - 5)
    assert pca._likely_noise_variance() == pytest.approx(likely, rel=1e-9)
    assert 0.2 < likely < 0.25 < pca.noise_variance_
    new = rng.normal(size=(20, 5)) @ rng.normal(size=(5, 2000))
    values = np.concatenate([exact_variances(X)[:5], np.full(1995, likely)])
    basis = np.vstack([pca.components_, null_space(pca.components_).T])
    along = (new - X.mean(axis=0)) @ basis.T
    expected = -0.5 * (along**2 / values + np.log(2 * np.pi * values)).sum(axis=1)
    assert_allclose(pca._log_density(new, likely), expected, rtol=1e-9)
    assert PCA().fit(IRIS)._likely_noise_variance() == 0.0


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_float32_squares_outside_float32_are_no_harm(scale):
    X = (correlated(20_000, 80, mean=0.0) * scale).astype(np.float32)
    with np.errstate(over="ignore"):
        pca = PCA(3).fit(X)
    assert_allclose(
        pca.explained_variance_ratio_, (v := exact_variances(X))[:3] / v.sum(), rtol=1e-5
    )


@pytest.mark.parametrize("shape", [(1000, 40), (40, 1000)])
def test_randomized_explained_variance_is_that_of_the_transformed_data(shape):
    X = correlated(*shape)
    pca = PCA(5, svd_solver="randomized", random_state=0, iterated_power=1)
    assert_allclose(pca.fit_transform(X).var(axis=0, ddof=1), pca.explained_variance_, rtol=1e-10)
    reference = decomposition.PCA(5, svd_solver="randomized", random_state=0, iterated_power=1)
    exact = exact_variances(X)[:5].sum()
    ours = exact - pca.explained_variance_.sum()
    assert ours <= exact - reference.fit(X).explained_variance_.sum() + 1e-9 * exact


@pytest.mark.parametrize("normalizer", ["auto", "QR", "LU", "none"])
def test_randomized_converges_with_every_normalizer(normalizer):
    X = correlated(300, 30)
    pca = PCA(
        3,
        svd_solver="randomized",
        random_state=0,
        iterated_power=2 if normalizer == "none" else 12,
        n_oversamples=20,
        power_iteration_normalizer=normalizer,
    ).fit(X)
    assert_allclose(pca.explained_variance_, exact_variances(X)[:3], rtol=1e-4)


def test_same_seed_gives_the_same_bits_and_leaves_the_global_state():
    X = correlated(300, 30)
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    first = PCA(3, svd_solver="randomized", random_state=7).fit(X)
    second = PCA(3, svd_solver="randomized", random_state=7).fit(X)
    assert_array_equal(first.components_, second.components_)
    assert_array_equal(np.random.get_state()[1], state)


# Which solver

AUTO_CASES = [
    ((200, 10), None, False, "covariance_eigh"),
    ((10, 200), None, False, "gram_eigh"),
    ((1000, 500), 0.5, False, "covariance_eigh"),
    ((1_000_000, 20), 5, False, "covariance_eigh"),
    ((60_000, 784), 50, False, "covariance_eigh"),
    ((500, 5_000), 10, False, "gram_eigh"),
    ((5_000, 5_000), 10, False, "randomized"),
    ((5_000, 5_000), None, False, "covariance_eigh"),
    ((5_000, 5_000), "mle", False, "covariance_eigh"),
    ((9_000, 5_000), 10, True, "arpack"),
    ((9_000, 500), 10, True, "covariance_eigh"),
]


@pytest.mark.parametrize(("shape", "n_components", "is_sparse", "expected"), AUTO_CASES)
def test_auto_takes_the_smaller_eigenproblem(shape, n_components, is_sparse, expected):
    device = PCA()._resolve_device(np.empty((1, 1)))
    assert (
        _decomposition.choose_solver(*shape, n_components, is_sparse=is_sparse, device=device)
        == expected
    )


@pytest.mark.parametrize("shape", [(10, 50), (1000, 50), (300, 150), (300, 300)])
@pytest.mark.parametrize("n_components", [5, 0.5, None])
def test_auto_agrees_with_the_full_decomposition(shape, n_components):
    X = np.random.default_rng(0).uniform(size=shape)
    pca = PCA(n_components).fit(X)
    full = PCA(n_components, svd_solver="full").fit(X)
    k = min(pca.n_components_, min(shape) - 1)
    assert_allclose(pca.components_[:k], full.components_[:k], atol=1e-7)
    assert_allclose(pca.explained_variance_, full.explained_variance_, atol=1e-12)


# Sparse data


@pytest.mark.parametrize("container", [sparse.csr_matrix, sparse.csc_array, sparse.coo_array])
@pytest.mark.parametrize("solver", ["auto", "covariance_eigh", "gram_eigh", "arpack"])
@pytest.mark.parametrize("shape", [(120, 30), (30, 120)])
@pytest.mark.parametrize("weighted", [False, True])
def test_sparse_data_gives_the_result_of_dense_data(container, solver, shape, weighted):
    rng = np.random.default_rng(0)
    X = rng.normal(2.0, 1.0, shape) * (rng.uniform(size=shape) < 0.2)
    weights = rng.uniform(0.1, 3.0, shape[0]) if weighted else None
    expected = PCA(4, svd_solver="full").fit(X, sample_weight=weights)
    pca = PCA(4, svd_solver=solver, random_state=0).fit(container(X), sample_weight=weights)
    assert_same_fit(pca, expected)
    assert_allclose(pca.transform(container(X)), expected.transform(X), atol=1e-9)


@pytest.mark.parametrize("solver", ["covariance_eigh", "gram_eigh", "arpack"])
def test_cells_that_are_stored_twice_are_added(solver):
    X = sparse.csr_array(IRIS)
    twice = sparse.csr_array(
        (np.repeat(X.data / 2, 2), np.repeat(X.indices, 2), 2 * X.indptr), shape=X.shape
    )
    assert_same_fit(PCA(2, svd_solver=solver).fit(twice), PCA(2, svd_solver="full").fit(IRIS))
    assert twice.nnz == 2 * X.nnz


@pytest.mark.parametrize("solver", ["full", "randomized"])
def test_sparse_data_needs_a_solver_that_keeps_it_sparse(solver):
    with pytest.raises(TypeError, match=f"svd_solver='{solver}' would need the sparse X as"):
        PCA(2, svd_solver=solver).fit(sparse.csr_array(IRIS))


@pytest.mark.parametrize("solver", ["auto", "covariance_eigh", "gram_eigh", "arpack"])
def test_sparse_data_is_never_made_dense(solver, monkeypatch):
    X = sparse.random_array((300, 200), density=0.02, format="csr", random_state=0)
    to_dense = sparse.csr_array.toarray

    def toarray(self, *args, **kwargs):
        assert self.shape != X.shape
        return to_dense(self, *args, **kwargs)

    for container in (sparse.csr_array, sparse.csc_array):
        monkeypatch.setattr(container, "toarray", toarray)
    assert PCA(3, svd_solver=solver).fit(X).transform(X).shape == (300, 3)


# Weights, batches, invariances


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(3, 25), st.integers(1, 8), st.sampled_from(EXACT[:3]))
def test_integer_weights_are_repetitions(seed, n, d, solver):
    rng = np.random.default_rng(seed)
    X, counts = rng.normal(2.0, 1.0, (n, d)), rng.integers(0, 4, n)
    counts[:2] += 1
    repeated = np.repeat(X, counts, axis=0)
    weighted = PCA(1, svd_solver=solver).fit(X, sample_weight=counts)
    expected = PCA(1, svd_solver=solver).fit(repeated)
    assert_allclose(weighted.explained_variance_, expected.explained_variance_, rtol=1e-9)
    assert_allclose(weighted.mean_, expected.mean_, atol=1e-12)
    assert_allclose(
        weighted.explained_variance_ratio_, expected.explained_variance_ratio_, rtol=1e-9
    )
    assert_allclose(weighted.noise_variance_, expected.noise_variance_, rtol=1e-7, atol=1e-12)
    everything = PCA(svd_solver=solver).fit(X, sample_weight=counts)
    assert everything.n_components_ == min(counts.sum(), d)
    axes = everything.components_
    assert_allclose(axes @ axes.T, np.eye(len(axes)), atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_weighted_fit_equals_the_weighted_singular_values(solver):
    X, weights = correlated(80, 8), np.random.default_rng(1).uniform(0, 3, 80)
    pca = PCA(3, svd_solver=solver, random_state=0, iterated_power=30).fit(X, None, weights)
    assert_allclose(pca.explained_variance_, exact_variances(X, weights)[:3], rtol=1e-9)
    assert_allclose(pca.mean_, weights @ X / weights.sum(), rtol=1e-12)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(2, 40), st.integers(1, 10), st.integers(1, 40))
def test_partial_fit_equals_fit_for_any_batch_size(seed, n, d, batch_size):
    X = np.random.default_rng(seed).normal(5.0, 1.0, (n, d))
    pca = PCA()
    for start in range(0, n, batch_size):
        pca.partial_fit(X[start : start + batch_size])
    expected = PCA(svd_solver="full").fit(X)
    assert pca.n_samples_seen_ == n
    assert_allclose(pca.explained_variance_, expected.explained_variance_, atol=1e-10)
    recovered = pca.inverse_transform(pca.transform(X))
    assert_allclose(recovered, X, atol=1e-8)


def test_partial_fit_takes_batches_with_fewer_rows_than_components():
    X = correlated(50, 8)
    pca = PCA(5)
    for start, expected in zip(range(0, 10, 2), [2, 4, 5, 5, 5], strict=True):
        pca.partial_fit(X[start : start + 2])
        assert pca.n_components_ == pca.components_.shape[0] == expected
    pca.partial_fit(X[10:])
    assert_same_fit(pca, PCA(5, svd_solver="full").fit(X))


def test_partial_fit_on_sparse_batches_equals_fit():
    X = np.random.default_rng(0).poisson(0.3, (90, 12)).astype(float)
    pca = PCA(3)
    for batch in np.split(X, 3):
        pca.partial_fit(sparse.csr_array(batch))
    assert_same_fit(pca, PCA(3, svd_solver="full").fit(X))


def test_partial_fit_adds_weights():
    X, weights = correlated(60, 5), np.random.default_rng(0).uniform(0.1, 2, 60)
    pca = PCA(2).partial_fit(X[:20], None, weights[:20]).partial_fit(X[20:], None, weights[20:])
    assert_same_fit(pca, PCA(2, svd_solver="full").fit(X, None, weights))


def test_partial_fit_rejects_what_it_cannot_add():
    pca = PCA(2).partial_fit(IRIS)
    before = pca.components_.copy()
    with pytest.raises(ValueError, match="X has 3 features, but PCA is expecting 4"):
        pca.partial_fit(IRIS[:, :3])
    with pytest.raises(ValueError, match="contains NaN"):
        pca.partial_fit(np.full((3, 4), np.nan))
    with pytest.raises(ValueError, match="n_components=3 was 2 for the rows before"):
        clone(pca).partial_fit(IRIS).set_params(n_components=3).partial_fit(IRIS)
    with pytest.raises(ValueError, match=r"partial_fit cannot add rows to this fit.*'full'"):
        PCA(svd_solver="full").fit(IRIS).partial_fit(IRIS)
    assert_array_equal(pca.components_, before)
    assert pca.n_samples_seen_ == 150
    assert pca.fit(IRIS[:40]).n_samples_seen_ == 40


def test_partial_fit_continues_a_fit_by_covariance():
    pca = PCA(2).fit(IRIS[:100]).partial_fit(IRIS[100:])
    assert pca.n_samples_seen_ == 150
    assert_same_fit(pca, PCA(2, svd_solver="full").fit(IRIS))
    assert not hasattr(pca.set_params(svd_solver="full").fit(IRIS), "_accumulated")


def test_partial_fit_rejects_more_components_than_features():
    with pytest.raises(ValueError, match=r"n_components=5 must be between 0 and n_features=4"):
        PCA(5).partial_fit(IRIS)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(2, 30), st.integers(2, 10))
def test_translation_and_permutation_leave_the_components(seed, n, d):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * np.geomspace(1, 0.2, d)
    k = max(min(n - 1, d) // 2, 1)
    pca, moved = PCA(k).fit(X), PCA(k).fit(X[rng.permutation(n)] + 1e6)
    assert_allclose(moved.explained_variance_, pca.explained_variance_, rtol=1e-6)
    features = rng.permutation(d)
    permuted = PCA(k).fit(X[:, features])
    assert_allclose(permuted.explained_variance_, pca.explained_variance_, rtol=1e-9)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(2, 20), st.integers(2, 20), st.integers(1, 3), st.booleans())
@pytest.mark.parametrize("solver", ["covariance_eigh", "gram_eigh", "full"])
def test_rank_deficient_data_is_whitened_without_blow_up(solver, seed, n, d, rank, constant):
    rng = np.random.default_rng(seed)
    # Whole numbers, because rounded cells have tiny further variances in exact arithmetic as well.
    X = rng.integers(-9, 10, size=(n, rank)) @ rng.integers(-9, 10, size=(rank, d)) + 5.0
    if constant:
        X[:, 0] = 7.0
    pca = PCA(whiten=True, svd_solver=solver).fit(X)
    Z = pca.transform(X + rng.normal(size=X.shape))  # also away from the span of the data
    assert np.isfinite(Z).all()
    assert (Z[:, min(rank, n - 1) :] == 0).all()
    assert_allclose(pca.inverse_transform(pca.transform(X)), X, atol=1e-6)
    axes = pca.components_
    assert_allclose(axes @ axes.T, np.eye(len(axes)), atol=1e-7)


@pytest.mark.parametrize("solver", ["auto", "covariance_eigh", "gram_eigh", "full"])
def test_single_row_and_constant_data_have_no_variance(solver):
    for X in (np.array([[1.0, 2.0, 3.0]]), np.full((6, 3), 0.1)):
        pca = PCA(svd_solver=solver).fit(X)
        assert_allclose(pca.explained_variance_, 0.0, atol=1e-30)
        assert_allclose(pca.transform(X), 0.0, atol=1e-15)
        assert np.isfinite(pca.score(X))
    assert PCA(0.5, svd_solver=solver).fit(np.ones((6, 3))).n_components_ == 1


# Density


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("n_components", [0, 2, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_score_is_the_gaussian_log_density(whiten, n_components, dtype):
    X = IRIS.astype(dtype)
    pca = PCA(n_components, whiten=whiten).fit(X)
    values, vectors = np.linalg.eigh(np.cov(IRIS.T))
    values, vectors = values[::-1].copy(), vectors[:, ::-1]
    values[n_components:] = values[n_components:].mean() if n_components < 4 else 0.0
    covariance = (vectors * values) @ vectors.T
    expected = multivariate_normal(IRIS.mean(axis=0), covariance).logpdf(IRIS)
    rtol = 1e-9 if dtype == np.float64 else 1e-4
    scores = pca.score_samples(X)
    assert scores.dtype == dtype
    assert_allclose(scores, expected, rtol=rtol, atol=rtol)
    assert pca.score(X) == pytest.approx(expected.mean(), rel=rtol)
    weights = np.arange(150.0)
    weighted = np.average(expected, weights=weights)
    assert pca.score(X, sample_weight=weights) == pytest.approx(weighted, rel=rtol)
    assert_allclose(pca.get_covariance(), covariance, atol=1e-5 if dtype == np.float32 else 1e-12)
    assert_allclose(pca.get_precision() @ covariance, np.eye(4), atol=100 * rtol)


@pytest.mark.parametrize("container", [sparse.csr_array, sparse.csc_matrix, sparse.coo_array])
def test_sparse_rows_score_as_dense_ones(container):
    X = np.where(IRIS > 3, IRIS, 0.0)
    pca = PCA(2).fit(X)
    assert_allclose(pca.score_samples(container(X)), pca.score_samples(X), rtol=1e-12)
    assert pca.score(container(X)) == pytest.approx(pca.score(X))


def test_whitened_scores_of_scikit_learn_are_not_those_of_its_covariance():
    wrong = decomposition.PCA(2, whiten=True).fit(IRIS).score(IRIS)
    assert wrong != pytest.approx(PCA(2, whiten=True).fit(IRIS).score(IRIS), rel=0.01)


def test_score_of_a_singular_model_is_finite_and_falls_off_the_subspace():
    X = correlated(5, 20)
    pca = PCA().fit(X)
    assert np.isfinite(pca.score(X))
    assert pca.score(X + 0.1) < pca.score(X)
    assert np.isfinite(pca.get_precision()).all()


# Projection


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_preserved(dtype):
    X = IRIS.astype(dtype)
    pca = PCA(2).fit(X)
    for array in (pca.components_, pca.mean_, pca.explained_variance_, pca.singular_values_):
        assert array.dtype == dtype
    Z = pca.transform(X)
    assert Z.dtype == pca.inverse_transform(Z).dtype == dtype
    assert PCA(2).fit(IRIS).transform(X).dtype == dtype
    assert PCA(2).fit(np.arange(12).reshape(4, 3)).components_.dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_are_projected_independently_of_each_other(dtype):
    X = correlated(30_000, 60).astype(dtype)
    pca = PCA(7, whiten=True).fit(X)
    Z = pca.transform(X)
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    assert_allclose(pca.transform(X[17_000:17_003]), Z[17_000:17_003], atol=tolerance)
    assert_allclose(Z.std(axis=0, ddof=1), 1.0, rtol=1e-4)


def test_inverse_transform_checks_its_width():
    with pytest.raises(ValueError, match="X has 3 columns, but this PCA has 2 components"):
        PCA(2).fit(IRIS).inverse_transform(IRIS[:, :3])


def test_data_is_never_overwritten():
    X = IRIS.copy()
    PCA(2, copy=False).fit_transform(X)
    assert_array_equal(X, IRIS)


def test_works_in_a_pipeline_with_data_frames():
    frame = pd.DataFrame(IRIS, columns=list("abcd"))
    names = ["pca0", "pca1"]
    model = make_pipeline(StandardScaler(), PCA(2)).set_output(transform="pandas")
    assert list(model.fit_transform(frame).columns) == names
    Z = PCA(2).set_output(transform="polars").fit_transform(pl.DataFrame(IRIS))
    assert Z.columns == names
    expected = decomposition.PCA(2).fit(frame)
    assert_allclose(PCA(2).fit(frame).transform(frame), expected.transform(frame), atol=1e-12)


def test_digits_with_constant_pixels_equal_scikit_learn():
    X = load_digits().data
    assert_same_fit(PCA(30).fit(X), decomposition.PCA(30, svd_solver="full").fit(X), rtol=1e-7)


# Bad input


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinite_cells_are_an_error(solver, value):
    X = IRIS.copy()
    X[70, 2] = value
    with pytest.raises(ValueError, match=r"Input X contains .*column 2 "):
        PCA(2, svd_solver=solver).fit(X)
    with pytest.raises(ValueError, match=r"column 'c' .*PCA (takes|does not take)"):
        PCA(2, svd_solver=solver).fit(pd.DataFrame(X, columns=list("abcd")))
    if solver not in ("full", "randomized"):
        with pytest.raises(ValueError, match=r"Input X contains .*column 2 "):
            PCA(2, svd_solver=solver).fit(sparse.csr_array(X))
    with pytest.raises(ValueError, match=r"Input X contains .*column 2 "):
        PCA(2).partial_fit(X)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.ones(4), "Expected 2D array"),
        (np.empty((0, 4)), "0 sample"),
        (np.empty((4, 0)), "0 feature"),
        (np.ones((4, 2), dtype=complex), "Complex data not supported"),
        (np.array([["a", "b"], ["c", "d"]], dtype=object), "could not convert"),
    ],
)
def test_data_that_is_not_a_table_of_numbers_is_an_error(X, message):
    with pytest.raises(ValueError, match=message):
        PCA().fit(X)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("shape", [(10, 4), (4, 10)])
def test_too_many_components_are_an_error_that_names_them(solver, shape):
    X = correlated(*shape)
    message = (
        re.escape("n_components=5 must be between")
        + ".*"
        + re.escape("min(n_samples, n_features)=4")
    )
    with pytest.raises(ValueError, match=message):
        PCA(5, svd_solver=solver).fit(X)


def test_component_counts_that_the_solver_cannot_give_are_an_error():
    for solver in ("randomized", "arpack"):
        with pytest.raises(ValueError, match=f"'mle' cannot be a string .*{solver}"):
            PCA("mle", svd_solver=solver).fit(IRIS)
        with pytest.raises(ValueError, match=f"0.5 is a share .*{solver}"):
            PCA(0.5, svd_solver=solver).fit(IRIS)
        with pytest.raises(ValueError, match="must be between 1 and"):
            PCA(0, svd_solver=solver).fit(IRIS)
    with pytest.raises(ValueError, match="must be strictly less than"):
        PCA(4, svd_solver="arpack").fit(IRIS)
    for solver in ("auto", "full"):
        with pytest.raises(ValueError, match="'mle' is only supported if n_samples >= n_features"):
            PCA("mle", svd_solver=solver).fit(IRIS[:3])
    with pytest.raises(ValueError, match=r"'mle' is only supported"):
        PCA("mle").partial_fit(IRIS[:3])


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"n_components": 1.5}, "n_components"),
        ({"n_components": -1}, "n_components"),
        ({"n_components": "all"}, "mle"),
        ({"svd_solver": "svd"}, "covariance_eigh"),
        ({"tol": -1.0}, "tol"),
        ({"device": "quantum"}, "device='quantum' is unknown"),
        ({"device": "mps:0"}, "device='mps:0'"),
    ],
)
def test_bad_parameters_are_named_with_their_values(parameters, named):
    with pytest.raises(ValueError, match=named):
        PCA(**parameters).fit(IRIS)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (-np.ones(150), "Negative values"),
        (np.zeros(150), "at least one non-zero"),
        (np.ones(149), r"sample_weight.shape == \(149,\)"),
        (np.full(150, np.nan), "NaN"),
        (np.full(150, 1 / 150), "multiply the weights by n_samples"),
    ],
)
@pytest.mark.parametrize("method", ["fit", "partial_fit", "fit_transform"])
def test_bad_weights_are_an_error(method, weights, message):
    with pytest.raises(ValueError, match=message):
        getattr(PCA(), method)(IRIS, sample_weight=weights)


@pytest.mark.parametrize(
    ("solver", "shape"), [("covariance_eigh", (6000, 5000)), ("gram_eigh", (5000, 6000))]
)
def test_matrix_that_does_not_fit_in_memory_is_an_error_that_names_a_solver(
    solver, shape, monkeypatch
):
    monkeypatch.setattr(_device, "available_memory", lambda device: 10**8)
    X = sparse.csr_array(shape)
    with pytest.raises(MemoryError, match=r"5000 x 5000 .* svd_solver='randomized'.*'arpack'"):
        PCA(svd_solver=solver).fit(X)
    device = PCA()._resolve_device(X)
    for is_sparse, expected in ((False, "randomized"), (True, "arpack")):
        chosen = _decomposition.choose_solver(*shape, 1000, is_sparse=is_sparse, device=device)
        assert chosen == expected
    with pytest.raises(MemoryError, match="partial_fit needs 6000 x 6000"):
        PCA().partial_fit(sparse.csr_array((10, 6000)))


def test_available_memory_is_known_or_unknown():
    free = _device.available_memory(PCA()._resolve_device(IRIS))
    assert free is None or free > 0


def test_failed_fit_leaves_the_earlier_fit(monkeypatch):
    frame = pd.DataFrame(IRIS, columns=list("abcd"))
    pca = PCA(3).fit(frame)
    before = pca.__dict__.copy()
    bad = pd.DataFrame(np.full((9, 2), np.nan), columns=["x", "y"])
    for attempt in (pca.fit, pca.fit_transform):
        with pytest.raises(ValueError, match=r"n_components=3|NaN"):
            attempt(bad)
    assert pca.__dict__ == before
    assert_array_equal(pca.feature_names_in_, list("abcd"))


def test_methods_need_a_fit():
    for method in ("transform", "inverse_transform", "score_samples", "score"):
        with pytest.raises(NotFittedError):
            getattr(PCA(), method)(IRIS)
    for method in ("get_covariance", "get_precision"):
        with pytest.raises(NotFittedError):
            getattr(PCA(), method)()


@pytest.mark.skipif(os.name != "posix", reason="a memory map that is open cannot be removed")
def test_memory_map_of_integers_is_projected(tmp_path):
    X = np.memmap(tmp_path / "rows", dtype=np.uint8, mode="w+", shape=(50, 4))
    X[:] = np.random.default_rng(0).integers(0, 255, X.shape)
    for solver in ("auto", "gram_eigh", "full", "randomized", "arpack"):
        Z = PCA(2, svd_solver=solver, random_state=0).fit_transform(X)
        expected = PCA(2, svd_solver="full").fit_transform(np.asarray(X, dtype=float))
        assert_allclose(Z, expected, atol=1e-3)


@pytest.mark.skipif(os.name != "posix", reason="a memory map that is open cannot be removed")
def test_memory_map_of_integers_is_transformed_by_blocks(tmp_path):
    X = np.memmap(tmp_path / "rows", dtype=np.uint8, mode="w+", shape=(400_000, 25))
    X[:1000] = np.random.default_rng(0).integers(0, 255, (1000, 25))
    pca = PCA(2).fit(X)
    tracemalloc.start()
    Z = pca.transform(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < Z.nbytes + (30 << 20)  # a copy in float64 has 80 MB
    assert_allclose(Z[:9], pca.transform(np.asarray(X[:9], dtype=float)), atol=1e-9)


# Processes and threads

FORK_SCRIPT = """
import os, sys, time
import numpy as np
import torch
from skae import PCA

torch.set_num_threads(2)
X = np.random.default_rng(0).normal(size=(20_000, 300))
wide = np.ascontiguousarray(X[:400].repeat(3, axis=1))
fits = [
    lambda: PCA(5).fit(X),
    lambda: PCA(5).partial_fit(X).partial_fit(X[:500]),
    lambda: PCA(5).fit(wide),
    lambda: PCA(5, svd_solver="randomized", random_state=0).fit(X[:2000]),
]
expected = [fit().explained_variance_ for fit in fits]
child = os.fork()
if not child:
    same = all(np.allclose(fit().explained_variance_, e) for fit, e in zip(fits, expected))
    os._exit(0 if same else 1)
deadline = time.time() + 60
while time.time() < deadline:
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        sys.exit(os.waitstatus_to_exitcode(status))
    time.sleep(0.02)
os.kill(child, 9)
sys.exit("the child hangs")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_forked_processes_fit_after_a_fit_on_two_threads():
    result = subprocess.run(
        [sys.executable, "-c", FORK_SCRIPT],
        env={"PYTHONPATH": str(Path(skae.__file__).parents[1]), "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]


# Rows and weights at the end of the numbers


def test_rows_far_away_are_explained_by_the_same_shares():
    X = correlated(50, 4)
    pca = PCA(2).fit(X)
    direction = np.array([[1.0, -2.0, 0.5, 3.0]])
    near, far = 1e100 * direction, 1e300 * direction
    shares = pca.contributions(near)
    covariance = pca.get_covariance()
    for j in range(4):  # conditional mean in closed form; the mean of the columns is rounding here
        others = [i for i in range(4) if i != j]
        weights = np.linalg.solve(covariance[np.ix_(others, others)], covariance[others, j])
        assert_allclose(pca.expected(far)[0, j], far[0, others] @ weights, rtol=1e-6)
    explained = pca.contributions(far)
    assert np.isfinite(explained).all()
    assert_allclose(explained / explained.sum(), shares / shares.sum(), rtol=1e-12)
    assert_allclose(explained.sum(), -pca.score_samples(far)[0], rtol=1e-12)
    assert pca.score(np.vstack([far, far])) == np.finfo(float).min


def test_components_that_no_number_can_decode_are_named():
    pca = PCA(2, whiten=True).fit(100.0 * correlated(50, 4))
    codes = np.array([[0.0, 1.0], [3e38, 3e38], [-3e38, 3e38]], dtype=np.float32)
    with pytest.raises(ValueError, match="Row [12] of X holds numbers so large that float32"):
        pca.inverse_transform(codes)


def test_precision_of_constant_columns_is_finite():
    pca = PCA().fit(np.full((5, 2), 0.7, dtype=np.float32))
    assert np.isfinite(pca.get_precision()).all()
    assert_allclose(pca.expected(np.full((1, 2), 0.7, dtype=np.float32)), 0.7, rtol=1e-6)


@pytest.mark.parametrize("method", ["fit", "partial_fit", "fit_transform"])
def test_weights_whose_sum_no_number_can_hold_are_refused(method):
    X = correlated(6, 2)
    with pytest.raises(ValueError, match=r"divide the weights by sample_weight\.max"):
        getattr(PCA(), method)(X, sample_weight=np.full(6, 1e308))


def test_numbers_of_components_may_be_small_integers_of_numpy():
    X = correlated(30, 5)
    small = {"n_components": np.int8(2), "n_oversamples": np.int8(10)}
    for solver in ("auto", "randomized"):
        actual = PCA(svd_solver=solver, random_state=0, **small).fit(X)
        assert_same_fit(actual, PCA(2, svd_solver=solver, random_state=0).fit(X))


def test_arpack_finds_nothing_in_one_column():
    with pytest.raises(ValueError, match="svd_solver='arpack' finds fewer"):
        PCA(svd_solver="arpack").fit(correlated(8, 1))


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("solver", ["auto", "covariance_eigh", "gram_eigh", "full", "randomized"])
@pytest.mark.parametrize("shape", [(5_000, 40), (40, 5_000)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gpu_gives_the_result_of_the_cpu(solver, shape, dtype):
    X = correlated(*shape).astype(dtype)
    weights = np.random.default_rng(0).uniform(size=shape[0])
    for sample_weight in (None, weights):
        parameters = {"svd_solver": solver, "random_state": 0, "iterated_power": 20}
        on_gpu = PCA(3, device="cuda", **parameters).fit(X, None, sample_weight)
        on_cpu = PCA(3, device="cpu", **parameters).fit(X, None, sample_weight)
        rtol = 1e-4 if dtype == np.float32 else 1e-9
        assert_same_fit(on_gpu, on_cpu, rtol=rtol, atol=rtol)
        assert b"torch" not in pickle.dumps(on_gpu)


@pytest.mark.gpu
def test_partial_fit_continues_on_a_gpu():
    X = correlated(300, 10)
    pca = PCA(3, device="cuda").partial_fit(X[:100])
    pca = pickle.loads(pickle.dumps(pca)).set_params(device="cpu").partial_fit(X[100:])
    assert_same_fit(pca, PCA(3, svd_solver="full").fit(X))


@pytest.mark.parametrize("solver", ["covariance_eigh", "full"])
@pytest.mark.parametrize("exponent", [-1060, -1000, 1000, 1020])
def test_scales_at_the_ends_of_the_numbers_are_right_or_an_error(solver, exponent):
    X = np.ldexp(IRIS, exponent)
    with pytest.raises(ValueError, match=r"variance of column \d of X.*outside of the range"):
        PCA(2, svd_solver=solver).fit(X)
