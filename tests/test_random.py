"""Random numbers belong to the thread that draws them."""

import os
import signal
import threading
import time

import pytest
import torch
from numpy.testing import assert_array_equal
from torch import nn

from skae._random import (
    generator,
    normal_like,
    permutation,
    private_random_numbers,
    random_numbers_of_the_process,
    uniform_like,
)

CPU = torch.device("cpu")


def test_blocks_repeat_and_leave_no_trace():
    before = torch.random.get_rng_state()
    draws = []
    for _ in range(2):
        with private_random_numbers(5, CPU):
            draws.append(uniform_like(torch.zeros(3)))
    assert_array_equal(draws[0], draws[1])
    assert_array_equal(torch.random.get_rng_state(), before)
    assert generator(CPU) is None


def test_numbers_are_those_of_torch():
    x = torch.zeros(4, 3)
    with private_random_numbers(5, CPU):
        actual = normal_like(x), uniform_like(x), permutation(9, CPU)
    desired = torch.Generator().manual_seed(5)
    assert_array_equal(actual[0], torch.randn(4, 3, generator=desired))
    assert_array_equal(actual[1], torch.rand(4, 3, generator=desired))
    assert_array_equal(actual[2], torch.randperm(9, generator=desired))


def test_a_block_within_a_block_does_not_disturb_it():
    with private_random_numbers(1, CPU):
        desired = [uniform_like(torch.zeros(1)) for _ in range(2)]
    with private_random_numbers(1, CPU):
        first = uniform_like(torch.zeros(1))
        with private_random_numbers(2, CPU):
            uniform_like(torch.zeros(1))
        assert_array_equal([first, uniform_like(torch.zeros(1))], desired)


def draw(seed):
    """Our draws and those of code that knows Torch's generator only, in turns."""
    numbers = []
    with private_random_numbers(seed, CPU):
        for _ in range(100):
            numbers.append(uniform_like(torch.zeros(1)))
            with random_numbers_of_the_process():
                numbers.append(torch.rand(1))
                numbers.append(uniform_like(torch.zeros(1)))
    return torch.cat(numbers)


def test_code_of_users_continues_the_numbers_of_the_block():
    before = torch.random.get_rng_state()
    desired = torch.Generator().manual_seed(3)
    assert_array_equal(draw(3), torch.cat([torch.rand(1, generator=desired) for _ in range(300)]))
    assert_array_equal(torch.random.get_rng_state(), before)


def test_threads_draw_the_numbers_of_their_own_seed():
    desired = [draw(seed) for seed in range(8)]
    before = torch.random.get_rng_state()
    actual = [None] * 8

    def work(seed):
        actual[seed] = draw(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for seed in range(8):
        assert_array_equal(actual[seed], desired[seed])
    assert_array_equal(torch.random.get_rng_state(), before)


def test_numbers_of_the_process_come_back_after_an_error():
    before = torch.random.get_rng_state()

    def fail():
        with private_random_numbers(0, CPU), random_numbers_of_the_process():
            nn.Linear(3, 3)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert_array_equal(torch.random.get_rng_state(), before)
    assert generator(CPU) is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_while_another_thread_draws_does_not_hang():
    inside, leave = threading.Event(), threading.Event()

    def work():
        with private_random_numbers(0, CPU), random_numbers_of_the_process():
            inside.set()
            leave.wait(30)

    worker = threading.Thread(target=work)
    worker.start()
    inside.wait(30)
    child = os.fork()
    if child == 0:
        try:
            draw(1)
            os._exit(0)
        finally:
            os._exit(1)
    leave.set()
    worker.join()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.01)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0
