"""Graphs of ONNX, run by onnxruntime, against what the estimators compute."""

import json
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import FactorAnalysis
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from torch import nn

from skae import (
    PCA,
    AutoencoderOutlierDetector,
    AutoencoderTransformer,
    DenoisingAutoencoder,
    TableEncoder,
    VAETransformer,
)
from skae._outliers import DenoisingEnsemble
from skae.networks import Conv1dNetwork, Conv2dNetwork, RecurrentNetwork
from skae.networks._dense import ACTIVATIONS

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
skl2onnx = pytest.importorskip("skl2onnx")
pytest.importorskip("skae.onnx")

from skae.onnx import _special  # noqa: E402
from skae.onnx._graph import Graph  # noqa: E402

OF_AUTOENCODERS = ("reconstruction", "reconstruction_error", "score_samples")
FAST = {"max_iter": 2, "random_state": 0}

rng = np.random.default_rng(0)
X = rng.normal(size=(120, 12)) @ rng.normal(size=(12, 12)) + 2.0
# Near the rows that are fitted to, and far from them.
ROWS = np.vstack([X[:30], 30.0 * rng.normal(size=(10, 12))])
SHARES = rng.uniform(size=(120, 12))
COUNTS = rng.poisson(4.0, size=(120, 12)).astype(np.float64)
FAR_COUNTS = np.vstack([COUNTS[:30], 5.0 * COUNTS[:10]])


def to_session(model, X, *wanted, **parameters):
    options = {id(model): dict.fromkeys(wanted, True)} if wanted else None
    graph = skl2onnx.to_onnx(model, X[:1], options=options, **parameters)
    onnx.checker.check_model(graph, full_check=True)
    return onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def run(model, X, *wanted, **parameters):
    session = to_session(model, X, *wanted, **parameters)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"X": X}), strict=True))


def assert_close(actual, expected, dtype, tolerance=1e-10):
    """Compare with a tolerance relative to each number, or to the size of all."""
    assert actual.shape == expected.shape
    tolerance = 1e-5 if dtype == np.float32 else tolerance
    size = np.nanmedian(np.abs(expected))
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * size)


def assert_same_outputs(autoencoder, rows, dtype):
    rows = rows.astype(dtype)
    outputs = run(autoencoder, rows, *OF_AUTOENCODERS)
    assert {output.dtype for output in outputs.values()} == {np.dtype(dtype)}
    assert_close(outputs["variable"], autoencoder.transform(rows), dtype)
    assert_close(outputs["reconstruction"], autoencoder.reconstruct(rows), dtype)
    assert_close(outputs["reconstruction_error"], autoencoder.reconstruction_error(rows), dtype)
    assert_close(outputs["score_samples"], autoencoder.score_samples(rows), dtype)


dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@dtypes
@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("n_components", [3, None])
def test_pca_is_the_same(n_components, whiten, dtype):
    rows = ROWS.astype(dtype)
    pca = PCA(n_components, whiten=whiten).fit(X.astype(dtype))
    outputs = run(pca, rows, "reconstruction", "score_samples")
    codes = pca.transform(rows)
    assert_close(outputs["variable"], codes, dtype)
    assert_close(outputs["reconstruction"], pca.inverse_transform(codes), dtype)
    assert_close(outputs["score_samples"], pca.score_samples(rows), dtype)


@dtypes
def test_whitening_leaves_components_without_variance_at_zero(dtype):
    flat = np.hstack([X[:, :2], np.ones((len(X), 1))])
    pca = PCA(whiten=True).fit(flat)
    rows = flat.astype(dtype)
    assert_close(run(pca, rows)["variable"], pca.transform(rows), dtype)


@dtypes
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_activation_is_the_same(activation, dtype):
    autoencoder = AutoencoderTransformer(3, activation=activation, init="random", **FAST).fit(X)
    assert_same_outputs(autoencoder, ROWS, dtype)


@dtypes
@pytest.mark.parametrize("kind", [AutoencoderTransformer, DenoisingAutoencoder, VAETransformer])
@pytest.mark.parametrize(
    "loss", ["squared_error", "absolute_error", "bernoulli", "gaussian", "poisson"]
)
def test_every_autoencoder_with_every_loss_is_the_same(kind, loss, dtype):
    table, rows = {"bernoulli": (SHARES, SHARES), "poisson": (COUNTS, FAR_COUNTS)}.get(
        loss, (X, ROWS)
    )
    autoencoder = kind(3, loss=loss, **FAST).fit(table)
    assert_same_outputs(autoencoder, rows, dtype)


