"""Checks of tables, weights and parameters, with errors that name what is wrong."""

from __future__ import annotations

from inspect import signature
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from skae._device import FLOATS, resolve_device
from skae._losses import LOSSES, check_support
from skae._sklearn_compat import _check_sample_weight, _get_feature_names

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


def validate_training_data(
    estimator: Any,
    X: Any,
    X_clean: Any,
    sample_weight: Any,
    *,
    reset: bool,
    min_rows: int,
    suffix: str = "",
) -> tuple[Any, Any, np.ndarray | None]:
    """Check what an autoencoder is trained on: rows, clean rows if there are any, and weights.

    Parameters
    ----------
    estimator : BaseAutoencoder
    X, X_clean, sample_weight : array-like or None
        What `fit` was given.
    reset : bool
        Whether these rows say what the columns are, or an earlier fit has.
    min_rows : int
        Rows of positive weight that are needed.
    suffix : str
        What follows the names of the tables in errors.

    Returns
    -------
    X, X_clean : ndarray or sparse matrix of float32 or float64
    sample_weight : ndarray of float64 or None
    """
    X = validate_table(
        estimator, X, accept_sparse="csr", dtype=FLOATS, reset=reset, ensure_min_samples=min_rows
    )
    names = getattr(estimator, "feature_names_in_", None)
    if X_clean is None:
        check_support(X, estimator.loss, names, table=f"X{suffix}")
    else:
        X_clean = validate_clean_rows(estimator, X_clean, X, names, suffix)
    if sample_weight is None:
        return X, X_clean, None
    weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    n_rows = np.count_nonzero(weights)
    if n_rows < min_rows:
        raise ValueError(
            f"sample_weight{suffix} leaves {n_rows} row of positive weight; at least {min_rows} "
            "are needed."
        )
    return X, X_clean, weights


def validate_clean_rows(estimator: Any, X_clean: Any, X: Any, names: Any, suffix: str) -> Any:
    """Check that row i of X_clean can be what row i of X is to become."""
    name = f"X_clean{suffix}"
    clean_names = _get_feature_names(X_clean)
    X_clean = check_array(
        X_clean, accept_sparse="csr", dtype=FLOATS, input_name=name, estimator=estimator
    )
    if X_clean.shape != X.shape:
        raise ValueError(
            f"{name} has shape {X_clean.shape} and X{suffix} has shape {X.shape}; row i of {name} "
            f"is what row i of X{suffix} is to become."
        )
    if names is not None and clean_names is not None and list(clean_names) != list(names):
        raise ValueError(
            f"{name} has columns {list(clean_names)} and X{suffix} has columns {list(names)}; give "
            "both the same columns in the same order."
        )
    check_support(X_clean, estimator.loss, names, table=name)
    return X_clean


def check_autoencoder(estimator: Any) -> None:
    """Raise a ValueError for parameters of an autoencoder that do not go together."""
    if isinstance(estimator.n_components, bool):
        raise ValueError(
            f"n_components={estimator.n_components} is a bool; use a number of components, or a "
            "share of variance between 0 and 1."
        )
    loss = LOSSES[estimator.loss]
    if loss.on_logits and estimator.output_activation not in ("auto", loss.output_activation):
        raise ValueError(
            f"output_activation={estimator.output_activation!r} does not go with loss="
            f"{estimator.loss!r}, which needs {loss.output_activation!r}; use "
            "output_activation='auto'."
        )
    if estimator.network is not None:
        check_network_alone(estimator)
    elif estimator.init == "pca":
        check_anchor(estimator)
    resolve_device(estimator.device, large=False)  # a wrong name is known before any work


def check_network_alone(estimator: Any) -> None:
    """With an architecture of its own, parameters of the dense network have no meaning."""
    defaults = signature(type(estimator)).parameters
    names = ("hidden_layer_sizes", "activation", "dropout", "tied_weights", "use_bias")
    for name in (*names, "pretrain_iter"):
        if name not in defaults:
            continue
        value = getattr(estimator, name)
        if not np.array_equal(value, defaults[name].default):
            raise ValueError(
                f"{name}={value!r} is a parameter of the dense network and has no effect on "
                f"network={estimator.network!r}; set it on the network, if that has it, and leave "
                f"the estimator's at {defaults[name].default!r}."
            )


def check_anchor(estimator: Any) -> None:
    """Raise a ValueError where a network cannot start at PCA."""
    output_activation = resolve_output_activation(estimator)
    if output_activation not in ("identity", "logistic", "exponential"):
        raise ValueError(
            f"init='pca' starts at a linear reconstruction, which output_activation="
            f"{output_activation!r} cannot give; use init='random'."
        )
    if output_activation != "identity" and estimator.tied_weights:
        raise ValueError(
            "tied_weights=True with init='pca' needs the output activation 'identity', not "
            f"{output_activation!r}, where the decoder's slope is not the encoder's; use "
            "init='random'."
        )
    if estimator.pretrain_iter > 0:
        raise ValueError(
            f"pretrain_iter={estimator.pretrain_iter} finds initial weights, and so does "
            "init='pca'; use init='random' or pretrain_iter=0."
        )


def resolve_output_activation(estimator: Any) -> str:
    """Give the activation of the reconstruction that "auto" stands for."""
    if estimator.output_activation == "auto":
        return LOSSES[estimator.loss].output_activation
    return estimator.output_activation
