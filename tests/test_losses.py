import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.special import expit, xlogy
from scipy.stats import norm
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import MinMaxScaler

from skae import AutoencoderTransformer, DenoisingAutoencoder, VAETransformer
from skae._losses import (
    LOSSES,
    VARIANCE_FLOOR,
    check_support,
    learned_variance,
    squared_jacobian_norm,
)


def test_squared_error_is_the_squared_difference():
    output, target = torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, -2.5]])
    assert_allclose(LOSSES["squared_error"].elementwise(output, target), [[4.0, 0.25]])


def test_bernoulli_is_the_negative_log_likelihood():
    rng = np.random.default_rng(0)
    logits, target = rng.normal(scale=4, size=(20, 3)), rng.uniform(size=(20, 3))
    target[:2] = [[0, 1, 0], [1, 0, 1]]
    p = expit(logits)
    desired = -xlogy(target, p) - xlogy(1 - target, 1 - p)
    actual = LOSSES["bernoulli"].elementwise(torch.tensor(logits), torch.tensor(target))
    assert_allclose(actual, desired, rtol=1e-9)


def test_bernoulli_is_exact_where_the_probability_rounds_to_one():
    # -log(1 - expit(40)) = 40 + log(1 + exp(-40)), but float32's expit(40) is 1.
    logits = torch.tensor([[40.0]], requires_grad=True)
    loss = LOSSES["bernoulli"].elementwise(logits, torch.zeros(1, 1))
    loss.sum().backward()
    assert loss.item() == 40.0
    assert logits.grad.item() == 1.0


def test_gaussian_is_the_negative_log_density():
    rng = np.random.default_rng(0)
    output, target, variance = (
        rng.normal(size=(20, 3)),
        rng.normal(size=(20, 3)),
        rng.uniform(0.1, 3.0, size=3),
    )
    actual = LOSSES["gaussian"].elementwise(*map(torch.tensor, (output, target, variance)))
    assert_allclose(actual, -norm(output, np.sqrt(variance)).logpdf(target), rtol=1e-10)


def test_absolute_error_is_the_absolute_difference():
    output, target = torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, -2.5]])
    assert_allclose(LOSSES["absolute_error"].elementwise(output, target), [[2.0, 0.5]])


def test_the_density_of_absolute_errors_is_that_of_laplace():
    rng = np.random.default_rng(0)
    output, target = rng.normal(size=(2, 20, 3))
    variance = rng.uniform(0.1, 3.0, size=3)
    actual = LOSSES["absolute_error"].density.nats(*map(torch.tensor, (output, target, variance)))
    desired = -stats.laplace(output, np.sqrt(variance / 2)).logpdf(target)
    assert_allclose(actual, desired, rtol=1e-10)
    assert_allclose(stats.laplace(0, np.sqrt(variance / 2)).var(), variance)


def test_poisson_is_the_negative_log_probability():
    rng = np.random.default_rng(0)
    log_rate, counts = rng.normal(size=(20, 3)), rng.poisson(3.0, size=(20, 3)).astype(float)
    actual = LOSSES["poisson"].elementwise(torch.tensor(log_rate), torch.tensor(counts))
    assert_allclose(actual, -stats.poisson(np.exp(log_rate)).logpmf(counts), rtol=1e-10)


@pytest.mark.parametrize("loss", LOSSES)
def test_draws_have_the_mean_and_the_variance_of_the_density(loss):
    density = LOSSES[loss].density
    mean = np.tile([0.2, 0.5, 0.7], (100_000, 1))
    variance = {"bernoulli": mean[0] * (1 - mean[0]), "poisson": mean[0]}.get(loss, np.full(3, 0.3))
    rng = np.random.RandomState(0)
    drawn = density.sample(mean, variance if density.has_variance else None, rng)
    assert drawn.dtype == mean.dtype
    assert_allclose(drawn.mean(axis=0), mean[0], atol=0.01)
    assert_allclose(drawn.var(axis=0), variance, rtol=0.05)


@pytest.fixture(scope="module")
def counts():
    """Counts of two kinds of rows."""
    rng = np.random.default_rng(0)
    rates = rng.gamma(2.0, 3.0, size=(2, 12))[rng.integers(0, 2, size=400)]
    return rng.poisson(rates).astype(float)


@pytest.mark.parametrize("init", ["pca", "random"])
@pytest.mark.parametrize("kind", [AutoencoderTransformer, DenoisingAutoencoder, VAETransformer])
def test_rates_of_counts_are_found(counts, kind, init):
    model = kind(2, loss="poisson", init=init, max_iter=60, random_state=0).fit(counts[:300])
    rates = model.reconstruct(counts[300:])
    assert (rates > 0).all()
    errors = model.reconstruction_error(counts[300:], per_feature=True)
    if kind is not DenoisingAutoencoder:
        assert_allclose(errors, -stats.poisson(rates).logpmf(counts[300:]), rtol=1e-6)
    # The mean of the columns knows nothing of the two kinds.
    plain = -stats.poisson(counts[:300].mean(axis=0)).logpmf(counts[300:]).mean()
    assert errors.mean() < 0.8 * plain