@dtypes
@pytest.mark.parametrize(
    "parameters",
    [
        {"tied_weights": True, "dropout": 0.2},
        {"hidden_layer_sizes": ()},
        {"use_bias": False},
        {"output_activation": "tanh", "init": "random"},
    ],
    ids=str,
)
def test_every_shape_of_the_dense_network_is_the_same(parameters, dtype):
    autoencoder = AutoencoderTransformer(3, **parameters, **FAST).fit(X)
    assert_same_outputs(autoencoder, ROWS, dtype)


@dtypes
@pytest.mark.parametrize("kind", [AutoencoderTransformer, VAETransformer])
@pytest.mark.parametrize(
    "network",
    [
        Conv1dNetwork((6, 2), (4, 3), kernel_size=3),
        Conv1dNetwork((12, 1), (2,), kernel_size=5, activation="gelu"),
        Conv2dNetwork((4, 3), (4, 2), kernel_size=3),
        Conv2dNetwork((2, 2, 3), (4,), kernel_size=5),
        RecurrentNetwork((6, 2), 5),
        RecurrentNetwork((4, 3), 5, cell="gru", n_layers=2),
        RecurrentNetwork((12, 1), 4, n_layers=2),
        RecurrentNetwork((1, 12), 4, cell="gru"),
    ],
    ids=repr,
)
def test_every_network_is_the_same(network, kind, dtype):
    autoencoder = kind(2, network=network, **FAST).fit(X)
    assert_same_outputs(autoencoder, ROWS, dtype)


class OwnNetwork:
    """Layers with other settings than those of `skae.networks`."""

    def __call__(self, n_features, n_components):
        encoder = nn.Sequential(
            nn.Unflatten(1, (2, 6)),
            nn.Conv1d(2, 3, 3, stride=1, padding=2, dilation=2, bias=False),
            nn.Sequential(nn.ELU(alpha=0.5), nn.Flatten()),
            nn.Linear(18, n_components, bias=False),
        )
        decoder = nn.Sequential(
            nn.Linear(n_components, 8),
            nn.Unflatten(1, (2, 2, 2)),
            nn.ConvTranspose2d(2, 3, (1, 2), stride=(2, 1), output_padding=(1, 0), dilation=(1, 2)),
            nn.Identity(),
            nn.Flatten(),
            nn.Linear(48, n_features),
        )
        return encoder, decoder


@dtypes
def test_networks_of_users_are_the_same_if_their_layers_are_known(dtype):
    autoencoder = AutoencoderTransformer(2, network=OwnNetwork(), **FAST).fit(X)
    assert_same_outputs(autoencoder, ROWS, dtype)


def unknown_layer(n_features, n_components):
    class Cosine(nn.Module):
        def forward(self, x):
            return torch.cos(x)

    encoder = nn.Sequential(nn.Linear(n_features, n_components), Cosine())
    return encoder, nn.Linear(n_components, n_features)


def subclassed_layer(n_features, n_components):
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2.0 * super().forward(x)

    return Doubled(n_features, n_components), nn.Linear(n_components, n_features)


