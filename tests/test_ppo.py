"""PPO's implementation details, each with a test that fails when the detail breaks.

The numbers (№) are those of the checklist that the course keeps of the details that went wrong
elsewhere: padding, masks, shifts, ratios, clipping, resuming.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import random
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import build_actor, build_model, known_model, letter_tokenizer
from safetensors.torch import load_file
from torch import nn, tensor
from transformers import (
    BartConfig,
    BartForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)

from sawyer_utils import checkpoints, health, losses, models, ppo, ppo_config
from sawyer_utils.actor import ActorCritic, _of_tokens, switch_off_dropout
from sawyer_utils.chat import add_control_tokens, encode_prompt, token_count
from sawyer_utils.models import POLICY, REF
from sawyer_utils.plumbing import adapters
from sawyer_utils.plumbing.resuming import TrainingInterrupted
from sawyer_utils.ppo import PPOConfig, PPOTrainer, TrainingStopped
from sawyer_utils.profiles import PROFILES
from sawyer_utils.reward import Mixture, RunningScale
from sawyer_utils.rollout import Rollout, prompts_of_step

torch.set_num_threads(1)

# Of unequal length, and not in order of it.
PROMPTS = ["a b c", "d", "e f g h i j", "k l", "m n o p", "q r s t u", "v w", "x", "y z a", "b c d e f g h"]
SMALL = PPOConfig(
    steps=3, batch_size=8, epochs=2, minibatches=2, micro_batch=3, learning_rate=1e-2, response_tokens=8
)


GROUPS = {"baseline": "group", "group_size": 4}


def count_a(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(response.split().count("a")) for response in responses]


@pytest.fixture
def make(letters, letter_actor):
    """``make(**settings)``: a trainer on a fresh tiny actor, the same one each time."""

    def build(reward_fn=count_a, run_dir=None, model=None, tokenizer=letters, seed=0, **settings):
        model = model or letter_actor(seed)
        return PPOTrainer(model, tokenizer, reward_fn, replace(SMALL, **settings), run_dir)

    return build


def opinionated(trainer: PPOTrainer) -> PPOTrainer:
    """Give the critic random weights: at its real start, 0, most mistakes about values hide."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(9)
        for parameter in trainer.actor.value_head.parameters():
            parameter.normal_(0, 0.3)
    return trainer


def ready(trainer: PPOTrainer, prompts=PROMPTS[:8], seed=1) -> Rollout:
    """A batch on which only the update is missing."""
    torch.manual_seed(seed)
    return trainer.advantages(trainer.score(trainer.rollout(prompts)))


def step_and_batch(trainer: PPOTrainer) -> tuple[Rollout, dict]:
    """One step: the batch that it made, and its log line."""
    scored, score = [], trainer.score
    trainer.score = lambda batch: scored.append(score(batch)) or scored[0]
    line = trainer.step(PROMPTS[:8])
    return scored[0], line


def weights_of(trainer: PPOTrainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in trainer.trained]


def same(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def close(first, second, tolerance: float) -> bool:
    return all(
        torch.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in zip(first, second, strict=True)
    )


def numbers(line: dict) -> dict:
    """A log line without what differs from run to run."""
    return {k: v for k, v in line.items() if not k.startswith(("seconds_", "tokens_per", "peak_memory"))}


# --- padding and masks --------------------------------------------------------------------------


@pytest.mark.parametrize("pads", [0, 3, 7])
def test_left_padding_changes_no_logprob_and_no_value(make, letters, pads):  # №1
    trainer = opinionated(make())
    batch = trainer.rollout(PROMPTS[:4])
    rows = torch.full((len(batch), pads), letters.pad_token_id)
    padded = replace(
        batch,
        input_ids=torch.cat([rows, batch.input_ids], 1),
        attention_mask=torch.cat([torch.zeros_like(rows, dtype=torch.bool), batch.attention_mask], 1),
    )
    with torch.no_grad():
        assert close(trainer.actor(padded, 1.0), trainer.actor(batch, 1.0), 1e-5)
    # Nor does the padding that other rows of a batch bring along.
    for i in range(len(batch)):
        with torch.no_grad():
            alone = trainer.actor(batch.rows(tensor([i])), 1.0)
        n = int(batch.lengths[i])
        assert torch.allclose(alone[0][0, :n], batch.logprobs[i, :n], atol=1e-5)
        assert torch.allclose(alone[1][0, :n], batch.values[i, :n], atol=1e-5)


def test_padding_with_the_stop_token_changes_nothing(make, letters):  # №2
    same_token = copy.deepcopy(letters)
    same_token.pad_token = same_token.eos_token
    assert same_token.pad_token_id == same_token.eos_token_id != letters.pad_token_id
    trainers = make(), make(tokenizer=same_token)
    batches = [ready(opinionated(trainer)) for trainer in trainers]
    assert (batches[0].finished & (batches[0].lengths < 8)).any(), "no row was padded"
    for name in ("responses", "finished", "response_mask", "logprobs", "values", "advantages"):
        first, second = (getattr(batch, name) for batch in batches)
        assert first == second if isinstance(first, list) else torch.equal(first, second), name
    stats = []
    for trainer, batch in zip(trainers, batches, strict=True):
        torch.manual_seed(2)
        stats.append(trainer.update(batch))
    assert stats[0] == stats[1]
    assert same(*map(weights_of, trainers))


def test_what_follows_the_stop_token_changes_nothing(make, monkeypatch):  # №3
    planted = []

    def with_garbage(*args):
        batch = sample(*args)
        after = ~batch.attention_mask  # the left padding too
        draws = torch.randint(2, 20, batch.input_ids.shape, generator=torch.Generator().manual_seed(5))
        batch.input_ids = torch.where(after, draws, batch.input_ids)
        planted.append(int((~batch.response_mask).sum()))
        return batch

    sample, found = ppo.sample, []
    for sampler in (sample, with_garbage):
        monkeypatch.setattr(ppo, "sample", sampler)
        trainer = opinionated(make(batch_size=10))
        lines = [numbers(trainer.step(PROMPTS)) for _ in range(2)]
        found.append((lines, weights_of(trainer), [p.grad for p in trainer.trained]))
    assert min(planted) > 0
    (lines, weights, grads), (lines_garbage, weights_garbage, grads_garbage) = found
    assert lines == lines_garbage
    assert same(weights, weights_garbage)
    assert same(grads, grads_garbage)


def test_the_stop_token_counts_and_earns_the_score(make, letters):  # №3, №11
    batch = ready(make(kl_coef=0.0, missing_stop_penalty=0.0, reward_fn=lambda p, r: [3.0] * len(p)))
    assert 0 < int(batch.finished.sum()) < len(batch), "both kinds should be there"
    for i in range(len(batch)):
        last = int(batch.lengths[i]) - 1
        is_stop = batch.response_ids[i] == letters.eos_token_id
        assert bool(is_stop[last]) == bool(batch.finished[i])
        assert not is_stop[:last].any()
        assert bool(batch.response_mask[i, last])
        # Once, on the last real action: the stop token, or the last one that there was room for.
        assert batch.rewards[i].tolist() == [3.0 * (t == last) for t in range(batch.rewards.shape[1])]


def test_an_unfinished_response_is_fined_by_the_stop_token_in_use(make, letters):  # №12
    other = copy.deepcopy(letters)
    other.eos_token = "e"
    for tokenizer in (letters, other):
        trainer = make(tokenizer=tokenizer, reward_fn=lambda p, r: [1.0] * len(p), response_tokens=12)
        batch = ready(trainer)
        stopped = (batch.response_ids == tokenizer.eos_token_id).any(1)
        assert 0 < int(stopped.sum()) < len(batch)
        assert batch.scores.tolist() == [1.0 if s else 1.0 - 2.0 for s in stopped]
        # What the course reports as reward is the reward function's alone.
        line = health.describe(batch, trainer.config.missing_stop_penalty)
        assert line["reward"] == 1.0
        assert line["score"] == pytest.approx(float(batch.scores.mean()))


# --- log-probs, values, entropy -----------------------------------------------------------------


class TableModel(nn.Module):
    """A language model that can be read: the next token's logits are a row of a table."""

    def __init__(self, table: torch.Tensor):
        super().__init__()
        self.config = SimpleNamespace(hidden_size=len(table), is_encoder_decoder=False)
        self.head = nn.Linear(*table.T.shape, bias=False)
        self.head.weight = nn.Parameter(table.T.clone(), requires_grad=False)
        self.seen = None

    def forward(self, input_ids, use_cache):
        hidden = self.get_decoder()(input_ids, None, None, use_cache).last_hidden_state
        return SimpleNamespace(logits=self.head(hidden))

    def get_base_model(self):
        return self

    def get_output_embeddings(self):
        return self.head

    def get_decoder(self):
        def decoder(input_ids, attention_mask, position_ids, use_cache):
            self.seen = SimpleNamespace(attention_mask=attention_mask, position_ids=position_ids)
            hidden = nn.functional.one_hot(input_ids, self.config.hidden_size).float()
            return SimpleNamespace(last_hidden_state=hidden)

        return decoder


def test_each_token_is_scored_by_what_came_before_it():  # №1, №5, №8
    table = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))  # row: the token before
    actor = ActorCritic(TableModel(table))
    state_values = tensor([10.0, 11.0, 12.0, 13.0, 14.0])
    actor.value_head.weight.data = state_values.unsqueeze(0)
    batch = Rollout(
        prompts=["", ""],
        responses=["", ""],
        input_ids=tensor([[0, 3, 1, 4, 2], [2, 1, 4, 3, 0]]),  # three of the prompt, two sampled
        attention_mask=tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 0]]).bool(),
        response_mask=tensor([[True, True], [True, False]]),
        finished=tensor([True, True]),
    )
    logprobs, values, entropy = actor(batch, temperature=0.7)
    scaled = (table / 0.7).log_softmax(-1)
    before_and_sampled = {(0, 0): (1, 4), (0, 1): (4, 2), (1, 0): (4, 3)}
    for (i, t), (before, token) in before_and_sampled.items():
        assert logprobs[i, t].item() == pytest.approx(scaled[before, token].item(), abs=1e-6)
        assert values[i, t].item() == state_values[before].item()
        spread = -(scaled[before].exp() * scaled[before]).sum().item()
        assert entropy[i, t].item() == pytest.approx(spread, abs=1e-6)
    for found in (logprobs, values, entropy):
        assert found[1, 1] == 0.0, "outside the mask"
    # Positions count the real tokens, from 0; the mask is carried, not guessed from pad ids.
    seen = actor.model.seen
    assert seen.attention_mask.tolist() == batch.attention_mask.long().tolist()
    assert seen.position_ids[batch.attention_mask].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_tokens_come_from_the_very_distribution_whose_logprobs_are_used(make, letters, temperature):  # №4, №5
    probabilities = {letter: 0.7**k for k, letter in enumerate("abcdefghijklmnop")}
    model = build_actor(letters, model=known_model(letters, probabilities))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()  # the base's distribution, which is known
    for owner in (model, model.get_base_model()):
        owner.generation_config.update(top_p=0.1, top_k=5, repetition_penalty=2.0, temperature=3.0)
    torch.manual_seed(0)
    batch = make(model=model, temperature=temperature, response_tokens=16).rollout(["a"] * 200)
    logits = torch.full((len(letters),), -math.inf)
    for letter, weight in probabilities.items():
        logits[letters.convert_tokens_to_ids(letter)] = math.log(weight)
    expected = (logits / temperature).log_softmax(-1)
    assert torch.allclose(batch.logprobs, expected[batch.response_ids], atol=1e-4)
    assert torch.allclose(batch.ref_logprobs, expected[batch.response_ids], atol=1e-4)
    shares = torch.bincount(batch.response_ids.flatten(), minlength=len(letters)) / 3200
    error = (expected.exp() * (1 - expected.exp()) / 3200).sqrt()
    assert ((shares - expected.exp()).abs() <= 5 * error + 1e-3).all()


