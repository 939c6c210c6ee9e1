"""Eigenpairs, singular vectors and numbers of components, as functions of tensors."""

from __future__ import annotations

from collections.abc import Callable
from math import log, pi

import numpy as np
import torch
from scipy import linalg
from scipy.special import gammaln
from torch import Tensor

_FLOAT64_EPS = float(np.finfo(np.float64).eps)
# With fewer rows and columns than this, all eigenpairs cost as little as a few of them.
_SMALL_EIGENPROBLEM = 150
# LAPACK's bisection for some eigenpairs beats divide and conquer for all of them below this share.
_FEW_EIGENPAIRS = 0.2


def principal_axes(
    covariance: Tensor, n_components: int | None = None, *, noise: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Largest variances and the directions that they are found along.

    Parameters
    ----------
    covariance : Tensor of shape (n_features, n_features)
        Covariance or scatter matrix, on any device.
    n_components : int, default=None
        How many to compute; None computes all.
    noise : float, default=None
        Relative to the largest variance, what a variance may be by rounding alone; None takes
        that of a float64 matrix of this size.

    Returns
    -------
    variances : ndarray of shape (n_components,)
        In decreasing order, in the units of ``covariance``. What rounding cannot tell from zero
        is zero.
    axes : ndarray of shape (n_components, n_features)
        Orthonormal rows. The entry that is largest in absolute value is positive in each.

    Examples
    --------
    >>> import torch
    >>> from skae._linalg import principal_axes
    >>> variances, axes = principal_axes(torch.diag(torch.tensor([1.0, 4.0])), 1)
    >>> variances.tolist(), axes.tolist()
    ([4.0], [[0.0, 1.0]])
    """
    variances, vectors = top_eigenpairs(covariance, n_components)
    if noise is None:
        noise = len(covariance) * _FLOAT64_EPS
    return zero_out_rounding(variances, noise), flip_signs(vectors.T)


def top_eigenpairs(matrix: Tensor, k: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Largest eigenvalues of a symmetric matrix and their eigenvectors.

    Parameters
    ----------
    matrix : Tensor of shape (m, m)
        On any device.
    k : int, default=None
        How many to compute; None computes all.

    Returns
    -------
    values : ndarray of shape (k,)
        In decreasing order.
    vectors : ndarray of shape (m, k)
    """
    m = len(matrix)
    k = m if k is None else k
    if matrix.device.type != "cpu":
        on_device = torch.linalg.eigh(matrix)
        values, vectors = on_device[0].cpu().numpy(), on_device[1].cpu().numpy()
    elif 0 < k <= _FEW_EIGENPAIRS * m and m >= _SMALL_EIGENPROBLEM:
        values, vectors = linalg.eigh(
            matrix.numpy(), subset_by_index=(m - k, m - 1), check_finite=False
        )
    else:
        # NumPy's LAPACK uses the thread pool that computed the matrix; on the machines measured
        # it is between as fast as Torch's and twice as fast.
        values, vectors = np.linalg.eigh(matrix.numpy())
    return values[::-1][:k], vectors[:, ::-1][:, :k]


def zero_out_rounding(variances: np.ndarray, noise: float) -> np.ndarray:
    """Set to zero the variances that rounding cannot tell from zero.

    Parameters
    ----------
    variances : ndarray of shape (k,)
        In decreasing order.
    noise : float
        Relative to the largest variance, what a variance may be by rounding alone.

    Returns
    -------
    ndarray of shape (k,)
        Nowhere negative.
    """
    smallest = max(variances[0], 0.0) * noise if len(variances) else 0.0
    return np.where(variances > smallest, variances, 0.0)


def flip_signs(axes: np.ndarray) -> np.ndarray:
    """Make the entry of every row that is largest in absolute value positive.

    Parameters
    ----------
    axes : ndarray of shape (n_components, n_features)

    Returns
    -------
    ndarray of shape (n_components, n_features)
    """
    largest = axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)]  # (n_components,)
    return axes * np.where(largest < 0.0, -1.0, 1.0).astype(axes.dtype)[:, np.newaxis]


