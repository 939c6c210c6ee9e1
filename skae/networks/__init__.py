"""Architectures: builders of encoders and decoders.

An architecture is a callable ``(n_features, n_components) -> (encoder, decoder)``.
"""

from collections.abc import Callable

from torch import nn

from skae.networks._dense import ACTIVATIONS, anchor, dense_network, layer_pairs

Network = Callable[[int, int], tuple[nn.Module, nn.Module]]

__all__ = ["ACTIVATIONS", "Network", "anchor", "dense_network", "layer_pairs"]
