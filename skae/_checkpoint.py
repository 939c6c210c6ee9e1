"""The progress of a fit in a file, so that another process can go on from there."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from glob import escape
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.callback import CallbackContext
from torch import Tensor, nn

from skae._processes import current, is_first_process
from skae._random import generator_states, set_generator_states
from skae._rows import Rows
from skae._sklearn_compat import callbacks_of
from skae._training import Progress, State
from skae.callbacks import Checkpoint

FORMAT = "skae checkpoint 1"

# Rows of a table that are compared.
N_SAMPLED = 1024

# Parameters that change nothing of the result.
FREE_PARAMETERS = ("verbose",)

# What a killed process leaves behind is removed when it is older than any write lasts, in seconds.
LEFT_BEHIND = 3600.0

RECORDS: dict[str, type] = {record.__name__: record for record in (Progress, State)}


class Keeper:
    """Keeps the progress of one fit in the file of its checkpoint, and reads it back.

    Parameters
    ----------
    estimator : estimator
        Its callbacks tell whether there is a checkpoint.
    context : CallbackContext
        Of the fit.
    tables : callable
        Gives what the fit is of, as dict of str to (Rows or None, dtype): the end of the names of
        the tables, as "_val"; their rows, and the dtype that X had.
    n_epochs : int
        Epochs of the fits before this one, if it continues them.
    seeds : tuple of int
        Drawn for this fit. A file has those that were drawn for the fit that began it.

    Raises
    ------
    ValueError
        If the file is of another fit, or cannot be read.
    """

    def __init__(
        self,
        estimator: BaseEstimator,
        context: CallbackContext,
        tables: Callable[[], Mapping[str, tuple[Rows | None, Any]]],
        n_epochs: int,
        seeds: tuple[int, ...],
    ) -> None:
        self.seeds = seeds
        self.path: Path | None = None
        self._progress: Progress | None = None
        self._is_resumed = False
        self._random_numbers: dict[str, np.ndarray] = {}
        self._own_random_numbers: list[dict[str, np.ndarray]] = []
        self._processes = current()
        checkpoints = [each for each in callbacks_of(estimator) if isinstance(each, Checkpoint)]
        if self._processes is not None:
            self._processes.check_same({"number of checkpoints": len(checkpoints)})
        if not checkpoints:
            return
        if len(checkpoints) > 1:
            raise ValueError(
                f"{type(estimator).__name__} has {len(checkpoints)} checkpoints, and one file is "
                "enough to go on from; set one of them."
            )
        (checkpoint,) = checkpoints
        self._every = checkpoint.every
        self._identity = identity_of(estimator, tables(), n_epochs)
        path = Path(checkpoint.path).absolute()
        if context.parent is not None:
            path = path.with_name(f"{path.stem}-{digest(self._identity)}{path.suffix}")
        self.path = path
        remove_leftovers(path)
        if path.exists():
            self._read(path)

    @property
    def n_epochs(self) -> int:
        """Number of epochs that the file has."""
        progress = self._progress if self._is_resumed else None
        return 0 if progress is None else progress.n_epochs_in_all

    def begin(self, progress: Progress) -> Progress:
        """Take the progress of this fit, and give that of the file instead if there is one."""
        self._progress = self._progress if self._is_resumed else progress
        assert self._progress is not None
        return self._progress

    def keep(self, progress: Progress, state: Callable[[], State]) -> None:
        """Write the file after an epoch, if it is time to.

        Parameters
        ----------
        progress : Progress
            Of the training that the epoch is part of.
        state : callable
            Gives the weights as they are now, and what the solver remembers.
        """
        if self.path is None or (progress.n_epochs % self._every and not progress.done):
            return
        progress.current = state()
        own_states = [] if self._processes is None else self._processes.own_states()
        if not is_first_process():
            return
        arrays: dict[str, np.ndarray] = {}
        record = {
            "format": FORMAT,
            "version": version(),
            "identity": self._identity,
            "seeds": self.seeds,
            "random_numbers": encode(generator_states(), arrays),
            "own_random_numbers": encode(own_states, arrays),
            "progress": encode(self._progress, arrays),
        }
        arrays["record"] = np.frombuffer(json.dumps(record).encode(), np.uint8)
        try:
            with replacing(self.path) as file:
                np.savez(file, allow_pickle=False, **arrays)
        except OSError as error:
            earlier = "The file of an earlier epoch is intact" if self.path.exists() else "No file"
            raise OSError(
                error.errno,
                f"The checkpoint {str(self.path)!r} cannot be written after epoch "
                f"{progress.n_epochs}: "
                f"{error.strerror}. {earlier}; make room and call fit again to go on from it",
            ) from error

    @contextmanager
    def going_on(self, module: nn.Module) -> Iterator[None]:
        """Context of the training of a module, which goes on from the file if there is one.

        Random numbers of this thread go on too. An interruption tells where the training is kept.

        Raises
        ------
        ValueError
            If the file has the weights of another module, or the random numbers of another device.
        """
        if self._is_resumed:
            self._restore(module)
        try:
            yield
        except KeyboardInterrupt as error:
            if self.path is not None and self.path.exists():
                error.add_note(
                    f"The training is kept in {str(self.path)!r}. Call fit with the same "
                    "parameters, rows and checkpoint to go on from there."
                )
            raise

    def _restore(self, module: nn.Module) -> None:
        assert self._progress is not None
        if self._random_numbers.keys() != generator_states().keys():
            raise ValueError(
                f"The checkpoint {str(self.path)!r} was written on "
                f"{' and '.join(self._random_numbers)}, and this fit is on "
                f"{' and '.join(generator_states())}. Fit where it was written, or give the "
                "checkpoint another path."
            )
        set_generator_states(self._random_numbers)
        if self._processes is not None:
            self._processes.set_own_states(self._own_random_numbers)
        state = self._progress.current
        if state is None:
            return
        found = {name: tuple(weights.shape) for name, weights in state.weights.items()}
        wanted = {name: tuple(weights.shape) for name, weights in module.state_dict().items()}
        if found != wanted:
            raise ValueError(
                f"The checkpoint {str(self.path)!r} holds the weights of another network. "
                f"{self._remedy()}"
            )

    def _read(self, path: Path) -> None:
        try:
            with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            record = json.loads(arrays.pop("record").tobytes())
            if record["format"] != FORMAT:
                raise ValueError(f"its format is {record['format']!r} instead of {FORMAT!r}")
            written_by, identity = record["version"], record["identity"]
            if written_by != version():
                raise ValueError(f"skae {written_by} has written it, and this is skae {version()}")
            self.seeds = tuple(record["seeds"])
            self._random_numbers = decode(record["random_numbers"], arrays)
            self._own_random_numbers = decode(record["own_random_numbers"], arrays)
            self._progress = decode(record["progress"], arrays)
            self._is_resumed = True
        except (
            OSError, EOFError, KeyError, TypeError, AttributeError, ValueError, zipfile.BadZipFile,
        ) as error:  # fmt: skip
            raise ValueError(
                f"The checkpoint {str(path)!r} cannot be read: it is no checkpoint, damaged or of "
                f"another version ({error}). {self._remedy()}"
            ) from error
        differences = list(differences_of(self._identity, identity))
        if differences:
            raise ValueError(
                f"The checkpoint {str(path)!r} is of another fit: {'; '.join(differences[:3])}. "
                f"{self._remedy()}"
            )

    def _remedy(self) -> str:
        return "Give the checkpoint another path, or delete the file to fit anew."


def version() -> str:
    """Version of this package."""
    return sys.modules["skae"].__version__


# What a fit is of


def identity_of(
    estimator: BaseEstimator, tables: Mapping[str, tuple[Rows | None, Any]], n_epochs: int
) -> dict[str, Any]:
    """Describe class, parameters and rows of a fit, as JSON has it.

    Returns
    -------
    dict
        Keys are what messages call the parts.
    """
    identity: dict[str, Any] = {"estimator": type(estimator).__name__}
    for name, value in estimator.get_params(deep=False).items():
        if name not in FREE_PARAMETERS:
            identity[name] = plain(value)
    identity["epochs of earlier fits"] = n_epochs
    processes = current()
    identity["number of processes"] = 1 if processes is None else processes.size
    for suffix, (rows, dtype) in tables.items():
        if rows is None:
            continue
        identity[f"dtype of X{suffix}"] = str(dtype)
        identity.update(description_of_rows(rows, suffix))
    return identity


def description_of_rows(rows: Rows, suffix: str) -> dict[str, Any]:
    """Shape of tables, and a number computed from some of their cells."""
    index = np.unique(np.linspace(0, len(rows) - 1, min(N_SAMPLED, len(rows))).round().astype(int))
    batch = rows.batch(torch.from_numpy(index))
    parts = {"X": batch.x, "X_clean": batch.target, "sample_weight": batch.weights}
    described: dict[str, Any] = {f"shape of X{suffix}": list(rows.x.shape)}
    for name, part in {**parts, "known cells of X": batch.known}.items():
        cells = None if part is None else part.cpu().contiguous().numpy().tobytes()
        described[f"content of {name}{suffix}"] = None if cells is None else digest(cells)
    return described


def plain(value: Any) -> Any:
    """Turn a parameter into what JSON can hold."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, np.random.RandomState):
        return type(value).__name__
    text = repr(value)
    # A function is known by its name: its address is another one in each process.
    return getattr(value, "__qualname__", type(value).__qualname__) if " at 0x" in text else text


