"""Steps on a CUDA device, recorded once and replayed.

The kernels of a small step take a GPU less time than Python needs to launch them. A CUDA graph
holds the launches of a whole step: gather, forward, backward, update and the sum of the losses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from skae._random import generator
from skae._torch_compat import errors_where_the_host_waits

# Steps before the recording, in which libraries allocate what they need.
N_WARM_UP = 3


class Recording:
    """The full batches of an epoch as replays of one step.

    Parameters
    ----------
    step : callable
        (numbers of rows of shape (batch_size,), learning rate of shape ()) -> loss, all on the
        device. Works in place on tensors that stay where they are. A step that makes the host wait
        cannot be recorded and is called instead.
    n_batches, batch_size : int
        Number of full batches in an epoch, and their size.
    loss_shape : tuple of int
        Of what a step returns.
    device : torch.device
        A CUDA device.
    """

    def __init__(
        self,
        step: Callable[[Tensor, Tensor], Tensor],
        n_batches: int,
        batch_size: int,
        loss_shape: tuple[int, ...],
        device: torch.device,
    ) -> None:
        self.step = step
        self.device = device
        self.n_batches = n_batches
        self.n_rows = n_batches * batch_size
        # What a graph reads must stay at its address: an epoch is written into these.
        with device:
            self.order = torch.zeros(n_batches, batch_size, dtype=torch.int64)
            self.rates = torch.zeros(n_batches)
            self.number = torch.zeros(1, dtype=torch.int64)  # of the batch that is next
            self.total = torch.zeros(loss_shape)
        self._recorded = False
        self._next: Callable[[], None] = self._step

    def run(self, order: Tensor, rates: Sequence[float]) -> Tensor:
        """Take the steps of an epoch and return the sum of what they return.

        Parameters
        ----------
        order : Tensor of shape (n_batches * batch_size,)
            Numbers of the rows, in the order in which they are taken.
        rates : sequence of n_batches floats
            Learning rates.
        """
        self.order.copy_(order.view(self.order.shape))
        self.rates.copy_(torch.tensor(rates))
        self.number.zero_()
        self.total.zero_()
        with torch.cuda.device(self.device):
            n_taken = 0 if self._recorded else self._record(min(N_WARM_UP, len(rates)))
            for _ in range(n_taken, len(rates)):
                self._next()
        return self.total

    def _step(self) -> None:
        batch = self.order.index_select(0, self.number)[0]
        rate = self.rates.index_select(0, self.number)[0]
        self.total += self.step(batch, rate)
        self.number += 1

    def _record(self, n_steps: int) -> int:
        """Take so many steps, on a stream of their own as graphs require, and record the next."""
        self._recorded = True
        if self._waits():
            return 1
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(1, n_steps):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        own = generator(self.device)
        if own is not None:
            graph.register_generator_state(own)
        with torch.cuda.graph(graph):
            self._step()
        self._next = graph.replay
        return n_steps

    def _waits(self) -> bool:
        """Take a step and tell whether it makes the host wait for the device."""
        waits = False
        with errors_where_the_host_waits():
            try:
                self._step()
            except RuntimeError:
                waits = True
        if waits:
            self._step()
        return waits
