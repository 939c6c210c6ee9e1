import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import erf, expit
from torch import nn

from skae import networks
from skae.networks._dense import (
    ACTIVATIONS,
    OUTPUT_ACTIVATIONS,
    Anchored,
    Gate,
    TiedLinear,
    anchor,
    dense_network,
    layer_sizes,
    link_at,
)

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772  # Klambauer et al. 2017

FORMULAS = {
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "gelu": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2,
    "exponential": np.exp,
    "identity": lambda x: x,
    "logistic": expit,
    "relu": lambda x: np.maximum(x, 0),
    "selu": lambda x: SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(x)),
    "silu": lambda x: x * expit(x),
    "tanh": np.tanh,
}


@pytest.mark.parametrize("activation", OUTPUT_ACTIVATIONS)
def test_activation_is_its_formula(activation):
    x = np.linspace(-4, 4, 41)
    actual = OUTPUT_ACTIVATIONS[activation]()(torch.tensor(x))
    assert_allclose(actual, FORMULAS[activation](x), rtol=1e-12, atol=1e-15)


PLAIN = {
    "hidden_layer_sizes": (4, 3),
    "activation": "tanh",
    "dropout": 0.0,
    "use_bias": True,
    "tied_weights": False,
    "anchored": False,
}


def affine(layer):
    weight = layer.source.weight.T if isinstance(layer, TiedLinear) else layer.weight
    bias = 0.0 if layer.bias is None else layer.bias.detach().numpy()
    return weight.detach().numpy(), bias


def chain(network, x):
    """Evaluate a stack of affine maps with tanh between them."""
    layers = [layer for layer in network if isinstance(layer, nn.Linear | TiedLinear)]
    for index, layer in enumerate(layers):
        weight, bias = affine(layer)
        x = x @ weight.T + bias
        if index < len(layers) - 1:
            x = np.tanh(x)
    return x


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("tied_weights", [True, False])
def test_dense_is_a_chain_of_affine_maps_and_activations(tied_weights, use_bias):
    options = PLAIN | {"tied_weights": tied_weights, "use_bias": use_bias}
    encoder, decoder = (network.double() for network in dense_network(5, 2, **options))
    x = np.random.default_rng(0).normal(size=(6, 5))
    z = chain(encoder, x)
    assert z.shape == (6, 2)
    assert_allclose(encoder(torch.tensor(x)).detach(), z, rtol=1e-12)
    assert_allclose(decoder(torch.tensor(z)).detach(), chain(decoder, z), rtol=1e-12)
    if not use_bias:
        assert_allclose(decoder(encoder(torch.zeros(1, 5).double())).detach(), np.zeros((1, 5)))


def test_tied_decoder_has_only_its_biases():
    encoder, decoder = dense_network(5, 2, **PLAIN | {"tied_weights": True})
    assert sorted(tuple(p.shape) for p in decoder.parameters()) == [(3,), (4,), (5,)]
    for forth, back in zip(
        [layer for layer in encoder if isinstance(layer, nn.Linear)],
        [layer for layer in reversed(decoder) if isinstance(layer, TiedLinear)],
        strict=True,
    ):
        assert_array_equal(affine(forth)[0].T, affine(back)[0])


@pytest.mark.parametrize("tied_weights", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_anchored_network_starts_linear(activation, tied_weights):
    options = PLAIN | {"activation": activation, "anchored": True, "tied_weights": tied_weights}
    encoder, decoder = dense_network(5, 3, **options)
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(5, 2)))[0].T  # two axes for three components
    mean = rng.normal(size=5)
    x = rng.normal(size=(6, 5))
    place = {"mean": mean, "deviation": np.ones(5), "projection": axes, "loadings": axes}
    anchor(encoder, decoder, "identity", **{name: torch.tensor(a) for name, a in place.items()})
    z = encoder(torch.tensor(x, dtype=torch.float32))
    assert_allclose(z[:, :2].detach(), (x - mean) @ axes.T, rtol=1e-4, atol=1e-5)
    assert_array_equal(z[:, 2].detach(), np.zeros(6))
    desired = mean + (x - mean) @ axes.T @ axes
    assert_allclose(decoder(z).detach(), desired, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("activation", "output"),
    [("identity", lambda y: y), ("logistic", expit), ("exponential", np.exp)],
)
def test_a_link_gives_the_mean_back_and_follows_small_changes(activation, output):
    mean, deviation = np.array([0.2, 0.5, 0.9]), np.full(3, 1e-5)
    offset, slope = link_at(activation, torch.tensor(mean), torch.tensor(deviation))
    assert_allclose(output(offset.numpy()), mean, rtol=1e-12)
    x = mean + np.array([1e-5, -1e-5, 2e-5])
    assert_allclose(output((offset + slope * torch.tensor(x - mean)).numpy()), x, rtol=1e-6)


def test_the_link_of_rates_is_exact_one_standard_deviation_above_the_mean():
    mean, deviation = np.array([0.5, 3.0, 40.0]), np.array([4.0, 3.0, 1.0])
    offset, slope = map(
        np.asarray, link_at("exponential", torch.tensor(mean), torch.tensor(deviation))
    )
    assert_allclose(np.exp(offset + slope * deviation), mean + deviation, rtol=1e-12)


@pytest.mark.parametrize("tied_weights", [True, False])
def test_every_weight_of_an_anchored_network_learns(tied_weights):
    torch.random.default_generator.manual_seed(0)
    encoder, decoder = dense_network(
        5, 2, **PLAIN | {"anchored": True, "tied_weights": tied_weights}
    )
    x = torch.randn(50, 5) ** 3
    mean = x.mean(dim=0)
    axes = torch.linalg.svd(x - mean, full_matrices=False)[2][:2]
    anchor(
        encoder,
        decoder,
        "identity",
        mean=mean,
        deviation=x.std(dim=0),
        projection=axes,
        loadings=axes,
    )
    weights = [*encoder.parameters(), *decoder.parameters()]
    before = [w.detach().clone() for w in weights]
    optimizer = torch.optim.Adam(weights, lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        torch.square(decoder(encoder(x)) - x).mean().backward()
        optimizer.step()
    for w, w_before in zip(weights, before, strict=True):
        assert not torch.equal(w, w_before)


def test_linear_network_needs_nothing_beside_it():
    for anchored in (True, False):
        encoder, _ = dense_network(5, 2, **PLAIN | {"hidden_layer_sizes": (), "anchored": anchored})
        assert [type(layer) for layer in encoder] == [nn.Linear]
    encoder, _ = dense_network(5, 2, **PLAIN | {"anchored": True})
    assert isinstance(encoder, Anchored)


def test_gate_is_closed_at_first():
    assert_array_equal(Gate(3)(torch.ones(2, 3)).detach(), np.zeros((2, 3)))


def test_dense_drops_hidden_units_only():
    encoder, decoder = dense_network(5, 2, **PLAIN | {"dropout": 0.25})
    for network in (encoder, decoder):
        kinds = [type(layer) for layer in network]
        assert kinds == [nn.Linear, nn.Tanh, nn.Dropout, nn.Linear, nn.Tanh, nn.Dropout, nn.Linear]


@pytest.mark.parametrize(
    ("given", "expected"),
    [(7, [7]), ((), []), ([], []), ((4, 2), [4, 2]), (np.array([4, 2]), [4, 2])],
)
def test_layer_sizes(given, expected):
    assert layer_sizes(given) == expected


def test_exported_names_are_sorted_and_exist():
    assert networks.__all__ == sorted(networks.__all__)
    assert all(hasattr(networks, name) for name in networks.__all__)
