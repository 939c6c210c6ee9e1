import math
from itertools import repeat

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from skae._device import private_random_state
from skae._solvers import SOLVERS, Rule
from skae._training import (
    LEARNING_RATES,
    Descent,
    History,
    Rows,
    TrainableModule,
    batches,
    in_batches,
    is_clear_gain,
    is_gain,
    mean_loss,
    train,
    train_epoch,
)

CPU = torch.device("cpu")
OPTIONS = {
    "solver": "sgd",
    "learning_rate": "constant",
    "learning_rate_init": 0.05,
    "alpha": 0.0,
    "batch_size": 8,
    "max_iter": 5,
    "tol": 0.0,
    "n_iter_no_change": 100,
    "shuffle": True,
    "precision": "float32",
    "never_worse": False,
}


class Line(TrainableModule):
    """y = x @ weight + bias: the loop must train any module, not only autoencoders."""

    def __init__(self, n_features=3):
        super().__init__()
        self.weight = nn.Parameter(torch.full((n_features, 1), 0.5))
        self.bias = nn.Parameter(torch.zeros(1))

    def loss(self, x, y):
        return torch.square(x @ self.weight + self.bias - y)[:, 0]


class Recorder:
    """An observer that stops after some epochs."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.events = []

    def epoch_begins(self):
        self.events.append("begin")

    def epoch_ends(self, history):
        self.events.append("end")
        return len(history.loss_curve) == self.stop_after


def line_rows(n_rows=40, seed=0, weights=None):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_rows, 3, generator=generator)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 3.0
    y = y + 0.1 * torch.randn(n_rows, 1, generator=generator)
    return Rows((x, y), weights)


def fit_line(rows, validation_rows=None, observer=None, **options):
    module, history = Line(), History()
    observer = observer or Recorder()
    with private_random_state(0, CPU):  # the order of the rows
        train(module, rows, validation_rows, history, observer=observer, **OPTIONS | options)
    return module, history


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
    solution = least_squares(*rows.tensors, weights)
    assert_allclose(torch.cat([module.weight[:, 0], module.bias]).detach(), solution, atol=1e-4)


def test_one_step_is_one_gradient_step():
    rows = line_rows(weights=torch.linspace(0.1, 1.9, 40))
    module = Line()
    descent = Descent(module, "sgd", alpha=0.0, precision="float32")
    descent.solver.rule = Rule(plain_descent, (), 0.1)
    loss = train_epoch(descent, rows, History(), repeat(0.1), batch_size=40, shuffle=True)
    x, y = (tensor.double().numpy() for tensor in rows.tensors)
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
    x, y = (tensor.double().numpy() for tensor in rows.tensors)
    x_centred, y_centred = x - x.mean(axis=0), y - y.mean(axis=0)
    # The gradient of mean squared error + alpha / 2 |w|^2 is zero.
    solution = np.linalg.solve(
        2 * x_centred.T @ x_centred / 40 + alpha * np.eye(3), 2 * x_centred.T @ y_centred / 40
    )
    assert_allclose(module.weight.detach(), solution, atol=1e-4)


def test_learning_rate_schedules():
    constant = LEARNING_RATES["constant"](0.3, 4)
    assert [next(constant) for _ in range(6)] == [0.3] * 6
    assert_allclose(list(LEARNING_RATES["cosine"](2.0, 4)), 1 + np.cos(np.pi * np.arange(4) / 4))


def test_the_schedule_spans_all_steps():
    steps = []

    class Spy(Line):
        def loss(self, x, y):
            steps.append(len(x))
            return super().loss(x, y)

    train(
        Spy(),
        line_rows(20),
        None,
        History(),
        observer=Recorder(),
        **OPTIONS | {"learning_rate": "cosine"},
    )
    assert steps == [8, 8, 4] * 5  # one rate each: the generator of 15 was not exhausted


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_takes_every_row_once(shuffle):
    rows = Rows((torch.arange(10)[:, None], torch.arange(10)), torch.arange(10))
    taken = list(batches(rows, 4, shuffle))
    assert [len(batch) for batch in taken] == [4, 4, 2]
    for batch in taken:
        assert_array_equal(batch.tensors[0][:, 0], batch.tensors[1])
        assert_array_equal(batch.weights, batch.tensors[1])
    order = torch.cat([batch.weights for batch in taken])
    assert_array_equal(order.sort().values, torch.arange(10))
    assert bool((order == torch.arange(10)).all()) != shuffle


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
    solution = torch.tensor(least_squares(*validation_rows.tensors), dtype=torch.float32)
    module = Line()
    with torch.no_grad():
        module.weight[:, 0], module.bias[:] = solution[:3], solution[3]
    before = mean_loss(module, validation_rows)
    history = History()
    train(
        module,
        line_rows(),
        validation_rows,
        history,
        observer=Recorder(),
        **OPTIONS | {"learning_rate_init": 0.1, "max_iter": 2},
    )
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
    solution = torch.tensor(least_squares(*validation_rows.tensors), dtype=torch.float32)
    module, history = Line(), History()
    with torch.no_grad():
        module.weight[:, 0], module.bias[:] = solution[:3], solution[3]
    options = {"learning_rate_init": 1e-3, "max_iter": 12, "n_iter_no_change": 2}
    rows = Rows((line_rows().tensors[0], 2 * line_rows().tensors[1]))  # leads away from it
    with private_random_state(0, CPU):
        train(module, rows, validation_rows, history, observer=Recorder(), **OPTIONS | options)
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
    solution = torch.tensor(least_squares(*rows.tensors), dtype=torch.float32)
    module, history = Line(), History()
    module.load_state_dict({"weight": solution[:3, None], "bias": solution[3:]})
    options = OPTIONS | {"learning_rate_init": 1e-3, "never_worse": True}
    validation_rows = rows.take(slice(0, 12)) if validated else None
    with private_random_state(0, CPU):
        train(module, rows, validation_rows, history, observer=Recorder(), **options)
    assert_array_equal(module.weight.detach()[:, 0], solution[:3])
    if validated:
        assert history.best_loss == mean_loss(module, validation_rows)
        assert_array_equal(history.best_state["weight"][:, 0], solution[:3])


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
        def loss(self, x, y):
            return super().loss(x, y) + (1e6 if self.training else 0.0)

    rows = line_rows(9000, weights=torch.full((9000,), 2.0))
    x, y = (tensor.double().numpy() for tensor in rows.tensors)
    desired = 2 * np.mean((x @ np.full((3, 1), 0.5) - y) ** 2)
    assert_allclose(mean_loss(Noisy(), rows), desired, rtol=1e-5)


def test_in_batches_keeps_order_and_bounds_memory():
    sizes = []

    def double(x):
        sizes.append(len(x))
        return 2 * x

    X = np.arange(20_000.0).reshape(10_000, 2)
    assert_array_equal(in_batches(double, X, CPU), 2 * X)
    assert sizes == [4096, 4096, 1808]


def test_history_starts_empty():
    assert History().loss_curve is not History().loss_curve
