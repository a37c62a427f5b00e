"""Trainings that may be cut off: small checkpoints every few minutes, a Stop button that keeps what was
learnt, and a second run that goes on from there to the same numbers.

For all that transformers' Trainer runs (``trainers.run``); PPO has its own checkpoints, and the same button
and :func:`claim`, which tells a run from another one.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import shutil
import signal
import threading
import time
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from peft import PeftConfig
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import Trainer, TrainerCallback
from transformers.trainer import SCALER_NAME
from transformers.trainer_utils import get_last_checkpoint

from sawyer_utils.plumbing.files import MessageAlone, read_json, write_json

RUN = "run.json"  # beside what a training leaves: which training
# Of a trainer's arguments, how those begin that do not change what it learns.
NO_RESULT = (
    *("_", "output_dir", "logging", "log_", "save", "report_to", "run_name", "project", "trackio", "hub"),
    *("disable_tqdm", "eval", "do_", "push_to_hub", "per_device", "gradient_", "activation_", "auto_find"),
    *("dataloader", "dataset_num", "bf16", "fp16", "tf32", "use_cpu", "torch_", "ddp", "fsdp", "deepspeed"),
    *("local_rank", "accelerator_config", "remove_unused", "include", "pad_to_multiple", "resume"),
)
NO_SETTING = ("base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version")


class TrainingInterrupted(MessageAlone, KeyboardInterrupt):
    """Stopped by hand, after a checkpoint."""

    def __init__(self, step: int, total: int):
        super().__init__(
            f"Stopped after step {step} of {total}. A checkpoint is kept: run this cell again to go on."
        )


class StopButton:
    """Turns Jupyter's Stop button (Ctrl-C) into a wish, which a training grants at the end of its step; a
    second press stops at once. Outside the main thread, where Python hears no signals, nothing changes.

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
        # RLOO and GRPO learn from a batch of answers for several steps; a checkpoint has no answers in it.
        pieces = getattr(args, "steps_per_generation", None) or args.gradient_accumulation_steps
        if state.global_step * args.gradient_accumulation_steps % pieces:
            return
        if self.button.pressed:
            control.should_save = control.should_training_stop = True
        elif time.monotonic() - self.saved >= self.seconds:
            control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        self.saved = time.monotonic()


def train(trainer: Trainer, minutes: float) -> None:
    """``trainer.train()``, going on from a checkpoint in its output folder if there is one (:func:`claim`
    has to be asked before). The trainer's own ``save_strategy`` is to be "no".

    Args:
        minutes: between two checkpoints; 0 keeps each step.

    Raises:
        TrainingInterrupted: after the Stop button, once the step is done and kept.
    """
    last = _last_whole(Path(trainer.args.output_dir))
    if last and trainer.accelerator.scaler is None:
        # Left by a card that computes in fp16: transformers would load it into no scaler (5.23).
        (last / SCALER_NAME).unlink(missing_ok=True)
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


def claim(folder: Path, identity: dict, outputs: tuple[str, ...], resume: bool = True, file=RUN) -> bool:
    """Whether what a training left in ``folder`` is of this very run. What is of another one is moved to
    ``folder/earlier-1`` (2, …), which is said: nothing is deleted, and nothing of another run is used.

    Args:
        identity: what changes the result, by name: texts and numbers are compared as they are; lists of
            numbers (scores) may differ by rounding.
        outputs: the names in ``folder`` that the training writes.
        resume: False starts over, whatever is there.
        file: where the identity is kept.
    """
    folder, known = Path(folder), Path(folder) / file
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in outputs]
    there = [path for path in paths if path.is_file() or (path.is_dir() and any(path.iterdir()))]
    try:
        before = read_json(known) if known.exists() else {}
    except ValueError:  # damaged: of which run, nobody knows
        before = {}
    changed = [name for name in {**before, **identity} if not alike(before.get(name), identity.get(name))]
    if there and not changed and resume:
        return True
    if there:
        names = (folder / f"earlier-{n}" for n in itertools.count(1))
        aside = next(path for path in names if not path.exists())
        aside.mkdir()
        for path in filter(Path.exists, [*there, known]):
            path.rename(aside / path.name)
        why = f"Another run is in {folder.name} ({', '.join(changed)}). " if before and changed else ""
        print(f"{why}Moved {', '.join(path.name for path in there)} to {aside}; starting over.")
    write_json(known, identity)
    return False


def alike(one, other) -> bool:
    """Whether two values are equal, lists of numbers but for rounding."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return all(math.isclose(a, b, rel_tol=1e-2, abs_tol=1e-3) for a, b in zip(one, other, strict=True))
    return one == other


def digest(value) -> str:
    """16 hex digits of a value, by its ``repr``."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def digest_of(parameters: Iterable[Tensor]) -> str:
    """16 hex digits of weights, by their numbers in fp32."""
    numbers = (parameter.detach().cpu().float().numpy().tobytes() for parameter in parameters)
    return hashlib.sha256(b"".join(numbers)).hexdigest()[:16]


def identity(trainer: Trainer, base: str) -> dict[str, str]:
    """What a training by transformers' or TRL's trainer learns from: data, base, adapter and settings.

    Args:
        base: the pretrained model's name.
    """
    args, model = trainer.args, trainer.model
    settings = {}
    for field in fields(args):
        default = field.default_factory() if callable(field.default_factory) else field.default
        value = str(getattr(args, field.name))
        if value != str(default) and not field.name.startswith(NO_RESULT):
            settings[field.name] = value
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    goes_on = any("lora_B" in name and bool(p.any()) for name, p in trained.items())
    lora = {name: _changed(config) for name, config in getattr(model, "peft_config", {}).items()}
    shapes = [tuple(p.shape) for p in trained.values()]
    return {
        "data": digest(list(trainer.train_dataset)),
        "base": base,
        "adapter": digest((sorted(lora.items()), shapes)),
        "start": digest_of(trained.values()) if goes_on else "fresh",
        "batch": str(batch),
        **settings,
    }


def _changed(config: PeftConfig) -> list[tuple[str, str]]:
    """An adapter's settings that are not PEFT's defaults, but for where and with what it was made."""
    default = type(config)().to_dict()
    kept = [
        (name, sorted(value) if isinstance(value, (set, list)) else value)
        for name, value in config.to_dict().items()
        if value != default.get(name) and name not in NO_SETTING
    ]
    return sorted((name, str(value)) for name, value in kept)


def fingerprint(adapter: Path, *settings) -> str:
    """Eight hex digits of what a training depends on: the adapter it starts from, and all else (by its
    ``repr``: lessons, profile), so that nobody loads the result of another text or of other settings."""
    weights = (Path(adapter) / "adapter_model.safetensors").read_bytes()
    return hashlib.sha256(repr(settings).encode() + weights).hexdigest()[:8]


def _last_whole(folder: Path) -> Path | None:
    """The newest whole checkpoint; what a killed process or a drive left half is removed."""
    while folder.exists() and (newest := get_last_checkpoint(folder)) is not None:
        try:
            for name in ("optimizer.pt", "scheduler.pt"):  # without, the Trainer would begin new ones
                (Path(newest) / name).stat()
            with safe_open(Path(newest) / "adapter_model.safetensors", "pt"):  # cut off, it is refused
                pass
            # The Trainer writes its state last.
            read_json(Path(newest) / "trainer_state.json")
            return Path(newest)
        except (OSError, ValueError, SafetensorError):
            shutil.rmtree(newest)
    return None
