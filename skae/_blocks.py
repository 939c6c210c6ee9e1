"""Tables of numbers that stay in files and are read by blocks of rows."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

# Rows that are read together where the file does not say what belongs together.
BLOCK_BYTES = 2**22


class BlockTable:
    """Rows that are read when they are asked for, in the manner of an array.

    Slices, numbers of rows and ``numpy.asarray`` read rows, and nothing else does but `sum`, `min`
    and `max`, which read one block after the other.

    Parameters
    ----------
    shape : (int, int)
    dtype : dtype
        Of the rows that are given.
    starts : ndarray
        Number of the first row of each block, and the number of rows at the end.
    column_names : list of str, default=None
    """

    ndim = 2

    def __init__(
        self,
        shape: tuple[int, int],
        dtype: np.dtype,
        starts: np.ndarray,
        column_names: list[str] | None = None,
    ) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.starts = starts
        self.column_names = column_names

    def read(self, number: int) -> np.ndarray:
        """Read a block, (n_rows, n_columns)."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        """Number of cells."""
        return self.shape[0] * self.shape[1]

    @property
    def flags(self) -> Any:
        """Order in memory of the rows that are given."""
        return np.empty((1, 1)).flags

    def blocks(self) -> Iterator[np.ndarray]:
        """Read all blocks, one after the other."""
        return map(self.read, range(len(self.starts) - 1))

    def __getitem__(self, rows: Any) -> np.ndarray:
        if isinstance(rows, tuple):
            return self[rows[0]][(slice(None), *rows[1:])]
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step != 1:
                return self[np.arange(start, stop, step)]
            parts = [self._within(number, start, stop) for number in self._numbers(start, stop)]
            if len(parts) == 1:
                return parts[0]
            return np.concatenate(parts) if parts else np.empty((0, self.shape[1]), self.dtype)
        index = np.asarray(rows)
        if index.dtype == bool:
            index = np.flatnonzero(index)
        index = np.where(index < 0, index + len(self), index)
        if index.ndim == 0:
            return self[int(index) : int(index) + 1][0]
        found = np.empty((len(index), self.shape[1]), self.dtype)
        numbers = np.searchsorted(self.starts, index, side="right") - 1
        for number in np.unique(numbers):
            places = np.flatnonzero(numbers == number)
            found[places] = self.read(number)[index[places] - self.starts[number]]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype=dtype)

    def __abs__(self) -> np.ndarray:
        return np.abs(np.asarray(self))

    def astype(self, dtype: Any, copy: bool = True) -> np.ndarray:
        """Read all rows, in another dtype."""
        return np.asarray(self, dtype=dtype)

    def sum(self) -> np.floating:
        """Sum of all cells, not finite if one is not."""
        return np.float64(sum(float(block.sum(dtype=np.float64)) for block in self.blocks()))

    def min(self, axis: int | None = None) -> Any:
        """Smallest cell, or that of each column with ``axis=0``."""
        return reduce(np.minimum, (block.min(axis=axis) for block in self.blocks()))

    def max(self, axis: int | None = None) -> Any:
        """Largest cell, or that of each column with ``axis=0``."""
        return reduce(np.maximum, (block.max(axis=axis) for block in self.blocks()))

    def _numbers(self, start: int, stop: int) -> range:
        """Numbers of the blocks that rows are in."""
        if stop <= start:
            return range(0)
        first, last = np.searchsorted(self.starts, [start, stop - 1], side="right") - 1
        return range(int(first), int(last) + 1)

    def _within(self, number: int, start: int, stop: int) -> np.ndarray:
        begin = int(self.starts[number])
        return self.read(number)[max(start - begin, 0) : stop - begin]


class SelectedRows(BlockTable):
    """Some rows of another table, in the order of their numbers.

    Parameters
    ----------
    table : ndarray or BlockTable
    index : ndarray or Without
        Numbers of the rows.
    """

    def __init__(self, table: Any, index: Any) -> None:
        n_rows, n_columns = len(index), table.shape[1]
        step = max(1, BLOCK_BYTES // (n_columns * table.dtype.itemsize))
        starts = np.append(np.arange(0, n_rows, step), n_rows)
        super().__init__((n_rows, n_columns), table.dtype, starts)
        self.table, self.index = table, index

    def read(self, number: int) -> np.ndarray:
        """Read a block."""
        rows = self.index[int(self.starts[number]) : int(self.starts[number + 1])]
        return np.asarray(self.table[rows])

    def __getitem__(self, rows: Any) -> np.ndarray:
        return np.asarray(self.table[self.index[rows]])


class Without:
    """Numbers of all rows but some, in order, without a list of them.

    Parameters
    ----------
    n_rows : int
        Of the table.
    left_out : ndarray
        Numbers of rows, in order.
    """

    def __init__(self, n_rows: int, left_out: np.ndarray) -> None:
        self.n_rows, self.left_out = n_rows, left_out
        self._n_before = left_out - np.arange(len(left_out))  # rows that stay before each one

    def __len__(self) -> int:
        return self.n_rows - len(self.left_out)

    def __getitem__(self, places: Any) -> np.ndarray:
        if isinstance(places, slice):
            places = np.arange(*places.indices(len(self)))
        return places + np.searchsorted(self._n_before, places, side="right")


class Piece(NamedTuple):
    """Rows of a file that belong together."""

    n_rows: int
    read: Callable[[], Any]
    """Gives a table of pyarrow."""
    place: str
    """Where the rows are, for messages."""


class ArrowTable(BlockTable):
    """Rows of a dataset of pyarrow or of a Parquet file, by row groups.

    Parameters
    ----------
    source : pyarrow.dataset.Dataset or pyarrow.parquet.ParquetFile
    name : str, default="X"
        Of the table, in messages.

    Raises
    ------
    ValueError
        If the files have different columns, or columns that hold no numbers.
    """

    def __init__(self, source: Any, name: str = "X") -> None:
        self._name = name
        is_dataset = hasattr(source, "get_fragments")
        schema = source.schema if is_dataset else source.schema_arrow
        self._check_types(schema)
        self._pieces = list(pieces_of(source, schema) if is_dataset else row_groups(source))
        is_single = all(str(field.type) in ("float", "halffloat") for field in schema)
        starts = np.cumsum([0, *(piece.n_rows for piece in self._pieces)])
        dtype = np.dtype(np.float32 if is_single and len(schema) else np.float64)
        super().__init__((int(starts[-1]), len(schema)), dtype, starts, list(schema.names))
        self._last = threading.local()

    def read(self, number: int) -> np.ndarray:
        """Read a row group; the last one that a thread has read is kept for it."""
        if getattr(self._last, "number", None) != number:
            self._last.number = self._last.rows = None
            self._last.rows = self._decode(self._pieces[number])
            self._last.number = number
        return self._last.rows

    def _decode(self, piece: Piece) -> np.ndarray:
        try:
            table = piece.read()
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{piece.place} of {self._name} cannot be read: {error}. The file is damaged or "
                "has changed since it was opened; write it anew and open it again."
            ) from error
        if table.num_rows != piece.n_rows:
            raise ValueError(
                f"{piece.place} of {self._name} has {table.num_rows} rows instead of "
                f"{piece.n_rows}: the file has changed since it was opened. Open it again."
            )
        rows = np.empty((table.num_rows, table.num_columns), self.dtype)
        for place, column in enumerate(table.columns):
            rows[:, place] = numbers_of_arrow(column)
        return rows

    def _check_types(self, schema: Any) -> None:
        refused = {field.name: str(field.type) for field in schema if not is_number(field.type)}
        if refused:
            column, kind = next(iter(refused.items()))
            raise ValueError(
                f"Column {column!r} of {self._name} holds {kind}, and a table that is read by "
                f"blocks holds numbers; {len(refused)} of {len(schema)} columns do not. Choose "
                "other columns, or read the table with pandas and use a TableEncoder."
            )


def is_arrow_source(X: Any) -> bool:
    """Whether X is a dataset of pyarrow or an open Parquet file."""
    is_source = hasattr(X, "get_fragments") or hasattr(X, "read_row_group")
    return is_source and type(X).__module__.startswith("pyarrow.")


def pieces_of(dataset: Any, schema: Any) -> Iterator[Piece]:
    """Yield the row groups of the files of a dataset, or the files where they have none."""
    try:
        fragments = list(dataset.get_fragments())
    except ValueError as error:  # of a filtered dataset
        raise ValueError(
            f"The dataset cannot be read by row groups: {error} Write what is left to a file."
        ) from error
    for fragment in fragments:
        place = str(getattr(fragment, "path", None) or "A part")
        check_schema(fragment.physical_schema, schema, place)
        parts = [fragment]
        if hasattr(fragment, "split_by_row_group"):
            parts = fragment.split_by_row_group()
        for number, part in enumerate(parts):
            groups = getattr(part, "row_groups", None)
            n_rows = part.count_rows() if groups is None else sum(each.num_rows for each in groups)
            name = f"Row group {number} of {os.path.basename(place)}"
            yield Piece(n_rows, reader(part, schema), name)


def reader(part: Any, schema: Any) -> Callable[[], Any]:
    """Give a function that reads a part of a dataset."""
    return lambda: part.to_table(schema=schema, columns=schema.names)


def row_groups(file: Any) -> Iterator[Piece]:
    """Yield the row groups of an open Parquet file."""

    def group(number: int) -> Callable[[], Any]:
        return lambda: file.read_row_group(number)

    for number in range(file.num_row_groups):
        n_rows = file.metadata.row_group(number).num_rows
        yield Piece(n_rows, group(number), f"Row group {number}")


def check_schema(found: Any, wanted: Any, place: str) -> None:
    """Raise a ValueError for the first column of a file that is not as in the others."""
    types: Sequence[dict[str, Any]] = [
        {field.name: field.type for field in schema} for schema in (found, wanted)
    ]
    for name, wanted_type in types[1].items():
        if name not in types[0]:
            raise ValueError(
                f"{place} has no column {name!r}, which other files of the dataset have. Leave out "
                "the column or the file."
            )
        if types[0][name] != wanted_type and not (
            is_number(types[0][name]) and is_number(wanted_type)
        ):
            raise ValueError(
                f"Column {name!r} of {place} holds {types[0][name]}, and {wanted_type} in other "
                "files of the dataset. Write it with one type."
            )
    for name in types[0]:
        if name not in types[1]:
            raise ValueError(
                f"{place} has a column {name!r}, which the schema of the dataset has not. Choose "
                "the columns when the dataset is made, or leave out the file."
            )


def is_number(arrow_type: Any) -> bool:
    """Whether a type of pyarrow stands for numbers, or for true and false."""
    types = sys.modules["pyarrow"].types
    if types.is_dictionary(arrow_type):
        return is_number(arrow_type.value_type)
    tests = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_null)
    return any(test(arrow_type) for test in tests)


def numbers_of_arrow(column: Any) -> np.ndarray:
    """Turn a column of pyarrow into numbers, NaN for nulls."""
    types = sys.modules["pyarrow"].types
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if types.is_boolean(column.type):
        column = column.cast("int8")
    elif types.is_decimal(column.type) or types.is_null(column.type):
        column = column.cast("float64")
    return column.to_numpy()


class DaskTable(BlockTable):
    """Rows of a Dask collection, whose chunks come to this process one after the other.

    Parameters
    ----------
    X : dask.array.Array of two dimensions, or dask.dataframe.DataFrame
        Chunks of unknown length are computed once, to know the lengths.
    """

    def __init__(self, X: Any) -> None:
        check_columns(X)
        X = one_chunk_of_columns(X)
        lengths = known_lengths(X)
        names = list(X.columns) if is_frame(X) else None
        dtypes = set(X.dtypes) if is_frame(X) else {X.dtype}
        dtype = np.dtype(np.float32 if dtypes == {np.dtype(np.float32)} else np.float64)
        starts = np.cumsum([0, *lengths])
        super().__init__((int(starts[-1]), int(X.shape[1])), dtype, starts, names)
        self._parts = np.ravel(X.to_delayed()).tolist()
        self._last: tuple[int, np.ndarray] | None = None

    def read(self, number: int) -> np.ndarray:
        """Compute a chunk; the last one is kept."""
        last = self._last
        if last is None or last[0] != number:
            part = self._parts[number].compute()
            part = part.toarray() if hasattr(part, "toarray") else part
            if hasattr(part, "to_numpy"):
                rows = part.to_numpy(dtype=self.dtype, na_value=np.nan)
            else:
                rows = np.asarray(part, dtype=self.dtype)
            last = self._last = number, rows
        return last[1]


def is_dask(X: Any) -> bool:
    """Whether X is a Dask collection."""
    return type(X).__module__.startswith("dask") and hasattr(X, "__dask_graph__")


def is_frame(X: Any) -> bool:
    """Whether a Dask collection has columns with names, or is one."""
    return hasattr(X, "map_partitions")


def one_chunk_of_columns(X: Any) -> Any:
    """Put the cells of each row of a Dask array into one chunk."""
    return X if is_frame(X) or len(X.chunks[1]) == 1 else X.rechunk({1: -1})


def known_lengths(X: Any) -> list[int]:
    """Give the number of rows of each chunk; compute them if they are unknown."""
    if is_frame(X):
        return [int(length) for length in X.map_partitions(len).compute()]
    if np.isnan(X.chunks[0]).any():
        X = X.copy()
        X.compute_chunk_sizes()
    return [int(length) for length in X.chunks[0]]


def check_columns(X: Any) -> None:
    """Raise a ValueError for a Dask collection that is no table of numbers."""
    if X.ndim != 2:
        raise ValueError(
            f"Expected 2D array, got {X.ndim}D array instead: X is a Dask collection. Reshape it: "
            "X.reshape(-1, 1) makes an array of one axis one column."
        )
    if not is_frame(X):
        if np.isnan(X.shape[1]):
            raise ValueError(
                "X is a Dask array whose number of columns is not known. Call "
                "X.compute_chunk_sizes() first."
            )
        return
    dtypes = dict(X.dtypes)
    for name, dtype in dtypes.items():
        if str(dtype) == "category" or getattr(dtype, "kind", "f") in "mM":
            raise ValueError(
                f"Column {name!r} of X holds {dtype}, and a Dask DataFrame that is read by chunks "
                "holds numbers. Drop the column or encode it, or give a part of the table that "
                "fits in memory, X.compute(), to a TableAutoencoder or a TableEncoder."
            )


def map_of(X: Any) -> np.memmap | None:
    """Give the memory map that an array is a view of."""
    while isinstance(X, np.ndarray):
        if isinstance(X, np.memmap):
            return X
        X = X.base
    return None


def check_length(X: Any) -> None:
    """Raise a ValueError if the file of a memory map is shorter than it was.

    To read what is no more in a file ends the process.
    """
    mapped = map_of(X)
    if mapped is None or mapped.filename is None:
        return
    _, last = np.lib.array_utils.byte_bounds(X)
    begin, _ = np.lib.array_utils.byte_bounds(mapped)
    needed = mapped.offset + (last - begin)
    try:
        found = os.stat(mapped.filename).st_size
    except OSError:  # a file without a name can be read on
        return
    if found < needed:
        raise ValueError(
            f"{os.fspath(mapped.filename)!r} has {found} bytes now, and {needed} are needed: the "
            "file has become shorter since it was mapped. Write it anew and map it again."
        )
