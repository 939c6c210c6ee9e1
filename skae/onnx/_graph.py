"""Graph: nodes and constants in a container of skl2onnx, in a few words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper

ONNX_TYPES = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float64): TensorProto.DOUBLE}


class Graph:
    """Part of an ONNX graph that computes in one floating-point type.

    Parameters
    ----------
    scope : skl2onnx.common._topology.Scope
        Gives names that nothing else has.
    container : skl2onnx.common._container.ModelComponentContainer
        Takes nodes and constants.
    dtype : dtype
        float32 or float64, the type of constants.
    """

    def __init__(self, scope: Any, container: Any, dtype: Any) -> None:
        self.scope = scope
        self.container = container
        self.dtype = np.dtype(dtype)

    @property
    def is_float64(self) -> bool:
        """Whether the runtime has to compute in float64."""
        return self.dtype == np.float64

    def in_float64(self) -> Graph:
        """Give another part of the same graph, in float64."""
        return Graph(self.scope, self.container, np.float64)

    def constant(self, values: Any) -> str:
        """Store numbers: integers as int64, others in the type of the graph."""
        array = np.asarray(values)
        array = array.astype(np.int64 if array.dtype.kind in "iu" else self.dtype)
        name = self.scope.get_unique_variable_name("skae_constant")
        tensor = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        self.container.add_initializer(name, tensor.data_type, list(array.shape), tensor)
        return name

    def node(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        """Add a node with one output, and give the output's name.

        Parameters
        ----------
        kind : str
            Operator of ONNX.
        *inputs : str, number or ndarray
            Names of tensors, or constants.
        **attributes
            Of the operator.
        """
        return self.nodes(kind, 1, *inputs, **attributes)[0]

    def nodes(self, kind: str, n_outputs: int, *inputs: Any, **attributes: Any) -> list[str]:
        """Add a node with several outputs, and give their names."""
        names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        outputs = [self.scope.get_unique_variable_name(f"skae_{kind}") for _ in range(n_outputs)]
        operator = self.scope.get_unique_operator_name(f"skae_{kind}")
        self.container.add_node(kind, names, outputs, name=operator, **attributes)
        return outputs

    def cast(self, x: str) -> str:
        """Convert a tensor to the type of the graph."""
        return self.node("Cast", x, to=ONNX_TYPES[self.dtype])

    def split(self, x: str, sizes: Sequence[int], axis: int) -> list[str]:
        """Cut a tensor into parts of these sizes."""
        return self.nodes("Split", len(sizes), x, np.array(sizes), axis=axis)

    def reduce(self, kind: str, x: str, *axes: int) -> str:
        """Sum or average over axes, which the result does not have: "ReduceSum", "ReduceMean"."""
        return self.node(kind, x, np.array(axes), keepdims=0)

    def square(self, x: str) -> str:
        """Multiply a tensor by itself."""
        return self.node("Mul", x, x)

    def finite_or(self, x: str, substitute: float) -> str:
        """Put a number in the place of what is not finite, or at the very ends of the numbers."""
        is_inside = self.node("Less", self.node("Abs", x), float(np.finfo(self.dtype).max))
        return self.node("Where", is_inside, x, substitute)

    def rows(self, inputs: Sequence[Any]) -> str:
        """Put the columns of all inputs of an operator side by side, in the type of the graph."""
        names = [self.cast(variable.full_name) for variable in inputs]
        return names[0] if len(names) == 1 else self.node("Concat", *names, axis=1)

    def output(self, x: str, variable: Any, dtype: Any) -> None:
        """Let a tensor be an output of an operator, in the type that was declared."""
        if np.dtype(dtype) != self.dtype:
            x = Graph(self.scope, self.container, dtype).cast(x)
        self.integer_output(x, variable)

    def integer_output(self, x: str, variable: Any) -> None:
        """Let a tensor be an output of an operator, as it is."""
        operator = self.scope.get_unique_operator_name("skae_output")
        self.container.add_node("Identity", [x], [variable.full_name], name=operator)
