"""Hot paths do no more than before, counted in a process of its own: see `counts.py`."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import skae

SCRIPT = Path(__file__).with_name("counts.py")


def test_hot_paths_do_no_more_than_before():
    path = os.pathsep.join([str(Path(skae.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    if "Not compared" in result.stdout:
        pytest.skip(result.stdout.splitlines()[-1])


def test_growth_beyond_the_tolerance_is_told_with_its_name():
    grown = runpy.run_path(str(SCRIPT))["grown"]
    before = json.loads(SCRIPT.with_suffix(".json").read_text())["counts"]
    assert len(before) == 4
    assert grown(before, before) == []
    path = "PCA of 2,000 x 20"
    more = {**before, path: {**before[path], "calls": 1.2 * before[path]["calls"]}}
    (message,) = grown(before, more)
    assert message.startswith(f"{path}: ")
    assert message.endswith("(+20%)")