def n_components_for_share(variances: np.ndarray | Tensor, share: float) -> int:
    """Smallest number of components that explain more than a share of the variance.

    Parameters
    ----------
    variances : ndarray or Tensor of shape (n_features,)
        All of them, in decreasing order; or their ratios to the total.
    share : float
        In (0, 1).

    Returns
    -------
    int
        At least 1; 1 where there is no variance at all.

    Examples
    --------
    >>> from skae._linalg import n_components_for_share
    >>> n_components_for_share([6.0, 3.0, 1.0], 0.8)
    2
    """
    variances = np.asarray(variances)
    total = variances.sum()
    if total <= 0.0:
        return 1
    explained = np.cumsum(variances / total)
    n_components = int(np.searchsorted(explained, share, side="right")) + 1
    # The shares of all components may add up to a little less than one.
    return min(n_components, len(variances))


def minka_log_evidence(variances: np.ndarray, rank: int, n_samples: float) -> float:
    """Laplace approximation of the log evidence of a number of components.

    Parameters
    ----------
    variances : ndarray of shape (n_features,), float64
        All eigenvalues of the covariance matrix, in decreasing order.
    rank : int
        Number of components, at least 1 and less than ``n_features``.
    n_samples : float
        Number of rows that the variances were estimated from.

    Returns
    -------
    float
        In nats; minus infinity for a component without variance.

    References
    ----------
    Minka (2000). "Automatic choice of dimensionality for PCA". NIPS 13, 598-604, equation (77)
    of the technical report.
    """
    n_features = len(variances)
    if not 1 <= rank < n_features:
        raise ValueError(f"rank={rank} must be between 1 and n_features - 1 = {n_features - 1}.")
    smallest = 1e-15
    if variances[rank - 1] < smallest:
        return -float("inf")
    halves = np.arange(n_features, n_features - rank, -1) / 2.0
    log_volume = -rank * log(2.0) + float((gammaln(halves) - halves * log(pi)).sum())
    log_kept = -float(np.log(variances[:rank]).sum()) * n_samples / 2.0
    noise = max(smallest, float(variances[rank:].sum()) / (n_features - rank))
    log_noise = -log(noise) * n_samples * (n_features - rank) / 2.0
    n_angles = n_features * rank - rank * (rank + 1.0) / 2.0
    log_prior = log(2.0 * pi) * (n_angles + rank) / 2.0
    smoothed = np.concatenate([variances[:rank], np.full(n_features - rank, noise)])
    gaps = variances[:rank, np.newaxis] - variances  # (rank, n_features)
    inverse_gaps = 1.0 / smoothed - 1.0 / smoothed[:rank, np.newaxis]
    pairs = np.triu(np.ones((rank, n_features), dtype=bool), 1)
    # Equal eigenvalues would have an infinite evidence; the smallest number takes their gap.
    curvature = np.log(np.maximum((gaps * inverse_gaps)[pairs], np.finfo(np.float64).tiny))
    log_hessian = float(curvature.sum()) + len(curvature) * log(n_samples)
    return (
        log_volume
        + log_kept
        + log_noise
        + log_prior
        - log_hessian / 2.0
        - rank * log(n_samples) / 2.0
    )


def minka_n_components(variances: np.ndarray, n_samples: float) -> int:
    """Find the number of components with the largest evidence.

    Parameters
    ----------
    variances : ndarray of shape (n_features,), float64
        All eigenvalues of the covariance matrix, in decreasing order.
    n_samples : float
        Number of rows that the variances were estimated from.

    Returns
    -------
    int
        Between 1 and n_features - 1; 0 for a single feature, whose evidence is not defined.
    """
    evidence = [minka_log_evidence(variances, rank, n_samples) for rank in range(1, len(variances))]
    return int(np.argmax(evidence)) + 1 if evidence else 0


def triangular_factor(upper: Tensor | None, rows: Tensor) -> Tensor:
    """Triangular factor of the QR decomposition of all rows so far.

    Parameters
    ----------
    upper : Tensor of shape (<= n_features, n_features) or None
        Factor of the rows before; None for the first rows.
    rows : Tensor of shape (n_rows, n_features)

    Returns
    -------
    Tensor of shape (<= n_features, n_features)
        Has the singular values and right singular vectors of all the rows.

    References
    ----------
    Demmel, Grigori, Hoemmen & Langou (2012). "Communication-optimal parallel and sequential QR
    and LU factorizations". SIAM Journal on Scientific Computing 34(1), A206-A239.
    """
    stacked = rows if upper is None else torch.cat([upper, rows])
    if len(stacked) <= stacked.shape[1]:
        return stacked
    if stacked.device.type == "cpu":
        return torch.from_numpy(np.linalg.qr(stacked.numpy(), mode="r"))
    return torch.linalg.qr(stacked, mode="r").R


