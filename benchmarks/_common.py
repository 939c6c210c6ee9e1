"""What the benchmarks share: data, timing in turns, and a description of the machine."""

from __future__ import annotations

import gzip
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn import datasets
from threadpoolctl import threadpool_limits

import skae

BUNDLED = ("iris", "wine", "breast_cancer", "digits", "diabetes")


class Run(NamedTuple):
    """One run of one contestant."""

    seconds: float
    result: Any


def read_idx(path: Path) -> np.ndarray:
    """Read an array of bytes in the idx format: magic number, shape, values."""
    with gzip.open(path) as file:
        content = file.read()
    n_dimensions = content[3]
    shape = np.frombuffer(content, dtype=">i4", count=n_dimensions, offset=4)
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * n_dimensions).reshape(shape)


def read_fashion_mnist(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the images of Fashion-MNIST as rows of 784 float32 in [0, 1], training and test."""
    train, test = (
        read_idx(folder / f"{part}-images-idx3-ubyte.gz").reshape(-1, 784).astype(np.float32) / 255
        for part in ("train", "t10k")
    )
    return train, test


def read_tables(folder: Path | None, max_rows: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and tables, without constant columns, of at most `max_rows` random rows.

    The tables are those that scikit-learn bundles and those in a folder of ADBench's files.
    """
    loaders = {name: getattr(datasets, f"load_{name}") for name in BUNDLED}
    tables = {name: lambda load=load: load().data for name, load in loaders.items()}
    if folder is not None:
        paths = sorted(folder.glob("*.npz"), key=lambda path: int(path.stem.split("_")[0]))
        tables |= {path.stem: lambda path=path: np.load(path)["X"] for path in paths}
    for name, load in tables.items():
        X = load().astype(np.float64)
        if len(X) > max_rows:
            X = X[np.random.default_rng(0).permutation(len(X))[:max_rows]]
        yield name, X[:, X.std(axis=0) > 0]


def run_in_turns(
    contestants: dict[str, Callable[[int], Any]], repeats: int
) -> dict[str, list[Run]]:
    """Run the contestants one after the other, `repeats` times over.

    Taking turns spreads whatever else the machine is doing over all of them. The first in turn
    changes from round to round. Each contestant is called with the number of the round, for a
    seed.
    """
    runs: dict[str, list[Run]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(repeats):
        for name in names if number % 2 == 0 else reversed(names):
            runs[name].append(timed(contestants[name], number))
    return runs


def run_in_pairs(
    one: Callable[[int], Any], others: dict[str, Callable[[int], Any]], repeats: int
) -> dict[str, list[tuple[Run, Run]]]:
    """Run each of the others right beside a run of the one, `repeats` times over.

    The speed of a machine drifts within seconds, and more for memory than for arithmetic. A ratio
    of neighbours notices least of it. Which of the two comes first changes from round to round.

    Returns
    -------
    dict of str to list of (Run, Run)
        The runs of the one and of the other that were neighbours.
    """
    pairs: dict[str, list[tuple[Run, Run]]] = {name: [] for name in others}
    for number in range(repeats):
        for name, other in others.items():
            if number % 2 == 0:
                first = timed(one, number)
                pairs[name].append((first, timed(other, number)))
            else:
                first = timed(other, number)
                pairs[name].append((timed(one, number), first))
    return pairs


def timed(function: Callable[[int], Any], number: int) -> Run:
    """Call a function with a number."""
    start = time.perf_counter()
    result = function(number)
    return Run(time.perf_counter() - start, result)


def median(values: Iterable[float]) -> float:
    """Median as a plain float."""
    return float(statistics.median(values))


def made_up_images(n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of 784 float32 in [0, 1], and 10,000 of them for testing."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((n_rows, 20), dtype=np.float32)
    X = 1.0 / (1.0 + np.exp(-z @ rng.standard_normal((20, 784), dtype=np.float32)))
    return X[10_000:], X[:10_000]


def installed(package: str) -> bool:
    """Whether a package that is to be compared with is there."""
    return importlib.util.find_spec(package) is not None


def peak_megabytes() -> float:
    """Largest memory that this process has held so far; only Linux tells."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


@contextmanager
def limited_threads(n_threads: int | None) -> Iterator[None]:
    """Let every library use so many threads inside the block; None changes nothing."""
    if n_threads is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        with threadpool_limits(n_threads):
            yield
    finally:
        torch.set_num_threads(before)


def describe_environment(packages: Iterable[str], peers: Iterable[str] = ()) -> dict[str, Any]:
    """Name what a timing depends on: processor, threads, versions, and which peers are missing."""
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "torch threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "skae": skae.__version__,
        **{package: importlib.metadata.version(package) for package in packages},
        **{
            peer: importlib.metadata.version(peer) if installed(peer) else "not installed"
            for peer in peers
        },
    }


def processor_name() -> str:
    """Model name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def print_environment(environment: dict[str, Any]) -> None:
    """Print the environment on one line."""
    print(", ".join(f"{name} {value}" for name, value in environment.items()))


def write_json(path: Path | None, content: dict[str, Any]) -> None:
    """Write the results to a file if one was asked for."""
    if path is not None:
        path.write_text(json.dumps(content, indent=2) + "\n")