@pytest.mark.parametrize(("tied", "temperature"), [(True, 1.0), (False, 0.7)])
@pytest.mark.parametrize("chunk", [1, 7, 512])
def test_chunks_give_the_whole_models_logprobs_and_gradients(
    make, letter_actor, monkeypatch, chunk, tied, temperature
):  # №5, №8, №31
    monkeypatch.setattr(ActorCritic, "CHUNK", chunk)
    trainer = make(model=letter_actor(tied=tied))
    batch = trainer.rollout(PROMPTS[:4])
    mask = batch.response_mask
    assert 7 < int(mask.sum()) < 512, "7 should cut, 512 should not"
    weight = torch.randn(mask.shape, generator=torch.Generator().manual_seed(0)) * mask
    attention = batch.attention_mask.long()
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    output = trainer.actor.model(input_ids=batch.input_ids, attention_mask=attention, position_ids=positions)
    every = (output.logits[:, -mask.shape[1] - 1 : -1] / temperature).log_softmax(-1)
    whole = torch.where(mask, every.gather(-1, batch.response_ids[..., None]).squeeze(-1), 0.0)
    spread = torch.where(mask, -(every.exp() * every).sum(-1), 0.0)

    def gradients(logprobs: torch.Tensor) -> list:
        trained = [p for name, p in trainer.actor.model.named_parameters() if p.requires_grad]
        return torch.autograd.grad((logprobs * weight).sum(), trained)

    logprobs, _, entropies = trainer.actor(batch, temperature)
    assert close((logprobs, entropies), (whole, spread), 1e-5)
    assert not entropies.requires_grad
    assert close(gradients(logprobs), gradients(whole), 1e-5)
    with torch.no_grad():  # while log π_old is taken
        assert not trainer.actor(batch, temperature)[2].any()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_only_products_are_made_in_half_precision(half):  # №30
    torch.manual_seed(0)
    head, states = nn.Linear(8, 500).requires_grad_(False), torch.randn(64, 8, requires_grad=True)
    tokens, found = torch.randint(0, 500, (64,)), []
    for dtype in (half, torch.float32):
        states.grad = None
        with torch.autocast("cpu", dtype, enabled=dtype is half):
            found.append([*_of_tokens(head, states, tokens, 1.0)])
            found[-1][0].sum().backward()
        found[-1] += (states.grad,)
        assert all(x.dtype == torch.float32 for x in found[-1])
    assert close(*found, 2e-2)
    # Entropies in 16 bits would be equal: two digits are all that they have.
    assert len(found[0][1].unique()) == 64


def test_a_head_that_trains_or_is_quantised_is_refused(make, letter_actor):
    model = letter_actor(tied=False)
    model.get_base_model().lm_head.weight.requires_grad_(True)
    with pytest.raises(ValueError, match="output layer has to be frozen"):
        make(model=model)
    packed = nn.Parameter(torch.zeros(8, 1, dtype=torch.uint8), requires_grad=False)
    model.get_base_model().lm_head.weight = packed
    with pytest.raises(ValueError, match="not quantised"):
        make(model=model)


def test_logits_are_not_kept_for_the_backward_pass(make):  # №31
    trainer = make()
    batch = trainer.rollout(PROMPTS[:4])
    n, vocabulary, kept = int(batch.response_mask.sum()), len(trainer.tokenizer), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        logprobs, _, _ = trainer.actor(batch, 1.0)
    assert logprobs.requires_grad
    assert not any(n in shape and vocabulary in shape for shape in kept)


def test_the_first_values_are_exactly_zero(make):  # №18
    trainer = make()
    batch = ready(trainer)
    assert not batch.values.any()
    # Then an advantage, before whitening, is nothing but discounted pay to come.
    raw, _ = losses.gae(batch.rewards, batch.values, batch.response_mask)
    t, n = 0, int(batch.lengths[0])
    expected = sum(0.95 ** (k - t) * float(batch.rewards[0, k]) for k in range(n))
    assert float(raw[0, t]) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_critic_learns_through_the_trunk_too(make):
    trainer = opinionated(make())
    batch = trainer.rollout(PROMPTS[:4])
    _, values, _ = trainer.actor(batch, 1.0)
    values.sum().backward()
    assert float(trainer.actor.value_head.bias.grad) == float(batch.response_mask.sum())
    lora = [p for name, p in trainer.actor.model.named_parameters() if "lora_B" in name and p.requires_grad]
    assert all(p.grad.any() for p in lora)
    # By hand for one weight of the head: the derivative of a linear map is its input.
    head = trainer.actor.value_head
    moved = head.weight.detach().clone()
    moved[0, 3] += 0.5
    with torch.no_grad():
        head.weight.copy_(moved)
        gained = (trainer.actor(batch, 1.0)[1] - values).sum()
    assert float(gained) == pytest.approx(0.5 * float(head.weight.grad[0, 3]), rel=1e-3)


def test_sampling_runs_on_merged_weights_and_nothing_else_does(make, monkeypatch):
    trainer, seen = make(), []

    def merged_now() -> list:
        return trainer.actor.model.get_model_status().merged_adapters

    sample, forward = ppo.sample, ActorCritic.forward
    monkeypatch.setattr(ppo, "sample", lambda *args: seen.append(merged_now()) or sample(*args))
    monkeypatch.setattr(
        ActorCritic, "forward", lambda self, *args: seen.append(merged_now()) or forward(self, *args)
    )
    trainer.rollout(PROMPTS[:3])
    # The policy's pass and the reference's; two minibatches of at most three rows each.
    assert seen == [[POLICY], [], [], [], []]


# --- reference ----------------------------------------------------------------------------------


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_kl_is_exactly_zero_before_the_first_update(make, compute):  # №27
    trainer = make(compute=compute)
    batch = trainer.rollout(PROMPTS[:8])
    assert batch.logprobs.any()
    assert torch.equal(batch.logprobs, batch.ref_logprobs)
    line = trainer.step(PROMPTS[:8])
    assert line["kl"] == line["kl_k3"] == 0.0


def test_the_reference_never_moves(make):  # №27
    trainer = make()
    batch = trainer.rollout(PROMPTS[:8])
    for _ in range(3):
        line = trainer.step(PROMPTS[:8])
    after, _ = trainer._evaluate(batch)
    with models.using(trainer.actor.model, REF):
        ref_after, _ = trainer._evaluate(batch)
    assert torch.equal(ref_after, batch.ref_logprobs)
    assert (after - batch.logprobs).abs().max() > 0.1, "the policy should have moved"
    # Sampled k1 may be below zero; k3 may not (№9).
    assert line["kl_k3"] > 0


def adapter_state(model) -> tuple:
    return model.active_adapter, {name: p.requires_grad for name, p in model.named_parameters()}


def test_an_error_leaves_the_policy_active_and_trainable(make, monkeypatch):  # №27
    def broken(prompts, responses):
        raise RuntimeError("no reward today")

    trainer = make(reward_fn=broken)
    model = trainer.actor.model
    before = adapter_state(model)
    assert before[0] == POLICY
    with pytest.raises(ValueError, match="no reward today"):
        trainer.step(PROMPTS[:8])
    assert adapter_state(model) == before
    # In the middle of the reference's pass, when another adapter is in use.
    forward = ActorCritic.forward

    def fail_under_ref(self, *args):
        if self.model.active_adapter == REF:
            raise RuntimeError("out of memory")
        return forward(self, *args)

    monkeypatch.setattr(ActorCritic, "forward", fail_under_ref)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.rollout(PROMPTS[:8])
    assert adapter_state(model) == before
    monkeypatch.undo()
    trainer.reward_fn = count_a
    assert trainer.step(PROMPTS[:8])["ratio_error"] == 0.0


