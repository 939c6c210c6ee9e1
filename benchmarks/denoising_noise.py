"""Which noise is a good default of DenoisingAutoencoder for a table that one knows nothing about?

Four standardized tables that come with scikit-learn. Trained under each candidate, all other
parameters at their defaults; half of the rows is held out, corrupted in six ways, and restored. The
numbers are the mean squared error over that of PCA with as many components, as a geometric mean
over tables and seeds, and the accuracy of a logistic regression on the codes of the tables that
have classes.

    python benchmarks/denoising_noise.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from _common import describe_environment, print_environment, write_json
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from skae import DenoisingAutoencoder

TABLES = {
    "digits": load_digits,
    "breast cancer": load_breast_cancer,
    "wine": load_wine,
    "diabetes": load_diabetes,
}
CANDIDATES = [
    ("gaussian", 0.0),
    *[("gaussian", level) for level in (0.1, 0.2, 0.3, 0.5, 0.8, (0.0, 0.5), (0.0, 1.0))],
    *[("masking", level) for level in (0.1, 0.2, 0.4)],
    *[("swap", level) for level in (0.1, 0.2, 0.4)],
    ("salt_and_pepper", 0.1),
]


def add_normal(level):
    return lambda X, rng: X + level * rng.normal(size=X.shape)


def mask(X, rng):
    return np.where(rng.random(X.shape) < 0.2, 0.0, X)


def swap(X, rng):
    return np.where(rng.random(X.shape) < 0.2, rng.permuted(X, axis=0), X)


TESTS = {
    "clean": lambda X, rng: X,
    "normal 0.25": add_normal(0.25),
    "normal 0.5": add_normal(0.5),
    "normal 1": add_normal(1.0),
    "masked 0.2": mask,
    "swapped 0.2": swap,
}


def squared_error(X, restored):
    return np.mean(np.square(restored - X))


def compare(load, seed):
    """Errors over PCA's of every candidate in every test, and accuracies."""
    X, y = load(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.5, random_state=seed)
    scaler = StandardScaler().fit(X_train)
    # A pixel that is dark in nearly every training image would outweigh all others.
    X_train, X_test = scaler.transform(X_train), scaler.transform(X_test).clip(-8, 8)
    noisy = {name: corrupt(X_test, np.random.default_rng(seed)) for name, corrupt in TESTS.items()}
    pca = PCA(DenoisingAutoencoder().n_components).fit(X_train)
    pca_errors = {
        name: squared_error(X_test, pca.inverse_transform(pca.transform(rows)))
        for name, rows in noisy.items()
    }
    outcomes = {}
    for noise, level in CANDIDATES:
        model = DenoisingAutoencoder(noise=noise, noise_level=level, random_state=seed).fit(X_train)
        outcome = {
            name: squared_error(X_test, model.reconstruct(rows)) / pca_errors[name]
            for name, rows in noisy.items()
        }
        if y.dtype.kind == "i":
            classifier = LogisticRegression(max_iter=5000).fit(model.transform(X_train), y_train)
            outcome["accuracy"] = classifier.score(model.transform(X_test), y_test)
        outcomes[f"{noise} {level}"] = outcome
    return outcomes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file to write the results to")
    arguments = parser.parse_args()
    environment = describe_environment(["torch", "numpy", "scikit-learn"])
    print_environment(environment)

    results = []
    for name, load in TABLES.items():
        for seed in range(arguments.seeds):
            results.append({"table": name, "seed": seed, "outcomes": compare(load, seed)})
            print(f"{name}, seed {seed}: done")

    print(f"\n{'':<26}" + "".join(f"{name:>13}" for name in [*TESTS, "all six", "accuracy"]))
    for candidate in results[0]["outcomes"]:
        outcomes = [result["outcomes"][candidate] for result in results]
        logarithms = [np.mean(np.log([outcome[name] for outcome in outcomes])) for name in TESTS]
        accuracy = np.mean([outcome["accuracy"] for outcome in outcomes if "accuracy" in outcome])
        numbers = [*np.exp(logarithms), np.exp(np.mean(logarithms)), accuracy]
        print(f"{candidate:<26}" + "".join(f"{number:13.3f}" for number in numbers))
    write_json(arguments.json, {"environment": environment, "results": results})


if __name__ == "__main__":
    main()
