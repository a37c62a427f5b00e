"""Watching a run: what is seen, and that the run does not notice."""

from __future__ import annotations

import pytest
import torch

from sawyer_utils import show
from sawyer_utils.classroom.snapshots import Watch, from_log
from sawyer_utils.ppo import PPOConfig, PPOTrainer

PROMPTS = ["a b", "c d e", "f"]


@pytest.fixture
def trainer(letter_actor, letters, tmp_path):
    def build(steps=4, **options):
        config = PPOConfig(
            steps=steps, batch_size=4, micro_batch=4, response_tokens=5, learning_rate=1e-2, **options
        )
        reward = lambda prompts, responses: [float(len(r)) for r in responses]  # noqa: E731
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
    assert Watch(trainer(kl_coef=0.3), PROMPTS, every=1, path=path).taken == []
    assert Watch(trainer(), PROMPTS[:2], every=1, path=path).taken == []


def test_a_log_alone_gives_answers_without_kl(trainer):
    run = trainer(steps=2)
    run.train(PROMPTS * 4)
    found = from_log(run.log)
    assert [one.step for one in found] == [1, 2]
    assert "".join(found[0].tokens[0]).strip() == run.log[0]["samples"][0]["response"]
    page = show.rollouts(found).data
    assert page.count("<tr>") == 1 + sum(len(one.prompts) for one in found)
    assert "KL" not in page
