"""Principal component analysis: moments, eigenproblem, projection."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite, log, pi
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, svds
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, assert_all_finite, check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skae._device import resolve_device
from skae._documentation import DocumentationLinkMixin
from skae._linalg import (
    flip_signs,
    matmul,
    minka_n_components,
    n_components_for_share,
    orthonormal_rows,
    principal_axes,
    randomized_range,
    right_singular_vectors,
    top_eigenpairs,
    triangular_factor,
    zero_out_rounding,
)
from skae._moments import (
    Moments,
    centred_rows,
    column_means,
    gram_matrix,
    product_dtype_for,
    project_on_rows,
    threads_of_blas,
)
from skae._rollback import unchanged_on_failure
from skae._sklearn_compat import (
    Interval,
    RealNotInt,
    StrOptions,
    validate_parameter_constraints,
)
from skae._validation import validate_codes, validate_table, validate_weights

_FLOAT_DTYPES = [np.float64, np.float32]
_SPARSE_SOLVERS = ("arpack", "covariance_eigh", "gram_eigh")
_TRUNCATED_SOLVERS = ("arpack", "randomized")
# Products of rows and columns from which an accelerator is worth its start-up.
_LARGE_PROBLEM = 10**10
# A fit keeps its moments for partial_fit up to this many features, which take 32 MiB.
_MAX_KEPT_FEATURES = 2048
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
    """

    X: Any
    sample_weight: np.ndarray | None
    degrees_of_freedom: float
    n_computed: int | None
    limit: int
    max_rank: int
    device: torch.device


def available_memory(device: torch.device) -> int | None:
    """Bytes of free memory, or None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            kibibytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable"))
        return int(kibibytes) * 1024
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def matrix_fits(m: int, device: torch.device) -> bool:
    """Whether there is memory for an m x m float64 matrix, one product and its eigenvectors."""
    if m <= 4096:  # 128 MiB
        return True
    free = available_memory(device)
    return free is None or 3 * 8 * m * m <= free


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


def solve_covariance(problem: Problem, _: Any) -> Decomposition:
    """Eigenpairs of the n_features x n_features covariance matrix."""
    X = problem.X
    precision = _product_dtype(X)
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
    projected = _project(problem.X, mean, axes)  # (n_samples, n_small)
    moments = Moments.from_rows(projected, problem.sample_weight, product_dtype=np.float64)
    variances, rotation = principal_axes(moments.scatter / problem.degrees_of_freedom)
    return variances, flip_signs(rotation @ axes)


def solve_gram(problem: Problem, _: Any) -> Decomposition:
    """Eigenpairs of the n_samples x n_samples matrix of inner products of the centred rows."""
    X, weights = problem.X, problem.sample_weight
    precision = _product_dtype(X)
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


def solve_full(problem: Problem, _: Any) -> Decomposition:
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


def solve_randomized(problem: Problem, estimator: PCA) -> Decomposition:
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
        for rows, block in centred_rows(X, mean, weights, dtype=_float_dtype(X)):
            yield rows, torch.from_numpy(block).to(device)

    # Data in memory is centred once; a memory map, block by block for every product.
    in_memory = None if _is_memory_mapped(X) else torch.cat([block for _, block in blocks()])

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

    n_iter: Any = estimator.iterated_power
    if n_iter == "auto":
        n_iter = 7 if n_components < 0.1 * min(n_samples, n_features) else 4
    normalizer = estimator.power_iteration_normalizer
    if normalizer == "auto":
        normalizer = "none" if n_iter <= 2 else "LU"
    start = check_random_state(estimator.random_state).normal(
        size=(min(n_samples, n_features), n_components + estimator.n_oversamples)
    )
    start = torch.from_numpy(start.astype(_float_dtype(X))).to(device)
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
    floor = _smallest_variance(variances.max(initial=0.0), mean, _float_dtype(X))
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


def solve_arpack(problem: Problem, estimator: PCA) -> Decomposition:
    """Lanczos iteration of ARPACK; sparse data is centred implicitly."""
    X, weights = problem.X, problem.sample_weight
    n_components = problem.n_computed or min(X.shape) - 1
    root = None if weights is None else np.sqrt(weights)
    rows: Any
    if sparse.issparse(X):
        rows, mean, sum_of_squares = _implicitly_centred(X, root)
    else:
        mean = _finite_mean(X, weights)
        blocks = [block for _, block in centred_rows(X, mean, weights, dtype=_float_dtype(X))]
        rows = np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
        sum_of_squares = float(np.square(rows, dtype=np.float64).sum())
    start = check_random_state(estimator.random_state).uniform(-1, 1, size=min(X.shape))
    _, singular_values, axes = svds(
        rows, k=n_components, tol=estimator.tol, v0=start.astype(rows.dtype)
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


SOLVERS: dict[str, Callable[[Problem, Any], Decomposition]] = {
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


def _float_dtype(X: Any) -> np.dtype:
    """Dtype of the results; float64 for the integers of a memory map."""
    return X.dtype if X.dtype.kind == "f" else np.dtype(np.float64)


def _product_dtype(X: Any) -> np.dtype:
    return np.dtype(np.float64) if sparse.issparse(X) else product_dtype_for(X)


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


def _is_memory_mapped(X: np.ndarray) -> bool:
    """Whether the array is a view of a memory map."""
    array: Any = X
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False


def _project(X: Any, mean: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Products of centred rows with axes, in the precision of the rows."""
    dtype = _float_dtype(X)
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


