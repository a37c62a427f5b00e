"""``TRACKER=tensorboard``, ``trackio`` or ``wandb``: a training's numbers in a tracker, too. None by default.

The trainers of 01 and 02 pass it on to transformers, PPO to Accelerate's trackers. trackio stays on this
machine; wandb sends to its own servers, and asks for its login itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

PROJECT = "sawyer"
# tracker -> packages of which one is enough
PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "trackio": ("trackio",), "wandb": ("wandb",)}


def tracker() -> str:
    """The tracker that ``TRACKER`` names, or "none".

    Raises:
        ValueError: for one that is not known.
        ModuleNotFoundError: if it is not installed, with the command.
    """
    name = os.environ.get("TRACKER", "").lower() or "none"
    if name == "none":
        return name
    if name not in PACKAGES:
        raise ValueError(f"TRACKER={name} is not known. Choose one of: none, {', '.join(PACKAGES)}.")
    if not any(map(find_spec, PACKAGES[name])):
        raise ModuleNotFoundError(f"TRACKER={name} needs its package: pip install {name}")
    return name


def trainer_options(folder: Path) -> dict[str, str]:
    """The part of transformers' TrainingArguments about tracking, for a run in ``folder``."""
    name = tracker()
    if name == "tensorboard":
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(_events(folder))
    return {"report_to": name, "project": PROJECT, "run_name": run_name(folder)}


@contextmanager
def follow(folder: Path | None) -> Iterator[Callable[[dict], None]]:
    """Yields a function that sends one log line, ``{"step": …, "reward": …, …}``, to the tracker.

    Without a run folder, as without a tracker, it does nothing.
    """
    name = tracker()
    if name == "none" or folder is None:
        yield lambda line: None
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    kind = LOGGER_TYPE_TO_CLASS[name]
    if kind.requires_logging_directory:
        # A file is named by the second: a run that goes on at once would write over its first half.
        writer = kind(".", _events(folder), filename_suffix=f".{time.time_ns()}")
    else:
        writer = kind(PROJECT, name=run_name(folder), resume="allow")
    writer.start()
    try:
        yield lambda line: writer.log(_numbers(line), step=line["step"])
    finally:
        writer.finish()


def run_name(folder: Path) -> str:
    """ "local-ppo" for ``runs/local/ppo``."""
    return f"{Path(folder).parent.name}-{Path(folder).name}"


def _events(folder: Path) -> Path:
    return Path(folder) / "tensorboard"


def _numbers(line: dict) -> dict[str, float]:
    return {key: value for key, value in line.items() if isinstance(value, (int, float)) and key != "step"}
