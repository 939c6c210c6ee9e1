"""Exact, mergeable moments of streamed and weighted rows: count, mean and scatter in float64."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike
from scipy import sparse
from torch import Tensor

from skae import _device_rows
from skae._device import threads_after_fork
from skae._device_array import TORCH_DTYPES, DeviceArray, on_host
from skae._device_rows import full_precision_product
from skae._sklearn_compat import _get_threadpool_controller, _openmp_effective_n_threads

# A block is large enough for one product of it to hide the addition of a float64 scatter matrix,
# and small enough to stay in the cache while it is summed, centred and multiplied.
_NARROW_BLOCK_BYTES = 2 << 20
_WIDE_BLOCK_BYTES = 16 << 20
# Sequential float32 sums stay within 256 / 2 roundings of the exact ones.
_STRIP_ROWS = 256
# From this many multiplications on, float32 data is multiplied in float32: below, float64 takes a
# few milliseconds at most, and gives the small variances to seven digits too.
_LARGE_PRODUCT = 10**8
# From this many on, a second thread is worth its start: on two cores a fit takes 1.1 times as long
# with it at 2 to 5 * 10**7, and 0.9 times at 10**8.
_THREADED_PRODUCT = 10**8
# Up to this size an eigenproblem takes BLAS as long with one thread as with two.
_ONE_THREAD_EIGENPROBLEM = 512
# Below this many multiplications, products and eigenproblem are over before it matters.
_SMALL_PROBLEM = 2**24
# Wider matrices keep BLAS's own threads busy, and would take much memory in every thread.
_MAX_THREADED_WIDTH = 2048
# Columns with a smaller ratio of deviation to mean are centred at their first row.
_NARROW = {"float64": 1e-9, "float32": 1e-5}
# A sparse column whose squared mean is larger than this many variances has less than one zero in
# as many cells: it is dense in all but name.
_DENSE_COLUMN_RATIO = 1000.0


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Count, mean and scatter matrix of weighted rows.

    A state is never changed: every operation returns a new one.

    Parameters
    ----------
    n_samples : int
        Number of rows with a positive weight.
    weight : float
        Sum of the weights of the rows; the number of rows where they have no weights.
    mean : Tensor of shape (n_features,), float64
        Weighted mean of the rows.
    scatter : Tensor of shape (n_features, n_features), float64
        Weighted sum of the outer products of the centred rows.

    References
    ----------
    Chan, Golub & LeVeque (1983). "Algorithms for computing the sample variance: analysis and
    recommendations". The American Statistician 37(3), 242-247.

    Examples
    --------
    >>> import numpy as np
    >>> from skae._moments import Moments
    >>> first, second = np.array([[1.0, 0.0], [3.0, 2.0]]), np.array([[5.0, 4.0]])
    >>> moments = Moments.from_rows(first).merge(Moments.from_rows(second))
    >>> moments.mean
    tensor([3., 2.], dtype=torch.float64)
    >>> moments.scatter
    tensor([[8., 8.],
            [8., 8.]], dtype=torch.float64)
    """

    n_samples: int
    weight: float
    mean: Tensor
    scatter: Tensor

    @classmethod
    def from_rows(
        cls,
        X: Any,
        sample_weight: np.ndarray | None = None,
        *,
        device: torch.device | str = "cpu",
        product_dtype: DTypeLike | None = None,
    ) -> Moments:
        """Compute the moments of rows, block by block.

        Parameters
        ----------
        X : ndarray, memmap or sparse matrix of shape (n_samples, n_features)
            Real numbers. A memory map is read in blocks; sparse data is never made dense.
        sample_weight : ndarray of shape (n_samples,), default=None
            Non-negative weights: a row of weight 2 counts as two rows.
        device : torch.device or str, default="cpu"
            Where dense blocks are multiplied and where the result lives. Sparse data is
            multiplied on the CPU.
        product_dtype : dtype, default=None
            Precision in which dense, centred blocks are multiplied; they are always accumulated
            in float64. None multiplies float32 data in float32 where that saves time: the
            eigenvalues of well-scaled data are then exact to 1e-6.

        Returns
        -------
        Moments
            Not finite where X is not.
        """
        device = torch.device(device)
        n_samples, scale, weights = _scaled_weights(X.shape[0], sample_weight)
        with np.errstate(over="ignore", invalid="ignore"):
            if sparse.issparse(X):
                weight, mean, scatter = _sparse_moments(X, weights)
            else:
                dtype = np.dtype(product_dtype or product_dtype_for(X))
                weight, mean, scatter = _dense_moments(X, weights, dtype, device)
                _settle_narrow_columns(X, weights, dtype, weight, mean, scatter)
        if scale != 1.0:
            weight, scatter = weight * scale, scatter * scale
        return cls(n_samples, weight, mean.to(device), scatter.to(device))

    def merge(self, other: Moments) -> Moments:
        """Moments of the rows of both states.

        Parameters
        ----------
        other : Moments
            Of the same number of features, on the same device.

        Returns
        -------
        Moments
        """
        if self.weight == 0.0:
            return other
        if other.weight == 0.0:
            return self
        weight = self.weight + other.weight
        delta = other.mean - self.mean  # (n_features,)
        between = self.weight * (other.weight / weight)
        return Moments(
            self.n_samples + other.n_samples,
            weight,
            self.mean + delta * (other.weight / weight),
            torch.addr(self.scatter + other.scatter, delta, delta, alpha=between),
        )

    def to_arrays(self) -> dict[str, Any]:
        """Count, weight, mean and scatter matrix as numbers and NumPy arrays, for a file."""
        return {
            "n_samples": self.n_samples,
            "weight": self.weight,
            "mean": self.mean.cpu().numpy(),
            "scatter": self.scatter.cpu().numpy(),
        }

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, Any], *, device: torch.device | str = "cpu"
    ) -> Moments:
        """Read what `to_arrays` gave; other keys are ignored."""
        return cls(
            arrays["n_samples"],
            arrays["weight"],
            torch.from_numpy(arrays["mean"]).to(device),
            torch.from_numpy(arrays["scatter"]).to(device),
        )


