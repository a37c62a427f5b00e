"""Kill a notebook in its training, run all cells again: the numbers are those of the run that nobody killed.

The last step of ``python -m sawyer_utils test``, which has just run all notebooks into the folder named by
``SAWYER_WHOLE_RUN``; two minutes a notebook. Alone, it has nothing to compare with and is skipped.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import nbclient
import pytest
import torch
from nbclient.exceptions import DeadKernelError
from safetensors.torch import load_file

from sawyer_utils.course import notebooks as course
from sawyer_utils.plumbing.files import read_json

WHOLE = os.environ.get("SAWYER_WHOLE_RUN")
pytestmark = pytest.mark.skipif(not WHOLE, reason="needs a whole run: python -m sawyer_utils test")

# Notebook: stage, what it makes, and what is there once its training has something to lose.
STAGES = {
    "01_sft": ("sft", "adapter", "checkpoint/**/*state.json"),
    "02_reward": ("reward", "model", "run.json"),  # a frozen judge has no checkpoint: it begins anew
    "03_ppo": ("ppo", "adapter", "checkpoint/**/*state.json"),
}


def client(name: str) -> nbclient.NotebookClient:
    folder = course.source_path(name).parents[1]
    return nbclient.NotebookClient(course.build(name), timeout=600, resources={"metadata": {"path": folder}})


def kill_at_work(running: nbclient.NotebookClient, folder: Path, there: str) -> threading.Thread:
    """SIGKILL for the kernel as soon as the training has something to lose."""

    def work():
        while not any(folder.glob(there)):
            time.sleep(0.01)
        os.kill(running.km.provisioner.process.pid, signal.SIGKILL)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def lasting(numbers: dict) -> dict:
    """Without what another run of the same cells may say otherwise: times and memory."""
    return {k: v for k, v in numbers.items() if not any(x in k for x in ("second", "memory", "minutes"))}


@pytest.mark.parametrize("name", STAGES)
def test_all_cells_run_again_give_the_same_numbers(name, tmp_path, monkeypatch):
    stage, kind, there = STAGES[name]
    whole, folder = Path(WHOLE) / "smoke", tmp_path / "smoke"
    for earlier in list(course.NOTEBOOKS.values())[: list(STAGES).index(name)]:
        shutil.copytree(whole / earlier, folder / earlier)
    monkeypatch.setenv("SAWYER_HOME", str(tmp_path))
    monkeypatch.setenv("SAWYER_PROFILE", "smoke")
    first = client(name)
    killer = kill_at_work(first, folder / stage, there)
    with pytest.raises(DeadKernelError):
        first.execute()
    killer.join(timeout=60)
    assert not (folder / stage / kind).exists(), "it was killed too late to show anything"

    client(name).execute()
    assert lasting(read_json(folder / stage / "metrics.json")) == lasting(
        read_json(whole / stage / "metrics.json")
    )
    logs = [[lasting(line) for line in read_json(path / stage / "log.json")] for path in (folder, whole)]
    assert logs[0] == logs[1]
    one, two = (load_file(path / stage / kind / "adapter_model.safetensors") for path in (folder, whole))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
