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


class DeviceArray:
    """A tensor on an accelerator, with shape and dtype as NumPy's arrays have them.

    It is no array: what would take it to the host by accident is an error.

    Parameters
    ----------
    tensor : Tensor
        float64, float32 or bool.
    """

    __slots__ = ("tensor",)
    __array__ = None  # so that NumPy does not make an array of objects of it

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

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

    def to_host(self) -> np.ndarray:
        """Copy it to the host."""
        return self.tensor.cpu().numpy()


def on_host(X: Any) -> Any:
    """Copy what is on an accelerator to the host; anything else as it is."""
    return X.to_host() if isinstance(X, DeviceArray) else X