# --- rewards, advantages ------------------------------------------------------------------------


def test_kl_is_paid_per_token_and_carries_no_gradient(make):  # №9, №10
    trainer = make(reward_fn=lambda p, r: [0.0] * len(p), missing_stop_penalty=0.0, kl_coef=0.5)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        for weight in trainer.trained:  # away from the reference
            weight += 0.05 * torch.randn_like(weight)
    batch = ready(trainer)
    kl = batch.logprobs - batch.ref_logprobs
    assert kl.abs().max() > 1e-3
    assert torch.allclose(batch.rewards, -0.5 * kl * batch.response_mask)
    assert not any(getattr(batch, n).requires_grad for n in ("rewards", "logprobs", "advantages", "returns"))
    # Where nothing else pays, the tokens that the policy overrates are the ones to unlearn.
    raw, _ = losses.gae(batch.rewards, torch.zeros_like(kl), batch.response_mask, 1.0, 0.0)
    where = batch.response_mask & (kl != 0)
    assert torch.equal(raw[where] < 0, kl[where] > 0)


def test_returns_are_taken_before_whitening(make):  # №14, №15
    trainer = opinionated(make(gamma=0.9, lam=0.8))
    batch = ready(trainer)
    raw, returns = losses.gae(batch.rewards, batch.values, batch.response_mask, 0.9, 0.8)
    assert torch.equal(batch.returns, returns)
    assert torch.allclose(batch.returns, raw + batch.values)
    counted = batch.advantages[batch.response_mask]
    assert float(counted.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(counted.var(unbiased=False)) == pytest.approx(1.0, abs=1e-4)
    assert not batch.advantages[~batch.response_mask].any()


def test_explained_variance_is_that_of_the_critic_before_the_update(make):
    trainer = opinionated(make())
    batch = ready(trainer)
    mask = batch.response_mask
    errors, returns = (batch.returns - batch.values)[mask], batch.returns[mask]
    expected = 1 - errors.var(unbiased=False) / returns.var(unbiased=False)
    line = health.describe(batch, trainer.config.missing_stop_penalty)
    assert line["explained_variance"] == pytest.approx(float(expected), rel=1e-4)
    assert make().step(PROMPTS[:8])["explained_variance"] == pytest.approx(0.0, abs=1e-6)


def test_the_reward_function_sees_plain_texts_in_order(make, letters):  # №32
    seen = []

    def spy(prompts, responses):
        seen.append((prompts, responses))
        return [float(len(r)) for r in responses]

    trainer = make(reward_fn=spy, missing_stop_penalty=0.0)
    batch = ready(trainer)
    [(prompts, responses)] = seen
    assert prompts == PROMPTS[:8]
    assert not any("#" in r or "<" in r for r in responses)
    for i, response in enumerate(responses):
        ids = batch.response_ids[i][batch.response_mask[i]].tolist()
        words = [w for w in letters.convert_ids_to_tokens(ids) if w not in letters.all_special_tokens]
        assert response.split() == words
        assert float(batch.scores[i]) == len(response)


def test_groups_of_similar_length_are_sampled_and_put_back_in_order(make, monkeypatch):
    seen, widths = [], []
    trainer = make(
        reward_fn=lambda p, r: seen.extend(zip(p, r, strict=True)) or [0.0] * len(p), generation_batch=3
    )
    base = trainer.actor.model.get_base_model()
    generate = base.generate
    monkeypatch.setattr(
        base, "generate", lambda **inputs: widths.append(inputs["input_ids"].shape) or generate(**inputs)
    )
    batch = ready(trainer)
    assert batch.prompts == [p for p, _ in seen] == PROMPTS[:8]
    assert batch.responses == [r for _, r in seen]
    assert [rows for rows, _ in widths] == [3, 3, 2]
    lengths = [width for _, width in widths]
    assert lengths == sorted(set(lengths)), "short prompts are not padded to long ones"
    for i, (prompt, response) in enumerate(seen):
        ids = batch.input_ids[i][batch.attention_mask[i]].tolist()
        start = encode_prompt(trainer.tokenizer, prompt)
        assert ids[: len(start)] == start
        assert trainer.tokenizer.decode(ids[len(start) :], skip_special_tokens=True) == response
    assert trainer.update(batch)["ratio_error"] == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_refused_with_its_text(make, bad):
    trainer = make(reward_fn=lambda p, r: [0.0, 0.0, bad, *[0.0] * (len(p) - 3)])
    with pytest.raises(ValueError, match=PROMPTS[2]) as error:
        trainer.step(PROMPTS[:8])
    assert str(bad) in str(error.value)
    assert trainer.steps_done == 0


def test_a_reward_that_raises_shows_the_text_it_fails_on(make):
    def picky(prompts, responses):
        if PROMPTS[5] in prompts:
            raise KeyError("no such word")
        return [0.0] * len(responses)

    trainer = make(reward_fn=picky)
    with pytest.raises(ValueError, match=rf"reward function failed on '{PROMPTS[5]}' -> .*no such word"):
        trainer.step(PROMPTS[:8])
    together = make(reward_fn=lambda p, r: [1 / (len(p) == 1)] * len(p))
    with pytest.raises(ValueError, match="8 responses together"):
        together.step(PROMPTS[:8])


def test_the_parts_of_a_mixture_are_logged_one_by_one(make):
    def words(prompts, responses):
        return [float(len(response.split())) for response in responses]

    trainer = make(reward_fn=Mixture(vowel=(count_a, 2.0), words=(words, -0.5)), missing_stop_penalty=0.0)
    batch, line = step_and_batch(trainer)
    parts = [fn(batch.prompts, batch.responses) for fn in (count_a, words)]
    assert batch.scores.tolist() == pytest.approx([2 * a - 0.5 * n for a, n in zip(*parts, strict=True)])
    assert line["reward_vowel"] == pytest.approx(sum(parts[0]) / 8)
    assert line["reward_words"] == pytest.approx(sum(parts[1]) / 8)
    broken = Mixture(fine=(count_a, 1.0), odd=(lambda p, r: [0.0], 1.0))
    with pytest.raises(ValueError, match="reward 'odd' gave 1 scores for 8"):
        broken(PROMPTS[:8], ["a"] * 8)


@pytest.mark.parametrize("wrong", [0, 7, 9])
def test_a_wrong_number_of_scores_is_refused(make, wrong):
    trainer = make(reward_fn=lambda p, r: [0.0] * wrong)
    with pytest.raises(ValueError, match=f"{wrong} scores for 8 responses"):
        trainer.step(PROMPTS[:8])


def test_scores_are_clipped_before_the_fine(make):  # №17
    trainer = make(reward_fn=lambda p, r: [-9.0, 9.0, 0.5] + [0.0] * (len(p) - 3), score_clip=1.5)
    batch = trainer.score(trainer.rollout(PROMPTS[:8]))
    fine = 2.0 * (~batch.finished).float()
    assert batch.scores.tolist() == (torch.tensor([-1.5, 1.5, 0.5, *[0.0] * 5]) - fine).tolist()


def test_the_running_scale_is_that_of_all_numbers_so_far():  # №17
    stream = (1e3 + 5 * torch.randn(7, 8, generator=torch.Generator().manual_seed(0))).double()
    scale = RunningScale()
    assert scale.std == 1.0
    scale.add([3.0] * 8)
    assert scale.std == 1.0, "equal numbers have no spread to divide by"
    scale = RunningScale()
    for i, numbers in enumerate(stream.tolist(), start=1):
        scale.add(numbers)
        seen = stream[:i].numpy()
        assert scale.std == pytest.approx(np.std(seen), rel=1e-9)
        assert scale.mean == pytest.approx(np.mean(seen), rel=1e-12)


def test_scores_are_scaled_but_not_shifted_and_then_clipped(make):  # №17
    paid = iter([[1.0, 5.0] * 4, [-30.0, 2.0] * 4])
    trainer = make(
        reward_fn=lambda p, r: next(paid), scale_rewards=True, score_clip=1.5, missing_stop_penalty=0.0
    )
    batch = trainer.rollout(PROMPTS[:8])
    assert trainer.score(batch).scores.tolist() == [0.5, 1.5] * 4  # their spread is 2
    std = np.std([1.0, 5.0] * 4 + [-30.0, 2.0] * 4)
    assert trainer.score(batch).scores.tolist() == pytest.approx([-1.5, 2.0 / std] * 4)
    plain = make(reward_fn=lambda p, r: [1.0, 5.0] * 4, missing_stop_penalty=0.0)
    assert plain.score(batch).scores.tolist() == [1.0, 5.0] * 4
    lines = [make(scale_rewards=switch).step(PROMPTS[:8]) for switch in (False, True)]
    assert lines[1]["score_scale"] == pytest.approx(lines[0]["reward_std"], rel=1e-5)
    assert lines[1]["reward_std"] == pytest.approx(1.0, rel=1e-5)
    assert "score_scale" not in lines[0]


def test_whitened_rewards_keep_their_mean(make):  # №16
    plain, scaled = (opinionated(make(whiten_rewards=flag, gamma=1.0, lam=1.0)) for flag in (False, True))
    batch, other = ready(plain), ready(scaled)
    mask = batch.response_mask
    assert torch.equal(batch.rewards, other.rewards), "what is logged stays in the reward's unit"
    paid = losses.whiten(batch.rewards, mask, shift_mean=False)
    assert float(paid[mask].mean()) == pytest.approx(float(batch.rewards[mask].mean()), abs=1e-6)
    # At γ = λ = 1 a return is the sum of what follows.
    follows = paid.flip(1).cumsum(1).flip(1) * mask
    assert torch.allclose(other.returns, follows, atol=1e-5)
    assert not torch.allclose(batch.returns, follows, atol=1e-2)


# --- controls -----------------------------------------------------------------------------------


def test_the_kl_coefficient_follows_its_target(make):  # №25
    trainer = make(kl_target=0.5, kl_coef=0.1, steps=4)
    log = trainer.train(PROMPTS)
    expected = 0.1
    for line in log:
        assert line["kl_coef"] == pytest.approx(expected)
        error = min(0.2, max(-0.2, (line["kl"] - 0.5) / 0.5))
        expected *= 1 + 0.1 * error
    assert trainer.kl_coef == pytest.approx(expected)
    assert log[1]["kl_coef"] == pytest.approx(0.098), "the first KL is 0: the leash gets longer"
    fixed = make(kl_coef=0.1)
    assert {line["kl_coef"] for line in fixed.train(PROMPTS)} == {0.1}


def test_the_coefficient_that_is_logged_is_the_one_that_is_paid(make):  # №25
    trainer = make(kl_coef=0.1, missing_stop_penalty=0.0)
    trainer.step(PROMPTS[:8])  # policy and reference part
    trainer.kl_coef = 3.0
    batch, line = step_and_batch(trainer)
    drift = (losses.kl_k1(batch.logprobs, batch.ref_logprobs) * batch.response_mask).sum(1)
    assert torch.allclose(batch.rewards.sum(1), batch.scores - 3.0 * drift, atol=1e-4)
    assert line["kl_coef"] == 3.0


@pytest.mark.parametrize("limit", [{"max_update_kl": 1e-9}, {"max_ratio": 1.0}])
def test_an_update_that_goes_too_far_ends(make, limit):  # №26
    trainer = make(epochs=3, minibatches=2, **limit)
    batch = ready(trainer)
    calls, step = [], trainer.optimizer.step
    trainer.optimizer.step = lambda *a, **k: calls.append(weights_of(trainer)) or step(*a, **k)
    # The ratio's mean may fall below 1, where max_ratio says nothing: plant one that is above.
    with torch.no_grad():
        if "max_ratio" in limit:
            half = torch.arange(len(batch)) >= 4
            batch.logprobs[half] -= 0.5 * batch.response_mask[half]
    stats = trainer.update(batch)
    assert stats["optimizer_steps"] == len(calls) == 1, "the first minibatch moved it, the second saw that"
    assert stats["ratio_max"] > 1.0
    free = make(epochs=3, minibatches=2)
    assert free.update(ready(free))["optimizer_steps"] == 6


def test_in_the_warm_up_only_the_critic_learns(make):  # №28
    trainer = make(critic_warmup=2, steps=4, learning_rate=3e-2)
    lora = [p for n, p in trainer.actor.model.named_parameters() if p.requires_grad]
    start = [p.detach().clone() for p in lora]
    log = [trainer.step(PROMPTS[:8]) for _ in range(2)]
    assert same(lora, start)
    assert trainer.actor.value_head.weight.any()
    assert all(line["kl"] == 0.0 for line in log), "the policy is still the reference"
    again = ready(trainer, seed=4)
    error = ((again.values - again.returns)[again.response_mask] ** 2).mean()
    assert float(error) < float((again.returns[again.response_mask] ** 2).mean()), "better than saying 0"
    trainer.step(PROMPTS[:8])
    assert not same(lora, start)


@pytest.mark.parametrize("detach", [False, True])
def test_the_value_loss_may_be_kept_from_the_trunk(make, detach):  # №29
    trainer = opinionated(make(detach_value=detach, minibatches=1, epochs=1))
    batch = ready(trainer)
    batch.advantages.zero_()  # only the value loss is left
    trainer.update(batch)
    lora = [p for n, p in trainer.actor.model.named_parameters() if p.requires_grad and "lora" in n]
    assert detach != any(p.grad is not None and p.grad.any() for p in lora)
    assert trainer.actor.value_head.weight.grad.any()


# --- the update ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compute", "micro_batch"), [(torch.float32, 1), (torch.bfloat16, 3), (torch.float32, 8)]
)
def test_the_first_ratio_is_exactly_one(make, compute, micro_batch):  # №6
    trainer = make(compute=compute, micro_batch=micro_batch, temperature=0.7)
    errors = [trainer.step(PROMPTS[i : i + 8])["ratio_error"] for i in (0, 2, 1)]
    assert errors == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("compute", "off"), [(torch.float32, 0.01), (torch.bfloat16, 0.1)])
