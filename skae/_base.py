"""BaseAutoencoder: fit, partial_fit, transform and their relatives, once for all autoencoders."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from numbers import Integral
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from scipy import sparse
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.callback import with_callbacks
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from torch import nn

from skae._block_losses import loss_of, named_loss
from skae._checkpoint import Keeper
from skae._checks import (
    PARAMETER_CONSTRAINTS,
    check_autoencoder,
    continue_weights,
    resolve_output_activation,
    validate_training_data,
    validate_validation_data,
)
from skae._completion import Completion, has_gaps, lacks_columns
from skae._components import column_effects, explained_variance_ratios
from skae._decomposition import LinearCode, linear_code, scaled
from skae._device import (
    CPU,
    FLOATS,
    LARGE_STEP,
    PARALLEL_STEP,
    count_weights,
    resolve_device,
    threads,
    torch_at_work,
)
from skae._losses import check_support
from skae._mixture import Choice
from skae._module_estimator import ModuleEstimator
from skae._moments import column_moments
from skae._output import in_output_container
from skae._processes import own_random_numbers, together
from skae._random import (
    networks_of_float32,
    private_random_numbers,
    random_numbers_of_the_process,
)
from skae._rollback import unchanged_on_failure
from skae._rows import Rows, split_rows
from skae._solvers import SOLVERS
from skae._together import check_processes, rows_of_all, seeds_of_all
from skae._training import (
    Descent,
    Progress,
    Settings,
    TrainableModule,
    best_module,
    check_finite,
    first_rows,
    mean_loss,
    pretrain,
    train,
    train_epoch,
)
from skae._unknown import rows_with_known_cells
from skae._validation import (
    mean_score,
    name_of,
    unknown_cells,
    validate_codes,
    validate_table,
    within_range,
)
from skae.networks._dense import (
    Network,
    anchor,
    dense_network,
)
from skae.networks._shapes import check_modules


class Start(NamedTuple):
    """What a new model starts from."""

    rows: Rows
    linear: LinearCode | None  # PCA of the rows, if the network is anchored there
    choice: Choice


class BaseAutoencoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ModuleEstimator):
    """Autoencoders but for their constructors and their modules.

    A subclass takes the parameters that it varies in its constructor. Those that it does not take
    have the values below.
    """

    n_components: int | float | Literal["auto"]
    hidden_layer_sizes: int | Sequence[int] = (128, 64)
    activation: str = "silu"
    network: Network | None = None
    init: str = "pca"
    tied_weights: bool = False
    use_bias: bool = True
    loss: str | Sequence[tuple] = "squared_error"
    output_activation: str = "auto"
    dropout: float = 0.0
    alpha: float = 0.0
    sparsity: float = 0.0
    contraction: float = 0.0
    pretrain_iter: int = 0
    solver: str = "adam"
    learning_rate: str = "cosine"
    learning_rate_init: float | str = "auto"
    batch_size: int = 64
    max_iter: int = 100
    early_stopping: bool = True
    validation_fraction: float = 0.1
    n_iter_no_change: int = 10
    tol: float = 1e-4
    shuffle: bool = True
    warm_start: bool = False
    precision: str = "float32"

    module_: TrainableModule
    n_components_: int
    n_features_in_: int
    _completion: dict[str, Any]

    _parameter_constraints: ClassVar[dict[str, list]] = PARAMETER_CONSTRAINTS

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
        ``reconstruction_loss(x)``, and ``score(x)``, which is higher for likelier rows. Of rows
        with unknown cells, which are filled in x, the last two are given the known ones as well.
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
            Codes, in the dtype of X. `set_output` turns them into a DataFrame. The code of a row
            with unknown cells is that of the row that `impute` gives.
        """
        return self._apply("encode", self._read(X)[0])

    def inverse_transform(self, X: ArrayLike) -> Any:
        """Decode codes.

        Parameters
        ----------
        X : array-like of shape (n_samples, `n_components_`)
            Codes, as `transform` returns them.

        Returns
        -------
        X_decoded : ndarray of shape (n_samples, `n_features_in_`)
            Reconstructions, in the dtype of X. `set_output` turns them into a DataFrame.
        """
        return in_output_container(self, self._apply("decode", validate_codes(self, X)), X)

    def reconstruct(self, X: ArrayLike) -> Any:
        """Encode and decode the rows of X.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Data.

        Returns
        -------
        X_reconstructed : ndarray of shape (n_samples, n_features)
            What is left of X after the code, in its dtype. `set_output` turns it into a
            DataFrame.
        """
        return in_output_container(self, self._apply("reconstruct", self._read(X)[0]), X)

    def impute(self, X: ArrayLike) -> Any:
        """Fill the unknown cells of X with what the known cells of their rows let expect.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Data. NaN, None, NA, null and masked cells are unknown.

        Returns
        -------
        X_filled : ndarray of shape (n_samples, n_features)
            In the dtype of X. Known cells are as they are. `set_output` turns it into a DataFrame.
        """
        rows = self._validate_rows(X)
        rows = rows.toarray() if sparse.issparse(rows) else rows
        filled, _ = self._complete(rows)
        return in_output_container(self, filled.copy() if filled is rows else filled, X)

    def reconstruction_error(self, X: ArrayLike, per_feature: bool = False) -> np.ndarray:
        """Loss of the reconstruction of each row, over its known cells.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Data.
        per_feature : bool, default=False
            Whether to give the loss of every cell instead of its mean over the features.

        Returns
        -------
        error : ndarray of shape (n_samples,) or (n_samples, n_features)
            In the unit of `loss`: squared units of X for "squared_error", units of X for
            "absolute_error", nats for the others. A loss that no number can hold is the largest
            number of the dtype. It is zero for a row without known cells; NaN for an unknown cell.
        """
        rows, known = self._read_for_loss(X)
        if not per_feature:
            return self._apply("reconstruction_loss", rows, known=known)
        losses = self._apply("elementwise_loss", rows)
        return losses if known is None else np.where(known, losses, np.nan)

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
            nats. Both are those of the known cells. A score that no number can hold is the lowest
            number of the dtype.
        """
        rows, known = self._read_for_loss(X)
        return self._apply("score", rows, *self._score_arguments(), known=known)

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
        return mean_score(self.score_samples(X), sample_weight)

    def expected(self, X: ArrayLike) -> np.ndarray:
        """Give the value that the model expects in each cell, for `AutoencoderOutlierDetector`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Data.

        Returns
        -------
        X_expected : ndarray of shape (n_samples, n_features)
            What `reconstruct` gives, always as an array.
        """
        return self._apply("reconstruct", self._read(X)[0])

    def describe_components(self, X: ArrayLike) -> pd.DataFrame:
        """Say how much each component of the code carries.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Data, better rows that the model was not fitted to. They are decoded once for each
            component.

        Returns
        -------
        description : DataFrame of shape (n_components, n_columns)
            A row for each component. "explained_variance_ratio" is the share of the variance of X
            that is lost where the decoder is given the component's mean instead; the shares of a
            non-linear code need not add up. "std" is the standard deviation of the component over
            the rows. Of a `VAETransformer`, "divergence" is the mean divergence of its posterior
            from the standard normal distribution, in nats.
        """
        rows = self._read(X)[0]
        rows = rows.toarray() if sparse.issparse(rows) else rows
        codes = self._apply("encode", rows)
        decode = partial(self._apply, "decode")
        columns = {
            "explained_variance_ratio": explained_variance_ratios(decode, codes, rows),
            "std": codes.std(axis=0).astype(np.float64),
        }
        return pd.DataFrame(
            columns | self._describe_codes(rows), index=self.get_feature_names_out()
        )

    def component_effects(self, X: ArrayLike) -> pd.DataFrame:
        """Say which columns move when a component does.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Data.

        Returns
        -------
        effects : DataFrame of shape (n_components, n_features)
            What each column of the reconstruction changes by, in units of X, if the component rises
            by its standard deviation over the rows: the mean over the rows.
        """
        codes = self._apply("encode", self._read(X)[0])
        effects = column_effects(partial(self._apply, "decode"), codes)
        names = getattr(self, "feature_names_in_", np.arange(self.n_features_in_))
        return pd.DataFrame(effects, index=self.get_feature_names_out(), columns=names)

    def _describe_codes(self, rows: Any) -> dict[str, np.ndarray]:
        """Give what else `describe_components` has of each component."""
        return {}

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def _check_parameters(self) -> None:
        self._validate_params()
        check_autoencoder(self)

    @with_callbacks
    def _fit(
        self,
        X: Any,
        sample_weight: ArrayLike | None,
        X_clean: Any = None,
        *,
        validation_data: tuple[Any, ...] = (None,),
    ) -> Self:
        """Fit to rows, and to clean ones if they are given.

        `validation_data` are rows, weights and clean rows in place of those to be held out.
        """
        self._check_parameters()
        n_layers = np.size(self.hidden_layer_sizes) + 1
        n_epochs = int(self.max_iter) + n_layers * int(self.pretrain_iter)
        context = self._init_callback_context(max_subtasks=n_epochs)
        is_first = not hasattr(self, "module_")
        with unchanged_on_failure(self), torch_at_work(CPU), together() as processes:
            given = validate_training_data(
                self, X, X_clean, sample_weight, reset=True, min_rows=2 if processes is None else 0
            )
            own = validate_validation_data(self, X_clean is not None, *validation_data)
            continued = self.warm_start and hasattr(self, "module_")
            progress = self._progress(continued)
            if processes is not None:
                check_processes(self, processes, given, own, progress)
            completion = self._completion_of(given, own, continued)
            all_rows = rows_of_all(completion, given, processes)
            own_rows = None if own is None else rows_of_all(completion, own, processes)
            keeper = Keeper(
                self,
                context,
                lambda: {"": (all_rows, given[0].dtype), "_val": (own_rows, own and own[0].dtype)},
                n_epochs=len(progress.loss_curve),
                seeds=seeds_of_all(self._draw_seeds(len(progress.loss_curve)), processes),
            )
            building_seed, training_seed = keeper.seeds
            if completion is not None and not continued:
                X, _, weights = given
                completion = completion.trained(
                    X, weights, loss_of(self.loss), int(self.max_iter), building_seed
                )
                all_rows = rows_of_all(completion, given, processes)
                own_rows = None if own is None else rows_of_all(completion, own, processes)
            with private_random_numbers(building_seed, CPU):
                choice, linear = self._choose(all_rows, continued, completion)
                n_components = choice.n_components
                # What a seed means includes the order of the draws: of weights, of rows held out.
                if self._holds_out_from_start:
                    rows, validation_rows = self._split(all_rows, progress, own_rows)
                    start = self._linear_start(
                        rows, n_components, continued, linear if lacks_columns(rows) else None
                    )
                    module = self._start(rows, choice, continued, start)
                else:
                    start = self._linear_start(all_rows, n_components, continued, linear)
                    module = self._start(all_rows, choice, continued, start)
                    rows, validation_rows = self._split(all_rows, progress, own_rows)
            completion = completion or self._completion_of_complete(all_rows, start or linear)
            device = self._resolve_device(module, rows)
            module, rows = module.to(device), rows.to(device)
            if validation_rows is not None:
                validation_rows = validation_rows.to(device)
            progress = keeper.begin(progress)
            attributes = partial(
                self._fitted_attributes, n_components, completion, device, progress, rows
            )
            with self._training(
                context,
                {
                    "X": X,
                    "sample_weight": sample_weight,
                    "size": f"{n_components} components, {count_weights(module):,} weights",
                },
                seed=training_seed,
                device=device,
                n_threads=self._n_threads(module, int(self.batch_size)),
                fitted_attributes=lambda: attributes(best_module(module, progress)),
                keeper=keeper,
                module=module,
            ) as reporter:
                if self.pretrain_iter > 0 and not continued:
                    settings = self._settings(max_iter=int(self.pretrain_iter))
                    pretrain(module, rows, progress, settings, reporter)
                settings = self._settings(
                    # A penalty on the weights is not part of the loss, and may cost some of it.
                    never_worse=self._is_anchored() and self.alpha == 0.0,
                    # An earlier model stays as it was, and a checkpoint keeps more than the model.
                    keeps_interrupted=is_first and keeper.path is None and processes is None,
                )
                train(module, rows, validation_rows, progress, settings, reporter)
                if progress.kept_start and self._holds_out_from_start and not continued:
                    # What is returned instead need not do without the rows that were held out.
                    start = self._linear_start(all_rows, n_components, False, linear)
                    module = self._start(all_rows, choice, False, start)
                self.__dict__.update(attributes(module))
        return self

    def _partial_fit(self, X: Any, sample_weight: ArrayLike | None, X_clean: Any = None) -> Self:
        self._check_parameters()
        continued = hasattr(self, "module_")
        with unchanged_on_failure(self), torch_at_work(CPU), together() as processes:
            tables = validate_training_data(
                self,
                X,
                X_clean,
                sample_weight,
                reset=not continued,
                min_rows=1 if processes is None else 0,
            )
            progress = self._progress(continued)
            if processes is not None:
                check_processes(self, processes, tables, None, progress)
            completion = self._completion_of(tables, None, continued)
            rows = rows_of_all(completion, tables, processes)
            building_seed, training_seed = seeds_of_all(
                self._draw_seeds(len(progress.loss_curve)), processes
            )
            with private_random_numbers(building_seed, CPU):
                choice, linear = self._choose(rows, continued, completion)
                n_components = choice.n_components
                start = self._linear_start(rows, n_components, continued, linear)
                module = self._start(rows, choice, continued, start)
            completion = completion or self._completion_of_complete(rows, start or linear)
            device = self._resolve_device(module, rows)
            module, rows = module.to(device), rows.to(device)
            settings = self._settings(learning_rate="constant")
            with (
                torch_at_work(device),
                private_random_numbers(training_seed, device),
                own_random_numbers(training_seed, device),
                threads(self._n_threads(module, int(self.batch_size))),
            ):
                descent = Descent(module, settings, progress.memory)
                loss = train_epoch(descent, rows, progress, settings)
                check_finite(descent.weights.values, loss, epoch=len(progress.loss_curve))
                last_loss = mean_loss(module, first_rows(rows))
                check_finite(descent.weights.values, last_loss, epoch=len(progress.loss_curve))
            progress.best_loss = min(loss, self.best_loss_) if continued else loss
            progress.memory = descent.solver.memory_arrays()
            attributes = self._fitted_attributes(
                n_components, completion, device, progress, rows, module
            )
            self.__dict__.update(attributes)
            self._solver_memory = (self.solver, progress.memory)
        return self

    def _validate_rows(self, X: ArrayLike) -> Any:
        """Validate rows, but for unknown and infinite cells of dense ones; see `_complete`."""
        if not hasattr(self, "module_"):
            check_is_fitted(self)  # its search takes as long as all other checks of a row
        return validate_table(
            self, X, accept_sparse="csr", dtype=FLOATS, ensure_all_finite=False, reset=False
        )

    def _complete(self, rows: Any) -> tuple[Any, np.ndarray | None]:
        """Fill the unknown cells of validated rows, and say which cells are known.

        Returns
        -------
        rows : ndarray or sparse matrix of shape (n_samples, n_features)
            The same ones, if all cells are known.
        known : ndarray of bool of shape (n_samples, n_features) or None
            None if all are.
        """
        unknown = unknown_cells(rows, name_of(self), getattr(self, "feature_names_in_", None))
        if unknown is None:
            return rows, None
        completion = Completion.from_arrays(self._completion)
        gaps = np.flatnonzero(unknown.any(axis=1))
        rows = np.array(rows)  # also those of a file
        with torch_at_work(CPU):
            filled = completion.fill(rows[gaps])
        for _ in range(completion.n_rounds):
            own = completion.bounded(self._apply("reconstruct", filled))
            filled = np.where(unknown[gaps], own, filled)
        rows[gaps] = filled
        return within_range(rows), ~unknown

    def _read(self, X: ArrayLike) -> tuple[Any, np.ndarray | None]:
        """Validate and complete rows."""
        return self._complete(self._validate_rows(X))

    def _read_for_loss(self, X: ArrayLike) -> tuple[Any, np.ndarray | None]:
        """Do so, for what the loss takes."""
        rows = self._validate_rows(X)
        check_support(rows, named_loss(self._fitted_loss), getattr(self, "feature_names_in_", None))
        return self._complete(rows)

    def _score_arguments(self) -> tuple[Any, ...]:
        """Give what the module's score takes beside rows."""
        return ()

    def _settings(self, **others: Any) -> Settings:
        """Give the parameters of training, some of them replaced."""
        rate = self.learning_rate_init
        own = {
            "solver": self.solver,
            "learning_rate": self.learning_rate,
            "learning_rate_init": SOLVERS[self.solver].learning_rate_init
            if rate == "auto"
            else rate,
            "alpha": self.alpha,
            "batch_size": int(self.batch_size),
            "max_iter": int(self.max_iter),
            "tol": self.tol,
            "n_iter_no_change": int(self.n_iter_no_change),
            "shuffle": self.shuffle,
            "precision": self.precision,
        }
        return Settings(**own | others)

    def _progress(self, continued: bool) -> Progress:
        """Begin a new record, or continue that of the last fit."""
        if not continued:
            return Progress()
        memory_of, memory = self._solver_memory
        return Progress(
            list(self.loss_curve_),
            list(self.validation_loss_curve_ or []),
            part_curves={
                name: list(getattr(self, f"{name}_curve_")) for name in self.module_.part_names
            },
            pretrain_loss_curves=self.pretrain_loss_curves_,
            memory=memory if memory_of == self.solver else {},
            held_out=self._held_out,
        )

    def _split(
        self, rows: Rows, progress: Progress, validation_rows: Rows | None
    ) -> tuple[Rows, Rows | None]:
        """Hold out rows for early stopping: those of the fit that is continued, or new ones."""
        if validation_rows is not None or not self.early_stopping:
            progress.held_out = None
            return rows, validation_rows
        n_rows = len(rows)
        n_held_out = max(1, round(self.validation_fraction * n_rows))
        if n_held_out >= n_rows:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} of {n_rows} rows leaves none "
                "to train on; use a smaller fraction or early_stopping=False."
            )
        kept, held_out, numbers = split_rows(rows, n_held_out, progress.held_out)
        progress.held_out = numbers.numpy()
        return kept, held_out

    def _is_anchored(self) -> bool:
        return self.init == "pca" and self.network is None

    def _completion_of(
        self,
        tables: tuple[Any, Any, np.ndarray | None],
        validation_tables: tuple[Any, Any, np.ndarray | None] | None,
        continued: bool,
    ) -> Completion | None:
        """Give what fills unknown cells; None if that does not matter yet."""
        if continued:
            return Completion.from_arrays(self._completion)
        X, X_clean, weights = tables
        if not has_gaps(X, X_clean, *(validation_tables or ())[:2]):
            return None
        names = getattr(self, "feature_names_in_", None)
        if has_gaps(X_clean):
            rows_with_known_cells(X_clean, weights, names, "X_clean")
        return Completion.of_gaps(X, weights, loss_of(self.loss), names, name_of(self))

    def _completion_of_complete(self, rows: Rows, linear: LinearCode | None) -> Completion:
        """Give what fills unknown cells of new rows, where those of the fit have none."""
        if linear is None:
            return Completion.of_means(rows, loss_of(self.loss))
        return Completion.of_code(linear, loss_of(self.loss))

    def _choose(
        self, rows: Rows, continued: bool, completion: Completion | None
    ) -> tuple[Choice, LinearCode | None]:
        """Resolve what the start depends on; give PCA of the rows too if that is known."""
        if continued:
            is_count = isinstance(self.n_components, Integral)
            return Choice(int(self.n_components) if is_count else self.n_components_), None
        length, choice = self._length(), None
        if length is None:
            choice = self._choice(rows, None)
            length = choice.n_components
        linear = None
        if completion is not None and rows.target is None:
            linear = self._linear_code(rows, length, completion)
        elif not isinstance(length, Integral):
            linear = self._linear_code(rows, length)
        if not isinstance(length, Integral):
            assert linear is not None
            length = len(linear.variances)
        return choice or self._choice(rows, int(length)), linear

    def _length(self) -> int | float | None:
        """Give the length of the code or its share of the variance; None leaves it to `_choice`."""
        assert not isinstance(self.n_components, str)
        return self.n_components

    def _choice(self, rows: Rows, n_components: int | None) -> Choice:
        """Choose what else the start depends on, and the length of the code if it is None."""
        assert n_components is not None
        return Choice(n_components)

    def _linear_start(
        self, rows: Rows, n_components: int, continued: bool, linear: LinearCode | None = None
    ) -> LinearCode | None:
        """Give PCA of the rows, if a new network begins there; `linear` is it if it is known."""
        if continued or not self._is_anchored():
            return None
        return self._linear_code(rows, n_components) if linear is None else linear

    def _linear_code(
        self, rows: Rows, n_components: int | float, completion: Completion | None = None
    ) -> LinearCode:
        """PCA of what is to be restored, with columns of a table made comparable.

        Of rows with unknown cells it is that of their most likely moments, which `completion` has
        if it was fitted to them.
        """
        table, weights = rows.source()
        if rows.known is not None:
            table = np.where(rows.known.source(None)[0], table, np.nan)
            if completion is None:
                completion = Completion.of_gaps(
                    table, weights, loss_of(self.loss), None, name_of(self)
                )
        composition = loss_of(self.loss).composition
        scales = (
            np.ones(1)
            if composition is None
            else composition.scales(*column_moments(table, weights))
        )
        if completion is not None:
            linear = completion.linear_code(scales, len(rows), n_components)
        elif composition is None:
            return linear_code(table, weights, n_components)
        else:
            linear = linear_code(scaled(table, scales), weights, n_components)
        if composition is None:
            return linear
        return linear._replace(mean=linear.mean / scales, scales=scales)

    def _start(
        self, rows: Rows, choice: Choice, continued: bool, linear: LinearCode | None
    ) -> TrainableModule:
        """Build the module to train, a new one or a copy of the fitted one.

        `linear` is PCA of the rows, if a new one begins there.
        """
        start = None if continued else Start(rows, linear, choice)
        module = self._build_module(rows.x.shape[1], choice.n_components, start)
        if continued:
            continue_weights(self, module, choice.n_components)
        return module

    def _build_network(self, n_features: int, n_components: int) -> tuple[nn.Module, nn.Module]:
        """Build encoder and decoder with random weights."""
        if self.network is not None:
            with random_numbers_of_the_process(), networks_of_float32():
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
        networks: tuple[nn.Module, nn.Module],
        linear: LinearCode,
        projection: np.ndarray,
        loadings: np.ndarray,
    ) -> None:
        """Put a dense network at ``projection (x - mean)`` and ``mean + loadings' z``."""
        explained = linear.variances @ np.square(linear.axes)
        variances = (explained + linear.noise_variance) / np.square(linear.scales)
        composition = loss_of(self.loss).composition
        link: Any = self._output_activation()
        if composition is not None:
            explained = explained / np.square(linear.scales)
            link = partial(composition.link, explained=torch.from_numpy(explained))
        anchor(
            *networks,
            link,
            mean=torch.from_numpy(linear.mean),
            deviation=torch.from_numpy(np.sqrt(variances)),
            projection=torch.from_numpy(projection * linear.scales),
            loadings=torch.from_numpy(loadings / linear.scales),
        )

    def _output_activation(self) -> str:
        return resolve_output_activation(self)

    def _build_empty(self) -> nn.Module:
        fitted = type(self)(**self._fitted_parameters)
        fitted._validate_params()  # those of a file may be anything
        return fitted._build_module(self.n_features_in_, self.n_components_)

    def _resolve_device(self, module: TrainableModule, rows: Rows) -> torch.device:
        if self.device == "auto" and rows.device != CPU:
            return rows.device
        step_size = int(self.batch_size) * count_weights(module)
        return resolve_device(self.device, large=step_size >= LARGE_STEP)

    def _threads_to_apply(self, shape: tuple[int, int]) -> int | None:
        # A step multiplies by each weight three times, and this once.
        return self._n_threads(self.module_, shape[0] // 3)

    def _n_threads(self, module: nn.Module, n_rows: int) -> int | None:
        """Choose the threads for steps of so many rows, None for as many as there are."""
        # The weights of other networks say little about their work: a convolution uses each many
        # times.
        small = self.network is None and n_rows * count_weights(module) < PARALLEL_STEP
        return 1 if small else None

    def _fitted_attributes(
        self,
        n_components: int,
        completion: Completion,
        device: torch.device,
        progress: Progress,
        rows: Rows,
        module: TrainableModule,
    ) -> dict[str, Any]:
        """Give what `fit` leaves on the estimator, with this module."""
        module = copy.deepcopy(module)  # the weights are views of one vector while they are trained
        return self._attributes_of_model(module, rows) | {
            "module_": module.to(CPU).eval(),
            "n_components_": n_components,
            "device_": str(device),
            "n_iter_": len(progress.loss_curve),
            "loss_curve_": list(progress.loss_curve),
            "validation_loss_curve_": list(progress.validation_loss_curve) or None,
            **{f"{name}_curve_": list(curve) for name, curve in progress.part_curves.items()},
            "pretrain_loss_curves_": progress.pretrain_loss_curves,
            "best_loss_": progress.best_loss,
            "loss_unit_": self._loss_unit(),
            "_completion": completion.to_arrays(),
            "_fitted_loss": self.loss,
            "_fitted_parameters": clone(self).get_params(deep=False)
            | self._resolved_parameters(module),
            # What only another fit needs.
            "_held_out": progress.held_out if self.warm_start else None,
            "_solver_memory": (self.solver, progress.memory if self.warm_start else {}),
        }

    def _resolved_parameters(self, module: TrainableModule) -> dict[str, Any]:
        """Give the parameters that the shape of the module needs, where `fit` has chosen them."""
        return {}

    def _loss_unit(self) -> str:
        """Say what `loss_curve_` shows."""
        return loss_of(self.loss).unit

    def _attributes_of_model(self, module: TrainableModule, rows: Rows) -> dict[str, Any]:
        """Give the fitted attributes that the other models do not have."""
        return {}
