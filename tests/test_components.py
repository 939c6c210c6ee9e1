"""What components carry, against PCA and closed forms."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from skae import AutoencoderTransformer, DenoisingAutoencoder, VAETransformer

UNTRAINED = {"early_stopping": False, "learning_rate_init": 1e-30, "max_iter": 1, "random_state": 0}


@pytest.fixture(scope="module")
def cancer():
    data = load_breast_cancer(as_frame=True).data
    return StandardScaler().set_output(transform="pandas").fit_transform(data)


@pytest.fixture(scope="module")
def pca(cancer):
    return PCA(4, svd_solver="full").fit(cancer)


@pytest.mark.parametrize("kind", [AutoencoderTransformer, DenoisingAutoencoder])
def test_shares_of_variance_are_those_of_pca_where_the_code_is(cancer, pca, kind):
    description = kind(4, **UNTRAINED).fit(cancer).describe_components(cancer)
    ratios = description["explained_variance_ratio"]
    assert_allclose(ratios, pca.explained_variance_ratio_, atol=1e-4)
    assert_allclose(description["std"] ** 2, pca.explained_variance_ * 568 / 569, rtol=1e-3)
    assert list(description.columns) == ["explained_variance_ratio", "std"]


def test_divergences_are_those_of_probabilistic_pca(cancer, pca):
    vae = VAETransformer(4, n_clusters=1, **UNTRAINED).fit(cancer)
    description = vae.describe_components(cancer)
    # Half the logarithm of signal and noise over noise, for rows with the moments of the model.
    desired = np.log(pca.explained_variance_ / pca.noise_variance_) / 2.0
    assert_allclose(description["divergence"], desired, atol=2e-3)
    assert (description["explained_variance_ratio"].diff().dropna() < 0.0).all()


def test_effects_are_the_loadings_where_the_code_is_pca(cancer, pca):
    effects = AutoencoderTransformer(4, **UNTRAINED).fit(cancer).component_effects(cancer)
    loadings = pca.components_ * np.sqrt(pca.explained_variance_ * 568 / 569)[:, np.newaxis]
    assert_allclose(np.abs(effects), np.abs(loadings), atol=1e-3)
    assert list(effects.columns) == list(cancer.columns)
    assert isinstance(effects, pd.DataFrame)


def test_a_component_that_nothing_reads_has_no_share_and_no_effect(cancer):
    # One beyond the rank of the table.
    X = cancer.iloc[:4]
    estimator = AutoencoderTransformer(5, **UNTRAINED).fit(X)
    assert_allclose(estimator.describe_components(X).iloc[-1], 0.0, atol=1e-6)
    assert_allclose(estimator.component_effects(X).iloc[-1], 0.0, atol=1e-6)
