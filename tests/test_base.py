"""What fit, partial_fit, early stopping, warm starts, callbacks and failures do."""

import io
import itertools
import pickle
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from skae import AutoencoderTransformer, DenoisingAutoencoder
from skae._device import threads
from skae._training import Descent


@pytest.fixture(scope="module")
def X():
    return StandardScaler().fit_transform(load_iris().data)


def small(**parameters):
    defaults = {
        "n_components": 2,
        "hidden_layer_sizes": (8,),
        "activation": "relu",
        "init": "random",
        "learning_rate": "constant",
        "learning_rate_init": 1e-3,
        "early_stopping": False,
        "max_iter": 4,
        "random_state": 0,
    }
    return AutoencoderTransformer(**defaults | parameters)


def weights_of(estimator):
    return torch.cat([w.detach().flatten() for w in estimator.module_.parameters()]).numpy()


# Fitted attributes


def test_fitted_attributes(X):
    estimator = small().fit(X)
    assert estimator.n_features_in_ == 4
    assert estimator.n_components_ == 2
    assert estimator.n_iter_ == 4 == len(estimator.loss_curve_)
    assert estimator.validation_loss_curve_ is None
    assert estimator.best_loss_ == min(estimator.loss_curve_)
    assert estimator.device_ == "cpu"
    assert not estimator.module_.training
    assert {w.device.type for w in estimator.module_.parameters()} == {"cpu"}
    assert estimator.loss_curve_[-1] < estimator.loss_curve_[0]


def test_loss_curve_begins_with_the_loss_of_the_first_weights(X):
    # A rate of almost zero keeps them.
    estimator = small(learning_rate_init=1e-30, max_iter=1, batch_size=7).fit(X)
    assert_allclose(estimator.loss_curve_[0], -estimator.score(X), rtol=1e-5)


# Early stopping


def test_early_stopping_returns_the_best_weights(X):
    estimator = small(
        early_stopping=True, validation_fraction=0.2, max_iter=60, learning_rate_init=0.05,
        batch_size=8, n_iter_no_change=5,
    ).fit(X)  # fmt: skip
    curve = estimator.validation_loss_curve_
    assert len(curve) == len(estimator.loss_curve_) == estimator.n_iter_ < 60
    assert estimator.best_loss_ == min(curve) < curve[-1]
    # Stopping there at once gives the same weights.
    shorter = clone(estimator).set_params(max_iter=int(np.argmin(curve)) + 1).fit(X)
    assert_array_equal(weights_of(shorter), weights_of(estimator))


def test_validation_rows_are_not_trained_on(X):
    # One of the two rows is held out; the other one is learned by heart.
    pair = np.array([[-5.0, -5.0, -5.0, -5.0], [5.0, 5.0, 5.0, 5.0]])
    estimator = small(
        early_stopping=True, validation_fraction=0.5, max_iter=300, n_iter_no_change=300,
        learning_rate_init=0.01,
    ).fit(pair)  # fmt: skip
    assert estimator.loss_curve_[-1] < 1e-3 < min(estimator.validation_loss_curve_)


def test_validation_fraction_that_leaves_nothing(X):
    estimator = small(early_stopping=True, validation_fraction=0.9)
    with pytest.raises(ValueError, match="validation_fraction=0.9 of 3 rows leaves none"):
        estimator.fit(X[:3])


def test_training_stops_without_progress(X):
    estimator = small(learning_rate_init=1e-12, max_iter=50, n_iter_no_change=3).fit(X)
    assert estimator.n_iter_ == 4


# Continuing


def test_warm_start_continues(X):
    estimator = small(warm_start=True, max_iter=3).fit(X)
    first, weights = list(estimator.loss_curve_), weights_of(estimator)
    estimator.fit(X)
    assert estimator.n_iter_ == 6
    assert estimator.loss_curve_[:3] == first
    assert max(estimator.loss_curve_[3:]) < min(first)
    estimator.set_params(learning_rate_init=1e-30, max_iter=1).fit(X)
    again = weights_of(estimator)
    estimator.fit(X)
    assert_allclose(weights_of(estimator), again)
    assert not np.array_equal(weights, again)


