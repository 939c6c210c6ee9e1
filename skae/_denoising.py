"""DenoisingAutoencoder: learns to undo noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from skae._autoencoder import Autoencoder, LossContributionsMixin, build_autoencoder
from skae._base import BaseAutoencoder, Start
from skae._corruption import NOISES
from skae._losses import feature_ranges
from skae._random import private_random_numbers, random_numbers_of_the_process, uniform_like
from skae._sklearn_compat import Interval, StrOptions
from skae.networks._dense import Network

NoiseLevel = float | tuple[float, float]


class Corruption(nn.Module):
    """Noise for rows: new one in every call in training mode, the same one in evaluation mode.

    Parameters
    ----------
    noise : str or callable
        Key of `NOISES`, or ``(x, level) -> x_noisy`` with x of (batch, n_features) and level of
        (batch, 1).
    noise_level : float or (float, float)
        Level of all rows, or the range from which each row's is drawn.
    low, high : Tensor of shape (n_features,)
        Range of each feature. Per feature suits tables and costs images next to nothing, whereas
        one range for all columns would put absurd values into the narrow ones.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        noise: str | Callable[[Tensor, Tensor], Tensor],
        noise_level: NoiseLevel,
        low: Tensor,
        high: Tensor,
    ) -> None:
        super().__init__()
        self._noise = noise
        self._levels = level_range(noise, noise_level)
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_features) -> (batch, n_features), without a change to x."""
        if isinstance(self._noise, str) and self._levels == (0.0, 0.0):
            return x  # and no random number is drawn
        if self.training:
            return self._corrupt(x)
        # What is monitored must be comparable from one epoch to the next.
        with private_random_numbers(0, x.device):
            return self._corrupt(x)

    def _corrupt(self, x: Tensor) -> Tensor:
        x = x.contiguous()  # numbers are drawn in the order of memory, which is not to matter
        low, high = self._levels
        level = x.new_full((len(x), 1), low)
        if low < high:
            level = uniform_like(level, low, high)
        if isinstance(self._noise, str):
            return NOISES[self._noise].corrupt(x, level, self.low, self.high)
        # x may be the training data itself, and a callable may work in place.
        with random_numbers_of_the_process():
            noisy = self._noise(x.clone(), level)
        if not isinstance(noisy, Tensor) or noisy.shape != x.shape:
            shape = tuple(noisy.shape) if isinstance(noisy, Tensor) else type(noisy).__name__
            raise ValueError(
                f"noise={self._noise!r} gave {shape} for rows of shape {tuple(x.shape)}; it must "
                "give a torch.Tensor of the same shape."
            )
        return noisy.to(x.dtype)


def level_range(
    noise: str | Callable[[Tensor, Tensor], Tensor], noise_level: NoiseLevel
) -> tuple[float, float]:
    """Check the parameter ``noise_level`` and return the lowest and the highest level."""
    highest = NOISES[noise].max_level if isinstance(noise, str) else math.inf
    levels = tuple(noise_level) if isinstance(noise_level, Iterable) else (noise_level,) * 2
    if len(levels) == 2 and all(isinstance(level, Real) for level in levels):
        low, high = map(float, levels)
        if 0.0 <= low <= high <= highest and math.isfinite(high):
            return low, high
    unit = "a probability of at most 1" if highest == 1.0 else "at least 0 and finite"
    raise ValueError(
        f"noise_level={noise_level!r} with noise={noise!r} must be {unit}, or a pair (low, high) "
        "of such levels with low <= high."
    )


class DenoisingAutoencoder(LossContributionsMixin, BaseAutoencoder):
    """Autoencoder that learns to restore rows from corrupted copies.

    In every training step each row is corrupted anew, and the network is trained to give back the
    row as it was. What cannot be told from noise does not get through the code: `reconstruct`
    removes noise, and the code depends less on single cells. Only training corrupts; `transform`,
    `reconstruct` and the scores take rows as they are.

    Parameters
    ----------
    n_components : int or float, default=0.9
        Length of the code. A float between 0 and 1 means as many components as PCA needs to keep
        that share of the variance: hundreds for wide tables whose columns have little in common,
        such as counts of words. ``verbose=True`` shows how many, and an integer is faster then. A
        code longer than the row is allowed.
    noise : {"gaussian", "clipped_gaussian", "masking", "salt_and_pepper", "swap"} or callable, \
            default="gaussian"
        How rows are corrupted:

        - "gaussian": normal noise is added.
        - "clipped_gaussian": the same, then clipped to the range of each feature in the training
          data. For values with hard bounds, such as pixels.
        - "masking": cells are set to zero.
        - "salt_and_pepper": cells are set to the smallest or the largest value of their feature in
          the training data, with equal probability.
        - "swap": cells are replaced by those of other rows of the batch, each in its column. For
          tables with columns of any kind.

        A callable ``(x, level) -> x_noisy`` takes tensors of shape (batch, n_features) and
        (batch, 1) and gives the first shape; it should draw from Torch's default generator, and
        must be picklable if the estimator is to be.
    noise_level : float or (float, float), default=0.3
        Strength of the noise: the standard deviation in the unit of X for the two Gaussian ones, a
        cell's probability of being hit for the other three. Of a pair (low, high), each row draws
        its own level in every step, so that one network learns several strengths. With zero,
        and noise that has a name, this is `AutoencoderTransformer`.
    hidden_layer_sizes : int or sequence of int, default=(128, 64)
        Units of each hidden layer of the encoder; the decoder mirrors them. With ``()`` both are
        one linear layer.
    activation : {"relu", "tanh", "logistic", "identity", "gelu", "silu", "elu", "selu"}, \
            default="silu"
        Activation of the hidden layers. The code itself has none.
    network : callable, default=None
        Architecture. None is the dense network that the parameters around this one describe.
        Otherwise one of `skae.networks`, or any callable ``(n_features, n_components) -> (encoder,
        decoder)`` that returns two `torch.nn.Module`, of (batch, n_features) -> (batch,
        n_components) and back. The parameters of the dense network then stay at their defaults,
        and `init` has no effect. A callable must be picklable if the estimator is to be.
    init : {"pca", "random"}, default="pca"
        Start of the dense network. "pca" gives encoder and decoder a linear path beside the
        non-linear one, ``z = W(x - m) + f(x)`` and ``W'z + m + g(z)``, with W and m from the PCA of
        all rows and f and g zero at first. Where training does not lower the monitored loss by
        more than its standard error, PCA is what `fit` returns. With a logistic output the start is
        PCA to first order in x - m. "random" is the plain network with Glorot's weights, which is
        the start of Keras.
    tied_weights : bool, default=False
        Whether the decoder's matrices are those of the encoder transposed.
    use_bias : bool, default=True
        Whether layers add a bias. If False, centre the columns of X.
    loss : {"squared_error", "absolute_error", "bernoulli", "gaussian", "poisson"} or list of \
            tuple, default="squared_error"
        What the reconstruction is trained to make small, averaged over the features:
        "squared_error" is the squared difference; "absolute_error" is the absolute difference, on
        which single huge values weigh less; "bernoulli" is the cross-entropy in nats, for values in
        [0, 1] such as pixels or shares; "poisson" is the negative log-probability in nats of
        counts, whose rate is the reconstruction; "gaussian" is the negative log-density in nats of
        a normal distribution around the reconstruction, whose variance is learned for each feature
        and is at least 1e-6. A list such as
        ``[("categorical", 5), ("squared_error", 1)]`` gives blocks of columns losses of their own,
        see the user guide.
    output_activation : "auto" or one of the activations, default="auto"
        Activation of the reconstruction. "auto" is "logistic" for the loss "bernoulli",
        "exponential" for "poisson", and "identity" for the others.
    dropout : float, default=0.0
        Probability that a hidden unit is left out of a training step.
    alpha : float, default=0.0
        Strength of the L2 penalty ``alpha / 2 * ||W||**2`` on the weight matrices, beside the mean
        loss of a row. Solver "adamw" decays the weights apart from the gradient instead.
        `loss_curve_` does not include it.
    sparsity : float, default=0.0
        Strength of the L1 penalty ``sparsity * ||z||_1`` on the code of a row.
    contraction : float, default=0.0
        Strength of the penalty ``contraction * ||dz/dx||_F**2`` on the Jacobian of the encoder at
        a row. It is exact for any network, and costs a backward pass of the encoder, and one
        through that, for each component.
    pretrain_iter : int, default=0
        Number of epochs in which each layer of the dense network is first trained as an
        autoencoder of the layer below it. Needs ``init="random"``.
    solver : {"adam", "adamw", "sgd", "adadelta", "rmsprop"}, default="adam"
        Optimizer. "sgd" uses Nesterov's momentum of 0.9.
    learning_rate : {"constant", "cosine"}, default="cosine"
        Schedule; "cosine" falls to zero at the end of `max_iter` epochs.
    learning_rate_init : "auto" or float, default="auto"
        Learning rate of the first step. "auto" is 0.003 for adam and adamw, 0.001 for rmsprop, 0.01
        for sgd and 1 for adadelta.
    batch_size : int, default=64
        Rows per step. The last step of an epoch takes what is left.
    max_iter : int, default=100
        Number of epochs, that is passes over the data, if nothing stops training before.
    early_stopping : bool, default=True
        Whether to hold out rows, stop when their loss no longer falls and return the weights for
        which it was lowest. If False, the training loss decides when to stop and the last weights
        are returned.
    validation_fraction : float, default=0.1
        Share of the rows to hold out for early stopping.
    n_iter_no_change : int, default=10
        Training stops after this many epochs in a row without progress.
    tol : float, default=1e-4
        Progress is a loss lower than the best one by more than this share of it.
    shuffle : bool, default=True
        Whether to take the rows in a new order in every epoch.
    warm_start : bool, default=False
        Whether `fit` continues from the weights of the previous fit, with what the solver remembers
        and, for a table of the same length, with the same rows held out. The schedule of the
        learning rate begins anew.
    precision : {"float32", "bf16"}, default="float32"
        Precision of the matrix products of training. "bf16" is faster on hardware that has it and
        on large layers. Weights are float32 either way, and results have the precision of X.
    device : str, default="auto"
        Where to train and transform: "cpu", "cuda", "cuda:1", "mps", or "auto", which takes a CUDA
        device if there is one and a step is at least 2**24 multiply-adds (`batch_size` times the
        number of weights).
    random_state : int, RandomState instance or None, default=None
        Determines the initial weights, the held-out rows, the order of rows, the noise and dropout.
        Torch's global random state is not touched. Pass an int for the same model in every call on
        the same machine.
    verbose : bool, default=False
        Whether to show a progress bar, with the length of the code and the number of weights.

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained network, on the CPU and in evaluation mode. Its children `encoder` and
        `decoder` can be used on their own.
    n_components_ : int
        Length of the code.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns of X, if it had any that are all strings.
    n_iter_ : int
        Number of epochs trained.
    loss_curve_ : list of float
        Mean loss of each epoch over its batches, each before its step, between rows and what is
        made of their corrupted copies.
    validation_loss_curve_ : list of float or None
        Mean loss of the held-out rows after each epoch; None without early stopping. They are
        corrupted too, in the same way after every epoch: restoring is what is learned, and rows
        without noise would call a network better that only copies.
    pretrain_loss_curves_ : list of list of float
        Loss curve of the pretraining of each layer, as squared error; empty without it.
    best_loss_ : float
        With early stopping the validation loss of the weights that are returned, otherwise the
        lowest training loss.
    loss_unit_ : str
        What `loss_curve_` shows, with its unit.
    device_ : str
        Device of the training.

    See Also
    --------
    AutoencoderTransformer : The same without noise.

    Notes
    -----
    Scale the features first, for example with `StandardScaler` (pixels with a constant factor):
    one `noise_level` holds for all of them.

    `score` is minus the loss of reconstructing rows as they are. To search for the best denoiser,
    score with pairs instead; the user guide shows how.

    References
    ----------
    .. [1] Vincent, Larochelle, Bengio & Manzagol, "Extracting and composing robust features with
       denoising autoencoders", ICML (2008).
    .. [2] Vincent, Larochelle, Lajoie, Bengio & Manzagol, "Stacked denoising autoencoders",
       Journal of Machine Learning Research 11 (2010).
    .. [3] Alain & Bengio, "What regularized auto-encoders learn from the data-generating
       distribution", Journal of Machine Learning Research 15 (2014).
    .. [4] Yoon, Zhang, Jordon & van der Schaar, "VIME: extending the success of self- and
       semi-supervised learning to tabular domain", NeurIPS (2020). The noise "swap".

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from skae import DenoisingAutoencoder
    >>> X = load_digits().data / 16  # grey levels from 0 to 1
    >>> X_noisy = X + np.random.default_rng(0).normal(scale=0.3, size=X.shape)
    >>> denoiser = DenoisingAutoencoder(noise_level=0.3, max_iter=10, random_state=0).fit(X[:1000])
    >>> restored = denoiser.reconstruct(X_noisy[1000:])
    >>> float(np.mean((X_noisy[1000:] - X[1000:]) ** 2).round(3))
    0.09
    >>> bool(np.mean((restored - X[1000:]) ** 2) < 0.03)
    True
    """

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **BaseAutoencoder._parameter_constraints,
        "noise": [StrOptions(set(NOISES)), callable],
        "noise_level": ["array-like", Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        n_components: int | float = 0.9,
        *,
        noise: str | Callable[[Tensor, Tensor], Tensor] = "gaussian",
        noise_level: NoiseLevel = 0.3,
        hidden_layer_sizes: int | Sequence[int] = (128, 64),
        activation: str = "silu",
        network: Network | None = None,
        init: Literal["pca", "random"] = "pca",
        tied_weights: bool = False,
        use_bias: bool = True,
        loss: Literal["squared_error", "absolute_error", "bernoulli", "gaussian", "poisson"]
        | Sequence[tuple] = "squared_error",
        output_activation: str = "auto",
        dropout: float = 0.0,
        alpha: float = 0.0,
        sparsity: float = 0.0,
        contraction: float = 0.0,
        pretrain_iter: int = 0,
        solver: Literal["adam", "adamw", "sgd", "adadelta", "rmsprop"] = "adam",
        learning_rate: Literal["constant", "cosine"] = "cosine",
        learning_rate_init: float | Literal["auto"] = "auto",
        batch_size: int = 64,
        max_iter: int = 100,
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        shuffle: bool = True,
        warm_start: bool = False,
        precision: Literal["float32", "bf16"] = "float32",
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.n_components = n_components
        self.noise = noise
        self.noise_level = noise_level
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.network = network
        self.init = init
        self.tied_weights = tied_weights
        self.use_bias = use_bias
        self.loss = loss
        self.output_activation = output_activation
        self.dropout = dropout
        self.alpha = alpha
        self.sparsity = sparsity
        self.contraction = contraction
        self.pretrain_iter = pretrain_iter
        self.solver = solver
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.shuffle = shuffle
        self.warm_start = warm_start
        self.precision = precision
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self,
        X: ArrayLike,
        y: Any = None,
        sample_weight: ArrayLike | None = None,
        X_clean: ArrayLike | None = None,
        *,
        X_val: ArrayLike | None = None,
        sample_weight_val: ArrayLike | None = None,
        X_clean_val: ArrayLike | None = None,
    ) -> Self:
        """Learn to restore the rows of X, or to turn the rows of X into those of X_clean.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training data, at least two rows: clean ones, or with `X_clean` noisy ones.
        y : Ignored
            Present for API consistency. Clean rows have to be named, ``fit(X, X_clean=...)``.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the rows; a row of weight zero counts as absent.
        X_clean : {array-like, sparse matrix} of shape (n_samples, n_features), default=None
            What row i of X is to become, for pairs that were measured. Nothing is corrupted then:
            the pairs show what the noise is, and `noise` and `noise_level` have no effect. It must
            be on the scale of X as it arrives here, behind the scalers of a Pipeline, and may be
            routed there as metadata.
        X_val : {array-like, sparse matrix} of shape (n_validation_samples, n_features), \
                default=None
            Rows for early stopping, in place of a share of X; all rows of X are then trained on. In
            a Pipeline they must have passed the steps before this one.
        sample_weight_val : array-like of shape (n_validation_samples,), default=None
            Non-negative weights of these rows.
        X_clean_val : {array-like, sparse matrix} of shape (n_validation_samples, n_features), \
                default=None
            What row i of X_val is to become, if there is X_clean.

        Returns
        -------
        self : object
            The fitted estimator. If fitting fails or is interrupted, an earlier fit stays as it
            was.

        Raises
        ------
        ValueError
            If a parameter or the data is not valid, or if training diverges.
        """
        validation_data = (X_val, sample_weight_val, X_clean_val)
        return self._fit(X, sample_weight, X_clean, validation_data=validation_data)

    def partial_fit(
        self,
        X: ArrayLike,
        y: Any = None,
        sample_weight: ArrayLike | None = None,
        X_clean: ArrayLike | None = None,
    ) -> Self:
        """Pass once over the rows of X, starting from the current weights.

        The solver keeps its memory from one call to the next, and the learning rate stays at
        `learning_rate_init`. Nothing is held out and no layer is pretrained: `max_iter`, `tol`,
        `pretrain_iter` and the parameters of early stopping have no effect here.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Some of the training data. On the first call, a fractional `n_components` and the range
            of the values are resolved on these rows.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the rows.
        X_clean : {array-like, sparse matrix} of shape (n_samples, n_features), default=None
            What row i of X is to become, as in `fit`.

        Returns
        -------
        self : object
            The fitted estimator. If the pass fails, the estimator stays as it was.

        Raises
        ------
        ValueError
            If a parameter or the data is not valid, or if training diverges.
        """
        return self._partial_fit(X, sample_weight, X_clean)

    def _build_module(
        self, n_features: int, n_components: int, start: Start | None = None
    ) -> Autoencoder:
        low, high = torch.zeros(2, n_features, dtype=torch.float32)
        if start is not None:
            low, high = map(torch.from_numpy, feature_ranges(start.rows.source()[0]))
        corruption = Corruption(self.noise, self.noise_level, low, high)
        return build_autoencoder(self, n_features, n_components, start, corruption)
