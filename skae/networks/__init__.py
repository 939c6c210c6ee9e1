"""Architectures: builders of encoders and decoders.

An architecture is a callable ``(n_features, n_components) -> (encoder, decoder)``.
"""

from collections.abc import Callable

from torch import nn

from skae.networks._conv import Conv1dNetwork, Conv2dNetwork
from skae.networks._dense import ACTIVATIONS, dense_network
from skae.networks._recurrent import RecurrentNetwork

Network = Callable[[int, int], tuple[nn.Module, nn.Module]]

__all__ = [
    "ACTIVATIONS",
    "Conv1dNetwork",
    "Conv2dNetwork",
    "Network",
    "RecurrentNetwork",
    "dense_network",
]
