"""Where tensors live and who works on them: devices, memory, threads."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from skae._blocks import map_of
from skae._torch_compat import copy_all, own_tensors, threads_of_this_thread

CPU = torch.device("cpu")

# Dtypes of tables that are computed with as they are; others become the first one.
FLOATS = (np.float64, np.float32)
TORCH_DTYPE = {"float64": torch.float64, "float32": torch.float32}

# Multiply-adds of one training step (rows times weights) from which an accelerator pays. A step
# of a small network costs a GPU about 0.5 ms of kernel launches, whatever its size; in that time
# a few CPU cores do about this much arithmetic.
LARGE_STEP = 2**24

# Multiply-adds by the weights in one training step of a dense network, from which more than one
# thread pays. Measured on two idle cores, a step with two threads takes 1.18 times as long as with
# one at 2**17, 1.04 at 2**21, 0.96 at 2**21.5 and 0.88 at 2**23; and where the cores have other
# work, threads that wait for each other make a fit many times slower.
PARALLEL_STEP = 2**22


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


class _Kept(threading.local):
    """What is known of modules that are alive; in no other thread's way."""

    def __init__(self) -> None:
        self.copies: WeakKeyDictionary[nn.Module, dict[Any, nn.Module]] = WeakKeyDictionary()
        self.n_weights: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


_KEPT = _Kept()


def copy_to(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Copy a module to a device and a dtype.

    The copy is kept for as long as the module lives and takes over its weights in every call:
    making it anew costs several times as much as one row on its way through the network.
    """
    parts = list(module.modules())
    copies = _KEPT.copies.setdefault(module, {})
    key = device, dtype, tuple(map(id, parts))  # a part may have been exchanged
    if key not in copies:
        copies[key] = copy.deepcopy(module).to(device, dtype)
        return copies[key]
    with torch.no_grad():
        copy_all(list(tensors_of(copies[key].modules())), list(tensors_of(parts)))
    return copies[key]


def tensors_of(parts: Iterable[nn.Module]) -> Iterator[torch.Tensor]:
    """Yield the parameters and buffers of the parts of a module."""
    for part in parts:
        yield from own_tensors(part)


def count_weights(module: nn.Module) -> int:
    """Count the numbers that a module learns; once, because that takes as long as a row."""
    if module not in _KEPT.n_weights:
        _KEPT.n_weights[module] = sum(weights.numel() for weights in module.parameters())
    return _KEPT.n_weights[module]


def threads(n_threads: int | None) -> AbstractContextManager[None]:
    """Let Torch's operators use so many threads of the CPU inside the block, or as many as before.

    Only calls by this thread of the program are meant.
    """
    if n_threads is None:
        return nullcontext()
    return threads_of_this_thread(threads_after_fork(n_threads))


@contextmanager
def torch_at_work(device: torch.device) -> Iterator[None]:
    """Context of all that skae does with Torch.

    It undoes what the caller may have set for its own work, inference mode and mixed precision, and
    turns Torch's ways to run out of memory into a MemoryError.
    """
    try:
        with _plain_arithmetic(device):
            yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(
            f"Torch ran out of memory on device={str(device)!r}. Lower hidden_layer_sizes, "
            "n_components or batch_size, or pass fewer columns."
        ) from error


def _plain_arithmetic(device: torch.device) -> AbstractContextManager[Any]:
    """Give the contexts that are needed, which mostly are none: each costs some microseconds."""
    contexts = ExitStack()
    if torch.is_inference_mode_enabled():
        contexts.enter_context(torch.inference_mode(False))
    if not torch.is_grad_enabled():
        contexts.enter_context(torch.enable_grad())
    if device.type != "meta" and torch.is_autocast_enabled(device.type):
        contexts.enter_context(torch.autocast(device.type, enabled=False))
    return contexts


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether Torch means that there is not enough memory."""
    texts = ("can't allocate memory", "not enough memory", "Storage size calculation overflowed")
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in texts)


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


def is_memory_mapped(X: Any) -> bool:
    """Whether an array is a view of a memory map."""
    return map_of(X) is not None


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
    return 1 if _forked or _LOCKSTEP.get() else n_threads


_LOCKSTEP: ContextVar[bool] = ContextVar("lockstep", default=False)


@contextmanager
def in_lockstep() -> Iterator[None]:
    """Context in which pools have one thread, so that processes ask each other in one order."""
    token = _LOCKSTEP.set(True)
    try:
        yield
    finally:
        _LOCKSTEP.reset(token)


def _continue_on_one_thread() -> None:
    global _forked
    _forked = True
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_continue_on_one_thread)
