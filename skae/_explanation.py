"""Which columns make the score of a row what it is, for models that do not say so themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import issparse
from sklearn.pipeline import Pipeline

from skae._sklearn_compat import _get_feature_names
from skae._validation import within_range


def gaussian_contributions(deviation: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Shapley values of half the squared Mahalanobis distance of each row, (n, n_features).

    A cell that is not in the coalition is at its mean. Two features share what they have in common
    equally, which leaves the product of the deviation and its weighted sum.

    References
    ----------
    Mayrhofer & Filzmoser, "Multivariate outlier explanations using Shapley values and Mahalanobis
    distances", Econometrics and Statistics (2023).
    """
    return 0.5 * deviation * (deviation @ precision)


def gaussian_score_contributions(
    X: np.ndarray, mean: np.ndarray, precision: np.ndarray, log_density: np.ndarray
) -> np.ndarray:
    """Shapley values of minus the log-density of each row, (n, n_features).

    The logarithm of the normalizing constant belongs to no feature and is spread evenly. Of a row
    so far away that its log-density is the lowest number there is, that number is split. The result
    has the dtype of the log-density.
    """
    largest = float(np.finfo(log_density.dtype).max)
    score = -log_density.astype(np.float64)[:, np.newaxis]
    half_deviation, exponents = in_own_unit(X, mean)
    quarters = gaussian_contributions(half_deviation, precision)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        contributions = 4.0 * np.ldexp(quarters, 2 * exponents)
        contributions += (score - contributions.sum(axis=1, keepdims=True)) / X.shape[1]
        split = score * (quarters / quarters.sum(axis=1, keepdims=True))
    contributions = np.where(score < largest, contributions, split)
    return np.clip(np.nan_to_num(contributions), -largest, largest).astype(log_density.dtype)


