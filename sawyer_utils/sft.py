"""Supervised fine-tuning through TRL, and the held-out loss it is judged by."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from trl import SFTConfig, SFTTrainer

from sawyer_utils import plots
from sawyer_utils.chat import encode, that_fit, token_count
from sawyer_utils.losses import token_logprobs
from sawyer_utils.plumbing import tracking, trainers
from sawyer_utils.plumbing.progress import each
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


def machine_options(profile: Profile, folder: Path) -> dict:
    """Of ``trl.SFTConfig`` what changes no result of a run in ``folder``: number format, memory, log and
    checkpoints."""
    return {
        "output_dir": str(Path(folder) / "checkpoint"),
        "gradient_checkpointing": choose_precision(profile.precision).device != "cpu",
        "logging_steps": 1,
        "save_strategy": "no",  # resuming.train decides when
        "save_total_limit": 1,
        "disable_tqdm": True,
        **trainer_precision(profile),
        **tracking.trainer_options(folder),
    }


def in_order(tokenizer, conversations: list[dict]) -> Dataset:
    """Conversations as TRL reads them, in the order of :func:`trainers.in_batches`.

    Raises:
        ValueError: without conversations.
    """
    if not conversations:
        raise ValueError("No conversation to learn from.")
    lengths = [token_count(tokenizer, row) for row in conversations]
    rows = [{"messages": row["messages"]} for row in conversations]
    return Dataset.from_list(trainers.in_batches(rows, lengths))


def sft_trainer(
    model, tokenizer, profile: Profile, conversations: list[dict], folder: Path, **options
) -> SFTTrainer:
    """TRL's SFTTrainer on conversations, graded on the answers only. Notebook 01 builds the same in the open.

    Args:
        model: with LoRA added.
        folder: of the run.
        options: anything of ``trl.SFTConfig`` to override.

    Raises:
        ValueError: without conversations.
    """
    settings = {
        "num_train_epochs": profile.sft_epochs,
        "max_steps": profile.sft_max_steps,
        "per_device_train_batch_size": profile.sft_micro_batch,
        "gradient_accumulation_steps": profile.sft_batch // profile.sft_micro_batch,
        "learning_rate": profile.sft_lr,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 5,
        "max_length": profile.conversation_tokens,
        "assistant_only_loss": True,
        "train_sampling_strategy": "sequential",  # in_order has chosen the order
        "seed": 0,
        **machine_options(profile, folder),
        **options,
    }
    return trainers.ready(
        SFTTrainer(
            model=model,
            args=trainers.one_gpu(SFTConfig(**settings)),
            train_dataset=in_order(tokenizer, conversations),
            processing_class=tokenizer,
        )
    )


def total_steps(profile: Profile, conversations: int) -> int:
    """Optimizer steps of a whole training, as the trainer will count them."""
    if profile.sft_max_steps > 0:
        return profile.sft_max_steps
    return math.ceil(math.ceil(conversations / profile.sft_batch) * profile.sft_epochs)


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
    """Train a model with LoRA: :func:`sft_trainer`, then :func:`run`.

    Conversations longer than the profile's ``conversation_tokens`` are left out, which is said.

    Args:
        options: anything of ``trl.SFTConfig`` to override.
    """
    conversations = that_fit(tokenizer, conversations, profile.conversation_tokens)
    trainer = sft_trainer(model, tokenizer, profile, conversations, folder, **options)
    return run(trainer, profile, folder, on_log, resume)


def run(
    trainer: SFTTrainer, profile: Profile, folder: Path, on_log=None, resume: str | bool = "auto"
) -> list[dict]:
    """``trainer.train()`` for a trainer as :func:`sft_trainer` builds it, going on if this very training was
    cut off (:func:`trainers.run`). Writes ``folder/log.json`` and ``folder/adapter``.

    Args:
        on_log: called with the whole log at each of its entries; a live plot if left out.
        resume: "auto", or False to start over.
    """
    if on_log is None:
        steps, folder = total_steps(profile, len(trainer.train_dataset)), Path(folder)
        name = folder.name.replace("_", " ")
        on_log = plots.LivePlot(plots.loss_curve, steps, every=4, folder=folder, name=name)
    sizes = "sft_micro_batch", "conversation_tokens"
    return trainers.run(trainer, profile, folder, profile.policy_base, sizes, on_log, bool(resume))


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
        # Right padding: with causal attention nothing real can see it.
        ids = pad_sequence([torch.tensor(encoded[i].ids) for i in rows], True, tokenizer.pad_token_id)
        logits = model(input_ids=ids.to(device), use_cache=False).logits[:, :-1]
        nll = -token_logprobs(logits, ids[:, 1:].to(device)).cpu()
        for k, i in enumerate(rows):
            mask = torch.tensor(encoded[i].graded[1:])
            found[i] = (ids[k, 1:][: len(mask)][mask].tolist(), nll[k][: len(mask)][mask].tolist())
    return found


def conversation_losses(model, tokenizer, conversations: list[dict], batch: int = 8) -> list[float]:
    """Mean loss of each conversation's graded tokens, in nats a token, in the given order."""
    found = graded_losses(model, tokenizer, conversations, batch)
    return [sum(losses) / len(losses) for _, losses in found]