def held_out_rows(estimator):
    return np.sort(estimator._held_out)


def test_warm_start_holds_out_the_same_rows(X):
    estimator = small(warm_start=True, early_stopping=True, validation_fraction=0.2).fit(X)
    first = held_out_rows(estimator)
    assert len(first) == 30
    estimator.fit(X)
    assert_array_equal(held_out_rows(estimator), first)
    # A validation loss of other rows would jump; here it begins where it was.
    curve = estimator.validation_loss_curve_
    assert abs(curve[4] - curve[3]) < 2 * abs(curve[1] - curve[0])
    estimator.fit(X[:100])
    assert len(held_out_rows(estimator)) == 20


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_warm_start_continues_with_what_the_solver_remembers(X, solver):
    options = {"solver": solver, "batch_size": 150}
    whole = small(max_iter=6, **options).fit(X)
    halves = small(max_iter=3, warm_start=True, **options).fit(X).fit(X)
    # The rows of a full batch have another order, which is rounding.
    assert_allclose(weights_of(halves), weights_of(whole), rtol=1e-4, atol=1e-6)


def test_only_a_fit_that_may_be_continued_keeps_what_that_takes(X):
    sizes = [len(pickle.dumps(small(warm_start=keeps).fit(X))) for keeps in (False, True)]
    assert sizes[0] < sizes[1]


# Validation rows of the user


def test_own_validation_rows_decide_and_all_other_rows_are_trained_on(X):
    mine = X[::5] + 0.1
    estimator = small(
        early_stopping=True, max_iter=60, learning_rate_init=0.05, batch_size=8, n_iter_no_change=5
    ).fit(X, X_val=mine)
    curve = estimator.validation_loss_curve_
    assert estimator.best_loss_ == min(curve) < curve[-1]
    assert_allclose(estimator.best_loss_, -estimator.score(mine), rtol=1e-5)
    # One step of a full batch is the same as without early stopping: no row is missing.
    options = {"max_iter": 1, "batch_size": 150}
    with_rows = small(early_stopping=True, **options).fit(X, X_val=mine)
    without = small(**options).fit(X)
    assert_allclose(weights_of(with_rows), weights_of(without), rtol=1e-4, atol=1e-6)


def test_own_validation_rows_may_have_weights(X):
    weights = np.linspace(0.0, 2.0, 30)
    estimator = small(early_stopping=True).fit(X, X_val=X[::5], sample_weight_val=weights)
    assert_allclose(
        estimator.best_loss_, -estimator.score(X[::5], sample_weight=weights), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("parameters", "arguments", "message"),
    [
        ({"early_stopping": False}, {"X_val": 1}, "early_stopping=False"),
        ({"early_stopping": True}, {"sample_weight_val": 1}, "sample_weight_val belongs to X_val"),
        ({"early_stopping": True}, {"X_val": 2}, "has 3 features"),
    ],
)
def test_validation_rows_that_cannot_be_used(X, parameters, arguments, message):
    values = {1: X, 2: X[:, :3]}
    with pytest.raises(ValueError, match=message):
        small(**parameters).fit(X, **{name: values[key] for name, key in arguments.items()})


def test_warm_start_keeps_the_number_of_components(X):
    estimator = small(n_components=0.7, warm_start=True).fit(X)
    assert estimator.n_components_ == 1
    assert estimator.fit(np.random.default_rng(0).normal(size=X.shape)).n_components_ == 1


@pytest.mark.parametrize("change", [{"hidden_layer_sizes": (9,)}, {"n_components": 3}])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_weights_of_another_shape_cannot_be_continued(X, change, method):
    estimator = small(warm_start=True).fit(X)
    before = estimator.transform(X)
    with pytest.raises(ValueError, match="hidden_layer_sizes=.*warm_start=False"):
        getattr(estimator.set_params(**change), method)(X)
    assert_array_equal(estimator.transform(X), before)


def test_warm_start_of_another_width(X):
    estimator = small(warm_start=True).fit(X)
    with pytest.raises(ValueError, match="another shape now: 3 features"):
        estimator.fit(X[:, :3])
    assert estimator.n_features_in_ == 4


