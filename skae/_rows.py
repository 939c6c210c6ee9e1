"""Rows to train on: tables of every kind behind one small protocol, and batches of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import repeat
from typing import Any, Protocol, Self

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from skae._blocks import BlockTable, SelectedRows, Without, check_length, map_of
from skae._device import CPU, available_memory, to_tensor
from skae._device_array import DeviceArray
from skae._random import permutation, uniform_like
from skae._validation import float_dtype

# Rows that go through the network together at inference: enough to keep a core busy, few enough
# that the widest layer stays in its cache.
INFERENCE_BATCH_SIZE = 4096

# Size of the rows that are gathered together: they are still in a core's cache when their batch
# is due.
BLOCK_BYTES = 2**20

# Size up to which a table in a file is copied: rows in memory are gathered several times as fast.
MAX_COPIED_BYTES = 2**28

# Rows of a longer one are shuffled in two steps: blocks of this size are read in a random order,
# and the rows of as many blocks as fit the buffer take random places in it.
STREAM_BLOCK_BYTES = 2**16
BUFFER_BYTES = 2**26
# A row group of a file is read as a whole. The buffer has at least so many.
MIN_BLOCKS_IN_BUFFER = 4

# Share of an accelerator's free memory that a table may take; the rest is for the network.
RESIDENT_SHARE = 0.5


class Table(Protocol):
    """What training asks of a table."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of columns."""

    @property
    def device(self) -> torch.device:
        """Where the dense rows are wanted."""

    @property
    def is_resident(self) -> bool:
        """Whether rows can be taken without the host, as a recorded step does."""

    @property
    def starts(self) -> np.ndarray | None:
        """Number of the first row of each block that is best read at once, and of rows at the end.

        None if all rows are in memory.
        """

    def to(self, device: torch.device) -> Self:
        """Choose the device."""

    def take(self, index: Tensor) -> Table:
        """Choose rows by their numbers, (n,)."""

    def without(self, index: Tensor) -> Table:
        """Choose all rows but some, given by their numbers in order, (n,)."""

    def dense(self, index: Tensor | slice) -> Tensor:
        """Give some rows on the device, float32, (n, n_columns)."""

    def source(self, weights: np.ndarray | None) -> tuple[Any, np.ndarray | None]:
        """Give the rows as an array, memory map, `BlockTable` or sparse matrix, and the weights."""


@dataclass(frozen=True)
class DenseTable:
    """Rows of a tensor. What does not fit on the device stays where it is."""

    values: Tensor
    device: torch.device = CPU
    starts = None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of columns."""
        return len(self.values), math.prod(self.values.shape[1:])

    @property
    def is_resident(self) -> bool:
        """Whether the tensor is on the device."""
        return self.values.device == self.device

    def to(self, device: torch.device) -> DenseTable:
        """Move the rows to the device if it has the memory."""
        free = None if device.type == "cpu" else available_memory(device)
        fits = free is None or self.values.nbytes <= RESIDENT_SHARE * free
        return DenseTable(self.values.to(device) if fits else self.values, device)

    def take(self, index: Tensor) -> DenseTable:
        """Copy rows by their numbers."""
        return DenseTable(self.values.index_select(0, index.to(self.values.device)), self.device)

    def without(self, index: Tensor) -> DenseTable:
        """Copy all other rows."""
        return self.take(others(self.shape[0], index))

    def dense(self, index: Tensor | slice) -> Tensor:
        """Give some rows; a slice of them is not copied."""
        if isinstance(index, slice):
            return self.values[index].to(self.device)
        return self.values.index_select(0, index.to(self.values.device)).to(self.device)

    def source(self, weights: np.ndarray | None) -> tuple[Any, np.ndarray | None]:
        """Give the rows as an array or, on an accelerator, as a `DeviceArray`; and the weights."""
        rows = DeviceArray(self.values) if DeviceArray.is_for(self.values) else self.values.numpy()
        return rows, weights


@dataclass(frozen=True)
class SparseTable:
    """Rows of a sparse matrix, which stays on the host; batches of it are made dense."""

    matrix: Any
    device: torch.device = CPU
    is_resident = False
    starts = None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of columns."""
        return self.matrix.shape

    def to(self, device: torch.device) -> SparseTable:
        """Choose the device of the dense rows."""
        return SparseTable(self.matrix, device)

    def take(self, index: Tensor) -> SparseTable:
        """Copy rows by their numbers."""
        return SparseTable(self.matrix[index.cpu().numpy()], self.device)

    def without(self, index: Tensor) -> SparseTable:
        """Copy all other rows."""
        return self.take(others(self.shape[0], index))

    def dense(self, index: Tensor | slice) -> Tensor:
        """Make some rows a tensor."""
        rows = self.matrix[index if isinstance(index, slice) else index.cpu().numpy()]
        return torch.from_numpy(rows.toarray()).to(self.device)

    def source(self, weights: np.ndarray | None) -> tuple[Any, np.ndarray | None]:
        """Give the matrix and the weights."""
        return self.matrix, weights


