"""A trainer's log as a plain list, for live plots and for files."""

from __future__ import annotations

import time
from collections.abc import Callable

from transformers import TrainerCallback

Log = list[dict]


class LogTo(TrainerCallback):
    """Keeps ``self.log``, ``[{"step": …, "loss": …, …}, …]``, and calls ``on_log(self.log)`` with it.

    The list comes from the trainer's own history, which a checkpoint restores: a training that was
    cut off and resumed has one unbroken log.
    """

    def __init__(self, on_log: Callable[[Log], None] | None = None):
        self.tell = on_log
        self.log: Log = []

    def on_log(self, args, state, control, **kwargs) -> None:
        # The last entry sums up the whole training; it is no step.
        steps = [line for line in state.log_history if "train_runtime" not in line]
        fresh = len(steps) > len(self.log)
        self.log = [{"step": line["step"], **_numbers(line)} for line in steps]
        if self.tell and fresh:
            self.tell(self.log)


def _numbers(line: dict) -> dict:
    # TRL counts its tokens from zero after a resume (1.16).
    numbers = {key: value for key, value in line.items() if isinstance(value, (int, float))}
    return {key: value for key, value in numbers.items() if key != "num_tokens"}


class Clock(TrainerCallback):
    """Seconds of training so far in each log entry. A checkpoint keeps them, so that a training
    that was cut off and resumed counts the time before the cut too."""

    def on_train_begin(self, args, state, control, **kwargs):
        earlier = max((line.get("seconds", 0.0) for line in state.log_history), default=0.0)
        self.start = time.perf_counter() - earlier

    def on_log(self, args, state, control, **kwargs):
        state.log_history[-1]["seconds"] = round(time.perf_counter() - self.start, 1)
