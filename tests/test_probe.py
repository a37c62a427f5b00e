"""The judge that reads with a frozen language model: its features, its head, its file."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sawyer_utils import reading, reward
from sawyer_utils.data import Pair
from sawyer_utils.reading import FrozenReader, best_penalty, fit

torch.set_num_threads(1)


def made_up(pairs: int = 120, size: int = 6, noise: float = 0.0):
    """(better, worse, margins, groups) of a judge that looks at the first feature alone."""
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(pairs, size, generator=generator) for _ in range(2))
    lead = one[:, 0] - other[:, 0] + noise * torch.randn(pairs, generator=generator)
    first = (lead > 0)[:, None]
    groups = [str(i // 4) for i in range(pairs)]
    return torch.where(first, one, other), torch.where(first, other, one), torch.zeros(pairs), groups


# --- the head -----------------------------------------------------------------------------------


def test_the_feature_that_decides_gets_the_weight():
    better, worse, margins, _ = made_up()
    weights, log = fit(better, worse, margins, penalty=0.01)
    assert weights[0] > 5 * weights[1:].abs().max()
    assert log[-1]["loss"] < log[0]["loss"]
    assert log[-1]["accuracy"] > 0.95
    assert log[0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # nothing known: log 2


@pytest.mark.parametrize("penalty", [0.03, 0.3])
def test_the_weights_are_where_the_gradient_is_zero(penalty):
    better, worse, margins, _ = made_up(noise=1.0)
    weights, _ = fit(better, worse, margins, penalty)
    scale = torch.cat([better, worse]).std(0) + 1e-6
    gaps = ((better - worse) / scale).double()
    scaled = (weights * scale).double()
    slope = -(torch.sigmoid(-(gaps @ scaled))[:, None] * gaps).mean(0) + 2 * penalty * scaled
    assert slope.abs().max() < 1e-3


def test_a_margin_asks_for_a_larger_difference():
    better, worse, margins, _ = made_up()
    small, _ = fit(better, worse, margins, 0.1)
    large, _ = fit(better, worse, margins + 2.0, 0.1)
    assert large[0] > 1.2 * small[0]


def test_the_scale_of_a_feature_does_not_matter():
    better, worse, margins, _ = made_up()
    factor = torch.tensor([100.0, 1, 1, 1, 1, 0.01])
    plain, _ = fit(better, worse, margins, 0.1)
    scaled, _ = fit(better * factor, worse * factor, margins, 0.1)
    assert torch.allclose(plain, scaled * factor, atol=2e-2)


def test_noise_asks_for_a_larger_penalty():
    clean, noisy = made_up(), made_up(size=60, noise=3.0)
    assert best_penalty(*noisy) > best_penalty(*clean) or best_penalty(*noisy) == max(reading.PENALTIES)


def test_pairs_of_one_prompt_stay_together(monkeypatch):
    better, worse, margins, groups = made_up(40)
    learned_from = []

    def watch(some, *rest):
        learned_from.append(len(some))
        return torch.zeros(some.shape[1]), []

    monkeypatch.setattr(reading, "fit", watch)
    best_penalty(better, worse, margins, groups)
    assert all(count % 4 == 0 for count in learned_from)
    assert set(learned_from) == {32}


# --- the reader ---------------------------------------------------------------------------------


@pytest.fixture
def profile(letter_profile):
    """A tiny causal model is the judge's base."""
    return replace(letter_profile, reward_base=letter_profile.policy_base, reward_pair_tokens=48)


PAIRS = [
    Pair(str(i), "t", f"{a} b c", f"{a} {a} d", f"x y {a}", 4.0, ("", ""))
    for i, a in enumerate("a b c d e f g h i j k l".split())
]


def test_padding_and_neighbours_change_no_score(profile):
    judge = reward.RewardModel.untrained(profile)
    prompts, responses = ["a b", "a b", "c d e f"], ["x", "y z a b c d", ""]
    alone = [judge.score([p], [r])[0] for p, r in zip(prompts, responses, strict=True)]
    for trunk in (judge.model.trunk,):
        trunk.__dict__["read_before"].clear()
    assert judge.score(prompts, responses) == pytest.approx(alone, abs=1e-4)
    assert len({round(score, 5) for score in alone}) == 3


def test_the_trunk_is_frozen_shared_and_cut_off(profile):
    one, other = (reward.RewardModel.untrained(profile, seed=seed) for seed in (0, 1))
    assert isinstance(one.model, FrozenReader)
    assert one.model.trunk is other.model.trunk
    assert not any(p.requires_grad for p in one.model.trunk.parameters())
    assert len(one.model.trunk.layers) == max(one.model.depths)
    assert not torch.equal(one.model.head.weight, other.model.head.weight)


def test_training_saves_loads_and_is_known_again(profile, tmp_path, capsys):
    judge = reward.RewardModel.untrained(profile)
    log = reward.train_reward(judge, profile, PAIRS, tmp_path)
    gaps = reward.differences(judge, PAIRS)
    assert sum(gap > 0 for gap in gaps) > 9
    assert log[-1]["penalty"] in reading.PENALTIES
    again = reward.RewardModel.load(tmp_path / "model")
    assert reward.differences(again, PAIRS) == pytest.approx(gaps, abs=1e-4)
    fresh = reward.RewardModel.untrained(profile, seed=3)
    assert reward.train_reward(fresh, profile, PAIRS, tmp_path) == log
    assert "Already trained" in capsys.readouterr().out
    assert reward.differences(fresh, PAIRS) == pytest.approx(gaps, abs=1e-4)
    reward.train_reward(fresh, profile, PAIRS[1:], tmp_path)  # other data: another training
    assert (tmp_path / "earlier-1" / "model").exists()


def test_a_damaged_head_is_named(profile, tmp_path):
    judge = reward.RewardModel.untrained(profile)
    judge.save(tmp_path / "model", profile.reward_base)
    (tmp_path / "model" / reading.HEAD).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="model cannot be read"):
        reward.RewardModel.load(tmp_path / "model")


def test_what_was_read_is_remembered_and_the_memory_is_bounded(profile, monkeypatch):
    judge = reward.RewardModel.untrained(profile)
    judge.score(["a"] * 3, ["x", "y", "z"])
    calls = []
    read = FrozenReader.read
    monkeypatch.setattr(FrozenReader, "read", lambda self, **kw: calls.append(1) or read(self, **kw))
    judge.score(["a"] * 3, ["x", "y", "z"])
    assert not calls
    monkeypatch.setattr(reading, "REMEMBERED", 2)
    judge.score(["a"] * 3, ["k", "l", "m"])
    assert len(judge.model.trunk.__dict__["read_before"]) == 2
