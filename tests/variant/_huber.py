"""HuberAutoencoder: a loss of its own, for tables with single wild cells."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor, nn

from skae._base import BaseAutoencoder, Start
from skae._losses import mean_of_cells
from skae._sklearn_compat import Interval
from skae._training import TrainableModule


class Huber(TrainableModule):
    """An encoder, a decoder and Huber's loss between rows and their reconstructions."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, delta: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.delta = delta

    def encode(self, x: Tensor) -> Tensor:
        """(batch, n_features) -> (batch, n_components)."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """(batch, n_components) -> (batch, n_features)."""
        return self.decoder(z)

    def reconstruct(self, x: Tensor) -> Tensor:
        """(batch, n_features) -> (batch, n_features)."""
        return self.decode(self.encode(x))

    def elementwise_loss(self, x: Tensor) -> Tensor:
        """Loss of every cell, (batch, n_features)."""
        return nn.functional.huber_loss(self.reconstruct(x), x, reduction="none", delta=self.delta)

    def reconstruction_loss(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        """Loss of every row, over its known cells if not all are known, (batch,)."""
        return mean_of_cells(self.elementwise_loss(x), known)

    def score(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        """Minus the loss of every row, (batch,)."""
        return -self.reconstruction_loss(x, known)

    def loss(self, x: Tensor, target: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        """Loss that training makes small, (batch,). This one has no pairs."""
        return self.reconstruction_loss(x, known)


class HuberAutoencoder(BaseAutoencoder):
    """Autoencoder with Huber's loss: squared for small residuals, absolute for large ones.

    Parameters
    ----------
    n_components : int, default=8
        Length of the code.
    delta : float, default=1.0
        Residual from which the loss grows linearly, in units of X.
    max_iter : int, default=100
        Number of epochs, that is passes over the data, if nothing stops training before.
    random_state : int, RandomState instance or None, default=None
        Determines the initial weights, the held-out rows and the order of rows.

    References
    ----------
    Huber, "Robust estimation of a location parameter", Annals of Mathematical Statistics 35 (1964).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> HuberAutoencoder(2, max_iter=3, random_state=0).fit_transform(X).shape
    (150, 2)
    """

    # A parameter of every autoencoder that this one does not vary. All others keep their defaults.
    init = "random"
    device, verbose = "auto", False

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **BaseAutoencoder._parameter_constraints,
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "delta": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(
        self,
        n_components: int = 8,
        *,
        delta: float = 1.0,
        max_iter: int = 100,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_components = n_components
        self.delta = delta
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> Self:
        """Learn to encode and decode the rows of X."""
        return self._fit(X, sample_weight)

    def _build_module(
        self, n_features: int, n_components: int, start: Start | None = None
    ) -> Huber:
        return Huber(*self._build_network(n_features, n_components), self.delta)

    def _loss_unit(self) -> str:
        return "Huber's loss per feature"
