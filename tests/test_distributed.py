"""Many processes fit the model that one fits to all rows, and fail together."""

import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

import skae
from skae import (
    PCA,
    AutoencoderOutlierDetector,
    AutoencoderTransformer,
    DenoisingAutoencoder,
    TableEncoder,
    VAETransformer,
)
from skae.callbacks import Checkpoint
from skae.distributed import data_parallel

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork") or not dist.is_available() or not dist.is_gloo_available(),
    reason="needs processes that are forked, and gloo",
)

SMALL = {"hidden_layer_sizes": (8,), "batch_size": 16, "max_iter": 4, "random_state": 0}


@pytest.fixture
def X():
    rng = np.random.default_rng(0)
    angle = rng.uniform(0.0, 2.0 * np.pi, 150)
    X = np.column_stack([np.cos(angle), np.sin(angle), np.cos(2 * angle), np.sin(3 * angle)])
    return X + rng.normal(0.0, 0.05, X.shape)


def run_processes(tmp_path, function, size=2, timeout=60.0, parallel_timeout=30.0):
    """Run ``function(rank)`` in processes of one group; give what it returns or raises."""
    store, children = tmp_path / f"store{time.monotonic_ns()}", []
    for rank in range(size):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child:
            children.append(child)
            continue
        result = None
        with suppress(BaseException):
            torch.set_num_threads(1)
            dist.init_process_group(
                "gloo", init_method=f"file://{store}", rank=rank, world_size=size
            )
            try:
                with data_parallel(timeout=parallel_timeout):
                    result = function(rank)
            except BaseException as error:
                result = f"{type(error).__name__}: {error}"
            (tmp_path / f"result{rank}").write_bytes(pickle.dumps(result))
        os._exit(0)
    end = time.monotonic() + timeout
    try:
        waiting = set(children)
        while waiting and time.monotonic() < end:
            waiting = {child for child in waiting if os.waitpid(child, os.WNOHANG)[0] == 0}
            time.sleep(0.005)
        assert not waiting, "the processes wait for each other"
    finally:
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(child, 0)
    paths = [tmp_path / f"result{rank}" for rank in range(size)]
    results = [pickle.loads(path.read_bytes()) if path.exists() else None for path in paths]
    for path in paths:
        path.unlink(missing_ok=True)
    return results


def assert_same_bits(models):
    first, *others = models
    assert not isinstance(first, str), first
    for other in others:
        assert other.loss_curve_ == first.loss_curve_
        assert other.validation_loss_curve_ == first.validation_loss_curve_
        for name, weights in first.module_.state_dict().items():
            assert_array_equal(other.module_.state_dict()[name], weights, err_msg=name)


def shards(X, ends):
    return np.split(X, ends)


