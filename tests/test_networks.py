import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.special import erf, expit
from torch import nn

from skae import networks
from skae.networks import ACTIVATIONS
from skae.networks._dense import dense, layer_sizes

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772  # Klambauer et al. 2017

FORMULAS = {
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "gelu": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2,
    "identity": lambda x: x,
    "logistic": expit,
    "relu": lambda x: np.maximum(x, 0),
    "selu": lambda x: SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(x)),
    "silu": lambda x: x * expit(x),
    "tanh": np.tanh,
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_is_its_formula(activation):
    x = np.linspace(-4, 4, 41)
    actual = ACTIVATIONS[activation]()(torch.tensor(x))
    assert_allclose(actual, FORMULAS[activation](x), rtol=1e-12, atol=1e-15)


def test_dense_is_a_chain_of_affine_maps_and_activations():
    network = dense([5, 4, 3, 2], "tanh").double()
    x = np.random.default_rng(0).normal(size=(6, 5))
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    h = x
    for index, layer in enumerate(layers):
        h = h @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        if index < 2:
            h = np.tanh(h)
    assert_allclose(network(torch.tensor(x)).detach(), h, rtol=1e-12)


def test_dense_drops_hidden_units_only():
    kinds = [type(layer) for layer in dense([5, 4, 3, 2], "relu", dropout=0.25)]
    assert kinds == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert [type(layer) for layer in dense([5, 2], "relu", dropout=0.25)] == [nn.Linear]


@pytest.mark.parametrize(
    ("given", "expected"),
    [(7, [7]), ((), []), ([], []), ((4, 2), [4, 2]), (np.array([4, 2]), [4, 2])],
)
def test_layer_sizes(given, expected):
    assert layer_sizes(given) == expected


def test_exported_names_are_sorted_and_exist():
    assert networks.__all__ == sorted(networks.__all__)
    assert all(hasattr(networks, name) for name in networks.__all__)
