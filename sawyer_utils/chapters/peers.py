"""What TRL's trainers need to go on from an adapter of SAWYER's, on its chat format, and what came of it; the
trainers themselves stand in notebooks 05 and 09."""

from __future__ import annotations

import gc
from pathlib import Path

import torch
from transformers import GenerationConfig
from trl import DPOTrainer, SFTTrainer

from sawyer_utils import evaluation, models, runtime, sft
from sawyer_utils.chat import decode, endings, that_fit
from sawyer_utils.plumbing import trainers
from sawyer_utils.plumbing.files import read_json, write_json
from sawyer_utils.profiles import Profile
from sawyer_utils.reward import RewardFn, checked_scores
from sawyer_utils.rollout import mask_after_end

POLICY = "default"  # what TRL calls the adapter that is trained; it copies it to "ref", the frozen one
# The profile's settings that a trainer's memory hangs on, as notebooks 05 and 09 build it.
SIZES = {SFTTrainer: ("sft_micro_batch",), DPOTrainer: ("ppo_micro_batch",)}


def start(profile: Profile, adapter: Path):
    """(tokenizer, model): the base with a saved adapter that is to be trained, under the name that TRL asks
    for."""
    gc.collect()  # an earlier trainer and its callbacks hold each other
    tokenizer, model = models.load_policy(profile)
    # The base's own config may stop at other tokens, or cut the distribution.
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return tokenizer, models.load_adapter(model, adapter, POLICY, trainable=True)


def arguments(profile: Profile, folder: Path) -> dict:
    """What each of the trainers' configs is told of this machine; TRL's defaults are for a GPU."""
    # On a CPU each new shape leaves a compiled kernel behind.
    return {**sft.machine_options(profile, folder), "pad_to_multiple_of": 8, "seed": 0}


def ready(trainer):
    """The same trainer, as this machine needs it."""
    models.activate(trainer.model, POLICY)
    return trainers.ready(trainer)


def train(trainer, profile: Profile, folder: Path, on_log=None) -> list[dict]:
    """:func:`trainers.run` of one of TRL's trainers, built with a model of :func:`start`."""
    sizes = SIZES.get(type(trainer), ("ppo_micro_batch", "ppo_batch"))  # the others sample, too
    return trainers.run(ready(trainer), profile, folder, profile.policy_base, sizes, on_log)


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


class TextReward:
    """A reward function on texts as RLOO asks it: on conversations and token ids, and with PPO's penalty
    for an answer without a stop token."""

    __name__ = "reward"  # TRL's log shows it

    def __init__(self, reward_fn: RewardFn, tokenizer, penalty: float):
        self.reward_fn, self.tokenizer, self.penalty = reward_fn, tokenizer, penalty

    def __call__(self, prompts, completions, completion_ids, **_) -> list[float]:
        texts = [decode(self.tokenizer, ids) for ids in completion_ids]
        scores = checked_scores(self.reward_fn, [prompt[-1]["content"] for prompt in prompts], texts)
        ends, stop = endings(self.tokenizer), self.tokenizer.eos_token_id
        # TRL samples on after the other tokens that end an answer.
        finished = (mask_after_end(torch.tensor([ids]), ends, stop)[1] for ids in completion_ids)
        return [s - self.penalty * (not done) for s, done in zip(scores, finished, strict=True)]


def sampled(profile: Profile, sft: Path, adapter: Path, prompts: list[str], path: Path, kl=True, **options):
    """What an adapter says to prompts, as lists in one order: "prompt", "response", "length" (tokens),
    "finished" and, if asked for, "kl" to the SFT model (nats). Sampled once and kept under ``path``; the
    dice are the same for every adapter, so only training differs.

    Args:
        options: of :func:`evaluation.answer`.
    """
    if not path.exists():
        tokenizer, model = models.load_actor(profile, sft)
        models.load_policy_weights(model, adapter)
        prompts = that_fit(tokenizer, prompts, profile.prompt_tokens)
        said = evaluation.answer(model, tokenizer, prompts, profile, **options)
        found = {"prompt": said.prompts, "response": said.responses, "length": said.lengths}
        found |= {"finished": said.finished, "kl": [0.0] * len(said.prompts)}  # of the SFT model to itself
        if kl and adapter != sft:
            compute = runtime.choose_precision(profile.precision).compute
            found["kl"] = evaluation.kl_to_reference(model, said, models.REF, compute)
        path.parent.mkdir(exist_ok=True)
        write_json(path, found)
    return read_json(path)
