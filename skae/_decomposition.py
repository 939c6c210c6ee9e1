"""Eigen-solvers: the principal components of rows, for PCA and for the start of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import frexp, isfinite
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import DTypeLike
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, svds
from sklearn.utils import check_random_state
from torch import Tensor

from skae import _device_rows
from skae._blocks import BlockTable
from skae._device import CPU, is_memory_mapped, matrix_fits
from skae._device_array import DeviceArray
from skae._linalg import (
    flip_signs,
    matmul,
    n_components_for_share,
    orthonormal_rows,
    principal_axes,
    randomized_range,
    right_singular_vectors,
    scaled_principal_axes,
    scaled_singular_vectors,
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
# Squared mean over variance from which a sparse column is centred explicitly.
_LARGE_MEAN = 1e8
# Share of a column's variance that others do not explain, from which on correlations of float64
# give all variances to six digits.
_WELL_CONDITIONED = 1e-6


class Rounding(NamedTuple):
    """What rounding does to variances, as shares of the largest one; see `rounding`."""

    products: float
    """What an eigenvalue of a matrix of inner products may be by rounding alone."""
    exact: float
    """Below it, eigenvalues of the matrix have fewer than six digits."""
    orthogonal: float
    """Below it, axes that rows are combined to are not orthogonal to five digits."""
    rows: float
    """What the square of a singular value of centred rows may be by rounding alone."""
    apart: float
    """Columns whose variances differ by more are so far apart that rounding hides the small."""


def rounding(precision: DTypeLike, n_terms: int) -> Rounding:
    """Say what rounding does to variances: the rules of all solvers.

    Every solver takes the means away first, in float64 and exactly for cells that are close to
    each other, so that means have no part in what follows; a constant column is exactly zero.
    What is left is the matrix A of centred rows, and u the rounding of its precision.

    *Inner products* (A'A or AA') are rounded by about u times the lengths of the two vectors.
    Their eigenvalues are within n u of the largest one, and have six digits down to 1e-9 of it in
    float64, 1e-5 in float32. Smaller ones are computed again from the rows, projected on their
    axes.

    *Singular values* of A, of its triangular factor or of such projections are within about
    (16 + n) u of the largest one; for variances that is squared. What is smaller is zero, since a
    component that is only rounding would be blown up by whitening.

    *Columns far apart.* Both bounds are those of the largest column, and hide components of small
    ones. But the rounding of an inner product, and that of a QR decomposition, is small beside
    each of its columns. Where the variances of columns differ by more than 1e12 (1e6 where
    float32 is multiplied), the columns are therefore divided by their lengths first. Variances
    then have as many digits as the condition of the divided columns allows, whatever their units
    are; see `scaled_singular_vectors` and `scaled_principal_axes`. What is zero is decided by the
    rank of the divided columns.

    The rounding of the stored cells themselves is part of the data. Rows of rank 10 with a mean
    of 1e6 have tiny further variances in every exact computation, and here too.

    Parameters
    ----------
    precision : dtype
        That the centred rows are multiplied in.
    n_terms : int
        Size of the matrix.

    Returns
    -------
    Rounding

    References
    ----------
    Higham (2002). "Accuracy and stability of numerical algorithms", 2nd edition, chapters 3 and
    19. Demmel & Veselić (1992). "Jacobi's method is more accurate than QR". SIAM Journal on
    Matrix Analysis and Applications 13(4), 1204-1245.
    """
    unit = float(np.finfo(np.float64).eps)
    if np.dtype(precision) == np.float32:
        single = float(np.finfo(np.float32).eps)
        return Rounding(single, 1e-5, 1e-3, max(single, (16 + n_terms) * unit) ** 2, 1e-6)
    return Rounding(n_terms * unit, 1e-9, 1e-6, ((16 + n_terms) * unit) ** 2, 1e-12)


def are_far_apart(column_variances: np.ndarray, rules: Rounding) -> bool:
    """Whether variances of columns differ so much that rounding of the large hides the small."""
    positive = column_variances[column_variances > 0.0]
    return bool(len(positive) and positive.min() < rules.apart * positive.max())


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
    negligible : float, default=0.0
        Share of the largest variance below which variances need not be exact.
    names : sequence of str, default=None
        Of the columns, for errors.
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
    negligible: float = 0.0
    names: Any = None


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
    moments = moments_in_range(X, problem.sample_weight, problem.device, precision)
    column_variances = _diagonal(moments.scatter)
    if precision == np.float32 and are_far_apart(column_variances, rounding(precision, X.shape[1])):
        precision = np.dtype(np.float64)
        moments = moments_in_range(X, problem.sample_weight, problem.device, precision)
        column_variances = _diagonal(moments.scatter)
    rules = rounding(precision, X.shape[1])
    covariance = moments.scatter / problem.degrees_of_freedom
    variances, axes = principal_axes(covariance, _n_eigenpairs(problem), noise=rules.products)
    mean = moments.mean.cpu().numpy()
    feature_variances = _diagonal(covariance)
    # Constant features take away as many variances for certain.
    n_positive = min(int(np.count_nonzero(feature_variances)), problem.max_rank)
    n_exact = int(np.count_nonzero(variances > rules.exact * variances[:1]))
    n_needed = int(np.count_nonzero(variances >= problem.negligible * variances[:1]))
    if 0 < n_exact < min(n_needed, n_positive):
        if are_far_apart(column_variances, rules):
            variances, axes, smallest_pivot = scaled_principal_axes(
                covariance.cpu().numpy(), rules.products
            )
            if smallest_pivot < _WELL_CONDITIONED and not sparse.issparse(X):
                return replace(_solve_scaled(problem, mean), moments=moments)
            variances, axes = _with_null_axes(variances, axes, _n_eigenpairs(problem))
        else:
            if len(variances) < len(covariance):
                # The small variances cannot be told apart yet, nor from those that are not kept.
                variances, axes = principal_axes(covariance, noise=rules.products)
            refined, refined_axes = refine(problem, mean, axes[n_exact:], precision)
            floor = rules.rows * variances[0]
            variances = np.concatenate(
                [variances[:n_exact], np.where(refined > floor, refined, 0.0)]
            )
            axes = np.concatenate([axes[:n_exact], refined_axes])
    return Decomposition(mean, float(feature_variances.sum()), variances, axes, moments)


def solve_moments(moments: Moments, degrees_of_freedom: float, n_components: int) -> Decomposition:
    """Eigenpairs of the covariance matrix of rows that are there no more."""
    covariance = moments.scatter / degrees_of_freedom
    column_variances = _diagonal(covariance)
    rules = rounding(np.float64, len(covariance))
    variances, axes = principal_axes(covariance, n_components, noise=rules.products)
    n_positive = min(int(np.count_nonzero(column_variances)), max(moments.n_samples - 1, 1))
    n_exact = int(np.count_nonzero(variances > rules.exact * variances[:1]))
    if n_exact < min(len(variances), n_positive) and _gains_by_scaling(column_variances):
        found = scaled_principal_axes(covariance.cpu().numpy(), rules.products)
        variances, axes = _with_null_axes(
            found[0][:n_components], found[1][:n_components], n_components
        )
    mean = moments.mean.cpu().numpy()
    return Decomposition(mean, float(column_variances.sum()), variances, axes, moments)


def _gains_by_scaling(column_variances: np.ndarray) -> bool:
    positive = column_variances[column_variances > 0.0]
    return bool(len(positive) and positive.min() < 1e-4 * positive.max())


def moments_in_range(
    X: Any, sample_weight: np.ndarray | None, device: torch.device, precision: np.dtype
) -> Moments:
    """Moments of data whose squares may be too large or too small for the precision."""
    moments = Moments.from_rows(X, sample_weight, device=device, product_dtype=precision)
    if precision == np.float32 and not _is_in_range(float(moments.scatter.trace()), precision):
        moments = Moments.from_rows(X, sample_weight, device=device, product_dtype=np.float64)
    _check_range(float(moments.scatter.trace()))
    return moments


def refine(
    problem: Problem, mean: np.ndarray, axes: np.ndarray, precision: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
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
    precision : dtype
        Of the products.

    Returns
    -------
    variances : ndarray of shape (n_small,)
    axes : ndarray of shape (n_small, n_features)
        Spanning the same space.
    """
    X = problem.X
    projected: Any
    if X.dtype == precision or sparse.issparse(X):
        projected = project(X, mean, axes)  # (n_samples, n_small)
    elif isinstance(X, DeviceArray):
        projected = _device_rows.project(X, mean, axes, np.dtype(np.float64))
    else:
        projected = np.empty((X.shape[0], len(axes)))
        for rows, block in centred_rows(X, mean):
            projected[rows] = block @ axes.T
    moments = Moments.from_rows(
        projected,
        problem.sample_weight,
        device=problem.device if isinstance(X, DeviceArray) else "cpu",
        product_dtype=np.float64,
    )
    variances, rotation = principal_axes(moments.scatter / problem.degrees_of_freedom)
    return variances, flip_signs(rotation @ axes)


