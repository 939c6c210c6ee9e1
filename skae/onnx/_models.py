"""PCA, the autoencoders and the detector's default model as nodes of ONNX.

Each function gives the tensors that an estimator can put out, by name, as functions without
arguments: only what is asked for is written.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from torch import nn

from skae._denoising_ensemble import (
    FARTHEST,
    N_NEAREST_VIEWS,
    N_RESTORED_VIEWS,
    DenoisingEnsemble,
    numbers_of_neighbors,
)
from skae._losses import LOSSES, learned_variance
from skae._mixture import SMALLEST_SHARE
from skae._pca import PCA
from skae._vae import SMALLEST_VARIANCE, VAETransformer, cubature_points
from skae.onnx import _losses
from skae.onnx._graph import Graph
from skae.onnx._layers import array
from skae.onnx._networks import network
from skae.onnx._special import arcsinh, log_normal_tail, logistic

Outputs = dict[str, Callable[[], tuple[Graph, str]]]
"""Name -> the part of the graph that computes it, and the name of the tensor there."""


def in_float64(module: nn.Module) -> Any:
    """Copy a module in float64, for constants."""
    return copy.deepcopy(module).double()


def pca_outputs(graph: Graph, model: PCA, x: str) -> Outputs:
    """Give codes, reconstruction and log-density of PCA."""
    check_gaps(model, model._fit_svd_solver == "em")
    axes, scale = model.components_.astype(np.float64), np.ones(len(model.components_))
    if model.whiten:
        deviations = np.sqrt(model.explained_variance_.astype(np.float64))
        scale = np.divide(1.0, deviations, out=np.zeros_like(deviations), where=deviations > 0.0)
        loadings = deviations[:, np.newaxis] * axes
    else:
        loadings = axes

    @cache
    def codes() -> tuple[Graph, str]:
        centred = graph.node("Sub", x, model.mean_)
        return graph, graph.node("MatMul", centred, axes.T * scale)

    def reconstruction() -> tuple[Graph, str]:
        return graph, graph.node("Add", graph.node("MatMul", codes()[1], loadings), model.mean_)

    def score() -> tuple[Graph, str]:
        wide = graph.in_float64()
        noise, variances = model._model_variances(float(model.noise_variance_))
        n_components, n_features = axes.shape
        centred = wide.node("Sub", wide.cast(x), model.mean_)
        along = wide.node("MatMul", centred, axes.T)
        rest = wide.node("Sub", centred, wide.node("MatMul", along, axes))
        distance = wide.node(
            "Add",
            wide.reduce("ReduceSum", wide.node("Mul", wide.square(along), 1.0 / variances), 1),
            wide.node("Div", wide.reduce("ReduceSum", wide.square(rest), 1), noise),
        )
        log_determinant = np.log(variances).sum() + (n_features - n_components) * math.log(noise)
        constant = n_features * math.log(2.0 * math.pi) + log_determinant
        return wide, wide.node("Mul", wide.node("Add", distance, constant), -0.5)

    return {"variable": codes, "reconstruction": reconstruction, "score_samples": score}


def autoencoder_outputs(graph: Graph, model: Any, x: str) -> Outputs:
    """Give codes, reconstruction, its error and score of an autoencoder of any kind.

    Losses are computed in float64: the sums of float32 lose digits that are not worth the time
    that they save.
    """
    check_loss(model)
    check_gaps(model, model._completion["from_gaps"])
    module, loss = model.module_, LOSSES[model._fitted_loss]
    wide = graph.in_float64()
    is_variational = isinstance(model, VAETransformer)
    n_components = model.n_components_

    @cache
    def encoded() -> list[str]:
        output = network(graph, module.encoder, x, model.n_features_in_)
        if not is_variational:
            return [output]
        return graph.split(output, [n_components] * 2, axis=1)  # means, logits of variances

    def decoder_output(codes: str) -> str:
        return network(graph, module.decoder, codes, n_components)

    decoded = cache(lambda: decoder_output(code()))

    def activated(output: str) -> str:
        return network(graph, module.output_activation, output, model.n_features_in_)

    reconstructed = cache(lambda: activated(decoded()))
    rows = cache(lambda: wide.cast(x))

    def cells(function: Callable[..., Any], output: str, *variance: np.ndarray) -> str:
        return _losses.WRITERS[function](wide, wide.cast(output), rows(), *variance)

    def variance_of_loss() -> list[np.ndarray]:
        # A density may have a variance where the loss itself has none.
        if not loss.learns_variance:
            return []
        constants = in_float64(module)
        if is_variational:
            return [array(constants.noise_variance())]
        return [array(learned_variance(constants.log_variance))]

    @cache
    def error() -> tuple[Graph, str]:
        output = decoded() if loss.on_logits else reconstructed()
        losses = cells(loss.elementwise, output, *variance_of_loss())
        return wide, wide.reduce("ReduceMean", losses, 1)

    @cache
    def clusters() -> tuple[str, str]:
        """Coordinates along the axes of each cluster, and log-probabilities of the clusters."""
        prior = in_float64(module).prior
        code = wide.cast(encoded()[0])
        product = wide.node("MatMul", code, array(prior.rotations).T)
        flat = wide.node("Add", product, array(prior.offsets))
        shape = np.array([-1, prior.n_clusters, n_components])
        coordinates = wide.node("Reshape", flat, shape)
        distance = wide.node("Mul", wide.square(coordinates), array(prior.precisions) / 2.0)
        distance = wide.reduce("ReduceSum", distance, 2)
        largest = float(np.finfo(np.float32).max) / 2.0
        distance = wide.node("Min", distance, np.float64(largest))
        logs = wide.node("Sub", array(prior.log_shares - prior.log_scales), distance)
        return coordinates, wide.node("LogSoftmax", logs, axis=1)

    @cache
    def code() -> str:
        """Posterior mean of the code."""
        if not is_variational or module.prior is None:
            return encoded()[0]
        prior = in_float64(module).prior
        coordinates, log_memberships = clusters()
        means = wide.node("Mul", coordinates, array(prior.gains))
        memberships = wide.node("Exp", log_memberships)
        weighted = wide.node("Mul", means, wide.node("Unsqueeze", memberships, np.array([2])))
        flat = wide.node("Reshape", weighted, np.array([-1, prior.n_clusters * n_components]))
        centered = wide.node("MatMul", flat, array(prior.loadings))
        centers = wide.node("MatMul", memberships, array(prior.centers))
        return graph.cast(wide.node("Add", centered, centers))

    def bound_in(
        means: str, variances: str, loadings: np.ndarray | None, center: np.ndarray
    ) -> str:
        """Lower bound with a standard normal prior, in one cluster if there are several."""
        points = cubature_points(n_components).numpy()  # (n_points, n_components)
        drawn = wide.node("Mul", points[:, np.newaxis], wide.node("Sqrt", variances))
        drawn = wide.node("Add", drawn, means)  # (n_points, batch, n_components)
        drawn = wide.node("Reshape", drawn, np.array([-1, n_components]))
        if loadings is not None:
            drawn = wide.node("Add", wide.node("MatMul", drawn, loadings), center)
        output = decoder_output(graph.cast(drawn))
        output = output if loss.on_logits else activated(output)
        output = graph.node("Reshape", output, np.array([len(points), -1, model.n_features_in_]))
        noise = in_float64(module).noise_variance()
        nats = cells(loss.density.nats, output, *([] if noise is None else [array(noise)]))
        likelihood = wide.reduce("ReduceMean", wide.reduce("ReduceSum", nats, 2), 0)
        terms = wide.node("Sub", wide.node("Sub", variances, 1.0), wide.node("Log", variances))
        terms = wide.node("Add", terms, wide.square(means))
        divergence = wide.node("Mul", wide.reduce("ReduceSum", terms, 1), 0.5)
        return wide.node("Neg", wide.node("Add", likelihood, divergence))

    def bound() -> tuple[Graph, str]:
        check_one_sample(model)
        constants = in_float64(module)
        logits = wide.cast(encoded()[1])

        def variances(offset: np.ndarray) -> str:
            logit = wide.node("Add", logits, offset)
            return wide.node("Add", logistic(wide, logit), SMALLEST_VARIANCE)

        offsets = array(constants.logit)
        if module.prior is None:
            means = wide.cast(encoded()[0])
            return wide, bound_in(means, variances(offsets), None, np.empty(0))
        coordinates, log_memberships = clusters()
        each = wide.split(coordinates, [1] * module.n_clusters, axis=1)
        prior, parts = constants.prior, []
        loadings = array(prior.loadings).reshape(module.n_clusters, n_components, n_components)
        for cluster, center in enumerate(array(prior.centers)):
            means = wide.node("Squeeze", each[cluster], np.array([1]))
            means = wide.node("Mul", means, array(prior.gains)[cluster])
            part = bound_in(means, variances(offsets[cluster]), loadings[cluster], center)
            part = wide.node("Add", part, array(prior.log_shares)[cluster])
            parts.append(wide.node("Unsqueeze", part, np.array([1])))
        logs = wide.node("Concat", *parts, axis=1)
        is_likely = wide.node("Greater", log_memberships, math.log(SMALLEST_SHARE))
        logs = wide.node("Where", is_likely, logs, np.float64(-np.finfo(np.float64).max))
        return wide, wide.reduce("ReduceLogSumExp", logs, 1)

    return {
        "variable": lambda: (graph, code()),
        "reconstruction": lambda: (graph, reconstructed()),
        "reconstruction_error": error,
        "score_samples": bound if is_variational else lambda: (wide, wide.node("Neg", error()[1])),
    }


def check_loss(model: Any) -> None:
    """Raise a ValueError if the loss is put together from those of blocks."""
    if not isinstance(model._fitted_loss, str):
        raise ValueError(
            f"A {type(model).__name__} whose loss is a list of blocks cannot be converted to ONNX; "
            "use one loss for all columns."
        )


def check_gaps(model: Any, has_gaps: bool) -> None:
    """Raise a ValueError if the model was fitted to unknown cells."""
    if has_gaps:
        raise ValueError(
            f"{type(model).__name__} was fitted to rows with unknown cells, which a graph of ONNX "
            "cannot fill. Fill them before, and fit a model of complete rows to convert it, for "
            "example clone(model).fit(model.impute(X))."
        )


def check_one_sample(model: VAETransformer) -> None:
    """Raise a ValueError if the score is not the evidence lower bound."""
    if model.n_importance_samples > 1:
        raise ValueError(
            f"n_importance_samples={model.n_importance_samples} of {type(model).__name__} cannot "
            "be converted to ONNX; set n_importance_samples=1, which needs no new fit, for the "
            "evidence lower bound."
        )


def ensemble_outputs(graph: Graph, model: DenoisingEnsemble, x: str) -> Outputs:
    """Give the score of the detector's default model, which computes in float64."""
    return {"score_samples": partial(ensemble_score, graph.in_float64(), model, x)}


