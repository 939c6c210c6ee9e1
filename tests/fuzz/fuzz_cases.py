"""Random cases: an estimator, tables, and calls in random order; `run_case` checks each of them."""

import pickle
import re
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from fuzz_estimators import ESTIMATORS, OTHERS, make_estimator, parameters_of
from fuzz_rules import Fault, call, check_numbers
from fuzz_tables import (
    WEIGHT_KINDS,
    TableCase,
    make_table,
    make_weights,
    numbers_of,
    table_cases,
)
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone

METHODS = {
    "autoencoder": (
        "transform",
        "inverse_transform",
        "reconstruct",
        "impute",
        "reconstruction_error",
        "reconstruction_error by cell",
        "score_samples",
        "score",
        "expected",
        "contributions",
        "fit_transform",
    ),
    "PCA": (
        "transform",
        "inverse_transform",
        "score_samples",
        "score",
        "expected",
        "contributions",
        "fit_transform",
        "get_covariance",
        "get_precision",
    ),
    "detector": (
        "predict",
        "decision_function",
        "score_samples",
        "p_values",
        "select",
        "explain",
        "explain expected",
        "set_contamination",
        "fit_predict",
    ),
    "TableEncoder": ("transform", "inverse_transform", "fit_transform"),
}
COMMON = ("pickle", "clone", "fit", "repr", "set_output")
MORE = {"VAE": ("posterior", "sample", "sample with noise")}

ROWS = ("same", "same", "new", "new", "far", "near zero", "one row", "wide", "bad", "empty")


@dataclass(frozen=True)
class Call:
    """A call of a method, with rows like those of `fit` or others."""

    method: str
    rows: str
    container: str
    weights: str | None
    seed: int


@dataclass(frozen=True)
class Case:
    """What is done; all of it follows from these fields."""

    estimator: str
    parameters: tuple[tuple[str, object], ...]
    table: TableCase
    weights: str | None
    paired: str
    validated: bool
    partial: bool
    calls: tuple[Call, ...]


@st.composite
def cases(draw, estimators=tuple(ESTIMATORS)):
    """Strategy for cases."""
    name = draw(st.sampled_from(estimators))
    kind = name if name in METHODS else "autoencoder"
    small = {"max_rows": 12, "max_columns": 4} if name == "detector" and draw(st.booleans()) else {}
    table = draw(table_cases(**small))
    if name == "TableEncoder":
        containers = (table.container, "mixed", "mixed polars", "mixed pyarrow")
        table = replace(table, container=draw(st.sampled_from(containers)))
    parameters = draw(parameters_of(name))
    losses = {value for key, value in parameters if key == "loss"}
    if losses & {"bernoulli", "poisson"} and draw(st.sampled_from((True, True, True, False))):
        kinds = ("uniform", "binary") if "bernoulli" in losses else ("counts", "rare")
        columns = tuple(kinds[len(column) % 2] for column in table.columns)
        table = replace(table, columns=columns, exponents=(0,) * len(columns), offset=0.0)
    if any(value in ("conv", "recurrent") for key, value in parameters if key == "network"):
        table = replace(table, columns=(*table.columns, *table.columns, *table.columns, "normal"))
        table = replace(table, columns=table.columns[:4], exponents=(*table.exponents, 0, 0, 0)[:4])
        table = replace(table, columns=(table.columns * 4)[:4])
    calls = draw(
        st.lists(
            st.builds(
                Call,
                st.sampled_from((*METHODS[kind], *COMMON, *MORE.get(name, ()))),
                st.sampled_from(ROWS),
                st.sampled_from((table.container,) * 4 + ("array", "pandas", "csr", "polars")),
                WEIGHT_KINDS,
                st.integers(0, 2**16),
            ),
            min_size=1,
            max_size=6,
        )
    )
    return Case(
        name,
        parameters,
        table,
        draw(WEIGHT_KINDS),
        draw(st.sampled_from(("",) * 6 + ("same", "new", "narrow"))),
        draw(st.sampled_from((False,) * 4 + (True,))),
        draw(st.sampled_from((False,) * 3 + (True,))),
        tuple(calls),
    )


