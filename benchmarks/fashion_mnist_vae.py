"""How good is the bound of VAETransformer on images, next to the loop that Torch tutorials teach?

Two networks of classic size on the 60,000 training images of Fashion-MNIST, with the Bernoulli
loss on grey values in [0, 1]: 784-256-2 and 784-400-20. All sides have the same layer sizes, batch
size and number of epochs:

* the plain loop: DataLoader, ReLU, Adam with a constant learning rate of 0.001;
* VAETransformer with exactly these settings, for the speed of the loop;
* VAETransformer with its defaults, which start at PCA, but without held-out rows.

The clock runs from the NumPy array to the trained network. The evidence lower bound and the bound
of importance weights, in nats per image, are computed for all sides by the same function, with the
same draws, on test images.

    python benchmarks/fashion_mnist_vae.py --data /usr/share/datasets/fashion-mnist
"""

from __future__ import annotations

import argparse
import math
from functools import partial
from pathlib import Path
from typing import NamedTuple

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
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from skae import VAETransformer

LEARNING_RATE = 1e-3
BATCH_SIZE = 128
# Images times draws that are decoded together.
CHUNK = 20_000

PLAIN = {
    "activation": "relu",
    "init": "random",
    "learning_rate": "constant",
    "learning_rate_init": LEARNING_RATE,
}


class Problem(NamedTuple):
    """Sizes of a network."""

    n_hidden: int
    n_components: int


PROBLEMS = {"784-256-2": Problem(256, 2), "784-400-20": Problem(400, 20)}


class TutorialVAE(nn.Module):
    """One hidden layer on each side."""

    def __init__(self, n_features, problem):
        super().__init__()
        self.hidden = nn.Linear(n_features, problem.n_hidden)
        self.mean = nn.Linear(problem.n_hidden, problem.n_components)
        self.log_variance = nn.Linear(problem.n_hidden, problem.n_components)
        self.decoder = nn.Sequential(
            nn.Linear(problem.n_components, problem.n_hidden),
            nn.ReLU(),
            nn.Linear(problem.n_hidden, n_features),
        )

    def posterior(self, x):
        """Means and log-variances."""
        hidden = torch.relu(self.hidden(x))
        return self.mean(hidden), self.log_variance(hidden)

    def forward(self, x):
        """Probabilities of the pixels, means and log-variances."""
        mean, log_variance = self.posterior(x)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        return torch.sigmoid(self.decoder(z)), mean, log_variance


def train_plain_loop(X, problem, epochs, device, seed):
    torch.manual_seed(seed)
    loader = DataLoader(TensorDataset(torch.from_numpy(X)), batch_size=BATCH_SIZE, shuffle=True)
    model = TutorialVAE(X.shape[1], problem).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    for _ in range(epochs):
        total = 0.0
        for (batch,) in loader:
            x = batch.to(device)
            optimizer.zero_grad()
            output, mean, log_variance = model(x)
            reconstruction = functional.binary_cross_entropy(output, x, reduction="sum")
            divergence = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
            loss = (reconstruction + divergence) / len(x)
            loss.backward()
            optimizer.step()
            total += loss.item()

    def posterior(x):
        mean, log_variance = model.posterior(x)
        return mean, torch.exp(0.5 * log_variance)

    model.cpu()
    return posterior, model.decoder


def train_skae(X, problem, epochs, device, seed, **parameters):
    model = VAETransformer(
        problem.n_components,
        hidden_layer_sizes=(problem.n_hidden,),
        loss="bernoulli",
        batch_size=BATCH_SIZE,
        max_iter=epochs,
        n_iter_no_change=epochs,
        early_stopping=False,
        device=device,
        random_state=seed,
        **parameters,
    ).fit(X)
    assert model.n_iter_ == epochs
    return lambda x: map(torch.from_numpy, model.posterior(x.numpy())), model.module_.decoder


CONTESTANTS = {
    "plain loop": train_plain_loop,
    "VAETransformer, its settings": partial(train_skae, **PLAIN),
    "VAETransformer, defaults": train_skae,
}


