"""Does the course fit a card? Peak bytes of each stage of a profile, from its sizes alone.

``memory_budget.py`` has the formulas of PPO; here are those of the other stages, and
:func:`stages`, which puts a profile's numbers into all of them. They are upper bounds for a GPU: 16-bit
autocast, activation checkpointing of the policy, attention that keeps no scores. ``tests/test_fits.py``
holds each against what the real training or evaluation of a tiny model allocates.
"""

from __future__ import annotations

import memory_budget
from memory_budget import BYTES, JUDGES, MODELS, RANK, encoder_parameters, kv_cache, lora_parameters

from sawyer_utils.chapters.likelihood import BATCH_TOKENS
from sawyer_utils.plumbing.memory import GIB
from sawyer_utils.profiles import Profile
from sawyer_utils.reward import MICRO_BATCHES

TILE = 2**15  # words of the vocabulary that TRL's loss takes at once
HELD_OUT_ROWS = 8  # conversations whose loss is measured at once: sft.conversation_losses
SCORED_ROWS = 32  # pairs that a judge reads at once: reward.RewardModel.score


# --- policy -------------------------------------------------------------------------------------


def policy_weights(model, precision="nf4", rank: int = RANK, adapters: int = 2) -> int:
    """Bytes of the frozen base and of adapters that nothing trains at the moment."""
    no_judge = memory_budget.Shape(0, 0, 0, 0, 0)
    held = memory_budget.resident(model, no_judge, precision, rank)
    base = sum(size for name, size in held.items() if name not in ("policy", "ref", "reward_model"))
    return base + adapters * held["ref"]


def sft_update(model, rows: int, length: int, precision="nf4", rank: int = RANK) -> dict[str, int]:
    """One micro-batch of supervised fine-tuning, forward and backward, by TRL's loss.

    It takes the logits of the graded positions in tiles of :data:`TILE` words: one in 16 bits, and up to 28
    bytes more a word while torch's operations work on it (trl 1.16; on CUDA a kernel needs the first alone).

    Args:
        rows, length: of a micro-batch, tokens of question and answer, padding included.
    """
    part = memory_budget.working(model, rows, length, precision, rank)
    trained = lora_parameters(model, rank)
    return {
        "weights": policy_weights(model, precision, rank, adapters=0) + 4 * trained,
        "optimizer": 12 * trained,
        "activations": part["layer_inputs"] + part["layer"] + part["temporaries"],
        "logits": rows * length * (2 * TILE + 28 * min(TILE, model.vocab_size)),
    }


def held_out_loss(model, rows: int, length: int, precision="nf4", rank: int = RANK) -> dict[str, int]:
    """The loss of conversations that nothing is trained on: logits, the same in fp32, log-softmax."""
    return {
        "weights": policy_weights(model, precision, rank, adapters=1),
        "activations": memory_budget.one_layer(model, rows * length, precision),
        "logits": (BYTES[precision] + 8) * rows * length * model.vocab_size,
    }


def answers(
    model, judges: int, rows: int, prompt: int, response: int, precision="nf4", rank: int = RANK
) -> dict[str, int]:
    """Sampling answers to ``rows`` prompts at once, and their KL to the reference: no gradients.

    Args:
        judges: bytes of the reward models that are in memory, too.
    """
    part = memory_budget.working(model, rows, prompt + response, precision, rank, response)
    sampling = {
        "merged copy": part["merged"],
        "cache": part["kv_cache"],
        "activations": memory_budget.one_layer(model, rows * prompt, precision),
        # Of the last position: 16 bits, fp32, its softmax, and running sums in fp64.
        "logits": 24 * rows * model.vocab_size,
    }
    comparing = {
        "activations": memory_budget.one_layer(model, rows * (prompt + response), precision),
        "logits": part["logits"],
    }
    found = max(sampling, comparing, key=lambda held: sum(held.values()))
    found["activations"] += part["temporaries"]
    return {"weights": policy_weights(model, precision, rank) + judges, **found}


def multiple_choice(
    model, judges: int, batch_tokens: int = BATCH_TOKENS, precision="nf4", rank: int = RANK
) -> dict[str, int]:
    """Choices by log-likelihood: so many tokens go through at once, and see four times as many."""
    part = memory_budget.working(model, 1, batch_tokens, precision, rank)
    layer = memory_budget.one_layer(model, batch_tokens, precision)
    return {
        "weights": policy_weights(model, precision, rank) + judges,
        # As read, before the copies; and a new layer's beside the old one's.
        "cache": 2 * kv_cache(model, 4 * batch_tokens, precision),
        # A layer's, or after the last one the logits: as they come, in fp32, and their softmax.
        "activations": max(layer, 12 * batch_tokens * model.vocab_size) + part["temporaries"],
    }


