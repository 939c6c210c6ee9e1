"""Convolutional networks against NumPy convolutions, and inside the estimator."""

from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from torch import nn

from skae import AutoencoderTransformer
from skae.networks import Conv1dNetwork, Conv2dNetwork

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)


@pytest.fixture(scope="module")
def digits():
    return load_digits().data[:300] / 16


def arrays(layer):
    return layer.weight.detach().numpy(), layer.bias.detach().numpy()


def strided_convolution(image, weight, bias):
    """Stride two over an image (height, width, colours), by the definition."""
    n_out, _, size, _ = weight.shape
    height, width, _ = image.shape
    padded = np.pad(image, ((size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    result = np.empty(((height + 1) // 2, (width + 1) // 2, n_out))
    for i in range(result.shape[0]):
        for j in range(result.shape[1]):
            window = padded[2 * i : 2 * i + size, 2 * j : 2 * j + size]
            result[i, j] = np.einsum("hwc,ochw->o", window, weight) + bias
    return result


def strided_transposed_convolution(image, weight, bias, shape):
    """Spread each position over the window that a convolution would have read it from."""
    _, n_out, size, _ = weight.shape
    height, width = shape
    padded = np.zeros((height + size + 1, width + size + 1, n_out))
    for i, j in np.ndindex(image.shape[:2]):
        window = padded[2 * i : 2 * i + size, 2 * j : 2 * j + size]
        window += np.einsum("c,cohw->hwo", image[i, j], weight)
    return padded[size // 2 : size // 2 + height, size // 2 : size // 2 + width] + bias


@pytest.mark.parametrize("image_shape", [(7, 9), (6, 5, 3), (1, 8, 2)])
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_networks_are_convolutions_of_the_image(image_shape, kernel_size):
    network = Conv2dNetwork(image_shape, (4, 3), kernel_size=kernel_size, activation="tanh")
    encoder, decoder = (half.double() for half in network(prod(image_shape), 2))
    height, width, colours = (*image_shape, 1)[:3]
    row = np.random.default_rng(0).standard_normal(prod(image_shape))

    conv_1, conv_2 = (arrays(layer) for layer in encoder if isinstance(layer, nn.Conv2d))
    W, b = arrays(encoder[-1])
    h = np.tanh(strided_convolution(row.reshape(height, width, colours), *conv_1))
    h = np.tanh(strided_convolution(h, *conv_2))
    code = W @ h.transpose(2, 0, 1).ravel() + b
    assert_allclose(encoder(torch.tensor(row)[None])[0].detach(), code, rtol=1e-10)

    up_1, up_2 = (arrays(layer) for layer in decoder if isinstance(layer, nn.ConvTranspose2d))
    W, b = arrays(decoder[0])
    h = np.tanh((W @ code + b).reshape(3, (height + 3) // 4, (width + 3) // 4).transpose(1, 2, 0))
    middle = ((height + 1) // 2, (width + 1) // 2)
    h = np.tanh(strided_transposed_convolution(h, *up_1, middle))
    h = strided_transposed_convolution(h, *up_2, (height, width))
    assert_allclose(decoder(torch.tensor(code)[None])[0].detach(), h.ravel(), rtol=1e-10)


def test_one_axis_is_the_same_as_images_of_one_line():
    flat_encoder, flat_decoder = Conv2dNetwork((1, 11, 2), (4, 3), kernel_size=5)(22, 3)
    encoder, decoder = Conv1dNetwork((11, 2), (4, 3))(22, 3)
    for one, two in [(encoder, flat_encoder), (decoder, flat_decoder)]:
        state = {
            name: weights[:, :, 2] if weights.ndim == 4 else weights
            for name, weights in two.state_dict().items()
        }
        one.load_state_dict(state)
    x = torch.randn(5, 22)
    assert_allclose(encoder(x).detach(), flat_encoder(x).detach(), atol=1e-6)
    assert_allclose(decoder(x[:, :3]).detach(), flat_decoder(x[:, :3]).detach(), atol=1e-6)


def n_stages_possible(extents):
    return int(np.ceil(np.log2(max(extents))))


@settings(max_examples=60, deadline=None)
@given(
    extents=st.lists(st.integers(1, 20), min_size=1, max_size=2),
    n_channels=st.integers(1, 3),
    kernel_size=st.sampled_from([3, 5, 7]),
    n_batch=st.integers(1, 3),
    draw=st.data(),
)
def test_any_size_comes_back(extents, n_channels, kernel_size, n_batch, draw):
    n_stages = draw.draw(st.integers(0, n_stages_possible(extents)))
    build = Conv1dNetwork if len(extents) == 1 else Conv2dNetwork
    network = build((*extents, n_channels), (2,) * n_stages, kernel_size=kernel_size)
    n_features = prod(extents) * n_channels
    encoder, decoder = network(n_features, 4)
    x = torch.randn(n_batch, n_features)
    assert encoder(x).shape == (n_batch, 4)
    assert decoder(encoder(x)).shape == x.shape
    assert len([layer for layer in encoder if isinstance(layer, CONVOLUTIONS)]) == n_stages
    assert len([layer for layer in decoder if isinstance(layer, CONVOLUTIONS)]) == n_stages


@pytest.mark.parametrize("shape", [(8,), (1, 1), (7, 9), (1, 16), (5, 5, 3)])
def test_more_stages_than_the_size_allows(shape):
    build = Conv1dNetwork if len(shape) == 1 else Conv2dNetwork
    full = (*shape, 1) if len(shape) == 1 else shape
    possible = n_stages_possible(shape[:2])
    build(full, (2,) * possible)(prod(full), 2)
    message = f"asks for {possible + 1} stages, but .* one position after {possible}; leave out"
    with pytest.raises(ValueError, match=message):
        build(full, (2,) * (possible + 1))(prod(full), 2)


def stages(encoder):
    """The part of an encoder that moves with the image."""
    return encoder[:-2]


def test_convolutions_follow_a_shift_of_the_image():
    encoder, _ = Conv2dNetwork((24, 24), (3, 2), kernel_size=3)(24 * 24, 2)
    image = torch.zeros(24, 24)
    image[9:12, 8:13] = torch.randn(3, 5)
    shifted = image.roll((4, 8), dims=(0, 1))  # a multiple of two strides of two
    maps = stages(encoder)(torch.stack([image, shifted]).flatten(1))  # (2, 2, 6, 6)
    assert_allclose(
        maps[1, :, 2:5, 3:5].detach(), maps[0, :, 1:4, 1:3].detach(), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("colours", [1, 3])
def test_a_position_sees_its_surroundings_only(colours):
    shape = (12, 10, colours)
    encoder, _ = Conv2dNetwork(shape, (4,), kernel_size=3, activation="identity")(prod(shape), 2)
    x = torch.randn(1, prod(shape), requires_grad=True)
    position = stages(encoder)(x)[0, :, 2, 3].sum()  # reads lines 3 to 5, columns 5 to 7
    (gradient,) = torch.autograd.grad(position, x)
    seen = np.zeros(shape, dtype=bool)
    seen[3:6, 5:8] = True
    assert_array_equal(gradient.reshape(shape) != 0, seen)


@pytest.mark.parametrize(
    "network",
    [
        Conv2dNetwork((3, 5), (3, 2), activation="tanh"),
        Conv1dNetwork((5, 3), (3, 2), activation="tanh"),
    ],
    ids=repr,
)
def test_gradients_are_finite_differences_twice(network):
    encoder, decoder = (half.double() for half in network(15, 2))
    x = torch.randn(2, 15, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: decoder(encoder(x)), x)
    assert torch.autograd.gradgradcheck(encoder, x)


def test_far_fewer_weights_than_a_dense_network():
    network = Conv2dNetwork((32, 32, 3), (16, 16), kernel_size=3)
    encoder, decoder = network(32 * 32 * 3, 10)
    n_weights = sum(weights.numel() for half in (encoder, decoder) for weights in half.parameters())
    stages_of_encoder = (3 * 9 * 16 + 16) + (16 * 9 * 16 + 16)
    stages_of_decoder = (16 * 9 * 16 + 16) + (16 * 9 * 3 + 3)
    n_code = 16 * 8 * 8
    assert n_weights == stages_of_encoder + stages_of_decoder + 2 * n_code * 10 + n_code + 10


def test_digits_in_a_grid_search_over_the_channels(digits):
    network = Conv2dNetwork((8, 8))
    pipeline = make_pipeline(
        MinMaxScaler(), AutoencoderTransformer(4, network=network, max_iter=2, random_state=0)
    )
    grid = {"autoencodertransformer__network__channels": [(4,), (4, 8)]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(digits)
    chosen = search.best_params_["autoencodertransformer__network__channels"]
    convolutions = [
        layer
        for layer in search.best_estimator_[-1].module_.encoder
        if isinstance(layer, nn.Conv2d)
    ]
    assert tuple(layer.out_channels for layer in convolutions) == chosen
    assert search.transform(digits).shape == (300, 4)
    assert network.channels == (16, 8)


def test_training_lowers_the_error_of_digits(digits):
    autoencoder = AutoencoderTransformer(
        8,
        network=Conv2dNetwork((8, 8), (16, 32)),
        max_iter=15,
        batch_size=16,
        learning_rate_init=3e-3,
        random_state=0,
    ).fit(digits)
    assert autoencoder.reconstruction_error(digits).mean() < 0.5 * digits.var(axis=0).mean()


def test_training_in_bf16(digits):
    autoencoder = AutoencoderTransformer(
        4, network=Conv2dNetwork((8, 8)), max_iter=2, precision="bf16", random_state=0
    ).fit(digits)
    assert np.isfinite(autoencoder.loss_curve_).all()


def test_a_callable_with_any_two_modules(digits):
    class Half(nn.Module):
        def __init__(self, n_in, n_out):
            super().__init__()
            self.map = nn.utils.parametrizations.orthogonal(nn.Linear(n_in, n_out, bias=False))

        def forward(self, x):
            return self.map(x)

    autoencoder = AutoencoderTransformer(
        4, network=lambda d, k: (Half(d, k), Half(k, d)), max_iter=2, random_state=0
    ).fit(digits)
    W = autoencoder.module_.encoder.map.weight.detach().numpy()
    assert_allclose(W @ W.T, np.eye(4), atol=1e-5)
    assert_allclose(autoencoder.transform(digits), digits @ W.T, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            Conv2dNetwork((8, 9)),
            r"64 columns, but image_shape=\(8, 9\) describes rows of 8 x 9 = 72 columns",
        ),
        (Conv2dNetwork((8, 8, 3)), r"64 columns, but .* 8 x 8 x 3 = 192 columns"),
        (
            Conv1dNetwork((16, 2)),
            r"64 columns, but sequence_shape=\(16, 2\) .* 16 x 2 = 32 columns",
        ),
        (Conv2dNetwork((64,)), r"image_shape=\(64,\) must be \(height, width\) or \(height, "),
        (Conv1dNetwork((64,)), r"sequence_shape=\(64,\) must be \(time steps, channels\)"),
    ],
    ids=repr,
)
def test_a_wrong_shape_is_an_error_that_prints_both(digits, network, message):
    with pytest.raises(ValueError, match=message):
        AutoencoderTransformer(4, network=network).fit(digits)


@pytest.mark.parametrize("image_shape", [(3, 32, 32), (1, 28, 28), (4, 9, 8)])
def test_shapes_with_the_colours_first_are_questioned(image_shape):
    colours, height, width = image_shape
    advice = rf"moveaxis.*image_shape=\({height}, {width}, {colours}\)"
    with pytest.warns(UserWarning, match=advice):
        Conv2dNetwork(image_shape)(prod(image_shape), 2)


@pytest.mark.parametrize("image_shape", [(3, 32), (32, 32, 3), (3, 9, 3), (3, 8, 4), (8, 8, 16)])
def test_other_shapes_are_not_questioned(image_shape):
    Conv2dNetwork(image_shape, ())(prod(image_shape), 2)
