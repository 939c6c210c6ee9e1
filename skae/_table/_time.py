"""Columns of dates, datetimes and times of day: a time line, and parts of the calendar."""

from __future__ import annotations

import numpy as np
import pandas as pd

from skae._table._cells import INT64, Cells
from skae._table._number import MIN_DISTINCT, TICKS, origin_of, step_of, steps_from, whole_numbers
from skae._table._scaling import State, units_of

DAY = 86_400  # seconds
NANOSECONDS_OF_DAY = DAY * 10**9
# Monday is the first day of the week, and the first of January 1970 was a Thursday.
THURSDAY = 3
# Python's years. No calendar of the libraries is longer.
FIRST_DAY = np.datetime64("0001-01-01", "D").astype(np.int64)
LAST_DAY = np.datetime64("9999-12-31", "D").astype(np.int64)
# Days that the calendar may move a time, and time zones.
MARGIN = 5
NAMES = {"day": "time_of_day", "week": "weekday", "year": "day_of_year"}


def fit_time_line(cells: Cells) -> State:
    """Describe a column of dates or datetimes.

    The time line is standardized. A cycle of the calendar (day, week, year) that is the same in all
    rows is noted, and one that varies is encoded, if the column is longer than it.
    """
    ticks, unit, zone = cells.known_values, cells.details["unit"], cells.details["zone"]
    day = 1 if unit == "D" else DAY * TICKS[unit]
    step = 1 if unit == "D" else step_of(ticks, unit)
    state: State = {"unit": unit, "zone": zone, "day": day, "step": step}
    state["origin"] = origin_of(ticks, step)
    lines = steps_from(ticks, state["origin"], step)
    state |= units_of(lines, exact=True)
    parts = calendar(state, ticks)
    length = (int(ticks.max()) - int(ticks.min())) / day
    lengths = {"day": 1, "week": 7, "year": 366}
    varies = {name: bool(np.ptp(part) > 0.0) for name, part in parts.items()}
    state["cycles"] = [name for name in NAMES if varies[name] and length > lengths[name]]
    is_long = len(np.unique(ticks)) >= MIN_DISTINCT
    fixed = [name for name in ("day", "week") if is_long and not varies[name]]
    state["fixed"] = {name: float(parts[name][0]) for name in fixed}
    state["limits"] = limits_of_ticks(ticks, unit, day)
    return state


def encode_time_line(state: State, cells: Cells) -> np.ndarray:
    """Time line, and sine and cosine of each cycle, (n, 1 + 2 * n_cycles)."""
    lines = steps_from(cells.values, state["origin"], state["step"])
    line = (lines - state["center"]) / state["scale"]
    parts = calendar(state, cells.values)
    angles = [2.0 * np.pi * parts[name] for name in state["cycles"]]
    return np.column_stack([line, *(wave(angle) for angle in angles for wave in (np.sin, np.cos))])


def decode_time_line(state: State, codes: np.ndarray) -> np.ndarray:
    """Ticks near the time line, at the encoded or fixed time of day and day of the week, (n,).

    A number that is accurate enough for the year is not for the hour: these come from their own
    codes. The day of the year does not: it is the time line's.
    """
    steps = np.rint(codes[:, 0] * state["scale"] + state["center"])
    low, high = state["limits"]
    ticks = whole_numbers(steps, state["step"], state["origin"], (low, high))
    wanted = {name: np.full(len(codes), part) for name, part in state["fixed"].items()}
    for i, name in enumerate(state["cycles"]):
        wanted[name] = np.arctan2(codes[:, 1 + 2 * i], codes[:, 2 + 2 * i]) / (2.0 * np.pi)
    # The day of the week is that of the right time of day, and a change of the clock between both
    # takes another look at the time of day.
    for name in ("day", "week", "day"):
        if name in wanted and (name != "day" or state["unit"] != "D"):
            ticks = moved(state, ticks, name, wanted[name])
    margin = MARGIN * state["day"]
    return np.clip(ticks, max(low - margin, INT64.min + 1), min(high + margin, INT64.max))


def names_of_time_line(state: State, cells: Cells) -> list[str]:
    """Names of the time line and of the parts."""
    return ["", *(f"{NAMES[name]}_{wave}" for name in state["cycles"] for wave in ("sin", "cos"))]


def moved(state: State, ticks: np.ndarray, name: str, wanted: np.ndarray) -> np.ndarray:
    """Ticks moved by less than half a cycle to the wanted part of it."""
    turn = wanted - calendar(state, ticks)[name]
    turn -= np.rint(turn)
    if name == "week":
        return ticks + state["day"] * np.rint(7 * turn).astype(np.int64)
    step = state["step"]
    return ticks + step * np.rint(turn * state["day"] / step).astype(np.int64)


def calendar(state: State, ticks: np.ndarray) -> dict[str, np.ndarray]:
    """Parts of the day, the week and the year that have passed, each from 0 to 1."""
    local = local_ticks(ticks, state["unit"], state["zone"])
    days, in_day = np.divmod(local, state["day"])
    years = days.view("M8[D]").astype("M8[Y]")
    start = years.astype("M8[D]").view(np.int64)
    length = (years + 1).astype("M8[D]").view(np.int64) - start
    return {
        "day": in_day / state["day"],
        "week": (days + THURSDAY) % 7 / 7,
        "year": (days - start) / length,
    }


def local_ticks(ticks: np.ndarray, unit: str, zone: str | None) -> np.ndarray:
    """Ticks that a clock at the place shows, of ticks in UTC."""
    if zone is None or zone == "UTC":
        return ticks
    utc = pd.DatetimeIndex(ticks.view(f"M8[{unit}]")).tz_localize("UTC")
    return utc.tz_convert(zone).tz_localize(None).asi8


def limits_of_ticks(ticks: np.ndarray, unit: str, day: int) -> tuple[int, int]:
    """First and last time that unit and calendars can hold, or that are there."""
    first = max(int(FIRST_DAY) * day, INT64.min) + MARGIN * day
    last = min((int(LAST_DAY) + 1) * day - 1, INT64.max) - MARGIN * day
    return min(first, int(ticks.min())), max(last, int(ticks.max()))


def fit_time(cells: Cells) -> State:
    """Describe a column of times of day."""
    return {"step": step_of(cells.known_values, "ns")}


def encode_time(state: State, cells: Cells) -> np.ndarray:
    """Sine and cosine of the time of day, (n, 2)."""
    angle = 2.0 * np.pi * (cells.values / NANOSECONDS_OF_DAY)
    return np.column_stack([np.sin(angle), np.cos(angle)])


def decode_time(state: State, codes: np.ndarray) -> np.ndarray:
    """Nanoseconds since midnight of the direction, (n,)."""
    turn = np.arctan2(codes[:, 0], codes[:, 1]) / (2.0 * np.pi)
    ticks = np.rint(turn * NANOSECONDS_OF_DAY / state["step"]).astype(np.int64) * state["step"]
    return ticks % NANOSECONDS_OF_DAY


def names_of_time(state: State, cells: Cells) -> list[str]:
    """Names of the two columns."""
    return ["sin", "cos"]
