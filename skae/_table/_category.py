"""Columns of few values: booleans, categories, ordered categories, constants."""

from __future__ import annotations

import numpy as np

from skae._table._cells import Cells, UnsupportedColumnError
from skae._table._scaling import State

# A group of rare levels is decoded as its most frequent one. It must not be most of the column.
MAX_SHARE_OF_RARE = 0.5


def fit_boolean(cells: Cells) -> State:
    """Describe a column of two values, 0 and 1."""
    if not np.isin(cells.known_values, (0, 1)).all():
        raise UnsupportedColumnError("other values than 0 and 1, which is no boolean")
    return {"levels": np.array([0, 1])}


def encode_boolean(state: State, cells: Cells) -> np.ndarray:
    """0 and 1, (n, 1). Everything else is not known."""
    _, seen = places_of(state["levels"], cells.values)
    return np.where(seen, cells.values, np.nan)[:, None]


def decode_boolean(state: State, codes: np.ndarray) -> np.ndarray:
    """1 from a half on, (n,)."""
    return (codes[:, 0] >= 0.5).astype(np.int64)


def fit_category(cells: Cells, max_categories: int, forced: bool) -> State:
    """Give a column to each level, or one to all rare levels if there are too many.

    Parameters
    ----------
    cells : Cells
    max_categories : int
        Number of columns at most.
    forced : bool
        Whether the user wants categories, however many rows have rare ones.
    """
    levels, counts = np.unique(cells.known_values, return_counts=True)
    frequent = np.arange(len(levels))
    if len(levels) > max_categories:
        # Of equally frequent levels the first is kept.
        frequent = np.sort(np.argsort(-counts, kind="stable")[: max_categories - 1])
    rare = np.setdiff1d(np.arange(len(levels)), frequent)
    if not forced and counts[rare].sum() > MAX_SHARE_OF_RARE * counts.sum():
        raise UnsupportedColumnError(
            f"{len(levels):,} different values in {counts.sum():,} known cells, most of them rare, "
            "which is text or an identifier. Encode it first, for example by skrub.StringEncoder "
            "or, with a language model, skrub.LLMEncoder (TextEncoder before skrub 0.11)"
        )
    columns = np.full(len(levels), len(frequent))
    columns[frequent] = np.arange(len(frequent))
    given_back = levels[frequent]
    if len(rare):
        given_back = np.append(given_back, levels[rare[np.argmax(counts[rare])]])
    return {"levels": levels, "columns": columns, "given_back": given_back}


def encode_category(state: State, cells: Cells) -> np.ndarray:
    """One-hot rows, (n, n_columns)."""
    places, seen = places_of(state["levels"], cells.values)
    codes = np.zeros((len(places), len(state["given_back"])))
    codes[np.arange(len(places)), state["columns"][places]] = 1.0
    codes[~seen] = np.nan
    return codes


def decode_category(state: State, codes: np.ndarray) -> np.ndarray:
    """Level of the largest number, (n,)."""
    return state["given_back"][codes.argmax(axis=1)]


def names_of_category(state: State, cells: Cells) -> list[str]:
    """Name of each level. That of a group of rare ones is scikit-learn's."""
    names = labels(state["given_back"], cells)
    if len(state["given_back"]) < len(state["levels"]):
        names[-1] = "infrequent"
    return names


def fit_ordinal(cells: Cells, max_categories: int) -> State:
    """Give a threshold to each level but the lowest, or ranks if there are too many.

    With thresholds the levels need no distances: each code says whether the value is at least this
    level, as in an ordinal regression of binary ones [1]_.

    References
    ----------
    .. [1] Frank & Hall, "A simple approach to ordinal classification", ECML 2001.
    """
    levels, ranks = np.unique(cells.known_values, return_inverse=True)
    state: State = {"levels": levels, "by_rank": len(levels) > max_categories}
    return state | {"center": float(ranks.mean()), "scale": float(ranks.std()) or 1.0}


def encode_ordinal(state: State, cells: Cells) -> np.ndarray:
    """Thresholds that are reached, (n, n_levels - 1), or standardized ranks, (n, 1)."""
    places, seen = places_of(state["levels"], cells.values)
    if state["by_rank"]:
        codes = ((places - state["center"]) / state["scale"])[:, None]
    else:
        thresholds = np.arange(1, max(2, len(state["levels"])))
        codes = (places[:, None] >= thresholds).astype(np.float64)
    codes[~seen] = np.nan
    return codes


def decode_ordinal(state: State, codes: np.ndarray) -> np.ndarray:
    """Level above as many thresholds as are at least a half, (n,)."""
    if state["by_rank"]:
        ranks = np.rint(codes[:, 0] * state["scale"] + state["center"])
    else:
        ranks = (codes >= 0.5).sum(axis=1)
    return state["levels"][np.clip(ranks, 0, len(state["levels"]) - 1).astype(np.int64)]


def names_of_ordinal(state: State, cells: Cells) -> list[str]:
    """Names of the thresholds."""
    return [""] if state["by_rank"] else labels(state["levels"][1:], cells) or [""]


def fit_constant(cells: Cells) -> State:
    """Describe a column of one value, or of none that is known."""
    return {"levels": np.unique(cells.known_values)}


def encode_constant(state: State, cells: Cells) -> np.ndarray:
    """Zeros, (n, 1)."""
    _, seen = places_of(state["levels"], cells.values)
    return np.where(seen, 0.0, np.nan)[:, None]


def decode_constant(state: State, codes: np.ndarray) -> np.ndarray:
    """Return the one value, (n,)."""
    levels = state["levels"] if len(state["levels"]) else np.zeros(1, dtype=np.int64)
    return np.repeat(levels, len(codes))


def name_of_column(state: State, cells: Cells) -> list[str]:
    """Return the one name, which is that of the column."""
    return [""]


def places_of(levels: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of values among sorted levels, and whether they are there."""
    places = np.searchsorted(levels, values).clip(max=len(levels) - 1)
    return places, levels[places] == values


def labels(levels: np.ndarray, cells: Cells) -> list[str]:
    """Levels as part of the names of columns."""
    if cells.levels is not None:
        return [str(cells.levels[place]) for place in levels]
    return [
        f"{level:.12g}" if isinstance(level, float) else str(level) for level in levels.tolist()
    ]