def table_of_call(case, what):
    """The rows of a call."""
    table = replace(case.table, container=what.container, bad_cell="")
    n_columns = len(table.columns)
    if what.rows == "same":
        return case.table if case.table.container == what.container else table
    table = replace(table, seed=what.seed)
    if what.rows == "far":
        return replace(table, exponents=(300,) * n_columns)
    if what.rows == "near zero":
        return replace(table, exponents=(-300,) * n_columns)
    if what.rows == "one row":
        return replace(table, n_rows=1)
    if what.rows == "wide":
        return replace(table, columns=(*table.columns, "normal"), exponents=(*table.exponents, 0))
    if what.rows == "bad":
        return replace(table, bad_cell=("nan", "inf", "text", "None")[what.seed % 4])
    return replace(table, n_rows=0 if what.rows == "empty" else 1 + what.seed % 40)


def result_dtype(X):
    """float32 for tables of it, else float64."""
    if isinstance(X, pd.DataFrame):
        types = {str(dtype).lower() for dtype in X.dtypes}
        singles = {"float32", "sparse[float32, 0]", "sparse[float32, 0.0]"}
        return np.float32 if types and types <= singles else np.float64
    if hasattr(X, "schema"):
        types = X.schema.types if hasattr(X.schema, "types") else X.schema.dtypes()
        return (
            np.float32 if {str(dtype).lower() for dtype in types} <= {"float32", "float"} else float
        )
    return np.float32 if str(getattr(X, "dtype", "")).endswith("float32") else np.float64


def draws_of_numpy(estimator):
    """Whether a call may draw from NumPy's generator."""
    return any(
        value is None
        for name, value in estimator.get_params().items()
        if name.split("__")[-1] == "random_state"
    )


def name_of(case):
    """Name of the estimator in kinds of faults."""
    others = dict(case.parameters).get("estimator") in OTHERS
    return case.estimator + " of others" * others


def attributes_of(estimator):
    """What a failed call must leave as it was: the same objects."""
    return lambda: {name: id(value) for name, value in vars(estimator).items()}


def run_case(case):
    """Do what the case says and raise `Fault` if anything is not as it must be.

    Returns
    -------
    int
        Number of calls.
    """
    estimator = make_estimator(case.estimator, case.parameters)
    is_fitted = fit(case, estimator)
    for what in case.calls:
        CALLS.get(what.method, apply)(case, estimator, what, is_fitted)
        is_fitted = is_fitted or hasattr(estimator, "n_features_in_")
    return 1 + len(case.calls)


def fit(case, estimator, what=None, is_fitted=False):
    """Fit, or pass once over rows, with weights, clean rows and rows for early stopping."""
    table = case.table if what is None else table_of_call(case, what)
    weights = make_weights(case.weights if what is None else what.weights, table.n_rows, table.seed)
    X = make_table(table)
    arguments = {"X": X}
    if case.estimator != "TableEncoder" and weights is not None:
        arguments["sample_weight"] = weights
    if case.estimator == "DAE" and case.paired:
        clean = replace(table, seed=table.seed + (case.paired != "same"), bad_cell="")
        if case.paired == "narrow":
            clean = replace(clean, columns=clean.columns[:1], exponents=clean.exponents[:1])
        arguments["X_clean"] = make_table(clean)
    method = "fit"
    if case.partial and hasattr(estimator, "partial_fit"):
        method = "partial_fit"
    elif case.validated and case.estimator in ("AE", "DAE", "VAE"):
        arguments["X_val"] = make_table(replace(table, seed=table.seed + 2, n_rows=5))
        if "X_clean" in arguments:
            arguments["X_clean_val"] = make_table(replace(clean, seed=clean.seed + 2, n_rows=5))
    name = f"{name_of(case)}.{method}"
    _, error = call(
        name,
        getattr(estimator, method),
        arguments,
        draws=draws_of_numpy(estimator),
        attributes=attributes_of(estimator),
    )
    if error is None:
        check_fitted(name, case, estimator)
    return error is None or is_fitted


