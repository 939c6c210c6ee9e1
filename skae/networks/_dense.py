"""Dense encoders and decoders."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from torch import nn

# scikit-learn's names where it has one.
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "identity": nn.Identity,
    "logistic": nn.Sigmoid,
    "relu": nn.ReLU,
    "selu": nn.SELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def dense(sizes: Sequence[int], activation: str, dropout: float = 0.0) -> nn.Sequential:
    """Stack of linear layers, with the activation and dropout after all but the last.

    Parameters
    ----------
    sizes : sequence of int
        Width of the input, of each hidden layer and of the output.
    activation : str
        Key of `ACTIVATIONS`.
    dropout : float, default=0.0
        Probability that a hidden unit is dropped while training.

    Returns
    -------
    nn.Sequential
        Maps (batch, sizes[0]) to (batch, sizes[-1]).
    """
    *hidden, (n_last, n_out) = pairwise(sizes)
    layers: list[nn.Module] = []
    for n_in, n_hidden in hidden:
        layers += [nn.Linear(n_in, n_hidden), ACTIVATIONS[activation]()]
        if dropout > 0.0:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(n_last, n_out))


def dense_network(
    n_features: int,
    n_components: int,
    *,
    hidden_layer_sizes: int | Sequence[int],
    activation: str,
    dropout: float,
) -> tuple[nn.Module, nn.Module]:
    """Build a dense encoder and the decoder that mirrors it."""
    sizes = [n_features, *layer_sizes(hidden_layer_sizes), n_components]
    return dense(sizes, activation, dropout), dense(sizes[::-1], activation, dropout)


def layer_sizes(hidden_layer_sizes: int | Sequence[int]) -> list[int]:
    """Check the parameter ``hidden_layer_sizes`` and return it as a list."""
    sizes = np.atleast_1d(np.asarray(hidden_layer_sizes))
    if sizes.size == 0:
        return []
    if sizes.ndim != 1 or sizes.dtype.kind not in "iu" or sizes.min() < 1:
        raise ValueError(
            f"hidden_layer_sizes={hidden_layer_sizes!r} must be an integer of at least 1 or a "
            "sequence of them, the number of units of each hidden layer."
        )
    return sizes.tolist()
