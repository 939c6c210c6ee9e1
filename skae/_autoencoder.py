"""AutoencoderTransformer: a code of few numbers for each row, learned by a neural network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, repeat
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from skae._arrays import ArrayApiMixin
from skae._base import BaseAutoencoder, Start
from skae._block_losses import activation_of, loss_of
from skae._checks import warn_of_small_columns
from skae._device_array import on_host
from skae._losses import (
    VARIANCE_FLOOR,
    learned_variance,
    mean_of_cells,
    squared_jacobian_norm,
)
from skae._rows import Batch, Rows
from skae._training import ByHand, TrainableModule, mean_squared_residual
from skae.networks._chain import Activated, Chain, OwnWeights, chained
from skae.networks._dense import Network, layer_pairs


class Autoencoder(TrainableModule):
    """An encoder, a decoder and the loss between rows and their reconstructions.

    Parameters
    ----------
    encoder, decoder : nn.Module
        (batch, n_features) -> (batch, n_components) and back.
    loss : str or sequence of tuple
        As `loss_of` takes it.
    output_activation : str
        As `activation_of` takes it.
    n_features : int
        Width of the rows, if the loss learns a variance of each feature.
    sparsity : float
        Weight of the codes' L1 norm.
    contraction : float
        Weight of the squared norm of the encoder's Jacobian.
    corruption : nn.Module, default=None
        (batch, n_features) -> (batch, n_features): what `loss` does to rows before it encodes
        them, with random numbers of `_random`. Nothing else applies it. None leaves them as they
        are.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        loss: Any,
        output_activation: str,
        n_features: int = 0,
        sparsity: float = 0.0,
        contraction: float = 0.0,
        corruption: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self._loss = loss_of(loss)
        self._cell_sizes = self._loss.cell_sizes
        self._sparsity = sparsity
        self._contraction = contraction
        self.corruption = nn.Identity() if corruption is None else corruption
        self._output_activation = output_activation
        self.encoder = encoder
        self.decoder = decoder
        self.output_activation = activation_of(self._loss, output_activation)
        if self._loss.learns_variance:
            self.log_variance = nn.Parameter(torch.zeros(n_features, dtype=torch.float32))

    def encode(self, x: Tensor) -> Tensor:
        """(batch, n_features) -> (batch, n_components)."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """(batch, n_components) -> (batch, n_features)."""
        return self.output_activation(self.decoder(z))

    def reconstruct(self, x: Tensor) -> Tensor:
        """(batch, n_features) -> (batch, n_features)."""
        return self.decode(self.encode(x))

    def elementwise_loss(self, x: Tensor) -> Tensor:
        """Loss of every cell, (batch, n_features)."""
        return self._loss_of_code(self.encode(x), x)

    def reconstruction_loss(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        """Loss of every row, over its known cells if not all are known, (batch,)."""
        return mean_of_cells(self.elementwise_loss(x), known, self._cell_sizes)

    def score(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        """Minus the loss of every row, (batch,)."""
        return -self.reconstruction_loss(x, known)

    def loss(self, x: Tensor, target: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        """Loss of the reconstruction of a target and penalties, (batch,).

        Without a target, x itself is to be reconstructed, from what the corruption leaves of it.
        The loss is the mean over the known cells, if not all are.
        """
        if target is None:
            target, x = x, self.corruption(x)
        z = self.encode(x)
        losses = mean_of_cells(self._loss_of_code(z, target), known, self._cell_sizes)
        if self._sparsity > 0.0:
            losses = losses + self._sparsity * z.abs().sum(dim=-1)
        if self._contraction > 0.0:
            losses = losses + self._contraction * squared_jacobian_norm(self.encode, x)
        return losses

    def by_hand(self, precision: str) -> ByHand | None:
        """Give the derivatives of `loss` if both networks are dense and this is not a subclass."""
        if type(self) is not Autoencoder or self._contraction > 0.0:
            return None
        own_weights = OwnWeights()
        encoder = chained(self.encoder, precision, own_weights)
        decoder = chained(self.decoder, precision, own_weights)
        if encoder is None or decoder is None:
            return None
        if not self._loss.on_logits:
            decoder = Chain([decoder, Activated(type(self.output_activation))])
        log_variance = [own_weights(self.log_variance)] if self._loss.learns_variance else []

        def loss_and_gradients(batch: Batch) -> Tensor:
            x = batch.x if batch.target is not None else self.corruption(batch.x)
            z = encoder.forward(x)
            loss, by_output, *by_variance = self._loss.with_derivatives(
                decoder.forward(z),
                batch.restored,
                batch.cell_shares(self._cell_sizes),
                *(learned_variance(w) for w, _ in log_variance),
            )
            by_z = decoder.backward(by_output)
            if self._sparsity > 0.0:
                penalty = self._sparsity * batch.shares()
                loss += (penalty * z.abs()).sum()
                by_z += penalty * z.sign()
            encoder.accumulate(by_z)
            for (w, gradient), derivative in zip(log_variance, by_variance, strict=True):
                gradient += derivative * w.exp()
            return loss

        return ByHand(loss_and_gradients, own_weights.parameters)

    def stages(self) -> list[Autoencoder]:
        """Autoencoders of one layer each that share the weights of this one, if it is dense."""
        by_block = self._loss.composition is not None
        first = "identity" if by_block else self._output_activation
        output_activations = chain([first], repeat("identity"))
        corruptions = chain([self.corruption], repeat(None))
        return [
            Autoencoder(
                forth,
                back,
                loss="squared_error",
                output_activation=output_activation,
                corruption=corruption,
            )
            for (forth, back), output_activation, corruption in zip(
                layer_pairs(self.encoder, self.decoder),
                output_activations,
                corruptions,
                strict=False,
            )
        ]

    def start_variance(self, rows: Rows) -> None:
        """Start the learned variance of each feature, if there is one, at that of the residuals."""
        if not self._loss.learns_variance:
            return
        paired = rows.target is not None

        def restore(x: Tensor) -> Tensor:
            return self.reconstruct(x if paired else self.corruption(x))

        variance = mean_squared_residual(restore, rows)
        self.log_variance.data = variance.clamp(min=VARIANCE_FLOOR).log()

    def _loss_of_code(self, z: Tensor, target: Tensor) -> Tensor:
        output = self.decoder(z)
        if not self._loss.on_logits:
            output = self.output_activation(output)
        if self._loss.learns_variance:
            return self._loss.elementwise(output, target, learned_variance(self.log_variance))
        return self._loss.elementwise(output, target)


def build_autoencoder(
    estimator: BaseAutoencoder,
    n_features: int,
    n_components: int,
    start: Start | None,
    corruption: nn.Module | None = None,
) -> Autoencoder:
    """Build the module that an estimator's parameters describe."""
    encoder, decoder = estimator._build_network(n_features, n_components)
    if start is not None and start.linear is not None:
        axes = start.linear.axes
        estimator._anchor((encoder, decoder), start.linear, projection=axes, loadings=axes)
    module = Autoencoder(
        encoder,
        decoder,
        loss=estimator.loss,
        output_activation=estimator._output_activation(),
        n_features=n_features,
        sparsity=estimator.sparsity,
        contraction=estimator.contraction,
        corruption=corruption,
    )
    if start is not None:
        if module._loss.learns_variance:
            warn_of_small_columns(estimator, start.rows)
        module.start_variance(start.rows)
    return module


