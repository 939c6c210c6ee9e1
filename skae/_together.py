"""A fit by many processes: what they have to have in common, and their rows put together."""

from __future__ import annotations

from typing import Any

import numpy as np

from skae._checkpoint import plain
from skae._completion import Completion, complete_rows, has_gaps
from skae._processes import Processes
from skae._rows import Rows
from skae._shared import share
from skae._training import Progress

Tables = tuple[Any, Any, np.ndarray | None]

# What each process may have as it likes.
OWN_PARAMETERS = ("device", "random_state", "verbose")


def check_processes(
    estimator: Any, processes: Processes, tables: Tables, own: Tables | None, progress: Progress
) -> None:
    """Raise a ValueError for the first thing in which processes differ that fit one model.

    Parameters
    ----------
    estimator : BaseAutoencoder
        It knows its columns.
    processes : Processes
    tables, own : tuple
        Rows, clean rows and weights to train on, and those for early stopping.
    progress : Progress
        What went before.
    """
    common: dict[str, Any] = {"the estimator": type(estimator).__name__}
    for name, value in estimator.get_params(deep=False).items():
        if name not in OWN_PARAMETERS:
            common[name] = plain(value)
    common["number of columns"] = estimator.n_features_in_
    names = getattr(estimator, "feature_names_in_", None)
    for place in range(estimator.n_features_in_):
        common[f"column {place}"] = None if names is None else str(names[place])
    common["number of epochs before"] = len(progress.loss_curve)
    common["X_val is given"] = own is not None
    for suffix, (_, clean, weights) in {"": tables, **({"_val": own} if own else {})}.items():
        common[f"X_clean{suffix} is given"] = clean is not None
        common[f"sample_weight{suffix} is given"] = weights is not None
    processes.check_same(common)
    if has_gaps(*tables[:2], *(own or ())[:2]):
        raise ValueError(
            "X has unknown cells (NaN), which data_parallel does not train on. Fill them first, "
            "for example by PCA, whose fit takes them and whose impute fills them."
        )


def rows_of_all(completion: Completion | None, tables: Tables, processes: Processes | None) -> Rows:
    """Turn validated tables into rows, those of all processes if there are others."""
    if processes is None:
        return complete_rows(completion, *tables)
    X, X_clean, weights = tables
    return share(complete_rows(None, X, X_clean, None), weights, processes)


def seeds_of_all(seeds: tuple[int, ...], processes: Processes | None) -> tuple[int, ...]:
    """Give the seeds of the first process."""
    return seeds if processes is None else processes.gather(seeds)[0]
