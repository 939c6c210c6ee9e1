import copy
import pickle

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.covariance import LedoitWolf
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from skae._denoising_ensemble import (
    DenoisingEnsemble,
    Experts,
    ledoit_wolf_shrinkage,
    neighbor_distances,
    numbers_of_neighbors,
    sample,
    scaling_of,
)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(DenoisingEnsemble, "_n_steps", 20)


@pytest.fixture(scope="module")
def X():
    return load_iris().data


@pytest.fixture(scope="module")
def ensemble(X):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DenoisingEnsemble, "_n_steps", 20)
        return DenoisingEnsemble(random_state=0).fit(X)


def test_neighbor_distances_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    references, rows = rng.normal(size=(200, 5)), rng.normal(size=(30, 5))
    distances = neighbor_distances(torch.from_numpy(rows), torch.from_numpy(references))
    for n, mine in zip(numbers_of_neighbors(200), distances, strict=True):
        wanted = NearestNeighbors(n_neighbors=n).fit(references).kneighbors(rows)[0]
        np.testing.assert_allclose(mine.sum(dim=1), np.square(wanted).mean(axis=1), rtol=1e-10)


def test_a_reference_is_compared_with_the_others():
    references = np.random.default_rng(0).normal(size=(200, 5))
    distances = neighbor_distances(*[torch.from_numpy(references)] * 2, leave_out=True)
    n = numbers_of_neighbors(200)[1]
    wanted = NearestNeighbors(n_neighbors=n).fit(references).kneighbors()[0]  # without itself
    np.testing.assert_allclose(distances[1].sum(dim=1), np.square(wanted).mean(axis=1), rtol=1e-10)


def views_of(X):
    scaling = scaling_of(X)
    module = Experts(1, X.shape[1], n_axes=scaling.axes.shape[1]).double()
    for name, array in scaling._asdict().items():
        setattr(module, name, torch.from_numpy(np.asarray(array)))
    return module.views(torch.from_numpy(X)).numpy()


def test_third_view_is_decorrelated_with_the_shrunk_covariance():
    rng = np.random.default_rng(0)
    X = StandardScaler().fit_transform(rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6)))
    covariance = LedoitWolf(assume_centered=True).fit(X).covariance_
    decorrelated = views_of(X)[2]
    squared = np.einsum("ij,jk,ik->i", X, np.linalg.inv(covariance), X)
    np.testing.assert_allclose(np.square(decorrelated).sum(axis=1), squared, rtol=1e-8)
    # The symmetric root, and no other one, stays as close to the columns as possible.
    root = np.linalg.lstsq(X, decorrelated)[0]
    np.testing.assert_allclose(root, root.T, atol=1e-8)


@pytest.mark.parametrize("shape", [(300, 6), (30, 6), (20, 50), (1000, 1)])
def test_shrinkage_is_that_of_scikit_learn(shape):
    rng = np.random.default_rng(0)
    X = rng.standard_t(4, shape) * rng.lognormal(size=shape[1])
    variances = np.square(np.linalg.svd(X, compute_uv=False)) / len(X)
    desired = LedoitWolf(assume_centered=True).fit(X).shrinkage_
    np.testing.assert_allclose(ledoit_wolf_shrinkage(X, variances), desired, rtol=1e-9, atol=1e-12)


def test_wide_tables_are_decorrelated_as_well():
    X = StandardScaler().fit_transform(np.random.default_rng(0).normal(size=(20, 50)))
    covariance = LedoitWolf(assume_centered=True).fit(X).covariance_
    squared = np.einsum("ij,jk,ik->i", X, np.linalg.inv(covariance), X)
    np.testing.assert_allclose(np.square(views_of(X)[2]).sum(axis=1), squared, rtol=1e-8)


def test_second_view_keeps_the_order_and_pulls_tails_in():
    X = StandardScaler().fit_transform(np.random.default_rng(0).standard_cauchy((500, 2)))
    squashed = views_of(X)[1]
    np.testing.assert_array_equal(squashed.argsort(axis=0), X.argsort(axis=0))
    assert np.abs(squashed).max() < np.abs(X).max() / 2


def test_equal_weights_draw_every_row_once():
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(sample(100, 100, None, rng), np.arange(100))
    np.testing.assert_array_equal(sample(100, 100, np.full(100, 0.3), rng), np.arange(100))


