"""Methods of estimators that are applied to the chunks of a Dask collection, later."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from skae._blocks import check_columns, is_frame, one_chunk_of_columns


def lazily(estimator: Any, method: str, X: Any, arguments: tuple, named: dict[str, Any]) -> Any:
    """Apply a method that maps rows independently of each other to a Dask collection, later.

    Parameters
    ----------
    estimator : estimator
        Fitted.
    method : str
    X : dask collection
    arguments, named
        What else the method takes. Nothing of it has a value for each row.

    Returns
    -------
    dask collection
        An array with the chunks of the rows, or a DataFrame or Series with the index of X, the
        names of the columns that the method gives, and its dtype.
    """
    check_columns(X)
    X = one_chunk_of_columns(X)
    reader = copy.copy(estimator)
    reader.__dict__.pop("_skl_callbacks", None)
    apply = partial(apply_to_part, reader, method, arguments, named)
    if is_frame(X):
        meta = as_frame(reader, method, apply(X._meta_nonempty), X._meta_nonempty.index)
        return X.map_partitions(partial(apply_to_frame, apply, reader, method), meta=meta.iloc[:0])
    dtype = X.dtype if X.dtype.kind in "biuf" else np.dtype(np.float64)
    example = apply(np.zeros((1, X.shape[1]), dtype))
    chunks = (X.chunks[0], *((size,) for size in example.shape[1:]))
    drop = [] if example.ndim == 2 else [1]
    return X.map_blocks(apply, dtype=example.dtype, chunks=chunks, drop_axis=drop, meta=example[:0])


def apply_to_part(
    estimator: Any, method: str, arguments: tuple, named: dict[str, Any], part: Any
) -> Any:
    """Apply a method to a chunk, which may have no rows."""
    part = part.toarray() if hasattr(part, "toarray") else part
    if len(part) > 0:
        return np.asarray(getattr(estimator, method)(part, *arguments, **named))
    example: Any = np.zeros((1, part.shape[1]))
    if isinstance(part, pd.DataFrame):
        example = pd.DataFrame(example, columns=part.columns).astype(part.dtypes)
    elif part.dtype.kind in "biuf":
        example = example.astype(part.dtype)
    return np.asarray(getattr(estimator, method)(example, *arguments, **named))[:0]


def apply_to_frame(apply: Callable[[Any], Any], estimator: Any, method: str, part: Any) -> Any:
    """Apply a method to a partition, and keep its index."""
    return as_frame(estimator, method, apply(part), part.index)


def as_frame(estimator: Any, method: str, results: np.ndarray, index: Any) -> Any:
    """Give results the index of their rows, and columns their names."""
    if results.ndim == 1:
        return pd.Series(results, index=index, name=method)
    names: Any = None
    if method == "transform":
        names = estimator.get_feature_names_out()
    elif results.shape[1] == estimator.n_features_in_:
        names = getattr(estimator, "feature_names_in_", None)
    if names is None:
        names = [f"x{place}" for place in range(results.shape[1])]
    return pd.DataFrame(results, index=index, columns=names)
