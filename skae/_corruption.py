"""Ways to corrupt rows: (batch, n_features) in, a new (batch, n_features) out.

The second argument is the level of each row, (batch, 1). Numbers are those of `_random`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from skae._random import generator, normal_like, uniform_like


def gaussian(x: Tensor, level: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Add normal noise; the level is its standard deviation in the unit of x."""
    return x + level * normal_like(x)


def clipped_gaussian(x: Tensor, level: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Add normal noise and clip to the range of each feature, as a camera does."""
    return (x + level * normal_like(x)).clamp(low, high)


def masking(x: Tensor, level: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Set cells to zero with a probability (Vincent et al. 2008)."""
    return x.masked_fill(uniform_like(x) < level, 0.0)


def salt_and_pepper(x: Tensor, level: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Set cells to an end of their feature's range with a probability, to either as often."""
    u = uniform_like(x)
    return torch.where(u < level, torch.where(u < level / 2.0, low, high), x)


def swap(x: Tensor, level: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Take cells from other rows of the batch with a probability (Yoon et al. 2020).

    Each cell has a donor row of its own, so that what is swapped in keeps the distribution of its
    column and loses the relation to the other columns. One row on its own stays as it is.
    """
    n_rows = len(x)
    shift = torch.randint(
        1, max(n_rows, 2), x.shape, device=x.device, generator=generator(x.device)
    )
    donors = (torch.arange(n_rows, device=x.device)[:, None] + shift) % n_rows
    return torch.where(uniform_like(x) < level, x.gather(0, donors), x)


class Noise(NamedTuple):
    """A corruption and what belongs to it."""

    corrupt: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    """(rows, their levels, low, high) -> corrupted rows. The last two are the range of each
    feature, (n_features,)."""

    max_level: float
    """The highest level that means something: one for a probability."""


NOISES = {
    "clipped_gaussian": Noise(clipped_gaussian, math.inf),
    "gaussian": Noise(gaussian, math.inf),
    "masking": Noise(masking, 1.0),
    "salt_and_pepper": Noise(salt_and_pepper, 1.0),
    "swap": Noise(swap, 1.0),
}
