"""PCA of training rows, as the start of a network."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from skae._linalg import flip_signs, principal_axes, top_eigenpairs, zero_out_rounding
from skae._moments import Moments, gram_matrix, project_on_rows


class LinearCode(NamedTuple):
    """What PCA finds in rows."""

    mean: np.ndarray  # (n_features,), float64
    variances: np.ndarray  # (rank,), float64, in decreasing order, up to a common factor
    axes: np.ndarray  # (rank, n_features), float64, orthonormal rows


def linear_code(X: Any, sample_weight: np.ndarray | None = None) -> LinearCode:
    """Solve the eigenproblem of the scatter matrix or, for wide data, of the Gram matrix.

    Parameters
    ----------
    X : ndarray or sparse matrix of shape (n_samples, n_features)
    sample_weight : ndarray of shape (n_samples,), default=None

    Returns
    -------
    LinearCode
    """
    n_samples, n_features = X.shape
    if n_samples >= n_features:
        moments = Moments.from_rows(X, sample_weight)
        return LinearCode(moments.mean.numpy(), *principal_axes(moments.scatter))
    mean, gram = gram_matrix(X, sample_weight)
    values, vectors = top_eigenpairs(gram)
    variances = zero_out_rounding(values, n_features * float(np.finfo(X.dtype).eps))
    rank = np.count_nonzero(variances)
    coefficients = vectors[:, :rank] / np.sqrt(variances[:rank])  # (n_samples, rank)
    axes = project_on_rows(X, coefficients, sample_weight)
    return LinearCode(mean.numpy(), variances[:rank], flip_signs(axes))