ESTIMATORS = {
    "random start": AutoencoderTransformer(2, init="random", **SMALL),
    "anchored": AutoencoderTransformer(2, **SMALL),
    "all rows": AutoencoderTransformer(2, early_stopping=False, **SMALL),
    "in order": AutoencoderTransformer(2, shuffle=False, solver="sgd", **SMALL),
    "share of variance": AutoencoderTransformer(0.8, tied_weights=True, **SMALL),
    "automatic derivatives": AutoencoderTransformer(2, init="random", contraction=0.1, **SMALL),
    "learned variances": AutoencoderTransformer(2, loss="gaussian", **SMALL),
    "penalties": AutoencoderTransformer(2, sparsity=0.01, alpha=0.01, **SMALL),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_two_processes_fit_the_model_of_one(X, tmp_path, name):
    parts = shards(X, [40])
    estimator = ESTIMATORS[name]
    desired = clone(estimator).fit(X)
    models = run_processes(tmp_path, lambda rank: clone(estimator).fit(parts[rank]))
    assert_same_bits(models)
    assert_allclose(models[0].loss_curve_, desired.loss_curve_, rtol=1e-5)
    if desired.validation_loss_curve_ is not None:
        assert_allclose(models[0].validation_loss_curve_, desired.validation_loss_curve_, rtol=1e-5)
    assert_allclose(models[0].transform(X), desired.transform(X), atol=1e-3)


@pytest.mark.parametrize("ends", [[0, 149], [150, 150], [3, 77]])
def test_shards_of_any_length_and_empty_ones(X, tmp_path, ends):
    parts, weights = shards(X, ends), shards(np.linspace(0.0, 3.0, 150), ends)
    estimator = AutoencoderTransformer(2, init="random", **SMALL)
    desired = clone(estimator).fit(X, sample_weight=np.linspace(0.0, 3.0, 150))
    models = run_processes(
        tmp_path,
        lambda rank: clone(estimator).fit(parts[rank], sample_weight=weights[rank]),
        size=3,
    )
    assert_same_bits(models)
    assert_allclose(models[0].loss_curve_, desired.loss_curve_, rtol=1e-5)


def test_pairs_and_rows_for_early_stopping(X, tmp_path):
    def fit(parts, clean, X_val):
        return DenoisingAutoencoder(2, init="random", **SMALL).fit(
            parts, X_clean=clean, X_val=X_val, X_clean_val=X_val
        )

    desired = fit(X, np.round(X, 1), X[::3])
    parts, clean, own = shards(X, [60]), shards(np.round(X, 1), [60]), shards(X[::3], [20])
    models = run_processes(tmp_path, lambda rank: fit(parts[rank], clean[rank], own[rank]))
    assert_same_bits(models)
    assert_allclose(models[0].loss_curve_, desired.loss_curve_, rtol=1e-5)


def test_noise_is_another_one_in_each_process_and_the_model_the_same(X, tmp_path):
    estimator = VAETransformer(2, **SMALL | {"random_state": None})
    parts = shards(X, [75])

    def fit(rank):
        return clone(estimator).fit(parts[rank]).partial_fit(parts[rank])

    models = run_processes(tmp_path, fit)
    assert_same_bits(models)
    alone = VAETransformer(2, **SMALL).fit(X)
    assert abs(models[0].score(X) - alone.score(X)) < 0.5


class StopAt:
    """A callback that stops, fails or interrupts after an epoch."""

    def __init__(self, epoch, action):
        self.epoch, self.action = epoch, action

    setup = teardown = on_fit_task_begin = lambda self, estimator, context: None

    def on_fit_task_end(self, estimator, context):
        if context.task_name == "epoch" and context.task_id == self.epoch:
            return self.action()
        return False


def raise_(error):
    raise error


def test_a_callback_of_one_process_stops_all(X, tmp_path):
    def fit(rank):
        estimator = AutoencoderTransformer(2, **SMALL)
        return estimator.set_callbacks(StopAt(1, lambda: rank == 1)).fit(X[rank::2]).n_iter_

    assert run_processes(tmp_path, fit) == [2, 2]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no more"), "ValueError: no more"),
        (KeyboardInterrupt("stopped"), "KeyboardInterrupt: stopped"),
    ],
)
def test_an_error_in_one_process_ends_all_with_its_message(X, tmp_path, error, text):
    def fit(rank):
        estimator = AutoencoderTransformer(2, **SMALL)
        if rank == 1:
            estimator.set_callbacks(StopAt(1, lambda: raise_(error)))
        return estimator.fit(X[rank::3])

    start = time.monotonic()
    results = run_processes(tmp_path, fit, size=3)
    assert time.monotonic() - start < 25.0  # nobody waits for the timeout
    assert results[1] == text
    assert results[0] == results[2] == f"OtherProcessError: Process 1 of 3 has failed: {text}"


def test_bad_rows_of_one_process_are_an_error_of_all(X, tmp_path):
    def fit(rank):
        rows = X[rank::2].copy()
        if rank == 1:
            rows[3, 2] = np.inf
        return AutoencoderTransformer(2, **SMALL).fit(rows)

    results = run_processes(tmp_path, fit)
    assert "1 such cell, in column 2 (1)" in results[1]
    assert "Process 1 of 2 has failed" in results[0]
    assert "1 such cell, in column 2 (1)" in results[0]


def test_divergence_is_the_same_error_in_all(X, tmp_path):
    estimator = AutoencoderTransformer(
        2, init="random", solver="sgd", learning_rate_init=1e6, **SMALL
    )
    results = run_processes(tmp_path, lambda rank: clone(estimator).fit(X[rank::2]))
    assert results[0] == results[1]
    assert "diverged in epoch 1" in results[0]


def test_a_killed_process_is_an_error_of_the_others_and_no_wait(X, tmp_path):
    def fit(rank):
        estimator = AutoencoderTransformer(2, **SMALL)
        if rank == 1:
            estimator.set_callbacks(StopAt(1, lambda: os.kill(os.getpid(), signal.SIGKILL)))
        return estimator.fit(X[rank::2])

    start = time.monotonic()
    first, second = run_processes(tmp_path, fit)
    assert time.monotonic() - start < 25.0
    assert "OtherProcessError: Process 0 of 2 no longer hears from another one" in first
    assert second is None