def test_first_partial_fit_is_one_epoch_of_fit(X):
    one = small(batch_size=16).partial_fit(X)
    assert_array_equal(weights_of(one), weights_of(small(batch_size=16, max_iter=1).fit(X)))
    assert one.n_iter_ == 1


@pytest.mark.parametrize("solver", ["adam", "adamw", "sgd", "adadelta", "rmsprop"])
def test_partial_fit_goes_on_after_pickling_as_if_nothing_had_happened(X, solver):
    estimator = small(solver=solver).partial_fit(X[:70])
    other = pickle.loads(pickle.dumps(estimator))
    for candidate in (estimator, other):
        candidate.partial_fit(X[70:]).partial_fit(X[:5])
    assert_array_equal(weights_of(other), weights_of(estimator))
    assert other.loss_curve_ == estimator.loss_curve_
    assert len(other.loss_curve_) == 3


def test_partial_fit_remembers_the_moments_of_the_solver(X):
    # With full batches, passes of partial_fit are the epochs of fit, moments included.
    whole = small(batch_size=150, max_iter=5).fit(X)
    passes = small(batch_size=150)
    for _ in range(5):
        passes.partial_fit(X)
    assert_allclose(weights_of(passes), weights_of(whole), rtol=1e-5, atol=1e-7)


def test_partial_fit_accepts_one_row_and_another_solver(X):
    estimator = small().partial_fit(X[:1]).set_params(solver="sgd").partial_fit(X)
    assert estimator.n_iter_ == 2


def test_partial_fit_after_fit_improves(X):
    estimator = small(max_iter=20).fit(X)
    before = estimator.score(X)
    for _ in range(5):
        estimator.partial_fit(X)
    assert estimator.score(X) > before
    assert estimator.n_iter_ == 25


# Weights


def test_integer_weights_are_repetitions_at_full_batch(X):
    weights = np.random.default_rng(0).integers(0, 4, len(X))
    weighted = small(batch_size=10_000, max_iter=20).fit(X, sample_weight=weights)
    repeated = small(batch_size=10_000, max_iter=20).fit(np.repeat(X, weights, axis=0))
    assert_allclose(weighted.transform(X), repeated.transform(X), rtol=1e-4, atol=1e-5)
    assert_allclose(weighted.loss_curve_, repeated.loss_curve_, rtol=1e-5)


def test_scale_of_the_weights_does_not_matter(X):
    weights = np.linspace(0.5, 2, len(X))
    one, many = (small().fit(X, sample_weight=c * weights) for c in (1.0, 1024.0))
    assert_array_equal(weights_of(one), weights_of(many))


def test_heavy_rows_are_reconstructed_better(X):
    weights = np.where(load_iris().target == 2, 20.0, 1.0)
    heavy = weights > 1
    weighted = small(max_iter=60, n_components=1).fit(X, sample_weight=weights)
    plain = small(max_iter=60, n_components=1).fit(X)
    assert weighted.score(X[heavy]) > plain.score(X[heavy])


# Failure


def test_divergence_keeps_the_earlier_model(X):
    estimator = small().fit(X)
    before, attributes = estimator.transform(X), dict(vars(estimator))
    with pytest.raises(ValueError, match="diverged in epoch 1.*StandardScaler"):
        estimator.fit(np.c_[X, X] * 1e30)
    assert vars(estimator) == attributes
    assert_array_equal(estimator.transform(X), before)


