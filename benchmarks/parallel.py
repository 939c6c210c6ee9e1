"""How much faster is a training on two processes than on one, and what do they tell each other?

The network is 784-512-64 with a batch of 1,024 rows, so that a step is arithmetic. Each process has
one thread. Runs with one and with two processes take turns. The share of communication is the time
that a process spends in sums over the processes, waiting for the other one included.

    python benchmarks/parallel.py
"""

from __future__ import annotations

import argparse
import os
import pickle
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from _common import describe_environment, print_environment, write_json

from skae import AutoencoderTransformer
from skae.distributed import data_parallel

N_COLUMNS = 784
SIZES = (512,)
N_COMPONENTS = 64


def train(rows, n_epochs, batch_size):
    """Time the epochs after the first, and the sums in them."""
    seconds = {"epochs": [], "sums": 0.0}
    all_reduce = dist.all_reduce

    def timed(*arguments, **named):
        start = time.perf_counter()
        all_reduce(*arguments, **named)
        seconds["sums"] += time.perf_counter() - start

    class Clock:
        setup = teardown = on_fit_task_begin = lambda self, estimator, context: None

        def on_fit_task_end(self, estimator, context):
            seconds["epochs"].append((time.perf_counter(), seconds["sums"]))

    dist.all_reduce = timed
    model = AutoencoderTransformer(
        N_COMPONENTS, hidden_layer_sizes=SIZES, init="random", early_stopping=False,
        batch_size=batch_size, max_iter=n_epochs, random_state=0, tol=0.0,
    )  # fmt: skip
    model.set_callbacks(Clock()).fit(rows)
    dist.all_reduce = all_reduce
    (start, sums), *_, (end, all_sums) = seconds["epochs"]
    return (end - start) / (n_epochs - 1), (all_sums - sums) / (end - start)


def run(n_processes, X, arguments):
    with tempfile.TemporaryDirectory() as directory:
        children = []
        for rank in range(n_processes):
            child = os.fork()
            if child:
                children.append(child)
                continue
            torch.set_num_threads(1)
            store = f"file://{directory}/store"
            dist.init_process_group("gloo", init_method=store, rank=rank, world_size=n_processes)
            if n_processes == 1:
                found = train(X, arguments.epochs, arguments.batch_size)
            else:
                with data_parallel():
                    found = train(X[rank::n_processes], arguments.epochs, arguments.batch_size)
            Path(directory, str(rank)).write_bytes(pickle.dumps(found))
            os._exit(0)
        for child in children:
            os.waitpid(child, 0)
        return pickle.loads(Path(directory, "0").read_bytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=16_384)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file to write the results to")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    environment = describe_environment(["torch", "numpy"])
    print_environment(environment)
    X = np.random.default_rng(0).normal(size=(arguments.rows, N_COLUMNS)).astype(np.float32)
    alone, together, shares = [], [], []
    for _ in range(arguments.repeats):
        alone.append(run(1, X, arguments)[0])
        seconds, share = run(2, X, arguments)
        together.append(seconds)
        shares.append(share)
    n_steps = -(-arguments.rows // arguments.batch_size)
    n_weights = 2 * (N_COLUMNS * SIZES[0] + SIZES[0] * N_COMPONENTS)
    # A ring sends and receives twice the vector, less its n-th part, in each process.
    bits = 2 * (1 - 1 / 2) * 32 * n_weights
    step = min(alone) / n_steps
    print(f"\none process    {min(alone):8.3f} s for an epoch, {step * 1e3:.1f} ms for a step")
    print(f"two processes  {min(together):8.3f} s for an epoch, {min(shares):.0%} of it in sums")
    for rate in (10e9, 100e9):
        share = (bits / rate) / (step / 2 + bits / rate)
        print(f"at {rate / 1e9:.0f} Gbit/s, sums would be {share:.0%} of a step of two processes")
    print(f"\ntwo processes are {min(alone) / min(together):.2f} times as fast as one")
    if arguments.json:
        write_json(arguments.json, {**environment, "alone": alone, "together": together})


if __name__ == "__main__":
    main()