# --- reward model -------------------------------------------------------------------------------


def encoder_adapter(judge, rank: int = RANK) -> int:
    """Numbers that are trained of a reward model: LoRA on each linear layer, and the head."""
    width, inner = judge.hidden_size, judge.intermediate_size
    layer = rank * (8 * width + 2 * (width + inner))
    return judge.num_hidden_layers * layer + width * (width + 1) + width + 1


def judge_weights(judge, rank: int = RANK) -> int:
    """Bytes of a reward model that is only asked: fp32, with its adapter and both heads."""
    return 4 * (encoder_parameters(judge) + encoder_adapter(judge, rank))


def reward_update(judge, pairs: int, length: int, rank: int = RANK) -> dict[str, int]:
    """One micro-batch of pairs through a reward model in fp32 under 16-bit autocast, nothing
    recomputed.

    Autograd keeps of a token in each layer at most 32 bytes a unit of width and 6 a unit of the inner
    layer; the layer that is in work has as much again. Autocast's 16-bit copies of the weights stay
    until the backward pass.
    """
    width, inner = judge.hidden_size, judge.intermediate_size
    tokens, trained = 2 * pairs * length, encoder_adapter(judge, rank)
    kept = tokens * (32 * width + 6 * inner)
    return {
        "weights": judge_weights(judge, rank),
        "optimizer": 12 * trained,
        "activations": (judge.num_hidden_layers + 1) * kept + 2 * encoder_parameters(judge),
    }


def judging(judge, rows: int, length: int) -> int:
    """Bytes that come and go while a reward model reads pairs: a layer in fp32."""
    return 4 * rows * length * (10 * judge.hidden_size + 3 * judge.intermediate_size)


# --- a profile ----------------------------------------------------------------------------------


def on_a_gpu(profile: Profile) -> str:
    """The number format that a profile takes on a GPU, a key of ``memory_budget.BYTES``."""
    return "fp16" if profile.precision == "auto" else profile.precision


def answered_at_once(profile: Profile) -> int:
    """Rows of a batch of the evaluation, if all of them are as long as they may be."""
    longest = profile.prompt_tokens + profile.response_tokens
    return max(1, min(profile.eval_batch, profile.eval_tokens // longest))


def stages(profile: Profile) -> dict[str, dict[str, int]]:
    """Bytes at the peak of each stage on a GPU, by what they are for. Without the CUDA context.

    Raises:
        KeyError: for a base whose shape is not known here.
    """
    policy, judge = MODELS[profile.policy_base], JUDGES[profile.reward_base]
    precision, rank = on_a_gpu(profile), profile.lora_rank
    prompt, response = profile.prompt_tokens, profile.response_tokens
    talk, own = profile.conversation_tokens, {"precision": precision, "rank": rank}
    ppo = memory_budget.phases(
        policy,
        judge,
        profile.ppo_micro_batch,
        prompt + response,
        **own,
        judge_bytes=4,
        response=response,
        sampled=profile.ppo_batch,
    )
    judges = 2 * judge_weights(judge, profile.reward_rank)
    micro = max(1, profile.reward_batch // MICRO_BATCHES)
    asked = answers(policy, judges, answered_at_once(profile), prompt, response, **own)
    read = {
        "weights": asked["weights"],
        "activations": judging(judge, SCORED_ROWS, profile.reward_pair_tokens),
    }
    return {
        "01 SFT": sft_update(policy, profile.sft_micro_batch, talk, **own),
        "01 held-out loss": held_out_loss(policy, HELD_OUT_ROWS, talk, **own),
        "02 reward model": reward_update(judge, micro, profile.reward_pair_tokens, profile.reward_rank),
        "03 PPO, generation": ppo["generation"],
        "03 PPO, update": ppo["update"],
        "04 answers": asked,
        "04 judges": read,
        "04 multiple choice": multiple_choice(policy, judges, **own),
    }


def peaks(profile: Profile) -> dict[str, float]:
    """GiB of each stage, with the CUDA context."""
    return {
        name: (sum(held.values()) + memory_budget.CONTEXT) / GIB for name, held in stages(profile).items()
    }
