"""How unknown cells are filled before rows go into a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from scipy import sparse

from skae._decomposition import LinearCode, linear_code_of_moments
from skae._moments import column_means
from skae._rows import Rows, to_rows
from skae._unknown import SMALLEST_SHARE, Gaussian, fit_gaussian
from skae._validation import unknown_cells

# How often a network without a Gaussian fills its own rows, from means on.
_N_ROUNDS = 10


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """What the known cells of a row say of its unknown ones.

    Parameters
    ----------
    gaussian : Gaussian
        Of the rows.
    low, high : float or ndarray of shape (n_features,)
        Ends of the interval that cells lie in.
    n_rounds : int
        How often the network then puts its own reconstruction in the place of unknown cells.
    scales : float or ndarray of shape (n_features,)
        Factors of the columns; the Gaussian is that of scaled rows.
    """

    gaussian: Gaussian
    low: Any
    high: Any
    n_rounds: int = 0
    scales: Any = 1.0

    @classmethod
    def of_gaps(
        cls,
        X: Any,
        sample_weight: np.ndarray | None,
        support: tuple[Any, Any],
        names: np.ndarray | None,
        owner: str,
        scales: Any = 1.0,
    ) -> Self:
        """Fit to rows with unknown cells; see `fit_gaussian`."""
        X = X.toarray() if sparse.issparse(X) else X
        gaussian = fit_gaussian(scaled(X, scales), sample_weight, names, owner)
        return cls(gaussian, *support, scales=scales)

    @classmethod
    def of_code(cls, linear: LinearCode, support: tuple[Any, Any]) -> Self:
        """Take probabilistic PCA of complete rows."""
        largest = max(float(linear.variances.max(initial=0.0)), linear.noise_variance)
        smallest = max(SMALLEST_SHARE * largest, float(np.finfo(np.float64).tiny))
        noise = max(linear.noise_variance, smallest)
        gaussian = Gaussian.from_axes(
            linear.mean * linear.scales, linear.axes, linear.variances, noise
        )
        return cls(gaussian, *support, scales=linear.scales)

    @classmethod
    def of_means(cls, rows: Rows, support: tuple[Any, Any]) -> Self:
        """Take the means of complete rows, for a network whose start is no linear code."""
        X, weights = rows.source()
        if sparse.issparse(X):
            shares = np.ones(X.shape[0]) if weights is None else weights
            mean = np.asarray(shares @ X).ravel() / shares.sum()
        else:
            mean = column_means(X, weights)
        gaussian = Gaussian.from_axes(mean, np.empty((0, len(mean))), np.empty(0), 1.0)
        return cls(gaussian, *support, n_rounds=_N_ROUNDS)

    def fill(self, X: np.ndarray) -> np.ndarray:
        """Put what is expected in the place of unknown cells, (n_samples, n_features)."""
        filled = self.gaussian.fill(scaled(X, self.scales))
        return np.where(np.isnan(X), self.bounded(scaled(filled, 1.0 / self.scales)), X)

    def bounded(self, X: np.ndarray) -> np.ndarray:
        """Move cells into their interval."""
        unbounded = np.isinf(self.low).all() and np.isinf(self.high).all()
        return X if unbounded else np.clip(X, self.low, self.high)

    def linear_code(self, n_rows: int, n_components: int | float) -> LinearCode:
        """Give PCA of the rows, of which there were so many; see `linear_code`."""
        unbiased = self.gaussian.covariance().numpy() * (n_rows / max(n_rows - 1, 1))
        linear = linear_code_of_moments(self.gaussian.mean.numpy(), unbiased, n_components)
        return linear._replace(mean=linear.mean / self.scales, scales=self.scales)

    def to_arrays(self) -> dict[str, Any]:
        """Everything as numbers and NumPy arrays, for a file."""
        return {
            "mean": self.gaussian.mean.numpy(),
            "loadings": self.gaussian.loadings.numpy(),
            "noise_variance": self.gaussian.noise_variance,
            "low": self.low,
            "high": self.high,
            "n_rounds": self.n_rounds,
            "scales": self.scales,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, Any]) -> Self:
        """Read what `to_arrays` gave."""
        gaussian = Gaussian(
            torch.from_numpy(arrays["mean"]),
            torch.from_numpy(arrays["loadings"]),
            arrays["noise_variance"],
        )
        names = ("low", "high", "n_rounds", "scales")
        return cls(gaussian, *(arrays[name] for name in names))


def scaled(X: Any, scales: Any) -> Any:
    """Columns times their factors, in their dtype; the same table for a factor of one."""
    if np.ndim(scales) == 0:
        return X
    factors = scales.astype(X.dtype)
    return X @ sparse.diags_array(factors) if sparse.issparse(X) else X * factors


def has_gaps(*tables: Any) -> bool:
    """Whether a cell of validated tables, None for those that are not there, is unknown."""
    return any(table is not None and unknown_cells(table, "") is not None for table in tables)


def lacks_columns(rows: Rows) -> bool:
    """Whether no cell of some column is known."""
    return rows.known is not None and not rows.known.dense(slice(None)).any(dim=0).all()


def complete_rows(
    completion: Completion | None, X: Any, X_clean: Any, weights: np.ndarray | None
) -> Rows:
    """Turn validated tables into rows, with their unknown cells filled if there are any."""
    if completion is None:
        return to_rows(X, X_clean, weights)
    restored = X if X_clean is None else X_clean
    known = ~np.isnan(restored) if has_gaps(restored) else None
    if has_gaps(X):
        X = completion.fill(X)
    if known is not None and X_clean is not None:
        X_clean = np.where(known, X_clean, 0.0)  # which no loss looks at
    return to_rows(X, X_clean, weights, known)
