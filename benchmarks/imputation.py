"""How well do PCA and autoencoders fill unknown cells, next to imputers of scikit-learn?

R2 of the hidden cells of standardized tables: 1 minus their squared error over their squared
deviation from zero, which is the mean. The tables are those that scikit-learn bundles and, with
``--data``, those of ADBench (its ``.npz`` files in one folder), of at most ``--rows`` random rows.
Wider tables than ``--columns`` are left out. Cells are scaled by what is known of their column.

``--mechanism`` says which cells are hidden: any ("random"); those of rows in which a random half of
the columns, of which nothing is hidden, is large on average ("given others"); or large ones ("own
value"). ``--part first`` are the tables that choices were made on, every second one, and ``--part
second`` the others.

    python benchmarks/imputation.py --data DIR
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import describe_environment, read_tables
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer
from sklearn.preprocessing import StandardScaler

from skae import PCA, AutoencoderTransformer


def impute_by_pca(gaps: np.ndarray, n_components: int | None) -> np.ndarray:
    return PCA(n_components).fit(gaps).impute(gaps)


def impute_by_forests(gaps: np.ndarray) -> np.ndarray:
    forest = ExtraTreesRegressor(n_jobs=1, random_state=0)
    return IterativeImputer(forest, max_iter=5, random_state=0).fit_transform(gaps)


def impute_by_autoencoder(gaps: np.ndarray) -> np.ndarray:
    return AutoencoderTransformer(random_state=0).fit(gaps).impute(gaps)


CONTESTANTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "AutoencoderTransformer": impute_by_autoencoder,
    "PCA": lambda gaps: impute_by_pca(gaps, None),
    "PCA, a quarter of the components": lambda gaps: impute_by_pca(
        gaps, max(1, round(gaps.shape[1] / 4))
    ),
    "KNNImputer": lambda gaps: KNNImputer().fit_transform(gaps),
    "IterativeImputer": lambda gaps: IterativeImputer(random_state=0).fit_transform(gaps),
    "IterativeImputer, forests": impute_by_forests,
}


def hide(X: np.ndarray, share: float, mechanism: str, rng: np.random.Generator) -> np.ndarray:
    """Choose cells to hide, a share of all (of half of the columns, given the others)."""
    uniform = rng.random(X.shape)
    if mechanism == "random":
        return uniform < share
    z = StandardScaler().fit_transform(X)
    if mechanism == "own value":
        place = z
    else:
        told = rng.permutation(X.shape[1]) < max(1, X.shape[1] // 2)
        place = np.where(told, np.inf, z[:, told].mean(axis=1, keepdims=True))
    # Twice the share where it is large, and a tenth of it elsewhere.
    is_large = place > np.median(place, axis=0)
    return uniform < np.where(np.isinf(place), 0.0, share * np.where(is_large, 1.9, 0.1))


def compare(
    name: str, X: np.ndarray, share: float, mechanism: str, seed: int, labels: list[str]
) -> dict[str, Any]:
    """R2 and seconds of every contestant on one table."""
    hidden = hide(X, share, mechanism, np.random.default_rng(seed))
    scaler = StandardScaler().fit(np.where(hidden, np.nan, X))
    X = scaler.transform(X)
    gaps = np.where(hidden, np.nan, X)
    row: dict[str, Any] = {"table": name, "rows": len(X), "columns": X.shape[1], "seed": seed}
    for label in labels:
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            filled = CONTESTANTS[label](gaps)
        row[f"{label}: seconds"] = time.perf_counter() - start
        error = np.square(filled - X)[hidden].sum() / np.square(X)[hidden].sum()
        row[label] = 1.0 - float(error)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of ADBench's .npz files")
    parser.add_argument("--tables", nargs="*", help="names of some tables; all of them if left out")
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--columns", type=int, default=40)
    parser.add_argument("--share", type=float, default=0.3, help="share of the cells to hide")
    parser.add_argument(
        "--mechanism", choices=("random", "given others", "own value"), default="random"
    )
    parser.add_argument("--part", choices=("first", "second", "all"), default="all")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--without-forests", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(describe_environment(["numpy", "scikit-learn", "torch"]))
    labels = [
        label
        for label in CONTESTANTS
        if not (arguments.without_forests and label.endswith("forests"))
    ]
    rows = []
    tables = [
        (name, X)
        for name, X in read_tables(arguments.data, arguments.rows)
        if 2 <= X.shape[1] <= arguments.columns
    ]
    parts = {"first": tables[::2], "second": tables[1::2], "all": tables}
    for name, X in parts[arguments.part]:
        if arguments.tables is not None and name not in arguments.tables:
            continue
        for seed in range(arguments.seeds):
            share, mechanism = arguments.share, arguments.mechanism
            rows.append(compare(name, X, share, mechanism, seed, labels))
            scores = "  ".join(f"{label} {rows[-1][label]:.3f}" for label in labels)
            print(f"{name:20} {len(X):5} x {X.shape[1]:3}  {scores}", flush=True)
    print(f"\nR2 of the hidden cells, mean of {len(rows)} runs, and seconds")
    for label in labels:
        seconds = np.mean([row[f"{label}: seconds"] for row in rows])
        print(f"{label:35} {np.mean([row[label] for row in rows]):.3f} {seconds:8.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
