"""Count what four hot paths do: the same numbers on every machine, however busy it is.

    python tests/counts.py          compare with the file, as `make test` does
    python tests/counts.py --renew  write the file, as `make counts` does

A count is of calls of functions in Python, of operators of Torch, or of bytes: those that the
operators write, and the largest number that NumPy and Python hold at a time. Calls and operators
are what small tables cost; bytes are what large ones cost. How long an operator takes does not
show here: that is what ``benchmarks/history.py`` measures.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from skae import PCA, AutoencoderOutlierDetector, AutoencoderTransformer
from skae._denoising_ensemble import DenoisingEnsemble

FILE = Path(__file__).with_name("counts.json")
TOLERANCE = 0.1
# What Python's own memory may differ by from run to run.
SLACK = {"bytes held": 2**14}
# Epochs of two fits whose difference is training alone.
FEW, MANY, N_STEPS_OF_EPOCH = 2, 12, 10


def versions() -> dict[str, str]:
    """Versions that counts depend on."""
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        "torch": torch.__version__.partition("+")[0],
    }


def hot_paths() -> dict[str, tuple[Callable[[], Any], Callable[[], Any] | None, int]]:
    """Name, what is counted, what is taken away from it, and how often it is done in there."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(64 * N_STEPS_OF_EPOCH, 20)).astype(np.float32)
    tall, rows = rng.normal(size=(2000, 20)), rng.normal(size=(1000, 50))

    def train(n_epochs: int) -> Callable[[], Any]:
        model = AutoencoderTransformer(
            8, hidden_layer_sizes=(64,), max_iter=n_epochs, early_stopping=False, random_state=0
        )
        return lambda: model.fit(table)

    DenoisingEnsemble._n_steps = 2
    served = AutoencoderTransformer(8, max_iter=1, random_state=0).fit(rows.astype(np.float32))
    one_row = rows[:1].astype(np.float32)
    detector = AutoencoderOutlierDetector(random_state=0).fit(tall)
    return {
        "a step of training, 64 x 20": (
            train(MANY),
            train(FEW),
            (MANY - FEW) * N_STEPS_OF_EPOCH,
        ),
        "transform of one row, 50-128-64-8": (lambda: served.transform(one_row), None, 1),
        "PCA of 2,000 x 20": (lambda: PCA().fit(tall), None, 1),
        "scores of 1,000 rows by the detector": (
            lambda: detector.score_samples(tall[:1000]),
            None,
            1,
        ),
    }


class Operators(TorchDispatchMode):
    """Counts operators of Torch and the bytes that they write."""

    def __init__(self) -> None:
        super().__init__()
        self.n_operators = self.n_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        self.n_operators += 1
        if not func.is_view:
            leaves = tree_leaves(results)
            self.n_bytes += sum(r.nbytes for r in leaves if isinstance(r, torch.Tensor))
        return results


def count(work: Callable[[], Any]) -> dict[str, int]:
    """Count what is done in a call, when all that is remembered from earlier calls is there."""
    for _ in range(2):
        work()
    n_calls = 0

    def note(frame, event, argument):
        nonlocal n_calls
        # Comprehensions are calls in some versions of Python only.
        n_calls += event == "c_call" or (event == "call" and frame.f_code.co_name[0] != "<")

    gc.collect()
    gc.disable()
    try:
        sys.setprofile(note)
        try:
            work()
        finally:
            sys.setprofile(None)
        with Operators() as operators:
            work()
        tracemalloc.start()
        work()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        work()
        peak = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
    finally:
        gc.enable()
    return {
        "calls": n_calls,
        "operators": operators.n_operators,
        "bytes by operators": operators.n_bytes,
        "bytes held": peak,
    }


def count_all() -> dict[str, dict[str, float]]:
    """Count all hot paths."""
    counts = {}
    for name, (work, less, n_times) in hot_paths().items():
        found = count(work)
        if less is not None:
            other = count(less)
            found = {what: found[what] - other[what] for what in found if what != "bytes held"}
        counts[name] = {what: round(number / n_times, 1) for what, number in found.items()}
    return counts


def grown(before: dict[str, dict[str, float]], now: dict[str, dict[str, float]]) -> list[str]:
    """Say which counts have grown by more than the tolerance."""
    return [
        f"{name}: {now[name][what]:,.10g} {what}, {old:,.10g} before "
        f"(+{now[name][what] / old - 1:.0%})"
        for name, counts in before.items()
        for what, old in counts.items()
        if now[name][what] > (1.0 + TOLERANCE) * old + SLACK.get(what, 0)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--renew", action="store_true", help="write the file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    now = count_all()
    if arguments.renew:
        FILE.write_text(json.dumps({"versions": versions(), "counts": now}, indent=2) + "\n")
    for name, counts in now.items():
        print(name, *(f"{number:,.10g} {what}" for what, number in counts.items()), sep="; ")
    before = json.loads(FILE.read_text())
    if before["versions"] != versions():
        print(f"Not compared: {FILE.name} was counted with {before['versions']}.")
        return
    failures = grown(before["counts"], now)
    if failures:
        advice = (
            f"Hot paths do over {TOLERANCE:.0%} more than before. Look for what was added to them. "
            "If it is worth that, renew the counts by 'make counts' and say why in the commit."
        )
        sys.exit("\n".join([*failures, advice]))


if __name__ == "__main__":
    main()