def solve_gram(problem: Problem) -> Decomposition:
    """Eigenpairs of the n_samples x n_samples matrix of inner products of the centred rows."""
    X, weights = problem.X, problem.sample_weight
    precision = product_dtype_for(X)
    mean, gram = gram_matrix(X, weights, device=problem.device, product_dtype=precision)
    if precision == np.float32 and not _is_in_range(float(gram.trace()), precision):
        mean, gram = gram_matrix(X, weights, device=problem.device, product_dtype=np.float64)
    _check_range(float(gram.trace()))
    rules = rounding(precision, max(X.shape))
    total_variance = float(gram.trace()) / problem.degrees_of_freedom
    n_all = min(X.shape)
    n_eigenpairs = min(_n_eigenpairs(problem), n_all)
    values, vectors = top_eigenpairs(gram, n_eigenpairs)
    if n_eigenpairs and values[-1] <= rules.orthogonal * values[0]:
        centre = mean.cpu().numpy()
        if n_all > 1 and are_far_apart(_column_variances(X, centre, weights), rules):
            return _solve_scaled(problem, centre)
        if n_eigenpairs < n_all:
            # The small values cannot be told apart, nor from those of no variance at all.
            values, vectors = top_eigenpairs(gram)
    # The eigenvectors combine the rows to the axes times the singular values.
    rows = project_on_rows(X, vectors, weights)  # (n_computed, n_features)
    n_exact = np.count_nonzero(values > rules.orthogonal * values[:1])
    variances = zero_out_rounding(values[:n_exact], rules.products)
    axes = rows[:n_exact] / np.linalg.norm(rows[:n_exact], axis=1, keepdims=True)
    if n_exact < len(values):
        # Combinations for small values are not orthogonal, but they span the right space: their
        # own singular vectors are the axes in it, and their singular values are exact.
        small = rows[n_exact:]
        small = small - (small @ axes.T) @ axes
        singular_values, small_axes = right_singular_vectors(torch.from_numpy(small))
        squares = singular_values**2
        squares = np.where(squares > rules.rows * max(values[0], 0.0), squares, 0.0)
        variances = np.concatenate([variances, squares])[:n_all]
        axes = np.concatenate([axes, small_axes])[:n_all]
    variances, axes = _with_null_axes(
        variances / problem.degrees_of_freedom, axes, _n_eigenpairs(problem)
    )
    return Decomposition(mean.cpu().numpy(), total_variance, variances, axes)


