import copy
import pickle
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
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
    lowest,
    near_distances,
    nearest_distances,
    neighborhoods,
    sample,
    scaling_of,
    tails_of,
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


def nearest(rows, references, left_out=None):
    return nearest_distances(rows[None], references[None], left_out)[0]


def test_nearest_distances_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    references, rows = rng.normal(size=(200, 5)), rng.normal(size=(30, 5))
    distances = nearest(torch.from_numpy(rows), torch.from_numpy(references))
    wanted = NearestNeighbors(n_neighbors=3).fit(references).kneighbors(rows)[0]
    np.testing.assert_allclose(distances.sum(dim=1), np.square(wanted).mean(axis=1), rtol=1e-10)


@pytest.mark.parametrize("n", [1, 3, 16])
@pytest.mark.parametrize("size", [5, 16, 100, 1024])
def test_the_lowest_numbers_are_found_in_order(size, n):
    numbers = np.random.default_rng(0).normal(size=(4, 7, size))
    n = min(n, size)
    wanted = np.argsort(numbers, axis=2)[..., :n]
    np.testing.assert_array_equal(lowest(torch.from_numpy(numbers), n), wanted)


@pytest.mark.parametrize("shift", [0.0, 1e2, 1e4])
def test_distances_of_float32_rows_do_not_cancel(shift):
    rng = np.random.default_rng(0)
    references = (shift + rng.integers(0, 3, (200, 5))).astype(np.float32)
    distances = nearest(torch.from_numpy(references[:30]), torch.from_numpy(references))
    assert distances.dtype == torch.float32
    wanted = NearestNeighbors(n_neighbors=3, algorithm="kd_tree").fit(references.astype(float))
    squares = np.square(wanted.kneighbors(references[:30].astype(float))[0])
    np.testing.assert_allclose(distances.sum(dim=1), squares.mean(axis=1), rtol=1e-6)


def test_a_reference_is_compared_with_the_others():
    references = np.random.default_rng(0).normal(size=(200, 5))
    distances = nearest(*[torch.from_numpy(references)] * 2, left_out=torch.arange(200))
    wanted = NearestNeighbors(n_neighbors=3).fit(references).kneighbors()[0]  # without itself
    np.testing.assert_allclose(distances.sum(dim=1), np.square(wanted).mean(axis=1), rtol=1e-10)


def test_near_distance_is_the_mean_over_the_closest_tenth_around_a_reference():
    rng = np.random.default_rng(0)
    references, rows = rng.normal(size=(200, 5)), rng.normal(size=(30, 5))
    chosen = np.arange(0, 200, 10)
    groups = NearestNeighbors(n_neighbors=20).fit(references).kneighbors(references[chosen])[1]
    found = neighborhoods(torch.from_numpy(references)[None], torch.from_numpy(chosen))
    distances = near_distances(
        torch.from_numpy(rows)[None], found.centers, found.variances, n_near=20
    )
    squares = np.square(cdist(rows, references))
    wanted = squares[:, groups].mean(axis=2).min(axis=1)
    np.testing.assert_allclose(distances[0].sum(dim=1), wanted, rtol=1e-10)

    own = near_distances(
        torch.from_numpy(references)[None], found.centers, found.variances, 20, found.members
    )
    squares = np.square(cdist(references, references))
    without = [
        min(squares[row, group[group != row]].mean() for group in groups) for row in range(200)
    ]
    np.testing.assert_allclose(own[0].sum(dim=1), without, rtol=1e-10)


