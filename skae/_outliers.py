"""AutoencoderOutlierDetector: which rows of a table do not fit the others, how sure, and why."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from math import ceil
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn import get_config
from sklearn.base import BaseEstimator, MetaEstimatorMixin, OutlierMixin, clone
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.model_selection import KFold, ShuffleSplit
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils import Tags, check_random_state, get_tags, indexable
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.validation import check_is_fitted, has_fit_parameter

from skae._arrays import ArrayApiMixin
from skae._denoising_ensemble import DenoisingEnsemble
from skae._documentation import DocumentationLinkMixin
from skae._explanation import (
    by_outer_column,
    column_names,
    columns_of,
    exact_contributions,
    expected_values,
    in_frame,
    joined,
    names_of_inner,
    numbers,
    pipeline_steps,
    sampled_shapley_values,
    to_frame,
)
from skae._outlier_report import (
    OutlierReport,
    constant_columns,
    described_cell,
    n_duplicates,
    nearly_copies,
)
from skae._outlier_report import reasons as cell_reasons
from skae._persistence import check_shapes, reading, with_versions
from skae._processes import check_alone
from skae._rollback import unchanged_on_failure
from skae._shift import ExchangeabilityTest, density_ratios, exchangeability_test
from skae._sklearn_compat import (
    HasMethods,
    Interval,
    StrOptions,
    _num_samples,
    _safe_indexing,
    validate_parameter_constraints,
)
from skae._table import TableEncoder, needs_encoding
from skae._validation import native_table, validate_weights

# Cells of a table that are converted to float64 at once.
MAX_CONVERTED = 2**23

# What "auto" means: the share of normal rows that may be called outliers, and the share of rows
# that is held out to keep it.
FALSE_ALARM_RATE = 0.05
CALIBRATION_FRACTION = 0.2


# What stands for scores of minus infinity where they are split among the columns: differences and
# sums of it are numbers.
LOWEST_EXPLAINED = -1e300

# p-value of the test of exchangeability below which a warning is given.
IMPLAUSIBLE = 0.01
# Calibration rows that count, by the density ratio, below which p-values say little.
FEW_EFFECTIVE = 10.0

# Rows of `fit` that are kept to say how unusual the values of cells are.
N_SAMPLED = 1000
# Share of rows of `fit` with a score far below the others from which outliers are likely.
LIKELY_SHARE = 0.01

# Scores of equal rows differ by this share, because sums are rounded in another order in another
# batch.
ROUNDING = 1e-6


def lowest_ties(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Lowest number that counts as equal to each score.

    Rounding is relative to the terms of a score, and a score near zero may be a difference of large
    ones; so it is relative to the score, or to the median of the absolute scores of the others if
    that is more. A score s counts as lower than c if it is lower than ``lowest_ties(c)``:
    thresholds, p-values and labels all compare in this way, and thus agree.
    """
    sizes = np.abs(others[np.isfinite(others)])
    typical = np.median(sizes) if len(sizes) > 0 else 0.0
    return scores - ROUNDING * np.maximum(np.abs(scores), typical)


class Threshold(NamedTuple):
    """Score below which rows are called outliers."""

    offset: float
    share: float
    """Of the weight of the rows, or of that of calibration rows and a new row, below it."""
    n_tied: int
    """Rows that lie next above it and tie with each other."""

    def misses(self, share: float) -> bool:
        """Whether ties, or one row that weighs more, keep it from the share that was wanted."""
        return self.share == 0.0 or (self.n_tied > 1 and self.share < 0.95 * share)


def contamination_threshold(scores: np.ndarray, weights: np.ndarray, share: float) -> Threshold:
    """Threshold below which lies at most this share of the weight.

    It is halfway between two scores that do not tie, so that rounding does not decide on which side
    a row is.
    """
    order = np.argsort(scores)
    scores, weights = scores[order], weights[order]
    lowest = lowest_ties(scores, scores)
    # Groups of rows that tie: where each begins, and the share of the rows before it.
    starts = np.concatenate([[0], np.flatnonzero(scores[:-1] < lowest[1:]) + 1])
    shares_below = np.concatenate([[0.0], np.cumsum(weights)])[starts] / weights.sum()
    place = int(np.searchsorted(shares_below, share * (1.0 + 1e-9), side="right")) - 1
    first, end = [*starts, len(scores)][place : place + 2]
    offset = lowest[first]
    if first > 0 and np.isfinite(scores[first - 1]):
        offset = 0.5 * scores[first - 1] + 0.5 * scores[first]
    return Threshold(float(offset), float(shares_below[place]), end - first)


def conformal_p_values(
    scores: np.ndarray,
    calibration_scores: np.ndarray,
    weights: np.ndarray,
    own: np.ndarray | None = None,
) -> np.ndarray:
    """Share of the weight of calibration rows, and of the row itself, with no higher score.

    A row whose own weight is not known is given the largest of the weights, because a larger one
    makes its p-value larger. So does a calibration score that is higher by rounding and counts as
    equal.

    References
    ----------
    Bates, Candès, Lei, Romano & Sesia, "Testing for outliers with conformal p-values", Annals of
    Statistics 51 (2023).

    Tibshirani, Barber, Candès & Ramdas, "Conformal prediction under covariate shift", NeurIPS
    (2019). The weights.
    """
    order = np.argsort(calibration_scores)
    lowest = lowest_ties(calibration_scores[order], calibration_scores)
    cumulative = np.concatenate([[0.0], np.cumsum(weights[order])])
    own = weights.max() if own is None else own
    n_not_higher = np.searchsorted(lowest, scores, side="right")
    return (own + cumulative[n_not_higher]) / (own + cumulative[-1])