def check_fitted(name, case, estimator):
    """What `fit` leaves is finite."""
    for attribute, value in vars(estimator).items():
        if attribute.endswith("_") and isinstance(value, float | np.ndarray):
            allow = (-np.inf,) if case.estimator == "detector" else ()
            value = np.asarray(value)
            if value.dtype.kind == "f":
                check_numbers(f"{attribute} after {name}", value, value.shape, allow=allow)
    for value in vars(estimator).get("loss_curve_", ()):
        check_numbers(f"loss_curve_ after {name}", value, ())


def codes_of(case, estimator, what):
    """Codes to decode: what transform gives, or others."""
    k = getattr(estimator, "n_components_", 2)
    if case.estimator == "TableEncoder":
        k = getattr(estimator, "_n_encoded", 2) if hasattr(estimator, "n_features_in_") else 2
    k += what.rows == "wide"
    table = TableCase(
        {"one row": 1, "empty": 0}.get(what.rows, 5),
        ("normal",) * k,
        ({"far": 300, "near zero": -300}.get(what.rows, 0),) * k,
        dtype=case.table.dtype,
        seed=what.seed,
        bad_cell="nan" if what.rows == "bad" else "",
    )
    return numbers_of(table)


def apply(case, estimator, what, is_fitted):
    """Call a method of rows and check its result."""
    method, _, option = what.method.partition(" ")
    name = f"{name_of(case)}.{what.method}"
    X = make_table(table_of_call(case, what))
    if method == "inverse_transform":
        X = codes_of(case, estimator, what)
    if not hasattr(estimator, method):
        return
    arguments = {"X": X}
    if option:
        arguments |= {"per_feature": True} if option == "by cell" else {"expected": True}
    if method in ("score", "fit_predict", "fit_transform") and case.estimator != "TableEncoder":
        weights = make_weights(what.weights, table_of_call(case, what).n_rows, what.seed)
        if weights is not None:
            arguments["sample_weight"] = weights
    fits = method.startswith("fit_")
    result, error = call(
        name,
        getattr(estimator, method),
        arguments,
        draws=draws_of_numpy(estimator),
        attributes=attributes_of(estimator),
    )
    if error is not None:
        return
    if not is_fitted and not fits:
        raise Fault(f"{name} works before fit")
    n_rows = X.shape[0] if hasattr(X, "shape") else len(X)
    check_result(case, name, what.method, estimator, X, n_rows, result)


def check_result(case, name, method, estimator, X, n_rows, result):
    """Compare with what the documentation says of the method."""
    d = estimator.n_features_in_
    dtype = result_dtype(X)
    if case.estimator == "TableEncoder":
        if method != "inverse_transform":
            result = result.toarray() if sparse.issparse(result) else np.asarray(result)
            check_numbers(name, np.nan_to_num(result, posinf=np.inf, neginf=-np.inf), result.shape)
        if len(result) != n_rows:
            raise Fault(f"{name} has the wrong shape")
        return
    if case.estimator == "detector":
        check_detector(name, method, n_rows, d, result)
        return
    k = estimator.n_components_
    shapes = {
        "transform": (n_rows, k),
        "fit_transform": (n_rows, k),
        "reconstruction_error": (n_rows,),
        "score_samples": (n_rows,),
        "score": (),
        "get_covariance": (d, d),
        "get_precision": (d, d),
    }
    if method == "posterior":
        mean, std = result
        check_numbers(name, mean, (n_rows, k), dtype)
        check_numbers(f"std of {name}", std, (n_rows, k), dtype)
        if not (std >= 0).all():
            raise Fault(f"std of {name} is negative")
        return
    if method == "reconstruction_error by cell":
        result = np.nan_to_num(result, posinf=np.inf, neginf=-np.inf)  # NaN for unknown cells
    of_rows = method not in ("score", "get_covariance", "get_precision")
    check_numbers(name, result, shapes.get(method, (n_rows, d)), dtype if of_rows else None)


