"""Autoencoders and PCA for scikit-learn, on Torch."""

from skae._autoencoder import AutoencoderTransformer
from skae._denoising import DenoisingAutoencoder

__all__ = ["AutoencoderTransformer", "DenoisingAutoencoder"]

__version__ = "0.1.0"