def grouped_convolution(n_features, n_components):
    encoder = nn.Sequential(
        nn.Unflatten(1, (2, n_features // 2)),
        nn.Conv1d(2, 2, 1, groups=2),
        nn.Flatten(),
        nn.Linear(n_features, n_components),
    )
    return encoder, nn.Linear(n_components, n_features)


@pytest.mark.parametrize(
    ("network", "name"),
    [
        (unknown_layer, "Cosine"),
        (subclassed_layer, "Doubled"),
        (grouped_convolution, "groups=2"),
    ],
)
def test_layers_that_cannot_be_converted_are_named(network, name):
    autoencoder = AutoencoderTransformer(2, network=network, **FAST).fit(X)
    with pytest.raises(ValueError, match=name):
        skl2onnx.to_onnx(autoencoder, X[:1])


def test_importance_weighted_scores_are_refused_and_codes_are_not():
    vae = VAETransformer(2, n_importance_samples=50, **FAST).fit(X)
    assert_close(run(vae, ROWS)["variable"], vae.transform(ROWS), np.float64)
    with pytest.raises(ValueError, match="n_importance_samples=50"):
        run(vae, ROWS, "score_samples")


DETECTED = [
    None,
    PCA(3),
    AutoencoderTransformer(3, **FAST),
    DenoisingAutoencoder(3, **FAST),
    VAETransformer(3, n_clusters=1, **FAST),
    VAETransformer(3, n_clusters=2, **FAST),
    AutoencoderTransformer(3, network=Conv1dNetwork((6, 2), (4,), kernel_size=3), **FAST),
    make_pipeline(StandardScaler(), AutoencoderTransformer(3, **FAST)),
    make_pipeline(StandardScaler(), make_pipeline(PCA(6), VAETransformer(3, **FAST))),
    GaussianMixture(2, random_state=0),
]


@pytest.fixture
def short_training(monkeypatch):
    monkeypatch.setattr(DenoisingEnsemble, "_n_steps", 10)


def assert_same_detection(detector, rows, outputs, dtype, tolerance=1e-10):
    np.testing.assert_array_equal(outputs["label"], detector.predict(rows))
    assert_close(outputs["scores"], detector.decision_function(rows), dtype, tolerance)
    assert_close(outputs["score_samples"], detector.score_samples(rows), dtype, tolerance)
    assert_close(outputs["p_values"], detector.p_values(rows), dtype, tolerance)


@dtypes
@pytest.mark.parametrize("estimator", DETECTED, ids=repr)
def test_the_detector_is_the_same_around_any_model(estimator, dtype, short_training):
    rows = ROWS.astype(dtype)
    detector = AutoencoderOutlierDetector(estimator, random_state=0).fit(X)
    outputs = run(detector, rows, "score_samples", "p_values")
    assert_same_detection(detector, rows, outputs, dtype)
    assert set(outputs["label"]) == {-1, 1}


@dtypes
def test_the_default_detector_is_the_same_for_ties_and_huge_values(dtype, short_training):
    table = np.hstack([X, np.ones((len(X), 1))])  # a constant column
    table[:40] = table[0]
    detector = AutoencoderOutlierDetector(random_state=0).fit(table)
    rows = np.vstack([table[:3], table[60:63], 1e6 * table[60:63], 1e30 * table[60:62]])
    rows = rows.astype(dtype)
    outputs = run(detector, rows, "score_samples", "p_values")
    # Far rows are at one distance, in float32, from many references, and the neighbours are any.
    assert_same_detection(detector, rows, outputs, dtype, tolerance=1e-8)


def test_weights_of_calibration_rows_count_in_p_values(short_training):
    weights = rng.uniform(0.1, 1.0, size=len(X))
    detector = AutoencoderOutlierDetector(random_state=0).fit(X, sample_weight=weights)
    assert_close(run(detector, ROWS, "p_values")["p_values"], detector.p_values(ROWS), np.float64)


def test_the_detector_leaves_the_options_of_the_user_alone():
    model = make_pipeline(StandardScaler(), PCA(2))
    detector = AutoencoderOutlierDetector(model).fit(X)
    options = {id(detector): {"score_samples": True}}
    skl2onnx.to_onnx(detector, X[:1], options=options)
    assert options == {id(detector): {"score_samples": True}}


def test_a_score_that_is_not_finite_is_an_outlier(short_training):
    detector = AutoencoderOutlierDetector(PCA(2)).fit(X)
    row = np.full((1, 12), np.nan)
    outputs = to_session(detector, X, "score_samples").run(None, {"X": row})
    assert [output.item() for output in outputs] == [-1, -np.inf, -np.inf]


@pytest.mark.parametrize("estimator", [PCA(2), AutoencoderTransformer(2, max_iter=2)])
def test_models_of_unknown_cells_are_refused(estimator):
    gaps = np.where(np.random.default_rng(0).random(X.shape) < 0.1, np.nan, X)
    model = estimator.fit(gaps)
    with pytest.raises(ValueError, match="fitted to rows with unknown cells.*model.impute"):
        to_session(model, X)


def test_p_values_without_calibration_rows_are_refused():
    detector = AutoencoderOutlierDetector(PCA(2), contamination=0.1).fit(X)
    assert set(run(detector, ROWS)) == {"label", "scores"}
    with pytest.raises(ValueError, match="calibration_fraction=0.2"):
        run(detector, ROWS, "p_values")


@pytest.mark.parametrize("model", [FactorAnalysis(2), IsolationForest(n_estimators=5)], ids=repr)
def test_models_whose_score_has_no_conversion_are_named(model):
    detector = AutoencoderOutlierDetector(model).fit(X)
    with pytest.raises(ValueError, match=type(model).__name__):
        skl2onnx.to_onnx(detector, X[:1])


@dtypes
@pytest.mark.parametrize(
    "model",
    [PCA(3), AutoencoderTransformer(3, **FAST), VAETransformer(3, **FAST)],
    ids=repr,
)
def test_a_pipeline_with_steps_before_and_behind_is_the_same(model, dtype):
    y = X[:, 0] > 2.0
    rows = ROWS.astype(dtype)
    pipeline = make_pipeline(StandardScaler(), model, LogisticRegression()).fit(X, y)
    session = onnxruntime.InferenceSession(
        skl2onnx.to_onnx(pipeline, rows[:1], options={"zipmap": False}).SerializeToString()
    )
    labels, probabilities = session.run(None, {"X": rows})
    np.testing.assert_array_equal(labels, pipeline.predict(rows))
    assert_close(probabilities, pipeline.predict_proba(rows), dtype)


@dtypes
def test_a_column_transformer_with_every_autoencoder_is_the_same(dtype):
    columns = ColumnTransformer(
        [
            ("pca", PCA(2), slice(0, 4)),
            ("ae", make_pipeline(MinMaxScaler(), AutoencoderTransformer(2, **FAST)), [4, 6, 5]),
            ("dae", DenoisingAutoencoder(1, **FAST), [7, 8]),
            ("vae", VAETransformer(2, **FAST), [9, 10, 11]),
        ],
        remainder="passthrough",
    ).fit(X)
    rows = ROWS.astype(dtype)
    assert_close(run(columns, rows)["transformed_column"], columns.transform(rows), dtype)


def test_a_column_transformer_by_name_takes_a_dataframe_with_integers():
    frame = pd.DataFrame(
        {"width": X[:, 0].astype(np.float32), "count": COUNTS[:, 1].astype(np.int64)}
        | {"height": X[:, 2].astype(np.float32), "name": X[:, 3].astype(np.float32)}
    )
    columns = ColumnTransformer(
        [("ae", AutoencoderTransformer(2, **FAST), ["width", "height", "count"])]
    ).fit(frame)
    graph = skl2onnx.to_onnx(columns, frame[:1])
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    inputs = {entry.name for entry in session.get_inputs()}
    (codes,) = session.run(
        None, {name: frame[[name]].to_numpy() for name in frame.columns if name in inputs}
    )
    assert_close(codes, columns.transform(frame).astype(np.float32), np.float32)


def mixed_frame(n_rows, seed):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "near_normal": rng.normal(5.0, 2.0, size=n_rows),
            "heavy_tails": rng.standard_cauchy(size=n_rows),
            "spike": np.where(rng.uniform(size=n_rows) < 0.3, 0.0, rng.normal(size=n_rows)),
            "large": rng.integers(10**8, 10**9, size=n_rows),
            "count": rng.poisson(2.0, size=n_rows),
            "yes": rng.uniform(size=n_rows) < 0.5,
            "constant": np.ones(n_rows),
            "empty": np.full(n_rows, np.nan),
        }
    )
    frame.loc[rng.uniform(size=n_rows) < 0.2, ["near_normal", "heavy_tails", "spike"]] = np.nan
    return frame


