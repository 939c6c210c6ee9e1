from functools import partial

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.special import expit, log_softmax
from torch.testing import assert_close

from skae import AutoencoderTransformer, DenoisingAutoencoder, VAETransformer
from skae._block_losses import loss_of
from skae._losses import LOSSES
from skae._moments import column_moments
from skae._random import normal_like, private_random_numbers
from skae._rows import Batch, to_rows
from skae._training import Descent, differentiate

UNIT = (3.0, 2.0)  # of counts: three and twice the feature
BLOCKS = [
    ("categorical", 3),
    ("gaussian", 1),
    ("bernoulli", 1),
    ("ordinal", 3),
    ("categorical", 2, 0.5),
    ("squared_error", 2),
    ("negative_binomial", 1, 1.0, UNIT),
    ("absolute_error", 1),
]


@pytest.fixture(scope="module")
def table():
    """Features of the blocks above, (60, 14)."""
    rng = np.random.default_rng(0)
    size = rng.normal(size=60)
    town = np.eye(3)[rng.integers(0, 3, 60)]
    grade = np.digitize(size + 0.5 * rng.normal(size=60), [-0.7, 0.0, 0.7])
    return np.column_stack(
        [
            town,
            size,
            size + rng.normal(size=60) > 0,
            grade[:, None] >= [1, 2, 3],
            np.eye(2)[(size > 0.3).astype(int)],
            size[:, None] + 0.3 * rng.normal(size=(60, 2)),
            (rng.poisson(np.exp(1.0 + 0.5 * size)) - UNIT[0]) / UNIT[1],
            np.abs(size),
        ]
    )


def values(loss, output, target, variance=None, density=False):
    function = loss_of(loss).density.nats if density else loss_of(loss).elementwise
    arguments = [output, target] + ([] if variance is None else [variance])
    return function(*(torch.tensor(np.asarray(x, dtype=np.float64)) for x in arguments)).numpy()


def test_a_category_has_the_nats_of_its_softmax():
    rng = np.random.default_rng(0)
    logits, level = rng.normal(scale=5, size=(20, 4)), rng.integers(0, 4, 20)
    nats = values([("categorical", 4)], logits, np.eye(4)[level])
    desired = -log_softmax(logits, axis=1)[np.arange(20), level]
    assert_allclose(nats.sum(axis=1), desired, rtol=1e-12)


def test_levels_in_order_have_probabilities_that_sum_to_one():
    logits = np.random.default_rng(0).normal(scale=2, size=(1, 4)).repeat(5, axis=0)
    thresholds = np.arange(5)[:, None] > np.arange(4)  # of the five levels
    nats = values([("ordinal", 4)], logits, thresholds)
    assert_allclose(np.exp(-nats.sum(axis=1)).sum(), 1.0, rtol=1e-12)
    # P(at least the second) = P(at least the first) times what is left.
    reached = loss_of([("ordinal", 4)]).composition.activate(torch.tensor(logits))
    assert_allclose(reached, np.cumprod(expit(logits), axis=1), rtol=1e-12)


@pytest.mark.parametrize("dispersion", [1e-6, 0.3, 2.0])
def test_counts_have_the_nats_of_the_negative_binomial_distribution(dispersion):
    rng = np.random.default_rng(0)
    log_rate, counts = rng.normal(1.0, 1.0, size=(30, 1)), rng.poisson(4.0, size=(30, 1))
    block = [("negative_binomial", 1, 1.0, UNIT)]
    nats = values(block, log_rate, (counts - UNIT[0]) / UNIT[1], [dispersion])
    size = 1.0 / (dispersion + 1e-4)
    desired = -stats.nbinom(size, size / (size + np.exp(log_rate))).logpmf(counts)
    assert_allclose(nats, desired, rtol=1e-6)


