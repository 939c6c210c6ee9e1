"""Autoencoders and PCA for scikit-learn, on Torch."""

from skae._autoencoder import AutoencoderTransformer
from skae._denoising import DenoisingAutoencoder
from skae._outliers import AutoencoderOutlierDetector
from skae._pca import PCA
from skae._table import TableEncoder
from skae._vae import VAETransformer

__all__ = [
    "AutoencoderOutlierDetector",
    "AutoencoderTransformer",
    "DenoisingAutoencoder",
    "PCA",
    "TableEncoder",
    "VAETransformer",
]

__version__ = "0.1.0"
