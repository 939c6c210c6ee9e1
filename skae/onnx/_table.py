"""The numeric columns of TableEncoder as nodes of ONNX, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from skae._table import TableEncoder
from skae._table._scaling import FARTHEST
from skae.onnx._graph import Graph
from skae.onnx._special import arcsinh

State = dict[str, Any]


def write_table(graph: Graph, encoder: TableEncoder, inputs: Sequence[Any]) -> str:
    """Encode the columns, (batch, n_encoded). Unknown cells are NaN.

    The inputs of the graph are the columns of a DataFrame, or all columns of an array.
    """
    codes = []
    for column in encoder._columns:
        writer, position = writer_of(column), column["position"]
        if len(inputs) == 1:
            rows = graph.cast(inputs[0].full_name)
            cells = graph.node("Gather", rows, np.array([position]), axis=1)  # (batch, 1)
        else:
            cells = graph.cast(inputs[position].full_name)
        codes.append(writer(graph, column["state"], cells))
    return graph.node("Concat", *codes, axis=1)


def writer_of(column: dict[str, Any]) -> Callable[[Graph, State, str], str]:
    """Choose the function that writes a column, or say that there is none."""
    is_numeric = column["form"] in ("number", "integer", "boolean", "unknown")
    if not is_numeric or column["kind"] not in WRITERS:
        raise ValueError(
            f"Column {column['name']!r} of TableEncoder is of kind {column['kind']!r} and cannot "
            "be converted to ONNX, which numbers, integers, counts and booleans can; encode it "
            "before, or leave it out."
        )
    return WRITERS[column["kind"]]


def write_number(graph: Graph, state: State, x: str) -> str:
    """Standardize numbers."""
    scaling = state["scaling"]
    steps = graph.node("Div", graph.node("Sub", x, float(state["origin"])), float(state["step"]))
    y = graph.node("Div", steps, scaling["unit"])
    if scaling["transformation"] == "arcsinh":
        folded = graph.node("Sub", y, scaling["origin"])
        y = arcsinh(graph, graph.node("Div", folded, scaling["width"]))
    elif scaling["transformation"] == "quantile":
        y = normal_scores(graph, scaling, y)
    z = graph.node("Div", graph.node("Sub", y, scaling["center"]), scaling["scale"])
    limited = graph.node("Clip", z, -FARTHEST, FARTHEST)
    return graph.node("Where", graph.node("IsNaN", x), np.nan, limited)


def normal_scores(graph: Graph, scaling: State, y: str) -> str:
    """Scores of values: those of the knots, and on straight lines between them."""
    knots, scores = scaling["knots"], scaling["scores"]
    low, high = scaling["ends"]  # scores next to a knot, below and above it
    slopes = (low[1:] - high[:-1]) / np.diff(knots)
    # By the number of knots that are not above a value: from none to all.
    number = graph.node("Cast", graph.node("GreaterOrEqual", y, knots), to=TensorProto.INT64)
    number = graph.node("ReduceSum", number, np.array([1]), keepdims=1)  # (batch, 1)

    def of_interval(below: Any, values: np.ndarray) -> str:
        return graph.node("Gather", np.concatenate([[below], values]), number, axis=0)

    knot = of_interval(knots[0], knots)
    slope = of_interval(0.0, np.concatenate([slopes, [0.0]]))
    beyond = graph.node("Mul", graph.node("Sub", y, knot), slope)
    line = graph.node("Add", beyond, of_interval(low[0], high))
    is_knot = graph.node("Equal", y, knot)
    return graph.node("Where", is_knot, of_interval(0.0, scores), line)


def write_known(graph: Graph, state: State, x: str) -> str:
    """Leave a boolean as it is, and call everything else unknown."""
    return graph.node("Where", is_one_of(graph, x, state["levels"]), x, np.nan)


def write_constant(graph: Graph, state: State, x: str) -> str:
    """Zero for the one value of a column, and everything else is unknown."""
    return graph.node("Where", is_one_of(graph, x, state["levels"]), 0.0, np.nan)


def is_one_of(graph: Graph, x: str, levels: np.ndarray) -> str:
    """Whether cells have one of these values, (batch, 1)."""
    equal = graph.node("Equal", x, levels.astype(np.float64))
    number = graph.node("ReduceSum", graph.cast(equal), np.array([1]), keepdims=1)
    return graph.node("Greater", number, 0.0)


WRITERS: dict[str, Callable[[Graph, State, str], str]] = {
    "boolean": write_known,
    "constant": write_constant,
    "count": write_number,
    "integer": write_number,
    "number": write_number,
}
