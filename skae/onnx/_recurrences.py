"""Recurrent encoders and decoders as nodes of ONNX.

onnxruntime has GRU and LSTM in float32 only. In float64 the steps are written one after the other.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto
from torch import nn

from skae.networks._recurrent import RecurrentDecoder, RecurrentEncoder
from skae.onnx._graph import Graph
from skae.onnx._layers import Value, Writer, affine, array

Recurrence = nn.GRU | nn.LSTM

# Torch's order of the gates -> that of ONNX: update, reset, new; input, output, forget, cell.
GATES = {nn.GRU: [1, 0, 2], nn.LSTM: [0, 3, 1, 2]}
OPERATORS = {nn.GRU: ("GRU", {"linear_before_reset": 1}), nn.LSTM: ("LSTM", {})}


def write_encoder(graph: Graph, encoder: RecurrentEncoder, x: Value) -> str:
    """(batch, n_steps * n_channels) -> (batch, n_components)."""
    n_steps, n_channels = encoder.sequence_shape
    steps = graph.node("Reshape", x.name, np.array([0, n_steps, n_channels]))
    states = write_states(graph, encoder.recurrence, steps, n_steps, [])
    last = graph.node("Gather", states, np.array(n_steps - 1), axis=1)
    return affine(graph, last, array(encoder.to_code.weight), array(encoder.to_code.bias), 2)


def write_decoder(graph: Graph, decoder: RecurrentDecoder, z: Value) -> str:
    """(batch, n_components) -> (batch, n_steps * n_channels)."""
    recurrence, first, step = decoder.recurrence, decoder.first_state, decoder.step
    size, n_steps = recurrence.hidden_size, decoder.n_steps
    first_state = graph.node(
        "Tanh", affine(graph, z.name, array(first.weight), array(first.bias), 2)
    )
    n_states = first.out_features // size
    first_states = graph.split(first_state, [size] * n_states, axis=1)  # (batch, size) each
    codes = graph.node("Unsqueeze", z.name, np.array([1]))
    codes = graph.node("Expand", codes, np.array([1, n_steps, 1]))
    states = write_states(graph, recurrence, codes, n_steps, first_states)
    backwards = graph.node("Gather", states, np.arange(n_steps)[::-1].copy(), axis=1)
    rows = affine(graph, backwards, array(step.weight), array(step.bias), 3)
    return graph.node("Flatten", rows, axis=1)


def write_states(
    graph: Graph, recurrence: Recurrence, x: str, n_steps: int, first_states: list[str]
) -> str:
    """Run all layers, (batch, n_steps, n_inputs) -> (batch, n_steps, hidden_size).

    `first_states` are those of the layers, (batch, hidden_size), and then the cells' of an LSTM;
    none are zero.
    """
    n_layers = recurrence.num_layers
    for layer in range(n_layers):
        weights = [
            array(getattr(recurrence, f"{name}_l{layer}"))
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]
        first = first_states[layer::n_layers]
        states_of = stepwise_states if graph.is_float64 else native_states
        x = states_of(graph, type(recurrence), weights, x, n_steps, first)
    return x


def native_states(
    graph: Graph,
    kind: type[Recurrence],
    weights: list[np.ndarray],
    x: str,
    n_steps: int,
    first: list[str],
) -> str:
    """Run one layer by the operator of ONNX."""
    n_gates, size = len(GATES[kind]), weights[1].shape[1]
    w_ih, w_hh, b_ih, b_hh = (
        w.reshape(n_gates, size, -1)[GATES[kind]].reshape(w.shape) for w in weights
    )
    states = [graph.node("Unsqueeze", state, np.array([0])) for state in first]
    if states:
        # skl2onnx sorts no nodes that leave an input out: give the lengths, which are all one.
        n_rows = graph.node("Shape", first[0], start=0, end=1)
        lengths = graph.node("Expand", np.array([n_steps]), n_rows)
        states = [graph.node("Cast", lengths, to=TensorProto.INT32), *states]
    operator, attributes = OPERATORS[kind]
    sequence = graph.node("Transpose", x, perm=[1, 0, 2])  # (n_steps, batch, n_inputs)
    bias = np.concatenate([b_ih, b_hh])
    y = graph.node(
        operator, sequence, w_ih[None], w_hh[None], bias[None], *states,
        hidden_size=size, **attributes,
    )  # (n_steps, 1, batch, size)  # fmt: skip
    return graph.node("Transpose", graph.node("Squeeze", y, np.array([1])), perm=[1, 0, 2])


def stepwise_states(
    graph: Graph,
    kind: type[Recurrence],
    weights: list[np.ndarray],
    x: str,
    n_steps: int,
    first: list[str],
) -> str:
    """Run one layer step by step."""
    w_ih, w_hh, b_ih, b_hh = weights
    n_gates, size = len(GATES[kind]), w_hh.shape[1]
    inputs = graph.split(affine(graph, x, w_ih, b_ih, 3), [1] * n_steps, axis=1)
    states = [graph.node("Unsqueeze", state, np.array([1])) for state in first]
    if not states:
        states = [
            graph.constant(np.zeros((1, 1, size))) for _ in range(2 if kind is nn.LSTM else 1)
        ]
    weight, bias = graph.constant(w_hh.T), graph.constant(b_hh)
    results = []
    for of_input in inputs:
        of_state = graph.node("Add", graph.node("MatMul", states[0], weight), bias)
        states = STEPS[kind](graph, of_input, of_state, states, [size] * n_gates)
        results.append(states[0])
    return graph.node("Concat", *results, axis=1)


def gru_step(
    graph: Graph, of_input: str, of_state: str, states: list[str], sizes: list[int]
) -> list[str]:
    """Cho et al. 2014, with the reset behind the product, as Torch and cuDNN have it."""
    reset_in, update_in, new_in = graph.split(of_input, sizes, axis=2)
    reset_state, update_state, new_state = graph.split(of_state, sizes, axis=2)
    reset = graph.node("Sigmoid", graph.node("Add", reset_in, reset_state))
    update = graph.node("Sigmoid", graph.node("Add", update_in, update_state))
    new = graph.node("Tanh", graph.node("Add", new_in, graph.node("Mul", reset, new_state)))
    kept = graph.node("Mul", update, graph.node("Sub", states[0], new))
    return [graph.node("Add", new, kept)]


def lstm_step(
    graph: Graph, of_input: str, of_state: str, states: list[str], sizes: list[int]
) -> list[str]:
    """Hochreiter & Schmidhuber 1997, with a forget gate."""
    gates = graph.split(graph.node("Add", of_input, of_state), sizes, axis=2)
    entering, forgetting, leaving = (graph.node("Sigmoid", gates[i]) for i in (0, 1, 3))
    new = graph.node("Mul", entering, graph.node("Tanh", gates[2]))
    cell = graph.node("Add", graph.node("Mul", forgetting, states[1]), new)
    return [graph.node("Mul", leaving, graph.node("Tanh", cell)), cell]


STEPS: dict[type[Recurrence], Callable[..., list[str]]] = {nn.GRU: gru_step, nn.LSTM: lstm_step}

RECURRENCES: dict[type[nn.Module], Writer] = {
    RecurrentDecoder: write_decoder,
    RecurrentEncoder: write_encoder,
}