class PCA(DocumentationLinkMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Principal component analysis (PCA), exact and for data of any size.

    Signature, attributes and sign convention are those of
    :class:`sklearn.decomposition.PCA`, and `partial_fit` takes the place of
    :class:`sklearn.decomposition.IncrementalPCA`, exactly instead of approximately. Rows are
    centred before they are multiplied, and everything is accumulated in float64.

    Parameters
    ----------
    n_components : int, float or "mle", default=None
        Number of components. None keeps all, ``min(n_samples, n_features)`` of them (one fewer
        with ``svd_solver="arpack"``). A float in (0, 1) keeps as many as explain more than that
        share of the variance. "mle" maximises Minka's evidence and needs at least as many rows
        as features. The last two need a solver that computes all variances.

    copy : bool, default=True
        For compatibility. The data passed to fit is never overwritten.

    whiten : bool, default=False
        Scale the components to unit variance. A component without variance, which rank-deficient
        data has, is zero for every row instead of being divided by rounding errors.

    svd_solver : {"auto", "covariance_eigh", "gram_eigh", "full", "randomized", "arpack"}, \
            default="auto"
        "auto" :
            "covariance_eigh" where there are at least as many rows as features, else
            "gram_eigh"; "randomized" for few components of large, nearly square data, whose
            eigenproblem would take more than twice the time; for sparse data with more than 1000
            rows and features, "arpack" for up to a tenth of them. See the user guide.
        "covariance_eigh" :
            Eigenvalues of the (n_features, n_features) covariance matrix. Reads a memory map
            block by block. Takes sparse data.
        "gram_eigh" :
            Eigenvalues of the (n_samples, n_samples) inner products, for wide data. Takes
            sparse data.
        "full" :
            Singular values, by QR decomposition in float64: for ill-conditioned data.
        "randomized" :
            Approximate, by the method of Halko et al. (2011).
        "arpack" :
            Lanczos iteration, for sparse data; fewer than ``min(n_samples, n_features)``.

    tol : float, default=0.0
        Tolerance of the singular values with "arpack", in [0, inf).

    iterated_power : int or "auto", default="auto"
        Number of power iterations with "randomized". "auto" makes 7 for fewer components than a
        tenth of ``min(n_samples, n_features)``, and else 4.

    n_oversamples : int, default=10
        Number of additional random vectors with "randomized".

    power_iteration_normalizer : {"auto", "QR", "LU", "none"}, default="auto"
        What keeps the vectors of "randomized" apart. "auto" is "none" for up to two iterations
        and else "LU", which is faster than "QR".

    random_state : int, RandomState instance or None, default=None
        Starting vectors of "randomized" and "arpack".

    device : str, default="auto"
        Where the moments and the eigenproblem are computed: "cpu", "cuda" or "cuda:1". "auto"
        takes a CUDA device for large problems if there is one. "arpack" and sparse data use the
        CPU.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        Orthonormal principal axes in decreasing order of ``explained_variance_``. The entry
        that is largest in absolute value is positive in each.

    explained_variance_ : ndarray of shape (n_components,)
        Variances of the components, in squared units of the data, with the sum of the weights
        minus one as the degrees of freedom. For a single row they are zero.

    explained_variance_ratio_ : ndarray of shape (n_components,)
        Their shares in the variance of all features; zero for data without any variance.

    singular_values_ : ndarray of shape (n_components,)
        Singular values of the centred rows, these multiplied by the roots of their weights.

    mean_ : ndarray of shape (n_features,)
        (Weighted) mean of each feature.

    n_components_ : int
        Number of components.

    n_samples_ : int
        Number of rows in the training data.

    n_samples_seen_ : int
        Number of rows in all calls of `partial_fit`, or in `fit`.

    noise_variance_ : float
        Mean of the ``min(n_samples, n_features) - n_components`` variances that are left out
        (Tipping & Bishop 1999). Rows of zero weight do not count.

    n_features_in_ : int
        Number of features.

    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if all are strings.

    See Also
    --------
    sklearn.decomposition.PCA : The model of this class.

    Notes
    -----
    Arrays have the dtype of the training data: float32 stays float32. Large float32 data is
    multiplied in float32 once it is centred; the error of a variance is then about 1e-7 of the
    largest one, and below 1e-6 of itself for well-scaled data. Otherwise all digits of float64
    are kept: variances that are smaller than 1e-9 of the largest one, which an eigenproblem
    loses, are computed again from the data projected on their axes.

    Under ``whiten=True`` the covariance, the precision and the scores are those of the data, as
    they are without. scikit-learn multiplies the variances in twice there.

    References
    ----------
    Chan, Golub & LeVeque (1983). "Algorithms for computing the sample variance: analysis and
    recommendations". The American Statistician 37(3), 242-247.

    Tipping & Bishop (1999). "Probabilistic principal component analysis". Journal of the Royal
    Statistical Society B 61(3), 611-622.

    Minka (2000). "Automatic choice of dimensionality for PCA". NIPS 13, 598-604.

    Halko, Martinsson & Tropp (2011). "Finding structure with randomness: probabilistic
    algorithms for constructing approximate matrix decompositions". SIAM Review 53(2), 217-288.

    Examples
    --------
    >>> import numpy as np
    >>> from skae import PCA
    >>> X = np.array([[-1, -1], [-2, -1], [-3, -2], [1, 1], [2, 1], [3, 2]])
    >>> pca = PCA(n_components=2).fit(X)
    >>> print(pca.explained_variance_ratio_.round(4))
    [0.9924 0.0076]
    >>> print(pca.transform(X[:2]).round(4))
    [[-1.3834 -0.2936]
     [-2.2219  0.2513]]
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "n_components": [
            Interval(Integral, 0, None, closed="left"),
            Interval(RealNotInt, 0, 1, closed="neither"),
            StrOptions({"mle"}),
            None,
        ],
        "copy": ["boolean"],
        "whiten": ["boolean"],
        "svd_solver": [StrOptions({"auto", *SOLVERS})],
        "tol": [Interval(Real, 0, None, closed="left")],
        "iterated_power": [StrOptions({"auto"}), Interval(Integral, 0, None, closed="left")],
        "n_oversamples": [Interval(Integral, 1, None, closed="left")],
        "power_iteration_normalizer": [StrOptions({"auto", "QR", "LU", "none"})],
        "random_state": ["random_state"],
        "device": [str],
    }

    def __init__(
        self,
        n_components: int | float | str | None = None,
        *,
        copy: bool = True,
        whiten: bool = False,
        svd_solver: str = "auto",
        tol: float = 0.0,
        iterated_power: int | str = "auto",
        n_oversamples: int = 10,
        power_iteration_normalizer: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
    ) -> None:
        self.n_components = n_components
        self.copy = copy
        self.whiten = whiten
        self.svd_solver = svd_solver
        self.tol = tol
        self.iterated_power = iterated_power
        self.n_oversamples = n_oversamples
        self.power_iteration_normalizer = power_iteration_normalizer
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Find the principal components of X.

        A failed fit leaves an earlier one as it was.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training data. A memory map is read block by block.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights. A row of weight 2 counts as two rows.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If X or the weights are not finite numbers of matching shapes, if the weights are
            negative or add up to no more than one, or if ``n_components`` is too large for the
            data or not possible with the solver.
        TypeError
            If X is sparse and the solver needs dense data.
        MemoryError
            If the matrix of the solver does not fit in memory.
        """
        self._fit(X, sample_weight)
        return self

    def fit_transform(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Find the principal components of X and project X on them.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training data.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights, as in `fit`.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_components)
            In the dtype of X.
        """
        return self._transform(self._fit(X, sample_weight))

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Add rows, exactly: the result is that of `fit` on all rows so far.

        Every call keeps a (n_features, n_features) matrix up to date and solves its
        eigenproblem, whatever ``svd_solver`` is, so that few large batches are faster than many
        small ones. While fewer rows than ``n_components`` have been seen, there are as many
        components as rows. A `fit` by "covariance_eigh" of up to 2048 features can be
        continued.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Any number of rows.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights, as in `fit`.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            As in `fit`; if the rows have another width than those before; if ``n_components``
            was changed in between; or after a `fit` that has kept no moments to add to.
        MemoryError
            If the covariance matrix does not fit in memory.
        """
        self._check_parameters()
        first = not hasattr(self, "components_")
        if not first and not hasattr(self, "_accumulated"):
            raise ValueError(
                "partial_fit cannot add rows to this fit, which has not kept their moments: "
                f"svd_solver={self._fit_svd_solver!r} with {self.n_features_in_} features. Pass "
                "all rows to partial_fit, in as many calls as you like."
            )
        if not first and self._accumulated["n_components"] != self.n_components:
            raise ValueError(
                f"n_components={self.n_components!r} was "
                f"{self._accumulated['n_components']!r} for the rows before. Set it back, or "
                "clone the estimator to start again."
            )
        with unchanged_on_failure(self):
            X, sample_weight = self._validate(X, sample_weight, reset=first)
            self._update(X, sample_weight, first)
        return self

    def _update(self, X: Any, sample_weight: np.ndarray | None, first: bool) -> None:
        n_features = X.shape[1]
        device = self._resolve_device(X)
        if not matrix_fits(n_features, device):
            raise MemoryError(_memory_message("covariance_eigh", n_features, "partial_fit"))
        if isinstance(self.n_components, Integral) and self.n_components > n_features:
            raise ValueError(
                f"n_components={self.n_components} must be between 0 and "
                f"n_features={n_features} in partial_fit."
            )
        batch = finite_moments(X, sample_weight, device, _product_dtype(X))
        moments, n_seen = batch, X.shape[0]
        if not first:
            state = self._accumulated
            n_seen += int(vars(self)["n_samples_seen_"])
            moments = Moments(
                state["n_samples"],
                state["weight"],
                torch.from_numpy(state["mean"]).to(device),
                torch.from_numpy(state["scatter"]).to(device),
            ).merge(batch)
        limit = _component_limit(moments.n_samples, moments.weight, n_features)
        n_components = self.n_components
        if isinstance(n_components, Integral):
            n_components = min(n_components, limit)
        _check_n_components(n_components, limit, "covariance_eigh", n_seen >= n_features)
        covariance = moments.scatter / _degrees_of_freedom(moments.weight, moments.n_samples)
        n_computed = n_components if isinstance(n_components, Integral) else limit
        variances, axes = principal_axes(covariance, n_computed)
        decomposition = Decomposition(
            moments.mean.cpu().numpy(), float(covariance.trace()), variances, axes
        )
        dtype = X.dtype if first else np.result_type(self.mean_, X)
        self._store(decomposition, n_components, limit, moments.weight, dtype)
        self._fit_svd_solver = "covariance_eigh"
        self.n_samples_ = self.n_samples_seen_ = n_seen
        self._accumulate(moments)

    def _accumulate(self, moments: Moments) -> None:
        """Keep moments, as NumPy arrays, for partial_fit to add to."""
        self._accumulated: dict[str, Any] = {
            "n_components": self.n_components,
            "n_samples": moments.n_samples,
            "weight": moments.weight,
            "mean": moments.mean.cpu().numpy(),
            "scatter": moments.scatter.cpu().numpy(),
        }

    def transform(self, X: Any) -> Any:
        """Project X on the principal components.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_components)
            In the dtype of X.
        """
        check_is_fitted(self)
        return self._transform(
            validate_table(self, X, dtype=_FLOAT_DTYPES, accept_sparse=("csr", "csc"), reset=False)
        )

    def _transform(self, X: Any) -> np.ndarray:
        axes = self.components_
        if self.whiten:
            deviations = np.sqrt(self.explained_variance_)
            scale = np.divide(
                1.0, deviations, out=np.zeros_like(deviations), where=deviations > 0.0
            )
            return _project(X, self.mean_, axes) * scale.astype(_float_dtype(X), copy=False)
        return _project(X, self.mean_, axes)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Map components back to features.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_components)
            Components, whitened if ``whiten=True``.

        Returns
        -------
        X_original : ndarray of shape (n_samples, n_features)
            The points of the principal subspace that have these components, in the dtype of X.
        """
        X = validate_codes(self, X)
        axes = self.components_
        if self.whiten:
            axes = np.sqrt(self.explained_variance_)[:, np.newaxis] * axes
        return X @ axes.astype(X.dtype, copy=False) + self.mean_.astype(X.dtype, copy=False)

    def get_covariance(self) -> np.ndarray:
        """Covariance matrix of the probabilistic model.

        Returns
        -------
        covariance : ndarray of shape (n_features, n_features)
            The variances along the components, and ``noise_variance_`` in all other directions;
            the same with and without whitening.
        """
        check_is_fitted(self)
        axes = self.components_
        excess = np.maximum(self.explained_variance_ - self.noise_variance_, 0.0)
        covariance = (axes.T * excess) @ axes  # (n_features, n_features)
        covariance.flat[:: len(covariance) + 1] += self.noise_variance_
        return covariance

    def get_precision(self) -> np.ndarray:
        """Inverse of the covariance matrix of the probabilistic model.

        Returns
        -------
        precision : ndarray of shape (n_features, n_features)
            Where the covariance is singular, a variance of zero is taken for the smallest one
            that rounding lets exist beside the largest.
        """
        check_is_fitted(self)
        noise, variances = self._model_variances()
        axes = self.components_.astype(np.float64)
        if len(axes) == axes.shape[1]:
            return ((axes.T / variances) @ axes).astype(self.components_.dtype, copy=False)
        precision = (axes.T * (1.0 / variances - 1.0 / noise)) @ axes
        precision.flat[:: len(precision) + 1] += 1.0 / noise
        return precision.astype(self.components_.dtype, copy=False)

    def _model_variances(self) -> tuple[float, np.ndarray]:
        """Noise variance, and variances along the components, none of them zero."""
        variances = self.explained_variance_.astype(np.float64)
        noise = float(self.noise_variance_)
        largest = max(noise, float(variances.max(initial=0.0)))
        smallest = max(
            largest * float(np.finfo(self.components_.dtype).eps),
            float(np.finfo(np.float64).tiny) / np.finfo(np.float64).eps,
        )
        noise = noise if noise > 0.0 else smallest
        return noise, np.maximum(variances, noise)

    def score_samples(self, X: Any) -> np.ndarray:
        """Log-density of each row in the probabilistic model.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            In nats; higher is more normal.
        """
        check_is_fitted(self)
        X = validate_table(self, X, accept_sparse="csr", dtype=_FLOAT_DTYPES, reset=False)
        noise, variances = self._model_variances()
        axes = self.components_.astype(np.float64)
        n_components, n_features = axes.shape
        squared_distances = np.empty(X.shape[0])
        for rows, centred in centred_rows(X, self.mean_.astype(np.float64)):
            along = centred @ axes.T  # (n_rows, n_components)
            squared_distances[rows] = np.square(along) @ (1.0 / variances)
            # The residual itself: a difference of squared lengths would cancel its digits.
            rest = centred - along @ axes
            squared_distances[rows] += np.einsum("ij,ij->i", rest, rest) / noise
        log_determinant = np.log(variances).sum() + (n_features - n_components) * log(noise)
        log_density = -0.5 * (squared_distances + n_features * log(2.0 * pi) + log_determinant)
        return log_density.astype(_float_dtype(X), copy=False)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Mean log-density of the rows.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Rows in the units of the training data.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows in the mean.

        Returns
        -------
        score : float
            In nats.
        """
        log_density = self.score_samples(X)
        if sample_weight is not None:
            sample_weight = validate_weights(sample_weight, X)
        return float(np.average(log_density, weights=sample_weight))

    @property
    def _n_features_out(self) -> int:
        return self.components_.shape[0]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.input_tags.sparse = self.svd_solver in ("auto", *_SPARSE_SOLVERS)
        return tags

    def _fit(self, X: Any, sample_weight: Any) -> Any:
        """Fit, and return the validated data."""
        self._check_parameters()
        with unchanged_on_failure(self):
            X, sample_weight = self._validate(X, sample_weight, reset=True)
            if sparse.issparse(X) and self.svd_solver not in ("auto", *_SPARSE_SOLVERS):
                raise TypeError(
                    f"svd_solver={self.svd_solver!r} would need the sparse X as a dense array; use "
                    f"'auto' or one of {', '.join(map(repr, _SPARSE_SOLVERS))}."
                )
            self._solve(X, sample_weight)
        return X

    def _check_parameters(self) -> None:
        # As _validate_params of scikit-learn, which takes longer to look up the names of the
        # parameters than a small problem takes to solve.
        validate_parameter_constraints(
            self._parameter_constraints,
            {name: getattr(self, name) for name in self._parameter_constraints},
            caller_name=type(self).__name__,
        )

    def _validate(self, X: Any, sample_weight: Any, reset: bool) -> tuple[Any, np.ndarray | None]:
        # Whether all cells are finite shows in their mean, so that they are read only once.
        is_lazy = isinstance(X, np.memmap) and X.dtype.kind in "iu"
        X = validate_table(
            self,
            X,
            # A memory map of integers is converted block by block.
            dtype=None if is_lazy else _FLOAT_DTYPES,
            accept_sparse=("csr", "csc"),
            ensure_all_finite=sparse.issparse(X),
            reset=reset,
        )
        if sparse.issparse(X) and not X.has_canonical_format:
            X = X.copy()
            X.sum_duplicates()
        if sample_weight is not None:
            sample_weight = validate_weights(sample_weight, X)
        return X, sample_weight

    def _resolve_device(self, X: Any) -> torch.device:
        n_samples, n_features = X.shape
        large = n_samples * n_features * min(n_samples, n_features) >= _LARGE_PROBLEM
        device = resolve_device(self.device, large=large and not sparse.issparse(X))
        if device.type == "mps":
            raise ValueError(
                f"device={self.device!r} cannot compute in float64, which PCA needs; use 'cpu'."
            )
        return device

    def _solve(self, X: Any, sample_weight: np.ndarray | None) -> None:
        n_samples, n_features = X.shape
        device = self._resolve_device(X)
        n_positive = n_samples if sample_weight is None else int(np.count_nonzero(sample_weight))
        weight = float(n_samples) if sample_weight is None else float(sample_weight.sum())
        solver = self.svd_solver
        if solver == "auto":
            solver = choose_solver(
                n_samples,
                n_features,
                self.n_components,
                is_sparse=sparse.issparse(X),
                device=device,
            )
        limit = _component_limit(n_positive, weight, n_features)
        largest = min(n_samples, n_features) if solver in _TRUNCATED_SOLVERS else limit
        _check_n_components(self.n_components, largest, solver, limit >= n_features)
        if solver in ("covariance_eigh", "gram_eigh"):
            m = n_features if solver == "covariance_eigh" else n_samples
            if not matrix_fits(m, device):
                raise MemoryError(_memory_message(solver, m, "fit"))
        problem = Problem(
            X,
            sample_weight,
            _degrees_of_freedom(weight, n_positive),
            int(self.n_components) if isinstance(self.n_components, Integral) else None,
            limit,
            min(max(n_positive - 1, 1), n_features),
            device,
        )
        with threads_of_blas(X):
            decomposition = SOLVERS[solver](problem, self)
        dtype = X.dtype if X.dtype == np.float32 else np.dtype(np.float64)
        self._store(decomposition, self.n_components, limit, weight, dtype)
        self._fit_svd_solver = solver
        self.n_samples_ = self.n_samples_seen_ = n_samples
        if decomposition.moments is not None and n_features <= _MAX_KEPT_FEATURES:
            self._accumulate(decomposition.moments)
        elif hasattr(self, "_accumulated"):
            del self._accumulated

    def _store(
        self,
        decomposition: Decomposition,
        n_components: Any,
        limit: int,
        weight: float,
        dtype: np.dtype,
    ) -> None:
        """Keep the components that were asked for, as NumPy arrays of the dtype of the data."""
        variances = decomposition.variances[:limit]
        is_complete = len(variances) == limit
        total = float(variances.sum()) if is_complete else decomposition.total_variance
        if n_components is None:
            k = len(variances)
        elif n_components == "mle":
            k = minka_n_components(variances, weight)
        elif isinstance(n_components, Integral):
            k = int(n_components)
        else:
            k = n_components_for_share(variances, n_components)
        if k == limit:
            noise_variance = 0.0
        elif is_complete:
            noise_variance = float(variances[k:].mean())
        else:
            noise_variance = max(total - float(variances[:k].sum()), 0.0) / (limit - k)
        kept = variances[:k]
        degrees_of_freedom = max(weight - 1.0, 1.0)
        self.n_components_ = k
        self.components_ = np.array(decomposition.axes[:k], dtype=dtype, order="C")
        self.explained_variance_ = kept.astype(dtype)
        self.explained_variance_ratio_ = (kept / total if total > 0.0 else 0.0 * kept).astype(dtype)
        self.singular_values_ = np.sqrt(kept * degrees_of_freedom).astype(dtype)
        self.mean_ = decomposition.mean.astype(dtype)
        self.noise_variance_ = noise_variance


def _degrees_of_freedom(weight: float, n_rows: int) -> float:
    if n_rows > 1 and not weight > 1.0 + 1e-6:
        raise ValueError(
            f"sample_weight adds up to {weight}, but a row of weight 2 counts as two rows, so that "
            "a variance needs more than 1; multiply the weights by n_samples / sample_weight.sum()."
        )
    # A single row has no variance, and nothing to divide.
    return weight - 1.0 if n_rows > 1 else 1.0


def _component_limit(n_rows: int, weight: float, n_features: int) -> int:
    """Largest number of components: a row of weight 2 counts as two, of weight 1/2 as one."""
    return min(max(n_rows, int(weight)), n_features)


def _check_n_components(n_components: Any, limit: int, solver: str, is_tall: bool) -> None:
    """Raise a ValueError if the solver cannot find so many components of this data."""
    if n_components is None:
        return
    truncated = solver in _TRUNCATED_SOLVERS
    if isinstance(n_components, str):
        if truncated:
            raise ValueError(
                f"n_components={n_components!r} cannot be a string with svd_solver={solver!r}"
            )
        if not is_tall:
            raise ValueError(
                f"n_components={n_components!r} is only supported if n_samples >= n_features"
            )
    elif not isinstance(n_components, Integral):
        if truncated:
            raise ValueError(
                f"n_components={n_components} is a share of the variance, which needs all "
                f"variances; svd_solver={solver!r} computes only some. Use svd_solver='auto'."
            )
    elif not int(truncated) <= int(n_components) <= limit:
        raise ValueError(
            f"n_components={n_components} must be between {int(truncated)} and "
            f"min(n_samples, n_features)={limit} with svd_solver={solver!r}"
        )
    elif solver == "arpack" and n_components == limit:
        raise ValueError(
            f"n_components={n_components} must be strictly less than "
            f"min(n_samples, n_features)={limit} with svd_solver={solver!r}"
        )


def _memory_message(solver: str, m: int, method: str) -> str:
    needed = 3 * 8 * m * m / 2**30
    advice = (
        "use fit with svd_solver='randomized', or with 'arpack' for sparse X, and an integer "
        "n_components"
    )
    if solver == "covariance_eigh":
        advice += ", or svd_solver='gram_eigh' if there are fewer rows than features"
    return (
        f"svd_solver={solver!r} in {method} needs {m} x {m} matrices in float64, about "
        f"{needed:.1f} GiB, which do not fit in memory; {advice}."
    )