@torch.no_grad()
def bounds(posterior, decoder, X, n_samples):
    """Mean over the rows of the evidence lower bound and of that of importance weights.

    `decoder` gives logits.
    """
    generator = torch.Generator().manual_seed(0)
    evidence, importance = [], []
    for x in torch.from_numpy(X).split(max(1, CHUNK // n_samples)):
        mean, std = posterior(x)  # (batch, n_components)
        noise = torch.randn(n_samples, *mean.shape, generator=generator)
        z = mean + std * noise  # (n_samples, batch, n_components)
        logits = decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        log_likelihood = -functional.binary_cross_entropy_with_logits(
            logits, x.expand_as(logits), reduction="none"
        ).sum(dim=-1)
        log_ratio = (noise.square() - z.square()).sum(dim=-1) / 2 + std.log().sum(dim=-1)
        divergence = (mean.square() + std.square() - 1 - 2 * std.log()).sum(dim=-1) / 2
        evidence.append(log_likelihood.mean(dim=0) - divergence)
        weights = log_likelihood + log_ratio  # log p(x|z) + log p(z) - log q(z|x)
        importance.append(weights.logsumexp(dim=0) - math.log(n_samples))
    return tuple(torch.cat(parts).double().mean().item() for parts in (evidence, importance))


def compare(X, X_test, problem, epochs, seeds, device, n_samples):
    """Seconds per epoch and test bounds of all sides."""
    for trainer in CONTESTANTS.values():  # first calls set up threads and kernels
        trainer(X[:1024], problem, 1, device, 0)
    runs = run_in_turns(
        {
            name: partial(trainer, X, problem, epochs, device)
            for name, trainer in CONTESTANTS.items()
        },
        seeds,
    )
    sides = {}
    for name, own_runs in runs.items():
        pairs = [bounds(*run.result, X_test, n_samples) for run in own_runs]
        sides[name] = {
            "seconds per epoch": [run.seconds / epochs for run in own_runs],
            "evidence lower bound": [pair[0] for pair in pairs],
            "importance-weighted bound": [pair[1] for pair in pairs],
        }
    return sides


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the four idx .gz files")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, help="number of training rows, for a quick look")
    parser.add_argument("--test-rows", type=int, help="number of test rows")
    parser.add_argument("--samples", type=int, default=100, help="draws of each row for the bounds")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    arguments = parser.parse_args()

    environment = describe_environment(["torch", "numpy", "scikit-learn"])
    print_environment(environment)
    X, X_test = read_fashion_mnist(arguments.data)
    X, X_test = X[: arguments.rows], X_test[: arguments.test_rows]
    print(
        f"{len(X)} training and {len(X_test)} test images, {arguments.epochs} epochs, "
        f"{arguments.seeds} seeds, {arguments.samples} draws, device {arguments.device}"
    )

    results, ratios = {}, {}
    for title, problem in PROBLEMS.items():
        sides = compare(
            X, X_test, problem, arguments.epochs, arguments.seeds, arguments.device,
            arguments.samples,
        )  # fmt: skip
        results[title] = sides
        print(f"\n{title}: median, lowest and highest bound on test images, nats per image")
        for name, side in sides.items():
            cells = [
                f"{median(values):8.2f} ({min(values):.2f} to {max(values):.2f})"
                for quantity, values in side.items()
                if quantity != "seconds per epoch"
            ]
            seconds = median(side["seconds per epoch"])
            print(f"  {name:<30}", *cells, f"{seconds:8.2f} s per epoch", sep="  ")
        loop = median(sides["plain loop"]["seconds per epoch"])
        ratios[title] = {
            name: loop / median(side["seconds per epoch"]) for name, side in sides.items()
        }

    print("\nspeed over that of the plain loop")
    for title, speeds in ratios.items():
        for name, speed in speeds.items():
            print(f"  {title}, {name:<30} {speed:.2f}")
    write_json(arguments.json, {"environment": environment, "results": results, "speed": ratios})


if __name__ == "__main__":
    main()