def test_a_wrong_old_logprob_stops_the_run(make, compute, off):  # №6
    trainer = make(compute=compute)
    batch = ready(trainer)
    row = int(batch.lengths[:4].argmax())  # of the first minibatch
    batch.logprobs[row, 0] += off
    with pytest.raises(TrainingStopped, match="ratio"):
        trainer.update(batch)


@pytest.mark.parametrize("planted", [{"dropout": 0.5}, {"attention_dropout": 0.5}])
def test_dropout_is_off(make, letter_actor, planted):  # №7
    plain = letter_actor(**planted).train()
    inputs = torch.arange(2, 12)[None]
    with torch.no_grad():
        assert not torch.equal(plain(inputs).logits, plain(inputs).logits), "nothing was planted"
    trainer = make(model=letter_actor(**planted))
    batch = trainer.rollout(PROMPTS[:8])
    first, second = trainer._evaluate(batch), trainer._evaluate(batch)
    assert trainer.actor.training
    assert same(first, second)
    assert trainer.step(PROMPTS[:8])["ratio_error"] == 0.0


def test_every_rate_of_dropout_is_found(letters):
    """Each of these keeps some rate under another name, and hands it to a function."""
    few = {"vocab_size": len(letters), "num_hidden_layers": 2, "num_attention_heads": 4}
    sized = {"hidden_size": 32, "intermediate_size": 64, "num_key_value_heads": 2}
    halves = dict.fromkeys(("residual_dropout", "embedding_dropout", "attention_dropout"), 0.5)
    bloom = {"hidden_dropout": 0.5, "attention_dropout": 0.5}
    layers = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 64}
    for model in (
        Starcoder2ForCausalLM(Starcoder2Config(**few, **sized, **halves)),
        BloomForCausalLM(BloomConfig(vocab_size=len(letters), hidden_size=32, n_layer=2, n_head=4, **bloom)),
        BartForCausalLM(
            BartConfig(vocab_size=len(letters), **layers, activation_dropout=0.5, decoder_layerdrop=0.5)
        ),
    ):
        switch_off_dropout(model.train())
        ids = torch.arange(2, 12)[None]
        with torch.no_grad():
            assert torch.equal(model(ids).logits, model(ids).logits), type(model).__name__


def test_the_update_does_not_depend_on_the_micro_batch(make):  # №21
    settings = {"seed": 4, "response_tokens": 16, "learning_rate": 1e-3}
    shared, found = ready(opinionated(make(**settings)), seed=1), []
    assert len(set(shared.lengths.tolist())) > 4, "with equal lengths a mean of means would do"
    for micro_batch in (1, 3, 8):
        trainer = opinionated(make(micro_batch=micro_batch, **settings))
        batch = copy.copy(shared)
        # Its own log π_old: they are equal to the others' up to rounding.
        batch.logprobs, _ = trainer._evaluate(batch)
        torch.manual_seed(2)
        stats = trainer.update(batch)
        found.append((weights_of(trainer), [p.grad for p in trainer.trained], stats))
    for weights, grads, stats in found[1:]:
        assert close(weights, found[0][0], 1e-5)
        assert close(grads, found[0][1], 1e-5)
        assert stats == pytest.approx(found[0][2], rel=1e-4, abs=1e-5)


def test_the_loss_is_a_mean_over_tokens(make):  # №19, №20, №21
    trainer = opinionated(
        make(epochs=1, minibatches=1, max_grad_norm=1e9, value_coef=0.3, response_tokens=16)
    )
    batch = ready(trainer, seed=4)
    # As if from an older policy, so that some ratios and values are clipped.
    shift = torch.randn(batch.logprobs.shape, generator=torch.Generator().manual_seed(0))
    batch.logprobs = batch.logprobs + 0.3 * shift * batch.response_mask
    batch.values = batch.values + 0.3 * shift.flip(1) * batch.response_mask
    mask = batch.response_mask
    logprobs, values, entropy = trainer.actor(batch, 1.0)
    ratio = (logprobs - batch.logprobs)[mask].exp()
    advantages, returns, old = (x[mask] for x in (batch.advantages, batch.returns, batch.values))
    policy = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()
    near = old + (values[mask] - old).clamp(-0.2, 0.2)
    value = torch.maximum((values[mask] - returns) ** 2, (near - returns) ** 2).mean() / 2
    expected = torch.autograd.grad(policy + 0.3 * value, trainer.trained)
    stats = trainer._minibatch(batch, torch.arange(len(batch)))
    assert close([p.grad for p in trainer.trained], expected, 1e-5)
    assert stats["policy_loss"] == pytest.approx(float(policy.detach()), abs=1e-5)
    assert stats["value_loss"] == pytest.approx(float(value.detach()), rel=1e-4)
    assert stats["entropy"] == pytest.approx(float(entropy[mask].mean()), rel=1e-4)
    outside = ((ratio - 1).abs() > 0.2).float().mean()
    assert 0.2 < float(outside) < 0.9
    assert stats["clip_share"] == pytest.approx(float(outside), abs=1e-5)
    drift = (ratio - 1 - ratio.log()).mean()
    assert stats["kl_update"] == pytest.approx(float(drift.detach()), rel=1e-3)
    assert stats["ratio_error"] == pytest.approx(float((ratio - 1).abs().max().detach()), rel=1e-4)


