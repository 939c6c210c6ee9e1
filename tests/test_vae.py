"""VAETransformer against closed forms, quadrature and scikit-learn's linear models."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit, logsumexp
from scipy.stats import bernoulli, multivariate_normal, norm
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.distributions import Normal
from torch.distributions import kl_divergence as kl_of_distributions

from skae import VAETransformer
from skae._losses import VARIANCE_FLOOR
from skae._vae import (
    LARGEST_LOGIT,
    cubature_points,
    kl_divergence,
    logit_of,
    normal_points,
    posterior_variance,
)
from skae.networks import Conv2dNetwork, RecurrentNetwork

START = {"early_stopping": False, "learning_rate_init": 1e-30, "max_iter": 1, "random_state": 0}
UNTRAINED = {"n_clusters": 1, **START}
QUICK = {"hidden_layer_sizes": (8,), "max_iter": 5, "random_state": 0}


@pytest.fixture(scope="module")
def iris():
    return StandardScaler().fit_transform(load_iris().data)


@pytest.fixture(scope="module")
def cancer():
    return StandardScaler().fit_transform(load_breast_cancer().data)


@pytest.fixture(scope="module")
def digits():
    return load_digits().data[:600] / 16.0


@pytest.fixture(scope="module")
def trained(iris):
    return VAETransformer(1, early_stopping=False, init="random", **QUICK).fit(iris)


def network_of_a_user(n_features, n_components):
    return nn.Linear(n_features, n_components), nn.Linear(n_components, n_features)


# Mathematics


def test_divergence_is_that_of_normal_distributions():
    mean, variance = torch.rand(2, 20, 3, generator=torch.Generator().manual_seed(0))
    posterior = Normal(mean, variance.sqrt())
    desired = kl_of_distributions(posterior, Normal(0.0, 1.0)).sum(dim=-1)
    assert_allclose(kl_divergence(mean, variance), desired, rtol=1e-5)


@settings(deadline=None, max_examples=30)
@given(n_components=st.integers(1, 70))
def test_cubature_is_exact_for_third_degree_polynomials(n_components):
    points = cubature_points(n_components).numpy()
    assert len(points) >= max(32, 2 * n_components)
    assert_allclose(points.mean(axis=0), 0.0, atol=1e-12)
    assert_allclose(points.T @ points / len(points), np.eye(n_components), atol=1e-12)
    cubes = np.einsum("pi,pj,pk->ijk", points, points, points[:, :3])
    assert_allclose(cubes, 0.0, atol=1e-9)


def test_points_for_importance_sampling_are_standard_normal():
    points = normal_points(3, 4096).numpy()
    assert_allclose(np.quantile(points, [0.1, 0.5, 0.9], axis=0)[:, 1], norm.ppf([0.1, 0.5, 0.9]),
                    atol=0.01)  # fmt: skip
    assert_allclose(np.cov(points.T), np.eye(3), atol=0.02)
    assert_array_equal(points[:10], normal_points(3, 10))


def test_the_variance_is_smooth_and_bounded():
    logit = torch.linspace(-1e4, 1e4, 20001, dtype=torch.float64, requires_grad=True)
    variance = posterior_variance(logit)
    assert variance.min() >= np.exp(-20.0)
    assert variance.max() <= 1.0 + 1e-8
    (slope,) = torch.autograd.grad(variance.log().sum(), logit)
    assert (slope >= 0.0).all()
    assert slope.max() < 1.0


def test_logit_inverts_the_variance():
    logit = torch.linspace(-14.0, LARGEST_LOGIT, 50, dtype=torch.float64)
    assert_allclose(logit_of(posterior_variance(logit)), logit, rtol=1e-6)
    assert logit_of(torch.ones(1)) == LARGEST_LOGIT
    assert torch.isfinite(logit_of(torch.zeros(1)))


# The anchor


@pytest.mark.parametrize("n_components", [1, 2, 7, 29, 30])
def test_without_training_the_bound_is_the_log_density_of_pca(cancer, n_components):
    vae = VAETransformer(n_components, **UNTRAINED).fit(cancer)
    desired = PCA(n_components, svd_solver="full").fit(cancer).score_samples(cancer)
    assert_allclose(vae.score_samples(cancer), desired, atol=1e-3)
    vae.set_params(n_importance_samples=7)  # of the exact posterior, any draws give the density
    assert_allclose(vae.score_samples(cancer), desired, atol=1e-3)


def test_without_training_the_posterior_is_that_of_probabilistic_pca(cancer):
    vae = VAETransformer(4, **UNTRAINED).fit(cancer)
    pca = PCA(4, svd_solver="full").fit(cancer)
    # Equations 12.41 to 12.42 of Bishop (2006), with components in the order and sign of PCA.
    loadings = pca.components_.T * np.sqrt(pca.explained_variance_ - pca.noise_variance_)
    matrix = loadings.T @ loadings + pca.noise_variance_ * np.eye(4)
    desired_mean = (cancer - pca.mean_) @ loadings @ np.linalg.inv(matrix)
    desired_std = np.sqrt(pca.noise_variance_ * np.diag(np.linalg.inv(matrix)))
    mean, std = vae.posterior(cancer)
    assert_allclose(np.abs(mean), np.abs(desired_mean), atol=1e-4)
    assert_allclose(std, np.broadcast_to(desired_std, std.shape), rtol=1e-4)
    assert_array_equal(vae.transform(cancer), mean)
    assert_allclose(vae.noise_variance_, pca.noise_variance_, rtol=1e-5)


def test_a_fixed_noise_variance_gives_the_best_linear_model_for_it(cancer):
    fixed = VAETransformer(3, noise_variance=0.7, **UNTRAINED).fit(cancer)
    assert fixed.noise_variance_ == 0.7
    values, vectors = np.linalg.eigh(np.cov(cancer.T))
    loadings = vectors[:, -3:] * np.sqrt(values[-3:] - 0.7)
    covariance = loadings @ loadings.T + 0.7 * np.eye(30)
    desired = multivariate_normal(cancer.mean(axis=0), covariance).logpdf(cancer)
    assert_allclose(fixed.score_samples(cancer), desired, atol=1e-3)
    trained = fixed.set_params(learning_rate_init="auto", max_iter=3).fit(cancer)
    assert trained.noise_variance_ == 0.7


@pytest.mark.parametrize("early_stopping", [False, True])
def test_probabilistic_pca_is_returned_where_training_does_not_help(early_stopping):
    X = np.random.default_rng(0).normal(size=(300, 6)) * [3, 2, 1, 1, 1, 1]
    vae = VAETransformer(
        2, early_stopping=early_stopping, learning_rate_init=0.5, max_iter=3, random_state=0
    ).fit(X)
    assert_allclose(vae.score(X), PCA(2, svd_solver="full").fit(X).score(X), atol=1e-3)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("loss", ["squared_error", "gaussian"])
def test_training_improves_the_bound(digits, early_stopping, loss):
    train, test = digits[::2], digits[1::2]
    noisy = np.random.default_rng(0).normal(0.0, 0.05, train.shape)  # no pixel is constant
    vae = VAETransformer(
        6, loss=loss, early_stopping=early_stopping, max_iter=15, random_state=0
    ).fit(train + noisy)
    pca = PCA(6).fit(train + noisy)
    assert vae.score(train + noisy) > pca.score(train + noisy) + 1.0
    assert vae.score(test + noisy) > pca.score(test + noisy) + 1.0


# The clusters


def covariances_of(vae):
    """Means and covariances of rows in each cluster of a linear model, from its decoder."""
    prior, loadings = vae.module_.prior, vae.module_.decoder.linear.weight.detach().numpy()
    shape = (vae.n_clusters_, vae.n_components_, vae.n_components_)
    within = prior.loadings.numpy().reshape(shape).astype(float) @ loadings.T
    noise = vae.noise_variance_ * np.eye(len(loadings))
    return vae.inverse_transform(prior.centers.numpy().astype(float)), [
        axes.T @ axes + noise for axes in within
    ]


@pytest.mark.parametrize("parameters", [{"n_components": 2}, {"n_components": 4}, {}])
@pytest.mark.parametrize("loss", ["squared_error", "gaussian"])
def test_without_training_the_bound_is_the_log_density_of_a_mixture(iris, parameters, loss):
    vae = VAETransformer(n_clusters=3, loss=loss, **parameters, **START).fit(iris)
    if loss == "gaussian":
        assert_allclose(vae.noise_variance_, vae.noise_variance_[0])
        vae.noise_variance_ = vae.noise_variance_[0]
    shares = np.exp(vae.module_.prior.log_shares.numpy().astype(float))
    means, covariances = covariances_of(vae)
    logs = [
        np.log(share) + multivariate_normal(mean, covariance).logpdf(iris)
        for share, mean, covariance in zip(shares, means, covariances, strict=True)
    ]
    desired = logsumexp(logs, axis=0)
    assert_allclose(vae.score_samples(iris), desired, atol=1e-3)
    assert desired.mean() > PCA(vae.n_components_).fit(iris).score(iris) + 0.3
    vae.set_params(n_importance_samples=7)
    assert_allclose(vae.score_samples(iris), desired, atol=1e-3)
    # The posterior of the code is what the mixture says of it.
    memberships = np.exp(np.stack(logs) - desired)
    expected = sum(
        membership[:, np.newaxis]
        * (
            mean
            + (iris - mean)
            @ np.linalg.solve(covariance, covariance - vae.noise_variance_ * np.eye(4))
        )
        for membership, mean, covariance in zip(memberships, means, covariances, strict=True)
    )
    assert_allclose(vae.reconstruct(iris), expected, atol=1e-4)


def test_the_mixture_is_that_of_scikit_learn_where_clusters_are_apart():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(3, 4)) * 8.0
    X = np.concatenate([center + rng.normal(size=(400, 4)) * [2, 1, 1, 0.3] for center in centers])
    desired = GaussianMixture(3, random_state=0).fit(X)
    vae = VAETransformer(random_state=0, n_clusters=3, **{k: START[k] for k in list(START)[:3]})
    assert_allclose(vae.fit(X).score(X), desired.score(X), atol=0.02)
    sample = vae.sample(20_000, random_state=0, with_noise=True)
    assert_allclose(sample.mean(axis=0), X.mean(axis=0), atol=0.2)
    assert_allclose(np.cov(sample.T), np.cov(X.T), atol=0.06 * np.cov(X.T).max())


@pytest.mark.parametrize("n_clusters", [1, 2])
def test_the_number_of_clusters_is_that_of_the_rows(n_clusters):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 3)) + 10.0 * rng.integers(0, n_clusters, (500, 1))
    assert VAETransformer(**START).fit(X).n_clusters_ == n_clusters


def test_the_length_of_the_code_is_that_of_probabilistic_pca():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 12)) + 0.1 * rng.normal(size=(400, 12))
    vae = VAETransformer(**START).fit(X)
    scores = [cross_val_score(PCA(k, svd_solver="full"), X, cv=5).mean() for k in range(1, 12)]
    assert vae.n_components_ == np.argmax(scores) + 1 == 3


def test_one_row_far_away_does_not_decide_the_length_of_the_code():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(700, 3)) @ rng.normal(size=(3, 8)) + 0.1 * rng.normal(size=(700, 8))
    X[5, 4] = 500.0
    vae = VAETransformer(n_clusters=1, **START).fit(X)
    assert 3 <= vae.n_components_ <= 4


def test_scores_with_clusters_are_bounds_of_the_log_density():
    rng = np.random.default_rng(0)
    z = 3.0 * rng.integers(0, 2, 300) - 1.5 + rng.normal(size=300)
    X = np.stack([z, np.square(z) / 10.0], axis=1) + 0.3 * rng.normal(size=(300, 2))
    vae = VAETransformer(1, n_clusters=2, early_stopping=False, **QUICK | {"max_iter": 30}).fit(X)
    prior, z = vae.module_.prior, np.linspace(-6.0, 6.0, 4001)
    in_clusters = norm.logpdf(z, prior.centers.numpy(), np.abs(prior.loadings.numpy()))
    log_density_of_codes = logsumexp(prior.log_shares.numpy()[:, np.newaxis] + in_clusters, axis=0)
    means = vae.inverse_transform(z[:, np.newaxis])
    log_likelihood = np.stack(
        [norm.logpdf(x, means, np.sqrt(vae.noise_variance_)).sum(axis=1) for x in X]
    )
    density = logsumexp(log_likelihood + log_density_of_codes, axis=1) + np.log(z[1] - z[0])
    bound = vae.score_samples(X)
    assert (bound <= density + 0.05).all()
    exact = vae.set_params(n_importance_samples=5000).score_samples(X)
    assert_allclose(exact, density, atol=0.03)
    assert bound.mean() < density.mean()


@pytest.mark.parametrize("parameters", [{"init": "random"}, {"network": network_of_a_user}])
def test_clusters_need_the_linear_code(iris, parameters):
    with pytest.raises(ValueError, match="n_clusters=2 needs the dense network"):
        VAETransformer(2, n_clusters=2, **parameters, max_iter=2).fit(iris)
    assert VAETransformer(2, **parameters, max_iter=2).fit(iris).n_clusters_ == 1


def test_more_clusters_than_rows_differ_become_fewer():
    X = np.repeat([[0.0, 1.0], [5.0, -3.0]], 10, axis=0)
    vae = VAETransformer(1, n_clusters=5, **QUICK).fit(X)
    assert vae.n_clusters_ <= 2
    assert np.isfinite(vae.score_samples(X)).all()


def test_rows_far_from_all_clusters_have_finite_codes(iris):
    vae = VAETransformer(2, n_clusters=3, **QUICK).fit(iris)
    far = np.array([[1e25, 0.0, 0.0, 0.0]])
    for X in (far, far.astype(np.float32)):
        assert np.isfinite(vae.transform(X)).all()
        assert np.isfinite(vae.score_samples(X)).all()


def test_a_code_longer_than_the_row_is_allowed_with_clusters(iris):
    vae = VAETransformer(6, n_clusters=3, **START).fit(iris)
    shorter = VAETransformer(4, n_clusters=3, **START).fit(iris)
    assert_allclose(vae.score_samples(iris), shorter.score_samples(iris), atol=3e-3)
    assert np.isfinite(vae.set_params(learning_rate_init="auto", max_iter=3).fit(iris).score(iris))


def test_passes_and_continued_fits_keep_the_clusters(iris):
    vae = VAETransformer(2, n_clusters="auto", **QUICK).partial_fit(iris)
    n_clusters = vae.n_clusters_
    assert vae.partial_fit(iris[:10]).n_clusters_ == n_clusters > 1
    continued = VAETransformer(2, warm_start=True, **QUICK).fit(iris)
    first = continued.n_clusters_
    assert continued.fit(iris[:60]).n_clusters_ == first


def test_bernoulli_starts_near_the_tangent_of_pca(digits):
    vae = VAETransformer(2, loss="bernoulli", **UNTRAINED).fit(digits)
    mean = digits.mean(axis=0)
    assert_allclose(
        vae.inverse_transform(np.zeros((1, 2)))[0], mean.clip(1e-3, 1 - 1e-3), atol=1e-5
    )
    assert vae.noise_variance_ is None


# The bound


def log_density_by_quadrature(vae, X):
    """log p(x) for a code of one number, on a fine grid of codes."""
    z = np.linspace(-8.0, 8.0, 4001)
    means = vae.inverse_transform(z[:, np.newaxis])
    if vae.noise_variance_ is None:
        log_likelihood = np.stack([bernoulli.logpmf(x, means).sum(axis=1) for x in X])
    else:
        scale = np.sqrt(vae.noise_variance_)
        log_likelihood = np.stack([norm.logpdf(x, means, scale).sum(axis=1) for x in X])
    return logsumexp(log_likelihood + norm.logpdf(z), axis=1) + np.log(z[1] - z[0])


@pytest.mark.parametrize("loss", ["squared_error", "gaussian", "bernoulli"])
def test_scores_are_bounds_of_the_log_density(iris, loss):
    X = (iris > 0).astype(float) if loss == "bernoulli" else iris
    vae = VAETransformer(1, loss=loss, init="random", **QUICK).fit(X)
    density = log_density_by_quadrature(vae, X)
    bound = vae.score_samples(X)
    # The expectation in the bound is taken over few points, which is exact to about 0.05 nats.
    assert (bound <= density + 0.05).all()
    assert bound.mean() < density.mean()
    tighter = vae.set_params(n_importance_samples=20).score_samples(X)
    exact = vae.set_params(n_importance_samples=20_000).score_samples(X)
    assert bound.mean() < tighter.mean() < density.mean() + 1e-2
    assert_allclose(exact, density, atol=0.02)


def test_the_bound_agrees_with_many_draws(iris):
    vae = VAETransformer(2, init="random", early_stopping=False, **QUICK).fit(iris)
    mean, std = vae.posterior(iris)
    draws = np.random.default_rng(0).normal(size=(4000, 1, 2)) * std + mean
    decoded = vae.inverse_transform(draws.reshape(-1, 2)).reshape(4000, *iris.shape)
    likelihood = norm.logpdf(iris, decoded, np.sqrt(vae.noise_variance_)).sum(axis=-1)
    divergence = (mean**2 + std**2 - 1.0 - 2.0 * np.log(std)).sum(axis=1) / 2.0
    desired = likelihood.mean(axis=0) - divergence
    error = likelihood.std(axis=0) / np.sqrt(4000)
    assert (np.abs(vae.score_samples(iris) - desired) < 5.0 * error + 0.01).all()


def test_importance_samples_take_effect_without_a_new_fit(trained, iris):
    before = trained.score_samples(iris)
    other = clone(trained).set_params(n_importance_samples=0)
    other.__dict__.update({k: v for k, v in vars(trained).items() if k.endswith("_")})
    other._fitted_loss = trained._fitted_loss
    with pytest.raises(ValueError, match="n_importance_samples"):
        other.score_samples(iris)
    assert (other.set_params(n_importance_samples=50).score_samples(iris) != before).all()


# The loss


@pytest.mark.parametrize(("beta", "beta_warmup"), [(1.0, 0), (0.0, 0), (4.0, 3)])
def test_the_parts_add_up_to_the_loss(iris, beta, beta_warmup):
    weights = np.random.default_rng(0).uniform(0.5, 2.0, len(iris))
    vae = VAETransformer(2, beta=beta, beta_warmup=beta_warmup, **QUICK)
    vae.fit(iris, sample_weight=weights)
    betas = beta * np.minimum(1.0, np.arange(1, vae.n_iter_ + 1) / max(beta_warmup, 1))
    total = vae.reconstruction_loss_curve_ + betas * vae.kl_curve_
    assert_allclose(vae.loss_curve_, total, rtol=1e-5)


def test_the_loss_is_the_negative_bound_in_nats(iris):
    vae = VAETransformer(2, **UNTRAINED).fit(iris)
    # A single epoch at a vanishing rate: the loss of many rows, one draw each.
    assert_allclose(vae.loss_curve_[0], -vae.score(iris), atol=0.3)
    module, x = vae.module_, torch.tensor(iris, dtype=torch.float32)
    monitored = module.total(module.loss(x)).mean().item()
    assert_allclose(monitored, -vae.score(iris), atol=0.25)
    assert monitored == module.total(module.loss(x)).mean().item()


@pytest.mark.parametrize("n_clusters", [1, 3])
def test_gradients_are_those_of_finite_differences(iris, n_clusters):
    vae = VAETransformer(2, loss="gaussian", n_clusters=n_clusters, **QUICK).fit(iris)
    module = vae.module_.double()
    x = torch.tensor(iris[:5])
    parameters = dict(module.named_parameters())

    def loss(*values):
        named = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(
            Loss(module), {f"module.{k}": v for k, v in named.items()}, x
        )

    assert torch.autograd.gradcheck(loss, tuple(parameters.values()), fast_mode=True)


class Loss(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module.total(self.module.loss(x)).sum()


def test_a_larger_beta_gives_a_smaller_divergence(iris):
    parameters = {"early_stopping": False, **QUICK, "max_iter": 30}
    divergences = [
        VAETransformer(2, beta=beta, **parameters).fit(iris).kl_curve_[-1]
        for beta in (0.1, 1.0, 8.0)
    ]
    assert divergences[0] > divergences[1] > divergences[2]


def test_patience_begins_after_the_warm_up(iris):
    vae = VAETransformer(
        2, beta=50.0, beta_warmup=12, n_iter_no_change=1, max_iter=30, early_stopping=False,
        tol=1e3, hidden_layer_sizes=(4,), random_state=0,
    ).fit(iris)  # fmt: skip
    assert vae.n_iter_ == 13  # the first full epoch is progress, the second one is none


def test_passes_count_as_epochs_of_the_warm_up(iris):
    vae = VAETransformer(2, beta_warmup=4, **QUICK)
    for _ in range(3):
        vae.partial_fit(iris)
    betas = np.array([0.25, 0.5, 0.75])
    total = vae.reconstruction_loss_curve_ + betas * vae.kl_curve_
    assert_allclose(vae.loss_curve_, total, rtol=1e-5)


def test_warm_start_continues_the_curves(iris):
    vae = VAETransformer(2, warm_start=True, **QUICK).fit(iris)
    first = list(vae.kl_curve_)
    vae.fit(iris)
    assert vae.kl_curve_[: len(first)] == first
    assert len(vae.kl_curve_) == len(vae.loss_curve_) == vae.n_iter_


@pytest.mark.parametrize("solver", ["adam", "adamw", "sgd", "adadelta", "rmsprop"])
def test_the_noise_variance_follows_the_residuals(iris, solver):
    vae = VAETransformer(
        2, solver=solver, init="random", early_stopping=False, max_iter=150, n_iter_no_change=150,
        batch_size=16, learning_rate="constant", hidden_layer_sizes=(8,), random_state=0,
    ).fit(iris)  # fmt: skip
    mean, std = vae.posterior(iris)
    draws = np.random.default_rng(0).normal(size=(200, 1, 2)) * std + mean
    decoded = vae.inverse_transform(draws.reshape(-1, 2)).reshape(200, *iris.shape)
    # The most likely variance given everything else is the mean squared residual.
    tolerance = 0.3 if solver == "sgd" else 0.2  # whose steps are as large as the gradients
    assert_allclose(vae.noise_variance_, np.square(decoded - iris).mean(), rtol=tolerance)


# Components and networks


def test_unused_components_are_counted_and_have_the_prior_as_posterior(iris):
    # Of four components one has the variance of the noise, so that it carries nothing.
    vae = VAETransformer(4, n_clusters=1, early_stopping=False, **QUICK).fit(iris)
    mean, std = vae.posterior(iris)
    active = mean.var(axis=0) > 0.01
    assert vae.active_units_ == active.sum() == 3
    assert (std[:, ~active] > 0.99).all()
    assert (std[:, active].mean(axis=0) < 0.9).all()


@pytest.mark.parametrize("network", [
    Conv2dNetwork((8, 8), (4,)), RecurrentNetwork((8, 8), 6), network_of_a_user,
])  # fmt: skip
@pytest.mark.parametrize("loss", ["squared_error", "bernoulli"])
def test_every_network_becomes_a_density(digits, network, loss):
    vae = VAETransformer(3, network=network, loss=loss, max_iter=5, random_state=0).fit(digits)
    assert vae.transform(digits).shape == (600, 3)
    assert vae.sample(4, random_state=0).shape == (4, 64)
    assert np.diff([vae.loss_curve_[0], vae.loss_curve_[-1]]) < 0.0
    assert vae.score_samples(digits).shape == (600,)


# Samples


def test_samples_have_the_moments_of_the_model(iris):
    vae = VAETransformer(2, **UNTRAINED).fit(iris)
    sample = vae.sample(40_000, random_state=0, with_noise=True)
    assert_allclose(
        np.cov(sample.T), PCA(2, svd_solver="full").fit(iris).get_covariance(), atol=0.03
    )
    assert_allclose(sample.mean(axis=0), iris.mean(axis=0), atol=0.03)
    smooth = vae.sample(3, random_state=0)
    z = np.random.RandomState(0).standard_normal((3, 2))
    assert_array_equal(smooth, vae.inverse_transform(z))


@pytest.mark.parametrize("parameters", [{"n_components": 3}, {}])
def test_samples_of_a_wide_table_have_its_covariance(parameters):
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(2000, 3)))[0].T
    X = rng.normal(size=(150, 3)) * [60.0, 40.0, 25.0] @ axes + rng.normal(size=(150, 2000))
    vae = VAETransformer(**parameters, **START).fit(X)
    sample = vae.sample(150, random_state=0, with_noise=True)
    assert_allclose(sample.var(axis=0).sum(), X.var(axis=0).sum(), rtol=0.25)
    desired, actual = (PCA(3, svd_solver="full").fit(rows) for rows in (X, sample))
    # A variance of 150 rows has a relative standard error of 0.12.
    assert_allclose(actual.explained_variance_, desired.explained_variance_, rtol=0.4)
    assert_allclose(actual.noise_variance_, desired.noise_variance_, rtol=0.1)
    assert np.linalg.svd(actual.components_ @ desired.components_.T)[1].min() > 0.95


def test_samples_of_bernoulli_are_binary_with_noise(digits):
    vae = VAETransformer(2, loss="bernoulli", **QUICK).fit(digits)
    sample = vae.sample(5000, random_state=1, with_noise=True)
    assert set(np.unique(sample)) == {0.0, 1.0}
    assert_allclose(sample.mean(axis=0), vae.sample(5000, random_state=1).mean(axis=0), atol=0.03)


def test_samples_depend_on_the_seed_alone(trained):
    assert_array_equal(trained.sample(3, random_state=5), trained.sample(3, random_state=5))
    assert (trained.sample(3, random_state=5) != trained.sample(3, random_state=6)).all()
    assert trained.sample(random_state=0).shape == (1, 4)


# Use and misuse


def test_grid_search_picks_by_likelihood(cancer):
    grid = {"n_components": [1, 6]}
    search = GridSearchCV(VAETransformer(**UNTRAINED), grid, cv=3).fit(cancer)
    scores = [
        GridSearchCV(PCA(svd_solver="full"), {"n_components": [k]}, cv=3).fit(cancer).best_score_
        for k in (1, 6)
    ]
    assert_allclose(search.cv_results_["mean_test_score"], scores, atol=1e-3)
    assert search.best_params_["n_components"] == 6


@contextmanager
def suppress_matching(error_type, words):
    try:
        yield
    except error_type as error:
        if words not in str(error):
            raise


DEGENERATE = {
    "constant columns": lambda X: np.hstack([X, np.ones((len(X), 3))]),
    "one constant table": lambda X: np.ones((30, 4)),
    "duplicated rows": lambda X: np.repeat(X[:2], 20, axis=0),
    "duplicated columns": lambda X: np.hstack([X, X, X]),
    "two rows": lambda X: X[:2],
    "wider than long": lambda X: np.random.default_rng(0).normal(size=(6, 40)),
    "large": lambda X: 1e6 * X,
    "tiny": lambda X: 1e-6 * X,
}


@pytest.mark.filterwarnings("ignore:A column of X has a typical standard deviation:UserWarning")
@pytest.mark.parametrize("init", ["pca", "random"])
@pytest.mark.parametrize("loss", ["squared_error", "gaussian"])
@pytest.mark.parametrize("kind", DEGENERATE)
def test_degenerate_data_never_gives_nan(iris, kind, loss, init):
    X = DEGENERATE[kind](iris)
    vae = VAETransformer(3, init=init, loss=loss, **QUICK)
    if kind == "large":  # may be an error, which then says what to do
        with suppress_matching(ValueError, "Scale the features"):
            vae.fit(X)
        if not hasattr(vae, "module_"):
            return
    else:
        vae.fit(X)
    assert np.isfinite(vae.score_samples(X)).all()
    assert np.isfinite(vae.transform(X)).all()
    assert np.isfinite(vae.sample(5, random_state=0, with_noise=True)).all()
    assert np.min(vae.noise_variance_) >= VARIANCE_FLOOR


@pytest.mark.parametrize("n_samples", [0, -1, 2.5, True, "ten", None])
def test_wrong_number_of_samples(trained, n_samples):
    with pytest.raises(ValueError, match="n_samples=.* must be an integer of at least 1"):
        trained.sample(n_samples)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"beta": -0.1}, "beta"),
        ({"beta_warmup": -1}, "beta_warmup"),
        ({"beta_warmup": 6}, "beta_warmup=6 does not end within max_iter=5"),
        ({"noise_variance": 0.0}, "noise_variance"),
        ({"noise_variance": "guessed"}, "noise_variance"),
        ({"n_importance_samples": 0}, "n_importance_samples"),
        ({"noise_variance": 0.1, "loss": "gaussian"}, "noise_variance=0.1 .* loss='gaussian'"),
        ({"output_activation": "tanh"}, "init='pca' .* output_activation='tanh'"),
        ({"loss": "bernoulli"}, r"takes values in \[0, 1\], but column 0"),
    ],
)
def test_bad_parameters(iris, parameters, message):
    with pytest.raises(ValueError, match=message):
        VAETransformer(2, **QUICK | parameters).fit(iris)


def test_bernoulli_takes_no_noise_variance(digits):
    with pytest.raises(ValueError, match="noise_variance=0.1 .* loss='bernoulli'"):
        VAETransformer(2, loss="bernoulli", noise_variance=0.1).fit(digits)


def test_reconstruction_error_has_the_unit_of_the_loss(iris, digits):
    vae = VAETransformer(2, **QUICK).fit(iris)
    squared = np.square(vae.reconstruct(iris) - iris)
    assert_allclose(vae.reconstruction_error(iris, per_feature=True), squared, atol=1e-6)
    vae = VAETransformer(2, loss="gaussian", **QUICK).fit(iris)
    nats = -norm.logpdf(iris, vae.reconstruct(iris), np.sqrt(vae.noise_variance_))
    assert_allclose(vae.reconstruction_error(iris, per_feature=True), nats, rtol=1e-5, atol=1e-6)
    vae = VAETransformer(2, loss="bernoulli", **QUICK).fit(digits)
    logits = vae.module_.double().decoder(torch.tensor(vae.transform(digits))).detach().numpy()
    nats = -digits * np.log(expit(logits)) - (1.0 - digits) * np.log(expit(-logits))
    assert_allclose(vae.reconstruction_error(digits), nats.mean(axis=1), rtol=1e-5)


def test_noise_variance_that_float32_cannot_hold_is_refused():
    with pytest.raises(ValueError, match=r"noise_variance=1e\+300 is larger than"):
        VAETransformer(1, noise_variance=1e300).fit(np.eye(4))


def test_columns_whose_variance_float32_cannot_hold_are_an_error_in_words():
    X = 1e30 * np.random.default_rng(0).normal(size=(20, 2))
    with pytest.raises(ValueError, match=r"Training diverged.*Scale the features"):
        VAETransformer(1, **QUICK).fit(X)
