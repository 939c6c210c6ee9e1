"""TableAutoencoder: an estimator of numbers for tables as they are, there and back."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, MetaEstimatorMixin, TransformerMixin, clone
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.mixture import GaussianMixture
from sklearn.utils import Tags, check_random_state, get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, has_fit_parameter

from skae._base import BaseAutoencoder
from skae._block_losses import Composition, blocks_of
from skae._documentation import DocumentationLinkMixin
from skae._moments import column_moments
from skae._persistence import reading, with_versions
from skae._rollback import unchanged_on_failure
from skae._sklearn_compat import HasMethods, StrOptions, _check_feature_names_in, _safe_indexing
from skae._table import TableEncoder
from skae._table_losses import log_likelihood, losses_of_columns
from skae._vae import VAETransformer
from skae._validation import mean_score, validate_weights

# Rows whose codes and residuals say what new rows are like, for models without a prior.
MAX_KEPT = 1000
# Numbers of normal distributions that a mixture of the codes may have, and codes for each.
MIXTURES = (1, 2, 4, 8)
MIN_CODES = 50
# Kinds of columns whose drawn values follow the distribution of the column.
NUMBERS = ("number", "integer", "count", "duration")
N_QUANTILES = 1001
# A column whose quantiles are so often different is continuous.
MIN_CONTINUOUS = 0.9
# Codes among which those are chosen that go with the fixed cells of a row.
N_CANDIDATES = 8192


def has(*methods: str) -> Callable[[Any], bool]:
    """Make a condition for `available_if`: the wrapped estimator has the methods."""

    def check(table_autoencoder: Any) -> bool:
        wrapped = getattr(table_autoencoder, "estimator_", None)
        if wrapped is None:
            wrapped = table_autoencoder._unfitted()
        for method in methods:
            getattr(wrapped, method)  # its own error says more
        return True

    return check


def with_positive_weights(X: Any, sample_weight: Any) -> tuple[Any, np.ndarray | None]:
    """Rows of a table that have a weight, and their weights."""
    if sample_weight is None:
        return X, None
    weights = validate_weights(sample_weight, X)
    if weights.all():
        return X, weights
    return _safe_indexing(X, np.flatnonzero(weights)), weights[weights > 0.0]


def quantiles_of(x: np.ndarray) -> np.ndarray:
    """Quantiles of the known numbers of a column, each of them one of the numbers."""
    known = x[~np.isnan(x)]
    shares = np.linspace(0.0, 1.0, min(N_QUANTILES, max(2, len(known))))
    return np.quantile(known, shares, method="inverted_cdf")


def moved(x: np.ndarray, reference: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Numbers as the quantiles of their ranks among reference numbers.

    Between the quantiles of a column that hardly ever repeats a number are numbers too.
    """
    ordered = np.sort(reference)
    ranks = (np.searchsorted(ordered, x, "left") + np.searchsorted(ordered, x, "right")) / 2.0
    places = ranks / len(ordered) * (len(quantiles) - 1)
    if len(np.unique(quantiles)) > MIN_CONTINUOUS * len(quantiles):
        return np.interp(places, np.arange(len(quantiles)), quantiles)
    return quantiles[np.rint(places).astype(int)]