class Interrupt:
    """A callback that behaves like a user who presses Ctrl-C in some epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        self.torn_down = True

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        if context.task_id == self.epoch:
            raise KeyboardInterrupt


def test_interruption_keeps_the_earlier_model(X):
    estimator = small().fit(X)
    before = estimator.transform(X)
    torch_state = torch.random.get_rng_state()
    callback = Interrupt(epoch=2)
    estimator.set_callbacks(callback)
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(2 * X[:, :3])
    assert callback.torn_down
    assert estimator.n_features_in_ == 4
    assert_array_equal(estimator.transform(X), before)
    assert_array_equal(torch.random.get_rng_state(), torch_state)


@pytest.mark.parametrize("early_stopping", [True, False])
def test_interruption_without_an_earlier_model_keeps_what_was_reached(X, early_stopping):
    options = {"early_stopping": early_stopping}
    estimator = small(**options, max_iter=8).set_callbacks(Interrupt(epoch=3))
    with pytest.warns(UserWarning, match="interrupted after 4 of at most 8 epochs"):
        estimator.fit(X)
    whole = small(**options, max_iter=4).fit(X)
    assert estimator.loss_curve_ == whole.loss_curve_
    assert_array_equal(estimator.transform(X), whole.transform(X))


def test_interruption_within_an_epoch_drops_the_epoch(X):
    calls = itertools.count()

    def noise(x, level):
        if next(calls) == 1 + 2 * 5:  # one call for the start, and five steps an epoch
            raise KeyboardInterrupt
        return x

    estimator = DenoisingAutoencoder(
        2,
        hidden_layer_sizes=(4,),
        noise=noise,
        batch_size=len(X) // 5 + 1,
        random_state=0,
        early_stopping=False,
    )
    with pytest.warns(UserWarning, match="interrupted after 2 of"):
        estimator.fit(X)
    assert len(estimator.loss_curve_) == estimator.n_iter_ == 2


def test_interruption_of_the_validation_drops_the_epoch_from_all_curves(X):
    calls = itertools.count()

    def noise(x, level):
        # One call for the start; an epoch is three steps and one look at the rows held out.
        if next(calls) == 1 + 2 * 4 + 3:
            raise KeyboardInterrupt
        return x

    estimator = DenoisingAutoencoder(
        2, hidden_layer_sizes=(4,), noise=noise, batch_size=45, random_state=0
    )
    with pytest.warns(UserWarning, match="interrupted after 2 of"):
        estimator.fit(X)
    assert len(estimator.loss_curve_) == len(estimator.validation_loss_curve_) == 2


def test_interruption_of_the_first_epoch_leaves_nothing(X):
    def noise(x, level):
        raise KeyboardInterrupt

    estimator = DenoisingAutoencoder(2, hidden_layer_sizes=(4,), noise=noise)
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(X)
    assert not hasattr(estimator, "module_")


def test_failed_first_fit_leaves_nothing(X):
    estimator = small(early_stopping=True, validation_fraction=0.9)
    before = dict(vars(estimator))
    with pytest.raises(ValueError, match="validation_fraction"):
        estimator.fit(X[:3])
    assert vars(estimator) == before


# Threads


def test_small_dense_networks_train_on_one_thread(X, monkeypatch):
    seen = []
    step = Descent.step

    def recorded(self, batch, rate):
        seen.append(torch.get_num_threads())
        return step(self, batch, rate)

    monkeypatch.setattr(Descent, "step", recorded)
    with threads(2):
        small(max_iter=1).fit(X).partial_fit(X)
        assert set(seen) == {1}
        seen.clear()
        small(max_iter=1, hidden_layer_sizes=(2048,), batch_size=1024).fit(X)
        small(
            max_iter=1, hidden_layer_sizes=(128, 64), activation="silu", network=linear_network
        ).fit(X)
        assert set(seen) == {2}
        assert torch.get_num_threads() == 2


def test_few_rows_are_encoded_on_one_thread(X, monkeypatch):
    monkeypatch.setattr("skae._base.PARALLEL_STEP", 2**14)
    seen = []
    estimator = small(max_iter=1).fit(X)
    estimator.module_.encoder.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    with threads(2):
        estimator.transform(X.astype(np.float32))
        estimator.transform(np.zeros((1000, 4), dtype=np.float32))
        assert torch.get_num_threads() == 2
    assert seen[0] == 1
    assert set(seen[1:]) == {2}


def linear_network(n_features, n_components):
    return nn.Linear(n_features, n_components), nn.Linear(n_components, n_features)


# Progress and callbacks


def test_silence_by_default(X, capfd):
    small().fit(X).partial_fit(X).transform(X)
    assert capfd.readouterr() == ("", "")


def test_verbose_shows_loss_and_time_left(X):
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        estimator = small(verbose=True).fit(X)
    assert out.getvalue() == ""
    last = err.getvalue().strip().split("\r")[-1]
    assert last.startswith("AutoencoderTransformer (2 components, 118 weights): 100%")
    assert "4/4 [" in last
    assert "epoch/s" in last
    assert f"loss={estimator.loss_curve_[-1]:.4g}" in last


def test_the_bar_is_full_when_training_stops_early(X):
    shown = io.StringIO()
    with redirect_stderr(shown):
        estimator = small(max_iter=50, n_iter_no_change=1, tol=0.5, verbose=True).fit(X)
    assert estimator.n_iter_ < 50
    last = shown.getvalue().strip().split("\r")[-1]
    assert last.startswith("AutoencoderTransformer (2 components, 118 weights): 100%")
    assert f"{estimator.n_iter_}/{estimator.n_iter_} [" in last
    assert f"loss={estimator.loss_curve_[-1]:.4g}" in last


class StopWhenGood:
    """A user's early stopping: stops when the model of the moment is good enough."""

    def __init__(self, score):
        self.score = score
        self.scores = []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, X, fitted_estimator):
        if context.task_name != "epoch":
            return False
        self.scores.append(fitted_estimator.score(X))
        return self.scores[-1] > self.score