def conditional_means(X: np.ndarray, mean: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Mean of each cell of a normal distribution given all other cells of its row."""
    half_deviation, exponents = in_own_unit(X, mean)
    half_difference = half_deviation @ precision / np.diag(precision)
    with np.errstate(over="ignore", invalid="ignore"):
        return X - 2.0 * np.ldexp(half_difference, exponents)


def in_own_unit(X: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Half of the deviations of each row over a power of two, so that sums of them are numbers.

    Returns
    -------
    half_deviation : ndarray of shape (n_samples, n_features), float64
        The largest of a row is between 1/2 and 1.
    exponents : ndarray of shape (n_samples, 1)
        What the powers are.
    """
    half_deviation = X.astype(np.float64) / 2.0 - mean.astype(np.float64) / 2.0
    _, exponents = np.frexp(np.abs(half_deviation).max(axis=1, keepdims=True))
    return np.ldexp(half_deviation, -exponents), exponents


def sampled_shapley_values(
    outlier_score: Callable[[np.ndarray], np.ndarray],
    n_rows: int,
    n_features: int,
    n_background: int,
    rng: np.random.Generator,
    max_cells: int,
) -> np.ndarray:
    """Contributions of features to any score, which sum to it exactly, (n_rows, n_features).

    Cell after cell, in random order, a background row is turned into the row; what a cell adds to
    the score then is its contribution, on average over background rows and orders. Each order is
    used in reverse, too, which makes interactions of two features exact. The score of the
    background rows belongs to no feature and is spread evenly.

    Parameters
    ----------
    outlier_score : callable
        Takes (m, n_features) numbers, each saying which row its cell is of: the background rows
        come first, then the rows to be explained; gives (m,) scores.
    n_rows, n_features, n_background : int
        Sizes.
    rng : numpy.random.Generator
        Draws the orders.
    max_cells : int
        Cells of the table that is scored at once, if that is more than those of one row.

    References
    ----------
    Štrumbelj & Kononenko, "Explaining prediction models and individual predictions with feature
    contributions", Knowledge and Information Systems 41 (2014).

    Mitchell, Cooper, Frank & Holmes, "Sampling permutations for Shapley value estimation", Journal
    of Machine Learning Research 23 (2022). The reversed orders.
    """
    contributions = np.zeros((n_rows, n_features))
    orders = [rng.permutation(n_features) for _ in range(n_background)]
    size = max(1, max_cells // ((n_features + 1) * n_features))
    for start in range(0, n_rows, size):
        rows = np.arange(start, min(start + size, n_rows))
        for background, order in enumerate(orders):
            for features in (order, order[::-1]):
                place = np.argsort(features)
                turned = place < np.arange(n_features + 1)[:, np.newaxis]  # (steps, n_features)
                sources = np.where(
                    turned[:, np.newaxis], n_background + rows[:, np.newaxis], background
                )  # (steps, rows, n_features)
                scores = outlier_score(sources.reshape(-1, n_features)).reshape(-1, len(rows))
                gains = np.diff(scores, axis=0)  # (n_features, rows), in this order
                contributions[rows] += gains[place].T + scores[0][:, np.newaxis] / n_features
    return contributions / (2 * n_background)


def is_gaussian(model: Any) -> bool:
    """Whether the score is the log-density of a normal distribution, as scikit-learn names it.

    Its `PCA` and `FactorAnalysis` are such models.
    """
    return all(hasattr(model, name) for name in ("mean_", "get_precision", "score_samples"))


def exact_contributions(model: Any, X: Any) -> np.ndarray | None:
    """Contributions of the model's features to its outlier score, if it is a sum by itself."""
    if hasattr(model, "contributions"):
        return model.contributions(X)
    if is_gaussian(model):
        return gaussian_score_contributions(
            numbers(X), model.mean_, model.get_precision(), model.score_samples(X)
        )
    return None


def expected_values(model: Any, X: Any) -> np.ndarray:
    """Give what the model expects in each cell, in the units of its own input."""
    for name in ("expected", "reconstruct"):
        if hasattr(model, name):
            return getattr(model, name)(X)
    if is_gaussian(model):
        return conditional_means(numbers(X), model.mean_, model.get_precision())
    raise ValueError(
        f"expected=True needs a model that tells what it expects: an autoencoder, PCA, or one with "
        f"a method 'expected' or 'reconstruct'. {type(model).__name__} does not; use "
        "expected=False."
    )


def pipeline_steps(estimator: Any) -> tuple[list[Any], Any]:
    """Fitted transformers and the model at the end of a Pipeline, also of nested ones."""
    transformers: list[Any] = []
    while isinstance(estimator, Pipeline):
        *steps, estimator = (step for _, step in estimator.steps)
        transformers += [step for step in steps if step is not None and step != "passthrough"]
    return transformers, estimator


def keep_columns(transformers: list[Any], names: np.ndarray) -> bool:
    """Whether each column is still there after the steps, in the same place."""
    for transformer in transformers:
        try:
            if list(transformer.get_feature_names_out(names)) != list(names):
                return False
        except (AttributeError, ValueError):
            return False
    return True


def names_of_inner(transformers: list[Any], names: np.ndarray) -> np.ndarray | None:
    """Names of the columns behind steps that keep them or tell which ones they were.

    A step with ``sum_by_column``, such as `TableEncoder`, may make several columns of one. None if
    a step does neither.
    """
    inner = names
    for transformer in transformers:
        if hasattr(transformer, "sum_by_column"):
            inner = transformer.get_feature_names_out(inner)
        elif not keep_columns([transformer], inner):
            return None
    return inner


def by_outer_column(transformers: list[Any], contributions: np.ndarray) -> np.ndarray:
    """Contributions of the columns of a table from those of the columns behind the steps."""
    for transformer in reversed(transformers):
        if hasattr(transformer, "sum_by_column"):
            contributions = transformer.sum_by_column(contributions)
    return contributions


def in_frame(values: Any, frame: pd.DataFrame) -> pd.DataFrame:
    """Put expected values of any kind into a table.

    A model of tables gives them in its own types, without the columns that it left out.
    """
    if hasattr(values, "to_pandas"):
        values = values.to_pandas()
    if isinstance(values, pd.DataFrame) and set(values.columns) <= set(frame.columns):
        return values.set_axis(frame.index, axis=0).reindex(columns=frame.columns)
    return pd.DataFrame(within_range(numbers(values)), index=frame.index, columns=frame.columns)


def to_frame(X: Any, names: np.ndarray | None) -> pd.DataFrame:
    """Table of any kind as a DataFrame, with the types of its columns."""
    if isinstance(X, pd.DataFrame):
        return X
    own_names = _get_feature_names(X)
    if own_names is not None:
        return pd.DataFrame({name: np.asarray(X[name]) for name in own_names})
    X = dense(X)
    return pd.DataFrame(X, columns=column_names(X.shape[1]) if names is None else names)


def columns_of(X: Any) -> np.ndarray | list[np.ndarray]:
    """Columns of a table of any kind as arrays, which any reader of files can load."""
    frame = to_frame(X, None)
    dtypes = set(frame.dtypes)
    if len(dtypes) == 1 and isinstance(dtype := dtypes.pop(), np.dtype) and dtype.kind in "fiub":
        return np.ascontiguousarray(frame.to_numpy().T)  # (n_features, n_rows)
    return [plain(frame.iloc[:, place]) for place in range(frame.shape[1])]


def plain(column: pd.Series) -> np.ndarray:
    """Array with the values of a column of any type; None or NaN where one is missing."""
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        column = column.dt.tz_localize(None)
    if isinstance(column.dtype, np.dtype) and column.dtype.kind != "O":
        return column.to_numpy()
    if pd.api.types.is_numeric_dtype(column.dtype):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    return column.astype(object).where(column.notna(), None).to_numpy()


def joined(values: np.ndarray, column: pd.Series) -> Any:
    """Values of `plain` followed by those of a column, in its type if that holds all of them."""
    first = pd.Series(values)
    if not isinstance(column.dtype, np.dtype):
        try:
            typed = pd.Series(values, dtype=column.dtype)
        except (TypeError, ValueError):
            typed = first
        if typed.isna().equals(first.isna()):  # a category that is not there gets lost
            first = typed
    return pd.concat([first, column], ignore_index=True).array


def dense(X: Any) -> np.ndarray:
    """Table of any kind as an array."""
    return X.toarray() if issparse(X) else np.asarray(X)


def numbers(X: Any) -> np.ndarray:
    """Table of numbers of any kind, such as a DataFrame of nullable types, as an array of them."""
    X = dense(X)
    return X if X.dtype.kind == "f" else X.astype(np.float64)


def column_names(n_features: int) -> np.ndarray:
    """scikit-learn's names for columns that have none."""
    return np.array([f"x{number}" for number in range(n_features)], dtype=object)
