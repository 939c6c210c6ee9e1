"""Moments and projections of rows in the memory of an accelerator, block by block.

They are the functions of `_moments` and `_decomposition` with the same names, for tables that never
come to the host. Blocks are larger: a device is kept busy by few large products.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from skae._device_array import TORCH_DTYPES, DeviceArray

BLOCK_BYTES = 2**26


def slices(length: int, width: int) -> Iterator[slice]:
    """Yield rows that are taken together, or columns if `width` is the number of rows."""
    step = max(BLOCK_BYTES // (8 * max(width, 1)), 1)
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def first_row(weights: np.ndarray | None) -> int:
    """Find the first row that counts."""
    return 0 if weights is None else int(np.argmax(weights > 0.0))


def column_means(X: DeviceArray, weights: np.ndarray | None) -> np.ndarray:
    """Weighted means of the columns, in float64, exact for constant ones."""
    shares = shares_of_rows(X, weights)
    first = X.tensor[first_row(weights)].double()
    mean = torch.zeros_like(first)
    for rows in slices(*X.shape):
        mean += shares[rows] @ (X.tensor[rows].double() - first)
    return (first + mean).cpu().numpy()


def shares_of_rows(X: DeviceArray, weights: np.ndarray | None) -> Tensor:
    """Weights that sum to one, (n_samples,), in float64."""
    if weights is None:
        weights = np.ones(len(X))
    return torch.from_numpy(weights / max(weights.sum(), np.finfo(float).tiny)).to(X.device)


def centred_rows(
    X: DeviceArray, mean: np.ndarray, weights: np.ndarray | None, dtype: np.dtype
) -> Iterator[tuple[slice, Tensor]]:
    """Yield blocks of centred rows, each multiplied by the root of its weight."""
    centre = torch.from_numpy(mean).to(X.device)
    roots = None if weights is None else torch.from_numpy(np.sqrt(weights)).to(X.device)
    for rows in slices(*X.shape):
        block = X.tensor[rows].double() - centre
        if roots is not None:
            block *= roots[rows, None]
        yield rows, block.to(TORCH_DTYPES[np.dtype(dtype)])


def column_squares(X: DeviceArray, mean: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Weighted sums of the squares of the centred columns."""
    squares = torch.zeros(X.shape[1], dtype=torch.float64, device=X.device)
    for _, block in centred_rows(X, mean, weights, np.dtype(np.float64)):
        squares += block.square().sum(dim=0)
    return squares.cpu().numpy()


def centred_columns(
    X: DeviceArray, weights: np.ndarray | None, dtype: np.dtype, columns: slice
) -> tuple[Tensor, Tensor]:
    """Means of columns, and the columns centred, with rows times the roots of their weights."""
    block = X.tensor[:, columns]  # (n_samples, n_columns)
    first = block[first_row(weights)].double()
    centred = block.double() - first
    rest = shares_of_rows(X, weights) @ centred
    centred -= rest
    if weights is not None:
        centred *= torch.from_numpy(np.sqrt(weights)).to(X.device)[:, None]
    return first + rest, centred.to(TORCH_DTYPES[dtype])


def gram_matrix(
    X: DeviceArray, weights: np.ndarray | None, dtype: np.dtype
) -> tuple[Tensor, Tensor]:
    """Mean of the rows, and inner products of the centred rows."""
    n_samples, n_features = X.shape
    mean = torch.empty(n_features, dtype=torch.float64, device=X.device)
    gram = torch.zeros((n_samples, n_samples), dtype=torch.float64, device=X.device)
    for columns in slices(n_features, n_samples):
        mean[columns], block = centred_columns(X, weights, dtype, columns)
        gram += full_precision_product(block.T)
    return mean, gram


def project_on_rows(
    X: DeviceArray, coefficients: np.ndarray, weights: np.ndarray | None
) -> np.ndarray:
    """Combine the centred rows linearly, (n_components, n_features)."""
    left = torch.from_numpy(np.ascontiguousarray(coefficients.T)).to(X.device)
    combined = torch.empty((len(left), X.shape[1]), dtype=torch.float64, device=X.device)
    for columns in slices(X.shape[1], len(X)):
        _, block = centred_columns(X, weights, np.dtype(np.float64), columns)
        combined[:, columns] = left @ block
    return combined.cpu().numpy()


def full_precision_product(rows: Tensor) -> Tensor:
    """Inner products of columns, which are not rounded to tensorfloat32, the user's choice."""
    # Reading the older allow_tf32 is an error where the user has set the newer name.
    if rows.dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32":
        rows = rows.to(torch.float64)
    return rows.T @ rows


def project(
    X: DeviceArray, mean: np.ndarray, axes: np.ndarray, dtype: np.dtype | None = None
) -> DeviceArray:
    """Products of centred rows with axes, in the precision of the rows or another one."""
    precision = TORCH_DTYPES[np.dtype(dtype or X.dtype)]
    centre, directions = (
        torch.from_numpy(array).to(X.device, precision) for array in (mean, axes.T.copy())
    )
    projected = torch.empty((len(X), directions.shape[1]), dtype=precision, device=X.device)
    for rows in slices(*X.shape):
        torch.matmul(X.tensor[rows].to(precision) - centre, directions, out=projected[rows])
    return DeviceArray(projected)


def affine(codes: DeviceArray, axes: np.ndarray, mean: np.ndarray) -> DeviceArray:
    """Rows that have these codes along the axes, (n_samples, n_features)."""
    return DeviceArray(
        torch.addmm(codes.on_same_device(mean), codes.tensor, codes.on_same_device(axes))
    )


def squared_distances(
    X: DeviceArray, mean: np.ndarray, axes: np.ndarray, variances: np.ndarray, noise: float
) -> np.ndarray:
    """Squared Mahalanobis distances for variances along axes and one in all other directions."""
    directions, weights = (
        torch.from_numpy(array).to(X.device, torch.float64) for array in (axes, 1.0 / variances)
    )
    distances = torch.empty(len(X), dtype=torch.float64, device=X.device)
    for rows, centred in centred_rows(X, mean, None, np.dtype(np.float64)):
        along = centred @ directions.T  # (n_rows, n_components)
        rest = centred - along @ directions
        distances[rows] = along.square() @ weights + rest.square().sum(dim=1) / noise
    return distances.cpu().numpy()
