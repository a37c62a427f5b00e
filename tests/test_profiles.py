"""The profiles that run on a GPU, checked on paper: memory, steps, tokens, and that limits agree.

No GPU runs these tests, so a typing error in a profile would be found by a learner, after hours. Here it
is a sum that does not come out: every number of a profile, ten times as large or a tenth, and every
amount, twice as large or half, has to be noticed (the second half of this file).
"""

from __future__ import annotations

import math
import re
from dataclasses import fields, replace

import fits
import memory_budget
import pytest

from sawyer_utils import runtime
from sawyer_utils.ppo_config import PPOConfig
from sawyer_utils.profiles import PROFILES, Profile, current_profile
from sawyer_utils.reward import MICRO_BATCHES
from sawyer_utils.reward import total_steps as reward_steps
from sawyer_utils.sft import total_steps as sft_steps

ON_A_GPU = ("colab", "llama2")
CARD = 14.0  # GiB, of the 14.7 that a T4 gives
TRAINED = 0.88  # share of the conversations that is not held out (notebook 01)
JUDGED = 0.8  # the same of the preferences (02)
PAIRS = 2.5  # a preference of two answers: their pair, and a stranger under each good one
MINUTES = {"colab": 90, "llama2": 12 * 60}  # of 01 to 04: the course's promise, a Colab session
FLOPS = 15e12  # a second, of a T4's 65e12 in 16 bits; a guess, no T4 was measured
PARAMETERS = {"colab": 1.7e9, "llama2": 6.7e9}


# --- what a profile comes to ------------------------------------------------------------------------


def amounts(profile: Profile) -> dict[str, float]:
    """Steps, answers and tokens (millions, at most) of each stage."""
    talks, rows = int(TRAINED * profile.limit), int(JUDGED * profile.limit)
    judging = reward_steps(profile, int(PAIRS * rows))
    sampled, news = profile.ppo_steps * profile.ppo_batch, profile.news_steps * profile.news_batch
    sft = sft_steps(profile, talks)
    return {
        "SFT steps": sft,
        "SFT tokens": sft * profile.sft_batch * profile.conversation_tokens / 1e6,
        "reward steps": judging,
        "reward tokens": 2 * judging * profile.reward_batch * profile.reward_pair_tokens / 1e6,
        "PPO steps": profile.ppo_steps,
        "PPO gradient steps": profile.ppo_steps * profile.ppo_epochs * profile.ppo_minibatches,
        "PPO answers": sampled,
        "PPO read tokens": sampled * profile.prompt_tokens / 1e6,
        "PPO written tokens": sampled * profile.response_tokens / 1e6,
        "test answers": profile.eval_prompts,
        "news steps": profile.news_steps,
        "news read tokens": news * profile.news_prompt_tokens / 1e6,
        "news written tokens": news * profile.news_response_tokens / 1e6,
    }


def minutes(profile: Profile) -> float:
    """Of SFT, PPO and the answers of 04 on a T4, from products alone (2 a weight and token): at most, for
    every row is counted at its longest."""
    found = amounts(profile)
    ppo = found["PPO read tokens"] + found["PPO written tokens"]
    test = profile.eval_prompts * (profile.prompt_tokens + profile.response_tokens) / 1e6
    # Forward, again for checkpointing, and backward through frozen weights: 2 each.
    passes = 6 * found["SFT tokens"]
    # Sampling, policy and reference; each epoch as above.
    passes += (6 + 6 * profile.ppo_epochs) * ppo
    # Three stages, sixteen answers to a third of the prompts, checkpoints: about ten a prompt, and their KL.
    passes += 10 * 6 * test
    return passes * 1e6 * PARAMETERS[profile.name] / FLOPS / 60


