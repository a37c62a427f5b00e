"""Four ways to use one preference set: PPO, DPO, RLOO and best of n; then prompts from topics it never had.

All start from the SFT adapter, share one preference set and one reward model trained on it, and are
given equal budgets: as many sampled answers as PPO where they sample, as many gradient steps where they
train. :func:`run` does one seed, stage by stage; what is in the folder already is not done again.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file

from sawyer_utils import data, evaluation, models, reward, runtime
from sawyer_utils.chapters import peers
from sawyer_utils.plumbing import memory, sources
from sawyer_utils.plumbing.files import read_json, write_json
from sawyer_utils.plumbing.resuming import fingerprint
from sawyer_utils.ppo import PPOTrainer
from sawyer_utils.ppo_config import PPOConfig
from sawyer_utils.profiles import Profile

SHARE_NEW = 0.25  # of the topics, by the hash of their names: eight of the course's 28
HELD_OUT = 0.2  # of the preference rows, as in notebook 02: the judge is tried on them
ADAPTER = "adapter/adapter_model.safetensors"
MODEL = "model/adapter_model.safetensors"
CRITIC = "critic.safetensors"
TRAINED = ("ppo", "dpo", "rloo")
METHODS = (*TRAINED, "best_of_n")
GONE_ON = {"ppo_new": "ppo", "dpo_online": "dpo"}  # on the new topics: stage -> what it starts from
# Fields of the profile that change a result of this chapter.
SETTINGS = ("policy_base", "reward_", "precision", "limit", "temperature", "response_tokens", "prompt_tokens")
SETTINGS += ("ppo_", "kl_coef", "missing_stop", "eval_batch", "versus_", "dpo_")


# --- the data -----------------------------------------------------------------------------------


def is_new(topic: str) -> bool:
    """Whether a topic is kept out of preferences, reward model and first prompts."""
    return sources.held_out(topic, SHARE_NEW)


def split(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """(rows of the known topics, rows of the new ones)."""
    return [row for row in rows if not is_new(row["topic"])], [row for row in rows if is_new(row["topic"])]


def lessons(rows: list[dict]) -> list[data.Pair]:
    """The preference set: each pair of a row's answers, and each good answer against a stranger."""
    return data.pairs(rows) + data.strangers(rows)


def spread(rows: list[dict], n: int) -> list[dict]:
    """The first of each topic, then the second of each, and so on, until there are ``n``."""
    seen: dict[str, int] = {}
    order = []
    for row in rows:
        seen[row["topic"]] = seen.get(row["topic"], 0) + 1
        order.append(seen[row["topic"]])
    return [rows[i] for i in np.argsort(order, kind="stable")[:n]]


# --- what all methods share ---------------------------------------------------------------------


@dataclass(frozen=True)
class Common:
    """The common start of one profile. Prompts and tests: "known" and "new" topics."""

    profile: Profile
    folder: Path
    sft: Path  # the adapter
    pairs: list[data.Pair]  # that the judge learned from, and DPO learns from
    prompts: dict[str, list[str]]  # to train on
    tests: dict[str, list[str]]
    reward_fn: reward.RewardFn  # the judge, in standard deviations of the SFT model's answers
    gold: reward.RewardFn  # notebook 04's, in the same unit: PPO, DPO and RLOO never see it


def prepare(profile: Profile, on_log=None) -> Common:
    """Split the data, train the judge (or load it), put both judges on the SFT model's scale."""
    sft = runtime.find_stage(profile, "sft", ADAPTER) / "adapter"
    settings = [(f.name, getattr(profile, f.name)) for f in fields(profile) if f.name.startswith(SETTINGS)]
    folder = runtime.run_dir(profile, "versus") / f"run-{fingerprint(sft, settings)}"
    # The course's own corpus: those of the Hub do not say what a row's topic is.
    known, _ = split(data.load_preferences("embedded", profile.limit))
    known, _ = data.split_rows(known, HELD_OUT)
    pairs = lessons(known)
    train = split(data.load_prompts("train", "embedded", profile.limit))
    test_known, test_new = split(data.load_prompts("test", "embedded"))
    tests = spread(test_known, profile.versus_prompts), test_new
    if profile.limit:
        tests = tests[0], spread(test_new, profile.versus_prompts)
    prompts, tests = (
        {name: [row["prompt"] for row in rows] for name, rows in zip(("known", "new"), both, strict=True)}
        for both in (train, tests)
    )
    judge = train_judge(profile, pairs, folder / "judge", on_log).score
    needed = runtime.find_stage(profile, "gold", MODEL) / "model"
    gold = reward.RewardModel.load(needed).score
    scaled = _standardised(profile, sft, prompts["known"][:64], [judge, gold], folder / "scale.json")
    return Common(profile, folder, sft, pairs, prompts, tests, *scaled)


