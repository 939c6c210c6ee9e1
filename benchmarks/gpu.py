"""How fast do the autoencoders and PCA run on a CUDA device?

Training of 20-64-8-64-20 and 784-128-64-128-784 with batches of 256, next to the loop that one
would write for the same GPU: data on the device, batches gathered there, fused optimizer. PCA next
to scikit-learn's on the same device, through its array API.

    python benchmarks/gpu.py

Without a CUDA device it says so and ends.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

os.environ["SCIPY_ARRAY_API"] = "1"  # before scipy is imported

import numpy as np
import sklearn
import torch
from _common import describe_environment, median, print_environment, run_in_turns, write_json
from sklearn import decomposition
from training import LEARNING_RATE, Problem, make_network

import skae

NETWORKS = {
    "20-64-8, 100,000 rows": (100_000, Problem(20, (64,), 8, "squared_error", 256)),
    "784-128-64, 60,000 rows": (60_000, Problem(784, (128,), 64, "squared_error", 256)),
}
TABLES = [(1_000_000, 100, 10), (100_000, 2_000, 50)]


def train_skae(X, problem, epochs, seed, **parameters):
    skae.AutoencoderTransformer(
        problem.n_components,
        hidden_layer_sizes=problem.hidden_layer_sizes,
        activation="relu",
        init="random",
        learning_rate="constant",
        learning_rate_init=LEARNING_RATE,
        batch_size=problem.batch_size,
        max_iter=epochs,
        n_iter_no_change=epochs,
        early_stopping=False,
        device="cuda",
        random_state=seed,
        **parameters,
    ).fit(X)


def train_loop(X, problem, epochs, seed):
    torch.manual_seed(seed)
    model = make_network(problem).cuda()
    rows = torch.from_numpy(X).cuda()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    for _ in range(epochs):
        for index in torch.randperm(len(rows), device="cuda").split(problem.batch_size):
            x = rows[index]
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(x), x).backward()
            optimizer.step()
    torch.cuda.synchronize()


def fit_skae_pca(X, n_components, seed):
    return skae.PCA(n_components, device="cuda", random_state=seed).fit(X).explained_variance_


def fit_sklearn_pca(X, n_components, seed):
    with sklearn.config_context(array_api_dispatch=True):
        pca = decomposition.PCA(n_components, svd_solver="covariance_eigh", random_state=seed)
        return pca.fit(torch.from_numpy(X).cuda()).explained_variance_.cpu().numpy()


def exact_variances(X, n_components):
    """Largest eigenvalues of the covariance matrix, in float64."""
    covariance = np.cov(X, rowvar=False, dtype=np.float64)
    return np.linalg.eigvalsh(covariance)[::-1][:n_components]


def compare_training(X, problem, epochs, repeats):
    common = (X, problem, epochs)
    contestants = {
        "skae": partial(train_skae, *common),
        "skae, bf16": partial(train_skae, *common, precision="bf16"),
        "eager loop": partial(train_loop, *common),
    }
    for contestant in contestants.values():
        contestant(0)
    return {
        name: {"seconds": median(run.seconds for run in runs)}
        for name, runs in run_in_turns(contestants, repeats).items()
    }


def compare_pca(X, n_components, repeats):
    contestants = {
        "skae": partial(fit_skae_pca, X, n_components),
        "scikit-learn": partial(fit_sklearn_pca, X, n_components),
    }
    for contestant in contestants.values():
        contestant(0)
    exact = exact_variances(X, n_components)
    return {
        name: {
            "seconds": median(run.seconds for run in runs),
            "error": float(np.abs(runs[0].result / exact - 1.0).max()),
        }
        for name, runs in run_in_turns(contestants, repeats).items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file to write the results to")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("Left out: this machine has no CUDA device.")
        return

    environment = describe_environment(["torch", "numpy", "scikit-learn"])
    environment["gpu"] = torch.cuda.get_device_name()
    print_environment(environment)
    rng = np.random.default_rng(0)
    results, ratios = {}, {}
    for title, (n_rows, problem) in NETWORKS.items():
        X = rng.random((n_rows, problem.n_features), dtype=np.float32)
        found = compare_training(X, problem, arguments.epochs, arguments.repeats)
        results[title] = found
        ratios[title] = found["eager loop"]["seconds"] / found["skae"]["seconds"]
        print(f"\n{title}, {arguments.epochs} epochs")
        for name, result in found.items():
            print(f"  {name:<14} {result['seconds']:8.3f} s")
    for n_rows, n_features, n_components in TABLES:
        title = f"PCA {n_rows} x {n_features}, {n_components} components"
        X = rng.standard_normal((n_rows, n_features), dtype=np.float32)
        X *= np.linspace(3.0, 1.0, n_features, dtype=np.float32)
        found = compare_pca(X, n_components, arguments.repeats)
        results[title] = found
        ratios[title] = found["scikit-learn"]["seconds"] / found["skae"]["seconds"]
        print(f"\n{title}")
        for name, result in found.items():
            print(f"  {name:<14} {result['seconds']:8.3f} s   error {result['error']:.0e}")
    print("\ntimes as fast as the other side (medians)")
    for title, ratio in ratios.items():
        print(f"  {title}: {ratio:.2f}")
    write_json(arguments.json, {"environment": environment, "results": results, "ratios": ratios})


if __name__ == "__main__":
    main()
