"""AutoencoderTransformer against independent computations of the same numbers."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from torch import nn

from skae import AutoencoderTransformer


@pytest.fixture(scope="module")
def iris():
    return StandardScaler().fit_transform(load_iris().data)


@pytest.fixture(scope="module")
def digits():
    return MinMaxScaler().fit_transform(load_digits().data)


def plain(n_components, **parameters):
    """Build a network of one hidden layer without a linear path, whose layers are a list."""
    defaults = {"hidden_layer_sizes": (32,), "activation": "relu", "early_stopping": False}
    parameters = defaults | parameters
    return AutoencoderTransformer(n_components, init="random", random_state=0, **parameters)


def affine_layers(network):
    return [
        (layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy())
        for layer in network
        if isinstance(layer, nn.Linear)
    ]


def forward(network, X, activation):
    """Evaluate a dense stack by NumPy in float64."""
    *hidden, (W, b) = affine_layers(network)
    for W_hidden, b_hidden in hidden:
        X = activation(X @ W_hidden.T + b_hidden)
    return X @ W.T + b


def test_methods_are_the_network_evaluated_in_float64(iris):
    estimator = plain(2, hidden_layer_sizes=(6, 5), activation="tanh", max_iter=5).fit(iris)
    codes = forward(estimator.module_.encoder, iris, np.tanh)
    reconstruction = forward(estimator.module_.decoder, codes, np.tanh)
    assert_allclose(estimator.transform(iris), codes, rtol=1e-10, atol=1e-12)
    assert_allclose(estimator.inverse_transform(codes), reconstruction, rtol=1e-10, atol=1e-12)
    assert_allclose(estimator.reconstruct(iris), reconstruction, rtol=1e-10, atol=1e-12)
    squared = (reconstruction - iris) ** 2
    assert_allclose(estimator.reconstruction_error(iris, per_feature=True), squared, atol=1e-12)
    assert_allclose(estimator.reconstruction_error(iris), squared.mean(axis=1), atol=1e-12)
    assert_allclose(-estimator.score(iris), mean_squared_error(iris, reconstruction))


def test_bernoulli_error_is_log_loss(digits):
    estimator = AutoencoderTransformer(
        4, hidden_layer_sizes=(16,), loss="bernoulli", max_iter=2, random_state=0
    ).fit(digits)
    p = estimator.reconstruct(digits)
    assert ((p > 0) & (p < 1)).all()
    binary = (digits > 0.5).astype(float)
    p_binary = estimator.reconstruct(binary)
    desired = [log_loss(row, q) for row, q in zip(binary[:20], p_binary[:20], strict=True)]
    assert_allclose(estimator.reconstruction_error(binary[:20]), desired, rtol=1e-7)
    desired = -digits * np.log(p) - (1 - digits) * np.log1p(-p)
    assert_allclose(estimator.reconstruction_error(digits, per_feature=True), desired, atol=1e-7)


@pytest.mark.parametrize(
    ("loss", "output_activation", "last"),
    [
        ("squared_error", "auto", nn.Identity),
        ("squared_error", "logistic", nn.Sigmoid),
        ("bernoulli", "auto", nn.Sigmoid),
        ("bernoulli", "logistic", nn.Sigmoid),
    ],
)
def test_output_activation_follows_the_loss(digits, loss, output_activation, last):
    estimator = plain(3, loss=loss, output_activation=output_activation, max_iter=1).fit(digits)
    assert type(estimator.module_.output_activation) is last
    codes = estimator.transform(digits)
    output = forward(estimator.module_.decoder, codes, lambda x: np.maximum(x, 0))
    if last is nn.Sigmoid:
        output = 1 / (1 + np.exp(-output))
    assert_allclose(estimator.inverse_transform(codes), output, rtol=1e-9)
    if loss == "squared_error":
        error = np.square(output - digits).mean(axis=1)
        assert_allclose(estimator.reconstruction_error(digits), error, rtol=1e-9)


def test_bernoulli_needs_probabilities(digits):
    estimator = AutoencoderTransformer(2, loss="bernoulli", output_activation="tanh")
    with pytest.raises(ValueError, match="output_activation='tanh'.*loss='bernoulli'"):
        estimator.fit(digits)


@pytest.mark.parametrize("hidden_layer_sizes", [(), 7, (9, 5), [6]])
def test_decoder_mirrors_the_encoder(iris, hidden_layer_sizes):
    estimator = plain(2, hidden_layer_sizes=hidden_layer_sizes, max_iter=1).fit(iris)
    sizes = [4, *np.atleast_1d(hidden_layer_sizes).astype(int), 2]
    encoder = [W.shape[::-1] for W, _ in affine_layers(estimator.module_.encoder)]
    decoder = [W.shape[::-1] for W, _ in affine_layers(estimator.module_.decoder)]
    assert encoder == list(pairwise(sizes))
    assert decoder == [(n_out, n_in) for n_in, n_out in reversed(encoder)]


def test_linear_autoencoder_reaches_pca(iris):
    # Baldi & Hornik 1989: the error surface has one minimum, the principal subspace.
    estimator = AutoencoderTransformer(
        2, hidden_layer_sizes=(), learning_rate="cosine", learning_rate_init=0.03, max_iter=1000,
        batch_size=150, n_iter_no_change=1000, init="random", early_stopping=False, random_state=0,
    ).fit(iris)  # fmt: skip
    pca = PCA(2).fit(iris)
    optimum = mean_squared_error(iris, pca.inverse_transform(pca.transform(iris)))
    assert_allclose(-estimator.score(iris), optimum, rtol=1e-3)


def test_non_linear_autoencoder_beats_pca_at_equal_size(digits):
    train, test = digits[::2], digits[1::2]
    estimator = AutoencoderTransformer(4, max_iter=30, random_state=0).fit(train)
    pca = PCA(4).fit(train)
    linear = mean_squared_error(test, pca.inverse_transform(pca.transform(test)))
    assert -estimator.score(test) < 0.8 * linear


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.999])
def test_fractional_n_components_counts_linear_components(digits, share):
    estimator = AutoencoderTransformer(share, hidden_layer_sizes=(), max_iter=1, random_state=0)
    assert estimator.fit(digits).n_components_ == PCA(share).fit(digits).n_components_


def test_fractional_n_components_respects_weights(digits):
    weights = np.random.default_rng(0).integers(0, 4, len(digits))
    estimator = AutoencoderTransformer(0.8, hidden_layer_sizes=(), max_iter=1, random_state=0)
    estimator.fit(digits, sample_weight=weights)
    repeated = PCA(0.8).fit(np.repeat(digits, weights, axis=0))
    assert estimator.n_components_ == repeated.n_components_


def test_constant_table_has_one_component():
    estimator = AutoencoderTransformer(max_iter=1, random_state=0).fit(np.ones((5, 3)))
    assert estimator.n_components_ == 1


def test_code_may_be_longer_than_the_row(iris):
    estimator = AutoencoderTransformer(9, max_iter=2, random_state=0)
    assert estimator.fit_transform(iris).shape == (150, 9)


def test_dropout_belongs_to_training_only(iris):
    kept = plain(2, max_iter=1).fit(iris)
    dropped = plain(2, dropout=0.5, max_iter=1).fit(iris)
    assert not dropped.module_.training
    assert dropped.loss_curve_ != kept.loss_curve_
    codes = forward(dropped.module_.encoder, iris, lambda x: np.maximum(x, 0))
    assert_allclose(dropped.transform(iris), codes, rtol=1e-10, atol=1e-12)


def test_alpha_shrinks_the_weights(iris):
    norms = [
        sum(
            np.square(W).sum()
            for W, _ in affine_layers(plain(2, alpha=alpha, max_iter=30).fit(iris).module_.encoder)
        )
        for alpha in (0.0, 0.01, 0.1)
    ]
    assert norms[0] > norms[1] > norms[2]


def test_bf16_products_train_float32_weights(digits):
    kwargs = {"n_components": 8, "max_iter": 10, "random_state": 0}
    full = AutoencoderTransformer(**kwargs).fit(digits)
    half = AutoencoderTransformer(**kwargs, precision="bf16").fit(digits)
    assert {w.dtype for w in half.module_.parameters()} == {torch.float32}
    assert half.loss_curve_ != full.loss_curve_
    assert_allclose(half.score(digits), full.score(digits), rtol=0.02)


def test_grid_search_over_a_pipeline(iris):
    y = load_iris().target
    pipeline = make_pipeline(
        StandardScaler(),
        AutoencoderTransformer(hidden_layer_sizes=(8,), max_iter=5, random_state=0),
        LogisticRegression(),
    )
    search = GridSearchCV(
        pipeline,
        {
            "autoencodertransformer__n_components": [1, 3],
            "autoencodertransformer__learning_rate_init": [1e-2, "auto"],
        },
        cv=2,
        n_jobs=2,
    ).fit(iris, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    encoder = search.best_estimator_[:-1]
    assert encoder.inverse_transform(encoder.transform(iris)).shape == iris.shape
    by_loss = GridSearchCV(
        AutoencoderTransformer(hidden_layer_sizes=(8,), max_iter=20, random_state=0),
        {"n_components": [1, 3]},
        cv=2,
    ).fit(iris)
    assert by_loss.best_params_ == {"n_components": 3}
