"""Notebook 05's machinery: what is kept out, what is shared, and that every stage is done once."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sawyer_utils import data, models, reward
from sawyer_utils.chapters import versus, versus_results

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
    # a wins against 0 and loses against 2; b wins twice; c loses against 4 and wins against 0.
    assert found["wins"]["after"] == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert found["length"]["difference"] == pytest.approx(2.0)
    assert found["length"]["verdict"] in ("changed", "no difference shown")


def test_no_change_is_no_difference_and_half_the_wins():
    same = answered([0.0, 2.0, 1.0, 1.0, 4.0, 0.0])
    found = versus.compare(same, same)
    assert {row["verdict"] for row in found.values()} == {"no difference shown"}
    assert found["wins"]["after"] == 0.5
    assert found["distinct_2"]["difference"] == 0.0


def test_a_clear_gain_is_called_better():
    prompts = [str(i) for i in range(20)]
    before = answered([0.1 * i for i in range(20)], prompts)
    after = answered([0.1 * i + 1 + 0.01 * i for i in range(20)], prompts)
    found = versus.compare(before, after)
    assert found["gold"]["verdict"] == found["wins"]["verdict"] == "better"
    assert versus.compare(after, before)["gold"]["verdict"] == "worse"


def test_the_best_of_n_is_the_judges_and_the_gold_judge_has_no_say(letters, letter_profile):
    model = models.load_policy(letter_profile)[1]
    common = SimpleNamespace(
        profile=replace(letter_profile, versus_best_of=4),
        tests={"known": ["a b", "c"]},
        reward_fn=lambda prompts, texts: [float(len(text)) for text in texts],
        gold=lambda prompts, texts: [-float(len(text)) for text in texts],
    )
    found = versus.best_of_n(model, letters, common, "known", seed=0)
    again = versus.best_of_n(model, letters, common, "known", seed=1)
    assert found["prompt"] == ["a b", "c"]
    assert found["proxy"] == [float(len(text)) for text in found["response"]]
    assert found["gold"] == [-score for score in found["proxy"]]
    assert found["response"] != again["response"]
    assert all(4 <= tokens <= 4 * letter_profile.response_tokens for tokens in found["tokens"])
    assert found["kl"] == [math.log(4) - 3 / 4] * 2


# --- several seeds, and what to do --------------------------------------------------------------


def cell(difference, verdict="better"):
    return {"difference": difference, "verdict": verdict}


def seed_row(gold, seconds=(100.0, 20.0, 200.0), kl=(5.0, 3.0, 1.0, 0.6), went_on=(0.4, 0.2), verdicts=None):
    """A row of ``versus.run``, from the numbers of METHODS in order."""
    verdicts = verdicts or ["better"] * 4
    known = {
        name: {"gold": cell(g, verdict), "kl": cell(k, "changed")}
        for name, g, verdict, k in zip(versus.METHODS, gold, verdicts, kl, strict=True)
    }
    return {
        "known": known,
        "budgets": {n: {"seconds": s} for n, s in zip(versus.METHODS, (*seconds, 0.0), strict=True)},
        "went_on": {n: {"gold": cell(d)} for n, d in zip(versus.GONE_ON, went_on, strict=True)},
    }


def advice(rows):
    return {row["if"]: row["then"] for row in versus_results.when_to_use(rows)}


def test_seeds_are_summed_up():
    rows = [seed_row([0.1, 0.2, 0.3, 0.4]), seed_row([0.3, -0.2, 0.3, 0.4], verdicts=["worse"] * 4)]
    found = versus_results.over_seeds(rows)
    assert found["ppo"]["mean"] == pytest.approx(0.2)
    assert (found["dpo"]["lowest"], found["dpo"]["highest"], found["dpo"]["better"]) == (-0.2, 0.2, 1)


def test_the_advice_follows_the_numbers():
    found = advice([seed_row([0.5, 0.6, 0.1, 0.4])])
    assert list(found.values()) == ["DPO", "DPO", "best of n", "DPO", "DPO", "best of n", "PPO, gone on"]
    found = advice([seed_row([0.7, 0.6, 0.1, 0.9], went_on=(0.1, 0.3))])
    assert list(found.values()) == ["best of n", "PPO", "best of n", "DPO", "DPO", "best of n", "online DPO"]


def test_who_is_not_shown_to_be_better_is_not_advised():
    unclear = "no difference shown"
    found = advice([seed_row([0.9, 0.8, 0.1, 0.7], verdicts=[unclear, unclear, "better", "worse"])])
    assert found["gold reward is all that counts"] == found["the training must be short"] == "RLOO"
    assert found["there is no reward model"] == found["nothing may be trained"] == "none of them"


def test_better_in_most_seeds_is_what_counts():
    rows = [seed_row([0.5, 0.6, 0.1, 0.4], verdicts=["better", "worse", "worse", "worse"])] * 2
    assert advice([*rows, seed_row([0.5, 9.0, 0.1, 0.4])])["gold reward is all that counts"] == "PPO"


def test_time_is_computing_where_that_is_known():
    row = seed_row([0.5, 0.6, 0.1, 0.4], seconds=(100.0, 200.0, 300.0))
    assert advice([row])["the training must be short"] == "PPO"
    for name, seconds in zip(versus.TRAINED, (60.0, 20.0, 90.0), strict=True):
        row["budgets"][name]["cpu_seconds"] = seconds
    assert advice([row])["the training must be short"] == "DPO"


def test_the_reason_names_every_candidate_with_its_number():
    (first, *_) = versus_results.when_to_use([seed_row([0.5, 0.6, 0.1, 0.4])])
    assert first["because"].endswith("PPO 0.50, DPO 0.60, RLOO 0.10, best of n 0.40")


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
        versus_steps=1,
        dpo_pairs=8,
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


def test_a_run_does_each_stage_once_and_gives_the_same_numbers(profile, run_folder, monkeypatch):
    monkeypatch.setenv("SAWYER_HOME", str(run_folder))
    common = versus.prepare(profile)
    known, new = (set(common.prompts[name]) | set(common.tests[name]) for name in ("known", "new"))
    assert not known & new
    assert not set(common.prompts["new"]) & set(common.tests["new"])
    assert not {pair.prompt for pair in common.pairs} & (known | new)
    assert all(not versus.is_new(pair.topic) for pair in common.pairs)
    found = versus.run(profile, 3, common)
    before = written(common.folder)
    assert found == versus.run(profile, 3, versus.prepare(profile))
    assert before == written(common.folder)
    budgets = found["budgets"]
    assert set(budgets) == {*versus.METHODS, *versus.GONE_ON}
    steps = profile.ppo_epochs * profile.ppo_minibatches
    assert budgets["ppo"]["answers"] == budgets["rloo"]["answers"] == 4
    assert budgets["ppo"]["gradient_steps"] == budgets["rloo"]["gradient_steps"] == steps
    assert budgets["ppo_new"]["gradient_steps"] == budgets["dpo_online"]["gradient_steps"] == steps
    assert budgets["ppo_new"]["answers"] == budgets["dpo_online"]["answers"] == 4
    drawn = {"answers": 0, "tokens": 0, "pairs": 8, "gradient_steps": 8 // profile.dpo_batch}
    assert budgets["dpo"] | drawn == budgets["dpo"]
    assert found["known"]["ppo"]["kl"]["before"] == 0.0
    assert set(found["new"]) == {*versus.METHODS, *versus.GONE_ON}


def test_the_advice_can_be_read_off_a_real_run(profile, run_folder, monkeypatch):
    monkeypatch.setenv("SAWYER_HOME", str(run_folder))
    rows = [versus.run(profile, 3)]
    assert len(versus_results.when_to_use(rows)) == 7
    assert set(versus_results.over_seeds(rows, "new")) == {*versus.METHODS, *versus.GONE_ON}


def test_what_goes_on_starts_where_the_first_training_ended(profile, run_folder, monkeypatch):
    """A start that is not there is an error, not a fresh adapter."""
    monkeypatch.setenv("SAWYER_HOME", str(run_folder))
    common = versus.prepare(profile)
    with pytest.raises((FileNotFoundError, ValueError)):
        versus.stage(common, 77, "ppo_new")
    assert not (common.folder / "seed-77" / "ppo_new" / "budget.json").exists()


def test_other_settings_have_another_folder_but_not_other_chapters_settings(profile, run_folder, monkeypatch):
    monkeypatch.setenv("SAWYER_HOME", str(run_folder))
    folder = versus.prepare(profile).folder
    assert versus.prepare(replace(profile, news_steps=99)).folder == folder
    assert versus.prepare(replace(profile, dpo_beta=0.2)).folder != folder


def test_longer_is_neither_better_nor_worse():
    prompts = [str(i) for i in range(20)]
    before = answered([1.0] * 20, prompts, length=[4 + i % 3 for i in range(20)])
    after = before | {"length": [9 + i % 3 for i in range(20)], "kl": [3.0 + 0.1 * i for i in range(20)]}
    found = versus.compare(before, after)
    assert found["length"]["verdict"] == found["kl"]["verdict"] == "changed"
