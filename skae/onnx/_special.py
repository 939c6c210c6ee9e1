"""Special functions that ONNX has not, or that onnxruntime has not in float64, from others."""

from __future__ import annotations

import math

import numpy as np

from skae.onnx._graph import Graph

# Trapezoidal rule for erfc(a) exp(a^2) = (2 a / pi) * integral of exp(-t^2) / (t^2 + a^2) over
# t > 0, at half-odd multiples of the step. With the residue of the pole at t = ia the error is
# about exp(-(pi / step)^2) = 1e-17.
STEP = 0.5
NODES = STEP * (np.arange(13) + 0.5)
# Beyond it the residue is less than rounding.
FAR = 6.0

# An argument of at least this much more than one makes Stirling's series exact to 1e-15.
SHIFT = 8
STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)


def scaled_tail(graph: Graph, a: str) -> str:
    """Give the rule for ``erfc(a) exp(a^2)`` without the residue, for a >= 0."""
    squares = graph.node("Unsqueeze", graph.square(a), np.array([-1]))
    terms = graph.node("Div", np.exp(-np.square(NODES)), graph.node("Add", squares, NODES**2))
    total = graph.reduce("ReduceSum", terms, -1)
    return graph.node("Mul", graph.node("Mul", a, 2.0 * STEP / math.pi), total)


def residue(graph: Graph, a: str) -> str:
    """Give what erfc(a) has beside the rule, for a >= 0."""
    growth = graph.node("Exp", graph.node("Mul", a, 2.0 * math.pi / STEP))
    return graph.node("Div", 2.0, graph.node("Add", growth, 1.0))


def erfc(graph: Graph, a: str) -> str:
    """Complementary error function of a >= 0, with an absolute error of 1e-16.

    References
    ----------
    Chiarella & Reichel, "On the evaluation of integrals related to the error function",
    Mathematics of Computation 22 (1968).
    """
    decay = graph.node("Exp", graph.node("Neg", graph.square(a)))
    near = graph.node("Mul", decay, scaled_tail(graph, a))
    return graph.node("Add", near, residue(graph, a))


def log_normal_tail(graph: Graph, z: str) -> str:
    """Logarithm of the probability that a standard normal number is larger than z."""
    a = graph.node("Mul", graph.node("Abs", z), math.sqrt(0.5))
    near = graph.node("Min", a, FAR)
    correction = graph.node("Mul", residue(graph, near), graph.node("Exp", graph.square(near)))
    is_near = graph.node("Less", a, FAR)
    scaled = graph.node("Add", scaled_tail(graph, a), graph.node("Where", is_near, correction, 0.0))
    log_scaled = graph.node("Log", graph.node("Mul", scaled, 0.5))
    above = graph.node("Sub", log_scaled, graph.square(a))
    half = graph.node("Mul", erfc(graph, a), 0.5)
    below = graph.node("Log", graph.node("Sub", 1.0, half))
    return graph.node("Where", graph.node("Greater", z, 0.0), above, below)


def normal_probability(graph: Graph, x: str) -> str:
    """Probability that a standard normal number is smaller than x, in the type of the graph."""
    if not graph.is_float64:
        erf = graph.node("Erf", graph.node("Mul", x, math.sqrt(0.5)))
        return graph.node("Mul", graph.node("Add", erf, 1.0), 0.5)
    a = graph.node("Mul", graph.node("Abs", x), math.sqrt(0.5))
    half = graph.node("Mul", erfc(graph, a), 0.5)
    upper = graph.node("Sub", 1.0, half)
    return graph.node("Where", graph.node("Greater", x, 0.0), upper, half)


def log_factorial(graph: Graph, n: str) -> str:
    """Logarithm of the gamma function of n + 1, for n >= 0 in float64."""
    factors = graph.node("Unsqueeze", n, np.array([-1]))
    factors = graph.node("Add", factors, np.arange(1.0, SHIFT + 1.0))
    below = graph.reduce("ReduceSum", graph.node("Log", factors), -1)
    y = graph.node("Add", n, SHIFT + 1.0)
    inverse = graph.node("Reciprocal", y)
    inverse_square = graph.square(inverse)
    series = graph.constant(STIRLING[-1])
    for coefficient in reversed(STIRLING[:-1]):
        series = graph.node("Add", graph.node("Mul", series, inverse_square), coefficient)
    leading = graph.node("Mul", graph.node("Sub", y, 0.5), graph.node("Log", y))
    leading = graph.node("Add", graph.node("Sub", leading, y), 0.5 * math.log(2.0 * math.pi))
    total = graph.node("Add", leading, graph.node("Mul", series, inverse))
    return graph.node("Sub", total, below)


def logistic(graph: Graph, x: str) -> str:
    """Give ``1 / (1 + exp(-x))`` with all digits also where it is small.

    onnxruntime's Sigmoid of a negative x is one minus a number near one.
    """
    growth = graph.node("Exp", graph.node("Neg", x))
    return graph.node("Reciprocal", graph.node("Add", growth, 1.0))


def softplus(graph: Graph, x: str) -> str:
    """Logarithm of ``1 + exp(x)``, in float64."""
    smaller = graph.node("Exp", graph.node("Neg", graph.node("Abs", x)))
    rest = graph.node("Log", graph.node("Add", smaller, 1.0))
    return graph.node("Add", graph.node("Relu", x), rest)


def arcsinh(graph: Graph, x: str) -> str:
    """Inverse of the hyperbolic sine, with an absolute error of 1e-16."""
    size = graph.node("Abs", x)
    root = graph.node("Sqrt", graph.node("Add", graph.square(x), 1.0))
    return graph.node(
        "Mul", graph.node("Sign", x), graph.node("Log", graph.node("Add", size, root))
    )