def columns_of(frame):
    return {name: frame[[name]].to_numpy() for name in frame.columns}


def test_the_numeric_columns_of_a_table_encoder_are_the_same():
    frame, others = mixed_frame(300, 0), mixed_frame(400, 1)
    encoder = TableEncoder().fit(frame)
    transformations = {"standardize", "arcsinh", "quantile", "0 or 1", "none"}
    assert set(encoder.schema_["transformation"]) == transformations
    graph = skl2onnx.to_onnx(encoder, frame[:1])
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    others.loc[:2, "heavy_tails"] = [1e9, -1e9, 0.0]
    # Cells of a knot and between knots, and beyond all of them.
    others.loc[:300, "spike"] = np.concatenate([frame["spike"], [1e3]])
    for table in (frame, others):
        (codes,) = session.run(None, columns_of(table))
        assert_close(codes, encoder.transform(table), np.float64)


@dtypes
def test_a_table_encoder_of_an_array_before_an_autoencoder_is_the_same(dtype):
    rows = ROWS.astype(dtype)
    pipeline = make_pipeline(TableEncoder(), AutoencoderTransformer(2, **FAST)).fit(X)
    assert_close(run(pipeline, rows)["variable"], pipeline.transform(rows), np.float64)


def test_columns_of_a_table_encoder_that_cannot_be_converted_are_named():
    frame = pd.DataFrame({"size": X[:, 0], "town": rng.choice(["Ulm", "Bonn"], size=len(X))})
    encoder = TableEncoder().fit(frame)
    with pytest.raises(ValueError, match="'town' of TableEncoder is of kind 'category'"):
        skl2onnx.to_onnx(encoder, frame[:1])


