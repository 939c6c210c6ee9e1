"""Eigenpairs, counts of components and bases against NumPy, SciPy and scikit-learn."""

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.decomposition._pca import _assess_dimension
from sklearn.utils.extmath import svd_flip

from skae import _linalg


def covariance_of(seed, m):
    rows = np.random.default_rng(seed).normal(size=(3 * m, m))
    return rows.T @ rows


@pytest.mark.parametrize(("m", "k"), [(1, 1), (10, 3), (10, None), (200, 5), (200, 150), (200, 0)])
def test_top_eigenpairs_are_the_largest_ones(m, k):
    matrix = covariance_of(0, m)
    values, vectors = _linalg.top_eigenpairs(torch.from_numpy(matrix), k)
    k = m if k is None else k
    assert_allclose(values, np.linalg.eigvalsh(matrix)[::-1][:k], rtol=1e-10)
    assert_allclose(matrix @ vectors, vectors * values, atol=1e-9 * matrix.max())


def test_signs_are_those_of_scikit_learn():
    axes = np.random.default_rng(0).normal(size=(6, 9))
    _, expected = svd_flip(None, axes.copy(), u_based_decision=False)
    assert_allclose(_linalg.flip_signs(axes), expected, rtol=0)
    assert _linalg.flip_signs(np.empty((0, 4))).shape == (0, 4)


def test_variances_of_rounding_are_zero():
    rows = np.random.default_rng(0).normal(size=(20, 3)) @ np.ones((3, 8))
    variances, axes = _linalg.principal_axes(torch.from_numpy(rows.T @ rows))
    assert variances[0] > 0
    assert (variances[1:] == 0).all()
    assert_allclose(axes @ axes.T, np.eye(8), atol=1e-12)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.floats(0.01, 0.99))
def test_share_is_exceeded_by_no_fewer_components(variances, share):
    variances = np.sort(variances)[::-1]
    k = _linalg.n_components_for_share(torch.from_numpy(variances.copy()), share)
    assert 1 <= k <= len(variances)
    total = variances.sum()
    if total > 1e-300:
        explained = np.cumsum(variances / total)
        assert k == len(variances) or explained[k - 1] > share
        assert k == 1 or explained[k - 2] <= share


def test_minka_log_evidence_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    spectrum = np.sort(rng.uniform(0.1, 5.0, 12))[::-1]
    for rank in range(1, 12):
        expected = _assess_dimension(spectrum, rank, 300)
        assert _linalg.minka_log_evidence(spectrum, rank, 300) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("rank", [0, 4, 5])
def test_minka_log_evidence_rejects_impossible_ranks(rank):
    with pytest.raises(ValueError, match=f"rank={rank} must be between 1 and n_features - 1 = 3"):
        _linalg.minka_log_evidence(np.array([1.0, 0.5, 0.2, 0.1]), rank, 10)


def test_minka_log_evidence_of_tiny_variances_is_minus_infinity():
    spectrum = np.array([1.0, 1e-30, 1e-30, 1e-30])
    assert np.isfinite(_linalg.minka_log_evidence(spectrum, 1, 10))
    assert _linalg.minka_log_evidence(spectrum, 2, 10) == -np.inf
    assert _linalg.minka_n_components(spectrum, 10) == 1


def test_minka_evidence_of_equal_variances_is_finite():
    assert 1 <= _linalg.minka_n_components(np.full(5, 2.0), 100) <= 4
    assert _linalg.minka_n_components(np.ones(1), 100) == 0


def test_triangular_factor_keeps_singular_values_of_streamed_rows():
    rows = np.random.default_rng(0).normal(size=(50, 6))
    upper = None
    for start in range(0, 50, 4):
        upper = _linalg.triangular_factor(upper, torch.from_numpy(rows[start : start + 4]))
    assert upper.shape == (6, 6)
    values, axes = _linalg.right_singular_vectors(upper)
    assert_allclose(values, np.linalg.svd(rows, compute_uv=False), rtol=1e-12)
    assert_allclose(np.linalg.norm(rows @ axes.T, axis=0), values, rtol=1e-12)


def test_missing_rows_are_filled_with_an_orthonormal_complement():
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(9, 5)))[0].T
    axes[[1, 4]] = 0.0
    filled = _linalg.orthonormal_rows(axes, np.array([True, False, True, True, False]))
    assert_allclose(filled @ filled.T, np.eye(5), atol=1e-12)
    assert_allclose(filled[[0, 2, 3]], axes[[0, 2, 3]], rtol=0)


@pytest.mark.parametrize("normalizer", sorted(_linalg.NORMALIZERS))
def test_randomized_range_holds_a_low_rank_matrix(normalizer):
    rng = np.random.default_rng(0)
    matrix = torch.from_numpy(rng.normal(size=(40, 4)) @ rng.normal(size=(4, 30)))
    basis = _linalg.randomized_range(
        lambda columns: matrix @ columns,
        lambda columns: matrix.T @ columns,
        torch.from_numpy(rng.normal(size=(40, 6))),
        n_iter=2 if normalizer != "none" else 0,
        normalizer=normalizer,
    )
    assert_allclose(matrix @ basis @ basis.T, matrix, atol=1e-10)


def test_near_ties_of_signs_go_to_the_first_entry():
    axes = np.array([[-0.5, 0.5, 0.1], [-0.5, 0.5 + 1e-9, 0.1], [-0.5 - 1e-9, 0.5, 0.1]])
    assert (_linalg.flip_signs(axes)[:, 0] > 0).all()
    assert _linalg.flip_signs(np.array([[-0.5, 0.501]]))[0, 1] > 0


@pytest.mark.parametrize("shape", [(30, 6), (4, 6)])
@pytest.mark.parametrize("seed", range(5))
def test_scaled_decompositions_give_every_variance_its_digits(shape, seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=shape) * 10.0 ** rng.uniform(-100, 100, shape[1])
    with mpmath.workdps(900):
        matrix = mpmath.matrix(rows.tolist())
        values = mpmath.eigsy(matrix.T * matrix, eigvals_only=True)
        exact = np.sort([float(mpmath.sqrt(abs(value))) for value in values])[::-1]
    values, axes = _linalg.scaled_singular_vectors(rows)
    assert_allclose(values, exact[: min(shape)], rtol=1e-10)
    assert_allclose(axes @ axes.T, np.eye(min(shape)), atol=1e-13)
    if shape[0] > shape[1]:
        variances, axes, _ = _linalg.scaled_principal_axes(rows.T @ rows, 1e-14)
        assert_allclose(np.sqrt(variances), exact, rtol=1e-10)
        assert_allclose(axes @ axes.T, np.eye(min(shape)), atol=1e-13)


def test_copies_of_long_columns_do_not_hide_short_ones():
    rng = np.random.default_rng(0)
    for _ in range(20):
        long, short = rng.normal(size=(2, 20))
        rows = np.column_stack([1e12 * long, 2e12 * long, 1e-12 * short])[:, rng.permutation(3)]
        values, _ = _linalg.scaled_singular_vectors(rows)
        variances, _, pivot = _linalg.scaled_principal_axes(rows.T @ rows, 1e-14)
        rest = short - long * (long @ short) / (long @ long)
        for found in (values, np.sqrt(variances)):
            assert len(found) == 2
            assert found[1] == pytest.approx(1e-12 * np.linalg.norm(rest), rel=1e-9)
        assert pivot == 0.0
