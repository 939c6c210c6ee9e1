"""How much memory does a fit need beyond its input?

Each fit runs in a process of its own. The input is 400,000 x 200 numbers; what counts is the
largest memory that the process has held, less what it held before `fit`.

    python benchmarks/memory.py
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from _common import describe_environment, peak_megabytes, print_environment, write_json

from skae import AutoencoderTransformer, DenoisingAutoencoder, VAETransformer

ESTIMATORS = {
    "AutoencoderTransformer": AutoencoderTransformer,
    "DenoisingAutoencoder": DenoisingAutoencoder,
    "VAETransformer": VAETransformer,
}


def print_peak(name, n_rows, dtype, early_stopping):
    X = np.random.default_rng(0).standard_normal((n_rows, 200), dtype=dtype)
    estimator = ESTIMATORS[name](
        8, hidden_layer_sizes=(32,), batch_size=1024, max_iter=1, early_stopping=early_stopping
    )
    estimator.fit(X[:5000])
    before = peak_megabytes()
    estimator.fit(X)
    print((peak_megabytes() - before) / (X.nbytes / 2**20))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--json", type=Path, help="file to write the results to")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        name, dtype, early_stopping = arguments.peak
        print_peak(name, arguments.rows, np.dtype(dtype), early_stopping == "True")
        return

    environment = describe_environment(["torch", "numpy", "scikit-learn"])
    print_environment(environment)
    ratios = {}
    print("\npeak memory of a fit beyond its input, over that of the input")
    for name in ESTIMATORS:
        for dtype in ("float32", "float64"):
            for early_stopping in (True, False):
                command = [sys.executable, __file__, "--rows", str(arguments.rows), "--peak"]
                command += [name, dtype, str(early_stopping)]
                done = subprocess.run(command, capture_output=True, check=True, text=True)
                title = f"{name}, {dtype}, early_stopping={early_stopping}"
                ratios[title] = float(done.stdout)
                print(f"  {title}: {ratios[title]:.2f}", flush=True)
    write_json(arguments.json, {"environment": environment, "ratios": ratios})


if __name__ == "__main__":
    main()
