"""Checks of an autoencoder: its parameters together, and the tables that it is trained on."""

from __future__ import annotations

from inspect import signature
from numbers import Integral, Real
from typing import Any
from warnings import warn

import numpy as np
from torch import nn

from skae._block_losses import blocks_of, loss_of, named_loss
from skae._device import FLOATS, resolve_device
from skae._losses import LOSSES, SMALL_VARIANCE, VARIANCE_FLOOR, check_support
from skae._rows import INFERENCE_BATCH_SIZE, Rows
from skae._sklearn_compat import Interval, RealNotInt, StrOptions, _get_feature_names
from skae._solvers import SOLVERS
from skae._training import LEARNING_RATES
from skae._validation import (
    check_float32_cells,
    name_of,
    read_table,
    validate_table,
    validate_weights,
)
from skae.networks._dense import ACTIVATIONS, OUTPUT_ACTIVATIONS

# What each parameter of an autoencoder may be, for scikit-learn's validation.
PARAMETER_CONSTRAINTS: dict[str, list] = {
    "n_components": [
        Interval(Integral, 1, None, closed="left"),
        Interval(RealNotInt, 0, 1, closed="neither"),
    ],
    "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
    "activation": [StrOptions(set(ACTIVATIONS))],
    "network": [callable, None],
    "init": [StrOptions({"pca", "random"})],
    "tied_weights": ["boolean"],
    "use_bias": ["boolean"],
    "loss": [StrOptions(set(LOSSES)), list, tuple],
    "output_activation": [StrOptions({"auto", *OUTPUT_ACTIVATIONS})],
    "dropout": [Interval(Real, 0, 1, closed="left")],
    "alpha": [Interval(Real, 0, None, closed="left")],
    "sparsity": [Interval(Real, 0, None, closed="left")],
    "contraction": [Interval(Real, 0, None, closed="left")],
    "pretrain_iter": [Interval(Integral, 0, None, closed="left")],
    "solver": [StrOptions(set(SOLVERS))],
    "learning_rate": [StrOptions(set(LEARNING_RATES))],
    "learning_rate_init": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
    "batch_size": [Interval(Integral, 1, None, closed="left")],
    "max_iter": [Interval(Integral, 1, None, closed="left")],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
    "tol": [Interval(Real, 0, None, closed="left")],
    "shuffle": ["boolean"],
    "warm_start": ["boolean"],
    "precision": [StrOptions({"float32", "bf16"})],
    "device": [str],
    "random_state": ["random_state"],
    "verbose": ["verbose"],
}


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
        NaN is an unknown cell.
    sample_weight : ndarray of float64 or None
    """
    X = validate_table(
        estimator,
        X,
        accept_sparse="csr",
        dtype=FLOATS,
        ensure_all_finite="allow-nan",
        ensure_min_samples=min_rows,
        reset=reset,
    )
    names = getattr(estimator, "feature_names_in_", None)
    check_width_of_loss(estimator.loss, X.shape[1])
    check_float32_cells(X, name_of(estimator), names, f"X{suffix}")
    if X_clean is None:
        check_support(X, named_loss(estimator.loss), names, table=f"X{suffix}")
    else:
        X_clean = validate_clean_rows(estimator, X_clean, X, names, suffix)
    if sample_weight is None:
        return X, X_clean, None
    weights = np.empty(0)
    if X.shape[0] > 0 or not hasattr(sample_weight, "__len__") or len(sample_weight) > 0:
        weights = validate_weights(sample_weight, X)
    n_rows = np.count_nonzero(weights)
    if n_rows < min_rows:
        raise ValueError(
            f"sample_weight{suffix} leaves {n_rows} row of positive weight; at least {min_rows} "
            "are needed."
        )
    return X, X_clean, weights


def validate_validation_data(
    estimator: Any,
    paired: bool,
    X_val: Any,
    sample_weight_val: Any = None,
    X_clean_val: Any = None,
) -> tuple[Any, Any, np.ndarray | None] | None:
    """Check rows for early stopping; None if there are none.

    Parameters
    ----------
    estimator : BaseAutoencoder
        It knows its columns already.
    paired : bool
        Whether there are clean rows to train on.
    X_val, sample_weight_val, X_clean_val : array-like or None
        What `fit` was given.

    Returns
    -------
    tuple or None
        As `validate_training_data`.
    """
    if X_val is None:
        others = {"sample_weight_val": sample_weight_val, "X_clean_val": X_clean_val}
        for name, given in others.items():
            if given is not None:
                raise ValueError(f"{name} belongs to X_val, which is not given; pass both.")
        return None
    if not estimator.early_stopping:
        raise ValueError(
            "X_val has no effect with early_stopping=False; use early_stopping=True or leave X_val "
            "out."
        )
    if paired != (X_clean_val is not None):
        there, missing = ("X_clean", "X_clean_val") if paired else ("X_clean_val", "X_clean")
        raise ValueError(
            f"{there} is given and {missing} is not, so that rows trained on and rows for early "
            "stopping would be compared with different things; pass both or none."
        )
    return validate_training_data(
        estimator, X_val, X_clean_val, sample_weight_val, reset=False, min_rows=1, suffix="_val"
    )


def warn_of_small_columns(estimator: Any, rows: Rows) -> None:
    """Warn if the floor of a learned variance is not far below the variance of most columns.

    Constant columns are no matter. The first rows speak for all.
    """
    first = rows.batch(slice(0, INFERENCE_BATCH_SIZE)).restored
    variances = first.double().var(dim=0, correction=0).cpu().numpy()
    typical = np.median(variances[variances > 0.0]) if variances.any() else 1.0
    if typical < SMALL_VARIANCE:
        warn(
            f"A column of X has a typical standard deviation of {typical**0.5:.2g}, and the "
            f"learned variance of the noise is at least {VARIANCE_FLOOR:g} in squared units of X: "
            f"{type(estimator).__name__} takes such columns for noise. Scale them, for example "
            "with StandardScaler.",
            UserWarning,
            stacklevel=7,
        )


def validate_clean_rows(estimator: Any, X_clean: Any, X: Any, names: Any, suffix: str) -> Any:
    """Check that row i of X_clean can be what row i of X is to become."""
    name = f"X_clean{suffix}"
    clean_names = _get_feature_names(X_clean)
    X_clean = read_table(
        X_clean, estimator, table=name, accept_sparse="csr", ensure_all_finite="allow-nan"
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
    check_float32_cells(X_clean, name_of(estimator), names, name)
    check_support(X_clean, named_loss(estimator.loss), names, table=name)
    return X_clean


def check_autoencoder(estimator: Any) -> None:
    """Raise a ValueError for parameters of an autoencoder that do not go together."""
    if isinstance(estimator.n_components, bool):
        raise ValueError(
            f"n_components={estimator.n_components} is a bool; use a number of components, or a "
            "share of variance between 0 and 1."
        )
    loss = loss_of(estimator.loss)
    if loss.on_logits and estimator.output_activation not in ("auto", loss.output_activation):
        raise ValueError(
            f"output_activation={estimator.output_activation!r} does not go with loss="
            f"{estimator.loss!r}, which needs {loss.output_activation!r}; use "
            "output_activation='auto'."
        )
    in_float32 = ("alpha", "sparsity", "contraction", "learning_rate_init", "beta")
    for name in (*in_float32, "noise_variance"):
        check_float32(name, getattr(estimator, name, 0.0))
    if estimator.network is not None:
        check_network_alone(estimator)
    elif estimator.init == "pca":
        check_anchor(estimator)
    resolve_device(estimator.device, large=False)  # a wrong name is known before any work


def check_width_of_loss(loss: Any, n_features: int) -> None:
    """Raise a ValueError if the blocks of a loss are not those of a table of this width."""
    if isinstance(loss, str):
        return
    n_there = sum(block.n_features for block in blocks_of(loss))
    if n_there != n_features:
        raise ValueError(
            f"The blocks of loss have {n_there} features together, but X has {n_features}; give "
            "each column of X to one block, in their order."
        )


def check_float32(name: str, value: Any) -> None:
    """Raise a ValueError for a number that training, in float32, cannot compute with."""
    largest = float(np.finfo(np.float32).max)
    if not isinstance(value, str) and float(value) > largest:
        raise ValueError(
            f"{name}={value!r} is larger than {largest:.2g}, the largest number of float32, in "
            "which training computes; use a smaller one."
        )


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
    if output_activation not in ("identity", "logistic", "exponential", "by_block"):
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
        return loss_of(estimator.loss).output_activation
    return estimator.output_activation


def continue_weights(estimator: Any, module: nn.Module, n_components: int) -> None:
    """Give a new module the weights of the fitted one."""
    try:
        module.load_state_dict(estimator.module_.state_dict())
    except RuntimeError as error:
        names = ("hidden_layer_sizes", "network", "init", "tied_weights", "use_bias")
        parameters = ", ".join(f"{name}={getattr(estimator, name)!r}" for name in names)
        raise ValueError(
            "The fitted weights cannot be continued, because the network has another shape now: "
            f"{estimator.n_features_in_} features, n_components={n_components}, {parameters}. Set "
            "back what has changed, or start anew with a clone of the estimator or with "
            "warm_start=False."
        ) from error
