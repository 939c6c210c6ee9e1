import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.special import expit, xlogy
from scipy.stats import norm
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import MinMaxScaler

from skae import AutoencoderTransformer
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
    check_support(np.array([[0.0, 1.0], [1.0, 0.0]]), "bernoulli")
    check_support(np.array([[-1e9, 1e9]]), "squared_error")
