"""How fast and how exact is skae.PCA, beside scikit-learn's?

Each shape is fitted by every contestant in turn, in an order that is drawn anew in every round; a
time is the median of the rounds, an error the largest relative error of the kept variances against
a float64 singular value decomposition of the same numbers. Ratios are the time of scikit-learn's
"auto" over that of skae's.

On a machine that others use too, set OPENBLAS_NUM_THREADS=1 and pass --cpu-time: processor seconds
of one thread do not count the waiting.

    python benchmarks/pca.py
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from _common import describe_environment, median, print_environment, write_json
from sklearn import decomposition

import skae

# Name, rows, features, components.
SHAPES = [
    ("small", 200, 10, 2),
    ("small", 200, 10, None),
    ("tall", 20_000, 50, 5),
    ("tall", 1_000_000, 20, 5),
    ("tall", 100_000, 100, 10),
    ("tall", 60_000, 784, 50),
    ("square", 2_000, 2_000, 10),
    ("square", 2_000, 2_000, 0.9),
    ("wide", 500, 5_000, 10),
    ("wide", 500, 5_000, None),
    ("wide", 2_000, 20_000, 10),
    ("wide", 2_000, 20_000, 100),
]
QUICK = [("small", 200, 10, 2), ("tall", 20_000, 50, 5), ("wide", 100, 1_000, 10)]


def make_data(n_samples, n_features, dtype, mean):
    """Draw rows whose standard deviations fall from 3 to 1 over the features."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_samples, n_features), dtype=np.float32)
    return (X * np.linspace(3.0, 1.0, n_features) + mean).astype(dtype)


def exact_variances(X):
    """Compute the variances from the float64 singular values, of a triangular factor if tall."""
    centred = X.astype(np.float64)
    centred -= centred.mean(axis=0)
    if X.shape[0] < X.shape[1]:
        centred = centred.T
    if len(centred) > 2 * centred.shape[1]:
        centred = np.linalg.qr(centred, mode="r")
    return np.linalg.svd(centred, compute_uv=False) ** 2 / (X.shape[0] - 1)


def contestants(n_components, n_features, n_cells):
    """Yield the estimators to compare; those that take minutes not on the largest data."""
    yield "skae auto", skae.PCA(n_components, random_state=0)
    yield "sklearn auto", decomposition.PCA(n_components, random_state=0)
    for solver in ("covariance_eigh", "full", "randomized"):
        if solver == "randomized" and not isinstance(n_components, int):
            continue
        if solver != "covariance_eigh" and n_cells >= 2 * 10**7:
            continue
        if solver == "covariance_eigh" and n_features >= 5_000:
            continue
        name = f"sklearn {solver}"
        yield name, decomposition.PCA(n_components, svd_solver=solver, random_state=0)


def compare(X, n_components, clock, max_rounds, max_seconds):
    """Time the contestants in turn, and return their medians and errors by name."""
    n_samples, n_features = X.shape
    exact = exact_variances(X)
    fits = dict(contestants(n_components, n_features, n_samples * n_features))
    times = {name: [] for name in fits}
    errors = {}
    for name, estimator in fits.items():  # warms up
        variances = estimator.fit(X).explained_variance_
        # The last variance of wide data is zero but for rounding.
        kept = min(len(variances), min(X.shape) - 1)
        errors[name] = float(np.abs(variances[:kept] / exact[:kept] - 1.0).max())
    end = time.perf_counter() + max_seconds
    order = np.random.default_rng(0)
    for _ in range(max_rounds):
        for name in order.permutation(list(fits)).tolist():
            start = clock()
            fits[name].fit(X)
            times[name].append(clock() - start)
        if time.perf_counter() > end:
            break
    return {name: {"seconds": median(times[name]), "error": errors[name]} for name in fits}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write the results to")
    parser.add_argument("--quick", action="store_true", help="three small shapes only")
    parser.add_argument("--rounds", type=int, default=200, help="at most so many rounds a shape")
    parser.add_argument("--seconds", type=float, default=8.0, help="about so long a shape")
    parser.add_argument("--cpu-time", action="store_true", help="processor seconds, not wall")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    warnings.simplefilter("ignore", RuntimeWarning)
    environment = describe_environment(["torch", "numpy", "scipy", "scikit-learn"])
    print_environment(environment)
    results = []
    for kind, n_samples, n_features, n_components in QUICK if arguments.quick else SHAPES:
        for dtype, mean in ((np.float32, 0.0), (np.float64, 0.0), (np.float32, 1e4)):
            if mean and kind not in ("small", "tall"):
                continue
            X = make_data(n_samples, n_features, dtype, mean)
            found = compare(X, n_components, clock, arguments.rounds, arguments.seconds)
            title = f"{kind} {n_samples} x {n_features} {np.dtype(dtype).name} k={n_components}"
            title += f" mean {mean:g}" if mean else ""
            print(f"\n{title}", flush=True)
            for name, result in found.items():
                print(
                    f"  {name:24s}{result['seconds'] * 1e3:12.2f} ms  error {result['error']:.0e}"
                )
            ratio = found["sklearn auto"]["seconds"] / found["skae auto"]["seconds"]
            results.append({"title": title, "ratio": ratio, **found})
            del X
    print("\nsklearn auto / skae auto")
    for result in results:
        print(f"  {result['title']:48s}{result['ratio']:8.2f}")
    write_json(arguments.json, {"environment": environment, "results": results})


if __name__ == "__main__":
    main()
