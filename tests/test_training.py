import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from skae._random import private_random_numbers
from skae._rows import DenseTable, Rows
from skae._solvers import SOLVERS, Rule
from skae._training import (
    LEARNING_RATES,
    ByHand,
    Descent,
    Progress,
    Settings,
    TrainableModule,
    is_clear_gain,
    is_gain,
    learning_rates,
    mean_loss,
    train,
    train_epoch,
)

CPU = torch.device("cpu")
SETTINGS = Settings(
    solver="sgd",
    learning_rate="constant",
    learning_rate_init=0.05,
    batch_size=8,
    max_iter=5,
    n_iter_no_change=100,
)


class Line(TrainableModule):
    """y = x @ weight + bias: the loop must train any module, not only autoencoders."""

    def __init__(self, n_features=3):
        super().__init__()
        self.weight = nn.Parameter(torch.full((n_features, 1), 0.5))
        self.bias = nn.Parameter(torch.zeros(1))

    def loss(self, x, target, known=None):
        return torch.square(x @ self.weight + self.bias - target)[:, 0]


class Recorder:
    """An observer that stops after some epochs."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.events = []

    def epoch_begins(self):
        self.events.append("begin")

    def epoch_ends(self, progress):
        self.events.append("end")
        return len(progress.loss_curve) == self.stop_after

    def keep(self, progress, state):
        pass


def line_rows(n_rows=40, seed=0, weights=None):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_rows, 3, generator=generator)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 3.0
    y = y + 0.1 * torch.randn(n_rows, 1, generator=generator)
    return Rows(DenseTable(x), DenseTable(y), weights)


def fit_line(rows, validation_rows=None, observer=None, **options):
    module, progress = Line(), Progress()
    train_line(module, rows, validation_rows, progress, observer, **options)
    return module, progress


def train_line(module, rows, validation_rows=None, progress=None, observer=None, **options):
    with private_random_numbers(0, CPU):  # the order of the rows
        train(
            module,
            rows,
            validation_rows,
            progress or Progress(),
            replace(SETTINGS, **options),
            observer or Recorder(),
        )


def pair(rows):
    return rows.x.values, rows.target.values


def plain_descent(weights, gradients, memory, rate):
    weights -= rate * gradients


def least_squares(x, y, weights=None):
    """Weighted least squares with an intercept, by the normal equations in float64."""
    A = np.hstack([x.double().numpy(), np.ones((len(x), 1))])
    w = np.ones(len(x)) if weights is None else weights.double().numpy()
    return np.linalg.solve((A.T * w) @ A, (A.T * w) @ y.double().numpy())[:, 0]


@pytest.mark.parametrize("weighted", [False, True])
def test_train_reaches_the_least_squares_solution(weighted):
    weights = torch.linspace(0.1, 1.9, 40) if weighted else None
    rows = line_rows(weights=weights)
    module, _ = fit_line(rows, batch_size=40, max_iter=300)
    solution = least_squares(*pair(rows), weights)
    assert_allclose(torch.cat([module.weight[:, 0], module.bias]).detach(), solution, atol=1e-4)


def test_one_step_is_one_gradient_step():
    rows = line_rows(weights=torch.linspace(0.1, 1.9, 40))
    module = Line()
    settings = replace(SETTINGS, learning_rate_init=0.1, batch_size=40)
    descent = Descent(module, settings)
    descent.solver.rule = Rule(plain_descent, (), 0.1)
    loss = train_epoch(descent, rows, Progress(), settings)
    x, y = (tensor.double().numpy() for tensor in pair(rows))
    w = rows.weights.double().numpy()[:, np.newaxis]
    residual = x @ np.full((3, 1), 0.5) - y
    assert_allclose(loss, np.mean(w * residual**2), rtol=1e-6)
    assert_allclose(module.weight.detach(), 0.5 - 0.1 * 2 * x.T @ (w * residual) / 40, rtol=1e-5)
    assert_allclose(module.bias.detach(), -0.1 * 2 * np.mean(w * residual, axis=0), rtol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_fits_with_its_own_learning_rate(solver):
    rate = SOLVERS[solver].learning_rate_init
    _, history = fit_line(line_rows(400), solver=solver, learning_rate_init=rate, max_iter=30)
    assert history.loss_curve[-1] < 0.75 * history.loss_curve[0]


def test_alpha_is_ridge_regression():
    rows = line_rows()
    alpha = 0.5
    module, _ = fit_line(rows, alpha=alpha, batch_size=40, max_iter=500)
    x, y = (tensor.double().numpy() for tensor in pair(rows))
    x_centred, y_centred = x - x.mean(axis=0), y - y.mean(axis=0)
    # The gradient of mean squared error + alpha / 2 |w|^2 is zero.
    solution = np.linalg.solve(
        2 * x_centred.T @ x_centred / 40 + alpha * np.eye(3), 2 * x_centred.T @ y_centred / 40
    )
    assert_allclose(module.weight.detach(), solution, atol=1e-4)


def test_learning_rate_schedules():
    assert [LEARNING_RATES["constant"](0.3, step, 4) for step in range(6)] == [0.3] * 6
    cosine = [LEARNING_RATES["cosine"](2.0, step, 4) for step in range(4)]
    assert_allclose(cosine, 1 + np.cos(np.pi * np.arange(4) / 4))


def test_the_schedule_spans_all_steps():
    settings = replace(SETTINGS, learning_rate="cosine", max_iter=5)
    rates = [rate for epoch in range(5) for rate in learning_rates(settings, epoch, n_batches=3)]
    assert_allclose(rates, 0.05 * (1 + np.cos(np.pi * np.arange(15) / 15)) / 2)


def test_the_last_step_of_an_epoch_takes_what_is_left():
    steps = []

    class Spy(Line):
        def loss(self, x, target, known=None):
            if self.training:
                steps.append(len(x))
            return super().loss(x, target)

    train_line(Spy(), line_rows(20))
    assert steps == [8, 8, 4] * 5


def test_the_observer_sees_every_epoch_and_may_stop():
    recorder = Recorder(stop_after=3)
    _, history = fit_line(line_rows(), observer=recorder)
    assert recorder.events == ["begin", "end"] * 3
    assert len(history.loss_curve) == 3


def test_best_validation_weights_are_restored():
    validation_rows = line_rows(20, seed=1)
    # A large rate makes the validation loss go up and down.
    module, history = fit_line(
        line_rows(), validation_rows, learning_rate_init=0.02, batch_size=2, max_iter=15
    )
    assert history.best_loss == min(history.validation_loss_curve)
    assert history.validation_loss_curve[-1] > history.best_loss
    assert mean_loss(module, validation_rows) == history.best_loss


def test_the_weights_before_training_count_as_candidates():
    validation_rows = line_rows(20, seed=1)
    solution = torch.tensor(least_squares(*pair(validation_rows)), dtype=torch.float32)
    module = Line()
    with torch.no_grad():
        module.weight[:, 0], module.bias[:] = solution[:3], solution[3]
    before = mean_loss(module, validation_rows)
    history = Progress()
    train_line(module, line_rows(), validation_rows, history, learning_rate_init=0.1, max_iter=2)
    assert min(history.validation_loss_curve) > before
    assert history.best_loss == before
    assert_array_equal(module.weight.detach()[:, 0], solution[:3])


def test_training_stops_when_the_loss_stands_still():
    _, history = fit_line(
        line_rows(), learning_rate_init=1e-9, max_iter=50, n_iter_no_change=4, tol=1e-3
    )
    assert len(history.loss_curve) == 5  # the first epoch is progress


def test_a_start_that_is_hard_to_beat_does_not_use_up_the_patience():
    validation_rows = line_rows(20, seed=1)
    solution = torch.tensor(least_squares(*pair(validation_rows)), dtype=torch.float32)
    module, history = Line(), Progress()
    with torch.no_grad():
        module.weight[:, 0], module.bias[:] = solution[:3], solution[3]
    options = {"learning_rate_init": 1e-3, "max_iter": 12, "n_iter_no_change": 2}
    x, y = pair(line_rows())
    rows = Rows(DenseTable(x), DenseTable(2 * y))  # leads away from it
    train_line(module, rows, validation_rows, history, **options)
    # Every epoch is worse than the one before: the first counts as progress, two more as none.
    assert len(history.loss_curve) == 3


def test_a_gain_is_clear_beyond_its_standard_error():
    earlier = torch.tensor([1.0, 2.0, 3.0, 4.0])
    gains = torch.tensor([0.29, -0.11, 0.29, -0.11])  # mean 0.09, standard error 0.1
    assert not is_clear_gain(earlier - gains, earlier)
    assert is_clear_gain(earlier - gains - 0.02, earlier)
    assert not is_clear_gain(earlier, earlier)
    assert not is_clear_gain(earlier + 1.0, earlier)
    assert is_clear_gain(earlier[:1] - 0.1, earlier[:1])


@pytest.mark.parametrize("validated", [False, True])
def test_an_unclear_gain_gives_the_start_back(validated):
    # The start is least squares already: what a few of its rows gain, others lose.
    rows = line_rows(40)
    solution = torch.tensor(least_squares(*pair(rows)), dtype=torch.float32)
    module, history = Line(), Progress()
    module.load_state_dict({"weight": solution[:3, None], "bias": solution[3:]})
    validation_rows = rows.take(torch.arange(12)) if validated else None
    train_line(module, rows, validation_rows, history, learning_rate_init=1e-3, never_worse=True)
    assert history.kept_start
    assert_array_equal(module.weight.detach()[:, 0], solution[:3])
    if validated:
        assert history.best_loss == mean_loss(module, validation_rows)
        assert_array_equal(history.best.weights["weight"][:, 0], solution[:3])


@pytest.mark.parametrize(
    ("loss", "best", "tol", "gain"),
    [
        (5.0, math.inf, 0.1, True),
        (0.89, 1.0, 0.1, True),
        (0.91, 1.0, 0.1, False),
        (1.0, 1.0, 0.0, False),
        (-1.2, -1.0, 0.1, True),  # log-likelihoods make losses negative
        (-1.05, -1.0, 0.1, False),
    ],
)
def test_progress_is_relative(loss, best, tol, gain):
    assert is_gain(loss, best, tol) == gain


def test_divergence_names_the_epoch_and_what_to_try():
    with pytest.raises(
        ValueError, match=r"diverged in epoch \d+.*StandardScaler.*learning_rate_init"
    ):
        fit_line(line_rows(), learning_rate_init=1e6, max_iter=100)


def test_weights_that_overflow_in_the_last_step_are_noticed():
    with pytest.raises(ValueError, match="diverged in epoch 1"):
        fit_line(line_rows(), learning_rate_init=1e38, batch_size=40, max_iter=1)


def test_mean_loss_is_that_of_inference():
    class Noisy(Line):
        def loss(self, x, target, known=None):
            return super().loss(x, target) + (1e6 if self.training else 0.0)

    rows = line_rows(9000, weights=torch.full((9000,), 2.0))
    x, y = (tensor.double().numpy() for tensor in pair(rows))
    desired = 2 * np.mean((x @ np.full((3, 1), 0.5) - y) ** 2)
    assert_allclose(mean_loss(Noisy(), rows), desired, rtol=1e-5)


# The gradient that is trained is that of the loss


class HandmadeLine(Line):
    """Writes its derivatives out."""

    def by_hand(self, precision):
        if type(self) is not HandmadeLine:
            return None

        def loss_and_gradients(batch):
            shares = batch.shares()
            residual = batch.x @ self.weight.detach() + self.bias.detach() - batch.target
            self.weight.grad += 2 * batch.x.T @ (shares * residual)
            self.bias.grad += 2 * (shares * residual).sum(dim=0)
            return (shares * residual**2).sum()

        return ByHand(loss_and_gradients, [self.weight, self.bias])


class HuberLine(HandmadeLine):
    """Inherits derivatives that are not those of its loss."""

    def loss(self, x, target, known=None):
        output = x @ self.weight + self.bias
        return nn.functional.huber_loss(output, target, reduction="none")[:, 0]


class ScaledLine(HandmadeLine):
    """Has a parameter that only its loss knows."""

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(1))

    def by_hand(self, precision):
        return ByHand(self.weight.sum, [self.weight, self.bias])

    def loss(self, x, target, known=None):
        return super().loss(x, target) * torch.exp(-self.log_scale) + self.log_scale


def gradients_of(module, rows):
    """By automatic differentiation of the loss, without the package's descent."""
    losses = module.loss(*pair(rows))
    gradients = torch.autograd.grad(losses.mean(), list(module.parameters()))
    return [gradient.clone() for gradient in gradients]


