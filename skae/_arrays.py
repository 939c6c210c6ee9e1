"""Arrays of other libraries in, and the same kind out, under scikit-learn's `array_api_dispatch`.

All computation is NumPy's and Torch's. A public method that is given rows of another library sees
them as a NumPy array, which shares their memory where it is the host's, or as a `DeviceArray`; and
an estimator whose fitted arrays are NumPy's. What it returns, and what a fit leaves, goes back to
where the rows were. This file is the only one that knows of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from inspect import isfunction, signature
from typing import Any, NamedTuple
from warnings import warn

import numpy as np
import torch
from sklearn import get_config
from sklearn.base import BaseEstimator, clone
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from skae._blocks import is_dask
from skae._device_array import DeviceArray, on_host
from skae._lazy import lazily
from skae._rollback import unchanged_on_failure
from skae._sklearn_compat import (
    _convert_to_numpy,
    _estimator_with_converted_arrays,
    _is_fitted,
    _is_numpy_namespace,
    check_same_namespace,
    get_array_namespace,
    get_namespace_and_device,
)
from skae._validation import NotNumbersError, array_of_tensor, check_plain_tensor

# Public methods that change the estimator, and those that do not.
FITS = ("fit", "fit_predict", "fit_transform")
CHANGES = (*FITS, "partial_fit", "set_contamination")
READS = (
    *("transform", "inverse_transform", "reconstruct", "impute", "expected", "posterior", "sample"),
    *("score", "score_samples", "reconstruction_error", "contributions", "get_covariance"),
    *("get_precision", "decision_function", "predict", "p_values", "select", "explain"),
)
# Those that map rows independently of each other, to one result.
READS_OF_ROWS = (
    *("transform", "inverse_transform", "reconstruct", "impute", "expected", "score_samples"),
    *("reconstruction_error", "contributions", "decision_function", "predict", "p_values"),
)
# Libraries that a file may name.
LIBRARIES = ("torch", "cupy", "dpnp", "array_api_strict")
# Devices of DLPack whose memory is the host's, and those whose memory Torch can share.
HOST_MEMORY = (1,)
SHARED_WITH_TORCH = (2, 10, 13, 14)
NUMPY = np.empty(0)


class Place(NamedTuple):
    """Where arrays are."""

    xp: Any
    """Namespace of the array API."""
    device: Any

    def take(self, array: np.ndarray | DeviceArray) -> Any:
        """Put an array there, without a copy if it is the memory of the host."""
        if isinstance(array, DeviceArray):
            if isinstance(self.device, torch.device):
                return array.tensor
            return self.xp.from_dlpack(array.tensor)
        if not array.flags.writeable or min(array.strides, default=0) < 0:
            array = array.copy()  # which other libraries do not take
        if array.dtype == np.float64 and getattr(self.device, "type", None) == "mps":
            array = array.astype(np.float32)
        return self.xp.asarray(array, device=self.device)


class ArrayApiMixin:
    """Takes and gives arrays of any library under ``set_config(array_api_dispatch=True)``."""

    _array_like: Any = NUMPY
    """An empty array that is where the fitted arrays are. The instance has one of its own if they
    are not NumPy's."""

    _takes_device_arrays: bool = True
    """Whether tables on an accelerator are computed with where they are."""

    def __init_subclass__(cls, **options: Any) -> None:
        # As scikit-learn wraps `transform` for `set_output`.
        super().__init_subclass__(**options)
        for name in CHANGES + READS:
            method = cls.__dict__.get(name)
            if isfunction(method):
                setattr(cls, name, dispatched(method))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.array_api_support = True
        return tags

    def __sklearn_array_api_convert__(self, converter: Callable[[Any], Any]) -> Any:
        """Give a copy for other arrays; `move_estimator_to` of scikit-learn asks for it."""
        moved = clone(self)
        vars(moved).update(converted(vars(self), converter))
        return moved