def test_a_process_that_does_not_come_is_waited_for_no_longer_than_the_timeout(X, tmp_path):
    def fit(rank):
        if rank == 1:
            time.sleep(5.0)
            return None
        return AutoencoderTransformer(2, **SMALL).fit(X)

    first, _ = run_processes(tmp_path, fit, parallel_timeout=1.0)
    assert "no longer hears from another one" in first


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"max_iter": 5}, "max_iter is 4 in process 0 and 5 in process 1"),
        ({"solver": "sgd"}, "solver is 'adam' in process 0 and 'sgd' in process 1"),
        ("columns", "number of columns is 4 in process 0 and 3 in process 1"),
        ("names", "column 1 is 'b' in process 0 and 'z' in process 1"),
        ("weights", "sample_weight is given is False in process 0 and True in process 1"),
        ("unknown", "X has unknown cells (NaN), which data_parallel does not train on"),
        ("checkpoint", "number of checkpoints is 0 in process 0 and 1 in process 1"),
    ],
)
def test_the_first_difference_between_processes_is_named(X, tmp_path, change, text):
    def fit(rank):
        rows, weights = pd.DataFrame(X[rank::2], columns=list("abcd")), None
        estimator = AutoencoderTransformer(2, **SMALL)
        if rank == 1:
            match change:
                case "columns":
                    rows = rows[["a", "b", "c"]]
                case "names":
                    rows = rows.rename(columns={"b": "z"})
                case "weights":
                    weights = np.ones(len(rows))
                case "unknown":
                    rows.iloc[0, 0] = np.nan
                case "checkpoint":
                    estimator.set_callbacks(Checkpoint(tmp_path / "run.skae"))
                case _:
                    estimator.set_params(**change)
        return estimator.fit(rows, sample_weight=weights)

    for result in run_processes(tmp_path, fit):
        assert text in result


def test_what_is_not_fitted_together_is_refused(X, tmp_path):
    def fit(rank):
        for estimator in (PCA(2), AutoencoderOutlierDetector(), TableEncoder()):
            with pytest.raises(ValueError, match=r"is not fitted by many processes"):
                estimator.fit(pd.DataFrame(X))
        return "refused"

    assert run_processes(tmp_path, fit) == ["refused"] * 2


def test_a_checkpoint_is_one_file_and_ends_with_the_same_bits(X, tmp_path):
    estimator = VAETransformer(2, **SMALL | {"max_iter": 6})
    (tmp_path / "kept").mkdir()
    path = tmp_path / "kept" / "run.skae"
    whole = run_processes(tmp_path, lambda rank: clone(estimator).fit(X[rank::2]))

    def fit(rank, *callbacks):
        return clone(estimator).set_callbacks(Checkpoint(path), *callbacks).fit(X[rank::2])

    interrupt = StopAt(3, lambda: raise_(KeyboardInterrupt))
    results = run_processes(tmp_path, lambda rank: fit(rank, interrupt))
    assert all("KeyboardInterrupt" in result for result in results)
    assert [each.name for each in path.parent.iterdir()] == ["run.skae"]
    assert_same_bits([*whole, *run_processes(tmp_path, fit)])
    with pytest.raises(ValueError, match="number of processes is 1 here and 2 there"):
        fit(0)


TORCHRUN = """
import os, sys, pickle
import numpy as np
from skae import AutoencoderTransformer
from skae.distributed import data_parallel

X = np.random.default_rng(0).normal(size=(60, 4))
rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
with data_parallel():
    model = AutoencoderTransformer(2, init="random", max_iter=2, random_state=0).fit(X[rank::size])
with open(f"{sys.argv[1]}/{rank}", "wb") as file:
    pickle.dump(model, file)
"""


def test_torchrun_starts_processes_that_fit_together(tmp_path):
    (tmp_path / "train.py").write_text(TORCHRUN)
    root = str(Path(skae.__file__).parents[1])
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *(str(tmp_path / "train.py"), str(tmp_path)),
        ],
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=200,
        check=True,
    )
    assert_same_bits([pickle.loads((tmp_path / str(rank)).read_bytes()) for rank in range(2)])


def test_data_parallel_needs_a_group(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RuntimeError, match="torchrun --nproc-per-node 2"), data_parallel():
        pass
    with pytest.raises(ValueError, match="timeout=-1"), data_parallel(timeout=-1):
        pass
