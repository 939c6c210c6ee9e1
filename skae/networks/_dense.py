"""Dense encoders and decoders: plain, tied, and anchored at a linear code."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from skae._device import CPU
from skae._random import generator

Network = Callable[[int, int], tuple[nn.Module, nn.Module]]
"""(n_features, n_components) -> (encoder, decoder)."""


class Exponential(nn.Module):
    """The exponential function: rates of counts from their logarithms."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n) -> (batch, n)."""
        return torch.exp(x)


# scikit-learn's names where it has one, else Keras's.
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
OUTPUT_ACTIVATIONS = ACTIVATIONS | {"exponential": Exponential}


class Stack(nn.Sequential):
    """Layers of a dense network, one after the other, that `_chain` knows all of."""


class TiedLinear(nn.Module):
    """The transpose of another layer, with a bias of its own."""

    def __init__(self, source: nn.Linear) -> None:
        super().__init__()
        # Inside a tuple the layer is not registered here, so that its weights count once.
        self._source = (source,)
        self.bias = None
        if source.bias is not None:
            self.bias = nn.Parameter(torch.zeros(source.in_features, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, source.out_features) -> (batch, source.in_features)."""
        return functional.linear(x, self.source.weight.T, self.bias)

    @property
    def source(self) -> nn.Linear:
        """The layer whose matrix this one transposes."""
        return self._source[0]


class Gate(nn.Module):
    """One factor for each feature, at first zero (after Bachlechner et al. 2021)."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.zeros(n_features, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_features) -> (batch, n_features)."""
        return x * self.factors


class Anchored(nn.Module):
    """A linear map beside a network whose output is zero at first."""

    def __init__(self, linear: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.linear = linear
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_in) -> (batch, n_out)."""
        return self.linear(x) + self.network(x)


def dense_network(
    n_features: int,
    n_components: int,
    *,
    hidden_layer_sizes: int | Sequence[int],
    activation: str,
    dropout: float,
    use_bias: bool,
    tied_weights: bool,
    anchored: bool,
) -> tuple[nn.Module, nn.Module]:
    """Build a dense encoder and the decoder that mirrors it.

    Parameters
    ----------
    n_features, n_components : int
        Width of the rows and of the code.
    hidden_layer_sizes : int or sequence of int
        Units of the encoder's hidden layers.
    activation : str
        Key of `ACTIVATIONS`.
    dropout : float
        Probability that a hidden unit is dropped while training.
    use_bias : bool
        Whether layers add a bias.
    tied_weights : bool
        Whether the decoder's matrices are those of the encoder transposed.
    anchored : bool
        Whether both get a linear path, which `anchor` puts at its place, beside a non-linear one
        that is zero until it is trained.

    Returns
    -------
    encoder, decoder : nn.Module
        (batch, n_features) -> (batch, n_components) and back.
    """
    sizes = [n_features, *layer_sizes(hidden_layer_sizes), n_components]

    def stack(layers: Sequence[nn.Module]) -> Stack:
        return Stack(*between(layers, activation, dropout))

    initialize = torch_weights if anchored else glorot_weights

    def new_layer(n_in: int, n_out: int) -> nn.Linear:
        return linear(n_in, n_out, use_bias, initialize)

    forth = [new_layer(n_in, n_out) for n_in, n_out in pairwise(sizes)]
    if tied_weights:
        back: Sequence[nn.Module] = [TiedLinear(layer) for layer in reversed(forth)]
    else:
        back = [new_layer(n_in, n_out) for n_in, n_out in pairwise(sizes[::-1])]
    if not anchored or len(forth) == 1:
        return stack(forth), stack(back)

    straight = new_layer(n_features, n_components)
    if tied_weights:
        # Zeros in the last layer of the one would be zeros in the first layer of the other, where
        # both gradients vanish: close a gate behind each instead.
        return (
            Anchored(straight, Stack(stack(forth), Gate(n_components))),
            Anchored(TiedLinear(straight), Stack(stack(back), Gate(n_features))),
        )
    for layer in (forth[-1], back[-1]):
        for weights in layer.parameters():
            nn.init.zeros_(weights)
    return (
        Anchored(straight, stack(forth)),
        Anchored(new_layer(n_components, n_features), stack(back)),
    )


def torch_weights(layer: nn.Linear) -> None:
    """Draw the weights that `torch.nn.Linear` begins with, whose signal shrinks by layer.

    Beside a linear path that is small is right: what is not linear begins at zero anyway.
    """
    nn.init.kaiming_uniform_(layer.weight, math.sqrt(5.0), generator=generator(CPU))
    if layer.bias is not None:
        bound = 1.0 / math.sqrt(layer.in_features)
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator(CPU))


def glorot_weights(layer: nn.Linear) -> None:
    """Draw weights that keep the size of what passes through them, forth and back.

    Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural networks",
    AISTATS (2010). Biases are zero. It is Keras's start.
    """
    nn.init.xavier_uniform_(layer.weight, generator=generator(CPU))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def linear(
    n_in: int, n_out: int, use_bias: bool, initialize: Callable[[nn.Linear], None]
) -> nn.Linear:
    """Build a linear layer on the CPU, or without weights on the device "meta"."""
    in_outline = torch.get_default_device().type == "meta"
    layer = nn.Linear(n_in, n_out, use_bias, device="meta", dtype=torch.float32)
    if in_outline:
        return layer
    layer.to_empty(device=CPU)
    initialize(layer)
    return layer


def link_at(activation: str, mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
    """Give what an output activation turns into a mean, and its slope there.

    Parameters
    ----------
    activation : str
        "identity", "logistic" or "exponential".
    mean, deviation : Tensor of shape (n_features,)
        Mean and standard deviation of each feature.

    Returns
    -------
    offset, slope : Tensor of shape (n_features,)
        To first order, the output is x for ``offset + slope * (x - mean)``. Of the exponential
        function it is the secant over one standard deviation: counts reach far beyond their mean,
        where a tangent would promise too much.
    """
    if activation == "logistic":
        # To first order, logit(x) = logit(m) + (x - m) / (m (1 - m)).
        inner = mean.clamp(1e-3, 1.0 - 1e-3)
        return inner.logit(), 1.0 / (inner * (1.0 - inner))
    if activation == "exponential":
        inner, deviation = mean.clamp(min=1e-3), deviation.clamp(min=1e-3)
        return inner.log(), torch.log1p(deviation / inner) / deviation
    return mean, torch.ones_like(mean)


def anchor(
    encoder: nn.Module,
    decoder: nn.Module,
    activation: str | Callable[..., tuple[Tensor, Tensor]],
    *,
    mean: Tensor,
    deviation: Tensor,
    projection: Tensor,
    loadings: Tensor,
) -> None:
    """Put the linear paths of an anchored network at a linear code.

    The code becomes ``z = projection (x - mean)`` and the reconstruction ``mean + loadings' z``;
    with an output activation other than the identity it is that to first order.

    Parameters
    ----------
    encoder, decoder : nn.Module
        From `dense_network` with ``anchored=True``.
    activation : str or callable
        The output activation, see `link_at`; or ``(mean, loadings=loadings) -> (offset, loadings)``
        of what the decoder has to put out instead.
    mean, deviation : Tensor of shape (n_features,)
        What the code is centred at, if the network has biases; standard deviation of each feature.
    projection, loadings : Tensor of shape (n_axes, n_features)
        Components beyond `n_axes`, and what else the encoder puts out, are zero at first. With the
        same orthonormal rows in both, the reconstruction is the projection of x on them. A tied
        decoder has no loadings of its own.
    """
    forth, back = linear_path(encoder), linear_path(decoder)
    assert isinstance(forth, nn.Linear)
    assert isinstance(back, nn.Linear | TiedLinear)
    n_axes = len(projection)
    if callable(activation):
        offset, loadings = activation(mean, loadings=loadings)
    else:
        offset, slope = link_at(activation, mean, deviation)
        loadings = slope * loadings
    with torch.no_grad():
        forth.weight.zero_()
        forth.weight[:n_axes] = projection.to(forth.weight)
        if isinstance(back, nn.Linear):
            back.weight.zero_()
            back.weight[:, :n_axes] = loadings.T.to(back.weight)
        if forth.bias is not None:
            forth.bias.zero_()
            forth.bias[:n_axes] = (-projection @ mean).to(forth.bias)
        if back.bias is not None:
            back.bias.copy_(offset)


def linear_path(network: nn.Module) -> nn.Module:
    """Give the linear layer of an anchored network."""
    return network.linear if isinstance(network, Anchored) else next(network.children())


def between(layers: Sequence[nn.Module], activation: str, dropout: float) -> list[nn.Module]:
    """Put the activation, and dropout if there is any, between layers."""
    modules = [layers[0]]
    for layer in layers[1:]:
        modules.append(ACTIVATIONS[activation]())
        if dropout > 0.0:
            modules.append(nn.Dropout(dropout))
        modules.append(layer)
    return modules


def layer_pairs(encoder: nn.Module, decoder: nn.Module) -> list[tuple[Stack, Stack]]:
    """Split a dense network that is not anchored into autoencoders of one layer each.

    The first pair maps rows to the first hidden layer and back, the last one the last hidden
    layer to the code and back. They share their weights with the network.
    """

    def split(network: nn.Module) -> list[list[nn.Module]]:
        groups: list[list[nn.Module]] = []
        for module in network.children():
            if isinstance(module, nn.Linear | TiedLinear):
                groups.append([])
            groups[-1].append(module)
        return groups

    return [
        # What is reconstructed are activations before dropout.
        (Stack(*forth), Stack(*back[:2]))
        for forth, back in zip(split(encoder), reversed(split(decoder)), strict=True)
    ]


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