def product_dtype_for(X: Any) -> np.dtype:
    """Precision in which the centred blocks of dense data are multiplied.

    Parameters
    ----------
    X : ndarray or sparse matrix of shape (n_samples, n_features)

    Returns
    -------
    dtype
        float32 for dense float32 data of which there is so much that this saves time, else float64.
    """
    n_samples, n_features = X.shape
    large = n_samples * n_features * min(n_samples, n_features) >= _LARGE_PRODUCT
    in_float32 = X.dtype == np.float32 and large and not sparse.issparse(X)
    return np.dtype(np.float32 if in_float32 else np.float64)


def column_means(X: Any, sample_weight: np.ndarray | None = None) -> np.ndarray:
    """Weighted mean of the rows of dense data, block by block.

    Parameters
    ----------
    X : ndarray or memmap of shape (n_samples, n_features)
    sample_weight : ndarray of shape (n_samples,), default=None

    Returns
    -------
    ndarray of shape (n_features,), float64
        Not finite where X is not. Of constant columns it is their value to the last bit, because
        the first row is subtracted before the rows are added up.
    """
    _, _, weights = _scaled_weights(X.shape[0], sample_weight)
    if isinstance(X, DeviceArray):
        return _device_rows.column_means(X, weights)
    weight = float(X.shape[0]) if weights is None else max(weights.sum(), np.finfo(float).tiny)
    dtype = np.dtype(np.float64)
    first = X[_first_row(weights)].astype(dtype)
    mean = np.zeros(X.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        for rows in _slices(X.shape[0], _block_rows(X.shape[1], dtype.itemsize)):
            block = np.subtract(X[rows], first, dtype=dtype)
            mean += _column_sums(block, None if weights is None else weights[rows]) / weight
    return first + mean


def column_moments(table: Any, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean and variance of the known cells of each column, 2 x (n_features,)."""
    rows = table.toarray() if sparse.issparse(table) else np.asarray(table)
    cells = np.ma.masked_invalid(rows.astype(np.float64))
    mean: Any = np.ma.average(cells, axis=0, weights=weights)
    variance: Any = np.ma.average(np.square(cells - mean), axis=0, weights=weights)
    return mean.filled(0.0), variance.filled(0.0)


def gram_matrix(
    X: Any,
    sample_weight: np.ndarray | None = None,
    *,
    device: torch.device | str = "cpu",
    product_dtype: DTypeLike | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean of the rows and the inner products of the centred rows, for data wider than long.

    Parameters
    ----------
    X : ndarray, memmap or sparse matrix of shape (n_samples, n_features)
        Read in blocks of columns; sparse data is never made dense.
    sample_weight : ndarray of shape (n_samples,), default=None
        Non-negative weights. The centred row i is multiplied by the root of its weight.
    device : torch.device or str, default="cpu"
    product_dtype : dtype, default=None
        As in `Moments.from_rows`.

    Returns
    -------
    mean : Tensor of shape (n_features,), float64
    gram : Tensor of shape (n_samples, n_samples), float64
        Its eigenvalues are those of the scatter matrix that are not zero.
    """
    device = torch.device(device)
    _, scale, weights = _scaled_weights(X.shape[0], sample_weight)
    with np.errstate(over="ignore", invalid="ignore"):
        dtype = np.dtype(product_dtype or product_dtype_for(X))
        if sparse.issparse(X):
            mean, gram = _sparse_gram(X, weights)
        elif isinstance(X, DeviceArray):
            mean, gram = _device_rows.gram_matrix(X, weights, dtype)
        else:
            column_mean = np.empty(X.shape[1])
            slices = list(_slices(X.shape[1], _block_rows(X.shape[0], dtype.itemsize)))

            def gram_of(share: list[int]) -> np.ndarray:
                gram = np.zeros((X.shape[0], X.shape[0]))
                for number in share:
                    columns = slices[number]
                    column_mean[columns], block = _centred_columns(X, weights, dtype, columns)
                    gram += block @ block.T
                return gram

            if device.type == "cpu":
                gram = torch.from_numpy(sum(_in_threads(gram_of, len(slices), X.shape, X.shape[0])))
            else:
                gram = torch.zeros((X.shape[0], X.shape[0]), dtype=torch.float64, device=device)
                for columns in slices:
                    column_mean[columns], block = _centred_columns(X, weights, dtype, columns)
                    gram += full_precision_product(torch.from_numpy(block.T).to(device))
            mean = torch.from_numpy(column_mean)
    return mean.to(device), gram.to(device) * scale


def project_on_rows(
    X: Any,
    coefficients: np.ndarray,
    sample_weight: np.ndarray | None = None,
) -> np.ndarray:
    """Combine the centred rows linearly, with the same blocks as `gram_matrix`.

    Parameters
    ----------
    X : ndarray, memmap or sparse matrix of shape (n_samples, n_features)
    coefficients : ndarray of shape (n_samples, n_components), float64
    sample_weight : ndarray of shape (n_samples,), default=None

    Returns
    -------
    ndarray of shape (n_components, n_features), float64
        The products of the coefficients with the centred rows, these multiplied by the roots of
        their weights.
    """
    _, scale, weights = _scaled_weights(X.shape[0], sample_weight)
    if isinstance(X, DeviceArray):
        return _device_rows.project_on_rows(X, coefficients, weights) * np.sqrt(scale)
    combined = np.empty((coefficients.shape[1], X.shape[1]))
    if sparse.issparse(X):
        sparse_part, dense_columns, dense_part, mean, root = _split_dense_columns(X, weights)
        combined[:] = (sparse_part.T @ coefficients).T
        combined -= np.outer(root @ coefficients, np.where(dense_columns, 0.0, mean))
        combined[:, dense_columns] = coefficients.T @ dense_part
    else:
        dtype = product_dtype_for(X)
        left = np.ascontiguousarray(coefficients.T, dtype=dtype)  # (n_components, n_samples)
        slices = list(_slices(X.shape[1], _block_rows(X.shape[0], dtype.itemsize)))

        def combine(share: list[int]) -> None:
            for number in share:
                _, block = _centred_columns(X, weights, dtype, slices[number])
                combined[:, slices[number]] = left @ block

        _in_threads(combine, len(slices), X.shape, len(left))
    return np.multiply(combined, np.sqrt(scale), out=combined)


def centred_rows(
    X: Any,
    mean: np.ndarray,
    sample_weight: np.ndarray | None = None,
    *,
    dtype: DTypeLike = np.float64,
) -> Iterator[tuple[slice, Any]]:
    """Blocks of centred rows, each multiplied by the root of its weight.

    Parameters
    ----------
    X : ndarray, memmap, csr or DeviceArray of shape (n_samples, n_features)
    mean : ndarray of shape (n_features,), float64
    sample_weight : ndarray of shape (n_samples,), default=None
    dtype : dtype, default=np.float64
        Of the blocks. The centring itself is done in float64.

    Yields
    ------
    rows : slice
    block : ndarray of shape (n_rows, n_features)
        A new array each time; of a `DeviceArray`, a tensor on the device.
    """
    if isinstance(X, DeviceArray):
        yield from _device_rows.centred_rows(X, mean, sample_weight, np.dtype(dtype))
        return
    for rows in _slices(X.shape[0], _block_rows(X.shape[1], 8)):
        part = X[rows].toarray() if sparse.issparse(X) else X[rows]
        block = np.subtract(part, mean, dtype=np.float64)
        if sample_weight is not None:
            block *= np.sqrt(sample_weight[rows])[:, np.newaxis]
        yield rows, block.astype(dtype, copy=False)


def threads_of_blas(X: Any) -> AbstractContextManager[Any]:
    """Context in which BLAS has one thread, if more than one does not help.

    NumPy and SciPy have a BLAS each. Threads of theirs that have done their work wait for more for
    some milliseconds without sleeping, and are in the way of each other and of those below:
    a fit then takes up to twice as long.
    """
    smaller = min(X.shape)
    if smaller > _ONE_THREAD_EIGENPROBLEM or X.shape[0] * X.shape[1] * smaller < _SMALL_PROBLEM:
        return nullcontext()
    return _OneThreadOfBlas()


def _set_threads(library: Any, n_threads: int) -> None:
    # The public method of threadpoolctl 3.8 does nothing in all threads but the first to use it,
    # which may not be the one that leaves last.
    getattr(library, "_real_set_num_threads", library.set_num_threads)(n_threads)


class _BlasLimit:
    """Keeps BLAS at one thread while any thread of the program asks for that.

    The number belongs to the whole process. Whoever comes first remembers it and whoever leaves
    last puts it back, so that blocks in several threads may overlap in any way.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.holders: set[object] = set()
        self.before: list[tuple[Any, int]] = []

    def enter(self, holder: object) -> None:
        with self.lock:
            if not self.holders:
                libraries = _get_threadpool_controller().lib_controllers
                self.before = [
                    (library, library.get_num_threads())
                    for library in libraries
                    if library.user_api == "blas"
                ]
            self.holders.add(holder)
            for library, _ in self.before:
                _set_threads(library, 1)

    def leave(self, holder: object) -> None:
        """Also if `enter` was interrupted, and also twice."""
        with self.lock:
            self.holders.discard(holder)
            if not self.holders:
                for library, n_threads in self.before:
                    _set_threads(library, n_threads)
                self.before = []

    def after_fork(self) -> None:
        """Forget the threads that a forked process does not have."""
        self.lock = threading.Lock()
        self.holders.clear()
        self.leave(None)


_BLAS_LIMIT = _BlasLimit()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_BLAS_LIMIT.after_fork)


class _OneThreadOfBlas:
    """Context in which BLAS has one thread."""

    def __enter__(self) -> None:
        try:
            _BLAS_LIMIT.enter(self)
        except BaseException:
            _BLAS_LIMIT.leave(self)
            raise

    def __exit__(self, *_: object) -> None:
        try:
            _BLAS_LIMIT.leave(self)
        except BaseException:
            _BLAS_LIMIT.leave(self)
            raise


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _block_rows(n_features: int, itemsize: int) -> int:
    n_bytes = _NARROW_BLOCK_BYTES if n_features <= 256 else _WIDE_BLOCK_BYTES
    rows = max(n_bytes // (max(n_features, 1) * itemsize), n_features, 1)
    return rows // _STRIP_ROWS * _STRIP_ROWS or rows


def _scaled_weights(
    n_samples: int, sample_weight: np.ndarray | None
) -> tuple[int, float, np.ndarray | None]:
    """Count the rows that matter; find the largest weight, and the weights over it."""
    if sample_weight is None:
        return n_samples, 1.0, None
    largest = float(np.max(sample_weight, initial=0.0))
    scale = largest if largest > 0.0 else 1.0
    return (
        int(np.count_nonzero(sample_weight)),
        scale,
        np.asarray(sample_weight, dtype=np.float64) / scale,
    )


def _dense_moments(
    X: np.ndarray, weights: np.ndarray | None, dtype: np.dtype, device: torch.device
) -> tuple[float, Tensor, Tensor]:
    """Centre and multiply each block; then account for the distances between their means."""
    n_samples, n_features = X.shape
    slices = list(_slices(n_samples, _block_rows(n_features, dtype.itemsize)))
    if isinstance(X, DeviceArray):
        slices = list(_device_rows.slices(n_samples, n_features))
    in_threads = _n_threads(len(slices), X.shape, n_features) > 1
    with _OneThreadOfBlas() if in_threads else nullcontext():
        if device.type == "cpu" and not isinstance(X, DeviceArray):
            block_weights, block_means, scatter = _within_blocks(X, weights, dtype, slices)
        else:
            block_weights, block_means, scatter = _within_streamed_blocks(
                X, weights, dtype, slices, device
            )
        weight = block_weights.sum()
        mean = block_weights @ block_means / max(weight, np.finfo(float).tiny)
        if len(slices) > 1:
            distances = (block_means - mean) * np.sqrt(block_weights)[:, np.newaxis]
            scatter += torch.from_numpy(distances.T @ distances).to(device)
    return float(weight), torch.from_numpy(mean), scatter


def _settle_narrow_columns(
    X: np.ndarray,
    weights: np.ndarray | None,
    dtype: np.dtype,
    weight: float,
    mean: Tensor,
    scatter: Tensor,
) -> None:
    """Correct, in place, the moments of columns that hardly vary beside their means.

    The mean of a block is known to some roundings of itself. Where that is not little beside the
    spread of a column, the first row is subtracted instead, which is exact for cells so close
    together, and a constant column has a scatter of exactly zero.
    """
    squares = scatter.diagonal().cpu().numpy()
    means = mean.numpy()
    constant = squares == 0.0
    if constant.any():
        means[constant] = on_host(X[_first_row(weights)])[constant]  # to the last bit
        nothing = torch.from_numpy(constant).to(scatter.device)
        scatter[nothing] = 0.0
        scatter[:, nothing] = 0.0
    narrowness = _NARROW[dtype.name] ** 2
    with np.errstate(under="ignore"):
        (narrow,) = np.nonzero((squares != 0.0) & (squares <= narrowness * weight * means**2))
    if not len(narrow):
        return
    first = on_host(X[_first_row(weights)])[narrow].astype(np.float64)
    totals = np.zeros(len(narrow))
    for rows in _slices(len(X), _block_rows(X.shape[1], 8)):
        block = on_host(X[rows][:, narrow]) - first
        totals += block.sum(axis=0) if weights is None else weights[rows] @ block
    rest = totals / weight
    cross = np.zeros((X.shape[1], len(narrow)))
    others = means.copy()
    means[narrow] = first + rest
    for rows in _slices(len(X), _block_rows(X.shape[1], 8)):
        cells = on_host(X[rows])
        block = np.subtract(cells, others, dtype=np.float64)
        block[:, narrow] = cells[:, narrow] - first - rest
        weighted = block if weights is None else weights[rows, np.newaxis] * block
        cross += weighted.T @ block[:, narrow]
    settled = torch.from_numpy(cross).to(scatter.device)
    columns = torch.from_numpy(narrow).to(scatter.device)
    scatter[:, columns] = settled
    scatter[columns, :] = settled.T


def _first_row(weights: np.ndarray | None) -> int:
    """Find the first row that counts."""
    return 0 if weights is None else int(np.argmax(weights > 0.0))


def _within_blocks(
    X: np.ndarray, weights: np.ndarray | None, dtype: np.dtype, slices: list[slice]
) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """Weight and mean of every block, and the sum of their scatter matrices, on the CPU.

    Everything here is NumPy's: it recognises a product of a matrix with its own transpose and
    computes the symmetric half only, and its BLAS and Torch's thread pools do not mix well.
    """
    block_weights = np.empty(len(slices))
    block_means = np.empty((len(slices), X.shape[1]))

    def scatter_of(share: list[int]) -> np.ndarray:
        return _scatter_of_blocks(X, weights, dtype, slices, share, block_weights, block_means)

    scatter = sum(_in_threads(scatter_of, len(slices), X.shape, X.shape[1]))
    return block_weights, block_means, torch.from_numpy(scatter)


def _in_threads(
    work: Callable[[list[int]], Any], n_blocks: int, shape: tuple[int, ...], width: int
) -> list[Any]:
    """Do work for shares of numbered blocks, in as many threads as there are.

    BLAS would use all threads for the products alone, and leave them waiting for the sums and
    differences between these. Here each thread does everything for its share of the blocks.

    Parameters
    ----------
    work : callable
        Takes the numbers of some blocks.
    n_blocks : int
    shape : tuple of int
        Of the data that the blocks make up.
    width : int
        Of the matrix that each thread needs for itself, and that the data is multiplied by.

    Returns
    -------
    list
        The result of each share.
    """
    n_threads = _n_threads(n_blocks, shape, width)
    if n_threads == 1:
        return [work(list(range(n_blocks)))]

    def quietly(share: list[int]) -> Any:
        with np.errstate(over="ignore", invalid="ignore"):  # a setting of each thread
            return work(share)

    shares = [share.tolist() for share in np.array_split(np.arange(n_blocks), n_threads)]
    with _OneThreadOfBlas(), ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(quietly, shares))


def _n_threads(n_blocks: int, shape: tuple[int, ...], width: int) -> int:
    if width > _MAX_THREADED_WIDTH or shape[0] * shape[1] * width < _THREADED_PRODUCT:
        return 1
    return threads_after_fork(min(_openmp_effective_n_threads(), n_blocks))


def _scatter_of_blocks(
    X: np.ndarray,
    weights: np.ndarray | None,
    dtype: np.dtype,
    slices: list[slice],
    numbers: list[int],
    block_weights: np.ndarray,
    block_means: np.ndarray,
) -> np.ndarray:
    """Sum of the scatter matrices of some blocks; their weights and means go into the arrays."""
    n_features = X.shape[1]
    scatter = np.zeros((n_features, n_features))
    order: Any = "C" if X.flags.c_contiguous or not X.flags.f_contiguous else "F"
    n_rows = slices[0].stop - slices[0].start
    buffer = np.empty((n_rows, n_features), dtype=dtype, order=order)
    for number in numbers:
        rows = slices[number]
        block = X[rows].astype(dtype, copy=False)  # (n_rows, n_features)
        centred = buffer[: len(block)]
        if weights is None:
            total, block_weight = None, float(len(block))
        else:
            total, block_weight = weights[rows], float(weights[rows].sum())
        divisor = max(block_weight, np.finfo(float).tiny)
        mean = _column_sums(block, total) / divisor
        centre = mean.astype(dtype)
        _subtract_row(block, centre, centred)
        if total is not None:
            mean = centre + _column_sums(centred, total) / divisor
            centred *= np.sqrt(total)[:, np.newaxis].astype(dtype)
        product = centred.T @ centred
        variances = np.diagonal(product)
        if total is None and not (np.square(mean) * len(block) <= 1e4 * variances).all():
            # The corrected two-pass algorithm: what rounding left of the mean, which is
            # noticeable only where the mean is large, is found from the centred rows.
            mean = centre + _column_sums(centred, None) / divisor
        rest = mean - centre
        scatter += product
        if rest.any():
            scatter -= np.outer(rest * block_weight, rest)
        block_weights[number] = block_weight
        block_means[number] = mean
    return scatter


def _column_sums(block: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Add the rows up in float64, float32 rows by strips."""
    n_rows, n_features = block.shape
    if weights is not None:
        return (weights.astype(block.dtype) @ block).astype(np.float64, copy=False)
    if block.dtype == np.float64 or not block.flags.c_contiguous or n_rows < 2 * _STRIP_ROWS:
        return block.sum(axis=0, dtype=np.float64)
    whole = n_rows // _STRIP_ROWS * _STRIP_ROWS
    strips = block[:whole].reshape(-1, _STRIP_ROWS, n_features)
    if n_features >= 64:
        sums = strips.sum(axis=1)  # (n_strips, n_features)
    else:
        sums = np.ones(_STRIP_ROWS, dtype=block.dtype) @ strips
    return sums.sum(axis=0, dtype=np.float64) + block[whole:].sum(axis=0, dtype=np.float64)


def _subtract_row(block: np.ndarray, row: np.ndarray, out: np.ndarray) -> None:
    """Subtract a row from every row; short rows are taken several at a time."""
    n_rows, n_features = block.shape
    together = 16
    if n_features > 64 or n_rows < _STRIP_ROWS or not block.flags.c_contiguous:
        np.subtract(block, row, out=out)
        return
    whole = n_rows // together * together
    shape = (-1, together * n_features)
    np.subtract(
        block[:whole].reshape(shape), np.tile(row, together), out=out[:whole].reshape(shape)
    )
    np.subtract(block[whole:], row, out=out[whole:])


def _within_streamed_blocks(
    X: np.ndarray,
    weights: np.ndarray | None,
    dtype: np.dtype,
    slices: list[slice],
    device: torch.device,
) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """As `_within_blocks`, on an accelerator that blocks of host memory are streamed to."""
    n_features = X.shape[1]
    block_weights = torch.zeros(len(slices), dtype=torch.float64, device=device)
    block_means = torch.zeros((len(slices), n_features), dtype=torch.float64, device=device)
    scatter = torch.zeros((n_features, n_features), dtype=torch.float64, device=device)
    tiny = torch.finfo(torch.float64).tiny
    for index, (rows, block) in enumerate(_streamed(X, dtype, slices, device)):
        if weights is None:
            block_weight = float(len(block))
            centre = (block.sum(dim=0, dtype=torch.float64) / block_weight).to(block.dtype)
            block = block - centre
            rest = block.sum(dim=0, dtype=torch.float64) / block_weight
        else:
            row_weights = torch.from_numpy(weights[rows]).to(device)
            block_weight = float(weights[rows].sum())
            divisor = max(block_weight, tiny)
            row_weights_like = row_weights.to(block.dtype)
            centre = (row_weights_like @ block) / divisor
            block = block - centre
            rest = (row_weights_like @ block).to(torch.float64) / divisor
            block = block * row_weights.sqrt().to(block.dtype)[:, None]
        # float32 products must not be rounded to tensorfloat32, the user's global choice.
        scatter += full_precision_product(block)
        scatter -= torch.outer(rest * block_weight, rest)
        block_weights[index] = block_weight
        block_means[index] = centre + rest
    return block_weights.cpu().numpy(), block_means.cpu().numpy(), scatter


def _streamed(
    X: np.ndarray, dtype: np.dtype, slices: list[slice], device: torch.device
) -> Iterator[tuple[slice, Tensor]]:
    """Blocks on the device; the next one is copied while the last one is multiplied.

    Two pinned buffers take turns. A buffer is filled again only when its last copy has left it.
    Rows that are on a device already are not copied.
    """
    if isinstance(X, DeviceArray):
        for rows in slices:
            yield rows, X.tensor[rows].to(device, TORCH_DTYPES[dtype])
        return
    n_rows, n_features = slices[0].stop - slices[0].start, X.shape[1]
    torch_dtype = torch.from_numpy(np.empty(0, dtype=dtype)).dtype
    buffers = [
        torch.empty((n_rows, n_features), dtype=torch_dtype, pin_memory=True) for _ in range(2)
    ]
    copied = [torch.cuda.Event() for _ in range(2)]
    for index, rows in enumerate(slices):
        turn = index % 2
        if index >= 2:
            copied[turn].synchronize()
        host = buffers[turn][: rows.stop - rows.start]
        np.copyto(host.numpy(), X[rows], casting="unsafe")
        block = host.to(device, non_blocking=True)
        copied[turn].record(torch.cuda.current_stream(device))
        yield rows, block


def _centred_columns(
    X: np.ndarray, weights: np.ndarray | None, dtype: np.dtype, columns: slice
) -> tuple[np.ndarray, np.ndarray]:
    """Means of columns, and the columns centred, with rows times the roots of their weights."""
    weight = float(len(X)) if weights is None else max(weights.sum(), np.finfo(float).tiny)
    block = X[:, columns].astype(dtype, copy=False)  # (n_samples, n_columns)
    first = block[_first_row(weights)]
    # Rounding of the mean would give constant columns a variance. A look at three rows rules most
    # of the others out.
    constant = (block[[len(block) // 2, -1]] == first).all(axis=0)
    if constant.any():
        constant[constant] = (block[:, constant] == first[constant]).all(axis=0)
    centre = (_column_sums(block, weights) / weight).astype(dtype)
    block = block - centre
    # Rows may be few and means large: the second centring is cheap beside the product.
    rest = _column_sums(block, weights) / weight
    block -= rest.astype(dtype)
    if constant.any():
        block[:, constant] = 0.0
    if weights is not None:
        block *= np.sqrt(weights)[:, np.newaxis].astype(dtype)
    return np.where(constant, first, centre + rest), block


def _split_dense_columns(
    X: Any, weights: np.ndarray | None
) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Separate the columns of sparse data that are dense in all but name, and centre these.

    For a column with a share p of cells that are not zero, mean² / variance <= p / (1 - p).
    Centring a product afterwards, X'X - w·mm', cancels log10 of that ratio digits, which is
    harmless unless hardly a zero is left; such columns cost no memory as dense ones.

    Returns
    -------
    sparse_part : sparse matrix of shape (n_samples, n_features)
        Its rows are multiplied by the roots of their weights; without the dense columns.
    dense_columns : ndarray of shape (n_features,), bool
    dense_part : ndarray of shape (n_samples, n_dense_columns)
        Centred, its rows multiplied by the roots of their weights.
    mean : ndarray of shape (n_features,)
    root : ndarray of shape (n_samples,)
        Roots of the weights.
    """
    n_samples = X.shape[0]
    rows: Any = sparse.csc_array(X, dtype=np.float64)
    row_weights = np.ones(n_samples) if weights is None else weights
    weight = max(row_weights.sum(), np.finfo(float).tiny)
    root = np.sqrt(row_weights)
    mean = rows.T @ row_weights / weight
    share = np.diff(rows.indptr) / n_samples
    dense_columns = share > 1.0 - 1.0 / (_DENSE_COLUMN_RATIO + 1.0)
    # A few rows with most of the weight may hold all the cells that are not zero.
    second = rows.copy()
    second.data **= 2
    second_moment = second.T @ row_weights / weight
    ratio = _DENSE_COLUMN_RATIO / (_DENSE_COLUMN_RATIO + 1.0)
    dense_columns |= mean**2 > ratio * second_moment
    dense_part = rows[:, dense_columns].toarray()
    first = dense_part[_first_row(weights)].copy()  # so that constant columns are exactly zero
    dense_part -= first
    rest = row_weights @ dense_part / weight
    dense_part -= rest
    mean[dense_columns] = first + rest
    dense_part *= root[:, np.newaxis]
    sparse_part = rows.copy()
    sparse_part.data *= np.repeat(~dense_columns, np.diff(rows.indptr))
    sparse_part.eliminate_zeros()
    if weights is not None:
        sparse_part.data *= root[sparse_part.indices]
    sparse_part = sparse_part.tocsr()
    return sparse_part, dense_columns, dense_part, mean, root


def _sparse_moments(X: Any, weights: np.ndarray | None) -> tuple[float, Tensor, Tensor]:
    sparse_part, dense_columns, dense_part, mean, root = _split_dense_columns(X, weights)
    weight = float(root @ root)
    sparse_mean = np.where(dense_columns, 0.0, mean)
    scatter = (sparse_part.T @ sparse_part).toarray()
    scatter -= np.outer(weight * sparse_mean, sparse_mean)
    if dense_columns.any():
        # The dense part has mean zero, so this product is centred on both sides.
        cross = sparse_part.T @ dense_part  # (n_features, n_dense_columns)
        scatter[:, dense_columns] += cross
        scatter[dense_columns, :] += cross.T
        scatter[np.ix_(dense_columns, dense_columns)] += dense_part.T @ dense_part
    return weight, torch.from_numpy(mean), torch.from_numpy(scatter)


def _sparse_gram(X: Any, weights: np.ndarray | None) -> tuple[Tensor, Tensor]:
    sparse_part, dense_columns, dense_part, mean, root = _split_dense_columns(X, weights)
    sparse_mean = np.where(dense_columns, 0.0, mean)
    gram = (sparse_part @ sparse_part.T).toarray()
    cross = np.outer(sparse_part @ sparse_mean, root)
    gram -= cross + cross.T
    gram += (sparse_mean @ sparse_mean) * np.outer(root, root)
    if dense_columns.any():
        gram += dense_part @ dense_part.T
    return torch.from_numpy(mean), torch.from_numpy(gram)