def spy_on_optimizer(trainer: PPOTrainer, look) -> list:
    """What ``look()`` returns at each optimizer step."""
    found, step = [], trainer.optimizer.step

    def spied(*args, **kwargs):
        found.append(look())
        return step(*args, **kwargs)

    trainer.optimizer.step = spied
    return found


@pytest.mark.parametrize(
    ("epochs", "minibatches", "micro_batch"), [(1, 1, 8), (2, 3, 1), (3, 2, 8), (1, 8, 1)]
)
def test_optimizer_steps_are_epochs_times_minibatches(make, epochs, minibatches, micro_batch):  # №22
    trainer = make(epochs=epochs, minibatches=minibatches, micro_batch=micro_batch, response_tokens=3)
    steps = spy_on_optimizer(trainer, lambda: 1)
    line = trainer.step(PROMPTS[:8])
    assert len(steps) == line["optimizer_steps"] == epochs * minibatches


def test_each_epoch_uses_each_row_once_in_a_new_order(make, monkeypatch):  # №22
    trainer, used = make(epochs=3, minibatches=3), []
    minibatch = trainer._minibatch

    def spied(batch, rows):
        used.append(rows.tolist())
        return minibatch(batch, rows)

    monkeypatch.setattr(trainer, "_minibatch", spied)
    trainer.step(PROMPTS[:8])
    epochs = [[row for rows in used[i : i + 3] for row in rows] for i in (0, 3, 6)]
    assert [sorted(rows) for rows in epochs] == [list(range(8))] * 3
    assert len({tuple(rows) for rows in epochs}) == 3


def test_micro_batches_cover_each_row_once_from_short_to_long(make):
    trainer = make(micro_batch=3)
    torch.manual_seed(4)
    batch = trainer.rollout(PROMPTS)
    rows = tensor([9, 0, 4, 7, 2, 5, 1])
    parts = trainer._micro_batches(batch, rows)
    assert [len(part) for part in parts] == [3, 3, 1]
    together = torch.cat(parts)
    assert sorted(together.tolist()) == sorted(rows.tolist())
    widths = batch.attention_mask.sum(1)[together].tolist()
    assert widths == sorted(widths)
    assert len(set(widths)) > 3


@pytest.mark.parametrize("limit", [0.5, 1e9])
def test_gradients_are_clipped_and_the_norm_before_is_logged(make, limit):  # №23
    trainer = make(reward_fn=lambda p, r: [1e4 * len(text) for text in r], max_grad_norm=limit)
    norms = spy_on_optimizer(
        trainer, lambda: float(torch.stack([p.grad.norm() for p in trainer.trained]).norm())
    )
    line = trainer.step(PROMPTS[:8])
    assert line["grad_norm"] > 100
    assert len(norms) == 4
    if limit == 0.5:
        assert norms == pytest.approx([0.5] * 4, rel=1e-3)
    else:
        assert line["grad_norm"] == pytest.approx(sum(norms) / 4, rel=1e-4)


def test_the_learning_rate_falls_linearly_to_a_tenth(make):  # №24
    trainer = make(steps=20, learning_rate=1e-5, epochs=1, minibatches=1, batch_size=4, response_tokens=2)
    assert trainer.optimizer.defaults["eps"] == 1e-5
    rates = spy_on_optimizer(trainer, lambda: trainer.optimizer.param_groups[0]["lr"])
    trainer.train(PROMPTS[:4])
    assert rates == pytest.approx([1e-5 * max(0.1, 1 - k / 20) for k in range(20)])


def test_only_the_policy_and_the_critic_are_trained(make):
    trainer = make()
    before = {name: p.detach().clone() for name, p in trainer.actor.named_parameters()}
    for _ in range(2):
        trainer.step(PROMPTS[:8])
    moved = {name for name, p in trainer.actor.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in trainer.actor.named_parameters() if p.requires_grad}
    assert all(f".{POLICY}" in name or name.startswith("value_head") for name in moved)
    assert all(p.dtype == torch.float32 for p in trainer.trained)  # №30


def test_a_model_with_nothing_to_train_is_refused(letters, letter_actor, monkeypatch):
    monkeypatch.setattr("sawyer_utils.actor.check_output_layer", lambda model: None)  # it would run it
    model = letter_actor()
    for name in [n for n, _ in model.named_modules() if n.endswith((POLICY, REF))]:
        del model.get_submodule(name.rsplit(".", 1)[0])[name.rsplit(".", 1)[1]]
    with pytest.raises(ValueError, match="no trainable weights"):
        PPOTrainer(model, letters, count_a, SMALL)


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_activation_checkpointing_is_on_and_changes_nothing(make, compute):  # №7
    found = []
    for switch in (False, True):
        trainer = opinionated(make(activation_checkpointing=switch, learning_rate=1e-3, compute=compute))
        batch, calls = ready(trainer), []
        layer = trainer.actor.model.get_base_model().model.layers[0].mlp
        # Before the forward: the second one is broken off as soon as it has what it is for.
        hook = layer.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        stats = trainer.update(batch)
        hook.remove()
        found.append((len(calls), stats, weights_of(trainer)))
    (plain_calls, plain_stats, plain), (calls, stats, weights) = found
    assert plain_calls == 2 * 2 * 2  # epochs × minibatches × micro-batches
    assert calls == 2 * plain_calls  # each layer ran again in the backward pass
    assert stats == pytest.approx(plain_stats, rel=1e-4, abs=1e-6)
    assert stats["ratio_error"] == 0.0
    assert close(weights, plain, 1e-6)


# --- when it goes wrong -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"top_k": 50}, "full distribution"),  # №4
        ({"top_p": 0.9}, "full distribution"),
        ({"temperature": 0.0}, "full distribution"),
        *(({name: 0}, f"{name}=0: it has to be 1 or more") for name in ppo_config.SIZES),
        ({"clip": 0.0}, "clip=0.0"),
        ({"kl_target": 0.0}, "kl_target=0.0"),
        ({"kl_target": 1.0, "kl_coef": 0.0}, "kl_coef=0.0"),
        ({"minibatches": 9}, "9 minibatches"),
    ],
)
def test_settings_that_cannot_work_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **setting)


OF_PROFILE = {
    "steps": "ppo_steps",
    "batch_size": "ppo_batch",
    "epochs": "ppo_epochs",
    "minibatches": "ppo_minibatches",
    "micro_batch": "ppo_micro_batch",
    "learning_rate": "ppo_lr",
    "checkpoint_every": "ppo_checkpoint_every",
    **{
        name: name
        for name in ("kl_coef", "missing_stop_penalty", "response_tokens", "prompt_tokens", "temperature")
    },
}


def test_each_setting_of_the_profile_reaches_the_run():
    wanted = {name: 70 - i for i, name in enumerate(OF_PROFILE)}
    profile = replace(PROFILES["smoke"], **{OF_PROFILE[name]: value for name, value in wanted.items()})
    config = PPOConfig.from_profile(profile)
    assert {name: getattr(config, name) for name in wanted} == wanted


def test_fp16_trains_weights_in_fp32_under_a_loss_scale(make, letters):  # №30
    model = build_actor(letters, model=build_model(letters).half())
    trainer = make(model=model, compute=torch.float16)
    assert trainer.scaler.is_enabled()
    assert {
        p.dtype
        for p in trainer.actor.model.get_base_model().model.layers[0].mlp.up_proj.base_layer.parameters()
    } == {torch.float16}
    assert {p.dtype for n, p in trainer.actor.named_parameters() if "lora" in n or "head" in n} == {
        torch.float32
    }
    before = weights_of(trainer)
    line = trainer.step(PROMPTS[:8])
    assert line["optimizer_steps"] == 4
    assert line["ratio_error"] < 1e-2
    assert not same(weights_of(trainer), before)
    # log-probs are computed in fp32 from the half-precision states: near those of an fp64 model.
    batch = trainer.rollout(PROMPTS[:8])
    exact = make(model=copy.deepcopy(model).double(), compute=torch.float32)
    logprobs, _ = exact._evaluate(batch)
    assert torch.allclose(batch.logprobs.double(), logprobs.double(), atol=2e-2)


def test_an_fp16_overflow_skips_the_step_and_lowers_the_scale(make, letters):  # №26, №30
    trainer = make(model=build_actor(letters, model=build_model(letters).half()), compute=torch.float16)
    batch, before = ready(trainer), weights_of(trainer)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    stats = trainer.update(batch)
    assert stats["optimizer_steps"] == 0
    assert stats["grad_norm"] == 0.0, "infinity is no JSON"
    assert same(weights_of(trainer), before)
    assert trainer.scaler.get_scale() == 2.0**36, "halved at each of four tries"
    while trainer.update(ready(trainer))["optimizer_steps"] < 4:
        assert trainer.scaler.get_scale() > 1.0
    assert not same(weights_of(trainer), before)


