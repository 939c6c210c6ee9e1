"""Autoencoders and PCA for scikit-learn, on Torch."""

from skae._pca import PCA

__all__ = ["PCA"]

__version__ = "0.1.0"