def solve_full(problem: Problem) -> Decomposition:
    """Singular value decomposition of the triangular factor of the centred rows."""
    mean = column_means(problem.X, problem.sample_weight)
    upper = _triangular_factor(problem, mean)
    _check_range(_sum_of_squares(upper))
    rules = rounding(np.float64, problem.X.shape[1])
    if are_far_apart(_diagonal(upper.T @ upper), rules):
        return _solve_scaled(problem, mean, upper)
    singular_values, axes = right_singular_vectors(upper)
    variances = singular_values**2 / problem.degrees_of_freedom
    total_variance = float(variances.sum())
    variances = np.where(variances > rules.rows * variances.max(initial=0.0), variances, 0.0)
    if len(variances) < problem.limit:
        variances, axes = _with_null_axes(variances, axes, problem.limit)
    return Decomposition(mean, total_variance, variances, axes)


def _triangular_factor(problem: Problem, mean: np.ndarray) -> Tensor:
    upper: Any = None
    for _rows, block in centred_rows(problem.X, mean, problem.sample_weight):
        upper = triangular_factor(upper, torch.as_tensor(block, device=problem.device))
    return upper


def _solve_scaled(problem: Problem, mean: np.ndarray, upper: Tensor | None = None) -> Decomposition:
    """Singular values of centred rows whose columns have scales far apart."""
    if sparse.issparse(problem.X):
        # As many dense numbers as the axes of all components have.
        rows = project_on_rows(problem.X, np.eye(problem.X.shape[0]), problem.sample_weight)
    else:
        rows = (_triangular_factor(problem, mean) if upper is None else upper).cpu().numpy()
    singular_values, axes = scaled_singular_vectors(rows)
    variances = singular_values**2 / problem.degrees_of_freedom
    variances, axes = _with_null_axes(variances, axes, problem.limit)
    n_wanted = problem.limit if problem.n_computed is None else problem.n_computed
    return Decomposition(mean, float(variances.sum()), variances[:n_wanted], axes[:n_wanted])


