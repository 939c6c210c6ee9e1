"""KSparseAutoencoder: a linear code of which each row uses k components."""

from __future__ import annotations

from numbers import Integral
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor, nn

from skae._autoencoder import Autoencoder, build_autoencoder
from skae._base import BaseAutoencoder, Start
from skae._sklearn_compat import Interval


class KeepLargest(nn.Module):
    """Keep the k largest numbers of each row and put zeros in the place of the others."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, z: Tensor) -> Tensor:
        """(batch, n_components) -> (batch, n_components)."""
        largest = z.topk(self.k, dim=1)  # values and indices, (batch, k)
        return z.new_zeros(z.shape).scatter(1, largest.indices, largest.values)


class KSparseAutoencoder(BaseAutoencoder):
    """Linear autoencoder with tied weights whose codes have `n_active` components.

    Parameters
    ----------
    n_components : int, default=100
        Length of the code.
    n_active : int, default=10
        Number of components, the largest ones, that a row keeps.
    loss : {"squared_error", "absolute_error", "bernoulli", "gaussian", "poisson"}, \
            default="squared_error"
        What the reconstruction is trained to make small, averaged over the features.
    alpha : float, default=0.0
        Strength of the L2 penalty ``alpha / 2 * ||W||**2`` on the weight matrix.
    solver : {"adam", "adamw", "sgd", "adadelta", "rmsprop"}, default="adam"
        Optimizer. "sgd" uses Nesterov's momentum of 0.9.
    batch_size : int, default=64
        Rows per step. The last step of an epoch takes what is left.
    max_iter : int, default=100
        Number of epochs, that is passes over the data, if nothing stops training before.
    warm_start : bool, default=False
        Whether `fit` continues from the weights of the previous fit.
    device : str, default="auto"
        Where to train and transform.
    random_state : int, RandomState instance or None, default=None
        Determines the initial weights, the held-out rows and the order of rows.
    verbose : bool, default=False
        Whether to show a progress bar.

    References
    ----------
    Makhzani & Frey, "k-sparse autoencoders", ICLR (2014).

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> X = load_digits().data / 16
    >>> codes = KSparseAutoencoder(64, n_active=5, max_iter=3, random_state=0).fit_transform(X)
    >>> int((codes != 0).sum(axis=1).max())
    5
    """

    # Parameters of every autoencoder that this one does not vary. All others keep their defaults.
    hidden_layer_sizes = ()
    activation, init, tied_weights = "identity", "random", True

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **BaseAutoencoder._parameter_constraints,
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "n_active": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        n_components: int = 100,
        *,
        n_active: int = 10,
        loss: Literal[
            "squared_error", "absolute_error", "bernoulli", "gaussian", "poisson"
        ] = "squared_error",
        alpha: float = 0.0,
        solver: Literal["adam", "adamw", "sgd", "adadelta", "rmsprop"] = "adam",
        batch_size: int = 64,
        max_iter: int = 100,
        warm_start: bool = False,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.n_components = n_components
        self.n_active = n_active
        self.loss = loss
        self.alpha = alpha
        self.solver = solver
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> Self:
        """Learn to encode and decode the rows of X."""
        return self._fit(X, sample_weight)

    def _build_module(
        self, n_features: int, n_components: int, start: Start | None = None
    ) -> Autoencoder:
        if self.n_active > n_components:
            raise ValueError(
                f"n_active={self.n_active} is more than n_components={n_components}; a row cannot "
                "keep more components than the code has."
            )
        # NOTE[DIFF]: the paper starts with a larger k and lowers it epoch by epoch, so that no
        # component dies early.
        module = build_autoencoder(self, n_features, n_components, start)
        module.encoder = nn.Sequential(module.encoder, KeepLargest(self.n_active))
        return module
