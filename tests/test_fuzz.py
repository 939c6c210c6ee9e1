"""Random cases end in right results or in errors of ours, and change nothing around them.

`make fuzz` runs many more of them.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))

import fuzz_rules
from fuzz_cases import cases, run_case
from fuzz_estimators import ESTIMATORS, VALUES

from skae import AutoencoderTransformer
from skae._denoising_ensemble import DenoisingEnsemble


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(DenoisingEnsemble, "_n_steps", 5)
    AutoencoderTransformer(1, max_iter=1).fit(np.eye(4))  # what Torch imports once


@settings(
    max_examples=150,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
@given(cases())
def test_random_cases_end_in_right_results_or_errors_of_ours(case):
    run_case(case)


def test_every_parameter_is_varied():
    missing = {
        (name, parameter)
        for name, (cls, _) in ESTIMATORS.items()
        for parameter in cls().get_params(deep=False)
        if parameter not in {*VALUES, "estimator", "kinds", "verbose"}
    }
    assert missing == set()


def raise_value_error(X):
    raise ValueError("on purpose, but not by skae")


def draw_a_number(X):
    return np.random.normal()


def write_into(X):
    X[0] = 1.0


def divide_by_zero(X):
    return X / 0.0


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (raise_value_error, "raises ValueError"),
        (draw_a_number, "changes NumPy's random numbers"),
        (write_into, "changes its argument X"),
        (divide_by_zero, "warns: RuntimeWarning"),
    ],
)
def test_a_fault_is_seen(function, kind):
    with pytest.raises(fuzz_rules.Fault, match=kind):
        fuzz_rules.call("function", function, {"X": np.zeros(3)})


def test_an_error_of_ours_is_none():
    estimator = AutoencoderTransformer(n_components=-1)
    result, error = fuzz_rules.call("fit", estimator.fit, {"X": np.eye(4)})
    assert result is None
    assert "n_components" in str(error)


@pytest.mark.parametrize(("values", "fault"), [([np.nan], "not finite"), ([[1.0]], "shape")])
def test_results_are_looked_at(values, fault):
    with pytest.raises(fuzz_rules.Fault, match=fault):
        fuzz_rules.check_numbers("transform", values, (1,))
