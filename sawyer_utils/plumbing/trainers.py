"""What every one of transformers' and TRL's trainers needs here: one GPU, a scale at which fp16 can begin,
checkpoints to go on from, and a log and weights that are both there at the end."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PrinterCallback, Trainer, TrainingArguments

from sawyer_utils.plumbing import memory, resuming, workarounds
from sawyer_utils.plumbing.adapters import load_policy_weights, save_adapter
from sawyer_utils.plumbing.files import read_json, write_json
from sawyer_utils.plumbing.progress import Clock, LogTo

if TYPE_CHECKING:
    from sawyer_utils.profiles import Profile

# fp16 multiplies the loss, lest small gradients become 0, and skips a step whose gradients overflow. From
# torch's 65,536 SmolLM2-135M skips its first three steps, half of a short training: 16,384 overflows, 8,192
# does not. From 256 to 8,192 the gradient of its first SFT batch differs from fp32's by 0.5 %, and by as much
# at each scale: there is nothing to gain higher up.
FP16_SCALE = 2.0**10


def one_gpu(args: TrainingArguments) -> TrainingArguments:
    """The same arguments, for one GPU a process. With several in sight a Trainer would copy the model to
    each of them (DataParallel, which TRL refuses), and batches would grow."""
    if args.n_gpu > 1:  # asked first: the answer is what sets it
        args._n_gpu = 1
    return args


ALIKE = 8  # rows; the same whatever the micro-batch, whose size may change in a run that goes on


def in_batches(rows: list, lengths: list[int]) -> list:
    """Rows as a trainer reads them: eight of about one length at a time, which need little padding in a
    micro-batch, and these eights in random order. A step of several of them sees all lengths; whole
    steps of one length would each teach another lesson on length. Rows that fill no eight, drawn at
    random, come last.

    For a trainer with ``train_sampling_strategy="sequential"``, which goes on in the same order after a
    stop. (transformers' own grouping by length sorts inside blocks of 50 batches, and pads more; 5.23.)
    """
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(rows), generator=generator).tolist()
    whole = len(rows) - len(rows) % ALIKE
    by_length = sorted(order[:whole], key=lengths.__getitem__)
    starts = torch.randperm(whole // ALIKE, generator=generator) * ALIKE
    order[:whole] = [i for start in starts.tolist() for i in by_length[start : start + ALIKE]]
    return [rows[i] for i in order]


def ready(trainer: Trainer) -> Trainer:
    """The same trainer, with adapters in fp32, a scale at which fp16 can begin (a checkpoint brings its own),
    and no line for each step: the log is drawn, not printed."""
    workarounds.trainables_to_fp32(trainer.model)
    if (scaler := trainer.accelerator.scaler) is not None:
        scaler.load_state_dict({**scaler.state_dict(), "scale": FP16_SCALE})
    trainer.remove_callback(PrinterCallback)
    return trainer


def run(
    trainer: Trainer,
    profile: Profile,
    folder: Path,
    base: str,
    sizes: tuple[str, ...],
    on_log=None,
    resume: bool = True,
    weights: str = "adapter",
    **also,
) -> list[dict]:
    """``trainer.train()``, going on from ``folder/checkpoint`` if this very training was cut off there; if it
    is done, load it. What is there of another one is moved aside (``resuming.claim``).

    Writes ``folder/log.json`` and the adapter; the checkpoint goes when both are there.

    Args:
        base: the pretrained model's name.
        sizes: the profile's settings that memory hangs on.
        on_log: called with the whole log at each of its entries, and with the one that is loaded.
        weights: the adapter's folder in ``folder``; with what ``also`` says beside it (``save_adapter``).

    Returns:
        The log, ``[{"step": …, "loss": …, "seconds": …}, …]``.

    Raises:
        TrainingInterrupted: after the Stop button, with a checkpoint to go on from.
        OutOfMemory: with the settings that help most.
    """
    model, folder = ready(trainer).model, Path(folder)
    known = resuming.identity(trainer, base)
    ours = resuming.claim(folder, known, ("checkpoint", weights, "log.json"), resume)
    if ours and (log := finished(folder, weights)):
        load_policy_weights(model, folder / weights, "default")
        model.eval()
        if on_log:
            on_log(log)
        return log
    halves = {name: (getattr(profile, name), 1.0) for name in sizes}
    with closing(LogTo(on_log)) as progress, memory.explained(model, halves):
        for callback in (Clock(), progress):
            trainer.add_callback(callback)
        resuming.train(trainer, profile.checkpoint_minutes)
    write(progress.log, folder / "log.json", partial(save_adapter, model, folder / weights, **also))
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    return progress.log


def finished(folder: Path, weights: str) -> list[dict] | None:
    """The log of a training that :func:`write` has finished, which is said; None if it is not."""
    if not (folder / weights / "adapter_model.safetensors").exists() or not (folder / "log.json").exists():
        return None
    print(f"Already trained: loading {folder.name}/{weights}.")
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)  # of a process that died tidying up
    return read_json(folder / "log.json")


def write(log: list[dict], path: Path, save_weights: Callable[[], None]) -> None:
    """Write the log, then the weights: whoever finds the weights expects the log. The weights are saved
    whatever becomes of the log."""
    try:
        write_json(path, log)
    finally:
        save_weights()