@dataclass(frozen=True)
class MappedTable:
    """Rows in a file, which are read when a batch of them is due."""

    array: Any
    """A memory map or a `BlockTable`."""

    index: np.ndarray | Without | None = None
    """Numbers of the rows that are in the table; None for all of them."""

    device: torch.device = CPU
    is_resident = False

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of columns."""
        return len(self.array) if self.index is None else len(self.index), self.array.shape[1]

    @property
    def starts(self) -> np.ndarray:
        """First rows of blocks: of the file's own, or of some that are read in no time."""
        if isinstance(self.array, BlockTable) and not isinstance(self.index, np.ndarray):
            starts = self.array.starts
            if self.index is not None:
                starts = starts - np.searchsorted(self.index.left_out, starts)
            return np.unique(starts)
        n_rows, n_columns = self.shape
        step = max(1, STREAM_BLOCK_BYTES // (4 * n_columns))
        return np.append(np.arange(0, n_rows, step), n_rows)

    def to(self, device: torch.device) -> MappedTable:
        """Choose the device of the dense rows."""
        return replace(self, device=device)

    def take(self, index: Tensor) -> DenseTable | MappedTable:
        """Choose rows by their numbers; few are read at once, many when they are due."""
        rows = index.cpu().numpy()
        rows = rows if self.index is None else self.index[rows]
        chosen = replace(self, index=rows)
        if 4 * len(rows) * self.array.shape[1] > MAX_COPIED_BYTES:
            return chosen
        return DenseTable(replace(chosen, device=CPU).dense(slice(None)), self.device)

    def without(self, index: Tensor) -> MappedTable:
        """Choose all other rows, without a list of them."""
        rows = index.cpu().numpy()
        if self.index is None:
            return replace(self, index=Without(len(self.array), rows))
        return replace(self, index=self.index[Without(len(self.index), rows)[:]])

    def dense(self, index: Tensor | slice) -> Tensor:
        """Read some rows."""
        rows: Any = index if isinstance(index, slice) else index.cpu().numpy()
        if self.index is not None:
            rows = self.index[rows]
        check_length(self.array)
        values = np.array(self.array[rows], dtype=np.float32, order="C")
        return torch.from_numpy(values).to(self.device)

    def source(self, weights: np.ndarray | None) -> tuple[Any, np.ndarray | None]:
        """Give the map, or what reads some rows of it, and the weights."""
        return (self.array if self.index is None else SelectedRows(self.array, self.index)), weights


@dataclass(slots=True)
class Batch:
    """Some rows as tensors on one device."""

    x: Tensor
    target: Tensor | None = None
    weights: Tensor | None = None
    known: Tensor | None = None
    n_in_all: int | None = None
    """Number of rows of the batch in all processes, if these are only those of one of them."""

    def __len__(self) -> int:
        return self.x.shape[0]  # a third of the time of the tensor's own length

    @property
    def n_rows(self) -> int:
        """Number of rows of which the loss is the mean."""
        return self.x.shape[0] if self.n_in_all is None else self.n_in_all

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.x.device

    @property
    def restored(self) -> Tensor:
        """What a reconstruction is to become: the target if there is one, else x."""
        return self.x if self.target is None else self.target

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What ``module.loss`` is given: x, and target and known cells where there are any."""
        if self.known is not None:
            return self.x, self.target, self.known
        return (self.x,) if self.target is None else (self.x, self.target)

    def shares(self, n_parts: int = 1) -> Tensor:
        """Give the share of each row, or of one of its parts, in the weighted mean, (n_rows, 1)."""
        x, weights = self.x, self.weights
        if weights is not None:
            return weights[:, None] / (self.n_rows * n_parts)
        if self.n_in_all is not None:
            return x.new_full((x.shape[0], 1), 1.0 / (self.n_in_all * n_parts))
        if x.is_cuda and torch.cuda.is_current_stream_capturing():
            # A recorded step reads its tensors for as long as it is replayed: it makes its own.
            return filled_shares(x.shape[0], n_parts, x.dtype, x.device)
        return equal_shares(x.shape[0], n_parts, x.dtype, x.device)

    def cell_shares(self, sizes: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Give the share of each cell in the weighted mean over rows of the mean of known cells.

        Of shape (n_rows, 1) if all cells are known, else (n_rows, n_features). `sizes` says which
        part of a cell of a table a feature is, see `Loss`.
        """
        if sizes is not None:
            size = sizes(self.x)  # (n_features,)
            if self.known is None:
                return self.shares() / size.sum()
            known = self.known.to(self.x.dtype)
            return self.shares() * (known / (known @ size).clamp(min=1.0)[:, None])
        if self.known is None:
            return self.shares(self.restored.shape[1])
        n_known = self.known.sum(dim=1, keepdim=True).clamp(min=1)
        return self.shares() * (self.known.to(self.x.dtype) / n_known)

    def split(self, size: int) -> Iterator[Batch]:
        """Yield the rows in pieces of a size; the last one takes what is left."""
        return map(
            Batch, *(repeat(None) if part is None else part.split(size) for part in self._parts())
        )

    def take(self, index: Tensor) -> Batch:
        """Copy rows by their numbers."""
        return Batch(*(None if part is None else part[index] for part in self._parts()))  # type: ignore[arg-type]

    @staticmethod
    def joined(batches: Sequence[Batch]) -> Batch:
        """Put rows one after the other."""
        if len(batches) == 1:
            return batches[0]
        parts = zip(*(batch._parts() for batch in batches), strict=True)
        return Batch(*(None if part[0] is None else torch.cat(part) for part in parts))  # type: ignore[arg-type]

    def _parts(self) -> tuple[Tensor | None, ...]:
        return self.x, self.target, self.weights, self.known


@dataclass(frozen=True)
class Rows:
    """Rows to train on, aligned."""

    x: Table
    """What goes into the encoder."""

    target: Table | None = None
    """What the loss compares with; None for x itself."""

    weights: Tensor | None = None
    """Weights of mean one, (n_rows,)."""

    known: Table | None = None
    """Which cells of what is to be restored are known, as booleans; None for all of them. The
    others are no part of the loss."""

    def __len__(self) -> int:
        return self.x.shape[0]

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        return self.x.device

    @property
    def is_resident(self) -> bool:
        """Whether batches can be taken without the host."""
        return all(table.is_resident for table in self._tables())

    @property
    def restored(self) -> Table:
        """What reconstructions are to become."""
        return self.x if self.target is None else self.target

    @property
    def bytes_per_row(self) -> int:
        """Size of a dense float32 row of all tables."""
        return sum(4 * table.shape[1] for table in self._tables())

    def to(self, device: torch.device) -> Rows:
        """Put the rows on a device, or have batches of them put there if it has not the memory."""
        return self._map(lambda table: table.to(device), lambda weights: weights.to(device))

    def take(self, index: Tensor) -> Rows:
        """Choose rows by their numbers."""
        return self._map(lambda table: table.take(index), lambda weights: weights[index])

    def without(self, index: Tensor) -> Rows:
        """Choose all rows but some, given by their numbers in order."""
        rest = others(len(self), index)
        return self._map(lambda table: table.without(index), lambda weights: weights[rest])

    @property
    def starts(self) -> np.ndarray | None:
        """First rows of the blocks in which rows are best read; None if all are in memory."""
        starts = [table.starts for table in self._tables() if table.starts is not None]
        return min(starts, key=len) if starts else None

    def batch(self, index: Tensor | slice) -> Batch:
        """Give some rows as tensors on the device."""
        return Batch(
            self.x.dense(index),
            None if self.target is None else self.target.dense(index),
            None if self.weights is None else self.weights[index],
            None if self.known is None else self.known.dense(index),
        )

    def spread_over(self, n_rows: int) -> Rows:
        """Choose so many rows of a table in a file, all over it; a table in memory as it is."""
        if self.starts is None or len(self) <= n_rows:
            return self
        return self.take(torch.linspace(0, len(self) - 1, n_rows, dtype=torch.float64).long())

    def source(self) -> tuple[Any, np.ndarray | None]:
        """Give what is to be restored as an array, memory map or sparse matrix, and its weights."""
        weights = None if self.weights is None else self.weights.cpu().double().numpy()
        return self.restored.source(weights)

    def _tables(self) -> list[Table]:
        return [table for table in (self.x, self.target, self.known) if table is not None]

    def _map(
        self, of_table: Callable[[Table], Table], of_weights: Callable[[Tensor], Tensor]
    ) -> Rows:
        return Rows(
            of_table(self.x),
            None if self.target is None else of_table(self.target),
            None if self.weights is None else of_weights(self.weights),
            None if self.known is None else of_table(self.known),
        )


def filled_shares(n_rows: int, n_parts: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Shares of rows without weights, (n_rows, 1)."""
    with torch.inference_mode(False):  # what is kept may be needed for gradients
        return torch.full((n_rows, 1), 1.0 / (n_rows * n_parts), dtype=dtype, device=device)


# All batches of a size have the same tensor.
equal_shares = lru_cache(maxsize=64)(filled_shares)


def to_table(table: Any) -> Table:
    """Choose the kind of table for an array or sparse matrix of numbers."""
    if isinstance(table, DeviceArray):
        return DenseTable(table.tensor.to(torch.float32).contiguous(), table.device)
    if sparse.issparse(table):
        return SparseTable(sparse.csr_array(table, dtype=np.float32))
    is_in_file = isinstance(table, BlockTable) or map_of(table) is not None
    if is_in_file and 4 * table.size > MAX_COPIED_BYTES:
        return MappedTable(table)
    if isinstance(table, BlockTable):
        table = np.asarray(table)
    # Sums depend on the order in memory, and a fit must not.
    floats = table if table.dtype.kind == "f" else table.astype(np.float32)
    return DenseTable(to_tensor(floats, CPU, torch.float32).contiguous())


def to_rows(
    X: Any, X_clean: Any, weights: np.ndarray | None, known: np.ndarray | None = None
) -> Rows:
    """Turn tables into rows, without those of weight zero."""
    rows = Rows(
        to_table(X),
        None if X_clean is None else to_table(X_clean),
        known=None if known is None else DenseTable(torch.from_numpy(known)),
    )
    return rows if weights is None else weighted(rows, weights)


def weighted(rows: Rows, weights: np.ndarray) -> Rows:
    """Give rows weights of mean one, and leave out those of weight zero."""
    rows = rows.take(torch.from_numpy(np.flatnonzero(weights)))
    positive = weights[weights > 0.0]
    positive = positive / positive.max()  # a sum of huge ones would overflow
    if (positive == positive[0]).all():
        return rows  # such weights are none, to the last bit
    return replace(rows, weights=torch.from_numpy(positive / positive.mean()).float())


def others(n_rows: int, index: Tensor) -> Tensor:
    """Give the numbers of all rows but some, in order."""
    is_left = torch.ones(n_rows, dtype=torch.bool, device=index.device)
    is_left[index] = False
    return is_left.nonzero()[:, 0]


def split_rows(rows: Rows, n_held_out: int, before: np.ndarray | None) -> tuple[Rows, Rows, Tensor]:
    """Choose rows for early stopping; give those that are left, them, and their numbers.

    Parameters
    ----------
    rows : Rows
    n_held_out : int
    before : ndarray or None
        Numbers of the rows that an earlier fit held out, see `hold_out`.
    """
    if rows.starts is None:
        kept, held_out = hold_out(len(rows), n_held_out, before)
        return rows.take(kept), rows.take(held_out), held_out
    if before is None or len(before) != n_held_out or before.max() >= len(rows):
        held_out = spread(len(rows), n_held_out)
    else:
        held_out = torch.from_numpy(before)
    return rows.without(held_out), rows.take(held_out), held_out


def spread(n_rows: int, n_chosen: int) -> Tensor:
    """Choose rows at random, one in each of as many stretches of the table, in order."""
    ends = torch.arange(n_chosen + 1, dtype=torch.float64).mul_(n_rows / n_chosen).long()
    ends[-1] = n_rows
    lengths = ends.diff()
    places = uniform_like(torch.empty(n_chosen, dtype=torch.float64)) * lengths
    return ends[:-1] + torch.minimum(places.long(), lengths - 1)


def hold_out(n_rows: int, n_held_out: int, before: np.ndarray | None) -> tuple[Tensor, Tensor]:
    """Choose rows for early stopping; give the numbers of those that are left, and theirs.

    If the table is as long as the one of an earlier fit, the rows that were held out `before` are
    held out again: they are the only ones that the weights have not seen.
    """
    if before is None or len(before) != n_held_out or before.max() >= n_rows:
        held_out, kept = permutation(n_rows, CPU).split([n_held_out, n_rows - n_held_out])
        return kept, held_out
    held_out = torch.from_numpy(before)
    return others(n_rows, held_out), held_out


def batches(rows: Rows, batch_size: int, shuffle: bool) -> Iterator[Batch]:
    """Yield the rows in batches; the last one takes what is left.

    Rows are gathered, and made dense, for as many batches at once as fit a block: few calls for
    narrow tables, and little memory for any.
    """
    shuffle = shuffle and batch_size < len(rows)
    starts = rows.starts
    if shuffle and starts is not None:
        yield from shuffled_blocks(rows, starts, batch_size)
        return
    order = permutation(len(rows), rows.device) if shuffle else None
    block_size = batch_size * max(1, BLOCK_BYTES // (batch_size * rows.bytes_per_row))
    for start in range(0, len(rows), block_size):
        block = slice(start, start + block_size)
        yield from rows.batch(block if order is None else order[block]).split(batch_size)


def shuffled_blocks(rows: Rows, starts: np.ndarray, batch_size: int) -> Iterator[Batch]:
    """Yield rows in batches, from blocks in a random order by way of a buffer.

    Blocks are read until the buffer is full. Its rows then take random places, and go out in
    batches. What is left of the last one stays in the buffer.
    """
    n_blocks = len(starts) - 1
    longest = int(np.diff(starts).max())
    n_in_buffer = max(MIN_BLOCKS_IN_BUFFER, BUFFER_BYTES // (longest * rows.bytes_per_row))
    rest: list[Batch] = []
    for numbers in permutation(n_blocks, CPU).split(n_in_buffer):
        blocks = [rows.batch(slice(*starts[n : n + 2].tolist())) for n in numbers.sort().values]
        buffer = Batch.joined(rest + blocks)
        del blocks
        rest = []
        for index in permutation(len(buffer), rows.device).split(batch_size):
            rest = [buffer.take(index)]
            if len(index) == batch_size:
                yield rest.pop()
    yield from rest


def in_batches(
    function: Callable[..., Tensor],
    X: Any,
    device: torch.device,
    known: np.ndarray | None = None,
) -> Any:
    """Apply a function of row batches to an array of any length in bounded memory.

    Parameters
    ----------
    function : callable
        Maps a tensor (batch, ...) on `device` to one of the same dtype, row by row. If there is
        `known`, its second argument are these cells of the batch, as booleans.
    X : ndarray, sparse matrix or DeviceArray of shape (n_rows, n_columns)
    device : torch.device
    known : ndarray of bool of shape (n_rows, n_columns), default=None

    Returns
    -------
    ndarray or DeviceArray
        The results of all rows, where X is.
    """
    if isinstance(X, DeviceArray):
        return DeviceArray(_in_device_batches(function, X.tensor, device))
    n_rows = X.shape[0]
    results: np.ndarray | None = None
    with torch.inference_mode():
        for start in range(0, n_rows, INFERENCE_BATCH_SIZE):
            batch = X[start : start + INFERENCE_BATCH_SIZE]
            batch = (
                batch.toarray()
                if sparse.issparse(batch)
                else np.ascontiguousarray(batch, float_dtype(X))
            )
            arguments = [to_tensor(batch, device)]
            if known is not None:
                cells = known[start : start + INFERENCE_BATCH_SIZE]
                arguments.append(torch.from_numpy(cells).to(device))
            result = function(*arguments).cpu().numpy()
            if n_rows <= INFERENCE_BATCH_SIZE:
                return result
            if results is None:
                results = np.empty((n_rows, *result.shape[1:]), result.dtype)
            results[start : start + INFERENCE_BATCH_SIZE] = result
    assert results is not None
    return results


def _in_device_batches(
    function: Callable[[Tensor], Tensor], x: Tensor, device: torch.device
) -> Tensor:
    """Do what `in_batches` does, with rows on an accelerator."""
    results: Tensor | None = None
    with torch.inference_mode():
        for start in range(0, len(x), INFERENCE_BATCH_SIZE):
            rows = slice(start, start + INFERENCE_BATCH_SIZE)
            result = function(x[rows].contiguous().to(device))
            if results is None:
                shape = (len(x), *result.shape[1:])
                with torch.inference_mode(False):  # whoever gets it may need gradients
                    results = torch.empty(shape, dtype=result.dtype, device=x.device)
            results[rows] = result
    assert results is not None
    return results
