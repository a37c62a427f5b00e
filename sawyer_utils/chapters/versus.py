"""Uses of one preference set: what notebook 05's methods share, and how their answers are measured.

All start from the SFT adapter and share one preference set and one reward model, which is trained on it. A
part of the topics is kept out of all of this. What is in the folder already is not done again.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd

from sawyer_utils import data, evaluation, models, reward, runtime
from sawyer_utils.chapters import peers
from sawyer_utils.plumbing import sources
from sawyer_utils.plumbing.files import read_json, write_json
from sawyer_utils.plumbing.resuming import fingerprint
from sawyer_utils.profiles import Profile

SHARE_NEW = 0.25  # of the topics, by the hash of their names: eight of the course's 28
HELD_OUT = 0.2  # of the preference rows, as in notebook 02: the judge is tried on them
ADAPTER = "adapter/adapter_model.safetensors"
MODEL = "model/adapter_model.safetensors"
# What is compared: whether more of it is better, where one can say so.
MEASURES = {"proxy": True, "gold": True, "finished": True, "length": None, "kl": None}
# Fields of the profile that change a result of this chapter.
SETTINGS = ("policy_base", "reward_", "precision", "limit", "temperature", "response_tokens", "prompt_tokens")
SETTINGS += ("ppo_", "kl_coef", "missing_stop", "eval_batch", "versus_", "dpo_")


# --- the data -----------------------------------------------------------------------------------


def is_new(topic: str) -> bool:
    """Whether a topic is kept out of preferences, reward model and the prompts to train on."""
    return sources.held_out(topic, SHARE_NEW)


def split(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """(rows of the known topics, rows of the new ones)."""
    return [row for row in rows if not is_new(row["topic"])], [row for row in rows if is_new(row["topic"])]


def lessons(rows: list[dict]) -> list[data.Pair]:
    """The preference set: each pair of a row's answers, and each good answer against a stranger."""
    return data.pairs(rows) + data.strangers(rows)


def spread(rows: list[dict], n: int) -> list[dict]:
    """The first of each topic, then the second of each, and so on, until there are ``n``."""
    topics = pd.Series([row["topic"] for row in rows])
    turn = topics.groupby(topics).cumcount()
    return [rows[i] for i in np.argsort(turn, kind="stable")[:n]]


# --- what all methods share ---------------------------------------------------------------------


@dataclass(frozen=True)
class Common:
    """The common start of one profile. Tests: "known" and "new" topics."""

    profile: Profile
    folder: Path
    sft: Path  # the adapter
    pairs: list[data.Pair]  # that the judge learned from, and DPO learns from
    prompts: list[str]  # to train on, of the known topics
    tests: dict[str, list[str]]
    judge: reward.RewardModel
    reward_fn: reward.RewardFn  # the judge, in standard deviations of the SFT model's answers
    gold: reward.RewardFn  # notebook 04's, in the same unit: no method ever sees it
    judges: str  # both, by their weights: what they said is kept under it


def prepare(profile: Profile, on_log=None) -> Common:
    """Split the data, train the judge (or load it), put both judges on the SFT model's scale."""
    sft = runtime.find_stage(profile, "sft", ADAPTER) / "adapter"
    settings = [(f.name, getattr(profile, f.name)) for f in fields(profile) if f.name.startswith(SETTINGS)]
    folder = runtime.run_dir(profile, "versus") / f"run-{fingerprint(sft, settings)}"
    # The course's own corpus: those of the Hub do not say what a row's topic is.
    known, _ = split(data.load_preferences("embedded", profile.limit))
    known, _ = data.split_rows(known, HELD_OUT)
    pairs = lessons(known)
    train, unused = split(data.load_prompts("train", "embedded", profile.limit))
    known_test, new_test = split(data.load_prompts("test", "embedded"))
    asked = {"known": known_test, "new": new_test + unused}  # no method trains on prompts of new topics
    tests = {
        of: [row["prompt"] for row in spread(rows, profile.versus_prompts)] for of, rows in asked.items()
    }
    prompts = [row["prompt"] for row in train]
    judge = train_judge(profile, pairs, folder / "judge", on_log)
    gold_folder = runtime.find_stage(profile, "gold", MODEL) / "model"
    judges = fingerprint(gold_folder, fingerprint(folder / "judge" / "model"))
    raw = [judge.score, reward.RewardModel.load(gold_folder).score]
    scaled = _standardised(profile, sft, prompts[:64], raw, folder / f"scale-{judges}.json")
    return Common(profile, folder, sft, pairs, prompts, tests, judge, *scaled, judges)


