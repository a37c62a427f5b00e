"""pytest plugin: notebooks that nbval runs find the pretended GPU (fakegpu.py).

    SAWYER_SECOND_DEVICE=fp16 SAWYER_PROFILE=smoke SAWYER_HOME=build/second PYTHONPATH=tests:. \\
        python -m pytest -p on_second_device --nbval-lax --nbval-current-env notebooks/03_ppo.ipynb

The format is fp32, bf16 or fp16. The kernels that nbval starts read their start-up files from ``IPYTHONDIR``:
here a copy of that folder, with a file that puts the device in place before the first cell.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

STARTUP = """
import os as _os, sys as _sys
_sys.path.insert(0, {tests!r})
import fakegpu as _device
_device.stay({number!r})

def _count(*_, path=_os.path.join({folder!r}, f"operators-{{_os.getpid()}}")):
    with open(path, "w") as file:
        file.write(str(_device.calls.total()))

get_ipython().events.register("post_run_cell", _count)
"""


def pytest_configure(config) -> None:
    number = os.environ.get("SAWYER_SECOND_DEVICE")
    if number not in ("fp32", "bf16", "fp16"):
        raise pytest.UsageError("on_second_device: SAWYER_SECOND_DEVICE is to be fp32, bf16 or fp16.")
    folder = config._second_device = Path(tempfile.mkdtemp(prefix="second-device-"))
    if given := os.environ.get("IPYTHONDIR"):
        shutil.copytree(given, folder, dirs_exist_ok=True)
    startup = folder / "profile_default" / "startup"
    startup.mkdir(parents=True, exist_ok=True)
    text = STARTUP.format(tests=str(Path(__file__).parent), number=number, folder=str(folder))
    (startup / "00-second-device.py").write_text(text, encoding="utf-8")
    os.environ["IPYTHONDIR"] = str(folder)


def pytest_sessionfinish(session, exitstatus) -> None:
    """A kernel whose start-up file fails goes on without it, on the CPU: that is no test."""
    counts = [int(path.read_text()) for path in session.config._second_device.glob("operators-*")]
    print(f"\noperators on the second device, by kernel: {counts}")
    notebooks = {item.path for item in session.items}
    if exitstatus == 0 and len([count for count in counts if count > 1000]) < len(notebooks):
        print("A notebook did not use the second device.")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