class LossContributionsMixin(ArrayApiMixin):
    """Contributions to a score that is minus the mean of the loss over the features."""

    def contributions(self, X: ArrayLike) -> np.ndarray:
        """Part of each cell in the outlier score of its row, minus `score_samples`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Data.

        Returns
        -------
        contributions : ndarray of shape (n_samples, n_features)
            Loss of each cell over the number of known cells of its row. The contributions of a row
            sum to minus its score; those of unknown cells are zero.
        """
        losses = self.reconstruction_error(X, per_feature=True)  # type: ignore[attr-defined]
        losses = on_host(losses)
        loss = loss_of(self._fitted_loss)  # type: ignore[attr-defined]
        unknown = np.isnan(losses)
        if not unknown.any():
            return losses / loss.n_columns(losses.shape[1])
        sizes = 1.0 if loss.cell_sizes is None else loss.cell_sizes(torch.from_numpy(losses))
        n_known = (~unknown * np.asarray(sizes, losses.dtype)).sum(axis=1, keepdims=True)
        return np.where(unknown, 0.0, losses) / np.maximum(n_known, 1.0)


class AutoencoderTransformer(LossContributionsMixin, BaseAutoencoder):
    """Non-linear dimensionality reduction that starts at PCA.

    An encoder maps a row to a code of `n_components_` numbers, a decoder maps the code back, and
    both are trained to make the reconstruction close to the row. By default the two begin at the
    solution of PCA, and leave it only where that helps rows that are held out.

    Parameters
    ----------
    n_components : int or float, default=0.9
        Length of the code. A float between 0 and 1 means as many components as PCA needs to keep
        that share of the variance: hundreds for wide tables whose columns have little in common,
        such as counts of words. ``verbose=True`` shows how many, and an integer is faster then. A
        code longer than the row is allowed.
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
        Determines the initial weights, the held-out rows, the order of rows and dropout. Torch's
        global random state is not touched. Pass an int for the same model in every call on the
        same machine.
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
        Mean loss of each epoch over its batches, each before its step; penalties on code and
        Jacobian included.
    validation_loss_curve_ : list of float or None
        Mean loss of the held-out rows after each epoch; None without early stopping.
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
    PCA : The best linear code.
    sklearn.neural_network.MLPRegressor : Supervised networks with the same parameters.

    Notes
    -----
    Scale the features first, for example with `StandardScaler`: the squared error weighs a
    feature by its variance, and training expects values of the order of one.

    The defaults were chosen by the squared error of held-out rows on 24 standardized tables and
    confirmed on 24 others, see the page on the anchor in the user guide.

    References
    ----------
    Hinton & Salakhutdinov, "Reducing the dimensionality of data with neural networks",
    Science 313 (2006).

    Rifai et al., "Contractive auto-encoders: explicit invariance during feature extraction",
    ICML (2011).

    Bengio et al., "Greedy layer-wise training of deep networks", NIPS (2006).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skae import AutoencoderTransformer
    >>> X, _ = load_iris(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), AutoencoderTransformer(2, random_state=0))
    >>> codes = model.fit_transform(X)
    >>> codes.shape
    (150, 2)
    >>> model.inverse_transform(codes).shape
    (150, 4)
    """

    def __init__(
        self,
        n_components: int | float = 0.9,
        *,
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
        *,
        X_val: ArrayLike | None = None,
        sample_weight_val: ArrayLike | None = None,
    ) -> Self:
        """Learn to encode and decode the rows of X.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training data, at least two rows.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the rows; a row of weight zero counts as absent.
        X_val : {array-like, sparse matrix} of shape (n_validation_samples, n_features), \
                default=None
            Rows for early stopping, in place of a share of X; all rows of X are then trained on. In
            a Pipeline they must have passed the steps before this one.
        sample_weight_val : array-like of shape (n_validation_samples,), default=None
            Non-negative weights of these rows.

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
        return self._fit(X, sample_weight, validation_data=(X_val, sample_weight_val))

    def partial_fit(
        self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Pass once over the rows of X, starting from the current weights.

        The solver keeps its memory from one call to the next, and the learning rate stays at
        `learning_rate_init`. Nothing is held out and no layer is pretrained: `max_iter`, `tol`,
        `pretrain_iter` and the parameters of early stopping have no effect here.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Some of the training data. On the first call, a fractional `n_components` is resolved
            on these rows.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the rows.

        Returns
        -------
        self : object
            The fitted estimator. If the pass fails, the estimator stays as it was.

        Raises
        ------
        ValueError
            If a parameter or the data is not valid, or if training diverges.
        """
        return self._partial_fit(X, sample_weight)

    def _build_module(
        self, n_features: int, n_components: int, start: Start | None = None
    ) -> Autoencoder:
        return build_autoencoder(self, n_features, n_components, start)
