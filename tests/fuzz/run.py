"""Run many random cases and print the kinds of faults, each with its smallest case.

python tests/fuzz/run.py --cases 10000
"""

import argparse
import sys
import time
from collections import Counter

import numpy as np
import torch
from fuzz_cases import cases, run_case
from fuzz_estimators import ESTIMATORS
from fuzz_rules import Fault, last_lines
from hypothesis import HealthCheck, Phase, given, seed, settings

from skae import AutoencoderTransformer
from skae._denoising_ensemble import DenoisingEnsemble

CASES_PER_RUN = 100


def search(n_cases, seconds, first_seed, estimators):
    """Draw cases until there are enough of them or no time is left.

    Returns
    -------
    n_run : int
    n_calls : int
    counts : Counter
        Kinds of faults, and how many cases ended in them.
    smallest : dict of str to (Case, Fault)
    """
    deadline = time.monotonic() + seconds
    counts, smallest, done = Counter(), {}, [0, 0]

    def run(case):
        done[0] += 1
        try:
            done[1] += run_case(case)
        except Fault as fault:
            counts[fault.kind] += 1
            known = smallest.get(fault.kind)
            if known is None or len(repr(case)) < len(repr(known[0])):
                smallest[fault.kind] = case, fault

    # One run of hypothesis varies few cases in many ways; many runs see more.
    while done[0] < n_cases and time.monotonic() < deadline:
        random_cases = settings(
            max_examples=min(CASES_PER_RUN, n_cases - done[0]),
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        seed(first_seed + done[0])(random_cases(given(cases(estimators))(run)))()
    return *done, counts, smallest


def prepare():
    """Few steps, one thread, and what Torch imports, and changes in the process, once."""
    torch.set_num_threads(1)
    DenoisingEnsemble._n_steps = 5
    AutoencoderTransformer(1, max_iter=1).fit(np.eye(4))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=3600.0, help="budget of time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--estimators", nargs="*", default=list(ESTIMATORS))
    arguments = parser.parse_args()
    prepare()
    started = time.monotonic()
    n_run, n_calls, counts, smallest = search(
        arguments.cases, arguments.seconds, arguments.seed, tuple(arguments.estimators)
    )
    for kind, count in counts.most_common():
        case, fault = smallest[kind]
        print(f"\n{count} x {kind}\n{case}\n{last_lines(fault)}")
    elapsed = time.monotonic() - started
    print(f"\n{n_run} cases, {n_calls} calls, {elapsed:.0f} s: {len(counts)} kinds of faults")
    return 1 if counts else 0


if __name__ == "__main__":
    sys.exit(main())
