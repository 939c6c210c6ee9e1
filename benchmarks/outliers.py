"""How well does the default outlier detector tell outliers from normal rows, next to others?

Tables of ADBench (Han et al. 2022; its ``.npz`` files in one folder), in three protocols:

* one-class: that of Livernoche et al. ("On diffusion modeling for anomaly detection", ICLR 2024).
  Tables of less than 1,000 rows are filled up to 1,000 by drawing rows with replacement; of more
  than `--max-rows` (there 50,000) so many are drawn without. The first half of the normal rows, in
  the order of the file, is for fit; the others and all outliers are scored.
* distinct: the same without the two things that a new table does not have. Rows that occur twice
  are there once, and a random half of the normal rows is for fit.
* contaminated: all rows are for fit and are scored, as by Huang et al. ("EntropyStop", KDD 2024).

Everyone is given standardized columns. The tables are dealt into two halves, in turns; the default
of `AutoencoderOutlierDetector` was chosen on the first one. It is told whether the rows of fit are
normal (``contamination="auto"``) or not (0.1), and fitted to all of them, without calibration rows,
which scores do not need. PyOD's models are left out if it is not installed.
Results go to a file line by line, and what is there already is not run again.

    python benchmarks/outliers.py --data DIR --results outliers.csv
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _common import describe_environment, print_environment
from joblib import Parallel, delayed
from sklearn.ensemble import ExtraTreesRegressor, IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from skae import (
    PCA,
    AutoencoderOutlierDetector,
    AutoencoderTransformer,
    DenoisingAutoencoder,
    VAETransformer,
)

PROTOCOLS = ("one-class", "distinct", "contaminated")
MIN_ROWS = 1000
# Published columns that stand beside ours.
PUBLISHED = ("kNN", "DTE-NP", "DTE-C", "ICL", "LOF", "IForest", "VAE", "PCA", "ECOD")

DEFAULT = "AutoencoderOutlierDetector"

# A fit takes training rows and a seed, and returns a function of rows that is higher for outliers.
Fit = Callable[[np.ndarray, int], Callable[[np.ndarray], np.ndarray]]


def fit_detector(
    contamination: float | str, X: np.ndarray, seed: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Fit the default of skae."""
    detector = AutoencoderOutlierDetector(
        contamination=contamination, calibration_fraction=None, random_state=seed
    ).fit(X)
    return lambda X: -detector.score_samples(X)