@pytest.mark.parametrize("kind", [AutoencoderTransformer, VAETransformer])
def test_absolute_errors_are_less_disturbed_by_wild_cells(kind):
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 8))
    wild = np.where(rng.uniform(size=clean.shape) < 0.03, 30.0, clean)
    errors = [
        np.abs(kind(2, loss=loss, max_iter=60, random_state=0).fit(wild).reconstruct(clean) - clean)
        for loss in ("absolute_error", "squared_error")
    ]
    assert np.median(errors[0]) < np.median(errors[1])


def test_new_rows_of_counts_are_counts(counts):
    vae = VAETransformer(2, loss="poisson", max_iter=40, random_state=0).fit(counts)
    drawn = vae.sample(2000, random_state=0, with_noise=True)
    assert_array_equal(drawn, np.round(drawn))
    assert drawn.min() >= 0
    assert_allclose(drawn.mean(axis=0), counts.mean(axis=0), rtol=0.25)
    assert vae.noise_variance_ is None


def test_negative_counts_are_named():
    with pytest.raises(ValueError, match=r"takes values in \[0, inf\], but column 1.*not negative"):
        AutoencoderTransformer(1, loss="poisson").fit([[0.0, 1.0], [2.0, -1.0]])


def test_a_learned_variance_does_not_vanish():
    log_variance = torch.tensor([0.5, -50.0, -5e3])
    desired = [np.exp(0.5) + VARIANCE_FLOOR, VARIANCE_FLOOR, VARIANCE_FLOOR]
    assert_allclose(learned_variance(log_variance), desired, rtol=1e-6)


@pytest.mark.parametrize("recorded", [True, False])
def test_jacobian_norm_of_a_known_function(recorded):
    # z = tanh(W x) has the Jacobian diag(1 - z^2) W.
    rng = np.random.default_rng(0)
    W, x = rng.normal(size=(3, 4)), rng.normal(size=(6, 4))
    weight = torch.tensor(W, requires_grad=True)
    with torch.set_grad_enabled(recorded):
        squared_norm = squared_jacobian_norm(lambda x: torch.tanh(x @ weight.T), torch.tensor(x))
    z = np.tanh(x @ W.T)
    jacobians = (1 - z**2)[:, :, np.newaxis] * W
    assert_allclose(squared_norm.detach(), np.square(jacobians).sum(axis=(1, 2)), rtol=1e-12)
    assert squared_norm.requires_grad == recorded


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_agree_with_finite_differences(loss):
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(4, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    target = torch.rand(4, 3, dtype=torch.float64, generator=generator)
    arguments = [output, target]
    if LOSSES[loss].learns_variance:
        variance = 0.1 + torch.rand(3, dtype=torch.float64, generator=generator)
        arguments.append(variance.requires_grad_())
    assert torch.autograd.gradcheck(LOSSES[loss].elementwise, arguments)


@pytest.mark.parametrize("value", [-0.1, 1.5])
@pytest.mark.parametrize("method", ["fit", "partial_fit", "score_samples", "reconstruction_error"])
def test_bernoulli_names_the_column_outside_its_support(method, value):
    X = pd.DataFrame(np.random.default_rng(0).uniform(size=(30, 3)), columns=["a", "b", "c"])
    estimator = AutoencoderTransformer(1, loss="bernoulli", max_iter=1, random_state=0).fit(X)
    X.loc[7, "b"] = value
    message = rf"takes values in \[0, 1\], but column 'b' of X ranges .*{value}.*MinMaxScaler"
    with pytest.raises(ValueError, match=message):
        getattr(estimator, method)(X)
    with pytest.raises(ValueError, match="column 1 of X"):
        AutoencoderTransformer(1, loss="bernoulli").fit(X.to_numpy())
    # The encoder takes any value.
    estimator.transform(X)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_beyond_the_support_is_not_an_error(dtype):
    X = MinMaxScaler().fit_transform(load_breast_cancer().data.astype(dtype))
    assert X.max() > 1.0  # or there is nothing to test
    estimator = AutoencoderTransformer(2, loss="bernoulli", max_iter=1, random_state=0).fit(X)
    assert np.isfinite(estimator.score(X))


def test_the_ends_of_the_support_are_in_it():
    # That nothing is raised is the property.
    check_support(np.array([[0.0, 1.0], [1.0, 0.0]]), "bernoulli")
    check_support(np.array([[-1e9, 1e9]]), "squared_error")
