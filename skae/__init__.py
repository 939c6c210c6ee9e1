"""Autoencoders and PCA for scikit-learn, on Torch."""

from inspect import isclass

from skae import callbacks, networks
from skae._autoencoder import AutoencoderTransformer
from skae._denoising import DenoisingAutoencoder
from skae._outliers import AutoencoderOutlierDetector, DenoisingEnsemble
from skae._pca import PCA
from skae._show_versions import show_versions
from skae._table import TableEncoder
from skae._table_autoencoder import TableAutoencoder
from skae._vae import VAETransformer

__all__ = [
    "AutoencoderOutlierDetector",
    "AutoencoderTransformer",
    "DenoisingAutoencoder",
    "PCA",
    "TableAutoencoder",
    "TableEncoder",
    "VAETransformer",
    "show_versions",
]

__version__ = "0.1.0"

# Classes of this package that a file of skops may hold.
TRUSTED_TYPES = sorted(
    f"{cls.__module__}.{cls.__qualname__}"
    for cls in (
        *(globals()[name] for name in __all__ if isclass(globals()[name])),
        *(getattr(networks, name) for name in networks.__all__),
        callbacks.Checkpoint,
        DenoisingEnsemble,  # the model of the detector if none is given
    )
)
