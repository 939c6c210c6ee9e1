"""What the page "Coming from other libraries" says of them is run where they are installed."""

import re
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA, IncrementalPCA, KernelPCA, TruncatedSVD
from sklearn.neural_network import MLPRegressor

PAGE = (Path(__file__).parents[1] / "docs" / "user_guide" / "coming_from.rst").read_text()


def blocks_of(heading):
    """Code of the other library in a section: the first block of each row of its table."""
    rest = PAGE.split(f"{heading}\n{'-' * len(heading)}\n")[1]
    section = re.split(r"\n[^\n]+\n-{4,}\n", rest)[0]
    cells = re.findall(r"\* - \.\. code-block:: python\n\n((?: {10}.*\n|\n)+)", section)
    return [textwrap.dedent(cell).strip() for cell in cells]


def run(blocks, names):
    for block in blocks:
        exec(compile(block, block, "exec"), names)


@pytest.fixture
def X():
    return load_digits().data[:200] / 16


def test_each_section_has_code_of_the_other_library():
    headings = [
        "scikit-learn's PCA",
        "scikit-learn's MLPRegressor",
        "Keras, and the autoencoders of its blog",
        "PyOD",
    ]
    assert [len(blocks_of(heading)) for heading in headings] == [12, 8, 13, 9]


def test_lines_about_pca_run(X):
    names = {
        "X": X,
        "X_sparse": csr_array(X),
        "batch": X[:20],
        "pca": PCA(8).fit(X),
        **{cls.__name__: cls for cls in (IncrementalPCA, KernelPCA, PCA, TruncatedSVD)},
    }
    run(blocks_of("scikit-learn's PCA"), names)
    assert names["X_again"].shape == X.shape


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_lines_about_mlp_run(X):
    names = {"X": X, "MLPRegressor": MLPRegressor}
    run(blocks_of("scikit-learn's MLPRegressor"), names)
    assert [weights.shape for weights in names["mlp"].coefs_][1] == (128, 8)


@pytest.mark.filterwarnings("ignore")
def test_lines_about_pyod_run(X):
    pytest.importorskip("pyod")
    from pyod.models.auto_encoder import AutoEncoder
    from pyod.models.ecod import ECOD
    from pyod.models.vae import VAE

    assert VAE().fit(X).decision_scores_.shape == (200,)
    with plt.ioff():
        run(
            blocks_of("PyOD"),
            {
                "X": X,
                "X_new": X[:5],
                "AutoEncoder": AutoEncoder,
                "ECOD": ECOD,
                "pyod": __import__("pyod"),
            },
        )
    plt.close("all")


@pytest.mark.filterwarnings("ignore")
def test_lines_about_keras_name_what_exists():
    keras = pytest.importorskip("keras")
    code = "\n".join(blocks_of("Keras, and the autoencoders of its blog"))
    for name in sorted(set(re.findall(r"\b([A-Z]\w+)\(", code))):
        assert any(hasattr(part, name) for part in (keras.layers, keras.callbacks)), name
    assert np.isscalar(float(keras.regularizers.l1(1e-5)(np.ones(3, np.float32))))
