"""How much does a second process help a grid search over autoencoders?

`GridSearchCV` over 24 small fits, with one process and with several. Processes that each use all
cores slow each other down; a small network should not need them.

    python benchmarks/search.py
"""

from __future__ import annotations

import argparse
import os
import warnings
from functools import partial
from pathlib import Path

from _common import describe_environment, median, print_environment, run_in_turns, write_json
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler

from skae import AutoencoderTransformer

N_EPOCHS = 10
NOT_CONVERGED = "Stochastic Optimizer"  # begins what MLPRegressor warns of


def searches(n_jobs):
    skae = AutoencoderTransformer(
        8,
        hidden_layer_sizes=(64,),
        max_iter=N_EPOCHS,
        early_stopping=False,
        n_iter_no_change=N_EPOCHS,
        device="cpu",
        random_state=0,
    )
    yield (
        f"skae, n_jobs={n_jobs}",
        GridSearchCV(
            skae,
            {"n_components": [4, 8, 12, 16], "activation": ["relu", "silu"]},
            cv=3,
            n_jobs=n_jobs,
            refit=False,
        ),
    )
    mlp = MLPRegressor(batch_size=64, max_iter=N_EPOCHS, n_iter_no_change=N_EPOCHS, random_state=0)
    yield (
        f"MLPRegressor, n_jobs={n_jobs}",
        GridSearchCV(
            mlp,
            {
                "hidden_layer_sizes": [(64, k, 64) for k in (4, 8, 12, 16)],
                "activation": ["relu", "tanh"],
            },
            cv=3,
            n_jobs=n_jobs,
            refit=False,
        ),
    )


def run(search, X, _):
    search.fit(X, X)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file to write the results to")
    arguments = parser.parse_args()

    warnings.filterwarnings("ignore", NOT_CONVERGED)
    os.environ["PYTHONWARNINGS"] = f"ignore:{NOT_CONVERGED}:UserWarning"  # of the processes
    environment = describe_environment(["torch", "numpy", "scikit-learn", "joblib"])
    print_environment(environment)
    X = StandardScaler().fit_transform(load_digits().data)
    contestants = {
        name: partial(run, search, X)
        for n_jobs in (1, arguments.jobs)
        for name, search in searches(n_jobs)
    }
    for contestant in contestants.values():  # starts the processes
        contestant(0)
    runs = run_in_turns(contestants, arguments.repeats)
    results = {
        name: {"seconds": median(run.seconds for run in own_runs)}
        for name, own_runs in runs.items()
    }
    print(f"\n24 fits of {2 * len(X) // 3} x {X.shape[1]}, {N_EPOCHS} epochs")
    for name, result in results.items():
        print(f"  {name:<24} {result['seconds']:7.2f} s")
    ratios = {
        name: results[f"{name}, n_jobs=1"]["seconds"]
        / results[f"{name}, n_jobs={arguments.jobs}"]["seconds"]
        for name in ("skae", "MLPRegressor")
    }
    print(f"\ntimes as fast with n_jobs={arguments.jobs} (medians)")
    for name, ratio in ratios.items():
        print(f"  {name}: {ratio:.2f}")
    write_json(arguments.json, {"environment": environment, "results": results, "ratios": ratios})


if __name__ == "__main__":
    main()
