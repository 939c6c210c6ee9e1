"""Tables that hold more than numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

MAX_NAMED = 5


def columns_without_numbers(X: Any) -> list[Any]:
    """Names of the columns of a DataFrame that hold something else, such as text and dates."""
    names = []
    for name in getattr(X, "columns", ()):
        column = np.asarray(X[name])
        try:
            column.astype(np.float64)
        except (TypeError, ValueError):
            names.append(name)
        else:
            if column.dtype.kind in "mM":  # alone they would be counts of nanoseconds
                names.append(name)
    return names


def validate_table(estimator: BaseEstimator, X: ArrayLike, **options: Any) -> Any:
    """Check X as `validate_data` of scikit-learn does, and name the columns without numbers."""
    try:
        return validate_data(estimator, X, **options)
    except (TypeError, ValueError) as error:
        # Names are compared before anything is converted, and that error says more.
        names = [] if "feature names" in str(error).lower() else columns_without_numbers(X)
        if not names:
            raise
        listed = ", ".join(map(repr, names[:MAX_NAMED])) + ", ..." * (len(names) > MAX_NAMED)
        raise ValueError(
            f"{type(estimator).__name__} takes numbers, and these columns of X hold something "
            f"else: {listed}. Drop them, or encode them first, for example by OneHotEncoder in a "
            "ColumnTransformer."
        ) from error


def check_finite(X: Any, owner: str, labels: Any = None) -> None:
    """Raise a ValueError that names the columns with cells that are NaN or infinite.

    Parameters
    ----------
    X : ndarray or sparse matrix of shape (n_samples, n_features)
    owner : str
        Name of the class, for the message.
    labels : sequence, default=None
        Names of the columns; None counts them.
    """
    cells = X.tocoo() if sparse.issparse(X) else None
    for is_bad, what in (
        (np.isnan, "NaN"),
        (np.isinf, f"infinity or a value too large for {X.dtype!r}"),
    ):
        if cells is None:
            columns = np.nonzero(is_bad(X).any(axis=0))[0]
        else:
            columns = np.unique(cells.col[is_bad(cells.data)])
        if len(columns):
            names = [repr(int(column) if labels is None else labels[column]) for column in columns]
            listed = ", ".join(map(str, names[:MAX_NAMED])) + ", ..." * (len(names) > MAX_NAMED)
            raise ValueError(
                f"Input X contains {what}, in column {listed}. {owner} takes finite numbers: drop "
                "these rows or columns, or fill the cells first, for example by SimpleImputer."
            )