class TableAutoencoder(
    DocumentationLinkMixin,
    CallbackSupportMixin,
    MetaEstimatorMixin,
    TransformerMixin,
    BaseEstimator,
):
    """An autoencoder, or PCA, of a table as it is.

    Columns of every kind (numbers, counts, booleans, categories, dates, gaps) are encoded by
    `TableEncoder`, the estimator learns a code of them, and what comes out is decoded: codes,
    filled gaps, new rows and errors are in the terms of the table.

    Each kind of column has a loss of its own, and each column of the table has the same weight,
    however many numbers it is encoded as. An autoencoder weighs the loss of each column by that of
    the best constant. `VAETransformer` has a likelihood for each kind, in nats, and its score is
    that of the whole row. Other estimators, such as `PCA`, are given numbers on the scales of the
    factor analysis of mixed data.

    Parameters
    ----------
    estimator : estimator with ``fit``, ``transform`` and ``inverse_transform``, default=None
        What learns the code: `VAETransformer`, `AutoencoderTransformer`, `DenoisingAutoencoder`,
        `PCA`, or another one. None is ``VAETransformer()``. Its parameter ``loss`` is that of the
        numbers; all other kinds of columns have losses of their own.
    kinds : dict, default=None
        Kinds of columns by their names, such as ``{"zip": "category"}``, as in `TableEncoder`. The
        kinds of all other columns are read from their types and values.
    unsupported : {"raise", "drop"}, default="raise"
        What to do with columns that have no encoding, such as free text: raise an error, or leave
        them out with a warning.

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator of the encoded rows.
    encoder_ : TableEncoder
        What encodes and decodes the table.
    schema_ : DataFrame of shape (`n_features_in_`, 6)
        For each column of the table its name, kind, transformation, share of unknown cells, number
        of encoded columns and loss.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns of X, if it had any that are all strings.

    See Also
    --------
    TableEncoder : The encoding alone, as a step of a Pipeline.
    AutoencoderOutlierDetector : The rows and cells of a table that do not fit.

    Notes
    -----
    The user guide says which loss each kind of column has, and how columns are balanced. Columns of
    one value are not given to the estimator and come back as they are.

    References
    ----------
    Pagès, "Analyse factorielle de données mixtes", Revue de statistique appliquée 52 (2004).

    Nazábal, Olmos, Ghahramani & Valera, "Handling incomplete heterogeneous data using VAEs",
    Pattern Recognition 107 (2020).

    Examples
    --------
    >>> import pandas as pd
    >>> from skae import PCA, TableAutoencoder
    >>> df = pd.DataFrame(
    ...     {
    ...         "town": ["Ulm", "Bonn", "Ulm", "Ulm", "Bonn", "Ulm"],
    ...         "height": [1.62, 1.78, 1.65, None, 1.83, 1.64],
    ...         "shoes": [38, 43, 39, 40, 44, 38],
    ...     }
    ... )
    >>> model = TableAutoencoder(PCA(2)).fit(df)
    >>> model.transform(df).shape
    (6, 2)
    >>> model.impute(df).round(2)
       town  height  shoes
    0   Ulm    1.62     38
    1  Bonn    1.78     43
    2   Ulm    1.65     39
    3   Ulm    1.70     40
    4  Bonn    1.83     44
    5   Ulm    1.64     38
    """

    _parameter_constraints: ClassVar[dict[str, list]] = {
        "estimator": [HasMethods(["fit", "transform", "inverse_transform"]), None],
        "kinds": [dict, None],
        "unsupported": [StrOptions({"raise", "drop"})],
    }

    def __init__(
        self,
        estimator: Any = None,
        *,
        kinds: dict[Hashable, str] | None = None,
        unsupported: str = "raise",
    ) -> None:
        self.estimator = estimator
        self.kinds = kinds
        self.unsupported = unsupported

    @with_callbacks
    def fit(self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None) -> Self:
        """Read the kinds of the columns and fit the estimator to the table.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Table of pandas, polars or pyarrow, or an array of numbers.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, for the estimator.

        Returns
        -------
        self : object
            The fitted estimator. If fitting fails, an earlier fit stays as it was.

        Raises
        ------
        ValueError
            If the table cannot be encoded, if the estimator takes no weights or unknown cells and
            there are some, or if it fails.
        """
        self._validate_params()
        context = self._init_callback_context(max_subtasks=1)
        with unchanged_on_failure(self):
            X, weights = with_positive_weights(X, sample_weight)
            context.call_on_fit_task_begin(estimator=self, X=X)
            rows = self._learn_columns(X, weights)
            task = context.subcontext(task_name="fit of the encoded table")
            with task.propagate_callback_context(self.estimator_):
                task.call_on_fit_task_begin(estimator=self, X=rows)
                self.estimator_.fit(rows, **self._weights(weights))
                task.call_on_fit_task_end(estimator=self, X=rows)
            self._learn_to_draw(rows, weights)
            context.call_on_fit_task_end(estimator=self, X=X)
        return self

    @available_if(has("partial_fit"))
    def partial_fit(self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None) -> Self:
        """Pass once over some rows of the table.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Some of the rows. The kinds and scales of the columns are those of the first call, which
            therefore should have rows of every sort.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, for the estimator.

        Returns
        -------
        self : object
            The fitted estimator.
        """
        self._validate_params()
        with unchanged_on_failure(self):
            X, weights = with_positive_weights(X, sample_weight)
            first = not hasattr(self, "estimator_")
            rows = self._learn_columns(X, weights) if first else self._encode(X)
            self.estimator_.partial_fit(rows, **self._weights(weights))
            self._learn_to_draw(rows, weights)
        return self

    def transform(self, X: Any) -> Any:
        """Give the codes of rows.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Table with the columns of `fit`.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_components)
            Codes. `set_output` turns them into a DataFrame.
        """
        return np.asarray(self.estimator_.transform(self._encode(X)))

    def inverse_transform(self, X: ArrayLike) -> Any:
        """Decode codes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_components)
            Codes, as `transform` returns them.

        Returns
        -------
        table : DataFrame or ndarray of shape (n_samples, n_features)
            Rows with the columns, order and types of the table of `fit`, in the same library.
            An array if `fit` had one.
        """
        check_is_fitted(self)
        return self._decode(self._unscaled(self.estimator_.inverse_transform(X)), X)

    def reconstruct(self, X: Any) -> Any:
        """Encode rows as codes and decode these.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Table with the columns of `fit`.

        Returns
        -------
        table : DataFrame or ndarray of shape (n_samples, n_features)
            What is left of all cells after the code, as `inverse_transform` gives it.
        """
        return self._decode(self._unscaled(self._reconstruct(self._encode(X))), X)

    def impute(
        self,
        X: Any,
        n_draws: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> Any:
        """Fill the unknown cells of a table, by what is expected or by draws.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Table with the columns of `fit`.
        n_draws : int, default=None
            Number of tables to give, in which unknown cells are drawn given the known cells of the
            row: multiple imputation, which `VAETransformer` has. None gives one table with what is
            expected.
        random_state : int, RandomState instance or None, default=None
            Determines the draws.

        Returns
        -------
        table : DataFrame or ndarray of shape (n_samples, n_features), or list of them
            X, in its library and with its types. Known cells are as they were, and unknown ones
            have what the estimator expects given the others of their rows. Columns that `fit` left
            out, and those of which it knew no cell, keep their gaps. With `n_draws` so many tables.

        Raises
        ------
        ValueError
            If the estimator has no draws of unknown cells, or `n_draws` is not a positive integer.
        """
        rows = self._encode(X)
        if n_draws is not None:
            if not isinstance(self.estimator_, VAETransformer):
                raise ValueError(
                    f"n_draws={n_draws!r} needs a distribution of unknown cells, which "
                    f"{type(self.estimator_).__name__} has not; wrap VAETransformer, or leave it "
                    "at None."
                )
            draws = self.estimator_.impute(rows, n_draws, random_state)
            return [self.encoder_._fill(X, self._encoded(np.asarray(drawn))) for drawn in draws]
        impute = getattr(self.estimator_, "impute", self._reconstruct)
        return self.encoder_._fill(X, self._encoded(self._unscaled(impute(rows))))

    def reconstruction_error(self, X: Any, per_feature: bool = False) -> Any:
        """Loss of the reconstruction of each row.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Table with the columns of `fit`.
        per_feature : bool, default=False
            Whether to give the loss of every cell instead of its mean over the columns.

        Returns
        -------
        error : ndarray of shape (n_samples,) or DataFrame of shape (n_samples, n_features)
            Loss of the known cells, as a share of that of the best constant: in the mean over the
            rows of `fit`, 0 is a perfect reconstruction and 1 one that knows nothing of the row.
            With a loss in nats (`VAETransformer`, and ``loss="gaussian"``) it is in nats. By
            column, unknown cells are NaN, and columns that the estimator was not given are 0.
        """
        rows = self._encode(X)
        unknown = np.isnan(rows)
        if self._has_own_loss:
            cells = self.estimator_.reconstruction_error(rows, per_feature=True)
        else:
            cells = self._squared_errors(rows)
        by_column = self._by_column(np.where(unknown, 0.0, cells))
        is_unknown = self._by_column(unknown.astype(float)) > 0.0
        by_column = np.where(is_unknown, np.nan, by_column)
        if per_feature:
            return self._described(by_column, X)
        modelled = by_column[:, self._is_modelled]
        n_known = np.maximum((~np.isnan(modelled)).sum(axis=1), 1)
        return np.nansum(modelled, axis=1) / n_known

    @available_if(has("score_samples"))
    def score_samples(self, X: Any) -> np.ndarray:
        """Score of each row by the estimator; the higher, the more it is like those of `fit`.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Table with the columns of `fit`.

        Returns
        -------
        score : ndarray of shape (n_samples,)
            With `VAETransformer` a lower bound of the log-density of the known cells in nats:
            log-probabilities of categories, booleans, levels and counts, and log-densities of
            numbers on their standardized scale. With the other autoencoders minus
            `reconstruction_error`, with `PCA` its log-density of the encoded row.
        """
        return self.estimator_.score_samples(self._encode(X))

    @available_if(has("score_samples"))
    def score(self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None) -> float:
        """Mean of `score_samples`, so that a grid search looks for the best model.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Table with the columns of `fit`.
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

    @available_if(has("contributions"))
    def contributions(self, X: Any) -> np.ndarray:
        """Part of each cell in the outlier score of its row, minus `score_samples`.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Table with the columns of `fit`.

        Returns
        -------
        contributions : ndarray of shape (n_samples, n_features)
            By column of the table. The contributions of a row sum to minus its score.
        """
        return self._by_column(np.asarray(self.estimator_.contributions(self._encode(X))))

    def expected(self, X: Any) -> Any:
        """Give the value that the model expects in each cell, for `AutoencoderOutlierDetector`.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Table with the columns of `fit`.

        Returns
        -------
        table : DataFrame or ndarray of shape (n_samples, n_features)
            Values that the columns can have, in the library of `fit`.
        """
        rows = self._encode(X)
        expected = getattr(self.estimator_, "expected", self._reconstruct)
        return self._decode(self._unscaled(expected(rows)), X)

    def sample(
        self,
        n_samples: int = 1,
        random_state: int | np.random.RandomState | None = None,
        *,
        conditions: Any = None,
    ) -> Any:
        """Draw new rows of the table.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows, or of rows for each row of `conditions`.
        random_state : int, RandomState instance or None, default=None
            Determines the draws.
        conditions : DataFrame, default=None
            Values of some columns. The other cells of a new row are drawn given them. An unknown
            cell fixes nothing.

        Returns
        -------
        table : DataFrame or ndarray of shape (n_samples, n_features)
            Rows with the columns and types of the table of `fit`, and values that these can have.
            With `conditions`, those of its first row come first.

        Raises
        ------
        ValueError
            If `n_samples` is not a positive integer, or if `conditions` has other columns than the
            table, or values that its columns did not have in `fit`.

        Notes
        -----
        `VAETransformer` has a distribution of codes, which is drawn from. For other estimators it
        is a mixture of normal distributions, fitted to the codes of at most 1,000 rows of `fit`,
        and the noise around a reconstruction has the variance of their residuals. Codes that go
        with fixed cells are chosen among 8,192 by the likelihood of these cells (sampling
        importance resampling, Rubin 1987).
        """
        check_is_fitted(self)
        if not isinstance(n_samples, Integral) or isinstance(n_samples, bool) or n_samples < 1:
            raise ValueError(f"n_samples={n_samples!r} must be an integer of at least 1.")
        rng = check_random_state(random_state)
        if conditions is None:
            return self._decode(self._draw(self._means(self._draw_codes(int(n_samples), rng)), rng))
        given, fixed = self.encoder_._encode_part(conditions)
        means = self._means(self._draw_codes(N_CANDIDATES, rng))
        chosen = [self._choose(means, row, int(n_samples), rng) for row in given[:, self._features]]
        drawn = self._draw(means[np.concatenate(chosen)], rng)
        of_row = np.repeat(np.arange(len(given)), n_samples)
        return self.encoder_._decode_given(self._encoded(drawn), fixed, of_row)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the components of the code.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Names of the columns of X; only checked.

        Returns
        -------
        ndarray of str
            Names that the wrapped estimator gives, such as "vaetransformer0".
        """
        check_is_fitted(self)
        _check_feature_names_in(self, input_features, generate_names=False)
        return self.estimator_.get_feature_names_out()

    @property
    def schema_(self) -> pd.DataFrame:
        """Kinds of the columns, how they are encoded, and their losses."""
        check_is_fitted(self)
        schema = self.encoder_.schema_
        losses = {
            block.name: loss[0] for block, loss in zip(self._modelled, self._losses, strict=True)
        }
        schema["loss"] = [losses.get(name, "none") for name in schema["column"]]
        return schema

    def __getstate__(self) -> dict[str, Any]:
        return with_versions(super().__getstate__())

    def __setstate__(self, state: dict[str, Any]) -> None:
        with reading(self, state) as state:
            super().__setstate__(state)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        inner = get_tags(self._unfitted())
        tags.input_tags.allow_nan = inner.input_tags.allow_nan
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        tags.input_tags.sparse = False
        tags.transformer_tags.preserves_dtype = []
        tags.non_deterministic = inner.non_deterministic
        return tags

    def _unfitted(self) -> Any:
        return VAETransformer() if self.estimator is None else self.estimator

    def _learn_columns(self, X: Any, weights: np.ndarray | None) -> np.ndarray:
        """Fit the encoder, prepare the estimator for its columns, and encode the table."""
        encoder = TableEncoder(self.kinds, unsupported=self.unsupported).fit(X)
        codes = np.asarray(encoder.transform(X))
        if len(codes) < 2:
            raise ValueError(
                "X has n_samples=1, and TableAutoencoder needs at least two rows to compare."
            )
        modelled = [block for block in encoder.blocks_ if block.kind != "constant"]
        if not modelled:
            raise ValueError(
                "Each column of X has one known value or none, so that there is nothing to learn; "
                "give TableAutoencoder a table with columns that vary."
            )
        estimator = clone(self._unfitted())
        self._has_own_loss = isinstance(estimator, BaseAutoencoder) and "loss" in (
            estimator.get_params(deep=False)
        )
        self.encoder_ = encoder
        for name in ("n_features_in_", "feature_names_in_"):
            self.__dict__.pop(name, None)  # of an earlier fit
            if hasattr(encoder, name):
                setattr(self, name, getattr(encoder, name))
        self._features = np.concatenate([np.r_[block.columns] for block in modelled])
        moments = column_moments(codes[:, self._features], weights)
        is_likelihood = isinstance(estimator, VAETransformer)
        self._losses = losses_of_columns(
            encoder, moments, getattr(estimator, "loss", "squared_error"), is_likelihood
        )
        composition = self._composition()
        self._scales = np.ones(len(self._features))
        if self._has_own_loss:
            estimator.set_params(loss=list(self._losses))
        else:
            self._scales = composition.scales(*moments)
        # By feature: the variance of its column, of which a squared error is a share.
        variances = moments[1] * np.square(self._scales)
        totals = [variances[own].sum() for own in composition.slices]
        widths = [block.n_features for block in composition.blocks]
        self._total_variances = np.repeat(np.where(np.array(totals) > 0.0, totals, 1.0), widths)
        self.estimator_ = estimator
        rows = codes[:, self._features] * self._scales
        self._check_unknown(rows)
        return rows

    @property
    def _modelled(self) -> list[Any]:
        return [block for block in self.encoder_.blocks_ if block.kind != "constant"]

    @property
    def _is_modelled(self) -> np.ndarray:
        """Whether the estimator is given each column of the table, (n_features_in_,)."""
        return self._by_column(np.ones((1, len(self._features))))[0] > 0.0

    def _composition(self) -> Composition:
        return Composition(blocks_of(self._losses))

    def _check_unknown(self, rows: np.ndarray) -> None:
        """Refuse unknown cells that the estimator does not take."""
        unknown = self._by_column(np.isnan(rows).astype(float)).any(axis=0)
        if unknown.any() and not get_tags(self.estimator_).input_tags.allow_nan:
            names = [str(self.encoder_._names[place]) for place in np.flatnonzero(unknown)]
            raise ValueError(
                f"{type(self.estimator_).__name__} takes no unknown cells (NaN), and some are in "
                f"{', '.join(names[:5])}{', ...' * (len(names) > 5)}; wrap an estimator that "
                "takes them, such as PCA, or fill them first."
            )

    def _weights(self, weights: np.ndarray | None) -> dict[str, np.ndarray]:
        if weights is None:
            return {}
        if not has_fit_parameter(self.estimator_, "sample_weight"):
            raise ValueError(
                f"{type(self.estimator_).__name__} takes no sample_weight; leave it out, or wrap "
                "an estimator that does."
            )
        return {"sample_weight": weights}

    def _encode(self, X: Any) -> np.ndarray:
        """Rows as the estimator takes them, with NaN in unknown cells."""
        check_is_fitted(self)
        rows = np.asarray(self.encoder_.transform(X))[:, self._features] * self._scales
        self._check_unknown(rows)
        return rows

    def _unscaled(self, rows: Any) -> np.ndarray:
        """Features of rows of the estimator, on the scales of the encoder."""
        return np.asarray(rows, dtype=np.float64) / self._scales

    def _encoded(self, features: np.ndarray) -> np.ndarray:
        """Put features among those that the estimator is not given."""
        encoded = np.zeros((len(features), self.encoder_._n_encoded))
        encoded[:, self._features] = features
        return encoded

    def _decode(self, features: np.ndarray, given: Any = None) -> Any:
        encoded = self._encoded(features)
        if isinstance(given, pd.DataFrame):
            return self.encoder_.inverse_transform(pd.DataFrame(encoded, index=given.index))
        return self.encoder_.inverse_transform(encoded)

    def _reconstruct(self, rows: np.ndarray) -> np.ndarray:
        if hasattr(self.estimator_, "reconstruct"):
            return np.asarray(self.estimator_.reconstruct(rows))
        return np.asarray(self.estimator_.inverse_transform(self.estimator_.transform(rows)))

    def _squared_errors(self, rows: np.ndarray) -> np.ndarray:
        """Squared error of each feature, as a share of the variance of its column."""
        return np.square(rows - self._reconstruct(rows)) / self._total_variances

    def _by_column(self, values: np.ndarray) -> np.ndarray:
        """Sum of the features of each column of the table, (n_samples, n_features_in_)."""
        return self.encoder_.sum_by_column(self._encoded(values))

    def _described(self, by_column: np.ndarray, X: Any) -> pd.DataFrame:
        index = X.index if isinstance(X, pd.DataFrame) else None
        return pd.DataFrame(
            by_column, index=index, columns=pd.Index(self.encoder_._names, tupleize_cols=False)
        )

    def _learn_to_draw(self, rows: np.ndarray, weights: np.ndarray | None) -> None:
        """Keep what new rows need: quantiles of numbers, and codes and residuals of some rows."""
        rng = np.random.default_rng(0)
        if weights is not None:
            rows = rows[rng.choice(len(rows), len(rows), p=weights / weights.sum())]
        numbers = np.flatnonzero(self._are_numbers)
        self._quantiles = [quantiles_of(rows[:, place] / self._scales[place]) for place in numbers]
        if isinstance(self.estimator_, VAETransformer):
            return
        kept = np.arange(len(rows))
        if len(kept) > MAX_KEPT:
            kept = rng.choice(kept, MAX_KEPT, replace=False)
        self._codes = np.asarray(self.estimator_.transform(rows[kept]), dtype=np.float64)
        residuals = (rows[kept] - self._reconstruct(rows[kept])) / self._scales
        squares = np.ma.masked_invalid(np.square(residuals))
        self._residual_variances = np.ma.filled(squares.mean(axis=0), 0.0)

    def _draw_codes(self, n: int, rng: np.random.RandomState) -> np.ndarray:
        """Draw codes from the prior, or from a mixture that is like those of `fit`."""
        if isinstance(self.estimator_, VAETransformer):
            return self.estimator_._draw_codes(n, rng)
        limit = max(1, len(self._codes) // (MIN_CODES * self._codes.shape[1]))
        deviation = self._codes.std(axis=0)
        scale = np.where(deviation > 0.0, deviation, 1.0)
        seed = rng.randint(np.iinfo(np.int32).max)
        fits = [
            GaussianMixture(k, reg_covar=1e-6, random_state=seed).fit(self._codes / scale)
            for k in MIXTURES
            if k <= limit
        ]
        mixture = min(fits, key=lambda fit: fit.bic(self._codes / scale))
        codes, _ = mixture.sample(n)
        return rng.permutation(codes) * scale

    def _means(self, codes: np.ndarray) -> np.ndarray:
        """Means of the encoded cells given the code, on the scales of the encoder."""
        return self._unscaled(self.estimator_.inverse_transform(codes))

    @property
    def _noise(self) -> np.ndarray:
        if isinstance(self.estimator_, VAETransformer):
            return np.broadcast_to(self.estimator_.noise_variance_, len(self._features))
        return self._residual_variances

    def _densities(self) -> Composition:
        """Distributions of the cells around their means."""
        if isinstance(self.estimator_, VAETransformer):
            return self._composition()
        # Losses that are no density are those of normal distributions.
        named = {"squared_error": "gaussian", "absolute_error": "gaussian"}
        named |= {"negative_binomial": "gaussian"}
        return Composition(blocks_of([(named.get(name, name), n) for name, n, *_ in self._losses]))

    @property
    def _are_numbers(self) -> np.ndarray:
        """Whether each feature is a column of numbers, (n_features,)."""
        kinds = [block.kind in NUMBERS for block in self._modelled]
        widths = [block.columns.stop - block.columns.start for block in self._modelled]
        return np.repeat(kinds, widths)

    def _draw(self, means: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
        """Draw cells around their means, with numbers distributed like those of `fit`.

        Each number is moved to the value of the same rank: what the model says of dependence stays,
        and the distribution of each column, its single values included, is that of the table.
        """
        densities = self._densities()
        drawn = densities.sample(means, self._noise, rng)
        own = np.random.RandomState(0)  # the same way of moving in every call
        reference = self._means(self._draw_codes(N_CANDIDATES, own))
        reference = densities.sample(reference, self._noise, own)
        for place, quantiles in zip(
            np.flatnonzero(self._are_numbers), self._quantiles, strict=True
        ):
            drawn[:, place] = moved(drawn[:, place], reference[:, place], quantiles)
        return drawn

    def _choose(
        self, means: np.ndarray, given: np.ndarray, n: int, rng: np.random.RandomState
    ) -> np.ndarray:
        """Numbers of candidates, drawn by the likelihood of the given cells."""
        log_weights = log_likelihood(self._densities(), means, given, self._noise)
        weights = np.exp(log_weights - log_weights.max())
        return rng.choice(len(means), n, p=weights / weights.sum())
