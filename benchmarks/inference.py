"""How fast does a fitted model encode and score, next to plain Torch, and in how much memory?

A network 50-64-32-8 and its mirror image on a million rows: `transform` and `score_samples`, which
work in batches, next to the same module applied to all rows in one call. And the time of a call
for a single row, where the work is checking the input.

    python benchmarks/inference.py
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from _common import (
    describe_environment,
    median,
    peak_megabytes,
    print_environment,
    run_in_turns,
    write_json,
)

from skae import AutoencoderTransformer


def fitted_model(X):
    return AutoencoderTransformer(
        8, hidden_layer_sizes=(64, 32), max_iter=2, device="cpu", random_state=0
    ).fit(X[:5000])


def make_rows(n_rows):
    return np.random.default_rng(0).standard_normal((n_rows, 50), dtype=np.float32)


def encode_plainly(model, X):
    with torch.inference_mode():
        return model.module_.encode(torch.from_numpy(X)).numpy()


def score_plainly(model, X):
    with torch.inference_mode():
        return model.module_.score(torch.from_numpy(X)).numpy()


CALLS = {
    "transform": lambda model, X: model.transform(X),
    "plain Torch, codes": encode_plainly,
    "score_samples": lambda model, X: model.score_samples(X),
    "plain Torch, scores": score_plainly,
}


def peak_memory(name, n_rows):
    """Megabytes that a call in a process of its own adds to what the process had at most before."""
    command = [sys.executable, __file__, "--rows", str(n_rows), "--peak", name]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def print_peak(name, n_rows):
    X = make_rows(n_rows)
    model = fitted_model(X)
    CALLS[name](model, X[:10])
    before = peak_megabytes()
    CALLS[name](model, X)
    print(peak_megabytes() - before)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="file to write the results to")
    parser.add_argument("--peak", choices=CALLS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print_peak(arguments.peak, arguments.rows)
        return

    environment = describe_environment(["torch", "numpy", "scikit-learn"])
    print_environment(environment)
    X = make_rows(arguments.rows)
    model = fitted_model(X)
    calls = {
        name: lambda _, call=call: np.isfinite(call(model, X)).all() for name, call in CALLS.items()
    }
    single_rows = {"float32": X[:1], "float64": X[:1].astype(np.float64)}
    for call in calls.values():
        call(0)
    runs = run_in_turns(calls, arguments.repeats)
    results = {
        name: {
            "seconds": median(run.seconds for run in own_runs),
            "megabytes": peak_memory(name, arguments.rows),
        }
        for name, own_runs in runs.items()
    }
    print(f"\n{arguments.rows} rows of 50 float32, {X.nbytes / 2**20:.0f} MB")
    for name, result in results.items():
        print(f"  {name:<20} {result['seconds']:7.3f} s   {result['megabytes']:7.0f} MB more")
    singles = run_in_turns(
        {name: lambda _, row=row: model.transform(row) for name, row in single_rows.items()}, 500
    )
    print("\na single row")
    for name, own_runs in singles.items():
        results[f"single row, {name}"] = {"seconds": median(run.seconds for run in own_runs)}
        print(f"  {name:<20} {1e6 * results[f'single row, {name}']['seconds']:7.0f} microseconds")

    ratios = {
        method: results[method]["seconds"] / results[plain]["seconds"]
        for method, plain in (
            ("transform", "plain Torch, codes"),
            ("score_samples", "plain Torch, scores"),
        )
    }
    print("\ntime over that of plain Torch in one call (medians)")
    for method, ratio in ratios.items():
        print(f"  {method}: {ratio:.2f}")
    write_json(arguments.json, {"environment": environment, "results": results, "ratios": ratios})


if __name__ == "__main__":
    main()
