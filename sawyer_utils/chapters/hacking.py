"""Reward hacking on purpose: a judge of few and one-sided pairs, a run without a leash, and what helps."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from sawyer_utils import checkpoints, data, evaluation, models, ppo, runtime
from sawyer_utils.evaluation import Answers
from sawyer_utils.models import REF
from sawyer_utils.plumbing import resuming
from sawyer_utils.profiles import Profile
from sawyer_utils.reward import RewardFn, RewardModel, standardised, train_reward

LOOKS = 5  # at a run, after the one at its start


def settings(profile: Profile) -> Profile:
    """The profile with the sizes of this chapter: small batches, no leash, few pairs for a judge."""
    return replace(
        profile,
        ppo_steps=profile.hack_steps,
        ppo_batch=profile.ppo_batch // 2,
        ppo_epochs=1,
        kl_coef=0.0,
        missing_stop_penalty=0.0,
        response_tokens=min(48, profile.response_tokens),
        reward_max_steps=profile.reward_trials,
        reward_batch=profile.reward_batch // 2,
        eval_prompts=2 * profile.eval_prompts // 3,
    )


# --- judges -------------------------------------------------------------------------------------


def one_sided(pairs: Sequence[data.Pair], size: int, seed: int = 0) -> list[data.Pair]:
    """``size`` pairs in which the longer answer is the better one: each of them is true, together they
    say something false.

    Raises:
        ValueError: if there are fewer.
    """
    longer = [pair for pair in pairs if len(pair.chosen) > len(pair.rejected)]
    if len(longer) < size:
        raise ValueError(f"one_sided: {len(longer)} pairs in which the longer answer wins, not {size}.")
    return random.Random(seed).sample(longer, size)


def train_judge(profile: Profile, pairs: list[data.Pair], folder: Path, seed: int = 0) -> RewardModel:
    """A reward model of these pairs, loaded from ``folder`` if this very training is there. It is always a
    fine-tuned encoder: what is to be hacked has to be easy to hack."""
    if profile.reward_frozen:
        profile = replace(profile, reward_base=profile.encoder, reward_frozen=False)
    train_reward(RewardModel.untrained(profile, seed=seed), profile, pairs, folder, seed=seed)
    return RewardModel.load(Path(folder) / "model")


def length_adjusted(reward_fn: RewardFn, prompts: list[str], responses: list[str]) -> RewardFn:
    """The reward less what the length explains: the residual of a straight line in the number of words,
    fitted to these answers (the SFT model's). Answers of one length show no slope."""
    words = np.array([len(r.split()) for r in responses], dtype=float)
    scores = reward_fn(prompts, responses)
    slope, intercept = np.polyfit(words, scores, 1) if np.ptp(words) else (0.0, np.mean(scores))

    def residual(prompts: list[str], responses: list[str]) -> list[float]:
        scores = reward_fn(prompts, responses)
        return [s - intercept - slope * len(r.split()) for s, r in zip(scores, responses, strict=True)]

    return residual


def ensemble(judges: Sequence[RewardFn], combine: Callable[[list[float]], float]) -> RewardFn:
    """One reward of several, answer by answer: ``statistics.mean``, or ``min`` as in Coste et al. 2023
    (arXiv 2310.02743). The judges have to share a scale (:func:`reward.standardised`)."""

    def score(prompts: list[str], responses: list[str]) -> list[float]:
        each = [judge(prompts, responses) for judge in judges]
        return [combine(list(scores)) for scores in zip(*each, strict=True)]

    return score


def judged_again(prompts: list[str], old: list[str], new: list[str], votes: RewardFn) -> list[data.Pair]:
    """Pairs of two answers to each prompt, the one with more ``votes`` first; those with as many are left
    out, and so are equal texts."""
    found = []
    scores = zip(votes(prompts, old), votes(prompts, new), strict=True)
    for i, (prompt, a, b, (x, y)) in enumerate(zip(prompts, old, new, scores, strict=True)):
        if a != b and x != y:
            chosen, rejected = (a, b) if x > y else (b, a)
            found.append(data.Pair(f"hacked-{i}", "", prompt, chosen, rejected, abs(x - y), ("", "")))
    return found


# --- runs ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """The policy's answers to the held-out prompts at one step, and what two judges say of them."""

    step: int
    kl: float  # nats an answer, mean
    proxy: list[float]  # by the one-sided judge, in the SFT answers' standard deviations
    gold: list[float]  # by the one that no run is paid by, likewise
    length: float  # tokens, mean
    finished: float  # share
    responses: list[str]


@dataclass(frozen=True)
class Run:
    """A finished run: PPO's log, and the looks at it, the one at its start first."""

    log: list[dict]
    looks: list[Look]


class Lab:
    """What all runs of the chapter share: a model that starts over as SFT, prompts, and two judges.

    Args:
        profile: of :func:`settings`.
        model: of ``models.load_actor``.
        proxy, gold: raw judges; both are put on the scale of the SFT answers to ``train[:64]``.
        folder: each run is kept in a folder of it.

    Attributes:
        known: the SFT model's answers to ``train[:64]``, which every scale comes from.
        start: the look at the SFT model.
    """

    def __init__(self, profile: Profile, tokenizer, model, train, test, proxy, gold, folder: Path):
        self.profile, self.tokenizer, self.model = profile, tokenizer, model
        self.train, self.test, self.folder = train, test, Path(folder)
        models.restart(model)
        self.known = evaluation.answer(model, tokenizer, train[:64], profile, seed=1)
        self.proxy, self.gold = self.scaled(proxy), self.scaled(gold)
        self.start = self.look(0)

    def scaled(self, reward_fn: RewardFn) -> RewardFn:
        """The reward with mean 0 and spread 1 on the SFT answers."""
        return standardised(reward_fn, self.known.prompts, self.known.responses)[0]

    def look(self, step: int) -> Look:
        """Answer the held-out prompts with the policy as it is, always with the same dice; what else draws
        random numbers does not notice."""
        with torch.random.fork_rng():
            found = evaluation.answer(self.model, self.tokenizer, self.test, self.profile, seed=0)
            compute = runtime.choose_precision(self.profile.precision).compute
            kl = evaluation.kl_to_reference(self.model, found, REF, compute)
        return Look(
            step,
            float(np.mean(kl)),
            self.proxy(self.test, found.responses),
            self.gold(self.test, found.responses),
            float(np.mean(found.lengths)),
            float(np.mean(found.finished)),
            found.responses,
        )

    def run(self, name: str, reward_fn: RewardFn, looks: int = 1, on_step=None, **options) -> Run:
        """PPO from SFT with this reward, loaded from ``folder/name`` if this very run is there, or going on
        from where it was cut off.

        Args:
            looks: how many, denser at the start; the last step is one of them, and so is where a run stopped.
            on_step: called with the log after each step (``plots.LivePlot``).
            options: of ``ppo.PPOConfig``.
        """
        config = ppo.PPOConfig.from_profile(self.profile, **options)
        trainer = ppo.PPOTrainer(self.model, self.tokenizer, reward_fn, config, self.folder / name)
        # Closer to each other at the start, where the policy moves fastest.
        due = sorted({max(1, round(config.steps * (i / looks) ** 2)) for i in range(1, looks + 1)})
        path = trainer.run_dir / "looks.json"
        some = self.known.prompts[:16], self.known.responses[:16]
        seen_by = {"proxy": self.proxy(*some), "gold": self.gold(*some)}
        this = {
            **checkpoints.identity(trainer, self.train),
            "looks": str(due),
            "test": resuming.digest(self.test),
        }
        checkpoints.claim(trainer, this | seen_by, ("checkpoint", "looks.json"), file="looks_of.json")
        seen = [Look(**one) for one in runtime.read_json(path)] if path.exists() else []

        def look() -> None:
            if trainer.steps_done not in {one.step for one in (self.start, *seen)}:
                seen.append(self.look(trainer.steps_done))
                runtime.write_json(path, [asdict(one) for one in seen])

        def watch(log: list[dict]) -> None:
            if on_step:
                on_step(log)
            if log[-1]["step"] in due:
                look()

        try:
            trainer.train(self.train, on_step=watch)
        except ppo.TrainingStopped as stopped:  # a collapse is a result here
            print(f"{name}: {stopped}")
            look()
        return Run(trainer.log, [self.start, *seen])

    def answers(self, name: str, prompts: list[str]) -> Answers:
        """What the policy of a finished run answers."""
        models.load_policy_weights(self.model, self.folder / name / "checkpoint" / "adapter")
        return evaluation.answer(self.model, self.tokenizer, prompts, self.profile, seed=2)


# --- what came out ------------------------------------------------------------------------------


def peak(looks: Sequence[Look]) -> Look:
    """The look with the highest mean gold on every other prompt (the 1st, 3rd, …). A maximum is also the
    luckiest of several: say how high it was on the prompts that did not choose it, the 2nd, 4th, …"""
    return max(looks, key=lambda one: statistics.mean(one.gold[::2]))


def on_the_rest(one: Look, other: Look) -> evaluation.PairedComparison:
    """Gold of ``other`` less that of ``one``, on the prompts that chose no peak."""
    return evaluation.compare_rewards(one.gold[1::2], other.gold[1::2])
