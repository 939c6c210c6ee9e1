"""How much better than PCA is the default autoencoder at equal length of the code?

Held-out squared error over that of PCA with as many components, on standardized tables: those
that scikit-learn bundles and, with ``--data``, those of ADBench (its ``.npz`` files in one folder).
A code has a quarter as many components as the table has columns. The default configuration stands
beside the same network without the anchor. A ratio of 1 means that PCA was not improved on.

The tables are dealt into two halves, in turns. The defaults were chosen on the first one.

    python benchmarks/anchored.py --data DIR
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import describe_environment, read_tables
from joblib import Parallel, delayed
from sklearn.decomposition import PCA
from sklearn.metrics import mean_squared_error
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from skae import AutoencoderTransformer

MODELS: dict[str, dict[str, Any]] = {
    "default": {},
    "plain": {"init": "random"},
    "plain, no early stopping": {"init": "random", "early_stopping": False},
}


def compare(name: str, X: np.ndarray, seed: int) -> dict[str, Any] | None:
    """Errors over that of PCA for one split of one table; None if PCA reconstructs exactly."""
    torch.set_num_threads(1)
    train, test = train_test_split(X, test_size=0.3, random_state=seed)
    scaler = StandardScaler().fit(train)
    train, test = scaler.transform(train), scaler.transform(test)
    n_components = max(1, round(X.shape[1] / 4))
    pca = PCA(n_components, svd_solver="full").fit(train)
    error_of_pca = mean_squared_error(test, pca.inverse_transform(pca.transform(test)))
    if error_of_pca < 1e-10:
        return None
    row = {"table": name, "rows": len(X), "columns": X.shape[1], "components": n_components}
    row |= {"seed": seed, "PCA": error_of_pca}
    for label, parameters in MODELS.items():
        start = time.perf_counter()
        model = AutoencoderTransformer(n_components, random_state=seed, **parameters).fit(train)
        row[f"{label}: seconds"] = time.perf_counter() - start
        row[label] = mean_squared_error(test, model.reconstruct(test)) / error_of_pca
    return row


def geometric_mean(values: list[float]) -> float:
    """Mean for ratios."""
    return float(np.exp(np.mean(np.log(values))))


def print_table(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Print one line for each table, then the summary of each half and of all."""
    names = list(dict.fromkeys(row["table"] for row in rows))
    print(f"{'table':<22}{'rows':>6}{'cols':>6}{'code':>6}", *(f"{m:>26}" for m in MODELS))
    per_table: dict[str, dict[str, float]] = {}
    for name in names:
        mine = [row for row in rows if row["table"] == name]
        per_table[name] = {model: geometric_mean([row[model] for row in mine]) for model in MODELS}
        first = mine[0]
        print(
            f"{name:<22}{first['rows']:>6}{first['columns']:>6}{first['components']:>6}",
            *(f"{per_table[name][model]:>26.3f}" for model in MODELS),
        )
    summary = {}
    halves = {"chosen on": names[::2], "confirmed on": names[1::2], "all": names}
    for half, members in halves.items():
        for model in MODELS:
            ratios = [per_table[name][model] for name in members]
            summary[f"{half}: {model}"] = {
                "geometric mean": geometric_mean(ratios),
                "largest": max(ratios),
                "above 1.01": sum(ratio > 1.01 for ratio in ratios),
                "tables": len(ratios),
            }
    for label, figures in summary.items():
        print(f"{label:<40}", *(f"{key} {value:.3f}" for key, value in figures.items()), sep="  ")
    single = [row[model] for row in rows for model in ["default"]]
    print(f"default, single splits: largest {max(single):.3f}, above 1.01 in",
          f"{sum(ratio > 1.01 for ratio in single)} of {len(single)}")  # fmt: skip
    return summary


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of ADBench's .npz files")
    parser.add_argument("--seeds", type=int, default=3, help="splits of each table")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=3000, help="rows of a table at most")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    arguments = parser.parse_args()
    environment = describe_environment(["numpy", "scikit-learn", "torch"])
    print(*(f"{key}: {value}" for key, value in environment.items()), sep="\n")
    tasks = [
        delayed(compare)(name, X, seed)
        for name, X in read_tables(arguments.data, arguments.rows)
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    ]
    results = Parallel(n_jobs=arguments.jobs, return_as="generator")(tasks)
    rows = [row for row in tqdm(results, total=len(tasks), unit="fit") if row is not None]
    summary = print_table(rows)
    if arguments.json:
        content = {"environment": environment, "rows": rows, "summary": summary}
        arguments.json.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
