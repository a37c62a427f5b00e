"""Each finding on a small real run that has the illness, and on one that has not."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from conftest import build_actor, build_model

from sawyer_utils.chat import encode_prompt
from sawyer_utils.health import describe, describe_update, diagnose
from sawyer_utils.ppo import PPOConfig, PPOTrainer
from sawyer_utils.rollout import Rollout

torch.set_num_threads(1)

PROMPTS = ["a b c", "d", "e f g h i j", "k l", "m n o p", "q r s t u", "v w", "x"] * 2
SETTINGS = PPOConfig(
    steps=16,
    batch_size=16,
    micro_batch=16,
    epochs=4,
    response_tokens=12,
    learning_rate=1e-2,
    kl_coef=0.05,
    missing_stop_penalty=1.0,
)


def count_a(prompts, responses):
    return [min(3.0, response.split().count("a")) for response in responses]


def brief(prompts, responses):
    return [-0.5 * len(response.split()) for response in responses]


def long(prompts, responses):
    return [0.5 * len(response.split()) for response in responses]


def indifferent(prompts, responses):
    # What the answer says does not matter, but not every answer gets the same.
    return [float(len(prompt) % 3) for prompt in prompts]


@pytest.fixture(scope="module")
def talker(letters):
    """``talker()``: a fresh actor on one tiny model that has learned to say a few letters and stop."""
    model = build_model(letters, hidden_size=64).requires_grad_(True).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    stop = letters.eos_token_id
    alphabet = torch.tensor(letters.convert_tokens_to_ids(list("abcdefghijklmnopqrstuvwxyz")))
    for _ in range(300):
        rows = []
        for prompt in PROMPTS[:8]:
            count = int(torch.randint(2, 7, (1,), generator=generator))
            said = alphabet[torch.randint(0, 26, (count,), generator=generator)].tolist()
            ids = encode_prompt(letters, prompt) + said + [stop]
            rows.append(torch.tensor(ids))
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
        labels = ids.clone()
        for row, prompt in zip(labels, PROMPTS, strict=False):
            row[: len(encode_prompt(letters, prompt))] = -100
        loss = model(input_ids=ids.clamp(min=0), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.requires_grad_(False).eval()
    return lambda: build_actor(letters, model=copy.deepcopy(model))


@pytest.fixture
def log_of(letters, talker):
    """``log_of(reward_fn, **settings)``: the log of a short run."""

    def run(reward_fn, **settings):
        return PPOTrainer(talker(), letters, reward_fn, replace(SETTINGS, **settings)).train(PROMPTS)

    return run


def names(log) -> set[str]:
    return {finding.name for finding in diagnose(log)}


RUNS = {  # illness -> (reward, settings) of a run that has it
    "collapse": (brief, {"kl_coef": 0.0, "steps": 7}),
    "KL running away": (count_a, {"kl_coef": 0.0, "learning_rate": 3e-2, "steps": 22}),
    "never finishing": (long, {"kl_coef": 0.0, "missing_stop_penalty": 0.0}),
    "length hacking": (long, {"kl_coef": 0.0, "missing_stop_penalty": 0.0}),
    "no learning": (indifferent, {}),
    "critic useless": (count_a, {"value_coef": 0.0}),
}


@pytest.mark.parametrize("illness", RUNS)
def test_a_sick_run_is_named_with_its_evidence(log_of, illness):
    reward_fn, settings = RUNS[illness]
    found = {finding.name: finding for finding in diagnose(log_of(reward_fn, **settings))}
    assert illness in found
    assert any(character.isdigit() for character in found[illness].evidence)
    assert found[illness].remedy.endswith(".")


def test_a_healthy_run_has_no_finding(log_of):
    log = log_of(count_a, kl_coef=0.1, learning_rate=5e-3)
    assert log[-1]["reward"] > log[0]["reward"] + 1
    assert names(log) == set()


def test_the_illnesses_are_told_apart(log_of):
    assert "collapse" not in names(log_of(long, kl_coef=0.0, missing_stop_penalty=0.0))
    assert "length hacking" not in names(log_of(brief, kl_coef=0.0, steps=7))
    # Long because nothing stops it, but not because length is paid.
    assert "length hacking" not in names(log_of(indifferent, missing_stop_penalty=0.0))


def saturated(rewards: list[float], spread: float = 0.03) -> list[dict]:
    """A log whose answers all earn nearly the same after its first quarter, as in notebook 06."""
    same = {"kl": 5.0, "length": 20.0, "length_correlation": 0.0, "finished": 1.0, "distinct_2": 0.8}
    first = len(rewards) // 4
    return [
        same
        | {"reward": reward, "reward_std": 1.0 if i < first else spread}
        | {"explained_variance": 0.1 if i < first else -5000.0}
        for i, reward in enumerate(rewards)
    ]


@pytest.mark.parametrize("late", [1, 3, 5])
def test_a_run_that_rises_at_once_and_then_stays_has_learned(late):
    rewards = [0.0, *(2.0 * (i + 1) / late for i in range(late)), 2.2, 2.3, 2.25, 2.2, 2.3, 2.26]
    assert names(saturated(rewards)) == set()


@pytest.mark.parametrize(("spread", "found"), [(0.03, set()), (0.5, {"critic useless"})])
def test_where_all_answers_earn_the_same_a_critic_has_nothing_to_explain(spread, found):
    rewards = [0.0, 1.2, 1.9] + [2.2, 2.3, 2.25] * 3
    assert names(saturated(rewards, spread)) == found


@pytest.mark.parametrize(("rise", "found"), [(-0.5, {"no learning"}), (0.0, {"no learning"}), (0.6, set())])
def test_a_reward_that_only_wavers_is_no_learning_and_one_that_rises_over_its_error_is(rise, found):
    wavers = [0.1, -0.2, 0.2, 0.0, -0.1, 0.3, 0.1, -0.2, 0.2, 0.1, -0.1, 0.2]
    assert names(saturated([x + rise * i / 11 for i, x in enumerate(wavers)])) == found


def test_answers_of_one_length_that_repeat_each_other_are_a_collapse():
    log = saturated([0.0, 1.2, 1.9] + [2.2, 2.3, 2.25] * 3)
    assert names(log[:6] + [line | {"distinct_2": 0.3} for line in log[6:]]) == {"collapse"}


def test_length_is_compared_with_the_reward_without_the_fine():
    mask = torch.arange(4) < torch.tensor([[1], [2], [3], [4]])
    batch = Rollout([""] * 4, ["a b"] * 4, mask.long(), mask, mask, torch.tensor([True, True, True, False]))
    batch.logprobs = batch.ref_logprobs = torch.zeros(mask.shape)
    batch.scores = torch.tensor([1.0, 2.0, 3.0, 4.0 - 10.0])
    assert describe(batch, 10.0)["length_correlation"] == pytest.approx(1.0)


def test_of_an_update_the_largest_ratio_and_the_first_error_are_told():
    parts = [(3.0, 0.0, 1), (2.0, 0.2, 0)]
    minibatches = [dict(zip(("ratio_max", "ratio_error", "optimizer_steps"), p, strict=True)) for p in parts]
    found = describe_update([one | {"too_far": False} for one in minibatches])
    assert found == {"ratio_max": 3.0, "ratio_error": 0.0, "optimizer_steps": 1}


RISES = [0.0, 1.2, 2.2, 2.3, 2.25, 2.2, 2.3, 2.26]  # a healthy run's rewards


@pytest.mark.parametrize(
    ("key", "value"), [("kl", 30.0), ("length", 4.0), ("distinct_2", 0.1), ("finished", 0.65)]
)
def test_one_odd_step_at_the_end_is_no_illness(key, value):
    log, odd = saturated(RISES), {key: value}
    assert names([*log[:-1], log[-1] | odd]) == set()
    assert len(names([*log[:-2], log[-2] | odd, log[-1] | odd])) == 1  # two of them are


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [(0.3, 0.3, set()), (0.5, 0.45, set()), (0.95, 0.85, set()), (0.9, 0.6, {"never finishing"})],
)
def test_a_base_that_never_finished_is_not_blamed_on_the_run(before, after, found):
    log = [line | {"finished": before if i < 4 else after} for i, line in enumerate(saturated(RISES))]
    assert names(log) == found


@pytest.mark.parametrize(("early", "late", "found"), [(0.6, 0.0, {"length hacking"}), (0.0, 0.6, set())])
def test_length_hacking_is_seen_though_all_answers_are_at_the_limit_by_the_end(early, late, found):
    log = [
        line | {"length_correlation": early if i < 4 else late, "length": 20.0 if i < 4 else 40.0}
        for i, line in enumerate(saturated(RISES))
    ]
    assert names(log) == found


def test_a_short_log_says_nothing():
    with pytest.raises(ValueError, match="3 steps"):
        diagnose([{}] * 3)
