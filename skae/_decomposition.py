"""Eigen-solvers: the principal components of rows, for PCA and for the start of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, svds
from sklearn.utils import assert_all_finite, check_random_state
from torch import Tensor

from skae._device import is_memory_mapped, matrix_fits
from skae._linalg import (
    flip_signs,
    matmul,
    n_components_for_share,
    orthonormal_rows,
    principal_axes,
    randomized_range,
    right_singular_vectors,
    top_eigenpairs,
    triangular_factor,
    zero_out_rounding,
)
from skae._losses import VARIANCE_FLOOR
from skae._moments import (
    Moments,
    centred_rows,
    column_means,
    gram_matrix,
    product_dtype_for,
    project_on_rows,
    threads_of_blas,
)
from skae._validation import float_dtype

# Rows of this many bytes are projected at a time, so that centring them stays in the cache.
_PROJECTION_BYTES = 4 << 20
# Variances below this share of the largest one are computed again from the data projected on
# their axes. The matrix gives them to fewer than six digits; float32 products, to one.
_REFINED_SHARE = {"float64": 1e-9, "float32": 1e-5}
# Axes that rows are combined to are orthogonal up to rounding over their share of the largest
# variance; below these shares they are made so.
_ORTHOGONAL_SHARE = {"float64": 1e-6, "float32": 1e-3}


@dataclass(frozen=True, slots=True, eq=False)
class Decomposition:
    """What a solver finds: the mean, and the largest variances with their axes.

    Parameters
    ----------
    mean : ndarray of shape (n_features,), float64
    total_variance : float
        Of all components, whether they were computed or not.
    variances : ndarray of shape (n_computed,)
        In decreasing order.
    axes : ndarray of shape (n_computed, n_features)
    moments : Moments, default=None
        What the solver accumulated, if that is what `partial_fit` adds to.
    """

    mean: np.ndarray
    total_variance: float
    variances: np.ndarray
    axes: np.ndarray
    moments: Moments | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """What every solver is given.

    Parameters
    ----------
    X : ndarray or sparse matrix of shape (n_samples, n_features)
    sample_weight : ndarray of shape (n_samples,) or None
    degrees_of_freedom : float
        Sum of the weights minus one.
    n_computed : int or None
        Number of components that are needed; None needs all of them.
    limit : int
        The lesser of the numbers of rows and of features, rows of large weights counting more.
    max_rank : int
        How many variances may be positive, which centring makes one fewer than there are rows.
    device : torch.device
    tol : float, default=0.0
        Of the singular values that ARPACK finds.
    iterated_power : int or "auto", default="auto"
    n_oversamples : int, default=10
    power_iteration_normalizer : {"auto", "QR", "LU", "none"}, default="auto"
        Of the randomized solver, as the parameters of `PCA`.
    random_state : int, RandomState or None, default=None
        Of the vectors that the iterative solvers start from.
    """

    X: Any
    sample_weight: np.ndarray | None
    degrees_of_freedom: float
    n_computed: int | None
    limit: int
    max_rank: int
    device: torch.device
    tol: float = 0.0
    iterated_power: int | str = "auto"
    n_oversamples: int = 10
    power_iteration_normalizer: str = "auto"
    random_state: Any = None


def choose_solver(
    n_samples: int, n_features: int, n_components: Any, *, is_sparse: bool, device: torch.device
) -> str:
    """Choose the solver for ``svd_solver="auto"``.

    Parameters
    ----------
    n_samples, n_features : int
    n_components : int, float, "mle" or None
    is_sparse : bool
    device : torch.device

    Returns
    -------
    str
        The eigenproblem of the smaller side, which is exact; but an iterative solver where some
        components of a large, nearly square or sparse matrix are much cheaper to find.
    """
    exact = "covariance_eigh" if n_samples >= n_features else "gram_eigh"
    smaller, larger = sorted((n_samples, n_features))
    if not isinstance(n_components, int | np.integer) or not 1 <= n_components < 0.8 * smaller:
        return exact
    if not matrix_fits(smaller, device):
        return "arpack" if is_sparse else "randomized"
    if is_sparse:
        return "arpack" if smaller > 1000 and n_components <= 0.1 * smaller else exact
    # Counted in multiplications: the product runs at full speed, the tridiagonalisation of the
    # eigenproblem at about an eighth of it.
    eigenproblem = larger * smaller**2 + 8 * smaller**3
    n_products = 18 if n_components < 0.1 * smaller else 12
    iteration = n_products * 2 * larger * smaller * (n_components + 10)
    nearly_square = larger < 4 * smaller
    much_cheaper = iteration < 0.5 * eigenproblem
    return "randomized" if smaller > 500 and nearly_square and much_cheaper else exact


def solve_covariance(problem: Problem) -> Decomposition:
    """Eigenpairs of the n_features x n_features covariance matrix."""
    X = problem.X
    precision = product_dtype_for(X)
    moments = finite_moments(X, problem.sample_weight, problem.device, precision)
    covariance = moments.scatter / problem.degrees_of_freedom
    noise = _relative_noise(precision, X.shape[1])
    variances, axes = principal_axes(covariance, _n_eigenpairs(problem), noise=noise)
    mean = moments.mean.cpu().numpy()
    feature_variances = covariance.diagonal().cpu().numpy()
    # Constant features take away as many variances for certain.
    n_positive = min(int(np.count_nonzero(feature_variances)), problem.max_rank)
    n_exact = int(np.count_nonzero(variances > _REFINED_SHARE[precision.name] * variances[:1]))
    if 0 < n_exact < min(len(variances), n_positive):
        if len(variances) < len(covariance):
            # The small variances cannot be told apart yet, nor from those that are not kept.
            variances, axes = principal_axes(covariance, noise=noise)
        refined, refined_axes = refine(problem, mean, axes[n_exact:])
        floor = _smallest_variance(variances[0], mean, precision)
        variances = np.concatenate([variances[:n_exact], np.where(refined > floor, refined, 0.0)])
        axes = np.concatenate([axes[:n_exact], refined_axes])
    return Decomposition(mean, float(feature_variances.sum()), variances, axes, moments)


def finite_moments(
    X: Any, sample_weight: np.ndarray | None, device: torch.device, precision: np.dtype
) -> Moments:
    """Moments of data that is not known to be finite; scikit-learn's error if it is not."""
    moments = Moments.from_rows(X, sample_weight, device=device, product_dtype=precision)
    if _is_in_range(float(moments.scatter.trace()), precision):
        return moments
    assert_all_finite(X, estimator_name="PCA", input_name="X")
    return Moments.from_rows(X, sample_weight, device=device, product_dtype=np.float64)


