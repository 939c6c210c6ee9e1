"""Rows that are spread over processes, of which each has a part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skae._blocks import BLOCK_BYTES, BlockTable
from skae._device import CPU
from skae._processes import Processes
from skae._random import permutation
from skae._rows import INFERENCE_BATCH_SIZE, Batch, Rows, Table, others, weighted


@dataclass(frozen=True)
class SharedTable:
    """The rows of all processes, those of the first one first.

    `dense` gives any of them in all processes, which therefore have to ask for the same ones at the
    same time. `own` gives those that are here.
    """

    local: Table
    """Rows of this process."""

    first: int
    """Number of the first of them among all rows."""

    n_rows: int
    """Number of rows of all processes."""

    processes: Processes
    index: Tensor | None = None
    """Numbers of the rows that are in the table, (n,); None for all of them."""

    device: torch.device = CPU
    is_resident = False
    starts = None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of columns."""
        return self.n_rows if self.index is None else len(self.index), self.local.shape[1]

    def to(self, device: torch.device) -> SharedTable:
        """Choose the device of the dense rows."""
        return replace(self, device=device)

    def take(self, index: Tensor) -> SharedTable:
        """Choose rows by their numbers."""
        index = index.cpu()
        return replace(self, index=index if self.index is None else self.index[index])

    def without(self, index: Tensor) -> SharedTable:
        """Choose all other rows."""
        return self.take(others(self.shape[0], index))

    def dense(self, index: Tensor | slice) -> Tensor:
        """Give some rows to all processes."""
        if isinstance(index, slice):
            index = torch.arange(*index.indices(self.shape[0]))
        rows = torch.zeros((len(index), self.shape[1]), dtype=torch.float32)
        places, own = self.own(index)
        rows[places] = own
        return self.processes.add(rows).to(self.device)

    def own(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Give the places in the index of the rows that are here, and these rows, on the CPU."""
        index = index.cpu()
        numbers = (index if self.index is None else self.index[index]) - self.first
        places = ((numbers >= 0) & (numbers < self.local.shape[0])).nonzero()[:, 0]
        return places, self.local.dense(numbers[places])

    def source(self, weights: np.ndarray | None) -> tuple[BlockTable, np.ndarray | None]:
        """Give the rows as a table that is read block by block, and the weights."""
        return SharedBlocks(self), weights


class SharedBlocks(BlockTable):
    """The rows of all processes, of which a block at a time comes to each of them."""

    def __init__(self, table: SharedTable) -> None:
        n_rows, n_columns = table.shape
        step = max(1, BLOCK_BYTES // (4 * n_columns))
        starts = np.append(np.arange(0, n_rows, step), n_rows)
        super().__init__(table.shape, np.dtype(np.float32), starts)
        self.table = table.to(CPU)

    def read(self, number: int) -> np.ndarray:
        """Read a block."""
        return self[int(self.starts[number]) : int(self.starts[number + 1])]

    def __getitem__(self, rows: Any) -> np.ndarray:
        if isinstance(rows, tuple):
            return self[rows[0]][(slice(None), *rows[1:])]
        if isinstance(rows, slice):
            return self.table.dense(rows).numpy()
        index = np.asarray(rows)
        index = np.flatnonzero(index) if index.dtype == bool else index
        found = self.table.dense(torch.from_numpy(np.atleast_1d(index))).numpy()
        return found if index.ndim else found[0]


def share(rows: Rows, weights: np.ndarray | None, processes: Processes) -> Rows:
    """Put the rows of all processes together, without moving them.

    Parameters
    ----------
    rows : Rows
        Of this process, without weights.
    weights : ndarray of shape (n_rows,) or None
        Their weights.
    processes : Processes
    """
    lengths = processes.gather(len(rows))
    first, n_rows = sum(lengths[: processes.rank]), sum(lengths)
    if n_rows < 2:
        raise ValueError(
            f"The {processes.size} processes have {n_rows} row in all, and at least 2 are needed."
        )

    def shared(table: Table) -> SharedTable:
        return SharedTable(table, first, n_rows, processes)

    together = Rows(shared(rows.x), None if rows.target is None else shared(rows.target))
    if weights is None:
        return together
    return weighted(together, np.concatenate(processes.gather(weights)))


def processes_of(rows: Rows) -> Processes | None:
    """Give the processes over which rows are spread; None for rows of this one."""
    return rows.x.processes if isinstance(rows.x, SharedTable) else None


def own_batch(rows: Rows, index: Tensor) -> tuple[Tensor, Batch]:
    """Give the rows of a batch that are here, with their places in it."""
    assert isinstance(rows.x, SharedTable)
    places, x = rows.x.own(index)
    target = rows.target.own(index)[1] if isinstance(rows.target, SharedTable) else None
    weights = None if rows.weights is None else rows.weights[index.to(rows.weights.device)[places]]
    device = rows.device
    return places, Batch(
        x.to(device),
        None if target is None else target.to(device),
        weights,
        n_in_all=len(index),
    )


def own_batches(rows: Rows, batch_size: int, shuffle: bool) -> Iterator[Batch]:
    """Yield, of the batches of all rows, what is here; some may be empty."""
    order = torch.arange(len(rows))
    if shuffle and batch_size < len(rows):
        order = permutation(len(rows), rows.device).cpu()
    for index in order.split(batch_size):
        yield own_batch(rows, index)[1]


def shared_losses(rows: Rows, losses_of: Any) -> Tensor:
    """Compute the losses of all rows, each where the row is; the same in all processes.

    Parameters
    ----------
    rows : Rows
    losses_of : callable
        Gives the losses of a batch, (n_rows,).
    """
    processes = processes_of(rows)
    assert processes is not None
    losses = torch.zeros(len(rows), dtype=torch.float32)
    for index in torch.arange(len(rows)).split(INFERENCE_BATCH_SIZE * processes.size):
        places, batch = own_batch(rows, index)
        if len(batch) > 0:
            with processes.drawing_own():
                losses[index[places]] = losses_of(batch).cpu()
    return processes.add(losses).to(rows.device)