def conformal_threshold(
    calibration_scores: np.ndarray, weights: np.ndarray, level: float
) -> Threshold:
    """Score below which p-values are at most the level; the lowest one if there is none."""
    order = np.argsort(calibration_scores)
    scores, weights = calibration_scores[order], weights[order]
    lowest = lowest_ties(scores, scores)
    p_values = conformal_p_values(np.nextafter(lowest, -np.inf), scores, weights)
    offset = lowest[max(int(np.count_nonzero(p_values <= level)), 1) - 1]
    first = np.searchsorted(scores, offset)  # of those that are not below it
    n_tied = np.searchsorted(lowest, scores[first], side="right") - first
    own = weights.max()
    share = (own + weights[:first].sum()) / (own + weights.sum())
    return Threshold(float(offset), float(share), int(n_tied))


def benjamini_hochberg(p_values: np.ndarray, fdr: float) -> np.ndarray:
    """Whether each hypothesis is rejected, so that the false discovery rate is at most `fdr`.

    References
    ----------
    Benjamini & Hochberg, "Controlling the false discovery rate: a practical and powerful approach
    to multiple testing", Journal of the Royal Statistical Society B 57 (1995).
    """
    ordered = np.sort(p_values)
    bounds = fdr * np.arange(1, len(ordered) + 1) / len(ordered)
    # p-values are multiples of one share, which may meet a bound but for rounding.
    met = np.flatnonzero(ordered <= bounds * (1.0 + 1e-12))
    if len(met) == 0:
        return np.zeros(len(p_values), dtype=bool)
    return p_values <= ordered[met[-1]]


