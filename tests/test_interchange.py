"""Estimators in the hands of other tools: files, notebooks, meta-estimators."""

import re
from inspect import isclass, signature

import numpy as np
import pandas as pd
import polars as pl
import pytest
import skops.io
from numpy.testing import assert_array_equal
from sklearn.base import is_outlier_detector
from sklearn.datasets import load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils import get_tags

import skae
from skae import (
    PCA,
    AutoencoderOutlierDetector,
    AutoencoderTransformer,
    DenoisingAutoencoder,
    TableAutoencoder,
    networks,
)
from skae._denoising_ensemble import DenoisingEnsemble


def small(name):
    """Build the estimator of a public name, such that it is fitted in a moment."""
    constructor = getattr(skae, name)
    wanted = {"n_components": 2, "max_iter": 2, "random_state": 0, "estimator": PCA(2)}
    known = signature(constructor).parameters
    return constructor(**{key: value for key, value in wanted.items() if key in known})


ESTIMATORS = [small(name) for name in skae.__all__ if isclass(getattr(skae, name))]
MODELS = [estimator for estimator in ESTIMATORS if hasattr(type(estimator), "score_samples")]
NETWORKS = [
    networks.Conv1dNetwork((4, 1), (3, 2)),
    networks.Conv2dNetwork((2, 2), (3,)),
    networks.RecurrentNetwork((2, 2), 3),
]
MORE = [
    AutoencoderTransformer(2, network=network, max_iter=2, random_state=0) for network in NETWORKS
]
MORE += [
    AutoencoderTransformer(
        0.8, tied_weights=True, hidden_layer_sizes=[6, 5], random_state=np.random.RandomState(0)
    ),
    DenoisingAutoencoder(
        2, noise="salt_and_pepper", noise_level=(0.0, 0.3), loss="gaussian", max_iter=2
    ),
    PCA(0.9, svd_solver="gram_eigh", whiten=True),
    make_pipeline(MinMaxScaler(), AutoencoderTransformer(2, loss="bernoulli", max_iter=2)),
]
ADDRESS = re.compile(r" at 0x\w+")
METHODS = ["transform", "reconstruct", "score_samples", "decision_function", "predict", "p_values"]


def short_name(estimator):
    return type(estimator).__name__


@pytest.fixture(scope="module")
def X():
    return StandardScaler().fit_transform(load_iris().data)


def outputs(estimator, X):
    """What the methods that the estimator has give for X."""
    results = {
        method: np.asarray(getattr(estimator, method)(X))
        for method in METHODS
        if hasattr(estimator, method)
    }
    if "transform" in results:
        results["inverse_transform"] = estimator.inverse_transform(results["transform"])
    return results


def through_skops(estimator):
    """Write and read without pickle; nothing of the file is trusted but skae's own classes."""
    data = skops.io.dumps(estimator)
    types = skops.io.get_untrusted_types(data=data)
    assert [name for name in types if not name.startswith("skae.")] == []
    return skops.io.loads(data, trusted=types)


def assert_same_outputs(actual, desired):
    assert actual.keys() == desired.keys()
    for name in desired:
        assert_array_equal(actual[name], desired[name], err_msg=name)


@pytest.mark.parametrize("estimator", ESTIMATORS + MORE, ids=short_name)
def test_skops_gives_the_same_bits(estimator, X):
    through_skops(estimator)  # unfitted
    desired = outputs(estimator.fit(X), X)
    assert desired
    loaded = through_skops(estimator)
    assert_same_outputs(outputs(loaded, X), desired)
    assert vars(loaded).keys() == vars(estimator).keys()
    parameters, expected = (ADDRESS.sub("", repr(e.get_params())) for e in (loaded, estimator))
    assert parameters == expected


def test_the_default_outlier_detector_goes_through_skops(monkeypatch, X):
    monkeypatch.setattr(DenoisingEnsemble, "_n_steps", 2)
    detector = AutoencoderOutlierDetector(random_state=0).fit(X)
    assert_same_outputs(outputs(through_skops(detector), X), outputs(detector, X))


