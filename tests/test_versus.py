"""Notebook 05's machinery: what is kept out, what is shared, and what is compared."""

from __future__ import annotations

import math
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from sawyer_utils import data, evaluation, models, reward
from sawyer_utils.chapters import versus

# --- the data -----------------------------------------------------------------------------------


def test_eight_topics_are_kept_out():
    topics = {row["topic"] for row in data.load_preferences()}
    assert {topic for topic in topics if versus.is_new(topic)} == {
        "civics",
        "feelings",
        "history",
        "parenting",
        "small_talk",
        "space",
        "travel",
        "work",
    }
    assert topics == {row["topic"] for row in data.load_prompts("train") + data.load_prompts("test")}


def test_a_split_loses_no_row_and_shares_no_topic():
    rows = data.load_preferences()
    known, new = versus.split(rows)
    assert len(known) + len(new) == len(rows)
    assert not {row["topic"] for row in known} & {row["topic"] for row in new}


def test_strangers_of_known_topics_are_of_known_topics():
    known, new = versus.split(data.load_preferences())
    said = {r["text"] for row in new for r in row["responses"]}
    texts = {text for pair in versus.lessons(known) for text in (pair.chosen, pair.rejected)}
    assert not texts & said


def test_spread_takes_each_topic_once_before_any_twice():
    rows = [{"topic": topic, "id": i} for i, topic in enumerate("aaabbc")]
    assert [row["id"] for row in versus.spread(rows, 5)] == [0, 3, 5, 1, 4]
    assert versus.spread(rows, 99) != rows
    assert len(versus.spread(rows, 99)) == len(rows)


# --- comparisons --------------------------------------------------------------------------------


def answered(golds, prompts="aabbcc", **columns):
    size = len(golds)
    return {
        "prompt": list(prompts),
        "response": [f"word {i} of many" for i in range(size)],
        "length": [4] * size,
        "finished": [True] * size,
        "proxy": golds,
        "gold": golds,
        "kl": [0.0] * size,
    } | columns


def test_compare_pairs_by_prompt_whatever_the_number_of_answers():
    before = answered([0.0, 2.0, 1.0, 1.0, 4.0, 0.0])
    after = answered([2.0, 0.5, 5.0], prompts="cab", length=[8, 6, 4])
    found = versus.compare(before, after)
    # a: 1 → 0.5, b: 1 → 5, c: 2 → 2
    assert found["gold"]["before"] == pytest.approx(4 / 3)
    assert found["gold"]["difference"] == pytest.approx((-0.5 + 4 + 0) / 3)
    assert found["gold"]["n"] == 3
    assert found["length"]["difference"] == pytest.approx(2.0)
    assert found["length"]["verdict"] in ("changed", "no difference shown")


def test_no_change_is_no_difference():
    same = answered([0.0, 2.0, 1.0, 1.0, 4.0, 0.0])
    found = versus.compare(same, same)
    assert {row["verdict"] for row in found.values()} == {"no difference shown"}


def test_a_clear_gain_is_called_better():
    prompts = [str(i) for i in range(20)]
    before = answered([0.1 * i for i in range(20)], prompts)
    after = answered([0.1 * i + 1 + 0.01 * i for i in range(20)], prompts)
    found = versus.compare(before, after)
    assert found["gold"]["verdict"] == "better"
    assert versus.compare(after, before)["gold"]["verdict"] == "worse"


def test_the_best_of_n_is_the_judges_and_the_gold_judge_has_no_say():
    said = answered([0.0, 2.0, 1.0, 3.0, 4.0, 0.0], gold=[9.0, 1.0, 9.0, 2.0, 3.0, 9.0])
    found = versus.best_of_n(said)
    assert found["prompt"] == ["a", "b", "c"]
    assert found["proxy"] == [2.0, 3.0, 4.0]
    assert found["gold"] == [1.0, 2.0, 3.0]
    assert found["response"] == [said["response"][i] for i in (1, 3, 4)]
    assert found["kl"] == [math.log(2) - 1 / 2] * 3


def test_minutes_are_the_last_of_trls_log_or_the_sum_of_ppos():
    assert versus.minutes([{"seconds": 30.0}, {"seconds": 90.0}]) == 1.5
    step = {"seconds_rollout": 20.0, "seconds_score": 5.0, "seconds_update": 5.0}
    assert versus.minutes([step] * 4) == 2.0


# --- every stage, once --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def profile(letter_profile):
    """Everything of a run, as small as it goes."""
    return replace(
        letter_profile,
        response_tokens=6,
        ppo_batch=4,
        ppo_micro_batch=2,
        reward_batch=4,
        versus_judge_steps=2,
        versus_prompts=5,
    )


