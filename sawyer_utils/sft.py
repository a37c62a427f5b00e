"""Supervised fine-tuning through TRL, and the held-out loss it is judged by."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from sawyer_utils import plots
from sawyer_utils.chat import encode, that_fit, token_count
from sawyer_utils.losses import token_logprobs
from sawyer_utils.models import load_policy_weights, save_adapter
from sawyer_utils.plumbing import memory, resuming, tracking, trainers
from sawyer_utils.plumbing.progress import Clock, LogTo, each
from sawyer_utils.plumbing.workarounds import trainables_to_fp32
from sawyer_utils.profiles import Profile
from sawyer_utils.runtime import choose_precision


def trainer_precision(profile: Profile) -> dict:
    """Explicit precision flags: TRL defaults to bf16, also where that is slow or wrong."""
    precision = choose_precision(profile.precision)
    return {
        "bf16": precision.compute == torch.bfloat16,
        "fp16": precision.compute == torch.float16,
        "use_cpu": precision.device == "cpu",
    }


def sft_trainer(
    model, tokenizer, profile: Profile, conversations: list[dict], folder: Path, callbacks=(), **options
) -> SFTTrainer:
    """TRL's SFTTrainer on conversations, graded on the answers only.

    Args:
        model: with LoRA added.
        options: anything of ``trl.SFTConfig`` to override.

    Raises:
        ValueError: without conversations.
    """
    if not conversations:
        raise ValueError("No conversation to learn from.")
    settings = {
        "output_dir": str(folder),
        "num_train_epochs": profile.sft_epochs,
        "max_steps": profile.sft_max_steps,
        "per_device_train_batch_size": profile.sft_micro_batch,
        "gradient_accumulation_steps": max(1, profile.sft_batch // profile.sft_micro_batch),
        "learning_rate": profile.sft_lr,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 5,
        "max_length": profile.conversation_tokens,
        "assistant_only_loss": True,
        "train_sampling_strategy": "sequential",  # trainers.in_batches has chosen the order
        "gradient_checkpointing": choose_precision(profile.precision).device != "cpu",
        "logging_steps": 1,
        "save_strategy": "no",  # resuming.train decides when
        "save_total_limit": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
        **trainer_precision(profile),
        **options,
    }
    lengths = [token_count(tokenizer, row) for row in conversations]
    rows = [{"messages": row["messages"]} for row in conversations]
    dataset = Dataset.from_list(trainers.in_batches(rows, lengths))
    trainer = SFTTrainer(
        model=model,
        args=trainers.one_gpu(SFTConfig(**settings)),
        train_dataset=dataset,
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )
    trainables_to_fp32(trainer.model)
    trainers.lower_the_scale(trainer)
    trainer.remove_callback(PrinterCallback)  # the log is drawn, not printed
    return trainer


def total_steps(profile: Profile, conversations: int) -> int:
    """Optimizer steps of a whole training, as the trainer will count them."""
    if profile.sft_max_steps > 0:
        return profile.sft_max_steps
    micro_batches = math.ceil(conversations / profile.sft_micro_batch)
    per_epoch = math.ceil(micro_batches / max(1, profile.sft_batch // profile.sft_micro_batch))
    return math.ceil(per_epoch * profile.sft_epochs)


def train_sft(
    model,
    tokenizer,
    profile: Profile,
    conversations: list[dict],
    folder: Path,
    on_log=None,
    resume: str | bool = "auto",
    **options,
) -> list[dict]:
    """Train a model with LoRA, going on from ``folder/checkpoint`` if this very training was cut off there;
    if it is done, load it. What is there of another one is moved aside (``resuming.claim``).

    Conversations longer than the profile's ``conversation_tokens`` are left out, which is said. Writes
    ``folder/log.json`` and ``folder/adapter``; the checkpoint goes when both are there.

    Args:
        on_log: called with the whole log at each of its entries; a live plot if left out.
        resume: "auto", or False to start over.
        options: anything of ``trl.SFTConfig`` to override.

    Returns:
        The log, ``[{"step": …, "loss": …, "seconds": …}, …]``.

    Raises:
        TrainingInterrupted: after the Stop button, with a checkpoint to go on from.
    """
    folder = Path(folder)
    conversations = that_fit(tokenizer, conversations, profile.conversation_tokens)
    checkpoint, steps = folder / "checkpoint", total_steps(profile, len(conversations))
    progress = LogTo(on_log or plots.LivePlot(plots.loss_curve, steps, every=4, folder=folder))
    callbacks, options = [Clock(), progress], {**tracking.trainer_options(folder), **options}
    trainer = sft_trainer(model, tokenizer, profile, conversations, checkpoint, callbacks, **options)
    halves = {
        "sft_micro_batch": (profile.sft_micro_batch, 1.0),
        "conversation_tokens": (profile.conversation_tokens, 1.0),
    }
    known = resuming.identity(trainer, profile.policy_base)
    ours = resuming.claim(folder, known, ("checkpoint", "adapter", "log.json"), bool(resume))
    if ours and (log := trainers.finished(folder, "adapter")):
        load_policy_weights(trainer.model, folder / "adapter", trainer.model.active_adapter)
        trainer.model.eval()
        return log
    with memory.explained(trainer.model, halves):
        resuming.train(trainer, profile.checkpoint_minutes)
    trainers.write(progress.log, folder / "log.json", lambda: save_adapter(model, folder / "adapter"))
    shutil.rmtree(checkpoint, ignore_errors=True)
    return progress.log


@torch.no_grad()
def graded_losses(
    model, tokenizer, conversations: list[dict], batch: int = 8
) -> list[tuple[list[int], list[float]]]:
    """Each conversation's graded tokens and the loss of each in nats, in the given order."""
    encoded = [encode(tokenizer, row["messages"]) for row in conversations]
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
    found: list[tuple[list[int], list[float]]] = [([], [])] * len(encoded)
    device = next(model.parameters()).device
    for start in each("batches read", range(0, len(order), batch)):
        rows = order[start : start + batch]
        width = max(len(encoded[i].ids) for i in rows)
        # Right padding: with causal attention nothing real can see it.
        ids = torch.full((len(rows), width), tokenizer.pad_token_id)
        graded = torch.zeros(len(rows), width, dtype=torch.bool)
        for k, i in enumerate(rows):
            ids[k, : len(encoded[i].ids)] = torch.tensor(encoded[i].ids)
            graded[k, : len(encoded[i].ids)] = torch.tensor(encoded[i].graded)
        logits = model(input_ids=ids.to(device), use_cache=False).logits[:, :-1]
        nll = -token_logprobs(logits, ids[:, 1:].to(device)).cpu()
        for k, i in enumerate(rows):
            mask = graded[k, 1:]
            found[i] = (ids[k, 1:][mask].tolist(), nll[k][mask].tolist())
    return found


def conversation_losses(model, tokenizer, conversations: list[dict], batch: int = 8) -> list[float]:
    """Mean loss of each conversation's graded tokens, in nats a token, in the given order."""
    found = graded_losses(model, tokenizer, conversations, batch)
    return [sum(losses) / len(losses) for _, losses in found]
