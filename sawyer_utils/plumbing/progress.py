"""How far a long cell is, for who runs the notebooks; and a trainer's log as a plain list."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import ClassVar

from transformers import TrainerCallback

from sawyer_utils.plumbing.files import finite, write_json
from sawyer_utils.plumbing.memory import give_back

Log = list[dict]
FILE = "SAWYER_PROGRESS"  # the variable that names the file; `python -m sawyer_utils course` sets it
SHOWN = ("loss", "accuracy", "reward", "kl")
PAUSE = 5.0  # seconds between two times that freed memory is given back, which takes a tenth of one


class Stage:
    """A part of a cell that takes long and counts: a training, or a list that is gone through. It writes how
    far it is to the file that ``SAWYER_PROGRESS`` names, and takes it away at its end; without that variable
    nothing happens. Of a stage inside another one nothing is heard.

    The file: ``{"what": "answers", "step": 40, "total": 120, "left": seconds or null, "loss": …}``.
    """

    current: ClassVar[Stage | None] = None

    def __init__(self, what: str):
        self.what, self.began, self.first = what, time.monotonic(), None
        self.given_back = self.began
        if Stage.current is None:
            Stage.current = self

    def tell(self, step: int, total: int, numbers: dict[str, float] | None = None) -> None:
        """``step`` of ``total`` are done; of the numbers the usual ones are shown."""
        if Stage.current is not self:
            return
        if time.monotonic() - self.given_back > PAUSE:
            give_back()
            self.given_back = time.monotonic()
        if FILE not in os.environ:
            return
        if self.first is None:  # a training that goes on does not begin at 0
            self.first = step
        done, took = step - self.first, time.monotonic() - self.began
        left = took / done * (total - step) if done else None
        shown = {key: value for key, value in finite(numbers or {})[0].items() if key in SHOWN}
        now = {"what": self.what, "step": step, "total": total, "left": left, **shown}
        with suppress(OSError):  # on Windows, while somebody reads it
            write_json(os.environ[FILE], now)

    def close(self) -> None:
        """The stage is over: what it said is no more."""
        if Stage.current is self:
            Stage.current = None
            give_back()
            if FILE in os.environ:
                with suppress(OSError):
                    Path(os.environ[FILE]).unlink()


def stage(what: str) -> closing[Stage]:
    """A :class:`Stage` that ends with the block."""
    return closing(Stage(what))


def each(what: str, items: Sequence) -> Iterator:
    """The items one after the other, and how far that is."""
    with stage(what) as now:
        for number, item in enumerate(items):
            now.tell(number, len(items))
            yield item


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
        self.stage = Stage("training")

    def close(self) -> None:
        """The training is over, however it ended."""
        self.stage.close()

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.stage.tell(state.global_step, state.max_steps)

    def on_log(self, args, state, control, **kwargs) -> None:
        steps = _steps(state)
        fresh = len(steps) > len(self.log)
        self.log = [{"step": line["step"], **_numbers(line)} for line in steps]
        wrong = {"loss", "grad_norm"}.intersection(finite(steps[-1])[1]) if steps else ()
        if wrong and not args.fp16:
            raise FloatingPointError(
                f"Step {state.global_step}: {' and '.join(sorted(wrong))} is not a finite number, and the "
                "weights are lost. The checkpoint before it is kept; a lower learning rate may help."
            )
        if fresh:
            self.stage.tell(state.global_step, state.max_steps, self.log[-1])
        if self.tell and fresh:
            self.tell(self.log)

    def on_train_end(self, args, state, control, **kwargs) -> None:
        steps = _steps(state)
        for key, times in Counter(key for line in steps for key in finite(line)[1]).items():
            said = f"{key} was not finite in {times} of {len(steps)} log entries, which leave it out"
            skipped = key == "grad_norm" and args.fp16
            print(said + ("; fp16 overflowed there, and the step was skipped." if skipped else "."))


def _steps(state) -> Log:
    """The last entry of the history sums up the whole training; it is no step."""
    return [line for line in state.log_history if "train_runtime" not in line]


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
