"""Numbers to standardized ones and back, by the transformation that suits the column."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import ndtri

# Fewer values say too little about tails.
MIN_VALUES = 20
# A value that so many rows share is a spike, if the column has other values enough.
SPIKE_SHARE = 0.1
# How far a normal probability plot has to be from a straight line, and what has to be gained.
MAX_BEND = 0.03
GAIN = 0.5
N_WIDTHS = 8
N_PLOTTED = 200
N_KNOTS = 1000
# A standardized value is at most so large, and is finite in every step.
FARTHEST = 1e100
# exp of more overflows.
MAX_LOGARITHM = 700.0
# Standard deviation of whole numbers from which on rounding may cost a unit.
WIDE = 2.0**40
# Relative to the value or to the standard deviation of the column.
TOLERANCE = 1e-10

State = dict[str, Any]


def fit_scaling(x: np.ndarray, exact: bool) -> State:
    """Choose a transformation for the values of a column and fit it.

    A spike asks for quantiles, heavy tails for arcsinh. Everything else, and every column that
    would not come back as it was, is standardized.

    Parameters
    ----------
    x : ndarray of shape (n,)
        Known values, at least one.
    exact : bool
        Whether values have to come back to the unit, because they are whole numbers.

    Returns
    -------
    dict
        For `scale` and `unscale`: strings, numbers and arrays.
    """
    unit = unit_of(x)
    y = x / unit
    wanted = wanted_transformation(y)
    for state in ([wanted] if wanted else []) + [{"transformation": "standardize"}]:
        state |= {"unit": unit, "center": 0.0, "scale": 1.0}
        z = scale(state, x)
        state |= units_of(z, exact and state["transformation"] == "standardize")
        error = np.abs(unscale(state, scale(state, x)) / unit - y)
        if np.all(error <= (0.25 / unit if exact else TOLERANCE * (np.abs(y) + np.std(y)))):
            break
    return state


def units_of(z: np.ndarray, exact: bool) -> State:
    """Mean and standard deviation, or numbers near them by which wide columns come back exactly.

    With a power of two as scale and a whole number as center, no digit of a whole number is lost.
    """
    center, deviation = float(np.mean(z)), float(np.std(z))
    if exact and deviation > WIDE:
        return {"center": float(np.rint(center)), "scale": 2.0 ** round(np.log2(deviation))}
    # Deviations below the precision of the center are rounding.
    return {"center": center, "scale": deviation if deviation > 1e-14 * abs(center) else 1.0}


def unit_of(x: np.ndarray) -> float:
    """Power of two such that squares of the values in this unit are finite."""
    largest = float(np.max(np.abs(x)))
    if largest == 0.0 or 1e-100 < largest < 1e100:
        return 1.0
    return 2.0 ** min(1000, max(-1000, int(np.log2(largest))))


def wanted_transformation(y: np.ndarray) -> State | None:
    """Quantiles for a spike, arcsinh for heavy tails, None for neither."""
    distinct, counts = np.unique(y, return_counts=True)
    if len(distinct) < MIN_VALUES:
        return None
    if counts.max() >= SPIKE_SHARE * len(y):
        return fit_quantiles(np.sort(y), distinct, counts)
    return fit_arcsinh(y)


def fit_arcsinh(y: np.ndarray) -> State | None:
    """Width of the arcsinh with the straightest normal probability plot [1]_.

    Of a column that is never negative the origin is zero: the arcsinh is then a logarithm of large
    values and linear in small ones. Other columns are folded at their median.

    References
    ----------
    .. [1] Filliben, "The probability plot correlation coefficient test for normality",
       Technometrics 17 (1975).
    """
    shares = (np.arange(N_PLOTTED) + 0.5) / N_PLOTTED
    plotted, normal = np.quantile(y, shares), ndtri(shares)
    origin = 0.0 if y.min() >= 0.0 else float(np.median(y))
    sizes = np.abs(y - origin)
    low, high = np.quantile(sizes[sizes > 0.0], [0.05, 0.95])
    widths = np.geomspace(low, high, N_WIDTHS)
    bends = [bend(np.arcsinh((plotted - origin) / width), normal) for width in widths]
    linear = bend(plotted, normal)
    if linear < MAX_BEND or min(bends) > GAIN * linear:
        return None
    width = float(widths[int(np.argmin(bends))])
    return {"transformation": "arcsinh", "origin": origin, "width": width}


def bend(quantiles: np.ndarray, normal: np.ndarray) -> float:
    """One minus the correlation of a normal probability plot."""
    centred = quantiles - quantiles.mean()
    largest = np.abs(centred).max()
    if largest == 0.0:
        return 1.0
    # Squares of the smallest numbers would be zero.
    return 1.0 - float(np.corrcoef(centred / largest, normal)[0, 1])


def fit_quantiles(y: np.ndarray, distinct: np.ndarray, counts: np.ndarray) -> State:
    """Give values the normal scores of their ranks, and spikes intervals of scores.

    A spike is encoded as the middle of its interval.

    Parameters
    ----------
    y, distinct, counts : ndarray
        Sorted values, the distinct ones among them, and how often these occur.
    """
    spikes = counts >= SPIKE_SHARE / 2 * len(y)
    knots = distinct
    if len(distinct) > N_KNOTS:
        places = np.linspace(0, len(y) - 1, N_KNOTS).astype(int)
        knots = np.union1d(y[places], distinct[spikes])
    below = np.searchsorted(y, knots, side="left") / len(y)
    upto = np.searchsorted(y, knots, side="right") / len(y)
    middle = (below + upto) / 2.0
    is_spike = np.isin(knots, distinct[spikes])
    # The lowest and highest values have all that is outside.
    low = np.where(is_spike & (below > 0.0), below, middle)
    high = np.where(is_spike & (upto < 1.0), upto, middle)
    return {
        "transformation": "quantile",
        "knots": knots,
        "scores": ndtri(middle),
        "ends": ndtri(np.stack([low, high])),  # (2, n_knots)
    }


def scale(state: State, x: np.ndarray) -> np.ndarray:
    """Standardize values."""
    with np.errstate(over="ignore"):
        y = x / state["unit"]
        if state["transformation"] == "arcsinh":
            y = np.arcsinh((y - state["origin"]) / state["width"])
        elif state["transformation"] == "quantile":
            y = normal_scores(state, y)
        return np.clip((y - state["center"]) / state["scale"], -FARTHEST, FARTHEST)


def normal_scores(state: State, y: np.ndarray) -> np.ndarray:
    """Scores of values: those of the knots, and on straight lines between them."""
    knots = state["knots"]
    scores = np.interp(y, np.repeat(knots, 2), state["ends"].T.ravel())
    places = np.searchsorted(knots, y).clip(max=len(knots) - 1)
    return np.where(knots[places] == y, state["scores"][places], scores)


def unscale(state: State, z: np.ndarray) -> np.ndarray:
    """Values of standardized ones, whatever their size."""
    with np.errstate(over="ignore"):
        y = z * state["scale"] + state["center"]
        if state["transformation"] == "arcsinh":
            limited = np.clip(y, -MAX_LOGARITHM, MAX_LOGARITHM)
            y = np.sinh(limited) * state["width"] + state["origin"]
        elif state["transformation"] == "quantile":
            y = np.interp(y, state["ends"].T.ravel(), np.repeat(state["knots"], 2))
        return y * state["unit"]
