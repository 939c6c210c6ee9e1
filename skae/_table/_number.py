"""Columns of numbers, integers, counts and durations."""

from __future__ import annotations

from typing import Any

import numpy as np

from skae._table._cells import INT64, Cells
from skae._table._scaling import MIN_VALUES, State, fit_scaling, scale, unscale

# A bound of a column is a value that its extreme is reached by so many rows.
BOUND_SHARE = 0.01
MIN_AT_BOUND = 3
MAX_DECIMALS = 6
# Fewer values may have something in common by chance.
MIN_DISTINCT = 5
# Whole numbers further apart are not exact as floats.
MAX_RANGE = 2**52
TICKS = {
    "s": 1,
    "ms": 10**3,
    "us": 10**6,
    "ns": 10**9,
}


def fit_number(cells: Cells) -> State:
    """Describe a column of numbers: its transformation, digits and limits."""
    if cells.form == "integer":
        return fit_integer(cells)
    values = cells.known_values
    scaling = fit_scaling(values, exact=False)
    limits = limits_of(values, cells.details.get("limits"), scaling)
    digits = {"is_whole": False, "decimals": decimals_of(cells)}
    return {"scaling": scaling, "origin": 0.0, "step": 1, "limits": limits} | digits


def fit_integer(cells: Cells) -> State:
    """Describe a column of whole numbers: its transformation, unit and limits."""
    values = cells.known_values
    step = step_of(values, cells.details["unit"]) if cells.form == "duration" else 1
    # A transformation is that of the values, not of their distance to the origin, if floats can
    # hold them.
    are_small = float(np.max(np.abs(values))) < MAX_RANGE
    origin = 0 if are_small else origin_of(values, step)
    scaling = fit_scaling(steps_from(values, origin, step), exact=True)
    limits = limits_of(values, cells.details.get("limits", (-INT64.max, INT64.max)), scaling)
    digits = {"is_whole": True, "decimals": None}
    return {"scaling": scaling, "origin": origin, "step": step, "limits": limits} | digits


def encode_number(state: State, cells: Cells) -> np.ndarray:
    """Standardize numbers, (n, 1)."""
    steps = steps_from(cells.values, state["origin"], state["step"])
    return scale(state["scaling"], steps)[:, None]


def decode_number(state: State, codes: np.ndarray) -> np.ndarray:
    """Numbers within the limits of the column, (n,)."""
    values = unscale(state["scaling"], codes[:, 0])
    if state["is_whole"]:
        return whole_numbers(np.rint(values), state["step"], state["origin"], state["limits"])
    if state["decimals"] is not None:
        values = rounded(values, state["decimals"])
    return np.clip(values, *state["limits"])


def names_of_number(state: State, cells: Cells) -> list[str]:
    """Return the one name, which is that of the column."""
    return [""]


def steps_from(values: np.ndarray, origin: Any, step: int) -> np.ndarray:
    """Count steps from the origin, as floats; exactly, unless a difference overflows."""
    if values.dtype.kind == "i":
        furthest = max(int(values.max()) - origin, origin - int(values.min()))
        values = values.astype(np.float64) if furthest > INT64.max else values
    return (values - origin) / step


def whole_numbers(steps: np.ndarray, step: int, origin: Any, limits: Any) -> np.ndarray:
    """Whole numbers, origin + step * steps, within limits."""
    low, high = limits
    if isinstance(origin, float) or low < INT64.min or high > INT64.max:
        return np.clip(origin + step * steps, float_inside(low, 1), float_inside(high, -1))
    # Integers would overflow before they are clipped.
    first = float_inside(max(-((origin - low) // step), INT64.min), towards=1)
    last = float_inside(min((high - origin) // step, INT64.max), towards=-1)
    return np.clip(origin + step * np.clip(steps, first, last).astype(np.int64), low, high)


def float_inside(number: Any, towards: int) -> float:
    """Float next to a whole number, not below it (1) or not above it (-1)."""
    nearest = float(number)
    is_inside = (int(nearest) - int(number)) * towards >= 0
    return nearest if is_inside else float(np.nextafter(nearest, towards * np.inf))


def origin_of(values: np.ndarray, step: int) -> Any:
    """Multiple of the step near the mean, as a Python number."""
    if values.dtype.kind == "f":
        return 0.0
    low, high = int(values.min()), int(values.max())
    middle = low // 2 + high // 2 if high - low >= 2**62 else low + int(np.mean(values - low))
    return middle // step * step


def step_of(ticks: np.ndarray, unit: str) -> int:
    """Ticks of the coarsest of hour, minute, second, ... that all times are a multiple of.

    Few times may all be at full hours by chance.
    """
    second = TICKS[unit]
    steps = [3600 * second, 60 * second] if len(np.unique(ticks)) >= MIN_DISTINCT else []
    steps += [second // 10**digits for digits in (0, 3, 6) if second >= 10**digits]
    return next((step for step in steps if not np.any(ticks % step)), 1)


def limits_of(values: np.ndarray, outer: Any, scaling: State) -> tuple[Any, Any]:
    """Lowest and highest value that a column can be given back.

    A column that is never negative stays so. An extreme that many rows reach is a bound. An
    arcsinh, which is undone by an exponential function, leads at most a range beyond the rows.
    """
    low, high = values.min(), values.max()
    outer_low, outer_high = outer or (-np.finfo(np.float64).max, np.finfo(np.float64).max)
    if scaling["transformation"] == "arcsinh":
        width = float(high) - float(low)
        outer_low = max(outer_low, type(outer_low)(max(low - width, outer_low)))
        outer_high = min(outer_high, type(outer_high)(min(high + width, outer_high)))
    if is_bound(values, low):
        outer_low = low.item()
    elif low >= 0:
        outer_low = max(outer_low, 0)
    if is_bound(values, high):
        outer_high = high.item()
    return outer_low, outer_high


def is_bound(values: np.ndarray, extreme: Any) -> bool:
    """Whether many rows have this value."""
    n_there = int(np.count_nonzero(values == extreme))
    return n_there >= max(MIN_AT_BOUND, BOUND_SHARE * len(values))


def decimals_of(cells: Cells) -> int | None:
    """Digits behind the point that all values are rounded to, None if there are more than six."""
    values = cells.known_values
    if "scale" in cells.details:
        return int(cells.details["scale"])
    if len(values) < MIN_VALUES:
        return None
    dtype = cells.details.get("dtype", "float64")
    own = values.astype(dtype)
    for decimals in range(MAX_DECIMALS + 1):
        if np.array_equal(rounded(values, decimals).astype(dtype), own):
            return decimals
    return None


def rounded(values: np.ndarray, decimals: int) -> np.ndarray:
    """Numbers with so many digits behind the point, of which large floats have none."""
    have_digits = np.abs(values) < MAX_RANGE
    return np.where(have_digits, np.round(np.where(have_digits, values, 0.0), decimals), values)