@pytest.mark.parametrize("kind", [Line, HandmadeLine, HuberLine, ScaledLine])
def test_a_descent_follows_the_gradient_of_the_loss_that_was_written(kind):
    rows, module = line_rows(), kind()
    desired = gradients_of(module, rows)
    descent = Descent(module, SETTINGS)
    assert descent.needs_autograd == (kind is not HandmadeLine)
    loss = descent.loss_and_gradients(rows.batch(slice(None)))
    assert_allclose(loss, module.loss(*pair(rows)).mean().item(), rtol=1e-6)
    for weights, gradient in zip(module.parameters(), desired, strict=True):
        assert_allclose(weights.grad, gradient, rtol=1e-5, atol=1e-6)


def test_hooks_are_called_and_frozen_weights_stay():
    calls = []
    hooked = HandmadeLine()
    hooked.register_forward_hook(lambda *_: calls.append(None))
    assert Descent(hooked, SETTINGS).needs_autograd
    frozen = HandmadeLine()
    frozen.bias.requires_grad_(False)
    train_line(frozen, line_rows())
    assert frozen.bias.item() == 0.0
    assert frozen.weight[0, 0] != 0.5


def test_a_module_without_weights_is_an_error_in_words():
    frozen = Line().requires_grad_(False)
    with pytest.raises(ValueError, match="no weights to train"):
        train_line(frozen, line_rows())


