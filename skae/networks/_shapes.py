"""Checks that the networks of images and sequences share."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from numbers import Integral
from typing import Any

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