def ensemble_score(graph: Graph, model: DenoisingEnsemble, x: str) -> tuple[Graph, str]:
    """Minus the weighted evidence of all distances, which is the sum of the contributions."""
    module = in_float64(model.module_)
    half = graph.node("Mul", graph.cast(x), 0.5)
    z = graph.node("Div", graph.node("Sub", half, array(0.5 * module.mean)), array(module.scale))
    z = graph.node("Mul", z, 2.0)
    z = graph.node("Clip", z, -FARTHEST, FARTHEST)
    views = ensemble_views(graph, module, z)
    references = array(module.reference_views)
    single = [
        *(
            nearest_distance(graph, view, others)
            for view, others in zip(views[:N_NEAREST_VIEWS], references, strict=False)
        ),
        *(
            near_distance(graph, view, array(centers), array(variances))
            for view, centers, variances in zip(
                views, module.centers, module.variances, strict=True
            )
        ),
    ]  # (batch,) each
    last = [unforeseen_distance(graph, module, views[0]), tail_distance(graph, module, z)]
    single, last = (
        [graph.node("Unsqueeze", distance, np.array([0])) for distance in distances]
        for distances in (single, last)
    )
    restored = restoration_errors(graph, module, views[-N_RESTORED_VIEWS:])
    distances = graph.node("Concat", *single, restored, *last, axis=0)
    distances = graph.node("Add", distances, array(module.floor)[:, np.newaxis])
    logs = graph.node("Sub", graph.node("Log", distances), array(module.log_mean)[:, np.newaxis])
    evidence = log_normal_tail(graph, graph.node("Div", logs, array(module.log_spread)[:, None]))
    weighted = graph.node("Mul", evidence, array(module.shares)[:, np.newaxis])
    return graph, graph.reduce("ReduceSum", weighted, 0)