def test_fewer_prompts_than_a_batch_are_refused(make):
    # Elsewhere this loops for ever over an empty loader.
    with pytest.raises(ValueError, match=r"7 prompts are fewer than the 8 of a step: .*ppo_batch"):
        make().train(PROMPTS[:7])
    assert len(make(**GROUPS, steps=1).train(PROMPTS[:2])) == 1  # eight answers in two groups
    with pytest.raises(ValueError, match="1 prompts are fewer than the 2 of"):
        make(**GROUPS).train(PROMPTS[:1])


def test_prompts_that_do_not_fit_are_left_out_and_said(make, letters, capsys):
    long = "a b c d e f g h i j k l m n"
    seen = []

    def reward(prompts, responses):
        seen.extend(prompts)
        return [float(len(r)) for r in responses]

    limit = max(token_count(letters, prompt) for prompt in PROMPTS)
    trainer = make(reward, steps=2, prompt_tokens=limit)
    trainer.train([long, *PROMPTS, long])
    assert len(seen) == 2 * trainer.config.batch_size
    assert long not in seen
    said = f"2 of {len(PROMPTS) + 2} prompts left out: longer than {limit} tokens.\n"
    assert said in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"7 prompts are fewer than the 8 of a step: .*ppo_batch"):
        make(prompt_tokens=limit).train([*PROMPTS[:7], long])


def test_a_policy_that_only_stops_ends_the_run(make, letters):
    model = build_actor(letters, model=known_model(letters, {letters.eos_token: 1.0}))
    trainer = make(model=model)
    before = weights_of(trainer)
    with pytest.raises(TrainingStopped, match="every response is empty"):
        trainer.train(PROMPTS)
    assert same(weights_of(trainer), before)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_nan_stops_the_run_and_the_checkpoint_is_from_before(make, tmp_path, what):
    # One optimizer step a step: no later minibatch would notice.
    settings = {"run_dir": tmp_path, "steps": 4, "checkpoint_every": 2, "epochs": 1, "minibatches": 1}
    trainer = make(**settings)

    def sabotage(log):
        if len(log) < 3:
            return
        if what == "loss":
            trainer.actor.value_head.weight.data[0, 0] = math.nan
        else:  # the loss is fine, what comes back from it is not
            trainer.trained[0].register_hook(lambda gradient: gradient * math.nan)

    with pytest.raises(TrainingStopped, match=rf"Step 3: the {what}.* nan"):
        trainer.train(PROMPTS, on_step=sabotage)
    fresh = make(**settings)
    assert fresh.load_checkpoint()
    assert fresh.steps_done == len(fresh.log) == 2
    assert all(torch.isfinite(weight).all() for weight in fresh.trained)
    assert math.isfinite(fresh.step(PROMPTS[:8])["policy_loss"])


def test_an_infinite_ratio_stops_the_run_before_it_is_logged(make):
    trainer = make()
    batch, before = ready(trainer), weights_of(trainer)
    # exp(100) is no float. Where the advantage is positive the clipped loss is finite all the same.
    row = int((batch.advantages[:4, 0]).argmax())
    assert batch.advantages[row, 0] > 0
    batch.logprobs[row, 0] -= 100
    with pytest.raises(TrainingStopped, match="Step 0: the largest ratio is inf"):
        trainer.update(batch)
    assert same(weights_of(trainer), before)


# --- stopping and going on ----------------------------------------------------------------------


def state_of(trainer: PPOTrainer) -> dict[str, torch.Tensor]:
    """Everything that training has changed."""
    moments = {
        f"{index}.{name}": value
        for index, state in trainer.optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
    return {**trainer.actor.state_dict(), **moments}


def check_same_run(first: PPOTrainer, second: PPOTrainer) -> None:
    one, two = state_of(first), state_of(second)
    assert one.keys() == two.keys()
    for key in one:
        assert torch.equal(one[key], two[key]), key
    assert [numbers(line) for line in first.log] == [numbers(line) for line in second.log]


# With these, β and the scores' scale move: they are part of the state, too.
MOVING = {"kl_target": 0.5, "scale_rewards": True, "generation_batch": 3}


@pytest.mark.parametrize(("killed_in", "more"), [(3, {}), (4, {}), (3, GROUPS)])
def test_two_steps_and_two_are_four(make, tmp_path, killed_in, more):  # №33
    settings = {"steps": 4, "checkpoint_every": 2, "missing_stop_penalty": 0.5, **MOVING, **more}
    whole = make(run_dir=tmp_path / "whole", **settings)
    whole.train(PROMPTS)
    cut = make(run_dir=tmp_path / "cut", **settings)

    def kill(log):
        if len(log) == killed_in - 1 + (killed_in == 4):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut.train(PROMPTS, on_step=kill)
    torch.manual_seed(99)  # a new process has another random state
    resumed = make(run_dir=tmp_path / "cut", **settings)
    shown = []
    log = resumed.train(PROMPTS, on_step=lambda log: shown.append(len(log)))
    assert [line["step"] for line in log] == [1, 2, 3, 4]
    assert shown == [2, 3, 4] if killed_in == 3 else [4]
    check_same_run(resumed, whole)
    assert resumed.kl_coef == whole.kl_coef != resumed.config.kl_coef
    assert resumed.score_scale == whole.score_scale
    assert whole.score_scale.count == 4 * 8
    # The moments were not merely there; they were right.
    assert any(key.endswith("exp_avg_sq") for key in state_of(resumed))


KILLED = ("generating", "updating", "writing", "between two renames")


def train_and_die(where: str, folder: Path) -> None:
    """A run of four steps that is killed in the third: SIGKILL, so nothing can tidy up."""
    tokenizer = add_control_tokens(letter_tokenizer())
    settings = replace(SMALL, steps=4, checkpoint_every=1)
    trainer = PPOTrainer(build_actor(tokenizer), tokenizer, count_a, settings, folder)

    def die_in(module, name: str, at_call: int):
        original, calls = getattr(module, name), []

        def call(*args, **kwargs):
            calls.append(name)
            if len(calls) == at_call:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        setattr(module, name, call)

    def arm(log):
        if len(log) == 2:
            if where == "generating":
                die_in(trainer.actor.model.get_base_model(), "generate", 1)
            elif where == "updating":
                die_in(trainer, "_minibatch", 3)
            elif where == "writing":
                die_in(checkpoints, "write_json", 1)
            else:  # aside with the old checkpoint, and then …; before it, files of the adapter
                renamed = os.replace

                def rename(source, target):
                    renamed(source, target)
                    if str(target).endswith(".old"):
                        os.kill(os.getpid(), signal.SIGKILL)

                os.replace = rename

    trainer.train(PROMPTS, on_step=arm)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(make, tmp_path, forked):  # №33
    settings = {"steps": 4, "checkpoint_every": 1}
    whole = make(run_dir=tmp_path / "whole", **settings)
    whole.train(PROMPTS)
    running = {where: forked(train_and_die, where, tmp_path / where) for where in KILLED}
    for where, process in running.items():
        process.join(timeout=300)
        assert process.exitcode == -signal.SIGKILL, where
        left = {path.name for path in (tmp_path / where).iterdir()}
        assert ("checkpoint" in left) == (where != "between two renames"), left
        resumed = make(run_dir=tmp_path / where, **settings)
        shown = []
        resumed.train(PROMPTS, on_step=lambda log, shown=shown: shown.append(len(log)))
        assert shown == [2, 3, 4], where
        assert [line["step"] for line in resumed.log] == [1, 2, 3, 4]
        check_same_run(resumed, whole)
        assert {path.name for path in (tmp_path / where).iterdir()} == {"checkpoint", "run.json"}


def test_a_finished_run_is_not_run_again(make, tmp_path):
    first = make(run_dir=tmp_path)
    first.train(PROMPTS)
    second = make(run_dir=tmp_path)
    second.step = lambda prompts: pytest.fail("a step was made")
    second.train(PROMPTS)
    check_same_run(second, first)


def test_the_stop_button_keeps_the_step_and_the_next_run_goes_on(make, tmp_path):
    settings = {"steps": 4, "checkpoint_every": 100}
    whole = make(run_dir=tmp_path / "whole", **settings)
    whole.train(PROMPTS)
    cut, handler = make(run_dir=tmp_path / "cut", **settings), signal.getsignal(signal.SIGINT)

    def press(log):
        if len(log) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingInterrupted, match="Stopped after step 1 of 4"):
        cut.train(PROMPTS, on_step=press)
    assert signal.getsignal(signal.SIGINT) is handler
    resumed = make(run_dir=tmp_path / "cut", **settings)
    shown = []
    resumed.train(PROMPTS, on_step=lambda log: shown.append(len(log)))
    assert shown == [1, 2, 3, 4], "first what there was"
    check_same_run(resumed, whole)


