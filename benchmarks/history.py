"""What has become faster or slower between two commits?

Both are checked out beside each other, and processes of the two take turns with the same short
questions. Each process gives the fastest of several runs of each question, in processor time of one
thread, so that waiting does not count. The ratio of a round is that of two processes that ran one
after the other; a question has changed if Wilcoxon's test of the ratios says so after Holm's
correction for the number of questions, and the median ratio is outside of 1 +- 2 %. A commit beside
itself must not show a change:

    python benchmarks/history.py HEAD~10 HEAD
    python benchmarks/history.py HEAD HEAD
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
LEVEL = 0.01
SMALLEST_CHANGE = 0.02
# Seconds that a question takes in each process, about.
SECONDS = 0.4
N_DRAWS = 10_000


def questions() -> dict[str, Callable[[], Any]]:
    """Give what is measured, by public names alone: commits may differ in everything else."""
    import pandas as pd

    import skae

    rng = np.random.default_rng(0)
    small, tall, wide = (rng.normal(size=s) for s in ((2000, 20), (20_000, 50), (300, 3000)))
    rows = rng.normal(size=(10_000, 50)).astype(np.float32)
    settings = {"hidden_layer_sizes": (64,), "early_stopping": False, "random_state": 0}
    codes = skae.AutoencoderTransformer(8, max_iter=1, random_state=0).fit(rows[:1000])
    pca = skae.PCA(8).fit(rows)
    detector = skae.AutoencoderOutlierDetector(random_state=0).fit(small[:200])
    names = [f"c{i}" for i in range(20)]
    table = pd.DataFrame(small, columns=names).assign(kind=rng.choice(list("abc"), len(small)))

    def fit(cls: Any, **others: Any) -> Callable[[], Any]:
        return lambda: cls(8, max_iter=5, **settings, **others).fit(rows[:2000])

    return {
        "fit, 2,000 x 50, 5 epochs": fit(skae.AutoencoderTransformer),
        "fit of a denoiser": fit(skae.DenoisingAutoencoder),
        "fit of a VAE": fit(skae.VAETransformer),
        "transform of one row": lambda: codes.transform(rows[:1]),
        "transform of one float64 row": lambda: codes.transform(tall[:1]),
        "transform of 10,000 rows": lambda: codes.transform(rows),
        "scores of 1,000 rows": lambda: codes.score_samples(rows[:1000]),
        "PCA 200 x 10": lambda: skae.PCA(2).fit(small[:200, :10]),
        "PCA 2,000 x 20": lambda: skae.PCA().fit(small),
        "PCA 20,000 x 50": lambda: skae.PCA(5).fit(tall),
        "PCA 300 x 3,000": lambda: skae.PCA(10).fit(wide),
        "PCA, transform of one row": lambda: pca.transform(rows[:1]),
        "detector, scores of 1,000 rows": lambda: detector.score_samples(small[:1000]),
        "TableEncoder, 2,000 x 21": lambda: skae.TableEncoder().fit_transform(table),
    }


def measure() -> dict[str, float]:
    """Answer all questions in this process: seconds of the fastest run."""
    import torch

    torch.set_num_threads(1)
    answers = {}
    for name, work in questions().items():
        try:
            work()
        except (AttributeError, ImportError, TypeError, ValueError) as error:
            print(f"{name}: {error!r}", file=sys.stderr)  # a commit that cannot do it
            continue
        answers[name] = fastest(work)
    return answers


def fastest(work: Callable[[], Any]) -> float:
    """Give processor seconds of the fastest call, timed in groups that the clock can tell."""
    start = time.process_time()
    work()
    size = max(1, int(0.002 / max(time.process_time() - start, 1e-6)))
    times = []
    end = time.process_time() + SECONDS
    while len(times) < 3 or time.process_time() < end:
        start = time.process_time()
        for _ in range(size):
            work()
        times.append((time.process_time() - start) / size)
    return min(times)


@contextmanager
def checked_out(commit: str, name: str) -> Iterator[Path]:
    """Check a commit out in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix=f"skae-{name}-") as folder:
        path = Path(folder) / "tree"
        git("worktree", "add", "--detach", str(path), commit)
        try:
            yield path
        finally:
            git("worktree", "remove", "--force", str(path))


def git(*arguments: str) -> str:
    """Run git in this repository."""
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def answers_of(tree: Path) -> dict[str, float]:
    """Answer the questions in a process that imports the package of a folder."""
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    result = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), "--measure"],
        env={**os.environ, **threads, "PYTHONPATH": str(tree)},
        cwd=tree,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(result.stdout.splitlines()[-1])


def compare(rounds: list[tuple[dict[str, float], dict[str, float]]]) -> Iterator[dict[str, Any]]:
    """Yield median ratio, interval, p-value and verdict of each question, the surest change first.

    The p-values are Holm's, of all questions together.
    """
    from scipy.stats import wilcoxon

    rng = np.random.default_rng(0)
    found = []
    for name in rounds[0][0]:
        pairs = [(old[name], new[name]) for old, new in rounds if name in old and name in new]
        if len(pairs) < len(rounds):
            continue
        logs = np.log([new / old for old, new in pairs])
        draws = np.median(rng.choice(logs, (N_DRAWS, len(logs))), axis=1)
        found.append(
            {
                "name": name,
                "seconds": float(np.median([old for old, _ in pairs])),
                "ratio": float(np.exp(np.median(logs))),
                "interval": np.exp(np.quantile(draws, [0.025, 0.975])),
                "p": float(wilcoxon(logs).pvalue) if logs.any() else 1.0,
            }
        )
    found.sort(key=lambda answer: answer["p"])
    largest = 0.0
    for place, answer in enumerate(found):
        largest = max(largest, min(1.0, answer["p"] * (len(found) - place)))
        answer["p"] = largest
        is_sure = largest < LEVEL and abs(answer["ratio"] - 1.0) > SMALLEST_CHANGE
        answer["verdict"] = ("slower" if answer["ratio"] > 1.0 else "faster") if is_sure else ""
        yield answer


def main() -> None:
    """Compare two commits."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("old", nargs="?", default="main", help="a commit")
    parser.add_argument("new", nargs="?", default="HEAD", help="another one")
    parser.add_argument("--rounds", type=int, default=15, help="at least 12 for a verdict")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure()))
        return
    with checked_out(arguments.old, "old") as old, checked_out(arguments.new, "new") as new:
        rounds = []
        for number in range(arguments.rounds):
            trees = (old, new) if number % 2 == 0 else (new, old)
            answers = {tree: answers_of(tree) for tree in trees}
            rounds.append((answers[old], answers[new]))
            print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
    names = [git("rev-parse", "--short", commit) for commit in (arguments.old, arguments.new)]
    print(f"Processor time of {names[1]} over that of {names[0]}, {len(rounds)} rounds\n")
    print(f"{'':<32}{'ms before':>11}{'ratio':>8}{'95 %':>14}{'p':>9}")
    for answer in compare(rounds):
        low, high = answer["interval"]
        print(
            f"{answer['name']:<32}{1e3 * answer['seconds']:>11.3f}{answer['ratio']:>8.3f}"
            f"{f'{low:.3f}-{high:.3f}':>14}{answer['p']:>9.2g}  {answer['verdict']}"
        )


if __name__ == "__main__":
    main()
