"""Unknown cells in autoencoders."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse, stats
from sklearn.base import clone
from sklearn.utils import get_tags

from skae import PCA, AutoencoderTransformer, DenoisingAutoencoder, VAETransformer
from skae._restorer import Restorer
from skae._unknown import hide

SMALL = {"hidden_layer_sizes": (8,), "max_iter": 3, "random_state": 0}
KINDS = [
    AutoencoderTransformer(2, **SMALL),
    AutoencoderTransformer(2, init="random", **SMALL),
    AutoencoderTransformer(2, loss="gaussian", **SMALL),
    DenoisingAutoencoder(2, **SMALL),
    VAETransformer(2, **SMALL),
]


@pytest.fixture(scope="module")
def X():
    """Rows of a normal distribution with three directions."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(200, 3)) @ rng.normal(size=(3, 6)) + 0.1 * rng.normal(size=(200, 6)) + 5


@pytest.fixture(scope="module")
def gaps(X):
    return np.where(np.random.default_rng(1).random(X.shape) < 0.2, np.nan, X)


@pytest.fixture(params=KINDS, ids=lambda kind: f"{type(kind).__name__}, {kind.init}, {kind.loss}")
def estimator(request):
    return clone(request.param)


def explained(filled, X, gaps):
    """R2 of the unknown cells."""
    unknown = np.isnan(gaps)
    around_mean = (X - X.mean(axis=0))[unknown]
    return 1 - np.square((filled - X)[unknown]).sum() / np.square(around_mean).sum()


def test_unknown_cells_are_taken_and_filled(estimator, X, gaps):
    assert get_tags(estimator).input_tags.allow_nan
    estimator.fit(gaps)
    filled = estimator.impute(gaps)
    assert_array_equal(filled[~np.isnan(gaps)], gaps[~np.isnan(gaps)])
    assert explained(filled, X, gaps) > explained(PCA().fit(gaps).impute(gaps), X, gaps) - 0.02
    assert_array_equal(estimator.transform(gaps), estimator.transform(filled))
    assert_array_equal(estimator.reconstruct(gaps), estimator.reconstruct(filled))


def test_errors_are_means_over_known_cells(estimator, gaps):
    estimator.fit(gaps)
    cells = estimator.reconstruction_error(gaps, per_feature=True)
    assert_array_equal(np.isnan(cells), np.isnan(gaps))
    assert_allclose(estimator.reconstruction_error(gaps), np.nanmean(cells, axis=1), rtol=1e-12)
    filled = estimator.reconstruction_error(estimator.impute(gaps), per_feature=True)
    assert_array_equal(cells[~np.isnan(gaps)], filled[~np.isnan(gaps)])


def test_a_model_of_complete_rows_answers_rows_with_gaps(estimator, X, gaps):
    estimator.fit(X)
    if estimator.init == "pca":
        of_pca = PCA(2).fit(X).impute(gaps)
        assert explained(estimator.impute(gaps), X, gaps) > explained(of_pca, X, gaps) - 0.02
    for method in ("transform", "reconstruct", "score_samples", "expected"):
        assert np.isfinite(getattr(estimator, method)(gaps)).all()
    complete = ~np.isnan(gaps).any(axis=1)
    assert_allclose(estimator.score_samples(gaps)[complete], estimator.score_samples(X[complete]))


def test_what_unknown_cells_of_a_row_are_does_not_matter(estimator, gaps):
    """None, NA, null and masked cells are one thing."""
    first = estimator.fit(gaps).transform(gaps)
    frame = pd.DataFrame(gaps)
    for table in (
        np.ma.array(np.nan_to_num(gaps), mask=np.isnan(gaps)),
        frame.astype("Float64").where(frame.notna(), pd.NA),
        frame.astype(object).where(frame.notna(), None),
    ):
        assert_array_equal(clone(estimator).fit(table).transform(table), first)


def test_rows_without_known_cells_have_an_answer(estimator, gaps):
    nothing = np.full((2, 6), np.nan)
    estimator.fit(np.concatenate([gaps, nothing]))
    filled = estimator.impute(nothing)
    assert_allclose(filled, np.nanmean(gaps, axis=0)[None].repeat(2, 0), atol=1.0)
    assert np.isfinite(estimator.transform(nothing)).all()
    assert_allclose(estimator.reconstruction_error(nothing), 0.0)


