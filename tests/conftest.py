import os

import pytest
import torch

# Modules that import each other, run by test_fuzz.py and by themselves.
collect_ignore = ["fuzz"]

# scikit-learn skips its checks of array API input without it.
os.environ["SCIPY_ARRAY_API"] = "1"

# Figures are looked at through their artists; none is shown.
os.environ["MPLBACKEND"] = "Agg"

# The networks of the tests are so small that a second thread costs more than it gives.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skip)
