"""How fast do the autoencoders train, next to other libraries and to the arithmetic alone?

The same network, optimizer, batch size and number of epochs for every contestant:

* 20-64-8-64-20 on 5,000 rows, squared error, batches of 32: a table;
* 784-128-64-128-784 on 60,000 rows, squared error, batches of 256: images;
* 784-32-784 on 60,000 rows, binary cross-entropy, batches of 256: images.

Every run is timed right beside one of skae, and the ratios are those of neighbours. The clock runs
from the NumPy array to the trained network. "products" are the matrix products of a training step
and nothing else, the floor that no library gets below. "skae, PCA start" has a linear path beside
the network and so more products; its floor is "products, PCA start". Libraries that are not
installed are left out; `pip install -e ".[bench-peers]"` installs them.

    python benchmarks/training.py --data /usr/share/datasets/fashion-mnist

Without `--data` the images are made up, which changes losses but not times.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from _common import (
    describe_environment,
    installed,
    limited_threads,
    made_up_images,
    median,
    print_environment,
    read_fashion_mnist,
    run_in_pairs,
    write_json,
)
from sklearn.neural_network import MLPRegressor
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from skae import AutoencoderTransformer, DenoisingAutoencoder, VAETransformer

LEARNING_RATE = 1e-3
PEERS = ("skorch", "pyod", "keras")


class Problem(NamedTuple):
    """A network and how to train it."""

    n_features: int
    hidden_layer_sizes: tuple[int, ...]
    n_components: int
    loss: str
    batch_size: int

    def sizes(self):
        """Widths of all layers, from the rows over the code to the rows."""
        forth = [self.n_features, *self.hidden_layer_sizes, self.n_components]
        return forth + forth[-2::-1]


PROBLEMS = {
    "table": Problem(20, (64,), 8, "squared_error", 32),
    "images": Problem(784, (128,), 64, "squared_error", 256),
    "images, cross-entropy": Problem(784, (), 32, "bernoulli", 256),
}


def made_up_table(n_rows):
    """Rows near a curved surface of eight dimensions."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(n_rows, 8))
    X = np.tanh(z @ rng.normal(size=(8, 20))) + 0.1 * rng.normal(size=(n_rows, 20))
    return X.astype(np.float32)


def train_skae(X, problem, epochs, seed, estimator=AutoencoderTransformer, **parameters):
    model = estimator(
        problem.n_components,
        hidden_layer_sizes=problem.hidden_layer_sizes,
        loss=problem.loss,
        batch_size=problem.batch_size,
        max_iter=epochs,
        n_iter_no_change=epochs,
        early_stopping=False,
        learning_rate="constant",
        learning_rate_init=LEARNING_RATE,
        random_state=seed,
        **{"activation": "relu", "init": "random", "device": "cpu", **parameters},
    ).fit(X)
    return model.reconstruct


def train_mlp(X, problem, epochs, seed):
    model = MLPRegressor(
        hidden_layer_sizes=problem.sizes()[1:-1],
        batch_size=problem.batch_size,
        max_iter=epochs,
        n_iter_no_change=epochs + 1,
        alpha=0.0,
        random_state=seed,
    )
    for _ in range(epochs):  # fit would warn that it has not converged
        model.partial_fit(X, X)
    return model.predict


def make_network(problem):
    modules = []
    for n_in, n_out in pairwise(problem.sizes()):
        modules += [nn.Linear(n_in, n_out), nn.ReLU()]
    code = 2 * len(problem.hidden_layer_sizes) + 1  # has no activation
    return nn.Sequential(*(module for i, module in enumerate(modules[:-1]) if i != code))