def ensemble_views(graph: Graph, module: Any, z: str) -> list[str]:
    """Standardized rows with their tails pulled in, as they are, and decorrelated."""
    squashed = graph.node("Div", graph.node("Sub", z, array(module.median)), array(module.spread))
    squashed = graph.node("Sub", arcsinh(graph, squashed), array(module.squashed_mean))
    squashed = graph.node("Div", squashed, array(module.squashed_scale))
    axes, elsewhere = array(module.axes), array(module.gain_elsewhere)
    along = graph.node("MatMul", z, axes)
    along = graph.node("Mul", along, array(module.gains) - elsewhere)
    decorrelated = graph.node("Mul", z, elsewhere)
    decorrelated = graph.node("Add", decorrelated, graph.node("MatMul", along, axes.T))
    return [squashed, z, decorrelated]


def squared_distances(graph: Graph, rows: str, points: np.ndarray, constants: Any) -> str:
    """Squared distances of rows to points plus a constant of each, (batch, n_points)."""
    lengths = graph.node("ReduceSum", graph.square(rows), np.array([1]), keepdims=1)
    lengths = graph.node("Add", lengths, np.square(points).sum(axis=1) + constants)
    return graph.node("Add", lengths, graph.node("MatMul", rows, -2.0 * points.T))


