"""DenoisingEnsemble: the outlier score of a table that one knows nothing about."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from skae._base import CPU, FLOATS, LARGE_STEP, TORCH_DTYPE, to_rows
from skae._device import is_available, private_random_state, resolve_device, to_tensor
from skae._reporting import EpochReporter
from skae._rollback import unchanged_on_failure
from skae._sklearn_compat import Interval, _check_sample_weight
from skae._training import History, TrainableModule, in_batches, train

BATCH_SIZE = 128
HIDDEN_LAYER_SIZES = (128, 128)
N_STEPS = 2000
MAX_NOISE_LEVEL = 1.0


class Denoisers(TrainableModule):
    """Dense networks trained side by side, each to undo noise of its own.

    Every row of a batch is noisy to another degree, from not at all to one standard deviation of
    the columns. A network that does not know how noisy a row is takes a row that is unlike the
    training data for a noisy one, and moves it towards them.

    Parameters
    ----------
    n_members, n_features : int
    """

    def __init__(self, n_members: int, n_features: int) -> None:
        super().__init__()
        sizes = (n_features, *HIDDEN_LAYER_SIZES, n_features)
        shapes = list(pairwise(sizes))
        self.n_members = n_members
        self.weights = nn.ParameterList(uniform(n_members, i, o, fan_in=i) for i, o in shapes)
        self.biases = nn.ParameterList(uniform(n_members, 1, o, fan_in=i) for i, o in shapes)

    def loss(self, x: Tensor) -> Tensor:
        """Sum over the members of the squared error per feature, (batch,)."""
        rows = x.expand(self.n_members, *x.shape)
        levels = torch.empty_like(rows[..., :1]).uniform_(0.0, MAX_NOISE_LEVEL)
        restored = self.restore(rows + levels * torch.randn_like(rows))
        return torch.square(restored - x).mean(dim=2).sum(dim=0)

    def restore(self, x: Tensor) -> Tensor:
        """(n_members, batch, n_features) -> (n_members, batch, n_features)."""
        for weights, biases in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = nn.functional.silu(torch.baddbmm(biases, x, weights))
        return torch.baddbmm(self.biases[-1], x, self.weights[-1])

    def restored(self, x: Tensor) -> Tensor:
        """Mean of what the members make of the rows, (batch, n_features)."""
        return self.restore(x.expand(self.n_members, *x.shape)).mean(dim=0)

    def errors(self, x: Tensor) -> Tensor:
        """Mean over the members of the squared error of each cell, (batch, n_features)."""
        restored = self.restore(x.expand(self.n_members, *x.shape))
        return torch.square(restored - x).mean(dim=0)


def uniform(*shape: int, fan_in: int) -> nn.Parameter:
    """Weights that keep the size of what passes through them, as those of `torch.nn.Linear`."""
    bound = 1.0 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


class DenoisingEnsemble(CallbackSupportMixin, BaseEstimator):
    """Outlier score from a few small denoising networks, without anything to tune.

    Parameters
    ----------
    n_estimators : int, default=4
        Number of networks.
    device : str, default="auto"
        Where to train and score, as in `AutoencoderTransformer`.
    random_state : int, RandomState instance or None, default=None
        Determines the initial weights, the order of rows and the noise.
    verbose : bool, default=False
        Whether to show a progress bar.
    """

    _parameter_constraints: ClassVar[dict[str, list]] = {
        "n_estimators": [Interval(Integral, 1, None, closed="left")],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        n_estimators: int = 4,
        *,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.n_estimators = n_estimators
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    def fit(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> Self:
        """Learn what the rows of X have in common.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training data.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        self : object
            Fitted estimator.
        """
        self._validate_params()
        resolve_device(self.device, large=False)
        with unchanged_on_failure(self):
            self._fit(X, sample_weight)
        return self

    def score_samples(self, X: ArrayLike) -> np.ndarray:
        """Minus the outlier score of each row; the higher, the more normal.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data.

        Returns
        -------
        score : ndarray of shape (n_samples,)
            Minus the sum of `contributions`.
        """
        return -self.contributions(X).sum(axis=1)

    def contributions(self, X: ArrayLike) -> np.ndarray:
        """Part of each cell in the outlier score of its row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data.

        Returns
        -------
        contributions : ndarray of shape (n_samples, n_features)
            At least 0; they sum to minus `score_samples`.
        """
        return self._apply("errors", self._scale(X)) / np.float32(self.n_features_in_)

    def expected(self, X: ArrayLike) -> np.ndarray:
        """Give the value that the model expected in each cell.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data.

        Returns
        -------
        X_expected : ndarray of shape (n_samples, n_features)
            In the units of X.
        """
        return self._scaler.inverse_transform(self._apply("restored", self._scale(X)))

    def _fit(self, X: Any, sample_weight: ArrayLike | None) -> None:
        X = validate_data(self, X, dtype=FLOATS, ensure_min_samples=2)
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(
                sample_weight, X, dtype=np.float64, ensure_non_negative=True
            )
        self._scaler = StandardScaler().fit(X, sample_weight=weights)
        rows = to_rows(self._scaler.transform(X), None, weights)
        n_epochs = math.ceil(N_STEPS / math.ceil(len(rows) / BATCH_SIZE))
        context = self._init_callback_context(max_subtasks=n_epochs)
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        building_seed, training_seed = np.random.SeedSequence(seed).generate_state(2).tolist()
        with private_random_state(building_seed, CPU):
            module = Denoisers(self.n_estimators, X.shape[1])
        n_weights = sum(weight.numel() for weight in module.parameters())
        device = resolve_device(self.device, large=BATCH_SIZE * n_weights >= LARGE_STEP)
        history = History()

        def fitted_attributes() -> dict[str, Any]:
            state = module.state_dict()
            return {
                "_weights": {name: w.cpu().numpy().copy() for name, w in state.items()},
                "loss_curve_": [loss / self.n_estimators for loss in history.loss_curve],
                "device_": str(device),
            }

        with (
            private_random_state(training_seed, device),
            EpochReporter(self, context, X, sample_weight, fitted_attributes) as reporter,
        ):
            train(
                module.to(device),
                rows.to(device),
                None,
                history,
                solver="adam",
                learning_rate="cosine",
                learning_rate_init=3e-3,
                alpha=0.0,
                batch_size=BATCH_SIZE,
                max_iter=n_epochs,
                tol=0.0,
                n_iter_no_change=n_epochs,
                shuffle=True,
                precision="float32",
                never_worse=False,
                observer=reporter,
            )
            self.__dict__.update(fitted_attributes())

    def _scale(self, X: ArrayLike) -> np.ndarray:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=FLOATS, reset=False)
        return self._scaler.transform(X)

    def _apply(self, method: str, X: np.ndarray) -> np.ndarray:
        """Apply a method of the fitted networks to scaled rows, in their dtype."""
        device, dtype = torch.device(self.device_), TORCH_DTYPE[X.dtype.name]
        if not is_available(device) or (device.type == "mps" and dtype == torch.float64):
            device = CPU
        with torch.device("meta"):  # no memory, no random numbers
            module = Denoisers(self.n_estimators, X.shape[1])
        tensors = {name: to_tensor(array, CPU) for name, array in self._weights.items()}
        module.load_state_dict(tensors, assign=True)
        function: Callable[[Tensor], Tensor] = getattr(module.to(device, dtype), method)
        return in_batches(function, X, device)
