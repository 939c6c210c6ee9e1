"""Files: the versions that saved them, and what damaged or hostile ones end in."""

import copy
import io
import pickle
from importlib import import_module

import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import InconsistentVersionWarning
from skops.io.exceptions import UntrustedTypesFoundException

import skae
from skae import (
    PCA,
    AutoencoderOutlierDetector,
    AutoencoderTransformer,
    DenoisingAutoencoder,
    TableEncoder,
    VAETransformer,
    networks,
)

ESTIMATORS = [
    PCA(2),
    AutoencoderTransformer(2, hidden_layer_sizes=(4,), max_iter=1, random_state=0),
    AutoencoderTransformer(
        2, network=networks.Conv2dNetwork((2, 2), (3,)), max_iter=1, random_state=0
    ),
    DenoisingAutoencoder(2, hidden_layer_sizes=(4,), max_iter=1, random_state=0),
    VAETransformer(2, hidden_layer_sizes=(4,), max_iter=1, random_state=0),
    AutoencoderOutlierDetector(PCA(2), random_state=0),
]
X = np.random.default_rng(0).normal(size=(40, 4))


def short_name(estimator):
    return type(estimator).__name__


def joblib_bytes(estimator):
    file = io.BytesIO()
    joblib.dump(estimator, file)
    return file.getvalue()


WAYS = {
    "pickle": (pickle.dumps, pickle.loads),
    "joblib": (joblib_bytes, lambda data: joblib.load(io.BytesIO(data))),
    "skops": (
        skops.io.dumps,
        lambda data: skops.io.loads(data, trusted=skae.TRUSTED_TYPES),
    ),
}


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


@pytest.fixture(params=ESTIMATORS, ids=short_name)
def fitted(request):
    return clone(request.param).fit(X)


def saved_as(monkeypatch, estimator, dump, change):
    """File of an estimator with another state."""
    cls = type(estimator)
    original = cls.__getstate__
    with monkeypatch.context() as patch:
        patch.setattr(
            cls,
            "__getstate__",
            lambda self: change(original(self)) if self is estimator else original(self),
        )
        return dump(estimator)


def saved_by(monkeypatch, estimator, dump, version):
    with monkeypatch.context() as patch:
        patch.setattr(skae, "__version__", version)
        return dump(estimator)


# Versions


def test_files_of_the_same_version_load_in_silence(fitted, way):
    dump, load = way
    loaded = load(dump(fitted))
    assert vars(loaded).keys() == vars(fitted).keys()
    assert_array_equal(loaded.score_samples(X), fitted.score_samples(X))


def test_files_of_another_version_warn_as_those_of_scikit_learn_do(monkeypatch, fitted, way):
    dump, load = way
    data = saved_by(monkeypatch, fitted, dump, "0.0.9")
    message = f"was saved by skae 0.0.9 .*, and this is skae {skae.__version__}"
    with pytest.warns(InconsistentVersionWarning, match=message) as caught:
        loaded = load(data)
    assert str(caught[-1].message).startswith(short_name(fitted))
    assert len(caught) == 1 + 2 * isinstance(fitted, AutoencoderOutlierDetector)  # two models
    assert_array_equal(loaded.score_samples(X), fitted.score_samples(X))
    assert repr(loaded)


def test_files_without_versions_are_of_another_one(monkeypatch, fitted, way):
    dump, load = way

    def forget(state):
        return {name: value for name, value in state.items() if name != "_versions"}

    data = saved_as(monkeypatch, fitted, dump, forget)
    with pytest.warns(InconsistentVersionWarning, match="saved by an unknown version of skae"):
        load(data)


def test_table_encoders_carry_versions_too(monkeypatch, way):
    dump, load = way
    table = pd.DataFrame({"a": [1.0, 2.0, 4.0], "b": ["x", "y", "x"]})
    fitted = TableEncoder().fit(table)
    assert vars(load(dump(fitted))).keys() == vars(fitted).keys()
    data = saved_by(monkeypatch, fitted, dump, "0.0.9")
    with pytest.warns(InconsistentVersionWarning, match="TableEncoder was saved by skae 0.0.9"):
        loaded = load(data)
    assert_array_equal(loaded.transform(table), fitted.transform(table))
    damaged = saved_as(monkeypatch, fitted, dump, lambda state: without(state, "kinds"))
    with pytest.raises(
        ValueError, match="file of TableEncoder cannot be read: the parameter kinds"
    ):
        load(damaged)


