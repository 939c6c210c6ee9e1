"""How likely are unseen rows under VAETransformer, next to scikit-learn's densities?

Log-densities of held-out rows in nats, on standardized tables: those that scikit-learn bundles
and, with ``--data``, those of ADBench (its ``.npz`` files in one folder). Everything is fitted to
the training rows alone; columns that are constant there are left out. Against

* PCA and FactorAnalysis with as many components, a quarter of the columns;
* GaussianMixture with full covariances, of as many normal distributions as the Bayesian
  information criterion of the training rows chooses;
* KernelDensity, whose bandwidth cross-validation on the training rows chooses.

The figures of VAETransformer are lower bounds of the log-density, those of the others exact.

Two figures are printed for each model and table: the mean over the rows, which is what `score`
gives, and the median over the rows of the difference to PCA. A standardized table may hold cells
at a hundred standard deviations. Under any normal noise such a row has a log-density of minus some
ten thousand nats, and alone decides the mean.

    python benchmarks/density.py --data DIR
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import describe_environment, print_environment, read_tables, write_json
from joblib import Parallel, delayed
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KernelDensity
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from skae import VAETransformer

BANDWIDTHS = np.geomspace(0.05, 3.0, 12)
MIXTURE_SIZES = (1, 2, 4, 8, 16)
# Many columns have few distinct values, and the density of a mixture that shrinks onto them has no
# bound. The covariances get this much on the diagonal, a thousandth of the variance of a column.
REG_COVAR = 1e-3
N_IMPORTANCE_SAMPLES = 100
# Nats by which two models count as equal: the float32 of training is worth less than that.
TOLERANCE = 0.01


# Each of the following takes training rows, the length of the code and a seed, and returns a fitted
# model with `score_samples`.


def fit_vae(X, n_components, seed, **parameters):
    return VAETransformer(n_components, random_state=seed, **parameters).fit(X)


def fit_gaussian_vae(X, n_components, seed):
    return fit_vae(X, n_components, seed, loss="gaussian")


def fit_pca(X, n_components, seed):
    return PCA(n_components, svd_solver="full").fit(X)


def fit_factor_analysis(X, n_components, seed):
    return FactorAnalysis(n_components, svd_method="lapack").fit(X)


def fit_mixture(X, n_components, seed):
    candidates = [
        GaussianMixture(size, reg_covar=REG_COVAR, random_state=seed).fit(X)
        for size in MIXTURE_SIZES
        if size <= len(X) / 10
    ]
    return min(candidates, key=lambda mixture: mixture.bic(X))


def fit_kernel_density(X, n_components, seed):
    search = GridSearchCV(KernelDensity(), {"bandwidth": BANDWIDTHS}, cv=3)
    return search.fit(X).best_estimator_


MODELS = {
    "VAE": fit_vae,
    "VAE, loss='gaussian'": fit_gaussian_vae,
    "PCA": fit_pca,
    "FactorAnalysis": fit_factor_analysis,
    "GaussianMixture": fit_mixture,
    "KernelDensity": fit_kernel_density,
}
SAMPLED = f"VAE, {N_IMPORTANCE_SAMPLES} samples"


def compare(name: str, X: np.ndarray, seed: int) -> dict[str, Any] | None:
    """Densities of one split of one table; None if that of PCA does not exist."""
    torch.set_num_threads(1)
    train, test = train_test_split(X, test_size=0.3, random_state=seed)
    varies = train.std(axis=0) > 0
    scaler = StandardScaler().fit(train[:, varies])
    train, test = scaler.transform(train[:, varies]), scaler.transform(test[:, varies])
    n_components = max(1, round(train.shape[1] / 4))
    if fit_pca(train, n_components, seed).noise_variance_ < 1e-10:
        return None

    densities, seconds = {}, {}
    with warnings.catch_warnings():
        # What has not converged is reported as it is.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for label, fit in MODELS.items():
            start = time.perf_counter()
            model = fit(train, n_components, seed)
            seconds[label] = time.perf_counter() - start
            densities[label] = model.score_samples(test)
            if label == "VAE":
                model.set_params(n_importance_samples=N_IMPORTANCE_SAMPLES)
                densities[SAMPLED] = model.score_samples(test)
    return {
        "table": name,
        "rows": len(X),
        "columns": train.shape[1],
        "components": n_components,
        "seed": seed,
        "mean": {label: float(np.mean(rows)) for label, rows in densities.items()},
        "median difference": {
            label: float(np.median(rows - densities["PCA"])) for label, rows in densities.items()
        },
        "lowest difference": {
            label: float(np.min(rows - densities["PCA"])) for label, rows in densities.items()
        },
        "seconds": seconds,
    }


def per_table(rows: list[dict[str, Any]], quantity: str) -> dict[str, dict[str, float]]:
    """Mean over the splits of a quantity of each table and model."""
    tables: dict[str, list[dict[str, float]]] = {}
    for row in rows:
        tables.setdefault(row["table"], []).append(row[quantity])
    return {
        name: {label: float(np.mean([split[label] for split in splits])) for label in splits[0]}
        for name, splits in tables.items()
    }


def print_tables(rows: list[dict[str, Any]]) -> None:
    """Print a line for each table: means, then medians of the difference to PCA."""
    shapes = {row["table"]: (row["rows"], row["columns"], row["components"]) for row in rows}
    labels = list(rows[0]["mean"])
    for quantity, title in {
        "mean": "log-density of a held-out row in nats, mean over the rows and the splits",
        "median difference": "median over the rows of the difference to PCA",
        "lowest difference": "lowest difference to PCA of any row",
    }.items():
        print(f"\n{title}")
        print(f"{'table':<20}{'rows':>6}{'cols':>6}{'code':>6}", *(f"{m:>20}" for m in labels))
        for name, values in per_table(rows, quantity).items():
            print(f"{name:<20}{shapes[name][0]:>6}{shapes[name][1]:>6}{shapes[name][2]:>6}",
                  *(f"{values[label]:>20.2f}" for label in labels))  # fmt: skip


def summarize(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Count the tables on which a model is at or above PCA, in each half and in all."""
    means, medians = per_table(rows, "mean"), per_table(rows, "median difference")
    names = list(means)
    halves = {"first half": names[::2], "second half": names[1::2], "all": names}
    summary = {}
    for half, members in halves.items():
        for label in means[names[0]]:
            differences = [means[name][label] - means[name]["PCA"] for name in members]
            summary[f"{half}: {label}"] = {
                "at or above PCA in the mean": sum(d >= -TOLERANCE for d in differences),
                "in the median": sum(medians[name][label] >= -TOLERANCE for name in members),
                "of tables": len(members),
                "median difference of the means": float(np.median(differences)),
                "median of the medians": float(np.median([medians[n][label] for n in members])),
            }
    return summary


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of ADBench's .npz files")
    parser.add_argument("--seeds", type=int, default=3, help="splits of each table")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=3000, help="rows of a table at most")
    parser.add_argument("--columns", type=int, default=200, help="leave out tables with more")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    arguments = parser.parse_args()

    environment = describe_environment(["numpy", "scikit-learn", "torch"])
    print_environment(environment)
    tables = list(read_tables(arguments.data, arguments.rows))
    wide = [name for name, X in tables if X.shape[1] > arguments.columns]
    tasks = [
        delayed(compare)(name, X, seed)
        for name, X in tables
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        if name not in wide
    ]
    results = Parallel(n_jobs=arguments.jobs, return_as="generator")(tasks)
    rows = [row for row in tqdm(results, total=len(tasks), unit="split") if row is not None]
    print_tables(rows)
    summary = summarize(rows)
    print()
    for label, figures in summary.items():
        print(f"{label:<36}", *(f"{key} {value:.4g}" for key, value in figures.items()), sep="  ")
    compared = {row["table"] for row in rows}
    left_out = [name for name, _ in tables if name not in compared]
    print("left out, too wide or reconstructed exactly by PCA:", *left_out)
    write_json(
        arguments.json,
        {"environment": environment, "rows": rows, "summary": summary, "left out": left_out},
    )


if __name__ == "__main__":
    main()
