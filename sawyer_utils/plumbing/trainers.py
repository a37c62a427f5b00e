"""What every one of transformers' and TRL's trainers needs here: one GPU, a scale at which fp16 can begin,
and a log and weights that are both there at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transformers import Trainer, TrainingArguments

from sawyer_utils.plumbing.files import write_json

# fp16 multiplies the loss, lest small gradients become 0, and skips a step whose gradients overflow. From
# torch's 65,536 SmolLM2-135M skips its first three steps, half of a short training: 16,384 overflows, 8,192
# does not. From 256 to 8,192 the gradient of its first SFT batch differs from fp32's by 0.5 %, and by as much
# at each scale: there is nothing to gain higher up.
FP16_SCALE = 2.0**10


def one_gpu(args: TrainingArguments) -> TrainingArguments:
    """The same arguments, for one GPU a process. With several in sight a Trainer would copy the model to
    each of them (DataParallel, which TRL refuses): batches would grow, and forward() of the copies would
    still read the first card's weights (``models.spare_the_table``)."""
    if args.n_gpu > 1:  # asked first: the answer is what sets it
        args._n_gpu = 1
    return args


def lower_the_scale(trainer: Trainer) -> None:
    """Let fp16's gradient scaler begin at :data:`FP16_SCALE`; a checkpoint brings its own."""
    if (scaler := trainer.accelerator.scaler) is not None:
        scaler.load_state_dict({**scaler.state_dict(), "scale": FP16_SCALE})


def write(log: list[dict], path: Path, save_weights: Callable[[], None]) -> None:
    """Write the log, then the weights: whoever finds the weights expects the log. The weights are saved
    whatever becomes of the log."""
    try:
        write_json(path, log)
    finally:
        save_weights()