def test_copies_and_clones_are_no_files(fitted):
    for other in (copy.copy(fitted), copy.deepcopy(fitted)):
        assert vars(other).keys() == vars(fitted).keys()
    assert vars(clone(fitted)).keys() == fitted.get_params(deep=False).keys()


# Parameters that come and go


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=short_name)
def test_a_new_parameter_has_its_default_in_files_of_earlier_versions(monkeypatch, estimator, way):
    dump, load = way
    fitted = clone(estimator).fit(X)
    name = "random_state"

    def earlier(state):
        return without(state, name) | {"_versions": state["_versions"] | {"skae": "0.0.9"}}

    data = saved_as(monkeypatch, fitted, dump, earlier)
    with pytest.warns(InconsistentVersionWarning):
        loaded = load(data)
    assert loaded.random_state is None
    assert repr(loaded)
    assert_array_equal(loaded.score_samples(X), fitted.score_samples(X))


def test_a_missing_parameter_is_a_fault_in_a_file_of_this_version(monkeypatch, fitted, way):
    dump, load = way
    data = saved_as(monkeypatch, fitted, dump, lambda state: without(state, "random_state"))
    message = f"file of {short_name(fitted)} cannot be read: the parameter random_state is missing"
    with pytest.raises(ValueError, match=f"{message}.* is damaged or was changed"):
        load(data)


def test_a_file_that_another_version_cannot_read_says_which_one_can(monkeypatch, way):
    dump, load = way
    fitted = clone(ESTIMATORS[1]).fit(X)

    def later(state):
        recipe = state["_fitted_parameters"] | {"gone": 1}
        return state | {
            "_fitted_parameters": recipe,
            "_versions": state["_versions"] | {"skae": "9.9"},
        }

    data = saved_as(monkeypatch, fitted, dump, later)
    message = (
        r"cannot be read: .*gone.*It was saved by skae 9.9 \(scikit-learn .*, PyTorch .*\), and "
        r"this is skae .*pip install skae==9.9"
    )
    with (
        pytest.warns(InconsistentVersionWarning),
        pytest.raises(ValueError, match=message),
    ):
        load(data)


# Damaged and hostile files


def changed_weight(change):
    def apply(state):
        weights = dict(state["_weights"])
        name = next(n for n, w in weights.items() if n.startswith("encoder") and w.ndim > 1)
        weights[name] = change(weights[name])
        return state | {"_weights": weights}

    return apply


def with_weights(change):
    return lambda state: state | {"_weights": change(dict(state["_weights"]))}


def with_recipe(**parameters):
    return lambda state: state | {"_fitted_parameters": state["_fitted_parameters"] | parameters}


AUTOENCODERS = {
    "fewer weights": (with_weights(lambda w: dict(list(w.items())[1:])), "weights are missing"),
    "more weights": (with_weights(lambda w: w | {"more": np.ones(2)}), "belong to another network"),
    "no weights": (with_weights(lambda w: {}), "weights are missing"),
    "weights in a list": (with_weights(lambda w: list(w.values())), "weights are missing"),
    "wrong shape": (changed_weight(lambda w: np.ones((7, 7), np.float32)), r"shape \(7, 7\)"),
    "wrong dtype": (changed_weight(lambda w: w.astype(np.float64)), "are float64 instead of"),
    "objects": (changed_weight(lambda w: w.tolist()), "no array|instead of"),
    "text": (changed_weight(lambda w: "weights"), "instead of"),
    "no recipe": (lambda state: without(state, "_fitted_parameters"), "_fitted_parameters"),
    "recipe of something else": (
        lambda state: state | {"_fitted_parameters": [1, 2]},
        "mapping|recipe",
    ),
    "wide network": (with_recipe(hidden_layer_sizes=(4000,)), "instead of"),
    "other parameters": (with_recipe(hidden_layer_sizes="wide"), "hidden_layer_sizes"),
    "unknown network": (with_recipe(network="os.system"), "'network' parameter"),
    "number as network": (with_recipe(network=3), "'network' parameter"),
    "other activation": (with_recipe(activation="exec"), "'activation' parameter"),
    "other length of code": (lambda state: state | {"n_components_": 3}, "instead of"),
    "no number of columns": (lambda state: without(state, "n_features_in_"), "n_features_in_"),
    "columns in words": (lambda state: state | {"n_features_in_": "four"}, "."),
    "negative columns": (lambda state: state | {"n_features_in_": -4}, "."),
    "many columns": (lambda state: state | {"n_features_in_": 10**9}, "instead of|columns"),
}
PRINCIPAL = {
    "wrong shape": (
        lambda state: state | {"components_": np.ones((3, 3))},
        "components_ has shape",
    ),
    "one axis": (lambda state: state | {"components_": np.ones(8)}, "components_ has shape"),
    "other columns": (lambda state: state | {"n_features_in_": 7}, "has shape"),
    "no mean": (lambda state: without(state, "mean_"), "mean_ is no array"),
    "objects": (lambda state: state | {"mean_": np.array(list("abcd"))}, "mean_ is no array"),
    "list": (lambda state: state | {"mean_": [0.0] * 4}, "mean_ is no array"),
    "variances": (
        lambda state: state | {"explained_variance_": np.ones(3)},
        "explained_variance_ has shape",
    ),
}
DETECTORS = {
    "weights": (
        lambda state: state | {"_calibration_weights": np.ones(3)},
        "_calibration_weights has shape",
    ),
    "scores": (
        lambda state: state | {"training_scores_": np.ones((3, 2))},
        "training_scores_ has shape",
    ),
    "no scores": (lambda state: without(state, "training_scores_"), "training_scores_ is no array"),
}


