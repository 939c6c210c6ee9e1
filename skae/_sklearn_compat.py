"""The only home of private or version-dependent scikit-learn imports."""

from typing import Any

from sklearn.utils import _safe_indexing
from sklearn.utils._array_api import (
    _convert_to_numpy,
    _estimator_with_converted_arrays,
    _is_numpy_namespace,
    array_api_compat,
    check_same_namespace,
    get_namespace_and_device,
)
from sklearn.utils._openmp_helpers import _openmp_effective_n_threads
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    RealNotInt,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils._plotting import _validate_style_kwargs
from sklearn.utils._set_output import _auto_wrap_is_configured, _get_container_adapter
from sklearn.utils.parallel import _get_threadpool_controller
from sklearn.utils.validation import (
    _check_feature_names,
    _check_feature_names_in,
    _check_sample_weight,
    _get_feature_names,
    _is_fitted,
    _num_samples,
)

get_array_namespace = array_api_compat.get_namespace

__all__ = [
    "HasMethods",
    "Interval",
    "RealNotInt",
    "StrOptions",
    "_auto_wrap_is_configured",
    "_check_feature_names",
    "_check_feature_names_in",
    "_check_sample_weight",
    "_convert_to_numpy",
    "_estimator_with_converted_arrays",
    "_get_container_adapter",
    "_get_feature_names",
    "_get_threadpool_controller",
    "_is_fitted",
    "_is_numpy_namespace",
    "_num_samples",
    "_openmp_effective_n_threads",
    "_safe_indexing",
    "_validate_style_kwargs",
    "callbacks_of",
    "check_matplotlib_support",
    "check_same_namespace",
    "get_array_namespace",
    "get_namespace_and_device",
    "validate_parameter_constraints",
]


def callbacks_of(estimator: Any) -> list[Any]:
    """Give the callbacks of an estimator, with those that were handed on to it."""
    return list(getattr(estimator, "_skl_callbacks", []))
