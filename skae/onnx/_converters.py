"""What skl2onnx is told of each estimator: options, outputs, their shapes, and who writes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from skl2onnx import update_registered_converter
from skl2onnx.common.data_types import (
    DoubleTensorType,
    FloatTensorType,
    Int64TensorType,
    guess_numpy_type,
)
from sklearn.utils.validation import check_is_fitted

from skae._arrays import with_numpy_arrays
from skae._autoencoder import AutoencoderTransformer
from skae._denoising import DenoisingAutoencoder
from skae._denoising_ensemble import DenoisingEnsemble
from skae._outliers import AutoencoderOutlierDetector
from skae._pca import PCA
from skae._table import TableEncoder
from skae._vae import VAETransformer
from skae.onnx._detector import convert_detector
from skae.onnx._graph import Graph
from skae.onnx._models import Outputs, autoencoder_outputs, ensemble_outputs, pca_outputs
from skae.onnx._table import write_table

# The first opset in which reductions take their axes as an input.
MIN_OPSET = 18

ALWAYS = {
    AutoencoderOutlierDetector: ("label", "scores"),
    DenoisingEnsemble: (),
}
# Which end of the numbers stands for what no number can hold.
WORST = {"reconstruction_error": 1.0, "score_samples": -1.0}
CODES = ("variable",)  # skl2onnx's name for the output of a transformer


def output_names(scope: Any, model: Any) -> list[str]:
    """List the outputs that an estimator always has, and those that options ask for."""
    optional = OPTIONS[type(model)]
    wanted = scope.get_options(model, dict.fromkeys(optional, False))
    return [
        *ALWAYS.get(type(model), CODES),
        *(name for name in optional if wanted[name]),
    ]


def parse(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:
    """Declare an operator and its outputs, float64 where an input is and otherwise float32."""
    check_is_fitted(model)
    operator = scope.declare_local_operator(alias_of(type(model)), model)
    operator.inputs = inputs
    has_double = any(isinstance(variable.type, DoubleTensorType) for variable in inputs)
    is_double = has_double or isinstance(model, TableEncoder)  # whose codes are always float64
    floating = DoubleTensorType if is_double else FloatTensorType
    for name in output_names(scope, model):
        kind = Int64TensorType if name == "label" else floating
        operator.outputs.append(scope.declare_local_variable(name, kind()))
    return operator.outputs


def calculate_shapes(operator: Any) -> None:
    """Check the width of the rows, and give the outputs their shapes."""
    model = operator.raw_operator
    widths = [variable.type.shape[1] for variable in operator.inputs]
    if None not in widths and sum(widths) != model.n_features_in_:
        raise ValueError(
            f"{type(model).__name__} was fitted to {model.n_features_in_} features, and the inputs "
            f"of the ONNX graph have {sum(widths)}."
        )
    n_rows = operator.inputs[0].type.shape[0]
    for variable in operator.outputs:
        if variable.raw_name == "variable":
            is_table = isinstance(model, TableEncoder)
            width = model._n_encoded if is_table else model._n_features_out
            variable.type.shape = [n_rows, width]
        elif variable.raw_name == "reconstruction":
            variable.type.shape = [n_rows, model.n_features_in_]
        else:
            variable.type.shape = [n_rows]


def check_opset(container: Any) -> None:
    """Raise a ValueError if the opset lacks operators."""
    if container.target_opset < MIN_OPSET:
        raise ValueError(
            f"target_opset={container.target_opset} is too low for the estimators of skae; use "
            f"{MIN_OPSET} or more."
        )


def converter_of(outputs_of: Callable[[Graph, Any, str], Outputs]) -> Callable[..., None]:
    """Make a converter of a function that gives the outputs of a model."""

    def convert(scope: Any, operator: Any, container: Any) -> None:
        check_opset(container)
        dtype = guess_numpy_type(operator.outputs[0].type)
        graph = Graph(scope, container, dtype)
        model = with_numpy_arrays(operator.raw_operator)
        outputs = outputs_of(graph, model, graph.rows(operator.inputs))
        for variable in operator.outputs:
            part, name = outputs[variable.raw_name]()
            if variable.raw_name in WORST:
                worst = WORST[variable.raw_name] * float(np.finfo(dtype).max)
                part, name = graph, graph.finite_or(graph.cast(name), worst)
            part.output(name, variable, dtype)

    return convert


def convert_outlier_detector(scope: Any, operator: Any, container: Any) -> None:
    """Write an outlier detector."""
    check_opset(container)
    convert_detector(scope, operator, container)


def convert_table_encoder(scope: Any, operator: Any, container: Any) -> None:
    """Write a TableEncoder of numeric columns."""
    check_opset(container)
    graph = Graph(scope, container, np.float64)
    codes = write_table(graph, operator.raw_operator, operator.inputs)
    graph.output(codes, operator.outputs[0], np.float64)


OF_AUTOENCODERS = ("reconstruction", "reconstruction_error", "score_samples")
OPTIONS: dict[type, tuple[str, ...]] = {
    AutoencoderOutlierDetector: ("score_samples", "p_values"),
    AutoencoderTransformer: OF_AUTOENCODERS,
    DenoisingAutoencoder: OF_AUTOENCODERS,
    DenoisingEnsemble: ("score_samples",),
    PCA: ("reconstruction", "score_samples"),
    TableEncoder: (),
    VAETransformer: OF_AUTOENCODERS,
}
CONVERTERS: dict[type, Callable[..., None]] = {
    AutoencoderOutlierDetector: convert_outlier_detector,
    AutoencoderTransformer: converter_of(autoencoder_outputs),
    DenoisingAutoencoder: converter_of(autoencoder_outputs),
    DenoisingEnsemble: converter_of(ensemble_outputs),
    PCA: converter_of(pca_outputs),
    TableEncoder: convert_table_encoder,
    VAETransformer: converter_of(autoencoder_outputs),
}


def alias_of(kind: type) -> str:
    """Name of a class in the registry of skl2onnx."""
    return f"Skae{kind.__name__}"


def register() -> None:
    """Tell skl2onnx of all estimators."""
    for kind, converter in CONVERTERS.items():
        update_registered_converter(
            kind,
            alias_of(kind),
            calculate_shapes,
            converter,
            parser=parse,
            options={name: [True, False] for name in OPTIONS[kind]},
        )
