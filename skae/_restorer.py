"""Networks that correct what a normal distribution expects in unknown cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from skae._device import CPU, threads, torch_at_work
from skae._persistence import load_weights
from skae._random import generator, private_random_numbers
from skae._rows import DenseTable, Rows, in_batches
from skae._training import (
    Descent,
    Progress,
    Settings,
    TrainableModule,
    is_clear_gain,
    row_losses,
    state_of,
    train_epoch,
)
from skae._unknown import Gaussian, hide

# Networks whose mean is taken, and the units of their hidden layers.
N_MEMBERS = 4
HIDDEN_LAYER_SIZES = (192, 192)
# Rows of an epoch, how often cells of each are hidden, epochs for which they stay hidden, and how
# often cells of rows that are held out are hidden.
MAX_ROWS = 4096
N_HIDINGS = 2
N_PASSES = 2
N_CHECKS = 4
HELD_OUT = 0.15
# With fewer rows nothing can be learned beyond the normal distribution.
MIN_ROWS = 40
# Standardized cells count as this far from the mean at most.
FARTHEST = 8.0


class Restorer(TrainableModule):
    """The mean of several networks, zero at first.

    Parameters
    ----------
    n_features : int
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        sizes = (2 * n_features, *HIDDEN_LAYER_SIZES, n_features)
        shapes = [(N_MEMBERS, n_in, n_out) for n_in, n_out in pairwise(sizes)]
        self.weights = nn.ParameterList(map(uniform, shapes))
        self.biases = nn.ParameterList(
            nn.Parameter(torch.zeros(N_MEMBERS, 1, n_out, dtype=torch.float32))
            for _, _, n_out in shapes
        )
        nn.init.zeros_(self.weights[-1])

    def corrections(self, x: Tensor) -> Tensor:
        """Give what each network adds to expected cells, (n_members, batch, n_features).

        Parameters
        ----------
        x : Tensor of shape (batch, 2 * n_features)
            Standardized rows with expected values in unknown cells, then ones at known cells.
        """
        x = x.clamp(-FARTHEST, FARTHEST).expand(N_MEMBERS, *x.shape)
        for weights, biases in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = nn.functional.silu(torch.baddbmm(biases, x, weights))
        return torch.baddbmm(self.biases[-1], x, self.weights[-1])

    def loss(self, x: Tensor, target: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        """Squared error of the hidden cells, over the number of features, (batch,).

        `target` are the rows as they were, and `known` says which of the unknown cells of x are
        hidden ones. Each network learns on its own; in evaluation mode their mean is judged.
        """
        assert target is not None
        assert known is not None
        n_features = target.shape[1]
        corrections = self.corrections(x)
        if not self.training:
            corrections = corrections.mean(dim=0, keepdim=True)
        errors = torch.square(x[:, :n_features] + corrections - target) * known
        return errors.mean(dim=(0, 2))


def uniform(shape: tuple[int, int, int]) -> nn.Parameter:
    """Weights that keep the size of what passes through them."""
    bound = math.sqrt(3.0 / shape[1])
    weights = torch.empty(shape, dtype=torch.float32)
    return nn.Parameter(weights.uniform_(-bound, bound, generator=generator(CPU)))


def hidden_rows(
    gaussian: Gaussian,
    X: np.ndarray,
    weights: np.ndarray,
    widths: Sequence[int],
    n_hidings: int,
    rng: np.random.Generator,
) -> Rows:
    """Hide cells of standardized rows, each row several times, and expect what is unknown then."""
    X, weights = np.tile(X, (n_hidings, 1)), np.tile(weights, n_hidings)
    known = ~np.isnan(X)
    left = known & ~hide(known, widths, rng)
    expected = gaussian.fill(np.where(left, X, np.nan))
    x = np.concatenate([expected, left], axis=1, dtype=np.float32)
    target = np.nan_to_num(X).astype(np.float32)
    tables = (DenseTable(torch.from_numpy(table)) for table in (x, target, known & ~left))
    x_table, target_table, hidden = tables
    return Rows(x_table, target_table, torch.from_numpy(weights.astype(np.float32)), hidden)


def train_restorer(
    gaussian: Gaussian,
    X: np.ndarray,
    weights: np.ndarray,
    widths: Sequence[int],
    n_epochs: int,
    seed: int,
) -> dict[str, np.ndarray] | None:
    """Learn to restore hidden cells, by the patterns of other rows as well as at random.

    Parameters
    ----------
    gaussian : Gaussian
        What the networks start from.
    X : ndarray of shape (n_samples, n_features)
        Standardized rows with unknown cells.
    weights : ndarray of shape (n_samples,)
        Of mean one.
    widths : sequence of int
        Numbers of features of the cells, see `hide`.
    n_epochs, seed : int

    Returns
    -------
    dict of str to ndarray or None
        Weights of a `Restorer`; None if the hidden cells of rows that were held out are not clearly
        nearer to what they were than without it.
    """
    rng = np.random.default_rng(seed)
    n_rows = len(X)
    if n_rows < MIN_ROWS:
        return None
    held_out, kept = np.split(rng.permutation(n_rows), [round(HELD_OUT * n_rows)])
    held_out = held_out[:MAX_ROWS]
    settings = Settings(
        "adam", learning_rate_init=2e-3, batch_size=64, max_iter=n_epochs, learning_rate="cosine"
    )
    with torch_at_work(CPU), private_random_numbers(seed, CPU), threads(1):
        module = Restorer(X.shape[1])
        descent = Descent(module, settings)
        checks = hidden_rows(gaussian, X[held_out], weights[held_out], widths, N_CHECKS, rng)

        def losses_of_rows() -> torch.Tensor:
            return row_losses(module, checks).reshape(N_CHECKS, -1).mean(dim=0)

        first = best = losses_of_rows()
        state = state_of(module)
        progress = Progress()
        for epoch in range(n_epochs):
            if epoch % N_PASSES == 0:
                chosen = rng.permutation(kept)[:MAX_ROWS]
                rows = hidden_rows(gaussian, X[chosen], weights[chosen], widths, N_HIDINGS, rng)
            train_epoch(descent, rows, progress, settings)
            losses = losses_of_rows()
            if losses.mean() < best.mean():
                best, state = losses, state_of(module)
    if not is_clear_gain(best, first):
        return None
    return {name: tensor.numpy() for name, tensor in state.items()}


def corrections(weights: dict[str, np.ndarray], rows: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Give what trained networks add to the expected cells of standardized rows.

    Parameters
    ----------
    weights : dict of str to ndarray
        Of a `Restorer`.
    rows : ndarray of shape (n_samples, n_features)
        With expected values in unknown cells.
    known : ndarray of bool of shape (n_samples, n_features)

    Returns
    -------
    ndarray of shape (n_samples, n_features)
    """
    with torch.device("meta"):
        module = Restorer(rows.shape[1])
    load_weights(module, weights)
    x = np.concatenate([rows, known], axis=1, dtype=np.float32)
    with threads(1):
        return in_batches(lambda batch: module.corrections(batch).mean(dim=0), x, CPU)
