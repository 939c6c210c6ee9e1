"""Checks of the networks of images and sequences, and of those that users write."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from numbers import Integral
from typing import Any

import torch
from torch import nn

SEQUENCE_AXES = {2: "(time steps, channels)"}


def positive_integers(name: str, value: Any) -> tuple[int, ...]:
    """Check the parameter `name`, one integer of at least 1 or a sequence, and return a tuple."""
    sizes = (value,) if isinstance(value, Integral) else tuple(value)
    if not all(isinstance(size, Integral) and int(size) >= 1 for size in sizes):
        raise ValueError(f"{name}={value!r} must hold integers of at least 1.")
    return tuple(int(size) for size in sizes)


def row_shape(
    name: str, shape: Sequence[int], axes: dict[int, str], n_features: int
) -> tuple[int, ...]:
    """Check that rows of `n_features` columns have the shape of a parameter, and return it.

    Parameters
    ----------
    name, shape : str, sequence of int
        The parameter and its value.
    axes : dict of int to str
        Number of axes that the shape may have -> their names.
    n_features : int
        Number of columns of the rows.

    Returns
    -------
    tuple of int
        The shape, with the product `n_features`.
    """
    sizes = positive_integers(name, shape)
    if len(sizes) not in axes:
        raise ValueError(f"{name}={shape!r} must be {' or '.join(axes.values())}.")
    if prod(sizes) != n_features:
        raise ValueError(
            f"X has {n_features} columns, but {name}={shape!r} describes rows of "
            f"{' x '.join(map(str, sizes))} = {prod(sizes)} columns."
        )
    return sizes


def check_modules(modules: Any, n_features: int, n_components: int, network: Any) -> None:
    """Raise a ValueError if what an architecture returned is not an encoder and its decoder."""
    if not (
        isinstance(modules, tuple)
        and len(modules) == 2
        and all(isinstance(module, nn.Module) for module in modules)
    ):
        raise ValueError(
            f"network={network!r} must return two torch.nn.Module, encoder and decoder; it "
            f"returned {modules!r}."
        )
    x = torch.zeros(2, n_features)
    with torch.no_grad():
        for role, module, width in zip(
            ("encoder", "decoder"), modules, (n_components, n_features), strict=True
        ):
            wanted = f"({len(x)}, {x.shape[1]}) to ({len(x)}, {width})"
            try:
                y = module.eval()(x)  # leaves running statistics alone
            except RuntimeError as error:
                raise ValueError(
                    f"The {role} of network={network!r} must map {wanted}, and fails: {error}"
                ) from error
            if y.shape != (len(x), width):
                raise ValueError(
                    f"The {role} of network={network!r} must map {wanted}; it gives "
                    f"{tuple(y.shape)}."
                )
            x = y
