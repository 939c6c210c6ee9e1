"""Losses of a reconstruction, element by element: (batch, n_features) in, (batch, n_features) out.

The module that owns a loss reduces it, so that weights of rows stay outside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Squared difference, in the squared unit of each feature."""
    return torch.square(output - target)


def bernoulli(logits: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood in nats of probabilities given as logits (cross-entropy).

    Logits keep the loss and its gradient exact where the probability rounds to 0 or 1.
    """
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="none")


class Loss(NamedTuple):
    """A loss and what belongs to it."""

    elementwise: Callable[[Tensor, Tensor], Tensor]
    """(decoder's output, target) -> loss, all (batch, n_features)."""

    output_activation: str
    """What "auto" stands for: turns the decoder's output into a reconstruction."""

    on_logits: bool
    """Whether `elementwise` takes the decoder's output as it is before the output activation."""

    support: tuple[float, float]
    """The closed interval that targets lie in."""


LOSSES = {
    "bernoulli": Loss(bernoulli, "logistic", on_logits=True, support=(0.0, 1.0)),
    "squared_error": Loss(squared_error, "identity", on_logits=False, support=(-np.inf, np.inf)),
}


def check_support(X: np.ndarray, loss: str, feature_names: np.ndarray | None = None) -> None:
    """Raise a ValueError that names the first column with values that ``loss`` cannot take."""
    low, high = LOSSES[loss].support
    if (low, high) == (-np.inf, np.inf):
        return
    smallest, largest = X.min(axis=0), X.max(axis=0)  # (n_features,)
    outside = (smallest < low) | (largest > high)
    if outside.any():
        column = int(outside.argmax())
        name = column if feature_names is None else repr(feature_names[column])
        raise ValueError(
            f"loss={loss!r} takes values in [{low:g}, {high:g}], but column {name} of X ranges "
            f"from {smallest[column]:g} to {largest[column]:g}. Scale X, for example with "
            "MinMaxScaler(clip=True), or choose loss='squared_error'."
        )
