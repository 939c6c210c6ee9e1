"""Does the threshold of AutoencoderOutlierDetector keep its promise on real tables?

Half of the rows of a table, drawn at random, are fitted to, and the other half is new: rows of the
same distribution, of which a threshold for a rate of false alarms of 0.05 is to call 0.05 outliers.
The numbers are the shares that it does call outliers, for three ways to a threshold: rows that are
held out (the default), cross-fitting, and the rows that the model was fitted to. The tables are
those that scikit-learn bundles and those in a folder of ADBench's files.

    python benchmarks/false_alarms.py --data DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from _common import describe_environment, print_environment, read_tables, write_json
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skae import PCA, AutoencoderOutlierDetector

MODELS = {"default": None, "PCA": make_pipeline(StandardScaler(), PCA(0.9))}
WAYS = {
    "held out": {},
    "cross-fitted": {"cross_fit": True},
    "fitted to": {"calibration_fraction": None},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of ADBench's .npz files")
    parser.add_argument("--max-rows", type=int, default=2000, help="random rows of a table")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file to write the results to")
    arguments = parser.parse_args()
    environment = describe_environment(["torch", "numpy", "scikit-learn"])
    print_environment(environment)

    contestants = [(model, way) for model in MODELS for way in WAYS]
    # Six fits of the default model for each table would take the longest, and say little more.
    contestants.remove(("default", "cross-fitted"))
    print(f"{'':<28}" + "".join(f"{', '.join(contestant):>21}" for contestant in contestants))
    results = []
    for name, X in read_tables(arguments.data, arguments.max_rows):
        for seed in range(arguments.seeds):
            fitted_to, new = np.array_split(np.random.default_rng(seed).permutation(len(X)), 2)
            rates = {}
            for model, way in contestants:
                detector = AutoencoderOutlierDetector(
                    MODELS[model], random_state=seed, **WAYS[way]
                ).fit(X[fitted_to])
                rates[f"{model}, {way}"] = float(np.mean(detector.predict(X[new]) == -1))
            results.append({"table": name, "rows": len(X), "seed": seed, "rates": rates})
            print(f"{name:<28}" + "".join(f"{rate:21.3f}" for rate in rates.values()), flush=True)
    rates = np.array([list(result["rates"].values()) for result in results])
    for name, numbers in {"mean": rates.mean(axis=0), "largest": rates.max(axis=0)}.items():
        print(f"{name:<28}" + "".join(f"{number:21.3f}" for number in numbers))
    write_json(arguments.json, {"environment": environment, "results": results})


if __name__ == "__main__":
    main()