def train_judge(profile: Profile, pairs: list[data.Pair], folder: Path, on_log=None) -> reward.RewardModel:
    """The reward model of the known topics, a short training; loaded where it is there already."""
    short = replace(profile, reward_max_steps=profile.versus_judge_steps)
    untrained = reward.RewardModel.untrained(short)
    reward.train_reward(untrained, short, pairs, folder, on_log, warmup_steps=5)
    return reward.RewardModel.load(folder / "model")


def _standardised(profile, sft, prompts, judges, path: Path) -> list[reward.RewardFn]:
    """Each judge with mean 0 and spread 1 on the SFT model's answers to these prompts."""
    if not path.exists():
        tokenizer, model = models.load_actor(profile, sft)
        said = evaluation.answer(model, tokenizer, prompts, profile, seed=1).responses
        write_json(path, [reward.standardised(judge, prompts, said)[1:] for judge in judges])

    def scaled(judge, mean, std):
        return lambda prompts, responses: [(score - mean) / std for score in judge(prompts, responses)]

    return [scaled(judge, *numbers) for judge, numbers in zip(judges, read_json(path), strict=True)]


# --- the stages of one seed ---------------------------------------------------------------------


@contextmanager
def metered(budget: dict) -> Iterator[None]:
    """Note the seconds of the block, and this process's peak memory in it where the system can tell. On a
    CPU also the seconds of computing, which other work on the machine does not stretch; what a GPU computes
    is no time of this process."""
    told, device = memory.forget_peak_memory(), runtime.choose_precision().device
    start, computed = runtime.seconds(device), time.process_time()
    yield
    budget["seconds"] = runtime.seconds(device) - start
    if device == "cpu":
        budget["cpu_seconds"] = time.process_time() - computed
    budget["peak_memory_gib"] = memory.peak_memory_gib() if told else None


def ppo(common: Common, seed: int, folder: Path, start: Path, topics: str, steps: int, on_log=None) -> dict:
    """PPO with the judge from the adapter ``start`` (and the critic beside it, if there is one) on the
    prompts of "known" or "new" topics; returns the budget."""
    budget: dict = {}
    config = PPOConfig.from_profile(common.profile, steps=steps, seed=seed)
    with metered(budget):
        tokenizer, model = models.load_actor(common.profile, common.sft)
        models.load_policy_weights(model, start)
        trainer = PPOTrainer(model, tokenizer, common.reward_fn, config)
        critic = start.parent / CRITIC
        if critic.exists():
            trainer.actor.value_head.load_state_dict(load_file(critic))
        log = trainer.train(common.prompts[topics], on_log)
    models.save_adapter(model, folder / "adapter", models.POLICY)
    save_file(trainer.actor.value_head.state_dict(), folder / CRITIC)
    write_json(folder / "log.json", log)
    return budget | {
        "answers": config.batch_size * len(log),
        "tokens": round(sum(config.batch_size * line["length"] for line in log)),
        "gradient_steps": sum(line["optimizer_steps"] for line in log),
    }


def dpo(common: Common, seed: int, folder: Path, on_log=None) -> dict:
    """DPO from the SFT adapter on pairs drawn from the preference set; returns the budget."""
    budget: dict = {}
    size = min(common.profile.dpo_pairs, len(common.pairs))
    pairs = random.Random(seed).sample(common.pairs, size)
    with metered(budget):
        log = peers.train_dpo(common.profile, pairs, common.sft, common.sft, folder, seed, on_log)
    return budget | {"answers": 0, "tokens": 0, "pairs": len(pairs), "gradient_steps": len(log)}


def rloo(common: Common, seed: int, folder: Path, on_log=None) -> dict:
    """RLOO with the judge from the SFT adapter, on as many answers as PPO; returns the budget."""
    budget: dict = {}
    settings = common.reward_fn, common.sft, common.sft, folder, common.profile.versus_steps, seed, on_log
    with metered(budget):
        log, tokens = peers.train_rloo(common.profile, common.prompts["known"], *settings)
    answers = common.profile.versus_steps * common.profile.ppo_batch
    return budget | {"answers": answers, "tokens": tokens, "gradient_steps": len(log)}


