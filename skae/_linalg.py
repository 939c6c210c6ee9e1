"""Eigenpairs, singular vectors and numbers of components, as functions of tensors."""

from __future__ import annotations

from collections.abc import Callable
from math import log, pi

import numpy as np
import torch
from scipy import linalg
from torch import Tensor

# With fewer rows and columns than this, all eigenpairs cost as little as a few of them.
_SMALL_EIGENPROBLEM = 150
# LAPACK's bisection for some eigenpairs beats divide and conquer for all of them below this share.
_FEW_EIGENPAIRS = 0.2


def principal_axes(
    covariance: Tensor, n_components: int | None = None, *, noise: float | None = None
) -> tuple[Tensor, Tensor]:
    """Largest variances and the directions that they are found along.

    Parameters
    ----------
    covariance : Tensor of shape (n_features, n_features)
        Covariance or scatter matrix.
    n_components : int, default=None
        How many to compute; None computes all.
    noise : float, default=None
        Relative to the largest variance, what a variance may be by rounding alone; None takes
        that of a float64 matrix of this size.

    Returns
    -------
    variances : Tensor of shape (n_components,)
        In decreasing order, in the units of ``covariance``. What rounding cannot tell from zero
        is zero.
    axes : Tensor of shape (n_components, n_features)
        Orthonormal rows. The largest entry of each is positive.

    Examples
    --------
    >>> import torch
    >>> from skae._linalg import principal_axes
    >>> variances, axes = principal_axes(torch.diag(torch.tensor([1.0, 4.0])), 1)
    >>> variances, axes
    (tensor([4.]), tensor([[0., 1.]]))
    """
    variances, vectors = top_eigenpairs(covariance, n_components)
    if noise is None:
        noise = len(covariance) * torch.finfo(torch.float64).eps
    return zero_out_rounding(variances, noise), flip_signs(vectors.T)


def top_eigenpairs(matrix: Tensor, k: int | None = None) -> tuple[Tensor, Tensor]:
    """Largest eigenvalues of a symmetric matrix and their eigenvectors.

    Parameters
    ----------
    matrix : Tensor of shape (m, m)
    k : int, default=None
        How many to compute; None computes all.

    Returns
    -------
    values : Tensor of shape (k,)
        In decreasing order.
    vectors : Tensor of shape (m, k)
    """
    m = len(matrix)
    k = m if k is None else k
    if matrix.device.type != "cpu":
        values, vectors = torch.linalg.eigh(matrix)
    elif 0 < k <= _FEW_EIGENPAIRS * m and m >= _SMALL_EIGENPROBLEM:
        values, vectors = map(
            torch.from_numpy,
            linalg.eigh(matrix.numpy(), subset_by_index=(m - k, m - 1), check_finite=False),
        )
    else:
        # NumPy's LAPACK uses the thread pool that computed the matrix; on the machines measured
        # it is between as fast as Torch's and twice as fast.
        values, vectors = map(torch.from_numpy, np.linalg.eigh(matrix.numpy()))
    values, vectors = values.flip(0)[:k], vectors.flip(1)[:, :k]
    return values, vectors


def zero_out_rounding(variances: Tensor, noise: float) -> Tensor:
    """Set to zero the variances that rounding cannot tell from zero.

    Parameters
    ----------
    variances : Tensor of shape (k,)
        In decreasing order.
    noise : float
        Relative to the largest variance, what a variance may be by rounding alone.

    Returns
    -------
    Tensor of shape (k,)
        Nowhere negative.
    """
    if not len(variances):
        return variances
    smallest = variances[0].clamp(min=0.0) * noise
    return variances.where(variances > smallest, torch.zeros_like(variances))


def flip_signs(axes: Tensor) -> Tensor:
    """Make the entry of every row that is largest in absolute value positive.

    Parameters
    ----------
    axes : Tensor of shape (n_components, n_features)

    Returns
    -------
    Tensor of shape (n_components, n_features)
    """
    if not axes.numel():
        return axes
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))  # (n_components, 1)
    return axes * torch.where(largest < 0, -1.0, 1.0).to(axes.dtype)


def n_components_for_share(variances: Tensor, share: float) -> int:
    """Smallest number of components that explain more than a share of the variance.

    Parameters
    ----------
    variances : Tensor of shape (n_features,)
        All of them, in decreasing order; or their ratios to the total.
    share : float
        In (0, 1).

    Returns
    -------
    int
        At least 1; 1 where there is no variance at all.

    Examples
    --------
    >>> import torch
    >>> from skae._linalg import n_components_for_share
    >>> n_components_for_share(torch.tensor([6.0, 3.0, 1.0]), 0.8)
    2
    """
    total = variances.sum()
    if total <= 0.0:
        return 1
    explained = torch.cumsum(variances / total, dim=0)
    n_components = int(torch.searchsorted(explained, share, side="right")) + 1
    # The shares of all components may add up to a little less than one.
    return min(n_components, len(variances))


