"""scikit-learn's own tests of PCA and IncrementalPCA, run against skae.PCA."""

import os
import re
import subprocess
import sys
from pathlib import Path

import skae

TESTS = Path(__file__).parent


def run_suite(tmp_path, *arguments):
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    # One thread: the problems are tiny, and threads that wait for each other cost minutes on a
    # busy machine.
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    # scikit-learn's tests of arrays of other libraries need both.
    settings = {"SCIPY_ARRAY_API": "1", "SKLEARN_RUN_FLOAT32_TESTS": "1"}
    path = os.pathsep.join([str(TESTS), str(Path(skae.__file__).parents[1])])
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-c", str(tmp_path / "pytest.ini"), "-p", "sklearn_suite_plugin", "--pyargs"),
            *arguments,
        ],
        cwd=tmp_path,
        env={**os.environ, **threads, **settings, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_scikit_learn_suite_passes_with_pca_in_its_place(tmp_path):
    modules = [
        f"sklearn.decomposition.tests.{name}" for name in ("test_pca", "test_incremental_pca")
    ]
    result = run_suite(tmp_path, *modules)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", result.stdout)[1]) > 300


def test_runner_fails_a_test_that_never_creates_pca(tmp_path):
    (tmp_path / "conftest.py").write_text(
        "import sklearn_suite_plugin\nsklearn_suite_plugin.EXCLUDED.clear()\n"
    )
    (tmp_path / "test_idle.py").write_text("def test_idle():\n    pass\n")
    result = run_suite(tmp_path, str(tmp_path / "test_idle.py"))
    assert result.returncode == 1
    assert "without creating skae.PCA" in result.stdout
