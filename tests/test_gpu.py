"""The same on a CUDA device as on the CPU."""

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from skae import AutoencoderOutlierDetector, AutoencoderTransformer, DenoisingAutoencoder
from skae._recording import N_WARM_UP
from skae.networks import RecurrentNetwork

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).normal(size=(500, 20)) @ np.diag(np.linspace(0.1, 2, 20))


def fit(X, device, **parameters):
    return AutoencoderTransformer(
        4, hidden_layer_sizes=(32,), max_iter=5, device=device, random_state=0, **parameters
    ).fit(X)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cuda_learns_what_the_cpu_learns(X, dtype, early_stopping):
    # The order of rows differs between devices; full batches do not have one.
    parameters = {"batch_size": 500, "early_stopping": early_stopping}
    cpu, cuda = (fit(X.astype(dtype), device, **parameters) for device in ("cpu", "cuda"))
    assert cuda.device_ == "cuda"
    assert {w.device.type for w in cuda.module_.parameters()} == {"cpu"}
    assert_allclose(cuda.loss_curve_, cpu.loss_curve_, rtol=1e-3)
    assert cuda.transform(X.astype(dtype)).dtype == dtype
    assert_allclose(cuda.score_samples(X), cpu.score_samples(X), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("solver", ["adam", "adamw", "sgd", "adadelta", "rmsprop"])
def test_every_solver_and_partial_fit_run_on_cuda(X, solver):
    estimator = fit(X, "cuda", solver=solver, dropout=0.1)
    estimator.partial_fit(X).partial_fit(X, sample_weight=np.ones(len(X)))
    assert estimator.n_iter_ == 7
    assert np.isfinite(estimator.score(X))


def test_bf16_runs_on_cuda(X):
    assert np.isfinite(fit(X, "cuda", precision="bf16").score(X))


def test_refit_on_cuda_equals_first_fit_and_touches_no_global_state(X):
    before = torch.cuda.get_rng_state(), torch.random.get_rng_state()
    first, second = fit(X, "cuda").transform(X), fit(X, "cuda").transform(X)
    assert_array_equal(first, second)
    assert_array_equal(torch.cuda.get_rng_state(), before[0])
    assert_array_equal(torch.random.get_rng_state(), before[1])


def test_auto_takes_cuda_for_large_steps(X):
    assert fit(X, "auto").device_ == "cpu"
    large = AutoencoderTransformer(4, hidden_layer_sizes=(4096, 4096), max_iter=1, random_state=0)
    assert large.fit(X).device_ == "cuda"


def test_pickles_from_cuda_hold_arrays_only(X):
    estimator = fit(X, "cuda")
    data = pickle.dumps(estimator)
    assert b"torch" not in data
    assert_array_equal(pickle.loads(data).transform(X), estimator.transform(X))


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"init": "random", "solver": "sgd", "alpha": 0.01, "learning_rate": "constant"},
        {"loss": "gaussian", "solver": "rmsprop", "tied_weights": True},
        {"precision": "bf16", "solver": "adadelta"},
    ],
    ids=str,
)
def test_replayed_steps_are_the_steps(X, monkeypatch, parameters):
    parameters = {"batch_size": 64, "early_stopping": False, **parameters}
    replayed = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(
        torch.cuda.CUDAGraph, "replay", lambda graph: replayed.append(graph) or replay(graph)
    )
    monkeypatch.setattr("skae._training.MIN_STEPS_TO_RECORD", 1)
    recorded = fit(X, "cuda", **parameters)
    assert len(replayed) == 5 * (500 // 64) - N_WARM_UP
    monkeypatch.setattr("skae._training.MIN_STEPS_TO_RECORD", 10**9)
    called = fit(X, "cuda", **parameters)
    assert len(replayed) == 5 * (500 // 64) - N_WARM_UP
    assert_allclose(recorded.loss_curve_, called.loss_curve_, rtol=1e-3)
    assert_allclose(recorded.transform(X), called.transform(X), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("noise", ["gaussian", "masking", "swap"])
def test_replayed_noise_is_new_in_every_step(X, monkeypatch, noise):
    monkeypatch.setattr("skae._training.MIN_STEPS_TO_RECORD", 1)
    before = torch.cuda.get_rng_state()
    parameters = {"batch_size": 64, "max_iter": 20, "device": "cuda", "random_state": 0}
    first, second = (
        DenoisingAutoencoder(4, noise=noise, noise_level=0.3, **parameters).fit(X) for _ in range(2)
    )
    assert_array_equal(first.transform(X), second.transform(X))
    assert_array_equal(torch.cuda.get_rng_state(), before)
    # Learning the noise of one batch by heart would show here.
    cpu = DenoisingAutoencoder(4, noise=noise, noise_level=0.3, **parameters | {"device": "cpu"})
    assert_allclose(first.loss_curve_[-1], cpu.fit(X).loss_curve_[-1], rtol=0.1)


def waiting_noise(x, level):
    return x + level * float(x.std())


def test_noise_that_waits_for_the_device_is_not_recorded(X, monkeypatch):
    monkeypatch.setattr("skae._training.MIN_STEPS_TO_RECORD", 1)
    estimator = DenoisingAutoencoder(4, noise=waiting_noise, max_iter=2, device="cuda")
    assert np.isfinite(estimator.fit(X).score(X))
    assert torch.cuda.get_sync_debug_mode() == 0


def test_recurrent_networks_train_without_a_warning(X):
    network = RecurrentNetwork(sequence_shape=(10, 2), hidden_size=8)
    estimator = AutoencoderTransformer(2, network=network, max_iter=2, device="cuda")
    assert np.isfinite(estimator.fit(X).score(X))


def test_the_outlier_detector_scores_on_cuda_as_on_the_cpu(X):
    detector = AutoencoderOutlierDetector(device="cuda", random_state=0).fit(X)
    assert detector.estimator_.device_ == "cuda"
    other = pickle.loads(pickle.dumps(detector))
    other.estimator_.device_ = "cpu"
    assert_allclose(detector.score_samples(X), other.score_samples(X), rtol=1e-5)
    assert_allclose(detector.explain(X[:5]), other.explain(X[:5]), rtol=1e-4, atol=1e-6)
