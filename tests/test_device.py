import threading
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from skae._device import private_random_state, resolve_device, to_tensor

CPU = torch.device("cpu")


@pytest.mark.parametrize("large", [True, False])
def test_auto_is_the_accelerator_for_large_problems_only(monkeypatch, large):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto", large=large).type == ("cuda" if large else "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto", large=large) == CPU


def test_a_device_that_is_not_there_is_an_error_that_lists_those_that_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1", large=False) == torch.device("cuda:1")
    with pytest.raises(ValueError, match=r"device='cuda:2' is not available.*cpu, cuda:0, cuda:1"):
        resolve_device("cuda:2", large=False)


@pytest.mark.parametrize("name", ["gpu", "", "meta", "cuda:x"])
def test_an_unknown_device_is_an_error(name):
    with pytest.raises(ValueError, match="is unknown; use 'auto'"):
        resolve_device(name, large=False)


def test_to_tensor_copies_only_what_torch_cannot_hold():
    X = np.arange(12.0).reshape(4, 3)
    assert to_tensor(X, CPU).data_ptr() == X.ctypes.data
    read_only = X.copy()
    read_only.flags.writeable = False
    for array in (read_only, X[::-1], X[:, ::-1], X.T, X[1:1]):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert_array_equal(to_tensor(array, CPU), array)
    assert to_tensor(X, CPU, torch.float32).dtype == torch.float32


def test_private_random_state_repeats_and_leaves_no_trace():
    before = torch.random.get_rng_state()
    draws = []
    for _ in range(2):
        with private_random_state(5, CPU):
            draws.append(torch.rand(3))
    assert_array_equal(draws[0], draws[1])
    assert_array_equal(torch.random.get_rng_state(), before)


def test_threads_draw_the_numbers_of_their_own_seed():
    def draw(seed):
        with private_random_state(seed, CPU):
            return torch.cat([torch.rand(1) for _ in range(300)])

    desired = [draw(seed) for seed in range(4)]
    before = torch.random.get_rng_state()
    actual = [None] * 4

    def work(seed):
        actual[seed] = draw(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(4):
        assert_array_equal(actual[seed], desired[seed])
    assert_array_equal(torch.random.get_rng_state(), before)