def nearest_distance(graph: Graph, rows: str, references: np.ndarray) -> str:
    """Mean squared distance to the nearest references, (batch,)."""
    n_nearest, _ = numbers_of_neighbors(len(references))
    squared = squared_distances(graph, rows, references, 0.0)
    narrow = Graph(graph.scope, graph.container, np.float32).cast(squared)
    n = np.array([n_nearest])
    _, nearest = graph.nodes("TopK", 2, narrow, n, axis=1, largest=0, sorted=1)
    nearest = graph.node("Gather", references, nearest, axis=0)  # (batch, n_nearest, d)
    row = graph.node("Unsqueeze", rows, np.array([1]))
    to_nearest = graph.square(graph.node("Sub", row, nearest))
    return graph.reduce("ReduceMean", graph.reduce("ReduceSum", to_nearest, 2), 1)


def near_distance(graph: Graph, rows: str, centers: np.ndarray, variances: np.ndarray) -> str:
    """Mean squared distance to the references in the closest neighbourhood, (batch,)."""
    squared = squared_distances(graph, rows, centers, variances.sum(axis=1))
    narrow = Graph(graph.scope, graph.container, np.float32).cast(squared)
    closest = graph.node("ArgMin", narrow, axis=1, keepdims=0)
    difference = graph.node("Sub", rows, graph.node("Gather", centers, closest, axis=0))
    cells = graph.node(
        "Add", graph.square(difference), graph.node("Gather", variances, closest, axis=0)
    )
    return graph.reduce("ReduceSum", cells, 1)


def unforeseen_distance(graph: Graph, module: Any, squashed: str) -> str:
    """Squared difference to what the other columns predict, (batch,)."""
    rules = module.rules()
    n_rules, depth = rules.columns.shape
    columns = rules.columns.numpy().ravel()
    cells = graph.node("Gather", squashed, columns, axis=1)  # (batch, n_rules * depth)
    signed = graph.node("Mul", cells, array(rules.signs).ravel())
    conditions = graph.node("GreaterOrEqual", signed, array(rules.limits).ravel())
    conditions = graph.node("Reshape", graph.cast(conditions), np.array([-1, n_rules, depth]))
    met = graph.reduce("ReduceMin", conditions, 2)
    predicted = graph.node("MatMul", met, array(module.effects))
    predicted = graph.node("Add", predicted, array(module.intercept))
    if len(module.slopes):
        linear = graph.node("MatMul", squashed, array(module.slopes))
        predicted = graph.node("Add", predicted, linear)
    squares = graph.square(graph.node("Sub", squashed, predicted))
    squares = graph.node("Div", squares, array(module.unpredicted))
    return graph.reduce("ReduceSum", squares, 1)


def tail_distance(graph: Graph, module: Any, z: str) -> str:
    """Minus the logarithms of the shares of references as far out, over all columns, (batch,)."""
    edges, values = array(module.tail_edges), array(module.tail_values)
    column = graph.node("Unsqueeze", z, np.array([2]))  # (batch, d, 1)
    passed = graph.node("Greater", column, edges)  # (batch, d, n_references)
    # A step is the sum of the jumps at the edges that are passed.
    jumps = graph.node("Mul", graph.cast(passed), np.diff(values, axis=1))
    beyond = graph.reduce("ReduceSum", graph.reduce("ReduceSum", jumps, 2), 1)
    return graph.node("Add", beyond, values[:, 0].sum())


def restoration_errors(graph: Graph, module: Any, views: list[str]) -> str:
    """Squared error of what the networks restore, mean over those of a view.

    The shape is (n_restored_views, batch).
    """
    axes = np.array([0, 1])
    rows = graph.node("Concat", *(graph.node("Unsqueeze", v, axes) for v in views), axis=0)
    # (n_restored_views, 1, batch, width), and then of each network
    restored = graph.node("MatMul", rows, array(module.axes)) if module.is_wide else rows
    n_layers = len(module.weights)
    for layer, (weight, bias) in enumerate(zip(module.weights, module.biases, strict=True)):
        shape = (N_RESTORED_VIEWS, module.n_members)
        product = graph.node("MatMul", restored, array(weight).reshape(*shape, *weight.shape[1:]))
        restored = graph.node("Add", product, array(bias).reshape(*shape, *bias.shape[1:]))
        if layer < n_layers - 1:
            restored = graph.node("Mul", restored, graph.node("Sigmoid", restored))
    if module.is_wide:
        restored = graph.node("MatMul", restored, array(module.axes).T)
    errors = graph.square(graph.node("Sub", restored, rows))
    return graph.reduce("ReduceMean", graph.reduce("ReduceSum", errors, 3), 1)