def test_columns_without_known_cells_are_an_error(estimator, gaps):
    table = pd.DataFrame(gaps, columns=list("abcdef"))
    for change in ({"c": np.nan}, {"c": np.where(np.arange(200) == 7, 1.0, np.nan)}):
        table = table.assign(**change)
        weights = np.where(np.arange(200) == 7, 0.0, 1.0)
        with pytest.raises(ValueError, match="NaN in all cells of 1 column.*: 'c'"):
            estimator.fit(table, sample_weight=weights)


def test_infinite_cells_are_an_error_that_names_the_column(estimator, gaps):
    bad = gaps.copy()
    bad[3, 4] = np.inf
    with pytest.raises(ValueError, match=r"infinity.*column 4 \(1\)"):
        estimator.fit(bad)
    estimator.fit(gaps)
    for method in ("transform", "impute", "score_samples"):
        with pytest.raises(ValueError, match=r"infinity.*column 4 \(1\)"):
            getattr(estimator, method)(bad)


def test_a_sparse_table_has_no_unknown_cells(estimator, X, gaps):
    with pytest.raises(ValueError, match="not take unknown cells in sparse tables"):
        estimator.fit(sparse.csr_array(gaps))
    estimator.fit(sparse.csr_array(X))
    assert_array_equal(estimator.impute(sparse.csr_array(X)), X)
    assert np.isfinite(estimator.impute(gaps)).all()


def test_partial_fit_takes_unknown_cells(estimator, X, gaps):
    estimator.partial_fit(gaps[:100]).partial_fit(gaps[100:])
    first = PCA().fit(gaps[:100]).impute(gaps)
    assert explained(estimator.impute(gaps), X, gaps) > explained(first, X, gaps) - 0.02


def test_what_is_filled_is_in_the_range_of_the_loss(X):
    shares = stats.logistic.cdf(3 * (X - 5))
    gaps = np.where(np.random.default_rng(0).random(X.shape) < 0.4, np.nan, shares)
    filled = AutoencoderTransformer(2, loss="bernoulli", **SMALL).fit(gaps).impute(gaps)
    assert filled.min() >= 0.0
    assert filled.max() <= 1.0


def test_outside_of_the_range_of_the_loss_is_an_error_beside_gaps(gaps):
    with pytest.raises(ValueError, match="bernoulli.* column 0 of X ranges"):
        AutoencoderTransformer(2, loss="bernoulli", **SMALL).fit(gaps)


def test_contributions_of_unknown_cells_are_zero(gaps):
    model = AutoencoderTransformer(2, **SMALL).fit(gaps)
    contributions = model.contributions(gaps)
    assert not contributions[np.isnan(gaps)].any()
    assert_allclose(contributions.sum(axis=1), -model.score_samples(gaps))


def test_pairs_may_have_gaps_on_either_side(X, gaps):
    noisy = gaps + 0.1
    model = DenoisingAutoencoder(3, **SMALL).fit(noisy, X_clean=gaps[::-1][::-1])
    assert np.abs(model.reconstruct(X + 0.1) - X).mean() < 0.15


def test_rows_for_early_stopping_may_have_gaps(estimator, X, gaps):
    estimator.fit(X, X_val=gaps)
    assert np.isfinite(estimator.validation_loss_curve_).all()


def test_a_linear_autoencoder_stays_at_pca_of_the_known_cells(gaps):
    """PCA is the least squared error that a linear network can have on complete rows."""
    model = AutoencoderTransformer(3, hidden_layer_sizes=(), max_iter=1, random_state=0).fit(gaps)
    axes, _ = np.linalg.qr(model.module_.decoder[0].weight.detach().numpy())
    cosines = np.linalg.svd(PCA(5).fit(gaps).components_[:3] @ axes).S
    assert cosines.min() > 0.999


# Networks that restore hidden cells


@pytest.fixture(scope="module")
def curved():
    """A circle and its distance from a corner: what is unknown follows from what is known."""
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, 600)
    X = np.column_stack([np.cos(angle), np.sin(angle), np.cos(2 * angle), np.sin(2 * angle)])
    return X, np.where(np.random.default_rng(1).random(X.shape) < 0.2, np.nan, X)


def test_what_is_not_linear_is_filled_better_than_by_a_gaussian(curved):
    X, gaps = curved
    model = AutoencoderTransformer(2, max_iter=20, random_state=0).fit(gaps)
    of_gaussian = explained(PCA().fit(gaps).impute(gaps), X, gaps)
    assert explained(model.impute(gaps), X, gaps) > of_gaussian + 0.3
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.impute(gaps), model.impute(gaps))
    other = clone(model).fit(gaps)
    assert_array_equal(other.impute(gaps), model.impute(gaps))


