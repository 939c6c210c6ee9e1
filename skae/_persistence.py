"""What files of estimators carry beside their attributes: versions; and errors in words."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import Any
from warnings import warn

import numpy as np
import sklearn
from sklearn.base import BaseEstimator
from sklearn.exceptions import InconsistentVersionWarning
from torch import nn

from skae._arrays import put_back, state_for_file
from skae._device import CPU, to_tensor
from skae._torch_compat import TORCH_VERSION

# Results of another Torch differ by rounding only, for files hold arrays: it is told, and no
# reason for a warning.
BINDING = ("skae", "scikit-learn")


class OtherVersionWarning(InconsistentVersionWarning):
    """An estimator was saved by other versions than those that load it.

    Parameters
    ----------
    estimator_name : str
    saved, current : dict of str to str
        Versions by package.
    """

    def __init__(
        self, estimator_name: str, saved: Mapping[str, str], current: Mapping[str, str]
    ) -> None:
        super().__init__(
            estimator_name=estimator_name,
            current_sklearn_version=current["scikit-learn"],
            original_sklearn_version=saved.get("scikit-learn", "unknown"),
        )
        self.saved, self.current = dict(saved), dict(current)

    def __str__(self) -> str:
        return (
            f"{self.estimator_name} was saved by {described(self.saved)}, and this is "
            f"{described(self.current)}. Results may be wrong. Compare them with those of the "
            "saved model, fit again, or install the versions that saved it."
        )


def current_versions() -> dict[str, str]:
    """Versions of the packages that decide what a file means."""
    return {
        "skae": sys.modules["skae"].__version__,
        "scikit-learn": sklearn.__version__,
        "PyTorch": TORCH_VERSION,
    }


def described(versions: Mapping[str, str]) -> str:
    """Name versions in a sentence."""
    if "skae" not in versions:
        return "an unknown version of skae"
    others = ", ".join(f"{name} {number}" for name, number in versions.items() if name != "skae")
    return f"skae {versions['skae']} ({others})"


def with_versions(state: Mapping[str, Any]) -> dict[str, Any]:
    """Add to what ``__getstate__`` returns which versions saved it."""
    return {**state_for_file(dict(state)), "_versions": current_versions()}


@contextmanager
def reading(estimator: BaseEstimator, state: Any) -> Iterator[dict[str, Any]]:
    """Check what ``__setstate__`` is given, and say in words what is wrong with it.

    Parameters
    ----------
    estimator : estimator
        The one to be restored.
    state : dict
        What `with_versions` gave.

    Yields
    ------
    dict
        The attributes, without the versions. What the block raises is reported as a fault of the
        file.

    Warns
    -----
    OtherVersionWarning
        If another version of skae or scikit-learn saved the file.

    Raises
    ------
    ValueError
        If the file cannot be read, with the reason, the versions that saved it and what to do.
    """
    name = type(estimator).__name__
    state = dict(state) if isinstance(state, Mapping) else {}
    saved, current = state.pop("_versions", None), current_versions()
    saved = saved if isinstance(saved, Mapping) else {}
    is_other = any(saved.get(package) != current[package] for package in BINDING)
    if is_other:
        warn(OtherVersionWarning(name, saved, current), stacklevel=3)
    try:
        add_parameters(estimator, state, may_lack_some=is_other)
        yield state
        put_back(estimator)
    except Exception as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}, {error}"
        remedy = "The file is damaged or was changed: take another copy, or fit again."
        if is_other:
            install = f" (pip install skae=={saved['skae']})" if "skae" in saved else ""
            remedy = (
                f"It was saved by {described(saved)}, and this is {described(current)}: install "
                f"the versions that saved it{install}, or fit again."
            )
        raise ValueError(f"This file of {name} cannot be read: {reason}. {remedy}") from error


def add_parameters(estimator: BaseEstimator, state: dict[str, Any], *, may_lack_some: bool) -> None:
    """Give parameters that the version of a file did not have yet their defaults."""
    for name, parameter in signature(type(estimator)).parameters.items():
        if name in state:
            continue
        if not may_lack_some:
            raise ValueError(f"the parameter {name} is missing")
        state[name] = parameter.default


def check_shapes(state: Mapping[str, Any], shapes: Mapping[str, tuple[str, ...]]) -> None:
    """Raise a ValueError for arrays of a fitted estimator that are missing or do not fit.

    Parameters
    ----------
    state : dict
        Attributes.
    shapes : dict of str to tuple of str
        Arrays that a fitted estimator has, and the names of their sizes, which are attributes or
        the same in all of them.
    """
    if not state.keys() & shapes.keys():
        return  # not fitted
    sizes = dict(state)
    for name, axes in shapes.items():
        array = state.get(name)
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
            raise ValueError(f"{name} is no array of numbers")
        fits = array.ndim == len(axes) and all(
            sizes.setdefault(axis, size) == size
            for axis, size in zip(axes, array.shape, strict=True)
        )
        if not fits:
            raise ValueError(f"{name} has shape {array.shape} instead of ({', '.join(axes)})")


def load_weights(module: nn.Module, weights: Any) -> nn.Module:
    """Put arrays in the place of the weights of a module, and set it to evaluation mode.

    Parameters
    ----------
    module : nn.Module
        On the device "meta", so that no memory was taken for its weights.
    weights : dict of str to ndarray
        All weights of the module, and no others.

    Returns
    -------
    nn.Module
        The module.

    Raises
    ------
    ValueError
        If names, shapes or dtypes are not those of the module.
    """
    wanted, parameters = module.state_dict(), dict(module.named_parameters())
    if not isinstance(weights, Mapping) or weights.keys() != wanted.keys():
        found = set(weights) if isinstance(weights, Mapping) else set()
        raise ValueError(
            f"weights are missing ({len(wanted.keys() - found)}) or belong to another network "
            f"({len(found - wanted.keys())})"
        )
    tensors = {}
    for name, tensor in wanted.items():
        array = weights[name]
        if not isinstance(array, np.ndarray) or array.shape != tuple(tensor.shape):
            raise ValueError(
                f"the weights {name} have shape {np.shape(array)} instead of {tuple(tensor.shape)}"
            )
        tensors[name] = to_tensor(array, CPU)
        # Constants may be more precise than what is trained.
        is_exact = name not in parameters and tensors[name].is_floating_point()
        if tensors[name].dtype != tensor.dtype and not (is_exact and tensor.is_floating_point()):
            raise ValueError(f"the weights {name} are {array.dtype} instead of {tensor.dtype}")
    module.load_state_dict(tensors, assign=True)
    return module.eval()