# Continuing


def test_training_continues_with_what_the_solver_remembers():
    rows = line_rows()
    whole, first, second = Line(), Progress(), Progress()
    train_line(whole, rows, max_iter=2, shuffle=False)
    halves = Line()
    train_line(halves, rows, None, first, max_iter=1, shuffle=False)
    second.memory = first.memory
    train_line(halves, rows, None, second, max_iter=1, shuffle=False)
    assert_array_equal(halves.weight.detach(), whole.weight.detach())
    assert first.memory["velocity"].any()


def test_the_memory_is_that_of_the_weights_that_are_returned():
    validation_rows = line_rows(20, seed=1)
    _, progress = fit_line(
        line_rows(), validation_rows, learning_rate_init=0.02, batch_size=2, max_iter=15
    )
    n_best = int(np.argmin(progress.validation_loss_curve)) + 1
    assert n_best < 15
    shorter = Progress()
    train_line(
        Line(), line_rows(), validation_rows, shorter,
        learning_rate_init=0.02, batch_size=2, max_iter=n_best,
    )  # fmt: skip
    assert_array_equal(progress.memory["velocity"], shorter.memory["velocity"])


def test_a_last_step_that_ruins_the_loss_is_noticed():
    class Brittle(Line):
        def loss(self, x, target, known=None):
            losses = super().loss(x, target)
            return losses if self.training else losses * torch.exp(1e3 * self.weight.abs().sum())

    with pytest.raises(ValueError, match="diverged in epoch 1"):
        train_line(Brittle(), line_rows(), max_iter=1)
