import threading
import warnings
import weakref

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from skae._device import copy_to, resolve_device, threads, to_tensor
from skae._sklearn_compat import _get_threadpool_controller
from skae._torch_compat import _set_openmp_threads

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


def test_concurrent_blocks_leave_every_number_of_threads_as_it_was():
    before = torch.get_num_threads()
    after = []

    def work(n_threads):
        own = torch.get_num_threads()
        for _ in range(300):
            with threads(n_threads):
                assert torch.get_num_threads() == n_threads
        after.append(torch.get_num_threads() - own)

    workers = [threading.Thread(target=work, args=(1 + i % 3,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert after == [0] * 8
    assert torch.get_num_threads() == before
    # Threads to come begin with the number that they had.
    worker = threading.Thread(target=lambda: after.append(torch.get_num_threads()))
    worker.start()
    worker.join()
    assert after[-1] == before


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


def test_other_libraries_keep_their_numbers_of_threads():
    libraries = _get_threadpool_controller().select(user_api="openmp").lib_controllers
    before = [library.get_num_threads() for library in libraries]
    try:
        for place, library in enumerate(libraries):
            library.set_num_threads(2 + place)
        numbers = [library.get_num_threads() for library in libraries]
        _set_openmp_threads.cache_clear()  # as if this were the first block
        with threads(1):
            assert torch.get_num_threads() == 1
        assert [library.get_num_threads() for library in libraries] == numbers
    finally:
        for library, number in zip(libraries, before, strict=True):
            library.set_num_threads(number)