def test_a_feature_union_and_a_search_are_the_same():
    union = FeatureUnion([("pca", PCA(2)), ("ae", AutoencoderTransformer(2, **FAST))]).fit(X)
    (codes,) = run(union, ROWS).values()
    assert_close(codes, union.transform(ROWS), np.float64)
    search = GridSearchCV(VAETransformer(**FAST), {"n_components": [1, 2]}, cv=2).fit(X)
    assert_close(run(search, ROWS)["variable"], search.transform(ROWS), np.float64)


@dtypes
@pytest.mark.parametrize("kind", [AutoencoderTransformer, VAETransformer])
def test_losses_and_scores_that_no_number_holds_are_the_worst_ones(kind, dtype):
    autoencoder = kind(2, **FAST).fit(X)
    rows = np.full((2, 12), np.finfo(dtype).max / 64.0, dtype=dtype)
    outputs = run(autoencoder, rows, "reconstruction_error", "score_samples")
    largest = np.finfo(dtype).max
    np.testing.assert_array_equal(outputs["reconstruction_error"], largest)
    np.testing.assert_array_equal(outputs["score_samples"], -largest)
    np.testing.assert_array_equal(outputs["score_samples"], autoencoder.score_samples(rows))


def test_options_of_a_step_are_set_by_its_name():
    pipeline = make_pipeline(StandardScaler(), AutoencoderTransformer(2, **FAST)).fit(X)
    options = {"autoencodertransformer__score_samples": True}
    graph = skl2onnx.to_onnx(pipeline, X[:1], options=options)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    _, scores = session.run(None, {"X": ROWS})
    assert_close(scores, pipeline.score_samples(ROWS), np.float64)


def test_only_options_that_are_asked_for_are_outputs():
    autoencoder = AutoencoderTransformer(2, **FAST).fit(X)
    assert list(run(autoencoder, ROWS)) == ["variable"]
    with pytest.raises(NameError, match="zipmap"):
        run(autoencoder, ROWS, "zipmap")


@pytest.mark.parametrize(
    "model", [PCA(2), AutoencoderTransformer(2), AutoencoderOutlierDetector()], ids=repr
)
def test_an_estimator_that_is_not_fitted_is_refused(model):
    with pytest.raises(NotFittedError, match=type(model).__name__):
        skl2onnx.to_onnx(model, X[:1])
    with pytest.raises(NotFittedError):
        skl2onnx.to_onnx(make_pipeline(StandardScaler().fit(X), model), X[:1])


def test_rows_of_another_width_are_refused():
    with pytest.raises(ValueError, match="fitted to 12 features"):
        skl2onnx.to_onnx(PCA(2).fit(X), X[:1, :5])


@dtypes
def test_the_lowest_and_the_highest_opset_give_the_same(dtype, short_training):
    models = [
        VAETransformer(2, network=RecurrentNetwork((6, 2), 3, cell="gru"), **FAST).fit(X),
        AutoencoderTransformer(2, activation="gelu", **FAST).fit(X),
        AutoencoderOutlierDetector(random_state=0).fit(X),
    ]
    rows = ROWS.astype(dtype)
    for model in models:
        lowest, highest = (
            run(model, rows, "score_samples", target_opset=opset)
            for opset in (18, skl2onnx.__max_supported_opset__)
        )
        for name, values in lowest.items():
            assert_close(highest[name], values, dtype)
        with pytest.raises(ValueError, match="target_opset=17"):
            run(model, rows, target_opset=17)