def check_detector(name, method, n_rows, d, result):
    """Check the results of a detector, whose scores may be minus infinity."""
    lowest = (-np.inf,)
    if method in ("predict", "fit_predict"):
        check_numbers(name, result, (n_rows,))
        if not set(np.unique(result)) <= {-1, 1}:
            raise Fault(f"{name} gives other labels", str(result))
    elif method in ("decision_function", "score_samples"):
        check_numbers(name, result, (n_rows,), np.float64, allow=lowest)
    elif method == "p_values":
        check_numbers(name, result, (n_rows,), np.float64)
        if not ((result > 0) & (result <= 1)).all():
            raise Fault(f"{name} is no probability", str(result))
    elif method == "select":
        check_numbers(name, result, (n_rows,), bool)
    else:
        frames = result if isinstance(result, tuple) else (result,)
        for frame in frames:
            check_numbers(name, frame.to_numpy(), (n_rows, d), np.float64)


def parameterless(case, estimator, what, is_fitted):
    """Covariance and precision of PCA."""
    result, error = call(f"PCA.{what.method}", getattr(estimator, what.method), {})
    if error is None:
        check_result(case, f"PCA.{what.method}", what.method, estimator, None, 0, result)


def sample(case, estimator, what, is_fitted):
    """Draw rows."""
    n = {"empty": 0, "one row": 1, "bad": 2.5}.get(what.rows, 4)
    arguments = {"n_samples": n, "with_noise": what.method != "sample", "random_state": what.seed}
    name = f"{name_of(case)}.{what.method}"
    result, error = call(name, estimator.sample, arguments)
    if error is None:
        check_numbers(name, result, (n, estimator.n_features_in_), np.float64)


def set_contamination(case, estimator, what, is_fitted):
    """Move the threshold."""
    value = ("auto", 0.1, 0.5, 1e-9, 0.6, "x", float("nan"))[what.seed % 7]
    call(
        "detector.set_contamination",
        estimator.set_contamination,
        {"contamination": value},
        attributes=attributes_of(estimator),
    )


def pickled(case, estimator, what, is_fitted):
    """Compare a copy that has been through a file."""
    name = f"pickle of {name_of(case)}"
    try:
        file = pickle.dumps(estimator)
    except (pickle.PicklingError, AttributeError) as error:
        raise Fault(f"{name} cannot be written", repr(error)) from error
    restored, error = call(name, lambda data: pickle.loads(data), {"data": file})
    if error is not None:
        raise Fault(f"{name} cannot be read", repr(error))
    method = "score_samples" if hasattr(estimator, "score_samples") else "transform"
    X = make_table(replace(case.table, bad_cell=""))
    results = [
        call(f"{name_of(case)}.{method}", getattr(each, method), {"X": X})
        for each in (estimator, restored)
    ]
    (expected, first), (actual, second) = results
    if (first is None) != (second is None) or type(first) is not type(second):
        raise Fault(f"{name} behaves otherwise", f"{first!r}, {second!r}")
    if first is None and not np.array_equal(
        np.asarray(expected), np.asarray(actual), equal_nan=True
    ):
        raise Fault(f"{name} gives other results")


def cloned(case, estimator, what, is_fitted):
    """Compare the parameters of a clone."""
    other = clone(estimator)
    if re.sub(" at 0x[0-9A-F]+", "", repr(other)) != re.sub(" at 0x[0-9A-F]+", "", repr(estimator)):
        raise Fault(f"clone of {case.estimator} has other parameters")
    if any(name.endswith("_") for name in vars(other)):
        raise Fault(f"clone of {case.estimator} is fitted")


def represented(case, estimator, what, is_fitted):
    """Print it, as text and in a notebook."""
    call(f"repr of {name_of(case)}", lambda: (repr(estimator), estimator._repr_html_()), {})


def set_output(case, estimator, what, is_fitted):
    """Ask for results in another container."""
    if hasattr(estimator, "set_output"):
        container = ("default", "pandas", "polars")[what.seed % 3]
        call("set_output", estimator.set_output, {"transform": container})


CALLS = {
    "fit": fit,
    "get_covariance": parameterless,
    "get_precision": parameterless,
    "sample": sample,
    "sample with noise": sample,
    "set_output": set_output,
    "set_contamination": set_contamination,
    "pickle": pickled,
    "clone": cloned,
    "repr": represented,
}