def test_rows_are_drawn_in_proportion_to_their_weights():
    counts = np.bincount(sample(4, 10, np.array([1.0, 2.0, 3.0, 4.0]), np.random.default_rng(0)))
    assert np.all(np.abs(counts - [1, 2, 3, 4]) <= 1)


def test_evidence_is_that_of_a_normal_tail_of_log_distances(ensemble, X):
    module = copy.deepcopy(ensemble.module_).double()
    with torch.no_grad():
        z = module.standardize(torch.from_numpy(X))
        distances = module.squared_distances(z).sum(dim=2).numpy()
    floor, mean, spread = (
        getattr(ensemble.module_, name).double().numpy()[:, None]
        for name in ("floor", "log_mean", "log_spread")
    )
    evidence = -norm.logsf((np.log(distances + floor) - mean) / spread)
    np.testing.assert_allclose(-ensemble.score_samples(X), evidence.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_contributions_sum_to_the_score_in_the_dtype_of_the_rows(ensemble, X, dtype):
    contributions = ensemble.contributions(X.astype(dtype))
    score = ensemble.score_samples(X.astype(dtype))
    assert contributions.dtype == score.dtype == ensemble.expected(X.astype(dtype)).dtype == dtype
    assert contributions.shape == X.shape
    assert np.all(contributions >= 0)
    np.testing.assert_allclose(contributions.sum(axis=1), -score, rtol=1e-5)


def test_dtypes_agree(ensemble, X):
    np.testing.assert_allclose(
        ensemble.score_samples(X.astype(np.float32)), ensemble.score_samples(X), rtol=1e-2
    )


def test_a_spoilt_cell_gets_the_blame_and_is_expected_in_the_usual_range(ensemble, X):
    spoilt = X[:20].copy()
    spoilt[:, 2] += 20.0
    contributions = ensemble.contributions(spoilt)
    assert np.all(contributions.argmax(axis=1) == 2)
    expected = ensemble.expected(spoilt)
    assert np.all(expected >= X.min(axis=0) - 1e-6)
    assert np.all(expected <= X.max(axis=0) + 1e-6)
    assert np.all(ensemble.score_samples(spoilt) < ensemble.score_samples(X).min())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_typo_in_a_training_row_is_not_expected_of_the_row_itself(X, dtype):
    with_typo = X.astype(dtype)
    with_typo[7, 2] = 70.0
    expected = DenoisingEnsemble(random_state=0).fit(with_typo).expected(with_typo)
    assert X[:, 2].min() - 1e-3 <= expected[7, 2] <= X[:, 2].max() + 1e-3


def test_score_of_normal_rows_is_about_minus_one(ensemble, X):
    assert -1.5 < ensemble.score_samples(X).mean() < -0.5


def test_malignant_tumours_are_found(monkeypatch):
    monkeypatch.setattr(DenoisingEnsemble, "_n_steps", 200)
    X, benign = load_breast_cancer(return_X_y=True)
    normal = np.flatnonzero(benign)
    ensemble = DenoisingEnsemble(random_state=0).fit(X[normal[::2]])
    scored = np.setdiff1d(np.arange(len(X)), normal[::2])
    auroc = roc_auc_score(benign[scored], ensemble.score_samples(X[scored]))
    assert auroc > 0.93
    nearest = NearestNeighbors(n_neighbors=5)
    scaler = StandardScaler().fit(X[normal[::2]])
    nearest.fit(scaler.transform(X[normal[::2]]))
    distance = nearest.kneighbors(scaler.transform(X[scored]))[0][:, -1]
    assert auroc > roc_auc_score(benign[scored], -distance) - 0.01


def test_units_of_the_columns_do_not_matter(ensemble, X):
    units = 2.0 ** np.array([-20, 3, 0, 20])  # products with powers of two are exact
    rescaled = DenoisingEnsemble(random_state=0).fit(X * units)
    np.testing.assert_allclose(
        rescaled.score_samples(X * units), ensemble.score_samples(X), rtol=1e-6
    )
    np.testing.assert_allclose(rescaled.expected(X * units), ensemble.expected(X) * units)


def test_fit_is_deterministic_and_leaves_global_randomness_alone(ensemble, X):
    before = torch.get_rng_state(), np.random.get_state()[1]
    again = DenoisingEnsemble(random_state=0).fit(X)
    np.testing.assert_array_equal(again.score_samples(X), ensemble.score_samples(X))
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])
    other = DenoisingEnsemble(random_state=1).fit(X)
    assert not np.array_equal(other.score_samples(X), ensemble.score_samples(X))


