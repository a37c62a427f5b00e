"""What a PPO log holds, and what it says about the run: findings with evidence and a remedy.

The thresholds are rules of thumb for short runs, meant to make a reader look, not to replace it.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import torch
from torch import Tensor

from sawyer_utils import losses
from sawyer_utils.evaluation import distinct_n
from sawyer_utils.rollout import Rollout

MAX_KL = 20.0  # nats an answer
SHRUNK, GROWN = 0.4, 1.25  # of the first answers' length
MIN_FINISHED = 0.8
MIN_LENGTH_CORRELATION = 0.4


def describe(
    batch: Rollout, missing_stop_penalty: float, parts: dict[str, list[float]] | None = None
) -> dict:
    """What a log line says of a batch before its update; KL is a sum over the response, in nats.

    ``reward`` is what the reward function said (scaled and clipped, if the settings ask for it),
    ``score`` is after the missing-stop penalty.

    Args:
        parts: the scores of each part of a ``reward.Mixture``, whose means are shown one by one.
    """
    mask, lengths = batch.response_mask, batch.lengths.float()
    k1 = losses.kl_k1(batch.logprobs, batch.ref_logprobs)
    k3 = losses.kl_k3(batch.logprobs, batch.ref_logprobs)
    reward = batch.scores + missing_stop_penalty * (~batch.finished).float()
    texts = list(zip(batch.prompts, batch.responses, batch.scores.tolist(), strict=True))
    of_critic = {}
    if batch.returns is not None:
        of_critic["explained_variance"] = losses.explained_variance(batch.values, batch.returns, mask)
    return {
        "reward": float(reward.mean()),
        "reward_std": float(reward.std(unbiased=False)),
        "score": float(batch.scores.mean()),
        "kl": float((k1 * mask).sum(1).mean()),
        "kl_k3": float((k3 * mask).sum(1).mean()),
        "length": float(lengths.mean()),
        "length_correlation": _correlation(lengths, reward),
        "finished": float(batch.finished.float().mean()),
        "distinct_2": distinct_n(batch.responses),
        "samples": [{"prompt": p, "response": r, "score": round(s, 3)} for p, r, s in texts[:4]],
        **of_critic,
        **{f"reward_{name}": sum(part) / len(part) for name, part in (parts or {}).items()},
    }


def describe_tokens(
    logprobs: Tensor, old_logprobs: Tensor, entropy: Tensor, mask: Tensor, clip: float
) -> tuple[dict[str, Tensor], Tensor]:
    """Of a part of an update, (B, R) each: sums over its tokens; the largest ratio and |ratio − 1|, (2,)."""
    ratio = (logprobs - old_logprobs)[mask].exp()
    sums = {
        "entropy": entropy[mask].sum(),
        "clip_share": ((ratio - 1).abs() > clip).float().sum(),
        "kl_update": losses.kl_k3(old_logprobs, logprobs)[mask].sum(),
        "ratio": ratio.sum(),
    }
    return sums, torch.stack([ratio.max(), (ratio - 1).abs().max()])


def describe_update(minibatches: list[dict[str, float]]) -> dict[str, float]:
    """What a log line says of an update: means over its minibatches, but for what is no mean."""
    means = {key: statistics.mean(m[key] for m in minibatches) for key in minibatches[0]}
    del means["too_far"]
    return means | {
        "ratio_error": minibatches[0]["ratio_error"],  # before anything had moved
        "ratio_max": max(m["ratio_max"] for m in minibatches),
        "optimizer_steps": sum(m["optimizer_steps"] for m in minibatches),
    }


def _correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's r; 0 where one of the two never varies."""
    r = torch.corrcoef(torch.stack([a, b]))[0, 1]
    return float(r) if torch.isfinite(r) else 0.0


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    name: str
    evidence: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.name}: {self.evidence}. {self.remedy}"


