"""The recurrent network against the recurrences written out, and inside the estimator."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.special import expit
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skae import AutoencoderTransformer
from skae.networks import RecurrentNetwork

BOTH_CELLS = pytest.mark.parametrize("cell", ["gru", "lstm"])


@pytest.fixture(scope="module")
def waves():
    """200 sequences of 12 steps and a sine and a cosine of the same phase in each."""
    random = np.random.default_rng(0)
    angle = random.uniform(0, 2 * np.pi, (200, 1)) + np.arange(12) / 3
    return np.stack([np.sin(angle), np.cos(angle)], axis=2).reshape(200, 24)


def arrays(module):
    return [weights.detach().numpy() for weights in module.parameters()]


def gru_step(x, h, W, U, b, c):
    """Cho et al. 2014, with the second bias of Torch inside the reset."""
    (W_r, W_u, W_n), (U_r, U_u, U_n) = np.split(W, 3), np.split(U, 3)
    (b_r, b_u, b_n), (c_r, c_u, c_n) = np.split(b, 3), np.split(c, 3)
    reset = expit(W_r @ x + b_r + U_r @ h + c_r)
    update = expit(W_u @ x + b_u + U_u @ h + c_u)
    candidate = np.tanh(W_n @ x + b_n + reset * (U_n @ h + c_n))
    return update * h + (1 - update) * candidate


def lstm_step(x, h, memory, W, U, b, c):
    """Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000."""
    gate_in, gate_forget, candidate, gate_out = np.split(W @ x + b + U @ h + c, 4)
    memory = expit(gate_forget) * memory + expit(gate_in) * np.tanh(candidate)
    return expit(gate_out) * np.tanh(memory), memory


def run(cell, inputs, layers, first_states):
    """States of the last layer after each step."""
    for weights, first in zip(layers, first_states, strict=True):
        state, states = first, []
        for x in inputs:
            if cell == "gru":
                state = (gru_step(x, *state, *weights),)
            else:
                state = lstm_step(x, *state, *weights)
            states.append(state[0])
        inputs = states
    return inputs


@BOTH_CELLS
@pytest.mark.parametrize("n_layers", [1, 2])
def test_networks_are_the_recurrences_written_out(cell, n_layers):
    n_steps, n_channels, size, n_components = 5, 2, 4, 3
    network = RecurrentNetwork((n_steps, n_channels), size, cell=cell, n_layers=n_layers)
    encoder, decoder = (half.double() for half in network(n_steps * n_channels, n_components))
    row = np.random.default_rng(0).standard_normal(n_steps * n_channels)
    n_states = {"gru": 1, "lstm": 2}[cell]  # of each layer

    weights = arrays(encoder.recurrence)
    layers = [weights[4 * layer : 4 * layer + 4] for layer in range(n_layers)]
    zeros = [(np.zeros(size),) * n_states] * n_layers
    states = run(cell, row.reshape(n_steps, n_channels), layers, zeros)
    W, b = arrays(encoder.to_code)
    code = W @ states[-1] + b
    assert_allclose(encoder(torch.tensor(row)[None])[0].detach(), code, rtol=1e-10)

    weights = arrays(decoder.recurrence)
    layers = [weights[4 * layer : 4 * layer + 4] for layer in range(n_layers)]
    W, b = arrays(decoder.first_state)
    first = np.tanh(W @ code + b).reshape(n_states, n_layers, size).swapaxes(0, 1)
    states = run(cell, [code] * n_steps, layers, [tuple(layer) for layer in first])
    W, b = arrays(decoder.step)
    sequence = np.array([W @ state + b for state in reversed(states)])
    assert_allclose(decoder(torch.tensor(code)[None])[0].detach(), sequence.ravel(), rtol=1e-10)


@settings(max_examples=30, deadline=None)
@given(
    n_steps=st.integers(1, 9),
    n_channels=st.integers(1, 3),
    n_components=st.integers(1, 4),
    hidden_size=st.integers(1, 5),
    cell=st.sampled_from(["gru", "lstm"]),
    n_layers=st.integers(1, 3),
    n_batch=st.integers(1, 3),
)
def test_any_size_comes_back(
    n_steps, n_channels, n_components, hidden_size, cell, n_layers, n_batch
):
    network = RecurrentNetwork((n_steps, n_channels), hidden_size, cell=cell, n_layers=n_layers)
    encoder, decoder = network(n_steps * n_channels, n_components)
    x = torch.randn(n_batch, n_steps * n_channels)
    assert encoder(x).shape == (n_batch, n_components)
    assert decoder(encoder(x)).shape == x.shape


@BOTH_CELLS
def test_gradients_are_finite_differences_twice(cell):
    network = RecurrentNetwork((4, 2), 3, cell=cell, n_layers=2)
    encoder, decoder = (half.double() for half in network(8, 2))
    x = torch.randn(2, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: decoder(encoder(x)), x)
    assert torch.autograd.gradgradcheck(encoder, x)


def jacobian_penalty_gradients(encoder, x):
    """Gradients of the squared norm of the summed Jacobian with respect to the recurrence."""
    encoder.zero_grad()
    x = x.detach().requires_grad_()
    (jacobian,) = torch.autograd.grad(encoder(x).sum(), x, create_graph=True)
    jacobian.square().sum().backward()
    return [weights.grad.double().cpu() for weights in encoder.recurrence.parameters()]


# Torch has fused kernels for float32, whose second derivatives are another matter.
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@BOTH_CELLS
def test_second_derivatives_in_float32_are_those_of_float64(cell, device):
    encoder, _ = RecurrentNetwork((4, 2), 3, cell=cell)(8, 2)
    x = torch.randn(2, 8)
    actual = jacobian_penalty_gradients(encoder.to(device), x.to(device))
    desired = jacobian_penalty_gradients(encoder.cpu().double(), x.double())
    for single, double in zip(actual, desired, strict=True):
        assert_allclose(single, double, rtol=1e-4, atol=1e-6)


@BOTH_CELLS
def test_waves_in_a_grid_search_over_the_hidden_size(waves, cell):
    network = RecurrentNetwork((12, 2), cell=cell)
    pipeline = make_pipeline(
        StandardScaler(), AutoencoderTransformer(2, network=network, max_iter=1, random_state=0)
    )
    grid = {"autoencodertransformer__network__hidden_size": [2, 5]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(waves)
    encoder = search.best_estimator_[-1].module_.encoder
    assert [encoder.recurrence.hidden_size] == list(search.best_params_.values())
    assert search.transform(waves).shape == (200, 2)
    assert network.hidden_size == 32


@BOTH_CELLS
def test_training_finds_the_one_number_that_tells_waves_apart(waves, cell):
    autoencoder = AutoencoderTransformer(
        2,
        network=RecurrentNetwork((12, 2), 16, cell=cell),
        max_iter=15,
        batch_size=20,
        learning_rate_init=0.01,
        random_state=0,
    ).fit(waves)
    assert autoencoder.reconstruction_error(waves).mean() < 0.05 * waves.var()


@BOTH_CELLS
def test_training_in_bf16(waves, cell):
    network = RecurrentNetwork((12, 2), 4, cell=cell)
    autoencoder = AutoencoderTransformer(
        2, network=network, max_iter=2, precision="bf16", random_state=0
    ).fit(waves)
    assert np.isfinite(autoencoder.loss_curve_).all()


def test_a_wrong_shape_is_an_error_that_prints_both(waves):
    network = RecurrentNetwork((24, 2))
    message = r"24 columns, but sequence_shape=\(24, 2\) describes rows of 24 x 2 = 48 columns"
    with pytest.raises(ValueError, match=message):
        AutoencoderTransformer(2, network=network).fit(waves)
