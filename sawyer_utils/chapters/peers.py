"""DPO and RLOO by TRL's trainers, on SAWYER's chat format, with PPO's settings where they have the same."""

from __future__ import annotations

import functools
import gc
from pathlib import Path

import torch
from datasets import Dataset
from transformers import GenerationConfig, PrinterCallback
from trl import DPOConfig, DPOTrainer, RLOOConfig, RLOOTrainer

from sawyer_utils import models
from sawyer_utils.chat import decode, endings
from sawyer_utils.data import Pair
from sawyer_utils.plumbing import memory, trainers, workarounds
from sawyer_utils.plumbing.progress import Clock, LogTo, each
from sawyer_utils.profiles import Profile
from sawyer_utils.reward import RewardFn, checked_scores
from sawyer_utils.rollout import sample
from sawyer_utils.runtime import choose_precision
from sawyer_utils.sft import trainer_precision

POLICY, REF = "default", "ref"  # what TRL calls them


def _load(profile: Profile, start: Path):
    """(tokenizer, model): the base with the adapter ``start`` under the name that TRL asks for."""
    tokenizer, model = models.load_policy(profile)
    # The base's own config may stop at other tokens, or cut the distribution.
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return tokenizer, models.load_adapter(model, start, POLICY, trainable=True)


def _settings(profile: Profile, folder: Path, seed: int) -> dict:
    """What both trainers are told; TRL's defaults are for a GPU and for whole models."""
    return {
        "output_dir": str(folder / "trainer"),
        "lr_scheduler_type": "linear",
        "weight_decay": 0.0,
        "gradient_checkpointing": choose_precision(profile.precision).device != "cpu",
        "disable_dropout": True,
        "pad_to_multiple_of": 8,  # on a CPU each new shape leaves a compiled kernel behind
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": seed,
        **trainer_precision(profile),
    }


def _ready(trainer, reference: Path):
    """TRL copies the starting adapter to ``ref``: another reference is loaded over it."""
    models.load_policy_weights(trainer.model, reference, REF)
    models.activate(trainer.model, POLICY, trainable=True)
    workarounds.trainables_to_fp32(trainer.model)
    trainers.lower_the_scale(trainer)
    trainer.remove_callback(PrinterCallback)  # the log is drawn, not printed
    return trainer


def _run(trainer, progress: LogTo, folder: Path, halves: dict) -> list[dict]:
    """Train, write ``folder/adapter`` and ``folder/log.json``, and return the log."""
    with memory.explained(trainer.model, halves):
        trainer.train()
    save = functools.partial(models.save_adapter, trainer.model, folder / "adapter", POLICY)
    trainers.write(progress.log, folder / "log.json", save)
    return progress.log


# --- DPO ----------------------------------------------------------------------------------------