@pytest.fixture(scope="module")
def run_folder(profile, tmp_path_factory):
    """A run folder with an SFT adapter and a gold judge, as 01 and 04 leave them."""
    home = tmp_path_factory.mktemp("home")
    _, model = models.load_policy(profile)
    model = models.add_lora(model, profile.lora_rank, profile.lora_alpha)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05)
    models.save_adapter(model, home / profile.name / "sft" / "adapter")
    gold = reward.RewardModel.untrained(profile, seed=1)
    gold.save(home / profile.name / "gold" / "model", profile.reward_base)
    return home


def written(folder: Path) -> dict:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_what_is_prepared_and_sampled_once_is_not_done_again(profile, run_folder, monkeypatch):
    monkeypatch.setenv("SAWYER_HOME", str(run_folder))
    common = versus.prepare(profile)
    tests = {name: set(asked) for name, asked in common.tests.items()}
    assert [len(asked) for asked in tests.values()] == [profile.versus_prompts] * 2
    assert not tests["known"] & tests["new"]
    assert not set(common.prompts) & (tests["known"] | tests["new"])
    assert not {pair.prompt for pair in common.pairs} & (tests["known"] | tests["new"])
    assert all(not versus.is_new(pair.topic) for pair in common.pairs)
    unseen = versus.unseen_pairs(profile)
    assert {versus.is_new(pair.topic) for pair in unseen["new"]} == {True}
    assert not {pair.prompt for pair in unseen["known"]} & {pair.prompt for pair in common.pairs}
    start = versus.answers(common, common.sft, 2)
    assert start["kl"] == [0.0] * (2 * profile.versus_prompts)
    before = written(common.folder)
    assert versus.answers(versus.prepare(profile), common.sft, 2) == start
    assert before == written(common.folder)
    assert set(versus.answers(common, common.sft, 2, "new")["prompt"]) == tests["new"]


def test_answers_are_of_the_adapter_they_are_asked_of(profile, run_folder, tmp_path, monkeypatch):
    """One that was trained anew is sampled anew, in the same folder too."""
    monkeypatch.setenv("SAWYER_HOME", str(run_folder))
    common = versus.prepare(profile)
    _, model = models.load_actor(profile, common.sft)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B.policy" in name:
                parameter.add_(0.1)
    models.save_adapter(model, tmp_path / "adapter", models.POLICY)
    start, other = (versus.answers(common, a, 1) for a in (common.sft, tmp_path / "adapter"))
    assert start["prompt"] == other["prompt"]
    assert start["response"] != other["response"]
    assert any(kl != 0.0 for kl in other["kl"])
    models.save_adapter(models.load_actor(profile, common.sft)[1], tmp_path / "adapter", models.POLICY)
    assert versus.answers(common, tmp_path / "adapter", 1)["response"] == start["response"]


def test_another_gold_judge_is_asked_anew_and_on_its_own_scale(profile, run_folder, tmp_path, monkeypatch):
    """As after notebook 04 has trained one; nothing is trained again for it."""
    home = tmp_path / "home"
    shutil.copytree(run_folder, home)
    monkeypatch.setenv("SAWYER_HOME", str(home))
    common = versus.prepare(profile)
    before = versus.answers(common, common.sft, 1)
    other = reward.RewardModel.untrained(profile, seed=2)
    torch.manual_seed(2)
    with torch.no_grad():
        for weight in other.model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight))
    other.save(home / profile.name / "gold" / "model", profile.reward_base)
    again = versus.prepare(profile)
    assert again.folder == common.folder
    after = versus.answers(again, again.sft, 1)
    assert {key for key in after if after[key] != before[key]} == {"gold"}
    tokenizer, model = models.load_actor(profile, again.sft)
    said = evaluation.answer(model, tokenizer, again.prompts[:64], profile, seed=1)
    scores = torch.tensor(again.gold(said.prompts, said.responses))
    assert float(scores.mean()) == pytest.approx(0.0, abs=1e-3)
    assert float(scores.std()) == pytest.approx(1.0, abs=1e-3)


def test_other_settings_have_another_folder_but_not_other_chapters_settings(profile, run_folder, monkeypatch):
    monkeypatch.setenv("SAWYER_HOME", str(run_folder))
    folder = versus.prepare(profile).folder
    assert versus.prepare(replace(profile, news_steps=99)).folder == folder
    assert versus.prepare(replace(profile, dpo_beta=0.2)).folder != folder
    kept = {field.name for field in fields(profile) if field.name.startswith(versus.SETTINGS)}
    assert kept > {"policy_base", "reward_base", "precision", "limit", "temperature", "response_tokens"}
    assert kept > {"prompt_tokens", "ppo_lr", "kl_coef", "missing_stop_penalty", "eval_batch", "versus_steps"}


def test_longer_is_neither_better_nor_worse():
    prompts = [str(i) for i in range(20)]
    before = answered([1.0] * 20, prompts, length=[4 + i % 3 for i in range(20)])
    after = before | {"length": [9 + i % 3 for i in range(20)], "kl": [3.0 + 0.1 * i for i in range(20)]}
    found = versus.compare(before, after)
    assert found["length"]["verdict"] == found["kl"]["verdict"] == "changed"
