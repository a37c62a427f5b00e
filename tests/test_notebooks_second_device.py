"""The notebooks under ``smoke`` on the pretended GPU, each format in a fresh run folder.

Minutes a notebook: only where ``SAWYER_SECOND_DEVICE`` names the formats, such as "fp16,bf16,fp32".
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sawyer_utils.course import notebooks as course
from sawyer_utils.plumbing.files import project_root

FORMATS = [name for name in os.environ.get("SAWYER_SECOND_DEVICE", "").split(",") if name]
pytestmark = pytest.mark.skipif(not FORMATS, reason="set SAWYER_SECOND_DEVICE: fp16, bf16, fp32 or several")


@pytest.fixture(scope="module", params=FORMATS or ["fp16"])
def machine(request, tmp_path_factory) -> dict[str, str]:
    """The environment of a notebook on it."""
    home = tmp_path_factory.mktemp(request.param)
    own = {"SAWYER_PROFILE": "smoke", "SAWYER_HOME": str(home), "SAWYER_SECOND_DEVICE": request.param}
    paths = [str(Path(__file__).parent), str(project_root()), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, **own, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


@pytest.mark.parametrize("name", course.FOLDERS)
def test_a_notebook_runs_on_the_second_device(machine, name):
    options = ["-p", "on_second_device", "-p", "no:cacheprovider", "-x"]
    options += ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=1800"]
    command = [sys.executable, "-m", "pytest", *options, f"notebooks/{name}.ipynb"]
    done = subprocess.run(command, cwd=project_root(), env=machine, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