def dpo_trainer(
    profile: Profile,
    pairs: list[Pair],
    start: Path,
    reference: Path,
    folder: Path,
    seed=0,
    callbacks=(),
    **options,
) -> DPOTrainer:
    """TRL's DPOTrainer, built.

    Args:
        start: the adapter that is trained.
        reference: the adapter of π_ref.
        options: anything of ``trl.DPOConfig`` to override.
    """
    tokenizer, model = _load(profile, start)
    micro = max(1, min(profile.dpo_batch, profile.ppo_micro_batch // 2))  # each pair is two rows
    settings = {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": profile.dpo_batch // micro,
        "num_train_epochs": 1,
        "learning_rate": profile.dpo_lr,
        "beta": profile.dpo_beta,
        "max_length": None,
        **_settings(profile, folder, seed),
        **options,
    }
    rows = [
        {
            "prompt": [{"role": "user", "content": pair.prompt}],
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
        }
        for pair in pairs
    ]
    trainer = DPOTrainer(
        model=model,
        args=trainers.one_gpu(DPOConfig(**settings)),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )
    return _ready(trainer, reference)


@torch.no_grad()
def opened(trainer: DPOTrainer) -> tuple[float, list[torch.Tensor]]:
    """TRL's own loss of a DPO trainer's first batch, and what it is made of: the sums of token log-probs of
    chosen and rejected by the policy, and of both by the reference; four (B,)."""
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with trainer.accelerator.autocast():
        policy = trainer.model(**inputs, labels=labels, fused_lm_head=True).log_probs.sum(1).chunk(2)
        reference = trainer.compute_ref_log_probs(trainer.model, batch)
        return float(trainer.compute_loss(trainer.model, batch)), [*policy, *reference]


def train_dpo(
    profile: Profile,
    pairs: list[Pair],
    start: Path,
    reference: Path,
    folder: Path,
    seed: int = 0,
    on_log=None,
    **options,
) -> list[dict]:
    """Go on from the adapter ``start`` by DPO on pairs; writes ``folder/adapter`` and ``folder/log.json``.

    Arguments as in :func:`dpo_trainer`; ``on_log`` is called with the whole log at each of its entries.

    Raises:
        OutOfMemory: with the settings that help most.
    """
    progress = LogTo(on_log)
    callbacks = [Clock(), progress]
    trainer = dpo_trainer(profile, pairs, start, reference, Path(folder), seed, callbacks, **options)
    log = _run(trainer, progress, Path(folder), {"ppo_micro_batch": (profile.ppo_micro_batch, 1.0)})
    del trainer
    gc.collect()  # trainer and callbacks hold each other
    return log


def online_pairs(
    model, tokenizer, prompts: list[str], reward_fn: RewardFn, profile: Profile, seed: int = 0
) -> tuple[list[Pair], int]:
    """Two fresh samples of each prompt, the one that ``reward_fn`` prefers first; ties are dropped.

    Returns:
        The pairs, and the number of generated tokens.
    """
    torch.manual_seed(seed)
    twice = [prompt for prompt in prompts for _ in range(2)]
    responses, tokens = [], 0
    with models.merged(model):
        for i in each("batches of answers", range(0, len(twice), profile.ppo_batch)):
            part = twice[i : i + profile.ppo_batch]
            settings = profile.response_tokens, profile.temperature, profile.prompt_tokens
            batch = sample(model.eval(), tokenizer, part, *settings)
            responses += batch.responses
            tokens += int(batch.lengths.sum())
    scores = checked_scores(reward_fn, twice, responses)
    found = []
    for i in range(0, len(twice), 2):
        best, worst = (i, i + 1) if scores[i] > scores[i + 1] else (i + 1, i)
        if scores[best] > scores[worst]:
            margin = scores[best] - scores[worst]
            texts = responses[best], responses[worst]
            found.append(Pair(f"online-{i // 2}", "", twice[i], *texts, margin, ("sampled", "sampled")))
    return found, tokens


# --- RLOO ---------------------------------------------------------------------------------------


class TextReward:
    """A reward function on texts as RLOO asks it: on conversations and token ids, and with PPO's penalty
    for an answer without a stop token. It counts what it was shown.

    Attributes:
        answers, tokens: shown so far, stop tokens included.
    """

    __name__ = "reward"  # TRL's log shows it

    def __init__(self, reward_fn: RewardFn, tokenizer, penalty: float):
        self.reward_fn, self.tokenizer, self.penalty = reward_fn, tokenizer, penalty
        self.answers = self.tokens = 0

    def __call__(self, prompts, completions, completion_ids, **_) -> list[float]:
        texts = [decode(self.tokenizer, ids) for ids in completion_ids]
        scores = checked_scores(self.reward_fn, [prompt[-1]["content"] for prompt in prompts], texts)
        self.answers += len(texts)
        self.tokens += sum(map(len, completion_ids))
        return [
            score - self.penalty * (not self._finished(ids))
            for score, ids in zip(scores, completion_ids, strict=True)
        ]

    def _finished(self, ids: list[int]) -> bool:
        """Whether the first token that ends an answer is the stop token; TRL samples on after the others."""
        ends = set(endings(self.tokenizer))
        return next((i for i in ids if i in ends), None) == self.tokenizer.eos_token_id


def rloo_trainer(
    profile: Profile,
    prompts: list[str],
    reward_fn: RewardFn,
    start: Path,
    reference: Path,
    folder: Path,
    steps: int,
    seed: int = 0,
    callbacks=(),
    **options,
) -> RLOOTrainer:
    """TRL's RLOOTrainer, built: PPO's batch, learning rate, temperature, KL coefficient, passes and
    minibatches; four answers to each prompt, so a quarter of the prompts.

    Args:
        steps: batches of ``ppo_batch`` answers.
        options: anything of ``trl.RLOOConfig`` to override.
    """
    tokenizer, model = _load(profile, start)
    rows = profile.ppo_batch // profile.ppo_minibatches  # a gradient step
    micro = min(profile.ppo_micro_batch, rows)
    settings = {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": rows // micro,
        "steps_per_generation": profile.ppo_batch // micro,  # counted in micro-batches
        "num_iterations": profile.ppo_epochs,
        "max_steps": steps * profile.ppo_epochs * profile.ppo_minibatches,
        "num_generations": 4,
        "max_completion_length": profile.response_tokens,
        "temperature": profile.temperature,
        "top_k": 0,
        "top_p": 1.0,
        "beta": profile.kl_coef,
        "learning_rate": profile.ppo_lr,
        **_settings(profile, folder, seed),
        **options,
    }
    trainer = RLOOTrainer(
        model=model,
        reward_funcs=TextReward(reward_fn, tokenizer, profile.missing_stop_penalty),
        args=trainers.one_gpu(RLOOConfig(**settings)),
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": p}]} for p in prompts]),
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )
    return _ready(trainer, reference)


def train_rloo(
    profile: Profile,
    prompts: list[str],
    reward_fn: RewardFn,
    start: Path,
    reference: Path,
    folder: Path,
    steps: int,
    seed: int = 0,
    on_log=None,
) -> tuple[list[dict], int]:
    """Go on from the adapter ``start`` by RLOO (Ahmadian et al. 2024, arXiv 2402.14740); writes
    ``folder/adapter`` and ``folder/log.json``.

    Returns:
        The log, and the number of generated tokens.

    Raises:
        OutOfMemory: with the settings that help most.
    """
    progress, folder = LogTo(on_log), Path(folder)
    settings = profile, prompts, reward_fn, start, reference, folder, steps, seed, [Clock(), progress]
    trainer = rloo_trainer(*settings)
    tokens = trainer.reward_funcs[0]
    halves = {"ppo_micro_batch": (profile.ppo_micro_batch, 1.0), "ppo_batch": (profile.ppo_batch, 1.0)}
    log = _run(trainer, progress, folder, halves)
    generated = tokens.tokens
    del trainer
    gc.collect()
    return log, generated
