"""What a process, its threads, its forks and Torch's settings have to do with a fit: nothing."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from torch import nn

from skae import (
    PCA,
    AutoencoderOutlierDetector,
    AutoencoderTransformer,
    DenoisingAutoencoder,
    VAETransformer,
)
from skae._denoising_ensemble import DenoisingEnsemble
from skae.networks import Conv1dNetwork, RecurrentNetwork


def network_with_dropout(n_features, n_components):
    """Draws random numbers that are not ours, when it is built and when it is trained."""
    encoder = nn.Sequential(nn.Linear(n_features, 5), nn.Dropout(0.3), nn.Linear(5, n_components))
    return encoder, nn.Linear(n_components, n_features)


def own_noise(x, level):
    return x + level * torch.randn_like(x)


QUICK = {"hidden_layer_sizes": (8,), "max_iter": 3, "random_state": 0}
NETWORK = {"max_iter": 2, "random_state": 0}
ESTIMATORS = {
    "AE": AutoencoderTransformer(2, **QUICK),
    "AE gaussian": AutoencoderTransformer(2, loss="gaussian", dropout=0.1, **QUICK),
    "AE bf16": AutoencoderTransformer(2, precision="bf16", **QUICK),
    "AE contraction": AutoencoderTransformer(2, contraction=0.1, **QUICK),
    "AE conv": AutoencoderTransformer(2, network=Conv1dNetwork((4, 1), (3,)), **NETWORK),
    "AE recurrent": AutoencoderTransformer(2, network=RecurrentNetwork((4, 1), 3), **NETWORK),
    "AE network": AutoencoderTransformer(2, network=network_with_dropout, **NETWORK),
    "DAE": DenoisingAutoencoder(2, **QUICK),
    "DAE noise": DenoisingAutoencoder(2, noise=own_noise, **QUICK),
    "VAE": VAETransformer(2, **QUICK),
    "PCA": PCA(2, svd_solver="randomized", random_state=0),
    "detector": AutoencoderOutlierDetector(random_state=0),
}


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(DenoisingEnsemble, "_n_steps", 5)


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    return rng.normal(size=(120, 2)) @ rng.normal(size=(2, 4)) + 0.1 * rng.normal(size=(120, 4))


@pytest.fixture(params=ESTIMATORS)
def estimator(request):
    return clone(ESTIMATORS[request.param])


def scores_of(estimator, X):
    return estimator.fit(X).score_samples(X)


@contextlib.contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


AMBIENT = {
    "default dtype float64": default_dtype,
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.mark.parametrize("ambient", AMBIENT)
def test_results_do_not_depend_on_torchs_settings(estimator, X, ambient):
    desired = scores_of(clone(estimator), X)
    with AMBIENT[ambient]():
        actual = scores_of(estimator, X)
    assert_array_equal(actual, desired)
    assert torch.get_default_dtype() == torch.float32
    assert not torch.is_inference_mode_enabled()


def test_random_numbers_of_the_process_are_not_touched(estimator, X):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    scores_of(estimator, X)
    assert_array_equal(torch.get_rng_state(), before[0])
    assert_array_equal(np.random.get_state()[1], before[1])


def test_fits_at_the_same_time_give_what_they_give_alone(X):
    names = list(ESTIMATORS)[:10]
    desired = [scores_of(clone(ESTIMATORS[name]), X) for name in names]
    before = torch.get_rng_state(), torch.get_num_threads()
    actual = [None] * len(names)

    def work(place):
        actual[place] = scores_of(clone(ESTIMATORS[names[place]]), X)

    workers = [threading.Thread(target=work, args=(place,)) for place in range(len(names))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for place, name in enumerate(names):
        assert_array_equal(actual[place], desired[place], err_msg=name)
    assert_array_equal(torch.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]


class FitElsewhere:
    """A callback that fits another estimator in another thread and waits for it."""

    def __init__(self, estimator, X):
        self.estimator, self.X = estimator, X
        self.n_fits = 0

    def setup(self, estimator, context):
        pass

    def on_fit_task_begin(self, *args, **kwargs):
        pass

    def on_fit_task_end(self, *args, **kwargs):
        worker = threading.Thread(target=clone(self.estimator).fit, args=(self.X,), daemon=True)
        worker.start()
        worker.join(30)
        assert not worker.is_alive(), "the fits wait for each other"
        self.n_fits += 1

    def teardown(self, estimator, context):
        pass


@pytest.mark.parametrize("name", ["AE", "AE network", "DAE noise"])
def test_a_callback_may_wait_for_another_fit(X, name):
    callback = FitElsewhere(ESTIMATORS[name], X)
    clone(ESTIMATORS[name]).set_callbacks(callback).fit(X)
    assert callback.n_fits >= 3


def wait_for(child, seconds=60):
    """Exit status of a forked child, which is killed if it hangs."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hangs"


def fork_and(function):
    """Call a function in a forked child; give the exit status, 0 if it returned."""
    child = os.fork()
    if child == 0:
        try:
            function()
            os._exit(0)
        finally:
            os._exit(1)
    return wait_for(child)


LARGE = AutoencoderTransformer(
    4, hidden_layer_sizes=(1024,), batch_size=1024, max_iter=1, early_stopping=False, random_state=0
)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("name", ["large", "AE", "AE network", "PCA", "detector"])
def test_a_forked_child_works_after_a_fit_on_many_threads(X, name):
    wide = np.random.default_rng(0).normal(size=(2000, 300))
    LARGE.fit(wide)  # starts Torch's pool of threads
    PCA(3).fit(np.random.default_rng(0).normal(size=(40_000, 60)))  # and that of the moments
    estimator, rows = (LARGE, wide) if name == "large" else (ESTIMATORS[name], X)
    assert fork_and(lambda: scores_of(clone(estimator), rows)) == 0


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("name", ["AE", "AE network", "DAE noise", "detector"])
def test_a_fork_while_another_thread_fits_does_not_hang(X, name):
    stop = threading.Event()

    def work():
        while not stop.is_set():
            clone(ESTIMATORS[name]).fit(X)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(3):
            time.sleep(0.05)
            assert fork_and(lambda: scores_of(clone(ESTIMATORS[name]), X)) == 0
    finally:
        stop.set()
        worker.join()