def minka_log_evidence(variances: Tensor, rank: int, n_samples: float) -> float:
    """Laplace approximation of the log evidence of a number of components.

    Parameters
    ----------
    variances : Tensor of shape (n_features,), float64
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
    degrees = torch.arange(n_features, n_features - rank, -1, dtype=torch.float64) / 2.0
    log_volume = -rank * log(2.0) + float((torch.lgamma(degrees) - degrees * log(pi)).sum())
    log_kept = -float(variances[:rank].log().sum()) * n_samples / 2.0
    noise = max(smallest, float(variances[rank:].sum()) / (n_features - rank))
    log_noise = -log(noise) * n_samples * (n_features - rank) / 2.0
    n_angles = n_features * rank - rank * (rank + 1.0) / 2.0
    log_prior = log(2.0 * pi) * (n_angles + rank) / 2.0
    smoothed = variances.clone()
    smoothed[rank:] = noise
    gaps = variances[:rank, None] - variances[None, :]  # (rank, n_features)
    inverse_gaps = 1.0 / smoothed[None, :] - 1.0 / smoothed[:rank, None]
    pairs = torch.ones(rank, n_features, dtype=torch.bool).triu(1)
    # Equal eigenvalues would have an infinite evidence; the smallest number takes their gap.
    curvature = (gaps * inverse_gaps)[pairs].clamp(min=torch.finfo(torch.float64).tiny).log()
    log_hessian = float(curvature.sum()) + len(curvature) * log(n_samples)
    return (
        log_volume
        + log_kept
        + log_noise
        + log_prior
        - log_hessian / 2.0
        - rank * log(n_samples) / 2.0
    )


def minka_n_components(variances: Tensor, n_samples: float) -> int:
    """Number of components with the largest evidence.

    Parameters
    ----------
    variances : Tensor of shape (n_features,), float64
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


def right_singular_vectors(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values and right singular vectors.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features)

    Returns
    -------
    singular_values : Tensor of shape (min(n_rows, n_features),)
    axes : Tensor of shape (min(n_rows, n_features), n_features)
        The largest entry of each row is positive.
    """
    if rows.device.type == "cpu":
        _, values, axes = np.linalg.svd(rows.numpy(), full_matrices=False)
        return torch.from_numpy(values), flip_signs(torch.from_numpy(axes))
    _, values, axes = torch.linalg.svd(rows, full_matrices=False)
    return values, flip_signs(axes)


def orthonormal_rows(axes: Tensor, trusted: Tensor) -> Tensor:
    """Replace the rows that are not trusted so that all rows are orthonormal.

    Parameters
    ----------
    axes : Tensor of shape (n_components, n_features)
        The trusted rows are orthonormal but for rounding.
    trusted : Tensor of shape (n_components,), bool

    Returns
    -------
    Tensor of shape (n_components, n_features)
        The trusted rows are moved within their span by no more than makes them orthonormal.
    """
    kept = axes[trusted]
    if len(kept):
        # Cholesky QR: the inverse of the factor of the rows' inner products.
        factor = torch.linalg.cholesky(matmul(kept, kept.T))
        kept = torch.linalg.solve_triangular(factor, kept, upper=False)
    completed = torch.empty_like(axes)
    completed[trusted] = kept
    n_missing = int((~trusted).sum())
    if n_missing:
        generator = np.random.default_rng(0)
        fill = torch.from_numpy(generator.standard_normal((axes.shape[1], n_missing)))
        fill = fill.to(axes)
        for _ in range(2):  # twice is enough (Giraud, Langou & Rozloznik 2005)
            fill = fill - matmul(kept.T, matmul(kept, fill))
            fill = orthonormal_columns(fill)
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
    """Orthonormal basis that holds most of the range of a matrix.

    Parameters
    ----------
    multiply, multiply_transposed : callable
        Multiply the matrix of shape (m, p), and its transpose, by some columns.
    start : Tensor of shape (p, k)
        Random columns.
    n_iter : int
        Number of power iterations.
    normalizer : {"QR", "LU", "none"}
        What keeps the columns apart between iterations.

    Returns
    -------
    Tensor of shape (m, k)

    References
    ----------
    Halko, Martinsson & Tropp (2011). "Finding structure with randomness: probabilistic algorithms
    for constructing approximate matrix decompositions". SIAM Review 53(2), 217-288, algorithm 4.4.
    """
    normalize = NORMALIZERS[normalizer]
    columns = start
    for _ in range(n_iter):
        columns = normalize(multiply(columns))
        columns = normalize(multiply_transposed(columns))
    return orthonormal_columns(multiply(columns))
