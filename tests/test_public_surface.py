"""What users see: names, annotations and the words of the docstrings."""

import inspect
import re
from ast import literal_eval
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpydoc.docscrape import NumpyDocString
from sklearn.datasets import load_iris
from sklearn.utils._testing import assert_docstring_consistency

import skae
from skae import (
    PCA,
    AutoencoderOutlierDetector,
    AutoencoderTransformer,
    networks,
    plotting,
)
from skae._base import BaseAutoencoder

ESTIMATORS = [cls for cls in map(vars(skae).get, skae.__all__) if inspect.isclass(cls)]
AUTOENCODERS = [cls for cls in ESTIMATORS if issubclass(cls, BaseAutoencoder)]
CLASSES = ESTIMATORS + [
    getattr(module, name) for module in (networks, plotting) for name in module.__all__
]

ROOT = Path(__file__).parents[1]

# What means something a little else than in `AutoencoderTransformer`, and how all descriptions of
# it begin.
OWN_WORDS = {
    "DenoisingAutoencoder": {
        "loss_curve_": "Mean loss of each epoch over its batches, each before its step",
        "random_state": "Determines the initial weights, the held-out rows, the order of rows",
        "validation_loss_curve_": "Mean loss of the held-out rows after each epoch",
    },
    "VAETransformer": {
        "init": 'Start of the dense network. "pca" gives encoder and decoder a linear path',
        "loss": "",
        "loss_curve_": "Mean loss of each epoch over its batches, each before its step",
        "module_": "The trained network, on the CPU and in evaluation mode.",
        "network": "Architecture. None is the dense network that the parameters around this one",
        "pretrain_loss_curves_": "",
        "random_state": "Determines the initial weights, the held-out rows, the order of rows",
        "validation_loss_curve_": "Mean loss of the held-out rows after each epoch",
    },
}

# What takes more kinds of values than in `AutoencoderTransformer`.
OWN_TYPES = {"VAETransformer": {"n_components"}}


def class_name(cls):
    return cls.__name__


def sections(cls):
    return NumpyDocString(inspect.getdoc(cls))


def names(cls, section):
    return {entry.name for entry in sections(cls)[section]}


@pytest.mark.parametrize("cls", AUTOENCODERS[1:], ids=class_name)
def test_autoencoders_describe_what_they_share_in_the_same_words(cls):
    pair = [AutoencoderTransformer, cls]
    own_words = OWN_WORDS[cls.__name__]
    for section, include in {"Parameters": "include_params", "Attributes": "include_attrs"}.items():
        shared = names(pair[0], section) & names(pair[1], section)
        shared -= OWN_TYPES.get(cls.__name__, set())
        assert_docstring_consistency(pair, **{include: sorted(shared - own_words.keys())})
        for name in sorted(shared & own_words.keys()):
            beginning = f"{re.escape(own_words[name])}.*"
            assert_docstring_consistency(pair, **{include: [name]}, descr_regex_pattern=beginning)


@pytest.mark.parametrize("cls", CLASSES, ids=class_name)
def test_parameters_are_documented_in_the_order_of_the_constructor(cls):
    documented = [entry.name for entry in sections(cls)["Parameters"]]
    assert documented == list(inspect.signature(cls).parameters)


@pytest.mark.parametrize("cls", CLASSES, ids=class_name)
def test_documented_defaults_are_those_of_the_constructor(cls):
    defaults = inspect.signature(cls).parameters
    for parameter in sections(cls)["Parameters"]:
        default = defaults[parameter.name].default
        _, found, documented = parameter.type.partition("default=")
        assert bool(found) == (default is not inspect.Parameter.empty), parameter.name
        if found:
            assert literal_eval(documented) == default, parameter.name


@pytest.mark.parametrize("cls", ESTIMATORS, ids=class_name)
def test_every_fitted_attribute_is_documented(cls):
    table = load_iris(as_frame=True).data
    estimator = cls(PCA(2)) if cls is AutoencoderOutlierDetector else cls()
    fitted = {name for name in vars(estimator.fit(table)) if re.fullmatch(r"[a-z]\w*_", name)}
    assert names(cls, "Attributes") >= fitted


def own_methods(cls):
    """Public functions and properties of the class and of its bases in skae."""
    for base in cls.__mro__:
        if base.__module__.startswith("skae."):
            for name, value in vars(base).items():
                function = value.fget if isinstance(value, property) else value
                if inspect.isfunction(function) and not name.startswith("_"):
                    yield name, function


@pytest.mark.parametrize("cls", CLASSES, ids=class_name)
def test_everything_public_is_annotated(cls):
    for name, function in [("__init__", cls.__init__), *own_methods(cls)]:
        signature = inspect.signature(function)
        _, *parameters = signature.parameters.values()  # the first one is self
        annotations = [parameter.annotation for parameter in parameters]
        assert inspect.Signature.empty not in [*annotations, signature.return_annotation], name


def test_the_package_says_that_it_is_annotated():
    assert (Path(skae.__file__).parent / "py.typed").is_file()


def test_the_citation_is_that_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == skae.__version__


def mixed_people():
    rng = np.random.default_rng(0)
    age = rng.integers(18, 80, 60).astype(float)
    return pd.DataFrame(
        {
            "town": rng.choice(["Ulm", "Bonn", "Jena"], 60),
            "age": np.where(rng.random(60) < 0.1, np.nan, age),
            "children": rng.poisson(1.5, 60),
            "height": rng.normal(1.7, 0.1, 60),
            "member": rng.random(60) < 0.5,
            "joined": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, 60), "D"),
        }
    )


def test_the_code_of_the_readme_gives_the_shapes_that_it_names(monkeypatch):
    numbers, table = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names = {}
    exec(numbers, names)
    assert names["codes"].shape == (1797, 8)
    assert names["images"].shape == (1797, 64)
    people = mixed_people()
    monkeypatch.setattr(pd, "read_csv", lambda path, parse_dates: people)
    exec(table, names)
    assert names["codes"].shape == (len(people), 5)
    assert not names["filled"].isna().any(axis=None)
    for frame in (names["again"], names["filled"], names["new"]):
        assert frame.dtypes.equals(people.dtypes)
