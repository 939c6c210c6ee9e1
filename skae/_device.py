"""Where tensors live: device names, the way of NumPy data to a device, private random numbers."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

# torch's random state belongs to the whole process. Fits that run in threads take turns, so that
# each one draws the numbers of its own seed.
_RANDOM_STATE_LOCK = threading.RLock()


def resolve_device(device: str, *, large: bool) -> torch.device:
    """Turn the parameter ``device`` into a device of this machine.

    Parameters
    ----------
    device : str
        "auto", or a name that `torch.device` knows: "cpu", "cuda", "cuda:1", "mps".
    large : bool
        Whether the problem is so large that an accelerator is faster than the CPU. "auto" takes
        the CPU for small problems, where an accelerator would mostly wait for launches.

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If the name is unknown, or if this machine has no such device.
    """
    if device == "auto":
        return torch.device("cuda" if large and torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError):
        resolved = None
    if resolved is None or resolved.type not in ("cpu", "cuda", "mps"):
        raise ValueError(
            f"device={device!r} is unknown; use 'auto', 'cpu', 'cuda', 'cuda:<index>' or 'mps'."
        )
    if not is_available(resolved):
        raise ValueError(
            f"device={device!r} is not available on this machine, which has "
            f"{describe_devices()}; use device='auto' to take what there is."
        )
    return resolved


def is_available(device: torch.device) -> bool:
    """Whether this machine has the device."""
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    if device.type == "mps":
        return torch.backends.mps.is_available()
    return True


def describe_devices() -> str:
    """Name the devices of this machine, for error messages."""
    names = ["cpu"]
    if torch.cuda.is_available():
        names += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return ", ".join(names)


def to_tensor(
    array: np.ndarray, device: torch.device, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Put an array on a device; on the CPU and without a change of dtype it is not copied."""
    if not array.flags.writeable or min(array.strides, default=0) < 0:
        # A tensor can be neither read-only nor run backwards.
        array = array.copy()
    return torch.from_numpy(array).to(device=device, dtype=dtype)


# Multiply-adds by the weights in one training step of a dense network, from which more than one
# thread pays. Measured on two idle cores, a step with two threads takes 1.18 times as long as with
# one at 2**17, 1.04 at 2**21, 0.96 at 2**21.5 and 0.88 at 2**23; and where the cores have other
# work, threads that wait for each other make a fit many times slower.
PARALLEL_STEP = 2**22


class _Copies(threading.local):
    """Copies of the modules that are alive; in no other thread's way."""

    def __init__(self) -> None:
        self.of: WeakKeyDictionary[nn.Module, dict[Any, nn.Module]] = WeakKeyDictionary()


_COPIES = _Copies()


def copy_to(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Copy a module to a device and a dtype.

    The copy is kept for as long as the module lives and takes over its weights in every call:
    making it anew costs several times as much as one row on its way through the network.
    """
    parts = tuple(map(id, module.modules()))  # a part may have been exchanged
    copies = _COPIES.of.setdefault(module, {})
    key = device, dtype, parts
    if key not in copies:
        copies[key] = copy.deepcopy(module).to(device, dtype)
        return copies[key]
    with torch.no_grad():
        for target, source in zip(tensors_of(copies[key]), tensors_of(module), strict=True):
            target.copy_(source)
    return copies[key]


def tensors_of(module: nn.Module) -> Iterator[torch.Tensor]:
    """Yield the parameters and buffers of a module."""
    yield from module.parameters()
    yield from module.buffers()


@contextmanager
def threads(n_threads: int | None) -> Iterator[None]:
    """Let Torch's operators use so many threads of the CPU inside the block, or as many as before.

    Torch has one such number for each thread of the program, and one for those to come.
    """
    before = torch.get_num_threads()
    if n_threads is not None:
        torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def private_random_state(seed: int, device: torch.device) -> Iterator[None]:
    """Let torch draw from ``seed`` inside the block and leave its global state as it was.

    Blocks in different threads of one process run one after the other.
    """
    cuda = [device] if device.type == "cuda" else []
    with _RANDOM_STATE_LOCK, torch.random.fork_rng(devices=cuda):
        # torch.manual_seed would also reseed the devices that are not forked.
        torch.random.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def available_memory(device: torch.device) -> int | None:
    """Bytes of free memory, or None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            kibibytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable"))
        return int(kibibytes) * 1024
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def matrix_fits(m: int, device: torch.device) -> bool:
    """Whether there is memory for an m x m float64 matrix, one product and its eigenvectors."""
    if m <= 4096:  # 128 MiB
        return True
    free = available_memory(device)
    return free is None or 3 * 8 * m * m <= free


_forked = False


def threads_after_fork(n_threads: int) -> int:
    """Give the number of threads to use where there may be so many: one in a forked process.

    A fork copies the memory of a process but none of its threads. Pools that ran before it, those
    of OpenMP too, then wait for ever for threads that are not there.
    """
    return 1 if _forked else n_threads


def _continue_on_one_thread() -> None:
    global _forked
    _forked = True
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_continue_on_one_thread)