# What each profile has to come to; a factor of 1.6 either way is let through.
EXPECTED = {
    "colab": {
        "SFT steps": 220,
        "SFT tokens": 2.7,
        "reward steps": 500,
        "reward tokens": 6.1,
        "PPO steps": 60,
        "PPO gradient steps": 240,
        "PPO answers": 1900,
        "PPO read tokens": 0.49,
        "PPO written tokens": 0.25,
        "test answers": 200,
        "news steps": 60,
        "news read tokens": 0.98,
        "news written tokens": 0.12,
    },
    "llama2": {
        "SFT steps": 110,
        "SFT tokens": 0.9,
        "reward steps": 250,
        "reward tokens": 3.1,
        "PPO steps": 60,
        "PPO gradient steps": 240,
        "PPO answers": 960,
        "PPO read tokens": 0.25,
        "PPO written tokens": 0.12,
        "test answers": 200,
        "news steps": 60,
        "news read tokens": 0.98,
        "news written tokens": 0.12,
    },
}
# Settings that no amount hangs on, and what is usual.
USUAL = {
    "lora_rank": (8, 32),
    "sft_micro_batch": (2, 8),
    "sft_lr": (1e-4, 5e-4),
    "reward_rank": (8, 32),
    "reward_lr": (1e-4, 5e-4),
    "reward_trials": (120, 480),
    "ppo_micro_batch": (4, 16),
    "ppo_lr": (2e-5, 1e-4),
    "news_lr": (5e-5, 2e-4),
    "eval_batch": (16, 40),
    "news_samples": (1, 2),
    "hack_steps": (20, 60),  # at a tenth of the learning rate of `local`
}


def encoder_positions(profile: Profile) -> int:
    """Tokens that the reward model's encoder can read; RoBERTa keeps two positions to itself."""
    judge = memory_budget.JUDGES[profile.reward_base]
    return judge.max_position_embeddings - (2 if judge.type_vocab_size == 1 else 0)


def disagreements(profile: Profile) -> list[str]:
    """Settings that do not go together."""
    answer = profile.prompt_tokens + profile.response_tokens
    minibatch = profile.ppo_batch / profile.ppo_minibatches
    rules = {
        "a prompt and its answer are longer than a conversation": answer > profile.conversation_tokens,
        "a prompt and its answer are longer than the judge reads": answer > profile.reward_pair_tokens,
        "the judge cannot read so many tokens": profile.reward_pair_tokens > encoder_positions(profile),
        "the summariser cannot read so many tokens": profile.news_prompt_tokens > 512,
        "the reward batch is no multiple of its micro-batches": profile.reward_batch % MICRO_BATCHES,
        "PPO's minibatch is no multiple of its micro-batch": minibatch % profile.ppo_micro_batch,
        "alpha is not twice the rank": profile.lora_alpha != 2 * profile.lora_rank,
        "DPO takes another number of gradient steps than PPO and RLOO": profile.dpo_pairs / profile.dpo_batch
        != profile.versus_steps * profile.ppo_epochs * profile.ppo_minibatches,
        "a checkpoint a run, or fewer": profile.ppo_checkpoint_every > profile.ppo_steps / 4,
        "a training is cut short": max(profile.sft_max_steps, profile.reward_max_steps) > 0,
    }
    return [rule for rule, broken in rules.items() if broken]


def numbers(profile: Profile) -> dict[str, float]:
    """The settings that are numbers."""
    found = {field.name: getattr(profile, field.name) for field in fields(profile)}
    return {name: value for name, value in found.items() if type(value) in (int, float)}


def problems(profile: Profile) -> list[str]:
    """All that is wrong with a profile for a GPU."""
    found = disagreements(profile)
    for stage, gib in fits.peaks(profile).items():
        if gib > CARD:
            found.append(f"{stage}: {gib:.1f} GiB, over {CARD}")
    for name, amount in amounts(profile).items():
        if not 1 / 1.6 < amount / EXPECTED[profile.name][name] < 1.6:
            found.append(f"{name}: {amount:g}, not about {EXPECTED[profile.name][name]:g}")
    if (took := minutes(profile)) > MINUTES[profile.name]:
        found.append(f"01 to 04: {took:.0f} minutes, over {MINUTES[profile.name]}")
    for name, (low, high) in USUAL.items():
        if not low <= getattr(profile, name) <= high:
            found.append(f"{name}: {getattr(profile, name):g}, not from {low:g} to {high:g}")
    # What a larger profile has no reason to change by much, it takes from `local`.
    inherited = numbers(profile).keys() - USUAL.keys() - AMOUNTS
    for name in sorted(inherited):
        ours, locals_ = getattr(profile, name), getattr(PROFILES["local"], name)
        if not (ours == locals_ or (locals_ and 1 / 2 < ours / locals_ < 2)):
            found.append(f"{name}: {ours:g}, in `local` {locals_:g}")
    return found


