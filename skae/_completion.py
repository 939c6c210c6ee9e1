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
from skae._unknown import SMALLEST_SHARE, Gaussian, fit_gaussian, rows_with_known_cells
from skae._validation import unknown_cells

# How often a network without a Gaussian fills its own rows, from means on.
_N_ROUNDS = 10


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """What the known cells of a row say of its unknown ones.

    Parameters
    ----------
    center, deviation : ndarray of shape (n_features,), float64
        What is subtracted from cells, and what they are divided by, before they are looked at.
    gaussian : Gaussian
        Of these standardized rows.
    low, high : float or ndarray of shape (n_features,)
        Ends of the interval that cells lie in.
    n_rounds : int
        How often the network then puts its own reconstruction in the place of unknown cells.
    """

    center: np.ndarray
    deviation: np.ndarray
    gaussian: Gaussian
    low: Any
    high: Any
    n_rounds: int = 0

    @classmethod
    def of_gaps(
        cls,
        X: Any,
        sample_weight: np.ndarray | None,
        support: tuple[Any, Any],
        names: np.ndarray | None,
        owner: str,
    ) -> Self:
        """Fit to rows with unknown cells.

        Raises
        ------
        ValueError
            If a column has no known cell.
        """
        X = X.toarray() if sparse.issparse(X) else X
        X, weights = rows_with_known_cells(X, sample_weight, names)
        center, deviation = np.nanmean(X, axis=0), np.nanstd(X, axis=0)
        deviation = np.where(deviation > 0.0, deviation, 1.0)
        gaussian = fit_gaussian((X - center) / deviation, weights / weights.sum(), owner)
        return cls(center, deviation, gaussian, *support)

    @classmethod
    def of_code(cls, linear: LinearCode, support: tuple[Any, Any]) -> Self:
        """Take probabilistic PCA of complete rows."""
        largest = max(float(linear.variances.max(initial=0.0)), linear.noise_variance)
        smallest = max(SMALLEST_SHARE * largest, float(np.finfo(np.float64).tiny))
        noise = max(linear.noise_variance, smallest)
        zeros = np.zeros_like(linear.mean)
        gaussian = Gaussian.from_axes(zeros, linear.axes, linear.variances, noise)
        return cls(linear.mean, zeros + 1.0 / linear.scales, gaussian, *support)

    @classmethod
    def of_means(cls, rows: Rows, support: tuple[Any, Any]) -> Self:
        """Take the means of complete rows, for a network whose start is no linear code."""
        X, weights = rows.source()
        if sparse.issparse(X):
            shares = np.ones(X.shape[0]) if weights is None else weights
            mean = np.asarray(shares @ X).ravel() / shares.sum()
        else:
            mean = column_means(X, weights)
        zeros = np.zeros_like(mean)
        gaussian = Gaussian.from_axes(zeros, np.empty((0, len(mean))), np.empty(0), 1.0)
        return cls(mean, zeros + 1.0, gaussian, *support, n_rounds=_N_ROUNDS)

    def fill(self, X: np.ndarray) -> np.ndarray:
        """Put what is expected in the place of unknown cells, (n_samples, n_features)."""
        with np.errstate(over="ignore"):
            rows = (X.astype(np.float64) - self.center) / self.deviation
            expected = self.gaussian.fill(rows) * self.deviation + self.center
            return np.where(np.isnan(X), self.bounded(expected), X).astype(X.dtype)

    def bounded(self, X: np.ndarray) -> np.ndarray:
        """Move cells into their interval."""
        unbounded = np.isinf(self.low).all() and np.isinf(self.high).all()
        return X if unbounded else np.clip(X, self.low, self.high)

    def linear_code(self, scales: np.ndarray, n_rows: int, n_components: int | float) -> LinearCode:
        """Give PCA of the rows that this was fitted to, times factors of their columns.

        Parameters
        ----------
        scales : ndarray of shape (n_features,) or (1,)
            Factors.
        n_rows : int
            Number of rows.
        n_components : int or float
            As of `linear_code`.
        """
        factors = self.deviation * scales
        mean = self.center * scales + self.gaussian.mean.numpy() * factors
        unbiased = n_rows / max(n_rows - 1, 1) * self.gaussian.covariance().numpy()
        return linear_code_of_moments(mean, np.outer(factors, factors) * unbiased, n_components)

    def to_arrays(self) -> dict[str, Any]:
        """Everything as numbers and NumPy arrays, for a file."""
        return {
            "center": self.center,
            "deviation": self.deviation,
            "mean": self.gaussian.mean.numpy(),
            "loadings": self.gaussian.loadings.numpy(),
            "noise_variance": self.gaussian.noise_variance,
            "low": self.low,
            "high": self.high,
            "n_rounds": self.n_rounds,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, Any]) -> Self:
        """Read what `to_arrays` gave."""
        mean, loadings = (torch.from_numpy(arrays[name]) for name in ("mean", "loadings"))
        gaussian = Gaussian(mean, loadings, arrays["noise_variance"])
        others = (arrays[name] for name in ("low", "high", "n_rounds"))
        return cls(arrays["center"], arrays["deviation"], gaussian, *others)


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
