import getpass
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy
import sklearn
import torch
from threadpoolctl import threadpool_info

import skae
from skae import _show_versions


def shown(capsys):
    skae.show_versions()
    lines = capsys.readouterr().out.splitlines()
    return dict(line.split(": ", maxsplit=1) for line in lines)


def test_show_versions_prints_those_of_the_modules_that_are_imported(capsys):
    lines = shown(capsys)
    assert lines["skae"] == skae.__version__
    assert lines["Python"].startswith(sys.version.split()[0])
    for module, name in [
        (np, "numpy"),
        (pd, "pandas"),
        (scipy, "scipy"),
        (sklearn, "scikit-learn"),
        (torch, "torch"),
    ]:
        assert lines[name] == module.__version__


def test_show_versions_names_devices_threads_and_libraries(capsys):
    n_threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        lines = shown(capsys)
    finally:
        torch.set_num_threads(n_threads)
    assert lines["Torch's threads"] == "3"
    assert lines["Torch's devices"].split(", ")[0] == "cpu"
    assert ("cuda:0" in lines["Torch's devices"]) == torch.cuda.is_available()
    for library in threadpool_info():
        line = lines[Path(library["filepath"]).name]
        assert library["internal_api"] in line


def test_show_versions_tells_no_user_and_no_path(capsys):
    skae.show_versions()
    text = capsys.readouterr().out
    for private in (str(Path.home()), str(Path.cwd()), sys.prefix, "site-packages"):
        assert private not in text
    if getpass.getuser() not in ("root", "runner"):
        assert getpass.getuser() not in text


@pytest.mark.parametrize("missing", _show_versions.OTHERS)
def test_show_versions_does_not_need_what_is_optional(capsys, monkeypatch, missing):
    def without(package):
        if package == missing:
            raise PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(_show_versions, "version", without)
    assert shown(capsys)[missing] == "not installed"


def test_show_versions_imports_nothing_optional():
    code = (
        "import sys, skae; skae.show_versions(); print({'matplotlib', 'polars'} & {*sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.endswith("set()\n")
