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
from skae._moments import Moments, gram_matrix, project_on_rows


class LinearCode(NamedTuple):
    """What PCA finds in rows."""

    mean: np.ndarray  # (n_features,), float64
    variances: np.ndarray  # (rank,), float64, in decreasing order, up to a common factor
    axes: np.ndarray  # (rank, n_features), float64, orthonormal rows


def linear_code(X: Any, sample_weight: np.ndarray | None, n_components: int | float) -> LinearCode:
    """Solve the eigenproblem of the scatter matrix or, for wide data, of the Gram matrix.

    Parameters
    ----------
    X : ndarray or sparse matrix of shape (n_samples, n_features)
    sample_weight : ndarray of shape (n_samples,) or None
    n_components : int or float
        Largest number of axes, or the share of the variance that they explain.

    Returns
    -------
    LinearCode
        Of as many axes as that, or as there are.
    """
    n_samples, n_features = X.shape
    if n_samples >= n_features:
        moments = Moments.from_rows(X, sample_weight)
        mean = moments.mean
        variances, vectors = top_eigenpairs(moments.scatter, _n_pairs(n_components, n_features))
    else:
        mean, gram = gram_matrix(X, sample_weight)
        variances, vectors = top_eigenpairs(gram, _n_pairs(n_components, n_samples))
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
    return LinearCode(mean.numpy(), variances, flip_signs(axes))


def _n_pairs(n_components: int | float, n: int) -> int | None:
    return min(int(n_components), n) if isinstance(n_components, Integral) else None
