"""Moments of Dask collections, which the workers compute.

Dask is imported when there is a collection, and nowhere else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
import torch

from skae._blocks import check_columns, is_frame, known_lengths, one_chunk_of_columns
from skae._moments import Moments, threads_of_blas
from skae._unknown import TOLERANCE, Gaussian, column_products, column_sums, maximum_likelihood
from skae._validation import check_finite, float_dtype, name_of, read_table, validate_weights

# States that are merged in one task.
N_MERGED = 8


class Summary(NamedTuple):
    """What the moments of some rows need beside them."""

    moments: Moments
    n_rows: int
    """Also those without weight."""
    n_unknown: int
    n_with_known: int
    """Rows with weight that have a known cell."""
    weight_with_known: float
    extremes: np.ndarray
    """Smallest and largest known cell of each column, (2, n_features)."""
    is_single: bool
    """Whether all cells are float32."""

    def merge(self, other: Self) -> Summary:
        """Summary of the rows of both."""
        return Summary(
            self.moments.merge(other.moments),
            self.n_rows + other.n_rows,
            self.n_unknown + other.n_unknown,
            self.n_with_known + other.n_with_known,
            self.weight_with_known + other.weight_with_known,
            np.stack(
                [
                    np.fmin(self.extremes[0], other.extremes[0]),
                    np.fmax(self.extremes[1], other.extremes[1]),
                ]
            ),
            self.is_single and other.is_single,
        )


class Chunks:
    """The rows of a Dask collection, chunk by chunk.

    Parameters
    ----------
    X : dask.array.Array of shape (n_samples, n_features), or dask.dataframe.DataFrame
    sample_weight : array-like or dask collection of shape (n_samples,), default=None
    estimator : estimator
        For messages.

    Raises
    ------
    ValueError
        If X does not have rows and columns, or columns that are no numbers, or other chunks than
        the weights.
    RuntimeError
        If there is a Dask client, and nobody who works for it.
    """

    def __init__(self, X: Any, sample_weight: Any, estimator: Any) -> None:
        self.names = list(X.columns) if is_frame(X) else None
        check_columns(X)
        check_workers()
        X = one_chunk_of_columns(X)
        self.n_features = int(X.shape[1])
        self._owner = name_of(estimator)
        parts = np.ravel(X.to_delayed()).tolist()
        weights = weights_of_chunks(X, sample_weight, len(parts))
        self._parts = list(zip(parts, weights, strict=True))

    def summarize(self) -> Summary:
        """Compute the moments of all rows, those of each chunk where it is."""
        summary = self._reduce(partial(summarize, owner=self._owner, names=self.names), merge)
        if summary is None:
            raise ValueError(
                f"Found array with 0 sample(s) (shape=(0, {self.n_features})) while a minimum of 1 "
                f"is required by {self._owner}."
            )
        return summary

    def known_moments(self, n_components: int, largest: float) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance by the EM algorithm.

        Each step of the algorithm is one pass over the chunks.

        Parameters
        ----------
        n_components : int
        largest : float
            Absolute value of the largest cell.
        """
        scale = 2.0 ** -np.frexp(largest)[1]

        def total(function: Callable[..., Any]) -> Any:
            return self._reduce(partial(over_known, function, scale), add)

        weight, of_column, sums = total(column_sums)
        empty = np.flatnonzero(of_column == 0.0)
        if len(empty):
            labels = [int(place) if self.names is None else self.names[place] for place in empty]
            raise ValueError(
                f"Input X contains NaN in all cells of {len(empty)} columns: {labels[:5]}. Drop "
                "them: nothing is known of them."
            )
        mean = sums / of_column
        products = total(partial(column_products, mean=mean))
        products = products / weight
        products.flat[:: len(mean) + 1] *= weight / of_column

        def expected(gaussian: Gaussian) -> tuple[torch.Tensor, torch.Tensor, float]:
            shift, scatter, log_density = total(partial(expected_sums, gaussian))
            shift, scatter = torch.from_numpy(shift / weight), torch.from_numpy(scatter / weight)
            centred = scatter - torch.outer(shift, shift)
            return gaussian.mean + shift, centred, log_density / weight

        mean, covariance = maximum_likelihood(
            expected,
            (torch.from_numpy(mean), torch.from_numpy(products)),
            n_components,
            self._owner,
            TOLERANCE,
        )
        with np.errstate(over="ignore"):
            return mean.numpy() / scale, covariance.numpy() / scale / scale

    def _reduce(self, function: Callable[..., Any], join: Callable[..., Any]) -> Any:
        """Apply a function to all chunks, and join the results along a tree."""
        import dask

        task, joined = dask.delayed(function, pure=False), dask.delayed(join, pure=False)
        level = [task(part, weights) for part, weights in self._parts]
        while len(level) > 1 or not level:
            level = [
                joined(level[i : i + N_MERGED]) for i in range(0, max(len(level), 1), N_MERGED)
            ]
        (result,) = dask.compute(level[0])
        return result