AMOUNTS = {  # what the totals above are made of
    *("limit", "prompt_tokens", "response_tokens", "conversation_tokens", "reward_pair_tokens"),
    *("sft_epochs", "sft_batch", "reward_epochs", "reward_batch"),
    *("ppo_steps", "ppo_batch", "ppo_epochs", "ppo_minibatches", "eval_prompts"),
    *("news_steps", "news_batch", "news_prompt_tokens", "news_response_tokens"),
}


@pytest.mark.parametrize("name", ON_A_GPU)
def test_nothing_is_wrong_with_the_profile(name):
    assert problems(PROFILES[name]) == []


def test_every_stage_leaves_room_on_a_t4():
    for name in ON_A_GPU:
        assert max(fits.peaks(PROFILES[name]).values()) < CARD


def test_the_table_of_the_benchmarks_page_is_of_these_profiles():
    text = (runtime.project_root() / "benchmarks" / "README.md").read_text(encoding="utf-8")
    found = [fits.peaks(PROFILES[name]) for name in ON_A_GPU]
    for stage in found[0]:
        assert f"| {stage} | {found[0][stage]:.1f} | {found[1][stage]:.1f} |" in text
    forty = fits.peaks(replace(PROFILES["llama2"], eval_tokens=10**9))["04 answers"]
    assert forty > CARD  # without the budget of tokens
    assert f"be {forty:.1f}." in text


def test_llama2_is_half_of_colab():
    colab, llama2 = (amounts(PROFILES[name]) for name in ON_A_GPU)
    for name in ("SFT steps", "reward steps", "PPO answers"):
        assert llama2[name] / colab[name] == pytest.approx(0.5, abs=0.01), name
    assert llama2["PPO gradient steps"] == colab["PPO gradient steps"]
    assert 1 < minutes(PROFILES["llama2"]) / minutes(PROFILES["colab"]) < 4


# --- what the environment asks for --------------------------------------------------------------


def test_another_model_has_a_run_folder_of_its_own(monkeypatch):
    monkeypatch.setenv("SAWYER_MODEL", "NousResearch/Llama-2-7b-hf")
    profile = current_profile("llama2")
    assert profile.policy_base == "NousResearch/Llama-2-7b-hf"
    assert profile.name == "llama2-NousResearch-Llama-2-7b-hf"
    assert replace(profile, name="llama2", policy_base=PROFILES["llama2"].policy_base) == PROFILES["llama2"]
    monkeypatch.setenv("SAWYER_MODEL", PROFILES["llama2"].policy_base)
    assert current_profile("llama2") is PROFILES["llama2"]


def test_the_precision_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("SAWYER_PRECISION", "fp32")
    assert current_profile("colab") == replace(PROFILES["colab"], precision="fp32")


def test_a_rehearsal_keeps_models_data_and_lengths(monkeypatch):
    monkeypatch.setenv("SAWYER_REHEARSAL", "1")
    found, whole, smoke = current_profile("colab"), PROFILES["colab"], PROFILES["smoke"]
    for name in ("name", "policy_base", "preferences", "prompt_tokens", "conversation_tokens", "ppo_lr"):
        assert getattr(found, name) == getattr(whole, name)
    assert (found.ppo_steps, found.limit) == (smoke.ppo_steps, smoke.limit)


@pytest.mark.parametrize("source", ["conversations", "preferences", "gold", "prompts", "news"])
def test_each_source_from_the_hub_is_known_as_such(source):
    assert replace(PROFILES["local"], **{source: "someone/rows"}).hub_data == ("someone/rows",)
    assert PROFILES["local"].hub_data == ()