def digest(value: Any) -> str:
    """Compute a short number from bytes, or from what JSON can hold."""
    data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def differences_of(here: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[str]:
    """Say in which parts two fits differ."""
    for name in {**here, **there}:
        ours, theirs = here.get(name), there.get(name)
        if json.dumps(ours) == json.dumps(theirs):
            continue
        if name.startswith("content of"):
            yield f"{name.removeprefix('content of ')} has other cells"
        else:
            yield f"{name} is {ours!r} here and {theirs!r} there"


# Files


def encode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Turn a record into what JSON can hold; arrays go into a dict, with their names in place."""
    if isinstance(value, np.ndarray | Tensor):
        kind = "tensor" if isinstance(value, Tensor) else "array"
        name = f"array_{len(arrays)}"
        arrays[name] = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        return {"kind": kind, "name": name}
    if is_dataclass(value):
        parts = {each.name: encode(getattr(value, each.name), arrays) for each in fields(value)}
        return {"kind": type(value).__name__, "parts": parts}
    if isinstance(value, dict):
        return {"kind": "dict", "parts": {key: encode(each, arrays) for key, each in value.items()}}
    if isinstance(value, list | tuple):
        return [encode(each, arrays) for each in value]
    return value


def decode(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Undo `encode`. Only the records that are known here are made."""
    if isinstance(value, list):
        return [decode(each, arrays) for each in value]
    if not isinstance(value, dict):
        return value
    kind = value["kind"]
    if kind in ("array", "tensor"):
        array = arrays[value["name"]]
        return torch.from_numpy(array) if kind == "tensor" else array
    parts = {name: decode(each, arrays) for name, each in value["parts"].items()}
    return parts if kind == "dict" else RECORDS[kind](**parts)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file that takes the place of another one when it is whole and on the disk."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
    flush_directory(path.parent)


def flush_directory(path: Path) -> None:
    """Put the new name of a file on the disk, where directories can be opened."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def remove_leftovers(path: Path) -> None:
    """Remove what processes that were killed while they wrote have left beside a file."""
    for leftover in path.parent.glob(f".{escape(path.name)}.*.part"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > LEFT_BEHIND:
                leftover.unlink()
