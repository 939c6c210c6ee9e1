"""How fast does AutoencoderTransformer train, next to the loop that Torch tutorials teach?

Two classic networks on the 60,000 training images of Fashion-MNIST, the same architecture,
optimizer, batch size and number of epochs on both sides:

* 784-128-64-128-784, squared error, batches of 64;
* 784-32-784, binary cross-entropy, batches of 256.

The clock runs from the NumPy array to the trained network. The test loss, on the 10,000 test
images, is computed from the reconstructions by the same NumPy function for both.

    python benchmarks/fashion_mnist_autoencoder.py --data /usr/share/datasets/fashion-mnist
"""

from __future__ import annotations

import argparse
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from _common import (
    describe_environment,
    median,
    print_environment,
    read_fashion_mnist,
    run_in_turns,
    write_json,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from skae import AutoencoderTransformer

LEARNING_RATE = 1e-3


class Problem(NamedTuple):
    """A network and how to train it."""

    n_components: int
    hidden_layer_sizes: tuple[int, ...]
    loss: str
    batch_size: int


PROBLEMS = {
    "784-128-64, squared error, batch 64": Problem(64, (128,), "squared_error", 64),
    "784-32, binary cross-entropy, batch 256": Problem(32, (), "bernoulli", 256),
}


def train_skae(X, X_test, problem, epochs, device, seed):
    model = AutoencoderTransformer(
        problem.n_components,
        hidden_layer_sizes=problem.hidden_layer_sizes,
        activation="relu",
        init="random",
        loss=problem.loss,
        learning_rate="constant",
        learning_rate_init=LEARNING_RATE,
        batch_size=problem.batch_size,
        max_iter=epochs,
        early_stopping=False,
        n_iter_no_change=epochs,
        device=device,
        random_state=seed,
    ).fit(X)
    assert model.n_iter_ == epochs
    return lambda: model.reconstruct(X_test)


def train_plain_loop(X, X_test, problem, epochs, device, seed):
    torch.manual_seed(seed)
    loader = DataLoader(
        TensorDataset(torch.from_numpy(X)), batch_size=problem.batch_size, shuffle=True
    )
    sizes = [X.shape[1], *problem.hidden_layer_sizes, problem.n_components]
    model = nn.Sequential(*layers(sizes), *layers(sizes[::-1]))
    criterion = nn.MSELoss()
    if problem.loss == "bernoulli":
        model.append(nn.Sigmoid())
        criterion = nn.BCELoss()
    model.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)

    for _ in range(epochs):
        total = 0.0
        for (batch,) in loader:
            x = batch.to(device)
            optimizer.zero_grad()
            loss = criterion(model(x), x)
            loss.backward()
            optimizer.step()
            total += loss.item()

    def reconstruct():
        with torch.no_grad():
            return model(torch.from_numpy(X_test).to(device)).cpu().numpy()

    return reconstruct


def layers(sizes):
    """Linear layers with ReLU between them."""
    modules = []
    for n_in, n_out in pairwise(sizes):
        modules += [nn.Linear(n_in, n_out), nn.ReLU()]
    return modules[:-1]


def mean_loss(X, reconstruction, loss):
    """Mean over all cells, in float64."""
    X, reconstruction = X.astype(np.float64), reconstruction.astype(np.float64)
    if loss == "squared_error":
        return np.mean(np.square(reconstruction - X))
    p = np.clip(reconstruction, 1e-7, 1 - 1e-7)
    return -np.mean(X * np.log(p) + (1 - X) * np.log(1 - p))


def compare(X, X_test, problem, epochs, repeats, device):
    """Seconds per epoch and test losses of both sides."""
    trainers = {"skae": train_skae, "plain loop": train_plain_loop}
    for trainer in trainers.values():  # first calls set up threads and kernels
        trainer(X[:1024], X_test, problem, 1, device, 0)
    runs = run_in_turns(
        {
            name: partial(trainer, X, X_test, problem, epochs, device)
            for name, trainer in trainers.items()
        },
        repeats,
    )
    return {
        name: {
            "seconds per epoch": [run.seconds / epochs for run in own_runs],
            "test loss": [mean_loss(X_test, run.result(), problem.loss) for run in own_runs],
        }
        for name, own_runs in runs.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the four idx .gz files")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, help="number of training rows, for a quick look")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    arguments = parser.parse_args()

    environment = describe_environment(["torch", "numpy", "scikit-learn"])
    print_environment(environment)
    X, X_test = read_fashion_mnist(arguments.data)
    X = X[: arguments.rows]
    print(
        f"{len(X)} training rows, {len(X_test)} test rows, {arguments.epochs} epochs, "
        f"{arguments.repeats} repeats, device {arguments.device}"
    )

    results, ratios = {}, {}
    for title, problem in PROBLEMS.items():
        sides = compare(X, X_test, problem, arguments.epochs, arguments.repeats, arguments.device)
        results[title] = sides
        print(f"\n{title}")
        medians = {}
        for name, side in sides.items():
            medians[name] = {quantity: median(values) for quantity, values in side.items()}
            print(
                f"  {name:<11} {medians[name]['seconds per epoch']:8.3f} s per epoch   "
                f"test loss {medians[name]['test loss']:.6f}"
            )
        skae, loop = medians["skae"], medians["plain loop"]
        ratios[title] = {
            "test loss": skae["test loss"] / loop["test loss"],
            "speed": loop["seconds per epoch"] / skae["seconds per epoch"],
        }

    print("\nskae against the plain loop (medians)")
    for title, ratio in ratios.items():
        print(
            f"  {title}: test loss {ratio['test loss']:.3f} times, speed {ratio['speed']:.2f} times"
        )
    write_json(arguments.json, {"environment": environment, "results": results, "ratios": ratios})


if __name__ == "__main__":
    main()