def test_what_every_profile_takes_from_local_is_as_published():
    # DPO's own β (Rafailov et al. 2023), and a missing end that costs more than most answers differ.
    assert (PROFILES["local"].dpo_beta, PROFILES["local"].missing_stop_penalty) == (0.1, 2.0)


# --- typing errors ------------------------------------------------------------------------------


def mistyped(name: str, setting: str, value) -> list[str]:
    try:
        return problems(replace(PROFILES[name], **{setting: value}))
    except ValueError as error:
        return [str(error)]


@pytest.mark.parametrize("name", ON_A_GPU)
@pytest.mark.parametrize(
    ("setting", "value", "noticed"),
    [
        ("sft_micro_batch", 40, "01 SFT: .* GiB"),
        ("ppo_steps", 6, "PPO steps: 6"),
        ("reward_pair_tokens", 600, "cannot read"),
        ("conversation_tokens", 7680, "01 SFT: .* GiB"),
        ("limit", 400, "SFT steps"),
        ("ppo_micro_batch", 80, "no multiple"),
        ("ppo_batch", 320, "PPO, generation: .* GiB"),
        ("eval_batch", 400, "not from 16 to 40"),
        ("eval_tokens", 81_920, "eval_tokens: 81920, in `local`"),
        ("prompt_tokens", 2560, "longer than a conversation"),
        ("precision", "fp32", "GiB"),
    ],
)
def test_typing_errors_are_named(name, setting, value, noticed):
    found = mistyped(name, setting, value)
    assert any(re.search(noticed, line) for line in found), found


@pytest.mark.parametrize("setting", ["sft_batch", "sft_micro_batch", "reward_batch", "eval_batch", "limit"])
def test_a_size_of_0_is_refused_by_its_name(setting):
    with pytest.raises(ValueError, match=rf"^{setting}=0 in profile 'colab'"):
        replace(PROFILES["colab"], **{setting: 0})


@pytest.mark.parametrize("factor", [10, 0.1])
@pytest.mark.parametrize("setting", sorted(numbers(PROFILES["colab"])))
def test_a_number_ten_times_too_large_or_small_is_noticed(setting, factor):
    for name in ON_A_GPU:
        right = getattr(PROFILES[name], setting)
        wrong = right * factor
        if isinstance(right, int):
            wrong = max(math.floor(wrong), 1 if right > 1 else 0)
        if setting.endswith("max_steps"):  # −1 is no limit; any other number is one
            wrong = 200
        assert mistyped(name, setting, wrong), (name, wrong)


@pytest.mark.parametrize("factor", [2, 0.5])
@pytest.mark.parametrize("setting", sorted(AMOUNTS))
def test_an_amount_twice_too_large_or_half_is_noticed(setting, factor):
    for name in ON_A_GPU:
        right = getattr(PROFILES[name], setting)
        assert mistyped(name, setting, type(right)(right * factor)), name


OF_THE_PROFILE = {  # of PPOConfig: the profile's field, and a value that no default has
    "steps": ("ppo_steps", 11),
    "batch_size": ("ppo_batch", 12),
    "epochs": ("ppo_epochs", 13),
    "minibatches": ("ppo_minibatches", 6),
    "micro_batch": ("ppo_micro_batch", 3),
    "learning_rate": ("ppo_lr", 0.5),
    "kl_coef": ("kl_coef", 0.25),
    "missing_stop_penalty": ("missing_stop_penalty", 7.0),
    "response_tokens": ("response_tokens", 17),
    "prompt_tokens": ("prompt_tokens", 19),
    "temperature": ("temperature", 0.75),
    "checkpoint_every": ("ppo_checkpoint_every", 23),
}


def test_ppo_takes_its_settings_from_the_profile():
    profile = replace(PROFILES["local"], **dict(OF_THE_PROFILE.values()))
    config = PPOConfig.from_profile(profile)
    assert {name: getattr(config, name) for name in OF_THE_PROFILE} == {
        name: value for name, (_, value) in OF_THE_PROFILE.items()
    }
    assert PPOConfig.from_profile(profile, temperature=0.5).temperature == 0.5  # what is said wins
