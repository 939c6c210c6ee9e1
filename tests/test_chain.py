"""The chain rule by hand against automatic differentiation, in float64."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from skae._autoencoder import Autoencoder
from skae._losses import LOSSES
from skae._random import private_random_numbers, uniform_like
from skae._rows import Batch
from skae._solvers import FlatWeights
from skae._training import differentiate
from skae._vae import VariationalAutoencoder
from skae.networks._chain import DERIVATIVES, OwnWeights, chained
from skae.networks._dense import ACTIVATIONS, OUTPUT_ACTIVATIONS, Stack, dense_network

CPU = torch.device("cpu")

DENSE = {
    "hidden_layer_sizes": (6, 5),
    "activation": "tanh",
    "dropout": 0.0,
    "use_bias": True,
    "tied_weights": False,
    "anchored": False,
}


def make_networks(n_features=7, n_components=3, **options):
    torch.random.default_generator.manual_seed(0)
    with private_random_numbers(0, CPU):
        networks = dense_network(n_features, n_components, **DENSE | options)
    for weights in nn.ModuleList(networks).parameters():
        weights.data += 0.3 * torch.randn_like(weights)  # opens gates, fills layers of zeros
    return networks


def make_autoencoder(networks, loss="squared_error", output_activation="auto", **options):
    if output_activation == "auto":
        output_activation = LOSSES[loss].output_activation
    return Autoencoder(
        *networks, loss=loss, output_activation=output_activation, n_features=7, **options
    )


def make_batch(dtype=torch.float64, paired=False, weighted=False, gaps=False):
    x = torch.rand(11, 7, dtype=dtype)
    weights = torch.linspace(0.1, 1.9, 11, dtype=dtype) if weighted else None
    known = torch.rand(11, 7) < 0.6 if gaps else None
    if gaps:
        known[0] = False
    return Batch(x, torch.rand(11, 7, dtype=dtype) if paired else None, weights, known)


def loss_and_gradients(module, flat, function, batch):
    flat.gradients.zero_()
    with private_random_numbers(1, CPU):  # of dropout
        return function(batch), flat.gradients.clone()


def assert_equal_to_autograd(module, batch, **tolerance):
    flat = FlatWeights(module)
    by_hand = loss_and_gradients(module, flat, module.by_hand("float32").loss_and_gradients, batch)
    desired = loss_and_gradients(
        module, flat, lambda batch: differentiate(module, "float32", batch), batch
    )
    assert desired[1].count_nonzero() > 0.4 * len(desired[1])
    assert_close(by_hand, desired, **tolerance)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hidden_layer_sizes": ()},
        {"anchored": True},
        {"tied_weights": True},
        {"tied_weights": True, "anchored": True, "dropout": 0.3},
        {"use_bias": False, "dropout": 0.3},
        {"use_bias": False, "tied_weights": True},
    ],
    ids=str,
)
def test_gradients_of_every_dense_network_are_those_of_autograd(activation, options):
    module = make_autoencoder(make_networks(activation=activation, **options)).double()
    assert_equal_to_autograd(module, make_batch(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize(
    ("loss", "output_activation"),
    [(loss, "auto") for loss in LOSSES]
    + [("squared_error", "logistic"), ("gaussian", "tanh"), ("squared_error", "relu")],
)
def test_gradients_of_every_loss_are_those_of_autograd(
    loss, output_activation, paired, weighted, gaps
):
    module = make_autoencoder(make_networks(), loss, output_activation, sparsity=0.1).double()
    assert_equal_to_autograd(module, make_batch(paired=paired, weighted=weighted, gaps=gaps))


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("loss", "noise_variance"),
    [(loss, None) for loss in LOSSES] + [("squared_error", 0.5), ("absolute_error", 0.5)],
)
def test_gradients_of_the_variational_bound_are_those_of_autograd(
    loss, noise_variance, weighted, gaps
):
    encoder, _ = make_networks(n_components=6, anchored=True)
    _, decoder = make_networks(n_components=3, anchored=True)
    module = VariationalAutoencoder(
        encoder,
        decoder,
        loss=loss,
        output_activation=LOSSES[loss].output_activation,
        n_features=7,
        n_components=3,
        noise_variance=noise_variance,
        beta=2.0,
        beta_warmup=4,
    ).double()
    module.begin_epoch(2)
    batch = make_batch(weighted=weighted, gaps=gaps)
    assert_equal_to_autograd(module, batch, rtol=1e-10, atol=1e-12)


def test_corrupted_rows_are_encoded_and_clean_ones_restored():
    class Drop(nn.Module):
        def forward(self, x):
            return x * (uniform_like(x) < 0.5)

    module = make_autoencoder(make_networks(), corruption=Drop()).double()
    assert_equal_to_autograd(module, make_batch())


def test_bf16_rounds_products_only():
    # Against float32: what differs is rounding, and all of it is there.
    module = make_autoencoder(make_networks(anchored=True, tied_weights=True))
    flat, batch = FlatWeights(module), make_batch(torch.float32)
    by_hand = module.by_hand("bf16").loss_and_gradients
    loss, gradients = loss_and_gradients(module, flat, by_hand, batch)
    desired_loss, desired = loss_and_gradients(
        module, flat, lambda batch: differentiate(module, "float32", batch), batch
    )
    assert loss.dtype == gradients.dtype == torch.float32
    assert_close(loss, desired_loss, rtol=0.02, atol=0.0)
    assert not torch.equal(gradients, desired)
    assert torch.linalg.vector_norm(gradients - desired) < 0.02 * torch.linalg.vector_norm(desired)


def test_bf16_is_that_of_autocast_up_to_rounding():
    module = make_autoencoder(make_networks(anchored=True, tied_weights=True))
    flat, batch = FlatWeights(module), make_batch(torch.float32)
    by_hand = module.by_hand("bf16").loss_and_gradients
    loss, gradients = loss_and_gradients(module, flat, by_hand, batch)
    desired_loss, desired = loss_and_gradients(
        module, flat, lambda batch: differentiate(module, "bf16", batch), batch
    )
    assert_close(loss, desired_loss, rtol=0.01, atol=0.0)
    assert torch.linalg.vector_norm(gradients - desired) < 0.02 * torch.linalg.vector_norm(desired)


def test_what_has_no_formula_is_left_to_autograd():
    encoder, decoder = make_networks()
    FlatWeights(make_autoencoder((encoder, decoder)))
    assert chained(encoder, "float32", OwnWeights()) is not None
    assert chained(nn.Sequential(*encoder), "float32", OwnWeights()) is None
    assert make_autoencoder((nn.Linear(7, 3), decoder)).by_hand("float32") is None
    assert make_autoencoder((encoder, decoder), contraction=0.1).by_hand("float32") is None


@pytest.mark.parametrize(
    "activation", [nn.GELU(approximate="tanh"), nn.ELU(alpha=2.0), nn.Softplus()], ids=repr
)
def test_a_variant_of_an_activation_is_left_to_autograd(activation):
    stack = Stack(nn.Linear(7, 4), activation, nn.Linear(4, 3))
    FlatWeights(stack)
    assert chained(stack, "float32", OwnWeights()) is None


def test_every_activation_has_a_derivative():
    assert set(DERIVATIVES) == set(OUTPUT_ACTIVATIONS.values())
    assert ACTIVATIONS.items() <= OUTPUT_ACTIVATIONS.items()
