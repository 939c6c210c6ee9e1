"""How unknown cells are filled before rows go into a network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from scipy import sparse

from skae._blocks import BlockTable
from skae._decomposition import LinearCode, linear_code_of_moments
from skae._losses import Loss
from skae._moments import column_means
from skae._restorer import corrections, train_restorer
from skae._rows import Rows, to_rows
from skae._unknown import SMALLEST_SHARE, Gaussian, fit_gaussian, rows_with_known_cells
from skae._validation import unknown_cells

# How often a network without a Gaussian fills its own rows, from means on.
_N_ROUNDS = 10

# Epochs of the networks that restore cells, for each of the autoencoder.
_EPOCHS_PER_ITERATION = 2


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
        How often the autoencoder then puts its own reconstruction in the place of unknown cells.
    from_gaps : bool
        Whether it was fitted to rows with unknown cells.
    prior : float
        Weight of the prior of the Gaussian.
    network : dict of str to ndarray or None
        Weights of networks that correct what the Gaussian expects.
    """

    center: np.ndarray
    deviation: np.ndarray
    gaussian: Gaussian
    low: Any
    high: Any
    n_rounds: int = 0
    from_gaps: bool = False
    prior: float = 0.0
    network: dict[str, np.ndarray] | None = None

    @classmethod
    def of_gaps(
        cls,
        X: Any,
        sample_weight: np.ndarray | None,
        loss: Loss,
        names: np.ndarray | None,
        owner: str,
    ) -> Self:
        """Fit to rows with unknown cells, which the loss says the range of.

        Raises
        ------
        ValueError
            If a column has no known cell.
        """
        X, weights = rows_with_known_cells(dense(X), sample_weight, names)
        mean, variance = np.nanmean(X, axis=0), np.nanvar(X, axis=0)
        if loss.composition is None:
            deviation = np.sqrt(np.where(variance > 0.0, variance, 1.0))
        else:
            deviation = 1.0 / loss.composition.scales(mean, variance)
        rows = (X - mean) / deviation
        widths = widths_of(loss, len(mean))
        gaussian, prior = fit_gaussian(rows, weights / weights.sum(), widths, owner)
        return cls(mean, deviation, gaussian, *loss.support, from_gaps=True, prior=prior)

    def trained(
        self, X: Any, sample_weight: np.ndarray | None, loss: Loss, max_iter: int, seed: int
    ) -> Completion:
        """Add networks that restore hidden cells of the rows better, if there are such networks."""
        n_epochs = _EPOCHS_PER_ITERATION * max_iter
        X, weights = rows_with_known_cells(dense(X), sample_weight, None)
        rows = self.standardized(X)
        widths = widths_of(loss, rows.shape[1])
        network = train_restorer(
            self.gaussian, rows, weights / weights.mean(), widths, n_epochs, seed
        )
        return replace(self, network=network)

    @classmethod
    def of_code(cls, linear: LinearCode, loss: Loss) -> Self:
        """Take probabilistic PCA of complete rows."""
        largest = max(float(linear.variances.max(initial=0.0)), linear.noise_variance)
        smallest = max(SMALLEST_SHARE * largest, float(np.finfo(np.float64).tiny))
        noise = max(linear.noise_variance, smallest)
        zeros = np.zeros_like(linear.mean)
        gaussian = Gaussian.from_axes(zeros, linear.axes, linear.variances, noise)
        return cls(linear.mean, zeros + 1.0 / linear.scales, gaussian, *loss.support)

    @classmethod
    def of_means(cls, rows: Rows, loss: Loss) -> Self:
        """Take the means of complete rows, for a network whose start is no linear code."""
        X, weights = rows.source()
        if sparse.issparse(X):
            shares = np.ones(X.shape[0]) if weights is None else weights
            mean = np.asarray(shares @ X).ravel() / shares.sum()
        else:
            mean = column_means(X, weights)
        zeros = np.zeros_like(mean)
        gaussian = Gaussian.from_axes(zeros, np.empty((0, len(mean))), np.empty(0), 1.0)
        return cls(mean, zeros + 1.0, gaussian, *loss.support, n_rounds=_N_ROUNDS)

    def fill(self, X: np.ndarray) -> np.ndarray:
        """Put what is expected in the place of unknown cells, (n_samples, n_features)."""
        rows = self.standardized(X)
        expected = self.gaussian.fill(rows)
        if self.network is not None:
            expected = expected + corrections(self.network, expected, ~np.isnan(X))
        with np.errstate(over="ignore"):
            expected = self.bounded(expected * self.deviation + self.center)
            return np.where(np.isnan(X), expected, X).astype(X.dtype)

    def standardized(self, X: np.ndarray) -> np.ndarray:
        """Give rows on the scale of the model, in float64."""
        return (X.astype(np.float64) - self.center) / self.deviation

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
        covariance = self.gaussian.covariance().numpy()
        covariance = (1.0 + self.prior) * covariance - self.prior * np.eye(len(covariance))
        unbiased = n_rows / max(n_rows - 1, 1) * covariance
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
            "from_gaps": self.from_gaps,
            "prior": self.prior,
            "network": self.network,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, Any]) -> Self:
        """Read what `to_arrays` gave."""
        mean, loadings = (torch.from_numpy(arrays[name]) for name in ("mean", "loadings"))
        gaussian = Gaussian(mean, loadings, arrays["noise_variance"])
        others = {key: value for key, value in arrays.items() if key in cls.__slots__}
        return cls(gaussian=gaussian, **others)


def widths_of(loss: Loss, n_features: int) -> list[int]:
    """Count the features of each cell of a table."""
    if loss.composition is None:
        return [1] * n_features
    return [block.n_features for block in loss.composition.blocks]


def dense(table: Any) -> np.ndarray:
    """Give a table of any kind as an array."""
    return table.toarray() if sparse.issparse(table) else np.asarray(table)


def has_gaps(*tables: Any) -> bool:
    """Whether a cell of validated tables, None for those that are not there, is unknown."""
    return any(table is not None and unknown_cells(table, "") is not None for table in tables)


def in_memory(table: Any) -> Any:
    """Read a table in a file, if it has unknown cells to be filled."""
    return np.asarray(table) if isinstance(table, BlockTable) and has_gaps(table) else table


def lacks_columns(rows: Rows) -> bool:
    """Whether no cell of some column is known."""
    return rows.known is not None and not rows.known.dense(slice(None)).any(dim=0).all()


def complete_rows(
    completion: Completion | None, X: Any, X_clean: Any, weights: np.ndarray | None
) -> Rows:
    """Turn validated tables into rows, with their unknown cells filled if there are any."""
    if completion is None:
        return to_rows(X, X_clean, weights)
    X, X_clean = in_memory(X), in_memory(X_clean)
    restored = X if X_clean is None else X_clean
    known = ~np.isnan(restored) if has_gaps(restored) else None
    if has_gaps(X):
        X = completion.fill(X)
    if known is not None and X_clean is not None:
        X_clean = np.where(known, X_clean, 0.0)  # which no loss looks at
    return to_rows(X, X_clean, weights, known)