def test_rows_are_scored_on_their_own(ensemble, X):
    for method in ("contributions", "expected"):
        together = getattr(ensemble, method)(X)
        alone = np.concatenate([getattr(ensemble, method)(row[np.newaxis]) for row in X])
        np.testing.assert_allclose(alone, together, rtol=1e-7, atol=1e-9)


def test_memory_is_bounded_by_scoring_wide_rows_in_parts(ensemble, X, monkeypatch):
    together = ensemble.contributions(X)
    monkeypatch.setattr(Experts, "max_cells", 40)
    np.testing.assert_allclose(ensemble.contributions(X), together, rtol=1e-7, atol=1e-9)


def test_pickle_holds_no_torch_object(ensemble, X):
    stored = pickle.dumps(ensemble)
    assert b"torch" not in stored
    np.testing.assert_array_equal(pickle.loads(stored).score_samples(X), ensemble.score_samples(X))


def test_rows_of_weight_zero_are_not_seen(X):
    weights = np.r_[np.ones(100), np.zeros(50)]
    weighted = DenoisingEnsemble(random_state=0).fit(X, sample_weight=weights)
    np.testing.assert_array_equal(
        weighted.score_samples(X),
        DenoisingEnsemble(random_state=0).fit(X[:100], sample_weight=np.ones(100)).score_samples(X),
    )
    with pytest.raises(ValueError, match="leaves 1 row of positive weight"):
        DenoisingEnsemble().fit(X, sample_weight=np.r_[1.0, np.zeros(149)])


def test_heavy_rows_become_more_normal(X):
    weights = np.where(load_iris().target == 2, 5.0, 0.2)
    light = DenoisingEnsemble(random_state=0).fit(X, sample_weight=6.0 - weights)
    heavy = DenoisingEnsemble(random_state=0).fit(X, sample_weight=weights)
    virginica = X[load_iris().target == 2]
    assert heavy.score_samples(virginica).mean() > light.score_samples(virginica).mean()


DEGENERATE = {
    "constant": np.ones((20, 3)),
    "a constant column": np.column_stack([np.arange(20.0), np.full(20, 5e6)]),
    "two rows": np.array([[0.0, 1.0], [2.0, 3.0]]),
    "the same row twice": np.ones((2, 3)),
    "one column": np.arange(20.0)[:, np.newaxis],
    "two cells": np.array([[1.0], [2.0]]),
    "few distinct rows": np.repeat(np.random.default_rng(0).normal(size=(3, 4)), 20, axis=0),
    "large": 1e6 * np.random.default_rng(0).normal(size=(30, 4)) + 1e9,
    "wide": np.random.default_rng(0).normal(size=(5, 40)),
    "collinear": np.arange(60.0).reshape(20, 3),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_tables_are_scored(name, dtype):
    table = DEGENERATE[name].astype(dtype)
    ensemble = DenoisingEnsemble(random_state=0).fit(table)
    for rows in (table, table + 1, np.full_like(table, 1e30), np.full_like(table, -1e-30)):
        contributions = ensemble.contributions(rows)
        assert np.all(np.isfinite(contributions))
        assert np.all(np.isfinite(ensemble.expected(rows)))
        np.testing.assert_allclose(
            contributions.sum(axis=1), -ensemble.score_samples(rows), rtol=1e-5
        )
    assert np.all(
        ensemble.score_samples(np.full_like(table, 1e30)) < ensemble.score_samples(table).min()
    )


def test_failed_fit_leaves_the_earlier_model(ensemble, X):
    model = pickle.loads(pickle.dumps(ensemble))
    with pytest.raises(ValueError, match="NaN"):
        model.fit(np.full((5, 4), np.nan))
    np.testing.assert_array_equal(model.score_samples(X), ensemble.score_samples(X))


@pytest.mark.parametrize(("name", "value"), [("n_estimators", 0), ("device", "abacus")])
def test_bad_parameters_are_named(X, name, value):
    with pytest.raises(ValueError, match=name):
        DenoisingEnsemble(**{name: value}).fit(X)
