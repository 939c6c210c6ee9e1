"""Dense networks by the chain rule, written out.

Automatic differentiation costs more than the arithmetic of a small layer. The links here compute
what a dense network computes, remember what the chain rule needs, and add the gradients of the
weights to their ``grad``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from skae import _torch_compat as kernels
from skae._random import generator
from skae._torch_compat import copy_all
from skae.networks._dense import Anchored, Exponential, Gate, Stack, TiedLinear


class Activation(NamedTuple):
    """An activation and its derivative."""

    function: Callable[[Tensor], Tensor]

    derivative: Callable[[Tensor, Tensor, Tensor], Tensor]
    """(gradient of the loss by y, x, y = function(x)) -> gradient of the loss by x."""


SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772  # Klambauer et al. 2017

DERIVATIVES: dict[type[nn.Module], Activation] = {
    nn.ELU: Activation(
        functional.elu,
        lambda gradient, x, y: kernels.elu_backward(gradient, 1.0, 1.0, 1.0, False, x),
    ),
    Exponential: Activation(torch.exp, lambda gradient, x, y: gradient * y),
    nn.GELU: Activation(functional.gelu, lambda gradient, x, y: kernels.gelu_backward(gradient, x)),
    nn.Identity: Activation(lambda x: x, lambda gradient, x, y: gradient),
    nn.ReLU: Activation(
        torch.relu, lambda gradient, x, y: kernels.threshold_backward(gradient, y, 0.0)
    ),
    nn.SELU: Activation(
        torch.selu,
        lambda gradient, x, y: kernels.elu_backward(
            gradient, SELU_ALPHA, SELU_SCALE, 1.0, False, x
        ),
    ),
    nn.Sigmoid: Activation(
        torch.sigmoid, lambda gradient, x, y: kernels.sigmoid_backward(gradient, y)
    ),
    nn.SiLU: Activation(functional.silu, lambda gradient, x, y: kernels.silu_backward(gradient, x)),
    nn.Tanh: Activation(torch.tanh, lambda gradient, x, y: kernels.tanh_backward(gradient, y)),
}


class Link(ABC):
    """A function of rows that remembers its last argument."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_in) -> (batch, n_out)."""

    def accumulate(self, gradient: Tensor) -> None:  # noqa: B027
        """Add to the gradients of the weights, if there are any.

        The argument is the gradient of the loss by what `forward` returned, (batch, n_out).
        """

    @abstractmethod
    def backward(self, gradient: Tensor) -> Tensor:
        """Do the same, and give the gradient by the argument of `forward`, (batch, n_in)."""


Weights = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Gives what to compute with in place of a parameter, and where to add the gradient."""


class OwnWeights:
    """Compute with the parameters themselves, and note which of them have been asked for."""

    def __init__(self) -> None:
        self.parameters: list[Tensor] = []

    def __call__(self, parameter: Tensor) -> tuple[Tensor, Tensor]:
        """Give a parameter and its ``grad``."""
        assert parameter.grad is not None
        self.parameters.append(parameter)
        return parameter.detach(), parameter.grad


class Affine(Link):
    """Link of a linear layer: ``x W' + b``."""

    def __init__(self, layer: nn.Linear | TiedLinear, weights: Weights) -> None:
        if isinstance(layer, TiedLinear):
            self.weight, self.weight_gradient = (w.T for w in weights(layer.source.weight))
        else:
            self.weight, self.weight_gradient = weights(layer.weight)  # (n_out, n_in)
        self.transposed = self.weight.T
        self.mixed = self.weight.dtype != self.weight_gradient.dtype
        self.bias: Tensor | None = None
        self.bias_gradient: Tensor | None = None
        if layer.bias is not None:
            self.bias, self.bias_gradient = weights(layer.bias)  # (n_out,)

    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        if self.bias is None:
            return x @ self.transposed
        return torch.addmm(self.bias, x, self.transposed)

    def accumulate(self, gradient: Tensor) -> None:
        if self.mixed:
            self.weight_gradient += gradient.T @ self.x
        else:
            self.weight_gradient.addmm_(gradient.T, self.x)
        if self.bias_gradient is not None:
            self.bias_gradient += gradient.sum(dim=0, dtype=self.bias_gradient.dtype)

    def backward(self, gradient: Tensor) -> Tensor:
        self.accumulate(gradient)
        return gradient @ self.weight


class Activated(Link):
    """Link of an activation."""

    def __init__(self, kind: type[nn.Module]) -> None:
        self.function, self.derivative = DERIVATIVES[kind]

    def forward(self, x: Tensor) -> Tensor:
        self.x, self.y = x, self.function(x)
        return self.y

    def backward(self, gradient: Tensor) -> Tensor:
        return self.derivative(gradient, self.x, self.y)


