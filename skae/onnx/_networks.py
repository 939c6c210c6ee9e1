"""Networks as nodes of ONNX: composition of the layers that can be written."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from skae.networks._dense import Anchored, Stack
from skae.onnx._graph import Graph
from skae.onnx._layers import LAYERS, Value, Writer
from skae.onnx._recurrences import RECURRENCES
from skae.onnx._windows import WINDOWS


def write_sequence(graph: Graph, modules: nn.Sequential, x: Value) -> str:
    for module in modules:
        x = write(graph, module, x)
    return x.name


def write_anchored(graph: Graph, module: Anchored, x: Value) -> str:
    paths = (write(graph, module.linear, x), write(graph, module.network, x))
    return graph.node("Add", *(path.name for path in paths))


WRITERS: dict[type[nn.Module], Writer] = {
    **LAYERS,
    **WINDOWS,
    **RECURRENCES,
    Anchored: write_anchored,
    Stack: write_sequence,
    nn.Sequential: write_sequence,
}


def write(graph: Graph, module: nn.Module, x: Value) -> Value:
    """Write what a module computes in evaluation mode."""
    # Not isinstance: a subclass may compute something else.
    if type(module) not in WRITERS:
        known = sorted(kind.__name__ for kind in WRITERS)
        raise ValueError(
            f"The network has a layer of the class {type(module).__qualname__}, which skae.onnx "
            f"cannot convert; compose the network of {', '.join(known)}."
        )
    return Value(WRITERS[type(module)](graph, module, x), module(x.sample))


def network(graph: Graph, module: nn.Module, x: str, width: int) -> str:
    """Write a module that maps rows of this width, and give the name of its output."""
    weights: Any = next(module.parameters(), torch.zeros(1))
    with torch.inference_mode():
        sample = torch.zeros(1, width, dtype=weights.dtype)
        return write(graph, module, Value(x, sample)).name
