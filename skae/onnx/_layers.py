"""Dense layers, activations and changes of shape as nodes of ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from skae.networks._chain import SELU_ALPHA, SELU_SCALE
from skae.networks._conv import ChannelsFirst, ChannelsLast
from skae.networks._dense import Exponential, Gate, TiedLinear
from skae.onnx._graph import Graph
from skae.onnx._special import normal_probability


class Value(NamedTuple):
    """A tensor of the graph, and what Torch has in its place for one row of zeros."""

    name: str
    sample: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a row."""
        return tuple(self.sample.shape[1:])


Writer = Callable[[Graph, Any, Value], str]


def array(tensor: Tensor) -> np.ndarray:
    """Weights as an array."""
    return tensor.detach().cpu().numpy()


def refuse_unless(condition: bool, module: nn.Module) -> None:
    """Raise a ValueError that names a layer with settings that cannot be written."""
    if not condition:
        raise ValueError(
            f"The layer {module!r} cannot be converted to ONNX with these settings; use the "
            "defaults of its class or leave it out of the network."
        )


def affine(graph: Graph, x: str, weight: np.ndarray, bias: np.ndarray | None, n_axes: int) -> str:
    """Compute ``x W' + b`` along the last of so many axes."""
    if n_axes == 2:
        inputs = [x, weight] if bias is None else [x, weight, bias]
        return graph.node("Gemm", *inputs, transB=1)
    product = graph.node("MatMul", x, weight.T)
    return product if bias is None else graph.node("Add", product, bias)


def write_linear(graph: Graph, layer: nn.Linear, x: Value) -> str:
    bias = None if layer.bias is None else array(layer.bias)
    return affine(graph, x.name, array(layer.weight), bias, x.sample.ndim)


def write_tied_linear(graph: Graph, layer: TiedLinear, x: Value) -> str:
    bias = None if layer.bias is None else array(layer.bias)
    return affine(graph, x.name, array(layer.source.weight).T, bias, x.sample.ndim)


def write_gate(graph: Graph, gate: Gate, x: Value) -> str:
    return graph.node("Mul", x.name, array(gate.factors))


def write_identity(graph: Graph, module: nn.Module, x: Value) -> str:
    return x.name


def exponential_unit(graph: Graph, x: str, alpha: float) -> str:
    """Give x above zero, and ``alpha (exp(x) - 1)`` below."""
    below = graph.node("Sub", graph.node("Exp", graph.node("Min", x, 0.0)), 1.0)
    return graph.node("Add", graph.node("Relu", x), graph.node("Mul", below, alpha))


def write_elu(graph: Graph, module: nn.ELU, x: Value) -> str:
    return exponential_unit(graph, x.name, module.alpha)


def write_selu(graph: Graph, module: nn.SELU, x: Value) -> str:
    return graph.node("Mul", exponential_unit(graph, x.name, SELU_ALPHA), SELU_SCALE)


def write_gelu(graph: Graph, module: nn.GELU, x: Value) -> str:
    refuse_unless(module.approximate == "none", module)
    return graph.node("Mul", x.name, normal_probability(graph, x.name))


def write_silu(graph: Graph, module: nn.SiLU, x: Value) -> str:
    return graph.node("Mul", x.name, graph.node("Sigmoid", x.name))


def operator_of(kind: str) -> Writer:
    """Write an activation that is an operator of ONNX."""
    return lambda graph, module, x: graph.node(kind, x.name)


def write_flatten(graph: Graph, module: nn.Flatten, x: Value) -> str:
    refuse_unless(module.start_dim == 1 and module.end_dim in (-1, x.sample.ndim - 1), module)
    return graph.node("Flatten", x.name, axis=1)


def write_unflatten(graph: Graph, module: nn.Unflatten, x: Value) -> str:
    refuse_unless(isinstance(module.dim, int), module)
    # A zero copies the number of rows.
    return graph.node("Reshape", x.name, np.array([0, *module(x.sample).shape[1:]]))


def write_channels_first(graph: Graph, module: ChannelsFirst, x: Value) -> str:
    n_axes = x.sample.ndim
    return graph.node("Transpose", x.name, perm=[0, n_axes - 1, *range(1, n_axes - 1)])


def write_channels_last(graph: Graph, module: ChannelsLast, x: Value) -> str:
    return graph.node("Transpose", x.name, perm=[0, *range(2, x.sample.ndim), 1])


LAYERS: dict[type[nn.Module], Writer] = {
    ChannelsFirst: write_channels_first,
    ChannelsLast: write_channels_last,
    Exponential: operator_of("Exp"),
    Gate: write_gate,
    TiedLinear: write_tied_linear,
    nn.Dropout: write_identity,
    nn.ELU: write_elu,
    nn.Flatten: write_flatten,
    nn.GELU: write_gelu,
    nn.Identity: write_identity,
    nn.Linear: write_linear,
    nn.ReLU: operator_of("Relu"),
    nn.SELU: write_selu,
    nn.SiLU: write_silu,
    nn.Sigmoid: operator_of("Sigmoid"),
    nn.Tanh: operator_of("Tanh"),
    nn.Unflatten: write_unflatten,
}