def train_loop(X, problem, epochs, seed):
    """Train as Torch tutorials do."""
    torch.manual_seed(seed)
    model = make_network(problem)
    loader = DataLoader(
        TensorDataset(torch.from_numpy(X)), batch_size=problem.batch_size, shuffle=True
    )
    bernoulli = problem.loss == "bernoulli"
    criterion = nn.BCEWithLogitsLoss() if bernoulli else nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    for _ in range(epochs):
        total = 0.0
        for (x,) in loader:
            optimizer.zero_grad()
            loss = criterion(model(x), x)
            loss.backward()
            optimizer.step()
            total += loss.item()
    return partial(reconstruct_by_torch, model, bernoulli)


def reconstruct_by_torch(model, bernoulli, X):
    with torch.no_grad():
        output = model.eval()(torch.from_numpy(X))
    return (output.sigmoid() if bernoulli else output).numpy()


def train_skorch(X, problem, epochs, seed):
    from skorch import NeuralNetRegressor

    torch.manual_seed(seed)
    return (
        NeuralNetRegressor(
            make_network(problem),
            criterion=nn.MSELoss,
            optimizer=torch.optim.Adam,
            lr=LEARNING_RATE,
            max_epochs=epochs,
            batch_size=problem.batch_size,
            iterator_train__shuffle=True,
            train_split=None,
            verbose=0,
        )
        .fit(X, X)
        .predict
    )


def train_pyod(X, problem, epochs, seed):
    from pyod.models.auto_encoder import AutoEncoder

    model = AutoEncoder(
        hidden_neuron_list=[*problem.hidden_layer_sizes, problem.n_components],
        preprocessing=False,
        batch_norm=False,
        dropout_rate=0.0,
        optimizer_params={"weight_decay": 0.0},
        lr=LEARNING_RATE,
        epoch_num=epochs,
        batch_size=problem.batch_size,
        device="cpu",
        random_state=seed,
        verbose=0,
    ).fit(X)
    return partial(reconstruct_by_torch, model.model, False)


def train_keras(X, problem, epochs, seed):
    import keras

    keras.utils.set_random_seed(seed)
    sizes = problem.sizes()
    activations = ["relu"] * len(problem.hidden_layer_sizes) + ["linear"]
    layers = [
        keras.layers.Dense(n_out, activation=activation)
        for n_out, activation in zip(sizes[1:], activations * 2, strict=True)
    ]
    model = keras.Sequential([keras.Input((sizes[0],)), *layers])
    model.compile(optimizer=keras.optimizers.Adam(LEARNING_RATE), loss="mse")
    model.fit(X, X, batch_size=problem.batch_size, epochs=epochs, verbose=0)
    return partial(model.predict, batch_size=4096, verbose=0)


def multiply(pairs, batch_size, n_steps, seed):
    """Compute the products of training steps: forward, by the weights, by the input.

    `pairs` are the widths at both ends of each layer, and whether its input needs a gradient.
    """
    tensors = [
        (torch.rand(batch_size, a), torch.rand(b, a), torch.rand(batch_size, b), wanted)
        for a, b, wanted in pairs
    ]
    forward = [torch.empty_like(g) for _, _, g, _ in tensors]
    by_weights = [torch.empty_like(w) for _, w, _, _ in tensors]
    by_input = [torch.empty_like(x) for x, _, _, _ in tensors]
    for _ in range(n_steps):
        for (x, w, _, _), out in zip(tensors, forward, strict=True):
            torch.mm(x, w.T, out=out)
        for (x, w, g, wanted), out, out_x in zip(tensors, by_weights, by_input, strict=True):
            torch.mm(g.T, x, out=out)
            if wanted:
                torch.mm(g, w, out=out_x)