def diagnose(log: list[dict]) -> list[Finding]:
    """Findings in a log of ``PPOTrainer.train``, comparing its first eighth and its last quarter.

    Returns:
        What is wrong, the worst first; empty for a run in which nothing stands out.

    Raises:
        ValueError: with fewer than 4 steps, which say nothing.
    """
    if len(log) < 4:
        raise ValueError(f"diagnose: {len(log)} steps are too few to say anything.")
    found = (check(log) for check in CHECKS)
    return [finding for finding in found if finding]


def _ends(log: list[dict], key: str) -> tuple[float, float]:
    """Mean over the first eighth, where the policy is still nearly SFT, and over the last quarter."""
    parts = log[: max(1, len(log) // 8)], log[-max(1, len(log) // 4) :]
    return tuple(statistics.mean(line[key] for line in part) for part in parts)


def _collapse(log: list[dict]) -> Finding | None:
    (long, short), (varied, same) = _ends(log, "length"), _ends(log, "distinct_2")
    if short < SHRUNK * long:
        evidence = f"answers went from {long:.0f} to {short:.0f} tokens"
    elif same < 0.5 * varied:
        evidence = f"distinct-2 fell from {varied:.2f} to {same:.2f}: the answers repeat each other"
    else:
        return None
    return Finding("collapse", evidence, "Ask what the reward pays for saying nothing; raise β.")


def _running_away(log: list[dict]) -> Finding | None:
    _, kl = _ends(log, "kl")
    if kl > MAX_KL:
        remedy = "Raise β or lower the learning rate."
        return Finding("KL running away", f"the KL is {kl:.0f} nats an answer", remedy)


def _never_finishing(log: list[dict]) -> Finding | None:
    before, after = _ends(log, "finished")
    if after < MIN_FINISHED and after <= before - 0.1:
        evidence = f"finished answers fell from {before:.0%} to {after:.0%}"
        return Finding("never finishing", evidence, "Raise missing_stop_penalty above what the words earn.")


def _length_hacking(log: list[dict]) -> Finding | None:
    before, after = _ends(log, "length")
    # In the first half: once all answers are as long as they can be, nothing correlates.
    together = statistics.mean(line["length_correlation"] for line in log[: len(log) // 2])
    if after >= GROWN * before and together >= MIN_LENGTH_CORRELATION:
        grew = f"answers grew from {before:.0f} to {after:.0f} tokens"
        evidence = f"{grew}, and longer scores more (r = {together:.2f})"
        return Finding("length hacking", evidence, "Compare at equal length; give the judge short winners.")


def _no_learning(log: list[dict]) -> Finding | None:
    before, after = _ends(log, "reward")
    # In the second half: a run that rises at once has its spread at the start, and that is no noise.
    noise = statistics.stdev(line["reward"] for line in log[len(log) // 2 :])
    error = noise * math.sqrt(1 / max(1, len(log) // 8) + 1 / max(1, len(log) // 4))
    if after - before <= error:  # more than its error may be learning: no finding
        evidence = f"the end earns {after - before:+.2f} more than the start (standard error {error:.2f})"
        return Finding("no learning", evidence, "More answers a step, a larger learning rate, or more steps.")


def _critic_useless(log: list[dict]) -> Finding | None:
    later = log[len(log) // 2 :]
    if "explained_variance" not in later[0]:  # no critic
        return None
    value = statistics.median(line["explained_variance"] for line in later)
    # Where all answers earn nearly the same, there is nothing to explain, and a share of it says nothing.
    most = max(line.get("reward_std", 1.0) for line in log)
    spread = statistics.median(line.get("reward_std", 1.0) for line in later)
    if value <= 0.0 and spread >= 0.1 * most:
        evidence = f"it explains {value:.2f} of the variance in the second half"
        return Finding("critic useless", evidence, "Warm it up (critic_warmup), or raise value_coef.")


CHECKS = (_collapse, _running_away, _never_finishing, _length_hacking, _no_learning, _critic_useless)
