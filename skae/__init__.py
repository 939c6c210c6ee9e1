"""Autoencoders and PCA for scikit-learn, on Torch."""

from skae._autoencoder import AutoencoderTransformer

__all__ = ["AutoencoderTransformer"]

__version__ = "0.1.0"