def test_a_callback_may_stop_training(X):
    full = small(max_iter=30, learning_rate_init=0.01).fit(X)
    callback = StopWhenGood(-0.4)
    estimator = small(max_iter=30, learning_rate_init=0.01).set_callbacks(callback).fit(X)
    assert 1 < estimator.n_iter_ < 30
    assert estimator.n_iter_ == len(callback.scores)
    assert callback.scores[-1] == estimator.score(X) > -0.4 > callback.scores[-2]
    assert estimator.loss_curve_ == full.loss_curve_[: estimator.n_iter_]


def test_callbacks_change_nothing(X):
    plain = small().fit(X)
    watched = small().set_callbacks(StopWhenGood(np.inf)).fit(X)
    assert_array_equal(weights_of(plain), weights_of(watched))


def test_callbacks_see_the_model_that_early_stopping_would_return(X):
    callback = StopWhenGood(np.inf)
    estimator = (
        small(early_stopping=True, max_iter=40, learning_rate_init=0.05, batch_size=8)
        .set_callbacks(callback)
        .fit(X)
    )
    assert callback.scores[-1] == estimator.score(X)


def minus_loss(estimator, X, y):
    assert_array_equal(X, y)  # the target of an autoencoder is its input
    return estimator.score(X)


def test_scoring_monitor_logs_every_epoch(X):
    monitor = ScoringMonitor(scoring={"score": minus_loss})
    estimator = small().set_callbacks(monitor).fit(X)
    epochs = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(epochs) == 4
    scores = [row["score"] for row in epochs]
    assert scores == sorted(scores)
    assert_allclose(scores[-1], estimator.score(X))


def test_progress_bar_alone_and_in_a_pipeline(X, capsys):
    small().set_callbacks(ProgressBar()).fit(X)
    assert "AutoencoderTransformer - fit" in capsys.readouterr().out
    make_pipeline(StandardScaler(), small()).set_callbacks(ProgressBar()).fit(X)
    shown = capsys.readouterr().out
    assert "Pipeline - fit" in shown
    assert "AutoencoderTransformer - fit" in shown
    assert "100%" in shown


class TaskTree:
    """A callback that notes the way from the outermost task to each task that begins."""

    max_propagation_depth = None

    def __init__(self):
        self.paths = []
        self.n_ended = 0

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        path, task = [], context
        while task is not None:
            path.insert(0, f"{task.estimator_name} {task.task_name}")
            task = task.parent
        self.paths.append((path, context.max_subtasks))

    def on_fit_task_end(self, estimator, context):
        self.n_ended += 1


