import threading
import warnings
import weakref

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from skae._device import copy_to, private_random_state, resolve_device, threads, to_tensor

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


def test_threads_are_limited_inside_the_block_only():
    before = torch.get_num_threads()

    def fail():
        with threads(1):
            assert torch.get_num_threads() == 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.get_num_threads() == before
    with threads(None):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


def test_copies_follow_their_module():
    module = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1)).eval()
    x = torch.ones(1, 2, dtype=torch.float64)
    first = copy_to(module, torch.device("cpu"), torch.float64)
    assert_allclose(first(x).detach(), module(x.float()).detach(), rtol=1e-6)
    with torch.no_grad():
        module[0].weight += 1.0
        module[1].running_mean += 1.0
    second = copy_to(module, torch.device("cpu"), torch.float64)
    assert second is first
    assert_allclose(second(x).detach(), module(x.float()).detach(), rtol=1e-6)
    module[0] = nn.Linear(2, 1)
    third = copy_to(module, torch.device("cpu"), torch.float64)
    assert_allclose(third(x).detach(), module(x.float()).detach(), rtol=1e-6)


def test_copies_do_not_keep_their_module_alive():
    module = nn.Linear(2, 1)
    copied = weakref.ref(copy_to(module, torch.device("cpu"), torch.float64))
    alive = weakref.ref(module)
    del module
    assert alive() is None
    assert copied() is None
