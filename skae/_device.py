"""Where tensors live: device names, the way of NumPy data to a device, private random numbers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

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
