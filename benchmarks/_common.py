"""What the benchmarks share: data, timing in turns, and a description of the machine."""

from __future__ import annotations

import gzip
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn import datasets

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
            start = time.perf_counter()
            result = contestants[name](number)
            runs[name].append(Run(time.perf_counter() - start, result))
    return runs


def median(values: Iterable[float]) -> float:
    """Median as a plain float."""
    return float(statistics.median(values))


def describe_environment(packages: Iterable[str]) -> dict[str, Any]:
    """Name what a timing depends on: processor, threads, versions."""
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "torch threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "skae": skae.__version__,
        **{package: importlib.metadata.version(package) for package in packages},
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
