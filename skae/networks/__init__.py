"""Builders of encoders and decoders."""

from skae.networks._dense import ACTIVATIONS, dense, layer_sizes

__all__ = ["ACTIVATIONS", "dense", "layer_sizes"]
