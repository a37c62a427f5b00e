"""Watching a run: what is seen, and that the run does not notice."""

from __future__ import annotations

import re

import pytest
import torch

from sawyer_utils import show
from sawyer_utils.classroom.snapshots import Snapshot, Watch, snapshot
from sawyer_utils.ppo import PPOConfig, PPOTrainer

PROMPTS = ["a b", "c d e", "f"]


@pytest.fixture
def trainer(letter_actor, letters, tmp_path):
    def build(steps=4, paid=1.0, **options):
        config = PPOConfig(
            steps=steps, batch_size=4, micro_batch=4, response_tokens=5, learning_rate=1e-2, **options
        )
        reward = lambda prompts, responses: [paid * len(r) for r in responses]  # noqa: E731
        return PPOTrainer(letter_actor(), letters, reward, config, tmp_path)

    return build


def test_a_run_is_looked_at_before_now_and_then_and_at_the_end(trainer):
    run = trainer(steps=5)
    watch = Watch(run, PROMPTS, every=2)
    watch.start()
    run.train(PROMPTS * 4, on_step=watch)
    assert [one.step for one in watch.taken] == [0, 2, 4, 5]
    first, last = watch.taken[0], watch.taken[-1]
    assert first.prompts == PROMPTS
    assert {v for values in first.kl for v in values} == {0.0}  # it starts at SFT
    assert any(v != 0 for values in last.kl for v in values)
    assert all(len(t) == len(k) for t, k in zip(last.tokens, last.kl, strict=True))


@pytest.mark.parametrize("scale_rewards", [False, True])  # whose running scale must not count a look
def test_training_is_the_same_whether_it_is_watched_or_not(trainer, scale_rewards):
    weights = []
    for watched in (False, True):
        run = trainer(steps=3, scale_rewards=scale_rewards)
        run.run_dir = None
        run.train(PROMPTS * 4, on_step=Watch(run, PROMPTS, every=1) if watched else None)
        weights.append(torch.cat([p.detach().flatten() for p in run.trained]))
    assert torch.equal(*weights)


def test_a_run_that_goes_on_keeps_what_was_seen_and_another_run_does_not(trainer, tmp_path):
    path = tmp_path / "snapshots.json"
    run = trainer()
    watch = Watch(run, PROMPTS, every=1, path=path)
    watch.start()
    run.step(PROMPTS + PROMPTS[:1])
    watch(run.log)
    again = Watch(trainer(), PROMPTS, every=1, path=path)
    assert again.taken == watch.taken
    again.start()  # has its first look already
    assert [one.step for one in again.taken] == [0, 1]
    again.trainer.steps_done = 1  # stopped, and gone on: the last look is taken again
    again.take()
    assert [one.step for one in again.taken] == [0, 1]
    assert Watch(trainer(kl_coef=0.3), PROMPTS, every=1, path=path).taken == []
    assert Watch(trainer(paid=10.0), PROMPTS, every=1, path=path).taken == [], (
        "its scores are of another reward"
    )
    assert Watch(trainer(), PROMPTS[:2], every=1, path=path).taken == []


def test_the_same_policy_says_the_same_at_every_look(trainer):
    watch = Watch(trainer(), PROMPTS, every=1)
    first = watch.take()
    torch.rand(3)
    assert watch.take() == first


def test_the_first_the_last_and_equal_steps_between_are_shown():
    def one(step):
        return Snapshot(step, ["a <poem>", "b"], [["x", "y"], []], [[0.1 * step, -0.2], []], [step / 10, 0.0])

    taken = [one(step) for step in (0, 6, 12, 18, 24)]
    page = show.rollouts(taken).data
    assert [step for step in range(25) if f">step {step}<" in page] == [0, 12, 24]
    assert page.count("<tr>") == 3
    for text in ("a &lt;poem&gt;", "score +2.40 · KL +2.2 nats", "<i>(nothing)</i>", "+2.40 nats"):
        assert text in page
    assert re.search(r'"\+2\.40 nats" style="[^"]* solid ', page), "orange is what the policy likes more"
    assert re.search(r'"-0\.20 nats" style="[^"]* dotted ', page)
    assert all(f">step {one.step}<" in show.rollouts(taken, steps=9).data for one in taken)
    assert show.rollouts(taken[:1]).data.count(">step ") == 1
    with pytest.raises(ValueError, match="no snapshots"):
        show.rollouts([])


def test_above_zero_is_what_the_policy_likes_more_than_the_reference(trainer, letters):
    run = trainer()
    batch = run.score(run.rollout(PROMPTS))
    batch.logprobs, batch.ref_logprobs = torch.full_like(batch.logprobs, -0.5), batch.logprobs * 0 - 2.0
    seen = snapshot(batch, letters, 3)
    assert {value for values in seen.kl for value in values} == {1.5}
    assert [len(values) for values in seen.kl] == batch.lengths.tolist()
