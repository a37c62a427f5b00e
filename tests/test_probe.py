"""The judge on frozen models: its features, its head, its file."""

from __future__ import annotations

import shutil
from dataclasses import replace

import layouts
import pytest
import torch
from conftest import build_model

from sawyer_utils import data, probe, reward
from sawyer_utils.data import Pair
from sawyer_utils.plumbing.workarounds import Fp16Overflow
from sawyer_utils.probe import Probe, cross_validated, fit

torch.set_num_threads(1)


def made_up(pairs: int = 120, size: int = 6, noise: float = 0.0):
    """(better, worse, groups) of a judge that looks at the first feature alone."""
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(pairs, size, generator=generator) for _ in range(2))
    lead = one[:, 0] - other[:, 0] + noise * torch.randn(pairs, generator=generator)
    first = (lead > 0)[:, None]
    return torch.where(first, one, other), torch.where(first, other, one), [str(i // 4) for i in range(pairs)]


# --- the search for the weights -----------------------------------------------------------------


def test_the_feature_that_decides_gets_the_weight():
    better, worse, _ = made_up()
    weights, log = fit(better, worse, 0.01)
    assert weights[0] > 5 * weights[1:].abs().max()
    assert log[-1]["loss"] < log[0]["loss"]
    assert log[-1]["accuracy"] > 0.95
    assert log[0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # nothing known: log 2


@pytest.mark.parametrize("penalty", [0.03, 0.3, [0.3, 0.3, 0.3, 0.003, 0.3, 0.3]])
def test_the_weights_are_where_the_gradient_is_zero(penalty):
    better, worse, _ = made_up(noise=1.0)
    penalty = torch.tensor(penalty)
    weights, _ = fit(better, worse, penalty)
    scale = torch.cat([better, worse]).std(0) + 1e-6
    gaps = ((better - worse) / scale).double()
    scaled = (weights * scale).double()
    slope = -(torch.sigmoid(-(gaps @ scaled))[:, None] * gaps).mean(0) + 2 * penalty * scaled
    assert slope.abs().max() < 1e-3


def test_the_scale_of_a_feature_does_not_matter():
    better, worse, _ = made_up()
    factor = torch.tensor([100.0, 1, 1, 1, 1, 0.01])
    plain, _ = fit(better, worse, 0.1)
    scaled, _ = fit(better * factor, worse * factor, 0.1)
    assert torch.allclose(plain, scaled * factor, atol=2e-2)


def test_cross_validation_is_about_groups_that_were_not_learned_from(monkeypatch):
    better, worse, groups = made_up(40)
    seen = []

    def watch(one, other, penalty):
        seen.append((len(one), float(penalty[0])))
        return torch.eye(6)[0], []

    monkeypatch.setattr(probe, "fit", watch)
    right = cross_validated(better, worse, groups, torch.ones(6))
    assert seen == [(32, pytest.approx(p)) for p in probe.PENALTIES for _ in range(5)]  # ten groups of four
    assert right == dict.fromkeys(probe.PENALTIES, 1.0)


def test_noise_shows_in_cross_validation():
    clean, noisy = (cross_validated(*made_up(noise=n), torch.ones(6)) for n in (0.0, 5.0))
    assert min(clean.values()) > 0.9
    assert 0.4 < max(noisy.values()) < 0.8


# --- the features -------------------------------------------------------------------------------


@pytest.fixture
def profile(letter_profile):
    """A tiny causal model is the judge's base, a tiny encoder reads the sentences."""
    return replace(letter_profile, reward_base=letter_profile.policy_base, reward_pair_tokens=48)


PAIRS = [
    Pair(str(i), "t", f"{a} b c", f"{a} {a} d", f"x y {a}", 4.0, ("", ""))
    for i, a in enumerate("abcdefghijkl")
]


def test_each_feature_is_what_it_is_said_to_be(profile):
    judge = reward.RewardModel.untrained(profile)
    prompts, responses = ["a b", "c d e f"], ["x y z", "k"]
    found = judge.features(prompts, responses)
    for row, prompt, response in zip(found, prompts, responses, strict=True):
        ids = torch.tensor([judge.encode(prompt, response)])
        layers = judge.model.base(input_ids=ids, output_hidden_states=True).hidden_states
        means = torch.cat([layers[depth][0].mean(0) for depth in judge.model.depths])
        asked, said = judge.model.encoder.embed([prompt, response])
        wanted = torch.cat([means, said, (asked @ said)[None]])
        assert torch.allclose(row, wanted, atol=1e-2)  # bf16, where the machine has it
        assert torch.allclose(row[-1], wanted[-1], atol=1e-5)
    assert judge.score(prompts, responses) == pytest.approx(
        (found @ judge.model.head.weight[0]).tolist(), abs=1e-5
    )


def test_padding_neighbours_and_repeats_change_no_score(profile):
    judge = reward.RewardModel.untrained(profile)
    prompts, responses = ["a b", "a b", "c d e f", "a b"], ["x", "y z a b c d", "", "x"]
    alone = [judge.score([p], [r])[0] for p, r in zip(prompts, responses, strict=True)]
    assert judge.score(prompts, responses) == pytest.approx(alone, abs=1e-4)
    assert len({round(score, 5) for score in alone}) == 3


def test_judges_of_one_base_read_the_same_texts_once(profile, monkeypatch):
    one, other = (reward.RewardModel.untrained(profile, seed=seed) for seed in (0, 1))
    read, forward = [], type(one.model.base).forward

    def counted(base, **inputs):
        read.append(len(inputs["input_ids"]))
        return forward(base, **inputs)

    monkeypatch.setattr(type(one.model.base), "forward", counted)
    asked = ["a b", "c d"], ["x", "y"]
    scores = one.score(*asked), other.score(*asked), one.score(*asked)
    assert read == [2]
    assert scores[0] == scores[2] != scores[1]
    both = other.score(["a b", "c d"], ["x", "z"])  # other texts are read, all of them
    assert read == [2, 2]
    assert both != scores[1]


def test_the_base_is_frozen_shared_and_read_no_deeper_than_needed(profile):
    one, other = (reward.RewardModel.untrained(profile, seed=seed) for seed in (0, 1))
    assert isinstance(one, reward.FrozenReward)
    assert isinstance(one.model, Probe)
    assert one.model.base is other.model.base
    assert not any(p.requires_grad for p in one.model.base.parameters())
    assert len(one.model.base.layers) == max(one.model.depths)
    assert not torch.equal(one.model.head.weight, other.model.head.weight)


@pytest.mark.parametrize(
    ("layers", "depths"), [(1, [1]), (2, [1]), (12, [2, 4, 6, 8]), (30, [5, 10, 15, 20])]
)
def test_the_depths_follow_the_base(layers, depths):
    assert probe.depths_of(layers) == depths


@pytest.mark.parametrize("layout", [name for name in layouts.POLICIES if name not in layouts.EMBEDDED])
def test_every_tokenizer_layout_can_be_the_base(layout, profile, tmp_path):
    tokenizer = layouts.build(layout, tmp_path)
    build_model(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    judge = reward.RewardModel.untrained(replace(profile, reward_base=str(tmp_path)))
    assert isinstance(judge, reward.FrozenReward)
    prompts, responses = ["Why?", "How do I greet?"], ["Because.", "Say hello, and smile!"]
    alone = [judge.score([p], [r])[0] for p, r in zip(prompts, responses, strict=True)]
    assert judge.score(prompts, responses) == pytest.approx(alone, abs=1e-3)
    assert alone[0] != alone[1]


def test_a_base_whose_numbers_are_not_finite_is_refused_with_the_ways_out(profile, tmp_path):
    from safetensors.torch import load_file, save_file

    base = tmp_path / "base"
    shutil.copytree(profile.reward_base, base)
    weights = load_file(base / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"][:] = float("inf")
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    judge = reward.RewardModel.untrained(replace(profile, reward_base=str(base)))
    with pytest.raises(Fp16Overflow, match=r"not finite[\s\S]*SAWYER_PRECISION[\s\S]*SAWYER_REWARD_BASE"):
        judge.score(["a"], ["b"])


def test_the_base_is_read_in_the_precision_that_was_asked_for(profile, tmp_path, monkeypatch):
    asked = {"fp32": torch.float32, "fp16": torch.float16}
    for name, dtype in asked.items():
        judge = reward.RewardModel.untrained(replace(profile, precision=name))
        judge.save(tmp_path / name, profile.reward_base)
        monkeypatch.setenv("SAWYER_PRECISION", name)
        loaded = reward.RewardModel.load(tmp_path / name)
        assert judge.model.base.dtype == loaded.model.base.dtype == dtype
    assert reward.RewardModel.load(tmp_path / "fp16", "fp32").model.base.dtype == torch.float32


# --- training and the file ----------------------------------------------------------------------


def test_without_pairs_nothing_is_learned(profile):
    with pytest.raises(ValueError, match="No pair to learn from"):
        reward.RewardModel.untrained(profile).train([])


def test_a_judge_with_another_sentence_encoder_is_another_one(profile, tmp_path, capsys):
    reward.train_reward(reward.RewardModel.untrained(profile), profile, PAIRS, tmp_path / "run")
    shutil.copytree(profile.encoder, tmp_path / "encoder")
    other = replace(profile, encoder=str(tmp_path / "encoder"))
    reward.train_reward(reward.RewardModel.untrained(other), other, PAIRS, tmp_path / "run")
    assert "(encoder)" in capsys.readouterr().out


@pytest.mark.parametrize("frozen", [True, False])
def test_the_profile_says_whether_a_causal_base_stays_frozen(profile, frozen):
    judge = reward.RewardModel.untrained(replace(profile, reward_frozen=frozen))
    assert isinstance(judge, reward.FrozenReward) is frozen


def test_an_encoder_is_always_fine_tuned(letter_profile):
    assert letter_profile.reward_frozen
    judge = reward.RewardModel.untrained(letter_profile)
    assert not isinstance(judge, reward.FrozenReward)
    adapter = judge.model.peft_config["default"]
    assert (adapter.r, adapter.lora_alpha) == (letter_profile.reward_rank, 2 * letter_profile.reward_rank)


def test_the_head_is_fit_with_the_penalty_that_was_chosen_on_other_prompts(profile, monkeypatch):
    judge, seen = reward.RewardModel.untrained(profile), {}
    share = judge.model.share
    assert share.tolist() == [*[1.0] * (len(share) - 1), pytest.approx(probe.LIGHTLY)]
    monkeypatch.setattr(reward, "cross_validated", lambda *a: seen.update(groups=a[2]) or cross_validated(*a))
    monkeypatch.setattr(reward, "fit", lambda *a: seen.update(penalty=a[2]) or fit(*a))
    log = judge.train([replace(pair, id=str(i // 2)) for i, pair in enumerate(PAIRS)])
    assert seen["groups"] == [str(i // 2) for i in range(len(PAIRS))]
    assert torch.equal(seen["penalty"], log[-1]["penalty"] * share)


def test_training_saves_loads_and_is_known_again(profile, tmp_path, capsys):
    judge, told = reward.RewardModel.untrained(profile), []
    log = reward.train_reward(judge, profile, PAIRS, tmp_path, told.append)
    gaps = reward.differences(judge, PAIRS)
    assert sum(gap > 0 for gap in gaps) > 9
    assert log[-1]["penalty"] in probe.PENALTIES
    assert log[-1]["penalty"] == max(log[-1]["cross_validated"], key=lambda row: (row[1], row[0]))[0]
    assert told == [log]
    again = reward.RewardModel.load(tmp_path / "model", profile.precision)
    assert reward.differences(again, PAIRS) == pytest.approx(gaps, abs=1e-4)
    fresh = reward.RewardModel.untrained(profile, seed=3)
    assert reward.train_reward(fresh, profile, PAIRS, tmp_path) == log
    assert "Already trained" in capsys.readouterr().out
    assert reward.differences(fresh, PAIRS) == pytest.approx(gaps, abs=1e-4)
    reward.train_reward(fresh, profile, PAIRS[1:], tmp_path)  # other data: another training
    assert (tmp_path / "earlier-1" / "model").exists()
    shorter = reward.RewardModel.untrained(replace(profile, reward_pair_tokens=47))
    reward.train_reward(shorter, profile, PAIRS[1:], tmp_path)  # it reads less: another one, too
    assert (tmp_path / "earlier-2" / "model").exists()
    reward.train_reward(shorter, profile, PAIRS[1:], tmp_path, resume=False)
    assert (tmp_path / "earlier-3" / "model").exists()


@pytest.mark.parametrize("spoilt", ["bytes", "another base"])
def test_a_damaged_head_is_named(profile, tmp_path, spoilt):
    judge = reward.RewardModel.untrained(profile)
    if spoilt == "another base":
        judge.model.head = torch.nn.Linear(3, 1, bias=False)
    judge.save(tmp_path / "model", profile.reward_base)
    if spoilt == "bytes":
        (tmp_path / "model" / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="model cannot be read"):
        reward.RewardModel.load(tmp_path / "model")


def test_a_judge_that_was_taught_with_strangers_hears_the_question(profile):
    """The cosine of question and answer is hardly penalised: it is what tells a stranger."""
    words = list("abcdefghijklmnop")
    rows = [
        {"id": w, "prompt": f"{w} {w} {w}", "responses": [{"text": f"{w} {w}", "score": 9, "kind": "x"}]}
        for w in words
    ]
    judge = reward.RewardModel.untrained(profile)
    judge.train(data.strangers(rows))
    assert judge.model.head.weight[0, -1] > 0


def test_nothing_of_the_base_is_saved(profile, tmp_path):
    judge = reward.RewardModel.untrained(profile)
    judge.save(tmp_path / "model", profile.reward_base)
    assert sum(path.stat().st_size for path in (tmp_path / "model").iterdir()) < 4_000
    trained = [name for name, weights in judge.model.named_parameters() if weights.requires_grad]
    assert trained == ["head.weight"]
