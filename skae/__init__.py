"""Autoencoders and PCA for scikit-learn, on Torch."""

__all__: list[str] = []

__version__ = "0.1.0"