def test_rows_of_a_gaussian_are_filled_by_it(X, gaps):
    """There is nothing to gain, and held-out rows say so."""
    model = AutoencoderTransformer(2, **SMALL).fit(gaps)
    assert model._completion["network"] is None
    assert_allclose(model.impute(gaps), PCA().fit(gaps).impute(gaps), atol=0.2)


def test_few_rows_are_not_overfitted():
    """Columns that do not depend on each other are best filled by their means."""
    X = np.random.default_rng(0).normal(size=(40, 20))
    gaps = np.where(np.random.default_rng(1).random(X.shape) < 0.3, np.nan, X)
    model = AutoencoderTransformer(2, **SMALL).fit(gaps)
    assert explained(model.impute(gaps), X, gaps) > -0.1
    assert explained(PCA().fit(gaps).impute(gaps), X, gaps) < -0.5


def test_units_of_columns_do_not_matter(X, gaps):
    units = np.array([1e-6, 1.0, 1e3, 1e9, 1e-2, 1.0])
    filled = AutoencoderTransformer(2, **SMALL).fit(gaps).impute(gaps)
    scaled = AutoencoderTransformer(2, **SMALL).fit(gaps * units).impute(gaps * units)
    assert_allclose(scaled / units, filled, rtol=1e-4)


def test_hidden_cells_are_known_and_leave_one():
    known = np.random.default_rng(0).random((500, 3)) < 0.5
    known = known[:, [0, 0, 1, 2, 2]]
    hidden = hide(known, [2, 1, 2], np.random.default_rng(1))
    assert not (hidden & ~known).any()
    assert ((known & ~hidden).any(axis=1) == known.any(axis=1)).all()
    assert 0.1 < hidden[known].mean() < 0.5
    assert_array_equal(hidden[:, [0, 3]], hidden[:, [1, 4]])  # features of one cell


def test_the_gradient_of_the_restorer_reaches_every_weight():
    module = Restorer(3)
    with torch.no_grad():
        module.weights[-1].uniform_(-1, 1)
    x = torch.cat([torch.randn(5, 3), torch.ones(5, 3)], dim=1)
    module.loss(x, torch.randn(5, 3), torch.ones(5, 3, dtype=torch.bool)).mean().backward()
    for name, weights in module.named_parameters():
        assert weights.grad.abs().sum() > 0, name


def test_draws_have_the_conditional_distribution(X):
    """Of a row of a normal distribution, in closed form."""
    vae = VAETransformer(3, hidden_layer_sizes=(4,), max_iter=2, random_state=0).fit(X)
    row = np.append(X[0, :4], [np.nan, np.nan])
    draws = vae.impute(row[np.newaxis], n_draws=2000, random_state=0)
    assert draws.shape == (2000, 1, 6)
    assert_array_equal(draws[:, 0, :4], np.tile(X[0, :4], (2000, 1)))
    mean, covariance = X.mean(axis=0), PCA(3).fit(X).get_covariance()
    weights = np.linalg.solve(covariance[:4, :4], covariance[:4, 4:])
    conditional = covariance[4:, 4:] - covariance[4:, :4] @ weights
    assert_allclose(
        draws[:, 0, 4:].mean(axis=0), mean[4:] + (X[0, :4] - mean[:4]) @ weights, atol=0.05
    )
    assert_allclose(np.cov(draws[:, 0, 4:].T), conditional, rtol=0.25, atol=0.01)
    assert_array_equal(vae.impute(row[np.newaxis], n_draws=2, random_state=3)[0, 0, :4], row[:4])
    assert_array_equal(vae.impute(X, n_draws=2), [X, X])
    with pytest.raises(ValueError, match="n_draws=0 must be"):
        vae.impute(X, n_draws=0)


def test_tables_in_files_may_have_gaps(tmp_path, estimator, gaps):
    """They are read into memory."""
    file = np.memmap(tmp_path / "table", dtype=np.float64, mode="w+", shape=gaps.shape)
    file[:] = gaps
    codes = clone(estimator).fit(gaps).transform(gaps)
    assert_allclose(estimator.fit(file).transform(file), codes, rtol=1e-6)
