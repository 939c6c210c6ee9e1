"""Memory and start-up time, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

STATUS = Path("/proc/self/status")


def output_of(code):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        check=True,
        text=True,
        env=environment,
    )
    return done.stdout


FIT = """
import numpy as np
from pathlib import Path
from skae import AutoencoderTransformer

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])

X = np.random.default_rng(0).standard_normal((250_000, 200), dtype=np.float32)
estimator = AutoencoderTransformer(2, hidden_layer_sizes=(8,), batch_size=4096, max_iter=2)
estimator.fit(X[:5000])
before = peak()
estimator.fit(X)
print((peak() - before) / X.nbytes)
"""


@pytest.mark.skipif(not STATUS.exists(), reason="only Linux tells the peak of a process's memory")
def test_fit_keeps_at_most_one_copy_of_its_input():
    # The rows to train on and those held out, together one copy, and a few batches: some 40 MB at
    # most, whatever the number of rows.
    assert float(output_of(FIT)) < 1.25


IMPORT = """
import sys
import sklearn, torch
from sklearn.utils import validation
before = len(sys.modules)
import skae
print(len(sys.modules) / before, "matplotlib" in sys.modules)
"""


def test_import_loads_little_beyond_torch_and_scikit_learn():
    # The number of modules, unlike the time, is the same on every machine.
    modules, matplotlib = output_of(IMPORT).split()
    assert float(modules) < 1.25
    assert matplotlib == "False"
