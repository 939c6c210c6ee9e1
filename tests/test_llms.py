"""`docs/llms.txt` tells coding assistants the interface: its code runs, its names exist."""

import re
import warnings
from inspect import isclass, signature
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import skae
from skae import networks, plotting
from skae._losses import LOSSES

TEXT = (Path(__file__).parents[1] / "docs" / "llms.txt").read_text()
CLASSES = [cls for cls in map(vars(skae).get, skae.__all__) if isclass(cls)]


@pytest.fixture(scope="module")
def names():
    """Names that the code leaves."""
    names = {}
    with warnings.catch_warnings():
        # The rows have no outliers.
        warnings.filterwarnings("ignore", "No row is selected", UserWarning)
        for code in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
            exec(code, names)
    plt.close("all")
    return names


def test_the_code_gives_the_shapes_that_it_names(names):
    assert names["codes"].shape == (143, 5)
    assert names["again"].shape == (143, 30)
    assert names["new_rows"].shape == (10, 30)
    assert names["mean"].shape == names["deviation"].shape == (569, 5)
    assert names["log_density"].shape == (569,)
    assert names["p_values"].shape == (143,)
    assert names["reasons"].shape == (3, 30)
    assert len(names["served"].graph.output) == 1
    assert set(np.unique(names["detector"].predict(names["test"]))) == {-1, 1}
    decoded = names["encoded"].inverse_transform(names["encoded"].transform(names["mixed"]))
    assert isinstance(decoded, pd.DataFrame)
    assert list(decoded.columns) == ["town", "age"]


def test_it_names_all_that_is_public_and_is_short():
    for module in (skae, networks, plotting):
        for name in module.__all__:
            assert re.search(rf"\b{name}\b", TEXT), name
    for loss in LOSSES:
        assert f'"{loss}"' in TEXT
    assert len(TEXT.splitlines()) <= 120


def test_parameters_and_methods_that_it_names_exist():
    known = {name for cls in CLASSES for name in (*signature(cls).parameters, *dir(cls))}
    section = TEXT[TEXT.index("## Parameters") :].partition("\n## ")[0]
    named = set(re.findall(r"`([a-z]\w*)[=`(]", section)) - set(dir(skae))
    assert {"n_components", "hidden_layer_sizes", "beta", "noise_level"} <= named
    assert named <= known


def test_defaults_that_it_names_are_those_of_the_constructor():
    parameters = signature(skae.AutoencoderTransformer).parameters
    section = TEXT[TEXT.index("## Parameters") :].partition("\n## ")[0]
    for name in ("hidden_layer_sizes", "max_iter", "batch_size", "early_stopping"):
        assert f"`{name}={parameters[name].default}`" in section
    assert f'`learning_rate_init="{parameters["learning_rate_init"].default}"`' in section
