"""What the components of a code carry: shares of variance, and the columns that they move."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Decode = Callable[[np.ndarray], np.ndarray]
"""(n_samples, n_components) -> (n_samples, n_features)."""


def explained_variance_ratios(decode: Decode, codes: np.ndarray, X: np.ndarray) -> np.ndarray:
    """Share of the variance of rows that each component explains, (n_components,).

    It is what the squared error rises by where the component is at its mean instead, as a share of
    the squared deviations of the rows from their mean. Of PCA it is the variance of the component.
    Of other decoders the shares need not add up, and one that does harm is negative.
    """
    X = X.astype(np.float64)
    total = np.square(X - X.mean(axis=0)).sum()
    error = np.square(decode(codes) - X).sum()
    shares = np.zeros(codes.shape[1])
    for component, mean in enumerate(codes.mean(axis=0)):
        without = codes.copy()
        without[:, component] = mean
        shares[component] = np.square(decode(without) - X).sum() - error
    return shares / total if total > 0.0 else shares


def column_effects(decode: Decode, codes: np.ndarray) -> np.ndarray:
    """Mean change of each column for a step along each component, (n_components, n_features).

    The step is a standard deviation of the component over the rows, half of it down and half up.
    """
    effects = []
    for component, deviation in enumerate(codes.std(axis=0)):
        step = np.zeros(codes.shape[1], dtype=codes.dtype)
        step[component] = deviation / 2.0
        effects.append((decode(codes + step) - decode(codes - step)).mean(axis=0))
    return np.stack(effects).astype(np.float64)


def divergences(means: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """Mean divergence of each component's posterior from the standard normal, in nats."""
    variances = np.square(deviations.astype(np.float64))
    each = (np.square(means.astype(np.float64)) + variances - 1.0 - np.log(variances)) / 2.0
    return each.mean(axis=0)
