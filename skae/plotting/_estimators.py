"""What a display asks of a fitted estimator, through pipelines and searches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skae._sklearn_compat import _safe_indexing


def parts_of(estimator: Any) -> Iterator[Any]:
    """Yield the estimator and then those that it holds.

    Searches hold their best estimator, detectors the one that they wrap, and a pipeline its steps,
    of which the last comes first.
    """
    yield estimator
    if isinstance(estimator, Pipeline):
        inner = [step for _, step in reversed(estimator.steps)]
    else:
        names = ("best_estimator_", "estimator_")
        inner = [getattr(estimator, name) for name in names if hasattr(estimator, name)]
    for part in inner:
        yield from parts_of(part)


def part_with(estimator: Any, attribute: str) -> Any | None:
    """Find the first part of an estimator that has an attribute."""
    return next((part for part in parts_of(estimator) if hasattr(part, attribute)), None)


def encoder_of(estimator: Any) -> Any:
    """Find what encodes and decodes rows: a pipeline without its classifier, say.

    Scalers in front of an autoencoder stay, so that what is decoded has the units of the data.
    """
    check_is_fitted(estimator)
    encoder = _encoder_of(estimator)
    if encoder is None or not hasattr(encoder, "inverse_transform"):
        raise ValueError(
            f"{type(estimator).__name__} has no code to show; pass a fitted estimator that has "
            "transform and inverse_transform, or a pipeline or search that contains one."
        )
    return encoder


def _encoder_of(estimator: Any) -> Any | None:
    if hasattr(estimator, "best_estimator_"):
        return _encoder_of(estimator.best_estimator_)
    if hasattr(estimator, "transform"):
        return estimator
    if isinstance(estimator, Pipeline):
        *steps, (name, last) = estimator.steps
        encoder = _encoder_of(last)
        if encoder is not None:
            steps.append((name, encoder))
        return Pipeline(steps) if steps else None
    return _encoder_of(estimator.estimator_) if hasattr(estimator, "estimator_") else None


def encode(encoder: Any, X: Any) -> np.ndarray:
    """Codes of rows as an array, whatever container `set_output` asks for."""
    return as_array(encoder.transform(X))


def decode(encoder: Any, codes: np.ndarray) -> np.ndarray:
    """Rows of codes as an array."""
    return as_array(encoder.inverse_transform(codes))


def sample(encoder: Any, n_samples: int, random_state: Any) -> np.ndarray:
    """Draw rows from a generative model and lead them back through the steps before it."""
    if isinstance(encoder, Pipeline):
        rows = sample(encoder[-1], n_samples, random_state)
        return decode(encoder[:-1], rows) if len(encoder) > 1 else rows
    if not hasattr(encoder, "sample"):
        raise ValueError(
            f"n_samples={n_samples} asks for new rows, and {type(encoder).__name__} has no method "
            "sample; use n_samples=0 or a generative model such as VAETransformer."
        )
    return as_array(encoder.sample(n_samples, random_state=random_state))


def first_rows(X: Any, n_rows: int) -> Any:
    """Take rows from the top, in the container they came in."""
    return _safe_indexing(X, slice(0, n_rows))


def as_array(X: Any) -> np.ndarray:
    """Make a table a dense array."""
    return X.toarray() if issparse(X) else np.asarray(X)


def image_shape_of(encoder: Any) -> tuple[int, ...] | None:
    """Find the shape of the images that the network of an estimator is made for."""
    network = getattr(part_with(encoder, "network"), "network", None)
    shape = getattr(network, "image_shape", None)
    return None if shape is None else tuple(shape)


def row_names_of(X: Any, n_rows: int) -> list[Any]:
    """Labels of rows: the index of a pandas DataFrame, otherwise their numbers."""
    index = getattr(X, "index", None)
    return list(range(n_rows)) if index is None or callable(index) else list(index[:n_rows])
