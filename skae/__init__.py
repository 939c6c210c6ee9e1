"""Autoencoders and PCA for scikit-learn, on Torch."""

from skae._autoencoder import AutoencoderTransformer
from skae._pca import PCA

__all__ = ["AutoencoderTransformer", "PCA"]

__version__ = "0.1.0"
