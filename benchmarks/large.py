"""How fast is a fit to a table that does not fit in memory, and how much memory does it need?

A sparse file is made for it. It has the length that is asked for, and takes little room on the
disk, because most of its blocks are holes. Every fit runs in a process of its own that may not
allocate more than `--memory`. Rows per second are those of one epoch, or of one pass, by processor
time: what a process waits for the disk is not in it, and nor is what others do meanwhile.

    python benchmarks/large.py                       # 1 GB, in a minute
    python benchmarks/large.py --gigabytes 20        # with 2 GB to spare
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _common import describe_environment, peak_megabytes, print_environment, write_json

N_COLUMNS = 100
BATCH_SIZE = 1024
N_COMPONENTS = 8


def make_file(path, gigabytes):
    """Make a file of zeros but for a megabyte of random rows in every hundred."""
    n_rows = int(gigabytes * 2**30) // (4 * N_COLUMNS)
    X = np.memmap(path, np.float32, "w+", shape=(n_rows, N_COLUMNS))
    rng = np.random.default_rng(0)
    step = 2**20 // (4 * N_COLUMNS)
    for start in range(0, n_rows, 100 * step):
        part = X[start : start + step]
        part[:] = rng.normal(size=(len(part), 4)) @ rng.normal(size=(4, N_COLUMNS))
    X.flush()


def open_file(path):
    n_rows = path.stat().st_size // (4 * N_COLUMNS)
    return np.memmap(path, np.float32, "r", shape=(n_rows, N_COLUMNS))


def autoencoder():
    from skae import AutoencoderTransformer

    return AutoencoderTransformer(
        N_COMPONENTS, hidden_layer_sizes=(64,), batch_size=BATCH_SIZE, max_iter=1, random_state=0
    )


def fit_autoencoder(X):
    autoencoder().fit(X)


def fit_and_transform(X):
    model = autoencoder().set_params(max_iter=1).fit(X)
    with tempfile.TemporaryDirectory() as directory:
        codes = np.memmap(f"{directory}/Z", np.float32, "w+", shape=(len(X), N_COMPONENTS))
        for start in range(0, len(X), 10**6):
            codes[start : start + 10**6] = model.transform(X[start : start + 10**6])


def fit_pca(X):
    from skae import PCA

    PCA(N_COMPONENTS).fit(X)


def fit_incremental_pca(X):
    from sklearn.decomposition import IncrementalPCA

    model = IncrementalPCA(N_COMPONENTS)
    for start in range(0, len(X) - N_COMPONENTS, 16 * BATCH_SIZE):
        model.partial_fit(np.asarray(X[start : start + 16 * BATCH_SIZE]))


def fit_dask_ml(X):
    import dask.array as da
    from dask_ml.decomposition import PCA

    PCA(N_COMPONENTS, svd_solver="tsqr").fit(da.from_array(X, chunks=(10**5, N_COLUMNS)))


def fit_torch_loop(X):
    """Train the same network by the loop that one would write by hand, in the order of the file."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(N_COLUMNS, 64), nn.SiLU(), nn.Linear(64, N_COMPONENTS),
        nn.Linear(N_COMPONENTS, 64), nn.SiLU(), nn.Linear(64, N_COLUMNS),
    )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for start in range(0, len(X), BATCH_SIZE):
        batch = torch.from_numpy(np.array(X[start : start + BATCH_SIZE]))
        optimizer.zero_grad()
        nn.functional.mse_loss(network(batch), batch).backward()
        optimizer.step()


TASKS = {
    "skae PCA": fit_pca,
    "scikit-learn IncrementalPCA": fit_incremental_pca,
    "dask-ml PCA": fit_dask_ml,
    "skae autoencoder, shuffled": fit_autoencoder,
    "skae autoencoder, and codes to a file": fit_and_transform,
    "Torch loop, not shuffled": fit_torch_loop,
}


def run(name, path, memory, in_memory):
    import resource

    import torch

    torch.set_num_threads(1)
    X = open_file(path)
    fit = TASKS[name]
    fit(np.array(X[:50_000]))  # imports and compiles what there is
    if in_memory:
        X = np.array(X)
    with open("/proc/self/status") as status:
        (data,) = [int(line.split()[1]) for line in status if line.startswith("VmData")]
    limit = data * 1024 + int(memory * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    start = time.process_time()
    fit(X)
    seconds = time.process_time() - start
    print(len(X) / seconds, peak_megabytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0, help="length of the file")
    parser.add_argument("--memory", type=float, default=2.0, help="what a fit may allocate, in GiB")
    parser.add_argument("--tasks", default="", help="part of the names of what is fitted")
    parser.add_argument("--directory", type=Path, help="where to make the file")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        name, path, in_memory = arguments.run
        run(name, Path(path), arguments.memory, in_memory == "True")
        return
    environment = describe_environment(["torch", "numpy", "scikit-learn"])
    print_environment(environment)
    results = {}
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        path = Path(directory) / "X.bin"
        make_file(path, arguments.gigabytes)
        print(f"\n{arguments.gigabytes:g} GiB of float32, {arguments.memory:g} GiB to spare")
        for name in TASKS:
            for in_memory in (False, True):
                if arguments.tasks not in name:
                    continue
                if in_memory and (arguments.gigabytes > 4 or "file" in name):
                    continue
                command = [sys.executable, __file__, "--memory", str(arguments.memory)]
                command += ["--run", name, str(path), str(in_memory)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                title = f"{name}, {'in memory' if in_memory else 'from the file'}"
                if done.returncode:
                    print(f"{title:60} failed: {done.stderr.splitlines()[-1:]}")
                    continue
                rows_per_second = float(done.stdout.split()[0])
                results[title] = rows_per_second
                print(f"{title:60} {rows_per_second:12,.0f} rows/s")
    print()
    for name in TASKS:
        pair = [results.get(f"{name}, {how}") for how in ("in memory", "from the file")]
        if None not in pair:
            print(f"{name:60} {pair[0] / pair[1]:6.2f} times the time in memory")
    if arguments.json:
        write_json(arguments.json, environment, results)


if __name__ == "__main__":
    main()