def dpo_online(common: Common, seed: int, folder: Path, start: Path, on_log=None) -> dict:
    """One round of online DPO on the new topics: two fresh samples a prompt, ranked by the judge; as many
    answers and gradient steps as PPO on them. Returns the budget."""
    budget, profile = {}, common.profile
    wanted = profile.versus_new_steps * profile.ppo_batch // 2
    prompts = random.Random(seed).sample(common.prompts["new"], min(wanted, len(common.prompts["new"])))
    steps = profile.versus_new_steps * profile.ppo_epochs * profile.ppo_minibatches
    with metered(budget):
        tokenizer, model = models.load_actor(profile, common.sft)
        models.load_policy_weights(model, start)
        pairs, tokens = peers.online_pairs(model, tokenizer, prompts, common.reward_fn, profile, seed)
        del model
        settings = profile, pairs, start, common.sft, folder, seed, on_log
        log = peers.train_dpo(*settings, max_steps=steps)
    write_json(folder / "pairs.json", [asdict(pair) for pair in pairs])
    made = {"answers": 2 * len(prompts), "tokens": tokens, "pairs": len(pairs)}
    return budget | made | {"gradient_steps": len(log)}


def stage(common: Common, seed: int, name: str, on_log=None) -> dict:
    """The training ``name`` of TRAINED or GONE_ON with one seed, or what it left; returns its budget."""
    folder = common.folder / f"seed-{seed}"
    own, profile = folder / name, common.profile
    if not (own / "budget.json").exists():
        own.mkdir(parents=True, exist_ok=True)
        before = folder / GONE_ON.get(name, "") / "adapter"
        make = {
            "ppo": lambda: ppo(common, seed, own, common.sft, "known", profile.versus_steps, on_log),
            "dpo": lambda: dpo(common, seed, own, on_log),
            "rloo": lambda: rloo(common, seed, own, on_log),
            "ppo_new": lambda: ppo(common, seed, own, before, "new", profile.versus_new_steps, on_log),
            "dpo_online": lambda: dpo_online(common, seed, own, before, on_log),
        }
        write_json(own / "budget.json", make[name]())
        gc.collect()
    return read_json(own / "budget.json")


# --- measuring ----------------------------------------------------------------------------------


def measure(model, tokenizer, common: Common, topics: str) -> dict[str, list]:
    """Answers of the adapter in use to the test prompts, and what each is worth; lists in one order. The
    dice are the same for every adapter and every seed, so only training differs."""
    profile, compute = common.profile, runtime.choose_precision(common.profile.precision).compute
    said = evaluation.answer(model, tokenizer, common.tests[topics], profile, samples=profile.versus_samples)
    kl = evaluation.kl_to_reference(model, said, models.REF, compute)
    return {
        "prompt": said.prompts,
        "response": said.responses,
        "length": said.lengths,
        "finished": said.finished,
        "proxy": list(common.reward_fn(said.prompts, said.responses)),
        "gold": list(common.gold(said.prompts, said.responses)),
        "kl": kl,
    }


def best_of_n(model, tokenizer, common: Common, topics: str, seed: int) -> dict[str, list]:
    """As :func:`measure`, of the best by the judge of n answers of the adapter in use, one a prompt; other
    dice for each seed. The KL is the formula's upper bound. Also "tokens": of all n together."""
    profile, n = common.profile, common.profile.versus_best_of
    prompts = common.tests[topics]
    said = evaluation.answer(model, tokenizer, prompts, profile, seed=100 + seed, samples=n)
    scores = np.array(common.reward_fn(said.prompts, said.responses)).reshape(len(prompts), n)
    best = [int(i) for i in scores.argmax(1) + n * np.arange(len(prompts))]
    responses = [said.responses[i] for i in best]
    return {
        "prompt": list(prompts),
        "response": responses,
        "length": [said.lengths[i] for i in best],
        "finished": [said.finished[i] for i in best],
        "proxy": scores.max(1).tolist(),
        "gold": list(common.gold(prompts, responses)),
        "kl": [evaluation.best_of_n_kl(n)] * len(prompts),
        "tokens": [sum(said.lengths[i : i + n]) for i in range(0, len(said.lengths), n)],
    }