@pytest.fixture
def interruptible():
    """As in a foreground: a shell lets what it starts in the background ignore the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_without_a_folder_the_stop_button_promises_nothing(make, capsys, interruptible):
    def press(log):
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        make(steps=4).train(PROMPTS, on_step=press)
    assert not isinstance(caught.value, TrainingInterrupted)
    assert "to keep it" not in capsys.readouterr().out


def test_stop_in_the_last_step_leaves_a_finished_run(make, tmp_path, interruptible):
    trainer = make(steps=1, run_dir=tmp_path)
    assert len(trainer.train(PROMPTS, on_step=lambda log: os.kill(os.getpid(), signal.SIGINT))) == 1


def test_the_same_trainer_goes_on_from_its_own_step_and_not_from_the_checkpoint(make, tmp_path):
    trainer, shown = make(steps=4, checkpoint_every=2, run_dir=tmp_path), []

    def fail_once(log):
        shown.append(len(log))
        if shown == [1, 2, 3]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.train(PROMPTS, on_step=fail_once)
    trainer.train(PROMPTS, on_step=fail_once)
    assert shown == [1, 2, 3, 3, 4], "what there was, and the step that was missing"


def test_without_resume_a_run_starts_over(make, tmp_path):
    first = make(run_dir=tmp_path)
    first.train(PROMPTS)
    calls = []
    again = make(run_dir=tmp_path, reward_fn=lambda p, r: calls.append(1) or count_a(p, r))
    again.train(PROMPTS, resume=False)
    assert len(calls) == 2 + 3  # to know the reward, and a step each
    check_same_run(again, first)


BEGUN = ("stopped before a checkpoint", "finished, other settings", "finished, resume=False")


@pytest.mark.parametrize("begun", BEGUN)
def test_a_run_that_starts_over_in_the_same_session_starts_at_the_reference(
    make, letter_actor, tmp_path, begun
):
    settings = {"steps": 3, "checkpoint_every": 9}
    model = letter_actor(0)  # as in a notebook: one model, and the cell is run again

    def stop(log):
        if begun == BEGUN[0] and len(log) == 2:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        make(model=model, run_dir=tmp_path / "run", **settings).train(PROMPTS, on_step=stop)
    settings |= {"kl_coef": 0.5} if begun == BEGUN[1] else {}
    again = make(model=model, run_dir=tmp_path / "run", **settings)
    again.train(PROMPTS, resume=begun != BEGUN[2])
    assert again.log[0]["kl"] == 0.0
    whole = make(run_dir=tmp_path / "whole", **settings)
    whole.train(PROMPTS)
    check_same_run(again, whole)


CHANGES_NO_RESULT = {
    "micro_batch",
    "generation_batch",
    "checkpoint_every",
    "activation_checkpointing",
    "compute",
}


def test_every_setting_that_changes_a_result_tells_runs_apart(make):
    trainer = make()
    known = checkpoints.settings_of(trainer)
    assert known.keys() == {"start", *vars(trainer.config)} - CHANGES_NO_RESULT


def test_seconds_and_tokens_a_second_are_those_of_the_whole_step(make, monkeypatch):
    trainer = make()
    times = iter([0.0, 1.0, 3.0, 7.0])
    monkeypatch.setattr(ppo, "seconds", lambda device: next(times))
    line = trainer.step(PROMPTS[:8])
    phases = [line[f"seconds_{name}"] for name in ("rollout", "score", "update")]
    assert phases == [1.0, 2.0, 4.0]
    assert line["tokens_per_second"] == pytest.approx(line["length"] * 8 / 7)


def double(prompts: list[str], responses: list[str]) -> list[float]:
    return [2 * score for score in count_letters(prompts, responses)]


def count_letters(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(len(response)) for response in responses]


OTHER_RUNS = {
    "kl_coef": {"kl_coef": 0.5},
    "learning_rate": {"learning_rate": 1e-3},
    "steps": {"steps": 3},  # the learning rate falls over them
    "temperature": {"temperature": 0.5},
    "start": {"seed": 1},
    "reward": {"reward_fn": double},
    "prompts": {},
}


@pytest.mark.parametrize("name", OTHER_RUNS)
def test_another_run_is_moved_aside_and_not_used(make, tmp_path, capsys, name):
    settings = {"steps": 2, "reward_fn": count_letters}
    first = make(**settings, run_dir=tmp_path)
    first.train(PROMPTS)
    (tmp_path / "milestones" / "step-1").mkdir(parents=True)
    prompts = PROMPTS[::-1] if name == "prompts" else PROMPTS
    settings |= OTHER_RUNS[name]
    capsys.readouterr()
    found = make(**settings, run_dir=tmp_path)
    wanted = make(**settings, run_dir=tmp_path / "fresh")
    for trainer in (found, wanted):
        trainer.train(prompts)
    check_same_run(found, wanted)
    said = capsys.readouterr().out
    assert "starting over" in said
    assert name in said.split(").")[0]
    aside = tmp_path / "earlier-1"
    assert (aside / "milestones").is_dir()
    assert load_file(aside / "checkpoint" / "adapter" / "adapter_model.safetensors")
    assert not same(weights_of(found), weights_of(first))


def test_another_run_that_was_killed_between_two_renames_is_moved_aside_too(make, tmp_path):
    make(steps=1, run_dir=tmp_path).train(PROMPTS)
    (tmp_path / "checkpoint").rename(tmp_path / ".checkpoint.x.old")
    assert make(steps=1, kl_coef=0.5, run_dir=tmp_path).train(PROMPTS)[0]["kl_coef"] == 0.5


def test_what_changes_no_result_goes_on(make, tmp_path):
    """As after the advice on memory: smaller pieces, or less often a checkpoint; or on another GPU."""
    first = make(steps=2, run_dir=tmp_path)
    first.train(PROMPTS)
    pieces = {"micro_batch": 1}, {"checkpoint_every": 9}, {"activation_checkpointing": True}
    for change in (*pieces, {"compute": torch.float16}):
        again = make(**{"steps": 2, **change}, run_dir=tmp_path)
        again.step = lambda prompts: pytest.fail("a step was made")
        assert again.train(PROMPTS) == first.log
        assert not (tmp_path / "earlier-1").exists()


def few(limit: int):
    """One more for a response of fewer letters: on the canned answers all of these limits agree."""
    return lambda prompts, responses: [float(len(response.split()) < limit) for response in responses]


@pytest.mark.parametrize(
    "more", [{}, {"scale_rewards": True, "score_clip": 0.5, "missing_stop_penalty": 3.0}]
)
def test_a_reward_that_only_agrees_on_a_few_answers_is_another_one(make, tmp_path, capsys, more):
    settings = {"steps": 2, "run_dir": tmp_path, "response_tokens": 6, **more}
    first = make(few(2), **settings)
    first.train(PROMPTS)
    same_one = make(few(2), **settings)
    same_one.step = lambda prompts: pytest.fail("a step was made")
    assert same_one.train(PROMPTS) == first.log
    other = make(few(4), **settings)
    known = [checkpoints.identity(trainer, PROMPTS)["reward"] for trainer in (first, other)]
    assert known[0] == known[1], "the canned answers tell them apart: nothing was planted"
    lengths = {len(one["response"].split()) for one in first.log[-1]["samples"]}
    assert lengths & {2, 3}, "nothing in the log tells them apart"
    capsys.readouterr()
    other.train(PROMPTS)
    said = capsys.readouterr().out
    assert "scores this run's answers otherwise" in said
    assert (tmp_path / "earlier-1" / "checkpoint").exists()


def test_a_reward_that_is_not_the_same_twice_can_still_go_on(make, tmp_path, capsys):
    dice = random.Random(0)
    trainer = make(steps=2, run_dir=tmp_path, reward_fn=lambda p, r: [dice.random() for _ in r])
    trainer.train(PROMPTS)
    again = make(steps=2, run_dir=tmp_path, reward_fn=lambda p, r: [dice.random() for _ in r])
    assert again.train(PROMPTS) == trainer.log
    assert "cannot be told" in capsys.readouterr().out


@pytest.mark.parametrize(
    "file", ["adapter/adapter_model.safetensors", "value_head.safetensors", "optimizer.safetensors"]
)
def test_a_damaged_checkpoint_says_which_and_what_to_do(make, tmp_path, file):
    make(run_dir=tmp_path).train(PROMPTS)
    path = tmp_path / "checkpoint" / file
    path.write_bytes(path.read_bytes()[:-10])
    trainer = make(run_dir=tmp_path)
    before = weights_of(trainer)
    with pytest.raises(ValueError, match="checkpoint") as error:
        trainer.train(PROMPTS)
    assert str(tmp_path / "checkpoint") in str(error.value)
    assert "Delete" in str(error.value)
    assert same(weights_of(trainer), before), "half of a checkpoint was taken"


def test_nothing_that_goes_on_lies_on_the_file_it_came_from(make, tmp_path, monkeypatch):
    """On Windows the next checkpoint could not replace such a file."""
    make(run_dir=tmp_path).train(PROMPTS)
    files = []
    for module in (checkpoints, adapters):
        read = module.load_file
        monkeypatch.setattr(
            module, "load_file", lambda path, read=read: files.append(read(path)) or files[-1]
        )
    again = make(run_dir=tmp_path)
    assert again.load_checkpoint()
    on_file = {tensor.untyped_storage().data_ptr() for file in files for tensor in file.values()}
    assert len(files) == 3
    assert not on_file & {tensor.untyped_storage().data_ptr() for tensor in state_of(again).values()}


def test_a_checkpoint_is_small_and_plain(make, tmp_path):
    trainer = make(run_dir=tmp_path)
    trainer.train(PROMPTS)
    folder = tmp_path / "checkpoint"
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".jsonl", ".safetensors"}, "no pickles"
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert set(load_file(folder / "value_head.safetensors")) == {"weight", "bias"}


# --- prompts and randomness ---------------------------------------------------------------------


def test_each_pass_over_the_prompts_uses_each_once(make):
    trainer, drawn = make(batch_size=4), []
    for step in range(15):  # six passes over ten prompts; passes end inside batches
        trainer.steps_done = step
        drawn += prompts_of_step(PROMPTS, trainer.steps_done, trainer.config)
    passes = [tuple(drawn[i : i + 10]) for i in range(0, 60, 10)]
    assert all(Counter(p) == Counter(PROMPTS) for p in passes)
    assert len(set(passes)) == 6
    # Known from seed and step alone, so that a resumed run goes on with the next ones.
    trainer.steps_done = 7
    assert prompts_of_step(PROMPTS, trainer.steps_done, trainer.config) == drawn[28:32]


def test_the_seed_decides_everything(make):
    lines = []
    for seed in (0, 0, 1):
        torch.manual_seed(1234 + len(lines))
        model = build_actor(make().tokenizer)
        trainer = make(model=model, response_tokens=6)
        trainer.config = replace(trainer.config, seed=seed)
        lines.append(numbers(trainer.step(PROMPTS[:8])))
    assert lines[0] == lines[1]
    assert lines[0]["samples"] != lines[2]["samples"]


def test_each_step_samples_anew(make):
    trainer = make(learning_rate=0.0)
    samples = [trainer.step(PROMPTS[:8])["samples"] for _ in range(2)]
    assert samples[0] != samples[1]


# --- does it learn? -----------------------------------------------------------------------------


LONGER = GROUPS | {"steps": 40}  # a quarter of the prompts a step


@pytest.mark.parametrize(
    ("seed", "baseline"),
    [(0, {}), (1, {}), (2, {}), (0, LONGER), (1, LONGER | {"group_scale": True})],
)
def test_a_known_optimum_is_reached(letters, seed, baseline):  # №34
    """A point for each "a" and four tokens: nothing is better than four times "a"."""
    settings = PPOConfig(
        steps=24,
        batch_size=32,
        micro_batch=16,
        minibatches=2,
        epochs=2,
        response_tokens=4,
        learning_rate=1e-2,
        kl_coef=0.0,
        missing_stop_penalty=0.0,
        seed=seed,
    )
    settings = replace(settings, **baseline)
    # Wide enough for the optimum: at rank 4 and width 32 some seeds end at three times "a".
    actor = build_actor(letters, seed, rank=8, hidden_size=64)
    rewards = [line["reward"] for line in PPOTrainer(actor, letters, count_a, settings).train(PROMPTS * 4)]
    assert rewards[0] < 0.5
    assert sum(rewards[-5:]) / 5 >= 0.95 * 4


def says_a(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(response.strip() == "a") for response in responses]


def test_a_bandit_ends_at_its_closed_form(letters, letter_actor):  # №9, №34
    """One question, one token, 1 for the right one: the optimum of E[r] − β·KL is
    π*(a) ∝ π_ref(a) · exp(r(a)/β) (e.g. Rafailov et al. 2023, arXiv 2305.18290, equation 4)."""
    model, kl_coef = letter_actor(0), 0.3
    settings = PPOConfig(
        steps=30,
        batch_size=128,
        micro_batch=128,
        minibatches=1,
        epochs=4,
        response_tokens=1,
        learning_rate=1e-2,
        missing_stop_penalty=0.0,
        kl_coef=kl_coef,
    )
    ids = torch.tensor([encode_prompt(letters, "d")])

    def policy():
        with torch.no_grad():
            return model(input_ids=ids).logits[0, -1].softmax(-1)

    before = policy()
    PPOTrainer(model, letters, says_a, settings).train(["d"] * 128)
    paid = torch.zeros_like(before)
    paid[letters.convert_tokens_to_ids("a")] = 1.0
    optimum = before * (paid / kl_coef).exp()
    optimum /= optimum.sum()

    def distance(p):  # total variation: the largest difference of any event's probability
        return float((p - optimum).abs().sum()) / 2

    assert distance(before) > 0.5
    assert 1 - float(optimum.max()) > 0.3  # from a policy that only says "a"
    assert distance(policy()) < 0.09


# --- without a critic ---------------------------------------------------------------------------


def test_each_prompt_of_a_step_is_answered_by_a_whole_group():
    config = replace(SMALL, **GROUPS)
    steps = [prompts_of_step(PROMPTS, step, config) for step in range(5)]
    for step in steps:
        assert len(step) == config.batch_size
        assert all(len(set(step[i : i + 4])) == 1 for i in range(0, len(step), 4))
    assert sorted({prompt for step in steps for prompt in step}) == sorted(
        PROMPTS
    )  # ten in five steps of two


def test_the_baseline_of_an_answer_is_the_mean_of_the_other_answers(make):
    batch = ready(
        make(**GROUPS, kl_coef=0.0, missing_stop_penalty=0.0), [p for p in PROMPTS[:2] for _ in "1234"]
    )
    for row, group in enumerate(batch.scores.view(2, 4).repeat_interleave(4, 0)):
        own = batch.scores[row]
        others = (group.sum() - own) / 3
        tokens = batch.advantages[row][batch.response_mask[row]]
        assert torch.allclose(tokens, (own - others).expand_as(tokens), atol=1e-6)
    assert batch.scores.view(2, 4).std(1).min() > 0, "a group without a difference tests nothing"


@pytest.mark.parametrize("scale", [False, True])
def test_a_group_that_agrees_moves_nothing(make, scale):
    """Exactly: with a reward that is the same for all there is nothing to learn."""
    trainer = make(lambda prompts, _: [0.3] * len(prompts), **GROUPS, group_scale=scale, kl_coef=0.0,
                   missing_stop_penalty=0.0)  # fmt: skip
    before = weights_of(trainer)
    line = trainer.step([p for p in PROMPTS[:2] for _ in "1234"])
    assert line["policy_loss"] == 0.0
    assert same(before, weights_of(trainer))


def test_groups_are_not_mixed_by_the_minibatches(make, monkeypatch):
    """An answer's advantage is of its own group, in whichever minibatch it is used."""
    trainer = make(**GROUPS, micro_batch=8)
    prompts = [p for p in PROMPTS[:2] for _ in "1234"]
    batch, used, policy_loss = ready(trainer, prompts), [], losses.policy_loss

    def seen(logprobs, old, advantages, clip):
        used.extend(zip(old.tolist(), advantages.tolist(), strict=True))
        return policy_loss(logprobs, old, advantages, clip)

    monkeypatch.setattr(losses, "policy_loss", seen)
    trainer.update(batch)
    width = min(len(row) for row, _ in used)
    own = {
        tuple(row[:width]): a[:width]
        for row, a in zip(batch.logprobs.tolist(), batch.advantages.tolist(), strict=True)
    }
    assert len(used) == 2 * len(batch)
    assert all(own[tuple(row[:width])] == a[:width] for row, a in used)


