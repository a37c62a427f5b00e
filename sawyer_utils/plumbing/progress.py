"""A trainer's log as a plain list, for live plots and for files."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from transformers import TrainerCallback

from sawyer_utils.plumbing.files import finite

Log = list[dict]


class LogTo(TrainerCallback):
    """Keeps ``self.log``, ``[{"step": …, "loss": …, …}, …]``, and calls ``on_log(self.log)`` with it.

    The list comes from the trainer's own history, which a checkpoint restores: a training that was
    cut off and resumed has one unbroken log. What is not finite is left out, and how often is said at the
    end: in fp16 a step whose gradients overflow is skipped, and their norm is no number.

    Raises:
        FloatingPointError: for such a loss or norm in any other number format, where the step is not
            skipped and the weights are lost.
    """

    def __init__(self, on_log: Callable[[Log], None] | None = None):
        self.tell = on_log
        self.log: Log = []

    def on_log(self, args, state, control, **kwargs) -> None:
        steps = _steps(state)
        fresh = len(steps) > len(self.log)
        self.log = [{"step": line["step"], **_numbers(line)} for line in steps]
        wrong = {"loss", "grad_norm"} & _not_finite(steps[-1]) if steps else set()
        if wrong and not args.fp16:
            raise FloatingPointError(
                f"Step {state.global_step}: {' and '.join(sorted(wrong))} is not a finite number, and the "
                "weights are lost. The checkpoint before it is kept; a lower learning rate may help."
            )
        if self.tell and fresh:
            self.tell(self.log)

    def on_train_end(self, args, state, control, **kwargs) -> None:
        steps = _steps(state)
        for key, times in Counter(key for line in steps for key in _not_finite(line)).items():
            said = f"{key} was not finite in {times} of {len(steps)} log entries, which leave it out"
            skipped = key == "grad_norm" and args.fp16
            print(said + ("; fp16 overflowed there, and the step was skipped." if skipped else "."))


def _steps(state) -> Log:
    """The last entry of the history sums up the whole training; it is no step."""
    return [line for line in state.log_history if "train_runtime" not in line]


def _not_finite(line: dict) -> set[str]:
    return set(finite(line)[1])


def _numbers(line: dict) -> dict:
    # TRL counts its tokens from zero after a resume (1.16).
    return {k: v for k, v in finite(line)[0].items() if isinstance(v, (int, float)) and k != "num_tokens"}


class Clock(TrainerCallback):
    """Seconds of training so far in each log entry. A checkpoint keeps them, so that a training
    that was cut off and resumed counts the time before the cut too."""

    def on_train_begin(self, args, state, control, **kwargs):
        earlier = max((line.get("seconds", 0.0) for line in state.log_history), default=0.0)
        self.start = time.perf_counter() - earlier

    def on_log(self, args, state, control, **kwargs):
        state.log_history[-1]["seconds"] = round(time.perf_counter() - self.start, 1)
