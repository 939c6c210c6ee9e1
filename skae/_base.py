"""What every autoencoder shares: fit, partial_fit, transform and their relatives, once."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from inspect import signature
from itertools import repeat
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.sparse import issparse
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    clone,
)
from sklearn.callback import CallbackContext, CallbackSupportMixin, with_callbacks
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import nn

from skae._device import (
    PARALLEL_STEP,
    copy_to,
    is_available,
    private_random_state,
    resolve_device,
    threads,
    to_tensor,
)
from skae._documentation import DocumentationLinkMixin
from skae._linear_code import LinearCode, linear_code
from skae._losses import LOSSES, check_support
from skae._reporting import EpochReporter
from skae._rollback import unchanged_on_failure
from skae._sklearn_compat import (
    Interval,
    RealNotInt,
    StrOptions,
    _get_feature_names,
)
from skae._solvers import SOLVERS
from skae._training import (
    LEARNING_RATES,
    Descent,
    History,
    Rows,
    SparseTable,
    TrainableModule,
    check_finite,
    encode_rows,
    in_batches,
    train,
    train_epoch,
)
from skae._validation import (
    float_dtype,
    read_table,
    validate_codes,
    validate_table,
    validate_weights,
)
from skae.networks._dense import ACTIVATIONS, anchor, dense_network

CPU = torch.device("cpu")
FLOATS = (np.float64, np.float32)
TORCH_DTYPE = {"float64": torch.float64, "float32": torch.float32}

# Multiply-adds of one training step (rows times weights) from which an accelerator pays. A step
# of a small network costs a GPU about 0.5 ms of kernel launches, whatever its size; in that time
# a few CPU cores do about this much arithmetic.
LARGE_STEP = 2**24


class Start(NamedTuple):
    """What a new model starts from."""

    rows: Rows
    linear: LinearCode | None  # PCA of the rows, if the network is anchored there


class BaseAutoencoder(
    DocumentationLinkMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    CallbackSupportMixin,
    BaseEstimator,
    ABC,
):
    """Everything about an autoencoder but its constructor and its model."""

    _parameter_constraints: ClassVar[dict[str, list]] = {
        "n_components": [
            Interval(Integral, 1, None, closed="left"),
            Interval(RealNotInt, 0, 1, closed="neither"),
        ],
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "network": [callable, None],
        "init": [StrOptions({"pca", "random"})],
        "tied_weights": ["boolean"],
        "use_bias": ["boolean"],
        "loss": [StrOptions(set(LOSSES))],
        "output_activation": [StrOptions({"auto", *ACTIVATIONS})],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "sparsity": [Interval(Real, 0, None, closed="left")],
        "contraction": [Interval(Real, 0, None, closed="left")],
        "pretrain_iter": [Interval(Integral, 0, None, closed="left")],
        "solver": [StrOptions(set(SOLVERS))],
        "learning_rate": [StrOptions(set(LEARNING_RATES))],
        "learning_rate_init": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "shuffle": ["boolean"],
        "warm_start": ["boolean"],
        "precision": [StrOptions({"float32", "bf16"})],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    _holds_out_from_start: ClassVar[bool] = False
    """Whether PCA, as a start, does without the rows that are held out.

    For squared errors it is better with them, although they judge what comes after it: training
    then has to be clearly better to replace it. A density looks far better on its own rows than
    on others, so that training would hardly ever win."""

    @abstractmethod
    def _build_module(
        self, n_features: int, n_components: int, start: Start | None = None
    ) -> TrainableModule:
        """Build the model on the CPU: with random weights, or from a start if it is given.

        Beside ``loss(x)`` its methods are ``encode(x)``, ``decode(z)``, ``reconstruct(x)``,
        ``elementwise_loss(x)``, which has the shape of x, its mean over the features
        ``reconstruction_loss(x)``, and ``score(x)``, which is higher for likelier rows.
        """

    def transform(self, X: ArrayLike) -> Any:
        """Encode the rows of X.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Data.

        Returns
        -------
        Z : ndarray of shape (n_samples, `n_components_`)
            Codes, in the dtype of X. `set_output` turns them into a DataFrame.
        """
        return self._apply("encode", self._validate_rows(X))

    def inverse_transform(self, X: ArrayLike) -> np.ndarray:
        """Decode codes.

        Parameters
        ----------
        X : array-like of shape (n_samples, `n_components_`)
            Codes, as `transform` returns them.

        Returns
        -------
        X_decoded : ndarray of shape (n_samples, `n_features_in_`)
            Reconstructions, in the dtype of X.
        """
        return self._apply("decode", validate_codes(self, X))

    def reconstruct(self, X: ArrayLike) -> np.ndarray:
        """Encode and decode the rows of X.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Data.

        Returns
        -------
        X_reconstructed : ndarray of shape (n_samples, n_features)
            What is left of X after the code, in its dtype.
        """
        return self._apply("reconstruct", self._validate_rows(X))

    def reconstruction_error(self, X: ArrayLike, per_feature: bool = False) -> np.ndarray:
        """Loss of the reconstruction of each row.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Data.
        per_feature : bool, default=False
            Whether to give the loss of every cell instead of its mean over the features.

        Returns
        -------
        error : ndarray of shape (n_samples,) or (n_samples, n_features)
            In the unit of `loss`: squared units of X for "squared_error", nats for "bernoulli" and
            "gaussian".
        """
        method = "elementwise_loss" if per_feature else "reconstruction_loss"
        return self._apply(method, self._validate_loss_rows(X))

    def score_samples(self, X: ArrayLike) -> np.ndarray:
        """Score of each row; the higher, the more the row is like the training data.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Data.

        Returns
        -------
        score : ndarray of shape (n_samples,)
            Minus `reconstruction_error`; of a `VAETransformer`, a lower bound of the log-density in
            nats.
        """
        return self._apply("score", self._validate_loss_rows(X), *self._score_arguments())

    def score(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> float:
        """Mean of `score_samples`, so that a grid search looks for the best model.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Data.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        score : float
            In the unit of `score_samples`.
        """
        scores = self.score_samples(X)
        weights = None
        if sample_weight is not None:
            weights = validate_weights(sample_weight, scores[:, np.newaxis])
        return float(np.average(scores, weights=weights))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Replace the module by its weights as arrays, which any machine and reader can load."""
        state = dict(super().__getstate__())  # object's is the live __dict__
        if "module_" in state:
            module = state.pop("module_")
            state["_weights"] = {name: w.numpy() for name, w in module.state_dict().items()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild the module from the parameters of its fit."""
        state = dict(state)
        weights = state.pop("_weights", None)
        super().__setstate__(state)
        if weights is not None:
            fitted = type(self)(**self._recipe)
            with torch.device("meta"):  # no memory, no random numbers
                module = fitted._build_module(self.n_features_in_, self.n_components_)
            tensors = {name: to_tensor(array, CPU) for name, array in weights.items()}
            module.load_state_dict(tensors, assign=True)
            self.module_ = module.eval()

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def _check_parameters(self) -> None:
        self._validate_params()
        if isinstance(self.n_components, bool):
            raise ValueError(
                f"n_components={self.n_components} is a bool; use a number of components, or a "
                "share of variance between 0 and 1."
            )
        if self.loss == "bernoulli" and self.output_activation not in ("auto", "logistic"):
            raise ValueError(
                f"output_activation={self.output_activation!r} cannot give the probabilities "
                "that loss='bernoulli' compares; use output_activation='auto'."
            )
        if self.network is not None:
            self._check_network_alone()
        elif self.init == "pca":
            self._check_anchor()
        resolve_device(self.device, large=False)  # a wrong name is known before any work

    def _check_network_alone(self) -> None:
        """With an architecture of its own, parameters of the dense network have no meaning."""
        defaults = signature(type(self)).parameters
        names = ("hidden_layer_sizes", "activation", "dropout", "tied_weights", "use_bias")
        for name in (*names, "pretrain_iter"):
            if name not in defaults:
                continue
            value = getattr(self, name)
            if not np.array_equal(value, defaults[name].default):
                raise ValueError(
                    f"{name}={value!r} is a parameter of the dense network and has no effect on "
                    f"network={self.network!r}; set it on the network, if that has it, and leave "
                    f"the estimator's at {defaults[name].default!r}."
                )

    def _check_anchor(self) -> None:
        output_activation = self._output_activation()
        if output_activation not in ("identity", "logistic"):
            raise ValueError(
                f"init='pca' starts at a linear reconstruction, which output_activation="
                f"{output_activation!r} cannot give; use init='random'."
            )
        if output_activation == "logistic" and self.tied_weights:
            raise ValueError(
                "tied_weights=True with init='pca' needs the output activation 'identity', not "
                "'logistic', where the decoder's slope is not the encoder's; use init='random'."
            )
        if self.pretrain_iter > 0:
            raise ValueError(
                f"pretrain_iter={self.pretrain_iter} finds initial weights, and so does "
                "init='pca'; use init='random' or pretrain_iter=0."
            )

    @with_callbacks
    def _fit(self, X: Any, sample_weight: ArrayLike | None, X_clean: Any = None) -> Self:
        self._check_parameters()
        n_layers = np.size(self.hidden_layer_sizes) + 1
        n_epochs = self.max_iter + n_layers * self.pretrain_iter
        context = self._init_callback_context(max_subtasks=n_epochs)
        with unchanged_on_failure(self):
            self._fit_rows(context, X, sample_weight, X_clean)
        return self

    def _fit_rows(
        self, context: CallbackContext, X: Any, sample_weight: ArrayLike | None, X_clean: Any
    ) -> None:
        X, X_clean, weights = self._validate_training_data(
            X, X_clean, sample_weight, reset=True, min_rows=2
        )
        continued = self.warm_start and hasattr(self, "module_")
        history = self._history(continued)
        building_seed, training_seed = self._draw_seeds(history)
        with private_random_state(building_seed, CPU):
            all_rows = to_rows(X, X_clean, weights)
            n_components, linear = self._count_components(all_rows, continued)
            if self._holds_out_from_start:
                rows, validation_rows = self._split(all_rows)
                module = self._start(rows, n_components, continued)
            else:
                module = self._start(all_rows, n_components, continued, linear)
                rows, validation_rows = self._split(all_rows)
        device = self._resolve_device(module)

        def fitted_attributes() -> dict[str, Any]:
            return self._fitted_attributes(module, n_components, device, history, rows)

        with (
            private_random_state(training_seed, device),
            threads(self._n_threads(module, self.batch_size)),
            EpochReporter(self, context, X, sample_weight, fitted_attributes) as reporter,
        ):
            module, rows = module.to(device), rows.to(device)
            if validation_rows is not None:
                validation_rows = validation_rows.to(device)
            if self.pretrain_iter > 0 and not continued:
                self._pretrain(module, rows, history, reporter)
            is_better = self._train(
                module,
                rows,
                validation_rows,
                history,
                max_iter=self.max_iter,
                # A penalty on the weights is not part of the loss, and is meant to cost some of it.
                never_worse=self._is_anchored() and self.alpha == 0.0,
                observer=reporter,
            )
            if self._holds_out_from_start and not (is_better or continued):
                # What is returned instead need not do without the rows that were held out.
                module = self._start(all_rows, n_components, False, linear)
                history.best_state = None
            self.__dict__.update(fitted_attributes())

    def _pretrain(
        self, module: TrainableModule, rows: Rows, history: History, reporter: EpochReporter
    ) -> None:
        """Train each layer as an autoencoder of the codes of the layer below it."""
        for number, stage in enumerate(module.stages(), start=1):
            reporter.task_name = f"pretraining of layer {number}"
            stage_history = History()
            self._train(
                stage,
                rows,
                None,
                stage_history,
                max_iter=self.pretrain_iter,
                never_worse=False,
                observer=reporter,
            )
            history.pretrain_loss_curves.append(stage_history.loss_curve)
            rows = encode_rows(stage.eval().encode, rows)
        reporter.task_name = "epoch"

    def _train(
        self,
        module: TrainableModule,
        rows: Rows,
        validation_rows: Rows | None,
        history: History,
        *,
        max_iter: int,
        never_worse: bool,
        observer: EpochReporter,
    ) -> bool:
        return train(
            module,
            rows,
            validation_rows,
            history,
            solver=self.solver,
            learning_rate=self.learning_rate,
            learning_rate_init=self._learning_rate_init(),
            alpha=self.alpha,
            batch_size=self.batch_size,
            max_iter=max_iter,
            tol=self.tol,
            n_iter_no_change=self.n_iter_no_change,
            shuffle=self.shuffle,
            precision=self.precision,
            never_worse=never_worse,
            observer=observer,
        )

    def _partial_fit(self, X: Any, sample_weight: ArrayLike | None, X_clean: Any = None) -> Self:
        self._check_parameters()
        with unchanged_on_failure(self):
            self._partial_fit_rows(X, sample_weight, X_clean)
        return self

    def _partial_fit_rows(self, X: Any, sample_weight: ArrayLike | None, X_clean: Any) -> None:
        continued = hasattr(self, "module_")
        X, X_clean, weights = self._validate_training_data(
            X, X_clean, sample_weight, reset=not continued, min_rows=1
        )
        rows = to_rows(X, X_clean, weights)
        history = self._history(continued)
        building_seed, training_seed = self._draw_seeds(history)
        with private_random_state(building_seed, CPU):
            n_components, linear = self._count_components(rows, continued)
            module = self._start(rows, n_components, continued, linear)
        device = self._resolve_device(module)

        with (
            private_random_state(training_seed, device),
            threads(self._n_threads(module, self.batch_size)),
        ):
            module.to(device)
            memory_of, memory = getattr(self, "_solver_memory", (None, {}))
            if memory_of != self.solver:
                memory = {}
            descent = Descent(module, self.solver, self.alpha, self.precision, memory)
            rows = rows.to(device)
            loss = train_epoch(
                descent,
                rows,
                history,
                repeat(self._learning_rate_init()),
                batch_size=self.batch_size,
                shuffle=self.shuffle,
            )
        history.best_loss = min(loss, self.best_loss_) if continued else loss
        check_finite(descent.weights.values, loss, epoch=len(history.loss_curve))
        self.__dict__.update(self._fitted_attributes(module, n_components, device, history, rows))
        self._solver_memory = (self.solver, descent.solver.memory_arrays())

    def _validate_training_data(
        self,
        X: Any,
        X_clean: Any,
        sample_weight: ArrayLike | None,
        *,
        reset: bool,
        min_rows: int,
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        X = validate_table(
            self, X, accept_sparse="csr", dtype=FLOATS, reset=reset, ensure_min_samples=min_rows
        )
        names = getattr(self, "feature_names_in_", None)
        if X_clean is None:
            check_support(X, self.loss, names)
        else:
            clean_names = _get_feature_names(X_clean)
            X_clean = read_table(X_clean, self, table="X_clean", accept_sparse="csr")
            if X_clean.shape != X.shape:
                raise ValueError(
                    f"X_clean has shape {X_clean.shape} and X has shape {X.shape}; row i of "
                    "X_clean is what row i of X is to become."
                )
            if names is not None and clean_names is not None and list(clean_names) != list(names):
                raise ValueError(
                    f"X_clean has columns {list(clean_names)} and X has columns {list(names)}; "
                    "give both the same columns in the same order."
                )
            check_support(X_clean, self.loss, names, table="X_clean")
        if sample_weight is None:
            return X, X_clean, None
        weights = validate_weights(sample_weight, X)
        n_rows = np.count_nonzero(weights)
        if n_rows < min_rows:
            raise ValueError(
                f"sample_weight leaves {n_rows} row of positive weight; at least {min_rows} are "
                "needed."
            )
        return X, X_clean, weights

    def _validate_rows(self, X: ArrayLike) -> np.ndarray:
        check_is_fitted(self)
        return validate_table(self, X, accept_sparse="csr", dtype=FLOATS, reset=False)

    def _validate_loss_rows(self, X: ArrayLike) -> np.ndarray:
        rows = self._validate_rows(X)
        check_support(rows, self._recipe["loss"], getattr(self, "feature_names_in_", None))
        return rows

    def _score_arguments(self) -> tuple[Any, ...]:
        """Give what the module's score takes beside rows."""
        return ()

    def _history(self, continued: bool) -> History:
        if not continued:
            return History()
        return History(
            list(self.loss_curve_),
            list(self.validation_loss_curve_ or []),
            part_curves={
                name: list(getattr(self, f"{name}_curve_")) for name in self.module_.part_names
            },
            pretrain_loss_curves=self.pretrain_loss_curves_,
        )

    def _draw_seeds(self, history: History) -> tuple[int, int]:
        """Seeds for building and for training, new ones after every pass over data."""
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        sequence = np.random.SeedSequence((seed, len(history.loss_curve)))
        building, training = sequence.generate_state(2)
        return int(building), int(training)

    def _split(self, rows: Rows) -> tuple[Rows, Rows | None]:
        """Hold out rows for early stopping."""
        if not self.early_stopping:
            return rows, None
        n_validation = max(1, round(self.validation_fraction * len(rows)))
        if n_validation >= len(rows):
            raise ValueError(
                f"validation_fraction={self.validation_fraction} of {len(rows)} rows leaves none "
                "to train on; use a smaller fraction or early_stopping=False."
            )
        held_out, kept = torch.randperm(len(rows)).split([n_validation, len(rows) - n_validation])
        return rows.take(kept), rows.take(held_out)

    def _is_anchored(self) -> bool:
        return self.init == "pca" and self.network is None

    def _count_components(self, rows: Rows, continued: bool) -> tuple[int, LinearCode | None]:
        """Resolve the parameter ``n_components``; give PCA of the rows too if that took it."""
        if isinstance(self.n_components, Integral):
            return int(self.n_components), None
        if continued:
            return self.n_components_, None
        linear = linear_code(*rows.to_numpy(), self.n_components)
        return len(linear.variances), linear

    def _start(
        self, rows: Rows, n_components: int, continued: bool, linear: LinearCode | None = None
    ) -> TrainableModule:
        """Build the module to train, a new one or a copy of the fitted one.

        `linear` is PCA of the rows, if it is known.
        """
        n_features = rows.tensors[-1].shape[1]
        start = None
        if not continued:
            if not self._is_anchored():
                linear = None
            elif linear is None:
                linear = linear_code(*rows.to_numpy(), n_components)
            start = Start(rows, linear)
        module = self._build_module(n_features, n_components, start)
        if continued:
            try:
                module.load_state_dict(self.module_.state_dict())
            except RuntimeError as error:
                raise ValueError(
                    "The fitted weights cannot be continued, because the network has another "
                    f"shape now: {n_features} features, n_components={n_components}, "
                    f"hidden_layer_sizes={self.hidden_layer_sizes}, network={self.network}, "
                    f"init={self.init!r}, tied_weights={self.tied_weights}, "
                    f"use_bias={self.use_bias}. Set back what has changed, or start anew with a "
                    "clone of the estimator or with warm_start=False."
                ) from error
        return module

    def _build_network(self, n_features: int, n_components: int) -> tuple[nn.Module, nn.Module]:
        """Build encoder and decoder with random weights."""
        if self.network is not None:
            modules = self.network(n_features, n_components)
            check_modules(modules, n_features, n_components, self.network)
            return modules
        return dense_network(
            n_features,
            n_components,
            hidden_layer_sizes=self.hidden_layer_sizes,
            activation=self.activation,
            dropout=self.dropout,
            use_bias=self.use_bias,
            tied_weights=self.tied_weights,
            anchored=self.init == "pca",
        )

    def _anchor(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        mean: np.ndarray,
        projection: np.ndarray,
        loadings: np.ndarray,
    ) -> None:
        """Put a dense network at ``projection (x - mean)`` and ``mean + loadings' z``.

        With a logistic output, the reconstruction is that to first order in x - mean.
        """
        centre = torch.from_numpy(mean)
        offset, slope = centre, torch.ones_like(centre)
        if self._output_activation() == "logistic":
            # To first order, logit(x) = logit(m) + (x - m) / (m (1 - m)).
            inner = centre.clamp(1e-3, 1.0 - 1e-3)
            offset, slope = inner.logit(), 1.0 / (inner * (1.0 - inner))
        anchor(
            encoder,
            decoder,
            centre,
            torch.from_numpy(projection),
            offset,
            slope * torch.from_numpy(loadings),
        )

    def _output_activation(self) -> str:
        if self.output_activation == "auto":
            return LOSSES[self.loss].output_activation
        return self.output_activation

    def _resolve_device(self, module: TrainableModule) -> torch.device:
        return resolve_device(self.device, large=self._step_size(module) >= LARGE_STEP)

    def _n_threads(self, module: nn.Module, n_rows: int) -> int | None:
        """Choose the threads for steps of so many rows, None for as many as there are."""
        # The weights of other networks say little about their work: a convolution uses each many
        # times.
        small = self.network is None and n_rows * count_weights(module) < PARALLEL_STEP
        return 1 if small else None

    def _step_size(self, module: TrainableModule) -> int:
        return self.batch_size * count_weights(module)

    def _learning_rate_init(self) -> float:
        if self.learning_rate_init == "auto":
            return SOLVERS[self.solver].learning_rate_init
        return self.learning_rate_init

    def _fitted_attributes(
        self,
        module: TrainableModule,
        n_components: int,
        device: torch.device,
        history: History,
        rows: Rows,
    ) -> dict[str, Any]:
        """Give what `fit` leaves on the estimator, as if training had stopped here."""
        module = copy.deepcopy(module)
        if history.best_state is not None:
            module.load_state_dict(history.best_state)
        return self._attributes_of_model(module, history, rows) | {
            "module_": module.to(CPU).eval(),
            "n_components_": n_components,
            "device_": str(device),
            "n_iter_": len(history.loss_curve),
            "loss_curve_": list(history.loss_curve),
            "validation_loss_curve_": list(history.validation_loss_curve) or None,
            **{f"{name}_curve_": list(curve) for name, curve in history.part_curves.items()},
            "pretrain_loss_curves_": history.pretrain_loss_curves,
            "best_loss_": history.best_loss,
            "_recipe": clone(self).get_params(deep=False),
            "_solver_memory": (None, {}),
        }

    def _attributes_of_model(
        self, module: TrainableModule, history: History, rows: Rows
    ) -> dict[str, Any]:
        """Give the fitted attributes that the other models do not have."""
        return {}

    def _apply(self, method: str, X: np.ndarray, *arguments: Any) -> np.ndarray:
        """Apply a method of the fitted module to rows, in their dtype."""
        device, dtype = torch.device(self.device_), TORCH_DTYPE[float_dtype(X).name]
        if not is_available(device) or (device.type == "mps" and dtype == torch.float64):
            device = CPU
        module: nn.Module = self.module_
        if device != CPU or dtype != torch.float32:
            module = copy_to(module, device, dtype)
        function = getattr(module, method)
        # A step multiplies by each weight three times, and this once.
        with threads(self._n_threads(module, X.shape[0] // 3)):
            return in_batches(lambda batch: function(batch, *arguments), X, device)


def count_weights(module: nn.Module) -> int:
    """Count the numbers that a module learns."""
    return sum(weights.numel() for weights in module.parameters())


def check_modules(modules: Any, n_features: int, n_components: int, network: Any) -> None:
    """Raise a ValueError if what an architecture returned is not an encoder and its decoder."""
    if not (
        isinstance(modules, tuple)
        and len(modules) == 2
        and all(isinstance(module, nn.Module) for module in modules)
    ):
        raise ValueError(
            f"network={network!r} must return two torch.nn.Module, encoder and decoder; it "
            f"returned {modules!r}."
        )
    x = torch.zeros(2, n_features)
    with torch.no_grad():
        for role, module, width in zip(
            ("encoder", "decoder"), modules, (n_components, n_features), strict=True
        ):
            wanted = f"({len(x)}, {x.shape[1]}) to ({len(x)}, {width})"
            try:
                y = module.eval()(x)  # leaves running statistics alone
            except RuntimeError as error:
                raise ValueError(
                    f"The {role} of network={network!r} must map {wanted}, and fails: {error}"
                ) from error
            if y.shape != (len(x), width):
                raise ValueError(
                    f"The {role} of network={network!r} must map {wanted}; it gives "
                    f"{tuple(y.shape)}."
                )
            x = y


def to_rows(X: np.ndarray, X_clean: np.ndarray | None, weights: np.ndarray | None) -> Rows:
    """Turn tables into float32 tensors, without the rows of weight zero."""

    def tensor_of(table: Any) -> Any:
        if issparse(table):
            return SparseTable(table)
        # Sums depend on the order in memory, and a fit must not.
        single = table if table.dtype.kind == "f" else table.astype(np.float32)
        return to_tensor(single, CPU, torch.float32).contiguous()

    tables = (X,) if X_clean is None else (X, X_clean)
    rows = Rows(tuple(map(tensor_of, tables)))
    if weights is None:
        return rows
    rows = rows.take(torch.from_numpy(np.flatnonzero(weights)))
    positive = weights[weights > 0.0]
    if (positive == positive[0]).all():
        return rows  # such weights are none, to the last bit
    return Rows(rows.tensors, torch.from_numpy(positive / positive.mean()).float())