def score_rows(estimator: Any, X: Any) -> np.ndarray:
    """Score the rows in float64, whatever their dtype, so that equal rows have equal scores.

    An array of narrower floats, which may be the map of a file, is converted in parts.
    """
    parts = [X]
    if isinstance(X, np.ndarray) and str(X.dtype) in WIDER:
        n_rows = _num_samples(X)
        size = max(1, MAX_CONVERTED * n_rows // max(1, X.size))
        parts = [X[start : start + size] for start in range(0, max(1, n_rows), size)]
    scores = np.concatenate(
        [np.asarray(estimator.score_samples(widened(part)), dtype=np.float64) for part in parts]
    )
    # What is not finite must not pass for an inlier: NaN is neither lower nor higher than anything.
    # The lowest number is what models of ours give in the place of less.
    is_number = np.isfinite(scores) & (scores > np.finfo(np.float64).min)
    return np.where(is_number, scores, -np.inf)


def fit_parameters(estimator: Any, sample_weight: np.ndarray | None) -> dict[str, Any]:
    """Keyword arguments that bring the weights to all steps of an estimator that take them."""
    if sample_weight is None:
        return {}
    if isinstance(estimator, Pipeline):
        return {
            f"{name}__{parameter}": weights
            for name, step in estimator.steps
            for parameter, weights in fit_parameters(step, sample_weight).items()
        }
    if has_fit_parameter(estimator, "sample_weight"):
        return {"sample_weight": sample_weight}
    return {}


# Types of floats narrower than float64, as pandas and polars name them.
WIDER: dict[str, Any] = {
    "float16": "float64",
    "float32": "float64",
    "Float32": "Float64",
    # pandas does not read back the names of these that it writes.
    "Sparse[float32, 0]": pd.SparseDtype(np.float64, 0.0),
    "Sparse[float32, 0.0]": pd.SparseDtype(np.float64, 0.0),
    "halffloat[pyarrow]": "double[pyarrow]",
    "float[pyarrow]": "double[pyarrow]",
}


def widened(X: Any) -> Any:
    """Table of any kind with float64 instead of narrower floats."""
    if isinstance(X, pd.DataFrame):
        types = {name: str(dtype) for name, dtype in X.dtypes.items()}
        types = {name: WIDER[dtype] for name, dtype in types.items() if dtype in WIDER}
        return X.astype(types) if types else X
    if hasattr(X, "schema") and hasattr(X, "to_pandas") and not hasattr(X, "dtypes"):  # Arrow
        is_narrow = not {"float", "halffloat"}.isdisjoint(map(str, X.schema.types))
        return widened(X.to_pandas()) if is_narrow else X
    if hasattr(X, "cast"):  # polars
        return X.cast({dtype: float for dtype in set(X.dtypes) if str(dtype) == "Float32"})
    if str(getattr(X, "dtype", "")) in WIDER and hasattr(X, "astype"):
        return X.astype(np.float64)
    return X


class AutoencoderOutlierDetector(
    DocumentationLinkMixin,
    MetaEstimatorMixin,
    OutlierMixin,
    CallbackSupportMixin,
    ArrayApiMixin,
    BaseEstimator,
):
    """Outlier detection by the score of an autoencoder or of any other model of normal rows.

    The model scores how well a row fits the rows of `fit`. This class adds what is needed to act
    on the score: a threshold, p-values, and the share of each column in it.

    Parameters
    ----------
    estimator : estimator with ``fit`` and ``score_samples``, default=None
        Model whose ``score_samples`` is higher for rows that are more normal: one of the
        autoencoders, `PCA`, a `Pipeline` that ends in one of them, or scikit-learn's mixtures and
        forests. `PCA` of fewer rows than columns scores by the most likely noise variance, which
        is then smaller than scikit-learn's. None is a model of denoising autoencoders and nearest
        rows that scales the data inside and has the same settings for every table, see the user
        guide; of a DataFrame with text, categories or dates it sees what `TableEncoder` makes of
        these. `TableAutoencoder` is a model of such tables, too.
    contamination : "auto" or float, default="auto"
        Where the threshold is. "auto" is for rows of `fit` that are normal, all or nearly all: a
        new row like them is called an outlier with a probability of at most 0.05, or of
        1 / (1 + n) if that is more with n calibration rows. A float in (0, 0.5] is for rows among
        which are outliers to be found: it is their share, and so many of the rows of `fit` are
        called outliers, or fewer where rows with equal scores leave no choice, which a warning
        says. `set_contamination` moves the threshold after `fit`.
    calibration_fraction : "auto", float or None, default="auto"
        Share of the rows that the model is not fitted to. Their scores are like those of new rows,
        and give p-values and threshold: `contamination` is then the share of such rows that is
        called outliers. "auto" is 0.2 with ``contamination="auto"`` or ``cross_fit=True``, and
        else None: a model that has to tell which of the rows of `fit` are outliers must be fitted
        to all or none of them, because rows that it was fitted to score higher. For the same
        reason a threshold from such rows calls more than its share of new rows outliers.
    cross_fit : bool, default=False
        Whether to fit to all rows and calibrate on all rows as well: a copy of the estimator is
        fitted without each of ``round(1 / calibration_fraction)`` folds and scores the rows of the
        fold. For small tables; `fit` takes as many times longer.
    device : str, default="auto"
        Where the default model is trained and scores, as in `AutoencoderTransformer`.
    random_state : int, RandomState instance or None, default=None
        Determines which rows are held out, the default model, and sampled explanations. Pass an int
        for the same results in every call on the same machine. An estimator has its own.
    verbose : bool, default=False
        Whether the default model shows a progress bar.

    Attributes
    ----------
    estimator_ : estimator
        The fitted model.
    offset_ : float
        Threshold: rows with a lower score are called outliers. It may be set to any other score.
    training_scores_ : ndarray of shape (n_samples,)
        Score of each row of `fit` whose weight is not zero, held out or not.
    calibration_scores_ : ndarray of shape (n_calibration_samples,) or None
        Scores of the rows by a model that was not fitted to them, in the order of the rows; None
        without such rows.
    n_features_in_ : int
        Number of columns of X, if the estimator tells.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns of X, if it had any that are all strings.

    See Also
    --------
    sklearn.ensemble.IsolationForest : Outliers are rows that random cuts isolate soon.
    sklearn.neighbors.LocalOutlierFactor : Outliers are rows in thinner regions than their
        neighbours.

    Notes
    -----
    **What p-values promise.** Let the rows that are held out and a new row be exchangeable, for
    instance independent draws from one distribution. Then the probability that the p-value of the
    new row is at most t is at most t, for every t, every distribution and every model [1]_; it is
    as close to t as the number of calibration rows and ties of scores allow. The probability is
    over calibration rows and new row: with few calibration rows, all p-values of one fitted
    detector may be a little too small. Outliers with low scores among the calibration rows make
    p-values larger. The p-values of many new rows share the calibration rows and hence depend on
    each other, in a way for which Benjamini & Hochberg's procedure still controls the false
    discovery rate [1]_: this is `select`.

    With calibration rows, `predict` calls those new rows outliers whose p-value is at most
    `contamination` (0.05 for "auto"). If they are too few for such a p-value, fewer than 19 for
    0.05, it is the rows with a lower score than all of them.

    With ``cross_fit=True`` this is no theorem any more: scores of fold and new row come from
    different models. It holds as far as the models agree, and the models of the folds have seen
    fewer rows, so that their scores are rather too low and p-values too large. Rows of `fit`
    themselves are not new rows; their p-values promise nothing in either case.

    **Equal rows.** All rows are scored in float64. Two scores that differ by less than a millionth
    of their size, or of the median size of scores, are taken for equal, in thresholds, p-values and
    labels alike. So equal rows have one label, whatever their dtype and whichever rows are scored
    with them, and ties make p-values larger, never smaller.

    **Weights.** In a threshold from the rows of `fit`, a row counts by its weight. With calibration
    rows the weights are to be proportional to the ratio of the densities of new rows and rows of
    `fit` [2]_. The promise then holds for new rows whose weight would not exceed the largest one.
    Equal weights leave p-values as they are. The estimator, or each step of a Pipeline, is given
    the weights if its `fit` takes them; with scikit-learn's metadata routing, if it requests them.

    References
    ----------
    .. [1] Bates, Candès, Lei, Romano & Sesia, "Testing for outliers with conformal p-values",
       Annals of Statistics 51 (2023).
    .. [2] Tibshirani, Barber, Candès & Ramdas, "Conformal prediction under covariate shift",
       NeurIPS (2019).

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skae import AutoencoderOutlierDetector
    >>> X, cultivar = load_wine(return_X_y=True, as_frame=True)
    >>> detector = AutoencoderOutlierDetector(random_state=0).fit(X[cultivar == 0])
    >>> detector.predict(X[cultivar == 2])[:5]
    array([-1, -1, -1, -1, -1])
    >>> contributions = detector.explain(X[cultivar == 2])  # in the outlier score of each wine
    >>> contributions.shape
    (48, 13)
    """

    _takes_device_arrays = False  # what its models take is not known
    _calibration_rows: np.ndarray
    """Numbers of the rows of `fit` whose scores calibrate."""
    _n_rows_fit: int

    # Of a score that has no exact decomposition: rows to compare with, each with an order of the
    # features and its reverse.
    _n_background_rows: ClassVar[int] = 16
    _max_cells: ClassVar[int] = 2**22
    """Cells of the table that is scored at once to explain such a score."""

    _parameter_constraints: ClassVar[dict[str, list]] = {
        "estimator": [HasMethods(["fit", "score_samples"]), None],
        "contamination": [StrOptions({"auto"}), Interval(Real, 0, 0.5, closed="right")],
        "calibration_fraction": [
            StrOptions({"auto"}),
            Interval(Real, 0, 1, closed="neither"),
            None,
        ],
        "cross_fit": ["boolean"],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        estimator: Any = None,
        *,
        contamination: float | Literal["auto"] = "auto",
        calibration_fraction: float | Literal["auto"] | None = "auto",
        cross_fit: bool = False,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.estimator = estimator
        self.contamination = contamination
        self.calibration_fraction = calibration_fraction
        self.cross_fit = cross_fit
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    def fit(self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the model to rows that are normal, or mostly so, and set the threshold.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Data, of any kind that the estimator takes.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, in the threshold and, if the estimator takes them, in its fit. A
            row of weight zero is left out.

        Returns
        -------
        self : object
            The fitted detector.
        """
        self._check_parameters()
        check_alone(type(self).__name__)
        (X,) = indexable(native_table(X))
        weights = None
        with unchanged_on_failure(self):
            n_rows = _num_samples(X)
            kept = np.arange(n_rows)
            if sample_weight is not None:
                weights = validate_weights(sample_weight, X)
                if not weights.all():
                    kept = np.flatnonzero(weights)
                    X, weights = _safe_indexing(X, kept), weights[kept]
            self._fit(X, weights)
            self._n_rows_fit, self._calibration_rows = n_rows, kept[self._calibration_rows]
        return self

    def fit_predict(self, X: Any, y: Any = None, **parameters: Any) -> np.ndarray:
        """Fit to the rows and tell which of them are outliers.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Data.
        y : Ignored
            Present for API consistency.
        **parameters : dict
            Passed to `fit`, such as ``sample_weight``.

        Returns
        -------
        label : ndarray of shape (n_samples,)
            What `predict` gives for X after `fit`: -1 for outliers and 1 for the others.

        Warns
        -----
        UserWarning
            If ``contamination="auto"``, which takes the rows of `fit` for normal.
        """
        labels = super().fit_predict(X, y, **parameters)
        if self.contamination == "auto":
            warnings.warn(
                "fit_predict asks which of these rows are outliers, and contamination='auto' takes "
                "nearly all of them for normal: the model learns the outliers as well, and few "
                "are called so. Set contamination to the share to look for, such as 0.1.",
                UserWarning,
                stacklevel=2,
            )
        return labels

    def predict(self, X: Any) -> np.ndarray:
        """Tell outliers from inliers.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Data.

        Returns
        -------
        label : ndarray of shape (n_samples,)
            -1 for rows with a score below `offset_`, which are outliers, and 1 for the others.
        """
        return np.where(self.decision_function(X) < 0.0, -1, 1)

    def decision_function(self, X: Any) -> np.ndarray:
        """Score of each row above the threshold.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Data.

        Returns
        -------
        decision : ndarray of shape (n_samples,)
            ``score_samples(X) - offset_``, negative for outliers.
        """
        return self.score_samples(X) - self.offset_

    def score_samples(self, X: Any) -> np.ndarray:
        """Score of each row by the model; the higher, the more normal.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Data.

        Returns
        -------
        score : ndarray of shape (n_samples,)
            In the unit of the model, float64. Minus it is the outlier score. Where the model gives
            no finite number, it is minus infinity, which is lower than any threshold.
        """
        check_is_fitted(self)
        return score_rows(self.estimator_, native_table(X))

    def p_values(
        self,
        X: Any,
        X_fit: Any = None,
        density_ratio: Callable[[Any], ArrayLike] | None = None,
    ) -> np.ndarray:
        """Probability that a row which is no outlier would score as low.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            New rows: none of those of `fit`.
        X_fit : {array-like, sparse matrix} of shape (n_samples_fit, n_features), default=None
            The rows that were passed to `fit`, in their order, if new normal rows come from another
            distribution of the columns than these, while what is normal for given columns is the
            same (covariate shift). Calibration rows then count by how much more often rows like
            them are in X [1]_, which replaces the weights of `fit`.
        density_ratio : callable, default=None
            With `X_fit`: takes rows, and gives how much more often each is among new normal rows
            than among those of `fit`, (n_rows,), up to a factor. None estimates it from X and the
            calibration rows by an additive logistic regression; outliers in X bias it.

        Returns
        -------
        p_value : ndarray of shape (n_samples,)
            Without weights ``(1 + r) / (1 + n)``, where r of the n calibration rows have no higher
            score than the row. What it promises is in the notes of the class. With the true
            `density_ratio` the promise holds under covariate shift; with an estimated one as far as
            the estimate is right.

        Raises
        ------
        ValueError
            If there are no calibration rows. A model's scores of the rows that it was fitted to
            tell nothing certain of its scores of new ones.

        Warns
        -----
        UserWarning
            If the density ratio leaves few calibration rows that count.

        References
        ----------
        .. [1] Tibshirani, Barber, Candès & Ramdas, "Conformal prediction under covariate shift",
           NeurIPS (2019).
        """
        scores = self.score_samples(X)
        if self.calibration_scores_ is None:
            raise ValueError(
                "p_values needs the scores of rows that the model was not fitted to, and there "
                f"are none with calibration_fraction={self.calibration_fraction!r} and "
                f"contamination={self.contamination!r}; fit again with calibration_fraction=0.2 or "
                "another share."
            )
        if X_fit is None:
            if density_ratio is not None:
                raise ValueError("density_ratio needs X_fit, the rows that were passed to fit.")
            return conformal_p_values(scores, self.calibration_scores_, self._calibration_weights)
        of_calibration, own = self._density_ratios(X, X_fit, density_ratio)
        return conformal_p_values(scores, self.calibration_scores_, of_calibration, own)

    def check_exchangeability(self, X: Any, X_fit: Any) -> ExchangeabilityTest:
        """Test whether new rows could come from the distribution of the rows of `fit`.

        p-values, thresholds and `select` promise something for rows that could. A classifier learns
        from one half of the rows to tell X from the calibration rows, and is tested on the other
        half [1]_.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            New rows.
        X_fit : {array-like, sparse matrix} of shape (n_samples_fit, n_features)
            The rows that were passed to `fit`, in their order.

        Returns
        -------
        result : ExchangeabilityTest
            With ``area``, under the ROC curve, and ``p_value``. Many outliers in X make the
            p-value small as well.

        Warns
        -----
        UserWarning
            If the p-value is below 0.01.

        References
        ----------
        .. [1] Lopez-Paz & Oquab, "Revisiting classifier two-sample tests", ICLR (2017).
        """
        known, new = self._calibration_frame(X_fit), self._frame(X)
        for name, frame in (("X", new), ("the calibration rows", known)):
            if len(frame) < 4:
                raise ValueError(
                    f"check_exchangeability needs at least 4 rows in {name}, which has "
                    f"{len(frame)}."
                )
        result = exchangeability_test(known, new, self._seed)
        if result.p_value < IMPLAUSIBLE:
            warnings.warn(
                f"A classifier tells the rows of X from those of fit with an area under the curve "
                f"of {result.area:.2f} (p = {result.p_value:.2g}). p_values and select promise "
                "nothing for rows of another distribution: fit to rows like these, or correct for "
                "a shift of the columns by p_values(X, X_fit=...). Many outliers in X look the "
                "same to this test.",
                UserWarning,
                stacklevel=2,
            )
        return result

    def select(self, X: Any, fdr: float = 0.1) -> np.ndarray:
        """Select the rows to look at, with few false alarms among them.

        Benjamini & Hochberg's procedure for the `p_values` of all rows of X together [1]_. Among
        the rows that it selects, the share of normal ones is at most `fdr` on average.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            New rows, all that come into question: none of those of `fit`.
        fdr : float, default=0.1
            False discovery rate, between 0 and 1.

        Returns
        -------
        selected : ndarray of shape (n_samples,), bool
            True for the rows to look at. Equal rows are selected together. It may be none.

        Raises
        ------
        ValueError
            If there are no calibration rows, or `fdr` is not between 0 and 1.

        Warns
        -----
        UserWarning
            If rows score lower than all calibration rows and still none is selected, because the
            calibration rows are too few for so many rows.

        Notes
        -----
        The rate is an expectation over calibration rows and new rows, if the normal ones among them
        are exchangeable: it is the promise of p-values that is described in the notes of the class,
        for many rows at once. With ``cross_fit=True``, and with weights that differ between rows,
        it is no theorem.

        No p-value is smaller than 1 / (1 + n) with n calibration rows. To select k of m rows takes
        k p-values of at most ``fdr * k / m``, and hence ``n + 1 >= m / (fdr * k)``.

        References
        ----------
        .. [1] Benjamini & Hochberg, "Controlling the false discovery rate", Journal of the Royal
           Statistical Society B 57 (1995). Bates, Candès, Lei, Romano & Sesia, "Testing for
           outliers with conformal p-values", Annals of Statistics 51 (2023).
        """
        validate_parameter_constraints(
            {"fdr": [Interval(Real, 0, 1, closed="neither")]},
            {"fdr": fdr},
            caller_name=f"{type(self).__name__}.select",
        )
        p_values = self.p_values(X)
        selected = benjamini_hochberg(p_values, fdr)
        weights = self._calibration_weights
        smallest = weights.max() / (weights.max() + weights.sum())
        n_lowest = np.count_nonzero(p_values <= smallest * (1.0 + 1e-12))
        if n_lowest > 0 and not selected.any():
            warnings.warn(
                f"No row is selected, although {n_lowest} of {len(p_values)} rows score lower than "
                f"all {len(weights)} calibration rows. With so few of these, "
                f"fdr={fdr} takes at least {ceil(len(p_values) * smallest / fdr)} such rows; hold "
                "out more rows by calibration_fraction or cross_fit=True, or select among fewer.",
                UserWarning,
                stacklevel=2,
            )
        return selected

    def set_contamination(self, contamination: float | Literal["auto"]) -> Self:
        """Move the threshold of the fitted detector, without another fit.

        It is a share of the calibration rows, if there are any, and otherwise of the rows of `fit`.
        The default model stays what it was: with ``contamination="auto"`` in `fit` one for normal
        rows, and with a float one for rows among which are outliers.

        Parameters
        ----------
        contamination : "auto" or float
            New value of the parameter.

        Returns
        -------
        self : AutoencoderOutlierDetector
            The detector, with another `offset_` and this parameter.
        """
        check_is_fitted(self)
        with unchanged_on_failure(self):
            self.contamination = contamination
            self._check_parameters()
            self.offset_ = self._threshold()
        return self

    def explain(
        self, X: Any, expected: bool = False
    ) -> pd.DataFrame | tuple[pd.DataFrame, pd.DataFrame]:
        """Split the outlier score of each row into contributions of the columns.

        The contributions of a row sum to its outlier score, ``-score_samples(X)``. They pass
        through the steps of a Pipeline that keep the columns, such as scalers.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Data.
        expected : bool, default=False
            Whether to tell also what value the model expected in each cell.

        Returns
        -------
        contributions : DataFrame of shape (n_samples, n_features)
            With the columns of X, and its index if it has one. For autoencoders the share of each
            column in the error of its reconstruction, and for the default model its share in the
            distances of the row from what is expected, both of them exact. For `PCA`, also
            scikit-learn's, and `FactorAnalysis` the Shapley values of the Gaussian log-density
            against the mean [1]_, exact. For any other model, and behind a step that does not keep
            the columns, Shapley values estimated from 16 rows of `fit` [2]_; this takes the scores
            of about ``32 * n_features`` rows for each row, and is exact where no more than two
            columns interact. What belongs to no column, such as the logarithm of a normalizing
            constant, is spread evenly.
        expected_values : DataFrame of shape (n_samples, n_features)
            Only with ``expected=True``, in the units of X, and of tables in their values, such as
            towns and dates: the reconstruction by an autoencoder;
            for the default model the mean of the nearest other rows of `fit`; for `PCA` and
            `FactorAnalysis` the mean of the cell given all others of its row.

        Raises
        ------
        ValueError
            If ``expected=True`` and the model expects no values, or a step of the Pipeline has
            no ``inverse_transform``.

        References
        ----------
        .. [1] Mayrhofer & Filzmoser, "Multivariate outlier explanations using Shapley values and
           Mahalanobis distances", Econometrics and Statistics (2023).
        .. [2] Štrumbelj & Kononenko, "Explaining prediction models and individual predictions with
           feature contributions", Knowledge and Information Systems 41 (2014).
        """
        self.score_samples(X)  # raises what the estimator has against X
        X = widened(native_table(X))
        names = getattr(self, "feature_names_in_", None)
        frame = to_frame(X, names)
        transformers, model = pipeline_steps(self.estimator_)

        def described(values: np.ndarray) -> pd.DataFrame:
            return pd.DataFrame(numbers(values), index=frame.index, columns=frame.columns)

        contributions = None
        inner = X
        for transformer in transformers:
            inner = transformer.transform(inner)
        outer_names = column_names(frame.shape[1]) if names is None else names
        if names_of_inner(transformers, outer_names) is not None:
            contributions = exact_contributions(model, inner)
            if contributions is not None:
                contributions = by_outer_column(transformers, contributions)
        if contributions is None:
            contributions = self._sample_contributions(frame)
        if not expected:
            return described(contributions)
        values = expected_values(model, inner)
        for transformer in reversed(transformers):
            if not hasattr(transformer, "inverse_transform"):
                raise ValueError(
                    "expected=True needs inverse_transform of every step to come back to the units "
                    f"of X, and {type(transformer).__name__} has none; use expected=False."
                )
            values = transformer.inverse_transform(values)
        return described(contributions), in_frame(values, frame)

    def reasons(self, X: Any) -> pd.DataFrame:
        """Tell for each cell what it adds to the outlier score, and how unusual it is.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Data, of any kind that the estimator takes.

        Returns
        -------
        reasons : DataFrame of shape (n_samples * n_features, 3 or 4)
            By row and column of X: ``contribution`` to the outlier score, as in `explain`; the
            ``value`` of the cell; what the model ``expected`` there, if it expects values in the
            units of X; and ``as_far_out``, the share of rows of `fit` that lie as far out on the
            same side of the median, or that have the same value in a column without order. This
            share is taken from 1,000 rows of `fit` at most.

        Examples
        --------
        >>> from sklearn.datasets import load_wine
        >>> from skae import PCA, AutoencoderOutlierDetector
        >>> X, cultivar = load_wine(return_X_y=True, as_frame=True)
        >>> detector = AutoencoderOutlierDetector(PCA(3), random_state=0).fit(X[cultivar == 0])
        >>> reasons = detector.reasons(X[cultivar == 2])
        >>> list(reasons.columns)
        ['contribution', 'value', 'expected', 'as_far_out']
        """
        try:
            contributions, expected = self.explain(X, expected=True)
        except ValueError:
            contributions, expected = self.explain(X), None
        frame = self._frame(X)
        if expected is not None and expected.shape != frame.shape:
            expected = None
        known = pd.DataFrame(
            {place: pd.Series(values) for place, values in enumerate(self._sampled_columns)}
        )
        return cell_reasons(frame, contributions, expected, known)

    def report(self, X: Any, n_rows: int = 10, n_columns: int = 3) -> OutlierReport:
        """Report on a table: its strangest rows, and what is odd about the table as a whole.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            New rows, or those of `fit`.
        n_rows : int, default=10
            How many of the strangest rows to list.
        n_columns : int, default=3
            How many columns to blame in each of these.

        Returns
        -------
        report : OutlierReport
            With the DataFrames ``rows`` and ``findings`` and the method ``to_html``. The findings
            are the number of rows and of outliers among them, how many normal rows would be called
            outliers (the rate of false alarms), rows that occur twice, columns that are constant
            or nearly copies of each other, and whether the rows of `fit` look contaminated: whether
            more of their scores lie below the lower quartile by three times the distance between
            the quartiles than one in a hundred.

        Examples
        --------
        >>> from sklearn.datasets import load_wine
        >>> from skae import PCA, AutoencoderOutlierDetector
        >>> X, cultivar = load_wine(return_X_y=True, as_frame=True)
        >>> detector = AutoencoderOutlierDetector(PCA(3), random_state=0).fit(X[cultivar == 0])
        >>> report = detector.report(X, n_rows=5)
        >>> len(report.rows)
        5
        """
        for name, value in (("n_rows", n_rows), ("n_columns", n_columns)):
            validate_parameter_constraints(
                {name: [Interval(Integral, 1, None, closed="left")]},
                {name: value},
                caller_name=f"{type(self).__name__}.report",
            )
        scores = self.score_samples(X)
        frame = self._frame(X)
        strangest = np.argsort(scores, kind="stable")[:n_rows]
        reasons = self.reasons(_safe_indexing(native_table(X), strangest))
        lines = {"outlier score": -scores[strangest]}
        if self.calibration_scores_ is not None:
            lines["p-value"] = conformal_p_values(
                scores[strangest], self.calibration_scores_, self._calibration_weights
            )
        lines["outlier"] = scores[strangest] < self.offset_
        rows = pd.DataFrame(lines, index=frame.index[strangest])
        size = frame.shape[1]
        blamed = [
            reasons.iloc[place * size : (place + 1) * size].nlargest(n_columns, "contribution")
            for place in range(len(strangest))
        ]
        for number in range(min(n_columns, size)):
            rows[f"reason {number + 1}"] = [described_cell(cells.iloc[number]) for cells in blamed]
        return OutlierReport(rows, self._findings(frame, scores))

    def _findings(self, frame: pd.DataFrame, scores: np.ndarray) -> pd.DataFrame:
        n_outliers = int(np.count_nonzero(scores < self.offset_))
        findings: list[tuple[str, Any]] = [
            ("rows", len(frame)),
            ("rows called outliers", n_outliers),
        ]
        if self.calibration_scores_ is not None:
            n_below = int(np.count_nonzero(self.calibration_scores_ < self.offset_))
            share = (1 + n_below) / (1 + len(self.calibration_scores_))
            findings += [
                ("normal rows called outliers, at most on average", f"{share:.1%}"),
            ]
        lower, upper = np.quantile(self.training_scores_, [0.25, 0.75])
        far = float(np.mean(self.training_scores_ < lower - 3.0 * (upper - lower)))
        findings += [
            ("rows that occur twice", n_duplicates(frame)),
            ("constant columns", ", ".join(map(str, constant_columns(frame))) or "none"),
            (
                "columns that are nearly copies",
                "; ".join(f"{first} and {second}" for first, second in nearly_copies(frame))
                or "none",
            ),
            ("rows of fit with a score far below the others", f"{far:.1%}"),
            ("outliers among the rows of fit", "likely" if far > LIKELY_SHARE else "not seen"),
        ]
        return pd.DataFrame(findings, columns=["finding", "value"])

    def get_metadata_routing(self) -> MetadataRouter:
        """Tell scikit-learn who wants sample weights.

        Returns
        -------
        routing : MetadataRouter
            The detector itself and its estimator.
        """
        return (
            MetadataRouter(owner=self)
            .add_self_request(self)
            .add(
                estimator=self._unfitted(0),
                method_mapping=MethodMapping().add(caller="fit", callee="fit"),
            )
        )

    def __getstate__(self) -> dict[str, Any]:
        return with_versions(super().__getstate__())

    def __setstate__(self, state: dict[str, Any]) -> None:
        with reading(self, state) as state:
            check_shapes(state, {"training_scores_": ("n",), "_training_weights": ("n",)})
            if state.get("calibration_scores_") is not None:
                check_shapes(state, {"calibration_scores_": ("n",), "_calibration_weights": ("n",)})
            super().__setstate__(state)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        inner = get_tags(self._unfitted(0))
        tags.input_tags = inner.input_tags
        tags.non_deterministic = inner.non_deterministic
        return tags

    def _check_parameters(self) -> None:
        self._validate_params()
        if self.estimator is not None:
            for name, default in (("device", "auto"), ("verbose", False)):
                value = getattr(self, name)
                if value != default:
                    raise ValueError(
                        f"{name}={value!r} is a parameter of the default model and has no effect "
                        f"on estimator={self.estimator!r}; set it there, if that has it, and leave "
                        f"the detector's at {default!r}."
                    )
        fraction = self._calibration_fraction()
        if self.cross_fit and (fraction is None or fraction > 0.5):
            raise ValueError(
                f"cross_fit=True holds out every row once, which calibration_fraction={fraction} "
                "does not allow; use a share of at most 0.5, such as 0.2 for five folds."
            )

    def _fit(self, X: Any, weights: np.ndarray | None) -> None:
        n_rows = _num_samples(X)
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        self._warn_of_unused(weights)
        is_mixed = self.estimator is None and needs_encoding(X)
        folds = self._folds(n_rows, seed)
        whole = self.cross_fit or not folds
        context = self._init_callback_context(max_subtasks=len(folds) + whole)
        context.call_on_fit_task_begin(estimator=self, X=X)

        def fit_model(rows: np.ndarray | slice, task_name: str) -> Any:
            estimator, X_fit = self._unfitted(seed, is_mixed), _safe_indexing(X, rows)
            parameters = self._fit_parameters(estimator, None if weights is None else weights[rows])
            task = context.subcontext(task_name=task_name)
            with task.propagate_callback_context(estimator):
                task.call_on_fit_task_begin(estimator=self, X=X_fit)
                estimator.fit(X_fit, **parameters)
                _, model = pipeline_steps(estimator)
                if hasattr(model, "_become_density"):
                    model._become_density()
                task.call_on_fit_task_end(estimator=self, X=X_fit)
            return estimator

        models = [fit_model(kept, "fit without calibration rows") for kept, _ in folds]
        self.estimator_ = fit_model(slice(None), "fit to all rows") if whole else models[0]
        for name in ("n_features_in_", "feature_names_in_"):
            self.__dict__.pop(name, None)  # of an earlier fit
            if hasattr(self.estimator_, name):
                setattr(self, name, getattr(self.estimator_, name))

        self._training_weights = np.ones(n_rows) if weights is None else weights / weights.max()
        self.training_scores_ = score_rows(self.estimator_, X)
        self.calibration_scores_, self._calibration_weights = None, np.empty(0)
        self._calibration_rows = np.empty(0, dtype=np.int64)
        if folds:
            held_out = np.sort(np.concatenate([rows for _, rows in folds]))
            scores = self.training_scores_  # of the one model that was not fitted to some of them
            if self.cross_fit:
                scores = np.empty(n_rows)
                for model, (_, rows) in zip(models, folds, strict=True):
                    scores[rows] = score_rows(model, _safe_indexing(X, rows))
            self.calibration_scores_ = scores[held_out]
            self._calibration_rows = held_out
            held_out_weights = np.ones(n_rows)[held_out] if weights is None else weights[held_out]
            # They may be so much smaller than those of other rows that a share of these is zero.
            self._calibration_weights = held_out_weights / held_out_weights.max()
        self.offset_ = self._threshold()

        rng = np.random.default_rng(seed)
        shares = self._training_weights / self._training_weights.sum()
        chosen = rng.choice(n_rows, self._n_background_rows, p=shares)
        self._background = columns_of(_safe_indexing(X, chosen))
        sampled = rng.choice(n_rows, min(n_rows, N_SAMPLED), replace=False)
        self._sampled_columns = columns_of(_safe_indexing(X, np.sort(sampled)))
        self._seed = seed
        context.call_on_fit_task_end(estimator=self, X=X)

    def _frame(self, X: Any) -> pd.DataFrame:
        return to_frame(native_table(X), getattr(self, "feature_names_in_", None))

    def _calibration_frame(self, X_fit: Any) -> pd.DataFrame:
        """Calibration rows, out of the rows that were passed to `fit`."""
        check_is_fitted(self)
        if self.calibration_scores_ is None:
            raise ValueError(
                "There are no calibration rows with "
                f"calibration_fraction={self.calibration_fraction!r} and "
                f"contamination={self.contamination!r}; fit again with calibration_fraction=0.2."
            )
        frame = self._frame(X_fit)
        if len(frame) != self._n_rows_fit:
            raise ValueError(
                f"X_fit has {len(frame)} rows, and fit was passed {self._n_rows_fit}; pass the "
                "same rows in the same order."
            )
        return frame.iloc[self._calibration_rows]

    def _density_ratios(
        self, X: Any, X_fit: Any, density_ratio: Callable[[Any], ArrayLike] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """How much more often calibration rows and rows of X come than in `fit`."""
        known, new = self._calibration_frame(X_fit), self._frame(X)
        if density_ratio is None:
            of_known, of_new = density_ratios(known, new, self._seed)
        else:
            rows = _safe_indexing(native_table(X_fit), self._calibration_rows)
            of_known, of_new = (
                self._checked_ratio(density_ratio(table), len(frame))
                for table, frame in ((rows, known), (X, new))
            )
        n_effective = of_known.sum() ** 2 / np.square(of_known).sum()
        if n_effective < FEW_EFFECTIVE:
            warnings.warn(
                f"New rows are so unlike the {len(of_known)} calibration rows that these count as "
                f"{n_effective:.1f}. The p-values say little; fit to rows like the new ones.",
                UserWarning,
                stacklevel=3,
            )
        return of_known, of_new

    @staticmethod
    def _checked_ratio(ratio: ArrayLike, n_rows: int) -> np.ndarray:
        values = np.asarray(ratio, dtype=np.float64)
        if values.shape != (n_rows,) or not np.all(np.isfinite(values)) or np.any(values < 0.0):
            raise ValueError(
                f"density_ratio gave shape {values.shape} for {n_rows} rows, or values that are "
                "negative or not finite; it must give one number of at least 0 for each row."
            )
        if not values.any():
            raise ValueError("density_ratio gave 0 for all rows; it must be positive for some.")
        return values

    def _unfitted(self, seed: int, is_mixed: bool = False) -> Any:
        """Model to fit; the default one behind an encoder, for tables that are not of numbers."""
        if self.estimator is not None:
            return clone(self.estimator)
        model = DenoisingEnsemble(
            contaminated=self.contamination != "auto",
            device=self.device,
            random_state=seed,
            verbose=self.verbose,
        )
        if get_config()["enable_metadata_routing"]:
            model.set_fit_request(sample_weight=True)
        if not is_mixed:
            return model
        return make_pipeline(TableEncoder(), model)

    def _fit_parameters(self, estimator: Any, weights: np.ndarray | None) -> dict[str, Any]:
        if get_config()["enable_metadata_routing"]:
            return process_routing(self, "fit", sample_weight=weights)["estimator"]["fit"]
        return fit_parameters(estimator, weights)

    def _warn_of_unused(self, weights: np.ndarray | None) -> None:
        routed = get_config()["enable_metadata_routing"]  # then it is the user's decision
        if weights is not None and not routed and not fit_parameters(self._unfitted(0), weights):
            warnings.warn(
                f"{type(self.estimator).__name__} takes no sample_weight; the weights are used for "
                "threshold and p-values only.",
                UserWarning,
                stacklevel=5,
            )

    def _calibration_fraction(self) -> float | None:
        if self.calibration_fraction != "auto":
            return self.calibration_fraction
        if self.contamination == "auto" or self.cross_fit:
            return CALIBRATION_FRACTION
        return None

    def _folds(self, n_rows: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Rows to fit to and rows held out, of each model that calibrates."""
        fraction = self._calibration_fraction()
        if fraction is None:
            return []
        if self.cross_fit:
            n_folds = round(1.0 / fraction)
            n_held_out = n_rows // n_folds
            splitter = KFold(n_folds, shuffle=True, random_state=seed)
        else:
            n_held_out = round(fraction * n_rows)
            splitter = ShuffleSplit(1, test_size=n_held_out, random_state=seed)
        if not 0 < n_held_out < n_rows:
            what = "calibrate on" if n_held_out == 0 else "fit to"
            raise ValueError(
                f"calibration_fraction={fraction} of {n_rows} sample(s) leaves none to {what}; "
                "use another share, or None for no calibration."
            )
        return list(splitter.split(np.empty(n_rows)))

    def _threshold(self) -> float:
        share = FALSE_ALARM_RATE if self.contamination == "auto" else self.contamination
        if self.calibration_scores_ is None:
            scores = self.training_scores_
            threshold = contamination_threshold(scores, self._training_weights, share)
        else:
            scores = self.calibration_scores_
            threshold = conformal_threshold(scores, self._calibration_weights, share)
        if not np.isfinite(threshold.offset):
            raise ValueError(
                f"{type(pipeline_steps(self.estimator_)[1]).__name__} gives {len(scores)} rows "
                f"{np.count_nonzero(np.isinf(scores))} scores that are not finite, which leaves no "
                "threshold; look for huge cells and weights, or scale the columns."
            )
        if self.contamination != "auto" and threshold.misses(share):
            warnings.warn(
                f"contamination={share} would need a threshold amid {threshold.n_tied} row(s) that "
                f"cannot be told apart by their scores. They are called inliers, which leaves a "
                f"share of {threshold.share:.2g} as outliers.",
                UserWarning,
                stacklevel=5,
            )
        return threshold.offset

    def _sample_contributions(self, frame: pd.DataFrame) -> np.ndarray:
        names = getattr(self, "feature_names_in_", None)
        columns = [
            joined(values, frame.iloc[:, place]) for place, values in enumerate(self._background)
        ]

        def outlier_score(sources: np.ndarray) -> np.ndarray:
            mixed = {
                name: column.take(rows)
                for name, column, rows in zip(frame.columns, columns, sources.T, strict=True)
            }
            X = pd.DataFrame(mixed, copy=False)
            scores = self.score_samples(X.to_numpy() if names is None else X)
            return -np.maximum(scores, LOWEST_EXPLAINED)

        return sampled_shapley_values(
            outlier_score,
            n_rows=len(frame),
            n_features=frame.shape[1],
            n_background=len(self._background[0]),
            rng=np.random.default_rng(self._seed),
            max_cells=self._max_cells,
        )