@pytest.mark.parametrize("baseline", ["group", "none"])
def test_without_a_critic_no_value_is_learnt_or_logged(make, baseline):
    trainer = make(baseline=baseline)
    line = trainer.step([p for p in PROMPTS[:2] for _ in "1234"])
    assert not any(p.abs().max() for p in trainer.actor.value_head.parameters())
    assert len(trainer.trained) == len(make().trained) - 2
    assert {"value_loss", "explained_variance"}.isdisjoint(line)
    assert health.diagnose([line] * 4) is not None


def test_with_no_baseline_all_pay_counts(make):
    """What is still paid, neither shifted nor scaled."""
    batch = ready(make(baseline="none", kl_coef=0.3))
    to_come = torch.where(batch.response_mask, batch.rewards.flip(1).cumsum(1).flip(1), 0.0)
    assert torch.allclose(batch.advantages, to_come, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"baseline": "mean"},
        {**GROUPS, "group_size": 3},
        {**GROUPS, "group_size": 1},
        {**GROUPS, "lam": 0.95},
        {"baseline": "none", "gamma": 0.9},
        {**GROUPS, "critic_warmup": 2},
    ],
)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(ValueError, match=r"baseline|critic|groups"):
        replace(SMALL, **settings)


# --- 4-bit --------------------------------------------------------------------------------------


@pytest.fixture
def four_bit_actor(letter_profile, tmp_path):
    """``(tokenizer, model)`` as the notebooks load them, on an NF4 base."""
    profile = replace(letter_profile, precision="nf4")
    try:
        _, model = models.load_policy(profile)
    except (ImportError, RuntimeError, NotImplementedError) as error:
        pytest.skip(f"bitsandbytes has no 4-bit here: {error}")
    assert sum(not p.is_floating_point() for p in model.parameters()) == 2 * 7  # layers × linear maps
    torch.manual_seed(0)
    models.save_adapter(models.add_lora(model, rank=4), tmp_path / "sft")
    return models.load_actor(profile, tmp_path / "sft")


def test_a_four_bit_base_takes_a_step_and_stays_as_it_is(four_bit_actor):
    tokenizer, model = four_bit_actor
    base = {n: p.detach().clone() for n, p in model.named_parameters() if f".{POLICY}" not in n}
    trainer = PPOTrainer(model, tokenizer, count_a, replace(SMALL, micro_batch=4))
    policy = weights_of(trainer)
    line = trainer.step(PROMPTS[:8])
    assert line["ratio_error"] == 0.0
    assert line["kl"] == 0.0
    after = dict(model.named_parameters())
    assert all(torch.equal(p, after[name]) for name, p in base.items())
    assert not same(policy, weights_of(trainer))


def test_four_bit_layers_pass_gradients_on_after_sampling(four_bit_actor):
    # On some CPUs bitsandbytes repacks a layer at its first use in eval mode, for a kernel that
    # has no gradient: what lies below the layer would then learn from nothing, without a word.
    tokenizer, model = four_bit_actor
    trainer = PPOTrainer(model, tokenizer, count_a, replace(SMALL, micro_batch=4))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05)
    ids = torch.arange(2, 12)[None]

    def gradients() -> list[torch.Tensor]:
        model.train()
        return torch.autograd.grad(
            model(input_ids=ids, labels=ids).loss, trainer.trained[:-2], materialize_grads=True
        )

    before = gradients()
    trainer.rollout(PROMPTS[:8])
    assert close(gradients(), before, 1e-5)
    assert all(gradient.any() for gradient in before)
