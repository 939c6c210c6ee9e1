"""Losses of a reconstruction, element by element: (batch, n_features) in, (batch, n_features) out.

The module that owns a loss reduces it, so that weights of rows stay outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional

# In squared units of the features: far below the noise of a scaled feature, far above what
# float32 cannot invert.
VARIANCE_FLOOR = 1e-6


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Squared difference, in the squared unit of each feature."""
    return torch.square(output - target)


def bernoulli(logits: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood in nats of probabilities given as logits (cross-entropy).

    Logits keep the loss and its gradient exact where the probability rounds to 0 or 1.
    """
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="none")


# A column whose variance is not far above the floor is noise to a model with that floor.
SMALL_VARIANCE = 100.0 * VARIANCE_FLOOR


def learned_variance(log_variance: Tensor) -> Tensor:
    """Variance that cannot vanish: the density of what is reconstructed exactly stays finite."""
    return log_variance.exp() + VARIANCE_FLOOR


def gaussian(output: Tensor, target: Tensor, variance: Tensor) -> Tensor:
    """Negative log-density in nats of a normal distribution around the output."""
    return (torch.log(2.0 * math.pi * variance) + torch.square(output - target) / variance) / 2.0


def absolute_error(output: Tensor, target: Tensor) -> Tensor:
    """Absolute difference, in the unit of each feature."""
    return torch.abs(output - target)


def laplace(output: Tensor, target: Tensor, variance: Tensor) -> Tensor:
    """Negative log-density in nats of a Laplace distribution around the output."""
    scale = torch.sqrt(variance / 2.0)
    return torch.abs(output - target) / scale + torch.log(2.0 * scale)


def poisson(log_rate: Tensor, target: Tensor) -> Tensor:
    """Negative log-probability in nats of counts, whose rate is given as a logarithm."""
    return torch.exp(log_rate) - target * log_rate + torch.lgamma(target + 1.0)


# Below, `shares` are the weights of the cells in a sum over the batch, (batch, n_features), or
# (batch, 1) where those of a row are equal. Much of it works in place: memory of the size of a
# batch costs more than the arithmetic on it.


def weighted_sum(values: Tensor, shares: Tensor) -> Tensor:
    """Sum of the cells times their shares, ()."""
    if shares.shape[1] == 1:
        return torch.mv(values.T, shares.view(-1)).sum()
    return torch.dot(values.reshape(-1), shares.reshape(-1))


def squared_error_and_derivative(
    output: Tensor, target: Tensor, shares: Tensor
) -> tuple[Tensor, Tensor]:
    """Weighted sum of `squared_error`, and its derivative by the output."""
    residual = output - target
    weighted = residual * shares
    total = torch.dot(residual.view(-1), weighted.view(-1))
    return total, weighted.add_(weighted)


def absolute_error_and_derivative(
    output: Tensor, target: Tensor, shares: Tensor
) -> tuple[Tensor, Tensor]:
    """Weighted sum of `absolute_error`, and its derivative by the output."""
    residual = output - target
    by_output = torch.sign(residual).mul_(shares)
    return torch.dot(residual.view(-1), by_output.view(-1)), by_output


def bernoulli_and_derivative(
    logits: Tensor, target: Tensor, shares: Tensor
) -> tuple[Tensor, Tensor]:
    """Weighted sum of `bernoulli`, and its derivative by the logits."""
    total = weighted_sum(bernoulli(logits, target), shares)
    return total, torch.sigmoid(logits).sub_(target).mul_(shares)


def poisson_and_derivative(
    log_rate: Tensor, target: Tensor, shares: Tensor
) -> tuple[Tensor, Tensor]:
    """Weighted sum of `poisson`, and its derivative by the logarithm of the rate."""
    total = weighted_sum(poisson(log_rate, target), shares)
    return total, torch.exp(log_rate).sub_(target).mul_(shares)


def gaussian_and_derivatives(
    output: Tensor, target: Tensor, shares: Tensor, variance: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted sum of `gaussian`, and its derivatives by the output and the variance.

    The last one has the shape of the variance, (n_features,) or (1,).
    """
    residual = output - target
    by_output = residual * (shares / variance)
    squared = residual.mul_(by_output).sum_to_size(variance.shape)  # in units of the variance
    if shares.shape[1] == 1:
        n_cells = shares.sum() * (output.shape[-1] // variance.shape[0])  # that share a variance
    else:
        n_cells = shares.sum_to_size(variance.shape)
    total = torch.addcmul(squared, n_cells, torch.log(2.0 * math.pi * variance)).sum() / 2.0
    return total, by_output, (n_cells - squared).div_(variance + variance)


def laplace_and_derivatives(
    output: Tensor, target: Tensor, shares: Tensor, variance: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted sum of `laplace`, and its derivatives by the output and the variance.

    The last one has the shape of the variance, (n_features,) or (1,).
    """
    residual = output - target
    scale = torch.sqrt(variance / 2.0)
    by_output = torch.sign(residual).mul_(shares / scale)
    distance = residual.mul_(by_output).sum_to_size(variance.shape)  # in units of the scale
    n_cells = shares.expand_as(output).sum_to_size(variance.shape)
    total = torch.addcmul(distance, n_cells, torch.log(2.0 * scale)).sum()
    return total, by_output, (n_cells - distance).div_(variance + variance)


def mean_of_cells(
    values: Tensor, known: Tensor | None, sizes: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Mean of the known cells of each row, (batch, n_features) -> (batch,); zero without any.

    A column of a table that is several features counts as one cell, whose loss is their sum, if
    `sizes` says so; see `Loss`.
    """
    if sizes is None:
        if known is None:
            return values.mean(dim=-1)
        return (values * known).sum(dim=-1) / known.sum(dim=-1).clamp(min=1)
    size = sizes(values)
    if known is None:
        return values.sum(dim=-1) / size.sum()
    return (values * known).sum(dim=-1) / (size * known).sum(dim=-1).clamp(min=1.0)


def squared_jacobian_norm(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Squared Frobenius norm of the Jacobian of a function of rows (Rifai et al. 2011).

    Exact for any function that maps rows independently. Costs one backward pass for each column
    of the result, and keeps its graph where gradients are recorded.

    Parameters
    ----------
    function : callable
        (batch, n_in) -> (batch, n_out).
    x : Tensor of shape (batch, n_in)

    Returns
    -------
    Tensor of shape (batch,)
    """
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        columns = function(x).sum(dim=0)  # (n_out,)
        norm = x.new_zeros(len(x))
        for column in columns:
            (gradient,) = torch.autograd.grad(
                column, x, create_graph=recorded, retain_graph=True
            )  # (batch, n_in)
            norm = norm + torch.square(gradient).sum(dim=1)
    return norm if recorded else norm.detach()


class Density(NamedTuple):
    """A distribution of each cell around what a decoder puts out."""

    nats: Callable[..., Tensor]
    """(decoder's output, target) -> negative log-density, all (batch, n_features).

    If `has_variance`, a third argument is the variance, of shape (n_features,) or (1,)."""

    with_derivatives: Callable[..., tuple[Tensor, ...]]
    """(decoder's output, target, shares of the cells) -> sum of the cells' nats times their shares,
    (), and its derivative by the output, (batch, n_features).

    If `has_variance`, a fourth argument is the variance, and a third result the derivative by
    it."""

    sample: Callable[[np.ndarray, Any, np.random.RandomState], np.ndarray]
    """(mean (n, n_features), variance or None, generator) -> a draw of each cell."""

    has_variance: bool = False

    by_feature: bool = False
    """Whether each feature has a variance of its own."""


class Loss(NamedTuple):
    """A loss and what belongs to it."""

    elementwise: Callable[..., Tensor]
    """(decoder's output, target) -> loss, all (batch, n_features).

    If `learns_variance`, a third argument is the variance of each feature."""

    with_derivatives: Callable[..., tuple[Tensor, ...]]
    """(decoder's output, target, shares of the cells) -> sum of the cells' losses times their
    shares, (), and its derivative by the output, (batch, n_features).

    If `learns_variance`, a fourth argument is the variance of each feature, and a third result the
    derivative by it, (n_features,)."""

    density: Density
    """The distribution that the loss stands for, up to a unit."""

    output_activation: str
    """What "auto" stands for: turns the decoder's output into a reconstruction."""

    unit: str
    """What a curve of the loss shows."""

    on_logits: bool = False
    """Whether loss and density take the decoder's output as it is before the output activation,
    which then is the only one that fits."""

    support: tuple[Any, Any] = (-np.inf, np.inf)
    """The closed interval that targets lie in: two numbers, or two arrays (n_features,)."""

    remedy: str = ""
    """What to do with values outside of it."""

    learns_variance: bool = False
    """Whether each feature has a variance of its own, which the module learns."""

    composition: Any = None
    """What the loss is put together from, if columns of a table have losses of their own."""

    @property
    def cell_sizes(self) -> Callable[[Tensor], Tensor] | None:
        """Gives the share of each feature in a cell of its table, (n_features,), where a tensor is.

        None if each feature is a cell.
        """
        return None if self.composition is None else self.composition.cell_sizes

    def n_columns(self, n_features: int) -> int:
        """Count the columns of the table that so many features are made of."""
        return n_features if self.composition is None else len(self.composition.blocks)


def add_noise(mean: np.ndarray, variance: Any, rng: np.random.RandomState) -> np.ndarray:
    """Draw from normal distributions."""
    return mean + np.sqrt(variance) * rng.standard_normal(mean.shape)


def add_laplace_noise(mean: np.ndarray, variance: Any, rng: np.random.RandomState) -> np.ndarray:
    """Draw from Laplace distributions."""
    return mean + np.sqrt(variance / 2.0) * rng.laplace(size=mean.shape)


def flip_coins(mean: np.ndarray, variance: Any, rng: np.random.RandomState) -> np.ndarray:
    """Draw zeros and ones."""
    return (rng.uniform(size=mean.shape) < mean).astype(mean.dtype)


def draw_counts(mean: np.ndarray, variance: Any, rng: np.random.RandomState) -> np.ndarray:
    """Draw counts."""
    return rng.poisson(mean).astype(mean.dtype)


GAUSSIAN = Density(gaussian, gaussian_and_derivatives, add_noise, has_variance=True)
GAUSSIAN_BY_FEATURE = GAUSSIAN._replace(by_feature=True)
LAPLACE = Density(laplace, laplace_and_derivatives, add_laplace_noise, has_variance=True)
BERNOULLI = Density(bernoulli, bernoulli_and_derivative, flip_coins)
POISSON = Density(poisson, poisson_and_derivative, draw_counts)

LOSSES = {
    "absolute_error": Loss(
        absolute_error,
        absolute_error_and_derivative,
        LAPLACE,
        "identity",
        unit="absolute error per feature",
    ),
    "bernoulli": Loss(
        bernoulli,
        bernoulli_and_derivative,
        BERNOULLI,
        "logistic",
        unit="cross-entropy (nats per feature)",
        on_logits=True,
        support=(0.0, 1.0),
        remedy="Scale it, for example with MinMaxScaler(clip=True)",
    ),
    "gaussian": Loss(
        gaussian,
        gaussian_and_derivatives,
        GAUSSIAN_BY_FEATURE,
        "identity",
        unit="negative log-density (nats per feature)",
        learns_variance=True,
    ),
    "poisson": Loss(
        poisson,
        poisson_and_derivative,
        POISSON,
        "exponential",
        unit="negative log-probability (nats per feature)",
        on_logits=True,
        support=(0.0, np.inf),
        remedy="Counts are not negative: leave out what centres them",
    ),
    "squared_error": Loss(
        squared_error,
        squared_error_and_derivative,
        GAUSSIAN,
        "identity",
        unit="squared error per feature",
    ),
}


def feature_ranges(X: Any) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest known value of each column of an array or sparse matrix.

    Both are of shape (n_features,). They are NaN for columns without known cells.
    """
    smallest, largest = X.min(axis=0), X.max(axis=0)
    if sparse.issparse(X):
        return smallest.toarray().ravel(), largest.toarray().ravel()
    if np.isnan(smallest).any():
        return np.fmin.reduce(X, axis=0), np.fmax.reduce(X, axis=0)
    return smallest, largest


def check_support(
    X: Any, loss: str | Loss, feature_names: np.ndarray | None = None, *, table: str = "X"
) -> None:
    """Raise a ValueError that names the first column with values that ``loss`` cannot take."""
    entry = LOSSES[loss] if isinstance(loss, str) else loss
    low, high = (np.broadcast_to(end, X.shape[1]) for end in entry.support)
    if np.isinf(low).all() and np.isinf(high).all():
        return
    smallest, largest = feature_ranges(X)
    # Scalers return the ends of an interval up to rounding.
    rounding = 4 * np.finfo(X.dtype if X.dtype.kind == "f" else np.float64).eps
    outside = (smallest < low - rounding) | (largest > high + rounding)
    if outside.any():
        column = int(outside.argmax())
        name = column if feature_names is None else repr(feature_names[column])
        what = f"loss={loss!r}" if isinstance(loss, str) else "The loss of this block"
        raise ValueError(
            f"{what} takes values in [{low[column]:g}, {high[column]:g}], but column {name} of "
            f"{table} ranges from {smallest[column]:g} to {largest[column]:g}. {entry.remedy}, or "
            "choose loss='squared_error'."
        )
