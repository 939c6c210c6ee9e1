"""The only home of private or version-dependent scikit-learn imports."""

from sklearn.utils._param_validation import Interval, RealNotInt, StrOptions
from sklearn.utils.validation import _check_sample_weight, _get_feature_names

__all__ = ["Interval", "RealNotInt", "StrOptions", "_check_sample_weight", "_get_feature_names"]