@pytest.mark.parametrize("density", [True, False])
def test_a_composition_is_made_of_the_losses_of_its_blocks(table, density):
    rng = np.random.default_rng(1)
    output, variance = rng.normal(size=table.shape), rng.uniform(0.2, 2.0, table.shape[1])
    whole = values(BLOCKS, output, table, variance, density)
    start = 0
    for name, width, *more in BLOCKS:
        own = slice(start, start := start + width)
        block = [(name, width, *more)]
        if name in LOSSES:
            entry = LOSSES[name]
            function = entry.density.nats if density else entry.elementwise
            has_variance = entry.density.has_variance if density else entry.learns_variance
            arguments = [output[:, own], table[:, own]] + [variance[own]] * has_variance
            desired = function(*map(torch.tensor, arguments))
        else:
            weight = 1.0 if density or not more else more[0]
            desired = weight * values(block, output[:, own], table[:, own], variance[own], True)
        assert_allclose(whole[:, own], desired, rtol=1e-10)


@pytest.mark.parametrize("density", [True, False])
@pytest.mark.parametrize("known", [None, 0.6])
def test_derivatives_agree_with_automatic_ones(table, density, known):
    rng = np.random.default_rng(2)
    output = torch.tensor(rng.normal(size=table.shape), requires_grad=True)
    variance = torch.tensor(rng.uniform(0.2, 2.0, table.shape[1]), requires_grad=True)
    target, shares = torch.tensor(table), torch.tensor(rng.uniform(size=(len(table), 1)))
    if known is not None:
        shares = shares * torch.tensor(rng.uniform(size=table.shape) < known)
    entry = loss_of(BLOCKS).density if density else loss_of(BLOCKS)
    function = entry.nats if density else entry.elementwise
    total = (function(output, target, variance) * shares).sum()
    total.backward()
    with torch.inference_mode():
        found = entry.with_derivatives(output.detach(), target, shares, variance.detach())
    assert_close(found[0], total.detach(), rtol=1e-10, atol=0)
    assert_close(found[1], output.grad, rtol=1e-9, atol=1e-12)
    assert_close(found[2], variance.grad, rtol=1e-6, atol=1e-10)


def test_draws_have_the_shares_and_means_of_the_blocks():
    mean = np.array([0.2, 0.5, 0.3, 0.1, 0.4, 0.9, 0.6, 0.2, 0.25, 0.75, 1.0, -1.0, 2.0, 0.3])
    variance = np.full(14, 0.3)
    rng = np.random.RandomState(0)
    drawn = loss_of(BLOCKS).density.sample(np.tile(mean, (100_000, 1)), variance, rng)
    assert_allclose(drawn.mean(axis=0), mean, atol=0.02)
    assert_array_equal(drawn[:, :3].sum(axis=1), 1.0)
    assert (np.diff(drawn[:, 5:8]) <= 0).all()  # a level is reached through those below
    counts = UNIT[0] + UNIT[1] * drawn[:, 12]
    assert_array_equal(counts, np.round(counts))
    rate = UNIT[0] + UNIT[1] * mean[12]
    assert_allclose(counts.var(), rate + (0.3 + 1e-4) * rate**2, rtol=0.03)


ESTIMATORS = [
    AutoencoderTransformer(2, hidden_layer_sizes=(8,), loss=BLOCKS, random_state=0),
    AutoencoderTransformer(2, hidden_layer_sizes=(8,), loss=BLOCKS, init="random", sparsity=0.01),
    DenoisingAutoencoder(2, hidden_layer_sizes=(8,), loss=BLOCKS, random_state=0),
    VAETransformer(2, hidden_layer_sizes=(8,), loss=BLOCKS, random_state=0),
]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_the_gradient_that_is_trained_is_that_of_the_loss(estimator, table):
    with private_random_numbers(0, torch.device("cpu")):
        rows = to_rows(table, None, None)
        choice, linear = estimator._choose(rows, False, None)
        linear = estimator._linear_start(rows, choice.n_components, False, linear)
        module = estimator._start(rows, choice, False, linear).double()
        for weights in module.parameters():
            weights.data += 0.3 * normal_like(weights)
    module.train().begin_epoch(1)
    descent = Descent(module, estimator._settings())
    assert not descent.needs_autograd
    rng = np.random.default_rng(0)
    x, weights = torch.tensor(table), torch.linspace(0.1, 1.9, 60, dtype=torch.float64)
    known = torch.tensor(rng.uniform(size=table.shape) < 0.6)
    for batch in (Batch(x), Batch(x, weights=weights, known=known)):
        results = []
        for function in (descent.loss_and_gradients, partial(differentiate, module, "float32")):
            descent.weights.gradients.zero_()
            with private_random_numbers(1, torch.device("cpu")):
                results.append((function(batch), descent.weights.gradients.clone()))
        assert_close(*results, rtol=1e-8, atol=1e-10)
        assert all(weights.grad.any() for weights in module.parameters())


@pytest.mark.parametrize("kind", [AutoencoderTransformer, DenoisingAutoencoder, VAETransformer])
def test_the_start_of_a_network_is_a_useful_code_of_all_blocks(kind, table):
    model = kind(4, loss=BLOCKS, max_iter=1, learning_rate_init=1e-12, random_state=0).fit(table)
    restored = model.reconstruct(table)
    assert_allclose(restored[:, :3].sum(axis=1), 1.0)
    assert (np.diff(restored[:, 5:8]) <= 0).all()
    agreement = (restored[:, 8:10].argmax(axis=1) == table[:, 8:10].argmax(axis=1)).mean()
    assert agreement > 0.9
    assert np.corrcoef(restored[:, 3], table[:, 3])[0, 1] > 0.8
    assert np.corrcoef(restored[:, 12], table[:, 12])[0, 1] > 0.5


def test_the_loss_of_a_row_is_the_mean_over_its_columns(table):
    model = AutoencoderTransformer(2, loss=BLOCKS, max_iter=2, random_state=0).fit(table)
    by_feature = model.reconstruction_error(table, per_feature=True)
    assert_allclose(model.reconstruction_error(table), by_feature.sum(axis=1) / len(BLOCKS))
    assert_allclose(model.contributions(table).sum(axis=1), -model.score_samples(table))


def test_the_scales_of_columns_give_the_factor_analysis_of_mixed_data(table):
    # The indicator matrix over the roots of shares has as many directions of variance one as there
    # are levels but one; numbers are standardized.
    blocks = [("categorical", 3), ("squared_error", 1)]
    features = table[:, :4]
    scales = loss_of(blocks).composition.scales(*column_moments(features, None))
    centred = (features - features.mean(axis=0)) * scales
    category = np.linalg.eigvalsh(np.cov(centred[:, :3].T, bias=True))
    assert_allclose(category, [0, 1, 1], atol=1e-12)
    assert_allclose(centred[:, 3].var(), 1.0)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ([], "has no blocks"),
        ([("softmax", 3)], r"loss\[0\]=\('softmax', 3\) is no block of a loss"),
        ([("bernoulli", 1), ("categorical", 0)], r"loss\[1\]"),
        ([("bernoulli", 1, -1.0)], r"loss\[0\]"),
        ([("bernoulli", 1, np.nan)], r"loss\[0\]"),
        ([3], r"loss\[0\]=3"),
        ([("categorical", 3)], "have 3 features together, but X has 14"),
    ],
)
@pytest.mark.parametrize("kind", [AutoencoderTransformer, VAETransformer])
def test_blocks_that_are_none_are_named(kind, loss, message, table):
    with pytest.raises(ValueError, match=message):
        kind(2, loss=loss).fit(table)


def test_features_outside_the_support_of_their_block_are_named(table):
    wrong = table.copy()
    wrong[3, 1] = 2.0
    message = r"loss of this block takes values in \[0, 1\], but column 1 of X ranges from 0 to 2"
    with pytest.raises(ValueError, match=message):
        VAETransformer(2, loss=BLOCKS).fit(wrong)


def test_a_copy_through_a_file_gives_the_same_results(table, tmp_path):
    import joblib

    model = VAETransformer(2, loss=BLOCKS, max_iter=2, random_state=0).fit(table)
    joblib.dump(model, tmp_path / "model.joblib")
    again = joblib.load(tmp_path / "model.joblib")
    assert_array_equal(again.score_samples(table), model.score_samples(table))
    assert_array_equal(again.sample(5, 0, with_noise=True), model.sample(5, 0, with_noise=True))
