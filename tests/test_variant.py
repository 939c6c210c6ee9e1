"""The variants of the contributing page: files of their own that keep the whole contract."""

import pickle
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_digits
from sklearn.utils.estimator_checks import parametrize_with_checks


def load_variant(name):
    """Import the file under its own name, so that what is in it can be pickled."""
    path = Path(__file__).parent / "variant" / f"{name}.py"
    spec = spec_from_file_location(name, path)
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


KSparseAutoencoder = load_variant("_k_sparse").KSparseAutoencoder
HuberAutoencoder = load_variant("_huber").HuberAutoencoder


def expected_failed_checks(estimator):
    # As for the other autoencoders, see test_common.py.
    return {
        "check_sample_weight_equivalence_on_dense_data": "training runs in float32",
        "check_sample_weight_equivalence_on_sparse_data": "training runs in float32",
    }


@parametrize_with_checks(
    [
        KSparseAutoencoder(3, n_active=1, max_iter=3, random_state=0),
        HuberAutoencoder(1, max_iter=3, random_state=0),
    ],
    expected_failed_checks=expected_failed_checks,
)
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def X():
    return load_digits().data[:600] / 16


def test_a_code_is_the_largest_components_of_a_linear_map(X):
    estimator = KSparseAutoencoder(32, n_active=4, max_iter=5, random_state=0).fit(X)
    linear = estimator.module_.encoder[0][0]
    weights, bias = (w.detach().double().numpy() for w in (linear.weight, linear.bias))
    desired = X @ weights.T + bias
    desired[desired < np.sort(desired, axis=1)[:, [-4]]] = 0.0
    assert_allclose(estimator.transform(X), desired, atol=1e-12)


def test_more_active_components_reconstruct_better(X):
    few, many = (
        KSparseAutoencoder(64, n_active=k, max_iter=30, random_state=0).fit(X).score(X)
        for k in (2, 16)
    )
    assert few < many


def test_copies_give_the_same_bits(X):
    estimator = KSparseAutoencoder(32, n_active=4, max_iter=2, random_state=0).fit(X)
    copied = pickle.loads(pickle.dumps(estimator))
    assert_array_equal(copied.transform(X), estimator.transform(X))


def test_more_active_components_than_components(X):
    with pytest.raises(ValueError, match=r"n_active=5 is more than n_components=4"):
        KSparseAutoencoder(4, n_active=5).fit(X)


def test_hubers_loss_is_what_is_trained(X):
    estimator = HuberAutoencoder(8, delta=0.1, max_iter=5, random_state=0).fit(X)
    residual = np.abs(estimator.reconstruct(X) - X)
    desired = np.where(residual < 0.1, residual**2 / 2, 0.1 * (residual - 0.05))
    assert_allclose(estimator.reconstruction_error(X, per_feature=True), desired, atol=1e-12)
    assert estimator.validation_loss_curve_[-1] < estimator.validation_loss_curve_[0]
    assert estimator.loss_unit_ == "Huber's loss per feature"


def test_wild_cells_pull_less_at_hubers_loss(X):
    rng = np.random.default_rng(0)
    wild = np.where(rng.uniform(size=X.shape) < 0.02, 20.0, X)
    robust, plain = (
        HuberAutoencoder(8, delta=delta, max_iter=30, random_state=0).fit(wild)
        for delta in (0.1, 1e6)
    )
    errors = [np.abs(model.reconstruct(X) - X).mean() for model in (robust, plain)]
    assert errors[0] < 0.9 * errors[1]
