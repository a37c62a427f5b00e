"""Trainings that may be cut off: small checkpoints every few minutes, a Stop button that keeps what was
learnt, and a second run that goes on from there to the same numbers.

For the two stages that transformers' Trainer runs; PPO has its own checkpoints and the same button.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import signal
import threading
import time
from pathlib import Path

from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from sawyer_utils.plumbing.files import read_json, write_json

RUN = "run.json"  # beside the checkpoints: what they are checkpoints of
# Of the trainer's arguments, those that do not change what comes out.
ELSEWHERE = ("output_dir", "logging", "log_", "save", "report_to", "run_name", "project", "disable_tqdm")


class TrainingInterrupted(KeyboardInterrupt):
    """Stopped by hand, after a checkpoint. A notebook shows the message alone, without a traceback."""

    def __init__(self, step: int, total: int):
        super().__init__(
            f"Stopped after step {step} of {total}. A checkpoint is kept: run this cell again to go on."
        )

    def _render_traceback_(self) -> list[str]:  # IPython asks for it
        return [str(self)]


class StopButton:
    """Turns Jupyter's Stop button (Ctrl-C) into a wish, which a training grants at the end of its step.

    A second press stops at once. Outside the main thread, where Python hears no signals, nothing changes.

    Attributes:
        pressed: whether somebody wants to stop.
    """

    def __init__(self, enabled: bool = True):
        self.enabled = enabled and threading.current_thread() is threading.main_thread()
        self.pressed = False

    def __enter__(self) -> StopButton:
        if self.enabled:
            self.before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_) -> None:
        if self.enabled:
            signal.signal(signal.SIGINT, self.before)

    def _press(self, *_) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
        with contextlib.suppress(RuntimeError):  # pressed in the middle of another print
            print("Stopping at the end of this step, to keep it. Press again to stop at once.", flush=True)


class _Keep(TrainerCallback):
    """Asks the Trainer for a checkpoint every few minutes, and for one more when the button is pressed."""

    def __init__(self, button: StopButton, minutes: float):
        self.button, self.seconds = button, 60 * minutes
        self.saved = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        if self.button.pressed:
            control.should_save = control.should_training_stop = True
        elif time.monotonic() - self.saved >= self.seconds:
            control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        self.saved = time.monotonic()


def train(
    trainer: Trainer,
    minutes: float,
    resume: str | bool = "auto",
) -> None:
    """``trainer.train()``, going on from a checkpoint in its output folder if that is one of this very
    run: the same settings, data and trainable weights.

    The trainer's own ``save_strategy`` is to be "no".

    Args:
        minutes: between two checkpoints; 0 keeps each step.
        resume: "auto", or False to start over.

    Raises:
        TrainingInterrupted: after the Stop button, once the step is done and kept.
    """
    folder = Path(trainer.args.output_dir)
    last = _last_whole(trainer, folder) if resume else None
    if last is None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(folder / RUN, identity(trainer))
    with StopButton() as button:
        trainer.add_callback(_Keep(button, minutes))
        try:
            trainer.train(resume_from_checkpoint=last and str(last))
        finally:
            # The trainer wrapped forward() in autocast; from here on it computes as a loaded model does.
            trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
            trainer.model.eval()
    if button.pressed and trainer.state.global_step < trainer.state.max_steps:
        raise TrainingInterrupted(trainer.state.global_step, trainer.state.max_steps)


def identity(trainer: Trainer) -> dict[str, str]:
    """What must be equal for a training to be the same training."""
    settings = {k: str(v) for k, v in trainer.args.to_dict().items() if not k.startswith(ELSEWHERE)}
    shapes = [(n, tuple(p.shape)) for n, p in trainer.model.named_parameters() if p.requires_grad]
    digests = {"data": list(trainer.train_dataset), "trained": shapes}
    return settings | {k: hashlib.sha256(repr(v).encode()).hexdigest() for k, v in digests.items()}


def fingerprint(adapter: Path, *settings) -> str:
    """Eight hex digits of what a training depends on: the adapter it starts from, and all else (by its
    ``repr``: lessons, profile), so that nobody loads the result of another text or of other settings."""
    digest = hashlib.sha256(repr(settings).encode())
    digest.update((Path(adapter) / "adapter_model.safetensors").read_bytes())
    return digest.hexdigest()[:8]


def _last_whole(trainer: Trainer, folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; what a killed process left half is removed."""
    known = folder / RUN
    if not known.exists():
        return None
    if read_json(known) != identity(trainer):
        print("The checkpoint is of other settings or data: starting over.")
        return None
    while (newest := get_last_checkpoint(folder)) is not None:
        try:
            # The Trainer writes its state last.
            read_json(Path(newest) / "trainer_state.json")
            return Path(newest)
        except (OSError, ValueError):
            shutil.rmtree(newest)
    return None