def train_judge(profile: Profile, pairs: list[data.Pair], folder: Path, on_log=None) -> reward.RewardModel:
    """The reward model of the known topics, as in notebook 02; loaded where it is there already. One that is
    fine-tuned has a short training."""
    short = replace(profile, reward_max_steps=profile.versus_judge_steps)
    untrained = reward.RewardModel.untrained(short)
    reward.train_reward(untrained, short, pairs, folder, on_log, warmup_steps=5)
    return reward.RewardModel.load(folder / "model", profile.precision)


def unseen_pairs(profile: Profile) -> dict[str, list[data.Pair]]:
    """Pairs that the judge did not learn from: "known", held out, and "new", of the topics kept out."""
    known, new = split(data.load_preferences("embedded", profile.limit))
    return {"known": data.pairs(data.split_rows(known, HELD_OUT)[1]), "new": data.pairs(new)}


def _standardised(profile, sft, prompts, judges, path: Path) -> list[reward.RewardFn]:
    """Each judge with mean 0 and spread 1 on the SFT model's answers to these prompts."""
    if not path.exists():
        tokenizer, model = models.load_actor(profile, sft)
        said = evaluation.answer(model, tokenizer, prompts, profile, seed=1).responses
        write_json(path, [reward.standardised(judge, prompts, said)[1:] for judge in judges])

    def scaled(judge, mean, std):
        return lambda prompts, responses: [(score - mean) / std for score in judge(prompts, responses)]

    return [scaled(judge, *numbers) for judge, numbers in zip(judges, read_json(path), strict=True)]


# --- measuring ----------------------------------------------------------------------------------


def answers(common: Common, adapter: Path, samples: int, topics: str = "known") -> dict[str, list]:
    """:func:`peers.sampled` for the test prompts, ``samples`` of each, and what each answer is worth."""
    path = common.folder / "answers" / f"{topics}-{samples}-{fingerprint(adapter, common.judges)}.json"
    found = peers.sampled(common.profile, common.sft, adapter, common.tests[topics], path, samples=samples)
    if "gold" not in found:
        for name, judge in (("proxy", common.reward_fn), ("gold", common.gold)):
            found[name] = list(judge(found["prompt"], found["response"]))
        write_json(path, found)
    return found


def best_of_n(said: dict[str, list]) -> dict[str, list]:
    """Of each prompt's answers the one that the judge likes best. The KL is the formula's upper bound."""
    rows: dict[str, list[int]] = {}
    for i, prompt in enumerate(said["prompt"]):
        rows.setdefault(prompt, []).append(i)
    best = [max(of, key=said["proxy"].__getitem__) for of in rows.values()]
    kl = [evaluation.best_of_n_kl(len(of)) for of in rows.values()]
    return {name: [values[i] for i in best] for name, values in said.items()} | {"kl": kl}


def compare(before: dict[str, list], after: dict[str, list]) -> dict[str, dict]:
    """Each of :data:`MEASURES` of two sets of answers to the same prompts, paired by prompt: ``{"before",
    "after", "difference", "low", "high", "verdict", "n"}``. Each prompt counts once, with the mean of its
    answers."""
    shown = ("before", "after", "difference", "low", "high", "verdict", "n")
    found = {}
    for name, good in MEASURES.items():
        means = [evaluation.group_means(of[name], of["prompt"]) for of in (before, after)]
        row = evaluation.compare_rewards(*means).row(good)
        found[name] = {key: row[key] for key in shown}
    return found


def minutes(log: list[dict]) -> float:
    """Minutes of a training by its log: TRL's holds the seconds so far, PPO's those of a step's phases."""
    if "seconds" in log[-1]:
        return log[-1]["seconds"] / 60
    return sum(line[f"seconds_{phase}"] for line in log for phase in ("rollout", "score", "update")) / 60
