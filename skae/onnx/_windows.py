"""Convolutions as nodes of ONNX.

onnxruntime has convolutions in float32 only. In float64 the cells under each window are gathered
and multiplied as rows, which is the same sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from torch import nn

from skae.onnx._graph import Graph
from skae.onnx._layers import Value, Writer, array, refuse_unless

Convolution = nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d


def is_transposed(layer: Convolution) -> bool:
    return isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d)


def write_convolution(graph: Graph, layer: Any, x: Value) -> str:
    """(batch, channels, *extents) -> the same with other channels and extents."""
    is_plain = layer.groups == 1 and layer.padding_mode == "zeros"
    refuse_unless(is_plain and not isinstance(layer.padding, str), layer)
    if graph.is_float64:
        return gathered_convolution(graph, layer, x)
    inputs = [x.name, array(layer.weight)]
    if layer.bias is not None:
        inputs.append(array(layer.bias))
    attributes = {
        "kernel_shape": list(layer.kernel_size),
        "strides": list(layer.stride),
        "pads": [*layer.padding, *layer.padding],
        "dilations": list(layer.dilation),
    }
    if is_transposed(layer):
        attributes["output_padding"] = list(layer.output_padding)
        return graph.node("ConvTranspose", *inputs, **attributes)
    return graph.node("Conv", *inputs, **attributes)


def gathered_convolution(graph: Graph, layer: Any, x: Value) -> str:
    """Multiply the cells under each window by the weights."""
    n_channels, *extents = x.shape
    n_out, *extents_out = layer(x.sample).shape[1:]
    places = window_places(layer, extents, extents_out)  # (n_positions, window)
    n_cells = prod(extents)
    of_channels = np.arange(n_channels)[:, np.newaxis] * n_cells + places[:, np.newaxis]
    # Outside is a column of zeros behind the others.
    columns = np.where(places[:, np.newaxis] < 0, n_channels * n_cells, of_channels)
    weight = array(layer.weight)  # (out, in, *window), or (in, out, *window)
    weight = np.moveaxis(weight, 1 if is_transposed(layer) else 0, -1)
    rows = graph.node("Flatten", x.name, axis=1)
    rows = graph.node("Pad", rows, np.array([0, 0, 0, 1]))
    windows = graph.node("Gather", rows, columns.reshape(len(places), -1), axis=1)
    sums = graph.node("MatMul", windows, weight.reshape(-1, n_out))  # (batch, n_positions, n_out)
    if layer.bias is not None:
        sums = graph.node("Add", sums, array(layer.bias))
    channels_first = graph.node("Transpose", sums, perm=[0, 2, 1])
    return graph.node("Reshape", channels_first, np.array([0, n_out, *extents_out]))


def window_places(layer: Any, extents: Sequence[int], extents_out: Sequence[int]) -> np.ndarray:
    """Find the cell under each weight of each window, (n_positions, window); -1 is outside."""
    per_axis = [
        axis_places(
            n_in,
            n_out,
            window=layer.kernel_size[axis],
            stride=layer.stride[axis],
            padding=layer.padding[axis],
            dilation=layer.dilation[axis],
            transposed=is_transposed(layer),
        )
        for axis, (n_in, n_out) in enumerate(zip(extents, extents_out, strict=True))
    ]
    places = per_axis[0]
    for n_in, other in zip(extents[1:], per_axis[1:], strict=True):
        crossed = places[:, np.newaxis, :, np.newaxis]
        along = other[np.newaxis, :, np.newaxis, :]
        joined = np.where((crossed < 0) | (along < 0), -1, crossed * n_in + along)
        places = joined.reshape(len(places) * len(other), -1)
    return places


def axis_places(
    n_in: int,
    n_out: int,
    *,
    window: int,
    stride: int,
    padding: int,
    dilation: int,
    transposed: bool,
) -> np.ndarray:
    """Do the same along one axis, (n_out, window)."""
    position = np.arange(n_out)[:, np.newaxis]
    offset = dilation * np.arange(window)
    if transposed:
        distance = position + padding - offset
        places = np.where(distance % stride == 0, distance // stride, -1)
    else:
        places = position * stride - padding + offset
    return np.where((places >= 0) & (places < n_in), places, -1)


WINDOWS: dict[type[nn.Module], Writer] = {
    nn.Conv1d: write_convolution,
    nn.Conv2d: write_convolution,
    nn.ConvTranspose1d: write_convolution,
    nn.ConvTranspose2d: write_convolution,
}