def dispatched(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let a public method take arrays of any library."""

    @wraps(method)
    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        X = arguments[0] if arguments else named.get("X")
        if type(X) is np.ndarray and "_array_like" not in self.__dict__:
            return method(self, *arguments, **named)
        if is_dask(X) and method.__name__ in READS_OF_ROWS:
            rest = {name: value for name, value in named.items() if name != "X"}
            return lazily(self, method.__name__, X, arguments[1:], rest)
        return call_with_arrays(method, self, X, arguments, named)

    return call


def call_with_arrays(
    method: Callable[..., Any], self: Any, X: Any, arguments: tuple, named: dict[str, Any]
) -> Any:
    """Call a method with arrays of NumPy or `DeviceArray`; give back what X is."""
    name = method.__name__
    dispatching = get_config()["array_api_dispatch"]
    takes_rows = list(signature(method).parameters)[1:2] == ["X"]
    place = place_of(X if takes_rows else self._array_like) if dispatching else None
    if place is None and "_array_like" not in vars(self):
        return method(self, *arguments, **named)
    if dispatching and takes_rows and name not in FITS:
        if name in READS:
            check_is_fitted(self)
        if _is_fitted(self):
            check_same_namespace(X, self, attribute="_array_like", method=name)
    if place is not None:
        arguments, named = arguments_inside(method, arguments, named, self._takes_device_arrays)
    if name in READS:
        reader = with_numpy_arrays(self) if "_array_like" in vars(self) else self
        return given_back(method(reader, *arguments, **named), place)
    with unchanged_on_failure(self):
        replace_attributes(self, converted(vars(self), to_numpy))
        results = method(self, *arguments, **named)
        if place is not None:
            replace_attributes(self, converted(vars(self), place.take))
    return given_back(results, place)


def place_of(X: Any) -> Place | None:
    """Say where an array is; None of NumPy's, and of what is no array."""
    try:
        xp, is_array, device = get_namespace_and_device(X)
    except TypeError:
        return None
    return Place(xp, device) if is_array and not _is_numpy_namespace(xp) else None


def arguments_inside(
    method: Callable[..., Any], arguments: tuple, named: dict[str, Any], on_device: bool
) -> tuple[tuple, dict[str, Any]]:
    """Turn the arrays among the arguments into what computation takes."""
    names = list(signature(method).parameters)[1:]

    def inside(name: str, value: Any) -> Any:
        # Nobody reads y, which may be large and on a device.
        if name == "y" or place_of(value) is None:
            return value
        array = array_inside(value, name)
        return array if on_device else on_host(array)

    given = [inside(name, value) for name, value in zip(names, arguments, strict=False)]
    return (
        (*given, *arguments[len(given) :]),
        {name: inside(name, value) for name, value in named.items()},
    )


def array_inside(array: Any, name: str) -> np.ndarray | DeviceArray:
    """View an array as NumPy's, or a table in the memory of a device as a `DeviceArray`."""
    if isinstance(array, torch.Tensor):
        check_plain_tensor(array, name)
        if array.ndim != 2 or not DeviceArray.is_for(array):
            return array_of_tensor(array.cpu(), name)
        return device_array(array, name)
    if not hasattr(array, "__dlpack_device__"):
        raise NotNumbersError(
            f"{name} is an array of {type(array).__module__.partition('.')[0]}, which does not "
            "share its memory with other libraries by DLPack; pass an array of NumPy, or set "
            "sklearn.set_config(array_api_dispatch=False) if numpy.asarray takes it."
        )
    if array.__dlpack_device__()[0] in SHARED_WITH_TORCH and array.ndim == 2:
        return device_array(torch.from_dlpack(array), name)
    return to_numpy(array)


def device_array(tensor: torch.Tensor, name: str) -> DeviceArray:
    """Wrap a table of numbers; what is not float32 or float64 becomes float64, as in NumPy."""
    if tensor.is_complex():
        raise NotNumbersError(
            f"{name} holds complex numbers. Complex data not supported; pass real and imaginary "
            "parts as two columns."
        )
    if tensor.dtype not in (torch.float32, torch.float64):
        if tensor.device.type == "mps":
            raise NotNumbersError(
                f"{name} is {tensor.dtype} on the device {str(tensor.device)!r}, which has no "
                f"float64; pass {name}.float()."
            )
        tensor = tensor.to(torch.float64)
    return DeviceArray(tensor)


def to_numpy(array: Any) -> np.ndarray:
    """Turn an array of any library into NumPy's, without a copy if it is in host memory."""
    if isinstance(array, np.ndarray):
        return array
    if isinstance(array, torch.Tensor):
        return array.detach().cpu().numpy()
    try:
        return np.from_dlpack(array, device="cpu")
    except (AttributeError, TypeError, NotImplementedError, BufferError, ValueError):
        return _convert_to_numpy(array, get_array_namespace(array))


def given_back(results: Any, place: Place | None) -> Any:
    """Put what a method returns where the rows were."""
    if isinstance(results, tuple):
        return tuple(given_back(result, place) for result in results)
    if place is None or not isinstance(results, np.ndarray | DeviceArray):
        return results
    return place.take(results)


# Fitted arrays


def is_numeric_array(value: Any) -> bool:
    """Whether a value is an array of numbers, of any library."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf"
    return isinstance(value, torch.Tensor) or (
        hasattr(value, "__dlpack__") and not isinstance(value, type)
    )


def converted(attributes: dict[str, Any], convert: Callable[[Any], Any]) -> dict[str, Any]:
    """Convert the fitted arrays among the attributes of an estimator, and those of fitted parts.

    What is kept in dictionaries for another fit stays NumPy's, and so does the module, whose
    weights no one takes for arrays.
    """
    results = {}
    for name, value in {"_array_like": NUMPY, **attributes}.items():
        if is_numeric_array(value) and (name.endswith("_") or name.startswith("_")):
            value = convert(value)
        elif name.endswith("_") and hasattr(value, "get_params"):
            value = _estimator_with_converted_arrays(value, convert)
        results[name] = value
    if isinstance(results["_array_like"], np.ndarray):
        del results["_array_like"]
    return results


def replace_attributes(estimator: BaseEstimator, attributes: dict[str, Any]) -> None:
    """Give an estimator these attributes and no others."""
    vars(estimator).clear()
    vars(estimator).update(attributes)


def with_numpy_arrays(estimator: Any) -> Any:
    """Give the same estimator, parameters and module included, with arrays of NumPy."""
    twin = object.__new__(type(estimator))
    vars(twin).update(converted(vars(estimator), to_numpy))
    return twin


# Files


def state_for_file(state: dict[str, Any]) -> dict[str, Any]:
    """Put NumPy's arrays into what ``__getstate__`` returns, and say where they were."""
    like = state.get("_array_like")
    if like is None:
        return state
    library = get_array_namespace(like).__name__.rpartition(".")[2]
    return {**converted(state, to_numpy), "_array_like": (library, str(like.device))}


def put_back(estimator: BaseEstimator) -> None:
    """Put the arrays of an estimator from a file where they were when it was saved."""
    saved = vars(estimator).pop("_array_like", None)
    if saved is None:
        return
    library, device = map(str, saved)
    place = find_place(library, device) if library in LIBRARIES else None
    if place is not None:
        replace_attributes(estimator, converted(vars(estimator), place.take))
        return
    warn(
        f"The arrays of this {type(estimator).__name__} were of {library} on the device "
        f"{device!r}, which is not here. They are NumPy's now; move_estimator_to of "
        "sklearn.utils._array_api puts them elsewhere.",
        UserWarning,
        stacklevel=5,
    )


def find_place(library: str, device: str) -> Place | None:
    """Find a device of a library by its name; None if either is missing."""
    try:
        module = import_module(library)
        xp = get_array_namespace(module.asarray(NUMPY))
        if library == "torch":
            return Place(xp, torch.empty(0, device=device).device)
        devices = module.__array_namespace_info__().devices()
        (there,) = [candidate for candidate in devices if str(candidate) == device]
    except (ImportError, AttributeError, RuntimeError, ValueError, AssertionError):
        return None
    return Place(xp, there)
