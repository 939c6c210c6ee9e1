"""Convolutional encoders and decoders, of images and of sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from math import prod
from numbers import Integral
from typing import ClassVar
from warnings import warn

from sklearn.base import BaseEstimator
from torch import Tensor, nn

from skae._documentation import DocumentationLinkMixin
from skae._sklearn_compat import Interval, StrOptions
from skae.networks._dense import ACTIVATIONS
from skae.networks._shapes import SEQUENCE_AXES, positive_integers, row_shape

IMAGE_AXES = {2: "(height, width)", 3: "(height, width, colours)"}

# By the number of axes along which the window moves.
CONVOLUTION: dict[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d}
TRANSPOSED_CONVOLUTION: dict[int, Callable[..., nn.Module]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
}


class ChannelsFirst(nn.Module):
    """(batch, *extents, channels), as rows have it, -> (batch, channels, *extents), as Torch."""

    def forward(self, x: Tensor) -> Tensor:
        """Move the channels to the front."""
        return x.movedim(-1, 1)


class ChannelsLast(nn.Module):
    """(batch, channels, *extents) -> (batch, *extents, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        """Move the channels to the end."""
        return x.movedim(1, -1)


def halved(extents: Sequence[int], channels: tuple[int, ...]) -> list[tuple[int, ...]]:
    """List the extents before, between and after stages that halve them, rounding up."""
    sizes = [tuple(extents)]
    for stage in range(len(channels)):
        if max(sizes[-1]) == 1:
            raise ValueError(
                f"channels={channels} asks for {len(channels)} stages, but an extent of "
                f"{' x '.join(map(str, extents))} is down to one position after {stage}; leave out "
                "the rest."
            )
        sizes.append(tuple((extent + 1) // 2 for extent in sizes[-1]))
    return sizes


def convolutional_network(
    shape: tuple[int, ...],
    n_components: int,
    *,
    channels: tuple[int, ...],
    kernel_size: int,
    activation: str,
) -> tuple[nn.Module, nn.Module]:
    """Build a convolutional encoder and the decoder that mirrors it.

    Parameters
    ----------
    shape : tuple of int
        Extents of a row, then its number of channels.
    n_components : int
        Length of the code.
    channels : tuple of int
        Channels after each stage.
    kernel_size : int
        Odd, so that the padding of half a window keeps position 2i of the input at i.
    activation : str
        Key of `ACTIVATIONS`.

    Returns
    -------
    encoder, decoder : nn.Module
        (batch, prod(shape)) -> (batch, n_components) and back.
    """
    *extents, n_channels = shape
    sizes = halved(extents, channels)
    stages = list(pairwise([n_channels, *channels]))
    inner = ([n_channels, *channels][-1], *sizes[-1])  # shape of what the dense layer reads
    n_axes = len(extents)
    window = {"kernel_size": kernel_size, "stride": 2, "padding": kernel_size // 2}
    convolution = partial(CONVOLUTION[n_axes], **window)
    transposed_convolution = partial(TRANSPOSED_CONVOLUTION[n_axes], **window)

    encoder: list[nn.Module] = [nn.Unflatten(1, shape), ChannelsFirst()]
    for n_in, n_out in stages:
        encoder += [convolution(n_in, n_out), ACTIVATIONS[activation]()]
    encoder += [nn.Flatten(), nn.Linear(prod(inner), n_components)]

    decoder: list[nn.Module] = [nn.Linear(n_components, prod(inner)), nn.Unflatten(1, inner)]
    for (n_out, n_in), size in zip(reversed(stages), reversed(sizes[:-1]), strict=True):
        # From m positions the windows reach 2m - 1; an even extent has one more.
        beyond = tuple(1 - extent % 2 for extent in size)
        decoder += [
            ACTIVATIONS[activation](),
            transposed_convolution(n_in, n_out, output_padding=beyond),
        ]
    decoder += [ChannelsLast(), nn.Flatten()]

    halves = nn.Sequential(*encoder), nn.Sequential(*decoder)
    for weights in [*halves[0].parameters(), *halves[1].parameters()]:
        # Torch's default shrinks the signal from layer to layer, and some seeds train slowly.
        if weights.ndim > 1:
            nn.init.xavier_uniform_(weights)
        else:
            nn.init.zeros_(weights)
    return halves


def check_odd(kernel_size: int) -> None:
    """Raise a ValueError if the window has no middle."""
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size={kernel_size} must be odd, so that a window has a middle.")


PARAMETER_CONSTRAINTS = {
    "channels": ["array-like", Interval(Integral, 1, None, closed="left")],
    "kernel_size": [Interval(Integral, 3, None, closed="left")],
    "activation": [StrOptions(set(ACTIVATIONS))],
}


class Conv2dNetwork(DocumentationLinkMixin, BaseEstimator):
    """Convolutional encoder and decoder of images.

    A value of `network` in the estimators. Each stage of the encoder is a convolution of stride
    two, which halves height and width (rounding up), and an activation; one dense layer then gives
    the code. The decoder mirrors it, with transposed convolutions that land on exactly the size
    of the images. What a window learns in one place it knows everywhere, so that there are
    far fewer weights than in a dense network.

    Parameters
    ----------
    image_shape : tuple of int
        Height and width of grey images, or height, width and number of colours. A row of X is one
        image in scikit-learn's order, ``image.reshape(-1)`` of an array of this shape: line by
        line from the top, each from left to right, and the colours of a pixel side by side. A
        shape that looks as if the colours came first, such as ``(3, 32, 32)``, gives a warning.
    channels : int or sequence of int, default=(16, 8)
        Channels after each stage of the encoder; there are as many stages as channels. Each has
        to find a height or width above one. With ``()`` only the dense layer is left.
    kernel_size : int, default=5
        Height and width of the windows, odd and at least 3.
    activation : {"relu", "tanh", "logistic", "identity", "gelu", "silu", "elu", "selu"}, \
            default="relu"
        Activation after each convolution.

    See Also
    --------
    skae.networks.Conv1dNetwork : The same along one axis, for sequences.

    Notes
    -----
    Strides stand in for the pooling of the first convolutional autoencoders [1]_: they lose
    nothing in accuracy [2]_ and have an exact mirror image, the transposed convolution [3]_. The
    initial weights are those of [4]_.

    References
    ----------
    .. [1] Masci, Meier, Cireşan & Schmidhuber, "Stacked convolutional auto-encoders for
       hierarchical feature extraction", ICANN (2011).
    .. [2] Springenberg, Dosovitskiy, Brox & Riedmiller, "Striving for simplicity: the all
       convolutional net", ICLR workshop (2015).
    .. [3] Dumoulin & Visin, "A guide to convolution arithmetic for deep learning",
       arXiv:1603.07285 (2016).
    .. [4] Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural
       networks", AISTATS (2010).

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skae import AutoencoderTransformer
    >>> from skae.networks import Conv2dNetwork
    >>> X = load_digits().data / 16  # 8 x 8 grey levels
    >>> network = Conv2dNetwork(image_shape=(8, 8))
    >>> autoencoder = AutoencoderTransformer(10, network=network, max_iter=2, random_state=0)
    >>> autoencoder.fit_transform(X).shape
    (1797, 10)
    """

    _parameter_constraints: ClassVar[dict[str, list]] = {
        "image_shape": ["array-like"],
        **PARAMETER_CONSTRAINTS,
    }

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: int | Sequence[int] = (16, 8),
        *,
        kernel_size: int = 5,
        activation: str = "relu",
    ) -> None:
        self.image_shape = image_shape
        self.channels = channels
        self.kernel_size = kernel_size
        self.activation = activation

    def __call__(self, n_features: int, n_components: int) -> tuple[nn.Module, nn.Module]:
        """Build the networks.

        Parameters
        ----------
        n_features : int
            Number of columns of the rows, the product of `image_shape`.
        n_components : int
            Length of the code.

        Returns
        -------
        encoder, decoder : torch.nn.Module
            (batch, n_features) -> (batch, n_components) and back.

        Raises
        ------
        ValueError
            If a parameter is not valid or does not fit the rows.
        """
        self._validate_params()
        check_odd(self.kernel_size)
        image_shape = row_shape("image_shape", self.image_shape, IMAGE_AXES, n_features)
        height, width, colours = (*image_shape, 1)[:3]
        if height in (1, 3, 4) and colours > 4:
            warn(
                f"image_shape={self.image_shape!r} is read as (height, width, colours): {height} "
                f"rows of {width} pixels with {colours} colours each. If it has the colours first, "
                "as images of Torch have, move them to the end before images become rows, "
                f"numpy.moveaxis(images, 1, -1), and use image_shape={(width, colours, height)}.",
                stacklevel=2,
            )
        return convolutional_network(
            (height, width, colours),
            n_components,
            channels=positive_integers("channels", self.channels),
            kernel_size=self.kernel_size,
            activation=self.activation,
        )


class Conv1dNetwork(DocumentationLinkMixin, BaseEstimator):
    """Convolutional encoder and decoder of sequences.

    A value of `network` in the estimators. Each stage of the encoder is a convolution over time
    of stride two, which halves the length (rounding up), and an activation; one dense layer then
    gives the code. The decoder mirrors it, with transposed convolutions that land on exactly the
    length of the sequences.

    Parameters
    ----------
    sequence_shape : tuple of int
        Number of time steps and number of channels, that is of values per time step. A row of X
        is one sequence, ``sequence.reshape(-1)`` of an array of this shape: the channels of the
        first time step side by side, then those of the second.
    channels : int or sequence of int, default=(16, 8)
        Channels after each stage of the encoder; there are as many stages as channels. Each has
        to find a length above one. With ``()`` only the dense layer is left.
    kernel_size : int, default=5
        Time steps of the windows, odd and at least 3.
    activation : {"relu", "tanh", "logistic", "identity", "gelu", "silu", "elu", "selu"}, \
            default="relu"
        Activation after each convolution.

    See Also
    --------
    skae.networks.Conv2dNetwork : The same along two axes, for images, with the references.
    skae.networks.RecurrentNetwork : Reads the time steps one after the other.

    Examples
    --------
    >>> import numpy as np
    >>> from skae import AutoencoderTransformer
    >>> from skae.networks import Conv1dNetwork
    >>> time = np.arange(50)
    >>> phase = np.linspace(0, 2 * np.pi, 200)[:, np.newaxis]
    >>> X = np.sin(time / 4 + phase)  # 200 sequences of 50 steps and one channel
    >>> network = Conv1dNetwork(sequence_shape=(50, 1))
    >>> autoencoder = AutoencoderTransformer(2, network=network, max_iter=2, random_state=0)
    >>> autoencoder.fit_transform(X).shape
    (200, 2)
    """

    _parameter_constraints: ClassVar[dict[str, list]] = {
        "sequence_shape": ["array-like"],
        **PARAMETER_CONSTRAINTS,
    }

    def __init__(
        self,
        sequence_shape: Sequence[int],
        channels: int | Sequence[int] = (16, 8),
        *,
        kernel_size: int = 5,
        activation: str = "relu",
    ) -> None:
        self.sequence_shape = sequence_shape
        self.channels = channels
        self.kernel_size = kernel_size
        self.activation = activation

    def __call__(self, n_features: int, n_components: int) -> tuple[nn.Module, nn.Module]:
        """Build the networks.

        Parameters
        ----------
        n_features : int
            Number of columns of the rows, the product of `sequence_shape`.
        n_components : int
            Length of the code.

        Returns
        -------
        encoder, decoder : torch.nn.Module
            (batch, n_features) -> (batch, n_components) and back.

        Raises
        ------
        ValueError
            If a parameter is not valid or does not fit the rows.
        """
        self._validate_params()
        check_odd(self.kernel_size)
        return convolutional_network(
            row_shape("sequence_shape", self.sequence_shape, SEQUENCE_AXES, n_features),
            n_components,
            channels=positive_integers("channels", self.channels),
            kernel_size=self.kernel_size,
            activation=self.activation,
        )