def test_conversion_leaves_estimator_and_random_numbers_as_they_were():
    vae = VAETransformer(2, **FAST).fit(X)
    attributes, state = dict(vars(vae)), torch.get_rng_state()
    before = vae.transform(ROWS)
    run(vae, ROWS, *OF_AUTOENCODERS)
    assert vars(vae) == attributes
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(vae.transform(ROWS), before)


def evaluate(function, x):
    """Run a function of the graph in float64."""

    class Scope:
        count = 0

        def get_unique_variable_name(self, name):
            self.count += 1
            return f"{name}{self.count}"

        get_unique_operator_name = get_unique_variable_name

    class Container:
        def __init__(self):
            self.nodes, self.constants = [], []

        def add_initializer(self, name, kind, shape, content):
            self.constants.append(content)

        def add_node(self, kind, inputs, outputs, **attributes):
            self.nodes.append(onnx.helper.make_node(kind, inputs, outputs, **attributes))

    container = Container()
    result = function(Graph(Scope(), container, np.float64), "x")
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, [None])
        for name in ("x", result)
    ]
    graph = onnx.helper.make_graph(
        container.nodes, "graph", values[:1], values[1:], container.constants
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"x": x})[0]


def log_tail(z):
    return special.log_ndtr(-z)


def log_factorial(n):
    return special.gammaln(n + 1.0)


def log_of_one_more(x):
    return np.logaddexp(0.0, x)


@pytest.mark.parametrize(
    ("function", "reference", "x", "absolute"),
    [
        (_special.erfc, special.erfc, np.linspace(0.0, 20.0, 2001), 1e-15),
        (_special.log_normal_tail, log_tail, np.linspace(-9.0, 20.0, 2901), 1e-15),
        (_special.log_normal_tail, log_tail, np.linspace(-40.0, 5000.0, 9999), 1e-15),
        (_special.normal_probability, special.ndtr, np.linspace(-30.0, 30.0, 3001), 1e-15),
        (_special.log_factorial, log_factorial, np.linspace(0.0, 30.0, 301), 1e-14),
        (_special.log_factorial, log_factorial, np.logspace(1.0, 12.0, 99), 0.0),
        (_special.logistic, special.expit, np.linspace(-800.0, 800.0, 3001), 0.0),
        (_special.softplus, log_of_one_more, np.linspace(-800.0, 800.0, 3001), 1e-15),
        (_special.arcsinh, np.arcsinh, np.linspace(-1000.0, 1000.0, 2001), 1e-12),
    ],
)
def test_special_functions_have_the_digits_of_float64(function, reference, x, absolute):
    actual = evaluate(function, x)
    np.testing.assert_allclose(actual, reference(x), rtol=3e-15, atol=absolute)


WITHOUT = """
import runpy, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("onnx", "scipy", "skae", "skl2onnx", "sklearn", "torch"):
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0])
"""


def test_the_service_of_the_guide_needs_neither_torch_nor_scikit_learn(tmp_path, short_training):
    rows = ROWS.astype(np.float32)
    detector = AutoencoderOutlierDetector(random_state=0).fit(X)
    graph = skl2onnx.to_onnx(detector, rows[:1], options={"score_samples": True, "p_values": True})
    path = tmp_path / "detector.onnx"
    path.write_bytes(graph.SerializeToString())
    script = Path(__file__).parents[1] / "docs" / "user_guide" / "serve_onnx.py"
    assert len(script.read_text().splitlines()) <= 30
    command = [sys.executable, "-c", WITHOUT, str(script), str(path), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as service:
        try:
            url = f"http://127.0.0.1:{int(service.stdout.readline())}"
            with urlopen(Request(url, json.dumps(rows.tolist()).encode())) as answer:
                outputs = {name: np.array(values) for name, values in json.load(answer).items()}
            with pytest.raises(HTTPError, match="12 finite numbers"):
                urlopen(Request(url, b"[[1.0, 2.0]]"))
        finally:
            service.terminate()
    assert_same_detection(detector, rows, outputs, np.float32)


def test_a_missing_package_is_named():
    code = "import sys; sys.modules['skl2onnx'] = None; import skae.onnx"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode != 0
    assert "skae.onnx needs the package skl2onnx" in finished.stderr
    assert "pip install 'skae[onnx]'" in finished.stderr
