"""Rows that a model gives back, in the container that `set_output` asks for."""

from __future__ import annotations

from typing import Any

from sklearn.base import BaseEstimator

from skae._device_array import on_host
from skae._sklearn_compat import (
    _auto_wrap_is_configured,
    _check_feature_names_in,
    _get_container_adapter,
)


def in_output_container(estimator: BaseEstimator, rows: Any, given: Any) -> Any:
    """Give rows the names of the features and an index, if the output is to be a DataFrame.

    scikit-learn does so for `transform` alone. What is asked for is the same here: the container of
    ``set_output(transform=...)``, or else that of the global option ``transform_output``.

    Parameters
    ----------
    estimator : estimator
        Fitted. The columns are its ``feature_names_in_``, or else "x0", "x1" and so on.
    rows : ndarray of shape (n_samples, n_features_in_)
    given : table of any kind
        What the rows were made of. If it is a DataFrame of pandas, so that it has an index, a
        DataFrame of pandas gets the same.

    Returns
    -------
    ndarray or DataFrame
    """
    adapter = _get_container_adapter("transform", estimator)
    if adapter is None or not _auto_wrap_is_configured(estimator):
        return rows
    return adapter.create_container(
        on_host(rows), given, columns=_check_feature_names_in(estimator)
    )