def answers(common: Common, name: str, seed: int | None = None) -> dict[str, dict[str, list]]:
    """``{"known": …, "new": …}``, the measured answers of "sft" or of a method with one seed, sampled once.
    Of what went on with the new topics: these alone."""
    own = common.folder / ("sft" if name == "sft" else f"seed-{seed}/{name}")
    path = own / "answers.json"
    if not path.exists():
        own.mkdir(parents=True, exist_ok=True)
        tokenizer, model = models.load_actor(common.profile, common.sft)
        if (own / ADAPTER).exists():
            models.load_policy_weights(model, own / "adapter")
        topics = ["new"] if name in GONE_ON else ["known", "new"]
        if name == "best_of_n":
            found = {t: best_of_n(model, tokenizer, common, t, seed) for t in topics}
        else:
            found = {t: measure(model, tokenizer, common, t) for t in topics}
        write_json(path, found)
    return read_json(path)


def compare(before: dict[str, list], after: dict[str, list]) -> dict[str, dict]:
    """Each measure of two sets of answers to the same prompts, paired by prompt: ``{"before", "after",
    "difference", "low", "high", "verdict"}``. "wins": how often ``after`` has the higher gold reward.

    Each prompt counts once, with the mean of its answers; distinct-2 looks at its first one.
    """
    found = {}
    for name, good in {"proxy": True, "gold": True, "finished": True, "length": None, "kl": None}.items():
        means = [evaluation.group_means(a[name], a["prompt"]) for a in (before, after)]
        c = evaluation.compare_rewards(*means)
        found[name] = {"before": c.before_mean, "after": c.after_mean, "difference": c.difference}
        found[name] |= {"low": c.low, "high": c.high, "verdict": c.verdict_if(good), "n": c.n}
    first = [[texts[0] for texts in _by_prompt(a, "response")] for a in (before, after)]
    difference, low, high, _ = evaluation.jackknife_difference(*first, evaluation.distinct_n)
    was, now = map(evaluation.distinct_n, first)
    found["distinct_2"] = {"before": was, "after": now, "difference": difference, "low": low, "high": high}
    found["distinct_2"] |= {"verdict": evaluation.verdict(low, high), "n": len(first[0])}
    pairs = zip(_by_prompt(before, "gold"), _by_prompt(after, "gold"), strict=True)
    wins = [np.mean([(y > x) + 0.5 * (y == x) for x in old for y in new]) for old, new in pairs]
    low, high = evaluation.bootstrap_interval(wins)
    share, half = float(np.mean(wins)), 0.5  # no difference
    found["wins"] = {"before": half, "after": share, "difference": share - half}
    low, high = low - half, high - half
    found["wins"] |= {"low": low, "high": high, "verdict": evaluation.verdict(low, high), "n": len(wins)}
    return found


def _by_prompt(answers: dict[str, list], name: str) -> list[list]:
    """Each prompt's values, prompts in sorted order."""
    values: dict[str, list] = {}
    for prompt, value in zip(answers["prompt"], answers[name], strict=True):
        values.setdefault(prompt, []).append(value)
    return [values[prompt] for prompt in sorted(values)]


def run(profile: Profile, seed: int, common: Common | None = None) -> dict:
    """Every stage of one seed; returns ``{"seed", "budgets", "known", "new", "went_on"}``: comparisons with
    the SFT model by method, and on the new topics of what went on with what it started from."""
    common = common or prepare(profile)
    start = answers(common, "sft")
    budgets = {name: stage(common, seed, name) for name in (*TRAINED, *GONE_ON)}
    found = {name: answers(common, name, seed) for name in (*METHODS, *GONE_ON)}
    best = [found["best_of_n"][topics] for topics in ("known", "new")]
    budgets["best_of_n"] = {
        "answers": profile.versus_best_of,  # for each one that is used, at each use
        "tokens": sum(sum(part["tokens"]) for part in best) / sum(len(part["prompt"]) for part in best),
        "gradient_steps": 0,
        "seconds": 0.0,
    }
    return {
        "seed": seed,
        "budgets": budgets,
        "known": {name: compare(start["known"], found[name]["known"]) for name in METHODS},
        "new": {name: compare(start["new"], found[name]["new"]) for name in (*METHODS, *GONE_ON)},
        "went_on": {name: compare(found[old]["new"], found[name]["new"]) for name, old in GONE_ON.items()},
    }