def test_tails_are_shares_of_references_as_far_out():
    rng = np.random.default_rng(0)
    references = np.column_stack([rng.normal(size=101), rng.integers(0, 4, 101)])
    edges, values = tails_of(torch.from_numpy(references).float())
    for column in range(2):
        others = references[:, column].astype(np.float32)
        rows = np.r_[np.sort(others), 1e3, -1e3].astype(np.float32)
        not_above = (others <= rows[:, None]).mean(axis=1)
        not_below = (others >= rows[:, None]).mean(axis=1)
        beyond = np.maximum(np.minimum(not_above, not_below), 0.5 / 101)
        places = torch.searchsorted(edges[column], torch.from_numpy(rows))
        found, wanted = values[column][places].numpy(), -np.log(beyond)
        # The one below the median counts as the median.
        np.testing.assert_allclose(np.delete(found, 49), np.delete(wanted, 49), atol=1e-6)
        np.testing.assert_allclose(found[49], wanted[49], atol=0.03)


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
    squashed = views_of(X)[0]
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
        distances = module.distances(z).sum(dim=2).numpy()
    floor, mean, spread = (
        getattr(ensemble.module_, name).double().numpy()[:, None]
        for name in ("floor", "log_mean", "log_spread")
    )
    evidence = -norm.logsf((np.log(distances + floor) - mean) / spread)
    wanted = np.average(evidence, axis=0, weights=ensemble.module_.shares)
    np.testing.assert_allclose(-ensemble.score_samples(X), wanted, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_contributions_sum_to_the_score_in_the_dtype_of_the_rows(ensemble, X, dtype):
    contributions = ensemble.contributions(X.astype(dtype))
    score = ensemble.score_samples(X.astype(dtype))
    assert contributions.dtype == score.dtype == ensemble.expected(X.astype(dtype)).dtype == dtype
    assert contributions.shape == X.shape
    assert np.all(contributions >= 0)
    np.testing.assert_allclose(contributions.sum(axis=1), -score, rtol=1e-5)


def test_dtypes_agree(ensemble, X):
    narrow = X.astype(np.float32)
    wide = narrow.astype(np.float64)
    np.testing.assert_allclose(
        ensemble.score_samples(narrow), ensemble.score_samples(wide), rtol=1e-4
    )
    np.testing.assert_array_equal(
        DenoisingEnsemble(random_state=0).fit(narrow).score_samples(wide),
        DenoisingEnsemble(random_state=0).fit(wide).score_samples(wide),
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


@pytest.mark.parametrize("exponents", [[-20, 3, 0, 20], [-1000, 0, -1015, 1015]])
def test_units_of_the_columns_do_not_matter(ensemble, X, exponents):
    units = 2.0 ** np.array(exponents)  # products with powers of two are exact
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


@pytest.mark.parametrize("setting", ["float64", "inference", "autocast", "no gradients"])
def test_ambient_settings_of_torch_change_nothing(ensemble, X, setting):
    contexts = {
        "float64": nullcontext,
        "inference": torch.inference_mode,
        "autocast": lambda: torch.autocast("cpu"),
        "no gradients": torch.no_grad,
    }
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if setting == "float64" else before)
    try:
        with contexts[setting]():
            other = DenoisingEnsemble(random_state=0).fit(X)
            scores, expected = other.score_samples(X), other.expected(X)
    finally:
        torch.set_default_dtype(before)
    np.testing.assert_array_equal(scores, ensemble.score_samples(X))
    np.testing.assert_array_equal(expected, ensemble.expected(X))


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


@pytest.mark.parametrize("heavy", [1e3, 1e12, 1e300])
@pytest.mark.parametrize("place", [0, 60, 149])
def test_one_row_of_nearly_all_weight_is_normal_and_the_others_are_not(X, heavy, place):
    weights = np.ones(len(X))
    weights[place] = heavy
    ensemble = DenoisingEnsemble(random_state=0).fit(X, sample_weight=weights)
    scores = ensemble.score_samples(X)
    assert np.all(np.isfinite(scores))
    assert np.all(np.isfinite(ensemble.expected(X)))
    differ = np.any(X[place] != X, axis=1)
    assert np.mean(scores[differ] < scores[place]) > 0.9


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


@pytest.fixture(scope="module")
def with_gaps(X):
    gaps = X.copy()
    gaps[np.random.default_rng(0).random(X.shape) < 0.2] = np.nan
    gaps[5] = np.nan
    return gaps


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_unknown_cells_are_no_evidence(ensemble, with_gaps, dtype):
    for model in (ensemble, DenoisingEnsemble(random_state=0).fit(with_gaps.astype(dtype))):
        contributions = model.contributions(with_gaps.astype(dtype))
        assert np.all(contributions[np.isnan(with_gaps)] == 0.0)
        assert np.all(contributions[~np.isnan(with_gaps)] > 0.0)
        scores = model.score_samples(with_gaps.astype(dtype))
        np.testing.assert_allclose(contributions.sum(axis=1), -scores, rtol=1e-5)
        assert scores[5] == 0.0
        known = ~np.isnan(with_gaps).all(axis=1)
        assert -2.0 < scores[known].mean() < -0.3
        assert np.all(np.isfinite(model.expected(with_gaps.astype(dtype))))


def test_a_known_outlier_is_found_whatever_is_unknown_beside_it(with_gaps):
    ensemble = DenoisingEnsemble(random_state=0).fit(with_gaps)
    far = np.full((1, 4), np.nan)
    far[0, 2] = 40.0
    assert ensemble.score_samples(far) < ensemble.score_samples(with_gaps).min()
    assert ensemble.contributions(far).argmax() == 2


def test_rows_with_gaps_are_scored_on_their_own(ensemble, with_gaps):
    together = ensemble.contributions(with_gaps)
    alone = np.concatenate([ensemble.contributions(row[np.newaxis]) for row in with_gaps])
    np.testing.assert_allclose(alone, together, rtol=1e-7, atol=1e-9)


def test_a_column_without_known_cells_is_named(X):
    empty = np.column_stack([X, np.full(len(X), np.nan)])
    with pytest.raises(ValueError, match="no cell is known"):
        DenoisingEnsemble().fit(empty)


def test_wide_tables_with_gaps_are_scored():
    wide = np.random.default_rng(0).normal(size=(30, 80))
    wide[::3, 5] = np.nan
    ensemble = DenoisingEnsemble(random_state=0).fit(wide)
    assert np.all(np.isfinite(ensemble.score_samples(wide)))


def test_evidence_that_sees_foreign_cells_counts_more():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(600, 4))
    related = np.hstack([first, first + 0.01 * rng.normal(size=first.shape)])
    unrelated = rng.normal(size=(600, 8))
    shares = [
        DenoisingEnsemble(random_state=0).fit(table).module_.shares.numpy()
        for table in (related, unrelated)
    ]
    np.testing.assert_allclose([s.sum() for s in shares], 1.0, rtol=1e-5)
    predicted, tails = -2, -1
    assert shares[0][predicted] / shares[0][tails] > 1.5 * shares[1][predicted] / shares[1][tails]


def test_outliers_among_the_rows_of_fit_make_tails_count_more(X):
    normal, contaminated = (
        DenoisingEnsemble(contaminated=value, random_state=0).fit(X).module_.shares
        for value in (False, True)
    )
    assert contaminated[-1] > 2.0 * normal[-1]
