"""What users bring along, networks, noise, odd numbers: it works, or an error says what to do."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from skae import AutoencoderTransformer, DenoisingAutoencoder, VAETransformer

QUICK = {"max_iter": 2, "random_state": 0}


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    return rng.normal(size=(65, 2)) @ rng.normal(size=(2, 4)) + 0.1 * rng.normal(size=(65, 4))


def linear(n_features, n_components):
    return nn.Linear(n_features, n_components), nn.Linear(n_components, n_features)


def normalizing(n_features, n_components):
    encoder = nn.Sequential(nn.Linear(n_features, 3), nn.BatchNorm1d(3), nn.Linear(3, n_components))
    return encoder, nn.Linear(n_components, n_features)


def frozen(n_features, n_components):
    return tuple(part.requires_grad_(False) for part in linear(n_features, n_components))


def without_weights(n_features, n_components):
    return nn.Identity(), nn.Identity()


def half_frozen(n_features, n_components):
    encoder, decoder = linear(n_features, n_components)
    return encoder.requires_grad_(False), decoder


@pytest.mark.parametrize(("network", "n_components"), [(frozen, 2), (without_weights, 4)])
def test_a_network_with_nothing_to_train_is_an_error(X, network, n_components):
    with pytest.raises(ValueError, match="no weights to train.*`network`"):
        AutoencoderTransformer(n_components, network=network, **QUICK).fit(X)


def test_frozen_weights_stay_and_the_others_learn(X):
    built = []

    def network(n_features, n_components):
        built.append(half_frozen(n_features, n_components))
        return built[-1]

    fitted = AutoencoderTransformer(2, network=network, **QUICK).fit(X)
    encoder, _ = built[0]
    assert_array_equal(fitted.module_.encoder.weight, encoder.weight)
    assert not fitted.module_.encoder.weight.requires_grad
    assert fitted.loss_curve_[1] < fitted.loss_curve_[0]


def test_batch_normalization_of_one_row_names_the_batch_size(X):
    parameters = {"network": normalizing, "early_stopping": False, "batch_size": 64}
    with pytest.raises(ValueError, match="one row is too small.*batch_size"):
        AutoencoderTransformer(2, **parameters, **QUICK).fit(X)
    parameters["batch_size"] = 63
    assert np.isfinite(AutoencoderTransformer(2, **parameters, **QUICK).fit(X).score(X))


def test_noise_may_come_in_float64(X):
    def noise(x, level):
        return x.double() + 0.1

    def same(x, level):
        return x + 0.1

    ours, desired = (
        DenoisingAutoencoder(2, noise=function, **QUICK).fit(X).score_samples(X)
        for function in (noise, same)
    )
    assert_allclose(ours, desired, rtol=1e-4)


def test_numbers_may_be_small_integers_of_numpy(X):
    small = AutoencoderTransformer(
        np.int8(2), hidden_layer_sizes=(np.int8(100), np.int8(100)), batch_size=np.int8(127),
        max_iter=np.int8(2), n_iter_no_change=np.int8(100), random_state=0,
    ).fit(X)  # fmt: skip
    plain = AutoencoderTransformer(
        2, hidden_layer_sizes=(100, 100), batch_size=127, max_iter=2, n_iter_no_change=100,
        random_state=0,
    ).fit(X)  # fmt: skip
    assert_array_equal(small.transform(X), plain.transform(X))


@pytest.mark.parametrize("name", ["alpha", "sparsity", "contraction", "learning_rate_init"])
def test_numbers_that_float32_cannot_hold_are_named(X, name):
    with pytest.raises(ValueError, match=f"{name}=1e\\+40 is larger than 3.4e\\+38"):
        AutoencoderTransformer(2, **{name: 1e40}, **QUICK).fit(X)


def test_too_little_memory_is_a_memory_error(X):
    with pytest.raises(MemoryError, match="Lower hidden_layer_sizes"):
        AutoencoderTransformer(2, hidden_layer_sizes=(10**12,), **QUICK).fit(X)


def test_a_last_step_that_makes_the_noise_infinite_is_noticed(X):
    vae = VAETransformer(
        2, early_stopping=False, init="random", solver="sgd", learning_rate="constant",
        learning_rate_init=1e4, batch_size=100, max_iter=1, random_state=0,
    )  # fmt: skip
    with pytest.raises(ValueError, match="diverged in epoch 1"):
        vae.fit(100 * X)
    with pytest.raises(ValueError, match="diverged in epoch 1"):
        vae.partial_fit(100 * X)
    assert not hasattr(vae, "module_")


def test_columns_as_small_as_the_floor_of_the_noise_are_named(X):
    for estimator in (
        VAETransformer(2, **QUICK),
        AutoencoderTransformer(2, loss="gaussian", **QUICK),
    ):
        with pytest.warns(UserWarning, match="typical standard deviation.*StandardScaler"):
            estimator.fit(1e-5 * X)
        estimator.fit(X)
