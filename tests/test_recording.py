"""The bookkeeping of recordings; what a CUDA device does with them is in test_gpu.py."""

import math
from contextlib import nullcontext
from itertools import repeat

import pytest
import torch
from numpy.testing import assert_array_equal
from torch.testing import assert_close

from skae._autoencoder import Autoencoder
from skae._recording import Recording
from skae._training import Descent, History, Rows, make_recording, train_epoch
from skae.networks._dense import dense_network

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cpu_instead_of_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)


def make_descent():
    torch.random.default_generator.manual_seed(0)
    networks = dense_network(
        4, 2, hidden_layer_sizes=(3,), activation="tanh", dropout=0.0, use_bias=True,
        tied_weights=False, anchored=True,
    )  # fmt: skip
    module = Autoencoder(*networks, loss="squared_error", output_activation="identity")
    return Descent(module, "adam", 0.1, "float32")


@pytest.mark.parametrize("n_rows", [20, 23])
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_of_a_recording_is_an_epoch(monkeypatch, n_rows, shuffle):
    # What waits for the device is called, not recorded: on the CPU as on CUDA.
    monkeypatch.setattr(Recording, "_waits", lambda self: self._step() or True)
    descents = make_descent(), make_descent()
    x = torch.rand(n_rows, 4)
    rows = Rows((x,), torch.linspace(0.5, 1.5, n_rows))
    recording = Recording(
        lambda index, rate: descents[1].step(rows.take(index), rate), n_rows // 5, 5, (), CPU
    )
    for _ in range(2):
        losses = []
        for descent, recorded in zip(descents, (None, recording), strict=True):
            torch.random.default_generator.manual_seed(1)
            losses.append(
                train_epoch(
                    descent,
                    rows,
                    History(),
                    repeat(0.01),
                    batch_size=5,
                    shuffle=shuffle,
                    recording=recorded,
                )
            )
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
    assert make_recording(make_descent(), Rows((torch.rand(50, 4),)), 5, 100) is None