class Dropped(Link):
    """Link of dropout while training."""

    def __init__(self, layer: nn.Dropout) -> None:
        self.kept = 1.0 - layer.p

    def forward(self, x: Tensor) -> Tensor:
        drawn = torch.empty_like(x).bernoulli_(self.kept, generator=generator(x.device))
        self.factors = drawn.div_(self.kept)
        return x * self.factors

    def backward(self, gradient: Tensor) -> Tensor:
        return gradient * self.factors


class Gated(Link):
    """Link of a gate: x times a factor for each feature."""

    def __init__(self, gate: Gate, weights: Weights) -> None:
        self.factors, self.factors_gradient = weights(gate.factors)  # (n_features,)

    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        return x * self.factors

    def accumulate(self, gradient: Tensor) -> None:
        self.factors_gradient += (gradient * self.x).sum(dim=0)

    def backward(self, gradient: Tensor) -> Tensor:
        self.accumulate(gradient)
        return gradient * self.factors


class Summed(Link):
    """Link of an anchored network: the sum of two paths."""

    def __init__(self, one: Link, other: Link) -> None:
        self.one, self.other = one, other

    def forward(self, x: Tensor) -> Tensor:
        return self.one.forward(x) + self.other.forward(x)

    def accumulate(self, gradient: Tensor) -> None:
        self.one.accumulate(gradient)
        self.other.accumulate(gradient)

    def backward(self, gradient: Tensor) -> Tensor:
        return self.one.backward(gradient) + self.other.backward(gradient)


class Chain(Link):
    """Link of a stack: one link after the other."""

    def __init__(self, links: Sequence[Link]) -> None:
        self.first, *self.others = links

    def forward(self, x: Tensor) -> Tensor:
        x = self.first.forward(x)
        for link in self.others:
            x = link.forward(x)
        return x

    def accumulate(self, gradient: Tensor) -> None:
        self.first.accumulate(self._to_first(gradient))

    def backward(self, gradient: Tensor) -> Tensor:
        return self.first.backward(self._to_first(gradient))

    def _to_first(self, gradient: Tensor) -> Tensor:
        for link in reversed(self.others):
            gradient = link.backward(gradient)
        return gradient


class Rounded(Link):
    """Link of a network in bfloat16; rows, weights and gradients are float32 outside of it."""

    def __init__(self, network: nn.Module, own_weights: Weights) -> None:
        self.own_weights = own_weights
        self.weights: list[Tensor] = []
        self.rounded: list[Tensor] = []
        self.link = make_link(network, self._rounded_weights)

    def forward(self, x: Tensor) -> Tensor:
        copy_all(self.rounded, self.weights)
        return self.link.forward(x.bfloat16()).float()

    def accumulate(self, gradient: Tensor) -> None:
        self.link.accumulate(gradient.bfloat16())

    def backward(self, gradient: Tensor) -> Tensor:
        return self.link.backward(gradient.bfloat16()).float()

    def _rounded_weights(self, parameter: Tensor) -> tuple[Tensor, Tensor]:
        weights, gradient = self.own_weights(parameter)
        self.weights.append(weights)
        self.rounded.append(weights.bfloat16())
        return self.rounded[-1], gradient


def make_link(module: nn.Module, weights: Weights) -> Link:
    """Build the link of a part of a dense network."""
    match module:
        case nn.Linear() | TiedLinear():
            return Affine(module, weights)
        case Gate():
            return Gated(module, weights)
        case nn.Dropout():
            return Dropped(module)
        case Anchored():
            return Summed(make_link(module.linear, weights), make_link(module.network, weights))
        case nn.Sequential():
            return Chain([make_link(part, weights) for part in module])
        case _:
            return Activated(kind_of(module))


class NoFormulaError(Exception):
    """A part of a network has no derivative written out."""


def kind_of(activation: nn.Module) -> type[nn.Module]:
    """Give the class of an activation whose derivative is known, in its default variant."""
    kind = type(activation)
    if kind not in DERIVATIVES or repr(activation) != repr(kind()):
        raise NoFormulaError
    return kind


def chained(network: nn.Module, precision: str, own_weights: OwnWeights) -> Link | None:
    """Give the link of a dense network, None for a network without formulas.

    Parameters
    ----------
    network : nn.Module
        What `dense_network` returned, or some layers of it. Its weights have a ``grad``.
    precision : {"float32", "bf16"}
        Of matrix products.
    own_weights : OwnWeights
        Notes the weights whose derivatives the link computes.
    """
    if not isinstance(network, Stack | Anchored):
        return None
    try:
        if precision == "float32":
            return make_link(network, own_weights)
        return Rounded(network, own_weights)
    except NoFormulaError:
        return None
