"""Random numbers of a fit: generators that belong to a thread of the program, not to the process.

Torch's own generators belong to the process. Fits in several threads would take numbers from each
other, or wait for each other, so that our code draws from generators of its own. Code of users may
draw from Torch's; it gets their place for as long as it runs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from skae._torch_compat import mps_generator


class _Current(threading.local):
    """Generators of the blocks that this thread is in, by the type of their device."""

    def __init__(self) -> None:
        self.generators: dict[str, torch.Generator] = {}


_CURRENT = _Current()

# Held for one step of code that draws from the generators of the process, and never while code of
# ours calls back or waits.
_PROCESS_LOCK = threading.RLock()


def _forget_lock() -> None:
    """In a forked child no other thread is left to release the lock."""
    global _PROCESS_LOCK
    _PROCESS_LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lock)


@contextmanager
def private_random_numbers(seed: int, device: torch.device) -> Iterator[None]:
    """Let `generator` of this thread begin at ``seed`` inside the block, as before afterwards."""
    with drawing_from(generators_of(seed, device)):
        yield


def generators_of(seed: int, device: torch.device) -> dict[str, torch.Generator]:
    """Make generators for the CPU and a device, by the type of the device."""
    places = (torch.device("cpu"), device)
    return {place.type: torch.Generator(place).manual_seed(seed) for place in places}


@contextmanager
def drawing_from(generators: dict[str, torch.Generator]) -> Iterator[None]:
    """Let this thread draw from generators inside the block."""
    before = _CURRENT.generators
    _CURRENT.generators = generators
    try:
        yield
    finally:
        _CURRENT.generators = before


def generator_states() -> dict[str, np.ndarray]:
    """Copy the states of this thread's generators, by the type of their device."""
    return {name: each.get_state().numpy() for name, each in _CURRENT.generators.items()}


def set_generator_states(states: Mapping[str, np.ndarray]) -> None:
    """Let this thread's generators go on from states that `generator_states` gave."""
    for name, state in states.items():
        _CURRENT.generators[name].set_state(torch.from_numpy(state.copy()))


def generator(device: torch.device) -> torch.Generator | None:
    """Give what this thread draws from on a device; None is the generator of the process."""
    return _CURRENT.generators.get(device.type)


def normal_like(x: Tensor) -> Tensor:
    """Draw standard normal numbers in the shape and dtype of x."""
    return torch.empty_like(x).normal_(generator=generator(x.device))


def uniform_like(x: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Draw numbers in [low, high) in the shape and dtype of x."""
    return torch.empty_like(x).uniform_(low, high, generator=generator(x.device))


def permutation(n: int, device: torch.device) -> Tensor:
    """Draw an order of n things, (n,)."""
    return torch.randperm(n, device=device, generator=generator(device))


@contextmanager
def random_numbers_of_the_process() -> Iterator[None]:
    """Let Torch's own generators continue this thread's numbers inside the block.

    For code that knows no other generators: networks and noise of users. Such blocks in several
    threads run one after the other.
    """
    ours = _CURRENT.generators
    if not ours:
        yield
        return
    with _PROCESS_LOCK:
        theirs = {name: _generator_of_the_process(own.device) for name, own in ours.items()}
        states = {name: each.get_state() for name, each in theirs.items()}
        for name, each in theirs.items():
            each.set_state(ours[name].get_state())
        _CURRENT.generators = {}
        try:
            yield
        finally:
            _CURRENT.generators = ours
            for name, each in theirs.items():
                ours[name].set_state(each.get_state())
                each.set_state(states[name])


@contextmanager
def networks_of_float32() -> Iterator[None]:
    """Let code of users build networks of float32, whatever Torch's default dtype is."""
    with _PROCESS_LOCK:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def _generator_of_the_process(device: torch.device) -> torch.Generator:
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index]
    return mps_generator() if device.type == "mps" else torch.default_generator
