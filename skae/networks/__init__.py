"""Architectures other than the dense one.

An architecture is a callable ``(n_features, n_components) -> (encoder, decoder)``.
"""

from skae.networks._conv import Conv1dNetwork, Conv2dNetwork
from skae.networks._recurrent import RecurrentNetwork

__all__ = ["Conv1dNetwork", "Conv2dNetwork", "RecurrentNetwork"]