def refine(problem: Problem, mean: np.ndarray, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute small variances again, from the data projected on their axes.

    A covariance matrix gives every variance to about the rounding of the largest one. Its
    eigenvectors however separate the small variances from the large ones, so that the
    covariance of the data projected on the small ones' axes (Rayleigh-Ritz) gives these as
    exactly as singular values of the data would.

    Parameters
    ----------
    problem : Problem
    mean : ndarray of shape (n_features,)
    axes : ndarray of shape (n_small, n_features)

    Returns
    -------
    variances : ndarray of shape (n_small,)
    axes : ndarray of shape (n_small, n_features)
        Spanning the same space.
    """
    projected = project(problem.X, mean, axes)  # (n_samples, n_small)
    moments = Moments.from_rows(projected, problem.sample_weight, product_dtype=np.float64)
    variances, rotation = principal_axes(moments.scatter / problem.degrees_of_freedom)
    return variances, flip_signs(rotation @ axes)


def solve_gram(problem: Problem) -> Decomposition:
    """Eigenpairs of the n_samples x n_samples matrix of inner products of the centred rows."""
    X, weights = problem.X, problem.sample_weight
    precision = product_dtype_for(X)
    mean, gram = gram_matrix(X, weights, device=problem.device, product_dtype=precision)
    if not _is_in_range(float(gram.trace()), precision):
        assert_all_finite(X, estimator_name="PCA", input_name="X")
        mean, gram = gram_matrix(X, weights, device=problem.device, product_dtype=np.float64)
    total_variance = float(gram.trace()) / problem.degrees_of_freedom
    n_all = min(X.shape)
    n_eigenpairs = min(_n_eigenpairs(problem), n_all)
    values, vectors = top_eigenpairs(gram, n_eigenpairs)
    if n_eigenpairs and values[-1] <= _ORTHOGONAL_SHARE[precision.name] * values[0]:
        # The small values cannot be told apart, nor from those of no variance at all.
        values, vectors = top_eigenpairs(gram)
    # The eigenvectors combine the rows to the axes times the singular values.
    rows = project_on_rows(X, vectors, weights)  # (n_computed, n_features)
    n_exact = np.count_nonzero(values > _ORTHOGONAL_SHARE[precision.name] * values[:1])
    noise = _relative_noise(precision, max(X.shape))
    variances = zero_out_rounding(values[:n_exact], noise)
    axes = rows[:n_exact] / np.linalg.norm(rows[:n_exact], axis=1, keepdims=True)
    if n_exact < len(values):
        # Combinations for small values are not orthogonal, but they span the right space: their
        # own singular vectors are the axes in it, and their singular values are exact.
        small = rows[n_exact:]
        small = small - (small @ axes.T) @ axes
        singular_values, small_axes = right_singular_vectors(torch.from_numpy(small))
        squares = singular_values**2
        floor = _smallest_variance(
            max(values[0], 0.0) / problem.degrees_of_freedom, mean.cpu().numpy(), precision
        )
        squares = np.where(squares > floor * problem.degrees_of_freedom, squares, 0.0)
        variances = np.concatenate([variances, squares])[:n_all]
        axes = np.concatenate([axes, small_axes])[:n_all]
    variances, axes = _with_null_axes(
        variances / problem.degrees_of_freedom, axes, _n_eigenpairs(problem)
    )
    return Decomposition(mean.cpu().numpy(), total_variance, variances, axes)


def solve_full(problem: Problem) -> Decomposition:
    """Singular value decomposition of the triangular factor of the centred rows."""
    X, weights = problem.X, problem.sample_weight
    mean = _finite_mean(X, weights)
    upper: Any = None
    for _rows, block in centred_rows(X, mean, weights):
        upper = triangular_factor(upper, torch.from_numpy(block).to(problem.device))
    singular_values, axes = right_singular_vectors(upper)
    variances = singular_values**2 / problem.degrees_of_freedom
    total_variance = float(variances.sum())
    floor = _smallest_variance(variances.max(initial=0.0), mean, np.dtype(np.float64))
    variances = np.where(variances > floor, variances, 0.0)
    if len(variances) < problem.limit:
        variances, axes = _with_null_axes(variances, axes, problem.limit)
    return Decomposition(mean, total_variance, variances, axes)


def _with_null_axes(
    variances: np.ndarray, axes: np.ndarray, n_components: int
) -> tuple[np.ndarray, np.ndarray]:
    """Add axes without variance up to a number of components; make all of them orthonormal."""
    n_missing = max(n_components - len(variances), 0)
    variances = np.concatenate([variances, np.zeros(n_missing)])
    axes = np.concatenate([axes, np.zeros((n_missing, axes.shape[1]))])
    return variances, flip_signs(orthonormal_rows(axes, variances > 0.0))


def solve_randomized(problem: Problem) -> Decomposition:
    """Principal components within a random subspace after power iterations.

    NOTE[DIFF]: scikit-learn takes the singular values of the projection on random columns. Here
    they are those of the projection on random rows, so that ``explained_variance_`` is the
    variance of what `transform` returns, which is also the closer estimate.
    """
    X, weights, device = problem.X, problem.sample_weight, problem.device
    mean = _finite_mean(X, weights)
    n_samples, n_features = X.shape
    n_components = problem.n_computed or min(X.shape)

    def blocks() -> Iterator[tuple[slice, Tensor]]:
        for rows, block in centred_rows(X, mean, weights, dtype=float_dtype(X)):
            yield rows, torch.from_numpy(block).to(device)

    # Data in memory is centred once; a memory map, block by block for every product.
    in_memory = None if is_memory_mapped(X) else torch.cat([block for _, block in blocks()])

    def multiply(columns: Tensor) -> Tensor:
        if in_memory is not None:
            return matmul(in_memory, columns)
        return torch.cat([matmul(block, columns) for _, block in blocks()])

    def multiply_transposed(columns: Tensor) -> Tensor:
        if in_memory is not None:
            return matmul(in_memory.T, columns)
        product = columns.new_zeros(n_features, columns.shape[1])
        for rows, block in blocks():
            product += matmul(block.T, columns[rows])
        return product

    n_iter: Any = problem.iterated_power
    if n_iter == "auto":
        n_iter = 7 if n_components < 0.1 * min(n_samples, n_features) else 4
    normalizer = problem.power_iteration_normalizer
    if normalizer == "auto":
        normalizer = "none" if n_iter <= 2 else "LU"
    start = check_random_state(problem.random_state).normal(
        size=(min(n_samples, n_features), n_components + problem.n_oversamples)
    )
    start = torch.from_numpy(start.astype(float_dtype(X))).to(device)
    if n_samples >= n_features:
        start = multiply(start)  # (n_samples, n_random)
    basis = randomized_range(multiply, multiply_transposed, start, n_iter, normalizer)
    projected = multiply(basis)  # (n_samples, n_random)
    singular_values, rotation = right_singular_vectors(triangular_factor(None, projected))
    axes = rotation[:n_components] @ basis.cpu().numpy().T
    parts = [in_memory] if in_memory is not None else (block for _, block in blocks())
    total = sum(_sum_of_squares(part) for part in parts)
    variances = singular_values[:n_components].astype(np.float64) ** 2
    variances /= problem.degrees_of_freedom
    floor = _smallest_variance(variances.max(initial=0.0), mean, float_dtype(X))
    return Decomposition(
        mean,
        total / problem.degrees_of_freedom,
        np.where(variances > floor, variances, 0.0),
        flip_signs(axes),
    )


def _sum_of_squares(rows: Tensor) -> float:
    if rows.device.type == "cpu":
        return float(np.einsum("ij,ij->", rows.numpy(), rows.numpy(), dtype=np.float64))
    return float(rows.square().sum(dtype=torch.float64))


def solve_arpack(problem: Problem) -> Decomposition:
    """Lanczos iteration of ARPACK; sparse data is centred implicitly."""
    X, weights = problem.X, problem.sample_weight
    n_components = problem.n_computed or min(X.shape) - 1
    root = None if weights is None else np.sqrt(weights)
    rows: Any
    if sparse.issparse(X):
        rows, mean, sum_of_squares = _implicitly_centred(X, root)
    else:
        mean = _finite_mean(X, weights)
        blocks = [block for _, block in centred_rows(X, mean, weights, dtype=float_dtype(X))]
        rows = np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
        sum_of_squares = float(np.square(rows, dtype=np.float64).sum())
    start = check_random_state(problem.random_state).uniform(-1, 1, size=min(X.shape))
    _, singular_values, axes = svds(
        rows, k=n_components, tol=problem.tol, v0=start.astype(rows.dtype)
    )
    variances = singular_values[::-1].astype(np.float64) ** 2 / problem.degrees_of_freedom
    # ARPACK iterates on the squares, which loses half of the digits.
    variances = zero_out_rounding(variances, _relative_noise(rows.dtype, min(X.shape)))
    return Decomposition(
        mean,
        sum_of_squares / problem.degrees_of_freedom,
        variances,
        flip_signs(axes[::-1]),
    )


def _implicitly_centred(
    X: Any, root: np.ndarray | None
) -> tuple[LinearOperator, np.ndarray, float]:
    """Operator, mean and sum of squares of centred sparse rows times the roots of weights."""
    root = np.ones(X.shape[0]) if root is None else root
    rows: Any = X.astype(np.float64)
    weights = root**2
    mean = rows.T @ weights / weights.sum()
    rows = rows.tocsr()
    rows.data *= np.repeat(root, np.diff(rows.indptr))
    transposed = rows.T.tocsr()

    def multiply(columns: np.ndarray) -> np.ndarray:
        return rows @ columns - np.multiply.outer(root, mean @ columns)

    def multiply_transposed(columns: np.ndarray) -> np.ndarray:
        return transposed @ columns - np.multiply.outer(mean, root @ columns)

    operator = LinearOperator(
        shape=X.shape,
        dtype=np.float64,
        matvec=multiply,
        matmat=multiply,
        rmatvec=multiply_transposed,
        rmatmat=multiply_transposed,
    )
    # The cells that are not zero, centred, and then the zeros, of which each is at -mean.
    cells = X.tocsc()
    columns = np.repeat(np.arange(X.shape[1]), np.diff(cells.indptr))
    cell_weights = weights[cells.indices]
    occupied = np.bincount(columns, weights=cell_weights, minlength=X.shape[1])
    squares = float(cell_weights @ (cells.data.astype(np.float64) - mean[columns]) ** 2)
    return operator, mean, squares + float(mean**2 @ np.maximum(weights.sum() - occupied, 0.0))


EIGENSOLVERS: dict[str, Callable[[Problem], Decomposition]] = {
    "arpack": solve_arpack,
    "covariance_eigh": solve_covariance,
    "full": solve_full,
    "gram_eigh": solve_gram,
    "randomized": solve_randomized,
}


def _n_eigenpairs(problem: Problem) -> int:
    return problem.limit if problem.n_computed is None else problem.n_computed


def _is_in_range(trace: float, precision: np.dtype) -> bool:
    """Whether the squares of the data were neither too large nor too small for the precision."""
    return isfinite(trace) and (precision == np.float64 or trace > 1e-20)


def _relative_noise(precision: np.dtype, n_terms: int) -> float:
    """Bound the rounding of a matrix of inner products, relative to its largest eigenvalue."""
    if precision == np.float32:
        return float(np.finfo(np.float32).eps)
    return float(n_terms * np.finfo(np.float64).eps)


def _smallest_variance(largest: float, mean: np.ndarray, precision: np.dtype) -> float:
    """Bound what a variance may be by the rounding of the data and of the axes alone."""
    unit = (16 + len(mean)) * float(np.finfo(np.float64).eps)
    if precision == np.float32:
        unit = max(unit, float(np.finfo(np.float32).eps))
    return unit**2 * float(largest + mean @ mean)


def _finite_mean(X: np.ndarray, sample_weight: np.ndarray | None) -> np.ndarray:
    mean = column_means(X, sample_weight)
    if not np.isfinite(mean).all():
        assert_all_finite(X, estimator_name="PCA", input_name="X")
    return mean


def project(X: Any, mean: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Products of centred rows with axes, in the precision of the rows."""
    dtype = float_dtype(X)
    mean, axes = mean.astype(dtype, copy=False), axes.astype(dtype, copy=False)
    if sparse.issparse(X):
        return np.asarray(X @ axes.T) - mean @ axes.T
    n_samples, n_features = X.shape
    step = max(1, _PROJECTION_BYTES // (n_features * X.itemsize))
    if n_samples <= step:
        return (X - mean) @ axes.T
    projected = np.empty((n_samples, len(axes)), dtype=dtype)
    for start in range(0, n_samples, step):
        rows = slice(start, start + step)
        np.matmul(X[rows] - mean, axes.T, out=projected[rows])
    return projected


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


def probabilistic_pca(
    linear: LinearCode, n_features: int, noise_variance: float | None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Closed-form linear variational autoencoder of rows.

    Parameters
    ----------
    linear : LinearCode
        PCA of the rows.
    n_features : int
    noise_variance : float or None
        Variance around the linear code; None chooses the most likely one.

    Returns
    -------
    loadings : ndarray of shape (rank,)
        The decoder is ``mean + (loadings * axes)' z``.
    variances : ndarray of shape (rank,)
        Of the posterior of z. Its mean is ``(loadings / noise_variance * variances) axes (x -
        mean)``.
    noise_variance : float

    References
    ----------
    Tipping & Bishop, "Probabilistic principal component analysis", Journal of the Royal
    Statistical Society B 61 (1999).

    Lucas, Tucker, Grosse & Norouzi, "Don't blame the ELBO! A linear VAE perspective on posterior
    collapse", NeurIPS (2019).
    """
    if noise_variance is None:
        noise_variance = linear.noise_variance
        if noise_variance == 0.0 and len(linear.variances) == n_features:
            # Any value up to the smallest variance gives the same density; the largest one leaves
            # the network the widest noise to start with.
            noise_variance = float(linear.variances[-1])
        noise_variance = max(noise_variance, VARIANCE_FLOOR)
    excess = np.maximum(linear.variances - noise_variance, 0.0)
    return np.sqrt(excess), noise_variance / (noise_variance + excess), noise_variance
