"""The outlier detector as nodes of ONNX, around any model whose score can be converted."""

from __future__ import annotations

from typing import Any

import numpy as np
from skl2onnx._parse import _parse_sklearn
from skl2onnx.common.data_types import DoubleTensorType, guess_numpy_type
from sklearn.ensemble import IsolationForest
from sklearn.pipeline import Pipeline

from skae._arrays import with_numpy_arrays
from skae._outliers import AutoencoderOutlierDetector, lowest_ties
from skae.onnx._graph import Graph

# Their converters have the option "score_samples", and fail with rows of float64.
NOT_IN_FLOAT64 = (IsolationForest,)


def final_model(estimator: Any) -> Any:
    """Give the model that scores: the last step of a Pipeline, the best one of a search."""
    if isinstance(estimator, Pipeline):
        return final_model(estimator.steps[-1][1])
    if hasattr(estimator, "best_estimator_"):
        return final_model(estimator.best_estimator_)
    return estimator


def convert_detector(scope: Any, operator: Any, container: Any) -> None:
    """Write label, score and p-value, computed in float64 as the detector does."""
    detector: AutoencoderOutlierDetector = operator.raw_operator
    graph = Graph(scope, container, np.float64)
    options = container.get_options(detector, {"score_samples": False, "p_values": False})
    detector = with_numpy_arrays(detector)
    score = graph.finite_or(model_score(graph, detector, operator.inputs), -np.inf)
    decision = graph.node("Sub", score, detector.offset_)
    is_outlier = graph.node("Less", decision, 0.0)
    results = [decision]
    if options["score_samples"]:
        results.append(score)
    if options["p_values"]:
        results.append(p_values(graph, detector, score))
    label = graph.node("Where", is_outlier, np.array(-1), np.array(1))
    graph.integer_output(label, operator.outputs[0])
    for result, variable in zip(results, operator.outputs[1:], strict=True):
        graph.output(result, variable, guess_numpy_type(variable.type))


def model_score(graph: Graph, detector: AutoencoderOutlierDetector, inputs: Any) -> str:
    """Let skl2onnx convert the model, with its score as last output, (batch,)."""
    model = final_model(detector.estimator_)
    has_score = "score_samples" in (graph.container._get_allowed_options(model) or {})
    if not has_score or isinstance(model, NOT_IN_FLOAT64):
        raise ValueError(
            f"skl2onnx cannot convert the scores of {type(model).__name__}, the model of "
            "AutoencoderOutlierDetector, in float64; use one of skae, GaussianMixture or "
            "LocalOutlierFactor(novelty=True)."
        )
    scope = graph.scope
    rows = scope.declare_local_variable(
        "skae_rows", DoubleTensorType([None, detector.n_features_in_])
    )
    graph.output(graph.rows(inputs), rows, np.float64)
    for place in (scope, graph.container):
        # Not add_options, which would write into the dictionary that the user gave.
        options = place.options or {}
        of_model = {**options.get(id(model), {}), "score_samples": True}
        place.options = {**options, id(model): of_model}
    score = _parse_sklearn(scope, detector.estimator_, [rows])[-1]
    return graph.node("Reshape", graph.cast(score.full_name), np.array([-1]))


def p_values(graph: Graph, detector: AutoencoderOutlierDetector, score: str) -> str:
    """Share of the weight of calibration rows, and of the row itself, with no higher score."""
    scores, weights = detector.calibration_scores_, detector._calibration_weights
    if scores is None:
        raise ValueError(
            "The option p_values needs the scores of calibration rows, and there are none with "
            f"calibration_fraction={detector.calibration_fraction!r}; fit again with "
            "calibration_fraction=0.2 or another share, or leave the option out."
        )
    column = graph.node("Unsqueeze", score, np.array([1]))
    is_not_higher = graph.node("GreaterOrEqual", column, lowest_ties(scores, scores))
    own, total = weights.max(), weights.sum()
    shares = graph.node("MatMul", graph.cast(is_not_higher), weights / (own + total))
    return graph.node("Add", shares, own / (own + total))
