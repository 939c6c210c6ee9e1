"""The kinds of columns: which one a column is, and how each kind is encoded and decoded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from skae._table import _category, _number, _time
from skae._table._cells import FORMS, Cells, UnsupportedColumnError
from skae._table._scaling import State


class Kind(NamedTuple):
    """How the columns of a kind are encoded, by plain functions."""

    fit: Callable[[Cells, int, bool], State]
    """Cells, `max_categories` and whether the user named the kind, to what the others need."""
    encode: Callable[[State, Cells], np.ndarray]
    decode: Callable[[State, np.ndarray], np.ndarray]
    names: Callable[[State, Cells], list[str]]
    describe: Callable[[State], str]
    """Transformation in words, for `schema_`."""
    n_levels: Callable[[State], int | None] = lambda state: None


def scaling_of(state: State) -> str:
    """Name the transformation of a column of numbers."""
    return str(state["scaling"]["transformation"])


def one_hot(state: State) -> str:
    """Say whether rare levels share a column."""
    is_grouped = len(state["given_back"]) < len(state["levels"])
    return "one-hot, rare levels grouped" if is_grouped else "one-hot"


NUMBER = Kind(
    lambda cells, max_categories, forced: _number.fit_number(cells),
    _number.encode_number,
    _number.decode_number,
    _number.names_of_number,
    scaling_of,
)
WHOLE = NUMBER._replace(fit=lambda cells, max_categories, forced: _number.fit_integer(cells))
TIME_LINE = Kind(
    lambda cells, max_categories, forced: _time.fit_time_line(cells),
    _time.encode_time_line,
    _time.decode_time_line,
    _time.names_of_time_line,
    lambda state: ", ".join(["time line", *state["cycles"]]),
)
KINDS = {
    "number": NUMBER,
    "integer": WHOLE,
    "count": WHOLE,
    "boolean": Kind(
        lambda cells, max_categories, forced: _category.fit_boolean(cells),
        _category.encode_boolean,
        _category.decode_boolean,
        _category.name_of_column,
        lambda state: "0 or 1",
        lambda state: 2,
    ),
    "category": Kind(
        _category.fit_category,
        _category.encode_category,
        _category.decode_category,
        _category.names_of_category,
        one_hot,
        lambda state: len(state["given_back"]),
    ),
    "ordinal": Kind(
        lambda cells, max_categories, forced: _category.fit_ordinal(cells, max_categories),
        _category.encode_ordinal,
        _category.decode_ordinal,
        _category.names_of_ordinal,
        lambda state: "standardized ranks" if state["by_rank"] else "thresholds",
        lambda state: len(state["levels"]),
    ),
    "datetime": TIME_LINE,
    "date": TIME_LINE,
    "time": Kind(
        lambda cells, max_categories, forced: _time.fit_time(cells),
        _time.encode_time,
        _time.decode_time,
        _time.names_of_time,
        lambda state: "sine and cosine",
    ),
    "duration": WHOLE,
    "constant": Kind(
        lambda cells, max_categories, forced: _category.fit_constant(cells),
        _category.encode_constant,
        _category.decode_constant,
        _category.name_of_column,
        lambda state: "none",
    ),
}
# Kinds that the user may choose for a column of a form. The first is that of the form itself.
CHOICES = {
    "number": ("number", "integer", "count", "boolean", "category", "ordinal"),
    "integer": ("integer", "number", "count", "boolean", "category", "ordinal"),
    "boolean": ("boolean", "category", "ordinal"),
    "text": ("category",),
    "category": ("category", "ordinal"),
    "datetime": ("datetime",),
    "date": ("date",),
    "time": ("time",),
    "duration": ("duration",),
}


def kind_of(cells: Cells) -> str:
    """Kind of a column, by its type and its values."""
    distinct = np.unique(cells.known_values)
    if len(distinct) <= 1:
        return "constant"
    if cells.form == "category" and cells.details["ordered"]:
        return "ordinal"
    if cells.form in ("number", "integer") and are_whole(distinct):
        if np.array_equal(distinct, [0, 1]):
            return "boolean"
        # Counts start at none or one. Ages and years do not.
        return "count" if distinct[0] in (0, 1) else "integer"
    return CHOICES[cells.form][0]


def are_whole(values: np.ndarray) -> bool:
    """Whether numbers have no digits behind the point, and floats hold all of them."""
    if values.dtype.kind == "i":
        return True
    return bool(np.all(np.rint(values) == values) and np.abs(values).max() < _number.MAX_RANGE)


def check_choice(kind: str, cells: Cells) -> None:
    """Refuse a kind that the cells of a column cannot have."""
    values, form = cells.known_values, FORMS[cells.form]
    if kind == "constant" and len(np.unique(values)) <= 1:
        return
    if kind not in CHOICES[cells.form]:
        choices = " or ".join(CHOICES[cells.form])
        raise UnsupportedColumnError(f"{form}, which can be of kind {choices} only")
    if kind == "ordinal" and cells.form == "category" and not cells.details["sorted"]:
        raise UnsupportedColumnError("categories without an order; make them ordered first")
    if kind in ("integer", "count") and cells.form == "number" and not are_whole(values):
        raise UnsupportedColumnError("numbers that are not whole")
    if kind == "count" and values.min() < 0:
        raise UnsupportedColumnError("negative numbers, which are no counts")


def check_form(fitted: str, cells: Cells) -> None:
    """Refuse a column that holds something else than in `fit`."""
    alike: list[set[str]] = [{"number", "integer"}, {"text", "category"}]
    is_alike = any({fitted, cells.form} <= forms for forms in alike)
    if cells.known.any() and fitted not in ("unknown", cells.form) and not is_alike:
        raise UnsupportedColumnError(f"{FORMS[cells.form]} now, and {FORMS[fitted]} in fit")


def in_unit(cells: Cells, details: dict[str, Any]) -> Cells:
    """Convert times to the unit that they had in `fit`."""
    unit, wanted = cells.details.get("unit"), details.get("unit")
    if cells.form not in ("datetime", "duration") or wanted is None:
        return cells
    if (cells.details.get("zone") is None) != (details.get("zone") is None):
        raise UnsupportedColumnError("datetimes with a time zone, only in fit or only now")
    if unit == wanted:
        return cells
    ours, theirs = _number.TICKS[wanted], _number.TICKS[str(unit)]
    values = cells.values * (ours // theirs) if ours > theirs else cells.values // (theirs // ours)
    return Cells(cells.form, values, cells.known, details=details)
