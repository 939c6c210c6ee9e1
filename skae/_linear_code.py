"""PCA of training rows, as the start of a network."""

from __future__ import annotations

from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from skae._linalg import (
    flip_signs,
    n_components_for_share,
    top_eigenpairs,
    zero_out_rounding,
)
from skae._moments import Moments, gram_matrix, project_on_rows, threads_of_blas


class LinearCode(NamedTuple):
    """What PCA finds in rows."""

    mean: np.ndarray  # (n_features,), float64
    variances: np.ndarray  # (rank,), float64, along the axes, in decreasing order
    axes: np.ndarray  # (rank, n_features), float64, orthonormal rows
    noise_variance: float
    """Mean variance of the directions that the axes leave out; zero if they leave out none."""


def linear_code(X: Any, sample_weight: np.ndarray | None, n_components: int | float) -> LinearCode:
    """Solve the eigenproblem of the scatter matrix or, for wide data, of the Gram matrix.

    Parameters
    ----------
    X : ndarray or sparse matrix of shape (n_samples, n_features)
    sample_weight : ndarray of shape (n_samples,) or None
        Weights of mean one.
    n_components : int or float
        Largest number of axes, or the share of the variance that they explain.

    Returns
    -------
    LinearCode
        Of as many axes as that, or as there are. The variances are unbiased, as those of PCA.
    """
    n_samples, n_features = X.shape
    n_directions, n_free = min(n_samples, n_features), max(n_samples - 1, 1)
    with threads_of_blas(X):
        if n_samples >= n_features:
            moments = Moments.from_rows(X, sample_weight)
            mean, matrix = moments.mean, moments.scatter
        else:
            mean, matrix = gram_matrix(X, sample_weight)
        variances, vectors = top_eigenpairs(matrix, _n_pairs(n_components, n_directions))
    total = float(matrix.trace())
    variances = zero_out_rounding(variances, n_features * float(np.finfo(X.dtype).eps))
    rank = max(np.count_nonzero(variances), 1)
    if not isinstance(n_components, Integral):
        rank = min(rank, n_components_for_share(variances, n_components))
    variances, vectors = variances[:rank], vectors[:, :rank]
    if n_samples >= n_features:
        axes = vectors.T
    else:
        scale = np.sqrt(np.where(variances > 0.0, variances, np.inf))
        axes = project_on_rows(X, vectors / scale, sample_weight)
    rest = total - float(variances.sum())
    if rank == n_directions or rest <= total * float(np.finfo(X.dtype).eps):
        rest = 0.0  # nothing but rounding
    noise_variance = rest / max(n_directions - rank, 1) / n_free
    return LinearCode(mean.numpy(), variances / n_free, flip_signs(axes), noise_variance)


def _n_pairs(n_components: int | float, n: int) -> int | None:
    return min(int(n_components), n) if isinstance(n_components, Integral) else None