def contestants(X, problem, epochs):
    n_steps = epochs * -(-len(X) // problem.batch_size)
    layers = [(a, b, i > 0) for i, (a, b) in enumerate(pairwise(problem.sizes()))]
    linear = [
        (problem.n_features, problem.n_components, False),
        (problem.n_components, problem.n_features, True),
    ]
    common = (X, problem, epochs)
    yield "skae", partial(train_skae, *common)
    yield "products", partial(multiply, layers, problem.batch_size, n_steps)
    yield "DataLoader loop", partial(train_loop, *common)
    if problem.loss != "squared_error":
        return
    yield "MLPRegressor", partial(train_mlp, *common)
    for name, train in {"skorch": train_skorch, "pyod": train_pyod, "keras": train_keras}.items():
        if installed(name):
            yield name, partial(train, *common)
    yield "skae, bf16", partial(train_skae, *common, precision="bf16")
    yield "skae, PCA start", partial(train_skae, *common, init="pca", activation="silu")
    products = partial(multiply, layers + linear, problem.batch_size, n_steps)
    yield "products, PCA start", products
    yield "skae, denoising", partial(train_skae, *common, estimator=DenoisingAutoencoder)
    yield "skae, variational", partial(train_skae, *common, estimator=VAETransformer)


def mean_loss(X, reconstruct, loss):
    """Mean over all cells, in float64."""
    reconstruction, X = reconstruct(X).astype(np.float64), X.astype(np.float64)
    if loss == "squared_error":
        return np.mean(np.square(reconstruction - X))
    p = np.clip(reconstruction, 1e-7, 1 - 1e-7)
    return -np.mean(X * np.log(p) + (1 - X) * np.log(1 - p))


def compare(X, X_test, problem, epochs, repeats):
    """Microseconds per step, ratio to skae and test loss of all, medians over the repeats."""
    n_steps = epochs * -(-len(X) // problem.batch_size)
    for _, train in contestants(X[:1024], problem, 1):  # sets up threads and kernels
        train(seed=0)
    others = dict(contestants(X, problem, epochs))
    pairs = run_in_pairs(others.pop("skae"), others, repeats)
    runs = {"skae": [own for name in pairs for own, _ in pairs[name]]}
    runs |= {name: [other for _, other in neighbours] for name, neighbours in pairs.items()}
    ratios = {
        name: median(other.seconds / own.seconds for own, other in neighbours)
        for name, neighbours in pairs.items()
    }
    return {
        name: {
            "microseconds": median(run.seconds / n_steps * 1e6 for run in own_runs),
            "ratio": ratios.get(name, 1.0),
            "test loss": None
            if own_runs[0].result is None
            else median(mean_loss(X_test, run.result, problem.loss) for run in own_runs),
        }
        for name, own_runs in runs.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the four idx .gz files")
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=PROBLEMS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="by default 10 for the table, 2 for images")
    parser.add_argument("--threads", type=int, help="of every library; by default as they come")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    arguments = parser.parse_args()

    os.environ.setdefault("KERAS_BACKEND", "torch")
    environment = describe_environment(["torch", "numpy", "scikit-learn"], PEERS)
    print_environment(environment)
    table = made_up_table(15_000)
    images = read_fashion_mnist(arguments.data) if arguments.data else made_up_images(70_000)
    results = {}
    for title in arguments.problems:
        X, X_test = (table[:5000], table[5000:]) if title == "table" else images
        epochs = arguments.epochs or (10 if title == "table" else 2)
        with limited_threads(arguments.threads):
            found = compare(X, X_test, PROBLEMS[title], epochs, arguments.repeats)
        results[title] = found
        print(f"\n{title}: {len(X)} rows, {epochs} epochs", flush=True)
        for name, result in found.items():
            loss = "" if result["test loss"] is None else f"test loss {result['test loss']:.5f}"
            print(f"  {name:<20} {result['microseconds']:9.1f} microseconds per step   {loss}")

    print("\ntime per step over that of a run of skae beside it (medians)")
    for title, found in results.items():
        ratios = [f"{name} {result['ratio']:.2f}" for name, result in found.items()]
        print(f"  {title}: " + ", ".join(ratios))
    write_json(arguments.json, {"environment": environment, "results": results})


if __name__ == "__main__":
    main()