def right_singular_vectors(rows: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Singular values and right singular vectors.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features)
        On any device.

    Returns
    -------
    singular_values : ndarray of shape (min(n_rows, n_features),)
    axes : ndarray of shape (min(n_rows, n_features), n_features)
        The entry that is largest in absolute value is positive in each row.
    """
    if rows.device.type == "cpu":
        _, values, axes = np.linalg.svd(rows.numpy(), full_matrices=False)
    else:
        on_device = torch.linalg.svd(rows, full_matrices=False)
        values, axes = on_device[1].cpu().numpy(), on_device[2].cpu().numpy()
    return values, flip_signs(axes)


def orthonormal_rows(axes: np.ndarray, trusted: np.ndarray) -> np.ndarray:
    """Replace the rows that are not trusted so that all rows are orthonormal.

    Parameters
    ----------
    axes : ndarray of shape (n_components, n_features)
        The trusted rows are orthonormal but for rounding.
    trusted : ndarray of shape (n_components,), bool

    Returns
    -------
    ndarray of shape (n_components, n_features)
        The other rows are arbitrary, but the same every time.
    """
    if trusted.all():
        return axes
    completed = axes.copy()
    kept = axes[trusted]
    fill = np.random.default_rng(0).standard_normal((axes.shape[1], len(axes) - len(kept)))
    for _ in range(2):  # twice is enough (Giraud, Langou & Rozloznik 2005)
        fill -= kept.T @ (kept @ fill)
        fill = np.linalg.qr(fill)[0]
    completed[~trusted] = fill.T
    return completed


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Product of matrices; on the CPU by NumPy's BLAS.

    On the machines measured it is up to three times as fast as Torch's, and its thread pool
    already belongs to the eigenproblems.
    """
    if a.device.type == "cpu":
        return torch.from_numpy(a.numpy() @ b.numpy())
    return a @ b


def orthonormal_columns(matrix: Tensor) -> Tensor:
    """Orthonormal basis of the span of the columns, by QR.

    Parameters
    ----------
    matrix : Tensor of shape (m, k)

    Returns
    -------
    Tensor of shape (m, min(m, k))
    """
    if matrix.device.type == "cpu":
        return torch.from_numpy(np.linalg.qr(matrix.numpy())[0])
    return torch.linalg.qr(matrix).Q


def _lower_columns(matrix: Tensor) -> Tensor:
    """Well-conditioned basis of the span of the columns, by LU."""
    if matrix.device.type == "cpu":
        lower, _ = linalg.lu(matrix.numpy(), permute_l=True, check_finite=False)
        return torch.from_numpy(lower)
    permutation, lower, _ = torch.linalg.lu(matrix)
    return permutation @ lower


def _same_columns(matrix: Tensor) -> Tensor:
    return matrix


NORMALIZERS: dict[str, Callable[[Tensor], Tensor]] = {
    "QR": orthonormal_columns,
    "LU": _lower_columns,
    "none": _same_columns,
}


def randomized_range(
    multiply: Callable[[Tensor], Tensor],
    multiply_transposed: Callable[[Tensor], Tensor],
    start: Tensor,
    n_iter: int,
    normalizer: str,
) -> Tensor:
    """Orthonormal columns that hold most of the range of a transposed matrix.

    Parameters
    ----------
    multiply, multiply_transposed : callable
        Multiply the matrix of shape (n, d), and its transpose, by some columns.
    start : Tensor of shape (n, k)
        Random columns.
    n_iter : int
        Number of power iterations.
    normalizer : {"QR", "LU", "none"}
        What keeps the columns apart between iterations.

    Returns
    -------
    Tensor of shape (d, min(k, d))

    References
    ----------
    Halko, Martinsson & Tropp (2011). "Finding structure with randomness: probabilistic algorithms
    for constructing approximate matrix decompositions". SIAM Review 53(2), 217-288, algorithm 4.4.
    """
    normalize = NORMALIZERS[normalizer]
    columns = start
    for _ in range(n_iter):
        columns = normalize(multiply_transposed(columns))
        columns = normalize(multiply(columns))
    return orthonormal_columns(multiply_transposed(columns))
