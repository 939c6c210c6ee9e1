"""What a bug report says of the machine: versions, devices, threads."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from skae._device import describe_devices
from skae._sklearn_compat import _get_threadpool_controller
from skae._torch_compat import TORCH_VERSION

# What skae needs, in the order of pyproject.toml, and what it or its users put beside it.
PACKAGES = ("narwhals", "numpy", "pandas", "scikit-learn", "scipy", "torch", "tqdm")
OTHERS = ("joblib", "matplotlib", "polars", "pyarrow", "skops", "threadpoolctl")


def show_versions() -> None:
    """Print the versions and the hardware that a bug report needs.

    These are the versions of skae, of Python and of the packages that skae works with, the devices
    and threads of Torch, and the libraries for linear algebra and threads that are loaded. No name
    of a user and no path is among them.

    Examples
    --------
    >>> import skae
    >>> skae.show_versions()
    skae: ...
    Python: ...
    """
    for name, entry in versions().items():
        print(f"{name}: {entry}")


def versions() -> dict[str, str]:
    """Give what `show_versions` prints, line by line."""
    python = f"{platform.python_version()} ({platform.python_implementation()})"
    lines = {
        "skae": sys.modules["skae"].__version__,
        "Python": python,
        "platform": platform.platform(),
        **{name: installed(name) for name in (*PACKAGES, *OTHERS)},
        # Of what is imported, which need not be what is installed last.
        "torch": TORCH_VERSION,
        "Torch's CUDA": torch.version.cuda or "none",
        "Torch's devices": describe_devices(),
        "Torch's threads": str(torch.get_num_threads()),
    }
    for library in _get_threadpool_controller().info():
        file = Path(library["filepath"]).name
        lines[file] = (
            f"{library['internal_api']} {library['version'] or 'of unknown version'}, "
            f"{library['num_threads']} threads"
        )
    return lines


def installed(package: str) -> str:
    """Version of a package, which is not imported."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
