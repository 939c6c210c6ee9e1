"""Eigenpairs, singular vectors and numbers of components, as functions of tensors."""

from __future__ import annotations

from collections.abc import Callable
from math import log, pi
from typing import Any

import numpy as np
import torch
from scipy import linalg
from scipy.special import gammaln
from torch import Tensor

_FLOAT64_EPS = float(np.finfo(np.float64).eps)
# Entries of an axis that differ by a smaller share are equal but for rounding.
_TIE = 1e-5
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

    Entries within a share of 1e-5 of the largest one tie with it, and the first of them counts.
    Two standardized columns, for example, have axes (1, 1) and (1, -1) over the root of two, and
    rounding alone, which the order of the rows changes, would else say which entry is the largest.

    Parameters
    ----------
    axes : ndarray of shape (n_components, n_features)

    Returns
    -------
    ndarray of shape (n_components, n_features)
    """
    highest, lowest = axes.max(axis=1, initial=0.0), axes.min(axis=1, initial=0.0)
    tied = (1.0 - _TIE) * np.maximum(highest, -lowest)
    negative = highest < tied
    # Where both signs tie, which is seldom, the first of the entries counts.
    (both,) = np.nonzero((highest >= tied) & (-lowest >= tied) & (tied > 0.0))
    if len(both):
        first = (np.abs(axes[both]) >= tied[both, np.newaxis]).argmax(axis=1)
        negative[both] = axes[both, first] < 0.0
    return axes * np.where(negative, -1.0, 1.0).astype(axes.dtype)[:, np.newaxis]


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
    smallest = 1e-15 * variances[0]  # of the unit of the data
    if variances[rank - 1] <= smallest:
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
    if len(variances) and variances[0] > 0.0:
        variances = variances / variances[0]  # the unit of the data only adds a constant
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


def scaled_singular_vectors(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Singular values and right singular vectors of columns whose scales are far apart.

    Other methods give every singular value to the rounding of the largest one, which hides those
    of small columns. Here the columns are divided by their lengths and made triangular, long ones
    first. A column that those before it explain up to rounding adds no rank. One-sided Jacobi
    rotations of the triangle, times the lengths again, then give every singular value to as many
    digits as the divided columns allow, whatever the lengths are.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features), float64

    Returns
    -------
    singular_values : ndarray of shape (rank,)
        In decreasing order, all positive.
    axes : ndarray of shape (rank, n_features)
        Orthonormal rows, with the signs of `flip_signs`.

    References
    ----------
    Drmač & Veselić (2008). "New fast and accurate Jacobi SVD algorithm". SIAM Journal on Matrix
    Analysis and Applications 29(4), 1322-1362.
    """
    largest = np.abs(rows).max(axis=0, initial=0.0)
    (used,) = np.nonzero(largest)
    if not len(used):
        return np.empty(0), np.empty((0, rows.shape[1]))
    divided = rows[:, used] / largest[used]
    norms = np.linalg.norm(divided, axis=0)
    divided /= norms
    lengths = largest[used] * norms
    order = np.argsort(-lengths, kind="stable")
    tolerance = (16 + len(used)) * _FLOAT64_EPS
    upper: Any = np.linalg.qr(divided[:, order], mode="r")
    adds_rank = np.zeros(len(order), dtype=bool)
    adds_rank[: len(upper)] = np.abs(np.diagonal(upper)) > tolerance
    if not adds_rank[: len(upper)].all():
        order = np.concatenate([order[adds_rank], order[~adds_rank]])
        upper = np.linalg.qr(divided[:, order], mode="r")[: np.count_nonzero(adds_rank)]
    # What rounding cannot tell from zero in a column of length one is much in a long column.
    upper = np.where(np.abs(upper) > tolerance, upper, 0.0)
    return _vectors_of_scaled(upper, lengths[order], used[order], rows.shape[1])


def scaled_principal_axes(
    covariance: np.ndarray, noise: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Variances and axes of a covariance matrix of columns whose scales are far apart.

    As `scaled_singular_vectors`, from a Cholesky decomposition of the matrix of correlations.
    Rounding is relative to every column by itself in a matrix of inner products, so that it hides
    variances of nearly collinear columns only.

    Parameters
    ----------
    covariance : ndarray of shape (n_features, n_features), float64
    noise : float
        Rounding of a correlation.

    Returns
    -------
    variances : ndarray of shape (rank,)
        In decreasing order, all positive.
    axes : ndarray of shape (rank, n_features)
    smallest_pivot : float
        Share of the variance of a column that the columns before it do not explain, the smallest
        one; zero if the matrix is singular up to rounding. The relative error of the variances is
        about ``noise`` over this.
    """
    variances = np.diagonal(covariance)
    (used,) = np.nonzero(variances > 0.0)
    if not len(used):
        return np.empty(0), np.empty((0, len(covariance))), 1.0
    used = used[np.argsort(-variances[used], kind="stable")]
    deviations = np.sqrt(variances[used])
    rest = covariance[np.ix_(used, used)] / deviations / deviations[:, np.newaxis]
    factor, pivots = [], []
    for k in range(len(used)):
        pivots.append(max(float(rest[k, k]), 0.0))
        if pivots[-1] > noise:
            row = rest[k] / np.sqrt(rest[k, k])
            row[:k] = 0.0
            rest -= np.outer(row, row)
            factor.append(np.where(np.abs(row) > noise, row, 0.0))
        rest[k], rest[:, k] = 0.0, 0.0
    smallest = min(pivots)
    singular_values, axes = _vectors_of_scaled(np.array(factor), deviations, used, len(covariance))
    return singular_values**2, axes, smallest if smallest > noise else 0.0


def _vectors_of_scaled(
    upper: np.ndarray, lengths: np.ndarray, columns: np.ndarray, n_features: int
) -> tuple[np.ndarray, np.ndarray]:
    """Singular vectors of a factor of full rank whose columns get their lengths back."""
    # dgejsv scales rows, in the order that it finds best.
    rows = np.asfortranarray((upper * lengths).T)  # (n_used, rank)
    values, vectors, _, scale, _, info = linalg.lapack.dgejsv(
        rows, joba=2, jobu=0, jobv=0, jobr=0, jobt=0, jobp=0
    )
    if info != 0:
        raise np.linalg.LinAlgError("Jacobi rotations did not converge.")
    axes = np.zeros((len(upper), n_features))
    axes[:, columns] = vectors[:, : len(upper)].T
    return values * (scale[0] / scale[1]), flip_signs(axes)


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
