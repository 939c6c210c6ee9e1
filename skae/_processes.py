"""Processes that train one model: what they tell each other, and how one fails for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from skae._device import CPU, in_lockstep
from skae._random import drawing_from, generators_of


class OtherProcessError(RuntimeError):
    """Another process has failed, so that this one cannot go on."""


class Processes:
    """The processes that fit one model, each to rows of its own, seen from one of them.

    All of them call the same methods in the same order. Each method begins with the question
    whether all are well: an error of one process is one of all of them, and nobody waits.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup
        With a backend that adds up tensors of the CPU.
    """

    def __init__(self, group: Any) -> None:
        self.group = group
        self.rank: int = dist.get_rank(group)
        self.size: int = dist.get_world_size(group)
        self._own: dict[str, torch.Generator] = {}

    def add(self, tensor: Tensor) -> Tensor:
        """Sum of the tensors of all processes, the same bits in each of them."""
        self._agree()
        return self._add(tensor)

    def gather(self, value: Any) -> list[Any]:
        """Values of all processes, which can be pickled, in the order of their ranks."""
        self._agree()
        return self._gather(value)

    def check_same(self, values: Mapping[str, Any]) -> None:
        """Raise a ValueError in all processes for the first of these values that differs."""
        for rank, others in enumerate(self.gather(dict(values))):
            first = self._first
            for name in {**first, **others}:
                if first.get(name) != others.get(name):
                    raise ValueError(
                        f"{name} is {first.get(name)!r} in process 0 and {others.get(name)!r} in "
                        f"process {rank}. All processes of data_parallel fit one model: give them "
                        "the same parameters and the same columns."
                    )

    @contextmanager
    def together(self) -> Iterator[None]:
        """Context of what all processes do; an error in one of them ends it in all."""
        with in_lockstep():
            try:
                yield
                self._agree()
            except OtherProcessError:
                raise
            except BaseException as error:
                self._tell(error)
                raise

    @contextmanager
    def own_random_numbers(self, seed: int, device: torch.device) -> Iterator[None]:
        """Let `drawing_own` draw from a seed and the rank."""
        before = self._own
        (own,) = np.random.SeedSequence((seed, self.rank + 1)).generate_state(1).tolist()
        self._own = generators_of(own, device)
        try:
            yield
        finally:
            self._own = before

    @contextmanager
    def drawing_own(self) -> Iterator[None]:
        """Context in which numbers are those of this process; elsewhere all draw the same."""
        with drawing_from(self._own):
            yield

    def own_states(self) -> list[dict[str, np.ndarray]]:
        """States of the generators of all processes."""
        return self.gather({name: each.get_state().numpy() for name, each in self._own.items()})

    def set_own_states(self, states: list[dict[str, np.ndarray]]) -> None:
        """Go on with the numbers of this process where `own_states` was called."""
        for name, state in states[self.rank].items():
            self._own[name].set_state(torch.from_numpy(state.copy()))

    def _agree(self) -> None:
        """Raise an error if a process has failed."""
        n_failed = self._add(torch.zeros(1))
        if n_failed.item() > 0.0:
            self._raise(self._gather(None))

    def _tell(self, error: BaseException) -> None:
        """Let the others know of an error, when they ask next."""
        try:
            self._add(torch.ones(1))
            self._gather(f"{type(error).__name__}: {error}")
        except OtherProcessError:
            pass  # they are gone, or know of it

    def _raise(self, messages: list[str | None]) -> None:
        rank, message = next((r, text) for r, text in enumerate(messages) if text is not None)
        raise OtherProcessError(f"Process {rank} of {self.size} has failed: {message}")

    def _add(self, tensor: Tensor) -> Tensor:
        total = tensor.to(CPU, copy=True)
        self._waiting(lambda: dist.all_reduce(total, group=self.group))
        return total.to(tensor.device)

    def _gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.size
        self._waiting(lambda: dist.all_gather_object(values, value, group=self.group))
        self._first = values[0]
        return values

    def _waiting(self, talk: Callable[[], Any]) -> None:
        try:
            with torch.inference_mode(False), torch.no_grad():
                talk()
        except RuntimeError as error:
            raise OtherProcessError(
                f"Process {self.rank} of {self.size} no longer hears from another one, which has "
                "ended or takes longer than `timeout` of data_parallel. See what the others say. "
                f"({str(error).splitlines()[0][:200]})"
            ) from error


_CURRENT: ContextVar[Processes | None] = ContextVar("processes", default=None)


def current() -> Processes | None:
    """Give the processes of the block of `data_parallel` that this is in; None outside of one."""
    return _CURRENT.get()


@contextmanager
def entered(processes: Processes) -> Iterator[None]:
    """Context in which `current` gives these processes."""
    token = _CURRENT.set(processes)
    try:
        yield
    finally:
        _CURRENT.reset(token)


@contextmanager
def together() -> Iterator[Processes | None]:
    """Context of a fit, which all processes end together."""
    processes = current()
    if processes is None:
        yield None
        return
    with processes.together():
        yield processes


def check_alone(name: str) -> None:
    """Raise a ValueError if something is fitted by many processes that each would fit alone."""
    processes = current()
    if processes is not None and processes.size > 1:
        raise ValueError(
            f"{name} is not fitted by many processes: each would have a model of its own rows. Fit "
            "it outside of data_parallel. PCA takes Dask collections."
        )


@contextmanager
def own_random_numbers(seed: int, device: torch.device) -> Iterator[None]:
    """Give each of the current processes random numbers of its own, if there are others."""
    processes = current()
    if processes is None:
        yield
        return
    with processes.own_random_numbers(seed, device):
        yield


def is_first_process() -> bool:
    """Whether this process is the only one, or the one that speaks for all."""
    processes = current()
    return processes is None or processes.rank == 0
