"""DeviceArray: a table or result in the memory of an accelerator."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

# The dtypes that tables have inside: others have been converted.
DTYPES: dict[torch.dtype, np.dtype] = {
    torch.float64: np.dtype(np.float64),
    torch.float32: np.dtype(np.float32),
    torch.bool: np.dtype(np.bool_),
}


TORCH_DTYPES = {dtype: name for name, dtype in DTYPES.items()}


class DeviceArray:
    """A tensor on an accelerator, with shape and dtype as NumPy's arrays have them.

    It is no array: what would take it to the host by accident is an error. Its reductions are
    NumPy's numbers, and they alone come to the host.

    Parameters
    ----------
    tensor : Tensor
        float64, float32 or bool.
    """

    __slots__ = ("tensor",)
    __array__ = None  # so that NumPy does not make an array of objects of it

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    @staticmethod
    def is_for(tensor: Tensor) -> bool:
        """Whether a tensor is in memory that NumPy cannot read."""
        return tensor.device.type != "cpu"

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return tuple(self.tensor.shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.tensor.ndim

    @property
    def size(self) -> int:
        """Number of cells."""
        return self.tensor.numel()

    @property
    def dtype(self) -> np.dtype:
        """NumPy's name of the dtype."""
        return DTYPES[self.tensor.dtype]

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.tensor.device

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __getitem__(self, key: Any) -> DeviceArray:
        return DeviceArray(self.tensor[key])

    def __abs__(self) -> DeviceArray:
        return DeviceArray(self.tensor.abs())

    def __mul__(self, factor: float) -> DeviceArray:
        return DeviceArray(self.tensor * factor)

    def astype(self, dtype: Any, copy: bool = True) -> DeviceArray:
        """Change the dtype."""
        return DeviceArray(self.tensor.to(TORCH_DTYPES[np.dtype(dtype)], copy=copy))

    def copy(self) -> DeviceArray:
        """Copy it on its device."""
        return DeviceArray(self.tensor.clone())

    def isnan(self) -> DeviceArray:
        """Tell which cells are NaN."""
        return DeviceArray(self.tensor.isnan())

    def sum(self) -> float:
        """Sum of all cells."""
        return float(self.tensor.sum())

    def min(self, axis: int | None = None) -> Any:
        """Smallest cell, of all or along an axis."""
        return reduced(self.tensor.amin(() if axis is None else axis))

    def max(self, axis: int | None = None, initial: float | None = None) -> Any:
        """Largest cell, of all or along an axis."""
        if self.size == 0 and axis is None:
            return initial
        return reduced(self.tensor.amax(() if axis is None else axis))

    def to_host(self) -> np.ndarray:
        """Copy it to the host."""
        return self.tensor.cpu().numpy()

    def on_same_device(self, array: np.ndarray) -> Tensor:
        """Copy a small array beside it, in its dtype."""
        return torch.from_numpy(array).to(self.tensor)


def reduced(tensor: Tensor) -> Any:
    """Bring what little is left of a tensor to the host, as a number or an array."""
    array = tensor.cpu().numpy()
    return array if array.ndim else array[()]


def on_host(X: Any) -> Any:
    """Copy what is on an accelerator to the host; anything else as it is."""
    return X.to_host() if isinstance(X, DeviceArray) else X