def test_epochs_are_the_leaves_of_a_search_over_a_pipeline(X):
    tree = TaskTree()
    pipeline = Pipeline([("scale", StandardScaler()), ("encode", small(max_iter=3))])
    search = GridSearchCV(pipeline, {"encode__n_components": [1, 2]}, cv=2)
    search.set_callbacks(tree).fit(X)
    training = ["Pipeline fit", "AutoencoderTransformer fit"]
    evaluation = ["GridSearchCV fit", "GridSearchCV search", *training]
    refit = ["GridSearchCV fit", *training]
    paths = [path for path, _ in tree.paths]
    assert paths.count(evaluation) == 4
    assert paths.count(refit) == 1
    assert paths.count([*evaluation, "AutoencoderTransformer epoch"]) == 4 * 3
    assert paths.count([*refit, "AutoencoderTransformer epoch"]) == 3
    # A bar knows from the start how many epochs there will be, and an epoch has no bar of its own.
    for path, max_subtasks in tree.paths:
        if path[-1].startswith("AutoencoderTransformer"):
            assert max_subtasks == (0 if path[-1].endswith("epoch") else 3)
    assert tree.n_ended == len(tree.paths)


def test_callbacks_in_a_grid_search_with_two_jobs(X, capsys):
    monitor = ScoringMonitor(scoring={"score": minus_loss})
    pipeline = make_pipeline(StandardScaler(), small().set_callbacks(monitor))
    search = GridSearchCV(
        pipeline, {"autoencodertransformer__n_components": [1, 2]}, cv=2, n_jobs=2
    )
    search.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(X)
    shown = capsys.readouterr().out
    assert "GridSearchCV - fit" in shown
    assert "AutoencoderTransformer - fit" in shown
    logs = monitor.get_logs(select="all")
    epochs = [row for log in logs for row in log.data if row["task_name"] == "epoch"]
    assert len(epochs) == 4 * (2 * 2 + 1)  # epochs of four fits and the refit
    pickle.loads(pickle.dumps(search))


# Numbers that are too large


@pytest.mark.parametrize("container", [np.asarray, sparse.csr_array, "validation", "clean"])
def test_cells_that_float32_cannot_hold_are_named(X, container):
    huge = X.copy()
    huge[3, 1] = -1e39
    estimator, arguments, table = small(early_stopping=True), {"X": X}, "X"
    if container == "validation":
        arguments["X_val"], table = huge, "X_val"
    elif container == "clean":
        estimator = DenoisingAutoencoder(2, max_iter=1)
        arguments["X_clean"], table = huge, "X_clean"
    else:
        arguments["X"] = container(huge)
    with pytest.raises(ValueError, match=rf"{table} contains 1 huge cell, in column 1 .*3.4e\+38"):
        estimator.fit(**arguments)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_loss_that_no_number_can_hold_is_the_largest_one(X, dtype):
    estimator = small().fit(X)
    largest = np.finfo(dtype).max
    rows = X[:3].astype(dtype)
    rows[1] = largest / 2
    errors = estimator.reconstruction_error(rows)
    assert errors[1] == largest
    assert_array_equal(errors[[0, 2]], estimator.reconstruction_error(rows[[0, 2]]))
    assert_array_equal(estimator.reconstruction_error(rows, per_feature=True)[1], [largest] * 4)
    assert_array_equal(estimator.score_samples(rows), -errors)
    assert estimator.score(rows[[1, 1]]) == -float(largest)
    assert estimator.score(rows, sample_weight=[1, 0, 1]) == pytest.approx(
        estimator.score(rows[[0, 2]])
    )


def test_rows_whose_codes_no_number_can_hold_are_named(X):
    estimator = small().fit(X)
    rows = X[:4].astype(np.float32)
    rows[2] = 3e38
    with torch.no_grad():
        for weights in estimator.module_.parameters():
            weights *= 100.0
    for method in (estimator.transform, estimator.reconstruct):
        with pytest.raises(ValueError, match="Row 2 of X holds numbers so large that float32"):
            method(rows)


@pytest.mark.parametrize("scale", [1e300, 1e308, 1e-300])
def test_weights_of_any_size_are_weights(X, scale):
    weights = np.random.default_rng(0).uniform(0.5, 1.0, len(X))
    desired = small().fit(X, sample_weight=weights)
    actual = small().fit(X, sample_weight=weights * scale)
    assert_allclose(actual.transform(X), desired.transform(X), rtol=1e-4, atol=1e-5)