def fit_model(
    model: Callable[..., Any], parameters: dict[str, Any], X: np.ndarray, seed: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Fit an estimator of skae or scikit-learn that has `score_samples`."""
    if "random_state" in model().get_params():
        parameters = parameters | {"random_state": seed}
    fitted = model(**parameters).fit(X)
    return lambda X: -fitted.score_samples(X)


def fit_pca_residual(X: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Squared residual of the components that keep 90 % of the variance."""
    pca = PCA(min(0.9, 1 - 1e-9) if X.shape[1] > 1 else 1).fit(X)
    return lambda X: np.square(X - pca.inverse_transform(pca.transform(X))).sum(axis=1)


def fit_neighbors(X: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Distance to the fifth neighbour."""
    neighbors = NearestNeighbors(n_neighbors=5).fit(X)
    return lambda X: neighbors.kneighbors(X)[0][:, -1]


def fit_mean_of_neighbors(X: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Mean distance to five neighbours, to which the non-parametric DTE comes down."""
    neighbors = NearestNeighbors(n_neighbors=5).fit(X)
    return lambda X: neighbors.kneighbors(X)[0].mean(axis=1)


def fit_forests(X: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Squared errors of forests that predict each column from the others, standardized."""
    if X.shape[1] == 1:
        return lambda X: np.square(X).sum(axis=1)
    forests, variances = [], []
    for column in range(X.shape[1]):
        others = np.delete(X, column, axis=1)
        forest = ExtraTreesRegressor(
            n_estimators=40, min_samples_leaf=2, bootstrap=True, oob_score=True, random_state=seed
        ).fit(others, X[:, column])
        forests.append(forest)
        variances.append(np.square(X[:, column] - forest.oob_prediction_).mean() + 1e-6)

    def score(X: np.ndarray) -> np.ndarray:
        predicted = np.column_stack(
            [forest.predict(np.delete(X, column, axis=1)) for column, forest in enumerate(forests)]
        )
        return (np.square(X - predicted) / variances).mean(axis=1)

    return score


def fit_pyod(
    module: str, name: str, seeded: bool, X: np.ndarray, seed: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Fit a model of PyOD as it comes."""
    model_class = getattr(importlib.import_module(f"pyod.models.{module}"), name)
    parameters = {"random_state": seed, "verbose": 0} if seeded else {}
    taken = inspect.signature(model_class).parameters
    parameters = {name: value for name, value in parameters.items() if name in taken}
    return model_class(**parameters).fit(X).decision_function


CONTESTANTS: dict[str, Fit] = {
    DEFAULT: partial(fit_detector, "auto"),
    "AutoencoderTransformer": partial(fit_model, AutoencoderTransformer, {}),
    "DenoisingAutoencoder": partial(fit_model, DenoisingAutoencoder, {}),
    "VAETransformer": partial(fit_model, VAETransformer, {}),
    "skae PCA, density": partial(fit_model, PCA, {"n_components": 0.9}),
    "skae PCA, residual": fit_pca_residual,
    "k nearest neighbours": fit_neighbors,
    "mean of five neighbours": fit_mean_of_neighbors,
    "forests by column": fit_forests,
    "LocalOutlierFactor": partial(
        fit_model, LocalOutlierFactor, {"n_neighbors": 20, "novelty": True}
    ),
    "IsolationForest": partial(fit_model, IsolationForest, {}),
}
PYOD: dict[str, Fit] = {
    "PyOD ECOD": partial(fit_pyod, "ecod", "ECOD", False),
    "PyOD PCA": partial(fit_pyod, "pca", "PCA", False),
    "PyOD INNE": partial(fit_pyod, "inne", "INNE", True),
    "PyOD HBOS": partial(fit_pyod, "hbos", "HBOS", False),
    "PyOD GMM": partial(fit_pyod, "gmm", "GMM", True),
    "PyOD AutoEncoder": partial(fit_pyod, "auto_encoder", "AutoEncoder", True),
    "PyOD VAE": partial(fit_pyod, "vae", "VAE", True),
}


def table_names(folder: Path) -> list[str]:
    """Names of the tables in the order of their numbers."""
    return sorted((path.stem for path in folder.glob("*.npz")), key=lambda n: int(n.split("_")[0]))


def read_table(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    table = np.load(folder / f"{name}.npz")
    return table["X"].astype(np.float64), table["y"].astype(int)


def split(
    X: np.ndarray, y: np.ndarray, protocol: str, seed: int, max_rows: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows for fit, rows to score, and whether these are outliers; columns standardized."""
    rng = np.random.RandomState(seed)
    if protocol == "distinct":
        _, first = np.unique(np.column_stack([X, y]), axis=0, return_index=True)
        X, y = X[np.sort(first)], y[np.sort(first)]
    if protocol == "one-class" and len(y) < MIN_ROWS:
        drawn = rng.choice(len(y), MIN_ROWS, replace=True)
        X, y = X[drawn], y[drawn]
    if len(y) > max_rows:
        drawn = rng.choice(len(y), max_rows, replace=False)
        X, y = X[drawn], y[drawn]
    normal, outliers = np.flatnonzero(y == 0), np.flatnonzero(y == 1)
    if protocol == "distinct":
        normal = rng.permutation(normal)
    if protocol == "contaminated":
        fitted, scored = np.arange(len(y)), np.arange(len(y))
    else:
        half = round(len(normal) / 2)
        fitted, scored = normal[:half], np.concatenate([normal[half:], outliers])
    scaler = StandardScaler().fit(X[fitted])
    return scaler.transform(X[fitted]), scaler.transform(X[scored]), y[scored]


def run(
    folder: Path, name: str, protocol: str, seed: int, max_rows: int, contestants: dict[str, Fit]
) -> list[dict[str, Any]]:
    """Let the contestants score one split of one table."""
    torch.set_num_threads(1)
    X, X_scored, is_outlier = split(*read_table(folder, name), protocol, seed, max_rows)
    if not 0 < is_outlier.sum() < len(is_outlier):
        return []
    rows = []
    if protocol == "contaminated" and DEFAULT in contestants:
        contestants = contestants | {DEFAULT: partial(fit_detector, 0.1)}
    for contestant, fit in contestants.items():
        start = time.perf_counter()
        score = fit(X, seed)
        fitted = time.perf_counter()
        scores = np.nan_to_num(score(X_scored))
        scored = time.perf_counter()
        rows.append(
            {
                "protocol": protocol,
                "table": name,
                "seed": seed,
                "contestant": contestant,
                "AUROC": 100 * roc_auc_score(is_outlier, scores),
                "AUCPR": 100 * average_precision_score(is_outlier, scores),
                "fit seconds": fitted - start,
                "score seconds": scored - fitted,
                "rows": len(X),
                "columns": X.shape[1],
            }
        )
    return rows


def tasks_left(
    arguments: argparse.Namespace, names: list[str], contestants: dict[str, Fit]
) -> Iterator[Any]:
    """Yield what is not among the results yet; every table once before any of them twice."""
    done: set[tuple[Any, ...]] = set()
    if arguments.results.exists():
        keys = ["protocol", "table", "seed", "contestant"]
        done = set(pd.read_csv(arguments.results)[keys].itertuples(index=False, name=None))
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for protocol in arguments.protocols:
            for name in names:
                left = {
                    contestant: fit
                    for contestant, fit in contestants.items()
                    if (protocol, name, seed, contestant) not in done
                }
                if left:
                    yield delayed(run)(
                        arguments.data, name, protocol, seed, arguments.max_rows, left
                    )


def summarize(
    results: pd.DataFrame, protocol: str, names: list[str], rows_of: dict[str, int]
) -> pd.DataFrame:
    """One line for each contestant; means over the tables of the mean over the seeds."""
    results = results[results["protocol"] == protocol]
    auroc = results.pivot_table(index="table", columns="contestant", values="AUROC")
    auroc = auroc.loc[[name for name in names if name in auroc.index]]
    large = [name for name in auroc.index if rows_of[name] >= MIN_ROWS]
    chosen = [name for name in names[::2] if name in auroc.index]
    confirmed = [name for name in names[1::2] if name in auroc.index]
    others = results.groupby(["contestant", "table"])[["AUCPR", "fit seconds", "score seconds"]]
    others = others.mean().groupby("contestant").mean()
    # Over the tables that all of those have, so that a partial run does not mislead.
    complete = auroc.dropna(axis=1)
    per_seed = results.groupby(["contestant", "seed"])["AUROC"].agg(["mean", "size"])
    per_seed = per_seed[per_seed["size"] == len(auroc)]["mean"].groupby("contestant")
    summary = pd.DataFrame(
        {
            "AUROC": complete.mean(),
            "large": complete.loc[large].mean(),
            "chosen on": complete.loc[chosen].mean(),
            "confirmed on": complete.loc[confirmed].mean(),
            "rank": complete.rank(axis=1, ascending=False).mean(),
            "seeds": results.groupby("contestant")["seed"].nunique(),
            "lowest seed": per_seed.min(),
            "highest seed": per_seed.max(),
        }
    ).join(others)
    incomplete = [name for name in auroc.columns if name not in complete.columns]
    if incomplete:
        print(f"without results for every table: {', '.join(incomplete)}")
    print(f"\n{protocol}: {len(auroc)} tables, {len(large)} of {MIN_ROWS:,} rows or more")
    return summary.loc[complete.columns].sort_values("AUROC", ascending=False)


def published(folder: Path, protocol: str, names: list[str], rows_of: dict[str, int]) -> None:
    """Print what was published for the same tables."""
    keys = [name.split("_", 1)[1].lower() for name in names]
    large = [key for key, name in zip(keys, names, strict=True) if rows_of[name] >= MIN_ROWS]
    if protocol == "one-class":
        path = folder / "DTEpaper_semi_aucroc.csv"
        if path.exists():
            table = pd.read_csv(path, index_col=0)
            print("published, AUROC: all and large tables")
            for column in PUBLISHED:
                print(
                    f"  {column:<10} {table.loc[keys, column].mean():6.2f} "
                    f"{table.loc[large, column].mean():6.2f}"
                )
    if protocol == "contaminated":
        seeds = sorted(folder.glob("EntropyStop_*.csv"))
        if seeds:
            tables = [pd.read_csv(path, index_col=0)["AUC"] for path in seeds]
            means = [100 * table.loc[[f"{n}.npz" for n in names]].mean() for table in tables]
            print(f"published, AUROC: EntropyStop {np.mean(means):.2f}")


def main() -> None:
    """Run what is left and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of ADBench's .npz files")
    parser.add_argument("--results", type=Path, default=Path("outliers.csv"))
    parser.add_argument("--reference", type=Path, help="folder of published results")
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS))
    parser.add_argument("--contestants", nargs="+", help="names; all if left out")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--max-rows", type=int, default=50_000, help="rows of a table at most")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    arguments = parser.parse_args()

    packages = ["numpy", "scikit-learn", "torch"]
    contestants = dict(CONTESTANTS)
    if importlib.util.find_spec("pyod") is None:
        print("PyOD is not installed: without ECOD and PyOD's networks")
    else:
        packages.append("pyod")
        contestants |= PYOD
    if arguments.contestants:
        contestants = {name: contestants[name] for name in arguments.contestants}
    print_environment(describe_environment(packages))

    names = table_names(arguments.data)
    rows_of = {name: len(np.load(arguments.data / f"{name}.npz")["y"]) for name in names}
    tasks = list(tasks_left(arguments, names, contestants))
    finished = Parallel(n_jobs=arguments.jobs, return_as="generator_unordered")(tasks)
    for rows in tqdm(finished, total=len(tasks), unit="split"):
        frame = pd.DataFrame(rows)
        frame.to_csv(
            arguments.results, mode="a", header=not arguments.results.exists(), index=False
        )
    results = pd.read_csv(arguments.results)
    for protocol in arguments.protocols:
        if (results["protocol"] == protocol).any():
            summary = summarize(results, protocol, names, rows_of)
            print(summary.to_string(float_format="{:.2f}".format))
            if arguments.reference is not None:
                published(arguments.reference, protocol, names, rows_of)


if __name__ == "__main__":
    main()