# In the workers


def summarize(part: Any, weights: Any, owner: str, names: Sequence[Any] | None) -> Summary | None:
    """Moments of a chunk; None of one without rows."""
    rows, weights = numbers_of_part(part, weights, owner)
    if len(rows) == 0:
        return None
    check_finite(rows, owner, names, allow_nan=True)
    with threads_of_blas(rows), np.errstate(all="ignore"):
        moments = Moments.from_rows(rows, weights, product_dtype=np.float64)
        extremes = np.stack([np.fmin.reduce(rows, axis=0), np.fmax.reduce(rows, axis=0)])
    unknown = np.isnan(rows)
    weights = np.ones(len(rows)) if weights is None else weights
    with_known = ~unknown.all(axis=1) & (weights > 0.0)
    return Summary(
        moments,
        len(rows),
        int(np.count_nonzero(unknown)),
        int(np.count_nonzero(with_known)),
        float(weights[with_known].sum()),
        extremes.astype(np.float64),
        rows.dtype == np.float32,
    )


def over_known(function: Callable[..., Any], scale: float, part: Any, weights: Any) -> Any:
    """Apply a function to the scaled rows with known cells and their weights."""
    rows, weights = numbers_of_part(part, weights, "")
    weights = np.ones(len(rows)) if weights is None else weights
    kept = ~np.isnan(rows).all(axis=1) & (weights > 0.0)
    return function(rows[kept].astype(np.float64) * scale, weights[kept])


def expected_sums(gaussian: Gaussian, X: np.ndarray, weights: np.ndarray) -> tuple[Any, Any, float]:
    """Take the expectation step for some rows."""
    shift, scatter, log_density = gaussian.expected_sums(X, weights)
    return shift.numpy(), scatter.numpy(), log_density


def numbers_of_part(part: Any, weights: Any, owner: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a chunk and its weights as arrays of numbers."""
    part = part.toarray() if hasattr(part, "toarray") else part
    rows = read_table(part, _Owner(owner), ensure_min_samples=0, ensure_all_finite=False)
    rows = rows.astype(float_dtype(rows), copy=False)
    if weights is None or len(rows) == 0:
        return rows, None
    weights = np.asarray(weights)
    if len(weights) != len(rows):
        raise ValueError(
            f"A chunk of X has {len(rows)} rows, and that of sample_weight has {len(weights)}. "
            "Give both the same chunks."
        )
    if not weights.any():
        return rows, weights.astype(np.float64)
    return rows, validate_weights(weights, rows)


class _Owner:
    """Stands for an estimator, of which only the name is needed in a worker."""

    def __init__(self, name: str) -> None:
        self._public_name = name


def merge(summaries: Sequence[Summary | None]) -> Summary | None:
    """Merge the summaries of chunks, in their order."""
    found = [summary for summary in summaries if summary is not None]
    if not found:
        return None
    total = found[0]
    for summary in found[1:]:
        total = total.merge(summary)
    return total


def add(results: Sequence[Any]) -> Any:
    """Add up numbers and arrays, or tuples of them."""
    if isinstance(results[0], tuple):
        return tuple(sum(parts) for parts in zip(*results, strict=True))
    return sum(results)


# Collections


def weights_of_chunks(X: Any, sample_weight: Any, n_chunks: int) -> list[Any]:
    """Divide weights as the rows are."""
    if sample_weight is None:
        return [None] * n_chunks
    if hasattr(sample_weight, "to_delayed"):
        if not is_frame(X) and not is_frame(sample_weight) and not np.isnan(X.chunks[0]).any():
            sample_weight = sample_weight.rechunk((X.chunks[0],))
        parts = np.ravel(sample_weight.to_delayed()).tolist()
        if len(parts) != n_chunks:
            raise ValueError(
                f"X has {n_chunks} chunks of rows, and sample_weight has {len(parts)}. Give both "
                "the same chunks."
            )
        return parts
    lengths = known_lengths(X)
    n_rows = int(sum(lengths))
    weights = validate_weights(sample_weight, np.empty((n_rows, 0)))
    return np.split(weights, np.cumsum(lengths)[:-1])


def check_workers() -> None:
    """Raise a RuntimeError if a Dask client is at hand that nobody works for: it would wait."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return
    try:
        client = distributed.Client.current()
    except ValueError:
        return  # Dask's own threads or processes compute
    if client.status != "running":
        raise RuntimeError(
            f"The Dask client is {client.status}: its scheduler cannot be reached. Start a cluster "
            "and a new Client, or close this one to compute in this process."
        )
    if not client.scheduler_info()["workers"]:
        raise RuntimeError(
            "The scheduler of the Dask client has no workers, so that nothing would be computed. "
            "Start some, for example by cluster.scale(2)."
        )
