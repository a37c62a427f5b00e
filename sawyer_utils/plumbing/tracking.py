"""``TRACKER=tensorboard``, ``trackio`` or ``wandb``: a training's numbers in a tracker, too. None by default.

The trainers of 01 and 02 pass it on to transformers, PPO to Accelerate's trackers. trackio stays on this
machine; wandb sends to its own servers, and asks for its login itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT = "sawyer"


def trainer_options(folder: Path) -> dict[str, str]:
    """The part of transformers' TrainingArguments about tracking, for a run in ``folder``."""
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(Path(folder) / "tensorboard")
    name = f"{Path(folder).parent.name}-{Path(folder).name}"  # "local-ppo" for runs/local/ppo
    return {"report_to": os.environ.get("TRACKER", "none").lower(), "project": PROJECT, "run_name": name}


@contextmanager
def follow(folder: Path | None) -> Iterator[Callable[[dict], None]]:
    """Yields a function that sends one log line, ``{"step": …, "reward": …, …}``, to the tracker.

    Without a run folder, as without a tracker, it does nothing.

    Raises:
        ValueError: for an unknown tracker, naming the known ones.
    """
    options = trainer_options(folder or Path())
    if folder is None or options["report_to"] == "none":
        yield lambda line: None
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    kind = LOGGER_TYPE_TO_CLASS.get(options["report_to"])
    if kind is None:
        known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
        raise ValueError(f"TRACKER={os.environ['TRACKER']!r} is unknown. Choose none, or one of: {known}.")
    local = {"logging_dir": os.environ["TENSORBOARD_LOGGING_DIR"]}
    writer = kind(PROJECT, **(local if kind.requires_logging_directory else {"name": options["run_name"]}))
    writer.start()
    try:
        yield lambda line: writer.log(_numbers(line), step=line["step"])
    finally:
        writer.finish()


def _numbers(line: dict) -> dict[str, float]:
    return {key: value for key, value in line.items() if isinstance(value, (int, float)) and key != "step"}