@pytest.mark.parametrize(
    "estimator", [e for e in ESTIMATORS if hasattr(e, "partial_fit")], ids=short_name
)
def test_streams_go_on_after_skops(estimator, X):
    """The memory of the solver and PCA's moments are in the file."""
    loaded = through_skops(estimator.partial_fit(X[:100]))
    desired = outputs(estimator.partial_fit(X[100:]), X)
    assert_same_outputs(outputs(loaded.partial_fit(X[100:]), X), desired)


@pytest.mark.parametrize("network", NETWORKS, ids=short_name)
def test_networks_go_through_skops(network):
    assert repr(through_skops(network)) == repr(network)


def test_names_of_columns_and_the_kind_of_output_are_in_a_skops_file(X):
    frame = pd.DataFrame(X, columns=list("abcd"))
    estimator = AutoencoderTransformer(2, max_iter=2, random_state=0)
    loaded = through_skops(estimator.set_output(transform="polars").fit(frame))
    assert_array_equal(loaded.feature_names_in_, list("abcd"))
    assert type(loaded.transform(frame)) is pl.DataFrame


# The HTML representation

LINKS = re.compile(r'href="(?P<url>[^"#]*)')


@pytest.mark.parametrize("estimator", ESTIMATORS + NETWORKS, ids=short_name)
def test_html_links_to_the_page_where_the_documentation_is_served(monkeypatch, estimator):
    monkeypatch.setenv("SKAE_DOCS_URL", "https://docs.example/skae/")
    cls = type(estimator)
    package = "skae.networks" if cls.__module__.startswith("skae.networks") else "skae"
    page = f"https://docs.example/skae/api/generated/{package}.{cls.__name__}.html"
    links = LINKS.findall(estimator._repr_html_())
    assert page in links
    # The names of the parameters lead to their descriptions on the same page.
    assert links.count(page) > len(estimator.get_params(deep=False))


def test_html_links_nowhere_if_no_documentation_is_served(monkeypatch):
    monkeypatch.delenv("SKAE_DOCS_URL", raising=False)
    for estimator in ESTIMATORS + NETWORKS:
        assert LINKS.findall(estimator._repr_html_()) == []


def test_html_of_a_subclass_elsewhere_does_not_link_to_our_pages(monkeypatch):
    monkeypatch.setenv("SKAE_DOCS_URL", "https://docs.example")
    mine = type("Mine", (PCA,), {"__module__": "elsewhere"})
    assert mine()._get_doc_link() == ""


# Tags


@pytest.mark.parametrize("estimator", MODELS, ids=short_name)
def test_tags(estimator):
    tags = get_tags(estimator)
    assert not tags.target_tags.required
    assert tags.input_tags.two_d_array
    takes_text = isinstance(estimator, TableAutoencoder)
    assert tags.input_tags.sparse is not takes_text
    assert tags.input_tags.allow_nan or is_outlier_detector(estimator)
    assert tags.input_tags.categorical is takes_text
    assert not tags.input_tags.pairwise
    assert not tags.input_tags.positive_only
    assert not tags.no_validation
    assert not tags.non_deterministic
    assert tags.requires_fit
    if is_outlier_detector(estimator):
        assert tags.transformer_tags is None
    else:
        assert tags.estimator_type is None
        dtypes = set() if takes_text else {"float64", "float32"}
        assert set(tags.transformer_tags.preserves_dtype) == dtypes


@pytest.mark.parametrize("estimator", MODELS, ids=short_name)
def test_tags_hold(estimator, X):
    """A second look at what the tags claim, from the outside."""
    wrong_cell = np.inf if get_tags(estimator).input_tags.allow_nan else np.nan
    for wrong in (np.where(X > 2, wrong_cell, X), X[:, 0]):
        with pytest.raises(ValueError, match=r"NaN|infinity|Expected 2D"):
            estimator.fit(wrong)
    first = outputs(estimator.fit(X), X)
    assert_same_outputs(outputs(estimator.fit(X), X), first)
