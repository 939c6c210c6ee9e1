"""Losses and densities cell by cell as nodes of ONNX, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from skae import _losses as losses
from skae.onnx._graph import Graph
from skae.onnx._special import log_factorial, softplus


def squared_error(graph: Graph, output: str, target: str) -> str:
    return graph.square(graph.node("Sub", output, target))


def absolute_error(graph: Graph, output: str, target: str) -> str:
    return graph.node("Abs", graph.node("Sub", output, target))


def bernoulli(graph: Graph, logits: str, target: str) -> str:
    return graph.node("Sub", softplus(graph, logits), graph.node("Mul", logits, target))


def poisson(graph: Graph, log_rate: str, target: str) -> str:
    linear = graph.node("Mul", target, log_rate)
    difference = graph.node("Sub", graph.node("Exp", log_rate), linear)
    return graph.node("Add", difference, log_factorial(graph, target))


def gaussian(graph: Graph, output: str, target: str, variance: np.ndarray) -> str:
    scaled = graph.node("Mul", squared_error(graph, output, target), 0.5 / variance)
    return graph.node("Add", scaled, np.log(2.0 * math.pi * variance) / 2.0)


def laplace(graph: Graph, output: str, target: str, variance: np.ndarray) -> str:
    scale = np.sqrt(variance / 2.0)
    scaled = graph.node("Mul", absolute_error(graph, output, target), 1.0 / scale)
    return graph.node("Add", scaled, np.log(2.0 * scale))


# What Torch computes -> the same as nodes.
WRITERS: dict[Callable[..., Any], Callable[..., str]] = {
    losses.absolute_error: absolute_error,
    losses.bernoulli: bernoulli,
    losses.gaussian: gaussian,
    losses.laplace: laplace,
    losses.poisson: poisson,
    losses.squared_error: squared_error,
}
