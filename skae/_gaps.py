"""GapFiller: a step that fills unknown cells, before models that take none."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from skae._completion import Completion
from skae._decomposition import linear_code
from skae._validation import unknown_cells, validate_weights

NO_BOUNDS = (-np.inf, np.inf)


class GapFiller(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Fill unknown cells with what the most likely Gaussian expects given the others of the row.

    A filled cell is where it is expected, and is hardly evidence of anything.
    """

    def fit(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the Gaussian to rows with or without unknown cells."""
        rows = self._validate(X, reset=True)
        weights = None if sample_weight is None else validate_weights(sample_weight, rows)
        if np.isnan(rows).all(axis=0).any():
            rows = np.where(np.isnan(rows).all(axis=0), 0.0, rows)  # such columns say nothing
        if unknown_cells(rows, type(self).__name__) is None:
            n_components = min(rows.shape)
            shares = None if weights is None else weights / weights.mean()
            completion = Completion.of_code(linear_code(rows, shares, n_components), NO_BOUNDS)
        else:
            completion = Completion.of_gaps(rows, weights, NO_BOUNDS, None, type(self).__name__)
        self._completion = completion.to_arrays()
        return self

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Fill the unknown cells."""
        check_is_fitted(self)
        rows = self._validate(X, reset=False)
        if not np.isnan(rows).any():
            return rows
        return Completion.from_arrays(self._completion).fill(rows)

    def inverse_transform(self, X: ArrayLike) -> ArrayLike:
        """Leave rows as they are: what was unknown is expected to be what it was filled with."""
        return X

    def _validate(self, X: ArrayLike, reset: bool) -> np.ndarray:
        return validate_data(self, X, reset=reset, dtype=np.float64, ensure_all_finite="allow-nan")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags
