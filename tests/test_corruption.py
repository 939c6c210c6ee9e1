"""Each corruption against what its definition says about means, variances and shares."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from skae._corruption import NOISES

N_ROWS, N_FEATURES = 20_000, 5
LEVELS = {
    "clipped_gaussian": 0.7,
    "gaussian": 0.7,
    "masking": 0.3,
    "salt_and_pepper": 0.3,
    "swap": 0.3,
}


@pytest.fixture(scope="module")
def x():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N_ROWS, N_FEATURES, generator=generator)
    return x * torch.arange(1, N_FEATURES + 1) + 10.0  # no cell is zero


def corrupt(noise, x, level, seed=0):
    if not isinstance(level, torch.Tensor):
        level = torch.full((len(x), 1), level)
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(seed)
        return NOISES[noise].corrupt(x, level, *x.aminmax(dim=0))


@pytest.mark.parametrize("noise", NOISES)
def test_noise_is_fresh_and_seeded_and_leaves_its_input_alone(x, noise):
    before = x.clone()
    first, again, other = (corrupt(noise, x, LEVELS[noise], seed) for seed in (0, 0, 1))
    assert_array_equal(x, before)
    assert_array_equal(first, again)
    assert (first != other).float().mean() > 0.3
    assert first.dtype == x.dtype
    assert corrupt(noise, x.double(), LEVELS[noise]).dtype == torch.float64


@pytest.mark.parametrize("noise", NOISES)
def test_level_zero_changes_nothing(x, noise):
    assert_array_equal(corrupt(noise, x, 0.0), x)


@pytest.mark.parametrize("noise", NOISES)
def test_every_row_has_its_own_level(x, noise):
    level = torch.where(torch.arange(N_ROWS) % 2 == 0, 0.0, LEVELS[noise])[:, None]
    changed = corrupt(noise, x, level) != x
    assert not changed[::2].any()
    assert changed[1::2].float().mean() > 0.25


def test_gaussian_noise_is_normal_with_the_level_as_standard_deviation(x):
    added = (corrupt("gaussian", x, 0.7) - x).numpy()
    assert stats.kstest(added.ravel(), "norm", args=(0.0, 0.7)).pvalue > 0.01
    assert_allclose(np.cov(added.T), 0.49 * np.eye(N_FEATURES), atol=0.02)
    for column in range(N_FEATURES):
        assert abs(np.corrcoef(added[:, column], x[:, column])[0, 1]) < 0.03


def test_clipped_gaussian_is_gaussian_inside_the_range_of_each_feature(x):
    low, high = x.aminmax(dim=0)
    gaussian, clipped = corrupt("gaussian", x, 20.0), corrupt("clipped_gaussian", x, 20.0)
    assert_array_equal(clipped, np.clip(gaussian.numpy(), low.numpy(), high.numpy()))
    assert ((clipped == low) | (clipped == high)).any(dim=0).all()


def share(hits):
    """Share of each column, which has a standard error of 0.0033 at a share of 0.3."""
    return hits.double().mean(dim=0).numpy()


def test_masking_sets_the_share_of_the_level_to_zero(x):
    noisy = corrupt("masking", x, 0.3)
    masked = noisy == 0.0
    assert_allclose(share(masked), 0.3, atol=0.015)
    assert_array_equal(noisy[~masked], x[~masked])
    # Cells are hit independently of each other.
    assert_allclose(np.corrcoef(masked.numpy().T), np.eye(N_FEATURES), atol=0.03)
    assert (corrupt("masking", x, 1.0) == 0.0).all()


def test_salt_and_pepper_takes_both_ends_of_each_feature_equally_often(x):
    low, high = x.aminmax(dim=0)
    noisy = corrupt("salt_and_pepper", x, 0.3)
    pepper, salt = noisy == low, noisy == high
    assert_allclose(share(pepper), 0.15, atol=0.015)
    assert_allclose(share(salt), 0.15, atol=0.015)
    assert_array_equal(noisy[~pepper & ~salt], x[~pepper & ~salt])
    everything = corrupt("salt_and_pepper", x, 1.0)
    assert ((everything == low) | (everything == high)).all()


def test_swap_takes_the_share_of_the_level_from_other_rows_of_the_same_column(x):
    noisy = corrupt("swap", x, 0.3)
    assert_allclose(share(noisy != x), 0.3, atol=0.015)
    for column in range(N_FEATURES):
        assert np.isin(noisy[:, column], x[:, column]).all()


def test_swap_keeps_the_distribution_of_a_column_and_breaks_its_relation_to_the_others(x):
    x = x[:, :1].expand(-1, N_FEATURES).contiguous()  # five equal columns
    noisy = corrupt("swap", x, 1.0)
    for column in range(N_FEATURES):
        assert stats.ks_2samp(noisy[:, column], x[:, column]).pvalue > 0.01
    assert_allclose(np.corrcoef(noisy.numpy().T), np.eye(N_FEATURES), atol=0.03)
    # A cell that is kept with probability 0.7 keeps that share of its correlation.
    kept = corrupt("swap", x, 0.3).numpy()
    expected = np.full((N_FEATURES, N_FEATURES), 0.49)
    np.fill_diagonal(expected, 1.0)
    assert_allclose(np.corrcoef(kept.T), expected, atol=0.03)


def test_swap_always_takes_another_row():
    x = torch.arange(3.0)[:, None].expand(3, 1000).contiguous()
    noisy = corrupt("swap", x, 1.0)
    assert (noisy != x).all()
    assert_allclose((noisy[0] == 1.0).double().mean(), 0.5, atol=0.06)


def test_swap_of_a_single_row_has_nothing_to_swap():
    x = torch.randn(1, 4)
    assert_array_equal(corrupt("swap", x, 1.0), x)
