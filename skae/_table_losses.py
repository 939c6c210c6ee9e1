"""Which loss the columns of a table have, and what each of them weighs."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import xlogy

from skae._block_losses import SMALLEST_DISPERSION, Composition
from skae._table import Block, TableEncoder

# Losses of numbers, and whether they are in nats.
OF_NUMBERS = {"squared_error": False, "absolute_error": False, "gaussian": True}
# Nats. A column that nearly always has one value gets no more weight than one of this entropy.
SMALLEST_ENTROPY = 0.1
SMALLEST_PROBABILITY = 1e-6


def losses_of_columns(
    encoder: TableEncoder,
    moments: tuple[np.ndarray, np.ndarray],
    loss: Any,
    is_likelihood: bool,
) -> list[tuple]:
    """Blocks of the loss of an encoded table.

    Parameters
    ----------
    encoder : TableEncoder
        Fitted.
    moments : tuple of ndarray
        Mean and variance of the encoded columns that are not constant.
    loss : str
        What the estimator has for numbers.
    is_likelihood : bool
        Whether the estimator has a likelihood. Then, and with ``loss="gaussian"``, all columns are
        in nats and have a weight of one. Otherwise their weights are such that the best constant
        has a loss of one in each column.
    """
    if not isinstance(loss, str):
        return list(loss)
    if loss not in OF_NUMBERS:
        raise ValueError(
            f"loss={loss!r} of the estimator is for all columns alike; in a table it is that of "
            f"the numbers, one of {sorted(OF_NUMBERS)}. Categories, booleans and counts have "
            "losses of their own."
        )
    in_nats = is_likelihood or OF_NUMBERS[loss]
    if is_likelihood and loss == "squared_error":
        loss = "gaussian"  # with one variance for each column
    blocks, start = [], 0
    for block in encoder.blocks_:
        if block.kind == "constant":
            continue
        n = block.columns.stop - block.columns.start
        own = slice(start, start + n)
        mean, variance = moments[0][own], moments[1][own]
        name, unit = loss_of_block(encoder, block, mean, variance, loss, in_nats)
        weight = 1.0 if in_nats else 1.0 / constant_loss(name, mean, variance)
        blocks.append((name, n, float(weight), *unit))
        start += n
    return blocks


def loss_of_block(
    encoder: TableEncoder,
    block: Block,
    mean: np.ndarray,
    variance: np.ndarray,
    loss: str,
    in_nats: bool,
) -> tuple[str, tuple]:
    """Loss of a column, and the unit of counts if it is theirs."""
    state = next(c["state"] for c in encoder._columns if c["name"] == block.name)
    if block.kind == "boolean":
        return "bernoulli", ()
    if block.kind == "category":
        return "categorical", ()
    if block.kind == "ordinal" and not state["by_rank"]:
        return "ordinal", ()
    if block.kind == "count" and in_nats:
        scaling = state["scaling"]
        offset = scaling["unit"] * scaling["center"] + state["origin"]
        step = scaling["unit"] * scaling["scale"]
        rate, spread = offset + step * mean[0], step**2 * variance[0]
        # The distribution has a variance of at least its mean.
        if scaling["transformation"] == "standardize" and spread >= rate > 0.0:
            return "negative_binomial", ((float(offset), float(step)),)
    return loss, ()


def constant_loss(name: str, mean: np.ndarray, variance: np.ndarray) -> float:
    """Loss of the best constant in place of a column."""
    if name == "categorical":
        return max(float(-xlogy(mean, mean).sum()), SMALLEST_ENTROPY)
    if name in ("bernoulli", "ordinal"):
        shares = -np.diff(np.concatenate([[1.0], mean, [0.0]]))
        return max(float(-xlogy(shares, np.maximum(shares, 1e-300)).sum()), SMALLEST_ENTROPY)
    total = float(variance.sum()) or 1.0
    # Of a normal distribution the mean absolute deviation is this share of the standard deviation.
    return (
        total
        if name == "squared_error"
        else np.sqrt(2.0 / np.pi) * float(np.sqrt(variance).sum() or 1.0)
    )


def log_likelihood(
    composition: Composition, means: np.ndarray, given: np.ndarray, variances: np.ndarray
) -> np.ndarray:
    """Log-likelihood of the known cells of a row for each code, up to a constant, (n_codes,).

    Parameters
    ----------
    composition : Composition
        Densities of the cells.
    means : ndarray of shape (n_codes, n_features)
        Means of the cells given the codes.
    given : ndarray of shape (n_features,)
        A row with NaN in unknown cells.
    variances : ndarray of shape (n_features,)
        Of numbers around their means.
    """
    total = np.zeros(len(means))
    for block, own in zip(composition.blocks, composition.slices, strict=True):
        x, mean, variance = given[own], means[:, own], variances[own]
        if np.isnan(x).any():
            continue
        if block.loss == "categorical":
            probability = np.maximum(mean, 0.0) @ x
            probability /= np.maximum(np.maximum(mean, 0.0).sum(axis=1), SMALLEST_PROBABILITY)
        elif block.loss in ("bernoulli", "ordinal"):
            reached = np.column_stack([np.ones(len(mean)), mean, np.zeros(len(mean))])
            level = round(float(x.sum()))
            probability = reached[:, level] - reached[:, level + 1]
        else:
            if block.loss == "negative_binomial":
                offset, step = block.unit
                rate = np.maximum(offset + step * mean, 0.0)
                variance = (rate + (variance + SMALLEST_DISPERSION) * rate**2 + 1e-3) / step**2
            variance = np.maximum(variance, SMALLEST_PROBABILITY)
            total -= (np.square(x - mean) / variance + np.log(variance)).sum(axis=1) / 2.0
            continue
        total += np.log(np.maximum(probability, SMALLEST_PROBABILITY))
    return total
