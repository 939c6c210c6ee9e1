"""The bookkeeping of recordings; what a CUDA device does with them is in test_gpu.py."""

import math
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from numpy.testing import assert_array_equal
from torch.testing import assert_close

from skae._autoencoder import Autoencoder
from skae._random import private_random_numbers
from skae._recording import Recording
from skae._rows import DenseTable, Rows
from skae._training import Descent, Progress, Settings, make_recording, train_epoch
from skae.networks._dense import dense_network

CPU = torch.device("cpu")
SETTINGS = Settings("adam", 0.01, batch_size=5, max_iter=100, learning_rate="constant", alpha=0.1)


@pytest.fixture(autouse=True)
def cpu_instead_of_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)


def make_descent():
    with private_random_numbers(0, CPU):
        networks = dense_network(
            4, 2, hidden_layer_sizes=(3,), activation="tanh", dropout=0.0, use_bias=True,
            tied_weights=False, anchored=True,
        )  # fmt: skip
    module = Autoencoder(*networks, loss="squared_error", output_activation="identity")
    return Descent(module, SETTINGS)


@pytest.mark.parametrize("n_rows", [20, 23])
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_of_a_recording_is_an_epoch(monkeypatch, n_rows, shuffle):
    # What waits for the device is called, not recorded: on the CPU as on CUDA.
    monkeypatch.setattr(Recording, "_waits", lambda self: self._step() or True)
    descents = make_descent(), make_descent()
    x = torch.rand(n_rows, 4)
    rows = Rows(DenseTable(x), weights=torch.linspace(0.5, 1.5, n_rows))
    settings = replace(SETTINGS, shuffle=shuffle)
    recording = Recording(
        lambda index, rate: descents[1].step(rows.batch(index), rate), n_rows // 5, 5, (), CPU
    )
    for _ in range(2):
        losses = []
        for descent, recorded in zip(descents, (None, recording), strict=True):
            with private_random_numbers(1, CPU):
                losses.append(train_epoch(descent, rows, Progress(), settings, recorded))
        assert math.isclose(*losses, rel_tol=1e-5)
    assert_close(descents[1].weights.values, descents[0].weights.values)


def test_a_step_that_waits_is_taken_all_the_same():
    taken = []

    def step(index, rate):
        if not taken:
            taken.append(None)
            raise RuntimeError("called a synchronizing CUDA operation")
        taken.append(index.tolist())
        return rate

    recording = Recording(step, 3, 2, (), CPU)
    total = recording.run(torch.arange(6), [1.0, 2.0, 4.0])
    assert taken == [None, [0, 1], [2, 3], [4, 5]]
    assert_array_equal(total, 7.0)


def test_the_cpu_records_nothing():
    assert make_recording(make_descent(), Rows(DenseTable(torch.rand(50, 4))), SETTINGS) is None