def _with_null_axes(
    variances: np.ndarray, axes: np.ndarray, n_components: int
) -> tuple[np.ndarray, np.ndarray]:
    """Add axes without variance up to a number of components; make all of them orthonormal."""
    n_missing = n_components - len(variances)
    if n_missing > 0:
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
    mean = column_means(X, weights)
    n_samples, n_features = X.shape
    column_variances = _column_variances(X, mean, weights)
    total = float(column_variances.sum())
    _check_range(total, float_dtype(X))
    rules = rounding(float_dtype(X), n_features)
    if are_far_apart(column_variances, rules):
        return _solve_scaled(problem, mean)
    n_components = problem.n_computed or min(X.shape)

    def blocks() -> Iterator[tuple[slice, Tensor]]:
        for rows, block in centred_rows(X, mean, weights, dtype=float_dtype(X)):
            yield rows, torch.as_tensor(block, device=device)

    # Data in memory is centred once; a memory map, block by block for every product.
    is_in_file = is_memory_mapped(X) or isinstance(X, BlockTable)
    in_memory = None if is_in_file else torch.cat([block for _, block in blocks()])

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
    variances = singular_values[:n_components].astype(np.float64) ** 2
    variances /= problem.degrees_of_freedom
    return Decomposition(
        mean,
        total / problem.degrees_of_freedom,
        np.where(variances > rules.rows * variances.max(initial=0.0), variances, 0.0),
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
        rows, mean, column_squares = _implicitly_centred(X, root)
    else:
        mean = column_means(X, weights)
        column_squares = _column_variances(X, mean, weights)
    _check_range(float(column_squares.sum()), float_dtype(X))
    rules = rounding(float_dtype(X), min(X.shape))
    if sparse.issparse(X) and (mean**2 * X.shape[0] > _LARGE_MEAN * column_squares).any():
        # Taking such means away implicitly would cancel the digits of the columns.
        return solve_covariance(problem) if X.shape[0] >= X.shape[1] else solve_gram(problem)
    if are_far_apart(column_squares, rules):
        if sparse.issparse(X) and X.shape[0] >= X.shape[1]:
            return solve_covariance(problem)
        return _solve_scaled(problem, mean)
    if not sparse.issparse(X):
        blocks = [block for _, block in centred_rows(X, mean, weights, dtype=float_dtype(X))]
        rows = np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
    if not column_squares.any():
        return _without_variance(problem, mean, n_components)
    start = check_random_state(problem.random_state).uniform(-1, 1, size=min(X.shape))
    _, singular_values, axes = svds(
        rows, k=n_components, tol=problem.tol, v0=start.astype(rows.dtype)
    )
    variances = singular_values[::-1].astype(np.float64) ** 2 / problem.degrees_of_freedom
    # ARPACK iterates on the squares, which loses half of the digits.
    variances = zero_out_rounding(variances, rules.products)
    return Decomposition(
        mean,
        float(column_squares.sum()) / problem.degrees_of_freedom,
        variances,
        flip_signs(axes[::-1]),
    )


def _implicitly_centred(
    X: Any, root: np.ndarray | None
) -> tuple[LinearOperator, np.ndarray, np.ndarray]:
    """Operator, mean and column sums of squares of centred sparse rows times roots of weights."""
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
    squares = np.bincount(
        columns,
        weights=cell_weights * (cells.data.astype(np.float64) - mean[columns]) ** 2,
        minlength=X.shape[1],
    )
    return operator, mean, squares + mean**2 * np.maximum(weights.sum() - occupied, 0.0)


def _without_variance(problem: Problem, mean: np.ndarray, n_components: int) -> Decomposition:
    axes = np.empty((0, problem.X.shape[1]))
    return Decomposition(mean, 0.0, *_with_null_axes(np.empty(0), axes, n_components))


EIGENSOLVERS: dict[str, Callable[[Problem], Decomposition]] = {
    "arpack": solve_arpack,
    "covariance_eigh": solve_covariance,
    "full": solve_full,
    "gram_eigh": solve_gram,
    "randomized": solve_randomized,
}


def decompose(problem: Problem, solver: str) -> Decomposition:
    """Solve a problem, also where squares of the data leave the range of the numbers.

    Parameters
    ----------
    problem : Problem
        The cells need not be known to be finite.
    solver : str
        Name in `EIGENSOLVERS`.

    Returns
    -------
    Decomposition

    Raises
    ------
    NotFiniteError
        If some cells are not finite.
    ValueError
        If a float64 number cannot hold the variances.
    """
    X = problem.X
    with threads_of_blas(X), np.errstate(over="ignore", under="ignore", invalid="ignore"):
        try:
            found = EIGENSOLVERS[solver](problem)
        except (OutOfRangeError, np.linalg.LinAlgError):
            found = None
        if found is not None and found.total_variance > 0.0:
            return found
        cells = X.data if sparse.issparse(X) else X
        largest = float(abs(cells).max(initial=0.0))
        if not isfinite(largest):
            raise NotFiniteError
        if found is not None and (largest == 0.0 or not varies(X, problem.sample_weight)):
            return found
        exponent = frexp(largest)[1]
        scaled = replace(problem, X=_times_power(X.astype(np.float64), -exponent))
        try:
            found = EIGENSOLVERS[solver](scaled)
        except (OutOfRangeError, np.linalg.LinAlgError):
            raise ValueError(range_message(X, problem.names)) from None
        return _unscaled(found, exponent, problem)


def varies(X: Any, sample_weight: np.ndarray | None) -> bool:
    """Whether the rows that count differ at all."""
    rows = X.tocsr() if sparse.issparse(X) else X
    rows = rows if sample_weight is None else rows[sample_weight > 0.0]
    if sparse.issparse(rows):
        return bool((abs(rows - rows[np.zeros(rows.shape[0], dtype=int)])).max() > 0.0)
    if isinstance(X, DeviceArray):
        return bool((rows.tensor != rows.tensor[:1]).any())
    return bool((rows != rows[:1]).any())


def _times_power(numbers: Any, exponent: int) -> Any:
    """Multiply an array, sparse matrix or tensor by a power of two, also one that is no number."""
    half = exponent // 2
    return numbers * 2.0**half * 2.0 ** (exponent - half)


def _unscaled(found: Decomposition, exponent: int, problem: Problem) -> Decomposition:
    """Undo the division of the data by a power of two."""
    variances = np.ldexp(found.variances, 2 * exponent)
    total = float(np.ldexp(found.total_variance, 2 * exponent))
    if not isfinite(total) or (variances[found.variances > 0.0] < np.finfo(np.float64).tiny).any():
        raise ValueError(range_message(problem.X, problem.names))
    moments = found.moments
    if moments is not None:
        moments = replace(
            moments,
            mean=_times_power(moments.mean, exponent),
            scatter=_times_power(_times_power(moments.scatter, exponent), exponent),
        )
    return Decomposition(np.ldexp(found.mean, exponent), total, variances, found.axes, moments)


def range_message(X: Any, names: Any = None) -> str:
    """Say which column has squares that float64 cannot hold."""
    largest = np.asarray(abs(X).max(axis=0).todense() if sparse.issparse(X) else abs(X).max(axis=0))
    largest = largest.ravel()
    high = int(largest.argmax())
    low = int(np.where(largest > 0.0, largest, np.inf).argmin())
    column = high if largest[high] > 1e140 else low
    name = column if names is None else repr(names[column])
    return (
        f"The variance of column {name} of X, whose largest absolute value is "
        f"{largest[column]:g}, is outside of the range of float64 numbers (about 1e-308 to "
        "1e308). Divide the column by its scale first, for example by StandardScaler."
    )


def _n_eigenpairs(problem: Problem) -> int:
    return problem.limit if problem.n_computed is None else problem.n_computed


class NotFiniteError(ValueError):
    """Some cells of the data are not finite."""


class OutOfRangeError(ArithmeticError):
    """Squares of the data are too large or too small for the precision."""


def _is_in_range(sum_of_squares: float, precision: DTypeLike) -> bool:
    """Whether the squares of the data were neither too large nor too small for the precision."""
    if np.dtype(precision) == np.float32:
        return 1e-20 < sum_of_squares < 1e30
    return 1e-270 < sum_of_squares < 1e300


def _check_range(sum_of_squares: float, precision: DTypeLike = np.float64) -> None:
    if sum_of_squares != 0.0 and not _is_in_range(sum_of_squares, precision):
        raise OutOfRangeError


def _diagonal(matrix: Tensor) -> np.ndarray:
    return matrix.diagonal().cpu().numpy()


def _column_variances(X: Any, mean: np.ndarray, sample_weight: np.ndarray | None) -> np.ndarray:
    """Weighted sums of the squares of the centred columns."""
    if sparse.issparse(X):
        root = None if sample_weight is None else np.sqrt(sample_weight)
        return _implicitly_centred(X, root)[2]
    if isinstance(X, DeviceArray):
        return _device_rows.column_squares(X, mean, sample_weight)
    squares = np.zeros(X.shape[1])
    for _rows, block in centred_rows(X, mean, sample_weight):
        squares += np.einsum("ij,ij->j", block, block)
    return squares


def project(X: Any, mean: np.ndarray, axes: np.ndarray) -> Any:
    """Products of centred rows with axes, in the precision of the rows."""
    if isinstance(X, DeviceArray):
        return _device_rows.project(X, mean, axes)
    dtype = float_dtype(X)
    mean, axes = mean.astype(dtype, copy=False), axes.astype(dtype, copy=False)
    if sparse.issparse(X):
        return np.asarray(X @ axes.T) - mean @ axes.T
    n_samples, n_features = X.shape
    step = max(1, _PROJECTION_BYTES // (n_features * dtype.itemsize))
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
    """Mean variance of the ``n_features - rank`` directions that the axes leave out.

    It is the most likely one (Tipping & Bishop 1999), also with fewer rows than features, where
    the rows have no variance at all along most of these directions.
    """
    scales: np.ndarray | float = 1.0
    """Factors of the columns before PCA. The mean is in the units of the rows, all else in those of
    scaled ones."""


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
    n_directions = min(n_samples, n_features)
    is_count = isinstance(n_components, Integral)
    # The network computes in the dtype of X, which takes smaller variances for nothing.
    rounding_of_network = n_features * float(np.finfo(float_dtype(X)).eps)
    problem = Problem(
        X,
        sample_weight,
        degrees_of_freedom=float(max(n_samples - 1, 1)),
        n_computed=min(int(n_components), n_directions) if is_count else None,
        limit=n_directions,
        max_rank=min(max(n_samples - 1, 1), n_features),
        device=X.device if isinstance(X, DeviceArray) else CPU,
        negligible=rounding_of_network,
    )
    found = decompose(problem, "covariance_eigh" if n_samples >= n_features else "gram_eigh")
    return shortened(found, n_components, n_directions, float_dtype(X))


def scaled(table: Any, scales: np.ndarray) -> Any:
    """Columns times their factors, in their dtype."""
    factors = scales.astype(table.dtype)
    return table @ sparse.diags_array(factors) if sparse.issparse(table) else table * factors


def linear_code_of_moments(
    mean: np.ndarray, covariance: np.ndarray, n_components: int | float
) -> LinearCode:
    """Do what `linear_code` does for rows of which only the moments are known.

    Parameters
    ----------
    mean : ndarray of shape (n_features,)
    covariance : ndarray of shape (n_features, n_features)
        Unbiased.
    n_components : int or float
        As of `linear_code`.

    Returns
    -------
    LinearCode
    """
    variances, axes = principal_axes(torch.from_numpy(covariance))
    found = Decomposition(mean, float(np.trace(covariance)), variances, axes)
    if isinstance(n_components, Integral):
        found = replace(found, variances=variances[: int(n_components)])
    return shortened(found, n_components, len(mean), np.dtype(np.float32))


def shortened(
    found: Decomposition, n_components: int | float, n_directions: int, dtype: np.dtype
) -> LinearCode:
    """Keep the axes along which there is variance, or that explain a share of it."""
    n_features = len(found.mean)
    rounding_of_network = n_features * float(np.finfo(dtype).eps)
    variances = zero_out_rounding(found.variances, rounding_of_network)
    rank = max(int(np.count_nonzero(variances)), 1)
    if not isinstance(n_components, Integral):
        rank = min(rank, n_components_for_share(variances, n_components))
    variances = variances[:rank]
    rest = found.total_variance - float(variances.sum())
    if rank == n_directions or rest <= found.total_variance * float(np.finfo(dtype).eps):
        rest = 0.0  # nothing but rounding
    return LinearCode(found.mean, variances, found.axes[:rank], rest / max(n_features - rank, 1))


def probabilistic_pca(linear: LinearCode, noise_variance: float) -> tuple[np.ndarray, np.ndarray]:
    """Closed-form linear variational autoencoder of rows.

    Parameters
    ----------
    linear : LinearCode
        PCA of the rows.
    noise_variance : float
        Variance around the linear code, see `most_likely_noise`.

    Returns
    -------
    loadings : ndarray of shape (rank,)
        The decoder is ``mean + (loadings * axes)' z``.
    variances : ndarray of shape (rank,)
        Of the posterior of z. Its mean is ``(loadings / noise_variance * variances) axes (x -
        mean)``.

    References
    ----------
    Tipping & Bishop, "Probabilistic principal component analysis", Journal of the Royal
    Statistical Society B 61 (1999).

    Lucas, Tucker, Grosse & Norouzi, "Don't blame the ELBO! A linear VAE perspective on posterior
    collapse", NeurIPS (2019).
    """
    excess = np.maximum(linear.variances - noise_variance, 0.0)
    return np.sqrt(excess), noise_variance / (noise_variance + excess)


def most_likely_noise(
    linear: LinearCode, n_features: int, noise_variance: float | None, share: float = 1.0
) -> float:
    """Give the noise variance of probabilistic PCA, if it is not given.

    `share` makes the most likely one smaller. With a code as long as the row that changes no
    density.
    """
    if noise_variance is not None:
        return noise_variance
    noise_variance = linear.noise_variance
    if noise_variance == 0.0 and len(linear.variances) == n_features:
        # Any value up to the smallest variance gives the same density; the largest one leaves
        # the network the widest noise to start with.
        noise_variance = float(linear.variances[-1])
    return max(share * noise_variance, VARIANCE_FLOOR)