def cases():
    kinds = [("network", AUTOENCODERS, ESTIMATORS[1:5]), ("PCA", PRINCIPAL, ESTIMATORS[:1])]
    kinds += [("detector", DETECTORS, ESTIMATORS[5:])]
    return [
        pytest.param(estimator, *case, id=f"{short_name(estimator)}-{number}-{name}")
        for _, damages, estimators in kinds
        for number, estimator in enumerate(estimators)
        for name, case in damages.items()
        if not (name in ("wide network", "other parameters") and number == 1)  # no dense network
    ]


@pytest.mark.parametrize(("estimator", "damage", "reason"), cases())
@pytest.mark.parametrize("way", ["pickle", "skops"], indirect=True)
def test_damaged_files_end_in_one_clear_error(monkeypatch, estimator, damage, reason, way):
    dump, load = way
    fitted = clone(estimator).fit(X)
    data = saved_as(monkeypatch, fitted, dump, damage)
    message = f"^This file of {short_name(fitted)} cannot be read: .*{reason}.*take another copy"
    with pytest.raises(ValueError, match=message):
        load(data)


def test_a_state_of_another_kind_is_no_estimator(fitted):
    other = type(fitted).__new__(type(fitted))
    with (
        pytest.warns(InconsistentVersionWarning),
        pytest.raises(ValueError, match="cannot be read"),
    ):
        other.__setstate__({"_weights": 3, "components_": 3, "training_scores_": 3})


# skops


def test_one_name_is_all_that_skops_has_to_trust():
    for estimator in [*ESTIMATORS, AutoencoderOutlierDetector()]:
        for table in (X, pd.DataFrame(X, columns=list("abcd"))):
            if isinstance(estimator, AutoencoderOutlierDetector) and estimator.estimator is None:
                estimator = clone(estimator).set_params(random_state=0)
            data = skops.io.dumps(clone(estimator).fit(table))
            assert set(skops.io.get_untrusted_types(data=data)) <= set(skae.TRUSTED_TYPES)


def test_trusted_types_are_the_public_classes_of_the_package():
    classes = set()
    for path in skae.TRUSTED_TYPES:
        module, _, name = path.rpartition(".")
        classes.add(getattr(import_module(module), name))
    assert {getattr(skae, name) for name in skae.__all__} - {skae.show_versions} <= classes
    assert {getattr(networks, name) for name in networks.__all__} <= classes
    assert all(cls.__module__.startswith("skae.") for cls in classes)


class Elsewhere:
    def __call__(self, n_features, n_components):
        raise AssertionError("this must not run")


def test_a_network_of_an_unknown_class_is_never_called(monkeypatch):
    fitted = clone(ESTIMATORS[1]).fit(X)
    data = saved_as(monkeypatch, fitted, skops.io.dumps, with_recipe(network=Elsewhere()))
    with pytest.raises(UntrustedTypesFoundException, match="Elsewhere"):
        skops.io.loads(data, trusted=skae.TRUSTED_TYPES)
